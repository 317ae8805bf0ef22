// The filters above a list: fields that ask anew whenever one is changed. On a phone all but the search fold away.

import { h, settled } from "./dom.js";

// Each field has a name and a label, and either options (pairs of value and word) or attributes of an input; `values` are
// what they are set to, and `change(name, value)` is told of another one.
export function filters(fields, values, change, signal) {
  const toggle = h("button", { type: "button", class: "filters-toggle", click: () => open(!form.hasAttribute("data-open")) }, "Filters");
  const form = h("form", { class: "filters", role: "search", submit: (event) => event.preventDefault() },
    fields.map((field) => [
      h("label", { class: field.type === "search" ? "field wide" : "field" },
        h("span", null, field.label), field.options ? select(field) : input(field)),
      field.type === "search" && toggle,
    ]));
  open(fields.some((field) => field.type !== "search" && values[field.name]));
  return form;

  function input({ name, label, ...attributes }) {
    const element = h("input", {
      name, value: values[name], autocomplete: "off", ...attributes,
      input: settled(() => change(name, element.value.trim()), signal, 200, 600),
    });
    return element;
  }

  function select({ name, options, nothing = "Any" }) {
    return h("select", { name, change: (event) => change(name, event.target.value) },
      h("option", { value: "" }, nothing),
      options.map(([value, word]) => h("option", { value, selected: value === values[name] }, word)));
  }

  function open(whether) {
    form.toggleAttribute("data-open", whether);
    toggle.setAttribute("aria-expanded", String(whether));
  }
}

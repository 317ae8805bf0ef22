// Dialogs: help, and what changes which clusters there are.

import { path, send } from "./api.js";
import * as clusters from "./clusters.js";
import { h, replace } from "./dom.js";
import { go, to } from "./router.js";
import { number } from "./words.js";

const MOST_KUBECONFIG = 256 * 1024;

// Opens a dialog that goes away once it is closed; gives it back.
export function show(heading, ...content) {
  const dialog = h("dialog", { "aria-labelledby": "dialog-heading", close: () => dialog.remove() },
    h("header", null,
      h("h2", { id: "dialog-heading" }, heading),
      h("button", { type: "button", class: "quiet-button", "aria-label": "Close", click: () => dialog.close() }, "✕")),
    content);
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

export function register() {
  const name = h("input", { name: "name", required: true, maxlength: 63, autocomplete: "off", placeholder: "production-eu" });
  const text = h("textarea", {
    name: "kubeconfig", rows: 7, spellcheck: "false", autocomplete: "off", autocapitalize: "off", wrap: "off",
    placeholder: "apiVersion: v1\nkind: Config\n…",
  });
  const context = h("input", { name: "context", autocomplete: "off", placeholder: "the current one" });
  const namespaces = namespaceField([]);
  const file = h("input", { type: "file", id: "kubeconfig-file", class: "unseen", change: choose });
  const chosen = h("span", { class: "quiet" }, "or choose a file:");
  const own = h("input", { type: "checkbox", name: "in_cluster", change: () => (credentials.hidden = own.checked) });
  const credentials = h("div", { class: "fields" },
    h("label", { class: "field" }, h("span", null, "Kubeconfig"), text),
    h("p", { class: "file" }, chosen, file, h("label", { for: "kubeconfig-file", class: "button" }, "Choose a file")),
    h("label", { class: "field" }, h("span", null, "Context (optional)"), context),
    h("p", { class: "hint" }, "It is tried before it is kept, encrypted at rest, and never shown again. ",
      "Credentials must be in it: programs and files that it names are not used."));
  const dialog = form("Register a cluster", "Register", "Reaching the cluster…", [
    h("label", { class: "field" }, h("span", null, "Name"), name),
    credentials,
    h("label", { class: "check" }, own, h("span", null, "The cluster that the orchestrator runs in")),
    namespaces.field,
  ], async () => {
    const body = own.checked
      ? { name: name.value.trim(), in_cluster: true }
      : { name: name.value.trim(), kubeconfig: text.value, ...(context.value.trim() && { context: context.value.trim() }) };
    if (!own.checked && !text.value.trim()) throw new Error("Paste a kubeconfig, or choose a file that is one.");
    if (namespaces.names().length) body.namespaces = namespaces.names();
    const cluster = await send("POST", "clusters", body);
    text.value = "";
    await clusters.refresh();
    go(to("clusters", cluster.id));
  });
  name.focus();
  return dialog;

  async function choose() {
    const [picked] = file.files;
    if (!picked) return;
    if (picked.size > MOST_KUBECONFIG) {
      chosen.textContent = `${picked.name} is larger than ${number(MOST_KUBECONFIG / 1024)} KiB: no kubeconfig.`;
      return;
    }
    text.value = await picked.text();
    chosen.textContent = `From ${picked.name}`;
  }
}

// Which namespaces are looked at, as text with commas.
function namespaceField(named) {
  const input = h("input", { name: "namespaces", autocomplete: "off", autocapitalize: "off", spellcheck: "false", placeholder: "all", value: named.join(", ") });
  const field = h("label", { class: "field" }, h("span", null, "Namespaces (only where the credentials suffice for no more, with commas)"), input);
  return { field, input, names: () => input.value.split(/[\s,]+/).filter(Boolean) };
}

export function narrow(cluster) {
  const namespaces = namespaceField(cluster.namespaces ?? []);
  form(`Namespaces of ${cluster.name}`, "Save", "Saving…", [
    namespaces.field,
    h("p", { class: "hint" }, "Without any, the objects of all namespaces are read, which needs leave to list them in the whole cluster."),
  ], async () => {
    await send("PATCH", path("clusters", cluster.id), { namespaces: namespaces.names() });
    await clusters.refresh();
  });
  namespaces.input.select();
}

export function rename(cluster) {
  const name = h("input", { name: "name", required: true, maxlength: 63, autocomplete: "off", value: cluster.name });
  form("Rename the cluster", "Rename", "Renaming…", [h("label", { class: "field" }, h("span", null, "Name"), name)], async () => {
    await send("PATCH", path("clusters", cluster.id), { name: name.value.trim() });
    await clusters.refresh();
    go(to("clusters", cluster.id));
  });
  name.select();
}

// Another kubeconfig in the place of the one that is kept, as when a token is renewed.
export function renew(cluster) {
  const text = h("textarea", {
    name: "kubeconfig", rows: 7, required: true, spellcheck: "false", autocomplete: "off", autocapitalize: "off", wrap: "off",
    placeholder: "apiVersion: v1\nkind: Config\n…",
  });
  const context = h("input", { name: "context", autocomplete: "off", placeholder: "the current one" });
  form(`Replace the credentials of ${cluster.name}`, "Replace", "Reaching the cluster…", [
    h("label", { class: "field" }, h("span", null, "Kubeconfig"), text),
    h("label", { class: "field" }, h("span", null, "Context (optional)"), context),
    h("p", { class: "hint" }, "It is tried before it takes the place of the one that is kept. Where it does not work, nothing changes."),
  ], async () => {
    await send("PATCH", path("clusters", cluster.id), { kubeconfig: text.value, ...(context.value.trim() && { context: context.value.trim() }) });
    text.value = "";
    await clusters.refresh();
  });
  text.focus();
}

export function remove(cluster) {
  form(`Remove ${cluster.name}?`, "Remove", "Removing…", [
    h("p", null, "The orchestrator forgets this cluster and its credentials. Nothing changes in the cluster itself, and what was done to it stays in the activity log."),
  ], async () => {
    await send("DELETE", path("clusters", cluster.id));
    await clusters.refresh();
    go("/");
  }, "danger");
}

// A dialog that sends something: it stays until that has succeeded, and says why it has not.
function form(heading, verb, meanwhile, fields, submit, manner = "primary") {
  const alert = h("div", { role: "alert" });
  const button = h("button", { class: manner }, verb);
  const body = h("form", { method: "dialog", submit: work }, h("div", { class: "fields" }, fields), alert,
    h("footer", null, h("button", { type: "button", click: () => dialog.close() }, "Cancel"), button));
  const dialog = show(heading, body);
  return dialog;

  async function work(event) {
    event.preventDefault();
    if (button.disabled) return;
    button.disabled = true;
    button.textContent = meanwhile;
    replace(alert);
    try {
      await submit();
      dialog.close();
    } catch (error) {
      replace(alert, h("p", { class: "refusal" }, error.message));
      alert.scrollIntoView({ block: "nearest" });
    }
    button.disabled = false;
    button.textContent = verb;
  }
}

// The activity feed: who did what, filtered, and for taking along.

import { query, read } from "../api.js";
import * as clusters from "../clusters.js";
import { h, replace, settled } from "../dom.js";
import { ACTIONS, days } from "../feed.js";
import * as live from "../live.js";
import { paging } from "../paging.js";
import { note } from "../router.js";
import { KINDS, count, title } from "../words.js";

const SIZE = 50;
const FIELDS = ["q", "actor", "action", "cluster", "kind", "outcome", "since", "until"];

export async function activity({ show, signal, query: asked }) {
  const filter = Object.fromEntries(FIELDS.map((field) => [field, asked.get(field) ?? ""]));
  let offset = Math.max(0, Number.parseInt(asked.get("offset"), 10) || 0);
  let asking = 0;
  const lead = h("p", { class: "lead", role: "status" });
  const refusal = h("p", { class: "refusal", role: "alert", hidden: true });
  const list = h("div", { id: "feed" });
  const exports = h("p", { class: "exports" });
  const heading = h("h1", null, "Activity");
  const pages = paging(SIZE, async (next) => {
    offset = next;
    note(address());
    await refresh();
    heading.scrollIntoView({ block: "nearest" });
  });
  const all = await clusters.all();
  const form = h("form", { class: "filters", role: "search", submit: (event) => event.preventDefault() },
    text("q", "Search", { type: "search", placeholder: "Name or message", "aria-keyshortcuts": "/" }, "field wide"),
    text("actor", "Person", { placeholder: "anyone" }),
    select("action", "What", ACTIONS.map((action) => [action, title(action)])),
    select("cluster", "Cluster", all.map(({ id, name }) => [id, name])),
    select("kind", "Kind", KINDS.map((kind) => [kind, kind])),
    select("outcome", "Outcome", [["succeeded", "Succeeded"], ["failed", "Failed"]]),
    text("since", "From", { type: "date" }),
    text("until", "To", { type: "date" }));

  draw(await load());
  show("Activity", h("div", { class: "page" },
    h("header", { class: "page-head with-actions" }, h("div", null, heading, lead), exports), form, refusal, list, pages.foot));

  const again = settled(refresh, signal, 200, 1000);
  live.on("activity", again, signal);
  live.on("resync", again, signal);

  async function change(field, value) {
    filter[field] = value;
    offset = 0;
    note(address());
    await refresh();
  }

  async function refresh() {
    const turn = ++asking;
    try {
      const found = await load();
      if (turn !== asking) return;
      refusal.hidden = true;
      draw(found);
    } catch (error) {
      if (signal.aborted || turn !== asking) return;
      refusal.textContent = error.message;
      refusal.hidden = false;
    }
  }

  async function load() {
    return await read(`activities${query({ ...sent(filter), limit: SIZE, offset })}`, signal);
  }

  function draw({ items, total }) {
    lead.textContent = count(total, "entry", "entries");
    replace(list, items.length ? days(items) : h("p", { class: "none" }, total ? "Nothing more." : "Nothing was done yet that is like that."));
    pages.update(offset, items.length, total);
    const to = (format) => `/api/v1/activities/export${query({ format, ...sent(filter) })}`;
    replace(exports, "Export as ", h("a", { href: to("csv"), download: "activities.csv" }, "CSV"), " or ",
      h("a", { href: to("json"), download: "activities.json" }, "JSON"));
  }

  function address() {
    return `/activity${query({ ...filter, offset: offset || "" })}`;
  }

  function text(field, label, attributes, manner = "field") {
    const input = h("input", {
      name: field, value: filter[field], autocomplete: "off", ...attributes,
      input: settled(() => change(field, input.value.trim()), signal, 250, 800),
    });
    return h("label", { class: manner }, h("span", null, label), input);
  }

  function select(field, label, options) {
    return h("label", { class: "field" }, h("span", null, label),
      h("select", { name: field, change: (event) => change(field, event.target.value) },
        h("option", { value: "" }, "Any"),
        options.map(([value, word]) => h("option", { value, selected: value === filter[field] }, word))));
  }
}

// Days as they are here, from their first moment to the last: the API is asked for moments.
function sent({ since, until, ...rest }) {
  return { ...rest, since: moment(since, "00:00:00"), until: moment(until, "23:59:59.999") };
}

function moment(day, time) {
  const at = new Date(`${day}T${time}`);
  return Number.isNaN(at.getTime()) ? "" : at.toISOString();
}

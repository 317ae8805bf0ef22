// The activity feed: who did what, filtered, and for taking along.

import { query, read } from "../api.js";
import * as clusters from "../clusters.js";
import { h, replace, settled } from "../dom.js";
import { ACTIONS, days } from "../feed.js";
import { filters } from "../filters.js";
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
  const [all, found] = await Promise.all([clusters.all(), load()]);
  const form = filters([
    { name: "q", label: "Search", type: "search", placeholder: "Name or message", "aria-keyshortcuts": "/" },
    { name: "actor", label: "Person", placeholder: "anyone" },
    { name: "action", label: "What", options: ACTIONS.map((action) => [action, title(action)]) },
    { name: "cluster", label: "Cluster", options: all.map(({ id, name }) => [id, name]) },
    { name: "kind", label: "Kind", options: KINDS.map((kind) => [kind, kind]) },
    { name: "outcome", label: "Outcome", options: [["succeeded", "Succeeded"], ["failed", "Failed"]] },
    { name: "since", label: "From", type: "date" },
    { name: "until", label: "To", type: "date" },
  ], filter, change, signal);

  draw(found);
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
    if (items.length) days(list, items);
    else replace(list, h("p", { class: "none" }, total ? "Nothing more." : "Nothing was done yet that is like that."));
    pages.update(offset, items.length, total);
    const to = (format) => `/api/v1/activities/export${query({ format, ...sent(filter) })}`;
    replace(exports, "Export as ", h("a", { href: to("csv"), download: "activities.csv" }, "CSV"), " or ",
      h("a", { href: to("json"), download: "activities.json" }, "JSON"));
  }

  function address() {
    return `/activity${query({ ...filter, offset: offset || "" })}`;
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

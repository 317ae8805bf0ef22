// All Flux objects, of all clusters or of one: filtered, searched, page by page.

import { query, read } from "../api.js";
import * as clusters from "../clusters.js";
import { h, settled, sync } from "../dom.js";
import * as live from "../live.js";
import { paging } from "../paging.js";
import { note } from "../router.js";
import { key, row, table } from "../table.js";
import { KINDS, STATUSES, count, title } from "../words.js";

const SIZE = 50;
const SORTS = { name: "Name", status: "Status", updated: "Last change" };

export async function resources({ show, signal, query: asked }) {
  const filter = {
    q: asked.get("q") ?? "", cluster: asked.get("cluster") ?? "", kind: asked.get("kind") ?? "",
    namespace: asked.get("namespace") ?? "", status: asked.get("status") ?? "", sort: asked.get("sort") ?? "",
    offset: Math.max(0, Number.parseInt(asked.get("offset"), 10) || 0),
  };
  const { whole, body } = table("Flux objects", true);
  const none = h("p", { class: "none" }, "No object is like that.");
  const heading = h("h1", null, "Resources");
  const lead = h("p", { class: "lead", role: "status" });
  const pages = paging(SIZE, (offset) => change({ offset }, true));
  const refusal = h("p", { class: "refusal", role: "alert", hidden: true });
  let asking = 0;

  const search = h("input", {
    type: "search", value: filter.q, placeholder: "Name, namespace or message", "aria-label": "Search", "aria-keyshortcuts": "/",
    input: settled(() => change({ q: search.value.trim() }), signal, 150, 500),
  });
  const namespace = h("input", {
    value: filter.namespace, placeholder: "any", autocomplete: "off",
    input: settled(() => change({ namespace: namespace.value.trim() }), signal, 250, 800),
  });
  const all = await clusters.all();
  const names = new Map(all.map(({ id, name }) => [id, name]));
  const form = h("form", { class: "filters", role: "search", submit: (event) => event.preventDefault() },
    h("label", { class: "field wide" }, h("span", null, "Search"), search),
    select("Cluster", "cluster", [...names]),
    select("Kind", "kind", KINDS.map((kind) => [kind, kind])),
    select("Status", "status", STATUSES.map((status) => [status, title(status)])),
    h("label", { class: "field" }, h("span", null, "Namespace"), namespace),
    select("Sort by", "sort", Object.entries(SORTS), "Cluster"));

  draw(await load());
  show("Resources", h("div", { class: "page" },
    h("header", { class: "page-head" }, heading, lead), form, refusal, whole, none, pages.foot));
  if (asked.get("focus") === "search") {
    search.focus();
    note(address());
  }

  const again = settled(refresh, signal, 400, 1500);
  live.on("object", again, signal);
  live.on("cluster_removed", again, signal);
  live.on("resync", again, signal);

  async function change(part, top) {
    Object.assign(filter, { offset: 0 }, part);
    note(address());
    await refresh();
    if (top) heading.scrollIntoView({ block: "nearest" });
  }

  // The last question asked is the one that is answered.
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
    const { offset, ...rest } = filter;
    return await read(`resources${query({ ...rest, limit: SIZE, offset })}`, signal);
  }

  function draw({ items, total }) {
    lead.textContent = count(total, "object");
    none.hidden = items.length > 0;
    whole.hidden = !items.length;
    sync(body, items, key, row(true));
    pages.update(filter.offset, items.length, total);
  }

  function address() {
    const { offset, ...rest } = filter;
    return `/resources${query({ ...rest, offset: offset || "" })}`;
  }

  function select(label, name, options, nothing = "Any") {
    return h("label", { class: "field" }, h("span", null, label),
      h("select", { name, change: (event) => change({ [name]: event.target.value }) },
        h("option", { value: "" }, nothing),
        options.map(([value, word]) => h("option", { value, selected: value === filter[name] }, word))));
  }
}

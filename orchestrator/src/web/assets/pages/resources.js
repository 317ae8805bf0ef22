// All Flux objects, of all clusters or of one: filtered, searched, page by page.

import { query, read } from "../api.js";
import * as clusters from "../clusters.js";
import { h, settled, sync } from "../dom.js";
import { filters } from "../filters.js";
import * as live from "../live.js";
import { paging } from "../paging.js";
import { note } from "../router.js";
import { key, row, table } from "../table.js";
import { KINDS, STATUSES, count, title } from "../words.js";

const SIZE = 50;
const SORTS = { status: "Status", updated: "Last change" };

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

  const [all, found] = await Promise.all([clusters.all(), load()]);
  const form = filters([
    { name: "q", label: "Search", type: "search", placeholder: "Name, namespace or message", "aria-keyshortcuts": "/" },
    { name: "cluster", label: "Cluster", options: all.map(({ id, name }) => [id, name]) },
    { name: "kind", label: "Kind", options: KINDS.map((kind) => [kind, kind]) },
    { name: "status", label: "Status", options: STATUSES.map((status) => [status, title(status)]) },
    { name: "namespace", label: "Namespace", placeholder: "any" },
    { name: "sort", label: "Sort by", options: Object.entries(SORTS), nothing: "Name" },
  ], filter, (name, value) => change({ [name]: value }), signal);

  draw(found);
  show("Resources", h("div", { class: "page" },
    h("header", { class: "page-head" }, heading, lead), form, refusal, whole, none, pages.foot));
  if (asked.get("focus") === "search") {
    form.querySelector("[type=search]").focus();
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
}

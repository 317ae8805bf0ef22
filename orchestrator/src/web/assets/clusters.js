// The clusters that are registered: read once, kept true by events, shared by all that shows them.

import { query, read } from "./api.js";
import { settled } from "./dom.js";
import * as live from "./live.js";

const MOST = 500;

const changed = new EventTarget();
let items = null;
let reading = null;

// All clusters, by name.
export async function all() {
  return items ?? (await (reading ??= load()));
}

export function now() {
  return items ?? [];
}

// A cluster that is not known may have been registered a moment ago.
export async function one(id) {
  const has = (cluster) => cluster.id === id;
  return (await all()).find(has) ?? (await refresh()).find(has);
}

export function on(listener, signal) {
  changed.addEventListener("change", () => listener(items), { signal });
}

export async function refresh() {
  reading = load();
  return await reading;
}

export function start() {
  const soon = settled(refresh);
  live.on("object", soon);
  live.on("resync", soon);
  live.on("cluster", ({ cluster, health }) => {
    const known = items?.find((one) => one.id === cluster);
    if (!known) return soon();
    known.health = health;
    tell();
  });
  live.on("cluster_removed", ({ cluster }) => {
    items = items?.filter((one) => one.id !== cluster) ?? null;
    tell();
  });
}

async function load() {
  try {
    const found = [];
    for (;;) {
      const page = await read(`clusters${query({ limit: MOST, offset: found.length })}`);
      found.push(...page.items);
      if (!page.items.length || found.length >= page.total) break;
    }
    items = found.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
    tell();
    return items;
  } finally {
    reading = null;
  }
}

function tell() {
  if (items) changed.dispatchEvent(new Event("change"));
}

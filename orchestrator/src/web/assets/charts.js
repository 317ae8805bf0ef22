// The charts: a ring and bars of statuses, drawn as SVG.

import { h, s } from "./dom.js";
import { mark } from "./marks.js";
import { STATUSES, count, number, title } from "./words.js";

const ORDER = ["ready", "progressing", "terminating", "suspended", "unknown", "failed"];
const RADIUS = 54;

// A ring of all objects by status, and beside it the words and numbers, each a way to those objects.
export function ring(stats, href) {
  const length = 2 * Math.PI * RADIUS;
  const total = stats.total ?? 0;
  const gap = ORDER.filter((status) => stats.by_status?.[status]).length > 1 ? 3 : 0;
  let from = 0;
  const arcs = ORDER.map((status) => {
    const share = ((stats.by_status?.[status] ?? 0) / (total || 1)) * length;
    if (!share) return null;
    const drawn = Math.max(share - gap, 2);
    const arc = s("circle", {
      cx: 70, cy: 70, r: RADIUS, class: `arc ${status}`,
      "stroke-dasharray": `${drawn} ${length - drawn}`, "stroke-dashoffset": -from - gap / 2,
    });
    from += share;
    return arc;
  });
  return h("div", { class: "ring-chart" },
    s("svg", { viewBox: "0 0 140 140", class: "ring-drawing", role: "img", "aria-label": summary(stats) },
      s("circle", { cx: 70, cy: 70, r: RADIUS, class: "arc empty" }),
      s("g", { transform: "rotate(-90 70 70)" }, arcs),
      s("text", { x: 70, y: 70, class: total < 10_000 ? "ring-number" : "ring-number many" }, number(total)),
      s("text", { x: 70, y: 90, class: "ring-word" }, total === 1 ? "object" : "objects")),
    h("ul", { class: "legend" }, STATUSES.map((status) => h("li", null,
      h("a", { href: href({ status }), class: stats.by_status?.[status] ? null : "none" },
        mark(status, ""), h("span", null, title(status)), h("b", null, number(stats.by_status?.[status])))))));
}

// One bar a kind, as long as there are many of it.
export function kinds(stats, href) {
  const rows = Object.entries(stats.by_kind ?? {}).filter(([, kind]) => kind.total);
  rows.sort(([, a], [, b]) => b.total - a.total);
  const most = Math.max(1, ...rows.map(([, kind]) => kind.total));
  if (!rows.length) return h("p", { class: "quiet" }, "No Flux objects yet.");
  return h("ul", { class: "kind-chart" }, rows.map(([kind, one]) => h("li", null,
    h("a", { href: href({ kind }) },
      h("span", null, kind), bar(one, one.total / most), h("b", null, number(one.total))))));
}

// A bar cut by status; `length` from 0 to 1 is its part of the room there is.
export function bar(stats, length = 1) {
  const total = ORDER.reduce((sum, status) => sum + (stats?.[status] ?? 0), 0);
  const gap = 0.8;
  let from = 0;
  const pieces = ORDER.map((status) => {
    const share = ((stats?.[status] ?? 0) / (total || 1)) * 100 * length;
    if (!share) return null;
    // What is rare is still to be seen, unless the whole bar is short.
    const drawn = Math.max(share - gap, length < 0.1 ? share : gap);
    const piece = s("rect", { x: from, y: 0, width: drawn, height: 8, class: `piece ${status}` });
    from += share;
    return piece;
  });
  return s("svg", {
    viewBox: "0 0 100 8", preserveAspectRatio: "none", class: "bar", role: "img",
    "aria-label": summary({ total, by_status: stats }),
  }, s("rect", { x: 0, y: 0, width: 100, height: 8, class: "piece empty" }), pieces);
}

// The sum of the statistics of several clusters.
export function sum(all) {
  const whole = { total: 0, by_status: {}, by_kind: {} };
  for (const stats of all) {
    if (!stats) continue;
    whole.total += stats.total ?? 0;
    add(whole.by_status, stats.by_status);
    for (const [kind, one] of Object.entries(stats.by_kind ?? {})) add((whole.by_kind[kind] ??= {}), one);
  }
  return whole;
}

export function summary(stats) {
  const parts = STATUSES.filter((status) => stats.by_status?.[status]);
  const words = parts.map((status) => `${number(stats.by_status[status])} ${status}`);
  return `${count(stats.total ?? 0, "object")}${words.length ? `: ${words.join(", ")}` : ""}`;
}

function add(to, numbers) {
  for (const [name, value] of Object.entries(numbers ?? {})) to[name] = (to[name] ?? 0) + value;
}

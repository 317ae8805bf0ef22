// A status as a mark and a word: told apart by shape, not by colour alone.

import { h, s } from "./dom.js";
import { title } from "./words.js";

const SHAPES = {
  ready: () => [s("circle", { cx: 8, cy: 8, r: 7, class: "solid" }), s("path", { d: "M5 8.200l2.200 2.200L11.200 6", class: "cut" })],
  progressing: () => [s("circle", { cx: 8, cy: 8, r: 6, class: "ring faint" }), s("path", { d: "M8 2a6 6 0 0 1 6 6", class: "ring turning" })],
  failed: () => [s("path", { d: "M5 .8h6L15.200 5v6L11 15.200H5L.8 11V5z", class: "solid" }), s("path", { d: "M5.500 5.500l5 5m0-5l-5 5", class: "cut" })],
  suspended: () => [s("circle", { cx: 8, cy: 8, r: 6, class: "ring" }), s("path", { d: "M6.200 5.500v5m3.600-5v5", class: "ring" })],
  terminating: () => [s("circle", { cx: 8, cy: 8, r: 6, class: "ring" }), s("path", { d: "M4.500 8h7", class: "ring" })],
  unknown: () => [s("circle", { cx: 8, cy: 8, r: 6, class: "ring dashed" })],
};

const REACHED = { up: "ready", connecting: "progressing", down: "failed" };
const REACHED_WORDS = { up: "Reached", connecting: "Connecting", down: "Not reached" };

export function known(status) {
  return status in SHAPES ? status : "unknown";
}

// The mark alone, with its word for those who do not see it.
export function mark(status, word = title(known(status))) {
  const label = word ? { role: "img", "aria-label": word } : { "aria-hidden": "true" };
  return s("svg", { viewBox: "0 0 16 16", class: `mark ${known(status)}`, ...label }, shape(status));
}

// The parts of a mark, for a drawing of which it is a part.
export function shape(status) {
  return SHAPES[known(status)]();
}

// The mark and its word.
export function status(value, word = title(known(value))) {
  return h("span", { class: `status ${known(value)}` }, mark(value, ""), h("span", null, word));
}

// Whether a cluster is reached.
export function reached(health) {
  return status(REACHED[health?.state] ?? "unknown", REACHED_WORDS[health?.state] ?? "Unknown");
}

export function reachedMark(health) {
  return mark(REACHED[health?.state] ?? "unknown", REACHED_WORDS[health?.state] ?? "Unknown");
}

// The keyboard: where to go, how to move among rows, and what keys there are.

import { show } from "./dialogs.js";
import { h } from "./dom.js";
import { go } from "./router.js";

const PLACES = { o: "/", r: "/resources", a: "/activity", s: "/settings" };
const HELP = [
  [["/"], "Search the resources"],
  [["j", "↓"], "Next row"],
  [["k", "↑"], "Row before"],
  [["Enter"], "Open the row"],
  [["g", "o"], "Overview"],
  [["g", "r"], "Resources"],
  [["g", "a"], "Activity"],
  [["g", "s"], "Settings"],
  [["Esc"], "Leave a field, or close a dialog"],
  [["?"], "These keys"],
];

let afterG = 0;

export function start() {
  document.addEventListener("keydown", press);
}

export function help() {
  show("Keys", h("dl", { class: "keys" }, HELP.map(([keys, what]) => h("div", null,
    h("dt", null, keys.map((key) => h("kbd", null, key))), h("dd", null, what)))));
}

function press(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog[open]")) return;
  const field = event.target.closest?.("input, textarea, select, [contenteditable]");
  if (field) {
    if (event.key === "Escape") field.blur();
    else if (event.key === "ArrowDown" && field.type === "search") move(1, event);
    return;
  }
  if (performance.now() - afterG < 1500 && event.key in PLACES) {
    afterG = 0;
    event.preventDefault();
    return go(PLACES[event.key]);
  }
  const keys = {
    "/": search, "?": () => (event.preventDefault(), help()), g: () => (afterG = performance.now()),
    j: () => move(1, event), k: () => move(-1, event), ArrowDown: () => move(1, event), ArrowUp: () => move(-1, event),
  };
  keys[event.key]?.(event);
}

function search(event) {
  event.preventDefault();
  const field = document.querySelector("main input[type=search]");
  if (field) {
    field.focus();
    field.select();
  } else {
    go("/resources?focus=search");
  }
}

// Among the rows that are links; arrows go on scrolling a page that has none, or has not been entered.
function move(by, event) {
  const rows = [...document.querySelectorAll("main [data-row]")];
  const at = rows.indexOf(document.activeElement?.closest("[data-row]") ?? document.activeElement);
  const arrow = event.key.startsWith("Arrow");
  if (!rows.length || (arrow && at < 0 && event.target.type !== "search")) return;
  event.preventDefault();
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + by))];
  (next.matches("a") ? next : next.querySelector("a")).focus();
  next.scrollIntoView({ block: "nearest" });
}

// What would change if the manifests that the cluster keeps were applied again: asked by dry runs when somebody wants to know.

import { read } from "./api.js";
import { h, replace } from "./dom.js";
import { mark } from "./marks.js";
import { ago, count, number } from "./words.js";

const WORDS = { different: "Would change", missing: "Would be made", unknown: "Not compared", same: "Same" };
const SHAPE = { different: "progressing", missing: "failed", unknown: "unknown", same: "ready" };
const SAME_SHOWN = 8;

// A section of which nothing is asked until its button is used.
export function comparison(at, signal) {
  const said = h("p", { class: "quiet", role: "status" },
    "Has the cluster rehearse what it keeps of this object, or of what it applied, without changing anything.");
  const list = h("div");
  const button = h("button", { type: "button", id: "compare-applied", click: look }, "Compare");
  return h("section", { "aria-labelledby": "comparison" },
    h("h2", { id: "comparison" }, "If it were applied again"), h("p", { class: "actions" }, button), said, list);

  async function look() {
    button.disabled = true;
    said.className = "quiet";
    said.textContent = "Asking the cluster…";
    try {
      const found = await read(`${at}/comparison`, signal);
      draw(found);
      replace(said, summary(found), ", ", ago(found.read_at), found.left > 0 && `; ${count(found.left, "more manifest")} not compared`);
    } catch (error) {
      if (signal.aborted) return;
      said.className = "refusal";
      said.textContent = error.message;
    }
    button.textContent = "Compare again";
    button.disabled = false;
  }

  function draw({ kept, reasons, items }) {
    const same = items.filter((item) => item.effect === "same");
    const rest = items.filter((item) => item.effect !== "same");
    const few = same.length <= SAME_SHOWN;
    replace(list,
      [...kept.map((words) => `Kept: ${words}.`), ...reasons.map(sentence)].map((words) => h("p", { class: "message" }, words)),
      h("ul", { class: "conditions" }, rest.map(row), few && same.map(row)),
      !few && h("details", null, h("summary", null, `${number(same.length)} the same`),
        h("ul", { class: "conditions" }, same.map(row))));
  }
}

function row(item) {
  return h("li", null, mark(SHAPE[item.effect], WORDS[item.effect]),
    h("div", null,
      h("p", null, h("span", { class: "quiet" }, `${item.kind} `), item.namespace ? `${item.namespace}/` : "", item.name),
      item.message && h("p", { class: "message" }, item.message),
      item.diff && h("pre", { class: "diff", tabindex: 0, "aria-label": `What would change of ${item.kind} ${item.name}` },
        item.diff.trimEnd().split("\n").map(line))));
}

// The sign at its beginning says what a line is; colour only repeats it.
function line(text) {
  if (text.startsWith("+")) return h("ins", null, `${text}\n`);
  if (text.startsWith("-")) return h("del", null, `${text}\n`);
  return h("span", { class: text.startsWith("@@") ? "quiet" : null }, `${text}\n`);
}

const sentence = (words) => `${words.charAt(0).toUpperCase()}${words.slice(1)}.`;

function summary({ items }) {
  const counts = new Map();
  for (const item of items) counts.set(item.effect, (counts.get(item.effect) ?? 0) + 1);
  return [...counts].map(([effect, many]) => `${number(many)} ${WORDS[effect].toLowerCase()}`).join(", ") || "Nothing to compare";
}

// One Flux object: how it is and why, what can be done to it, where it comes from and what it has applied.

import { path, read, send } from "../api.js";
import { applied } from "../applied.js";
import * as clusters from "../clusters.js";
import { comparison } from "../compare.js";
import { h, replace, settled } from "../dom.js";
import * as live from "../live.js";
import { mark, status } from "../marks.js";
import { objectAt, to } from "../router.js";
import { around, treeFigure } from "../tree.js";
import { ago, brief, canReconcile, canSuspend, clock, count, isFlux, number, revision, title } from "../words.js";
import { missing } from "./missing.js";

const INVENTORY_SHOWN = 12;
const COLOURED_LINES = 3000;
// How long an action may take to show itself; then the page says that it waits no longer.
const AWAITED = 60_000;

export async function object(context) {
  const { params, show, signal } = context;
  const { id, kind, namespace, name } = params;
  const at = path("clusters", id, "flux", kind, namespace, name);
  let detail;
  let tree;
  try {
    [detail, tree] = await Promise.all([read(at, signal), nearby().catch(() => null), clusters.all()]);
  } catch (error) {
    if (error.status === 404) return missing(context);
    throw error;
  }

  const head = h("div", { class: "object-head" });
  const said = h("p", { class: "said", role: "status" });
  const buttons = h("div", { class: "actions" });
  const parts = h("div", { class: "parts" });
  const drawing = treeFigure(id, tree?.root);
  const truncated = h("p", { class: "quiet", hidden: true }, "There are more objects than are drawn. Open one of them to see its own.");
  const treePart = h("section", { "aria-labelledby": "tree" }, h("h2", { id: "tree" }, "From source to what was applied"), drawing.figure, truncated);
  const health = applied(id, at, signal);
  const compared = comparison(at, signal);
  const withSource = h("input", { type: "checkbox", id: "with-source" });
  let awaited = null;
  let gone = false;
  const open = new Set();
  draw();
  show(`${name} (${detail.kind})`, h("div", { class: "page" }, head, buttons, said, treePart, health, compared, parts));
  drawTree();

  const again = settled(async () => {
    const waited = awaited?.asked && awaited;
    [detail, tree] = await Promise.all([read(at, signal), nearby().catch(() => tree)]);
    draw();
    drawTree();
    // This was read after our request had been written: it counts as news of the object does.
    if (waited && waited === awaited) arrive(detail);
  }, signal, 300, 1500);
  live.on("object", (event) => {
    const other = event.summary;
    if (other?.cluster !== id) return;
    if (!isHere(other)) {
      if (tree?.nodes.some((node) => node.flux && node.name === other.name && node.kind === other.kind)) again();
      return;
    }
    if (event.removed) return end("This object was removed from the cluster.");
    arrive(other);
    again();
  }, signal);
  live.on("resync", again, signal);
  live.on("cluster_removed", (event) => event.cluster === id && end("The orchestrator looks after this cluster no longer: what is shown is of before."), signal);

  async function nearby() {
    const whole = await read(`${at}/tree`, signal);
    const root = whole.nodes.find((node) => node.flux && isHere(node))?.id;
    return { ...around(whole, root), root };
  }

  function isHere(other) {
    return other.kind.toLowerCase() === kind.toLowerCase() && other.namespace === namespace && other.name === name;
  }

  // What is new of the object itself is shown at once; the rest follows when it has been read.
  function arrive(summary) {
    detail = { ...detail, ...summary };
    drawHead();
    if (!awaited) return;
    // What was seen before our request was written says nothing about it. From then on an object is progressing until its controller
    // has handled the request; the answer to the request may be of after that.
    const ended = awaited.asked && (summary.status === "ready" || summary.status === "failed");
    const done = awaited.action === "reconcile" ? ended : summary.suspended === (awaited.action === "suspend");
    if (!done) return;
    const { action } = awaited;
    awaited = null;
    const words = { suspend: "Suspended: Flux leaves it as it is.", resume: "Resumed." };
    said.textContent = words[action] ?? (summary.status === "failed" ? "Reconciliation has failed; the reason is above." : `Reconciled at ${clock(Date.now())}.`);
  }

  // Nothing can be done to it any more, and nothing that is shown is of now.
  function end(words) {
    gone = true;
    awaited = null;
    said.textContent = words;
    said.className = "said refusal";
    detail = { ...detail, status: "unknown", message: "" };
    drawHead();
  }

  function draw() {
    drawHead();
    // Secrets are not read: where there is nothing else, there is nothing to look at.
    health.hidden = !detail.inventory?.some((one) => one.kind !== "Secret");
    replace(parts, conditions(detail), inventory(detail, id, open), past(detail), events(detail), text(detail, open));
    for (const fold of parts.querySelectorAll("details")) {
      fold.addEventListener("toggle", () => (fold.open ? open.add(fold.id) : open.delete(fold.id)));
    }
  }

  function drawTree() {
    treePart.hidden = !tree || tree.nodes.length < 2;
    if (tree) drawing.update(tree);
    truncated.hidden = !tree?.truncated;
  }

  function drawHead() {
    const cluster = clusters.now().find((one) => one.id === id);
    replace(head,
      h("p", { class: "crumbs" }, h("a", { href: to("clusters", id) }, cluster?.name ?? detail.cluster_name),
        h("span", { "aria-hidden": "true" }, " / "), detail.kind),
      h("h1", null, name),
      h("p", { class: "lead", id: "object-status", "data-status": detail.status }, status(detail.status),
        detail.message && h("span", { class: "message" }, detail.message)),
      h("dl", { class: "facts" },
        fact("Namespace", namespace),
        fact("Revision", revision(detail.revision)),
        detail.attempted && fact("Tried last", revision(detail.attempted)),
        detail.source && fact("Source", h("a", { href: objectAt({ cluster: id, ...detail.source }) }, `${detail.source.kind} ${detail.source.name}`)),
        fact("In this state", ago(detail.ready_since ?? detail.updated_at)),
        fact("Version", h("code", null, detail.api_version))));
    drawButtons();
  }

  function drawButtons() {
    const look = `${gone} ${detail.suspended} ${Boolean(detail.source)}`;
    if (buttons.look === look) return;
    buttons.look = look;
    if (gone) return replace(buttons);
    const reconciles = canReconcile(detail.kind);
    replace(buttons,
      reconciles && h("button", { type: "button", id: "reconcile", class: "primary", disabled: detail.suspended, click: () => act("reconcile", { with_source: withSource.checked }) }, "Reconcile"),
      detail.kind === "HelmRelease" && [
        h("button", { type: "button", id: "force", disabled: detail.suspended, title: "Install or upgrade although nothing has changed", click: () => act("reconcile", { force: true }) }, "Force"),
        h("button", { type: "button", id: "reset", disabled: detail.suspended, title: "Forget the failures that were counted, and look again", click: () => act("reconcile", { reset: true }) }, "Reset"),
      ],
      reconciles && detail.source && h("label", { class: "check" }, withSource, h("span", null, "with its source")),
      canSuspend(detail.kind) && (detail.suspended
        ? h("button", { type: "button", id: "resume", click: () => act("resume") }, "Resume")
        : h("button", { type: "button", id: "suspend", click: () => act("suspend") }, "Suspend")));
  }

  async function act(action, body) {
    const meanwhile = { reconcile: "Asking Flux to reconcile…", suspend: "Suspending…", resume: "Resuming…" };
    const asked = { reconcile: `Asked at ${clock(Date.now())}; Flux is at work.`, suspend: "Asked to suspend.", resume: "Asked to resume." };
    said.textContent = meanwhile[action];
    said.className = "said";
    const waiting = { action, asked: false };
    awaited = waiting;
    for (const button of buttons.querySelectorAll("button")) button.disabled = true;
    try {
      const summary = await send("POST", `${at}/${action}`, body, signal);
      waiting.asked = true;
      if (awaited === waiting) said.textContent = asked[action];
      if (summary) arrive(summary);
      // Its end may have overtaken the answer.
      if (awaited === waiting) again();
      setTimeout(() => {
        if (signal.aborted || awaited !== waiting) return;
        awaited = null;
        said.textContent = "Flux has not answered yet. It may be busy, or not running.";
      }, AWAITED);
    } catch (error) {
      if (signal.aborted) return;
      // Unless another request, or the end of the object, has come since.
      if (!gone && (!awaited || awaited === waiting)) {
        awaited = null;
        said.textContent = error.message;
        said.className = "said refusal";
      }
    }
    buttons.look = "";
    drawButtons();
  }
}

function conditions({ conditions }) {
  if (!conditions?.length) return null;
  return part("conditions", "Conditions", h("ul", { class: "conditions" }, conditions.map((one) => h("li", null,
    mark(tone(one), one.status),
    h("div", null,
      h("p", null, h("b", null, one.type), h("span", { class: "quiet" }, ` ${one.status === "True" ? "" : `${one.status}, `}${one.reason ?? ""}`)),
      one.message && h("p", { class: "message" }, one.message)),
    ago(one.last_transition)))));
}

// Of most conditions `True` is the good answer; of these it is not.
function tone({ type, status }) {
  if (status === "Unknown") return "progressing";
  if (type === "Reconciling") return status === "True" ? "progressing" : "unknown";
  if (type === "Stalled") return status === "True" ? "failed" : "unknown";
  return status === "True" ? "ready" : "failed";
}

function inventory({ inventory }, cluster, open) {
  if (!inventory?.length) return null;
  const entry = (one) => {
    const words = [h("span", { class: "quiet" }, `${one.kind} `), one.namespace ? `${one.namespace}/` : "", one.name];
    return h("li", null, isFlux(one.kind) && one.namespace ? h("a", { href: objectAt({ cluster, ...one }) }, words) : words);
  };
  const rest = inventory.slice(INVENTORY_SHOWN);
  return part("inventory", `Inventory`, h("p", { class: "quiet" }, `${count(inventory.length, "object")} applied`),
    h("ul", { class: "inventory" }, inventory.slice(0, INVENTORY_SHOWN).map(entry)),
    rest.length > 0 && h("details", { id: "more-inventory", open: open.has("more-inventory") },
      h("summary", null, `${number(rest.length)} more`), h("ul", { class: "inventory" }, rest.map(entry))));
}

// What was reconciled or installed before.
function past({ history, difference }) {
  if (!history?.length) return null;
  const good = (outcome) => /succeeded|deployed|superseded/i.test(outcome);
  return part("history", "History", changed(difference), h("ul", { class: "conditions" }, history.map((one) => h("li", null,
    mark(good(one.outcome) ? "ready" : "failed", one.outcome),
    h("div", null, h("p", null, h("b", null, one.number ? `Release ${one.number} ` : ""), revision(one.revision || one.digest),
      h("span", { class: "quiet" }, ` ${one.outcome}${one.times > 1 ? `, ${number(one.times)} times` : ""}`))),
    ago(one.last)))));
}

// What is different between the last two revisions.
function changed(difference) {
  if (!difference) return null;
  const { from, to, parts, compare } = difference;
  return h("div", { class: "difference", id: "difference" },
    h("p", null, "From ", revision(from), " to ", revision(to), parts.length ? "" : ": nothing that was built from it is different",
      compare && ["; ", h("a", { href: compare, rel: "noopener noreferrer" }, `compare the commits on ${new URL(compare).host}`)]),
    parts.length > 0 && h("dl", null, parts.map((one) => h("div", null, h("dt", null, title(one.name)),
      h("dd", null, h("del", null, brief(one.before) || "none"), " ", h("ins", null, brief(one.after) || "none"))))));
}

function events({ events, events_fault: fault }) {
  if (fault) return part("events", "Events", h("p", { class: "quiet" }, `Events cannot be shown: ${fault}`));
  return part("events", "Events", events?.length
    ? h("ul", { class: "conditions" }, events.map((one) => h("li", null,
      mark(one.type === "Warning" ? "failed" : "ready", one.type),
      h("div", null,
        h("p", null, h("b", null, one.reason), one.count > 1 && h("span", { class: "quiet" }, ` ${number(one.count)} times`)),
        h("p", { class: "message" }, one.message)),
      ago(one.last_seen))))
    : h("p", { class: "quiet" }, "No events of late."));
}

function text({ yaml }, open) {
  if (!yaml) return null;
  const lines = yaml.split("\n");
  const copy = navigator.clipboard && h("button", {
    type: "button", class: "quiet-button",
    click: async (event) => {
      await navigator.clipboard.writeText(yaml);
      event.target.textContent = "Copied";
    },
  }, "Copy");
  return part("yaml-part", "YAML", h("details", { id: "yaml", open: open.has("yaml") },
    h("summary", null, `${count(lines.length, "line")}`), copy,
    h("pre", { tabindex: 0, "aria-label": "The object as YAML" }, lines.length > COLOURED_LINES ? yaml : lines.flatMap(coloured))));
}

function coloured(line) {
  const match = /^(\s*(?:- )*)([^\s:#'"][^:]*:)(\s.*)?$/.exec(line);
  return match ? [match[1], h("span", { class: "key" }, match[2]), match[3] ?? "", "\n"] : [line, "\n"];
}

function part(id, heading, ...content) {
  return h("section", { "aria-labelledby": id }, h("h2", { id }, heading), content);
}

function fact(term, what) {
  return h("div", null, h("dt", null, term), h("dd", null, what));
}

// One cluster: how it is reached, its objects by status and kind, and the tree of them.

import { path, query, read, send } from "../api.js";
import { controllers } from "../applied.js";
import { kinds, ring } from "../charts.js";
import * as clusters from "../clusters.js";
import { narrow, remove, rename, renew } from "../dialogs.js";
import { h, replace, settled, sync } from "../dom.js";
import * as live from "../live.js";
import { reached } from "../marks.js";
import { go } from "../router.js";
import { key, row, table } from "../table.js";
import { treeFigure } from "../tree.js";
import { ago, count, number } from "../words.js";
import { missing } from "./missing.js";

const TROUBLES = 10;
// The orchestrator begins with no more objects after 30 s, and the proxy waits 60 s for the answer.
const RETRIED = 50_000;

export async function cluster(context) {
  const { params, show, signal } = context;
  const { id } = params;
  const found = await clusters.one(id);
  if (!found) return missing(context);
  let current = found;
  const [failing, tree] = await Promise.all([troubles(id, signal), fluxTree(id, signal)]);

  const name = h("h1", null, current.name);
  const facts = h("dl", { class: "facts" });
  const charts = h("div", { class: "charts" });
  const reason = h("p", { class: "refusal", role: "status" });
  const said = h("p", { class: "said", role: "status" });
  const hidden = h("p", { class: "lead", role: "status", id: "hidden" });
  const truncated = h("p", { class: "quiet", hidden: true }, "There are more objects than are drawn. Open one to see what leads to it and what it applied.");
  const { whole, body } = table("Objects that have failed", false);
  const troubled = h("section", { "aria-labelledby": "attention" }, h("h2", { id: "attention" }, "Needs attention"), whole,
    h("p", null, h("button", { type: "button", id: "reconcile-failed", click: retry }, "Reconcile all that failed")));
  const drawing = treeFigure(id);
  const refresh = h("button", { type: "button", click: resync }, "Synchronise");
  draw();
  drawTroubles(failing);
  show(current.name, h("div", { class: "page" },
    h("header", { class: "page-head with-actions" },
      h("div", null, h("p", { class: "crumbs" }, h("a", { href: "/" }, "Clusters")), name),
      h("div", { class: "actions" }, refresh,
        h("button", { type: "button", click: () => rename(current) }, "Rename"),
        current.connection === "kubeconfig" && h("button", { type: "button", click: () => renew(current) }, "Replace credentials"),
        h("button", { type: "button", click: () => narrow(current) }, "Namespaces"),
        h("button", { type: "button", click: () => remove(current) }, "Remove"))),
    said, reason, hidden, facts, charts, troubled,
    h("section", { "aria-labelledby": "tree" }, h("h2", { id: "tree" }, "From sources to what they feed"), truncated, drawing.figure),
    controllers(id, signal),
    h("p", null, h("a", { href: `/resources${query({ cluster: id })}` }, "All objects of this cluster"))));
  drawTree(tree);

  const again = settled(async () => {
    const [failing, tree] = await Promise.all([troubles(id, signal), fluxTree(id, signal)]);
    drawTroubles(failing);
    drawTree(tree);
  }, signal, 500, 2000);
  live.on("object", (event) => event.summary?.cluster === id && again(), signal);
  live.on("resync", again, signal);
  live.on("cluster_removed", (event) => event.cluster === id && go("/"), signal);
  clusters.on((items) => {
    const next = items.find((one) => one.id === id);
    if (!next) return;
    current = next;
    draw();
  }, signal);

  function drawTree(tree) {
    drawing.update({ nodes: tree.nodes, edges: tree.edges });
    truncated.hidden = !tree.cut;
  }

  function draw() {
    const { health = {}, stats = {} } = current;
    hidden.textContent = current.hidden ?? "";
    hidden.hidden = !hidden.textContent;
    name.textContent = current.name;
    reason.textContent = health.reason ?? "";
    reason.hidden = !reason.textContent;
    replace(facts,
      fact("Connection", reached(health)),
      fact("Latency", health.latency_ms == null ? "–" : `${number(health.latency_ms)} ms`),
      fact("Kubernetes", health.version ?? "–"),
      fact("Flux", health.flux_version ?? "–"),
      fact("Server", h("code", null, current.server || "–")),
      current.impersonate && fact("Access", "each person's own"),
      current.namespaces?.length > 0 && fact("Namespaces", current.namespaces.join(", ")),
      current.same_as && fact("Same address as", current.same_as),
      current.context && fact("Context", h("code", null, current.context)),
      fact("Registered", current.created_by ? [h("bdi", null, current.created_by), ", "] : null, ago(current.created_at)));
    const look = JSON.stringify(stats);
    if (charts.look === look) return;
    charts.look = look;
    const here = (filter) => `/resources${query({ cluster: id, ...filter })}`;
    replace(charts,
      h("section", { "aria-labelledby": "by-status" }, h("h2", { id: "by-status" }, "By status"), ring(stats, here)),
      h("section", { "aria-labelledby": "by-kind" }, h("h2", { id: "by-kind" }, "By kind"), kinds(stats, here)));
  }

  function drawTroubles({ items }) {
    troubled.hidden = !items.length;
    sync(body, items, key, row(false));
  }

  async function retry(event) {
    const button = event.target;
    button.disabled = true;
    try {
      const { asked, refused, left } = await send("POST", "resources/reconcile", { cluster: id }, signal, RETRIED);
      const not = refused.length ? `; ${count(refused.length, "was", "were")} refused: ${refused[0].message}` : "";
      said.textContent = `Asked Flux to look at ${count(asked, "object")} again${not}${left ? `; ${number(left)} more have failed` : ""}.`;
    } catch (error) {
      said.textContent = error.message;
    }
    button.disabled = false;
  }

  async function resync() {
    refresh.disabled = true;
    try {
      await send("POST", `${path("clusters", id)}/sync`);
      said.textContent = `Reading all objects of ${current.name} anew.`;
    } catch (error) {
      said.textContent = error.message;
    }
    refresh.disabled = false;
  }
}

const troubles = (id, signal) => read(`${path("clusters", id)}/resources${query({ status: "failed", limit: TROUBLES })}`, signal);

// What was applied is on the pages of those that applied it; here it would hide the tree.
async function fluxTree(id, signal) {
  const { nodes, edges, truncated } = await read(`${path("clusters", id)}/resources/tree`, signal);
  const flux = nodes.filter((node) => node.flux);
  const there = new Set(flux.map((node) => node.id));
  return { nodes: flux, edges: edges.filter((edge) => there.has(edge.from) && there.has(edge.to)), cut: truncated && flux.length >= 2000 };
}

function fact(term, ...what) {
  return h("div", null, h("dt", null, term), h("dd", null, what));
}

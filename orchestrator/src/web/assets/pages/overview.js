// The overview: how all clusters are, what needs attention, and what was done of late.

import { query, read } from "../api.js";
import { bar, kinds, ring, sum } from "../charts.js";
import * as clusters from "../clusters.js";
import { register } from "../dialogs.js";
import { h, replace, settled, sync } from "../dom.js";
import { line } from "../feed.js";
import * as live from "../live.js";
import { mark, reached } from "../marks.js";
import { objectAt, to } from "../router.js";
import { ago, count, number } from "../words.js";
import { key } from "../table.js";

const ATTENTION = 8;
const DEEDS = 6;

export async function overview({ show, signal }) {
  const [all, failing, deeds] = await Promise.all([clusters.all(), attention(signal), recent(signal)]);
  const heading = h("h1", { id: "summary" });
  const under = h("p", { class: "lead" });
  const charts = h("div", { class: "charts" });
  const list = h("ul", { class: "cluster-rows" });
  const troubled = h("section", { "aria-labelledby": "attention" },
    h("h2", { id: "attention" }, "Needs attention"));
  const troubles = h("ul", { class: "troubles" });
  const more = h("p");
  troubled.append(troubles, more);
  const feed = h("ul", { class: "feed" });
  const page = h("div", { class: "page" });
  const empty = welcome();
  const parts = [
    charts, troubled,
    h("section", { "aria-labelledby": "clusters" }, h("h2", { id: "clusters" }, "Clusters"), list),
    h("section", { "aria-labelledby": "recent" }, h("h2", { id: "recent" }, "Recent activity"), feed,
      h("p", null, h("a", { href: "/activity" }, "All activity"))),
  ];
  let shown = null;
  const drawAll = (items) => {
    if (shown !== items.length > 0) {
      shown = items.length > 0;
      replace(page, shown ? [h("header", { class: "page-head" }, heading, under), parts] : empty);
    }
    drawClusters(items, { heading, under, charts, list });
  };
  drawAll(all);
  drawTroubles(failing);
  drawDeeds(deeds);
  show("Overview", page);

  const troublesSoon = settled(async () => drawTroubles(await attention(signal)), signal);
  const deedsSoon = settled(async () => drawDeeds(await recent(signal)), signal);
  clusters.on(drawAll, signal);
  live.on("object", troublesSoon, signal);
  live.on("cluster_removed", troublesSoon, signal);
  live.on("activity", deedsSoon, signal);
  live.on("resync", () => (troublesSoon(), deedsSoon()), signal);

  function drawTroubles({ items, total }) {
    troubled.hidden = !total;
    sync(troubles, items, key, trouble);
    replace(more, total > items.length && h("a", { href: "/resources?status=failed" }, `All ${number(total)} that have failed`));
  }

  function drawDeeds({ items }) {
    if (items.length) sync(feed, items, (item) => item.id, (item) => line(item));
    else replace(feed, h("li", { class: "quiet" }, "Nothing was done yet."));
  }
}

const attention = (signal) => read(`resources${query({ status: "failed", limit: ATTENTION, sort: "updated" })}`, signal);
const recent = (signal) => read(`activities${query({ limit: DEEDS })}`, signal);
const resources = (filter) => `/resources${query(filter)}`;

function drawClusters(items, { heading, under, charts, list }) {
  const whole = sum(items.map((cluster) => cluster.stats));
  const failed = whole.by_status.failed ?? 0;
  const away = items.filter((cluster) => cluster.health?.state === "down").length;
  const connecting = items.filter((cluster) => cluster.health?.state === "connecting").length;
  const news = [
    failed && `${count(failed, "object")} ${failed === 1 ? "needs" : "need"} attention`,
    away && `${count(away, "cluster")} cannot be reached`,
    connecting && `${count(connecting, "cluster")} being read`,
  ].filter(Boolean);
  heading.textContent = news.shift() ?? (whole.total ? "All is well" : "No Flux objects yet");
  under.textContent = [`${count(items.length, "cluster")}, ${count(whole.total, "Flux object")}`, ...news, ""].join(". ").trim();
  const look = JSON.stringify(whole);
  if (charts.look !== look) {
    charts.look = look;
    replace(charts,
      h("section", { "aria-labelledby": "by-status" }, h("h2", { id: "by-status" }, "By status"), ring(whole, resources)),
      h("section", { "aria-labelledby": "by-kind" }, h("h2", { id: "by-kind" }, "By kind"), kinds(whole, resources)));
  }
  sync(list, items.map(brief), (item) => item.id, clusterRow);
}

// What a row shows, and no more: it is drawn anew only when that changes.
function brief({ id, name, health, stats }) {
  return {
    id, name, state: health?.state, reason: health?.reason,
    version: health?.version, flux: health?.flux_version, total: stats?.total, by_status: stats?.by_status,
  };
}

function clusterRow(cluster) {
  const versions = [cluster.version && `Kubernetes ${cluster.version}`, cluster.flux && `Flux ${cluster.flux}`];
  return h("li", { "data-row": true },
    h("div", { class: "cluster-name" }, h("a", { href: to("clusters", cluster.id) }, h("b", null, cluster.name)),
      h("span", { class: "quiet" }, versions.filter(Boolean).join(", "))),
    h("div", { class: "cluster-health" }, reached({ state: cluster.state }),
      cluster.reason && h("span", { class: "message", title: cluster.reason }, cluster.reason)),
    h("div", { class: "cluster-bar" }, bar(cluster.by_status)),
    h("span", { class: "cluster-total" }, number(cluster.total)));
}

function trouble(object) {
  return h("li", { "data-row": true }, mark(object.status),
    h("div", null,
      h("p", null, h("a", { href: objectAt(object) }, h("b", null, object.name)),
        h("span", { class: "quiet" }, ` ${object.kind} in ${object.namespace}, ${object.cluster_name}`)),
      object.message && h("p", { class: "message" }, object.message)),
    ago(object.ready_since ?? object.updated_at));
}

function welcome() {
  return h("section", { class: "empty" },
    h("h1", { id: "summary" }, "No clusters yet"),
    h("p", null, "Register a cluster with a kubeconfig, and its Flux objects appear here: what is ready, what is on its way, and what has failed and why."),
    h("button", { type: "button", class: "primary", click: () => register() }, "Register a cluster"));
}

// Flux objects as rows.

import { h } from "./dom.js";
import { status } from "./marks.js";
import { objectAt } from "./router.js";
import { ago, revision } from "./words.js";

export const key = (object) => [object.cluster, object.kind, object.namespace, object.name].join("/");

// A table without rows yet, and its body to put them in; the column of clusters is left out where there is but one.
export function table(caption, manyClusters) {
  const body = h("tbody", { role: "rowgroup" });
  const column = (name) => h("th", { scope: "col", role: "columnheader" }, name);
  const whole = h("table", { class: manyClusters ? "objects" : "objects one-cluster", role: "table" },
    h("caption", { class: "unseen" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" },
      ["Object", "Status", manyClusters && "Cluster", "Revision", "Updated"].filter(Boolean).map(column))),
    body);
  return { whole, body };
}

export const row = (manyClusters) => (object) => h("tr", { "data-row": true, role: "row" },
  h("td", { class: "object", role: "cell" },
    h("a", { href: objectAt(object) }, h("b", null, object.name)),
    h("span", { class: "quiet" }, `${object.kind} in ${object.namespace}`)),
  h("td", { class: "state", role: "cell" },
    status(object.status), object.status !== "ready" && object.message && h("span", { class: "message", title: object.message }, object.message)),
  manyClusters && h("td", { class: "where", role: "cell" }, object.cluster_name),
  h("td", { class: "revision", role: "cell" }, revision(object.revision)),
  h("td", { class: "updated", role: "cell" }, ago(object.updated_at)));

// The sidebar: the pages, and the clusters with how they are. On a phone the pages are at the foot.

import * as clusters from "./clusters.js";
import { register } from "./dialogs.js";
import { h, replace, s, sync } from "./dom.js";
import { help } from "./keys.js";
import { reachedMark } from "./marks.js";
import { on as onMove, to } from "./router.js";
import { number } from "./words.js";

const PAGES = [
  ["/", "Overview", "M3 3h6v8H3zM11 3h6v5h-6zM11 10h6v7h-6zM3 13h6v4H3z"],
  ["/resources", "Resources", "M3 5h14M3 10h14M3 15h14"],
  ["/activity", "Activity", "M2 11h4l3-7 3 12 2.500-5H18"],
  ["/settings", "Settings", "M3 6h7m4 0h3M3 14h3m4 0h7M12 4v4M8 12v4"],
];

export function start() {
  const sidebar = document.getElementById("sidebar");
  const list = h("ul", { class: "cluster-list" });
  const none = h("p", { class: "quiet" }, "None yet.");
  replace(sidebar,
    h("ul", { class: "page-list" }, PAGES.map(([href, name, drawing]) => h("li", null, h("a", { href },
      s("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" }, s("path", { d: drawing })), h("span", null, name))))),
    h("div", { class: "cluster-part" },
      h("h2", null, "Clusters"), list, none,
      h("button", { type: "button", class: "quiet-button", click: register }, "Register a cluster")),
    h("p", { class: "sidebar-foot" }, h("button", { type: "button", class: "quiet-button", click: help }, h("kbd", null, "?"), " Keys")));
  clusters.on((items) => {
    none.hidden = items.length > 0;
    sync(list, items.map(brief), (item) => item.id, row);
    current();
  });
  onMove(current);
  clusters.all().catch(() => {});

  // The page that one is on.
  function current() {
    for (const link of sidebar.querySelectorAll("a")) {
      const href = link.getAttribute("href");
      const inside = href === "/" ? location.pathname === "/" : `${location.pathname}/`.startsWith(`${href}/`);
      if (inside) link.setAttribute("aria-current", href === location.pathname ? "page" : "true");
      else link.removeAttribute("aria-current");
    }
  }
}

const brief = ({ id, name, health, stats }) => ({ id, name, state: health?.state, failed: stats?.by_status?.failed ?? 0 });

function row({ id, name, state, failed }) {
  return h("li", null, h("a", { href: to("clusters", id) },
    reachedMark({ state }), h("span", { class: "name" }, name),
    failed > 0 && h("span", { class: "failed-count", title: `${number(failed)} failed` }, number(failed))));
}

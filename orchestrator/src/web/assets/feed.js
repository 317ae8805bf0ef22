// The activity log as sentences: who did what to which object, and how it ended.

import { h, sync } from "./dom.js";
import { mark } from "./marks.js";
import { objectAt, to } from "./router.js";
import { ago, clock, day, isFlux } from "./words.js";

const VERBS = {
  reconcile: "reconciled",
  suspend: "suspended",
  resume: "resumed",
  register: "registered",
  rename: "renamed",
  remove: "removed",
  sync: "synchronised",
  settings: "changed the settings",
};

export const ACTIONS = Object.keys(VERBS);

export const verb = (action) => VERBS[action] ?? VERBS[action?.split(/[._]/).find((word) => word in VERBS)] ?? action;

// One line; with the time of the day where the day is said above, else with how long ago.
export function line(activity, timeOfDay) {
  const failed = activity.outcome === "failed";
  return h("li", { class: failed ? "deed failed" : "deed", "data-row": Boolean(activity.cluster) },
    mark(failed ? "failed" : "ready", failed ? "Failed" : "Succeeded"),
    h("p", null,
      h("b", { class: "actor", title: activity.actor_email || null }, h("bdi", null, activity.actor)), ` ${verb(activity.action)} `,
      object(activity), cluster(activity),
      failed && activity.message && h("span", { class: "why" }, activity.message)),
    timeOfDay ? h("time", { datetime: activity.at }, clock(activity.at)) : ago(activity.at));
}

// Lines under the day on which they were done; `parent` is made to hold them.
export function days(parent, activities) {
  const groups = new Map();
  for (const activity of activities) {
    const name = day(activity.at);
    groups.set(name, [...(groups.get(name) ?? []), activity]);
  }
  sync(parent, [...groups.keys()], (name) => name, (name) => h("section", { class: "day" },
    h("h2", null, name), h("ul", { class: "feed" })));
  [...groups.values()].forEach((items, place) => {
    sync(parent.children[place].querySelector("ul"), items, (item) => item.id, (item) => line(item, true));
  });
}

function object({ cluster, kind, namespace, name }) {
  if (!name || !isFlux(kind)) return null;
  const words = [h("span", { class: "quiet" }, `${kind} `), `${namespace}/${name}`];
  return cluster ? h("a", { href: objectAt({ cluster, kind, namespace, name }) }, words) : words;
}

function cluster({ cluster, cluster_name, kind, name }) {
  const shown = cluster_name ?? (kind ? null : name);
  if (!shown) return null;
  return [name && isFlux(kind) ? " on " : "the cluster ", cluster ? h("a", { href: to("clusters", cluster) }, shown) : shown];
}

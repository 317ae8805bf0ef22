// The activity log as sentences: who did what to which object, and how it ended.

import { h, sync } from "./dom.js";
import { mark } from "./marks.js";
import { objectAt, to } from "./router.js";
import { ago, clock, day, isFlux } from "./words.js";

// What was done, and what was only tried.
const VERBS = {
  reconcile: ["reconciled", "reconcile"],
  suspend: ["suspended", "suspend"],
  resume: ["resumed", "resume"],
  register: ["registered", "register"],
  rename: ["renamed", "rename"],
  replace: ["replaced the credentials of", "replace the credentials of"],
  narrow: ["chose the namespaces of", "choose the namespaces of"],
  impersonate: ["had people decided on by", "have people decided on by"],
  remove: ["removed", "remove"],
  sync: ["synchronised", "synchronise"],
  settings: ["changed the settings", "change the settings"],
};

export const ACTIONS = Object.keys(VERBS);

// One line; with the time of the day where the day is said above, else with how long ago.
export function line(activity, timeOfDay) {
  const failed = activity.outcome === "failed";
  return h("li", { class: failed ? "deed failed" : "deed", "data-row": Boolean(activity.name) },
    mark(failed ? "failed" : "ready", failed ? "Failed" : "Succeeded"),
    h("p", null,
      h("b", { class: "actor", title: activity.actor_email || null }, h("bdi", null, activity.actor)), ` ${verb(activity.action, failed)} `,
      object(activity), cluster(activity, failed),
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

function verb(action, failed) {
  const [done, tried] = VERBS[action] ?? [action, action];
  return failed ? `tried to ${tried}` : done;
}

function object({ cluster, kind, namespace, name }) {
  if (!name || !isFlux(kind)) return null;
  const words = [h("span", { class: "quiet" }, `${kind} `), `${namespace}/${name}`];
  return cluster ? h("a", { href: objectAt({ cluster, kind, namespace, name }) }, words) : words;
}

// No way leads to a cluster that never was, or is no more.
function cluster({ action, cluster, cluster_name, kind, name }, failed) {
  if (!cluster_name) return null;
  const there = cluster && action !== (failed ? "register" : "remove");
  return [
    name && isFlux(kind) ? " on " : "the cluster ",
    there ? h("a", { href: to("clusters", cluster) }, cluster_name) : h("b", null, cluster_name),
  ];
}

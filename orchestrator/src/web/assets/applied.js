// How what an object applied is: read when somebody asks for it, with pods, and the last lines of a container behind a button.

import { path, query, read } from "./api.js";
import { h, replace } from "./dom.js";
import { mark, status } from "./marks.js";
import { objectAt } from "./router.js";
import { ago, count, isFlux, number } from "./words.js";

const WORDS = { missing: "Missing", unknown: "Not read" };
const SHAPE = { missing: "failed" };
const WELL_SHOWN = 8;

// A section of which nothing is read until its button is used.
export function applied(cluster, at, signal) {
  const said = h("p", { class: "quiet", role: "status" }, "Reads each object from the cluster, with the pods of workloads.");
  const list = h("div");
  const button = h("button", { type: "button", id: "look-at-applied", click: look }, "Look at its health");
  return h("section", { "aria-labelledby": "applied", hidden: true },
    h("h2", { id: "applied" }, "Health of what was applied"), h("p", { class: "actions" }, button), said, list);

  async function look() {
    button.disabled = true;
    said.className = "quiet";
    said.textContent = "Reading…";
    try {
      const { items, left, read_at: moment } = await read(`${at}/applied`, signal);
      draw(items);
      replace(said, summary(items), ", ", ago(moment), left > 0 && `; ${count(left, "more object")} not read`);
    } catch (error) {
      if (signal.aborted) return;
      said.className = "refusal";
      said.textContent = error.message;
    }
    button.textContent = "Look again";
    button.disabled = false;
  }

  function draw(items) {
    const well = items.filter((item) => item.status === "ready" && !item.pods.length && !item.pods_fault);
    const rest = items.filter((item) => !well.includes(item));
    const few = well.length <= WELL_SHOWN ? well : [];
    replace(list,
      h("ul", { class: "conditions" }, rest.map(row), few.map(row)),
      !few.length && well.length > 0 && h("details", null,
        h("summary", null, `${number(well.length)} more are well`), h("ul", { class: "conditions" }, well.map(row))));
  }

  function row(item) {
    const name = [h("span", { class: "quiet" }, `${item.kind} `), item.namespace ? `${item.namespace}/` : "", item.name];
    return h("li", null, tell(item.status),
      h("div", null,
        h("p", null, isFlux(item.kind) && item.namespace ? h("a", { href: objectAt({ cluster, ...item }) }, name) : name),
        item.message && h("p", { class: "message" }, item.message),
        item.pods.length > 0 && h("ul", { class: "pods" }, item.pods.map((pod) => podRow(item, pod))),
        item.more_pods && h("p", { class: "quiet" }, "It has more pods than are shown."),
        item.pods_fault && h("p", { class: "quiet" }, `Its pods cannot be shown: ${item.pods_fault}`)),
      h("span", { class: "how" }, word(item.status)));
  }

  function podRow(item, pod) {
    return h("li", null,
      h("p", null, tell(pod.status), " ", h("span", null, pod.name),
        h("span", { class: "quiet" },
          pod.message && ` ${pod.message}`, pod.restarts > 0 && ` · ${count(pod.restarts, "restart")}`, pod.node && ` · ${pod.node}`)),
      h("ul", { class: "containers" }, pod.containers.map((container) => containerRow(item, pod, container))));
  }

  function containerRow(item, pod, container) {
    const lines = h("div");
    const show = (previous) => h("button", {
      type: "button", class: "quiet-button", "aria-label": `${previous ? "Log before its last start" : "Log"}: ${container.name} in ${pod.name}`,
      click: (event) => log(event.target, lines, { workload_kind: item.kind, workload: item.name, within: item.namespace, pod: pod.name, container: container.name, ...(previous && { previous }) }),
    }, previous ? "Log before its last start" : "Log");
    return h("li", null,
      h("p", null, h("b", null, container.name), h("span", { class: "quiet" }, ` ${container.state}`), " ", show(false), container.restarts > 0 && show(true)),
      lines);
  }

  async function log(button, lines, which) {
    button.disabled = true;
    try {
      const { text } = await read(`${at}/applied/log${query(which)}`, signal);
      const shown = h("pre", { tabindex: 0, "aria-label": `The last lines of ${which.container} in ${which.pod}` }, text || "It has written nothing.");
      replace(lines, shown);
      // The newest lines are the last ones.
      shown.scrollTop = shown.scrollHeight;
    } catch (error) {
      if (signal.aborted) return;
      replace(lines, h("p", { class: "refusal" }, error.message));
    }
    button.disabled = false;
  }
}

// Flux's own controllers, each with its version.
export function controllers(cluster, signal) {
  const list = h("div");
  const part = h("section", { "aria-labelledby": "controllers" }, h("h2", { id: "controllers" }, "Flux itself"), list);
  load();
  return part;

  async function load() {
    try {
      const { items } = await read(`${path("clusters", cluster)}/flux/controllers`, signal);
      replace(list, items.length
        ? h("ul", { class: "conditions" }, items.map((one) => h("li", null, tell(one.status),
          h("div", null, h("p", null, one.name, " ", h("code", null, one.version ?? one.flux_version ?? "")),
            one.status !== "ready" && one.message && h("p", { class: "message" }, one.message)),
          h("span", { class: "how" }, one.namespace))))
        : h("p", { class: "quiet" }, "No Deployment is labelled as a part of Flux (app.kubernetes.io/part-of=flux)."));
    } catch (error) {
      if (!signal.aborted) replace(list, h("p", { class: "quiet" }, `Its controllers cannot be shown: ${error.message}`));
    }
  }
}

const word = (state) => WORDS[state] ?? status(state).textContent;
const tell = (state) => mark(SHAPE[state] ?? state, word(state));

// How many are how, the most urgent first.
function summary(items) {
  const counts = new Map();
  for (const item of items) counts.set(item.status, (counts.get(item.status) ?? 0) + 1);
  return [...counts].map(([state, many]) => `${number(many)} ${word(state).toLowerCase()}`).join(", ") || "Nothing was applied";
}

// From an address to its page, without loading the document again.

import { h, replace } from "./dom.js";

const main = document.getElementById("main");
const spoken = document.getElementById("spoken");
const moved = new EventTarget();
let leaving = new AbortController();
let routes = [];
let missing = null;
let current = "";

// `routes` are pairs of a pattern, such as /clusters/:id, and the page that is there; `missing` is the page for the rest.
export function start(known, otherwise) {
  routes = known.map(([pattern, page]) => [
    new RegExp(`^${pattern.replace(/:(\w+)/g, "(?<$1>[^/]+)")}$`), page,
  ]);
  missing = otherwise;
  document.addEventListener("click", follow);
  // A page is read before it can be scrolled: the browser would be too early.
  history.scrollRestoration = "manual";
  window.addEventListener("popstate", ({ state }) => {
    if (location.pathname + location.search !== current) open({ top: state?.top });
  });
  open({ first: true });
}

export function on(listener) {
  moved.addEventListener("move", listener);
}

export function go(address) {
  history.replaceState({ top: scrollY }, "");
  history.pushState(null, "", address);
  open({});
}

// Changes the address without leaving the page: for filters.
export function note(address) {
  history.replaceState(null, "", address);
  current = location.pathname + location.search;
}

export function again() {
  open({ stay: true });
}

export const to = (...parts) => `/${parts.map(encodeURIComponent).join("/")}`;
export const objectAt = (of) => to("clusters", of.cluster, of.kind, of.namespace, of.name);

async function open({ first, stay, top = 0 }) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const begun = performance.now();
  current = location.pathname + location.search;
  const [page, params] = find(location.pathname);
  main.setAttribute("aria-busy", "true");
  moved.dispatchEvent(new Event("move"));
  const context = {
    params,
    signal,
    query: new URLSearchParams(location.search),
    show(heading, ...nodes) {
      if (signal.aborted) return;
      document.title = heading ? `${heading} · Orchestrator` : "Orchestrator";
      replace(main, nodes);
    },
  };
  try {
    await page(context);
  } catch (error) {
    if (signal.aborted) return;
    console.warn(error);
    context.show("Something went wrong", problem(error));
  }
  if (signal.aborted) return;
  main.removeAttribute("aria-busy");
  main.dataset.took = Math.round(performance.now() - (first ? 0 : begun));
  moved.dispatchEvent(new Event("move"));
  if (first || stay) return;
  window.scrollTo(0, top);
  // Unless the page has put it somewhere itself.
  if (!main.contains(document.activeElement)) main.focus({ preventScroll: true });
  spoken.textContent = document.title;
}

function find(address) {
  for (const [pattern, page] of routes) {
    const match = pattern.exec(address);
    if (!match) continue;
    try {
      return [page, Object.fromEntries(Object.entries(match.groups ?? {}).map(([k, v]) => [k, decodeURIComponent(v)]))];
    } catch {
      break; // Not UTF-8 once decoded: no page has such an address.
    }
  }
  return [missing, {}];
}

function follow(event) {
  if (event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  const link = event.target.closest("a[href]");
  if (!link || link.hasAttribute("target") || link.hasAttribute("download")) return;
  const url = new URL(link.getAttribute("href"), location.href);
  if (url.origin !== location.origin || url.pathname.startsWith("/api/")) return;
  if (url.hash && url.pathname === location.pathname) return;
  event.preventDefault();
  if (url.href === location.href) return again();
  go(url.pathname + url.search);
}

function problem(error) {
  return h("section", { class: "empty" },
    h("h1", null, "This page cannot be shown"),
    h("p", { role: "alert" }, error?.message ?? "Something went wrong."),
    h("button", { type: "button", click: again }, "Try again"));
}

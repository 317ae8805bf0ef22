// The corner: who is signed in, as the proxy tells it, and the colour scheme.

import { h, replace } from "./dom.js";

const SCHEMES = ["system", "light", "dark"];
const corner = document.getElementById("corner");
const theme = document.getElementById("theme");

export function start() {
  theme.hidden = false;
  theme.addEventListener("click", () => choose(SCHEMES[(SCHEMES.indexOf(chosen()) + 1) % SCHEMES.length]));
  label();
  window.addEventListener("signed-out", ended);
  window.addEventListener("stream-refused", meet);
  meet();
}

export function chosen() {
  return document.documentElement.dataset.theme ?? "system";
}

export function choose(scheme) {
  if (scheme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = scheme;
  try {
    if (scheme === "system") localStorage.removeItem("theme");
    else localStorage.setItem("theme", scheme);
  } catch {
    // It holds until the page is left.
  }
  label();
}

// The document already names who asked for it; the proxy knows whether that still holds.
async function meet() {
  const status = await ask("status");
  if (!status?.enabled) return;
  const me = await ask("me");
  if (!me) return;
  const who = document.getElementById("who");
  const name = me.name || me.username || me.email || me.id;
  if (who.textContent === name) return;
  who.title = me.email;
  replace(who, h("bdi", null, name));
  if (!document.getElementById("sign-out")) {
    corner.append(h("form", { method: "post", action: "/api/v1/auth/logout" },
      h("button", { id: "sign-out", class: "quiet-button" }, "Sign out")));
  }
}

async function ask(what) {
  try {
    const answer = await fetch(`/api/v1/auth/${what}`, { headers: { Accept: "application/json" } });
    if (answer.status === 401) ended();
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

function ended() {
  if (document.getElementById("ended")) return;
  const back = `/api/v1/auth/login?rd=${encodeURIComponent(location.pathname + location.search)}`;
  document.body.prepend(h("p", { id: "ended", class: "banner", role: "alert" },
    "You are signed out. ", h("a", { href: back }, "Sign in again")));
  replace(corner, h("span", { id: "who" }, "Signed out"));
}

function label() {
  const words = { system: "Colours of the system", light: "Light colours", dark: "Dark colours" };
  theme.dataset.scheme = chosen();
  theme.title = words[chosen()];
  theme.setAttribute("aria-label", `${words[chosen()]}; change`);
  replace(theme, h("span", { class: "scheme", "aria-hidden": "true" }));
}

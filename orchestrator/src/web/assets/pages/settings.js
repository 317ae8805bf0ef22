// Settings: of all, of this browser; and who the proxy says one is.

import { read, send } from "../api.js";
import * as clusters from "../clusters.js";
import { choose, chosen } from "../corner.js";
import { register, remove, rename } from "../dialogs.js";
import { h, sync } from "../dom.js";
import { reachedMark } from "../marks.js";
import { to } from "../router.js";
import { title } from "../words.js";

const PROVIDERS = { github: "GitHub", entra: "Microsoft Entra ID", oidc: "OpenID Connect" };

export async function settings({ show, signal }) {
  const [kept, me, all] = await Promise.all([read("settings", signal), read("whoami", signal), clusters.all()]);
  const list = h("ul", { class: "manage" });
  const draw = (items) => sync(list, items.map(({ id, name, server, connection, health }) => ({ id, name, server, connection, state: health?.state })), (item) => item.id, managed);
  draw(all);
  clusters.on(draw, signal);
  show("Settings", h("div", { class: "page narrow" },
    h("header", { class: "page-head" }, h("h1", null, "Settings")),
    section("clusters", "Clusters", list, h("p", null, h("button", { type: "button", click: () => register() }, "Register a cluster"))),
    section("retention", "Activity log", retention(kept)),
    section("colours", "Colours in this browser", colours()),
    section("you", "You", person(me)),
    section("about", "For programs", h("p", null, "All of this is an API: ", h("a", { href: "/api/v1/openapi.json" }, "its description (OpenAPI)"), "."))));
}

function managed(cluster) {
  return h("li", null, reachedMark(cluster),
    h("div", null, h("a", { href: to("clusters", cluster.id) }, h("b", null, cluster.name)),
      h("span", { class: "quiet" }, cluster.connection === "in_cluster" ? "the cluster it runs in" : cluster.server)),
    h("div", { class: "actions" },
      h("button", { type: "button", class: "quiet-button", click: () => rename(cluster) }, "Rename"),
      h("button", { type: "button", class: "quiet-button", click: () => remove(cluster) }, "Remove")));
}

function retention(kept) {
  const days = h("input", { type: "number", name: "days", min: 1, max: 3650, required: true, value: kept.activity_retention_days });
  const said = h("span", { role: "status" });
  return h("form", {
    class: "inline",
    submit: async (event) => {
      event.preventDefault();
      said.className = "";
      try {
        await send("PUT", "settings", { ...kept, activity_retention_days: days.valueAsNumber });
        said.textContent = "Kept.";
      } catch (error) {
        said.className = "refusal";
        said.textContent = error.message;
      }
    },
  }, h("label", { class: "field" }, h("span", null, "Days that entries are kept"), days), h("button", null, "Save"), said);
}

function colours() {
  return h("fieldset", { class: "choices" }, h("legend", { class: "unseen" }, "Colours"),
    ["system", "light", "dark"].map((scheme) => h("label", { class: "check" },
      h("input", { type: "radio", name: "scheme", value: scheme, checked: chosen() === scheme, change: () => choose(scheme) }),
      h("span", null, title(scheme)))));
}

function person(me) {
  if (!me.signed_in) {
    return h("p", null, "The proxy runs in open mode: nobody is signed in, and what is done is written down as ", h("b", null, "anonymous"), ".");
  }
  const facts = [
    ["Name", me.name], ["User", me.user], ["Email", me.email], ["Username", me.preferred_username],
    ["Signed in with", PROVIDERS[me.provider] ?? me.provider], ["Groups", me.groups?.join(", ")],
  ];
  return h("dl", { class: "facts" }, facts.filter(([, value]) => value).map(([term, value]) => h("div", null,
    h("dt", null, term), h("dd", null, h("bdi", null, value)))));
}

function section(id, heading, ...content) {
  return h("section", { "aria-labelledby": id }, h("h2", { id }, heading), content);
}

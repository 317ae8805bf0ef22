// Nothing is at this address.

import { h } from "../dom.js";

export async function missing({ show }) {
  show("Nothing here", h("section", { class: "empty" },
    h("h1", null, "There is nothing at this address"),
    h("p", null, "It may have been removed, or mistyped. ", h("a", { href: "/" }, "Go to the overview"), ".")));
}

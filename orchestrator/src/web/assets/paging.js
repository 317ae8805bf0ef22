// From one page of a list to the next.

import { h, replace } from "./dom.js";
import { number } from "./words.js";

export function paging(size, turn) {
  const foot = h("nav", { class: "paging", "aria-label": "Pages of the list" });
  return {
    foot,
    update(offset, shown, total) {
      const step = (by, word) => h("button", {
        type: "button", disabled: by < 0 ? offset === 0 : offset + shown >= total,
        click: () => turn(Math.max(0, offset + by * size)),
      }, word);
      replace(foot,
        h("p", { role: "status" }, total ? `${number(offset + 1)} to ${number(offset + shown)} of ${number(total)}` : ""),
        total > size && h("div", null, step(-1, "Before"), step(1, "Next")));
    },
  };
}

// Elements, made so that what comes from outside is always text and never markup.

const SVG = "http://www.w3.org/2000/svg";

// An attribute that is null, undefined or false is left out; one that is a function listens to the event of its name.
export const h = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
export const s = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

export function replace(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter(isThere));
}

// Makes `parent` hold one element for each item, in their order. Elements whose item stays are kept, and with them the
// focus; they are updated only where the item has changed.
export function sync(parent, items, key, make) {
  const before = parent.kept ?? new Map();
  const after = new Map();
  for (const item of items) {
    const id = key(item);
    const look = JSON.stringify(item);
    const old = before.get(id);
    if (old?.look === look) {
      after.set(id, old);
      continue;
    }
    const element = make(item);
    if (old) {
      const focused = old.element.contains(document.activeElement);
      old.element.replaceWith(element);
      if (focused) (element.querySelector("a, button") ?? element).focus({ preventScroll: true });
    }
    after.set(id, { element, look });
  }
  const wanted = [...after.values()].map((kept) => kept.element);
  for (const child of [...parent.children]) if (!wanted.includes(child)) child.remove();
  wanted.forEach((element, place) => {
    if (parent.children[place] !== element) parent.insertBefore(element, parent.children[place] ?? null);
  });
  parent.kept = after;
}

// Calls `work` soon after the last of several requests for it, but never waits longer than `most` milliseconds, and
// never runs it twice at once.
export function settled(work, signal, quiet = 300, most = 1500) {
  let timer = 0;
  let first = 0;
  let running = false;
  let again = false;
  const run = async () => {
    timer = 0;
    first = 0;
    if (signal?.aborted) return;
    if (running) {
      again = true;
      return;
    }
    running = true;
    try {
      await work();
    } catch (error) {
      if (error?.name !== "AbortError") console.warn(error);
    }
    running = false;
    if (again) {
      again = false;
      ask();
    }
  };
  const ask = () => {
    const now = performance.now();
    first ||= now;
    clearTimeout(timer);
    timer = setTimeout(run, Math.min(quiet, Math.max(0, first + most - now)));
  };
  return ask;
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (!isThere(value)) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter(isThere));
  return element;
}

function isThere(value) {
  return value !== null && value !== undefined && value !== false;
}

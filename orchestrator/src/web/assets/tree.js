// The tree from sources to what was applied, drawn as SVG: in columns where there is room, else as indented lines.

import { h, replace, s } from "./dom.js";
import { known, shape } from "./marks.js";
import { objectAt } from "./router.js";
import { brief, count, title } from "./words.js";

const WIDTH = { least: 168, most: 224 };
const HEIGHT = 44;
const GAP = { least: 28, most: 56, y: 12 };
const LINE = { height: 50, indent: 22, least: 640 };
const FOLDED_FROM = 7;

const pen = document.createElement("canvas").getContext("2d");

// What is near an object: the ways that lead to it, what it leads to itself, and what it waits for or is waited for by.
export function around({ nodes, edges, truncated }, root) {
  const near = new Set([root]);
  const above = [root];
  while (above.length) {
    const id = above.pop();
    for (const edge of edges) {
      if (edge.to !== id || edge.relation === "depends_on" || near.has(edge.from)) continue;
      near.add(edge.from);
      above.push(edge.from);
    }
  }
  for (const edge of edges) {
    if (edge.from === root) near.add(edge.to);
    if (edge.to === root) near.add(edge.from);
  }
  const both = (edge) => near.has(edge.from) && near.has(edge.to);
  const own = (edge) => edge.relation !== "depends_on" || edge.from === root || edge.to === root;
  return { nodes: nodes.filter((node) => near.has(node.id)), edges: edges.filter((edge) => both(edge) && own(edge)), truncated };
}

// A figure that draws `tree`, and draws it anew when it changes or has another width; `cluster` is where links lead.
export function treeFigure(cluster, root) {
  const open = new Set();
  const figure = h("figure", { class: "tree" });
  let tree = null;
  let drawn = "";
  let width = 0;
  const watcher = new ResizeObserver(([entry]) => {
    if (Math.abs(entry.contentRect.width - width) < 8) return;
    width = entry.contentRect.width;
    draw();
  });
  watcher.observe(figure);
  return {
    figure,
    update(next) {
      const look = JSON.stringify(next);
      if (look === drawn) return;
      drawn = look;
      tree = next;
      draw();
    },
  };

  function draw() {
    if (!tree || !width) return;
    const focused = figure.contains(document.activeElement) ? document.activeElement.dataset.node : null;
    const graph = fold(tree, open);
    if (!graph.nodes.length) return replace(figure, h("p", { class: "quiet" }, "Nothing to draw yet."));
    const columns = 1 + Math.max(...graph.nodes.map((node) => node.depth));
    const gaps = columns - 1;
    const wide = columns * WIDTH.least + gaps * GAP.least <= width;
    const boxes = Math.min(WIDTH.most, Math.floor((width - 1 - gaps * GAP.least) / columns));
    const gap = gaps && Math.min(GAP.most, (width - 1 - columns * boxes) / gaps);
    const drawing = wide ? inColumns(graph, boxes, gap) : inLines(graph, width);
    const label = `${count(tree.nodes.length, "object")}, from sources to what was applied`;
    replace(figure,
      s("svg", { width: drawing.width, height: drawing.height, role: "group", "aria-label": label },
        s("g", { "aria-hidden": "true" }, drawing.wires), graph.nodes.map((node) => box(node, drawing))));
    if (focused) figure.querySelector(`[data-node="${CSS.escape(focused)}"]`)?.focus();
  }

  function box(node, { boxWidth, messageAt }) {
    const { x, y } = node.place;
    const room = (messageAt ? messageAt - x : boxWidth(node)) - 48;
    const place = { transform: `translate(${x} ${y})`, "data-node": node.id };
    const flux = node.flux && node.id !== root;
    const parts = [
      s("rect", { width: boxWidth(node), height: HEIGHT, rx: 7, class: "box" }),
      node.folded
        ? s("path", { d: "M14 16l6 6l6-6", class: "chevron", transform: open.has(node.id) ? "rotate(180 20 20)" : null })
        : s("g", { transform: "translate(12 14)", class: `mark ${known(node.status)}` }, node.status || node.flux ? shape(node.status) : s("circle", { cx: 8, cy: 8, r: 3, class: "solid" })),
      s("text", { x: 38, y: 19, class: "node-name" }, short(node.name, room, "600 13px")),
      s("text", { x: 38, y: 34, class: "node-kind" }, short(node.namespace ? `${node.kind} in ${node.namespace}` : node.kind, room, "11.5px")),
      messageAt && s("text", { x: messageAt - x, y: 27, class: "node-kind" }, short(remark(node), x + boxWidth(node) - messageAt - 12, "11.5px")),
      s("title", null, describe(node)),
    ];
    if (node.folded) {
      return s("g", {
        ...place, class: "node fold", role: "button", tabindex: 0, "aria-expanded": String(open.has(node.id)),
        click: () => turn(node), keydown: (event) => [" ", "Enter"].includes(event.key) && (event.preventDefault(), turn(node)),
      }, parts);
    }
    if (flux) return s("a", { ...place, class: "node", href: objectAt({ cluster, ...node }) }, parts);
    return s("g", { ...place, class: node.id === root ? "node here" : "node plain", role: "img" }, parts);
  }

  function turn(node) {
    if (!open.delete(node.id)) open.add(node.id);
    draw();
  }
}

// Objects of one kind that one parent has applied, and that lead nowhere, are one box until it is opened.
function fold({ nodes, edges }, open) {
  const byId = new Map(nodes.map((node) => [node.id, { ...node, to: [], from: [], after: [] }]));
  const kept = edges.filter((edge) => byId.has(edge.from) && byId.has(edge.to) && edge.from !== edge.to);
  for (const edge of kept) {
    if (edge.relation === "depends_on") {
      byId.get(edge.to).after.push(byId.get(edge.from));
      continue;
    }
    byId.get(edge.from).to.push(edge);
    byId.get(edge.to).from.push(edge);
  }
  const groups = new Map();
  for (const node of byId.values()) {
    if (node.flux || node.to.length || node.from.length !== 1 || node.after.length) continue;
    const group = `${node.from[0].from}\n${node.kind}`;
    groups.set(group, [...(groups.get(group) ?? []), node]);
  }
  for (const [id, members] of groups) {
    if (members.length < FOLDED_FROM) continue;
    const edge = members[0].from[0];
    const parent = byId.get(edge.from);
    const group = { id, kind: members[0].kind, name: `${members.length} objects`, folded: true, to: [], from: [], after: [], members };
    const into = { ...edge, to: id };
    group.from.push(into);
    parent.to = [...parent.to.filter((one) => !members.some((member) => member.id === one.to)), into];
    byId.set(id, group);
    for (const member of members) {
      if (!open.has(id)) {
        byId.delete(member.id);
        continue;
      }
      const out = { from: id, to: member.id, relation: "applies" };
      member.from = [out];
      group.to.push(out);
    }
  }
  const graph = { nodes: [...byId.values()], byId };
  deepen(graph);
  shorten(graph);
  return graph;
}

// How far each node is from where it begins, by its longest way; a ring, which should not be, is cut where it closes.
function deepen({ nodes, byId }) {
  const under = new Set();
  const depth = (node) => {
    if (node.depth !== undefined) return node.depth;
    if (under.has(node)) return 0;
    under.add(node);
    const before = node.from.map((edge) => depth(byId.get(edge.from)));
    under.delete(node);
    return (node.depth = before.length ? Math.max(...before) + 1 : 0);
  };
  nodes.forEach(depth);
}

// A way that is also there by way of others is not drawn: the long one says more.
function shorten({ nodes, byId }) {
  const before = new Map();
  for (const node of [...nodes].sort((a, b) => a.depth - b.depth)) {
    const parents = node.from.map((edge) => byId.get(edge.from));
    const far = new Set(parents.flatMap((parent) => [...(before.get(parent) ?? [])]));
    node.from = node.from.filter((edge) => !far.has(byId.get(edge.from)));
    before.set(node, new Set([...parents, ...far]));
  }
  for (const node of nodes) node.to = node.to.filter((edge) => byId.get(edge.to).from.includes(edge));
}

function inColumns({ nodes, byId }, boxes, gap) {
  const columns = [];
  for (const node of nodes) (columns[node.depth] ??= []).push(node);
  // From the left: near the middle of what leads to it; then each parent beside the middle of its children.
  columns.forEach((column, depth) => {
    column.sort((a, b) => middle(a, "from") - middle(b, "from") || Number(!a.to.length) - Number(!b.to.length) || order(a, b));
    let free = 0;
    for (const node of column) {
      const y = depth ? Math.max(free, middle(node, "from") - ((node.from.length && siblings(node) - 1) * (HEIGHT + GAP.y)) / 2) : free;
      node.place = { x: depth * (boxes + gap), y };
      free = y + HEIGHT + GAP.y;
    }
  });
  columns.slice(0, -1).reverse().forEach((column) => {
    let free = 0;
    for (const node of column) {
      node.place.y = Math.max(free, node.to.length ? middle(node, "to") : node.place.y);
      free = node.place.y + HEIGHT + GAP.y;
    }
  });
  const top = Math.min(...nodes.map((node) => node.place.y));
  for (const node of nodes) node.place.y += 1 - top;
  const wires = nodes.flatMap((node) => node.to.map((edge) => {
    const [a, b] = [node.place, byId.get(edge.to).place];
    const [x1, y1, x2, y2] = [a.x + boxes, a.y + HEIGHT / 2, b.x, b.y + HEIGHT / 2];
    const bend = Math.max(16, (x2 - x1) / 2);
    return s("path", { d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`, class: "wire" });
  }));
  // What waits for another stands beside it, not behind it.
  for (const node of nodes) {
    for (const other of node.after) {
      const [x1, x2] = [other.place.x + boxes, node.place.x + boxes];
      const [y1, y2] = [other.place.y + HEIGHT / 2 + 6, node.place.y + HEIGHT / 2 - 6];
      const bend = Math.max(x1, x2) + Math.min(gap, 40) * 0.8;
      wires.push(s("path", { d: `M${x1} ${y1}C${bend} ${y1} ${bend} ${y2} ${x2} ${y2}`, class: "wire waits" }));
    }
  }
  return {
    wires,
    boxWidth: () => boxes - 1,
    width: columns.length * (boxes + gap) - gap + 1,
    height: Math.max(...nodes.map((node) => node.place.y)) + HEIGHT + 2,
  };

  function middle(node, side) {
    const others = node[side].map((edge) => byId.get(side === "from" ? edge.from : edge.to).place?.y).filter((y) => y !== undefined);
    return others.length ? others.reduce((sum, y) => sum + y, 0) / others.length : 0;
  }

  function siblings(node) {
    return byId.get(node.from[0].from).to.length;
  }
}

function inLines({ nodes, byId }, width) {
  const seen = new Set();
  const wires = [];
  let line = 0;
  const put = (node, depth) => {
    seen.add(node);
    const x = Math.min(depth, 7) * LINE.indent + 1;
    node.place = { x, y: line++ * LINE.height + 1 };
    for (const edge of [...node.to].sort((a, b) => order(byId.get(a.to), byId.get(b.to)))) {
      const child = byId.get(edge.to);
      if (seen.has(child)) continue;
      put(child, depth + 1);
      const [down, across] = [x + LINE.indent / 2, child.place.y + HEIGHT / 2];
      wires.push(s("path", { d: `M${down} ${node.place.y + HEIGHT}V${across - 6}q0 6 6 6H${child.place.x}`, class: "wire" }));
    }
  };
  nodes.filter((node) => !node.from.length).sort(order).forEach((node) => put(node, 0));
  nodes.filter((node) => !seen.has(node)).forEach((node) => !seen.has(node) && put(node, 0));
  const messageAt = width >= LINE.least ? Math.round(width * 0.5) : 0;
  return { wires, boxWidth: (node) => width - node.place.x - 1, messageAt, width, height: line * LINE.height };
}

function order(a, b) {
  return Number(b.flux ?? 0) - Number(a.flux ?? 0) || a.kind.localeCompare(b.kind) || a.name.localeCompare(b.name);
}

// As much of a text as there is room for, in the font that it is drawn with.
function short(text, room, font) {
  pen.font = `${font} ${getComputedStyle(document.body).fontFamily}`;
  if (pen.measureText(text).width <= room) return text;
  let [fits, not] = [1, text.length];
  while (not - fits > 1) {
    const middle = (fits + not) >> 1;
    if (pen.measureText(`${text.slice(0, middle)}…`).width <= room) fits = middle;
    else not = middle;
  }
  return `${text.slice(0, fits)}…`;
}

function describe(node) {
  if (node.folded) return `${node.members.length} × ${node.kind}; open or close`;
  const own = [`${node.kind} ${node.namespace ? `${node.namespace}/` : ""}${node.name}`];
  if (node.status) own.push(title(node.status));
  if (node.message) own.push(node.message);
  if (node.after.length) own.push(waits(node));
  return own.join("\n");
}

function remark(node) {
  const message = node.status === "ready" ? "" : node.message ?? "";
  return brief(message || (node.after.length ? waits(node) : node.message ?? ""));
}

function waits(node) {
  return `Waits for ${node.after.map((other) => other.name).join(", ")}`;
}

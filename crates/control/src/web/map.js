// The service map: layers from callers to called, drawn as SVG, and the same as tables.
//
// The layout depends on names alone, so that it stands still while numbers change: it is drawn again only when a node, an
// edge or a circuit comes or goes; else the texts in it change.

import { $, ask, count, dot, duration, h, hue, percent, put, rate, silent, svg } from "./dom.js";

const WIDTH = 200;
const HEAD = 78;
const LINE = 18;
const ACROSS = 120; // between layers
const BESIDE = 28; // between nodes of a layer
const MARGIN = 12;
const MAX_CIRCUITS = 6;
const ms = (n) => (n ? duration(n * 1e6) : "–");

export class MapView {
  constructor() {
    this.shape = "";
    this.texts = new Map();
    this.narrow = matchMedia("(max-width: 720px)");
    this.narrow.addEventListener("change", () => this.told && this.draw());
  }

  async load() {
    this.told = await ask("/api/map");
    this.draw();
    return silent(this.told.replicas);
  }

  draw() {
    const { nodes, edges } = this.told;
    $("map-empty").hidden = nodes.length > 0;
    $("drawing").hidden = $("map-tables").hidden = nodes.length === 0;
    if (nodes.length === 0) return put($("map-empty"), "No sidecar has told of its traffic during the last half minute.");
    const shape = JSON.stringify([this.narrow.matches, nodes.map((n) => [n.name, n.proven, n.circuits]), edges.map((e) => [e.from, e.to])]);
    if (shape !== this.shape) {
      this.shape = shape;
      this.texts.clear();
      this.keepingFocus($("drawing"), () => $("drawing").replaceChildren(this.picture(nodes, edges)));
    }
    this.write(nodes, edges);
    this.keepingFocus($("map-tables"), () => $("map-tables").replaceChildren(services(nodes), calls(edges)));
  }

  keepingFocus(within, change) {
    const key = within.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
    change();
    if (key) [...within.querySelectorAll("[data-key]")].find((element) => element.dataset.key === key)?.focus({ preventScroll: true });
  }

  picture(nodes, edges) {
    const { places, ways, width, height } = layout(nodes, edges, this.narrow.matches);
    const ends = svg("defs", {}, svg("marker", { id: "end", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" },
      svg("path", { d: "M0 0.5 8 4 0 7.5z", class: "end" })));
    const label = `${count(nodes.length, "service")} and ${count(edges.length, "way")} between them; the same is in the tables below`;
    const lines = [];
    const labels = [];
    for (const edge of edges) {
      const key = `${edge.from}\n${edge.to}`;
      const { path, x, y } = ways.get(key);
      lines.push(svg("path", { d: path, class: "way", "marker-end": "url(#end)" }));
      const text = svg("text", { x, y, "text-anchor": "middle", class: "flow" });
      labels.push(svg("rect", { y: y - 12, height: 16, rx: 3, class: "behind" }), text);
      this.texts.set(`way ${key}`, lines.at(-1));
      this.texts.set(`flow ${key}`, text);
    }
    return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": label },
      ends, lines, nodes.map((node) => this.node(node, places.get(node.name))), labels);
  }

  node(node, at) {
    const say = (key, props) => {
      const text = svg("text", props);
      this.texts.set(`${key} ${node.name}`, text);
      return text;
    };
    const shown = node.circuits.slice(0, MAX_CIRCUITS);
    const more = node.circuits.length - shown.length;
    const lines = shown.map((c) => [c.state, `${c.instance || "all of it"} ${c.state}`, c.callers]);
    if (more > 0) lines.push(["open", `and ${more} more`, []]);
    const group = svg("a", {
      href: `#/traces?service=${encodeURIComponent(node.name)}`, class: `node ${hue(node.name)}`, "data-key": node.name, transform: `translate(${at.x} ${at.y})`,
    },
      svg("rect", { class: "box", width: at.width, height: at.height, rx: 8 }),
      svg("rect", { class: "stripe", width: 4, height: at.height - 16, x: 0, y: 8, rx: 2 }),
      svg("text", { x: 16, y: 24, class: "name", text: cut(node.name, 22) }),
      say("rate", { x: 16, y: 45, class: "big" }),
      say("errors", { x: at.width - 14, y: 45, "text-anchor": "end" }),
      say("times", { x: 16, y: 64, class: "small" }),
      lines.map(([state, text, callers], line) =>
        svg("g", { class: `circuit ${state}`, transform: `translate(16 ${HEAD + 10 + line * LINE})` },
          state === "open" ? svg("rect", { width: 8, height: 8, x: 0, y: -8 }) : svg("path", { d: "M0 -4a4 4 0 0 1 8 0z M0 -4a4 4 0 0 0 8 0", class: "half" }),
          svg("text", { x: 14, text: cut(text, 28) }), svg("title", { text: callers.length ? `at ${callers.join(", ")}` : text }))));
    this.texts.set(`node ${node.name}`, group);
    return group;
  }

  write(nodes, edges) {
    const set = (key, text, kind) => {
      const element = this.texts.get(key);
      put(element, text);
      if (kind !== undefined) element.setAttribute("class", kind);
    };
    for (const node of nodes) {
      const t = node.traffic;
      const sent = edges.filter((edge) => edge.from === node.name).reduce((sum, edge) => sum + (edge.traffic?.rate ?? 0), 0);
      set(`rate ${node.name}`, t ? rate(t.rate) : sent > 0 ? `calls out ${rate(sent)}` : "no traffic yet");
      set(`errors ${node.name}`, t ? `${percent(t.errors, t.rate)} errors` : "", t && t.errors > 0 ? "bad" : "good");
      set(`times ${node.name}`, t ? `p50 ${ms(t.p50_ms)}   p99 ${ms(t.p99_ms)}` : "");
      this.texts.get(`node ${node.name}`).setAttribute("aria-label", spoken(node));
    }
    for (const edge of edges) {
      const t = edge.traffic;
      const key = `${edge.from}\n${edge.to}`;
      const failing = t && t.errors / Math.max(t.rate, 1e-9) > 0.01;
      const flow = this.texts.get(`flow ${key}`);
      set(`flow ${key}`, t ? `${rate(t.rate)}${t.errors > 0 ? ` · ${percent(t.errors, t.rate)}` : ""}` : "", failing ? "flow bad" : "flow");
      const wide = flow.textContent ? flow.getComputedTextLength() + 8 : 0;
      flow.previousSibling.setAttribute("width", String(wide));
      flow.previousSibling.setAttribute("x", String(flow.getAttribute("x") - wide / 2));
      this.texts.get(`way ${key}`).setAttribute("class", `way${edge.open || edge.half_open ? " ill" : ""}${t && t.rate > 0 ? "" : " idle"}`);
    }
  }
}

const cut = (text, max) => (text.length > max ? `${text.slice(0, max - 1)}…` : text);

function spoken(node) {
  const t = node.traffic;
  const traffic = t ? `${rate(t.rate)}, ${percent(t.errors, t.rate)} errors, p50 ${ms(t.p50_ms)}, p99 ${ms(t.p99_ms)}` : "no traffic yet";
  const circuits = node.circuits.map((c) => `${c.instance || "all of it"} ${c.state}`);
  return [node.name, traffic, ...circuits, "show its traces"].join("; ");
}

/**
 * Where each node and each way is. A node's layer is the longest way to it from one that nobody calls; a way across several
 * layers has a place of its own in those between, so that it crosses no node; one that leads back goes around everything.
 * "Along" is the direction of calls, to the right or, on a narrow screen, down; "across" is the other one.
 */
function layout(nodes, edges, isNarrow) {
  const names = nodes.map((node) => node.name);
  const kept = acyclic(names, edges);
  const layer = layersOf(names, kept);
  const layers = Array.from({ length: 1 + Math.max(...layer.values()) }, () => []);
  const circuits = new Map(nodes.map((node) => [node.name, node.circuits.length]));
  const items = new Map();
  for (const name of names) {
    const count = circuits.get(name);
    const high = HEAD + (count ? 6 + LINE * Math.min(count, MAX_CIRCUITS + 1) : 0);
    const item = { name, size: isNarrow ? WIDTH : high, long: isNarrow ? high : WIDTH, above: [], below: [] };
    items.set(name, item);
    layers[layer.get(name)].push(item);
  }
  const chains = kept.map((edge) => {
    const chain = [items.get(edge.from)];
    for (let at = layer.get(edge.from) + 1; at < layer.get(edge.to); at++) {
      const item = { name: `${edge.from} ${edge.to}`, size: 14, long: 0, above: [], below: [] };
      layers[at].push(item);
      chain.push(item);
    }
    chain.push(items.get(edge.to));
    chain.slice(1).forEach((item, before) => (item.above.push(chain[before]), chain[before].below.push(item)));
    return { edge, chain };
  });
  sortLayers(layers);
  const end = position(layers, isNarrow);
  const point = (along, across) => (isNarrow ? `${across} ${along}` : `${along} ${across}`);
  const ways = new Map(chains.map(({ edge, chain }) => [`${edge.from}\n${edge.to}`, way(chain, point, isNarrow)]));
  let around = end.across;
  for (const edge of edges) {
    const key = `${edge.from}\n${edge.to}`;
    if (ways.has(key)) continue;
    around += 30;
    ways.set(key, back(items.get(edge.from), items.get(edge.to), around, point, isNarrow));
  }
  const across = around + MARGIN + (around > end.across && isNarrow ? 30 : 0);
  const along = end.along + MARGIN;
  const places = new Map();
  for (const { name, along, across, long, size } of items.values()) {
    places.set(name, isNarrow ? { x: across, y: along, width: size, height: long } : { x: along, y: across, width: long, height: size });
  }
  return { places, ways, width: isNarrow ? across : along, height: isNarrow ? along : across };
}

function layersOf(names, edges) {
  const layer = new Map(names.map((name) => [name, 0]));
  const left = new Map(names.map((name) => [name, 0]));
  for (const { to } of edges) left.set(to, left.get(to) + 1);
  const ready = names.filter((name) => left.get(name) === 0);
  while (ready.length) {
    const name = ready.shift();
    for (const { to } of edges.filter((edge) => edge.from === name)) {
      layer.set(to, Math.max(layer.get(to), layer.get(name) + 1));
      left.set(to, left.get(to) - 1);
      if (left.get(to) === 0) ready.push(to);
    }
  }
  return layer;
}

/** Each in the order of the middle of its neighbours, down, up and down again: few ways cross. */
function sortLayers(layers) {
  const sort = (items, side) => {
    const middle = (item) => item[side].reduce((sum, other) => sum + other.order, 0) / item[side].length;
    items.forEach((item, at) => (item.wish = item[side].length ? middle(item) : at));
    items.sort((a, b) => a.wish - b.wish || (a.name < b.name ? -1 : 1));
    items.forEach((item, at) => (item.order = at));
  };
  layers.forEach((items) => items.forEach((item, at) => (item.order = at)));
  for (const side of ["above", "below", "above"]) {
    for (const items of side === "above" ? layers : [...layers].reverse()) sort(items, side);
  }
}

function position(layers, isNarrow) {
  const sizes = layers.map((items) => items.reduce((sum, item) => sum + item.size + BESIDE, -BESIDE));
  const most = Math.max(...sizes);
  let along = MARGIN;
  layers.forEach((items, at) => {
    let across = MARGIN + (most - sizes[at]) / 2;
    const long = Math.max(...items.map((item) => item.long));
    for (const item of items) {
      Object.assign(item, { along, across, long: item.long || long });
      across += item.size + BESIDE;
    }
    along += long + (isNarrow ? 60 : ACROSS);
  });
  return { along: along - (isNarrow ? 60 : ACROSS), across: MARGIN + most };
}

/** Where on a node's side its way to `other` begins or ends: in the order of what is there. */
function port(item, others, other) {
  const order = [...others].sort((a, b) => a.across + a.size / 2 - b.across - b.size / 2);
  return item.across + (item.size * (order.indexOf(other) + 1)) / (order.length + 1);
}

/** The line of an edge, and where its label stands. */
function way(chain, point, isNarrow) {
  let path = "";
  let label;
  chain.slice(1).forEach((to, before) => {
    const from = chain[before];
    const [a1, a2] = [from.along + from.long, to.along - (before === chain.length - 2 ? 2 : 0)];
    const [c1, c2] = [port(from, from.below, to), port(to, to.above, from)];
    const bend = (a2 - a1) / 2;
    path += `${path ? "L" : "M"}${point(a1, c1)}C${point(a1 + bend, c1)} ${point(a2 - bend, c2)} ${point(a2, c2)}`;
    label ??= isNarrow
      ? { x: (c1 + c2) / 2 + (Math.abs(c1 - c2) < 20 ? 46 : 0), y: a1 + bend + 4 }
      : { x: a1 + bend, y: (c1 + c2) / 2 - (Math.abs(c1 - c2) < 20 ? 7 : -4) };
  });
  return { path, ...label };
}

function back(from, to, around, point, isNarrow) {
  const [a1, a2] = [from.along + from.long * 0.7, to.along + to.long * 0.3];
  const [c1, c2] = [from.across + from.size, to.across + to.size + 2];
  const path = `M${point(a1, c1)}C${point(a1, around)} ${point(a1, around)} ${point((a1 + a2) / 2, around)}S${point(a2, around)} ${point(a2, c2)}`;
  return { path, x: isNarrow ? around + 4 : (a1 + a2) / 2, y: isNarrow ? (a1 + a2) / 2 : around - 5 };
}

/** The edges without those that lead back, found from the names in their order. */
function acyclic(names, edges) {
  const out = new Map(names.map((name) => [name, []]));
  const called = new Set();
  for (const edge of edges) {
    if (edge.from === edge.to) continue;
    out.get(edge.from).push(edge);
    called.add(edge.to);
  }
  const state = new Map(); // 1: on the way, 2: done
  const kept = [];
  for (const start of [...names.filter((name) => !called.has(name)), ...names]) {
    if (state.has(start)) continue;
    state.set(start, 1);
    const stack = [[start, 0]];
    while (stack.length) {
      const top = stack[stack.length - 1];
      const edge = out.get(top[0])[top[1]++];
      if (!edge) {
        state.set(top[0], 2);
        stack.pop();
      } else if (state.get(edge.to) !== 1) {
        kept.push(edge);
        if (!state.has(edge.to)) {
          state.set(edge.to, 1);
          stack.push([edge.to, 0]);
        }
      }
    }
  }
  return kept;
}

function services(nodes) {
  const circuit = (c) => h("span", { class: `badge ${c.state === "open" ? "rejected" : "probe"}`, title: `at ${c.callers.join(", ")}`, text: `${c.instance || "all of it"} ${c.state}` });
  const row = (node) => {
    const t = node.traffic;
    return h("tr", {},
      h("th", { scope: "row" }, dot(node.name), h("a", { href: `#/traces?service=${encodeURIComponent(node.name)}`, "data-key": `service ${node.name}`, text: node.name }),
        node.proven ? null : h("small", { class: "muted", text: " without proof" })),
      h("td", { text: t ? rate(t.rate) : "–" }), h("td", { class: t && t.errors > 0 ? "bad" : "", text: t ? percent(t.errors, t.rate) : "–" }),
      h("td", { text: t ? ms(t.p50_ms) : "–" }), h("td", { text: t ? ms(t.p99_ms) : "–" }), h("td", { text: node.in_flight || "–" }),
      h("td", { text: t ? `its ${node.measured}` : "–" }),
      h("td", { class: "left" }, node.circuits.length ? node.circuits.map(circuit) : h("span", { class: "muted", text: "closed" })));
  };
  return table("Services", ["Service", "Rate", "Errors", "p50", "p99", "In flight", "Measured by", "Circuits of its instances"], nodes.map(row));
}

function calls(edges) {
  const row = (edge) => {
    const t = edge.traffic;
    const circuits = [edge.open ? `${edge.open} open` : "", edge.half_open ? `${edge.half_open} half-open` : ""].filter(Boolean).join(", ");
    return h("tr", {},
      h("th", { scope: "row" }, dot(edge.from), edge.from, h("span", { class: "muted", text: " calls " }), dot(edge.to), edge.to),
      h("td", { text: t ? rate(t.rate) : "–" }), h("td", { class: t && t.errors > 0 ? "bad" : "", text: t ? percent(t.errors, t.rate) : "–" }),
      h("td", { text: t ? ms(t.p50_ms) : "–" }), h("td", { text: t ? ms(t.p99_ms) : "–" }),
      h("td", { class: `left ${circuits ? "bad" : "muted"}`, text: circuits || "closed" }));
  };
  return table("Calls", ["Call", "Rate", "Errors", "p50", "p99", "Circuits"], edges.map(row));
}

function table(name, columns, body) {
  return h("div", { class: "sheet" }, h("table", {}, h("caption", { text: name }),
    h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col", text: column })))), h("tbody", {}, body)));
}

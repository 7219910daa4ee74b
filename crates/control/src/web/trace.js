// One trace: its spans as a tree over time, and everything about the selected one.
//
// Spans may come late, twice, without their parent, or as a circle of parents: all of them are shown, each once.

import { $, ask, badges, count, date, dot, duration, h, hue, moved, put, silent } from "./dom.js";

/** Events of the mesh: how each is drawn, called, and explained. Without a prototype: an event may be called `constructor`. */
const EVENTS = Object.assign(Object.create(null), {
  "fusewire.circuit_rejected": ["rejected", "circuit open", "refused by an open circuit"],
  "fusewire.probe": ["probe", "probe", "a probe of an open circuit"],
  "fusewire.redial": ["redial", "other instance", "sent to another instance"],
  "fusewire.fallback": ["fallback", "fallback", "something else was answered"],
});
const ID = /^[0-9a-f]{32}$/i;
const APART = 14; // percent of the axis that a label needs

export class TraceView {
  constructor(follow) {
    this.follow = follow; // with another trace's id
    this.tree = $("tree");
    this.tree.addEventListener("focusin", (event) => this.select(Number(event.target.closest("[role=row]")?.dataset.at)));
    this.tree.addEventListener("click", (event) => this.clicked(event));
  }

  start(id) {
    this.id = id;
    this.drawn = "";
    this.spans = [];
    this.folded = new Set();
    this.selected = null;
    this.wantsFocus = true;
    this.tree.replaceChildren();
    $("trace-facts").replaceChildren();
    $("details").replaceChildren();
    put($("trace-title"), "…");
    put($("trace-empty"), "");
    $("trace-scroll").scrollTop = 0;
  }

  async load() {
    const id = this.id;
    if (!ID.test(id)) {
      this.absent(`${id} is no trace id: that is 32 hex digits.`);
      return "";
    }
    const told = await ask(`/api/traces/${id}`);
    if (id !== this.id) return "";
    const drawn = JSON.stringify([told.summary, told.spans.length]);
    if (drawn !== this.drawn) {
      this.take(told);
      this.drawn = drawn;
    }
    return silent(told.replicas);
  }

  take({ summary, spans }) {
    if (!summary) return this.absent(`No trace ${this.id} is held. Older ones go when there is no more room.`);
    $("trace-empty").hidden = true;
    $("details").hidden = false;
    const selected = this.spans[this.selected];
    this.summary = summary;
    this.spans = order(spans);
    this.selected = selected ? Math.max(0, this.spans.findIndex((span) => span.key === selected.key)) : 0;
    this.head();
    this.draw();
    if (this.wantsFocus) {
      this.wantsFocus = false;
      this.row(this.selected)?.focus();
    }
  }

  absent(why) {
    $("trace-empty").hidden = false;
    $("details").hidden = true;
    put($("trace-title"), "Not here");
    put($("trace-empty"), why);
  }

  head() {
    const { summary } = this;
    $("trace-title").replaceChildren(dot(summary.service), h("b", { text: summary.service }), " ", h("span", { class: "name", text: summary.name }));
    document.title = `${summary.service} ${summary.name} · Fusewire`;
    const fact = (name, ...what) => h("div", {}, h("dt", { text: name }), h("dd", {}, what));
    const result = [summary.status || "", summary.reason].filter(Boolean).join(" ") || (summary.failed ? "failed" : "ok");
    const marks = badges(summary);
    $("trace-facts").replaceChildren(
      fact("Duration", duration(summary.duration_ns)),
      fact("Status", h("span", { class: summary.failed ? "bad" : "", text: result })),
      fact("Started", date(summary.start_ns)),
      fact("Spans", summary.errors ? `${summary.spans}, ${summary.errors} failed` : String(summary.spans)),
      fact("Services", summary.services.map((s) => h("span", { class: "chip" }, dot(s.name), h("span", { text: s.name })))),
      ...(marks.length ? [fact("Circuit events", marks)] : []),
      ...(summary.dropped ? [fact("Not kept", h("span", { class: "bad", text: count(summary.dropped, "span") }))] : []),
      fact("Trace", h("code", { text: summary.trace_id })),
    );
  }

  draw() {
    const { summary } = this;
    const whole = Math.max(1, summary.duration_ns);
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => {
      const tick = h("span", { text: duration(share * whole) });
      tick.style.left = `${100 * share}%`;
      return tick;
    });
    $("ticks").replaceChildren(...ticks);
    const hadFocus = this.tree.contains(document.activeElement);
    const rows = this.spans.map((span, at) => this.line(span, at, whole));
    this.tree.replaceChildren(...rows);
    this.fold();
    this.mark();
    if (hadFocus) this.row(this.selected)?.focus({ preventScroll: true });
  }

  line(span, at, whole) {
    const from = (100 * span.after_ns) / whole;
    const width = (100 * span.duration_ns) / whole;
    const bar = h("span", { class: `span ${hue(span.service)}${span.error ? " error" : ""}` });
    bar.style.left = `${from}%`;
    bar.style.width = `${width}%`;
    const said = [h("span", { text: duration(span.duration_ns) })];
    const of = (key) => span.attributes.find((attribute) => attribute.key === key)?.value;
    const status = Number(of("http.response.status_code") ?? of("http.status_code"));
    if (status >= 400) said.push(h("span", { class: "bad", text: status }));
    if (of("fusewire.reason")) said.push(h("span", { class: span.error ? "bad" : "", text: of("fusewire.reason") }));
    // beside the bar, on the side where there is room, with what happened; or at the end of a long bar
    const isLong = from + width >= 62 && from <= 38;
    const marks = this.marks(span, whole, isLong ? null : said);
    const label = h("span", { class: `said${isLong ? " within" : ""}` }, said);
    if (isLong) label.style.right = `calc(${100 - from - width}% + 6px)`;
    else if (from + width < 62) label.style.left = `calc(${from + width}% + 6px)`;
    else label.style.right = `calc(${100 - from}% + 6px)`;
    // where it went: an attempt to an instance, an exchange to a service
    const target = of("fusewire.instance") ?? (of("fusewire.direction") === "outbound" ? of("fusewire.service") : undefined);
    const name = h("span", { class: "what", role: "gridcell" },
      h("span", { class: "twist", "aria-hidden": "true" }), dot(span.service), h("b", { text: span.service }),
      h("span", { class: "name", text: span.name }), target ? h("span", { class: "muted target", text: `→ ${target}` }) : null, span.error ? h("span", { class: "bad", role: "img", "aria-label": "failed", title: "failed", text: "✕" }) : null);
    name.style.setProperty("--depth", String(Math.min(span.depth, 24)));
    return h("div", { role: "row", tabindex: "-1", "data-at": at, "aria-level": span.depth + 1, class: span.error ? "failed" : "" },
      name, h("span", { class: "when", role: "gridcell" }, bar, marks, label));
  }

  /** Events where they happened, those of the mesh with their name: beside the mark while there is room, else in `said`. */
  marks(span, whole, said) {
    let free = 0;
    return span.events.flatMap((event) => {
      const [kind, word] = EVENTS[event.name] ?? [""];
      const at = Math.max(0, Math.min(100, (100 * event.after_ns) / whole));
      const mark = h("span", { class: `mark ${kind}`, title: `${event.name} at ${offset(event.after_ns)}` });
      mark.style.left = `${at}%`;
      if (!kind) return [mark];
      const label = h("span", { class: `label ${kind}`, text: word });
      if (said) return said.push(label), [mark];
      if (at < free || at > 100 - APART) return [mark];
      free = at + APART;
      label.classList.add("within");
      label.style.left = `calc(${at}% + 8px)`;
      return [mark, label];
    });
  }

  row(at) {
    return this.tree.children[at];
  }

  isOpen(at) {
    return !this.folded.has(this.spans[at].key);
  }

  fold() {
    let hiddenBelow = Infinity;
    this.spans.forEach((span, at) => {
      const row = this.row(at);
      row.hidden = span.depth > hiddenBelow;
      if (!row.hidden) hiddenBelow = span.below && !this.isOpen(at) ? span.depth : Infinity;
      if (span.below) row.setAttribute("aria-expanded", String(this.isOpen(at)));
      put(row.querySelector(".twist"), span.below ? (this.isOpen(at) ? "▾" : "▸") : "");
    });
  }

  toggle(at, open) {
    const span = this.spans[at];
    if (!span.below || open === this.isOpen(at)) return false;
    if (open) this.folded.delete(span.key);
    else this.folded.add(span.key);
    this.fold();
    return true;
  }

  select(at) {
    if (Number.isNaN(at) || at === this.selected) return;
    this.selected = at;
    this.mark();
  }

  mark() {
    this.spans.forEach((_, at) => {
      const row = this.row(at);
      row.tabIndex = at === this.selected ? 0 : -1;
      row.setAttribute("aria-selected", String(at === this.selected));
    });
    const span = this.spans[this.selected];
    if (span) $("details").replaceChildren(...this.details(span));
  }

  clicked(event) {
    const at = Number(event.target.closest("[role=row]")?.dataset.at);
    if (event.target.closest(".twist")) this.toggle(at, !this.isOpen(at));
  }

  key(event) {
    if (!this.spans.length || event.target.closest("#details, .head")) return false;
    const at = this.selected;
    if (event.key === "Enter" && this.tree.contains(event.target)) return $("details").focus(), true;
    if (event.key === "ArrowRight") return this.toggle(at, true) || this.step(at, "j"), true;
    if (event.key === "ArrowLeft") {
      const up = this.spans.findLastIndex((span, before) => before < at && span.depth < this.spans[at].depth);
      return this.toggle(at, false) || (up >= 0 && this.row(up).focus()), true;
    }
    return this.step(at, event.key);
  }

  step(at, key) {
    const seen = this.spans.map((_, each) => each).filter((each) => !this.row(each).hidden);
    const to = moved(key, seen.indexOf(at), seen.length);
    if (to === undefined) return false;
    this.row(seen[to]).focus();
    this.row(seen[to]).scrollIntoView({ block: "nearest" });
    return true;
  }

  details(span) {
    const who = span.identity
      ? h("span", {}, h("code", { text: span.identity }), " (proven)")
      : h("span", { class: "muted", text: "sent without proof" });
    const fact = (name, what, kind = "") => h("div", {}, h("dt", { text: name }), h("dd", { class: kind }, what));
    return [
      h("h3", {}, dot(span.service), h("b", { text: span.service }), " ", h("span", { class: "name", text: span.name })),
      h("dl", { class: "facts" },
        fact("Duration", `${duration(span.duration_ns)} from ${offset(span.after_ns)}`),
        span.error ? fact("Failed", span.message || "without saying why", "bad") : null,
        fact("Kind", span.kind || "not said"),
        fact("Sender", who),
        span.claimed ? fact("Said to be", `${span.claimed}, which its identity is not`, "bad") : null,
        fact("Span", h("code", { text: span.span_id })),
        span.trimmed ? fact("Left out", `${count(span.trimmed, "attribute, event or link", "attributes, events or links")}, or cut`) : null),
      ...section("Events", span.events.map((event) => this.event(event))),
      ...table("Attributes", span.attributes),
      ...table("Resource", span.resource),
      ...section("Links", span.links.map((link) => this.link(link))),
    ];
  }

  event(event) {
    const known = EVENTS[event.name];
    return h("div", { class: "event" },
      h("p", {}, h("span", { class: `mark ${known?.[0] ?? ""}`, "aria-hidden": "true" }), h("b", { text: event.name }), " ",
        h("span", { class: "muted", text: [offset(event.after_ns), known?.[2]].filter(Boolean).join(", ") })),
      event.attributes.length ? rows(event.attributes) : null);
  }

  link(link) {
    return h("p", {}, h("a", { href: `#/trace/${link.trace_id}`, text: link.trace_id }));
  }
}

/** From the trace's start, in nanoseconds: times since 1970 are more than a number holds exactly, so the server subtracts. */
function offset(ns) {
  return `${ns < 0 ? "−" : "+"}${duration(Math.abs(ns))}`;
}

function section(name, what) {
  return what.length ? [h("h4", { text: name }), ...what] : [];
}

function table(name, attributes) {
  if (!attributes.length) return [];
  // what the mesh says first
  const ours = (key) => (key.startsWith("fusewire.") ? 0 : 1);
  const sorted = [...attributes].sort((a, b) => ours(a.key) - ours(b.key) || (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
  return [h("h4", { text: name }), rows(sorted)];
}

function rows(attributes) {
  const row = ({ key, value }) => h("tr", {}, h("th", { scope: "row", text: key }), h("td", { text: value }));
  return h("table", { class: "attributes" }, h("tbody", {}, attributes.map(row)));
}

/** Depth first, children by start; `depth`, `below` (whether there are children) and a `key` of its own are added. */
function order(spans) {
  const children = new Map();
  const ids = new Set(spans.map((span) => span.span_id));
  const roots = [];
  for (const span of spans) {
    if (!ids.has(span.parent_id) || span.parent_id === span.span_id) roots.push(span);
    else if (children.has(span.parent_id)) children.get(span.parent_id).push(span);
    else children.set(span.parent_id, [span]);
  }
  const seen = new Set();
  const out = [];
  const walk = (root) => {
    const stack = [[root, 0]];
    while (stack.length) {
      const [span, depth] = stack.pop();
      if (seen.has(span)) continue;
      seen.add(span);
      const below = (children.get(span.span_id) || []).filter((child) => !seen.has(child));
      out.push({ ...span, depth, below: below.length > 0, key: `${span.span_id} ${span.start_ns} ${span.service} ${span.kind}` });
      for (const child of below.reverse()) stack.push([child, depth + 1]);
    }
  };
  roots.forEach(walk);
  // what is left are circles
  spans.filter((span) => !seen.has(span)).forEach((span) => seen.has(span) || walk(span));
  return out;
}

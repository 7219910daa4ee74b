// The list of traces: filter, rows, keys.
//
// New traces come in at the top by themselves only while nobody reads: once a row is selected, or the list is scrolled, they
// are counted and wait for a key. Rows are kept by trace, so that focus, selection and scroll stay through every update.

import { $, ask, badges, bytes, clock, count, date, dot, duration, h, moved, put, silent } from "./dom.js";

const PAGE = 50;
const MAX_CHIPS = 5;
const OLDER = "Older traces";
const fields = ["q", "service", "status", "min", "errors", "circuit"];

export class List {
  constructor(open, address) {
    this.open = open; // with a trace's id
    this.address = address; // told the filter when it changes
    this.lines = [];
    this.rows = new Map();
    this.selected = null;
    this.next = "";
    this.loaded = false;
    this.lists = 0; // how often what was shown was given up
    this.body = $("list").tBodies[0];
    this.scroll = $("list-scroll");
    $("filter").addEventListener("input", () => this.changed());
    $("filter").addEventListener("reset", () => setTimeout(() => this.changed()));
    $("filter").addEventListener("submit", (event) => event.preventDefault());
    $("newer").addEventListener("click", () => this.showNewer());
    $("older").addEventListener("click", () => this.more());
    this.body.addEventListener("focusin", (event) => this.select(event.target.closest("tr")?.dataset.id));
    this.body.addEventListener("click", (event) => this.clicked(event));
  }

  /** As it stands in the page's address. */
  filter() {
    const asked = new URLSearchParams();
    for (const field of fields) {
      const input = $(field);
      if (input.type === "checkbox") input.checked && asked.set(field, "1");
      else if (input.value.trim() !== "") asked.set(field, input.value.trim());
    }
    return asked;
  }

  setFilter(asked) {
    if (asked.toString() === this.filter().toString()) return;
    for (const field of fields) {
      const input = $(field);
      if (field === "service") this.offer([asked.get(field) || ""]);
      if (input.type === "checkbox") input.checked = asked.get(field) === "1";
      else input.value = asked.get(field) || "";
    }
    this.forget();
  }

  query(more = {}) {
    const asked = this.filter();
    const min = Number((asked.get("min") || "").replace(",", "."));
    asked.delete("min");
    if (min > 0) asked.set("min_us", String(Math.min(Math.round(min * 1000), 4e9)));
    for (const [name, value] of Object.entries({ limit: PAGE, ...more })) asked.set(name, value);
    return `/api/traces?${asked}`;
  }

  changed() {
    clearTimeout(this.typing);
    this.typing = setTimeout(() => {
      this.address(this.filter());
      this.load().catch(() => {}); // the next question says what is wrong
    }, 200);
  }

  /** What was shown belongs to another filter. */
  forget() {
    this.selected = null;
    this.loaded = false;
    this.scroll.scrollTop = 0;
    this.lists++;
    put($("older"), OLDER);
  }

  isHeld() {
    return this.selected !== null || this.scroll.scrollTop > 4;
  }

  async load() {
    this.asking?.abort();
    const asking = (this.asking = new AbortController());
    const asked = this.query();
    let told;
    try {
      told = await ask(asked, asking.signal);
    } catch (error) {
      if (asking.signal.aborted) return "";
      throw error;
    }
    // the filter may have changed meanwhile
    if (asked !== this.query()) return "";
    // once for each filter, whoever asked first: what is selected after that stays
    if (asked !== this.shown) this.forget();
    this.shown = asked;
    this.take(told);
    return silent(told.replicas);
  }

  take(told) {
    this.offer(told.services);
    this.store = told.store;
    if (!this.loaded || !this.isHeld()) {
      this.lines = told.traces;
      this.next = told.next;
      if (!this.loaded) put($("count"), this.lines.length ? count(this.lines.length, "trace") + " listed" : "no traces");
      this.loaded = true;
      this.newer(0, false);
    } else {
      const known = new Map(this.lines.map((line, at) => [line.trace_id, at]));
      const top = this.lines[0]?.listed_ns ?? 0;
      let more = 0;
      for (const line of told.traces) {
        if (known.has(line.trace_id)) this.lines[known.get(line.trace_id)] = line;
        else if (line.listed_ns >= top) more++;
      }
      this.newer(more, more === told.traces.length && more >= PAGE);
    }
    this.draw();
  }

  newer(n, isMore) {
    $("newer").hidden = n === 0;
    put($("newer"), n === 0 ? "" : `${n}${isMore ? " or more" : ""} newer ${n === 1 ? "trace" : "traces"} · n`);
  }

  async showNewer() {
    const hadFocus = this.body.contains(document.activeElement) || document.activeElement === $("newer");
    this.forget();
    await this.load();
    if (hadFocus) this.focus(0);
  }

  async more() {
    if (!this.next) return;
    const [asked, lists] = [this.query(), this.lists];
    let told;
    try {
      told = await ask(this.query({ before: this.next }));
    } catch (error) {
      return put($("older"), `${OLDER} did not come (${error.message}) · try again`);
    }
    // they belong to another list than the one that is shown now
    if (asked !== this.query() || lists !== this.lists) return;
    put($("older"), OLDER);
    const known = new Set(this.lines.map((line) => line.trace_id));
    const fresh = told.traces.filter((line) => !known.has(line.trace_id));
    this.lines = this.lines.concat(fresh);
    this.next = told.next;
    this.draw();
    if (fresh.length) this.rows.get(fresh[0].trace_id).focus();
  }

  offer(services) {
    const select = $("service");
    const wanted = ["", ...services];
    if (select.value && !wanted.includes(select.value)) wanted.push(select.value);
    const there = [...select.options].map((option) => option.value);
    if (wanted.join("\n") === there.join("\n")) return;
    if (services.length === 1 && there.includes(services[0])) return;
    const value = select.value;
    select.replaceChildren(...wanted.map((name) => h("option", { value: name, text: name || "any" })));
    select.value = value;
  }

  draw() {
    const longest = Math.max(1, ...this.lines.map((line) => line.duration_ns));
    const gone = new Set(this.rows.keys());
    let place = this.body.firstElementChild;
    for (const line of this.lines) {
      gone.delete(line.trace_id);
      let row = this.rows.get(line.trace_id);
      if (!row) {
        row = h("tr", { role: "row", tabindex: "-1", "data-id": line.trace_id });
        this.rows.set(line.trace_id, row);
      }
      const drawn = JSON.stringify(line);
      if (row.drawn !== drawn) {
        row.drawn = drawn;
        row.replaceChildren(...cells(line));
        row.className = line.failed ? "failed" : "";
      }
      const share = `${Math.max(0.5, (100 * line.duration_ns) / longest)}%`;
      row.querySelector(".bar > span").style.width = share;
      if (row === place) place = place.nextElementSibling;
      else this.body.insertBefore(row, place);
    }
    for (const id of gone) {
      this.rows.get(id).remove();
      this.rows.delete(id);
    }
    if (!this.rows.has(this.selected)) this.selected = null;
    this.mark();
    $("list").hidden = this.lines.length === 0;
    $("empty").hidden = this.lines.length > 0;
    $("older").hidden = !this.next;
    if (this.lines.length === 0) put($("empty"), this.filter().size > 0 ? "No trace matches." : "No trace has come yet.");
    put($("held"), held(this.store));
  }

  /** One row can be reached by Tab: the selected one, or the first. */
  mark() {
    const reach = this.selected ?? this.lines[0]?.trace_id;
    for (const [id, row] of this.rows) {
      row.tabIndex = id === reach ? 0 : -1;
      row.setAttribute("aria-selected", String(id === this.selected));
    }
  }

  select(id) {
    if (!id || id === this.selected) return;
    this.selected = id;
    this.mark();
  }

  focus(at) {
    const row = this.rows.get(this.lines[at]?.trace_id);
    row?.focus();
    row?.scrollIntoView({ block: "nearest" });
  }

  /** Where it was left, unless it was left nowhere. */
  focusSelected() {
    const at = this.lines.findIndex((line) => line.trace_id === this.selected);
    if (at >= 0) this.focus(at);
  }

  clicked(event) {
    const id = event.target.closest("tr")?.dataset.id;
    // a text that is being selected is not a wish to leave
    if (id && String(getSelection()) === "") this.open(id);
  }

  key(event) {
    if (event.key === "n") return this.showNewer(), true;
    const at = this.lines.findIndex((line) => line.trace_id === this.selected);
    // what has the focus, which stays where it is when the list is read anew and nothing is selected any more
    const row = this.body.contains(document.activeElement) && document.activeElement.closest("tr");
    if (event.key === "Enter" && row) return this.open(row.dataset.id), true;
    if (event.key === "Escape" && this.selected) {
      this.selected = null;
      document.activeElement.blur();
      this.mark();
      return true;
    }
    const to = moved(event.key, at, this.lines.length);
    if (to === undefined) return false;
    this.focus(to);
    return true;
  }
}

function cells(line) {
  const services = line.services.slice(0, MAX_CHIPS).map((service) =>
    h("span", { class: "chip" }, dot(service.name), h("span", { text: service.name })));
  const more = line.services.length - services.length;
  const spans = [more > 0 ? `and ${more} more` : "", count(line.spans, "span"), line.dropped ? `${line.dropped} not kept` : ""];
  const status = [
    line.status ? h("span", { class: line.failed || line.status >= 500 ? "bad" : "code", text: line.status }) : null,
    line.reason ? h("span", { class: line.failed ? "bad" : "muted", text: line.reason }) : null,
    !line.status && !line.reason ? h("span", { class: line.failed ? "bad" : "muted", text: line.failed ? "failed" : "ok" }) : null,
    line.errors && !line.failed ? h("small", { class: "inner", text: `${line.errors} failed inside` }) : null,
  ];
  return [
    h("td", { role: "gridcell", class: "time", title: date(line.start_ns), text: clock(line.start_ns) }),
    h("td", { role: "gridcell", class: "request" }, dot(line.service), h("b", { text: line.service }), " ", h("span", { class: "name", text: line.name })),
    h("td", { role: "gridcell", class: "services" }, services, h("small", { class: "muted", text: spans.filter(Boolean).join(", ") })),
    h("td", { role: "gridcell", class: "duration" },
      h("span", { class: "bar", "aria-hidden": "true" }, h("span")), h("span", { class: "number", text: duration(line.duration_ns) })),
    h("td", { role: "gridcell", class: "status" }, status),
    h("td", { role: "gridcell", class: "events" }, badges(line)),
  ];
}

/** What is held, and what is not any more. */
function held(store) {
  if (!store) return "";
  const said = [`${count(store.traces, "trace")}, ${count(store.spans, "span")} in ${bytes(store.bytes)} of ${bytes(store.max_bytes)}`];
  if (store.evicted_traces) said.push(`${count(store.evicted_traces, "older trace")} gone to make room`);
  if (store.surplus_spans) said.push(`${count(store.surplus_spans, "span")} over the bounds of a trace`);
  if (store.malformed_spans) said.push(`${count(store.malformed_spans, "malformed span")} refused`);
  if (store.trimmed_spans) said.push(`${count(store.trimmed_spans, "span")} shortened`);
  return said.join(" · ");
}

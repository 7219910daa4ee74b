// Which view is shown, what asks for news, and which key means what.
//
// The address says what is shown (#/traces?…, #/trace/<id>, #/map), so that it can be kept and passed on. One question is under
// way at a time; a control plane that does not answer is said so, and what was shown stays.

import { $, put } from "./dom.js";
import { List } from "./list.js";
import { MapView } from "./map.js";
import { TraceView } from "./trace.js";

const EVERY = 2000; // milliseconds between two questions
const views = ["traces", "trace", "map"];
const scrolled = { traces: 0, trace: 0, map: 0 };
let view = "";
let isPaused = false;
let timer;
let run = 0;

const list = new List(open, (filter) => {
  $("back").href = address(filter);
  // it is told a little later, and another view may be shown by then
  if (view === "traces") history.replaceState(null, "", address(filter));
});
const trace = new TraceView(open);
const map = new MapView();

function address(filter) {
  return filter.size ? `#/traces?${filter}` : "#/traces";
}

function open(id) {
  clearTimeout(list.typing);
  $("back").href = address(list.filter());
  location.hash = `#/trace/${id}`;
}

function route() {
  const [path, query = ""] = location.hash.replace(/^#/, "").split(/\?(.*)/s);
  const [, name = "traces", id] = path.split("/");
  if (name === "trace" && id) {
    if (view !== "trace" || trace.id !== id) trace.start(id);
    show("trace");
  } else if (name === "map") {
    show("map");
  } else {
    list.setFilter(new URLSearchParams(query));
    $("back").href = address(list.filter());
    show("traces");
  }
  news();
}

function show(next) {
  const before = view;
  if (before === next) return;
  if (before) scrolled[before] = scroller(before).scrollTop;
  view = next;
  for (const each of views) $(`view-${each}`).hidden = each !== next;
  $("tab-traces").toggleAttribute("data-on", next !== "map");
  $("tab-map").toggleAttribute("data-on", next === "map");
  for (const [tab, is] of [["tab-traces", next === "traces"], ["tab-map", next === "map"]]) {
    if (is) $(tab).setAttribute("aria-current", "page");
    else $(tab).removeAttribute("aria-current");
  }
  if (next !== "trace") {
    scroller(next).scrollTop = scrolled[next];
    document.title = `${next === "map" ? "Service map" : "Traces"} · Fusewire`;
  }
  if (next === "traces") list.focusSelected();
}

const scroller = (of) => $({ traces: "list-scroll", trace: "trace-scroll", map: "map-scroll" }[of]);

/** Asks now, and again later. */
async function news() {
  clearTimeout(timer);
  const mine = ++run;
  const shown = { traces: list, trace, map }[view];
  try {
    const missing = await shown.load();
    if (mine === run) notice(missing);
  } catch (error) {
    const what = error.isRefusal ? "refuses this" : "does not answer";
    if (mine === run) notice(`The control plane ${what} (${error.message}); what is shown may be old.`);
  }
  document.documentElement.dataset.shown = view;
  if (mine === run && !isPaused) timer = setTimeout(() => (document.hidden ? later() : news()), EVERY);
}

/** A page that nobody sees asks nothing. */
function later() {
  document.addEventListener("visibilitychange", () => isPaused || news(), { once: true });
}

function notice(text) {
  $("notice").hidden = !text;
  put($("notice"), text);
}

function pause() {
  isPaused = !isPaused;
  $("pause").setAttribute("aria-pressed", String(isPaused));
  put($("pause-word"), isPaused ? "Stopped" : "Live");
  if (isPaused) clearTimeout(timer);
  else news();
}

function back() {
  if (view === "traces") return false;
  location.hash = address(list.filter());
  return true;
}

const isTyping = (element) => element.matches("input:not([type=checkbox]), select, textarea");

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  if (isTyping(event.target)) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target.id === "q")) {
      event.preventDefault();
      event.target.blur();
      if (list.selected) list.focusSelected();
      else list.focus(0);
    }
    return;
  }
  if (act(event)) event.preventDefault();
});

function act(event) {
  const isControl = event.target.closest("button, a, input");
  if (event.key === "Enter" && isControl) return false;
  const shown = { traces: list, trace, map: { key: () => false } }[view];
  if (shown.key(event)) return true;
  switch (event.key) {
    case "/":
      if (view !== "traces") location.hash = address(list.filter());
      // the view is shown by then
      setTimeout(() => ($("q").focus(), $("q").select()));
      return true;
    case "?":
      $("help").showModal();
      return true;
    case "Escape":
      return back();
    case "t":
      location.hash = address(list.filter());
      return true;
    case "m":
      location.hash = "#/map";
      return true;
    case "p":
      pause();
      return true;
    default:
      return false;
  }
}

$("pause").addEventListener("click", pause);
$("help-open").addEventListener("click", () => $("help").showModal());
addEventListener("hashchange", route);
route();

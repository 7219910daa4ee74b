// Small things that every view uses: making elements, writing numbers, asking the control plane.
//
// Invariant: text that came from outside becomes text nodes and attribute values, never markup.

export const $ = (id) => document.getElementById(id);

/** An element. Of `props`: `class`, `text`, `on…` listeners; the rest are attributes, left out where undefined. */
export function h(tag, props = {}, ...kids) {
  return fill(document.createElement(tag), props, kids);
}

export function svg(tag, props = {}, ...kids) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, kids);
}

function fill(element, props, kids) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...kids.flat(Infinity).filter((kid) => kid !== undefined && kid !== null && kid !== false));
  return element;
}

/** Sets text only where it differs, so that a selection in it stays. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const PATIENCE = 10_000; // milliseconds; one replica alone may take two seconds

/** What the control plane answers; an error where it takes too long, so that it is asked again, or where it refuses. */
export async function ask(path, signal) {
  const signals = [AbortSignal.timeout(PATIENCE), ...(signal ? [signal] : [])];
  const answer = await fetch(path, { signal: AbortSignal.any(signals), credentials: "omit", headers: { accept: "application/json" } });
  const told = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(told.error || `status ${answer.status}`), { isRefusal: answer.status < 500 });
  return told;
}

export function duration(ns) {
  if (ns === 0) return "0";
  if (ns < 1e3) return `${Math.round(ns)} ns`;
  if (ns < 1e6) return `${short(ns / 1e3)} µs`;
  if (ns < 1e9) return `${short(ns / 1e6)} ms`;
  if (ns < 120e9) return `${short(ns / 1e9)} s`;
  return `${short(ns / 60e9)} min`;
}

/** Three digits that count. */
function short(n) {
  return n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2);
}

export function rate(perSecond) {
  if (perSecond === 0) return "0/s";
  return perSecond < 0.1 ? "<0.1/s" : `${short(perSecond)}/s`;
}

export function percent(part, whole) {
  if (!whole || !part) return "0 %";
  const share = (100 * part) / whole;
  return share < 0.1 ? "<0.1 %" : `${share >= 10 ? share.toFixed(0) : share.toFixed(1)} %`;
}

export function bytes(n) {
  return n < 1 << 20 ? `${Math.ceil(n / 1024)} KiB` : `${(n / (1 << 20)).toFixed(n < 10 << 20 ? 1 : 0)} MiB`;
}

const two = (n) => String(n).padStart(2, "0");

export function clock(ns) {
  const at = new Date(ns / 1e6);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}

export function date(ns) {
  const at = new Date(ns / 1e6);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${clock(ns)}`;
}

export const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

const HUES = 10;
const hues = new Map();

/** A class with the service's colour: the same for as long as the page is open, and different ones for the first ten. */
export function hue(service) {
  if (!hues.has(service)) {
    let hash = 0;
    for (const c of service) hash = (hash * 31 + c.codePointAt(0)) >>> 0;
    const taken = new Set(hues.values());
    let at = hash % HUES;
    for (let tries = 0; tries < HUES && taken.has(at); tries++) at = (at + 1) % HUES;
    hues.set(service, at);
  }
  return `hue${hues.get(service)}`;
}

export const dot = (service) => h("span", { class: `dot ${hue(service)}`, "aria-hidden": "true" });

/** The circuit events of a trace. */
export function badges(summary) {
  const kinds = [["rejected", summary.rejected], ["probe", summary.probes], ["redial", summary.redials], ["fallback", summary.fallbacks]];
  return kinds
    .filter(([, n]) => n > 0)
    .map(([kind, n]) => h("span", { class: `badge ${kind}`, text: n > 1 ? `${kind} ×${n}` : kind }));
}

/** The row of `rows` that a key moves to from `at`, or undefined where the key does not move. */
export function moved(key, at, length) {
  const to = { ArrowDown: at + 1, j: at + 1, ArrowUp: at - 1, k: at - 1, Home: 0, End: length - 1, PageDown: at + 15, PageUp: at - 15 }[key];
  return to === undefined || length === 0 ? undefined : Math.max(0, Math.min(length - 1, to));
}

/** Names who did not answer; everything else is then only a part. */
export function silent(replicas) {
  const missing = (replicas || []).filter((replica) => !replica.answered);
  if (missing.length === 0) return "";
  const each = missing.map((replica) => `${replica.name} (${replica.error})`).join("; ");
  return `Not everything is shown: ${missing.length === 1 ? "a control plane" : "control planes"} did not answer: ${each}`;
}

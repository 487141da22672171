// One stream of server-sent events a page. A named event is the block of that name: HTML is swapped in,
// points are handed to the charts. Silence for 12 s means stale; reconnecting waits 0.3, 1, 2, 4, 8, then 15 s:
// soon at first, since another server may go on where this one was lost.

import { parse, swap } from "./swap.js";
import { take as takePoints } from "./charts.js";

const SILENCE_MS = 12_000;
const LOST_AFTER_MS = 5_000;
const WAITS_MS = [300, 1_000, 2_000, 4_000, 8_000, 15_000];

const state = {
  url: "",
  source: null,
  tries: 0,
  heardAt: 0,
  lastId: "",
  offset: 0,
  newest: 0,
  paused: false,
  waiting: new Map(),
  lostAt: 0,
  retryTimer: 0,
  retryAt: 0,
};

let lamp, banner;

export function start() {
  state.url = document.body.dataset.liveUrl ?? "";
  lamp = document.getElementById("live");
  banner = document.getElementById("lost");
  if (!state.url || !lamp || !("EventSource" in window)) return;
  state.offset = Number(lamp.dataset.now) - Date.now();
  state.newest = Number(lamp.dataset.newest);
  lamp.dataset.ready = "";
  lamp.querySelector("[data-act=pause]").addEventListener("click", togglePause);
  banner.querySelector("[data-act=reconnect]").addEventListener("click", connect);
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : connect()));
  window.addEventListener("pagehide", close);
  setInterval(tick, 1_000);
  connect();
}

function close() {
  clearTimeout(state.retryTimer);
  state.source?.close();
  state.source = null;
}

function connect() {
  close();
  const last = state.lastId ? `&last=${encodeURIComponent(state.lastId)}` : "";
  const source = new EventSource(state.url + last);
  state.source = source;
  const topics = new URLSearchParams(state.url.split("?")[1]).get("topics").split(",");
  for (const topic of [...topics, "points"]) source.addEventListener(topic, (event) => receive(topic, event));
  source.addEventListener("clock", heartbeat);
  source.addEventListener("bye", () => { state.tries = 0; retry(); });
  source.addEventListener("error", () => retry());
}

/** The browser would reconnect on its own, but at its own pace and for ever. */
function retry() {
  close();
  const base = WAITS_MS[Math.min(state.tries, WAITS_MS.length - 1)];
  const wait = base * (0.75 + Math.random() / 2);
  state.tries += 1;
  state.retryAt = Date.now() + wait;
  state.retryTimer = setTimeout(connect, wait);
}

function heard(event) {
  state.heardAt = Date.now();
  state.tries = 0;
  state.lostAt = 0;
  if (event.lastEventId) state.lastId = event.lastEventId;
}

function heartbeat(event) {
  heard(event);
  const { now, newest } = JSON.parse(event.data);
  state.offset = now - Date.now();
  if (newest) state.newest = newest;
  tick();
}

function receive(topic, event) {
  heard(event);
  if (state.paused) {
    // Only the newest of a block counts, except for points, which add up.
    const before = topic === "points" ? (state.waiting.get(topic) ?? []) : [];
    state.waiting.set(topic, [...before, event.data].slice(-500));
    tick();
    return;
  }
  apply(topic, event.data);
}

function apply(topic, data) {
  if (topic === "points") {
    takePoints(JSON.parse(data));
    return;
  }
  const block = document.querySelector(`[data-live="${CSS.escape(topic)}"]`);
  const next = parse(data);
  if (!block || !next) return;
  const announces = block.hasAttribute("data-announce");
  const before = announces ? headings(block) : null;
  swap(block, next);
  if (announces) {
    const fresh = headings(block).filter((text) => !before.includes(text));
    if (fresh.length) document.getElementById("announce").textContent = fresh.join(" ");
  }
}

function headings(block) {
  return [...block.querySelectorAll("h3")].map((heading) => heading.textContent.trim());
}

export function togglePause() {
  state.paused = !state.paused;
  if (!state.paused) {
    for (const [topic, all] of state.waiting) for (const data of all) apply(topic, data);
    state.waiting.clear();
  }
  state.pausedAt = Date.now() + state.offset;
  tick();
}

/** The server's clock and zone, as everywhere on the page. */
function clock(ms) {
  const zone = Number(lamp.dataset.zone);
  return new Date(ms + zone).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", timeZone: "UTC" });
}

function age(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s}\u00a0s`;
  if (s < 3600) return `${Math.floor(s / 60)}\u00a0min`;
  return `${Math.floor(s / 3600)}\u00a0h`;
}

function tick() {
  const now = Date.now();
  const silent = now - state.heardAt > SILENCE_MS;
  const word = lamp.querySelector(".word");
  const time = lamp.querySelector("time");
  const button = lamp.querySelector("[data-act=pause]");
  button.setAttribute("aria-label", state.paused ? "Continue live updates" : "Pause live updates");
  button.title = button.getAttribute("aria-label");
  const use = button.querySelector("use");
  use.setAttribute("href", use.getAttribute("href").replace(/#.*/, state.paused ? "#play" : "#pause"));
  if (state.paused) {
    const count = state.waiting.size;
    lamp.dataset.state = "queue";
    word.textContent = `Paused at ${clock(state.pausedAt)}`;
    time.textContent = count ? `${count} waiting` : "";
  } else if (!state.heardAt) {
    lamp.dataset.state = "queue";
    word.textContent = "Connecting";
    time.textContent = "";
  } else {
    lamp.dataset.state = silent ? "stale" : "ok";
    word.textContent = silent ? "Stale" : "Live";
    time.textContent = state.newest ? `${age(now + state.offset - state.newest)} ago` : "";
  }
  const away = state.source?.readyState !== EventSource.OPEN && !document.hidden;
  if (away && !state.lostAt) state.lostAt = now;
  if (!away) state.lostAt = 0;
  const lost = (state.lostAt && now - state.lostAt > LOST_AFTER_MS) || (state.heardAt && silent && !document.hidden);
  banner.hidden = !lost;
  document.documentElement.classList.toggle("page-old", Boolean(lost));
  if (lost) {
    banner.querySelector("[data-since]").textContent = state.heardAt ? ` at ${clock(state.heardAt + state.offset)}` : "";
    const wait = Math.ceil((state.retryAt - now) / 1000);
    banner.querySelector("[data-next]").textContent = wait > 0 ? `Trying again in ${wait}\u00a0s.` : "Trying now.";
  }
  for (const control of document.querySelectorAll("main form button")) {
    // Acting on what may be over is refused; the banner says why.
    if (lost) control.setAttribute("aria-disabled", "true");
    else control.removeAttribute("aria-disabled");
  }
}

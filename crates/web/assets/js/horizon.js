// The strip at the top: dragging on it picks the window that charts show, keys move and resize it.
// The window lives in the address, so it can be linked and the back button works.

const MINUTE = 60_000;

function strip() {
  return document.querySelector("[data-drag]");
}

function bounds() {
  const element = strip();
  return element ? { from: Number(element.dataset.from), to: Number(element.dataset.to) } : null;
}

/** The window of the address, or none. */
export function current() {
  const query = new URLSearchParams(location.search);
  const from = Number(query.get("from"));
  const to = Number(query.get("to"));
  return from && to ? { from, to } : null;
}

/** Goes to the same page with a window, or without one. */
export function go(window) {
  const address = new URL(location.href);
  if (window) {
    address.searchParams.set("from", Math.round(window.from));
    address.searchParams.set("to", Math.round(window.to));
  } else {
    address.searchParams.delete("from");
    address.searchParams.delete("to");
  }
  location.assign(address);
}

/** Moves the window by a share of its length, or makes it that much longer. */
export function shift(by, grow) {
  const range = bounds();
  if (!range) return;
  const full = range.to - range.from;
  const now = current() ?? { from: range.to - full / 4, to: range.to };
  const length = Math.min(full, Math.max(MINUTE, (now.to - now.from) * grow));
  const middle = (now.from + now.to) / 2 + (now.to - now.from) * by;
  const from = Math.min(Math.max(range.from, middle - length / 2), range.to - length);
  go({ from, to: from + length });
}

export function start() {
  document.addEventListener("windowchoice", (event) => go(event.detail));
  let drag = null;
  const moment = (event) => {
    const box = strip().getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const { from, to } = bounds();
    return { share, at: from + (to - from) * share };
  };
  document.addEventListener("pointerdown", (event) => {
    if (event.button || !event.target.closest("[data-drag]")) return;
    drag = { start: moment(event), shown: null };
    strip().setPointerCapture?.(event.pointerId);
  });
  document.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const now = moment(event);
    const left = Math.min(now.share, drag.start.share);
    const width = Math.abs(now.share - drag.start.share);
    if (width < 0.01) return;
    drag.shown ??= strip().querySelector(".window") ?? strip().appendChild(Object.assign(document.createElement("span"), { className: "window" }));
    drag.shown.style.setProperty("--at", `${left * 100}%`);
    drag.shown.style.setProperty("--for", `${width * 100}%`);
  });
  document.addEventListener("pointerup", (event) => {
    if (!drag) return;
    const { start, shown } = drag;
    const end = moment(event);
    drag = null;
    if (shown) go({ from: Math.min(start.at, end.at), to: Math.max(start.at, end.at) });
  });
  document.addEventListener("pointercancel", () => (drag = null));
}

// Single keys of the whole page. They are ignored while somebody types and can be switched off.

import { open } from "./dialogs.js";
import { discover } from "./discovery.js";
import { current, go, shift } from "./horizon.js";
import { move } from "./lists.js";
import { togglePause } from "./live.js";
import { next as nextTheme } from "./theme.js";

const SWITCH = "caelum-single-keys";

function remembered() {
  try {
    return localStorage.getItem(SWITCH) !== "off";
  } catch {
    // Private windows may refuse storage; keys then stay on.
    return true;
  }
}

function remember(on) {
  try {
    localStorage.setItem(SWITCH, on ? "on" : "off");
  } catch {
    // The choice then lasts as long as the page.
  }
}

export function start() {
  let on = remembered();
  const box = document.querySelector("[data-act=single-keys]");
  if (box) {
    box.checked = on;
    box.addEventListener("change", () => {
      on = box.checked;
      remember(on);
    });
  }
  let leading = "";
  let leadingTimer = 0;
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      open("palette");
      return;
    }
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter" && event.target.form) {
      event.target.form.requestSubmit();
      return;
    }
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
      const drawer = document.querySelector(".drawer:not([hidden])");
      if (typing(event.target)) event.target.blur();
      else if (drawer) drawer.hidden = true;
      else if (current()) go(null);
      return;
    }
    if (!on || typing(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    if (leading === "g") {
      leading = "";
      const entry = document.querySelector(
        `.nav-list a[data-key="${CSS.escape(event.key)}"], a[data-go="${CSS.escape(event.key)}"]`,
      );
      if (entry) {
        event.preventDefault();
        location.assign(entry.href);
        return;
      }
    }
    if (press(event.key)) event.preventDefault();
    if (event.key === "g") {
      leading = "g";
      clearTimeout(leadingTimer);
      leadingTimer = setTimeout(() => (leading = ""), 1_500);
    }
  });
}

function typing(element) {
  return element.matches?.("input:not([type=checkbox]), textarea, select") || element.isContentEditable;
}

function press(key) {
  const ranges = document.querySelectorAll("[data-range]");
  switch (key) {
    case "/": {
      const field = document.querySelector("[data-filter]");
      if (field) field.focus();
      else open("palette");
      return true;
    }
    case "j": return move(1);
    case "k": return move(-1);
    case "[": shift(-0.5, 1); return true;
    case "]": shift(0.5, 1); return true;
    case "-": shift(0, 2); return true;
    case "=": shift(0, 0.5); return true;
    case "d": return discover();
    case ".": togglePause(); return true;
    case "t": nextTheme(); return true;
    case "?": open("keys"); return true;
    default:
      if (/^[1-5]$/.test(key) && ranges[key - 1]) {
        location.assign(ranges[key - 1].href);
        return true;
      }
      return false;
  }
}

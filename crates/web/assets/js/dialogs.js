// Dialogs, the palette, and the small acts of buttons: open, close, copy, reload.

export function open(id) {
  const dialog = document.getElementById(id);
  if (!dialog || dialog.open) return;
  dialog.showModal();
  const input = dialog.querySelector("input[type=text]");
  if (input) {
    input.value = "";
    filter(dialog);
    input.focus();
  }
}

export function start() {
  document.addEventListener("click", (event) => {
    // A click on the backdrop lands on the dialog itself.
    if (event.target.nodeName === "DIALOG") return event.target.close();
    const control = event.target.closest("[data-open], [data-close], [data-copy], [data-act=reload]");
    if (!control) return;
    if (control.dataset.open) open(control.dataset.open);
    else if ("close" in control.dataset) control.closest("dialog").close();
    else if (control.dataset.copy) navigator.clipboard?.writeText(control.dataset.copy);
    else location.reload();
  });
  for (const button of document.querySelectorAll("[data-copy]:not([data-copies])")) button.hidden = !navigator.clipboard;
  const palette = document.getElementById("palette");
  palette.addEventListener("input", () => filter(palette));
  palette.addEventListener("keydown", (event) => {
    const shown = options(palette);
    const at = shown.findIndex((option) => option.getAttribute("aria-selected") === "true");
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      select(palette, shown[(at + step + shown.length) % shown.length]);
    } else if (event.key === "Enter" && shown[at]) {
      event.preventDefault();
      if (event.ctrlKey || event.metaKey) window.open(shown[at].href, "_blank", "noopener");
      else shown[at].click();
    }
  });
}

function options(palette) {
  return [...palette.querySelectorAll("[role=option]")].filter((option) => !option.hidden);
}

/** Every word typed has to occur; groups without an entry go with their heading. */
function filter(palette) {
  const words = palette.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
  let heading = null;
  let any = false;
  for (const child of palette.querySelector(".palette-list").children) {
    if (child.nodeName === "H3") {
      heading = child;
      heading.hidden = true;
    } else if (child.matches("[role=option]")) {
      const text = child.textContent.toLowerCase();
      child.hidden = !words.every((word) => text.includes(word));
      if (!child.hidden) {
        any = true;
        heading.hidden = false;
      }
    }
  }
  palette.querySelector("[data-none]").hidden = any;
  select(palette, options(palette)[0]);
}

function select(palette, chosen) {
  palette.querySelectorAll("[aria-selected=true]").forEach((option) => option.setAttribute("aria-selected", "false"));
  chosen?.setAttribute("aria-selected", "true");
  chosen?.scrollIntoView({ block: "nearest" });
}

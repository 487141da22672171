// The theme without a reload: the same form post as without scripts, and the root's attribute at once.

const ORDER = ["system", "light", "dark"];
const ICONS = { system: "system", light: "sun", dark: "moon" };

function shown() {
  return document.documentElement.dataset.theme ?? "system";
}

/** Goes on to the next theme and lets the server remember it. */
export function next() {
  const theme = ORDER[(ORDER.indexOf(shown()) + 1) % ORDER.length];
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  for (const button of document.querySelectorAll("[data-act=theme]")) {
    button.value = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
    button.title = `Theme: ${theme}`;
    if (button.hasAttribute("aria-label")) button.setAttribute("aria-label", `Theme: ${theme}. Switch`);
    const use = button.querySelector("use");
    use.setAttribute("href", use.getAttribute("href").replace(/#.*/, `#${ICONS[theme]}`));
  }
  fetch("/theme", { method: "POST", body: new URLSearchParams({ theme }), redirect: "manual" }).catch(() => {
    // The choice then lasts as long as the page; the banner says that the server is away.
  });
  document.dispatchEvent(new Event("themechange"));
}

export function start() {
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-act=theme]")) return;
    event.preventDefault();
    next();
  });
}

// The sky is one stop of the tab key, with arrows inside: they go round, node by node.

export function start() {
  document.addEventListener("focusin", (event) => rove(event.target.closest?.("[data-sky] .star")));
  document.addEventListener("keydown", (event) => {
    const star = event.target.closest?.("[data-sky] .star");
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!star || !step) return;
    event.preventDefault();
    const stars = [...star.closest("[data-sky]").querySelectorAll(".star")];
    stars[(stars.indexOf(star) + step + stars.length) % stars.length].focus();
  });
}

function rove(star) {
  if (!star) return;
  for (const other of star.closest("[data-sky]").querySelectorAll(".star")) {
    other.setAttribute("tabindex", other === star ? "0" : "-1");
  }
}

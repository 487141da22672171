// Rows by keyboard, cells of the matrix by arrows, and filtering while typing.

export function start() {
  document.addEventListener("input", (event) => {
    if (event.target.matches("[data-filter]")) narrow(event.target);
  });
  document.addEventListener("keydown", (event) => {
    const cell = event.target.closest?.("[data-grid] .cell");
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!cell || !step) return;
    event.preventDefault();
    const at = cell.closest("td");
    const row = at.parentElement;
    const rows = [...row.parentElement.rows];
    const target = rows[rows.indexOf(row) + step[0]]?.cells[at.cellIndex + step[1]]?.querySelector(".cell");
    if (target) focusCell(target);
  });
  for (const grid of document.querySelectorAll("[data-grid]")) rove(grid);
}

/** The matrix is one stop of the tab key, with arrows inside. */
function rove(grid) {
  const cells = [...grid.querySelectorAll(".cell")];
  const home = cells.find((cell) => cell.hasAttribute("aria-current")) ?? cells[0];
  for (const cell of cells) cell.tabIndex = cell === home ? 0 : -1;
}

function focusCell(cell) {
  for (const other of cell.closest("[data-grid]").querySelectorAll(".cell")) other.tabIndex = -1;
  cell.tabIndex = 0;
  cell.focus();
}

/** Moves along the rows of the page; answers whether there were any. */
export function move(step) {
  const links = [...document.querySelectorAll("[data-rows] tbody tr a, .incident h3 a, .tile, .fall > a")].filter(
    (link) => link.offsetParent,
  );
  if (!links.length) return false;
  const at = links.indexOf(document.activeElement);
  const next = at < 0 ? (step > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, at + step));
  links[next].focus();
  return true;
}

/** Hides rows that do not hold what is typed. The form filters on the server when it is sent. */
function narrow(field) {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of field.closest("section").querySelectorAll("tbody tr")) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
}

// Brings a block up to date without replacing it: elements stay, so focus, scroll, hover and open menus do.
//
// Children with data-key are matched by it, others by position and tag. Where [data-order] lists rows and
// the reader is on them, rows update in place but keep their places, and a line offers to sort again.

/** Parses finished HTML into its one element. Scripts in it would not run, and the server sends none. */
export function parse(html) {
  const holder = document.createElement("template");
  holder.innerHTML = html.trim();
  return holder.content.firstElementChild;
}

/** Makes the block `now` look like `next`. Answers how many rows wait to be sorted. */
export function swap(now, next) {
  const waiting = { count: 0 };
  morph(now, next, waiting);
  offerSort(now, next, waiting.count);
  return waiting.count;
}

function morph(now, next, waiting) {
  if (now.nodeType === Node.TEXT_NODE) {
    if (now.data !== next.data) now.data = next.data;
    return;
  }
  if (now.nodeType !== Node.ELEMENT_NODE || now.isEqualNode(next)) return;
  // A drawn chart belongs to its script; its points come by another way.
  if (now.hasAttribute("data-drawn")) return;
  // What somebody is typing is theirs.
  if (now === document.activeElement && now.matches("input, select, textarea")) return;
  for (const { name } of [...now.attributes]) {
    // What somebody unfolded stays so.
    if (name === "open" && now.nodeName === "DETAILS") continue;
    if (!next.hasAttribute(name) && !name.startsWith("data-js-")) now.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (now.getAttribute(name) !== value) now.setAttribute(name, value);
  }
  children(now, next, waiting);
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.dataset.key ?? (node.id || null) : null;
}

function fits(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);
}

function children(now, next, waiting) {
  const keyed = new Map();
  for (const child of now.childNodes) {
    const key = keyOf(child);
    if (key !== null) keyed.set(key, child);
  }
  const wanted = [...next.childNodes];
  const keepPlaces = now.hasAttribute("data-order") && isInUse(now);
  const before = keepPlaces ? [...now.children].map(keyOf) : [];
  if (keepPlaces) {
    const places = new Map(before.map((key, index) => [key, index]));
    const order = wanted.filter((node) => places.has(keyOf(node))).map((node) => places.get(keyOf(node)));
    const moved = order.filter((place, index) => index > 0 && place < Math.max(...order.slice(0, index))).length;
    waiting.count += moved;
    wanted.sort((a, b) => (places.get(keyOf(a)) ?? Infinity) - (places.get(keyOf(b)) ?? Infinity));
  }
  let at = now.firstChild;
  for (const node of wanted) {
    const key = keyOf(node);
    const match = key !== null ? keyed.get(key) : at && fits(at, node) ? at : null;
    if (match && match.nodeName === node.nodeName) {
      if (match === at) at = at.nextSibling;
      else now.insertBefore(match, at);
      morph(match, node, waiting);
      keyed.delete(key);
    } else {
      const fresh = document.importNode(node, true);
      if (key !== null && now.closest(".feed")) fresh.setAttribute("data-new", "");
      now.insertBefore(fresh, at);
    }
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function isInUse(element) {
  return element.matches(":hover") || element.contains(document.activeElement);
}

function offerSort(block, next, count) {
  block.querySelector("[data-js-sort]")?.remove();
  const rows = block.querySelector("[data-order]");
  if (!count || !rows) return;
  const line = document.createElement("p");
  line.className = "line-note";
  line.setAttribute("data-js-sort", "");
  line.append(`${count} ${count === 1 ? "change" : "changes"}, `);
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "sort again";
  button.addEventListener("click", () => {
    line.remove();
    const fresh = next.querySelector("[data-order]");
    for (const row of fresh ? [...fresh.children] : []) {
      const known = [...rows.children].find((child) => keyOf(child) === keyOf(row));
      if (known) rows.append(known);
    }
  });
  line.append(button);
  rows.closest("table, ul, ol").before(line);
}

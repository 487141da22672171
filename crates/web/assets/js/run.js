// The page Run: answers come in as machines give them. Without this module the form is sent, and the page
// comes back when all have ended. What machines say is only ever set as text.

const MANY = 10;
const LOOKS = {
  ok: ["ok", "s-ok", "answered"],
  failed: ["warn", "s-warn", "failed"],
  timed_out: ["warn", "s-stale", "took too long"],
  unreachable: ["off", "s-off", "unreachable"],
  refused: ["crit", "s-crit", "refused"],
};
const ORDER = ["refused", "unreachable", "timed_out", "failed", "ok"];
const POOL_EVERY_MS = 5_000;

export function start() {
  const page = document.getElementById("console");
  if (!page) return;
  const form = document.getElementById("run");
  const boxes = () => [...page.querySelectorAll("input[name=node]")];
  const chosen = () => boxes().filter((box) => box.checked && !box.disabled);

  const count = () => {
    const number = chosen().length;
    for (const place of document.querySelectorAll("[data-chosen]")) place.textContent = number;
    if (form) form.dataset.sure = "";
  };
  page.addEventListener("change", (event) => {
    const all = event.target.closest("[data-all]");
    if (all) {
      let row = all.closest("li").nextElementSibling;
      for (; row && !row.classList.contains("group"); row = row.nextElementSibling) {
        const box = row.querySelector("input");
        if (!box.disabled && !row.hidden) box.checked = all.checked;
      }
    }
    count();
  });
  page.querySelector("[data-filter]")?.addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).map((word) => word.replace(/^\w+=(?=\w)/, ""));
    for (const row of page.querySelectorAll("[data-words]")) {
      row.hidden = !words.every((word) => row.dataset.words.includes(word));
    }
  });
  page.addEventListener("click", (event) => {
    const recent = event.target.closest("[data-command]");
    if (recent && form && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      form.elements.command.value = recent.dataset.command;
      form.elements.command.focus();
    }
  });
  count();
  pool(page);
  form?.addEventListener("submit", (event) => {
    event.preventDefault();
    run(form, chosen().map((box) => box.value));
  });
  document.getElementById("answers").addEventListener("submit", accept);
}

async function run(form, nodes) {
  const said = form.querySelector("[data-said]");
  if (form.dataset.busy) return;
  if (!nodes.length) {
    said.textContent = "No machine is chosen.";
    return;
  }
  if (nodes.length > MANY && form.dataset.sure !== "1") {
    form.dataset.sure = "1";
    said.textContent = `This would run on ${nodes.length} machines. Press Run once more.`;
    return;
  }
  form.dataset.sure = "";
  form.dataset.busy = "1";
  form.setAttribute("aria-busy", "true");
  const section = document.getElementById("answers");
  section.hidden = false;
  const begun = performance.now();
  const results = [];
  let total = nodes.length;
  let waiting = 0;
  const paint = () => {
    waiting = 0;
    draw(section, results, total, performance.now() - begun);
  };
  const soon = () => (waiting ||= requestAnimationFrame(paint));
  soon();
  said.textContent = "";
  try {
    const timeout = Number(form.elements.timeout.value) || undefined;
    const response = await fetch("/api/ssh/broadcast", {
      method: "POST",
      headers: { "content-type": "application/json", accept: "text/event-stream" },
      body: JSON.stringify({ command: form.elements.command.value, node_ids: nodes, timeout }),
    });
    if (!response.ok) {
      const json = await response.json().catch(() => ({}));
      said.textContent = json.error?.message || `the server answered ${response.status}`;
      section.hidden = true;
      return;
    }
    await events(response.body, (name, data) => {
      if (name === "begin") total = data.total_nodes;
      if (name === "result") results.push(data);
      soon();
    });
    const well = results.filter((result) => result.success).length;
    const text = `${well} of ${total} answered.`;
    document.querySelector("main h1").textContent = `${well} of ${total} ${total === 1 ? "machine" : "machines"} answered.`;
    said.textContent = results.length < total ? `The server went away; ${total - results.length} machines are missing.` : text;
    document.getElementById("announce").textContent = said.textContent;
  } catch {
    said.textContent = "The server did not answer. What ran is in the audit log.";
  } finally {
    paint();
    delete form.dataset.busy;
    form.removeAttribute("aria-busy");
  }
}

/** Reads server-sent events of a body that was asked for by POST, which EventSource cannot do. */
async function events(body, take) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    waiting += value;
    const all = waiting.split(/\r?\n\r?\n/);
    waiting = all.pop();
    for (const event of all) {
      const fields = event.split(/\r?\n/);
      const of = (field) => fields.filter((line) => line.startsWith(field)).map((line) => line.slice(field.length).replace(/^ /, ""));
      const data = of("data:").join("\n");
      if (data) take(of("event:")[0] ?? "message", JSON.parse(data));
    }
  }
}

function make(kind, className, text) {
  const element = document.createElement(kind);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

/** An icon of the sprite, by whatever path this page has it. */
function icon(name) {
  const known = document.querySelector("svg.icon use").getAttribute("href");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `${known.split("#")[0]}#${name}`);
  svg.append(use);
  return svg;
}

function draw(section, results, total, tookMs) {
  const tally = section.querySelector("[data-tally]");
  const parts = ORDER.toReversed().flatMap((outcome) => {
    const number = results.filter((result) => result.outcome === outcome).length;
    if (!number) return [];
    const [level, name, word] = LOOKS[outcome];
    const part = make("span", "status");
    part.dataset.level = level;
    part.append(icon(name), `${number} ${word}`);
    return [part];
  });
  const running = total - results.length;
  if (running) {
    const part = make("span", "status");
    part.dataset.level = "run";
    part.append(icon("s-run"), `${running} running`);
    parts.push(part);
  }
  parts.push(make("span", "muted", `${(tookMs / 1000).toFixed(1)}\u00a0s`));
  tally.replaceChildren(...parts);

  const groups = new Map();
  for (const result of results) {
    const key = JSON.stringify([result.outcome, result.return_code, result.stdout, result.stderr, result.error]);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(result);
  }
  const sorted = [...groups.values()].sort(
    (a, b) => ORDER.indexOf(a[0].outcome) - ORDER.indexOf(b[0].outcome) || b.length - a.length || a[0].node.localeCompare(b[0].node),
  );
  section.querySelector("[data-answers]").replaceChildren(...sorted.map(article));
}

function article(group) {
  const [first] = group;
  const [level, name, word] = LOOKS[first.outcome];
  const element = make("article", "answer");
  const header = make("header");
  const mark = make("span", "mark");
  mark.dataset.level = level;
  mark.title = word;
  mark.append(icon(name));
  const many = first.outcome === "ok" ? `${group.length} machines agree` : `${group.length} machines`;
  const title = make("h3", "", group.length > 1 ? many : first.node);
  if (first.outcome !== "ok") title.append(" ", make("span", "soft", word));
  const times = group.map((result) => result.duration_ms);
  const [least, most] = [Math.min(...times), Math.max(...times)];
  const exit = first.return_code === null ? "" : `exit ${first.return_code}, `;
  header.append(mark, title, make("span", "meta", `${exit}${least === most ? most : `${least} to ${most}`} ms`));
  element.append(header);
  if (group.length > 1) {
    const who = make("div", "who");
    who.append(...group.map((result) => result.node).sort().map((node) => make("span", "tag", node)));
    element.append(who);
  }
  if (first.error) element.append(make("p", "why", first.error));
  for (const { host_key: key } of group) if (key) element.append(problem(key));
  if (first.stdout) element.append(make("pre", "out", first.stdout));
  if (first.stderr) element.append(make("pre", "out err", first.stderr));
  return element;
}

function problem(key) {
  const place = make("div", "host-key");
  const list = make("dl", "kv");
  const shows = make("dd");
  shows.append(make("code", "", key.offered_fingerprint));
  list.append(make("dt", "", `${key.host} shows`), shows);
  if (key.known_fingerprints.length) {
    const should = make("dd");
    should.append(make("code", "", key.known_fingerprints.join(" or ")));
    list.append(make("dt", "", "and should show"), should);
    place.append(list);
    return place;
  }
  const form = make("form");
  form.method = "post";
  form.action = "/run/accept";
  for (const [name, value] of [["host", key.host], ["port", key.port], ["key", key.offered_key], ["fingerprint", key.offered_fingerprint]]) {
    const field = make("input");
    Object.assign(field, { type: "hidden", name, value });
    form.append(field);
  }
  form.append(make("button", "btn btn--s", "I compared it: accept this key"));
  place.append(list, form);
  return place;
}

/** Accepts a host's key in place, so that the answers stay. */
async function accept(event) {
  const form = event.target;
  if (new URL(form.action).pathname !== "/run/accept") return;
  event.preventDefault();
  const of = (name) => form.elements[name].value;
  const entry = { host: of("host"), port: Number(of("port")), key: of("key"), fingerprint: of("fingerprint") };
  const response = await fetch("/api/ssh/known-hosts", {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/json" },
    body: JSON.stringify({ entries: [entry] }),
  }).catch(() => null);
  const json = await response?.json().catch(() => ({}));
  form.replaceChildren(response?.ok ? "Accepted. Run it again." : json?.error?.message || "The server did not answer. Try again.");
}

/** Keeps the pool's figures fresh while somebody looks. */
function pool(page) {
  const set = (name, text) => (page.querySelector(`[data-stat=${name}]`).textContent = text);
  setInterval(async () => {
    if (document.hidden) return;
    const response = await fetch("/api/ssh/pool/stats").catch(() => null);
    const stats = await response?.json().catch(() => null);
    if (!response?.ok || !stats) return;
    set("open", `${stats.active_connections}, ${stats.idle_connections} idle`);
    set("commands", `${stats.running} run, ${stats.waiting} wait`);
    set("made", `${stats.total_created}, used again ${stats.total_reused} times`);
    set("closed", `${stats.total_closed}, ${stats.total_failed} failed`);
  }, POOL_EVERY_MS);
}

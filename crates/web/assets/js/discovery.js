// The page of machines: searching the network line by line, adopting, connecting, and making a join token.
//
// All of it are forms that also work when sent; this module sends them to the API instead, so that the page
// stays and answers come in place. What the server says is only ever set as text.

const TRIES_TEXT = "The server did not answer. Try again.";

export function start() {
  for (const dialog of document.querySelectorAll("main dialog[open]")) {
    // Opened by the address for those without a script; with one it is a true dialog.
    dialog.removeAttribute("open");
    dialog.showModal();
  }
  document.addEventListener("click", (event) => {
    const control = event.target.closest?.("[data-adopt], [data-dialog], [data-drawer-close], main [data-close]");
    if (!control || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    if (control.dataset.adopt) openAdopt(control);
    else if (control.dataset.dialog) document.getElementById(control.dataset.dialog)?.showModal();
    else if ("drawerClose" in control.dataset) document.getElementById("discovery").hidden = true;
  });
  document.addEventListener("submit", (event) => {
    const form = event.target;
    const path = new URL(form.action, location.href).pathname;
    const act = { "/machines/adopt": adopt, "/machines/connect": connect, "/machines/invite": invite, "/machines/discover": search }[path];
    if (!act) return;
    event.preventDefault();
    act(form);
  });
  if (new URLSearchParams(location.search).get("ask") === "search") discover();
}

/** Starts a search, where this page has one. Answers whether it has. */
export function discover() {
  const button = document.querySelector("[data-act=discover]");
  if (!button) return false;
  search(button.form);
  return true;
}

function openAdopt(control) {
  const dialog = document.getElementById("adopt");
  const form = dialog.querySelector("form");
  form.reset();
  form.elements.machine_id.value = control.dataset.adopt;
  dialog.querySelector("[data-name]").textContent = control.dataset.name;
  fault(dialog, "");
  dialog.showModal();
  form.elements.code.focus();
}

function fault(place, text) {
  const line = place.querySelector(".fault");
  line.textContent = text;
  line.hidden = !text;
  place.querySelector("[name=code]")?.classList.toggle("input--bad", Boolean(text));
}

function announce(text) {
  document.getElementById("announce").textContent = text;
}

function sentence(text) {
  return text ? `${text[0].toUpperCase()}${text.slice(1).replace(/\.$/, "")}.` : "";
}

/** Asks the API. Answers `[json, ""]`, or `[null, why]`. */
async function ask(path, body) {
  try {
    const response = await fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json", accept: "application/json" },
      body: JSON.stringify(body),
    });
    const json = await response.json().catch(() => ({}));
    if (response.ok) return [json, ""];
    const wait = response.headers.get("retry-after");
    const more = wait ? ` Wait ${wait}\u00a0s.` : "";
    return [null, sentence(json.error?.message || `the server answered ${response.status}`) + more];
  } catch {
    return [null, TRIES_TEXT];
  }
}

/** Keeps a form from being sent twice while it is being answered. */
async function once(form, work) {
  if (form.dataset.busy) return;
  form.dataset.busy = "1";
  form.setAttribute("aria-busy", "true");
  try {
    await work();
  } finally {
    delete form.dataset.busy;
    form.removeAttribute("aria-busy");
  }
}

function adopt(form) {
  return once(form, async () => {
    const dialog = form.closest("dialog");
    fault(dialog, "");
    const id = form.elements.machine_id.value;
    const [done, why] = await ask(`/api/machines/${encodeURIComponent(id)}/adopt`, { code: form.elements.code.value });
    if (!done) {
      fault(dialog, why);
      form.elements.code.select();
      return;
    }
    announce(`${dialog.querySelector("[data-name]").textContent} has joined.`);
    dialog.close();
  });
}

function connect(form) {
  return once(form, async () => {
    const said = form.querySelector(".said");
    said.textContent = "Dialling…";
    const body = { host: form.elements.host.value, port: Number(form.elements.port.value) };
    const [answer, why] = await ask("/api/cluster/connect", body);
    said.textContent = answer ? sentence(answer.message) : why;
  });
}

function invite(form) {
  return once(form, async () => {
    const dialog = form.closest("dialog");
    fault(dialog, "");
    const [made, why] = await ask("/api/join-tokens", {});
    if (!made) return fault(dialog, why);
    const text = `${made.command}\ncaelum agent`;
    dialog.querySelector("[data-made]").hidden = false;
    dialog.querySelector("[data-command]").textContent = text;
    dialog.querySelector("[data-expires]").textContent = clock(made.expires_at_ms, { day: "numeric", month: "short" });
    const copy = dialog.querySelector("[data-copies]");
    copy.dataset.copy = text;
    copy.hidden = !navigator.clipboard;
    announce("The token is made.");
  });
}

/** The server's zone, as everywhere on the page. */
function clock(ms, more) {
  const zone = Number(document.getElementById("live")?.dataset.zone ?? 0);
  const form = { hour: "2-digit", minute: "2-digit", second: "2-digit", timeZone: "UTC", ...more };
  return new Date(ms + zone).toLocaleString("en-GB", form);
}

function counted(number, one, many) {
  return `${number}\u00a0${number === 1 ? one : many}`;
}

function search(form) {
  const drawer = document.getElementById("discovery");
  if (!drawer) return undefined;
  drawer.hidden = false;
  const result = drawer.querySelector("[data-result]");
  const log = drawer.querySelector("[data-log]");
  return once(drawer, async () => {
    log.replaceChildren();
    result.textContent = "Listening…";
    const sweep = Boolean(form.elements.sweep?.checked);
    try {
      const response = await fetch("/api/cluster/discover", {
        method: "POST",
        headers: { "content-type": "application/json", accept: "text/event-stream" },
        body: JSON.stringify({ sweep, wait_ms: sweep ? 10_000 : 5_000 }),
      });
      if (!response.ok) {
        const json = await response.json().catch(() => ({}));
        result.textContent = sentence(json.error?.message || `the server answered ${response.status}`);
        return;
      }
      let summary = "";
      await events(response.body, (name, data) => {
        if (name === "line") add(log, data);
        if (name === "done") summary = summed(data);
      });
      result.textContent = summary || "The search ended early.";
      announce(result.textContent);
    } catch {
      result.textContent = TRIES_TEXT;
    }
  });
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

function add(log, line) {
  const row = document.createElement("li");
  for (const [kind, text] of [["time", clock(line.at_ms)], ["code", line.code.split(".")[0]], ["span", line.text]]) {
    const part = document.createElement(kind);
    part.textContent = text;
    row.append(part);
  }
  row.dataset.code = line.code;
  const isAtEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  log.append(row);
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

function summed(found) {
  const up = found.connection_attempts.filter((attempt) => attempt.connected).length;
  const silent = found.connection_attempts.length - up;
  const refused = found.log.filter((line) => line.code === "link.refused").length;
  const parts = [`${counted(found.udp_discovered, "machine", "machines")} discovered`];
  if (up) parts.push(`${up} connected`);
  if (refused) parts.push(`${refused} refused`);
  if (silent) parts.push(`${silent} could not be reached`);
  return parts.join(", ");
}

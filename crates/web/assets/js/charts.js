// Draws time series with uPlot over the SVG that the server sent, in the same place and the same colours.
//
// All charts of a page share cursor and time. Pointing at one writes every chart's value at that moment
// into its heading; there is nothing floating over the data. Gaps stay gaps.

const charts = new Map();
const MARGIN = 18;

/** Canvas needs resolved colours; a custom property with light-dark() is not one until it is used. */
function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(--${name})`;
  probe.hidden = true;
  document.body.append(probe);
  const resolved = getComputedStyle(probe).color;
  probe.remove();
  return resolved;
}

const LOOKS = {
  area: () => ({ stroke: colour("s1"), fill: colour("area"), width: 1.5 }),
  line: () => ({ stroke: colour("s1"), width: 1.5 }),
  second: () => ({ stroke: colour("s2"), width: 1.5, dash: [5, 3] }),
  baseline: () => ({ stroke: colour("baseline"), width: 1.5, dash: [5, 3] }),
  inner: () => ({ stroke: "transparent", fill: colour("band-2"), width: 0 }),
  outer: () => ({ stroke: "transparent", fill: colour("band-1"), width: 0 }),
};

export function start() {
  if (!window.uPlot) return;
  for (const plot of document.querySelectorAll("[data-plot]")) draw(plot);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  document.addEventListener("themechange", redraw);
}

/** Takes points of a live update: `{chart: {t, v, now}}` with the window they are for. */
export function take(message) {
  let zone = null;
  for (const [name, points] of Object.entries(message.charts)) {
    const chart = charts.get(name);
    if (!chart) {
      // Without uPlot the values in the headings still follow.
      setNow(name, points.now);
      continue;
    }
    if (message.reset) chart.data = { t: [], v: chart.data.v.map(() => []) };
    const first = points.t.length ? points.t[0] : Infinity;
    const keep = chart.data.t.findIndex((t) => t >= first);
    const kept = keep < 0 ? chart.data.t.length : keep;
    const drop = Math.max(0, chart.data.t.findIndex((t) => t >= message.from));
    const join = (now, more) => [...now.slice(drop, kept), ...more];
    chart.data = { t: join(chart.data.t, points.t), v: chart.data.v.map((line, i) => join(line, points.v[i])) };
    zone = chart.settings;
    chart.settings.from = message.from;
    chart.settings.to = message.to;
    chart.now = points.now;
    setNow(name, points.now);
    update(chart);
  }
  const window = document.querySelector("[data-window]");
  if (window && zone) window.textContent = `${clock(message.from, zone)} to ${clock(message.to, zone)}`;
}

function setNow(name, text) {
  for (const target of document.querySelectorAll(`[data-now-of="${name}"]`)) {
    if (target.textContent !== text) target.textContent = text;
  }
}

/** Lines with a hole wherever points are further apart than two and a half steps. */
function holed({ t, v }, step) {
  const times = [];
  const lines = v.map(() => []);
  t.forEach((at, index) => {
    if (index && at - t[index - 1] > step * 2.5) {
      times.push(t[index - 1] + step);
      lines.forEach((line) => line.push(null));
    }
    times.push(at);
    lines.forEach((line, i) => line.push(v[i][index] ?? null));
  });
  return [times, ...lines];
}

function niceTop(value) {
  if (!(value > 0)) return 1;
  const wanted = value * 1.08;
  const power = 10 ** Math.floor(Math.log10(wanted));
  return [1, 2, 4, 5, 10].map((step) => step * power).find((top) => top >= wanted) ?? 10 * power;
}

function ends(chart) {
  const { kind, min, max } = chart.settings;
  if (max !== null) return [min, max];
  const values = chart.data.v.flat().filter((value) => value !== null);
  const highest = values.length ? Math.max(...values) : 0;
  if (kind === "celsius" && !values.length) return [0, 100];
  if (kind === "celsius") {
    const lowest = Math.min(...values);
    const top = Math.max(highest, chart.settings.limit ?? highest);
    return [Math.floor(lowest / 10) * 10 - 10, Math.ceil(top / 10) * 10 + 5];
  }
  return [0, niceTop(highest)];
}

const RATES = [[1e12, "TB/s"], [1e9, "GB/s"], [1e6, "MB/s"], [1e3, "kB/s"], [1, "B/s"]];

function number(value) {
  const size = Math.abs(value);
  if (size >= 99.95) return Math.round(value).toLocaleString("en");
  if (size >= 9.95 || size === 0) return value.toFixed(0);
  return String(Number(value.toFixed(size >= 0.995 ? 1 : 2)));
}

function text(kind, value) {
  if (value === null || value === undefined) return "–";
  const gap = "\u00a0";
  switch (kind) {
    case "percent": return number(value) + gap + "%";
    case "number": return value.toFixed(2);
    case "celsius": return value.toFixed(0) + gap + "°C";
    case "score": return value.toFixed(0);
    case "time": return value >= 9950 ? number(value / 1000) + gap + "s" : number(value) + gap + "ms";
    default: {
      const [scale, unit] = RATES.find(([scale]) => value >= scale * 0.9995) ?? RATES.at(-1);
      return (scale === 1 ? value.toFixed(0) : number(value / scale)) + gap + unit;
    }
  }
}

/** Ticks below the topmost go without a unit, in the unit of the topmost. */
function tickTexts(kind, splits) {
  const top = splits.at(-1);
  return splits.map((value) => {
    if (value === top) return kind === "number" ? number(value) : text(kind, value);
    if (kind === "rate") return number(value / (RATES.find(([scale]) => top >= scale * 0.9995) ?? [1])[0]);
    if (kind === "time" && top >= 9950) return number(value / 1000);
    return number(value);
  });
}

/** Clock times are the server's, so that a chart agrees with the sentences around it. */
function clock(seconds, { from, to, offset }) {
  const at = new Date((seconds + offset) * 1000);
  const timeZone = "UTC";
  if (to - from > 172_800) return at.toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone });
  return at.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", timeZone });
}

function draw(element) {
  const settings = JSON.parse(element.dataset.settings);
  const data = JSON.parse(element.dataset.points);
  const name = element.dataset.plot;
  const area = element.querySelector(".plot-area");
  const chart = { name, element, area, settings, data: { t: data.t, v: data.v }, now: data.now, plot: null };
  charts.set(name, chart);
  build(chart);
  new ResizeObserver(() => {
    if (chart.plot && area.clientWidth) chart.plot.setSize({ width: area.clientWidth, height: settings.height + MARGIN });
  }).observe(area);
}

function build(chart) {
  const { settings, area, element, name } = chart;
  chart.plot?.destroy();
  area.querySelector(".canvas")?.remove();
  const holder = document.createElement("div");
  holder.className = "canvas";
  area.append(holder);
  const grid = colour("grid");
  const axis = colour("axis");
  const font = `11px ${getComputedStyle(document.body).fontFamily}`;
  const splits = () => {
    const [low, high] = ends(chart);
    if (settings.kind === "celsius") return [Math.round((low + high) / 20) * 10, Math.floor(high / 10) * 10 - (high % 10 ? 0 : 10)];
    return [low + (high - low) / 2, high];
  };
  const options = {
    width: area.clientWidth || 300,
    height: settings.height + MARGIN,
    padding: [0, 0, 0, 0],
    legend: { show: false },
    cursor: {
      sync: { key: "page" },
      drag: { x: true, y: false, setScale: false },
      points: { size: 7, width: 1.5, fill: colour("bg") },
      y: false,
    },
    scales: {
      x: { time: true, range: () => [settings.from, settings.to] },
      y: { range: () => ends(chart) },
    },
    axes: [
      {
        size: MARGIN, gap: 2, stroke: axis, font, grid: { show: false }, ticks: { show: false },
        splits: () => [settings.from, (settings.from + settings.to) / 2, settings.to],
        values: () => ["", "", ""],
      },
      { show: true, size: 0, stroke: axis, grid: { stroke: grid, width: 1 }, ticks: { show: false }, splits: () => [ends(chart)[0], ...splits()], values: () => [] },
    ],
    series: [{}, ...settings.lines.map(([label, look]) => ({ label, spanGaps: false, points: { size: 3, filter: lonely }, ...LOOKS[look]() }))],
    hooks: {
      drawClear: [(plot) => tintRegions(plot, settings)],
      draw: [(plot) => { writeAxes(plot, chart, splits(), axis, font); drawLimit(plot, settings); }],
      setCursor: [(plot) => writeCursor(plot, chart)],
      setSelect: [(plot) => choose(plot)],
    },
  };
  // Fans are filled from the outermost edge inwards, so the inner tint lies over the outer.
  chart.plot = new window.uPlot(options, holed(chart.data, settings.step), holder);
  element.dataset.drawn = "";
  area.querySelector(".void")?.toggleAttribute("hidden", chart.data.v.some((line) => line.some((value) => value !== null)));
  charts.set(name, chart);
}

/** A point without neighbours would draw no line, so it is drawn itself. */
function lonely(plot, series, show) {
  const values = plot.data[series];
  const alone = (value, i) => value !== null && (values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null;
  return values.flatMap((value, i) => (alone(value, i) ? [i] : []));
}

function update(chart) {
  chart.area.querySelector(".void")?.toggleAttribute("hidden", chart.data.v.some((line) => line.some((value) => value !== null)));
  if (!document.hidden) chart.plot.setData(holed(chart.data, chart.settings.step));
}

function redraw() {
  for (const chart of charts.values()) build(chart);
}

function tintRegions(plot, settings) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.globalAlpha = 0.07;
  ctx.fillStyle = colour("crit-mark");
  for (const [from, to] of settings.regions) {
    const left = Math.max(bbox.left, plot.valToPos(from, "x", true));
    const right = Math.min(bbox.left + bbox.width, plot.valToPos(to, "x", true));
    if (right > left) ctx.fillRect(left, bbox.top, right - left, bbox.height);
  }
  ctx.restore();
}

function drawLimit(plot, { limit }) {
  const { ctx, bbox } = plot;
  if (limit === null || limit > plot.scales.y.max || limit < plot.scales.y.min) return;
  const y = Math.round(plot.valToPos(limit, "y", true)) + 0.5;
  ctx.save();
  ctx.strokeStyle = colour("warn-mark");
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
  ctx.beginPath();
  ctx.moveTo(bbox.left, y);
  ctx.lineTo(bbox.left + bbox.width, y);
  ctx.stroke();
  ctx.restore();
}

/** Labels stand inside the plot, so that its edge is the text's edge; a halo keeps them readable. */
function writeAxes(plot, chart, splits, axis, font) {
  const { ctx, bbox } = plot;
  const ratio = devicePixelRatio;
  const { settings } = chart;
  const { from, to, kind } = settings;
  ctx.save();
  ctx.font = font.replace("11px", `${11 * ratio}px`);
  ctx.fillStyle = axis;
  ctx.strokeStyle = colour("bg");
  ctx.lineWidth = 3 * ratio;
  ctx.lineJoin = "round";
  const write = (words, x, y, align, base) => {
    ctx.textAlign = align;
    ctx.textBaseline = base;
    ctx.strokeText(words, x, y);
    ctx.fillText(words, x, y);
  };
  const texts = tickTexts(kind, splits);
  splits.forEach((value, index) => {
    const y = plot.valToPos(value, "y", true);
    const top = y < bbox.top + 10 * ratio;
    write(texts[index], bbox.left, top ? bbox.top + 2 * ratio : y - 3 * ratio, "left", top ? "top" : "bottom");
  });
  const below = bbox.top + bbox.height + 4 * ratio;
  const middle = (from + to) / 2;
  write(clock(from, settings), bbox.left, below, "left", "top");
  write(clock(middle, settings), bbox.left + bbox.width / 2, below, "center", "top");
  write(clock(to, settings), bbox.left + bbox.width, below, "right", "top");
  ctx.restore();
}

function writeCursor(plot, chart) {
  const target = document.querySelector(`[data-cursor-of="${chart.name}"]`);
  if (!target) return;
  const at = plot.cursor.idx;
  if (at === null || at === undefined || plot.cursor.left < 0) {
    target.textContent = "";
    return;
  }
  const { kind, lines } = chart.settings;
  const values = lines
    .map(([, look], index) => [look, plot.data[index + 1][at]])
    .filter(([look]) => look !== "baseline" && look !== "inner" && look !== "outer")
    .map(([, value]) => text(kind, value));
  target.textContent = `${clock(plot.data[0][at], chart.settings)} ${values.join(" / ")}`;
}

/** Dragging over a chart chooses the window for the whole page. */
function choose(plot) {
  if (plot.select.width < 8) return;
  const from = Math.round(plot.posToVal(plot.select.left, "x") * 1000);
  const to = Math.round(plot.posToVal(plot.select.left + plot.select.width, "x") * 1000);
  plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
  document.dispatchEvent(new CustomEvent("windowchoice", { detail: { from, to } }));
}

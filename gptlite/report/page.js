"use strict";

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const specs = JSON.parse(byId("specs").textContent);
const views = {};

// The charting library stands in the page compressed; as text of a script it runs, and only if the policy knows it.
async function loadLibrary() {
  const bytes = Uint8Array.from(atob(byId("library").textContent), (c) => c.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(plain).text();
  document.head.append(script);
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// How charts look, with the colours of the style sheet, which knows light and dark, in place of their names.
function theme() {
  const coloured = (value) => {
    if (Array.isArray(value)) return value.map(coloured);
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, coloured(part)]));
    }
    if (typeof value !== "string" || !value.startsWith("--")) return value;
    const colours = colour(value.slice(2)).split(" ");
    return colours.length > 1 ? colours : colours[0];
  };
  const config = coloured(JSON.parse(byId("theme").textContent));
  config.font = getComputedStyle(document.body).fontFamily;
  if (innerWidth < 560) config.legend.columns = 1;
  return config;
}

// A chart anew, in a place of the page. It begins with its data, because it makes room for labels once.
async function drawChart(id, size, { config = theme(), content = {}, renderer = "svg", autosize = "fit" } = {}) {
  const spec = specs[id];
  const { signals = {}, ...sets } = content;
  const params = (spec.params ?? []).map((x) => (x.name in signals ? { ...x, value: signals[x.name] } : x));
  views[id]?.finalize();
  const drawn = await vegaEmbed(byId(id), {
    ...spec, ...size, params, datasets: { ...spec.datasets, ...sets }, padding: { left: 0, right: 0, top: 0, bottom: 4 },
    autosize: { type: autosize, contains: "padding" },
  }, {
    mode: "vega-lite", ast: true, actions: false, defaultStyle: false, config, renderer,
    tooltip: { disableDefaultStyle: true },
  });
  views[id] = drawn.view;
}

// New data and signals for charts that are drawn already; `contents` has a function for each.
async function updateCharts(ids, contents) {
  for (const id of ids) {
    const { signals = {}, ...sets } = contents[id]();
    for (const [key, value] of Object.entries(signals)) views[id].signal(key, value);
    for (const [key, value] of Object.entries(sets)) views[id].data(key, value);
  }
  await Promise.all(ids.map((id) => views[id].runAsync()));
}

// A chart as a file, as it is seen now.
async function save(id, kind) {
  const content = kind === "svg"
    ? new Blob([await views[id].toSVG()], { type: "image/svg+xml" })
    : await views[id].toCanvas(2).then((canvas) => new Promise((done) => canvas.toBlob(done, "image/png")));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = `${id}.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// Buttons in the caption of each chart that save it as SVG or PNG.
function addExports() {
  for (const id of Object.keys(specs)) {
    const caption = byId(id).closest("figure").querySelector("figcaption");
    const group = document.createElement("span");
    group.className = "export";
    for (const kind of ["svg", "png"]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = kind.toUpperCase();
      button.setAttribute("aria-label", `Save this chart as ${kind.toUpperCase()}: ${caption.textContent.trim()}`);
      button.addEventListener("click", () => save(id, kind));
      group.append(button);
    }
    caption.append(group);
  }
}

// Load, draw, and draw again when the colours of the hour or the width change.
async function begin(draw) {
  await loadLibrary();
  addExports();
  await draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  let width = innerWidth;
  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    if (innerWidth !== width) waiting = setTimeout(() => { width = innerWidth; draw(); }, 120);
  });
}

// The switch of what curves are drawn over: a field of the log, of which data.axes has the names.
function switchAxes(draw) {
  const put = (spec, axis) => {
    const x = spec.encoding?.x;
    if (x?.field in data.axes) Object.assign(x, { field: axis, title: data.axes[axis] });
    for (const part of spec.layer ?? []) put(part, axis);
  };
  byId("axes")?.addEventListener("change", async (event) => {
    for (const spec of Object.values(specs)) put(spec, event.target.value);
    delete document.body.dataset.shown;
    await draw();
  });
}

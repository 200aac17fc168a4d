const rows = [...document.querySelectorAll("#sentences tbody tr")];
const sentences = rows.map((row) => row.querySelector(".sentence").textContent);
const n = rows.length;

const written = (cosine) => cosine.toFixed(2).replace(/^-0.00$/, "0.00").replace("-", "−");

function points(places) {
  return places.map(([x, y], i) => ({
    x, y, number: i + 1, word: data.words[data.word[i]], title: `${i + 1}`, sentence: sentences[i],
  }));
}

// A row stands for one occurrence, or for as many neighbours as it takes to keep the rows few; a cell is then a mean.
function cells(packed, order) {
  const bytes = atob(packed);
  const above = (i, j) => bytes.charCodeAt(i * n - (i * (i + 3)) / 2 + j - 1);
  const between = (i, j) => (above(Math.min(i, j), Math.max(i, j)) - 100) / 100;
  const groups = [];
  for (let i = 0; i < n; i += data.together) groups.push(order.slice(i, i + data.together));
  const names = groups.map((group) => group.map((i) => i + 1).join(", "));
  const mean = (a, b) => {
    let [sum, count] = [0, 0];
    for (const i of a) for (const j of b) if (i !== j) { sum += between(i, j); count++; }
    return count ? sum / count : 1;
  };
  return groups.flatMap((a, i) => groups.map((b, j) => {
    const cosine = mean(a, b);
    const text = `${names[i]} and ${names[j]}: ${written(cosine)}${a.length * b.length > 1 ? " on average" : ""}`;
    return { row: a[0] + 1, column: b[0] + 1, cosine, text };
  }));
}

// Occurrences in the order of the matrices: as in the text, or from left to right on the map.
function order(layer) {
  const places = data.places[layer].map((place, i) => [place[0], i]);
  if (byId("sorted").checked) places.sort((a, b) => a[0] - b[0]);
  return places.map(([, i]) => i);
}

// What a chart shows of a layer: the rows of its data set, and its signals.
const contents = {
  map: (layer) => ({
    points: points(data.places[layer]), signals: { axis1: data.axes[layer][0], axis2: data.axes[layer][1] },
  }),
  "static-map": () => ({ points: points(data.staticPlaces) }),
  matrix: (layer) => ({
    cells: cells(data.cosines[layer], order(layer)), signals: { stops: data.stops[layer] },
  }),
  "static-matrix": (layer) => ({
    cells: cells(data.staticCosines, order(layer)), signals: { stops: data.stops[layer] },
  }),
  curve: (layer) => ({ now: [{ layer }] }),
};

const chosenLayer = () => Number(byId("layer").value);

// What the page says of a layer outside of the charts.
function tell(layer) {
  const name = data.names[layer];
  byId("name").textContent = name;
  byId("layer").setAttribute("aria-valuetext", name);
  byId("summary").textContent = data.summaries[layer];
  rows.forEach((row, i) => { row.querySelector(".nearest").textContent = data.nearest[layer][i]; });
  [...byId("ticks").children].forEach((tick, i) => {
    tick.textContent = written(data.stops[layer][i]);
  });
  document.body.dataset.shown = layer;
}

const show = (layer) => {
  const now = Object.fromEntries(Object.entries(contents).map(([id, content]) => [id, () => content(layer)]));
  return updateCharts(Object.keys(contents), now).then(() => tell(layer));
};

// All charts anew, as wide as there is room. Maps are square, or they would distort.
async function draw() {
  const layer = chosenLayer();
  for (const id of Object.keys(specs)) {
    const width = byId(id).clientWidth;
    const side = Math.min(width, 460);
    const size = id === "curve" ? { width, height: Math.min(320, width * 0.8) } : { width: side, height: side };
    await drawChart(id, size, {
      content: contents[id](layer), renderer: id.endsWith("matrix") ? "canvas" : "svg",
      autosize: id.endsWith("map") ? "pad" : "fit",
    });
  }
  tell(layer);
}

function choose(number) {
  views.map.signal("chosen", number).runAsync();
}

begin(draw).then(() => {
  byId("layer").addEventListener("input", () => show(chosenLayer()));
  byId("sorted").addEventListener("change", () => show(chosenLayer()));
  byId("control").addEventListener("submit", (event) => event.preventDefault());
  rows.forEach((row, i) => {
    row.addEventListener("pointerenter", () => choose(i + 1));
    row.addEventListener("pointerleave", () => choose(0));
  });
});

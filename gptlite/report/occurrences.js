const rows = [...document.querySelectorAll("#sentences tbody tr")];
const sentences = rows.map((row) => row.querySelector(".sentence").textContent);
const n = rows.length;

const model = null; // the page has vectors, and no model
let arrays; // of the block

const written = number;
const above = (n * (n - 1)) / 2;
// Of a layer, or of the static vectors, which follow the last layer.
const cosinesOf = (layer) => arrays.cosines.subarray(layer * above, (layer + 1) * above);
const fixed = () => cosinesOf(data.places.length);
function between(cosines, i, j) {
  const [a, b] = [Math.min(i, j), Math.max(i, j)];
  return i === j ? 1 : cosines[a * n - (a * (a + 3)) / 2 + b - 1];
}

function points(places) {
  return places.map(([x, y], i) => ({
    x, y, number: i + 1, word: data.words[data.word[i]], title: `${i + 1}`, sentence: sentences[i],
  }));
}

// A row stands for one occurrence, or for as many neighbours as it takes to keep the rows few; a cell is then a mean.
function cells(cosines, order) {
  const groups = [];
  for (let i = 0; i < n; i += data.together) groups.push(order.slice(i, i + data.together));
  const names = groups.map((group) => group.map((i) => i + 1).join(", "));
  const mean = (a, b) => {
    let [sum, count] = [0, 0];
    for (const i of a) for (const j of b) if (i !== j) { sum += between(cosines, i, j); count++; }
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
    points: points(data.places[layer]),
    signals: { axis1: data.axes[layer][0], axis2: data.axes[layer][1], one: pair[0] + 1, other: pair[1] + 1 },
  }),
  "static-map": () => ({ points: points(data.staticPlaces), signals: { one: pair[0] + 1, other: pair[1] + 1 } }),
  matrix: (layer) => ({
    cells: cells(cosinesOf(layer), order(layer)), signals: { stops: data.stops[layer] },
  }),
  "static-matrix": (layer) => ({
    cells: cells(fixed(), order(layer)), signals: { stops: data.stops[layer] },
  }),
  curve: (layer) => ({ now: [{ layer }] }),
};

// Which other occurrence is most like occurrence i.
function nearest(layer, i) {
  const cosines = cosinesOf(layer);
  let best = -1;
  for (let j = 0; j < n; j += 1) {
    if (j !== i && (best < 0 || between(cosines, i, j) > between(cosines, i, best))) best = j;
  }
  return best < 0 ? "" : `${best + 1} (${written(between(cosines, i, best))})`;
}

// -- Pairs

const MOST_PAIRS = 6; // that a verdict is given on
let pair = [0, Math.min(1, n - 1)];
let turn = 0; // which of the two the next click replaces

// What verdict.js asks of two occurrences.
function factsOf(layer, i, j) {
  const isSame = data.forms[i] === data.forms[j];
  const spread = arrays[isSame ? "same_word" : "unrelated"];
  return {
    cosine: between(cosinesOf(layer), i, j), isSame, isSameTokens: data.tokens[i] === data.tokens[j],
    isOneText: data.prefixes[i] === data.prefixes[j], quantiles: spread?.subarray(layer * 101, (layer + 1) * 101) ?? null,
    unit: data.unit,
  };
}

// The pairs that the terminal names: all of a few, else those furthest apart and those closest.
function named(layer) {
  const cosines = cosinesOf(layer);
  const all = [];
  for (let i = 0; i < n; i += 1) for (let j = i + 1; j < n; j += 1) all.push([i, j]);
  if (all.length <= MOST_PAIRS) return all;
  const order = [...all.keys()].sort((a, b) => cosines[a] - cosines[b]);
  return [...order.slice(0, MOST_PAIRS / 2), ...order.slice(-MOST_PAIRS / 2)].sort((a, b) => a - b).map((k) => all[k]);
}

function tellPairs(layer) {
  rows.forEach((row, i) => row.classList.toggle("picked", n > 1 && pair.includes(i)));
  if (n < 2) return;
  const [i, j] = pair;
  pair.forEach((k, side) => {
    byId(`pick-${side}`).value = k;
    byId(`shown-${side}`).replaceChildren(...rows[k].querySelector(".sentence").cloneNode(true).childNodes);
  });
  const facts = factsOf(layer, i, j);
  if (i === j) Object.assign(facts, { isOneText: true });
  tellPair(facts, between(fixed(), i, j));
  byId("cannot-tell").textContent = facts.isSame ? label("cannotTell") : "";
  const pairs = named(layer);
  byId("verdicts-note").textContent = pairs.length < above
    ? `of ${above.toLocaleString("en")} pairs, the ${pairs.length} furthest apart and closest` : "";
  byId("verdicts").replaceChildren(...pairs.map(([a, b]) => {
    const button = element("button", { type: "button" }, element("b", { textContent: `${a + 1}–${b + 1}` }),
      ` ${verdictOf(factsOf(layer, a, b)).text}`);
    button.setAttribute("aria-pressed", String(a === i && b === j));
    button.addEventListener("click", () => pick(a, b));
    return element("li", {}, button);
  }));
}

// Compare these two; everything follows.
function pick(i, j) {
  pair = [i, j];
  tellPairs(chosenLayer());
  const told = Object.fromEntries(["map", "static-map"].map((id) => [id, () => ({ signals: { one: i + 1, other: j + 1 } })]));
  return updateCharts(Object.keys(told), told);
}

// One occurrence takes the place of the one that was chosen before the last.
function pickOne(i) {
  if (pair.includes(i)) return;
  const next = turn ? [pair[0], i] : [i, pair[1]];
  turn = 1 - turn;
  pick(...next);
}

const chosenLayer = () => Number(byId("layer").value);

// What the page says of a layer outside of the charts.
function tell(layer) {
  const name = data.names[layer];
  byId("name").textContent = name;
  byId("layer").setAttribute("aria-valuetext", name);
  byId("summary").textContent = data.summaries[layer];
  rows.forEach((row, i) => { row.querySelector(".nearest").textContent = nearest(layer, i); });
  tellPairs(layer);
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
  for (const id of ["map", "static-map"]) {
    views[id].addEventListener("click", (_, item) => item?.datum?.number && pickOne(item.datum.number - 1));
  }
  for (const id of ["matrix", "static-matrix"]) {
    views[id].addEventListener("click", (_, item) => {
      const { row, column } = item?.datum ?? {};
      if (row && row !== column) pick(Math.min(row, column) - 1, Math.max(row, column) - 1);
    });
  }
  tell(layer);
}

async function beginPage() {
  arrays = unpack(await unzip(unbase64(byId("block").textContent))).arrays;
  relabelParts();
  for (const row of rows) {
    const word = row.querySelector("mark").textContent;
    for (const box of row.querySelectorAll(".token")) showToken(box, box.textContent, word);
  }
  startProjector(() => draw());
  await begin(draw);
  byId("layer").addEventListener("input", () => show(chosenLayer()));
  byId("sorted").addEventListener("change", () => show(chosenLayer()));
  for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
  for (const side of n > 1 ? [0, 1] : []) {
    byId(`pick-${side}`).addEventListener("change", () => pick(Number(byId("pick-0").value), Number(byId("pick-1").value)));
  }
  rows.forEach((row, i) => {
    const hover = (number) => views.map.signal("hovered", number).runAsync();
    row.addEventListener("pointerenter", () => hover(i + 1));
    row.addEventListener("pointerleave", () => hover(0));
    row.addEventListener("click", () => pickOne(i));
  });
}

beginPage();

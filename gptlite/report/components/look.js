// Tokens, attention, heads and layers of a text, all linked by what is chosen.

const MOST_SHOWN = 160; // columns of the grid, the start included
const MOST_CELLS = 48; // tokens of a thumbnail

const looking = {
  ids: [], bits: [], // of the whole text, with the start
  from: 0, to: 0, // the tokens that have a column
  at: 0, layer: 0, head: 0, // chosen: token, layer and head of attention
  depth: 0, // chosen row of the lens: layers passed
  guess: null, // a token id that is looked for everywhere
  maps: null, first: 0, mapped: 0, // the attention of tokens `first` and on, `mapped` of them
  lens: [], // for each token but the start, what each layer expected there
};

const triangle = (t) => (t * (t + 1)) / 2;
const isMapped = (t) => t >= looking.first && t < looking.first + looking.mapped;

// How much token t takes from each of the tokens from `first` to t; empty where that is not known.
function weightsOf(layer, head, t) {
  if (!isMapped(t)) return new Float32Array(0);
  const row = t - looking.first;
  const start = (layer * model.config.n_heads + head) * triangle(looking.mapped) + triangle(row);
  return looking.maps.subarray(start, start + row + 1);
}

// The last token that is no mark and no space, for they tell little.
function lastWord(ids) {
  const isWord = (id) => /[\p{L}\p{N}]/u.test(nameOf(id)) && id !== model.special.separator;
  const last = ids.findLastIndex(isWord);
  return last > 0 ? last : ids.length - 1;
}

// Show a text that was read; `found` has what `looking` has of it.
function explore(found) {
  Object.assign(looking, { from: 0, to: found.ids.length, first: 0, lens: [], guess: null }, found);
  place(looking.at);
  drawHeads();
  return choose({});
}

// The columns around a token, where there are too many for all of them; those that have attention stay together.
function place(at) {
  const [begin, end] = isMapped(at) ? [looking.first, looking.first + looking.mapped] : [0, looking.ids.length];
  if (end - begin <= MOST_SHOWN) [looking.from, looking.to] = [begin, end];
  else {
    looking.from = Math.max(begin, Math.min(at - Math.floor(MOST_SHOWN / 2), end - MOST_SHOWN));
    looking.to = looking.from + MOST_SHOWN;
  }
  drawGrid();
}

// Choose a token, a head, a layer or a guess: what is named changes, and everything follows.
async function choose(what, { focus = false } = {}) {
  Object.assign(looking, what);
  const { at, layer, head } = looking;
  const isElsewhere = at < looking.from || at >= looking.to || (isMapped(at) && !isMapped(looking.from));
  if (isElsewhere) place(at);
  for (const cell of byId("grid").querySelectorAll("[data-at]")) {
    const isHere = Number(cell.dataset.at) === at;
    cell.classList.toggle("chosen", isHere);
    if (cell.getAttribute("role") === "option") cell.setAttribute("aria-selected", String(isHere));
    if (cell.dataset.depth !== undefined) {
      cell.classList.toggle("deep", isHere && Number(cell.dataset.depth) === looking.depth);
      cell.classList.toggle("guessed", looking.guess !== null && Number(cell.dataset.best) === looking.guess);
    }
  }
  for (const button of byId("heads").querySelectorAll("button")) {
    const isHere = button.dataset.head === `${layer}.${head}`;
    button.setAttribute("aria-checked", String(isHere));
    button.tabIndex = isHere ? 0 : -1;
    if (isHere && focus === "head") button.focus();
  }
  for (const node of document.querySelectorAll(".head-name")) node.textContent = label("headName", layer + 1, head + 1);
  drawWeights();
  drawArcs();
  tellHabit();
  tellChosen();
  const column = byId("grid").querySelector(`thead [data-at="${at}"]`);
  const [box, seen] = [byId("scroller").getBoundingClientRect(), column.getBoundingClientRect()];
  if (seen.left < box.left + 90 || seen.right > box.right) {
    byId("scroller").scrollLeft += seen.left - box.left - box.width / 2;
  }
  document.body.dataset.chosen = `${at} ${layer + 1}.${head + 1}`;
  await Promise.all([drawStep(), looking.followed?.()]);
  document.body.dataset.shown = document.body.dataset.chosen;
}

// -- The grid: tokens, weights, layers

const columns = () => Array.from({ length: looking.to - looking.from }, (_, i) => looking.from + i);

function drawGrid() {
  const { n_layers: L } = model.config;
  const { ids, bits } = looking;
  const focused = document.activeElement?.id === "tokens";
  const tokens = columns().map((t) => element("th", {
    role: "option", "data-at": t, className: `b${tintOf(bits[t])}`, scope: "col", id: `l${t}`, title: nameOf(ids[t]),
    "aria-label": label("tokenBits", nameOf(ids[t]), t && bits[t] !== null ? number(bits[t], 1) : "–"),
  }, tokenAt(ids, t)));
  const row = element("tr", { role: "listbox", tabIndex: 0, id: "tokens", "aria-label": label("writtenList") },
    element("td", { role: "presentation" }), ...tokens);
  byId("grid").tHead.replaceChildren(row);
  const weights = element("tr", { className: "weights" }, element("th", { scope: "row", textContent: label("weightRow") }),
    ...columns().map((t) => element("td", { "data-at": t })));
  const layers = Array.from({ length: L + 1 }, (_, i) => L - i).map((depth) => element("tr", {},
    element("th", { scope: "row", textContent: depth ? label("afterLayer", depth) : label("noBlock") }),
    ...columns().map((t) => element("td", { "data-at": t, "data-depth": depth, className: "lens" }))));
  byId("grid").tBodies[0].replaceChildren(weights, ...layers);
  arrows(row, () => looking.at, () => looking.ids.length, (at) => choose({ at }));
  row.addEventListener("keydown", (event) => {
    const step = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    choose({ depth: Math.max(0, Math.min(L, looking.depth + step)) });
  }, true);
  if (focused) row.focus();
  for (const t of columns()) drawColumn(t);
}

function drawColumn(t) {
  const came = looking.ids[t];
  looking.lens[t]?.forEach(({ best, bits }, depth) => {
    const cell = byId("grid").querySelector(`td[data-at="${t}"][data-depth="${depth}"]`);
    cell.className = `lens b${tintOf(bits)}${cell.className.includes("chosen") ? " chosen" : ""}`;
    cell.dataset.best = best;
    cell.title = nameOf(best);
    cell.replaceChildren(...(best === came ? ["✓ "] : []), tokenAt(looking.ids, t, best));
  });
}

function drawWeights() {
  const { first, layer, head, at } = looking;
  const weights = weightsOf(layer, head, at);
  for (const cell of byId("grid").querySelectorAll(".weights td")) {
    const w = weights[Number(cell.dataset.at) - first];
    cell.className = "weighed";
    cell.style.setProperty("--share", shareOf(w));
    cell.textContent = w === undefined ? "" : percent(w);
  }
}

// Arcs from the chosen token to those that it takes from.
function drawArcs() {
  const svg = byId("arcs");
  const left = byId("grid").getBoundingClientRect().left;
  const middle = new Map([...byId("grid").querySelectorAll("thead [data-at]")].map((cell) => {
    const seen = cell.getBoundingClientRect();
    return [Number(cell.dataset.at), seen.left - left + seen.width / 2];
  }));
  const [width, height] = [byId("grid").offsetWidth, 120];
  const name = "http://www.w3.org/2000/svg";
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  const { first, at } = looking;
  const weights = weightsOf(looking.layer, looking.head, at);
  const to = middle.get(at);
  const drawn = [...weights.keys()].filter((s) => weights[s] >= 0.01 && middle.has(first + s));
  svg.replaceChildren(...drawn.map((s) => {
    const path = document.createElementNS(name, "path");
    const from = middle.get(first + s);
    const peak = Math.max(6, height - 22 - Math.min(height - 30, Math.abs(to - from) * 0.32));
    path.setAttribute("d", first + s === at
      ? `M ${to - 7} ${height} C ${to - 20} ${height - 36}, ${to + 20} ${height - 36}, ${to + 7} ${height}`
      : `M ${to} ${height} C ${to} ${peak}, ${from} ${peak}, ${from} ${height}`);
    path.setAttribute("stroke-width", 1 + 9 * weights[s]);
    path.setAttribute("stroke-opacity", 0.25 + 0.75 * weights[s]);
    return path;
  }));
}

// -- Heads

const rgb = (text) => text.match(/[\d.]+/g).slice(0, 3).map(Number);
function colourOf(name) {
  const probe = element("span", { className: `probe-${name}` });
  document.body.append(probe);
  const found = rgb(getComputedStyle(probe).color);
  probe.remove();
  return found;
}

function drawHeads() {
  const { n_layers: L, n_heads: H } = model.config;
  byId("heads").style.setProperty("--heads", H);
  byId("heads").replaceChildren(...Array.from({ length: L * H }, (_, i) => {
    const [layer, head] = [Math.floor(i / H), i % H];
    const button = element("button", {
      type: "button", role: "radio", "data-head": `${layer}.${head}`, "aria-label": label("headName", layer + 1, head + 1),
      title: label("headName", layer + 1, head + 1),
    }, element("canvas"));
    button.addEventListener("click", () => choose({ layer, head, depth: layer + 1 }));
    return button;
  }));
  paintHeads();
}

function paintHeads() {
  const [paper, blue] = [colourOf("paper"), colourOf("attention")];
  const n = Math.min(looking.mapped, MOST_CELLS);
  const skipped = looking.mapped - n; // the last ones where there are many
  for (const button of byId("heads").children) {
    const [layer, head] = button.dataset.head.split(".").map(Number);
    const canvas = button.firstElementChild;
    canvas.width = n;
    canvas.height = n;
    const picture = new ImageData(n, n);
    for (let t = 0; t < n; t += 1) {
      const row = weightsOf(layer, head, looking.first + skipped + t);
      for (let s = 0; s < n; s += 1) {
        const share = shareOf(row[skipped + s]);
        for (let c = 0; c < 3; c += 1) picture.data[4 * (t * n + s) + c] = paper[c] + (blue[c] - paper[c]) * share;
        picture.data[4 * (t * n + s) + 3] = 255;
      }
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }
}

// Where the chosen head looks on average, over the tokens that have at least two before them.
function tellHabit() {
  const { layer, head, first, mapped } = looking;
  const shares = [0, 0, 0];
  const start = Math.min(2, mapped - 1);
  for (let t = start; t < mapped; t += 1) {
    const row = weightsOf(layer, head, first + t);
    [0, t - 1, t].forEach((s, i) => { shares[i] += (row[s] ?? 0) / (mapped - start); });
  }
  const rest = Math.max(0, 1 - shares.reduce((a, b) => a + b, 0));
  byId("habit").textContent = label("habit", ...[...shares, rest].map(percent));
}

// -- What is said of the chosen token

function tellChosen() {
  const { at, ids, bits, depth, entropy, rank } = looking;
  byId("chosen").textContent = at ? label("chosen", nameOf(ids[at]), at, ids.length - 1) : label("chosenStart");
  const layer = depth ? label("afterLayer", depth) : label("noBlock");
  const facts = at ? [label("chosenBits", number(bits[at]))] : [];
  if (at && entropy) facts.push(label("chosenEntropy", number(entropy[at])), label("chosenRank", count(rank[at])));
  byId("chosen-facts").textContent = at ? `${facts.join(" ")} ${label("chosenExpected", layer)}` : "";
  if (!at) return byId("expected").replaceChildren();
  return remote("expected", "look", at - 1, depth, 8).then((found) => {
    if (looking.at !== at || looking.depth !== depth) return;
    drawBars(byId("expected"), found.map(({ id, p }) => ({ id, p, came: id === ids[at] })), ids[at - 1],
      (id) => choose({ guess: looking.guess === id ? null : id }), (id) => id === looking.guess);
  });
}

function startLooking() {
  byId("grid").addEventListener("click", (event) => {
    const cell = event.target.closest("[data-at]");
    if (!cell) return;
    const what = { at: Number(cell.dataset.at) };
    if (cell.dataset.depth !== undefined) {
      const depth = Number(cell.dataset.depth);
      Object.assign(what, { depth, layer: Math.max(0, depth - 1) });
    }
    choose(what);
  });
  const { n_heads: H, n_layers: L } = model.config;
  arrows(byId("heads"), () => looking.layer * H + looking.head, () => L * H, (i) => choose(
    { layer: Math.floor(i / H), head: i % H, depth: Math.floor(i / H) + 1 }, { focus: "head" },
  ), () => H);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    if (!looking.maps) return;
    paintHeads();
    drawStep();
  });
  addEventListener("resize", resizedLook);
}

function resizedLook() {
  if (looking.maps && byId("grid").offsetParent) drawArcs();
}

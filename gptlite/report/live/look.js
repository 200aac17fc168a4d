// The view "Look inside": tokens, attention, heads and layers, all linked by what is chosen.

const MOST_SHOWN = 160; // tokens, the start included
const MOST_CELLS = 48; // tokens of a thumbnail

const looking = {
  ids: [], bits: [], // with the start
  at: 0, layer: 0, head: 0, // chosen: token, layer and head of attention
  depth: 0, // chosen row of the lens: layers passed
  guess: null, // a token id that is looked for everywhere
  maps: null, mapped: 0,
  lens: [], // for each token but the start, what each layer expected there
};

const triangle = (t) => (t * (t + 1)) / 2;
function weightsOf(layer, head, t) {
  const start = (layer * model.config.n_heads + head) * triangle(looking.mapped) + triangle(t);
  return looking.maps.subarray(start, start + t + 1);
}

// -- Reading

async function readText() {
  const given = byId("text").value;
  const encoded = await remote("encode", given);
  const most = Math.min(model.config.context_length, MOST_SHOWN) - 1;
  byId("inside").hidden = encoded.ids.length === 0;
  byId("look-note").textContent = encoded.ids.length === 0 ? label("empty")
    : encoded.ids.length > most ? label("tooLong", most, count(encoded.ids.length)) : "";
  if (encoded.ids.length === 0) return;
  const ids = [model.special.separator, ...encoded.ids.slice(0, most)];
  const { bits } = await remote("start", "look", ids);
  const maps = await remote("maps", "look", ids.length);
  Object.assign(looking, { ids, bits, maps, mapped: ids.length, lens: [], guess: null });
  looking.at = lastWord(ids);
  drawGrid();
  drawHeads();
  await choose({});
  for (let t = 0; t + 1 < ids.length && looking.ids === ids; t += 1) {
    looking.lens[t + 1] = await remote("lens", "look", t, ids[t + 1]);
    drawColumn(t + 1);
  }
  if (looking.ids === ids) tellChosen();
}

// The last token that is no mark and no space, for they tell little.
function lastWord(ids) {
  const isWord = (id) => /[\p{L}\p{N}]/u.test(nameOf(id)) && id !== model.special.separator;
  const last = ids.findLastIndex(isWord);
  return last > 0 ? last : ids.length - 1;
}

// Choose a token, a head, a layer or a guess: what is named changes, and everything follows.
async function choose(what, { focus = false } = {}) {
  Object.assign(looking, what);
  const { at, layer, head } = looking;
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
  tellChosen();
  const column = byId("grid").querySelector(`thead [data-at="${at}"]`);
  const [box, place] = [byId("scroller").getBoundingClientRect(), column.getBoundingClientRect()];
  if (place.left < box.left + 90 || place.right > box.right) {
    byId("scroller").scrollLeft += place.left - box.left - box.width / 2;
  }
  document.body.dataset.chosen = `${at} ${layer + 1}.${head + 1}`;
  await drawStep();
  document.body.dataset.shown = document.body.dataset.chosen;
}

// -- The grid: tokens, weights, layers

function drawGrid() {
  const { n_layers: L } = model.config;
  const tokens = looking.ids.map((id, t) => element("th", {
    role: "option", "data-at": t, className: `b${tintOf(looking.bits[t])}`, scope: "col", id: `l${t}`,
    "aria-label": label("tokenBits", nameOf(id), looking.bits[t] === null ? "–" : number(looking.bits[t], 1)),
  }, element("bdi", { textContent: nameOf(id) })));
  const row = element("tr", { role: "listbox", tabIndex: 0, id: "tokens", "aria-label": label("writtenList") },
    element("td", { role: "presentation" }), ...tokens);
  byId("grid").tHead.replaceChildren(row);
  const weights = element("tr", { className: "weights" }, element("th", { scope: "row", textContent: label("weightRow") }),
    ...looking.ids.map((_, t) => element("td", { "data-at": t })));
  const layers = Array.from({ length: L + 1 }, (_, i) => L - i).map((depth) => element("tr", {},
    element("th", { scope: "row", textContent: depth ? label("afterLayer", depth) : label("noBlock") }),
    ...looking.ids.map((_, t) => element("td", { "data-at": t, "data-depth": depth, className: "lens" }))));
  byId("grid").tBodies[0].replaceChildren(weights, ...layers);
  arrows(row, () => looking.at, () => looking.ids.length, (at) => choose({ at }));
  row.addEventListener("keydown", (event) => {
    const step = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    choose({ depth: Math.max(0, Math.min(L, looking.depth + step)) });
  }, true);
  looking.lens.forEach((_, t) => drawColumn(t));
}

function drawColumn(t) {
  const came = looking.ids[t];
  looking.lens[t]?.forEach(({ best, bits }, depth) => {
    const cell = byId("grid").querySelector(`td[data-at="${t}"][data-depth="${depth}"]`);
    cell.className = `lens b${tintOf(bits)}${cell.className.includes("chosen") ? " chosen" : ""}`;
    cell.dataset.best = best;
    cell.replaceChildren(element("bdi", { textContent: `${best === came ? "✓ " : ""}${nameOf(best)}` }));
  });
}

function drawWeights() {
  const weights = weightsOf(looking.layer, looking.head, looking.at);
  [...byId("grid").querySelectorAll(".weights td")].forEach((cell, s) => {
    const w = weights[s];
    cell.style.setProperty("--weight", w ?? 0);
    cell.textContent = w === undefined ? "" : percent(w);
  });
}

// Arcs from the chosen token to those that it takes from.
function drawArcs() {
  const svg = byId("arcs");
  const heads = [...byId("grid").querySelectorAll("thead [data-at]")];
  const left = byId("grid").getBoundingClientRect().left;
  const middle = heads.map((cell) => {
    const place = cell.getBoundingClientRect();
    return place.left - left + place.width / 2;
  });
  const [width, height] = [byId("grid").offsetWidth, 120];
  const name = "http://www.w3.org/2000/svg";
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  const weights = weightsOf(looking.layer, looking.head, looking.at);
  const to = middle[looking.at];
  svg.replaceChildren(...[...weights.keys()].filter((s) => weights[s] >= 0.01).map((s) => {
    const path = document.createElementNS(name, "path");
    const distance = Math.abs(to - middle[s]);
    const peak = Math.max(6, height - 22 - Math.min(height - 30, distance * 0.32));
    path.setAttribute("d", s === looking.at
      ? `M ${to - 7} ${height} C ${to - 20} ${height - 36}, ${to + 20} ${height - 36}, ${to + 7} ${height}`
      : `M ${to} ${height} C ${to} ${peak}, ${middle[s]} ${peak}, ${middle[s]} ${height}`);
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
  const [paper, blue] = [colourOf("paper"), colourOf("accent")];
  const n = Math.min(looking.mapped, MOST_CELLS);
  const first = looking.mapped - n; // the last ones where there are many
  for (const button of byId("heads").children) {
    const [layer, head] = button.dataset.head.split(".").map(Number);
    const canvas = button.firstElementChild;
    canvas.width = n;
    canvas.height = n;
    const picture = new ImageData(n, n);
    for (let t = 0; t < n; t += 1) {
      const row = weightsOf(layer, head, first + t);
      for (let s = 0; s < n; s += 1) {
        const share = Math.sqrt(row[first + s] ?? 0);
        for (let c = 0; c < 3; c += 1) picture.data[4 * (t * n + s) + c] = paper[c] + (blue[c] - paper[c]) * share;
        picture.data[4 * (t * n + s) + 3] = 255;
      }
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }
}

// -- What is said of the chosen token

function tellChosen() {
  const { at, ids, bits, depth } = looking;
  byId("chosen").textContent = at ? label("chosen", nameOf(ids[at]), at, ids.length - 1) : label("chosenStart");
  const layer = depth ? label("afterLayer", depth) : label("noBlock");
  byId("chosen-facts").textContent = at ? label("chosenFacts", number(bits[at]), layer) : "";
  if (!at) return byId("expected").replaceChildren();
  return remote("expected", "look", at - 1, depth, 8).then((found) => {
    if (looking.at !== at || looking.depth !== depth) return;
    drawBars(byId("expected"), found.map(({ id, p }) => ({ id, p, came: id === ids[at] })),
      (id) => choose({ guess: looking.guess === id ? null : id }), (id) => id === looking.guess);
  });
}

parts.look = {
  begin() {
    looking.layer = model.config.n_layers - 1;
    looking.depth = model.config.n_layers;
    byId("look-form").addEventListener("submit", readText);
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
    addEventListener("resize", () => parts.look.resized());
  },
  async shown() {
    if (looking.maps) return choose({});
    const written = writing.ids.slice(writing.hidden).filter((id) => !isEnd(id));
    const decode = decoder();
    byId("text").value ||= written.map(decode).join("").slice(0, 160).trim() || model.prompt;
    return readText();
  },
  resized() {
    if (looking.maps && !byId("look").hidden) drawArcs();
  },
  label() {
    if (!looking.maps) return;
    drawGrid();
    drawHeads();
    choose({});
  },
};

// A text with the numbers that a model had for it: what the components ask, and what goes along with them.

const { model, names, tokens } = data;
const nameOf = (id) => names[id];
let arrays; // of the block
const options = [...document.querySelectorAll("#text [role=option]")];

const stretchOf = (array, width, i) => array.subarray(i * width, (i + 1) * width);

// What the page of a model asks its worker.
const known = {
  // The likeliest tokens after token t, had the model ended after so many layers.
  expected(t, depth) {
    const isLast = depth === model.config.n_layers && data.nTop > 0;
    const [ids, ps, width] = isLast ? [arrays.top, arrays.topP, data.nTop] : [arrays.layerTop, arrays.layerTopP, data.nLayerTop];
    const i = isLast ? t : depth * tokens.length + t;
    const shares = stretchOf(ps, width, i);
    return [...stretchOf(ids, width, i)].map((id, k) => ({ id, p: shares[k] }));
  },

  // One step of attention, of the tokens from the first that has attention to t.
  step(layer, head, t) {
    const kept = data.stepLayers.indexOf(layer);
    if (kept < 0 || !isMapped(t)) return null;
    const { n_heads: H, n_kv_heads: K, head_dim: C } = model.config;
    const [T, row] = [looking.mapped, t - looking.first];
    const weights = weightsOf(layer, head, t);
    const logSum = arrays.logSums[(kept * H + head) * T + row];
    const from = (kept * K + Math.floor(head / (H / K))) * T;
    const rows = (array) => Array.from({ length: row + 1 }, (_, s) => stretchOf(array, C, from + s));
    const [keys, values] = [rows(arrays.keys), rows(arrays.values)];
    const output = new Float32Array(C);
    values.forEach((value, s) => value.forEach((x, i) => { output[i] += weights[s] * x; }));
    return {
      query: stretchOf(arrays.queries, C, (kept * H + head) * T + row), keys, values, weights, output,
      scaled: Float64Array.from(weights, (w) => Math.log(w) + logSum),
    };
  },
};
const remote = async (name, _, ...values) => known[name](...values);

// What each layer expected where token t came.
function layersOf(t) {
  const { n_layers: L } = model.config;
  const at = (layer) => layer * tokens.length + t - 1;
  return Array.from({ length: L + 1 }, (_, layer) => ({
    best: arrays.layerTop[at(layer) * data.nLayerTop], bits: arrays.layerBits[at(layer)],
  }));
}

// The stretch of tokens around the chosen one that the chart has room for: [first, last).
function stretch() {
  const room = Math.min(data.atOnce.bits, Math.max(8, Math.floor(byId("bits").clientWidth / 9)));
  const first = Math.floor((Math.max(1, looking.at) - 1) / room) * room;
  return [first, Math.min(tokens.length, first + room)];
}

const contents = {
  bits: () => ({ tokens: tokens.slice(...stretch()), signals: { chosen: looking.at } }),
  map: () => {
    const { first, mapped, layer, head, at } = looking;
    const labels = Array.from({ length: mapped }, (_, i) => `${first + i} ${nameOf(looking.ids[first + i])}`);
    return {
      cells: labels.flatMap((of, t) => [...weightsOf(layer, head, first + t)]
        .map((weight, s) => ({ of, to: labels[s], row: first + t, weight }))),
      signals: { chosen: at },
    };
  },
};

// The text: the chosen token, and what it takes.
function tellText() {
  const isAttending = document.querySelector("[name=colours]:checked").value === "attention";
  const { at, layer, head, first } = looking;
  const weights = weightsOf(layer, head, at);
  byId("text").classList.toggle("attending", isAttending);
  byId("bits-legend").hidden = isAttending;
  byId("attention-legend").hidden = !isAttending;
  options.forEach((option, i) => {
    const weight = isAttending ? weights[i + 1 - first] : undefined;
    option.setAttribute("aria-selected", String(i + 1 === at));
    option.classList.toggle("weighed", weight !== undefined);
    option.style.setProperty("--share", shareOf(weight));
  });
  if (at) {
    byId("text").setAttribute("aria-activedescendant", `t${at}`);
    const [box, seen] = [byId("text"), byId(`t${at}`)];
    if (seen.offsetTop < box.scrollTop || seen.offsetTop + seen.offsetHeight > box.scrollTop + box.clientHeight) {
      box.scrollTop = seen.offsetTop - box.clientHeight / 2;
    }
  }
  const rest = 1 - weights.reduce((sum, w) => sum + w, 0);
  if (byId("outside")) {
    byId("outside").textContent = weights.length && rest >= 0.0005 ? label("outside", nameOf(looking.ids[at]), percent(rest)) : "";
  }
  const [from, to] = stretch();
  document.querySelector(".stretch").textContent =
    to - from < tokens.length ? `Tokens ${from + 1} to ${to}, around the chosen one.` : "";
}

// Everything follows what is chosen: the text at once, the charts when they are there.
looking.followed = () => {
  tellText();
  return views.map ? updateCharts(["bits", "map"], contents) : null;
};

async function draw() {
  for (const id of Object.keys(specs)) {
    const width = byId(id).clientWidth;
    const side = Math.min(width, 640);
    const size = id === "bits" ? { width, height: Math.min(300, width * 0.7) } : { width: side, height: side };
    await drawChart(id, size, { content: contents[id](), renderer: id === "map" ? "canvas" : "svg" });
    views[id].addEventListener("click", (_, item) => {
      const at = item?.datum?.number ?? item?.datum?.row;
      if (at !== undefined) choose({ at });
    });
  }
}

async function beginLook() {
  arrays = unpack(await unzip(unbase64(byId("block").textContent))).arrays;
  relabelParts();
  [...byId("table").tBodies[0].rows].forEach((row, i) => {
    for (const box of row.querySelectorAll(".token")) showToken(box, box.textContent, i ? tokens[i - 1].name : "");
  });
  startProjector(() => {
    resizedLook();
    draw();
  });
  const [layer, head] = data.head;
  Object.assign(looking, { layer: layer - 1, head: head - 1, depth: model.config.n_layers });
  startLooking();
  const text = byId("text");
  text.addEventListener("click", (event) => {
    const option = event.target.closest("[role=option]");
    if (option) choose({ at: Number(option.id.slice(1)) });
  });
  arrows(text, () => looking.at - 1, () => tokens.length, (i) => choose({ at: i + 1 }));
  for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
  for (const radio of document.querySelectorAll("[name=colours]")) radio.addEventListener("change", tellText);
  const { ids, bits, entropy, rank, maps } = arrays;
  const lens = [...ids.keys()].map((t) => (t ? layersOf(t) : undefined));
  const kept = data.stepLayers;
  const stepLayers = kept.length > 1 ? label("stepLayers", kept[0] + 1, kept.at(-1) + 1) : label("afterLayer", kept[0] + 1);
  Object.assign(looking, { entropy, rank, stepLayers });
  await explore({ ids: [...ids], bits, maps, lens, first: data.first, mapped: data.mapped, at: data.chosen });
}

beginLook().then(() => begin(draw)).then(() => { document.body.dataset.drawn = "true"; });

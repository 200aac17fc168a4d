const { tokens } = data;
const options = [...document.querySelectorAll("#text [role=option]")];
let chosen = Number(byId("text").getAttribute("aria-activedescendant").slice(1));

const percent = (p) => (p >= 0.0995 ? `${Math.round(100 * p)} %` : `${(100 * p).toFixed(1)} %`);
const head = () => [Number(byId("layer").value), Number(byId("head").value)];

// The stretch of tokens around the chosen one that a chart has room for: [first, last).
function stretch(id) {
  const room = Math.min(data.atOnce[id], Math.max(8, Math.floor(byId(id).clientWidth / (id === "lens" ? 40 : 9))));
  const first = Math.floor((chosen - 1) / room) * room;
  return [first, Math.min(tokens.length, first + room)];
}

// What token `t` of the map takes from those up to it.
const decoded = {};
function weights() {
  const [layer, number] = head();
  const key = `${layer}.${number}`;
  decoded[key] ??= Uint8Array.from(atob(data.weights[layer - 1][number - 1]), (c) => c.charCodeAt(0));
  return decoded[key];
}
const row = (t) => [...weights().subarray((t * (t + 1)) / 2, ((t + 1) * (t + 2)) / 2)].map((x) => x / 255);

const contents = {
  bits: () => ({ tokens: tokens.slice(...stretch("bits")), signals: { chosen } }),
  lens: () => {
    const shown = tokens.slice(...stretch("lens"));
    return {
      lens: data.layers.flatMap((layer, i) => shown.map(({ number, name }) => ({
        layer, number, name, best: data.best[i][number - 1], p: data.bestP[i][number - 1],
        bits: data.layerBits[i][number - 1],
      }))),
    };
  },
  map: () => {
    const names = data.attended.map((name, i) => `${data.first + i} ${name}`);
    return { cells: names.flatMap((of, t) => row(t).map((weight, s) => ({ of, to: names[s], weight }))) };
  },
};

function fill(table, rows) {
  const body = byId(table).tBodies[0];
  body.replaceChildren(...rows.map(([name, p, came]) => {
    const line = document.createElement("tr");
    line.className = came ? "came" : "";
    const bar = document.createElement("meter");
    Object.assign(bar, { min: 0, max: 1, value: p, ariaHidden: "true" }); // the number beside it says the same
    for (const content of [name, percent(p), bar]) {
      const cell = document.createElement("td");
      cell.append(content);
      line.append(cell);
    }
    return line;
  }));
}

// What the page says of the chosen token outside of the charts.
function tell() {
  const token = tokens[chosen - 1];
  byId("chosen-name").textContent = token.name;
  byId("chosen-number").textContent = `token ${token.number} of ${tokens.length}`;
  byId("chosen-bits").textContent = `${token.bits.toFixed(2)} bits`;
  byId("chosen-entropy").textContent = `${token.entropy.toFixed(2)} bits`;
  byId("chosen-rank").textContent = token.rank.toLocaleString("en");
  fill("expected", token.top.map(([name, p]) => [name, p, name === token.name]));
  const at = chosen - data.first;
  const inside = at >= 0 && at < data.attended.length;
  const taken = inside ? row(at) : [];
  const order = [...taken.keys()].sort((a, b) => taken[b] - taken[a]).slice(0, 5);
  fill("taken", order.map((s) => [`${data.first + s} ${data.attended[s]}`, taken[s], false]));
  const [layer, number] = head();
  for (const name of document.querySelectorAll(".head-name")) name.textContent = `layer ${layer}, head ${number}`;
  byId("layer").setAttribute("aria-valuetext", `layer ${layer} of ${data.weights.length}`);
  byId("head").setAttribute("aria-valuetext", `head ${number} of ${data.weights[0].length}`);
  const attending = document.querySelector("[name=colours]:checked").value === "attention";
  byId("text").classList.toggle("attending", attending);
  options.forEach((option, i) => {
    option.setAttribute("aria-selected", String(i === chosen - 1));
    option.style.setProperty("--weight", attending ? taken[i + 1 - data.first] ?? 0 : 0);
  });
  byId("text").setAttribute("aria-activedescendant", `t${chosen}`);
  for (const [i, id] of ["bits", "lens"].entries()) {
    const [first, last] = stretch(id);
    document.querySelectorAll(".stretch")[i].textContent =
      last - first < tokens.length ? `Tokens ${first + 1} to ${last}, around the chosen one.` : "";
  }
  document.body.dataset.shown = `${chosen} ${layer}.${number}`;
}

async function draw() {
  for (const id of Object.keys(specs)) {
    const width = byId(id).clientWidth;
    const side = Math.min(width, 640);
    const sizes = {
      bits: { width, height: Math.min(300, width * 0.7) }, map: { width: side, height: side },
      lens: { width, height: Math.min(600, 90 + 26 * data.layers.length) },
    };
    await drawChart(id, sizes[id], { content: contents[id](), renderer: id === "map" ? "canvas" : "svg" });
  }
  tell();
}

const update = (...ids) => updateCharts(ids, contents).then(tell);

function choose(number, scroll = false) {
  chosen = Math.min(tokens.length, Math.max(1, number));
  if (scroll) byId(`t${chosen}`).scrollIntoView({ block: "nearest" });
  return update("bits", "lens");
}

begin(draw).then(() => {
  const text = byId("text");
  text.addEventListener("click", (event) => {
    const option = event.target.closest("[role=option]");
    if (option) choose(Number(option.id.slice(1)));
  });
  text.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -tokens.length, End: tokens.length };
    if (event.key in steps) {
      event.preventDefault();
      choose(chosen + steps[event.key], true);
    }
  });
  for (const id of ["layer", "head"]) byId(id).addEventListener("input", () => update("map"));
  for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
  for (const radio of document.querySelectorAll("[name=colours]")) radio.addEventListener("change", tell);
});

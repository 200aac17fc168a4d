// One step of attention opened up: query, keys, scores, softmax, values, as strips of colour.

const MOST_KEYS = 8;

// Numbers as cells: green above 0, violet below, the stronger the larger; `most` has the full colour.
function strip(values, most) {
  const canvas = element("canvas", { className: "strip", width: values.length, height: 1 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${[...values].slice(0, 4).map((x) => number(x)).join(" ")} …`);
  canvas.title = [...values].map((x) => number(x)).join("  ");
  const [paper, above, below] = ["paper", "above", "below"].map(colourOf);
  const picture = new ImageData(values.length, 1);
  values.forEach((x, i) => {
    const share = Math.min(1, Math.abs(x) / (most || 1));
    const colour = x > 0 ? above : below;
    for (let c = 0; c < 3; c += 1) picture.data[4 * i + c] = paper[c] + (colour[c] - paper[c]) * share;
    picture.data[4 * i + 3] = 255;
  });
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas;
}

const largest = (vectors) => vectors.reduce((most, v) => v.reduce((m, x) => Math.max(m, Math.abs(x)), most), 0);

async function drawStep() {
  const { at, layer, head, ids, first } = looking;
  const step = await remote("step", "look", layer, head, at);
  if (looking.at !== at || looking.layer !== layer || looking.head !== head || looking.ids !== ids) return;
  const name = nameOf(ids[at]);
  const C = model.config.head_dim;
  byId("step-title").textContent = step ? label("stepTitle", name, C) : missing(at);
  byId("step-taken").textContent = step ? conclusion(step.weights) : "";
  if (!step) return byId("step").replaceChildren();
  const order = [...step.weights.keys()].sort((a, b) => step.weights[b] - step.weights[a]);
  const rows = order.slice(0, MOST_KEYS).sort((a, b) => a - b);
  const [keys, values] = [largest([step.query, ...step.keys]), largest(step.values)];
  const cells = (...content) => content.map((x) => element("td", {}, x));
  const heading = element("tr", {}, ...["token", "key", "product", "score", "weight", "value"].map((key) =>
    element("th", { scope: "col", textContent: label(key, C), className: key === "product" ? key : "" })));
  const asks = element("tr", { className: "own" }, element("th", { scope: "row", textContent: label("query", name) }),
    ...cells(strip(step.query, keys)), element("td", { className: "product" }), ...cells("", "", ""));
  const answers = rows.map((s) => {
    const bar = element("span", { className: "bar weight" }, element("i"));
    bar.firstElementChild.style.width = `${100 * step.weights[s]}%`;
    const button = element("button", { type: "button", className: "plain" }, tokenAt(ids, first + s));
    button.addEventListener("click", () => choose({ at: first + s }));
    return element("tr", {}, element("th", { scope: "row" }, button), ...cells(strip(step.keys[s], keys)),
      element("td", { className: "product", textContent: scoreOf(step.scaled[s] * Math.sqrt(C)) }),
      ...cells(scoreOf(step.scaled[s])),
      element("td", { className: "share" }, bar, percent(step.weights[s])), ...cells(strip(step.values[s], values)));
  });
  const left = order.slice(MOST_KEYS);
  const others = left.length ? [element("tr", { className: "quiet" },
    element("th", { scope: "row", textContent: label("others", left.length) }), ...cells(""),
    element("td", { className: "product" }), ...cells(""),
    element("td", { className: "share", textContent: percent(left.reduce((sum, s) => sum + step.weights[s], 0)) }), ...cells(""))] : [];
  const takes = element("tr", { className: "own" }, element("th", { scope: "row", textContent: label("taken") }),
    ...cells(""), element("td", { className: "product" }), ...cells("", "", strip(step.output, values)));
  byId("step").replaceChildren(element("thead", {}, heading), element("tbody", {}, asks, ...answers, ...others, takes));
}

const scoreOf = (x) => (Number.isFinite(x) ? number(x) : "−∞");

// Why there is no step: a page with numbers from before has not room for all.
const missing = (at) => (isMapped(at) ? label("noStep", looking.stepLayers ?? "")
  : label("noAttention", looking.first, looking.first + looking.mapped - 1));

// In words, as the terminal has it.
function conclusion(weights) {
  const { ids, first, at } = looking;
  const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).filter((s) => weights[s] >= 0.01).slice(0, 3);
  return label("takes", nameOf(ids[at]), listing(order.map((s) => `${nameOf(ids[first + s])} ${percent(weights[s])}`)));
}

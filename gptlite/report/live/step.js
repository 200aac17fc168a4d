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
  const { at, layer, head, ids } = looking;
  const step = await remote("step", "look", layer, head, at);
  if (looking.at !== at || looking.layer !== layer || looking.head !== head || looking.ids !== ids) return;
  const order = [...step.weights.keys()].sort((a, b) => step.weights[b] - step.weights[a]);
  const rows = order.slice(0, MOST_KEYS).sort((a, b) => a - b);
  const name = nameOf(ids[at]);
  byId("step-title").textContent = label("stepTitle", name, model.config.head_dim);
  const [keys, values] = [largest([step.query, ...step.keys]), largest(step.values)];
  const cells = (...content) => content.map((x) => element("td", {}, x));
  const heading = element("tr", {}, ...["token", "key", "score", "weight", "value"].map((key) =>
    element("th", { scope: "col", textContent: label(key) })));
  const asks = element("tr", { className: "own" }, element("th", { scope: "row", textContent: label("query", name) }),
    ...cells(strip(step.query, keys), "", "", ""));
  const answers = rows.map((s) => {
    const bar = element("span", { className: "bar weight" }, element("i"));
    bar.firstElementChild.style.width = `${100 * step.weights[s]}%`;
    const button = element("button", { type: "button", className: "plain" }, element("bdi", { className: "token", textContent: nameOf(ids[s]) }));
    button.addEventListener("click", () => choose({ at: s }));
    return element("tr", {}, element("th", { scope: "row" }, button),
      ...cells(strip(step.keys[s], keys), number(step.scaled[s])),
      element("td", { className: "share" }, bar, percent(step.weights[s])), ...cells(strip(step.values[s], values)));
  });
  const left = order.slice(MOST_KEYS);
  const others = left.length ? [element("tr", { className: "quiet" }, element("th", { scope: "row", textContent: label("others", left.length) }),
    ...cells("", "", percent(left.reduce((sum, s) => sum + step.weights[s], 0)), ""))] : [];
  const takes = element("tr", { className: "own" }, element("th", { scope: "row", textContent: label("taken") }),
    ...cells("", "", "", strip(step.output, values)));
  byId("step").replaceChildren(element("thead", {}, heading), element("tbody", {}, asks, ...answers, ...others, takes));
}

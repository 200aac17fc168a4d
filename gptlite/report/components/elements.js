// What the pages make their views of: labels, numbers, tokens, bars. A page defines `byId`, `model`, `nameOf(id)`.

let language = "en";

// A label in the language of the page, with values for {0}, {1}, ...
const label = (key, ...values) => LABELS[key][language === "zh" ? 1 : 0].replace(/\{(\d)\}/g, (_, i) => values[i]);
const number = (x, digits = 2) => x.toFixed(digits).replace("-", "−").replace(/^−(0\.?0*)$/, "$1");
const count = (n) => n.toLocaleString(language === "zh" ? "zh-CN" : "en");
const percent = (p) => (p >= 0.0995 ? `${Math.round(100 * p)} %` : p >= 0.0005 ? `${(100 * p).toFixed(1)} %` : "0 %");
const listing = (names) => (names.length < 2 ? names.join("")
  : `${names.slice(0, -1).join(label("comma"))}${label("and")}${names.at(-1)}`);
// Text in which nothing is hidden: control characters as their pictures, what is no character as �.
const visible = (text) => text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g,
  (c) => (c < " " ? String.fromCharCode(0x2400 + c.charCodeAt(0)) : "�"));

const tintOf = (bits) => (bits === null || bits === undefined ? 0 : model.steps.filter((step) => bits >= step).length);

// Scripts that put no spaces between words.
const UNSPACED = /[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{3ffff}]/u;

// Does a token go on with a word that began in the one before it? Both are names, "" where there is none before.
const isPiece = (name, before) => /^\p{L}/u.test(name) && /[\p{L}\p{N}]$/u.test(before) && !UNSPACED.test(name[0]);

// -- Elements

function element(tag, properties = {}, ...content) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...content);
  return made;
}

// A token as it is shown; a style marks the one that goes on with a word.
const showToken = (box, name, before) => {
  box.className = `token${isPiece(name, before) ? " piece" : ""}`;
  box.textContent = name;
  box.title = name;
  return box;
};
// One of the ids of a text, or what could stand at that place of it.
const tokenAt = (ids, t, id = ids[t]) => showToken(element("bdi"), nameOf(id), t ? nameOf(ids[t - 1]) : "");

// Bars for tokens: { id, p, kept, came }, all after the token `before`; a click calls take(id). Bars that are there already
// are changed, not made anew, so that the one in focus stays so.
function drawBars(list, bars, before, take, isChosen = () => false) {
  while (list.children.length > bars.length) list.lastElementChild.remove();
  bars.forEach((bar, i) => {
    let item = list.children[i];
    if (!item) {
      item = element("li", {}, element("button", { type: "button" }, element("bdi"),
        element("span", { className: "bar" }, element("i")), element("span", { className: "share" })));
      list.append(item);
    }
    const [button] = item.children;
    button.onclick = () => take(bar.id);
    button.className = `${bar.kept === false ? "cut" : ""} ${bar.came ? "came" : ""}`;
    button.setAttribute("aria-pressed", String(isChosen(bar.id)));
    const [name, track, share] = button.children;
    showToken(name, nameOf(bar.id), nameOf(before));
    track.firstElementChild.style.width = `${100 * bar.p}%`;
    share.textContent = bar.kept === false ? `${percent(bar.p)} ✕` : percent(bar.p);
  });
}

// Arrow keys go through `items()`, of which `at()` is the chosen one; `columns` in a row.
function arrows(box, at, size, go, columns = () => size()) {
  box.addEventListener("keydown", (event) => {
    const steps = {
      ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns() < size() ? columns() : 1,
      ArrowUp: columns() < size() ? -columns() : -1, Home: -Infinity, End: Infinity,
    };
    if (!(event.key in steps) || event.target.matches("input, textarea") || event.ctrlKey || event.altKey) return;
    event.preventDefault();
    go(Math.max(0, Math.min(size() - 1, at() + steps[event.key])));
  });
}

// -- What is on every page

// Labels, and the scales of surprisal, attention and strips.
function relabelParts() {
  document.documentElement.lang = language;
  for (const node of document.querySelectorAll("[data-label]")) node.textContent = label(node.dataset.label);
  for (const node of document.querySelectorAll("[data-aria]")) node.setAttribute("aria-label", label(node.dataset.aria));
  if (!model) return;
  for (const scale of document.querySelectorAll(".scale")) {
    scale.replaceChildren(...model.stepNames.map((name, i) => element("span", { className: `b${i}` },
      language === "zh" ? name.replace("under ", "< ").replace(" to ", "–").replace(" or more", "+") : name)));
  }
  for (const scale of document.querySelectorAll(".weight-scale")) {
    scale.replaceChildren(...[0, 0.1, 0.25, 0.5, 1].map((weight) => {
      const step = element("span", { className: "weighed", textContent: `${100 * weight} %` });
      step.style.setProperty("--share", shareOf(weight));
      return step;
    }));
  }
  for (const scale of document.querySelectorAll("#strip-scale")) {
    scale.replaceChildren(...[["below", "negative"], ["above", "positive"]]
      .map(([side, key]) => element("span", { className: side, textContent: label(key) })));
  }
}

// How strong the colour of a weight is: a tenth can still be told from nothing.
const shareOf = (weight) => Math.sqrt(weight ?? 0);

function startProjector(resized) {
  byId("projector").addEventListener("click", () => {
    const isOn = document.documentElement.classList.toggle("projector");
    byId("projector").setAttribute("aria-pressed", String(isOn));
    resized();
  });
}

"use strict";

const byId = (id) => document.getElementById(id);
let model; // what the worker says of it: config, special, words, sampling, steps, ...
let spelled; // the bytes of each token
let language = "en";
const parts = {}; // of the page: each has begin(), and may have label() and shown()

// A label in the language of the page, with values for {0}, {1}, ...
const label = (key, ...values) => LABELS[key][language === "zh" ? 1 : 0].replace(/\{(\d)\}/g, (_, i) => values[i]);
const number = (x, digits = 2) => x.toFixed(digits).replace("-", "−");
const count = (n) => n.toLocaleString(language === "zh" ? "zh-CN" : "en");
const percent = (p) => (p >= 0.0995 ? `${Math.round(100 * p)} %` : p >= 0.0005 ? `${(100 * p).toFixed(1)} %` : "0 %");
// Text in which nothing is hidden: control characters as their pictures, what is no character as �.
const visible = (text) => text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g,
  (c) => (c < " " ? String.fromCharCode(0x2400 + c.charCodeAt(0)) : "�"));

// -- The worker

const waiting = new Map();
let worker;
let asked = 0;

function remote(name, ...values) {
  asked += 1;
  const mine = asked;
  return new Promise((resolve, reject) => {
    waiting.set(mine, [resolve, reject]);
    worker.postMessage([mine, name, values]);
  });
}

function startWorker() {
  const source = new Blob([`"use strict";\n${byId("worker").textContent}`], { type: "text/javascript" });
  const address = URL.createObjectURL(source);
  worker = new Worker(address);
  worker.addEventListener("message", ({ data: [id, value, error] }) => {
    const [resolve, reject] = waiting.get(id);
    waiting.delete(id);
    if (error === null) resolve(value);
    else reject(new Error(error));
  });
  URL.revokeObjectURL(address);
}

// -- Tokens

const bytesOf = (id) => spelled.bytes.subarray(id ? spelled.ends[id - 1] : 0, spelled.ends[id]);
const isEnd = (id) => model.special.ends.includes(id) || id >= spelled.ends.length;

function nameOf(id) {
  if (id >= spelled.ends.length) return `#${id}`;
  if (id === model.special.separator) return label("start");
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytesOf(id));
    return text ? visible(text.replaceAll(" ", "_").replaceAll("\n", "⏎").replaceAll("\t", "⇥")) : `#${id}`;
  } catch {
    return [...bytesOf(id)].map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
  }
}

// A decoder of ids one at a time, which holds back a character until all its bytes are there.
function decoder() {
  const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  return (id) => (id < spelled.ends.length ? utf8.decode(bytesOf(id), { stream: true }) : "");
}

const tintOf = (bits) => (bits === null || bits === undefined ? 0 : model.steps.filter((step) => bits >= step).length);

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

// Bars for tokens: { id, p, kept, came }; a click calls take(id). Bars that are there already are changed, not made anew,
// so that the one in focus stays so.
function drawBars(list, bars, take, isChosen = () => false) {
  while (list.children.length > bars.length) list.lastElementChild.remove();
  bars.forEach((bar, i) => {
    let item = list.children[i];
    if (!item) {
      item = element("li", {}, element("button", { type: "button" }, element("bdi", { className: "token" }),
        element("span", { className: "bar" }, element("i")), element("span", { className: "share" })));
      list.append(item);
    }
    const [button] = item.children;
    button.onclick = () => take(bar.id);
    button.className = `${bar.kept === false ? "cut" : ""} ${bar.came ? "came" : ""}`;
    button.setAttribute("aria-pressed", String(isChosen(bar.id)));
    const [name, track, share] = button.children;
    name.textContent = nameOf(bar.id);
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

// -- The page

function relabel() {
  document.documentElement.lang = language;
  for (const node of document.querySelectorAll("[data-label]")) node.textContent = label(node.dataset.label);
  for (const node of document.querySelectorAll("[data-aria]")) node.setAttribute("aria-label", label(node.dataset.aria));
  if (!model) return;
  const { config } = model;
  byId("about").textContent = label("aboutLine", count(model.nParams), config.n_layers, config.n_heads, config.context_length);
  for (const scale of document.querySelectorAll(".scale")) {
    scale.replaceChildren(...model.stepNames.map((name, i) => element("span", { className: `b${i}` },
      language === "zh" ? name.replace("under ", "< ").replace(" to ", "–").replace(" or more", "+") : name)));
  }
  byId("strip-scale").replaceChildren(...[["below", "negative"], ["above", "positive"]]
    .map(([side, key]) => element("span", { className: side, textContent: label(key) })));
  byId("facts").replaceChildren(...Object.entries({ ...model.facts, numbers: model.dtype })
    .map(([name, fact]) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: visible(fact) }))));
  for (const part of Object.values(parts)) part.label?.();
}

function showPart(id) {
  for (const tab of byId("tabs").children) {
    const isShown = tab.id === `tab-${id}`;
    tab.setAttribute("aria-selected", String(isShown));
    tab.tabIndex = isShown ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !isShown;
  }
  return parts[id]?.shown?.();
}

async function begin() {
  language = navigator.language.startsWith("zh") ? "zh" : "en";
  byId("language").value = language;
  relabel();
  startWorker();
  const loaded = await remote("load", byId("model").textContent);
  byId("model").textContent = "";
  model = loaded;
  spelled = { bytes: loaded.bytes, ends: loaded.ends };
  relabel();
  byId("main").hidden = false;
  delete byId("status").dataset.label;
  byId("status").textContent = "";
  const tabs = [...byId("tabs").children];
  for (const tab of tabs) tab.addEventListener("click", () => showPart(tab.getAttribute("aria-controls")));
  arrows(byId("tabs"), () => tabs.findIndex((tab) => tab.tabIndex === 0), () => tabs.length, (i) => {
    tabs[i].focus();
    tabs[i].click();
  });
  byId("language").addEventListener("change", (event) => {
    language = event.target.value;
    relabel();
  });
  byId("projector").addEventListener("click", () => {
    const isOn = document.documentElement.classList.toggle("projector");
    byId("projector").setAttribute("aria-pressed", String(isOn));
    for (const part of Object.values(parts)) part.resized?.();
  });
  for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
  for (const part of Object.values(parts)) await part.begin();
  document.body.dataset.ready = "true";
}

addEventListener("DOMContentLoaded", () => {
  begin().catch((error) => {
    byId("status").textContent = label("failed", String(error.message ?? error));
    throw error;
  });
});

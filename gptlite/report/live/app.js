"use strict";

const byId = (id) => document.getElementById(id);
let model; // what the engine (local.js or served.js) says of it: config, special, words, sampling, steps, ...
let spelled; // the bytes of each token
const parts = {}; // of the page: each has begin(), and may have label() and shown()

// What the model answers: see the calls of worker.js.
const remote = (name, ...values) => engine.call(name, ...values);

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

// -- The page

function relabel() {
  relabelParts();
  if (!model) return;
  const { config } = model;
  byId("about").textContent = label(engine.about, count(model.nParams), config.n_layers, config.n_heads, config.context_length);
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
  const loaded = await engine.begin();
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
  startProjector(() => {
    for (const part of Object.values(parts)) part.resized?.();
  });
  for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
  for (const part of Object.values(parts)) await part.begin();
  document.body.dataset.ready = "true";
}

function tell(error) {
  byId("status").textContent = label(engine.failed, String(error.message ?? error));
}

addEventListener("unhandledrejection", ({ reason }) => tell(reason));
addEventListener("DOMContentLoaded", () => {
  begin().catch((error) => {
    tell(error);
    throw error;
  });
});

// The view "Write": a text that grows token by token, and what could come next at any place of it.

const BARS = 12;
const SETTINGS = ["temperature", "top_k", "top_p", "min_p"];

const writing = {
  ids: [], // of the text, with those that stand before any text
  bits: [],
  hidden: 0, // ids at the beginning that are no text
  at: 0, // the place whose next tokens are shown: `ids.length` is the end
  logits: null,
  shown: null, // the distribution there
  isRunning: false,
  hasEnded: false,
};

const settings = () => Object.fromEntries(SETTINGS.map((name) => [name, Number(byId(name).value)]));

// -- The text

function appendToken(id, bits, text) {
  const at = writing.ids.length;
  const span = element("span", { role: "option", id: `w${at}`, className: `b${tintOf(bits)}`, textContent: visible(text) });
  span.setAttribute("aria-label", label("tokenBits", nameOf(id), bits === null ? "–" : number(bits, 1)));
  span.setAttribute("aria-selected", "false");
  byId("written").append(span);
  writing.ids.push(id);
  writing.bits.push(bits);
}

// The text anew, from ids and their bits.
function setText(ids, bits) {
  writing.ids = [];
  writing.bits = [];
  writing.hasEnded = false;
  byId("written").replaceChildren();
  writing.decode = decoder();
  ids.forEach((id, i) => appendToken(id, bits[i], i < writing.hidden ? "" : writing.decode(id)));
}

function mark() {
  for (const span of byId("written").querySelectorAll("[aria-selected=true]")) span.setAttribute("aria-selected", "false");
  const span = byId(`w${writing.at}`);
  span?.setAttribute("aria-selected", "true");
  if (span) byId("written").setAttribute("aria-activedescendant", span.id);
  else byId("written").removeAttribute("aria-activedescendant");
}

// Read the prompt; what is shown is what comes after it.
async function readPrompt() {
  const { ids } = await remote("encode", byId("prompt").value, true);
  const { opening, separator } = model.special;
  const before = ids.length || opening.length ? opening : [separator];
  writing.hidden = before.length;
  await restart([...before, ...ids, ...(model.special.closing ?? [])]);
}

// Go on from these ids. Where there are none, as after an empty prompt: a model has to read something.
async function restart(ids) {
  if (!ids.length) {
    writing.hidden = 1;
    return restart([model.special.separator]);
  }
  const { bits } = await remote("start", "write", ids);
  setText(ids, bits);
  await showAt(ids.length);
}

// What could stand at a place of the text.
async function showAt(at) {
  const context = model.config.context_length;
  writing.at = Math.max(writing.hidden, at);
  if (writing.at === writing.ids.length && writing.hasEnded) writing.at -= 1;
  const before = writing.at ? writing.ids.slice(0, writing.at) : [model.special.separator];
  await remote("start", "look-back", before, { bits: false });
  writing.logits = await remote("logits", "look-back", Math.min(before.length, context) - 1);
  mark();
  drawNext();
}

// -- What comes next

function drawNext() {
  if (!writing.logits) return;
  for (const name of SETTINGS) {
    const output = byId("sampling").querySelector(`[for=${name}]:is(output)`);
    const value = Number(byId(name).value);
    const isOff = { top_k: value === 0, top_p: value === 1, min_p: value === 0 }[name];
    output.textContent = isOff ? label("off") : name === "top_k" ? value : number(value);
  }
  const shown = distribution(writing.logits, settings());
  writing.shown = shown;
  const came = writing.ids[writing.at];
  const rows = [...shown.ids.keys()].slice(0, BARS);
  const place = shown.ids.indexOf(came);
  if (came !== undefined && place >= BARS) rows[BARS - 1] = place;
  drawBars(byId("next"), rows.map((i) => ({
    id: shown.ids[i], p: shown.drawn[i] || shown.p[i], kept: shown.drawn[i] > 0, came: shown.ids[i] === came,
  })), writing.ids[writing.at - 1] ?? model.special.separator, take);
  const rest = 1 - rows.reduce((sum, i) => sum + shown.p[i], 0);
  byId("rest").textContent = label("rest", count(shown.ids.length - rows.length), percent(Math.max(0, rest)));
  byId("next-title").textContent = came === undefined ? label("nextTitle") : label("insteadTitle", nameOf(came));
}

// Put a token at the place that is shown; what stood there and after it is gone.
async function take(id) {
  stopWriting();
  if (writing.at < writing.ids.length) await restart(writing.ids.slice(0, writing.at));
  await push(id);
}

// One more token at the end.
async function push(id) {
  if (isEnd(id)) {
    appendToken(id, bitsIn(writing.logits, id), "");
    byId("written").lastElementChild.textContent = "■";
    byId("written").lastElementChild.title = label("ended");
    writing.hasEnded = true;
    stopWriting();
    return;
  }
  const bits = bitsIn(writing.logits, id);
  const { logits } = await remote("push", "write", id);
  appendToken(id, bits, writing.decode(id));
  Object.assign(writing, { logits, at: writing.ids.length });
  mark();
  drawNext();
  const box = byId("written");
  box.scrollTop = box.scrollHeight;
}

function bitsIn(logits, id) {
  const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const sum = logits.reduce((a, b) => a + Math.exp(b - most), 0);
  return (Math.log(sum) + most - logits[id]) / Math.LN2;
}

// -- Writing

function stopWriting() {
  writing.isRunning = false;
  writing.stopper?.abort();
  byId("go").textContent = label("go");
}

async function run(most) {
  if (writing.hasEnded || writing.at < writing.ids.length) {
    await restart(writing.hasEnded ? writing.ids.slice(0, -1) : writing.ids);
  }
  writing.isRunning = true;
  if (most > 1) byId("go").textContent = label("stop");
  const began = performance.now();
  const tellSpeed = (n) => {
    if (n > 4) byId("speed").textContent = label("speed", count(Math.round((1000 * n) / (performance.now() - began))));
  };
  if (most > 1 && engine.stream) await writeOn(most, tellSpeed);
  for (let n = 1; n <= most && writing.isRunning; n += 1) {
    await push(draw(writing.shown));
    tellSpeed(n);
    if (n % 4 === 0) await new Promise((done) => { setTimeout(done); }); // the page may paint and be used
  }
  stopWriting();
  document.body.dataset.written = writing.ids.length;
}

// Tokens that the engine draws, until it ends or is stopped; then what could come next is shown.
async function writeOn(most, tellSpeed) {
  writing.stopper = new AbortController();
  const { signal } = writing.stopper;
  const { ids } = writing;
  let n = 0;
  let reason = null;
  try {
    reason = await engine.stream([...ids], settings(), most, (id, bits) => {
      if (signal.aborted) return;
      appendToken(id, bits, writing.decode(id));
      n += 1;
      tellSpeed(n);
      byId("written").scrollTop = byId("written").scrollHeight;
    }, signal);
  } catch (error) {
    if (!signal.aborted) {
      stopWriting();
      throw error;
    }
  }
  writing.isRunning = false;
  if (writing.ids !== ids) return; // another text was begun
  await remote("start", "write", writing.ids, { bits: false });
  await showAt(writing.ids.length);
  if (reason === "stop") await push(model.special.ends.reduce((a, b) => (writing.logits[b] > writing.logits[a] ? b : a)));
}

parts.write = {
  async begin() {
    for (const name of SETTINGS) {
      byId(name).value = model.sampling[name];
      byId(name).addEventListener("input", drawNext);
    }
    byId("prompt").value = model.prompt;
    byId("prompt-form").addEventListener("submit", () => {
      if (writing.isRunning) stopWriting();
      else run(model.sampling.max_new_tokens);
    });
    byId("prompt").addEventListener("input", () => {
      stopWriting();
      return readPrompt();
    });
    byId("prompt").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("prompt-form").requestSubmit();
    });
    byId("one").addEventListener("click", () => {
      stopWriting();
      return run(1);
    });
    byId("again").addEventListener("click", () => {
      stopWriting();
      return readPrompt();
    });
    byId("written").addEventListener("click", (event) => {
      const span = event.target.closest("[role=option]");
      if (!span) return;
      stopWriting();
      showAt(Number(span.id.slice(1)));
    });
    arrows(byId("written"), () => writing.at, () => writing.ids.length + 1, (i) => {
      stopWriting();
      return showAt(i);
    });
    await readPrompt();
  },
  label() {
    stopWriting();
    drawNext();
  },
};

// The view "Words": one word in each of two sentences, compared in context and as static vectors.

const comparing = { sentences: ["", ""], words: [[], []], marked: [0, 0], turn: 0 };

// Words of a sentence: { text, start, end }; of scripts without spaces, as the browser parts them.
function wordsOf(text) {
  if (UNSPACED.test(text) && Intl.Segmenter) {
    return [...new Intl.Segmenter("zh", { granularity: "word" }).segment(text)].filter((part) => part.isWordLike)
      .map(({ segment, index }) => ({ text: segment, start: index, end: index + segment.length }));
  }
  return [...text.matchAll(/[\p{L}\p{M}\p{N}]+(?:['’-][\p{L}\p{M}\p{N}]+)*/gu)]
    .map((match) => ({ text: match[0], start: match.index, end: match.index + match[0].length }));
}

const sameForm = (word) => word.normalize("NFC").toLowerCase();

// The static vector's tokens: the word as it stands inside a sentence.
const inSentence = (word) => (UNSPACED.test(word[0]) ? word : ` ${word}`);

function cosine(a, b) {
  let [dot, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i += 1) {
    dot += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  return dot / Math.max(Math.sqrt(aa) * Math.sqrt(bb), 1e-12);
}

// What the model knows of the marked word of a sentence: its state, from the text up to the end of the word.
async function vectorOf(i, layer) {
  const { text, ids, spans } = await remote("encode", comparing.sentences[i]);
  const word = comparing.words[i][comparing.marked[i]];
  const covering = [...spans.keys()].filter((t) => spans[t][0] < word.end && spans[t][1] > word.start);
  const last = covering.at(-1);
  const read = [...model.special.prefix, ...ids.slice(0, last + 1)];
  const window = Math.min(read.length, model.config.context_length);
  await remote("start", `words-${i}`, read, { bits: false });
  const state = await remote("state", `words-${i}`, layer, window - 1);
  const rows = (await remote("encode", inSentence(word.text))).ids;
  return {
    word, read, state, rows, tokens: covering.map((t) => ids[t]), fixed: await remote("fixed", rows),
    seen: wordsOf(text.slice(0, word.start)).length,
  };
}

async function compareWords() {
  comparing.turn += 1;
  const { turn } = comparing;
  byId("cosines").hidden = comparing.words.some((words) => !words.length);
  if (byId("cosines").hidden) return;
  const layer = Number(byId("layer").value);
  byId("layer-form").querySelector("output").textContent = `${layer} / ${model.config.n_layers}`;
  const space = await remote("space", layer);
  const [one, other] = [await vectorOf(0, layer), await vectorOf(1, layer)];
  if (turn !== comparing.turn) return;
  const corrected = [one, other].map(({ state }) =>
    (space ? state.map((x, i) => (x - space.mean[i]) / Math.max(space.std[i], 1e-6)) : state));
  const found = cosine(...corrected);
  const isSame = sameForm(one.word.text) === sameForm(other.word.text);
  tellPair({
    cosine: found, isSame, isSameTokens: String(one.tokens) === String(other.tokens),
    isOneText: String(one.read) === String(other.read), quantiles: space?.[isSame ? "same_word" : "unrelated"],
  }, cosine(one.fixed, other.fixed));
  const blind = [one, other].map(({ seen }, i) => (seen <= 1 ? label("blind", i + 1) : ""));
  byId("words-notes").textContent = [isSame ? label("cannotTell") : "", ...blind].filter(Boolean).join(" ");
  await drawNeighbours(isSame ? [one] : [one, other], turn);
  document.body.dataset.compared = `${turn}`;
}

async function drawNeighbours(items, turn) {
  const lists = [];
  for (const { word, rows } of items) {
    const found = (await remote("nearest", rows, 9)).filter(([text]) => sameForm(text) !== sameForm(word.text)).slice(0, 8);
    const list = element("ol", { className: "bars" }, ...found.map(([text, share]) => {
      const bar = element("span", { className: "bar" }, element("i"));
      bar.firstElementChild.style.width = `${Math.max(0, 100 * share)}%`;
      const button = element("button", { type: "button" }, element("bdi", { className: "token", textContent: visible(text) }), bar,
        element("span", { className: "share", textContent: number(share) }));
      button.addEventListener("click", () => showNearest(text));
      return element("li", {}, button);
    }));
    lists.push(element("figure", {}, element("figcaption", { textContent: label("nearestOf", visible(word.text)) }),
      found.length ? list : element("p", { textContent: label("noWords") })));
  }
  if (turn === comparing.turn) byId("neighbours").replaceChildren(...lists);
}

// A click on a neighbour shows its own.
async function showNearest(text) {
  const rows = (await remote("encode", inSentence(text))).ids;
  await drawNeighbours([{ word: { text }, rows }], comparing.turn);
  byId("neighbours").querySelector("button")?.focus();
}

// -- Sentences

function drawMarks(i) {
  byId(`marks-${i}`).replaceChildren(...comparing.words[i].map((word, n) => {
    const isMarked = n === comparing.marked[i];
    const button = element("button", { type: "button", role: "radio", tabIndex: isMarked ? 0 : -1 },
      element("bdi", { textContent: visible(word.text) }));
    button.setAttribute("aria-checked", String(isMarked));
    button.addEventListener("click", () => markWord(i, n));
    return button;
  }));
}

function markWord(i, n, focus = false) {
  comparing.marked[i] = n;
  drawMarks(i);
  if (focus) byId(`marks-${i}`).children[n]?.focus();
  return compareWords();
}

function setSentence(i, text) {
  const before = comparing.words[i][comparing.marked[i]]?.text;
  comparing.sentences[i] = text.normalize("NFC");
  comparing.words[i] = wordsOf(comparing.sentences[i]);
  const words = comparing.words[i].map((word) => sameForm(word.text));
  const others = new Set(comparing.words[1 - i].map((word) => sameForm(word.text)));
  const kept = before === undefined ? -1 : words.lastIndexOf(sameForm(before));
  const shared = words.findLastIndex((word) => others.has(word) && word.length > 1);
  comparing.marked[i] = kept >= 0 ? kept : shared >= 0 ? shared : Math.max(0, words.length - 1);
  drawMarks(i);
}

parts.words = {
  begin() {
    const last = model.config.n_layers;
    Object.assign(byId("layer"), { max: last, value: last });
    byId("layer").addEventListener("input", compareWords);
    const examples = [label("example1"), label("example2")];
    for (const [i, text] of examples.entries()) {
      const input = byId(`sentence-${i}`);
      input.value = text;
      input.addEventListener("input", () => {
        setSentence(i, input.value);
        compareWords();
      });
      arrows(byId(`marks-${i}`), () => comparing.marked[i], () => comparing.words[i].length, (n) => markWord(i, n, true));
    }
    for (const i of [0, 1]) setSentence(i, examples[i]);
    const isShared = (word) => comparing.words[1].some((other) => sameForm(other.text) === sameForm(word.text));
    const shared = comparing.words[0].findLast(isShared);
    if (shared) {
      const mine = sameForm(shared.text);
      comparing.marked = comparing.words.map((words) => words.findLastIndex((word) => sameForm(word.text) === mine));
      for (const i of [0, 1]) drawMarks(i);
    }
  },
  shown: () => compareWords(),
  label() {
    if (byId("words").hidden) return;
    compareWords();
  },
};

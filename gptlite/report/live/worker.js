// What runs beside the page: it unpacks the model, and answers calls of the page one after the other.

let model;
let tokenizer;
let packed;
const sessions = {};
let vectors; // of the words that come with the page

// -log2 p of an id, from logits.
function bitsOf(logits, id) {
  let most = -Infinity;
  for (const x of logits) if (x > most) most = x;
  let sum = 0;
  for (const x of logits) sum += Math.exp(x - most);
  return (Math.log(sum) + most - logits[id]) / Math.LN2;
}

const calls = {
  // The description of the model, and the tokens as bytes.
  async load(text) {
    packed = unpack(await unzip(unbase64(text)));
    const { header, arrays } = packed;
    model = new Model(header.config, arrays);
    tokenizer = new Tokenizer(header.tokenizer, arrays.tokens, arrays.ends, arrays.merges);
    const { arrays: left, ...facts } = header;
    return { ...facts, bytes: arrays.tokens.slice(), ends: arrays.ends.slice() };
  },

  encode: (text) => tokenizer.encode(text),

  // Read ids in the session of that name: bits of each that has one before it in the window, null of the others.
  start(name, ids, { bits = true } = {}) {
    sessions[name] ??= new Session(model);
    const session = sessions[name];
    session.read(ids);
    const first = ids.length - session.ids.length;
    if (!bits) return { first };
    return {
      first,
      bits: ids.map((id, i) => (i > first ? bitsOf(session.logits(i - first - 1), id) : null)),
    };
  },

  // One more id; answers with the logits of what follows.
  push(name, id) {
    sessions[name].push(id);
    return { logits: sessions[name].logits(), length: sessions[name].ids.length };
  },

  logits: (name, t) => sessions[name].logits(t),

  // Of all heads, the weights of the first n tokens: a triangle each, row by row.
  maps(name, n) {
    const { n_layers: L, n_heads: H } = model.config;
    const size = (n * (n + 1)) / 2;
    const all = new Float32Array(L * H * size);
    const row = new Float64Array(n);
    for (let layer = 0; layer < L; layer += 1) {
      for (let head = 0; head < H; head += 1) {
        let at = (layer * H + head) * size;
        for (let t = 0; t < n; t += 1) {
          sessions[name].weights(row, layer, head, t);
          for (let s = 0; s <= t; s += 1, at += 1) all[at] = row[s];
        }
      }
    }
    return all;
  },

  // What each layer expects after token t, and the bits of `id`, which came.
  lens(name, t, id) {
    const { n_layers: L } = model.config;
    return Array.from({ length: L + 1 }, (_, layer) => {
      const logits = sessions[name].logits(t, layer);
      let best = 0;
      for (let i = 1; i < tokenizer.size; i += 1) if (logits[i] > logits[best]) best = i;
      return { best, p: 2 ** -bitsOf(logits, best), bits: id === null ? null : bitsOf(logits, id) };
    });
  },

  // The n likeliest tokens after token t, had the model ended after so many layers, with their probabilities.
  expected(name, t, layer, n) {
    const logits = sessions[name].logits(t, layer);
    const ids = [...logits.keys()].sort((a, b) => logits[b] - logits[a]).slice(0, n);
    return ids.map((id) => ({ id, p: 2 ** -bitsOf(logits, id) }));
  },

  // One step of attention: query, keys, scores, weights, values of the tokens up to t, and what is taken.
  step(name, layer, head, t) {
    const session = sessions[name];
    const { n_heads: H, n_kv_heads: K, head_dim: C } = model.config;
    const from = Math.floor(head / (H / K)) * C;
    const rows = (array, s) => array.slice(s * K * C + from, s * K * C + from + C);
    const scaled = session.scores(new Float64Array(t + 1), layer, head, t);
    const weights = scaled.slice();
    softmax(weights, t + 1);
    const keys = [...scaled.keys()].map((s) => rows(session.k[layer], s));
    const values = [...scaled.keys()].map((s) => rows(session.v[layer], s));
    const output = new Float32Array(C);
    values.forEach((value, s) => value.forEach((x, i) => { output[i] += weights[s] * x; }));
    const query = session.q[layer].slice((t * H + head) * C, (t * H + head + 1) * C);
    return { query, keys, values, scaled, weights, output };
  },

  // The hidden state of token t after `layer` layers.
  state: (name, layer, t) => sessions[name].state(layer, t),

  // The mean of the rows of ids in the table of tokens.
  fixed(ids) {
    const { dim } = model.config;
    const mean = new Float32Array(dim);
    for (const id of ids) for (let i = 0; i < dim; i += 1) mean[i] += model.embed[id * dim + i] / ids.length;
    return mean;
  },

  // What was measured of the model's vectors after `layer` layers; null of a model without it.
  space(layer) {
    const { arrays } = packed;
    const row = (name) => arrays[name]?.slice(...[layer, layer + 1].map((i) => (i * arrays[name].length) / (model.config.n_layers + 1)));
    return arrays.mean ? Object.fromEntries(["mean", "std", "same_word", "unrelated"].map((name) => [name, row(name)])) : null;
  },

  // The words, of those that come with the page, whose rows point most nearly where those of ids do.
  nearest(ids, n) {
    const unit = (v) => {
      const length = Math.hypot(...v) || 1;
      return v.map((x) => x / length);
    };
    const query = unit(calls.fixed(ids));
    vectors ??= packed.header.words.map((word) => [word, unit(calls.fixed(tokenizer.encode(` ${word}`).ids))]);
    const found = vectors.map(([word, v]) => [word, v.reduce((sum, x, i) => sum + x * query[i], 0)]);
    return found.sort((a, b) => b[1] - a[1]).slice(0, n);
  },
};

addEventListener("message", async ({ data: [number, name, values] }) => {
  try {
    postMessage([number, await calls[name](...values), null]);
  } catch (error) {
    postMessage([number, null, String(error?.stack ?? error)]);
  }
});

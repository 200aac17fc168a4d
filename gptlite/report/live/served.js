// The model in the server that sent the page: the same calls as of worker.js, over HTTP.

const KINDS = { f32: Float32Array, u32: Uint32Array, u8: Uint8Array };

// A value in which arrays stand as base64; of a matrix, its rows.
function unpacked(value) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(unpacked);
  const kind = Object.keys(KINDS).find((name) => name in value);
  if (!kind) return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, unpacked(part)]));
  const { buffer } = Uint8Array.from(atob(value[kind]), (c) => c.charCodeAt(0));
  const array = new KINDS[kind](buffer);
  const [rows, width] = value.shape;
  return width === undefined ? array : Array.from({ length: rows }, (_, i) => array.subarray(i * width, (i + 1) * width));
}

// Calls `take` with the object of each event of a stream.
async function readEvents(stream, take) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) if (event !== "data: [DONE]") take(JSON.parse(event.slice("data: ".length)));
  }
}

const engine = {
  texts: {}, // the ids that were read, by name, as far as the model sees them
  seen: { ids: null, layers: null }, // what the layers expect of the text that was looked at last
  key: "",
  about: "aboutServed",
  failed: "refused",

  async begin() {
    for (;;) {
      try {
        const loaded = await this.ask("page/model", {});
        byId("key-form").hidden = true;
        byId("name").textContent = visible(loaded.name);
        document.title = `${loaded.name} · gptlite`;
        return loaded;
      } catch (error) {
        if (error.status !== 401) throw error;
        await this.askKey(error.message);
      }
    }
  },

  // Until the viewer has typed a key.
  askKey(why) {
    delete byId("status").dataset.label;
    byId("status").textContent = why;
    byId("key-form").hidden = false;
    byId("key").focus();
    return new Promise((done) => {
      byId("key-form").addEventListener("submit", (event) => {
        event.preventDefault();
        this.key = byId("key").value.trim();
        done();
      }, { once: true });
    });
  },

  async send(path, body, signal) {
    const headers = { "Content-Type": "application/json", ...(this.key ? { Authorization: `Bearer ${this.key}` } : {}) };
    const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
    if (answer.ok) {
      if (model) byId("status").textContent = "";
      return answer;
    }
    const told = await answer.json().catch(() => null);
    const error = new Error(told?.error?.message ?? `${answer.status}`);
    error.status = answer.status;
    throw error;
  },

  async ask(path, body) {
    return unpacked(await (await this.send(path, body)).json());
  },

  call(name, ...values) {
    return this.calls[name] ? this.calls[name].call(this, ...values) : Promise.reject(new Error(name));
  },

  calls: {
    encode(text, begins = false) { return this.ask("page/encode", { text, begins }); },
    async start(name, ids, { bits = true } = {}) {
      const first = Math.max(0, ids.length - model.config.context_length);
      this.texts[name] = ids.slice(first);
      if (!bits) return { first };
      const found = await this.ask("page/bits", { ids: this.texts[name] });
      return { first, bits: ids.map((_, i) => (i > first ? found[i - first - 1] : null)) };
    },
    // Where the context is full, its newer half is read again and reading goes on from there.
    async push(name, id) {
      const { context_length: context } = model.config;
      const longer = [...this.texts[name], id];
      this.texts[name] = longer.length > context ? longer.slice(-Math.max(1, Math.floor(context / 2))) : longer;
      return { logits: await this.calls.logits.call(this, name), length: this.texts[name].length };
    },
    logits(name, at = this.texts[name].length - 1) { return this.ask("page/logits", { ids: this.texts[name], at }); },
    maps(name, n) { return this.ask("page/maps", { ids: this.texts[name].slice(0, n) }); },
    // Of all tokens at once, when the first of them is asked for.
    async lens(name, at) {
      const ids = this.texts[name];
      if (this.seen.ids !== ids) this.seen = { ids, layers: this.ask("page/lens", { ids }) };
      const { best, p, bits } = await this.seen.layers;
      return [...best[at]].map((id, layer) => ({ best: id, p: p[at][layer], bits: bits[at][layer] }));
    },
    expected(name, at, layer, n) { return this.ask("page/expected", { ids: this.texts[name], at, layer, n }); },
    step(name, layer, head, at) { return this.ask("page/step", { ids: this.texts[name], layer, head, at }); },
    state(name, layer, at) { return this.ask("page/state", { ids: this.texts[name], layer, at }); },
    fixed(ids) { return this.ask("page/fixed", { ids }); },
    space(layer) { return this.ask("page/space", { layer }); },
    nearest(ids, n) { return this.ask("page/nearest", { ids, n }); },
  },

  // Text after ids, drawn by the server: take(id, bits) for each token; why it ended. `signal` stops it.
  async stream(ids, settings, most, take, signal) {
    let reason = null;
    const asked = { ...settings, prompt: ids, max_tokens: most, stream: true, logprobs: 0, return_token_ids: true };
    const answer = await this.send("v1/completions", asked, signal);
    await readEvents(answer.body, (event) => {
      if (event.error) throw new Error(event.error.message);
      const [choice] = event.choices;
      choice.token_ids.forEach((id, i) => take(id, -choice.logprobs.token_logprobs[i] / Math.LN2));
      reason = choice.finish_reason ?? reason;
    });
    return reason;
  },
};

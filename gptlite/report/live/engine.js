// The forward pass of gptlite/model.py with a key-value cache. What passes through it is kept, so that all can be shown.

// out (T, m) = x (T, n) w^T + bias, for w (m, n). Four tokens at a time share each weight.
function matmul(out, w, bias, x, T, n, m) {
  let t = 0;
  for (; t + 4 <= T; t += 4) {
    const [x0, x1, x2, x3] = [t * n, (t + 1) * n, (t + 2) * n, (t + 3) * n];
    for (let o = 0; o < m; o += 1) {
      const row = o * n;
      let a = bias ? bias[o] : 0;
      let [b, c, d] = [a, a, a];
      for (let i = 0; i < n; i += 1) {
        const weight = w[row + i];
        a += weight * x[x0 + i];
        b += weight * x[x1 + i];
        c += weight * x[x2 + i];
        d += weight * x[x3 + i];
      }
      out[t * m + o] = a;
      out[(t + 1) * m + o] = b;
      out[(t + 2) * m + o] = c;
      out[(t + 3) * m + o] = d;
    }
  }
  for (; t < T; t += 1) {
    const at = t * n;
    for (let o = 0; o < m; o += 1) {
      const row = o * n;
      let a = bias ? bias[o] : 0;
      let b = 0;
      let c = 0;
      let d = 0;
      let i = 0;
      for (; i + 4 <= n; i += 4) {
        a += w[row + i] * x[at + i];
        b += w[row + i + 1] * x[at + i + 1];
        c += w[row + i + 2] * x[at + i + 2];
        d += w[row + i + 3] * x[at + i + 3];
      }
      for (; i < n; i += 1) a += w[row + i] * x[at + i];
      out[t * m + o] = a + b + c + d;
    }
  }
}

const ACTIVATIONS = {
  relu: (x) => Math.max(0, x),
  gelu: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x))),
  silu: (x) => x / (1 + Math.exp(-x)),
};

function softmax(values, n) {
  let most = -Infinity;
  for (let i = 0; i < n; i += 1) most = Math.max(most, values[i]);
  let sum = 0;
  for (let i = 0; i < n; i += 1) {
    values[i] = Math.exp(values[i] - most);
    sum += values[i];
  }
  for (let i = 0; i < n; i += 1) values[i] /= sum;
}

class Model {
  // `config` as ModelConfig has it; `tensors` by the names of the state dict; `frequencies` of rotary positions.
  constructor(config, tensors) {
    Object.assign(this, { config, tensors });
    this.embed = tensors["transformer.embed.weight"];
    this.head = tensors["head.weight"] ?? this.embed;
    this.frequencies = tensors.frequencies;
  }

  // Vectors of length n, normalised in place by the norm of that name.
  norm(x, name, n = this.config.dim) {
    const weight = this.tensors[`${name}.weight`];
    const bias = this.tensors[`${name}.bias`];
    const centred = this.config.norm === "layernorm";
    for (let start = 0; start < x.length; start += n) {
      let mean = 0;
      if (centred) {
        for (let i = 0; i < n; i += 1) mean += x[start + i];
        mean /= n;
      }
      let square = 0;
      for (let i = 0; i < n; i += 1) square += (x[start + i] - mean) ** 2;
      const scale = 1 / Math.sqrt(square / n + this.config.norm_eps);
      for (let i = 0; i < n; i += 1) {
        x[start + i] = (x[start + i] - mean) * scale * weight[i] + (bias ? bias[i] : 0);
      }
    }
    return x;
  }

  linear(x, name, n, m) {
    const T = x.length / n;
    const out = new Float32Array(T * m);
    matmul(out, this.tensors[`${name}.weight`], this.tensors[`${name}.bias`], x, T, n, m);
    return out;
  }

  // Turn vectors of length C, `count` to a position, by the angles of positions from `start` on.
  rotate(x, start, count) {
    const C = this.config.head_dim;
    const half = C / 2;
    const stretch = this.config.rope_scaling?.attention ?? 1;
    for (let at = 0; at < x.length; at += C) {
      const position = start + Math.floor(at / (C * count));
      for (let i = 0; i < half; i += 1) {
        const angle = Math.fround(position * this.frequencies[i]);
        const [cos, sin] = [Math.cos(angle) * stretch, Math.sin(angle) * stretch];
        const [first, second] = [x[at + i], x[at + half + i]];
        x[at + i] = first * cos - second * sin;
        x[at + half + i] = second * cos + first * sin;
      }
    }
  }

  mlp(x, name) {
    const { dim, hidden_dim: F, activation } = this.config;
    const up = this.linear(x, `${name}.up_proj`, dim, F);
    if (activation === "swiglu") {
      const gate = this.linear(x, `${name}.gate_proj`, dim, F);
      for (let i = 0; i < up.length; i += 1) up[i] *= ACTIVATIONS.silu(gate[i]);
    } else {
      const act = ACTIVATIONS[activation];
      for (let i = 0; i < up.length; i += 1) up[i] = act(up[i]);
    }
    return this.linear(up, `${name}.down_proj`, F, dim);
  }

  // Logits (V,) of a hidden state (D,) that has passed the final norm.
  logits(state) {
    const out = new Float32Array(this.config.vocab_size);
    matmul(out, this.head, null, state, 1, this.config.dim, this.config.vocab_size);
    return out;
  }

  finalNorm(x) {
    return this.config.norm_position === "pre" ? this.norm(x, "transformer.norm") : x;
  }
}

const AT_ONCE = 32; // tokens of a prompt
const add = (x, y) => { for (let i = 0; i < x.length; i += 1) x[i] += y[i]; };

// One text that the model has read: its ids, and for each of them all that passed through the model.
class Session {
  constructor(model) {
    this.model = model;
    const { n_layers: L } = model.config;
    Object.assign(this, { ids: [], room: 0, hidden: Array(L + 1), q: Array(L), k: Array(L), v: Array(L) });
  }

  // Make room for n tokens, and keep what is there.
  grow(n) {
    const { dim, n_heads: H, n_kv_heads: K, head_dim: C, context_length: most } = this.model.config;
    if (n <= this.room) return;
    this.room = Math.min(most, Math.max(n, 2 * this.room, 64));
    for (const [list, width] of [[this.hidden, dim], [this.q, H * C], [this.k, K * C], [this.v, K * C]]) {
      for (let i = 0; i < list.length; i += 1) {
        const grown = new Float32Array(this.room * width);
        if (list[i]) grown.set(list[i]);
        list[i] = grown;
      }
    }
  }

  // Read these ids, the last ones of the context; what the session begins with already is not read again.
  read(ids) {
    const window = ids.slice(-this.model.config.context_length);
    let same = 0;
    while (same < Math.min(window.length - 1, this.ids.length) && window[same] === this.ids[same]) same += 1;
    this.ids.length = same;
    this.append(window.slice(same));
  }

  // One more; where the context is full, its newer half is read again and reading goes on from there.
  push(id) {
    const { context_length: context } = this.model.config;
    if (this.ids.length < context) return this.append([id]);
    const half = Math.max(1, Math.floor(context / 2));
    const newer = [...this.ids, id].slice(-half);
    this.ids.length = 0;
    return this.append(newer);
  }

  append(ids) {
    this.grow(this.ids.length + ids.length);
    for (let i = 0; i < ids.length; i += AT_ONCE) this.forward(ids.slice(i, i + AT_ONCE));
  }

  forward(ids) {
    const { model } = this;
    const { config, tensors } = model;
    const { dim, n_layers: L } = config;
    const start = this.ids.length;
    const T = ids.length;
    const x = new Float32Array(T * dim);
    const scale = config.scale_embeddings ? Math.fround(Math.sqrt(dim)) : 1;
    const table = tensors["transformer.position.table"];
    for (let t = 0; t < T; t += 1) {
      for (let i = 0; i < dim; i += 1) {
        x[t * dim + i] = model.embed[ids[t] * dim + i] * scale + (table ? table[(start + t) * dim + i] : 0);
      }
    }
    for (let layer = 0; layer < L; layer += 1) {
      const name = `transformer.blocks.${layer}`;
      this.hidden[layer].set(x, start * dim);
      if (config.norm_position === "pre") {
        add(x, this.attend(model.norm(x.slice(), `${name}.attn_norm`), layer, start));
        add(x, model.mlp(model.norm(x.slice(), `${name}.mlp_norm`), `${name}.mlp`));
      } else {
        add(x, this.attend(x, layer, start));
        model.norm(x, `${name}.attn_norm`);
        add(x, model.mlp(x, `${name}.mlp`));
        model.norm(x, `${name}.mlp_norm`);
      }
    }
    this.hidden[L].set(model.finalNorm(x), start * dim);
    this.ids.push(...ids);
  }

  attend(x, layer, start) {
    const { model } = this;
    const { dim, n_heads: H, n_kv_heads: K, head_dim: C, qk_norm: normed, position } = model.config;
    const name = `transformer.blocks.${layer}.attn`;
    const q = model.linear(x, `${name}.q_proj`, dim, H * C);
    const k = model.linear(x, `${name}.k_proj`, dim, K * C);
    if (normed) {
      model.norm(q, `${name}.q_norm`, C);
      model.norm(k, `${name}.k_norm`, C);
    }
    if (position === "rope") {
      model.rotate(q, start, H);
      model.rotate(k, start, K);
    }
    this.q[layer].set(q, start * H * C);
    this.k[layer].set(k, start * K * C);
    this.v[layer].set(model.linear(x, `${name}.v_proj`, dim, K * C), start * K * C);
    const T = x.length / dim;
    const out = new Float32Array(T * H * C);
    const weights = new Float64Array(start + T);
    for (let t = 0; t < T; t += 1) {
      for (let head = 0; head < H; head += 1) {
        this.weights(weights, layer, head, start + t);
        const to = (t * H + head) * C;
        const from = Math.floor(head / (H / K)) * C;
        for (let s = 0; s <= start + t; s += 1) {
          const [weight, at] = [weights[s], s * K * C + from];
          for (let i = 0; i < C; i += 1) out[to + i] += weight * this.v[layer][at + i];
        }
      }
    }
    return model.linear(out, `${name}.o_proj`, H * C, dim);
  }

  // Scores q k / sqrt(C) of token t in one head with the tokens up to it.
  scores(out, layer, head, t) {
    const { n_heads: H, n_kv_heads: K, head_dim: C } = this.model.config;
    const [q, k] = [this.q[layer], this.k[layer]];
    const from = (t * H + head) * C;
    const key = Math.floor(head / (H / K)) * C;
    const scale = 1 / Math.sqrt(C);
    for (let s = 0; s <= t; s += 1) {
      const at = s * K * C + key;
      let sum = 0;
      for (let i = 0; i < C; i += 1) sum += q[from + i] * k[at + i];
      out[s] = sum * scale;
    }
    return out;
  }

  weights(out, layer, head, t) {
    softmax(this.scores(out, layer, head, t), t + 1);
    return out;
  }

  // The hidden state (D,) of token t after so many layers; the last has passed the final norm.
  state(layer, t) {
    const { dim } = this.model.config;
    return this.hidden[layer].slice(t * dim, (t + 1) * dim);
  }

  // Logits (V,) of what follows token t, as the last layer has it or as an earlier one would.
  logits(t = this.ids.length - 1, layer = this.model.config.n_layers) {
    const state = this.state(layer, t);
    return this.model.logits(layer < this.model.config.n_layers ? this.model.finalNorm(state) : state);
  }
}

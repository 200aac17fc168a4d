// From logits to what may be drawn, as gptlite/generation/sampling.py has it: temperature, top-k, top-p, min-p in turn.

const GREEDY = 1e-5;

// { ids, p, drawn }: all ids, the likeliest first; their probabilities at this temperature, and those that are drawn from,
// which are 0 where top-k, top-p or min-p cut a token off.
function distribution(logits, { temperature, top_k: k, top_p: topP, min_p: minP }) {
  const ids = Uint32Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
  const warmth = Math.max(temperature, GREEDY);
  const z = Float64Array.from(ids, (id) => (logits[id] - logits[ids[0]]) / warmth);
  const weights = z.map(Math.exp);
  const all = weights.reduce((sum, x) => sum + x, 0);
  const lowest = k > 0 && k < z.length ? z[k - 1] : -Infinity;
  let mass = 0;
  for (let i = 0; i < z.length && z[i] >= lowest; i += 1) mass += weights[i];
  const drawn = new Float64Array(z.length);
  let before = 0;
  let kept = 0;
  for (let i = 0; i < z.length; i += 1) {
    const passes = z[i] >= lowest && (topP >= 1 || before < topP * mass) && (minP <= 0 || z[i] >= Math.log(minP));
    if (i && (!passes || temperature <= GREEDY)) break;
    drawn[i] = weights[i];
    before += weights[i];
    kept += weights[i];
  }
  for (let i = 0; i < z.length; i += 1) drawn[i] /= kept;
  return { ids, p: weights.map((x) => x / all), drawn };
}

// One of the ids, by a random number from [0, 1).
function draw({ ids, drawn }, random = Math.random()) {
  let sum = 0;
  for (let i = 0; i < ids.length; i += 1) {
    sum += drawn[i];
    if (random < sum) return ids[i];
  }
  return ids[0];
}

// What a cosine of two words in context is worth: its place among those of the model's own text, in words.

const USES = [0, 10, 30, 70, 90]; // percentiles, as gptlite/embedding/comparison.py has them
const RELATIONS = [0, 84, 97.5];

function percentileOf(value, quantiles) {
  if (value <= quantiles[0]) return 0;
  const last = quantiles.length - 1;
  if (value >= quantiles[last]) return 100;
  let i = 1;
  while (quantiles[i] < value) i += 1;
  return i - 1 + (value - quantiles[i - 1]) / (quantiles[i] - quantiles[i - 1] || 1);
}

// A pair: `cosine` in context; `isSame` word, in the same tokens (`isSameTokens`), after the same text (`isOneText`);
// `quantiles` of pairs of its kind, null where none were measured; `unit` "word" or "sentence".
function verdictOf({ cosine, isSame, isSameTokens, isOneText, quantiles, unit = "word" }) {
  if (isOneText) return { text: label("sameVector"), percentile: null };
  if (isSame && !isSameTokens) return { text: label("otherTokens"), percentile: null };
  if (!quantiles) return { text: label("noScale"), percentile: null };
  const percentile = percentileOf(cosine, quantiles);
  const steps = isSame ? USES : RELATIONS;
  const step = steps.filter((least) => percentile >= least).length - 1;
  const of = unit === "sentence" ? "Sentences" : "";
  const said = label(isSame ? `use${step}` : `relation${step}${step ? "" : of}`);
  const share = Math.min(99, Math.round(Math.max(percentile, 100 - percentile)));
  const pairs = label(isSame ? "samePairs" : `otherPairs${of}`);
  return { text: label(percentile < 50 ? "lower" : "higher", number(cosine), share, pairs, said), percentile };
}

// The two numbers, the verdict, and the place among other pairs.
function tellPair(pair, fixed) {
  const { text, percentile } = verdictOf(pair);
  byId("contextual").textContent = number(pair.cosine);
  byId("static").textContent = number(fixed);
  byId("verdict").textContent = text;
  byId("place").hidden = percentile === null;
  byId("place-note").hidden = percentile === null;
  byId("place").firstElementChild.style.left = `${percentile}%`;
}

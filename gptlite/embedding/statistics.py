"""What a saved model knows of its own vectors: the space they lie in, what cosines are worth in it, which words it saw.

All of it is measured while the model is saved, so that vectors made later mean the same whatever they are shown with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gptlite.embedding.both_sides import ContextBags
from gptlite.embedding.both_sides_scale import find_places, measure_scale
from gptlite.embedding.context_encoder import ContextEncoder, last_states
from gptlite.embedding.contextual import embed
from gptlite.embedding.similarity import CORRECTIONS, MOST_COMPONENTS, correct, measure, unit
from gptlite.errors import NumericsError
from gptlite.kernels.workers import Workers, one_thread
from gptlite.model import GPT
from gptlite.text.token_files import spread_ids
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import SENTENCE_END, UNSPACED, Occurrence, word_pattern, word_starts
from gptlite.tracing import trace

WINDOW_TOKENS = 4096  # whose hidden states are measured
SENTENCE_TOKENS = 1024  # of the sentences that are read one by one
STATISTICS_TOKENS = WINDOW_TOKENS + SENTENCE_TOKENS  # in all
FEWEST_SENTENCES, MOST_SENTENCES = 20, 200
N_PAIRS = 2000
SAME_WORD_PAIRS = 1000
COUNTED_TOKENS = 1 << 21  # that words are counted in, in stretches spread over a longer text
MOST_TOKENS, COUNTED_AT_ONCE = 1 << 24, 1 << 18  # that tokens are counted in
MOST_WORDS, LONGEST_WORD = 50_000, 100  # and characters


def measure_statistics(
    model: GPT,
    tokenizer: Tokenizer,
    ids: np.ndarray,
    prefix: Sequence[int] | None = None,
    workers: Workers | None = None,
    bags: ContextBags | None = None,
    encoder: ContextEncoder | None = None,
) -> dict[str, Tensor]:
    """What cosines of this model are worth, from tokens of `ids` (N,), usually the held-out text:

    - `mean`, `std` (L + 1, D) and principal `components` (L + 1, K, D) of the hidden states of each layer
    - `unrelated` (L + 1, 4, 2): mean and standard deviation of the cosine between random positions with different
      tokens, after each of the four `similarity.CORRECTIONS`; `unrelated_quantiles` (L + 1, 4, 101)
    - `same_word`, `same_word_quantiles`: the same for one word in two random places
    - `sentence_unrelated`, `sentence_unrelated_quantiles`: the same for two sentences of the text, each read alone
      after `prefix` (see `contextual.embed`), as the weighted mean of its tokens; only where there are at least 20
    - `around_unrelated`, `around_same_word` (L + 1, 2) and their quantiles (L + 1, 101): those of vectors that know
      both sides, with `bags` around the words and the vectors of `encoder`; only with `bags`, and where there are at
      least 20 pairs

    Hidden states are those of windows spread over `ids`. The first position of a window and separators are left out:
    they are outliers of their own kind. The windows are divided among `workers`, where there are several. Raises
    `NumericsError` for a model that does not compute numbers.
    """
    windows, words, states, rows = _states(model, tokenizer, ids, workers or Workers())
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(max(1, len(words)), (2, N_PAIRS if len(words) else 0), generator=generator)
    pairs = pairs[:, words[pairs[0]] != words[pairs[1]]]
    places = {
        "unrelated": (pairs[0].numpy(), pairs[1].numpy()),
        "same_word": tuple(p.numpy() for p in _same_word_pairs(words, tokenizer, generator)),
    }
    sentences = _sentence_vectors(model, tokenizer, ids, prefix)  # (L + 1, n, D)
    sentence_pairs = np.stack(np.triu_indices(len(sentences[0]), 1), axis=1)
    sentence_pairs = np.random.default_rng(0).permutation(sentence_pairs)[:N_PAIRS].T
    layers: list[dict[str, np.ndarray]] = []
    for vectors, of_sentences in zip(states.numpy(), sentences, strict=True):
        space = measure(vectors, MOST_COMPONENTS, _eigenvectors) if len(vectors) else _empty_space(vectors.shape[1])
        layer = dict(space)
        layer |= _scale(places, vectors, space)
        if len(of_sentences):
            layer |= _scale({"sentence_unrelated": tuple(sentence_pairs)}, of_sentences, space)
        layers.append(layer)
    measured = {name: np.stack([layer[name] for layer in layers]) for name in layers[0]}
    if bags is not None:
        places = find_places(tokenizer, windows)
        after = None if encoder is None else last_states(encoder.backward, windows, backward=True)
        for name, cosines in measure_scale(places, states.numpy(), rows, layers, bags, encoder, after).items():
            measured[name] = np.array([_moments(x) for x in cosines], np.float32)
            measured[f"{name}_quantiles"] = np.array([_quantiles(x) for x in cosines], np.float32)
    return {name: torch.from_numpy(array) for name, array in measured.items()}


def _eigenvectors(matrix: np.ndarray) -> np.ndarray:
    """Those of a symmetric matrix (D, D), as columns; eigenvalues ascend. On one thread: those of NumPy wait for each
    other at every step, which beside other programs took a minute for 1,024 dimensions."""
    with one_thread():
        return torch.linalg.eigh(torch.from_numpy(matrix))[1].numpy()


class _Read(NamedTuple):
    """Tokens that a model has read, (n, T), in windows of their own.

    - `words` (N,): those that count, and their `states` (L + 1, N, D); `rows` (n, T): where each is in these, or -1.
    """

    windows: np.ndarray
    words: Tensor
    states: Tensor
    rows: np.ndarray


def _scale(
    pairs: Mapping[str, tuple[np.ndarray, ...]], vectors: np.ndarray, space: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """For each name, moments (4, 2) and quantiles (4, 101) of the cosines of its pairs of `vectors` (N, D), after each
    correction."""
    cosines: dict[str, list[np.ndarray]] = {name: [] for name in pairs}
    for correction in CORRECTIONS:
        corrected = unit(correct(vectors, correction, space))
        for name, (first, second) in pairs.items():
            cosines[name].append(np.einsum("nd,nd->n", corrected[first], corrected[second]))
    return {
        **{name: np.array([_moments(x) for x in each], dtype=np.float32) for name, each in cosines.items()},
        **{f"{name}_quantiles": np.array([_quantiles(x) for x in each], np.float32) for name, each in cosines.items()},
    }


def _sentence_vectors(model: GPT, tokenizer: Tokenizer, ids: np.ndarray, prefix: Sequence[int] | None) -> np.ndarray:
    """The vectors (L + 1, n, D) of different sentences of the text, as `embed --sentence` makes them; n may be 0."""
    text = tokenizer.decode([i for i in ids[: 4 * SENTENCE_TOKENS].tolist() if i != tokenizer.separator_id])
    room = model.config.context_length - max(1, len(prefix or ()))
    places: list[Occurrence] = []
    n_tokens = 0
    for sentence in dict.fromkeys(part.strip() for part in SENTENCE_END.split(text)[:-1]):
        length = len(tokenizer.encode(sentence))
        if len(word_starts(sentence)) < 2 or length > room:
            continue
        n_tokens += length
        if n_tokens > SENTENCE_TOKENS or len(places) == MOST_SENTENCES:
            break
        places.append(Occurrence(len(places), sentence, 0, len(sentence)))
    if len(places) < FEWEST_SENTENCES:
        return np.zeros((model.config.n_layers + 1, 0, model.config.dim), dtype=np.float32)
    vectors = embed(model, tokenizer, places, pool="weighted", n_expected=0, prefix=prefix)
    return np.stack([v.contextual for v in vectors], axis=1)


def count_tokens(ids: np.ndarray, vocab_size: int) -> Tensor:
    """How often each token stands in `ids` (N,): (V,) int64. Of more than 16 million, a part counts."""
    counts, ids = np.zeros(vocab_size, dtype=np.int64), spread_ids(ids, MOST_TOKENS)
    for start in range(0, len(ids), COUNTED_AT_ONCE):  # counting makes a copy that is four times as large
        counts += np.bincount(ids[start : start + COUNTED_AT_ONCE], minlength=vocab_size)
    return torch.from_numpy(counts)


def count_words(tokenizer: Tokenizer, ids: np.ndarray) -> list[tuple[str, int]]:
    """The words of a text of tokens `ids` (N,) that occur at least twice, most frequent first, at most 50,000.

    A word is a run of letters, digits and marks. Scripts without spaces have none that letters alone could show: there
    every token made of their characters is one. Of more than 2 million tokens, stretches spread over the text count.
    """
    ids = spread_ids(ids, COUNTED_TOKENS)
    counts: Counter[str] = Counter()
    for start in range(0, len(ids), COUNTED_AT_ONCE):
        text = tokenizer.decode(ids[start : start + COUNTED_AT_ONCE].tolist())
        counts.update(match[0] for match in word_pattern().finditer(text) if not UNSPACED.search(match[0]))
    for token, n in enumerate(np.bincount(ids, minlength=1)):
        text = tokenizer.decode([token]) if n else ""
        if text and all(UNSPACED.match(character) and character.isalpha() for character in text):
            counts[text] += int(n)
    frequent = [(word, n) for word, n in counts.items() if n > 1 and len(word) <= LONGEST_WORD]
    return sorted(frequent, key=lambda item: (-item[1], item[0]))[:MOST_WORDS]


def _states(model: GPT, tokenizer: Tokenizer, ids: np.ndarray, workers: Workers) -> _Read:
    """The hidden states of windows spread over `ids` (N,)."""
    context = model.config.context_length
    n_windows = max(1, min(WINDOW_TOKENS // context, len(ids) // context))
    length = min(context, len(ids))
    device = next(model.parameters()).device
    chosen = np.linspace(0, max(1, len(ids) // context) - 1, n_windows).round().astype(np.int64)
    windows = np.stack([ids[i * length : (i + 1) * length] for i in chosen.tolist()]).astype(np.int64)
    tokens = torch.from_numpy(windows)

    def read(windows: Tensor) -> Tensor:
        """The hidden states (L + 1, B, T - 1, D) of all positions but the first."""
        return torch.stack(trace(model, windows.to(device), head=False).hidden)[:, :, 1:].float().cpu()

    hidden = workers.map(read, tokens.split(16))
    words = tokens[:, 1:].flatten()
    usable = words != tokenizer.separator_id
    states = torch.cat(hidden, dim=1).flatten(1, 2)[:, usable]
    if not states.isfinite().all():
        raise NumericsError(
            "the model's hidden states are not finite, so nothing is saved; go on from an earlier step with a "
            "smaller `lr`."
        )
    rows = np.full(windows.shape, -1)
    rows[:, 1:] = np.where(usable, usable.cumsum(0) - 1, -1).reshape(n_windows, length - 1)
    return _Read(windows, words[usable], states, rows)


def _same_word_pairs(words: Tensor, tokenizer: Tokenizer, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Up to 1,000 pairs of positions with the same token, one pair a token that begins a word and occurs twice."""
    first, second = [], []
    shuffle = torch.randperm(len(words), generator=generator)
    where: dict[int, list[int]] = {}
    for i, token in zip(shuffle.tolist(), words[shuffle].tolist(), strict=True):
        where.setdefault(token, []).append(i)
    for token, places in where.items():
        text = tokenizer.decode([token])
        if len(places) > 1 and text.startswith(" ") and text.strip().isalpha() and len(first) < SAME_WORD_PAIRS:
            first.append(places[0])
            second.append(places[1])
    if not first:  # no spaces in this language: any token that occurs twice
        repeated = [places for places in where.values() if len(places) > 1][:SAME_WORD_PAIRS]
        first, second = [p[0] for p in repeated], [p[1] for p in repeated]
    return torch.tensor(first, dtype=torch.long), torch.tensor(second, dtype=torch.long)


def _empty_space(dim: int) -> dict[str, np.ndarray]:
    zeros = np.zeros((1 + min(MOST_COMPONENTS, dim), dim), dtype=np.float32)
    return {"mean": zeros[0], "std": zeros[0], "components": zeros[1:]}


def _moments(x: np.ndarray) -> tuple[float, float]:
    return (float(x.mean()), float(x.std())) if len(x) else (0.0, 0.0)


def _quantiles(x: np.ndarray) -> np.ndarray:
    return np.quantile(x, np.linspace(0, 1, 101)) if len(x) else np.zeros(101)

"""Word vectors, static and contextual, of the same word in different sentences.

A *static* vector is the word's row in the embedding table (the mean of its rows, if it has several tokens): one vector
whatever the sentence, as in Word2Vec. A *contextual* vector is the hidden state at the word: a function of everything
to its left, and of nothing to its right, because attention is causal.

That is also what makes it cheap. Nothing right of a word is read, texts that begin alike are read once, shorter ones
are padded on the right without a mask, and blocks above the layer that is asked for are not computed.

How alike vectors are is in `similarity`; what a cosine is worth in a model, in `statistics`.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gptlite.errors import CheckpointError, LimitError, UsageError
from gptlite.kernels.diagonal import without_zeros
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import Occurrence, in_sentence, word_starts
from gptlite.tracing import hidden

PREFIX = "\n"  # read before each text: a first position is special, and a line's start is what it most looks like
KNOWN_SEPARATOR = 100  # times that a separator must have been seen to be a better prefix
POOLS = ("last", "mean", "first", "weighted")
BEFORE = "before"  # for embed() alone: the token before the word, whose state predicts it
CONTEXTS = ("left", "echo")
LONGEST_WORD = 65_536  # characters
LONGEST_STRETCH = 1 << 18  # characters to both sides of a word; what has no gap in as many is cut all the same
WORDS_AT_ONCE = 4096  # that are sorted by length together
TOKENS_AT_ONCE = {"cpu": 1024}  # of one forward pass: what a processor's cache holds, ...
MOST_TOKENS_AT_ONCE = 4096  # ... or elsewhere this many
HEADS_AT_ONCE = 256  # positions whose scores of all tokens are held


@dataclass(frozen=True)
class WordVector:
    """The vectors of one occurrence.

    - `contextual` (L + 1, D): after 0, 1, ... L blocks, or only the first of them, or only the rows of `layers` (see
      `embed`); `at` finds a layer by its number in all three. `static` (D,).
    - `tokens`: the text of the tokens that cover the word; `partial` when they reach outside of it.
    - `n_left`, `words_left`: tokens and words of the text that the model had seen before this word. Each character of a
      script without spaces counts as a word.
    - `truncated`: did the text before the word not fit into the model's context?
    - `expected`: the likeliest next tokens at this point.
    """

    occurrence: Occurrence
    contextual: np.ndarray
    static: np.ndarray
    tokens: tuple[str, ...]
    partial: bool
    n_left: int
    expected: tuple[str, ...]
    words_left: int = 0
    truncated: bool = False
    layers: tuple[int, ...] | None = None

    def at(self, layers: int | Sequence[int] | None) -> np.ndarray:
        """The contextual vector (D,) of one layer, the mean of several layers', or with None all of them (L + 1, D)."""
        if layers is None:
            return self.contextual
        if self.layers is not None:
            layers = self.layers.index(layers) if isinstance(layers, int) else [self.layers.index(i) for i in layers]
        return self.contextual[layers] if isinstance(layers, int) else self.contextual[list(layers)].mean(axis=0)


# -- Which vector


def resolve_layer(layer: str, n_layers: int) -> int:
    """ "mid" (half of the blocks), "last", a number from 0 (below block 1) to L, or a negative one from the end."""
    if layer == "mid":
        return (n_layers + 1) // 2
    if layer == "last":
        return n_layers
    if not re.fullmatch(r"-?\d+", layer) or not -n_layers - 1 <= int(layer) <= n_layers:
        raise UsageError(
            f"`layer` must be mid, last, a number from 0 to {n_layers} (or -1 to -{n_layers + 1}), or A-B for the mean "
            f"of several, not '{layer}'."
        )
    return int(layer) % (n_layers + 1)


def resolve_layers(layers: str, n_layers: int) -> tuple[int, ...]:
    """One layer as `resolve_layer` has it, all from A to B of "A-B", or "all" from 0 to L, in rising order."""
    if layers == "all":
        return tuple(range(n_layers + 1))
    if match := re.fullmatch(r"(\d+)-(\d+)", layers):
        first, last = (resolve_layer(number, n_layers) for number in match.groups())
        if first < last:
            return tuple(range(first, last + 1))
        raise UsageError(f"`layer` {layers} names no layers: the first must be below the last, such as 1-{n_layers}.")
    return (resolve_layer(layers, n_layers),)


def find_prefix(tokenizer: Tokenizer, wish: str = "auto", token_counts: np.ndarray | None = None) -> list[int]:
    """Ids to read before each text, so that no word stands at the first position, which attention treats specially.

    "auto" is what the tokenizer says must stand before any text (Llama 3 does); else the separator of documents if the
    model has seen it 100 times in training (`token_counts` (V,)), and else a line break, because the row of a token
    hardly ever seen is noise. Any other wish is the text itself.
    """
    if wish != "auto":
        return tokenizer.encode(wish)
    if tokenizer.opening:
        return list(tokenizer.opening)
    if token_counts is not None and token_counts[tokenizer.separator_id] >= KNOWN_SEPARATOR:
        return [tokenizer.separator_id]
    return tokenizer.encode(PREFIX)


def prefix_text(tokenizer: Tokenizer, prefix: Sequence[int]) -> str:
    """How a prefix reads, for people and files."""
    return tokenizer.separator if list(prefix) == [tokenizer.separator_id] else tokenizer.decode(prefix)


# -- Vectors


def static_vector(model: GPT, tokenizer: Tokenizer, word: str) -> np.ndarray:
    """(D,): the mean of the embedding rows of a word's tokens, in the form in which it stands inside a sentence."""
    return _static_vectors(model, tokenizer, [word])[0]


def _static_vectors(model: GPT, tokenizer: Tokenizer, words: Sequence[str]) -> np.ndarray:
    """(n, D): `static_vector` of n words, in one look at the table."""
    ids = tokenizer.encode_batch([in_sentence(word) for word in words])
    lengths = np.array([len(tokens) for tokens in ids])
    rows = model.transformer.embed.weight[[i for tokens in ids for i in tokens]].detach().float().cpu().numpy()
    sums = np.add.reduceat(rows, np.cumsum(lengths) - lengths, axis=0)
    return (sums / lengths[:, None]).astype(np.float32)


def embed(
    model: GPT,
    tokenizer: Tokenizer,
    occurrences: Sequence[Occurrence],
    *,
    pool: str = "last",
    top: int | None = None,
    layers: Sequence[int] | None = None,
    n_expected: int = 4,
    prefix: Sequence[int] | None = None,
    context: str = "left",
) -> list[WordVector]:
    """Vectors of all `occurrences` in their order, each from its text up to the end of the word.

    A vector depends on its own text alone: whatever else is asked for changes it by rounding only (less than 1e-5).

    - `pool`: which of a word's tokens count: the `last` one has seen the whole word; `mean`, `first`; or `weighted`,
      their mean with weights 1, 2, 3, ..., which is meant for sentences (SGPT, Muennighoff 2022).
    - `top`: the highest layer wanted. `contextual` is then (top + 1, D): layers keep their numbers, and blocks above it
      are left out unless tokens are expected.
    - `layers`: the layers wanted, in place of all up to `top`. `contextual` is then (len(layers), D), in this order;
      `WordVector.at` still goes by layer numbers. It saves time and memory where words are many.
    - `n_expected`: how many next tokens to predict; 0 saves the head.
    - `prefix`: ids to read before each text, those of `PREFIX` by default; see `find_prefix`.
    - `context`: what the model reads before the word: the text to its `left`, or, with `echo`, the whole text once
      before, so that it knows what comes (Springer et al. 2024).
    Of a text longer than the model's context the last tokens up to the word are read. Raises `LimitError` for a word
    of more than 65,536 characters and `CheckpointError` for a model that does not compute numbers.
    """
    if pool != BEFORE:
        _check_choice("pool", pool, POOLS)
    _check_choice("context", context, CONTEXTS)
    begin = tokenizer.encode(PREFIX) if prefix is None else list(prefix)
    wanted = tuple(range((model.config.n_layers if top is None else top) + 1) if layers is None else layers)
    kept = None if layers is None else wanted
    text_of = cache(lambda i: tokenizer.decode([i]))
    vectors: list[WordVector] = []
    for start in range(0, len(occurrences), WORDS_AT_ONCE):
        chunk = [o.trimmed() for o in occurrences[start : start + WORDS_AT_ONCE]]
        windows = _read(tokenizer, chunk if context == "left" else [_echo(o) for o in chunk], begin, model)
        with without_zeros(model):
            computed = compute(model, tokenizer, windows, pool, wanted, n_expected)
        numbers: dict[str, int] = {}  # of the different words
        of_word = [numbers.setdefault(o.word, len(numbers)) for o in chunk]
        static = list(_static_vectors(model, tokenizer, list(numbers)))
        for o, r, (contextual, expected), i in zip(chunk, windows, computed, of_word, strict=True):
            tokens = tuple(map(text_of, r.covering))
            seen = (r.n_left, expected, r.words_left, r.truncated, kept)
            vectors.append(WordVector(o, contextual, static[i], tokens, r.partial, *seen))
    return vectors


def _check_choice(name: str, choice: str, choices: Sequence[str]) -> None:
    if choice not in choices:
        raise UsageError(f"`{name}` must be one of {', '.join(choices)}, not '{choice}'.")


def _echo(o: Occurrence) -> Occurrence:
    """The same word in the second of two copies of its text, a line each."""
    shift = len(o.text) + 1
    return replace(o, text=f"{o.text}\n{o.text}", start=o.start + shift, end=o.end + shift)


# -- From words to positions of windows


class Window(NamedTuple):
    """What is to be read for one word: `ids[begin:end]`, and where the word stands in it."""

    ids: list[int]  # shared by the words of a text
    begin: int
    end: int
    positions: list[int]  # in the window
    covering: list[int]  # ids of the word's tokens
    partial: bool
    n_left: int
    words_left: int
    truncated: bool


@dataclass(frozen=True)
class Stretch:
    """The characters [left, right) of a text, with their tokens."""

    text: str
    left: int
    right: int
    ids: list[int]
    spans: list[tuple[int, int]]  # from `left` on
    full: list[int]  # prefix and ids
    ends: list[int]  # of the spans
    starts_of_words: list[int]

    @classmethod
    def make(
        cls, text: str, left: int, right: int, tokens: tuple[list[int], list[tuple[int, int]]], prefix: list[int]
    ) -> Stretch:
        ids, spans = tokens
        part = text if right - left == len(text) else text[left:right]
        return cls(text, left, right, ids, spans, [*prefix, *ids], [end for _, end in spans], word_starts(part))


def _read(tokenizer: Tokenizer, occurrences: Sequence[Occurrence], prefix: list[int], model: GPT) -> list[Window]:
    """Tokenize, and find the last tokens up to each word that fit into the context."""
    context = model.config.context_length
    reach = max(8 * context, 4096)  # characters to both sides of a word
    whole = list({o.text: None for o in occurrences if len(o.text) <= 2 * reach})
    known = {
        text: Stretch.make(text, 0, len(text), tokens, prefix)
        for text, tokens in zip(whole, tokenizer.encode_batch_with_spans(whole), strict=True)
    }
    windows, near = [], None
    for o in occurrences:
        if (length := o.end - o.start) > LONGEST_WORD:
            raise LimitError(
                f"text {o.text_index + 1}: a word of {length:,} characters is too long; {LONGEST_WORD:,} are the most."
            )
        if (stretch := known.get(o.text)) is None:
            stretch = near = _neighbourhood(tokenizer, o, prefix, context, reach, near)
        windows.append(_window(tokenizer, stretch, o, len(prefix), context))
    return windows


def _neighbourhood(
    tokenizer: Tokenizer, o: Occurrence, prefix: list[int], context: int, reach: int, before: Stretch | None
) -> Stretch:
    """As much of a long text as fills the context left of a word; that of the word `before` if it will do."""
    if before is not None and before.text is o.text and _suffices(tokenizer, before, o, context):
        return before
    text, start, end = o.text, o.start, o.end
    while True:
        left, right = max(0, start - reach), min(len(text), end + reach)
        if left and reach < LONGEST_STRETCH and (safe := tokenizer.safe_cut.search(text, left, start)):
            left = safe.start()
        stretch = Stretch.make(text, left, right, tokenizer.encode_with_spans(text[left:right]), prefix)
        if left == 0 or reach >= LONGEST_STRETCH or cover(tokenizer, stretch, o)[0][-1] >= context:
            return stretch
        reach *= 4


def _suffices(tokenizer: Tokenizer, stretch: Stretch, o: Occurrence, context: int) -> bool:
    """Would the tokens up to the word be these, if the whole text were tokenized?"""
    if not stretch.left <= o.start < o.end <= stretch.right:
        return False
    text, left, right = o.text, stretch.left, stretch.right
    if left and not (tokenizer.safe_cut.match(text, left) and cover(tokenizer, stretch, o)[0][-1] >= context):
        return False
    return right == len(text) or bool(tokenizer.safe_cut.search(text, o.end, right))


def _window(tokenizer: Tokenizer, stretch: Stretch, o: Occurrence, n_prefix: int, context: int) -> Window:
    covering, partial = cover(tokenizer, stretch, o)
    end = n_prefix + covering[-1] + 1
    begin = max(0, end - context)
    dropped = max(0, begin - n_prefix)  # tokens of the text
    words = stretch.starts_of_words
    words_left = bisect_left(words, o.start - stretch.left)
    if seen_from := stretch.spans[dropped][0]:
        words_left = max(0, words_left - bisect_left(words, seen_from))
    return Window(
        stretch.full,
        begin,
        end,
        [position for i in covering if (position := i + n_prefix - begin) >= 0],
        [stretch.ids[i] for i in covering],
        partial,
        max(0, covering[0] - dropped),
        words_left,
        dropped > 0,
    )


def _covering_tokens(tokenizer: Tokenizer, occurrence: Occurrence) -> tuple[list[int], list[int], bool]:
    """Ids of the whole text, the positions of the tokens that cover the word, and whether they reach outside of it."""
    text = occurrence.text
    stretch = Stretch.make(text, 0, len(text), tokenizer.encode_with_spans(text), [])
    return stretch.ids, *cover(tokenizer, stretch, occurrence)


def cover(tokenizer: Tokenizer, stretch: Stretch, o: Occurrence) -> tuple[list[int], bool]:
    """The positions of the tokens that cover the word, and whether they reach outside of it.

    By overlap of character spans, never by equality: a token may carry the space before the word, a character may be
    several tokens with the same span, and a token may reach into the next character.
    """
    ids, spans, text, left = stretch.ids, stretch.spans, o.text, stretch.left
    start, end = o.start - left, o.end - left
    first = beyond = bisect_right(stretch.ends, start)
    while beyond < len(ids) and spans[beyond][0] < end:
        beyond += 1
    covering = list(range(first, beyond))
    if len(covering) > 1 and not o.word.isspace():
        covering = [i for i in covering if tokenizer.token_bytes[ids[i]].strip()]
    if not covering:
        raise UsageError(f"text {o.text_index + 1}: no token covers {o.word!r}.")
    begins, ends = spans[covering[0]][0], spans[covering[-1]][1]  # of all: spans rise
    before = begins < start and text[left + begins : o.start].strip()
    after = ends > end and text[o.end : left + ends].strip()
    return covering, bool(before or after)


# -- From windows to vectors


def compute(
    model: GPT, tokenizer: Tokenizer, windows: Sequence[Window], pool: str, wanted: Sequence[int], n_expected: int
) -> list[tuple[np.ndarray, tuple[str, ...]]]:
    """For each window the hidden states (len(wanted), D) of its word, and what the model expects next."""
    n_layers, device = model.config.n_layers, next(model.parameters()).device
    layers = [*wanted, *([n_layers] if n_expected and wanted[-1] != n_layers else [])]
    results: list[tuple[np.ndarray, tuple[str, ...]]] = [(np.empty(0), ())] * len(windows)
    for rows in _batches(windows, TOKENS_AT_ONCE.get(device.type, MOST_TOKENS_AT_ONCE)):
        width = max(len(ids) for ids, _ in rows)
        tokens = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in rows], device=device)
        numbers = [i for _, members in rows for i in members]
        # Positions are counted through all rows.
        at: list[int] = []
        weights: list[float] = []
        owners: list[int] = []
        last: list[int] = []
        for row, (_, members) in enumerate(rows):
            for i in members:
                positions = windows[i].positions
                if pool != "last":
                    for position, weight in _weights(positions, pool):
                        at.append(row * width + position)
                        weights.append(weight)
                        owners.append(len(last))
                last.append(row * width + positions[-1])
        at = last if pool == "last" else at
        where = torch.tensor([*at, *last] if n_expected else at, device=device)
        states = hidden(model, tokens, layers, (where // width, where % width)).float()  # (layers, n, D)
        if not states.isfinite().all():
            raise CheckpointError(
                "the model's hidden states are not numbers, so its weights are damaged; use another step of the run."
            )
        pooled = states[: len(wanted), : len(at)].cpu().transpose(0, 1).contiguous()  # (n, len(wanted), D)
        if len(at) > len(last):  # words of several positions
            parts = pooled * torch.tensor(weights)[:, None, None]
            pooled = torch.zeros(len(last), *parts.shape[1:]).index_add_(0, torch.tensor(owners), parts)
        expected = _expect(model, tokenizer, states[-1, len(at) :], n_expected) if n_expected else [()] * len(last)
        for i, vector, following in zip(numbers, pooled.numpy(), expected, strict=True):
            results[i] = vector, following
    return results


def _batches(windows: Sequence[Window], n_tokens: int) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Inputs of about equal length, `n_tokens` in all, each with the numbers of the windows that it serves.

    A window that another one begins with is not read by itself: attention is causal, so the states are the same.
    """
    longest: dict[tuple[int, int], int] = {}  # of the windows with one beginning
    for r in windows:
        key = (id(r.ids), r.begin)
        longest[key] = max(longest.get(key, 0), r.end)
    members: dict[tuple[int, int], list[int]] = {key: [] for key in longest}
    inputs: dict[tuple[int, int], list[int]] = {}
    for i, r in enumerate(windows):
        key = (id(r.ids), r.begin)
        members[key].append(i)
        if key not in inputs:
            inputs[key] = r.ids[r.begin : longest[key]]
    rows: list[tuple[list[int], list[int]]] = []
    for key in sorted(inputs, key=inputs.__getitem__):  # what begins alike stands together, the shortest first
        window = inputs[key]
        if rows and window[: len(rows[-1][0])] == rows[-1][0]:
            rows[-1] = window, [*rows[-1][1], *members[key]]
        else:
            rows.append((window, members[key]))
    rows.sort(key=lambda row: len(row[0]))
    batch: list[tuple[list[int], list[int]]] = []
    for row in rows:
        if batch and (len(batch) + 1) * len(row[0]) > n_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _weights(positions: list[int], pool: str) -> list[tuple[int, float]]:
    """The positions that count for a word, and how much, unless it is the last alone."""
    if pool in ("first", BEFORE):
        return [(positions[0] if pool == "first" else max(0, positions[0] - 1), 1.0)]
    n = len(positions)
    if pool == "mean":
        return [(position, 1 / n) for position in positions]
    return [(position, 2 * (i + 1) / (n * (n + 1))) for i, position in enumerate(positions)]


@torch.inference_mode()
def _expect(model: GPT, tokenizer: Tokenizer, last: Tensor, n: int) -> list[tuple[str, ...]]:
    """The n likeliest tokens after each of the final states `last` (N, D)."""
    n = min(n, tokenizer.vocab_size)
    likeliest = [model.head(part)[:, : tokenizer.vocab_size].topk(n).indices for part in last.split(HEADS_AT_ONCE)]
    return [tuple(tokenizer.decode([i]) for i in ids) for ids in torch.cat(likeliest).tolist()]

"""A text as a model reads it: how surprising each token and word was, what was expected, and where attention looked.

Surprisal is -log2 p of what came, in bits; entropy is the surprisal that the model itself expected. The sums are those
of `evaluation`, window by window, so that what stands here of a text adds up to what `gptlite eval` says of it.

Layers are numbered 1 to L and heads 1 to H for people; tokens from 1, and 0 is the separator before the text.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gptlite.device import Hardware
from gptlite.errors import CheckpointError, LimitError, UsageError
from gptlite.evaluation.scoring import LARGEST_LOGITS, Score, Window, sliding_windows
from gptlite.evaluation.surprisals import group_tokens
from gptlite.kernels.diagonal import without_zeros
from gptlite.model import GPT, causal_mask
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import Occurrence, find_units, find_word
from gptlite.tracing import attention_inputs, hidden, trace

LONGEST_TEXT = 1 << 21  # characters; the numbers of a longer one are for `evaluation`, which keeps only their sums
LARGEST_MAPS = 1 << 26  # numbers in the attention maps of one window
BIT = math.log(2)  # nats


@dataclass(frozen=True)
class Lens:
    """What each layer would have predicted, had it been the last one: the logit lens (nostalgebraist 2020).

    The hidden states of a layer go through the final norm and the head, for which only the last was trained.
    - `surprisal` of the true token in bits and its `rank`, (L + 1, N).
    - `top`, `top_p` (L + 1, N, k): the k likeliest ids and their probabilities, the likeliest first.
    """

    surprisal: np.ndarray
    rank: np.ndarray
    top: np.ndarray
    top_p: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """The likeliest ids (L + 1, N)."""
        return self.top[..., 0]

    @property
    def best_p(self) -> np.ndarray:
        """Their probabilities (L + 1, N)."""
        return self.top_p[..., 0]


@dataclass(frozen=True)
class Reading:
    """A text of N tokens, each predicted from the separator and the tokens before it.

    - `ids` (N,), and for each the characters [start, end) of `text` that it covers: `spans`. The tokens of a character
      that is several tokens have the same span.
    - `surprisal`, `entropy` (N,) in bits; `rank` (N,): 1 where the token was the likeliest.
    - `top`, `top_p` (N, k): the k likeliest ids and their probabilities, the likeliest first.
    - `n_bytes`: of the text in UTF-8.
    """

    text: str
    ids: np.ndarray
    spans: Sequence[tuple[int, int]]
    surprisal: np.ndarray
    entropy: np.ndarray
    rank: np.ndarray
    top: np.ndarray
    top_p: np.ndarray
    n_bytes: int
    lens: Lens | None = None

    @cached_property
    def words(self) -> list[Word]:
        """Its words, punctuation marks and white space in order, with their surprisal: see `words_of`."""
        return words_of(self)

    @property
    def score(self) -> Score:
        """As `evaluation.score` has it."""
        return Score(float(self.surprisal.sum(dtype=np.float64)) * BIT, len(self.ids), self.n_bytes)


@dataclass(frozen=True)
class Word:
    """A word, a punctuation mark or white space: characters [start, end), tokens [first, last) counted from 0.

    Its surprisal is the sum over its tokens. A byte-level token begins with the space before a word, so the bits of
    that space are among the word's; how likely the word was to end where it ends is left to what follows (Oh &
    Schuler 2024, Pimentel & Meister 2024, who show what that convention leaves out).
    """

    text: str
    start: int
    end: int
    first: int
    last: int
    kind: str
    surprisal: float


# -- Surprisal


def read(
    model: GPT, tokenizer: Tokenizer, text: str, hardware: Hardware, *, top: int = 5, lens: bool = False
) -> Reading:
    """Read `text` as a document of its own, with the `top` likeliest alternatives to each token.

    A text longer than the context is read in windows: every token but the first ones is predicted from at least half a
    context. Raises `UsageError` for an empty text, `LimitError` for one of more than 2 million characters, and
    `CheckpointError` for a model that does not compute numbers.
    """
    if not text:
        raise UsageError("the text is empty, so there is nothing to inspect.")
    if len(text) > LONGEST_TEXT:
        raise LimitError(
            f"the text has {len(text):,} characters, more than the {LONGEST_TEXT:,} that are kept token by token; give "
            "a part of it, or take its sums with gptlite eval."
        )
    ids, spans = tokenizer.encode_with_spans(text)
    stream = np.array([tokenizer.separator_id, *ids], dtype=np.int64)
    layers = range(model.config.n_layers + 1) if lens else (model.config.n_layers,)
    top = min(top, tokenizer.vocab_size)
    parts: list[list[Tensor]] = []
    for tokens, targets, counted in _windows(stream, model.config.context_length, model.config.vocab_size):
        with hardware.autocast(), without_zeros(model):
            states = hidden(model, tokens.to(hardware.device), layers)[:, counted]  # (layers, n, D)
        n = max(1, LARGEST_LOGITS // (len(layers) * model.config.vocab_size))
        for some, true in zip(states.split(n, dim=1), targets[counted].split(n), strict=True):
            parts.append(_judge(model, some, true.to(hardware.device), top, tokenizer.vocab_size, hardware))
    surprisal, entropy, rank, best, best_p = (torch.cat(x, dim=1).cpu().numpy() for x in zip(*parts, strict=True))
    if not np.isfinite(surprisal).all():
        raise CheckpointError("the model's predictions are not numbers, so its weights are damaged; use another step.")
    seen = Lens(surprisal, rank, best, best_p) if lens else None
    n_bytes = len(text.encode())
    return Reading(
        text, stream[1:], spans, surprisal[-1], entropy[-1], rank[-1], best[-1, :, :top], best_p[-1, :, :top], n_bytes,
        seen,
    )  # fmt: skip


def _windows(stream: np.ndarray, context: int, vocab_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The windows of `evaluation`, some at a time: inputs and targets (B, T), and which targets count (B, T)."""
    windows: Sequence[Window] = sliding_windows(len(stream), context)
    rows = max(1, LARGEST_LOGITS // (vocab_size * windows[0].length))
    for first in range(0, len(windows), rows):
        group = windows[first : first + rows]
        length = group[0].length
        tokens = torch.from_numpy(stream[np.add.outer([w.start for w in group], np.arange(length + 1))])
        skipped = torch.tensor([length - w.scored for w in group])
        yield tokens[:, :-1], tokens[:, 1:], torch.arange(length) >= skipped[:, None]


@torch.inference_mode()
def _judge(model: GPT, states: Tensor, true: Tensor, top: int, n_spelled: int, hardware: Hardware) -> list[Tensor]:
    """Of hidden states (layers, n, D) before the tokens `true` (n,): surprisal, entropy and rank (layers, n), and the
    `top` likeliest of the first `n_spelled` ids, (layers, n, top), with their probabilities."""
    below = states[:-1]
    if len(below):  # the last one has passed the norm already
        states = torch.cat((model.transformer.norm(below), states[-1:]))
    with hardware.autocast():
        logits = model.head(states).float()
    logp = logits.log_softmax(dim=-1)
    index = true.expand(len(states), -1)[..., None]
    chosen = logp.gather(-1, index)
    best = logp[..., :n_spelled].topk(max(1, top), dim=-1)
    entropy = torch.special.entr(logp.exp()).sum(-1)
    rank = 1 + (logits > logits.gather(-1, index)).sum(-1)
    return [(0.0 - chosen[..., 0]) / BIT, entropy / BIT, rank, best.indices, best.values.exp()]


# -- Words


def words_of(reading: Reading) -> list[Word]:
    """The words of a text, its punctuation marks and its white space, in order; together they have all tokens.

    - A word stands between white spaces, without the punctuation around it: "(don't)." is a mark, a word, two marks.
    - Every character of a script without spaces is a word.
    - What shares a token cannot be told apart and is one word.
    """
    text = reading.text
    units = find_units(text)
    found = []
    for (first_unit, last_unit), (first, last) in group_tokens(text, reading.spans, units):
        kinds = [kind for _, _, kind in units[first_unit:last_unit]]
        start, end = units[first_unit][0], units[last_unit - 1][1]
        kind = "word" if "word" in kinds else kinds[0]
        bits = float(reading.surprisal[first:last].sum(dtype=np.float64))
        found.append(Word(text[start:end], start, end, first, last, kind, bits))
    return found


# -- Attention


@dataclass(frozen=True)
class Attended:
    """The attention maps of one window.

    - `first`: the number of its first token; 0 is the separator before the text.
    - `weights` (L, H, T, T): how much each query (row) takes from each key (column); rows sum to 1.
    - `layer`, `head`: of the first of them, from 1.
    """

    first: int
    weights: np.ndarray
    layer: int = 1
    head: int = 1


def parse_head(text: str, n_layers: int, n_heads: int, name: str) -> tuple[int, int]:
    """Layer and head of "3.2", both from 1. Raises `UsageError`."""
    match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})", text, re.ASCII)
    if not match or not 1 <= int(match[1]) <= n_layers or not 1 <= int(match[2]) <= n_heads:
        raise UsageError(
            f"`{name}` takes a layer from 1 to {n_layers} and a head from 1 to {n_heads}, such as "
            f"{n_layers}.{n_heads}, not '{text}'."
        )
    return int(match[1]), int(match[2])


def find_token(reading: Reading, token: str) -> int:
    """The number (from 1) of the token that "9" or a word such as "it" or "it#2" means: a word's last token.

    Raises `UsageError` when there is none.
    """
    n = len(reading.ids)
    if re.fullmatch(r"\d{1,9}", token, re.ASCII):
        if 1 <= int(token) <= n:
            return int(token)
        raise UsageError(f"`token` {token}: the text has the tokens 1 to {n:,}.")
    places: list[Occurrence] = find_word(reading.text, 0, token)
    if not places:
        words = list(dict.fromkeys(word.text for word in words_of(reading) if word.kind == "word"))
        raise UsageError(f"`token` {token}: the text has no such word; it has {', '.join(words[:12])}.")
    end = places[0].end
    return 1 + max(i for i, (start, stop) in enumerate(reading.spans) if start < end and stop > places[0].start)


def last_token(reading: Reading) -> int:
    """The number (from 1) of the last token that is more than white space, which a file often ends with."""
    n = len(reading.ids)
    return next((i for i in range(n, 0, -1) if reading.text[slice(*reading.spans[i - 1])].strip()), n)


def window_of(reading: Reading, tokenizer: Tokenizer, context: int, token: int | None = None) -> tuple[int, list[int]]:
    """The first token's number, and the ids of the window that attention is looked at in.

    The whole text where it fits into the context. Else the last tokens of it, or those that end with `token`.
    """
    stream = [tokenizer.separator_id, *reading.ids.tolist()]
    if len(stream) <= context:
        return 0, stream
    end = len(stream) if token is None else max(token + 1, context)
    return end - context, stream[end - context : end]


def attend(model: GPT, window: tuple[int, list[int]], layer: int | None = None, head: int | None = None) -> Attended:
    """The attention maps of all heads, or of one `head` of one `layer`, over the ids of a `window`.

    Raises `LimitError` when they are too many numbers.
    """
    first, ids = window
    config = model.config
    tokens = torch.tensor([ids], device=next(model.parameters()).device)
    if layer is not None and head is not None:
        step = explain(model, window, layer, head, first + len(ids) - 1, whole=True)
        return Attended(first, step.map[None, None], layer, head)
    size = config.n_layers * config.n_heads * len(ids) ** 2
    if size > LARGEST_MAPS:
        raise LimitError(
            f"the attention of {config.n_layers * config.n_heads} heads over {len(ids):,} tokens is {size:,} numbers, "
            f"more than {LARGEST_MAPS:,}; name one head, or give a shorter text."
        )
    return Attended(first, torch.cat(trace(model, tokens, attention=True, head=False).attention).float().cpu().numpy())


@dataclass(frozen=True)
class Projections:
    """What attention is computed from in some layers, of T tokens of a window, after norm and rotation.

    - `layers`: their numbers from 0. `queries` (layers, H, T, C); `keys`, `values` (layers, K, T, C).
    - `log_sums` (layers, H, T): the logarithm of the sum by which softmax divides, so that the scaled score of a key is
      this plus the logarithm of its weight.
    """

    layers: tuple[int, ...]
    queries: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    log_sums: np.ndarray


@torch.inference_mode()
def project(model: GPT, window: tuple[int, list[int]], layers: Sequence[int], shown: slice) -> Projections:
    """Queries, keys and values of all heads of some `layers` (from 0), of the tokens `shown` of a `window`."""
    tokens = torch.tensor([window[1]], device=next(model.parameters()).device)
    found: list[list[Tensor]] = []
    for layer in layers:
        attention, _, x, rotation = attention_inputs(model, tokens, layer)
        q, k, v = (part[0].float() for part in attention.project(x, rotation))
        keys = k.repeat_interleave(attention.n_heads // attention.n_kv_heads, dim=0)
        scores = q @ keys.transpose(-2, -1) / math.sqrt(attention.head_dim)
        masked = scores.masked_fill(~causal_mask(len(window[1]), len(window[1]), x.device), -torch.inf)
        found.append([q[:, shown], k[:, shown], v[:, shown], masked.logsumexp(dim=-1)[:, shown]])
    return Projections(tuple(layers), *(torch.stack(parts).cpu().numpy() for parts in zip(*found, strict=True)))


@dataclass(frozen=True)
class Explanation:
    """One step of attention opened up: what one head of one layer takes for one token, over a window of T tokens.

    - `first`: the number of the window's first token; `position`: where the asking token stands in the window.
    - `x` (D,): the token's hidden state as attention gets it; `query` (C,), after norm and rotation.
    - `keys`, `values` (T, C) of all tokens, from the key-value head `key_head`.
    - `scores` (T,): query times each key; `scaled`: divided by sqrt(C); `masked`: -inf for what comes later.
    - `weights` (T,): their softmax; `output` (C,): the values, each times its weight, added up.
    - `update` (D,): what the output projection makes of it, which is added to `residual` (D,) beside the other heads'.
    - `map` (T, T): the weights of every token of the window, or (0, 0) when nobody asked for them.
    """

    layer: int
    head: int
    key_head: int
    first: int
    position: int
    x: np.ndarray
    query: np.ndarray
    keys: np.ndarray
    scores: np.ndarray
    scaled: np.ndarray
    masked: np.ndarray
    weights: np.ndarray
    values: np.ndarray
    output: np.ndarray
    update: np.ndarray
    residual: np.ndarray
    map: np.ndarray


@torch.inference_mode()
def explain(
    model: GPT, window: tuple[int, list[int]], layer: int, head: int, token: int, *, whole: bool = False
) -> Explanation:
    """Head `head` of layer `layer` at token `token` of a `window`, with the numbers of this model.

    - `whole`: the map of the other tokens too.
    """
    first, ids = window
    t = token - first
    tokens = torch.tensor([ids], device=next(model.parameters()).device)
    attention, residual, x, rotation = attention_inputs(model, tokens, layer - 1)
    queries, keys, values = attention.project(x, rotation)
    key_head = (head - 1) // (attention.n_heads // attention.n_kv_heads)
    queries, keys, values = queries[0, head - 1], keys[0, key_head], values[0, key_head]  # (T, C)
    C, T = attention.head_dim, len(ids)
    scores = keys @ queries[t]
    scaled = scores / math.sqrt(C)
    visible = causal_mask(T, T, x.device)
    masked = scaled.masked_fill(~visible[t], -torch.inf)
    weights = masked.softmax(dim=-1)
    output = weights @ values
    mine = attention.o_proj.weight[:, (head - 1) * C : head * C]
    others = (queries @ keys.T / math.sqrt(C)).masked_fill(~visible, -torch.inf).softmax(dim=-1)
    vectors = (
        x[0, t], queries[t], keys, scores, scaled, masked, weights, values, output, mine @ output, residual[0, t],
        others if whole else others[:0, :0],
    )  # fmt: skip
    return Explanation(layer, head, key_head + 1, first, t, *(v.float().cpu().numpy() for v in vectors))


@dataclass(frozen=True)
class Habit:
    """Where a head looks: mean shares over the tokens of a window that have at least two before them.

    `first`: the window's first token, where heads look that have nothing to say; `previous`, `itself`; `rest`.
    """

    layer: int
    head: int
    first: float
    previous: float
    itself: float

    @property
    def rest(self) -> float:
        return max(0.0, 1.0 - self.first - self.previous - self.itself)


def habits(attended: Attended) -> list[Habit]:
    """One for each head of `attended`."""
    found = []
    for i, j in itertools.product(*map(range, attended.weights.shape[:2])):
        rows = attended.weights[i, j]
        t = np.arange(min(2, len(rows) - 1), len(rows))
        shares = [rows[t, 0], rows[t, t - 1] if len(rows) > 1 else rows[t, t] * 0, rows[t, t] * (t > 0)]
        found.append(Habit(attended.layer + i, attended.head + j, *(float(share.mean()) for share in shares)))
    return found

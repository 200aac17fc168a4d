"""Surprisals of many texts: of tokens, words, regions and whole texts, for tables that other programs read.

Surprisal is -log2 p, in bits. Each text is read as a document of its own, after the separator, unless a text is given
that stands before it. A text longer than the model's context is read in windows that move by half a context.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gptlite.device import Hardware
from gptlite.errors import CheckpointError
from gptlite.evaluation.boundaries import BEGINNING, Boundaries
from gptlite.evaluation.scoring import sliding_windows
from gptlite.kernels.workers import Workers, parts_for
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import find_units

BIT = math.log(2)  # nats
IMPOSSIBLE = -1e4  # log p whose product with p is 0, where that of minus infinity is no number
TOKENS_AT_ONCE = 512  # in one forward pass; more do not fit into a processor's cache
LOGITS_AT_ONCE = 1 << 18  # numbers, for the same reason


@dataclass(frozen=True)
class ScoredText:
    """A text of N tokens, each predicted from what stands before it.

    - `ids` (N,); `spans`: for each token the characters [start, end) of `text` that it covers.
    - `surprisal`, `entropy` (N,) in bits; `rank` (N,): 1 where the token was the likeliest.
    - `seen` (N,): how many tokens the model saw before each one, the separator not counted.
    - `boundary` (N + 1,): -log2 of the probability that a new word, or the end, comes at each place between tokens; the
      first is before the text, the last after it.
    - `is_cut` (N,): True where tokens that stand before were outside the model's context.
    - `split`: what a word is for `boundary`: see `words_of`.
    """

    text: str
    ids: np.ndarray
    spans: Sequence[tuple[int, int]]
    surprisal: np.ndarray
    entropy: np.ndarray
    rank: np.ndarray
    seen: np.ndarray
    boundary: np.ndarray
    is_cut: np.ndarray
    split: str = "unicode"


@dataclass(frozen=True)
class Unit:
    """A part of a text: tokens [first, last), characters [start, end), and its surprisal in bits.

    `kind` is word, punctuation, space, token, region or sentence.
    """

    text: str
    kind: str
    start: int
    end: int
    first: int
    last: int
    surprisal: float


class Scorer:
    """Scores texts with one model: `Scorer(model, tokenizer, hardware).score(["A text.", "Another."])`.

    - `split`: where words end: see `words_of`.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, hardware: Hardware, split: str = "unicode") -> None:
        self.model, self.tokenizer, self.hardware, self.split = model.eval(), tokenizer, hardware, split
        self.boundaries = Boundaries(tokenizer, model.config.vocab_size, split)
        self.masks = torch.from_numpy(self.boundaries.masks.T.astype(np.float32)).to(hardware.device)  # (V, 7)
        self.workers = Workers(parts_for(hardware.threads) if hardware.device.type == "cpu" else 1)

    def score(self, texts: Sequence[str], before: Sequence[str] | None = None) -> list[ScoredText]:
        """One result per text, in their order. Texts of similar length share a forward pass.

        - `before`: for each text, what stands before it and is read, but not scored; "" for nothing.
        Raises `CheckpointError` for a model whose predictions are not numbers. An empty text has no tokens.
        """
        before = before or [""] * len(texts)
        encoded = self._encode(texts, before)
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i].stream))
        results: list[ScoredText | None] = [None] * len(texts)
        context = self.model.config.context_length
        short = [i for i in order if len(encoded[i].stream) <= context]
        groups = list(_groups(short, [len(encoded[i].stream) for i in short]))
        # The longest first, so that no thread begins one when the others are done.
        read = self.workers.map(lambda group: self._read_together([encoded[i] for i in group]), groups[::-1])
        for group, together in zip(groups[::-1], read, strict=True):
            for i, measured in zip(group, together, strict=True):
                results[i] = self._assemble(encoded[i], measured, np.zeros(len(encoded[i].ids), dtype=np.int64))
        for i in order[len(short) :]:
            results[i] = self._assemble(encoded[i], *self._read_long(encoded[i].stream, encoded[i].n_before))
        return [result for result in results if result is not None]

    def _encode(self, texts: Sequence[str], before: Sequence[str]) -> list[_Encoded]:
        found = []
        separator = self.tokenizer.separator_id
        joined = [self.tokenizer.begin(previous + text) for previous, text in zip(before, texts, strict=True)]
        encodings = self.tokenizer.encode_batch_with_spans(joined)
        for text, previous, whole, (ids, spans) in zip(texts, before, joined, encodings, strict=True):
            added = len(whole) - len(previous) - len(text)  # a space that some tokenizers think before a text
            start = added + len(previous)
            first = next((i for i, (_, end) in enumerate(spans) if end > start), len(ids)) if previous else 0
            shifted = [(max(0, a - start), max(0, b - start)) for a, b in spans[first:]]
            stream = np.array([separator, *ids])
            read = whole[: spans[first][0]] if first < len(spans) else whole
            found.append(_Encoded(text, read[added:], np.array(ids[first:]), shifted, stream, first))
        return found

    def _read_together(self, texts: Sequence[_Encoded]) -> list[_Measured]:
        """Texts that fit into the context, padded to the longest; the padding stands after them and is not seen."""
        length = max(len(text.stream) for text in texts)
        tokens = torch.zeros((len(texts), length), dtype=torch.long)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text.stream)] = torch.from_numpy(text.stream)
        states = self._states(tokens)
        lengths = [len(text.stream) for text in texts]
        flat = torch.cat([states[i, :n] for i, n in enumerate(lengths)])
        targets = np.concatenate([[*text.stream[1:], -1] for text in texts])  # nothing comes after the last
        measured = self._judge(flat, torch.from_numpy(targets))
        ends = np.cumsum(lengths)
        return [
            _Measured(*(column[end - n + text.n_before : end] for column in measured))
            for text, n, end in zip(texts, lengths, ends, strict=True)
        ]

    def _read_long(self, stream: np.ndarray, n_before: int) -> tuple[_Measured, np.ndarray]:
        """A text beyond the context: every token but the first ones is predicted from at least half a context."""
        context = self.model.config.context_length
        parts: list[tuple[np.ndarray, ...]] = []
        starts: list[np.ndarray] = []
        for window in sliding_windows(len(stream), context):
            states = self._states(torch.from_numpy(stream[None, window.start : window.start + window.length]))
            first = window.length - window.scored
            targets = stream[window.start + 1 + first : window.start + 1 + window.length]
            parts.append(self._judge(states[0, first:], torch.from_numpy(targets)))
            starts.append(np.full(window.scored, window.start))
        ending = self._states(torch.from_numpy(stream[None, -context:]))[0, -1:]  # what comes after the last token
        parts.append(self._judge(ending, torch.tensor([-1])))
        columns = [np.concatenate(column)[n_before:] for column in zip(*parts, strict=True)]
        return _Measured(*columns), np.concatenate(starts)[n_before:]

    @torch.inference_mode()
    def _states(self, tokens: Tensor) -> Tensor:
        with self.hardware.autocast():
            return self.model.transformer(tokens.to(self.hardware.device))

    @torch.inference_mode()
    def _judge(self, states: Tensor, targets: Tensor) -> tuple[np.ndarray, ...]:
        """Of hidden states (n, D): surprisal, entropy, rank of the targets (n,), and boundaries (n, 7), in bits."""
        targets = targets.to(states.device)
        columns: list[tuple[Tensor, ...]] = []
        n = max(1, LOGITS_AT_ONCE // self.model.config.vocab_size)
        for some, true in zip(states.split(n), targets.split(n), strict=True):
            with self.hardware.autocast():
                logits = self.model.head(some)
            logp = logits.float().log_softmax(-1)
            p = logp.exp()
            chosen = logp.gather(-1, true.clamp_min(0)[:, None])
            columns.append(
                (
                    (0.0 - chosen[:, 0].double()) / BIT,
                    -(p * logp.clamp_min(IMPOSSIBLE)).sum(-1).double() / BIT,
                    1 + (logp > chosen).sum(-1),
                    -((p @ self.masks).double().clamp(1e-300, 1.0).log() / BIT),
                )
            )
        measured = tuple(torch.cat(column).cpu().numpy() for column in zip(*columns, strict=True))
        if not np.isfinite(measured[0]).all():
            raise CheckpointError(
                "the model's predictions are not numbers, so its weights are damaged; use another step."
            )
        return measured

    def _assemble(self, text: _Encoded, measured: _Measured, window_start: np.ndarray) -> ScoredText:
        n = len(text.ids)
        boundary = np.array([measured.boundary[i, ending] for i, ending in enumerate(self._endings(text))])
        position = np.arange(n) + text.n_before  # of the token, from 0, without the separator
        return ScoredText(
            text.text, text.ids, text.spans, measured.surprisal[:n], measured.entropy[:n], measured.rank[:n],
            position - np.maximum(window_start - 1, 0), boundary, window_start > 0, self.split,
        )  # fmt: skip

    def _endings(self, text: _Encoded) -> Iterator[int]:
        """How the text before each token ends, and how all of it does."""
        yield self.boundaries.ending_of(text.before) if text.before else BEGINNING
        for i, (start, end) in enumerate(text.spans):
            following = text.spans[i + 1] if i + 1 < len(text.spans) else None
            is_whole = following is None or following[0] >= end or following[0] == start == end
            tail = text.text[max(0, end - 16) : end]
            yield self.boundaries.ending_of(tail if end >= 16 else text.before[-16:] + tail, is_whole)


@dataclass(frozen=True)
class _Encoded:
    """A text with its ids, and the stream of the separator, what stands `before` its first token, and all of them."""

    text: str
    before: str
    ids: np.ndarray
    spans: list[tuple[int, int]]
    stream: np.ndarray
    n_before: int


@dataclass(frozen=True)
class _Measured:
    """For each place, the last one after the text included."""

    surprisal: np.ndarray
    entropy: np.ndarray
    rank: np.ndarray
    boundary: np.ndarray


def _groups(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Texts in groups of at most `TOKENS_AT_ONCE` tokens, padding included; `lengths` do not fall."""
    group: list[int] = []
    for i, length in zip(order, lengths, strict=True):
        if group and (len(group) + 1) * length > TOKENS_AT_ONCE:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


# -- Units


def tokens_of(scored: ScoredText) -> list[Unit]:
    """Each token as it is; the sum is that of the tokens alone, without the boundary at the end."""
    return [
        Unit(scored.text[start:end], "token", start, end, i, i + 1, float(scored.surprisal[i]))
        for i, (start, end) in enumerate(scored.spans)
    ]


def words_of(scored: ScoredText, *, raw: bool = False) -> list[Unit]:
    """Words, punctuation marks and white space, in order; together they have all tokens.

    - `raw`: sums over tokens, instead of the probability of the word and of its end.
    With the `split` "whitespace", a word is whatever stands between white space; otherwise the rules are those of
    `words.find_units`. What shares a token cannot be told apart and is one unit.
    """
    if scored.split == "whitespace":
        cuts = [(start, end, kind) for start, end, kind in _between_spaces(scored.text)]
    else:
        cuts = find_units(scored.text)
    found = []
    for (first_cut, last_cut), (first, last) in group_tokens(scored.text, scored.spans, cuts):
        kinds = [kind for _, _, kind in cuts[first_cut:last_cut]]
        start, end = cuts[first_cut][0], cuts[last_cut - 1][1]
        kind = "word" if "word" in kinds else kinds[0]
        found.append(Unit(scored.text[start:end], kind, start, end, first, last, bits(scored, first, last, raw=raw)))
    return found


def regions_of(scored: ScoredText, spans: Sequence[tuple[int, int]], *, raw: bool = False) -> list[Unit]:
    """Regions of characters [start, end); each token belongs to the region in which its first letter stands.

    Tokens outside all regions belong to none. White space at the ends of a region is not part of it.
    """
    found = []
    for start, end in spans:
        part = scored.text[start:end]
        start, end = start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())
        inside = [i for i, span in enumerate(scored.spans) if start <= _first_letter(scored.text, span) < end]
        first, last = (inside[0], inside[-1] + 1) if inside else (0, 0)
        value = bits(scored, first, last, raw=raw) if inside else math.nan
        found.append(Unit(scored.text[start:end], "region", start, end, first, last, value))
    return found


def sentence_of(scored: ScoredText, *, raw: bool = False) -> Unit:
    """The whole text as one unit; the sum of its words."""
    n = len(scored.ids)
    return Unit(scored.text, "sentence", 0, len(scored.text), 0, n, bits(scored, 0, n, raw=raw) if n else 0.0)


def bits(scored: ScoredText, first: int, last: int, *, raw: bool = False) -> float:
    """The surprisal of tokens [first, last): with boundaries, unless `raw`. Never below zero but for rounding."""
    total = float(scored.surprisal[first:last].sum(dtype=np.float64))
    return total if raw else total + float(scored.boundary[last] - scored.boundary[first])


def group_tokens(
    text: str, spans: Sequence[tuple[int, int]], cuts: Sequence[tuple[int, int, str]]
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Units [first, last) of `cuts` with their tokens [first, last); units that share a token are in one group.

    A token's leading white space belongs to the word after it.
    """
    starts = np.array([start for start, _, _ in cuts])
    groups: list[tuple[tuple[int, int], tuple[int, int]]] = []
    for i, (start, end) in enumerate(spans):
        part = text[start:end]
        if part.strip():
            start += len(part) - len(part.lstrip())
            end = start + len(part.strip())
        elif part == " " and end < len(text) and not text[end].isspace():  # a word's space in a token of its own
            start, end = end, end + 1
        first = int(np.searchsorted(starts, start, side="right")) - 1
        last = max(first + 1, int(np.searchsorted(starts, end, side="left")))
        if groups and first < groups[-1][0][1]:
            (first_unit, last_unit), (first_token, _) = groups[-1]
            groups[-1] = (first_unit, max(last, last_unit)), (first_token, i + 1)
        else:
            groups.append(((first, last), (i, i + 1)))
    return groups


def _first_letter(text: str, span: tuple[int, int]) -> int:
    start, end = span
    part = text[start:end]
    return start + len(part) - len(part.lstrip()) if part.strip() else start


def _between_spaces(text: str) -> Iterator[tuple[int, int, str]]:
    start = 0
    for i in range(1, len(text) + 1):
        if i == len(text) or text[i].isspace() != text[start].isspace():
            yield start, i, "space" if text[start].isspace() else "word"
            start = i

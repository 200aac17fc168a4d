"""Surprisals of many texts: of tokens, words, regions and whole texts, for tables that other programs read.

Surprisal is -log2 p, in bits. Each text is read as a document of its own, after the separator, unless a text is given
that stands before it. A text longer than the model's context is read in windows that move by half a context.
"""

from __future__ import annotations

import contextlib
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gptlite.device import Hardware
from gptlite.errors import CheckpointError
from gptlite.evaluation.boundaries import Boundaries
from gptlite.evaluation.scoring import sliding_windows
from gptlite.kernels.build import NoKernel
from gptlite.kernels.diagonal import without_zeros
from gptlite.kernels.forward import Forward
from gptlite.kernels.workers import Workers, parts_for
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import find_units

BIT = math.log(2)  # nats
IMPOSSIBLE = -1e4  # log p whose product with p is 0, where that of minus infinity is no number
TOKENS_WORTH_COMPILING = 100_000  # in the time that reading them takes longer without it, a compiler is done
LARGEST_COMPILED = 50_000_000  # parameters; with more, nearly all of the time are matrix products, which both have
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
    - `compile`: "on" reads with the forward pass in C, where the model has one; "auto" where it was compiled before
      on this machine, or once there are many tokens to read; "off" never.
    """

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, hardware: Hardware, split: str = "unicode", *, compile: str = "auto"
    ) -> None:
        self.model, self.tokenizer, self.hardware, self.split = model.eval(), tokenizer, hardware, split
        self.boundaries = Boundaries(tokenizer, model.config.vocab_size, split)
        self.masks = torch.from_numpy(self.boundaries.masks.astype(np.float32)).to(hardware.device)  # (7, V)
        self.forward: Forward | None = None  # the pass in C
        self.compile, self.n_read = compile, 0
        self.workers = Workers(parts_for(hardware.threads) if hardware.device.type == "cpu" else 1)

    def score(self, texts: Sequence[str], before: Sequence[str] | None = None) -> list[ScoredText]:
        """One result per text, in their order. Texts of similar length share a forward pass.

        - `before`: for each text, what stands before it and is read, but not scored; "" for nothing.
        Raises `CheckpointError` for a model whose predictions are not numbers. An empty text has no tokens.
        """
        before = before or [""] * len(texts)
        encoded = self._encode(texts, before)
        self._choose_forward(sum(len(text.stream) for text in encoded))
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i].stream))
        results: list[ScoredText | None] = [None] * len(texts)
        context = self.model.config.context_length
        short = [i for i in order if len(encoded[i].stream) <= context]
        groups = list(_groups(short, [len(encoded[i].stream) for i in short]))
        with contextlib.nullcontext() if self.forward else without_zeros(self.model):
            # The longest first, so that no thread begins one when the others are done.
            read = self.workers.map(lambda group: self._read_together([encoded[i] for i in group]), groups[::-1])
            for group, together in zip(groups[::-1], read, strict=True):
                for i, scored in zip(group, together, strict=True):
                    results[i] = scored
            for i in order[len(short) :]:
                results[i] = self._read_long(encoded[i])
        return [result for result in results if result is not None]

    def _choose_forward(self, n_tokens: int) -> None:
        """Take the forward pass in C where it is there, or worth a compiler's time for what was read and will be."""
        is_first = self.n_read == 0
        self.n_read += n_tokens
        is_worth = self.compile == "on" or self.n_read >= TOKENS_WORTH_COMPILING
        if self.forward is not None or self.compile == "off" or self.hardware.bf16:
            return
        if self.model.config.n_params > LARGEST_COMPILED or not (is_first or is_worth):
            return
        with contextlib.suppress(NoKernel):
            self.forward = Forward(self.model, build=is_worth)
        if is_worth and self.forward is None:
            self.compile = "off"  # it cannot be had

    def _encode(self, texts: Sequence[str], before: Sequence[str]) -> list[_Encoded]:
        found = []
        separator = self.tokenizer.separator_id
        joined = [self.tokenizer.begin(previous + text) for previous, text in zip(before, texts, strict=True)]
        encodings = self.tokenizer.encode_batch_with_spans(joined)
        for text, previous, whole, (ids, spans) in zip(texts, before, joined, encodings, strict=True):
            added = len(whole) - len(previous) - len(text)  # a space that some tokenizers think before a text
            start = added + len(previous)
            first = next((i for i, (_, end) in enumerate(spans) if end > start), len(ids)) if previous else 0
            shifted = [(max(0, a - start), max(0, b - start)) for a, b in spans[first:]] if start else spans
            stream = np.array([separator, *ids])
            read = whole[: spans[first][0]] if first < len(spans) else whole
            found.append(_Encoded(text, read[added:], np.array(ids[first:]), shifted, stream, first))
        return found

    def _read_together(self, texts: Sequence[_Encoded]) -> list[ScoredText]:
        """Texts that fit into the context, padded to the longest; the padding stands after them and is not seen."""
        lengths = np.array([len(text.stream) for text in texts])
        is_read = np.arange(lengths.max()) < lengths[:, None]
        tokens = np.zeros(is_read.shape, dtype=np.int64)
        tokens[is_read] = np.concatenate([text.stream for text in texts])
        targets = np.zeros(tokens.shape, dtype=np.int64)
        targets[:, :-1] = tokens[:, 1:]  # nothing comes after the last; what is computed for it is not used
        states = self._states(torch.from_numpy(tokens))[torch.from_numpy(is_read)]
        columns = self._judge(states, torch.from_numpy(targets[is_read]))
        ends = np.cumsum(lengths).tolist()
        return [
            self._assemble(text, [column[end - len(text.ids) - 1 : end] for column in columns])
            for text, end in zip(texts, ends, strict=True)
        ]

    def _read_long(self, text: _Encoded) -> ScoredText:
        """A text beyond the context: every token but the first ones is predicted from at least half a context."""
        context, stream = self.model.config.context_length, text.stream
        parts: list[tuple[np.ndarray, ...]] = []
        starts: list[np.ndarray] = []
        for window in sliding_windows(len(stream), context):
            states = self._states(torch.from_numpy(stream[None, window.start : window.start + window.length]))
            first = window.length - window.scored
            targets = stream[window.start + 1 + first : window.start + 1 + window.length]
            parts.append(self._judge(states[0, first:], torch.from_numpy(targets)))
            starts.append(np.full(window.scored, window.start))
        ending = self._states(torch.from_numpy(stream[None, -context:]))[0, -1:]  # what comes after the last token
        parts.append(self._judge(ending, torch.tensor([0])))
        columns = [np.concatenate(column)[text.n_before :] for column in zip(*parts, strict=True)]
        return self._assemble(text, columns, np.concatenate(starts)[text.n_before :])

    @torch.inference_mode()
    def _states(self, tokens: Tensor) -> Tensor:
        if self.forward is not None:
            return self.forward.states(tokens)
        with self.hardware.autocast():
            return self.model.transformer(tokens.to(self.hardware.device))

    @torch.inference_mode()
    def _judge(self, states: Tensor, targets: Tensor) -> tuple[np.ndarray, ...]:
        """Of hidden states (n, D): surprisal, entropy, rank of the targets (n,), and boundaries (n, 7), in bits."""
        targets = targets.to(states.device)
        n = max(1, LOGITS_AT_ONCE // self.model.config.vocab_size)
        parts = zip(states.split(n), targets.split(n), strict=True)
        columns = [self._in_nats(some, true) for some, true in parts]
        surprisal, entropy, rank, boundary = (torch.cat(c).cpu().numpy() for c in zip(*columns, strict=True))
        if not np.isfinite(surprisal).all():
            raise CheckpointError(
                "the model's predictions are not numbers, so its weights are damaged; use another step."
            )
        return surprisal / BIT, entropy / BIT, rank, boundary / BIT

    def _in_nats(self, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`_judge` of a few states."""
        if self.forward is not None:
            return self.forward.next_token(states, targets, self.masks)
        with self.hardware.autocast():
            logits = self.model.head(states)
        logp = logits.float().log_softmax(-1)
        p = logp.exp()
        chosen = logp.gather(-1, targets[:, None])
        return (
            0.0 - chosen[:, 0].double(),
            -(p * logp.clamp_min(IMPOSSIBLE)).sum(-1).double(),
            1 + (logp > chosen).sum(-1),
            -(p @ self.masks.T).double().clamp(1e-300, 1.0).log(),
        )

    def _assemble(
        self, text: _Encoded, columns: Sequence[np.ndarray], window_start: np.ndarray | None = None
    ) -> ScoredText:
        """Of what `_judge` says of the places before each token of a text and after the last one.

        - `window_start`: where in the stream the window of each token begins; by default at its beginning.
        """
        surprisal, entropy, rank, sets = columns
        n = len(text.ids)
        seen = np.arange(text.n_before, text.n_before + n)  # the position, from 0, without the separator
        is_cut = np.zeros(n, dtype=bool)
        if window_start is not None:
            seen, is_cut = seen - np.maximum(window_start - 1, 0), window_start > 0
        boundary = sets[np.arange(n + 1), self.boundaries.endings_of(text.text, text.spans, text.before)]
        return ScoredText(
            text.text, text.ids, text.spans, surprisal[:n], entropy[:n], rank[:n], seen, boundary, is_cut, self.split
        )


@dataclass(frozen=True)
class _Encoded:
    """A text with its ids, and the stream of the separator, what stands `before` its first token, and all of them."""

    text: str
    before: str
    ids: np.ndarray
    spans: list[tuple[int, int]]
    stream: np.ndarray
    n_before: int


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
    starts = [start for start, _, _ in cuts]
    groups: list[tuple[tuple[int, int], tuple[int, int]]] = []
    for i, (start, end) in enumerate(spans):
        part = text[start:end]
        if part.strip():
            start += len(part) - len(part.lstrip())
            end = start + len(part.strip())
        elif part == " " and end < len(text) and not text[end].isspace():  # a word's space in a token of its own
            start, end = end, end + 1
        first = bisect_right(starts, start) - 1
        last = max(first + 1, bisect_left(starts, end))
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

"""How well a model predicts a text: loss, perplexity and bits per byte, of any callable from tokens to logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gptlite.device import Hardware
from gptlite.kernels.diagonal import without_zeros
from gptlite.model import GPT
from gptlite.text.pairs import Boundaries, answers_of
from gptlite.text.tokenizer import Tokenizer

Item = TypeVar("Item")

LogitsOf = Callable[[Tensor], Tensor]  # ids (B, T) -> logits (B, T, V)
LossesOf = Callable[[Tensor, Tensor, Tensor], Tensor]  # ids, targets, which of them count, (B, T) each -> -ln p (N,)
LARGEST_LOGITS = 1 << 22  # numbers in logits that are there at once; training needs more, so scoring sets no new peak


@dataclass(frozen=True)
class Score:
    """The sum of -ln p over `tokens` tokens, in which there are `bytes` bytes of text."""

    nats: float
    tokens: int
    bytes: int

    @property
    def loss(self) -> float:
        """Mean -ln p per token; depends on the vocabulary."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """-log2 p per byte of text; comparable between models with different vocabularies."""
        return self.nats / math.log(2) / self.bytes


@dataclass(frozen=True, slots=True)  # of a long text there are many
class Window:
    """Inputs [start, start + length) of a stream; the last `scored` of their targets count."""

    start: int
    length: int
    scored: int


class Windows(Sequence[Window]):
    """Windows that are computed when they are asked for: a long text has millions of them."""

    def window(self, i: int) -> Window:
        """The i-th one, 0 <= i < len(self)."""
        raise NotImplementedError

    @overload
    def __getitem__(self, i: int) -> Window: ...

    @overload
    def __getitem__(self, i: slice) -> list[Window]: ...

    def __getitem__(self, i: int | slice) -> Window | list[Window]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        return self.window(i % len(self))


class SlidingWindows(Windows):
    """Windows in which every token but those at the very beginning is predicted from at least half a context.

    Each step moves by half a context and scores the new half, so each target is scored exactly once.
    """

    def __init__(self, n_tokens: int, context: int) -> None:
        self.n_targets = max(0, n_tokens - 1)
        self.length = min(context, self.n_targets)
        self.stride = max(1, context // 2)

    def __len__(self) -> int:
        if not self.n_targets:
            return 0
        return 1 + -(-(self.n_targets - self.length) // self.stride)

    def window(self, i: int) -> Window:
        if i == 0:
            return Window(0, self.length, self.length)
        done = min(self.length + i * self.stride, self.n_targets)
        return Window(done - self.length, self.length, done - self.length - (i - 1) * self.stride)


class AnswerWindows(Windows):
    """Of a stream of pairs a window for each answer that fits: from the beginning of its record to its end."""

    def __init__(self, ids: np.ndarray, tokenizer: Tokenizer, context: int) -> None:
        self.answers = answers_of(ids, Boundaries.of(tokenizer), context)

    def __len__(self) -> int:
        return len(self.answers)

    def window(self, i: int) -> Window:
        start, mark, last = map(int, self.answers[i])
        return Window(start, last - start, last - mark)


def sliding_windows(n_tokens: int, context: int) -> Sequence[Window]:
    """`SlidingWindows` of a stream of `n_tokens`."""
    return SlidingWindows(n_tokens, context)


def spread(items: Sequence[Item], n: int) -> list[Item]:
    """At most n of `items`, such as windows, evenly spread over all of them."""
    if len(items) <= n:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(1, n - 1))] for i in range(n)]


def score_model(
    model: GPT,
    tokenizer: Tokenizer,
    ids: np.ndarray,
    hardware: Hardware,
    windows: Sequence[Window] | None = None,
    *,
    byte_scale: float = 1.0,
    between: Callable[[], object] = lambda: None,
) -> Score:
    """Score `windows` (by default all of the stream `ids`) with `model`, without dropout.

    - `byte_scale`: bytes of the text per byte that its tokens spell (`TokenFile.byte_scale`); `Score.bytes` are those
      of the text. A part of it has its share of what all tokens spell.
    - `between`: called before every forward pass; what it raises ends the scoring.
    """
    lengths = torch.tensor(tokenizer.byte_lengths(model.config.vocab_size))
    if windows is None:
        windows = SlidingWindows(len(ids), model.config.context_length)
    was_training = model.training
    model.eval()
    with without_zeros(model):
        result = _score(_losses_by(model, hardware, between), ids, windows, lengths, hardware.device)
    model.train(was_training)
    return replace(result, bytes=round(result.bytes * byte_scale))


def score_tokens(
    model: GPT, tokenizer: Tokenizer, ids: np.ndarray, hardware: Hardware
) -> tuple[np.ndarray, np.ndarray]:
    """The bits (N,) of each token of the stream `ids` and the bytes (N,) that it spells, in order.

    Every token but the first and the document separators is one of the N; their sum is that of `score_model`.
    """
    lengths = torch.tensor(tokenizer.byte_lengths(model.config.vocab_size))
    windows = SlidingWindows(len(ids), model.config.context_length)
    was_training = model.training
    model.eval()
    with without_zeros(model):
        parts = list(_measure(_losses_by(model, hardware), ids, windows, lengths, hardware.device))
    model.train(was_training)
    bits = np.concatenate([losses.cpu().numpy() for losses, _ in parts] or [np.zeros(0)]) / math.log(2)
    return bits, np.concatenate([sizes.cpu().numpy() for _, sizes in parts] or [np.zeros(0, dtype=np.int64)])


def _losses_by(model: GPT, hardware: Hardware, between: Callable[[], object] = lambda: None) -> LossesOf:
    def losses_of(tokens: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
        between()
        with hardware.autocast():
            if hasattr(model, "unshard"):  # shared by processes: only a whole forward pass gathers the weights
                return _losses(model(tokens)[counts], targets[counts])
            states, wanted = model.transformer(tokens)[counts], targets[counts]  # (N, D), (N,)
            n = max(1, LARGEST_LOGITS // model.config.vocab_size)  # a vocabulary and a context may both be large
            return torch.cat([_losses(model.head(x), y) for x, y in zip(states.split(n), wanted.split(n), strict=True)])

    return losses_of


def score(
    logits_of: LogitsOf,
    ids: np.ndarray,
    windows: Sequence[Window],
    token_bytes: Tensor,
    *,
    device: torch.device | str = "cpu",
) -> Score:
    """Score the targets of `windows` over the stream `ids` (N,).

    - `token_bytes` (V,): bytes of text that each id spells. Targets of no bytes, the document separators, do not count.
    """
    return _score(
        lambda tokens, targets, counts: _losses(logits_of(tokens)[counts], targets[counts]),
        ids,
        windows,
        token_bytes,
        device,
    )


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """-ln p (N,) of the targets (N,) under logits (N, V)."""
    return F.cross_entropy(logits.float(), targets, reduction="none")


def _score(
    losses_of: LossesOf, ids: np.ndarray, windows: Sequence[Window], token_bytes: Tensor, device: torch.device | str
) -> Score:
    nats, tokens, n_bytes = 0.0, 0, 0
    for losses, sizes in _measure(losses_of, ids, windows, token_bytes, device):
        nats += losses.cpu().double().sum().item()  # not every device has float64
        tokens += len(losses)
        n_bytes += int(sizes.sum())
    return Score(nats, tokens, n_bytes)


def _measure(
    losses_of: LossesOf, ids: np.ndarray, windows: Sequence[Window], token_bytes: Tensor, device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Of groups of windows, in the order of the stream: -ln p (N,) of the targets that count, and their bytes (N,)."""
    token_bytes = token_bytes.to(device)
    rows = max(1, LARGEST_LOGITS // (len(token_bytes) * max((w.length for w in windows), default=1)))
    for first in range(0, len(windows), rows):
        group = windows[first : first + rows]
        length = max(window.length for window in group)  # shorter ones read on, which changes nothing before
        index = np.minimum(np.add.outer([w.start for w in group], np.arange(length + 1)), len(ids) - 1)
        stream = torch.from_numpy(ids[index].astype(np.int64)).to(device)  # (B, T + 1)
        inputs, targets = stream[:, :-1], stream[:, 1:]
        ends = torch.tensor([window.length for window in group], device=device)[:, None]
        skipped = ends - torch.tensor([window.scored for window in group], device=device)[:, None]
        places = torch.arange(length, device=device)
        counts = (places >= skipped) & (places < ends)
        counts &= token_bytes[targets] > 0  # (B, T)
        with torch.no_grad():
            losses = losses_of(inputs, targets, counts)
        yield losses, token_bytes[targets[counts]]

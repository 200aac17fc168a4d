"""What a model has to beat: xz, a unigram and a 5-gram that know the same training text, in bits per byte.

They take seconds and no gradient, so a Transformer that does not need fewer bits than they do has not earned its keep.
All three are scored as the model is in `evaluation`: on every token of the held-out stream but the first, separators
not counted, divided by the bytes of text in these tokens.

- xz: the bytes that `xz -9e` adds to the archive of the training text when the held-out text follows it.
- unigram: how often each of the model's tokens occurs, and nothing else.
- 5-gram: interpolated modified Kneser-Ney over the model's tokens (kneser_ney.py).
"""

from __future__ import annotations

import dataclasses
import lzma
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptlite.baselines.kneser_ney import ORDER, KneserNey
from gptlite.evaluation.scoring import Window

METHODS = ("xz", "unigram", "ngram")
# On one core, counting takes about a second a million tokens, and xz, which reads the training text twice, about a
# second a megabyte: with these limits both together some six seconds at most.
LARGEST_TRAIN = 1 << 21  # tokens of training text that are counted
LARGEST_XZ = 1 << 21  # bytes of training text that xz reads
LARGEST_VAL = 1 << 19  # bytes of held-out text


@dataclass(frozen=True)
class Baselines:
    """Bits per byte of the first `val_bytes` held-out bytes, and how many of the last training bytes were known."""

    xz: float
    unigram: float
    ngram: float
    val_bytes: int
    train_bytes: int  # to the n-grams
    xz_train_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Its fields for JSON, where the scores of the methods have their unit: `xz_bits_per_byte` and so on."""
        facts = dataclasses.asdict(self)
        return {f"{name}_bits_per_byte" if name in METHODS else name: value for name, value in facts.items()}


def measure(
    train_ids: np.ndarray,
    val_ids: np.ndarray,
    spellings: Sequence[bytes],
    effort: float = 1.0,
    byte_scale: float = 1.0,
) -> Baselines:
    """All three for the streams `train_ids` (N,) and `val_ids` (M,), mapped from disk or not.

    - `spellings` (V,): the bytes that each id spells, such as `Tokenizer.token_bytes`.
    - Of a long text, only the last `LARGEST_TRAIN` tokens of training text are counted, the last `LARGEST_XZ` bytes of
      them given to xz, and the first `LARGEST_VAL` held-out bytes scored, in whole tokens. Against a model that learned
      from more text, the baselines are that much too modest.
    - `effort`: the share of these limits that may be used, where time is short.
    - `byte_scale`: bytes of the held-out text per byte that its tokens spell (`TokenFile.byte_scale`).
    The values are NaN when no held-out token counts.
    """
    token_bytes = np.array([len(spelling) for spelling in spellings], dtype=np.int64)
    train_ids = train_ids[max(0, len(train_ids) - int(effort * LARGEST_TRAIN)) :]
    val_ids = _first(val_ids, token_bytes, int(effort * LARGEST_VAL))
    xz_train = _spell(_first(train_ids[::-1], token_bytes, int(effort * LARGEST_XZ))[::-1], spellings)
    # The first held-out token is context to the others, so xz knows it too.
    first, held_out = _spell(val_ids[:1], spellings), _spell(val_ids[1:], spellings)
    return Baselines(
        xz=xz_bits_per_byte(xz_train + first, held_out) / byte_scale,
        unigram=unigram_bits_per_byte(train_ids, val_ids, token_bytes) / byte_scale,
        ngram=ngram_bits_per_byte(train_ids, val_ids, token_bytes) / byte_scale,
        val_bytes=round(len(held_out) * byte_scale),
        train_bytes=int(token_bytes[train_ids].sum()),
        xz_train_bytes=len(xz_train),
    )


def measure_windows(
    train_ids: np.ndarray,
    val_ids: np.ndarray,
    windows: Sequence[Window],
    spellings: Sequence[bytes],
    effort: float = 1.0,
    byte_scale: float = 1.0,
) -> Baselines:
    """`measure` on the bytes that a model was scored on: the targets of `windows` of the stream `val_ids`.

    The n-grams know the four tokens before each target, as they do in a whole text. xz reads the targets one after
    another. `effort` limits the training text alone. `byte_scale` as for `measure`.
    """
    token_bytes = np.array([len(spelling) for spelling in spellings], dtype=np.int64)
    train_ids = train_ids[max(0, len(train_ids) - int(effort * LARGEST_TRAIN)) :]
    xz_train = _spell(_first(train_ids[::-1], token_bytes, int(effort * LARGEST_XZ))[::-1], spellings)
    spans = [(max(0, begin - ORDER + 1), begin, end) for begin, end in _targets(windows)]
    ids = np.concatenate([val_ids[first:end] for first, _, end in spans])
    counted = np.concatenate([np.arange(first, end) >= begin for first, begin, end in spans])
    held_out = _spell(ids[counted], spellings)
    return Baselines(
        xz=xz_bits_per_byte(xz_train, held_out) / byte_scale,
        unigram=unigram_bits_per_byte(train_ids, ids, token_bytes, counted) / byte_scale,
        ngram=ngram_bits_per_byte(train_ids, ids, token_bytes, counted=counted) / byte_scale,
        val_bytes=round(len(held_out) * byte_scale),
        train_bytes=int(token_bytes[train_ids].sum()),
        xz_train_bytes=len(xz_train),
    )


def _targets(windows: Sequence[Window]) -> list[tuple[int, int]]:
    """The positions that `windows` score, as ranges from a begin to an end; neighbours are joined."""
    ranges: list[tuple[int, int]] = []
    for window in sorted(windows, key=lambda window: window.start + window.length):
        end = window.start + window.length + 1
        begin = end - window.scored
        if ranges and ranges[-1][1] >= begin:
            begin = ranges.pop()[0]
        ranges.append((begin, end))
    return ranges


def xz_bits_per_byte(train: bytes, val: bytes) -> float:
    """Bits that xz, having read `train`, needs for a byte of `val`."""
    return 8 * (_xz_size(train + val) - _xz_size(train)) / len(val) if val else math.nan


def unigram_bits_per_byte(
    train_ids: np.ndarray, val_ids: np.ndarray, token_bytes: np.ndarray, counted: np.ndarray | None = None
) -> float:
    """Bits a byte when each token has its frequency in `train_ids`, with one added to every count (Laplace).

    - `token_bytes` (V,): bytes of text of each id; targets of no bytes do not count.
    - `counted` (M,): which held-out tokens count, by default all but the first.
    """
    counts = np.bincount(train_ids, minlength=len(token_bytes)) + 1.0
    return _bits_per_byte((counts / counts.sum())[val_ids], val_ids, token_bytes, counted)


def ngram_bits_per_byte(
    train_ids: np.ndarray,
    val_ids: np.ndarray,
    token_bytes: np.ndarray,
    order: int = ORDER,
    counted: np.ndarray | None = None,
) -> float:
    """Bits per byte under `ngram_probabilities`. `token_bytes` and `counted` as for the unigram."""
    p = ngram_probabilities(train_ids, val_ids, len(token_bytes), order)
    return _bits_per_byte(p, val_ids, token_bytes, counted)


def ngram_probabilities(train_ids: np.ndarray, ids: np.ndarray, vocab_size: int, order: int = ORDER) -> np.ndarray:
    """p (M,) of each token of `ids` (M,) under `KneserNey` estimated on `train_ids` (N,); all below `vocab_size`."""
    return KneserNey(train_ids, vocab_size, order).probabilities(ids)


def _bits_per_byte(p: np.ndarray, ids: np.ndarray, token_bytes: np.ndarray, counted: np.ndarray | None = None) -> float:
    """Of the tokens that are `counted` (M,), by default all but the first."""
    if counted is None:
        counted = np.arange(len(ids)) > 0
    lengths = np.where(counted, token_bytes[ids], 0)
    return float(-np.log2(p[lengths > 0]).sum() / lengths.sum()) if lengths.any() else math.nan


def _first(ids: np.ndarray, token_bytes: np.ndarray, largest: int) -> np.ndarray:
    """The first of `ids`, as many as spell at most `largest` bytes, and at most `largest` of them."""
    ids = np.asarray(ids[:largest])
    return ids[: np.searchsorted(np.cumsum(token_bytes[ids]), largest, side="right")]


def _spell(ids: np.ndarray, spellings: Sequence[bytes]) -> bytes:
    return b"".join([spellings[i] for i in ids.tolist()])


def _xz_size(text: bytes) -> int:
    # Preset 9's own dictionary of 64 MiB costs 674 MiB of memory; one as long as the text finds the same matches.
    preset = 9 | lzma.PRESET_EXTREME
    filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": max(4096, len(text))}]
    return len(lzma.compress(text, filters=filters))

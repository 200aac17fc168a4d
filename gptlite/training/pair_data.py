"""What a run on pairs decides beside one on plain text: boundary tokens, context, and what is said about the pairs."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gptlite.device import Hardware
from gptlite.errors import CorpusError, UsageError
from gptlite.text.corpus import Text
from gptlite.text.pairs import (
    BOUNDARIES,
    PairBatches,
    PairFormat,
    choose_context,
    has_boundaries,
    n_longer,
)
from gptlite.text.tokenizer import Tokenizer
from gptlite.training.watcher import Watcher

if TYPE_CHECKING:
    from gptlite.training.dataset import Dataset, Inputs
    from gptlite.training.plan import Plan

TOKENS_PER_STEP = 2048  # of a batch of pairs
LARGEST_BATCH = 256  # pairs
DIGESTS = np.dtype([("pair", "<u8"), ("answer", "<u8")])
PAIRS_AT_ONCE = 1 << 16  # that are compared with those held out


def format_of(texts: Inputs) -> PairFormat | None:
    """The format of the pairs that a run is on; None for plain text. Raises `CorpusError` where the parts differ."""
    layout, held_out = texts.train.layout, texts.val.layout
    if (layout is None) != (held_out is None) or (layout and held_out and layout.kind != held_out.kind):
        raise CorpusError("`val` must hold records of the same kind as the text to train on.")
    return None if layout is None else PairFormat.of(layout)


def check(texts: Inputs, settings: Mapping[str, Any], n_processes: int) -> PairFormat | None:
    """`format_of`. Raises `UsageError` for what does not go with pairs, or with plain text."""
    pairs = format_of(texts)
    if pairs is None and settings.get("loss") is not None:
        raise UsageError("`loss` is about the answers of pairs, and the text has none; leave it out.")
    if pairs and settings.get("ngram_weight"):
        raise UsageError("`ngram_weight` is for plain text, and the files are pairs; leave it out.")
    if pairs and (settings.get("members") or 1) > 1:
        raise UsageError("`members` is for plain text, and the files are pairs; leave it out.")
    if pairs and n_processes > 1:
        raise UsageError("pairs are trained in one process; leave `gpus` out.")
    return pairs


def with_boundaries(tokenizer: Tokenizer, pairs: PairFormat | None) -> Tokenizer:
    """A tokenizer that is there already, for pairs or for plain text."""
    if pairs is None:
        return tokenizer.for_pairs(None) if tokenizer.pairs else tokenizer
    return (tokenizer if has_boundaries(tokenizer) else tokenizer.with_special(BOUNDARIES)).for_pairs(pairs)


def settings_for(dataset: Dataset, settings: Mapping[str, Any], longest: int | None) -> dict[str, Any]:
    """`settings` with a context and a batch from the lengths of the pairs, where they name none.

    - `longest`: the context of the model that the run starts from.
    """
    if dataset.tokenizer.pairs is None:
        return dict(settings)
    context, mean = choose_context(dataset.tokens.ids(), dataset.tokenizer.separator_id)
    context = min(context, longest or context)
    parts = settings.get("accumulate") or 1
    batch = max(parts, min(LARGEST_BATCH, round(TOKENS_PER_STEP / mean)) // parts * parts)
    chosen = {"context_length": context, "batch_size": max(1, batch), "ngram_weight": 0.0}
    return {**chosen, **{name: value for name, value in settings.items() if value is not None}}


def mean_length(dataset: Dataset) -> float | None:
    """Tokens of a pair, on average; None of plain text."""
    if dataset.tokenizer.pairs is None:
        return None
    return choose_context(dataset.tokens.ids(), dataset.tokenizer.separator_id)[1]


def as_chosen(plan: Plan, settings: Mapping[str, Any]) -> Plan:
    """The plan, in which only what `settings` name counts as given."""
    ours = [name for name in ("context_length", "batch_size", "ngram_weight") if settings.get(name) is None]
    return dataclasses.replace(plan, given=tuple(name for name in plan.given if name not in ours))


def make_batches(dataset: Dataset, plan: Plan) -> PairBatches:
    config = plan.train
    return PairBatches(
        dataset.tokens, dataset.tokenizer, context=plan.model.context_length, batch_size=config.batch_size,
        seed=config.seed, loss=config.loss,
    )  # fmt: skip


def uncompiled(hardware: Hardware) -> Hardware:
    """Torch compiles for one shape of a batch, and those of pairs are of many."""
    return dataclasses.replace(hardware, compile=False) if hardware.compile and not hardware.fused else hardware


def note_longer(dataset: Dataset, plan: Plan, watcher: Watcher) -> None:
    """Say how many pairs are left out because they are longer than the context."""
    context = plan.model.context_length
    for part, tokens in (("train on", dataset.tokens), ("hold out", dataset.val_tokens)):
        longer, n, longest = n_longer(tokens.ids(), dataset.tokenizer.separator_id, context)
        if longer:
            watcher.notice(
                f"{longer:,} of {n:,} pairs to {part} are longer than {context:,} tokens and left out (the longest has "
                f"{longest:,}); `context_length` changes that."
            )


def note_duplicates(texts: Inputs, watcher: Watcher) -> None:
    """Say how many held-out answers also stand in the part to train on, and how many of them after the same prompt.

    Memory holds 16 bytes per held-out pair, and nothing of the part to train on, however long it is.
    """
    held_out = np.fromiter(_digests(texts.val), DIGESTS)
    known = {name: np.unique(held_out[name]) for name in held_out.dtype.fields or ()}
    found = {name: np.zeros(len(column), dtype=bool) for name, column in known.items()}
    digests = _digests(texts.train)
    while len(held_out) and len(some := np.fromiter(itertools.islice(digests, PAIRS_AT_ONCE), DIGESTS)):
        for name, column in known.items():
            places = np.searchsorted(column, some[name]).clip(max=len(column) - 1)
            found[name][places[column[places] == some[name]]] = True
    counts = {name: int(np.isin(held_out[name], column[found[name]]).sum()) for name, column in known.items()}
    if counts["answer"]:
        watcher.notice(
            f"{counts['answer']:,} of {len(held_out):,} held-out answers also stand in the text to train on, "
            f"{counts['pair']:,} of them after the same prompt."
        )


def _digests(text: Text) -> Iterator[tuple[int, int]]:
    """Of each record, 64 bits that stand for its prompt and last answer, and for the answer alone."""
    for record in text.records():
        prompt, answer = "\x1f".join(content for _, content in record[:-1]), record[-1][1]
        yield _digest(prompt, answer), _digest(answer)


def _digest(*texts: str) -> int:
    return int.from_bytes(hashlib.blake2b("\x1f".join(texts).encode(), digest_size=8).digest(), "little")

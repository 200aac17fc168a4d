"""What a run on pairs decides beside one on plain text: boundary tokens, context, and what is said about the pairs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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
    """Say how many held-out answers also stand in the part to train on, and how many of them after the same prompt."""
    prompts, answers = _digests(texts.train)
    n = n_answers = n_pairs = 0
    for prompt, answer in _pairs_of(texts.val):
        n += 1
        n_answers += _digest(answer) in answers
        n_pairs += _digest(prompt, answer) in prompts
    if n_answers:
        watcher.notice(
            f"{n_answers:,} of {n:,} held-out answers also stand in the text to train on, {n_pairs:,} of them after "
            "the same prompt."
        )


def _pairs_of(text: Text) -> Any:
    for record in text.records():
        yield "\x1f".join(content for _, content in record[:-1]), record[-1][1]


def _digests(text: Text) -> tuple[set[bytes], set[bytes]]:
    prompts: set[bytes] = set()
    answers: set[bytes] = set()
    for prompt, answer in _pairs_of(text):
        prompts.add(_digest(prompt, answer))
        answers.add(_digest(answer))
    return prompts, answers


def _digest(*texts: str) -> bytes:
    return hashlib.blake2b("\x1f".join(texts).encode(), digest_size=8).digest()

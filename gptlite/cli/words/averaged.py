"""The vectors of `--static-from average`: a model that reads a text, and what it expected around each word."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gptlite.cli.shared import console
from gptlite.cli.shared.corpora import training_text

if TYPE_CHECKING:
    from gptlite.embedding.static import TokenTable, WordVectors

NAME = "average"


def read_averages(wanted: Mapping[str, Any], table: TokenTable, messages: console.Messages) -> WordVectors:
    """The average vectors of the words that stand in the text as often as those of the `table` must."""
    from gptlite import device as machine
    from gptlite.checkpoint import saved_step
    from gptlite.embedding import averaged
    from gptlite.embedding.static import WordVectors

    hardware = machine.choose_hardware(wanted["device"], "fp32", wanted["threads"])
    loaded = saved_step.load(table.path, hardware.device)
    least = max(1, table.words(wanted["min_count"])[1])
    started = time.monotonic()
    with training_text(table.path, wanted["corpus"], messages) as blocks:
        contexts = averaged.read_contexts(
            loaded.model, loaded.tokenizer, blocks, min_count=min(averaged.MIN_COUNT, least),
            progress=console.seldom(lambda n: messages.say(f"{n / 1e6:.1f} million characters read")),
        )  # fmt: skip
    vectors = averaged.average_vectors(contexts)
    messages.say(f"contexts of {len(contexts.words):,} words averaged in {time.monotonic() - started:.0f} s")
    counts = dict(zip(contexts.words, contexts.counts.tolist(), strict=True))
    kept = int((contexts.counts >= least).sum())  # the most frequent come first
    words, vectors = contexts.words[:kept], vectors[:kept]
    return WordVectors(NAME, words, vectors, correction=wanted["correct"] or "none", counts=counts)

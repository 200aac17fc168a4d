"""What a page says of a model before anything is asked of it: settings, marks, words, scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gptlite import __version__
from gptlite.checkpoint import saved_step
from gptlite.checkpoint.saved_step import Checkpoint
from gptlite.config import CORRECTIONS, SamplingConfig
from gptlite.embedding.contextual import find_prefix
from gptlite.embedding.embedder import statistics_of
from gptlite.generation.generate import tokenize_prompt
from gptlite.storage.reader import Reader

MOST_WORDS = 3000
ZSCORE = CORRECTIONS.index("zscore")
SHOWN = ("temperature", "top_k", "top_p", "min_p", "max_new_tokens")
PROBE = "x"  # a prompt that shows what stands around every prompt


@dataclass(frozen=True)
class Description:
    """As `report.live.page.LiveModel` has it.

    - `special`: ids by name; `space`: scales of the hidden states of each layer, or None.
    - `words`: of the training text.
    - `prompt`: the text that writing begins with; `sampling`: its settings; `facts`: what else is known, as texts.
    """

    special: Mapping[str, Any]
    space: Mapping[str, np.ndarray] | None
    prompt: str
    words: list[str]
    sampling: Mapping[str, float]
    facts: Mapping[str, str] = field(default_factory=dict[str, str])


def describe(loaded: Checkpoint) -> Description:
    """Raises `CheckpointError` for a damaged model."""
    tokenizer, measured = loaded.tokenizer, statistics_of(loaded)
    with Reader(loaded.path, loaded.manifest) as reader:
        words = [word for word, _ in saved_step.read_words(reader)]
    opening, closing = _around_prompts(loaded)
    sampling = SamplingConfig()
    return Description(
        special={
            "opening": opening, "closing": closing, "separator": tokenizer.separator_id,
            "ends": sorted(tokenizer.end_ids),
            "prefix": find_prefix(tokenizer, token_counts=None if measured is None else measured["token_counts"]),
        },
        space=None if measured is None else _space(measured),
        prompt=next((word.capitalize() for word in words if word.isalpha()), ""),
        words=[word for word in words if word.isalpha()][:MOST_WORDS],
        sampling={name: getattr(sampling, name) for name in SHOWN},
        facts={
            "model": "/".join(loaded.path.absolute().parts[-2:]), "architecture": loaded.config.architecture,
            "gptlite": __version__, "tokenizer sha256": tokenizer.digest,
        },
    )  # fmt: skip


def _around_prompts(loaded: Checkpoint) -> tuple[list[int], list[int]]:
    """The ids before and after each prompt; there are some after it where a model answers prompts."""
    tokenizer = loaded.tokenizer
    if not tokenizer.pairs:
        return list(tokenizer.opening), []
    ids, inner = tokenize_prompt(tokenizer, PROBE), tokenizer.encode(PROBE)
    start = next(i for i in range(len(ids)) if ids[i : i + len(inner)] == inner)
    return ids[:start], ids[start + len(inner) :]


def _space(measured: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Of each layer, what z-scored cosines are made and judged with."""
    quantiles = {name: measured[f"{name}_quantiles"][:, ZSCORE] for name in ("same_word", "unrelated")}
    return {"mean": measured["mean"], "std": measured["std"], **quantiles}

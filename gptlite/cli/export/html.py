"""gptlite export --to html: a page in which the model runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlite.cli.shared import pages
from gptlite.config import CORRECTIONS, SamplingConfig
from gptlite.errors import LimitError, UsageError

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.report.live.page import LiveModel

MOST_PARAMETERS = 150_000_000  # beyond, browsers cannot hold the text of the page
MOST_WORDS = 3000
ZSCORE = CORRECTIONS.index("zscore")


def write(target: Path, loaded: Checkpoint, name: str, dtype: str) -> tuple[str, float | None]:
    """Write the page of a model; the numbers that it has, and what these cost in bits per byte (None for 32 bits).

    Raises `UsageError` for a model that no page can run, `LimitError` for one too large, and `NumericsError`.
    """
    import torch

    from gptlite.checkpoint import rounding
    from gptlite.errors import NumericsError
    from gptlite.report.components import packing
    from gptlite.report.live import page

    shown = collect(loaded, name)
    try:
        content, dtype = page.render(shown, dtype)
    except OverflowError:
        raise NumericsError(f"{loaded.path} has weights beyond the range of f16; use f32 or int8.") from None
    loss = None
    if dtype != "f32":
        weights = {name: torch.from_numpy(packing.rounded(name, array, dtype)) for name, array in shown.weights.items()}
        loss = rounding.loss_of(loaded.model, weights, loaded.tokenizer)
    pages.write(target, content)
    return dtype, loss


def collect(loaded: Checkpoint, name: str) -> LiveModel:
    """What the page shows. Raises `UsageError` and `LimitError`."""
    from gptlite import __version__
    from gptlite.checkpoint import saved_step
    from gptlite.embedding.contextual import find_prefix
    from gptlite.embedding.embedder import statistics_of
    from gptlite.model import rotary_frequencies
    from gptlite.report.live.page import LiveModel
    from gptlite.storage.reader import Reader
    from gptlite.text.tokenizer_parts import parts_of

    config, tokenizer = loaded.config, loaded.tokenizer
    if tokenizer.pairs is not None:
        raise UsageError("a page continues texts, and this model answers prompts of pairs; `format` gguf takes it.")
    if config.n_params > MOST_PARAMETERS:
        raise LimitError(
            f"the model has {config.n_params:,} parameters; a page takes at most {MOST_PARAMETERS:,}, for a browser "
            "computes it alone."
        )
    state = loaded.model.state_dict()
    weights = {key: value.float().cpu().numpy() for key, value in state.items()}
    if config.tie_embeddings:
        weights.pop("head.weight", None)
    frequencies = None
    if config.position == "rope":
        frequencies = rotary_frequencies(config.head_dim, config.rope_theta, config.rope_scaling).numpy()
    measured = statistics_of(loaded)
    with Reader(loaded.path, loaded.manifest) as reader:
        words = [word for word, _ in saved_step.read_words(reader)]
    sampling = SamplingConfig()
    return LiveModel(
        name=name,
        config=config.to_dict(),
        weights=weights,
        frequencies=frequencies,
        tokenizer={field.name: getattr(parts, field.name) for parts in [parts_of(tokenizer)]
                   for field in dataclasses.fields(parts)},
        special={
            "opening": tokenizer.opening, "separator": tokenizer.separator_id, "ends": sorted(tokenizer.end_ids),
            "prefix": find_prefix(tokenizer, token_counts=None if measured is None else measured["token_counts"]),
        },
        space=None if measured is None else _space(measured),
        prompt=next((word.capitalize() for word in words if word.isalpha()), ""),
        words=[word for word in words if word.isalpha()][:MOST_WORDS],
        sampling={key: getattr(sampling, key) for key in ("temperature", "top_k", "top_p", "min_p", "max_new_tokens")},
        facts={
            "model": pages.model_name(loaded.path), "architecture": config.architecture, "gptlite": __version__,
            "tokenizer sha256": tokenizer.digest,
        },
    )  # fmt: skip


def _space(measured: dict[str, Any]) -> dict[str, Any]:
    """Of each layer, what z-scored cosines are made and judged with."""
    quantiles = {name: measured[f"{name}_quantiles"][:, ZSCORE] for name in ("same_word", "unrelated")}
    return {"mean": measured["mean"], "std": measured["std"], **quantiles}

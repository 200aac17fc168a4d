"""gptlite export --to html: a page in which the model runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from gptlite.cli.shared import pages
from gptlite.errors import LimitError, UsageError

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.report.live.page import LiveModel

MOST_PARAMETERS = 150_000_000  # beyond, browsers cannot hold the text of the page


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
    from gptlite.model import rotary_frequencies
    from gptlite.report.live.page import LiveModel
    from gptlite.serving.description import describe
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
    known, parts = describe(loaded), parts_of(tokenizer)
    return LiveModel(
        name=name,
        config=config.to_dict(),
        weights=weights,
        frequencies=frequencies,
        tokenizer={field.name: getattr(parts, field.name) for field in dataclasses.fields(parts)},
        special=known.special,
        space=known.space,
        prompt=known.prompt,
        words=known.words,
        sampling=known.sampling,
        facts=known.facts,
    )

"""gptlite export: a model as one file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptlite.cli import console, options
from gptlite.errors import UsageError


def export(
    model: options.ModelArgument = None,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="gguf, for llama.cpp.")] = "gguf",
    dtype: Annotated[str, typer.Option("--dtype", metavar="NAME", help="f32, f16 or q8_0.")] = "f16",
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="FILE", help="The file.", show_default="<run>-<dtype>.gguf")
    ] = None,
    quiet: options.QuietOption = False,
) -> None:
    """Write a model for llama.cpp and its kin; a saved step is already a Hugging Face directory.

    [bold]gptlite export checkpoints/corpus --to gguf[/bold]
    """
    if to != "gguf":
        raise UsageError(f"--to must be gguf, not '{to}'; for Hugging Face, use the step's directory as it is.")
    from gptlite import gguf, runs

    loaded = runs.load(model)
    path = loaded.path
    name = path.parent.name if runs.STEP_NAME.fullmatch(path.name) else path.name
    target = Path(out or f"{name}-{dtype}.gguf")
    gguf.export_gguf(target, loaded.config, loaded.model.state_dict(), loaded.tokenizer, dtype=dtype)
    console.Messages(quiet).say(f"{target}: {target.stat().st_size:,} bytes")

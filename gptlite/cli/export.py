"""gptlite export: a model as one file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptlite.cli.shared import console, options
from gptlite.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from gptlite.checkpoint.gguf_check import GgufReport


def export(
    model: options.ModelArgument = None,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="gguf, for llama.cpp.")] = "gguf",
    dtype: Annotated[str, typer.Option("--dtype", metavar="NAME", help="f32, f16 or q8_0.")] = "f16",
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="FILE", help="The file.", show_default="<run>-<dtype>.gguf")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Let llama.cpp read the file and compare (needs llama-cpp-python).", show_default="off"
        ),
    ] = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write a model for llama.cpp and its kin; a saved step is already a Hugging Face directory.

    [bold]gptlite export checkpoints/corpus --to gguf[/bold]
    """
    if to != "gguf":
        raise UsageError(f"--to must be gguf, not '{to}'; for Hugging Face, use the step's directory as it is.")
    from gptlite.checkpoint import gguf, gguf_check, runs

    if verify:
        gguf_check.check_installed()
    loaded = runs.load(model)
    path = loaded.path
    name = path.parent.name if runs.STEP_NAME.fullmatch(path.name) else path.name
    target = Path(out or f"{name}-{dtype}.gguf")
    gguf.export_gguf(target, loaded.config, loaded.model.state_dict(), loaded.tokenizer, dtype=dtype)
    messages = console.Messages(quiet)
    messages.say(f"{target}: {target.stat().st_size:,} bytes")
    if verify:
        report = gguf_check.verify_gguf(target, loaded.model, loaded.tokenizer)
        _show(report, messages)
        if problem := report.problem(dtype):
            raise CheckpointError(f"{target}: llama.cpp does not read what the model says: {problem}.")


def _show(report: GgufReport, messages: console.Messages) -> None:
    """What llama.cpp answered, in three lines."""
    lost = report.their_loss - report.loss
    ended = "two tokens were equally likely then" if report.tie else "then another one"
    messages.say(f"read by llama.cpp (llama-cpp-python {report.version}):")
    messages.say(f"  token ids     equal for {report.n_texts - len(report.unequal)} of {report.n_texts} texts")
    if report.n_equal == report.n_greedy:
        messages.say(f"  likeliest     the same {report.n_greedy} tokens")
    else:
        messages.say(f"  likeliest     the same {report.n_equal} of {report.n_greedy} tokens, {ended}")
    messages.say(
        f"  probabilities {report.divergence:.2g} nats a token away; {report.n_sampled} tokens that the model wrote "
        f"take {report.their_loss:.4f} nats each instead of {report.loss:.4f} ({lost:+.4f})"
    )

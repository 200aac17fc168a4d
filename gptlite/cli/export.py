"""gptlite export: a model as one file for other programs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gptlite.cli.shared import console, models, options, outputs, schemas
from gptlite.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from gptlite.checkpoint.gguf_check import GgufReport


def export(
    directory: options.ModelArgument = None,
    model: models.RunOption = None,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="gguf, for llama.cpp.")] = "gguf",
    dtype: Annotated[Literal["f32", "f16", "q8_0"], typer.Option("--dtype", help="Of the matrices.")] = "f16",
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="FILE", help="The file.", show_default="<run>-<dtype>.gguf")
    ] = None,
    force: outputs.ForceOption = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Let llama.cpp read the file and compare (needs llama-cpp-python).")
    ] = False,
    json: options.JsonOption = False,
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
    if out is not None:
        outputs.format_of(out, {".gguf": "gguf"})
    chosen = models.choose(directory, model)
    outputs.check(out, force=force, model=chosen)
    loaded = runs.load(chosen)
    path = loaded.path
    name = path.parent.name if runs.STEP_NAME.fullmatch(path.name) else path.name
    target = Path(out or f"{name}-{dtype}.gguf")
    if out is None:
        outputs.check(target, force=force, model=chosen)
    gguf.export_gguf(target, loaded.config, loaded.model.state_dict(), loaded.tokenizer, dtype=dtype)
    messages = console.Messages(quiet)
    size = target.stat().st_size
    messages.say(f"{target}: {console.plural(size, 'byte')}")
    report = gguf_check.verify_gguf(target, loaded.model, loaded.tokenizer) if verify else None
    if json:
        facts = {"model": str(path), "file": str(target), "file_bytes": size, "dtype": dtype}
        verified = None if report is None else {**_facts(report), "problem": report.problem(dtype)}
        console.write_json(schemas.named("export", {**facts, "llama_cpp": verified}))
    if report is not None:
        _show(report, messages)
        if problem := report.problem(dtype):
            raise CheckpointError(f"{target}: llama.cpp does not read what the model says: {problem}.")


def _facts(report: GgufReport) -> dict[str, Any]:
    """What --json says of the comparison, with the units of its numbers."""
    nats = ("loss", "their_loss", "divergence")
    return {f"{name}_nats" if name in nats else name: value for name, value in dataclasses.asdict(report).items()}


def _show(report: GgufReport, messages: console.Messages) -> None:
    """What llama.cpp answered, in three lines."""
    lost = report.their_loss - report.loss
    ended = "two tokens were equally likely then" if report.tie else "then another one"
    messages.say(f"read by llama.cpp (llama-cpp-python {report.version}):")
    messages.say(f"  token ids     equal for {report.n_texts - len(report.unequal)} of {report.n_texts} texts")
    if report.n_equal == report.n_greedy:
        messages.say(f"  likeliest     the same {console.plural(report.n_greedy, 'token')}")
    else:
        messages.say(f"  likeliest     the same {report.n_equal} of {report.n_greedy} tokens, {ended}")
    messages.say(
        f"  probabilities {report.divergence:.2g} nats per token away; {report.n_sampled} tokens that the model wrote "
        f"take {report.their_loss:.4f} nats each instead of {report.loss:.4f} ({lost:+.4f})"
    )

"""gptlite export: a model as one file for other programs, or as a page in which it runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gptlite.cli.export import html
from gptlite.cli.shared import console, models, modes, options, outputs, schemas
from gptlite.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from gptlite.checkpoint.gguf_check import GgufReport


HTML, GGUF = "--to html", "--to gguf"
DEFAULTS = {"gguf": "f16", "html": "auto"}
DTYPES = {"gguf": ("f32", "f16", "q8_0"), "html": ("auto", "f32", "f16", "int8")}
MODES = modes.Modes(
    everywhere={"directory", "model", "to", "dtype", "out", "force", "json", "quiet"},
    only={GGUF: {"verify"}, HTML: set()},
)


def export(
    call: typer.Context,
    directory: options.ModelArgument = None,
    model: models.RunOption = None,
    to: Annotated[
        str,
        typer.Option("--to", metavar="FORMAT", help="gguf, for llama.cpp; or html, a page in which the model runs."),
    ] = "gguf",
    dtype: Annotated[
        Literal["auto", "f32", "f16", "q8_0", "int8"] | None,
        typer.Option("--dtype", help="Of the matrices; q8_0 for gguf, auto and int8 for html.",
                     show_default="f16; auto for html"),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FILE", help="The file.", show_default="<run>-<dtype>.gguf; <run>.html"),
    ] = None,
    force: outputs.ForceOption = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Let llama.cpp read the file and compare (needs llama-cpp-python).")
    ] = False,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:  # fmt: skip
    """Write a model for llama.cpp and its kin, or as a page in which it runs.

    [bold]gptlite export checkpoints/corpus --to gguf[/bold]

    [bold]gptlite export checkpoints/corpus --to html -o model.html[/bold]
    """
    if to not in DTYPES:
        raise UsageError(f"--to must be gguf or html, not '{to}'; for Hugging Face, use the step's directory as it is.")
    MODES.check(call, f"--to {to}")
    numbers = dtype or DEFAULTS[to]
    if numbers not in DTYPES[to]:
        raise UsageError(f"--dtype {numbers} does nothing with --to {to}, which takes {', '.join(DTYPES[to])}.")
    from gptlite.checkpoint import gguf_check, runs

    if verify:
        gguf_check.check_installed()
    if out is not None:
        outputs.format_of(out, {f".{to}": to})
    chosen = models.choose(directory, model)
    outputs.check(out, force=force, model=chosen)
    loaded = runs.load(chosen)
    path = loaded.path
    name = path.parent.name if runs.STEP_NAME.fullmatch(path.name) else path.name
    target = Path(out or (f"{name}.html" if to == "html" else f"{name}-{numbers}.gguf"))
    if out is None:
        outputs.check(target, force=force, model=chosen)
    messages = console.Messages(quiet)
    loss, report = None, None
    if to == "html":
        numbers, loss = html.write(target, loaded, name, numbers)
    else:
        from gptlite.checkpoint import gguf

        gguf.export_gguf(target, loaded.config, loaded.model.state_dict(), loaded.tokenizer, dtype=numbers)
    size = target.stat().st_size
    messages.say(f"{target}: {console.plural(size, 'byte')}")
    if loss is not None:
        messages.say(f"{numbers}: {loss:+.5f} bits per byte on texts that the model writes")
    if verify:
        report = gguf_check.verify_gguf(target, loaded.model, loaded.tokenizer)
    if json:
        facts = {"model": str(path), "file": str(target), "file_bytes": size, "dtype": numbers,
                 "loss_bits_per_byte": loss}  # fmt: skip
        verified = None if report is None else {**_facts(report), "problem": report.problem(numbers)}
        console.write_json(schemas.named("export", {**facts, "llama_cpp": verified}))
    if report is not None:
        _show(report, messages)
        if problem := report.problem(numbers):
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

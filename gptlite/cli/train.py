"""gptlite train: text files in, a model out."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from gptlite.cli import process
from gptlite.cli.shared import console, options, progress, schemas
from gptlite.config import ARCHITECTURES, SIZES, ModelConfig, TrainConfig
from gptlite.errors import UsageError
from gptlite.text import demo as built_in
from gptlite.training.request import parse_time

PLAN = "chosen by the plan"
MANY_EPOCHS = 8  # passes through a text, after which more of them help less than more text
BUDGETS = ("seconds", "steps", "epochs")
HOMONYMS = "homonyms"  # the other demonstration
DATA, SHAPE, OPTIMISE, MACHINE, OUTPUT = "Data", "Shape", "Optimise", "Machine", "Output"


def _option(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def _count(*names: str, **more: Any) -> Any:
    return _option(*names, parser=options.parse_count, metavar="N", **more)


def train(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILES", help="Text files, folders or patterns; - reads standard input.", show_default="none"
        ),
    ] = None,
    out: Annotated[
        str | None,
        _option("-o", "--out", metavar="DIR", help="The run directory.", show_default="checkpoints/<name of the text>"),
    ] = None,
    time: Annotated[
        float | None,
        _option(
            "--time",
            parser=parse_time,
            metavar="TIME",
            help="Time for everything, such as 90s, 3m, 1h30m.",
            show_default="5m",
        ),
    ] = None,
    steps: Annotated[int | None, _count("--steps", help="Train this many steps instead.", show_default="off")] = None,
    epochs: Annotated[
        float | None, _option("--epochs", metavar="F", help="Read the text this often instead.", show_default="off")
    ] = None,
    architecture: Annotated[
        str | None,
        _option("--arch", metavar="NAME", help=f"{', '.join(ARCHITECTURES)}.", show_default=ModelConfig.architecture),
    ] = None,
    size: Annotated[
        str | None, _option("--size", metavar="NAME", help=f"auto, {', '.join(SIZES)}.", show_default="auto")
    ] = None,
    init_from: Annotated[
        str | None,
        _option(
            "--init-from",
            metavar="DIR",
            help="Go on from this model, with its tokenizer: a run, a step or a Hugging Face directory.",
            show_default="a new model",
        ),
    ] = None,
    demo: Annotated[
        bool,
        _option(
            "--demo",
            help="Train on the language reference inside Python; --demo homonyms on words whose senses are known.",
            show_default="off",
        ),
    ] = False,
    resume: Annotated[
        bool, _option("--resume", help="Continue the run of -o, or the newest run on these files.", show_default="off")
    ] = False,
    dry_run: Annotated[
        bool, _option("--dry-run", help="Show the plan and what to expect of it; train nothing.", show_default="off")
    ] = False,
    val: Annotated[
        str | None,
        _option(
            "--val", metavar="5%|FILE", help="Held out: a share of the end, or a file.", panel=DATA, show_default="5%"
        ),
    ] = None,
    lossy: options.LossyOption = False,
    encoding: options.EncodingOption = None,
    keep_line_ends: options.KeepLineEndsOption = False,
    separator: options.SeparatorOption = None,
    as_text: options.AsTextOption = False,
    vocab_size: Annotated[
        int | None,
        _option(
            "--vocab-size",
            parser=options.parse_count_or_auto,
            metavar="auto|N",
            help="Tokens in the vocabulary.",
            panel=DATA,
            show_default="auto",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        _option(
            "--tokenizer",
            metavar="DIR",
            help="Use the tokenizer of a run or a Hugging Face directory.",
            panel=DATA,
            show_default="learned from the text",
        ),
    ] = None,
    context_length: Annotated[
        int | None, _count("--context", help="Tokens the model sees at once.", panel=SHAPE, show_default=PLAN)
    ] = None,
    n_layers: Annotated[int | None, _count("--layers", help="Blocks.", panel=SHAPE, show_default=PLAN)] = None,
    n_heads: Annotated[
        int | None, _count("--heads", help="Attention heads a block.", panel=SHAPE, show_default="dim / 64")
    ] = None,
    dim: Annotated[
        int | None, _count("--dim", help="Width of the residual stream.", panel=SHAPE, show_default=PLAN)
    ] = None,
    dropout: Annotated[
        float | None,
        _option("--dropout", metavar="F", help="Share of activations silenced.", panel=SHAPE, show_default=PLAN),
    ] = None,
    batch_size: Annotated[
        int | None, _count("--batch-size", help="Windows of text a step.", panel=OPTIMISE, show_default=PLAN)
    ] = None,
    accumulate: Annotated[
        int | None,
        _count(
            "--accumulate",
            help="Compute each batch in N parts: less memory, the same step.",
            panel=OPTIMISE,
            show_default=str(TrainConfig.accumulate),
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        _option(
            "--optimizer", metavar="NAME", help="muon or adamw.", panel=OPTIMISE, show_default=TrainConfig.optimizer
        ),
    ] = None,
    lr: Annotated[
        float | None, _option("--lr", metavar="F", help="Peak learning rate.", panel=OPTIMISE, show_default=PLAN)
    ] = None,
    warmup: Annotated[
        float | None,
        _option(
            "--warmup", metavar="F", help="Share of the run with a rising rate.", panel=OPTIMISE, show_default=PLAN
        ),
    ] = None,
    decay: Annotated[
        float | None,
        _option(
            "--decay",
            metavar="F",
            help="Share of the run with a falling rate.",
            panel=OPTIMISE,
            show_default=str(TrainConfig.decay),
        ),
    ] = None,
    weight_decay: Annotated[
        float | None,
        _option(
            "--weight-decay",
            metavar="F",
            help="Decay of the matrices.",
            panel=OPTIMISE,
            show_default=str(TrainConfig.weight_decay),
        ),
    ] = None,
    init: Annotated[
        str | None,
        _option(
            "--init",
            metavar="NAME",
            help="bigrams (vectors start from counts) or random.",
            panel=OPTIMISE,
            show_default=TrainConfig.init,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        _count(
            "--patience",
            help="Stop after N scores in a row without a new best one; 0 is never.",
            panel=OPTIMISE,
            show_default=str(TrainConfig.patience),
        ),
    ] = None,
    clip: Annotated[
        float | None,
        _option(
            "--clip",
            metavar="F",
            help="Largest norm of the gradient.",
            panel=OPTIMISE,
            show_default=str(TrainConfig.clip),
        ),
    ] = None,
    seed: Annotated[
        int | None,
        _option(
            "--seed",
            metavar="N",
            help="Of weights, batches and dropout.",
            panel=OPTIMISE,
            show_default=str(TrainConfig.seed),
        ),
    ] = None,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    threads: options.ThreadsOption = None,
    gpus: Annotated[
        int | None,
        _option(
            "--gpus",
            "--processes",
            parser=options.parse_count_or_auto,
            metavar="auto|N",
            help="Train on N GPUs of this machine, or in N processes where it has none.",
            panel=MACHINE,
            show_default="1",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        _option(
            "--shard",
            metavar="none|fsdp",
            help="What each of several processes holds: the whole model, or a part.",
            panel=MACHINE,
            show_default=TrainConfig.shard,
        ),
    ] = None,
    recompute: Annotated[
        bool,
        _option(
            "--recompute",
            help="Compute blocks again in the backward pass: less memory, a third more work.",
            panel=MACHINE,
            show_default="off",
        ),
    ] = False,
    compile: Annotated[
        str,
        _option("--compile", metavar="auto|on|off", help="Steps in machine code made on this computer.", panel=MACHINE),
    ] = "auto",
    eval_every: Annotated[
        int | None,
        _count("--eval-every", help="Steps between scores.", panel=OUTPUT, show_default="a tenth of the run"),
    ] = None,
    save_every: Annotated[
        int | None, _count("--save-every", help="Steps between saves.", panel=OUTPUT, show_default="a tenth of the run")
    ] = None,
    sample_every: Annotated[
        int | None,
        _count(
            "--sample-every",
            help="Steps between samples; 0 is never.",
            panel=OUTPUT,
            show_default=str(TrainConfig.sample_every),
        ),
    ] = None,
    sample_prompt: Annotated[
        str | None,
        _option("--sample-prompt", metavar="TEXT", help="What samples begin with.", panel=OUTPUT, show_default="empty"),
    ] = None,
    keep: Annotated[
        int | None,
        _count(
            "--keep", help="Newest steps to keep, besides the best.", panel=OUTPUT, show_default=str(TrainConfig.keep)
        ),
    ] = None,
    log: Annotated[
        str | None,
        _option(
            "--log",
            "--logger",  # torchrun of Python 3.11 takes --log for one of its own options
            metavar="none|tensorboard",
            help="Another log, in a folder of the run, beside its metrics.jsonl.",
            panel=OUTPUT,
            show_default=TrainConfig.log,
        ),
    ] = None,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Train a model on your own text, in the time you give it.

    [bold]gptlite train corpus.txt --time 3m[/bold]
    """
    started = process.began()
    if not files and not demo and not resume:
        raise UsageError("name the text to train on, such as: gptlite train corpus.txt (or try --demo).")
    if dry_run and resume:
        raise UsageError("--dry-run plans a new run; leave --resume out.")
    if demo and files not in (None, [], [HOMONYMS]):
        raise UsageError("--demo brings its own text; leave the files out, or name the other one: --demo homonyms.")
    settings = {
        "seconds": time, "steps": steps, "epochs": epochs, "context_length": context_length, "n_layers": n_layers,
        "n_heads": n_heads, "dim": dim, "dropout": dropout, "batch_size": batch_size, "accumulate": accumulate,
        "optimizer": optimizer, "lr": lr, "warmup": warmup, "decay": decay, "weight_decay": weight_decay,
        "clip": clip, "seed": seed, "init": init, "patience": patience, "eval_every": eval_every,
        "save_every": save_every, "sample_every": sample_every, "sample_prompt": sample_prompt, "keep": keep,
        "shard": shard, "recompute": recompute or None, "log": log,
    }  # fmt: skip
    given = {name: value for name, value in settings.items() if value is not None}
    if sample_prompt is not None:
        given["sample_prompt"] = options.check_text(sample_prompt, "--sample-prompt")
    if sample_prompt is not None and not (sample_every or resume):
        raise UsageError("--sample-prompt does nothing without --sample-every N, the steps between samples.")
    if val is not None and re.fullmatch(r"[0-9]*\.?[0-9]+", val) and not Path(val).exists():
        share = float(val) * 100 if float(val) < 1 else float(val)
        raise UsageError(f"--val {val} needs a unit: write {share:g}% for a share of the text, or the name of a file.")
    if sum(name in given for name in BUDGETS) > 1:
        raise UsageError("give only one of --time, --steps and --epochs.")
    if demo and files and not resume:
        given = {**_homonym_settings(given, size), **given}
    if process.is_launched():  # what torch says, before Python, of a process that is lost, ours say in a sentence
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if dry_run and process.follows():
        return
    if gpus is not None and not dry_run and not process.is_launched():
        from gptlite import device as machine
        from gptlite.training import launch

        n_gpus = 0 if device == "cpu" else machine.count_gpus()
        if (n := launch.count_processes(gpus, n_gpus)) > 1:
            raise typer.Exit(launch.launch(sys.argv[1:], n, console.Messages(quiet).notice))
    with (
        progress.TrainingDisplay(quiet or process.follows()) as display,
        process.stoppable(display.stopping) as should_stop,
    ):
        display.phase("starting", 0.0)
        from gptlite.paths import cache_directory
        from gptlite.training import pipeline, prepare
        from gptlite.training.request import Request

        inputs = [str(built_in.demo_text(cache_directory(), HOMONYMS in (files or ())))] if demo else files or []
        request: dict[str, Any] = {
            "val": val, "lossy": lossy, "encoding": encoding, "keep_line_ends": keep_line_ends,
            "separator": separator, "as_text": as_text or demo,
            "vocab_size": vocab_size or None, "architecture": architecture, "size": size,
            "init_from": init_from, "tokenizer": tokenizer,
            "device": device, "dtype": dtype, "threads": threads, "compile": compile, "watcher": _Sheltered(display),
            **given,
        }  # fmt: skip
        if dry_run:
            preview = prepare.preview(Request.of(inputs, **request))
            display.bar.stop()
            if json:
                console.write_json(schemas.named("train-plan", preview))
            else:
                show_plan(preview)
            return
        ran = Request.of(
            inputs,
            out=out,
            resume=resume,
            should_stop=should_stop,
            started=started,
            command=["gptlite", *sys.argv[1:]],
            **request,
        )
        result = pipeline.run(ran)
    if not result:  # one of several processes, and not the first
        return
    if json:
        console.write_json_if_read(schemas.named("train", result))
        return
    for line in outcome(result):
        display.messages.say(line)
    display.messages.say(f'try: gptlite generate -m {shlex.quote(result["run"])} --prompt "..."')


def outcome(result: dict[str, Any]) -> Iterator[str]:
    """What a run came to, in lines: its score, the baselines on the same bytes, and what would help."""
    score, interval = f"{result['val_bits_per_byte']:.3f}", result.get("val_bits_per_byte_interval")
    step, run = f"(step {result['best_step']:,})", shlex.quote(result["run"])
    done = f"done in {console.duration(result['seconds'])}: "
    if result["val_bytes"] < result.get("held_out_bytes", 0):
        margin = f" ({interval[0]:.3f} to {interval[1]:.3f} for all of it)" if interval else ""
        yield (
            f"{done}{score} bits per byte{margin} on {result['val_bytes']:,} of {result['held_out_bytes']:,} bytes of "
            f"held-out text {step}; all of it: gptlite eval --held-out {run}"
        )
    else:
        yield f"{done}{score} bits per byte on {result['val_bytes']:,} bytes of held-out text {step}"
    others = result.get("baselines")
    if not others:
        return
    yield f"for comparison, on the same bytes: {baselines(others)}"
    if not others["ngram_bits_per_byte"] > result["val_bits_per_byte"]:
        yield f"This model does not beat the 5-gram, which only counts tokens. {_what_would_help(result)}"


def _what_would_help(result: dict[str, Any]) -> str:
    epochs = result.get("epochs", 0.0)
    read = f"It read its text {epochs:,.1f} times" if epochs >= 1 else f"It read {epochs:.0%} of its text"
    if epochs < MANY_EPOCHS:
        return f"{read}: more time (--time) would help most."
    if result["best_step"] < result["step"]:
        return f"{read}, and was best at step {result['best_step']:,}: more text, or --dropout, would help most."
    return f"{read}: more text would help most, or a trained model to start from (--init-from)."


def _homonym_settings(given: dict[str, Any], size: str | None) -> dict[str, Any]:
    """What is enough to learn the made-up language, as far as it was not given."""
    settings = {**built_in.SHAPE, **built_in.TRAINING} if size is None else dict(built_in.TRAINING)
    return {name: value for name, value in settings.items() if name not in BUDGETS or not set(BUDGETS) & set(given)}


def baselines(measured: dict[str, Any]) -> str:
    """What counting and compressing make of the same held-out text."""
    ngram, xz, unigram = (measured[f"{method}_bits_per_byte"] for method in ("ngram", "xz", "unigram"))
    return f"5-gram {ngram:.3f}, xz {xz:.3f}, unigram {unigram:.3f} bits per byte"


def show_plan(preview: dict[str, Any]) -> None:
    """The plan as a table: what, how much, and whose choice."""
    model, training, expected = preview["plan"]["model"], preview["plan"]["train"], preview["expected"]
    given = set(preview["plan"]["given"])

    def whose(*names: str) -> str:
        return "yours" if given & set(names) else "the plan's"

    if training["seconds"] is not None:
        budget, how_long = console.duration(training["seconds"]), whose("seconds")
    else:
        budget, how_long = console.plural(round(expected["steps"]), "step"), whose("steps", "epochs")
    bytes_per_token = preview["train_bytes"] / preview["n_train_tokens"]
    by_size = ("size", "n_layers", "dim", "n_heads")
    rows = [
        ["text", f"{preview['train_bytes']:,} bytes, {preview['n_train_tokens']:,} tokens", "yours"],
        ["held out", f"{preview['val_bytes']:,} bytes", ""],
        ["vocabulary", f"{model['vocab_size']:,} tokens of {bytes_per_token:.2f} bytes", ""],
        ["architecture", model["architecture"], ""],
        ["shape", _shape(model), whose(*by_size)],
        ["parameters", f"{preview['n_parameters']:,}", ""],
        ["context", console.plural(model["context_length"], "token"), whose("context_length")],
        ["batch", console.plural(training["batch_size"], "window"), whose("batch_size")],
        ["optimizer", f"{training['optimizer']}, rate {training['lr']:g}", whose("optimizer", "lr")],
        ["dropout", f"{training['dropout']:g}", whose("dropout")],
        ["budget", budget, how_long],
        ["", "", ""],
        ["speed", f"{expected['tokens_per_second']:,.0f} tokens/s, on {preview['hardware']}", ""],
        ["steps", f"about {expected['steps']:,.0f}, {expected['epochs']:.1f} times through the text", ""],
        ["time", console.duration(expected["seconds"]), ""],
        ["memory", f"{expected['memory_bytes'] / 1e9:.2f} GB", ""],
    ]
    if expected["bits_per_byte"] is None:
        rows.append(["result", "unknown: it can be estimated for new models and runs of a million tokens or more", ""])
    else:
        rows.append(["result", f"about {expected['bits_per_byte']:.2f} bits per byte", ""])
    rows.append(["for comparison", baselines(preview["baselines"]), ""])
    rows += [["because", reason, ""] for reason in preview["plan"]["reasons"]]
    console.print_table(["", "plan", "chosen by"], rows)


def _shape(model: dict[str, Any]) -> str:
    layers, heads = console.plural(model["n_layers"], "layer"), console.plural(model["n_heads"], "head")
    return f"{layers}, width {model['dim']}, {heads}"


class _Sheltered:
    """A display that may fail: it is told once, and no training ends for it."""

    def __init__(self, display: progress.TrainingDisplay) -> None:
        self.display, self.failed = display, False

    def __getattr__(self, name: str) -> Any:
        return partial(self._tell, getattr(self.display, name))

    def _tell(self, method: Any, *facts: Any) -> None:
        try:
            method(*facts)
        except Exception as error:
            if not self.failed:
                self.failed = True
                self._tell(self.display.notice, f"progress cannot be shown, and training goes on: {error!r}.")

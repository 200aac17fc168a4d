"""gptlite train: text files in, a model out. Its options; work.py does what they ask for."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gptlite.cli.shared import options
from gptlite.cli.train import work
from gptlite.config import ARCHITECTURES, SIZES, ModelConfig, TrainConfig
from gptlite.training.request import parse_time

PLAN = "chosen by the plan"
DATA, MODEL, TRAINING, MACHINE = "Data", "Model", "Training", "Machine"


def _option(*names: str, help: str, panel: str | None = None, default: Any = False, **more: Any) -> Any:
    """An option; `default` is shown on the help page, unless it means off, or none."""
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=default, **more)


def _count(*names: str, **more: Any) -> Any:
    return _option(*names, parser=options.parse_count, metavar="N", **more)


def train(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILES", help="Text files, folders or patterns; - is standard input.", hidden=True),
    ] = None,
    out: Annotated[
        str | None,
        _option("-o", "--out", metavar="DIR", help="The run directory.", default="checkpoints/<name of the text>"),
    ] = None,
    time: Annotated[
        float | None,
        _option(
            "--time",
            parser=parse_time,
            metavar="TIME",
            help="Time for everything, such as 90s, 3m, 1h30m.",
            default="5m",
        ),
    ] = None,
    steps: Annotated[int | None, _count("--steps", help="Train this many steps instead.")] = None,
    epochs: Annotated[float | None, _option("--epochs", metavar="F", help="Read the text this often instead.")] = None,
    init_from: Annotated[
        str | None,
        _option("--init-from", metavar="DIR", help="Start from this run, step or Hugging Face model."),
    ] = None,
    background: Annotated[
        list[str] | None,
        _option("--background", metavar="PATH", help="Other text to learn the language from; may be repeated."),
    ] = None,
    replay: Annotated[
        str | None,
        _option(
            "--replay",
            metavar="30%",
            help="With --init-from: the share of each step that is text of that run, so that it is not forgotten.",
            hidden=True,
        ),
    ] = None,
    demo: Annotated[
        bool, _option("--demo", help="Train on Python's language reference (homonyms: made-up words).")
    ] = False,
    resume: Annotated[
        bool, _option("--resume", help="Continue the run of -o, or the newest run on these files.")
    ] = False,
    dry_run: Annotated[
        bool, _option("--dry-run", help="Show the plan and what to expect of it; train nothing.")
    ] = False,
    val: Annotated[
        str | None,
        _option("--val", metavar="5%|FILE", help="Held out: a share of the end, or a file.", panel=DATA, default="5%"),
    ] = None,
    lossy: options.LossyOption = False,
    encoding: options.EncodingOption = None,
    keep_line_ends: options.KeepLineEndsOption = False,
    separator: options.SeparatorOption = None,
    as_text: options.AsTextOption = False,
    text_field: options.TextFieldOption = None,
    pairs: options.PairsOption = None,
    given: options.GivenFieldsOption = None,
    vocab_size: Annotated[
        int | None,
        _option(
            "--vocab-size",
            parser=options.parse_count_or_auto,
            metavar="auto|N",
            help="Tokens in the vocabulary.",
            panel=DATA,
            default="auto",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        _option("--tokenizer", metavar="DIR", help="Of this run or Hugging Face model, not a new one.", panel=DATA),
    ] = None,
    architecture: Annotated[
        str | None,
        _option(
            "--arch",
            metavar="NAME",
            help=f"{', '.join(ARCHITECTURES)}.",
            panel=MODEL,
            default=ModelConfig.architecture,
        ),
    ] = None,
    size: Annotated[
        str | None, _option("--size", metavar="NAME", help=f"{', '.join(SIZES)}, auto.", panel=MODEL, default="auto")
    ] = None,
    context_length: Annotated[
        int | None, _count("--context", help="Tokens that the model sees at once.", panel=MODEL, default=PLAN)
    ] = None,
    n_layers: Annotated[int | None, _count("--layers", help="Number of blocks.", panel=MODEL, default=PLAN)] = None,
    n_heads: Annotated[
        int | None, _count("--heads", help="Attention heads per block.", panel=MODEL, default="dim / 64", hidden=True)
    ] = None,
    dim: Annotated[int | None, _count("--dim", help="Width of the residual stream.", panel=MODEL, default=PLAN)] = None,
    dropout: Annotated[
        float | None,
        _option("--dropout", metavar="F", help="Share of activations set to zero.", panel=MODEL, default=PLAN),
    ] = None,
    batch_size: Annotated[
        int | None, _count("--batch-size", help="Windows of text per step.", panel=TRAINING, default=PLAN)
    ] = None,
    accumulate: Annotated[
        int | None,
        _count(
            "--accumulate",
            help="Compute each batch in N parts: less memory, the same step.",
            panel=TRAINING,
            default=str(TrainConfig.accumulate),
            hidden=True,
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        _option(
            "--optimizer",
            metavar="NAME",
            help="muon or adamw.",
            panel=TRAINING,
            default=TrainConfig.optimizer,
            hidden=True,
        ),
    ] = None,
    lr: Annotated[
        float | None, _option("--lr", metavar="F", help="Peak learning rate.", panel=TRAINING, default=PLAN)
    ] = None,
    warmup: Annotated[
        float | None,
        _option(
            "--warmup",
            metavar="F",
            help="Share of the run in which the learning rate rises.",
            panel=TRAINING,
            default=PLAN,
            hidden=True,
        ),
    ] = None,
    decay: Annotated[
        float | None,
        _option(
            "--decay",
            metavar="F",
            help="Share of the run in which the learning rate falls.",
            panel=TRAINING,
            default=str(TrainConfig.decay),
            hidden=True,
        ),
    ] = None,
    weight_decay: Annotated[
        float | None,
        _option(
            "--weight-decay",
            metavar="F",
            help="Weight decay of the matrices.",
            panel=TRAINING,
            default=str(TrainConfig.weight_decay),
            hidden=True,
        ),
    ] = None,
    init: Annotated[
        str | None,
        _option(
            "--init",
            metavar="NAME",
            help="Of the weights: bigrams (token vectors start from counts) or random.",
            panel=TRAINING,
            default=TrainConfig.init,
            hidden=True,
        ),
    ] = None,
    loss: Annotated[
        str | None,
        _option(
            "--loss",
            metavar="NAME",
            help="Of pairs: answer, or all.",
            panel=TRAINING,
            default=TrainConfig.loss,
            hidden=True,
        ),
    ] = None,
    ngram_weight: Annotated[
        float | None,
        _option(
            "--ngram-weight",
            metavar="F",
            help="Share of the loss that a 5-gram teaches, for text read many times; 0 is off.",
            panel=TRAINING,
            default=PLAN,
            hidden=True,
        ),
    ] = None,
    members: Annotated[
        int | None,
        _count(
            "--members",
            help="Models of this shape, trained apart and saved as one: 1, 2, 4 or 8. Longer runs gain.",
            panel=TRAINING,
            default=PLAN,
            hidden=True,
        ),
    ] = None,
    context_encoder: Annotated[
        str | None,
        _option(
            "--context-encoder",
            metavar="10%",
            help="Share of the time, at most 15%, for reading words from both sides.",
            panel=TRAINING,
            hidden=True,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        _count("--patience", help="Stop after N scores in a row without a new best one; 0 is off.", panel=TRAINING),
    ] = None,
    calibration: Annotated[
        float | None,
        _option(
            "--calibration",
            metavar="F",
            help="Temperature by which logits are divided at the end, because a model of text read often is too sure.",
            panel=TRAINING,
            default=PLAN,
            hidden=True,
        ),
    ] = None,
    clip: Annotated[
        float | None,
        _option(
            "--clip",
            metavar="F",
            help="Largest norm of the gradient.",
            panel=TRAINING,
            default=str(TrainConfig.clip),
            hidden=True,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        _option(
            "--seed",
            metavar="N",
            help="Of weights, batches and dropout.",
            panel=TRAINING,
            default=str(TrainConfig.seed),
        ),
    ] = None,
    eval_every: Annotated[
        int | None,
        _count("--eval-every", help="Steps between scores.", panel=TRAINING, default="a tenth of the run", hidden=True),
    ] = None,
    save_every: Annotated[
        int | None,
        _count(
            "--save-every",
            help="Steps between saves.",
            panel=TRAINING,
            default="a tenth of the run, at least 30 s",
            hidden=True,
        ),
    ] = None,
    sample_every: Annotated[
        int | None, _count("--sample-every", help="Steps between samples; 0 is off.", panel=TRAINING, hidden=True)
    ] = None,
    sample_prompt: Annotated[
        str | None,
        _option("--sample-prompt", metavar="TEXT", help="What samples begin with.", panel=TRAINING, hidden=True),
    ] = None,
    keep: Annotated[
        int | None,
        _count(
            "--keep",
            help="Newest steps to keep, besides the best.",
            panel=TRAINING,
            default=str(TrainConfig.keep),
            hidden=True,
        ),
    ] = None,
    log: Annotated[
        str | None,
        _option(
            "--log",
            "--logger",  # torchrun of Python 3.11 takes --log for one of its own options
            metavar="NAME",
            help="Another log, in a folder of the run: tensorboard, or none.",
            panel=TRAINING,
            hidden=True,
        ),
    ] = None,
    device: options.DeviceOption = "auto",
    dtype: options.TrainDtypeOption = "auto",
    threads: options.ThreadsOption = None,
    gpus: Annotated[
        int | None,
        _option(
            "--gpus",
            "--processes",
            parser=options.parse_count_or_auto,
            metavar="auto|N",
            help="N GPUs, or N CPU processes.",
            panel=MACHINE,
            default="1",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        _option(
            "--shard",
            metavar="NAME",
            help="What each of several processes holds: none for the whole model, fsdp for a part of it.",
            panel=MACHINE,
            default=TrainConfig.shard,
            hidden=True,
        ),
    ] = None,
    recompute: Annotated[
        bool,
        _option(
            "--recompute",
            help="Compute blocks again in the backward pass: less memory, a third more work.",
            panel=MACHINE,
            hidden=True,
        ),
    ] = False,
    compile: Annotated[
        str,
        _option(
            "--compile",
            metavar="auto|on|off",
            help="auto, on or off: train in machine code made on this computer.",
            panel=MACHINE,
            default=True,
            hidden=True,
        ),
    ] = "auto",
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Train a model on FILES, your own text (files, folders, patterns; - is standard input).

    [bold]gptlite train corpus.txt --time 3m[/bold]
    """
    if sample_prompt is not None:
        sample_prompt = options.check_text(sample_prompt, "--sample-prompt")
    settings = {
        "seconds": time, "steps": steps, "epochs": epochs, "context_length": context_length, "n_layers": n_layers,
        "n_heads": n_heads, "dim": dim, "dropout": dropout, "batch_size": batch_size, "members": members,
        "accumulate": accumulate, "optimizer": optimizer, "lr": lr, "warmup": warmup, "decay": decay,
        "weight_decay": weight_decay, "clip": clip, "seed": seed, "init": init, "loss": loss,
        "ngram_weight": ngram_weight, "calibration": calibration, "patience": patience, "eval_every": eval_every,
        "save_every": save_every, "sample_every": sample_every, "sample_prompt": sample_prompt, "keep": keep,
        "shard": shard, "recompute": recompute or None, "log": log,
    }  # fmt: skip
    request = {
        "val": val, "lossy": lossy, "encoding": encoding, "keep_line_ends": keep_line_ends, "separator": separator,
        "as_text": as_text or (demo and not files),
        "text_field": text_field, "pairs": pairs, "given": given,
        "vocab_size": vocab_size or None, "architecture": architecture, "size": size,
        "init_from": init_from, "background": background or None, "replay": replay,
        "context_encoder": context_encoder, "tokenizer": tokenizer,
        "device": device, "dtype": dtype, "threads": threads, "compile": compile,
    }  # fmt: skip
    call = work.Call(
        files=files or [], settings=settings, request=request, out=out, gpus=gpus, demo=demo, resume=resume,
        dry_run=dry_run, json=json, quiet=quiet,
    )  # fmt: skip
    work.check(call)
    work.run(call)

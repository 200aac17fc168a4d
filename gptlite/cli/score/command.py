"""gptlite score: the surprisal of every word of many texts, as a table for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gptlite.cli.score import pairs as minimal_pairs
from gptlite.cli.score import plot as drawing
from gptlite.cli.score.items import TEXT_COLUMNS, Items
from gptlite.cli.score.writing import FORMATS, FileSink, Rows, Sink
from gptlite.cli.shared import console, modes, options, outputs, sources
from gptlite.errors import UsageError

MODES = modes.Modes(
    everywhere={
        "files", "model", "pairs", "unit", "raw", "base", "skip_bad", "lossy", "encoding", "out", "form", "force",
        "plot", "resume", "device", "dtype", "threads", "quiet",
    },
    only={
        "a table of units": {"split", "text_column", "before", "spans"},
        "--plot": {"split", "text_column", "before", "spans"},
        "--pairs": {"by", "region"},
        "cells of .csv or .tsv": {"raw_cells"},
    },
    needs={"force": ("out", "plot"), "resume": "out", "by": "pairs", "region": "pairs"},
    exclusive=[("out", "form", "plot"), ("force", "resume"), ("plot", "pairs")],
)  # fmt: skip
Unit = Literal["word", "token", "region", "sentence"]
OUTPUT, DATA, PAIRS = "Output", "Data", "Pairs"


def score(
    call: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILES", help="Lines of text, or a .csv, .tsv or .jsonl; - for standard input."),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option("-m", "--model", metavar="DIR", help="A model; may be repeated.", show_default=options.NEWEST),
    ] = None,
    unit: Annotated[Unit, typer.Option(help="What a row stands for.")] = "word",
    split: Annotated[
        Literal["unicode", "whitespace"], typer.Option(help="Words by Unicode's rules, or between white space.")
    ] = "unicode",
    raw: Annotated[bool, typer.Option("--raw", help="Sums over tokens, without the end of the word.")] = False,
    base: Annotated[Literal["2", "e", "10"], typer.Option(help="Of the logarithm: bits, nats or dits.")] = "2",
    before: Annotated[
        str, typer.Option(metavar="TEXT", help="What is read before each text: none, previous (texts), or a text.")
    ] = "none",
    text_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The column of the texts.", show_default="text, else sentence", rich_help_panel=DATA
        ),
    ] = None,
    spans: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The column of the regions, 0-5 6-11.",
            show_default="regions are marked by | in the text",
            rich_help_panel=DATA,
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out and count rows that cannot be scored.", rich_help_panel=DATA)
    ] = False,
    lossy: options.LossyOption = False,
    encoding: Annotated[str | None, options.input_encoding(DATA)] = None,
    pairs: Annotated[
        bool,
        typer.Option("--pairs", help="Minimal pairs: columns good and bad, or BLiMP's own.", rich_help_panel=PAIRS),
    ] = False,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Accuracy by the values of a column.", show_default=False, rich_help_panel=PAIRS
        ),
    ] = None,
    region: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Compare the Nth region between | alone.",
            show_default=False,
            rich_help_panel=PAIRS,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="Write to a .csv, .tsv or .jsonl.",
            rich_help_panel=OUTPUT,
            show_default="standard output",
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Draw up to 12 texts as bars into a .svg, .png or .html, instead of a table; regions between | "
            "are shaded.",
            rich_help_panel=OUTPUT,
            show_default="off",
        ),
    ] = None,
    form: Annotated[
        Literal["csv", "tsv", "jsonl"], typer.Option("--format", help="Of standard output.", rich_help_panel=OUTPUT)
    ] = "tsv",
    raw_cells: outputs.RawCellsOption = False,
    force: outputs.ForceOption = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a FILE that was interrupted.", rich_help_panel=OUTPUT)
    ] = False,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    threads: options.ThreadsOption = None,
    quiet: options.QuietOption = False,
) -> None:
    """The surprisal of every word of many texts.

    [bold]gptlite score sentences.tsv -o surprisals.csv[/bold]
    """
    written = outputs.format_of(out, FORMATS) if out else form
    cells = ["cells of .csv or .tsv"] if written != "jsonl" and plot is None else []
    MODES.check(call, "--plot" if plot is not None else "--pairs" if pairs else "a table of units", *cells)
    if plot is not None:
        _check_plot(plot, unit)
    for name in model or [None]:
        outputs.check(out, force=force, inputs=files, model=name)
        outputs.check(plot, force=force, inputs=files, model=name, option="--plot")
    messages, ends = console.Messages(quiet), sources.LineEnds(model or [None])
    items = Items(
        files,
        columns=(text_column,) if text_column else TEXT_COLUMNS,
        pairs=minimal_pairs.COLUMNS if pairs else (),
        marked=((unit == "region" or plot is not None) and spans is None) or region is not None,
        spans_column=spans,
        skip_bad=skip_bad,
        lossy=lossy,
        encoding=encoding,
        line_ends=ends,
    )
    from gptlite import device as machine
    from gptlite.cli.score.table import load_judges, write_table
    from gptlite.evaluation.surprisal_table import Layout

    judges = list(load_judges(model, machine.choose_hardware(device, dtype, threads), split))
    names = tuple(judge.name for judge in judges) if len(judges) > 1 else ()
    layout = Layout(unit, raw, base, names)
    if plot is not None:
        n_texts = drawing.write(Path(plot), items, judges, layout, ends.read(before))
        messages.say(f"{console.plural(n_texts, 'text')} drawn, in {plot}", "dim")
        ends.say(messages)
        _tell_skipped(items, messages)
        return
    settings = {
        "unit": unit, "split": split, "raw": raw, "base": base, "context": before, "pairs": pairs, "region": region,
        "files": files, "models": [str(judge.loaded.path) for judge in judges], "skip_bad": skip_bad,
        **({} if items.encoding is None else {"encoding": items.encoding}),
    }  # fmt: skip
    sink: Sink = FileSink(Path(out), settings, resume) if out else Sink()
    rows = Rows(written, raw_cells)
    try:
        if pairs:
            minimal_pairs.run(items, judges, layout, region, by, rows, sink, messages, to_file=out is not None)
        else:
            write_table(items, judges, layout, ends.read(before), rows, sink, messages, to_file=out is not None)
    except BaseException:
        if isinstance(sink, FileSink):
            sink.abandon()
            if sink.done:
                messages.notice(
                    f"{console.plural(sink.done, 'text')} are complete; go on with the same command and --resume."
                )
        raise
    if isinstance(sink, FileSink):
        sink.finish()
        messages.say(f"{console.plural(sink.done, 'text')} scored, in {out}", "dim")
    ends.say(messages)
    _tell_skipped(items, messages)


def _check_plot(plot: str, unit: str) -> None:
    from gptlite.report import page

    outputs.format_of(plot, drawing.FORMATS, "--plot")
    if unit == "sentence":
        raise UsageError("--plot shows the parts of a text; --unit must be word, token or region.")
    page.check_libraries()


def _tell_skipped(items: Items, messages: console.Messages) -> None:
    if items.skipped:
        messages.notice(f"{console.plural(len(items.skipped), 'row')} left out, the first because {items.skipped[0]}")

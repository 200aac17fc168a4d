"""gptlite embed: one word in several sentences, its contextual vectors beside its static one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from gptlite.cli.embed import layerwise, vectors
from gptlite.cli.shared import console, modes, options, outputs, pages, sources
from gptlite.cli.shared.models import ModelReader
from gptlite.cli.shared.texts import Finder, Texts, check_marks
from gptlite.text.words import parse_marks

INPUT, WHICH, OUTPUT = "Input", "Which vector", "Output"
STATE = {"layer", "pool", "repeat", "context", "prefix"}
MODES = modes.Modes(
    everywhere={
        "texts", "word", "file", "tokens", "sentence", "limit", "skip_missing", "model", "by_layer", "out",
        "figures", "json", "device", "threads", "quiet",
    },
    only={
        "marked words": {"mark"}, "--word": set(), "--tokens": set(), "--sentence": set(),
        "a comparison": STATE | {"correct"},
        "--context both": STATE,
        "--by-layer": {"pool", "correct", "untrained"},
        "-o FILE": STATE | {"normalize", "force"},
        "-o -": STATE | {"normalize"},
        "-o FILE.html": STATE | {"correct", "force"},
        "-o FILE.csv or .tsv": {"raw_cells"},
        "--figures": {"force"},
        "lines of a file": {"lossy", "encoding"},
    },
    exclusive=[("word", "tokens", "sentence"), ("by_layer", "out"), ("by_layer", "figures"), ("repeat", "context")],
)  # fmt: skip


def embed(
    call: typer.Context,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help='Texts with the word in brackets: "on the \\[bank] of"; - reads lines.'),
    ] = None,
    word: Annotated[
        list[str] | None,
        typer.Option("-w", "--word", metavar="WORD", help="A word to find in unmarked texts; bank#2 is the second. "
                     "Repeatable.", rich_help_panel=INPUT),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("-f", "--file", metavar="FILE", help="More texts: a line each, or .jsonl, .csv or .tsv with a "
                     "column text.", rich_help_panel=INPUT),
    ] = None,
    mark: Annotated[
        str, typer.Option("--mark", metavar="A,B", help="What stands around a marked word.", show_default="[,]",
                          rich_help_panel=INPUT),
    ] = "[,]",
    tokens: Annotated[bool, typer.Option("--tokens", help="Every token of the texts.", rich_help_panel=INPUT)] = False,
    sentence: Annotated[
        bool, typer.Option("--sentence", help="Each text as a whole.", rich_help_panel=INPUT)
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Stop after N words.", rich_help_panel=INPUT)
    ] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out texts without the word, instead of rows of NaN.",
                           rich_help_panel=INPUT),
    ] = False,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Read bytes that are not UTF-8 as �.", rich_help_panel=INPUT)
    ] = False,
    encoding: Annotated[str | None, options.input_encoding(INPUT)] = None,
    model: options.ModelOption = None,
    layer: Annotated[
        str, typer.Option("--layer", metavar="L", help="last, mid, a number or A-B; in files also all.",
                          rich_help_panel=WHICH),
    ] = "last",
    pool: Annotated[
        options.Pool | None,
        typer.Option("--pool", help="Of a word's tokens.", show_default="last; weighted with --sentence",
                     rich_help_panel=WHICH),
    ] = None,
    correct: options.CorrectOption = "zscore",
    repeat: Annotated[
        bool, typer.Option("--repeat", help="Read each text twice, to know what follows.",
                           rich_help_panel=WHICH),
    ] = False,
    context: Annotated[
        Literal["left", "both"] | None,
        typer.Option("--context", help="Sides that are read.",
                     show_default="both; left in files or with --layer", rich_help_panel=WHICH),
    ] = None,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="TEXT", help="Read before each text. auto: a separator.",
                          rich_help_panel=WHICH),
    ] = "auto",
    by_layer: Annotated[
        bool, typer.Option("--by-layer", help="What cosines say in each layer, as a table.", rich_help_panel=OUTPUT)
    ] = False,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="With --by-layer: also with random weights.", rich_help_panel=OUTPUT)
    ] = False,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FILE", help="Write raw vectors: .npz, .npy, .jsonl, .vec, .bin, .tsv or "
                     ".csv; - is a JSON object a line; .html a page with map and layers.", rich_help_panel=OUTPUT),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Write vectors at length 1.", rich_help_panel=OUTPUT)
    ] = False,
    raw_cells: outputs.RawCellsOption = False,
    force: outputs.ForceOption = False,
    figures: pages.FiguresOption = None,
    device: options.DeviceOption = "auto",
    threads: options.ThreadsOption = None,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:  # fmt: skip
    """Compare a word's vectors in context with its one static vector.

    [bold]gptlite embed "She sat on the river \\[bank] ." "He paid money into the \\[bank] ."[/bold]
    """
    texts = texts or []
    files = [file] if file is not None else []
    unit = "token" if tokens else "sentence" if sentence else "word"
    kind = "--word" if word else "marked words" if unit == "word" else f"--{unit.replace('token', 'tokens')}"
    MODES.check(call, *_modes(out, by_layer, json, figures, bool(files) or "-" in texts, context), kind)
    messages, ends = console.Messages(quiet), sources.LineEnds([model])
    output = vectors.Output(out, figures, normalize, raw_cells, json)
    which = vectors.Which(
        layer=layer,
        pool=pool or ("weighted" if sentence else "last"),
        correct=correct,
        context="echo" if repeat else context or _context(call, unit, output),
        prefix=ends.read(options.check_text(prefix, "--prefix")),
    )
    words = [options.check_text(w, "--word") for w in word or []]
    marks = parse_marks(options.check_text(mark, "--mark"))
    source = Texts(texts, files, lossy, encoding, ends)
    if words:
        check_marks(texts, words)
    if context == "both":
        vectors.check_both_sides(output, unit)
    output.check(which, force=force, inputs=files, model=model)
    pages.check_figures(figures, force=force)
    found = Finder(source, words, mark=marks, unit=unit, limit=limit, skip_missing=skip_missing)
    read = ModelReader(model, device, threads)
    if by_layer:
        layerwise.show(found, read, pool=which.pool, correct=correct, untrained=untrained, json=json)
    else:
        vectors.show(found, source, which, output, read, messages)
    ends.say(messages)


def _context(call: typer.Context, unit: str, output: vectors.Output) -> str:
    """What is read unless --context says so: both sides of words that are compared, unless an option is about states.

    Files and pages are about states too: they have the model's own vectors.
    """
    of_states = {"layer", "pool", "correct"} & set(modes.given_options(call))
    return "left" if unit != "word" or of_states or output.out is not None or output.figures is not None else "auto"


def _modes(
    out: str | None, by_layer: bool, json: bool, figures: str | None, from_lines: bool, context: str | None
) -> Iterator[str]:
    """The modes of `MODES` that these options mean."""
    if by_layer:
        yield "--by-layer"
    elif out is None or json or figures is not None:
        yield "--context both" if context == "both" else "a comparison"
    if figures is not None:
        yield "--figures"
    if out == "-":
        yield "-o -"
    elif out is not None:
        yield "-o FILE.html" if Path(out).suffix.lower() == vectors.PAGE else "-o FILE"
    if outputs.is_table(out):
        yield "-o FILE.csv or .tsv"
    if from_lines:
        yield "lines of a file"

"""gptlite inspect: a text as a model reads it, token by token, layer by layer, head by head."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gptlite.cli.inspect import attention as attention_views
from gptlite.cli.inspect import page as html_page
from gptlite.cli.inspect import tables
from gptlite.cli.shared import console, modes, options, outputs, pages, schemas, sources
from gptlite.errors import UsageError
from gptlite.storage import delimited

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.device import Hardware
    from gptlite.evaluation.inspection import Attended, Explanation, Reading, Word

LOOK, OUTPUT = "What to look at", "Output"
EXAMPLE = 'give a text, such as: gptlite inspect "She sat on the river bank ."'
LONGEST_FILE = 16 << 20  # bytes
FORMATS = {".json": "json", ".tsv": "tsv", ".csv": "csv", ".html": "html"}  # of files
MOST_ALTERNATIVES = 100
FROM_FILE = "a file or standard input"
MODES = modes.Modes(
    everywhere={"text", "file", "model", "form", "out", "figures", "json", "device", "dtype", "threads", "quiet"},
    only={
        "a table of tokens": {"level", "top"},
        "--level word": {"level"},
        "--lens, --attention or --explain": {"lens", "attention", "explain"},
        "JSON": {"top", "lens", "attention", "explain"},
        "--format or a file of tokens": {"level", "top", "lens", "raw_cells"},
        "--format or a file of words": {"level", "raw_cells"},
        "a page or --figures": {"top", "attention", "explain", "token"},
        "--attention or --explain": {"token"},
        "-o FILE": {"force"},
        FROM_FILE: {"encoding"},
    },
    exclusive=[("form", "out"), ("form", "json")],
)


def inspect(
    call: typer.Context,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="The text; - reads standard input.")] = None,
    file: Annotated[str | None, typer.Option("-f", "--file", metavar="FILE", help="The text, from a file.")] = None,
    encoding: Annotated[str | None, options.input_encoding()] = None,
    model: options.ModelOption = None,
    level: Annotated[
        Literal["token", "word"], typer.Option("--level", help="A row for each.", rich_help_panel=LOOK)
    ] = "token",
    top: Annotated[
        int,
        typer.Option("--top", metavar="N", min=0, max=MOST_ALTERNATIVES, help="Alternatives to each token.",
                     rich_help_panel=LOOK),
    ] = 5,
    lens: Annotated[
        bool, typer.Option("--lens", help="What each layer expects (logit lens).", rich_help_panel=LOOK)
    ] = False,
    attention: Annotated[
        str | None,
        typer.Option("--attention", metavar="L.H", help="Where head H of layer L looks, as a map; all: where each head "
                     "looks.", rich_help_panel=LOOK),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="L.H", help="Head H of layer L at one --token, step by step.",
                     rich_help_panel=LOOK),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", metavar="N", help="Which token: its number, or a word; it#2 is the second.",
                     show_default="the last that is no space", rich_help_panel=LOOK),
    ] = None,
    form: Annotated[
        Literal["table", "tsv", "csv"],
        typer.Option("--format", help="What to print.", rich_help_panel=OUTPUT),
    ] = "table",
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FILE", help="Write a .json, .tsv, .csv or .html file instead.",
                     rich_help_panel=OUTPUT),
    ] = None,
    raw_cells: outputs.RawCellsOption = False,
    force: outputs.ForceOption = False,
    figures: pages.FiguresOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    threads: options.ThreadsOption = None,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:  # fmt: skip
    """See what a model makes of a text: surprisal of each token and word, alternatives, layers, attention.

    [bold]gptlite inspect "The animal did not cross the street because it was tired ."[/bold]
    """
    messages = console.Messages(quiet)
    wanted = Wanted(level, lens, attention, explain, "json" if json else None if out else form, _suffix(out), figures)
    MODES.check(call, *wanted.modes(), *[FROM_FILE] * (file is not None or text == "-"))
    outputs.check(out, force=force, inputs=[file], model=model)
    pages.check_figures(figures, force=force)
    ends = sources.LineEnds([model])
    content = ends.read(_read_text(text, file, encoding))
    ends.say(messages)
    if wanted.drawn:
        from gptlite.report import page

        page.check_libraries()

    from gptlite import device as machine
    from gptlite.checkpoint import runs

    hardware = machine.choose_hardware(device, dtype, threads)
    loaded = runs.load(model, hardware.device)
    seen = _look(loaded, content, hardware, wanted, top=top, token=token)
    messages.say(f"{loaded.path}", "dim")
    n, context = len(seen.reading.ids), loaded.config.context_length
    if n + 1 > context and (attention or explain):
        messages.notice(
            f"the text has {n:,} tokens and the model sees {context:,} at once; attention is that of tokens "
            f"{seen.first:,} to {seen.first + len(seen.window) - 1:,}."
        )
    if wanted.drawn:
        _draw(seen, wanted, token, out, figures, messages)
    if wanted.printed == "table":
        _print(seen, level, lens, one_head=seen.one_map is not None)
    elif wanted.printed is not None:
        console.write(_written(seen, wanted.printed, level, raw_cells))
    if out is not None:
        if wanted.written != "html":
            pages.write(Path(out), _written(seen, wanted.written or "", level, raw_cells))
        messages.say(f"{console.plural(n, 'token')} in {out}")


@dataclass(frozen=True)
class Wanted:
    """What to look at, and where it goes: `printed` and `written` are formats, None for nothing."""

    level: str
    lens: bool
    attention: str | None
    explain: str | None
    printed: str | None
    written: str | None
    figures: str | None

    def __post_init__(self) -> None:
        if self.attention == "all" and {self.printed, self.written} <= {"html", None}:
            raise UsageError("a page shows all heads; name the one to begin with, such as --attention 1.1.")

    @property
    def drawn(self) -> bool:
        """Are there charts, which need libraries of their own?"""
        return self.written == "html" or self.figures is not None

    @property
    def tables(self) -> bool:
        """Are attention and steps shown other than on a page?"""
        return bool({self.printed, self.written} & {"table", "json"})

    def modes(self) -> Iterator[str]:
        """The modes of `MODES` that these options mean."""
        views = self.lens or self.attention is not None or self.explain is not None
        for form in (self.printed, self.written):
            if form == "table":
                rows = "--level word" if self.level == "word" else "a table of tokens"
                yield "--lens, --attention or --explain" if views else rows
            elif form in ("tsv", "csv"):
                yield f"--format or a file of {self.level}s"
            elif form == "json":
                yield "JSON"
        if self.drawn:
            yield "a page or --figures"
        if self.tables and (self.attention or self.explain):
            yield "--attention or --explain"
        if self.written is not None or self.figures is not None:
            yield "-o FILE"


@dataclass(frozen=True)
class Seen:
    """What was found out: a reading, its words, the chosen token (from 1), and attention if it was asked for.

    `reading` has a lens only if that was asked for; `drawn` has one for a page too.
    `window`: the ids among which attention was looked at, of which the first is token number `first`. `one_map` and
    `one_step`: layer and head of the map and of the explained step.
    """

    loaded: Checkpoint
    reading: Reading
    drawn: Reading
    words: list[Word]
    token: int
    first: int
    window: list[int]
    one_map: tuple[int, int] | None
    one_step: tuple[int, int] | None
    attended: Attended | None
    step: Explanation | None


def _look(loaded: Checkpoint, content: str, hardware: Hardware, wanted: Wanted, *, top: int, token: str | None) -> Seen:
    """Let the model read the text, and look at what was asked for."""
    from gptlite.evaluation import inspection

    config = loaded.config
    of = (config.n_layers, config.n_heads)
    one_step = None if wanted.explain is None else inspection.parse_head(wanted.explain, *of, "explain")
    one_map = None if wanted.attention in (None, "all") else inspection.parse_head(wanted.attention, *of, "attention")
    lens = wanted.lens or wanted.drawn
    drawn = inspection.read(loaded.model, loaded.tokenizer, content, hardware, top=top, lens=lens)
    reading = drawn if wanted.lens else dataclasses.replace(drawn, lens=None)
    chosen = inspection.find_token(reading, token) if token is not None else inspection.last_token(reading)
    window = inspection.window_of(reading, loaded.tokenizer, config.context_length, chosen if token else None)
    attended = inspection.attend(loaded.model, window, *(one_map or ())) if wanted.attention and wanted.tables else None
    step = inspection.explain(loaded.model, window, *one_step, chosen) if one_step and wanted.tables else None
    words = inspection.words_of(reading)
    return Seen(loaded, reading, drawn, words, chosen, *window, one_map, one_step, attended, step)


def _draw(
    seen: Seen, wanted: Wanted, token: str | None, out: str | None, figures: str | None, messages: console.Messages
) -> None:
    """Write the charts, and the page if one is wanted."""
    from gptlite.report import inspection as report

    head = seen.one_step or seen.one_map or (1, 1)
    shown = html_page.collect(seen.loaded, seen.drawn, seen.words, seen.token, head, is_asked=token is not None)
    if figures is not None:
        pages.write_figures(Path(figures), report.figures(shown), messages)
    if wanted.written == "html":
        pages.write(Path(out or ""), report.render(shown))


def _suffix(out: str | None) -> str | None:
    return None if out is None else outputs.format_of(out, FORMATS)


def _read_text(argument: str | None, file: str | None, encoding: str | None) -> str:
    if (argument is None) is (file is None):
        raise UsageError(EXAMPLE if file is None else "give the text once: as an argument, or with -f.")
    if argument is not None and argument != "-":
        text = options.check_text(argument, "the text")
    else:
        text = sources.read_text(file or "-", "the text", LONGEST_FILE, encoding)
    if not text:
        raise UsageError(f"the text is empty; {EXAMPLE}")
    return text


def _print(seen: Seen, level: str, lens: bool, *, one_head: bool) -> None:
    """For people: attention and layers where they were asked for, else the text with its surprisals."""
    from gptlite.evaluation import inspection

    reading, names = seen.reading, tables.Names(seen.loaded.tokenizer)
    views: list[Callable[[], None]] = []
    if (attended := seen.attended) is not None:
        if one_head:
            views.append(lambda: attention_views.print_map(attended, seen.window, names))
        else:
            found = inspection.habits(attended)
            views.append(lambda: attention_views.print_habits(found, attended, seen.window, names, seen.token))
    if (step := seen.step) is not None:
        views.append(lambda: attention_views.print_explanation(step, seen.window, names, seen.loaded.config))
    if lens:
        views.append(lambda: tables.print_lens(reading, names))
    for i, view in enumerate(views):
        console.write("\n" if i else "")
        view()
    if views:
        return
    if console.is_coloured():
        tables.print_text(reading)
    if level == "token":
        tables.print_tokens(reading, seen.words, names)
    else:
        tables.print_words(seen.words)
    tables.print_summary(reading, seen.words, level)


def _written(seen: Seen, form: str, level: str, raw_cells: bool) -> str:
    """For programs: JSON, or a table with tabs or commas."""
    reading, tokenizer = seen.reading, seen.loaded.tokenizer
    if form != "json":
        rows = tables.token_table(reading, tokenizer) if level == "token" else tables.word_table(seen.words)
        return "".join(delimited.lines(rows, delimited.SEPARATORS[f".{form}"], raw=raw_cells))
    facts = {"model": str(seen.loaded.path), **tables.as_json(reading, seen.words, tokenizer)}
    written = schemas.named("inspect", facts)
    if seen.attended is not None:
        written["attention"] = attention_views.maps_as_json(seen.attended)
    if seen.step is not None:
        written["explain"] = attention_views.explanation_as_json(seen.step, seen.window, tables.Names(tokenizer))
    return console.json_line(written)

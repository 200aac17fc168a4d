"""gptlite inspect: a text as a model reads it, token by token, layer by layer, head by head."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptlite.cli.inspect import attention as attention_views
from gptlite.cli.inspect import page as html_page
from gptlite.cli.inspect import readings
from gptlite.cli.shared import console, options, pages
from gptlite.errors import CorpusError, LimitError, UsageError

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.evaluation.inspection import Attended, Explanation, Reading, Word

LOOK, OUTPUT = "What to look at", "Output"
EXAMPLE = 'give a text, such as: gptlite inspect "She sat on the river bank ."'
LONGEST_FILE = 16 << 20  # bytes
FORMATS = {"table": "", "json": ".json", "tsv": ".tsv", "html": ".html"}
MOST_ALTERNATIVES = 100


def inspect(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="The text; - reads standard input.", show_default="none")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("-f", "--file", metavar="FILE", help="The text, from a file.", show_default="none"),
    ] = None,
    model: options.ModelOption = None,
    level: Annotated[
        str, typer.Option("--level", metavar="NAME", help="A row a token or a word.", rich_help_panel=LOOK)
    ] = "token",
    top: Annotated[
        int,
        typer.Option("-k", "--top", metavar="N", min=0, max=MOST_ALTERNATIVES,
                     help="Alternatives to each token.", rich_help_panel=LOOK),
    ] = 5,
    lens: Annotated[
        bool,
        typer.Option("--lens", help="What each layer expects (logit lens).", show_default="off", rich_help_panel=LOOK),
    ] = False,
    attention: Annotated[
        str | None,
        typer.Option("--attention", metavar="L.H",
                     help="Where head H of layer L looks, as a map; all: where each head looks.",
                     show_default="none", rich_help_panel=LOOK),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="L.H", help="Head H of layer L at one --token, step by step.",
                     show_default="none", rich_help_panel=LOOK),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", metavar="N", help="Which token: its number, or a word; it#2 is the second.",
                     show_default="the last", rich_help_panel=LOOK),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="table, json, tsv or html.", show_default="as -o, else table",
                     rich_help_panel=OUTPUT),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FILE", help="Write to a file: .json, .tsv or .html.",
                     show_default="standard output", rich_help_panel=OUTPUT),
    ] = None,
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
    form = _check_form("json" if json else form, out)
    if level not in ("token", "word"):
        raise UsageError(f"--level must be token or word, not '{level}'.")
    drawn = form == "html" or figures is not None
    if token is not None and attention is None and explain is None and not drawn:
        raise UsageError("--token says where to look; add --explain L.H or --attention.")
    if form == "tsv" and (attention or explain):
        raise UsageError("attention is no table of tokens; write it with --format json or html.")
    content = _read_text(text, file)
    if drawn:
        from gptlite.report import page

        page.check_libraries()

    from gptlite import device as machine
    from gptlite.checkpoint import runs
    from gptlite.evaluation import inspection

    hardware = machine.choose_hardware(device, dtype, threads)
    loaded = runs.load(model, hardware.device)
    config = loaded.config
    of = (config.n_layers, config.n_heads)
    one_step = None if explain is None else inspection.parse_head(explain, *of, "explain")
    one_map = None if attention in (None, "all") else inspection.parse_head(attention, *of, "attention")
    reading = inspection.read(loaded.model, loaded.tokenizer, content, hardware, top=top, lens=lens or drawn)
    chosen = inspection.find_token(reading, token) if token is not None else len(reading.ids)
    window = inspection.window_of(reading, loaded.tokenizer, config.context_length, chosen if token else None)
    seen = Seen(
        loaded,
        reading if lens else dataclasses.replace(reading, lens=None),
        inspection.words_of(reading),
        chosen,
        window[1],
        inspection.attend(loaded.model, window, *(one_map or ())) if attention and form != "html" else None,
        inspection.explain(loaded.model, window, *one_step, chosen) if one_step and form != "html" else None,
    )
    messages.say(f"{loaded.path}", "dim")
    if len(reading.ids) + 1 > config.context_length and (attention or explain):
        messages.notice(
            f"the text has {len(reading.ids):,} tokens and the model sees {config.context_length:,} at once; attention "
            f"is that of tokens {window[0]:,} to {window[0] + len(window[1]) - 1:,}."
        )
    if drawn:
        from gptlite.report import inspection as report

        place = chosen if token else None
        shown = html_page.collect(loaded, reading, seen.words, one_step, place, one_map or (1, 1))
        if figures is not None:
            pages.write_figures(Path(figures), report.figures(shown), messages)
        if form == "html" and out is not None:
            pages.write(Path(out), report.render(shown))
    if form == "table":
        _print(seen, level, lens, one_head=one_map is not None)
    elif out is None:
        console.write(_written(seen, form, level))
    elif form != "html":
        from gptlite.storage import durable

        with durable.replacing(Path(out)) as scratch:
            written = _written(seen, form, level)
            scratch.write_text(written, encoding="utf-8", errors="backslashreplace", newline="\n")
    if out is not None:
        messages.say(f"{console.plural(len(reading.ids), 'token')} in {out}")


@dataclass(frozen=True)
class Seen:
    """What was found out: a reading, its words, the chosen token (from 1), and attention if it was asked for.

    `window`: the ids among which attention was looked at.
    """

    loaded: Checkpoint
    reading: Reading
    words: list[Word]
    token: int
    window: list[int]
    attended: Attended | None
    step: Explanation | None


def _check_form(form: str | None, out: str | None) -> str:
    if form is None:
        suffix = Path(out).suffix.lower() if out else ""
        form = next((name for name, ending in FORMATS.items() if ending == suffix), "table")
    if form not in FORMATS:
        raise UsageError(f"--format must be one of {', '.join(FORMATS)}, not '{form}'.")
    if form == "table" and out is not None:
        raise UsageError("-o writes .json, .tsv or .html, or what --format says; a table is for the terminal.")
    if form == "html" and out is None:
        raise UsageError("a page is a file; name it with -o page.html.")
    return form


def _read_text(argument: str | None, file: str | None) -> str:
    if (argument is None) is (file is None):
        raise UsageError(EXAMPLE if file is None else "give the text once: as an argument, or with -f.")
    if argument is not None and argument != "-":
        text = options.check_text(argument, "the text")
    else:
        name = "-" if file is None else file
        try:
            with options.open_text(name, "the text") as source:
                content = source.read(LONGEST_FILE + 1)
            if len(content) > LONGEST_FILE:
                raise LimitError(f"the text in {name} is longer than {LONGEST_FILE >> 20} MiB; give a part of it.")
            text = content.decode("utf-8-sig")  # a mark at the beginning is no text
        except OSError as error:
            raise CorpusError(f"cannot read the text from {name}: {error.strerror or error}.") from error
        except UnicodeDecodeError as error:
            raise CorpusError(f"the text is not UTF-8: {error.reason} at byte {error.start:,}.") from error
    if not text:
        raise UsageError(f"the text is empty; {EXAMPLE}")
    return text


def _print(seen: Seen, level: str, lens: bool, *, one_head: bool) -> None:
    """For people: attention and layers where they were asked for, else the text with its surprisals."""
    from gptlite.evaluation import inspection

    reading, names = seen.reading, readings.Names(seen.loaded.tokenizer)
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
        views.append(lambda: readings.print_lens(reading, names))
    for i, view in enumerate(views):
        console.write("\n" if i else "")
        view()
    if views:
        return
    if console.is_coloured():
        readings.print_text(reading)
    if level == "token":
        readings.print_tokens(reading, seen.words, names)
    else:
        readings.print_words(seen.words)
    readings.print_summary(reading, seen.words, level)


def _written(seen: Seen, form: str, level: str) -> str:
    """For programs: JSON or TSV."""
    reading, tokenizer = seen.reading, seen.loaded.tokenizer
    if form == "tsv":
        return readings.to_tsv(
            readings.token_table(reading, tokenizer) if level == "token" else readings.word_table(seen.words)
        )
    written = {"model": str(seen.loaded.path), **readings.as_json(reading, seen.words, tokenizer)}
    if seen.attended is not None:
        written["attention"] = attention_views.maps_as_json(seen.attended)
    if seen.step is not None:
        written["explain"] = attention_views.explanation_as_json(seen.step, seen.window, readings.Names(tokenizer))
    return console.json_line(written)

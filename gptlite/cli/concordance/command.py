"""gptlite concordance: all places of a word under each other, in groups by sense if that is asked for.

Without --senses no vectors are needed, and no model is built.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gptlite.cli.concordance import lines
from gptlite.cli.shared import console, corpora, modes, options, sources
from gptlite.cli.shared.models import ModelReader
from gptlite.cli.shared.texts import Finder, Texts
from gptlite.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

NARROWEST = 40  # columns
SENSES, RUN = "--senses", "the text of a run"
MODES = modes.Modes(
    everywhere={"word", "files", "senses", "sort", "limit", "width", "json", "quiet"},
    only={
        "lines of FILE": {"lossy", "encoding"},
        RUN: {"model"},
        SENSES: {"model", "layer", "pool", "correct", "device", "threads"},
    },
)


def concordance(
    call: typer.Context,
    word: Annotated[str, typer.Argument(metavar="WORD", help="The word; in lower case it matches any case.")],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Texts: a line each, or .jsonl, .csv or .tsv with a column text; - "
                       "reads lines.", show_default="what the run was trained on"),
    ] = None,
    senses: Annotated[
        str | None,
        typer.Option("--senses", metavar="K", help="Group the lines by sense, if K senses can be told apart; auto "
                     "finds how many there are, from 1 to 5."),
    ] = None,
    sort: Annotated[
        lines.Sort | None,
        typer.Option("--sort", help="By place in the text, by the words on one side, or by sense.",
                     show_default="text, or sense"),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, help="Lines to show, spread over the text.")
    ] = lines.SHOWN,
    width: Annotated[
        int | None,
        typer.Option("--width", metavar="N", min=NARROWEST, help="Columns.", show_default="the terminal's, or 120"),
    ] = None,
    lossy: options.LossyOption = False,
    encoding: Annotated[str | None, options.input_encoding("Data")] = None,
    model: options.ModelOption = None,
    layer: options.LayerOption = "last",
    pool: options.PoolOption = "last",
    correct: options.CorrectOption = "zscore",
    device: options.DeviceOption = "auto",
    threads: options.ThreadsOption = None,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:  # fmt: skip
    """A word in its lines, under each other, and grouped by sense.

    [bold]gptlite concordance bank corpus.txt --senses 2[/bold]
    """
    MODES.check(call, "lines of FILE" if files else RUN, *[SENSES] * (senses is not None))
    view = lines.View(_number_of_senses(senses), sort, limit, width)
    messages = console.Messages(quiet)
    ends = sources.LineEnds([] if senses is None else [model])
    texts = Texts([], files, lossy, encoding, ends) if files else _text_of_run(model, messages)
    plain = (text if isinstance(text, str) else text.text for text in texts)  # the word is named once, as WORD
    found = Finder(plain, [options.check_text(word, "the word")])
    read = ModelReader(model, device, threads)
    context = "left" if {"layer", "pool", "correct"} & set(modes.given_options(call)) else "auto"
    lines.show(
        found, view, read, layer=layer, pool=pool, correct=correct, context=context, json=json, messages=messages
    )
    ends.say(messages)


def _number_of_senses(text: str | None) -> int | Literal["auto"] | None:
    """What --senses says. Raises `UsageError`."""
    if text is None or text == "auto":
        return text
    if not re.fullmatch(r"-?[0-9]{1,6}", text):
        raise UsageError(f"--senses must be a number from 2 on, or auto, not '{text}'.")
    return int(text)


def _text_of_run(model: str | None, messages: console.Messages) -> Iterator[str]:
    """The lines of the text that a run was trained on."""
    from gptlite.checkpoint import runs

    step = runs.find_model(model)
    with corpora.training_text(step, None, messages, remedy="name the text as FILE") as blocks:
        rest = ""
        for block in blocks:
            *whole, rest = (rest + block).split("\n")
            yield from whole
        if rest:
            yield rest

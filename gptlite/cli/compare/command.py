"""gptlite compare: what the Transformer replaced, on the same text and in the same time."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gptlite.cli import process
from gptlite.cli.compare import pairs_table, table
from gptlite.cli.shared import console, demos, modes, options, outputs, pages, progress, schemas
from gptlite.training.request import parse_time

if TYPE_CHECKING:
    from gptlite.comparison.contenders import Contender

Language = Literal["en", "zh"]
SETTINGS = "Comparison"
NEW = "a new comparison"
MODES = modes.Modes(
    everywhere={
        "files", "time", "contenders", "directory", "out", "explain", "lang", "prompt", "seed", "words", "lossy",
        "encoding", "separator", "as_text", "text_field", "figures", "force", "json", "quiet",
    },
    only={NEW: {"demo", "val", "device", "threads"}, "--resume": {"resume"}},
    needs={
        "words": ("out", "figures", "json"), "explain": "out", "lang": ("out", "figures"), "force": ("out", "figures"),
    },
)  # fmt: skip


def compare(
    call: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILES", help="Text files, folders or patterns.", show_default="those of --resume"),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="On built-in text, or with pairs as FILES on built-in pairs.",
                           show_default=False),
    ] = False,
    time: Annotated[
        float | None,
        typer.Option("--time", parser=parse_time, metavar="TIME", help="Of training for each network, such as 2m.",
                     show_default="2m"),
    ] = None,
    contenders: Annotated[
        str | None,
        typer.Option("--with", metavar="NAMES", help="unigram, 5-gram, rnn, gru, lstm, transformer-2017, gptlite, and "
                     "only if named masked; on pairs lstm-attention, encoder-decoder, gptlite; several with commas.",
                     show_default="all but masked"),
    ] = None,
    directory: Annotated[
        str | None,
        typer.Option("--dir", metavar="DIR", help="Where it is kept.", show_default="comparisons/<name of the text>"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Do what is left of the comparison in DIR, or of the newest one.",
                           show_default=False),
    ] = False,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FILE", help="Write a page for a browser, FILE.html.",
                     show_default="a table only"),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="A paragraph for each picture of the page.", show_default=False)
    ] = False,
    lang: Annotated[
        Language, typer.Option("--lang", help="Of the page.")
    ] = "en",
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", metavar="TEXT", help="What the samples begin with.", rich_help_panel=SETTINGS,
                     show_default="nothing"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", min=0, help="Of weights, batches and samples.", show_default="1",
                     rich_help_panel=SETTINGS),
    ] = None,
    words: Annotated[
        str | None,
        typer.Option("--words", metavar="WORDS", help="Whose neighbours the page follows over the training; several "
                     "with commas.", show_default="frequent ones that stand out", rich_help_panel=SETTINGS),
    ] = None,
    val: Annotated[
        str | None,
        typer.Option("--val", metavar="5%|FILE", help="Held out: a share of the end, or a file.", show_default="5%",
                     rich_help_panel="Data"),
    ] = None,
    lossy: options.LossyOption = False,
    encoding: options.EncodingOption = None,
    separator: options.SeparatorOption = None,
    as_text: options.AsTextOption = False,
    text_field: options.TextFieldOption = None,
    device: options.DeviceOption = "auto",
    threads: options.ThreadsOption = None,
    figures: pages.FiguresOption = None,
    force: outputs.ForceOption = False,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:  # fmt: skip
    """Train n-grams, RNN, GRU, LSTM and Transformers for the same time on FILES, and compare them.

    On pairs of prompts and answers, an LSTM with attention and an encoder-decoder stand beside the decoder.

    [bold]gptlite compare corpus.txt --time 2m -o compare.html --explain[/bold]
    """
    MODES.check(call, "--resume" if resume else NEW)
    demos.check(demo, files or [])
    if prompt is not None:
        prompt = options.check_text(prompt, "--prompt")
    _check_outputs(out, figures, files or [], force=force)
    with Display(quiet) as display, process.stoppable(display.stopping) as should_stop:
        display.phase("starting", 0.0)
        from gptlite.comparison.run import compare as run

        inputs = files or []
        if demo:
            inputs, val = demos.inputs(inputs, val)
        found = run(
            inputs, time=time, contenders=contenders, directory=directory, resume=resume, prompt=prompt, seed=seed,
            words=words, val=val, lossy=lossy, encoding=encoding, separator=separator,
            as_text=as_text or (demo and not files), text_field=text_field, device=device, threads=threads,
            watcher=display.watcher(), should_stop=should_stop,
        )  # fmt: skip
    if out is not None or figures is not None:
        _write_page(found, out, figures, explain=explain, lang=lang, messages=display.messages)
    if json:
        console.write_json(schemas.named("compare", found))
    elif found["on"] == "pairs":
        pairs_table.show(found)
    else:
        table.show(found)
    again = shlex.join(["gptlite", "compare", "--dir", found["directory"], "--resume"])
    display.messages.say(f"kept in {found['directory']}; for a page: {again} -o FILE.html")


def _check_outputs(out: str | None, figures: str | None, files: Sequence[str], *, force: bool) -> None:
    """What can be refused, before anything is trained. Raises `UsageError` and `StorageError`."""
    pages.check_figures(figures, force=force)
    if out is not None:
        outputs.format_of(out, {".html": "html", ".htm": "html"})
        outputs.check(out, force=force, inputs=files, reads_model=False)
    if out is not None or figures is not None:
        from gptlite.report import page

        page.check_libraries()


def _write_page(
    found: Mapping[str, Any], out: str | None, figures: str | None, *, explain: bool, lang: str,
    messages: console.Messages,
) -> None:  # fmt: skip
    from gptlite.report import comparison, pair_comparison

    shown = comparison.Comparison(found, lang, explain)
    report = pair_comparison if found["on"] == "pairs" else comparison
    if out is not None:
        pages.write(Path(out), report.render(shown))
        messages.say(f"the page is {out}: open it in a browser")
    if figures is not None:
        pages.write_figures(Path(figures), report.figures(shown), messages)


class Display:
    """A bar on a terminal; a line for each contender that is finished; nothing when quiet."""

    def __init__(self, quiet: bool) -> None:
        self.messages = console.Messages(quiet)
        self.description, self.fraction = "starting", 0.0
        self.bar = console.LiveLine(self.messages, self.line)

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def line(self, columns: int) -> list[tuple[str, str]]:
        return progress.bar_line(self.description, self.fraction, (), columns)

    def phase(self, name: str, fraction: float) -> None:
        self.description, self.fraction = console.one_line(name), fraction

    def stopping(self) -> None:
        """Called by a signal's handler; the next signal shows nothing any more."""
        self.messages.console.show_cursor(True)
        self.messages.notice("stopping; what is finished is kept. Once more to stop at once.")

    def watcher(self) -> Any:
        """This display as a `CompareWatcher`, whose module loads torch."""
        from gptlite.comparison.run import CompareWatcher

        display = self

        class Watching(CompareWatcher):
            def notice(self, text: str) -> None:
                display.messages.notice(text)

            def phase(self, name: str, fraction: float) -> None:
                display.phase(name, fraction)

            def begun(self, directory: Path, contenders: Sequence[Contender], seconds: float, hardware: str) -> None:
                display.begun(directory, contenders, seconds, hardware)

            def finished(self, contender: Contender, result: Mapping[str, Any]) -> None:
                display.finished(contender, result)

        return Watching()

    def begun(self, directory: Path, contenders: Sequence[Contender], seconds: float, hardware: str) -> None:
        self.messages.say(f"keeping results in {directory}, on {hardware}")
        if contenders:
            titles = console.listing([contender.title for contender in contenders])
            self.messages.say(f"to do: {titles}; about {console.duration(seconds)}")

    def finished(self, contender: Contender, result: Mapping[str, Any]) -> None:
        chosen = ""
        if result["sweep"]:
            rates = ", ".join(f"{trial['learning_rate']:g}" for trial in result["sweep"])
            chosen = f", learning rate {result['learning_rate']:g} (short runs: {rates})"
        if "guessed" in result:  # of the model that reads both sides
            self.messages.say(f"{contender.title}: {result['guessed']:.1%} of hidden tokens are guessed")
            return
        scored = f"{result['bits_per_byte']:.3f} bits per byte"
        if "exact" in result:  # of pairs
            scored = f"{result['exact']['share']:.1%} of answers exact, {scored} of answers"
        self.messages.say(f"{contender.title}: {scored} after {console.duration(result['seconds'])}{chosen}")

"""--check-copies: how much of what a model wrote, or of any text, stands in the training text, and where."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptlite.cli.shared import console, corpora
from gptlite.errors import GptliteError, UsageError

if TYPE_CHECKING:
    from gptlite.evaluation.memorisation import Copies, Report, Run
    from gptlite.text.corpus import Text

LONGEST_PASSAGE = 400  # characters of a copied run that are shown to a person
LARGE = 50_000_000  # bytes of text that take long enough to say so

CheckOption = Annotated[
    bool,
    typer.Option(
        "--check-copies",
        help="Say how much is copied from the training text.",
        show_default=False,
        rich_help_panel="Output",
    ),
]
CorpusOption = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        metavar="FILE",
        help="The training text, if it has moved.",
        show_default=False,
        rich_help_panel="Output",
    ),
]


def open_check(
    wanted: bool, corpus_file: str | None, step: Path, messages: console.Messages, json: bool,
    encoding: str | None = None,
) -> NoCheck:  # fmt: skip
    """The check that was asked for, with the training text open, before anything is written."""
    if not wanted:
        if corpus_file is not None:
            raise UsageError("--corpus goes with --check-copies.")
        return NoCheck()
    if messages.console.quiet and not json:
        raise UsageError("--check-copies answers on standard error, which -q silences; leave one out, or add --json.")
    return CopyCheck(step, corpus_file, messages, encoding)


class NoCheck:
    """Nobody asked."""

    wanted = False

    def show(self, texts: Sequence[str]) -> None:
        """Tell a person, on standard error, what of the texts stands in the training text."""

    def add(self, result: dict[str, Any], texts: Sequence[str]) -> dict[str, Any]:
        """The object of --json, and what was found: in each text, if it has as many "samples", and in all of them."""
        return result


class CopyCheck(NoCheck):
    """Looks for copies of the text that a model was trained on.

    - `corpus_file`: where that text is now; None for where it was. `encoding`: of that file, where it is not known to
      be the text of the run, which says itself how it is read.
    Raises `UsageError` or `CorpusError` when it is not there.
    """

    wanted = True

    def __init__(
        self, step: Path, corpus_file: str | None, messages: console.Messages, encoding: str | None = None
    ) -> None:
        self.messages = messages
        self.train, self.held_out = _open_texts(step, corpus_file, messages, encoding)

    def show(self, texts: Sequence[str]) -> None:
        report = self.check(texts)
        self.messages.say("")
        self.messages.say(verdict(report), "bold")
        head, *rows = table(report)
        self.messages.table(head, rows, right=frozenset(range(1, len(head))))
        for i, copied in enumerate(report.texts):
            for run in copied.runs[: 1 if len(report.texts) > 1 else None]:
                self.messages.say(f"{_name(i, report)}{_describe(run)}", "dim")
                self.messages.say(f'  "{shorten(run.text)}"')

    def add(self, result: dict[str, Any], texts: Sequence[str]) -> dict[str, Any]:
        report = self.check(texts)
        each = [{**_facts(copied), "runs": [_run_facts(run) for run in copied.runs]} for copied in report.texts]
        whole: dict[str, Any] = {
            "verdict": verdict(report),
            "longest_characters": report.longest,
            "shares": {str(n): round(report.share(n), 6) for n in report.lengths},
            "held_out": [{"n_characters": c.characters, **_facts(c)} for c in report.held_out],
        }
        if "samples" not in result:
            return {**result, "copies": {**whole, "runs": [run for found in each for run in found["runs"]]}}
        samples = [{**s, "copies": found} for s, found in zip(result["samples"], each, strict=True)]
        return {**result, "samples": samples, "copies": whole}

    def check(self, texts: Sequence[str]) -> Report:
        """What of the texts stands in the training text."""
        from gptlite.evaluation import memorisation

        if self.train.n_bytes >= LARGE:
            self.messages.say(f"looking for copies in {self.train.n_bytes / 1e6:,.0f} MB of training text", "dim")
        return memorisation.check(texts, self.train, self.held_out)


def _open_texts(
    step: Path, corpus_file: str | None, messages: console.Messages, encoding: str | None
) -> tuple[Text, Text | None]:
    """The text to look in, and text held out from it if that is known."""
    if corpus_file is None:
        texts = corpora.texts_of_run(step, with_background=True)
        return texts.train, texts.val
    from gptlite.checkpoint import runs
    from gptlite.text import corpus
    from gptlite.text.options import TextOptions
    from gptlite.training import dataset

    if corpus_file == "-":
        raise UsageError("--corpus names a file or folder; standard input is not read for it.")
    run = runs.Run(step.parent)
    if run.is_run():
        try:
            texts = dataset.reopen(run.read_info(), [corpus_file])
            return texts.train, texts.val
        except GptliteError:
            pass
    options = TextOptions(encoding=encoding, as_text=True)
    text = corpus.open_text([corpus_file], notice=messages.notice, smallest=1, options=options)
    messages.notice(
        f"{corpus_file} is not known to be what {step} was trained on, so all of it is searched, and none held out."
    )
    return text, None


def verdict(report: Report) -> str:
    """What the figures mean, in a sentence or two."""
    n, one = report.lengths[1], len(report.texts) == 1
    what = "this text" if one else f"these {len(report.texts)} texts"
    if all(copied.characters < n for copied in report.texts):
        return f"{what} {'is' if one else 'are'} too short for runs of {n} characters.".capitalize()
    share, pieces = report.share(n), report.held_out
    if not share:
        return (
            f"Nothing of {what} stands in the training text in runs of {n} characters or more: "
            f"the longest has {report.longest}{_beside(report)}."
        )
    stands = "stands" if one else "stand"
    said = f"{_percent(share)} of {what} {stands} in the training text in runs of {n} characters or more"
    if not pieces:
        return f"{said}."
    others = [copied.shares[n] for copied in pieces]
    said += f"; of text held out from training, {_percent(sum(others) / len(others))} does."
    if share > max(others):
        return f"{said} That is more than in any of {console.plural(len(others), 'piece')} of held-out text."
    return f"{said} That is no more than held-out text has: up to {_percent(max(others))}."


def _beside(report: Report) -> str:
    """The longest runs of the pieces of held-out text, and how long the pieces are: longer texts have longer runs."""
    if not (pieces := report.held_out):
        return ""
    low, high = min(copied.longest for copied in pieces), max(copied.longest for copied in pieces)
    size = f"{max(copied.characters for copied in pieces):,} characters"
    if len(pieces) == 1:
        return f", and that of {size} of held-out text {high}"
    longest = f"{high}" if low == high else f"{low} to {high}"
    return f", and those of {len(pieces)} pieces of held-out text of {size} have {longest}"


def table(report: Report) -> list[list[str]]:
    """The figures of each text under a head, and under them those of held-out text: mean, lowest and highest."""
    rows = [["", "longest run", *(f"in runs of {n}+" for n in report.lengths)]]
    rows += [[_name(i, report).rstrip(": ") or "this text", *_figures(c)] for i, c in enumerate(report.texts)]
    if pieces := report.held_out:
        longest = [c.longest for c in pieces]
        shares = [[c.shares[n] for c in pieces] for n in report.lengths]
        rows += [
            ["held-out text, mean", f"{sum(longest) / len(pieces):.0f}", *(_percent(sum(s) / len(s)) for s in shares)],
            ["  lowest", f"{min(longest):,}", *(_percent(min(s)) for s in shares)],
            ["  highest", f"{max(longest):,}", *(_percent(max(s)) for s in shares)],
        ]
    return rows


def _figures(copied: Copies) -> list[str]:
    return [f"{copied.longest:,}", *(_percent(share) for share in copied.shares.values())]


def _name(i: int, report: Report) -> str:
    return f"sample {i + 1}: " if len(report.texts) > 1 else ""


def _describe(run: Run) -> str:
    source = run.source
    words = len(run.text.split())
    size = console.plural(run.end - run.start, "character") + (f", {words:,} words" if words > 1 else "")
    times = "" if source.count == 1 else f", the first of {source.count:,} places"
    return f"{size}, from {source.file}, line {source.line:,}, column {source.column:,}{times}"


def shorten(text: str) -> str:
    """A passage as long as a person reads it."""
    half = LONGEST_PASSAGE // 2
    return text if len(text) <= LONGEST_PASSAGE else f"{text[:half]} [...] {text[-half:]}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share in (0, 1) or share >= 0.095 else f"{100 * share:.1f} %"


def _facts(copied: Copies) -> dict[str, Any]:
    return {
        "longest_characters": copied.longest,
        "shares": {str(n): round(share, 6) for n, share in copied.shares.items()},
    }


def _run_facts(run: Run) -> dict[str, Any]:
    source = run.source
    return {
        "start": run.start, "end": run.end, "text": run.text, "file": str(source.file), "line": source.line,
        "column": source.column, "n_places": source.count,
    }  # fmt: skip

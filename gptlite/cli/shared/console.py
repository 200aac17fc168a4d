"""Everything a person sees: the only file that knows rich, and the one gate through which text reaches a terminal.

Results go to standard output, all else to standard error. Text that comes from data never carries control characters
to a terminal, and is never read as markup; into a file or a pipe it goes as it is.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TextIO, cast

from rich.cells import cell_len, set_cell_size
from rich.console import COLOR_SYSTEMS, Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from gptlite.cli.shared.flags import translate
from gptlite.errors import StorageError

# C0 but tab and line feed, DEL, C1; line and paragraph separators, what turns the direction of writing; and what stands
# for bytes of a file name or an argument that are no UTF-8.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
PLAIN_INTERVAL = 15.0  # seconds between progress lines where there is no terminal
PLAIN_COLUMNS = 120  # of a table where there is no terminal
WIDEST_WORD = 30  # columns, in the middle of a concordance
# Five steps that differ in how much ink they are, so that they rise in this order on dark and on light ground and for
# eyes that tell few colours apart: nothing, a colour, a line below it, a pale block, a strong one.
STEPS = ("", "color(136)", "underline color(166)", "color(16) on color(222)", "color(16) on color(208)")


def visible(text: str) -> str:
    """Control characters as \\x1b, so that they cannot steer a terminal; line breaks and tabs stay."""
    return CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """The same, and line breaks too: a name with a line break in it cannot pass for two messages."""
    return visible(text).replace("\n", r"\n").replace("\t", r"\t")


def write(text: str) -> None:
    """Text to standard output: as it is, or visible on a terminal. Raises `StorageError`, or `BrokenPipeError`."""
    with _standard_output() as stream:
        stream.write(visible(text) if stream.isatty() else text)
        stream.flush()


def write_json(value: Any) -> None:
    """One line, the same on a terminal and in a pipe."""
    write(json_line(value))


def json_line(value: Any) -> str:
    """One line of JSON; control characters are escaped as JSON does it, so a terminal can show it as it is."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return CONTROL.sub(lambda m: f"\\u{ord(m[0]):04x}", text) + "\n"


def is_terminal() -> bool:
    """Does standard output lead to a terminal?"""
    return sys.stdout is not None and not sys.stdout.closed and sys.stdout.isatty()


class Tint:
    """Text on a terminal in the steps of `STEPS`: without its styles it is what `write` shows.

    `is_wanted` is false where there is no terminal, or one without colours: there `write` is the one to use.
    """

    def __init__(self) -> None:
        system = _console(sys.stdout).color_system if is_terminal() else None
        self.is_wanted = system not in (None, "windows")
        self.system = COLOR_SYSTEMS[system] if system and self.is_wanted else None
        self.styles = [Style.parse(step) for step in STEPS]

    def write(self, parts: Iterable[tuple[str, int]]) -> None:
        """Parts of a text, each with its step."""
        with _standard_output() as stream:
            stream.write("".join(self._dress(visible(text), step) for text, step in parts))
            stream.flush()

    def _dress(self, text: str, step: int) -> str:
        # Without line breaks and tabs: a ground behind them would be drawn to the edge of the terminal.
        return re.sub(r"[^\n\t]+", lambda m: self.styles[step].render(m[0], color_system=self.system), text)


@contextlib.contextmanager
def _standard_output() -> Iterator[TextIO]:
    """Standard output. Raises `StorageError` when it is closed or cannot be written."""
    if sys.stdout is None:
        raise StorageError("there is no standard output to write to: it is closed.")
    try:
        yield sys.stdout
    except BrokenPipeError:
        raise
    except OSError as error:
        with contextlib.suppress(OSError):  # what was not written must not be tried again when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise StorageError(f"cannot write to standard output: {error.strerror or error}.") from error


class _StandardError(io.TextIOBase):
    """Standard error for rich: where it is closed or cannot be written, messages are lost, and nothing else."""

    def __init__(self) -> None:
        self.stream = getattr(sys.stderr, "rich_proxied_file", sys.stderr)

    def write(self, text: str) -> int:
        if self.stream is not None and not self.stream.closed:
            with contextlib.suppress(OSError):
                self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        if self.stream is not None and not self.stream.closed:
            with contextlib.suppress(OSError):
                self.stream.flush()

    def isatty(self) -> bool:
        return self.stream is not None and not self.stream.closed and self.stream.isatty()


def _console(stream: IO[str], **more: Any) -> Console:
    """A console that never takes a pipe or a file for a terminal, and writes nothing but text with NO_COLOR."""
    plain: Any = {"color_system": None} if os.environ.get("NO_COLOR") else {}
    return Console(file=stream, force_terminal=None if stream.isatty() else False, highlight=False, **plain, **more)


def write_json_if_read(value: Any) -> None:
    """As `write_json`, for a result that is on disk too: nobody has to be listening any more."""
    if sys.stdout is None:
        return
    try:
        write_json(value)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Messages:
    """What is said on standard error, a line each; nothing when quiet. Parameters in `backquotes` become flags."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = _console(cast(IO[str], _StandardError()), quiet=quiet, soft_wrap=True)

    def say(self, text: str, style: str = "") -> None:
        self.console.print(Text(one_line(translate(text)), style=style))

    def notice(self, text: str) -> None:
        self.say(f"note: {text}", "yellow")

    def ask(self, prompt: str) -> None:
        """What stands before the place to type."""
        self.console.print(Text(one_line(prompt)), end="")

    def key(self, title: str, names: Sequence[str]) -> None:
        """What the steps of `Tint` stand for."""
        steps = (piece for name, step in zip(names, STEPS, strict=True) for piece in ("  ", (f" {name} ", step)))
        self.console.print(Text.assemble((title, "dim"), *steps))

    def show(self, text: str) -> None:
        """A text of several lines, such as a sample."""
        self.console.print(Text(visible(text)))


def seldom(tell: Callable[[int], None]) -> Callable[[int], None]:
    """`tell`, but not more often than every 15 seconds."""
    last = time.monotonic()

    def tell_now_and_then(n: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_INTERVAL:
            last = time.monotonic()
            tell(n)

    return tell_now_and_then


def error(text: str) -> None:
    """The one form that every error has."""
    Messages().console.print(Text.assemble(("gptlite: error: ", "bold red"), one_line(translate(text))[:2000]))


def duration(seconds: float) -> str:
    """75 as 1:15, 3700 as 1:01:40."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plural(number: int, noun: str) -> str:
    """ "1 step", "2,000 steps"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listing(parts: Sequence[str]) -> str:
    """ "one, two and three"."""
    return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else "".join(parts)


def count(number: float) -> str:
    """1234567 as 1.2M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            return f"{number / limit if unit != 'k' else number / 1e3:.1f}{unit}"
    return f"{number:.0f}"


class TrainingDisplay:
    """A progress bar on a terminal, a plain line now and then elsewhere, nothing when quiet.

    It has the methods of `gptlite.training.loop.Watcher`, which it does not import: that would load torch.
    """

    def __init__(self, quiet: bool) -> None:
        from rich.progress import BarColumn, Progress, TextColumn  # which no other command has a use for

        self.messages = Messages(quiet)
        self.live = self.messages.console.is_terminal and not quiet
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[facts]}", markup=False),
            console=self.messages.console,
            transient=True,
            disable=not self.live,
        )
        self.task = self.bar.add_task("starting", total=1.0, facts="")
        self.last_line = 0.0

    def __enter__(self) -> TrainingDisplay:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def notice(self, text: str) -> None:
        self.messages.notice(text)

    def phase(self, name: str, fraction: float) -> None:
        self.bar.update(self.task, description=one_line(name), completed=fraction, facts="")

    def planned(self, plan: Any, run: Path, hardware: Any) -> None:
        model, train = plan.model, plan.train
        budget = (
            f"{duration(train.seconds)} min" if train.seconds
            else plural(train.steps, "step") if train.steps
            else f"{train.epochs:g} epochs"
        )  # fmt: skip
        self.messages.say(
            f"{model.architecture}: {count(model.n_params)} parameters ({model.n_layers} layers, dim {model.dim}, "
            f"{model.n_heads} heads), vocabulary {model.vocab_size:,}, context {model.context_length}"
        )
        self.messages.say(f"{budget} with batches of {train.batch_size}, on {hardware.describe()}")
        for reason in plan.reasons:
            self.messages.say(f"chosen: {reason.sentence()}")
        self.messages.say(f"writing to {run}")

    def stepped(self, p: Any) -> None:
        bits = f" · {p.val_bits_per_byte:.3f} bits/byte" if p.val_bits_per_byte is not None else ""
        facts = (
            f"step {p.step:,} · loss {p.train_loss:.3f}{bits} · {count(p.tokens_per_second)} tokens/s"
            f" · {duration(p.remaining)} left"
        )
        self.bar.update(self.task, description="training", completed=p.fraction, facts=facts)
        now = time.monotonic()
        if not self.live and now - self.last_line >= PLAIN_INTERVAL:
            self.last_line = now
            self.messages.say(f"{100 * p.fraction:3.0f}% {facts}")

    def stopping(self) -> None:
        """Called by a signal's handler; the next signal shows nothing any more."""
        self.messages.console.show_cursor(True)
        self.notice("finishing this step, then saving; once more to stop at once.")

    def evaluated(self, step: int, result: Any) -> None:
        pass  # the score stands in the bar

    def sampled(self, step: int, text: str) -> None:
        self.messages.say(f"-- sample at step {step:,} --", "bold")
        self.messages.show(text)

    def saved(self, step: int, path: Path) -> None:
        pass  # said once, at the end


Cell = str | Sequence[tuple[str, str]]  # text, or pieces of text with a style each


def print_table(columns: list[str], rows: Sequence[Sequence[Cell]], right: frozenset[int] = frozenset()) -> None:
    """A table on standard output; cells are text, never markup."""
    table = Table(box=None)
    for i, column in enumerate(columns):
        title = Text(one_line(column), style="dim")
        table.add_column(title, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row))
    with _standard_output() as stream:
        _console(stream, width=None if stream.isatty() else PLAIN_COLUMNS).print(table)
        stream.flush()


def _cell(cell: Cell) -> Text:
    pieces = [(cell, "")] if isinstance(cell, str) else cell
    return Text.assemble(*((one_line(text), style) for text, style in pieces))


def print_lines(lines: Iterable[Sequence[tuple[str, str]]], *, wrap: bool = False) -> None:
    """Lines of pieces of text on standard output, each piece with a style that only a terminal shows.

    - `wrap`: break long lines between words.
    """
    with _standard_output() as stream:
        console = _console(stream, soft_wrap=not wrap, width=None if stream.isatty() else PLAIN_COLUMNS)
        for line in lines:
            console.print(Text.assemble(*((one_line(text), style) for text, style in line)))
        stream.flush()


def is_coloured() -> bool:
    """Does standard output lead to a terminal that shows colours?"""
    with _standard_output() as stream:
        return stream.isatty() and _console(stream).color_system is not None


def width() -> int:
    """Columns of standard output: of the terminal, else 120."""
    with _standard_output() as stream:
        return _console(stream, width=None if stream.isatty() else PLAIN_COLUMNS).width


def print_concordance(lines: Sequence[tuple[str, str, str, str]], columns: int | None = None) -> None:
    """Lines of (label, text before, word, text after) on standard output, the words under each other.

    - `columns` of a line: those of the terminal, or 120, where none are given. Wide characters take two.
    """
    with _standard_output() as stream:
        console = _console(stream)
        columns = columns or (console.width if stream.isatty() else PLAIN_COLUMNS)
        label_width = max((cell_len(one_line(label)) for label, *_ in lines), default=0)
        side = max(0, (columns - label_width - 2 - min(WIDEST_WORD, _widest(word for _, _, word, _ in lines))) // 2)
        for label, left, word, right in lines:
            word = _cut(one_line(word), WIDEST_WORD)
            room = columns - label_width - 2 - side - cell_len(word)
            line = Text.assemble(
                (one_line(label).rjust(label_width), "dim"), "  ", _cut_left(one_line(left), side), (word, "bold"),
                _cut(one_line(right), room).rstrip(),
            )  # fmt: skip
            console.print(line, soft_wrap=True)
        stream.flush()


def _widest(texts: Iterator[str]) -> int:
    return max((cell_len(one_line(text)) for text in texts), default=0)


def _cut(text: str, columns: int) -> str:
    """The beginning of a text, in at most so many columns."""
    if cell_len(text) <= columns:
        return text
    return set_cell_size(text[: 4 * columns], columns - 1).rstrip() + "…" if columns > 0 else ""


def _cut_left(text: str, columns: int) -> str:
    """The end of a text, in exactly so many columns."""
    kept = text[-4 * columns :] if columns else ""  # a character may be four code points, or more that are cut off here
    if len(kept) < len(text) or cell_len(kept) > columns:
        while kept and cell_len(kept) >= columns:
            kept = kept[1:]
        while kept and unicodedata.category(kept[0]).startswith("M"):  # a mark without its letter
            kept = kept[1:]
        kept = f"…{kept}" if columns else ""
    return " " * (columns - cell_len(kept)) + kept

"""Everything that is printed: the only file that knows rich, and the one gate through which text reaches a terminal.

Results go to standard output, all else to standard error. Text that comes from data never carries control characters
to a terminal, and is never read as markup; into a file or a pipe it goes as it is.

A terminal gets lines that fit: they are broken between words, and cells of tables that are too long end in an ellipsis.
Pipes and files get whole lines.
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
from typing import IO, Any, TextIO, cast

from rich.cells import cell_len, set_cell_size
from rich.console import COLOR_SYSTEMS, Console, ConsoleOptions
from rich.measure import Measurement
from rich.style import Style
from rich.table import Table
from rich.text import Text

from gptlite.cli.shared.flags import translate
from gptlite.cli.shared.numbers import count as count
from gptlite.cli.shared.numbers import duration as duration
from gptlite.cli.shared.numbers import listing as listing
from gptlite.cli.shared.numbers import passes as passes
from gptlite.cli.shared.numbers import plural as plural
from gptlite.errors import StorageError, system_reason

# C0 but tab and line feed, DEL, C1; line and paragraph separators, what turns the direction of writing; and what stands
# for bytes of a file name or an argument that are no UTF-8.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
PLAIN_INTERVAL = 15.0  # seconds between progress lines where there is no terminal
PLAIN_COLUMNS = 120  # of text where there is no terminal
PIPE_COLUMNS = 100_000  # of a table there: its lines are never broken
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


def write_styled(pieces: Iterable[tuple[str, str]]) -> None:
    """Pieces of text to standard output, each with a style that only a terminal with colours shows; no line break."""
    with _standard_output() as stream:
        if not stream.isatty():
            stream.write("".join(text for text, _ in pieces))
        else:
            line = Text.assemble(*((visible(text), style) for text, style in pieces))
            _console(stream, soft_wrap=True).print(line, end="")
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
        raise StorageError(f"cannot write to standard output: {system_reason(error)}.") from error


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
    """What is said on standard error, a line each; nothing when quiet.

    Parameters in `backquotes` become flags. On a terminal a long line is broken between words, and what follows is
    indented, so that it is no line of its own.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = _console(cast(IO[str], _StandardError()), quiet=quiet, soft_wrap=True)

    def say(self, text: str, style: str = "") -> None:
        self._print(Text(one_line(translate(text)), style=style), least=2)

    def notice(self, text: str) -> None:
        self.say(f"note: {text}", "yellow")

    def ask(self, prompt: str) -> None:
        """What stands before the place to type."""
        self.console.print(Text(one_line(prompt)), end="")

    def key(self, title: str, names: Sequence[str]) -> None:
        """What the steps of `Tint` stand for."""
        steps = (piece for name, step in zip(names, STEPS, strict=True) for piece in ("  ", (f" {name} ", step)))
        self._print(Text.assemble((title, "dim"), *steps), least=2)

    def show(self, text: str) -> None:
        """A text of several lines, such as a sample."""
        for line in visible(text).split("\n"):
            self._print(Text(line))

    def table(self, columns: list[str], rows: Sequence[Sequence[Cell]], right: frozenset[int] = frozenset()) -> None:
        """As `print_table`, but on standard error."""
        if not self.console.quiet:
            self.console.file.write(_draw_table(columns, rows, right, self.console))

    def error(self, text: str) -> None:
        self._print(Text.assemble(("gptlite: error: ", "bold red"), one_line(translate(text))[:2000]), least=2)

    def _print(self, line: Text, least: int = 0) -> None:
        self.console.print(Text("\n").join(_fitted(line, self.console, least)))


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
    Messages().error(text)


# -- Lines that fit

# Between these a line may be broken: words with the spaces after them; and of scripts without spaces, whose characters
# take two columns, each with what stands beside it; closing punctuation and % stay with what is before them.
_WIDE = (
    r"\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff01-\uff60\uffe0-\uffe6"
    r"\U00020000-\U0003fffd"
)
_CLOSING = "、。〉》」』】〕〗！），．：；？］｝"
_NARROW = f"[^\\s{_WIDE}]"
_PIECE = re.compile(f"(?:{_NARROW}*[{_WIDE}]{_NARROW}*|{_NARROW}+)(?:[{_CLOSING}]{_NARROW}*)*(?: %)?\\s*|^\\s+")
_LABEL = re.compile(r" *(?:\S+(?: \S+)* {2,}(?=\S))?")  # of a list: what stands before a gap
_WIDEST_LABEL = 24  # columns


def wrap(text: str, columns: int, hanging: int = 0) -> list[tuple[int, int, int]]:
    """Where to break one line: (start, end, columns of indentation) of each part; `hanging`: of all but the first.

    A word that is longer than a line stays whole.
    """
    parts: list[tuple[int, int, int]] = []
    start = end = used = 0
    for piece in _PIECE.finditer(text):
        content = len(piece[0].rstrip())
        if text[start:end].strip() and used + cell_len(piece[0][:content]) > columns:
            parts.append((start, end, hanging if parts else 0))
            start, used = piece.start(), hanging
        end = piece.start() + content
        used += cell_len(piece[0])
    return [*parts, (start, end, hanging if parts else 0)]


def hanging(text: str, columns: int) -> int:
    """Columns of what stands before the gap in a line of a list, "name  what it is", or of spaces before a text."""
    label = _LABEL.match(text)
    return n if label and (n := cell_len(label[0])) <= min(_WIDEST_LABEL, columns // 2) else 0


def _fitted(line: Text, console: Console, least: int = 0) -> Iterator[Text]:
    """The line, on a terminal in parts that fit."""
    if not console.is_terminal or line.cell_len <= console.width:
        yield line
        return
    text, columns = line.plain, console.width
    for start, end, indent in wrap(text, columns, max(least, hanging(text, columns))):
        yield Text(" " * indent) + line[start:end]


class LiveLine:
    """The last line of a terminal, drawn again as it changes; nothing where there is no terminal.

    - `render(columns)`: the pieces of the line, each with its style, in at most `columns` columns.
    """

    def __init__(self, messages: Messages, render: Callable[[int], Sequence[tuple[str, str]]]) -> None:
        from rich.live import Live  # which no command but train has a use for

        screen = messages.console
        self.is_shown = screen.is_terminal and not screen.quiet
        self.live = Live(
            console=screen,
            get_renderable=lambda: Text.assemble(*render(screen.width), no_wrap=True, overflow="ellipsis"),
            refresh_per_second=10,
            transient=True,
        )

    def start(self) -> None:
        if self.is_shown:
            self.live.start()

    def stop(self) -> None:
        if self.is_shown:
            self.live.stop()


Cell = str | Sequence[tuple[str, str]]  # text, or pieces of text with a style each


def print_table(columns: list[str], rows: Sequence[Sequence[Cell]], right: frozenset[int] = frozenset()) -> None:
    """A table on standard output; cells are text, never markup.

    On a terminal it fits: cells are broken between words, and what is too long for a column ends in an ellipsis.
    - `right`: the columns of numbers, which stand at the right and are the last to be cut.
    """
    with _standard_output() as stream:
        stream.write(_draw_table(columns, rows, right, _console(stream)))
        stream.flush()


def _draw_table(columns: list[str], rows: Sequence[Sequence[Cell]], right: frozenset[int], console: Console) -> str:
    """The lines of a table for a terminal; elsewhere they have no styles, no limit and no spaces at their ends."""
    table = Table(box=None)
    for i, column in enumerate(columns):
        justify = "right" if i in right else "left"
        title = _Cell([(column, "dim")], breaks=True)
        table.add_column(title, justify=justify, overflow="ellipsis", no_wrap=i in right)
    for row in rows:
        table.add_row(*(_Cell(cell, breaks=i not in right) for i, cell in enumerate(row)))
    if not console.is_terminal:
        console = _console(io.StringIO(), width=PIPE_COLUMNS)
    with console.capture() as drawn:
        console.print(table)
    return re.sub(" +$", "", drawn.get(), flags=re.MULTILINE)


class _Cell:
    """A cell for rich, broken as all text is: between words and between wide characters."""

    def __init__(self, cell: Cell, breaks: bool) -> None:
        pieces = [(cell, "")] if isinstance(cell, str) else cell
        self.text = Text.assemble(*((one_line(text), style) for text, style in pieces))
        self.breaks = breaks

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        widest = self.text.cell_len
        longest = max((cell_len(piece.rstrip()) for piece in _PIECE.findall(self.text.plain)), default=0)
        return Measurement(longest if self.breaks else widest, widest).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        if not self.breaks or self.text.cell_len <= options.max_width:
            yield self.text
            return
        for start, end, _ in wrap(self.text.plain, options.max_width):
            yield from self._part(self.text[start:end], options.max_width)

    def _part(self, part: Text, columns: int) -> Iterator[Text]:
        """A path that is longer than a column is broken after its slashes."""
        while part.cell_len > columns and (at := part.plain.rfind("/", 0, columns) + 1):
            yield part[:at]
            part = part[at:]
        yield part


def print_lines(lines: Iterable[Sequence[tuple[str, str]]], *, wrap: bool = False) -> None:
    """Lines of pieces of text on standard output, each piece with a style that only a terminal shows.

    - `wrap`: break long lines between words even where there is no terminal.
    """
    with _standard_output() as stream:
        console = _console(stream, soft_wrap=True, width=None if stream.isatty() else PLAIN_COLUMNS)
        for line in lines:
            text = Text.assemble(*((one_line(text), style) for text, style in line))
            if wrap and not stream.isatty():
                console.print(text, soft_wrap=False)
                continue
            for part in _fitted(text, console):
                console.print(part)
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
            word = cut(one_line(word), WIDEST_WORD)
            room = columns - label_width - 2 - side - cell_len(word)
            line = Text.assemble(
                (one_line(label).rjust(label_width), "dim"), "  ", _cut_left(one_line(left), side), (word, "bold"),
                cut(one_line(right), room).rstrip(),
            )  # fmt: skip
            console.print(line, soft_wrap=True)
        stream.flush()


def _widest(texts: Iterator[str]) -> int:
    return max((cell_len(one_line(text)) for text in texts), default=0)


def columns_of(text: str) -> int:
    """Columns that a text takes on a terminal: wide characters take two."""
    return cell_len(text)


def cut(text: str, columns: int) -> str:
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

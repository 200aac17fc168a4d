"""gptlite generate -i: a person and a model write one text by turns."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gptlite.cli.generate import samples
from gptlite.cli.shared import console, options, outputs
from gptlite.config import SamplingConfig
from gptlite.errors import CorpusError, LimitError, StorageError, UsageError
from gptlite.generation.stopping import Stopping
from gptlite.text.words import UNSPACED

if TYPE_CHECKING:
    from gptlite.generation.generate import Generation

PROMPT, MORE = "> ", ". "
BLOCK = '"""'
LONGEST_LINE = 64 << 20  # bytes
TAIL = 200  # characters of the text that are shown again
SHOWN = 40  # of them before a turn
HELP = rf"""Write on, and the model goes on from there. An empty line lets it write more.
What you write is a new word: a space is put before it where one is needed. The line below shows the text as the model
reads it, with your part in bold. A line that ends in \ has another one below it; so have all lines between {BLOCK} and
{BLOCK}.

  /join TEXT      add TEXT without a space before it, to end a word or to begin a line
  /retry          the model's last part once more, with the next seed
  /undo           take back the last turn, yours and the model's
  /text           show the whole text
  /save FILE      write it into a file
  /temperature F  for the turns to come; /temperature shows it
  /max N          tokens of the model's part; /max shows it
  /stop-at UNIT   where its part ends: sentence, paragraph, line or document
  /seed N         of the next turn; /seed shows it. Each turn takes the next number.
  /help, /quit    Ctrl-D leaves too; Ctrl-C ends the model's part, and what is there stays

For a line that begins with / type it twice."""

ReadLine = Callable[[str], "str | None"]
Compose = Callable[[Any, SamplingConfig, int, str], "Generation"]
CLOSING = ".,;:!?)]}'’”…%"  # that stand at the end of a word before them
Number = TypeVar("Number", int, float)


@dataclass
class Turn:
    """What a person wrote, and how the model went on."""

    given: str
    written: str = ""


class Session:
    """A text and its turns; `take` is one turn or one command, `run` all until the end.

    - `compose` begins to continue a text: compose(text, config, seed, stop_at).
    - `patient`: for a person, whose mistakes are told and whose Ctrl-C ends a part only; in a script both are the end.
    - `repeats`: standard output gets the whole text, unless a terminal shows what was typed anyway.
    - `out`: a file that holds the text after each turn.
    """

    def __init__(
        self, compose: Compose, config: SamplingConfig, seed: int, writer: samples.Writer, *, patient: bool,
        stop_at: str = "document",
    ) -> None:  # fmt: skip
        self.compose, self.config, self.seed, self.stop_at = compose, config, seed, stop_at
        self.writer, self.messages, self.out = writer, writer.messages, writer.form.out
        self.repeats = writer.form.echo and not (patient and console.is_terminal())
        self.patient = patient
        self.turns: list[Turn] = []
        self.saved: set[Path] = set()

    @property
    def text(self) -> str:
        return "".join(turn.given + turn.written for turn in self.turns)

    def run(self, read_line: ReadLine, prompt: str = "") -> None:
        """Begin with `prompt`, then turns and commands until there are no more lines, or /quit."""
        if self.patient:
            self.messages.say("/help lists the commands", "dim")
        if prompt:
            self._begin(prompt)
        while True:
            try:
                line = read_turn(read_line)
                if line is None or not self.take(line):
                    break
            except KeyboardInterrupt:
                if not self.patient:
                    raise
                if not self.repeats:
                    console.write("\n")
            except (UsageError, StorageError) as error:
                if not self.patient:
                    raise
                console.error(str(error))
        if self.repeats and self.text and not self.text.endswith("\n"):
            console.write("\n")

    def take(self, line: str) -> bool:
        """What was typed: a command, or text that the model continues. Is there to be more?"""
        if line.startswith("/") and not line.startswith("//"):
            return self._obey(*line[1:].strip().partition(" ")[::2])
        line = line.removeprefix("/")
        self.go_on(joint(self.text, line) + line)
        return True

    def go_on(self, given: str) -> None:
        """Join `given` to the text, and let the model continue it."""
        self.turns.append(Turn(given))
        if self.repeats:
            console.write(given)
        self._write()

    def _begin(self, prompt: str) -> None:
        self.go_on(prompt)

    def _show_beginning(self) -> None:
        """On a terminal, the line on which the model goes on: the end of the text, and in bold what was just given."""
        if self.repeats or not self.writer.form.echo:
            return
        given = self.turns[-1].given
        before = self.text.removesuffix(self.turns[-1].written)
        before = before[: len(before) - len(given)]
        line = before.rpartition("\n")[2]
        shown = f"…{line[-SHOWN:]}" if len(line) > SHOWN else line
        console.write_styled([(shown, "dim"), (given, "bold")])

    def _write(self) -> None:
        """The model's part of the last turn."""
        work = self._compose()
        self.seed += 1
        turn = self.turns[-1]
        self._show_beginning()
        try:
            for text in self.writer.show(work):
                turn.written += text
        except KeyboardInterrupt:
            if not self.patient:
                console.write("\n")
                raise
        finally:
            self._save()
        if not self.repeats and not turn.written.endswith("\n"):
            console.write("\n")
        if not turn.written:
            self.messages.say("the model ends the text here; write on, or let it /retry", "dim")
        if self.writer.form.logprobs is not None:
            self.writer.print_table(work.samples[0])

    def _compose(self) -> Generation:
        return self.compose(self.text, self.config, self.seed, self.stop_at)

    def _save(self) -> None:
        if self.out is not None:
            samples.write_file(self.out, self.text)

    # -- Commands

    def _obey(self, name: str, argument: str) -> bool:
        commands = {
            "retry": self.retry, "undo": self.undo, "text": self.show, "save": self.save,
            "temperature": self.set_temperature, "seed": self.set_seed, "help": self.help, "join": self.join,
            "max": self.set_max, "stop-at": self.set_stop_at,
        }  # fmt: skip
        argument = argument if name == "join" else argument.strip()
        if name in ("quit", "exit"):
            return False
        if name not in commands:
            raise UsageError(f"there is no command /{name[:30]}; /help lists them.")
        if argument and name not in ("save", "temperature", "seed", "join", "max", "stop-at"):
            raise UsageError(f"/{name} stands alone; for a text that begins with / type it twice.")
        commands[name](argument)
        return True

    def retry(self, _: str = "") -> None:
        """The model's last part anew."""
        if not self.turns:
            raise UsageError("there is no turn to retry yet.")
        self.turns[-1].written = ""
        self._write()

    def undo(self, _: str = "") -> None:
        """The text without the last turn, and how it ends now."""
        if not self.turns:
            raise UsageError("there is no turn to take back.")
        self.turns.pop()
        self._save()
        text = self.text
        self.messages.show(f"…{text[-TAIL:]}" if len(text) > TAIL else text or "(the text is empty)")

    def show(self, _: str = "") -> None:
        console.write(f"{self.text}\n")

    def save(self, name: str) -> None:
        if not name or "\0" in name:
            raise UsageError("/save needs the name of a file.")
        path = Path(name).expanduser()
        outputs.check_place(path)
        if path.exists() and path not in self.saved:
            raise UsageError(f"the file {path} exists; choose another name.")
        samples.write_file(path, self.text)
        self.saved.add(path)
        self.messages.say(f"saved as {path}", "dim")

    def set_temperature(self, number: str) -> None:
        if number:
            self.config = replace(self.config, temperature=_parse(float, number, "/temperature"))
        self.messages.say(f"temperature {self.config.temperature:g}", "dim")

    def join(self, given: str) -> None:
        """Go on from a text that is added as it stands."""
        if not given:
            raise UsageError("/join needs the text to add.")
        self.go_on(given)

    def set_max(self, number: str) -> None:
        if number:
            self.config = replace(self.config, max_new_tokens=_parse(int, number, "/max"))
        self.messages.say(f"the model's part has at most {console.plural(self.config.max_new_tokens, 'token')}", "dim")

    def set_stop_at(self, unit: str) -> None:
        if unit:
            Stopping([], unit)
            self.stop_at = unit
        self.messages.say(f"the model's part ends with a {self.stop_at}", "dim")

    def set_seed(self, number: str) -> None:
        if number:
            self.seed = _parse(int, number, "/seed")
        self.messages.say(f"the next turn has seed {self.seed}", "dim")

    def help(self, _: str = "") -> None:
        self.messages.show(HELP)


def joint(text: str, given: str) -> str:
    """The space between a text and what a person adds to it, where they would run together otherwise."""
    if not text or not given or text[-1].isspace() or given[0].isspace() or given[0] in CLOSING:
        return ""
    return "" if UNSPACED.match(text[-1]) or UNSPACED.match(given[0]) else " "


def check(form: samples.Form, config: SamplingConfig, prompt_is_read: bool) -> None:
    """Raises `UsageError` for what does not go with writing by turns."""
    if sys.stdin is None:
        raise UsageError("-i reads turns from standard input, which is closed.")
    if prompt_is_read:
        raise UsageError("- reads the prompt from standard input, where -i reads the turns; give it with -p or -f.")
    if form.json or (form.out is not None and form.out.suffix.lower() in (".json", ".jsonl")):
        raise UsageError("-i writes one text: give -o a name that ends in .txt or .md.")


def read_turn(read_line: ReadLine) -> str | None:
    r"""What a person types as one turn: a line, lines that end in \, or a block between \"\"\"; None at the end.

    A block is text whatever it begins with, so its first / is doubled.
    """
    line = read_line(PROMPT)
    if line is None:
        return None
    if line.startswith(BLOCK):
        block = line.removeprefix(BLOCK)
        while BLOCK not in block and (line := read_line(MORE)) is not None:
            block += f"\n{line}"
        block = block.partition(BLOCK)[0].removeprefix("\n").removesuffix("\n")
        return f"/{block}" if block.startswith("/") else block
    while line.endswith("\\"):
        more = read_line(MORE)
        line = f"{line[:-1]}\n{more or ''}"
        if more is None:
            break
    return line


def read_line(prompt: str) -> str | None:
    """The next line of standard input, without its end; None where there is none.

    Raises `CorpusError` for bytes that are not UTF-8, `LimitError` for a line that never ends.
    """
    if sys.stdin.isatty() and console.is_terminal():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (from now on `input` has a history and keys to edit with)
        try:
            return options.check_text(input(prompt), "the line")
        except EOFError:
            console.write("\n")
            return None
    if sys.stdin.isatty():
        console.Messages().ask(prompt)
    line = sys.stdin.buffer.readline(LONGEST_LINE + 1)
    if len(line) > LONGEST_LINE:
        raise LimitError(f"a line of standard input is longer than {LONGEST_LINE >> 20} MiB; break it into several.")
    try:
        return line.decode().removesuffix("\n").removesuffix("\r") if line else None
    except UnicodeDecodeError as error:
        raise CorpusError(f"a line of standard input is not UTF-8: {error.reason} at byte {error.start:,}.") from error


def _parse(kind: Callable[[str], Number], text: str, command: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{command} needs a number, not '{text[:30]}'.") from None

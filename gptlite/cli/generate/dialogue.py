"""gptlite generate -i with a model of conversations: a person asks and the model, which reads all of it, answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptlite.cli.generate import interactive
from gptlite.errors import UsageError

if TYPE_CHECKING:
    from gptlite.generation.generate import Generation

HELP = """Ask, and the model answers; it reads the whole conversation, as far as its context reaches.

  /retry          the last answer once more, with the next seed
  /undo           take back the last question and its answer
  /text           show the conversation
  /save FILE      write it into a file
  /temperature F, /max N, /seed N   for the answers to come
  /help, /quit    Ctrl-D leaves too; Ctrl-C ends an answer

For a line that begins with / type it twice."""


class Dialogue(interactive.Session):
    """Turns of a question and an answer; `compose` is given the messages instead of a text."""

    @property
    def text(self) -> str:
        return "".join(f"{interactive.PROMPT}{turn.given}\n{turn.written}\n" for turn in self.turns)

    def take(self, line: str) -> bool:
        if line.startswith("/") and not line.startswith("//"):
            if line.split()[0] == "/join":
                raise UsageError("/join is for texts; in a dialogue, ask.")
            return super().take(line)
        if line.strip():
            self.go_on(line.removeprefix("/"))
        return True

    def go_on(self, given: str) -> None:
        self.turns.append(interactive.Turn(given))
        self._write()

    def help(self, _: str = "") -> None:
        self.messages.show(HELP)

    def _show_beginning(self) -> None:
        """Nothing: the question stands above."""

    def _compose(self) -> Generation:
        messages: list[tuple[str, str]] = []
        for turn in self.turns:
            messages += [("user", turn.given), ("assistant", turn.written)]
        return self.compose(messages[:-1], self.config, self.seed, self.stop_at)

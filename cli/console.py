"""Everything a person sees: the only file that knows rich, and the one gate through which text reaches a terminal.

Results go to standard output, all else to standard error. Text that comes from data never carries control characters
to a terminal, and is never read as markup; into a file or a pipe it goes as it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
PLAIN_INTERVAL = 15.0  # seconds between progress lines where there is no terminal


def visible(text: str) -> str:
    """Control characters as \\x1b, so that they cannot steer a terminal; line breaks and tabs stay."""
    return CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def write(text: str) -> None:
    """Text to standard output: as it is, or visible on a terminal."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def write_json(value: Any) -> None:
    write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_if_read(value: Any) -> None:
    """As `write_json`, for a result that is on disk too: nobody has to be listening any more."""
    if sys.stdout is None:
        return
    try:
        write_json(value)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class StandardError(Console):
    """What is said there accompanies the work and never ends it."""

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError:  # the terminal is gone, or the disk is full
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class Messages:
    """What is said on standard error; nothing when quiet."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = StandardError(quiet)

    def say(self, text: str, style: str = "") -> None:
        self.console.print(Text(visible(text), style=style))

    def notice(self, text: str) -> None:
        self.say(f"note: {text}", "yellow")


def error(text: str) -> None:
    """The one form that every error has."""
    if sys.stderr is not None:
        StandardError().print(Text.assemble(("gptlite: error: ", "bold red"), visible(text)[:2000]))


def duration(seconds: float) -> str:
    """75 as 1:15, 3700 as 1:01:40."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plural(number: int, noun: str) -> str:
    """ "1 step", "2,000 steps"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def count(number: float) -> str:
    """1234567 as 1.2M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            return f"{number / limit if unit != 'k' else number / 1e3:.1f}{unit}"
    return f"{number:.0f}"


class TrainingDisplay:
    """A progress bar on a terminal, a plain line now and then elsewhere, nothing when quiet.

    It has the methods of `gptlite.training.Watcher`, which it does not import: that would load torch.
    """

    def __init__(self, quiet: bool) -> None:
        self.messages = Messages(quiet)
        self.live = self.messages.console.is_terminal and not quiet
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[facts]}"),
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
        self.bar.update(self.task, description=name, completed=fraction, facts="")

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
            self.messages.say(f"chosen: {reason}")
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
        self.messages.say(text)

    def saved(self, step: int, path: Path) -> None:
        pass  # said once, at the end


def print_table(columns: list[str], rows: list[list[str]], right: frozenset[int] = frozenset()) -> None:
    """A table on standard output; cells are text, never markup."""
    table = Table(box=None)
    for i, column in enumerate(columns):
        table.add_column(Text(visible(column), style="dim"), justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)

"""What commands show while they work: a bar on a terminal, a line at intervals elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptlite.cli.shared import console
from gptlite.cli.shared.numbers import count, duration, plural, rate

NARROWEST_BAR, WIDEST_BAR = 10, 40  # columns
DROPPED_FIRST = (3, 1, 0, 2, 4)  # of the facts, where the terminal is narrow: tokens/s, loss, step, bits, time left


class TrainingDisplay:
    """A progress bar on a terminal, a plain line now and then elsewhere, nothing when quiet.

    It has the methods of `gptlite.training.loop.Watcher`, which it does not import: that would load torch.
    """

    def __init__(self, quiet: bool) -> None:
        self.messages = console.Messages(quiet)
        self.description, self.fraction = "starting", 0.0
        self.facts: Sequence[str] = ()
        self.bar = console.LiveLine(self.messages, self.line)
        self.last_line = 0.0

    def __enter__(self) -> TrainingDisplay:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def line(self, columns: int) -> list[tuple[str, str]]:
        """What is done, the bar, the percentage, and as many facts as there is room for: the bar is never given up."""
        return bar_line(self.description, self.fraction, self.facts, columns)

    def notice(self, text: str) -> None:
        self.messages.notice(text)

    def phase(self, name: str, fraction: float) -> None:
        self.description, self.fraction, self.facts = console.one_line(name), fraction, ()

    def planned(self, plan: Any, run: Path, hardware: Any) -> None:
        model, train = plan.model, plan.train
        budget = (
            duration(train.seconds) if train.seconds
            else plural(train.steps, "step") if train.steps
            else f"{train.epochs:g} {'epoch' if train.epochs == 1 else 'epochs'}"
        )  # fmt: skip
        self.messages.say(
            f"{model.architecture}: {count(model.n_params)} parameters ({plural(model.n_layers, 'layer')}, dim "
            f"{model.dim}, {plural(model.n_heads, 'head')}), vocabulary {model.vocab_size:,}, context "
            f"{model.context_length:,}"
        )
        self.messages.say(f"{budget} with batches of {train.batch_size}, on {hardware.describe()}")
        for reason in plan.reasons:
            self.messages.say(f"chosen: {reason.sentence()}")
        self.messages.say(f"writing to {run}")

    def stepped(self, p: Any) -> None:
        bits = f"{p.val_bits_per_byte:.3f} bits/byte" if p.val_bits_per_byte is not None else ""
        if p.val_exact_match is not None:
            bits += f", {p.val_exact_match:.0%} exact"
        self.facts = (
            f"step {p.step:,}", f"loss {p.train_loss:.3f}", bits, rate(p.tokens_per_second),
            f"{duration(p.remaining)} left",
        )  # fmt: skip
        self.description, self.fraction = "training", p.fraction
        now = time.monotonic()
        if not self.bar.is_shown and now - self.last_line >= console.PLAIN_INTERVAL:
            self.last_line = now
            self.messages.say(f"{100 * p.fraction:3.0f}% {' · '.join(fact for fact in self.facts if fact)}")

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


class CountedProgress:
    """Progress of work on a number of things, such as texts: a bar where the number is known, else how many are done.

        with CountedProgress(messages, "text", total) as progress:
            progress.update(512)

    - `total`: how many things there are; None where it is not known before the end.
    - `shares_terminal`: what the command prints goes to the terminal too, and a bar would stand in it.
    """

    def __init__(
        self, messages: console.Messages, noun: str, total: int | None, *, shares_terminal: bool = False
    ) -> None:
        self.messages, self.noun, self.total = messages, noun, total
        self.done, self.before = 0, 0
        self.began = self.last_line = time.monotonic()
        self.bar = console.LiveLine(messages, self.line)
        self.is_silent = shares_terminal and self.bar.is_shown
        if self.is_silent:
            self.bar.is_shown = False

    def __enter__(self) -> CountedProgress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def skip(self, done: int) -> None:
        """`done` things were complete before: they count, but say nothing of the speed."""
        self.done = self.before = done
        self.began = time.monotonic()

    def update(self, done: int) -> None:
        """`done` things are complete."""
        self.done = done
        now = time.monotonic()
        if not self.bar.is_shown and not self.is_silent and now - self.last_line >= console.PLAIN_INTERVAL:
            self.last_line = now
            share = f"{100 * self.fraction:3.0f}% " if self.total else ""
            self.messages.say(share + " · ".join(fact for fact in self.facts() if fact))

    @property
    def fraction(self) -> float:
        """Of the things; at most 1, and 0 where their number is not known."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    def facts(self) -> list[str]:
        """How many are done, how fast, and the time left, as far as they are known."""
        known = f"{self.done:,} of {plural(self.total, self.noun)}" if self.total else plural(self.done, self.noun)
        new, seconds = self.done - self.before, time.monotonic() - self.began
        if not new or seconds <= 0:
            return [known, "", ""]
        left = f"{duration(max(0, self.total - self.done) * seconds / new)} left" if self.total else ""
        return [known, f"{new / seconds:,.0f} {self.noun}s/s", left]

    def line(self, columns: int) -> list[tuple[str, str]]:
        """The line on a terminal of that many columns."""
        if self.total:
            return bar_line("scoring", self.fraction, self.facts(), columns)
        return [(console.cut(" · ".join(fact for fact in ("scoring", *self.facts()) if fact), columns - 1), "")]


def bar_line(description: str, fraction: float, facts: Sequence[str], columns: int) -> list[tuple[str, str]]:
    """What is done, the bar, the percentage, and as many facts as there is room for: the bar is never given up."""
    percent = f" {100 * fraction:3.0f}%"
    room = columns - 1 - console.columns_of(percent)
    name = console.cut(description, room - NARROWEST_BAR)
    room -= console.columns_of(name) + NARROWEST_BAR
    kept = list(facts)
    for i in DROPPED_FIRST:
        if sum(console.columns_of(fact) + 3 for fact in kept if fact) - 2 <= room:
            break
        if i < len(kept):
            kept[i] = ""
    shown = " · ".join(fact for fact in kept if fact)
    room -= console.columns_of(shown) + bool(shown)
    width = NARROWEST_BAR + max(0, min(room, WIDEST_BAR - NARROWEST_BAR))
    done = round(width * min(1.0, max(0.0, fraction)))
    bar = [("━" * done, "color(166)"), ("─" * (width - done), "dim")]
    return [(f"{name} ", ""), *bar, (percent, ""), (f" {shown}" if shown else "", "")]

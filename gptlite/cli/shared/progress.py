"""What `gptlite train` shows while it works: a bar on a terminal, a line at intervals elsewhere."""

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
        percent = f" {100 * self.fraction:3.0f}%"
        room = columns - 1 - console.columns_of(percent)
        name = console.cut(self.description, room - NARROWEST_BAR)
        room -= console.columns_of(name) + NARROWEST_BAR
        facts = list(self.facts)
        for i in DROPPED_FIRST:
            if sum(console.columns_of(fact) + 3 for fact in facts if fact) - 2 <= room:
                break
            if i < len(facts):
                facts[i] = ""
        shown = " · ".join(fact for fact in facts if fact)
        room -= console.columns_of(shown) + bool(shown)
        width = NARROWEST_BAR + max(0, min(room, WIDEST_BAR - NARROWEST_BAR))
        done = round(width * min(1.0, max(0.0, self.fraction)))
        bar = [("━" * done, "color(166)"), ("─" * (width - done), "dim")]
        return [(f"{name} ", ""), *bar, (percent, ""), (f" {shown}" if shown else "", "")]

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

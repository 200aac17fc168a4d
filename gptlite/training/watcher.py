"""What a run tells whoever watches it: the interface between the library, which prints nothing, and its users."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gptlite.device import Hardware
    from gptlite.evaluation.scoring import Score
    from gptlite.training.plan import Plan


@dataclass(frozen=True)
class Progress:
    """Where the run stands after a step.

    - `fraction`: of the budget, 0 to 1; `elapsed`: seconds since the start of the run, without pauses.
    - `remaining`: seconds left of a time budget, or an estimate of them.
    - `val_exact_match`: of a model of pairs, the share of some held-out answers that were exact at the last score.
    - `train_loss`: nats per token, the mean of the steps since the last line of the log.
    """

    step: int
    fraction: float
    train_loss: float
    lr: float
    tokens: int
    tokens_per_second: float
    elapsed: float
    remaining: float
    val_bits_per_byte: float | None
    val_exact_match: float | None = None


class Watcher:
    """Called as training goes on. This one does nothing; override the methods you need."""

    def notice(self, text: str) -> None:
        """Something the user should know, as a sentence."""

    def phase(self, name: str, fraction: float) -> None:
        """A part of the preparation, and the fraction of it that is done."""

    def planned(self, plan: Plan, run: Path, hardware: Hardware) -> None:
        """Everything is decided; training begins."""

    def stepped(self, progress: Progress) -> None:
        """One optimizer step is done."""

    def evaluated(self, step: int, result: Score) -> None:
        """Held-out text was scored."""

    def sampled(self, step: int, text: str) -> None:
        """A sample was generated."""

    def saved(self, step: int, path: Path) -> None:
        """A step is on disk."""

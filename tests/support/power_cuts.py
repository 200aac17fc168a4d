"""Runs that are cut between two saves, and what is compared afterwards."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gptlite.checkpoint.runs import Run
from gptlite.training.watcher import Progress, Watcher

COMPARED = ("model.safetensors", "training_state/optimizer.safetensors")


class Cut(Exception):
    """Ends a run as a power cut does."""


class CutAfter(Watcher):
    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, progress: Progress) -> None:
        if progress.step == self.step:
            raise Cut


def digests(run: str, step: int) -> list[str]:
    """Of the weights and the optimizer's state at a step of a run."""
    folder = Run(Path(run)).step_path(step)
    return [hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in COMPARED]

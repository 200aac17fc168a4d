"""Killed at any moment, a trainer loses nothing that it announced (killing.py says how that is tried)."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from reliability.killing import PHASES
from reliability.tiny import TinyTrainer

from gptlite.checkpoint.runs import Run
from gptlite.text.batches import Batches
from gptlite.training.watcher import Progress, Watcher

TESTS = Path(__file__).parent.parent


def kill(*options: object, module: str = "reliability.killing") -> dict[str, Any]:
    """The report of killing.py, which must have found nothing."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", module, *(str(option) for option in options)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.row("P08", "P09", "P23")
@pytest.mark.parametrize(
    ("kills", "every"), [(80, 8), pytest.param(1000, 1, marks=pytest.mark.slow)], ids=["80", "1000"]
)
def test_a_kill_at_any_moment_loses_nothing(kills: int, every: int) -> None:
    report = kill("--kills", kills, "--every", every)
    print(json.dumps(report, indent=2))
    assert (report["kills"], report["failed"], report["every call"]["failed"]) == (kills, 0, 0)
    assert set(report["phases"]) == set(PHASES)
    assert min(report["phases"].values()) >= (0.03 * kills if kills >= 200 else 2), report["phases"]
    assert report["every call"]["kills"] >= report["every call"]["calls"] / every > 10
    # The same killer finds the fault in writers that have one.
    assert min(report["found out"].values()) >= 0.5 * report["found out of"], report["found out"]


@pytest.mark.row("R03", "P13", "P22")
@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_a_chain_of_kills_ends_with_the_same_bits(kills: int) -> None:
    report = kill("--chain", "--kills", kills)
    print(json.dumps(report, indent=2))
    assert report["kills"] == kills
    assert report["before the first step"] > 0


@pytest.mark.row("P25", "D23")
@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_two_trainings_that_share_all_caches_keep_apart(kills: int) -> None:
    """Whatever is killed, moved or deleted of one, nothing of it lands in the other."""
    steps = 60 if kills >= 100 else 24
    report = kill("--kills", kills, "--steps", steps, module="reliability.killing_two")
    print(json.dumps(report, indent=2))
    assert report["failures"] == []
    if kills >= 100:
        assert min(report[kind] for kind in ("killed", "moved", "deleted", "ended with the same bits")) >= kills // 20


class Crash(Watcher):
    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, progress: Progress) -> None:
        if progress.step == self.step:
            raise SystemExit


@pytest.mark.row("R14")
def test_every_window_is_seen_once_an_epoch_whatever_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, run, rng = TinyTrainer(tmp_path), Run(tmp_path / "run"), random.Random(3)
    seen: dict[int, int] = {}  # position in the order of training -> where in the ring of tokens the window begins
    window_start = Batches._window_start

    def noted(self: Batches, position: int) -> int:
        start = window_start(self, position)
        assert seen.setdefault(position, start) == start, "a step that is repeated sees the same"
        return start

    monkeypatch.setattr(Batches, "_window_start", noted)
    n_tokens, context = trainer.tokens.n_tokens, trainer.model.context_length
    an_epoch = n_tokens // context
    steps, step, crashes = an_epoch, 0, 0  # two epochs, as a step takes two windows
    while step < steps:
        crash = Crash(step + rng.randint(1, 25))
        with run.lock(), contextlib.suppress(SystemExit):
            trainer.session(run, steps, rng.choice((3, 7)), watcher=crash).fit()
        latest = run.latest()
        step, crashes = latest.number if latest else 0, crashes + 1
    assert crashes > 3 and sorted(seen) == list(range(2 * an_epoch))
    for first in (0, an_epoch):
        tokens = [(seen[first + i] + k) % n_tokens for i in range(an_epoch) for k in range(context)]
        assert len(tokens) == len(set(tokens)) == an_epoch * context

"""Kill two trainings that share all caches, and take their run directories away: python -m reliability.killing_two.

Both are the real command, forked from a process that has imported torch. Again and again one of them is killed, or its
run directory is moved away or deleted while it trains, and a copy of the other's steps laid in its place. After each:

  (i)   a trainer whose directory was taken away ends by itself with exit code 5, and what lies there is untouched,
  (ii)  every step in a run directory is whole and has the bits of that step of a run that nobody disturbed,
  (iii) the newest one is the step that was announced last, or a newer one,
  (iv)  a run that comes to its end has the bits of the undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from reliability.faults import Call, watched
from reliability.killing import ANNOUNCED, SAVES, Killer, Shared, digests, ended, finish, fork

from gptlite.checkpoint import saved_step
from gptlite.checkpoint.runs import STEP_NAME, Run
from gptlite.cli import main as command_line
from gptlite.errors import CheckpointError

STEPS = 60  # of each, if no other number is asked for
SHAPE = [
    "--layers", "1", "--dim", "8", "--heads", "1", "--context", "16", "--vocab-size", "270", "--batch-size", "2",
    "--dropout", "0.1", "--threads", "1",
]  # fmt: skip
PATIENCE = 60.0  # seconds in which a trainer must have saved, or ended


class Training:
    """One of the two: its run, what it has announced, and its steps as they should be."""

    def __init__(self, folder: Path, seed: int, steps: int) -> None:
        self.seed, self.steps, self.corpus, self.shared = seed, steps, folder / "corpus.txt", Shared()
        self.run = Run(folder / f"run-{seed}")
        self.away = folder / f"away-{seed}"
        straight = Run(folder / f"straight-{seed}")
        assert finish(fork(lambda: self.command(straight, keep=steps))) == 0
        self.reference = {step.number: digests(step.path) for step in straight.steps()}
        self.pid: int | None = None

    def command(self, run: Run, keep: int = 2) -> None:
        """What a forked process does: train, or go on where there is something to go on from."""

        def tell(name: str, call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
            answer = call(*arguments, **options)
            if name == "rename" and (step := STEP_NAME.fullmatch(Path(arguments[1]).name)):
                self.shared[ANNOUNCED], self.shared[SAVES] = int(step[1]), self.shared[SAVES] + 1
            return answer

        line = ["train", "-q", "-o", str(run.path), "--save-every", "1", "--eval-every", str(self.steps)]
        if run.step_directories():
            line.append("--resume")
        else:
            line += [str(self.corpus), "--val", "20%", "--steps", str(self.steps), "--keep", str(keep), *SHAPE]
            line += ["--seed", str(self.seed)]
        with watched(tell):
            code = command_line.run(line)
        os._exit(code)

    def start(self) -> None:
        self.shared[SAVES] = 0
        self.pid = fork(lambda: self.command(self.run))

    def wait_for_saves(self, n: int) -> bool:
        """False where the trainer ends before it has saved as often."""
        until = time.monotonic() + PATIENCE
        while self.shared[SAVES] < n:
            if ended(self.pid or 0) or time.monotonic() > until:
                return False
            time.sleep(0.0005)
        return True

    def end(self) -> int:
        """Wait for the end of the trainer; its exit code."""
        until = time.monotonic() + PATIENCE
        while not ended(self.pid or 0) and time.monotonic() < until:
            time.sleep(0.001)
        if not ended(self.pid or 0):
            os.kill(self.pid or 0, signal.SIGKILL)
        code, self.pid = finish(self.pid or 0), None
        return code

    def wrong(self) -> list[str]:
        """What of (ii) and (iii) does not hold."""
        found = []
        for step in self.run.step_directories():
            try:
                saved_step.verify(step)
            except CheckpointError as error:
                found.append(f"{step} is not whole: {error}")
                continue
            if digests(step) != self.reference.get(int(step.name[5:])):
                found.append(f"{step} is not a step of this run")
        newest = self.run.latest()
        if (newest.number if newest else 0) < self.shared[ANNOUNCED]:
            found.append(f"{self.run.path}: step {self.shared[ANNOUNCED]} was announced, and {newest} is the newest")
        return found

    def begin_anew(self) -> None:
        shutil.rmtree(self.run.path, ignore_errors=True)
        self.shared[ANNOUNCED] = 0


class Two:
    def __init__(self, folder: Path, seed: int, steps: int = STEPS) -> None:
        self.rng, self.failures, self.done = random.Random(seed), list[str](), Counter[str]()
        Killer(folder, seed)  # makes the text, and what is slow in a save or imported late is there for all forks
        self.both = [Training(folder, number, steps) for number in (1, 2)]

    def disturb(self, kills: int) -> dict[str, Any]:
        while sum(self.done[kind] for kind in ("killed", "moved", "deleted")) < kills and len(self.failures) < 10:
            for training in self.both:
                if training.pid is None:
                    training.start()
            victim = self.rng.choice(self.both)
            self.disturb_one(victim, self.rng.choice(("killed", "killed", "killed", "moved", "deleted")))
            self.failures += victim.wrong()
        for training in self.both:
            if training.pid is None:
                training.start()
            self.finished(training, training.end())
            self.failures += training.wrong()
        return {**self.done, "failures": self.failures[:10]}

    def disturb_one(self, victim: Training, kind: str) -> None:
        if not victim.wait_for_saves(self.rng.choice((0, 0, 1, 3)) if kind == "killed" else 1):
            return self.finished(victim, victim.end())
        time.sleep(self.rng.uniform(0, 0.3 if victim.shared[SAVES] == 0 else 0.02))
        if kind == "killed":
            os.kill(victim.pid or 0, signal.SIGKILL)
            code = victim.end()
            self.done["killed"] += code == -signal.SIGKILL
            return None if code == -signal.SIGKILL else self.finished(victim, code)
        other = next(training for training in self.both if training is not victim)
        decoy = self.lay_decoy(victim, other, kind)
        code = victim.end()
        if code == 0:  # it had come to its end
            self.done["too late"] += 1
        elif code != 5:
            self.failures.append(f"a trainer whose directory was {kind} ended with {code}")
        else:
            self.done[kind] += 1
        if decoy != tree(victim.run.path):
            self.failures.append(f"what took the place of a directory that was {kind} was written to")
        shutil.rmtree(victim.run.path)
        if kind == "moved":
            victim.away.rename(victim.run.path)
        else:
            victim.shared[ANNOUNCED] = 0

    def lay_decoy(self, victim: Training, other: Training, kind: str) -> dict[str, bytes]:
        """Take the victim's directory away, and put steps of the other training where it was."""
        folder = victim.away.with_name("decoy")
        straight = Run(other.run.path.with_name(f"straight-{other.seed}"))
        folder.mkdir()
        for name in ("run.json", "LOCK", *(step.name for step in straight.step_directories()[-20::5])):
            copy = shutil.copytree if (straight.path / name).is_dir() else shutil.copy
            copy(straight.path / name, folder / name)
        victim.run.path.rename(victim.away)
        folder.rename(victim.run.path)
        if kind == "deleted":
            shutil.rmtree(victim.away, ignore_errors=True)
            shutil.rmtree(victim.away, ignore_errors=True)  # what was written there meanwhile
        return tree(victim.run.path)

    def finished(self, training: Training, code: int) -> None:
        """A trainer that ended by itself; its run begins anew."""
        training.pid, newest = None, training.run.latest()
        if code != 0:
            self.failures.append(f"a trainer ended with {code}")
        elif newest is None or digests(newest.path) != training.reference[training.steps]:
            self.failures.append(f"{training.run.path} ended at {newest} with other bits")
        else:
            self.done["ended with the same bits"] += 1
        self.failures += training.wrong()
        training.begin_anew()


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Disturb two trainings; exit 1 when anything is lost or foreign.")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        os.environ["GPTLITE_CACHE"] = f"{folder}/cache"
        report = Two(Path(folder), arguments.seed, arguments.steps).disturb(arguments.kills)
    print(json.dumps(report, indent=2))
    sys.exit(1 if report["failures"] else 0)


if __name__ == "__main__":
    main()

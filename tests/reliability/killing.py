"""Kill a trainer again and again, and look at what it leaves: python -m reliability.killing --kills 1000 (in tests/).

A server imports torch once and forks a trainer for every kill. The trainer resumes, trains a tiny model and saves every
few steps; in shared memory it says in which phase it is and which step it has announced. Half of the kills come at a
random moment; for the others the trainer dawdles in one phase, each phase in its turn, and the kill comes somewhere
within. After each kill:

  (i)   the run resumes from the newest announced step or a newer one,
  (ii)  every directory with the name of a step is whole,
  (iii) nothing lies about that the next start would not sweep away, and it has swept,
  (iv)  each step has the bits of the same step of a run that nobody interrupted.

A kill leaves all that the kernel was given, so the files may live in memory; power cuts are test_power_cut.py's.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from reliability.faults import Call, watched
from reliability.tiny import TinyTrainer

from gptlite.checkpoint import saved_step
from gptlite.checkpoint.runs import LEFTOVER, STEP_NAME, Run
from gptlite.cli import main as command_line
from gptlite.embedding import statistics as calibration
from gptlite.errors import CheckpointError, Interrupted
from gptlite.storage import durable
from gptlite.storage.durable import MANIFEST
from gptlite.storage.reader import read_manifest
from gptlite.training.watcher import Watcher

FILES = (
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "optimizer.safetensors", "rng.safetensors", "state.json", "statistics.safetensors", "MANIFEST.json",
)  # fmt: skip
PHASES = (
    "between calls", "sweep", "make folder", *(f"write {name}" for name in FILES), "flush file", "flush folder",
    "rename", "flush run", "link", "prune",
)  # fmt: skip
EXACT = ("model.safetensors", "training_state/optimizer.safetensors", "training_state/rng.safetensors")
STEPS = 40  # after which a run is over and the next one begins
LONGEST = 3  # steps, each saved, that pass before a kill at a random moment
BROKEN = 10  # kills of each writer that is known to be wrong: a killer that finds nothing there proves nothing
DAWDLE = 0.002  # seconds before, and after, the call in which a kill is to fall


class Shared:
    """What a trainer tells its killer; stays readable when it is dead."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 12)

    def __getitem__(self, index: int) -> int:
        return struct.unpack_from("<i", self.memory, 4 * index)[0]

    def __setitem__(self, index: int, value: int) -> None:
        struct.pack_into("<i", self.memory, 4 * index, value)


PHASE, ANNOUNCED, SAVES = 0, 1, 2


class Phases:
    """Says before each call in which phase it is; dawdles around one call of the phase that is aimed at.

    That is the call after `skip` others, and after so many `saves`.
    """

    def __init__(self, shared: Shared, run: Path, aim: int | None, skip: int = 0, saves: int = 0) -> None:
        self.shared, self.run, self.aim, self.left, self.saves = shared, run, aim, skip, saves
        self.paths: dict[int, Path] = {}

    def phase(self, name: str, path: Path, arguments: tuple[Any, ...]) -> str:
        if name == "rename":
            return "rename" if STEP_NAME.fullmatch(Path(arguments[1]).name) else "prune"
        if name in ("symlink", "replace") or path.name.startswith((".tmp-best", ".tmp-latest")):
            return "link"
        if name in ("unlink", "rmdir"):
            return "prune" if self.shared[SAVES] else "sweep"
        if name == "mkdir":
            return "make folder"
        if path.name in FILES and name in ("open", "posix_fallocate", "write"):
            return f"write {path.name}"
        if name == "fsync":
            return "flush file" if path.name in FILES else "flush run" if path == self.run else "flush folder"
        return "between calls"

    def __call__(self, name: str, call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        path = self.paths.get(arguments[0], self.run) if isinstance(arguments[0], int) else Path(arguments[0])
        phase = PHASES.index(self.phase(name, path, arguments))
        aimed = phase == self.aim and self.shared[SAVES] >= self.saves
        self.left -= aimed
        aimed = aimed and self.left < 0
        if aimed:
            self.shared[PHASE] = phase
            time.sleep(DAWDLE)
        elif self.aim is None:
            self.shared[PHASE] = phase
        answer = call(*arguments, **options)
        if name == "open":
            self.paths[answer] = path
        if aimed:
            time.sleep(DAWDLE)
        self.shared[PHASE] = 0 if self.aim is None else -1
        return answer


class Announcer(Watcher):
    def __init__(self, shared: Shared) -> None:
        self.shared = shared

    def saved(self, step: int, path: Path) -> None:
        self.shared[ANNOUNCED] = max(step, self.shared[ANNOUNCED])
        self.shared[SAVES] += 1


def fork(action: Callable[[], object]) -> int:
    """Do `action` in a process of its own; return its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        action()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def finish(pid: int) -> int:
    """Wait for a process; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def ended(pid: int) -> bool:
    """Has it ended? It can still be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def digests(step: Path) -> dict[str, str]:
    files = read_manifest(step)["files"]
    return {name: files[name]["sha256"] for name in EXACT}


# -- Writers that must be found out


def overwriting(
    directory: Path, files: Mapping[str, bytes], facts: Mapping[str, Any], _: object = None, at: int | None = None
) -> None:
    """There is one checkpoint, and the next one is written over it."""
    for step in Run(directory.parent).step_directories():
        step.rename(directory)
    entries = {}
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        overwrite(directory / name, content)
        entries[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    overwrite(directory / MANIFEST, durable.json_bytes({"format": durable.FORMAT, **facts, "files": entries}))


def overwrite(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.write(descriptor, content)
    os.close(descriptor)


def pruning_first(
    directory: Path, files: Mapping[str, bytes], facts: Mapping[str, Any], _: object = None, at: int | None = None
) -> None:
    """Makes room for the next checkpoint before it is there."""
    for step in Run(directory.parent).step_directories():
        durable.remove_directory(step)
    durable.write_directory(directory, files, facts, at=at)


# -- Kills


class Killer:
    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng, self.shared = folder, random.Random(seed), Shared()
        self.trainer = TinyTrainer(folder)
        self.run = Run(folder / "run")
        self.reference: dict[int, dict[str, str]] = {}
        self.phases: Counter[str] = Counter()
        self.failures: list[str] = []
        warm_up = Run(folder / "warm-up")
        with warm_up.lock():
            session = self.trainer.session(warm_up, 2)
            session.fit()  # what torch imports only now, every child has
        # Measured once: it takes as long as all the rest of a save and has nothing to do with disks.
        statistics = calibration.measure_statistics(session.model, session.setup.tokenizer, session.setup.val_ids)
        calibration.measure_statistics = lambda *_, **__: statistics
        gc.collect()
        gc.disable()  # in the children, which would copy all that it visits

    def train(self, run: Run, keep: int = 2, save_every: int = 1, phases: Phases | None = None) -> None:
        """What a forked trainer does."""
        with watched(phases or Phases(self.shared, run.path, None)), run.lock():
            self.trainer.session(run, STEPS, save_every, keep, Announcer(self.shared)).fit()

    def take_reference(self) -> None:
        run = Run(self.folder / "reference")
        began = time.monotonic()
        assert finish(fork(lambda: self.train(run, keep=STEPS))) == 0
        self.longest = LONGEST * (time.monotonic() - began) / STEPS
        self.reference = {step.number: digests(step.path) for step in run.steps()}
        assert sorted(self.reference) == list(range(1, STEPS + 1))
        self.shared[ANNOUNCED] = 0

    def kill_one(self, aim: int | None, saves: int = 0) -> bool:
        """Fork a trainer and kill it, at a random moment or in the phase `aim`; false when it was done before."""
        self.shared[PHASE], self.shared[SAVES] = (0 if aim is None else -1), 0
        calls = 9 if aim is not None and PHASES[aim] in ("flush file", "prune") else 2
        skip = 0 if saves else self.rng.randint(0, calls)
        phases, save_every = Phases(self.shared, self.run.path, aim, skip, saves), self.rng.randint(1, 3)
        pid = fork(lambda: self.train(self.run, save_every=save_every, phases=phases))
        began, longest = time.monotonic(), self.rng.uniform(0, self.longest)
        while not (done := ended(pid)):
            time.sleep(0.001)
            if self.shared[PHASE] == aim or (aim is None and time.monotonic() > began + longest):
                break
        if aim is not None and not done:
            time.sleep(self.rng.uniform(0, 2 * DAWDLE))
        if not done:
            os.kill(pid, signal.SIGKILL)
        code = finish(pid)
        if code not in (0, -signal.SIGKILL):
            self.failures.append(f"the trainer ended with {code}")
        if code == -signal.SIGKILL:
            self.phases[PHASES[max(0, self.shared[PHASE])]] += 1
        return code == -signal.SIGKILL

    def check(self) -> list[str]:
        """What of (i) to (iv) does not hold."""
        announced, wrong = self.shared[ANNOUNCED], []
        for step in self.run.step_directories():
            try:
                saved_step.verify(step)
                if digests(step) != self.reference[int(step.name[5:])]:
                    wrong.append(f"{step.name} differs from the same step of the uninterrupted run")
            except CheckpointError as error:
                wrong.append(f"{step.name} is not whole: {error}")
        try:
            newest = int(self.run.step_to_resume().name[5:]) if announced else 0
            if newest < announced:
                wrong.append(f"step {announced} was announced, but {newest} is the newest")
        except CheckpointError as error:
            wrong.append(f"step {announced} was announced, but nothing can be resumed: {error}")
        names = [p.name for p in self.run.path.iterdir()] if self.run.path.exists() else []
        leftovers = [name for name in names if LEFTOVER.fullmatch(name)]
        known = {"LOCK", "metrics.jsonl", "best", "latest", "table_history.safetensors"}
        strange = [n for n in names if n not in known and not STEP_NAME.fullmatch(n) and n not in leftovers]
        if strange or len(leftovers) > 2:  # one that was being written, one that was being deleted
            wrong.append(f"strange names: {strange}, leftovers: {leftovers}")
        return wrong

    def begin_anew(self) -> None:
        shutil.rmtree(self.run.path, ignore_errors=True)
        self.shared[ANNOUNCED] = 0

    def kill(self, kills: int) -> dict[str, Any]:
        """So many kills, each checked. Aimed ones go to the phase that had fewest, so that none is left out."""
        done = finished = failed = 0
        began = time.monotonic()
        while done < kills:
            swept = any(LEFTOVER.fullmatch(p.name) for p in self.run.path.glob(".t*"))
            aims = range(1 if swept else 2, len(PHASES))
            rarest = min(aims, key=lambda i: (self.phases[PHASES[i]], self.rng.random()))
            if not self.kill_one(rarest if self.rng.random() < 0.7 else None):
                finished += 1
                self.begin_anew()
                continue
            done += 1
            if found := self.check():
                failed += 1
                self.failures += found
                self.begin_anew()
        return {
            "kills": done,
            "failed": failed,
            "runs finished": finished,
            "ms per kill": round(1000 * (time.monotonic() - began) / max(1, done), 1),
            "phases": {name: self.phases[name] for name in PHASES},
        }

    def kill_broken(self, writer: Any, kills: int) -> int:
        """How many of so many kills, in the second save of a writer that is known to be wrong, are found out."""
        found = 0
        saved_step.write_directory = writer
        for _ in range(kills):
            self.begin_anew()
            if self.kill_one(self.rng.choice([i for i, name in enumerate(PHASES) if "write" in name]), saves=1):
                found += bool(self.check())
        saved_step.write_directory = durable.write_directory
        return found

    # -- Every call of one save

    def kill_at_every_call(self, every: int) -> dict[str, Any]:
        """SIGKILL before each call of one save, links and pruning included, and in the middle of each write."""
        template, step = self.folder / "template", 8
        run = Run(template)
        assert finish(fork(lambda: self.train_to(run, step))) == 0
        save_it = make_saver(self.trainer.session(run, STEPS), self.run)
        kills, found = 0, []
        for k in range(0, 10_000, every):
            for torn in (False, True):
                self.begin_anew()
                shutil.copytree(template, self.run.path, symlinks=True)
                self.shared[ANNOUNCED] = step
                suicide = Suicide(k, torn)
                code = finish(fork(lambda suicide=suicide: save_it(suicide)))
                found += self.check()
                kills += code != 0
                if code == 0 and not torn:
                    self.failures += found
                    return {"calls": k, "kills": kills, "failed": len(found)}
        raise AssertionError("a save of 10,000 calls")

    def train_to(self, run: Run, step: int) -> None:
        """A run that has trained to `step`, and saved each step so far."""
        with run.lock(), contextlib.suppress(Interrupted):
            session = self.trainer.session(run, STEPS)
            session.change(should_stop=lambda: signal.SIGTERM if session.state.step == step else None)
            session.fit()


def make_saver(session: Any, run: Run) -> Callable[[Call], None]:
    """What trains one step more and then saves it to `run`, under the eyes of a watch."""
    session.move_to(run)
    session.take_step()
    session.state.step += 1

    def save_it(watch: Any) -> None:
        with watched(watch):
            session.save()

    return save_it


class Suicide:
    """Dies before the k-th call; or, if that is a write, halfway through it."""

    def __init__(self, k: int, torn: bool) -> None:
        self.left, self.torn = k, torn

    def __call__(self, name: str, call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        self.left -= 1
        if self.left == -1:
            if self.torn and name == "write":
                call(arguments[0], arguments[1][: len(arguments[1]) // 2])
            if name == "write" or not self.torn:
                os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)


# -- A chain of kills of the real command


class Chain(Killer):
    """The command itself, killed in all it does: making the run, training, saving, recovering."""

    def command(self, out: Path, steps: int) -> None:
        def tell(name: str, call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
            answer = call(*arguments, **options)
            if name == "rename" and STEP_NAME.fullmatch(Path(arguments[1]).name):
                self.shared[SAVES] += 1
            return answer

        shape = "--layers 1 --dim 8 --heads 1 --context 16 --vocab-size 270 --batch-size 2 --dropout 0.1 --threads 1"
        resume = bool(Run(out).step_directories())
        line = ["train", "-q", "-o", str(out), "--save-every", "1", "--eval-every", str(steps)]
        if resume:
            line.append("--resume")
        else:
            line += [str(self.folder / "corpus.txt"), "--val", "20%", "--steps", str(steps), *shape.split()]
        with watched(tell):
            code = command_line.run(line)
        os._exit(code)

    def chain(self, kills: int) -> dict[str, Any]:
        steps = max(100, 10 * kills)  # so many that a quick machine has not taken them all before the last kill
        assert finish(fork(lambda: self.command(self.folder / "straight", steps))) == 0
        done = before_first = 0
        while True:
            self.shared[SAVES] = 0
            started = bool(self.run.step_directories())
            pid = fork(lambda: self.command(self.run.path, steps))
            if done < kills:
                wanted, until = self.rng.choice((0, 0, 1)), time.monotonic() + 30
                while self.shared[SAVES] < wanted and not ended(pid) and time.monotonic() < until:
                    time.sleep(0.0005)
                time.sleep(self.rng.uniform(0, 0.03 if wanted else 0.3))
                os.kill(pid, signal.SIGKILL)
            code = finish(pid)
            if code == 0:
                break
            if code != -signal.SIGKILL:
                self.failures.append(f"after {done} kills the command ended with {code}")
                break
            done += 1
            before_first += not started
        straight, chained = (Run(self.folder / "straight").latest(), self.run.latest())
        if straight is None or chained is None or chained.number != straight.number:
            self.failures.append(f"the chain ended at {chained}, not at {straight}")
        elif digests(chained.path) != digests(straight.path):
            self.failures.append("the chain ended with other bits than the uninterrupted run")
        return {"kills": done, "before the first step": before_first, "steps": steps, "failures": self.failures}


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a trainer again and again; exit 1 when anything is lost.")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, metavar="K", help="of the calls of one save, kill at each K-th")
    parser.add_argument("--chain", action="store_true", help="kill the command itself, until its run is done")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        os.environ["GPTLITE_CACHE"] = f"{folder}/cache"
        if arguments.chain:
            report = Chain(Path(folder), arguments.seed).chain(arguments.kills)
        else:
            killer = Killer(Path(folder), arguments.seed)
            killer.take_reference()
            report = killer.kill(arguments.kills)
            report["every call"] = killer.kill_at_every_call(arguments.every)
            report["found out"] = {w.__name__: killer.kill_broken(w, BROKEN) for w in (overwriting, pruning_first)}
            report["found out of"] = BROKEN
            report["failures"] = killer.failures[:10]
    print(json.dumps(report, indent=2))
    sys.exit(1 if report["failures"] or min(report.get("found out", {"": 1}).values()) == 0 else 0)


if __name__ == "__main__":
    main()

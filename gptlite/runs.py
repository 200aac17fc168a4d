"""Run directories: their names, their steps, the lock, the log, and how `-m` finds a model.

checkpoints/<run>/
  run.json         where it came from: command, inputs, versions, hardware, the plan, the result
  metrics.jsonl    one line per logged step
  LOCK             held by the trainer
  step-000000500/  a saved step (checkpoint.py)
  best, latest     links for people; the code reads the manifests instead
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlite.checkpoint import Checkpoint
from gptlite.checkpoint import load as read_checkpoint
from gptlite.durable import MANIFEST, write_file, write_json
from gptlite.errors import CheckpointError, RunInUseError, StorageError, UsageError
from gptlite.reader import read_json, read_manifest

DEFAULT_PARENT = Path("checkpoints")
STEP_NAME = re.compile(r"step-(\d{9,18})")


@dataclass(frozen=True)
class Step:
    """One saved step of a run; `val_bits_per_byte` is what it scored when it was saved."""

    path: Path
    number: int
    val_bits_per_byte: float | None


class Run:
    """One run directory on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def is_run(self) -> bool:
        return (self.path / "run.json").is_file()

    def step_path(self, number: int) -> Path:
        return self.path / f"step-{number:09d}"

    def steps(self) -> list[Step]:
        """All complete steps, oldest first. A directory without a readable manifest is not one."""
        found: list[Step] = []
        if not self.path.is_dir():
            return found
        for entry in self.path.iterdir():
            match = STEP_NAME.fullmatch(entry.name)
            if match and entry.is_dir() and not entry.is_symlink():
                with contextlib.suppress(CheckpointError):
                    score = read_manifest(entry).get("val_bits_per_byte")
                    found.append(Step(entry, int(match.group(1)), score if isinstance(score, float) else None))
        return sorted(found, key=lambda step: step.number)

    def latest(self) -> Step | None:
        steps = self.steps()
        return steps[-1] if steps else None

    def best(self) -> Step | None:
        """The step with the lowest validation score; the newest where none has one."""
        scored = [step for step in self.steps() if step.val_bits_per_byte is not None]
        return min(scored, key=lambda s: (s.val_bits_per_byte, -s.number)) if scored else self.latest()

    def prune(self, keep: int) -> None:
        """Delete all but the `keep` newest steps and the best one."""
        steps, best = self.steps(), self.best()
        for step in steps[:-keep]:
            if best is None or step.path != best.path:
                trash = step.path.with_name(f".trash-{step.path.name}")
                step.path.rename(trash)  # no longer a step from here on
                shutil.rmtree(trash, ignore_errors=True)

    def link(self) -> None:
        """Point `best` and `latest` at their steps; a file system without links goes without."""
        for name, step in (("best", self.best()), ("latest", self.latest())):
            if step is None:
                continue
            scratch = self.path / f".tmp-{name}-{os.getpid()}"
            with contextlib.suppress(OSError):
                scratch.symlink_to(step.path.name)
                scratch.replace(self.path / name)

    def read_info(self) -> dict[str, Any]:
        return read_json(self.path / "run.json")

    def write_info(self, info: Mapping[str, Any]) -> None:
        write_json(self.path / "run.json", info)

    def clear_log(self) -> None:
        """Forget what a try that never completed a step has logged."""
        (self.path / "metrics.jsonl").unlink(missing_ok=True)

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to `metrics.jsonl`."""
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def cut_log(self, step: int) -> None:
        """Forget what was logged after `step`, which will come again, and a line that a crash left half written."""
        path = self.path / "metrics.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if (logged := logged_step(line)) is not None and logged <= step]
        if kept != lines:
            write_file(path, b"".join(kept))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for one trainer; the kernel lets go when the process ends, however it ends."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = open(self.path / "LOCK", "a+")  # noqa: SIM115
        except OSError as error:
            raise StorageError(f"cannot write to {self.path}: {error.strerror or error}.") from error
        with file:
            try:
                import fcntl
            except ImportError:  # not on Windows
                yield
                return
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunInUseError(
                    f"another process trains in {self.path}; wait for it, or choose another directory with -o."
                ) from error
            for leftover in [*self.path.glob(".tmp-*"), *self.path.glob(".trash-*")]:
                if leftover.is_dir() and not leftover.is_symlink():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)
            yield


def logged_step(line: bytes) -> int | None:
    """The step of one line of the log; None when it is not a whole line."""
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else None
    except (ValueError, TypeError, KeyError):
        return None


def run_name(inputs: Sequence[str]) -> str:
    """What a run on these inputs is called: the first one's name without its suffix."""
    first = inputs[0]
    stem = "stdin" if first == "-" else Path(first).resolve().stem
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "run"


@contextlib.contextmanager
def new_run(name: str, parent: Path = DEFAULT_PARENT) -> Iterator[Run]:
    """`checkpoints/<name>`, locked; with a number appended when that run exists or another process begins it."""
    numbered = (Run(parent / (name if n == 1 else f"{name}-{n}")) for n in itertools.count(1))
    with contextlib.ExitStack() as held:
        yield next(run for run in numbered if _begin(run, held))


def _begin(run: Run, held: contextlib.ExitStack) -> bool:
    """Lock a run that has no step yet; False where there is one, or another process is about to make it."""
    if run.path.exists() and not _reusable(run.path):
        return False
    try:
        held.enter_context(run.lock())
    except RunInUseError:
        return False
    if not _reusable(run.path):  # no longer, now that the other process has ended
        held.close()
        return False
    return True


def newest_run(name: str, parent: Path = DEFAULT_PARENT) -> Run | None:
    """The newest of `<name>`, `<name>-2`, ... that exists."""
    pattern = re.compile(re.escape(name) + r"(-\d+)?")
    found = [p for p in parent.iterdir() if pattern.fullmatch(p.name)] if parent.is_dir() else []
    runs = [Run(p) for p in found if Run(p).is_run()]
    return max(runs, key=lambda run: run.path.stat().st_mtime, default=None)


def claim_run(path: Path) -> Run:
    """The run at a path the user chose, which must be free. Raises `UsageError`; nothing is overwritten."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; choose a directory with -o.")
    if path.is_dir() and any(path.iterdir()) and not _reusable(path):
        what = "a run is there already; continue it with --resume" if Run(path).is_run() else "the folder is not empty"
        raise UsageError(f"{path}: {what}, or choose another directory with -o.")
    return Run(path)


def _reusable(path: Path) -> bool:
    """Was a run begun here that never completed a step, so that nothing can be lost?"""
    ours = {"run.json", "metrics.jsonl", "LOCK"}
    names = {p.name for p in path.iterdir()} if path.is_dir() else {""}
    return bool(names) and names <= ours


def load(model: str | Path | None = None, device: str = "cpu") -> Checkpoint:
    """The model, tokenizer and configuration of whatever `find_model` finds."""
    return read_checkpoint(find_model(None if model is None else str(model)), device)


def find_model(argument: str | None = None, parent: Path = DEFAULT_PARENT) -> Path:
    """The model directory that `argument` means: a run (its best step), a step, or a Hugging Face directory.

    With no argument: `$GPTLITE_MODEL`, else the newest run under `parent`. Raises `CheckpointError`.
    """
    argument = argument or os.environ.get("GPTLITE_MODEL") or None
    if argument is None:
        candidates = [Run(p) for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
        trained = [(best.path.stat().st_mtime, best) for run in candidates if (best := run.best())]
        if not trained:
            raise CheckpointError(
                f"no trained model under {parent}; train one with: gptlite train FILE, or name one with -m DIR."
            )
        return max(trained, key=lambda pair: pair[0])[1].path
    path = Path(argument)
    if (path / "config.json").is_file() or (path / MANIFEST).is_file():
        return path.resolve()
    run = Run(path)
    if (best := run.best()) is not None:
        return best.path
    if run.is_run():
        raise CheckpointError(f"{path} holds no completed step yet; let it train longer, then try again.")
    near = sorted(p.name for p in path.parent.iterdir() if Run(p).is_run()) if path.parent.is_dir() else []
    hint = f" Runs beside it: {', '.join(near[:8])}." if near else ""
    raise CheckpointError(f"there is no model at {path}.{hint}")

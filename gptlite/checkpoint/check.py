"""Is a run what was saved? Every byte of its steps is compared with the manifests; nothing is written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gptlite.checkpoint import runs, table_history
from gptlite.checkpoint.runs import Run
from gptlite.errors import CheckpointError
from gptlite.storage.durable import MANIFEST
from gptlite.storage.reader import Reader, read_manifest


@dataclass(frozen=True)
class StepReport:
    """What was found in the folder of a step; `problem` is a sentence, or None where every digest is right."""

    name: str
    n_files: int
    n_bytes: int
    val_bits_per_byte: float | None
    problem: str | None


@dataclass(frozen=True)
class RunReport:
    """The steps of a run, oldest first, and what is wrong with the files beside them."""

    path: Path
    steps: list[StepReport]
    problems: list[str]

    @property
    def intact(self) -> bool:
        return not self.problems and not any(step.problem for step in self.steps)


def find_run(argument: str | None = None) -> Run:
    """The run, or the single step, that `argument` names; else that of `$GPTLITE_MODEL`, else the newest one.

    Raises `CheckpointError`.
    """
    argument = argument or os.environ.get("GPTLITE_MODEL") or None
    if argument is None:
        parent = runs.DEFAULT_PARENT
        found = [run for p in (parent.iterdir() if parent.is_dir() else ()) if (run := Run(p)).is_run()]
        if not found:
            raise CheckpointError(f"no run under {parent}; train one with: gptlite train FILE, or name one.")
        return max(found, key=lambda run: run.path.stat().st_mtime)
    path = runs.followed(Path(argument))
    if path.is_dir() and (Run(path).is_run() or _step_folders(path)):
        return Run(path)
    raise CheckpointError(f"there is no run at {path}; name a run directory, such as checkpoints/corpus.")


def check_run(run: Run) -> RunReport:
    """Read every byte of a run and compare it with the manifests. Nothing is written."""
    problems: list[str] = []
    steps = [check_step(path) for path in _step_folders(run.path)]
    if run.is_run() or not (run.path / MANIFEST).exists():
        with _noted(problems):
            run.read_info()
        with _noted(problems):
            _check_log(run)
        with _noted(problems):
            table_history.read(run.path)
        if not steps:
            problems.append(f"{run.path} holds no completed step yet.")
    return RunReport(run.path, steps, problems)


def check_step(path: Path) -> StepReport:
    """Every file of a step as its manifest says, and no other file."""
    files: list[str] = []
    n_bytes, score = 0, None
    problems: list[str] = []
    with _noted(problems):
        manifest = read_manifest(path)
        files, score = list(manifest["files"]), manifest.get("val_bits_per_byte")
        with Reader(path, manifest) as reader:
            for name in files:
                reader.verify(name)
                n_bytes += manifest["files"][name]["size"]
        found = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()}
        if unknown := sorted(found - {*files, MANIFEST}):
            raise CheckpointError(f"{path / unknown[0]} is not listed in {MANIFEST}.")
    return StepReport(path.resolve().name, len(files), n_bytes, score, problems[0] if problems else None)


def _step_folders(path: Path) -> list[Path]:
    """The folders of the steps of a run, complete or not, oldest first; a step itself is the only one."""
    if (path / MANIFEST).exists():
        return [path]
    named = [p for p in path.iterdir() if runs.STEP_NAME.fullmatch(p.name)]
    return sorted(named, key=lambda p: int(p.name.partition("-")[2]))


def _check_log(run: Run) -> None:
    """Raises `CheckpointError` unless every line is an object with a step above the one before."""
    path, lines = run.path / runs.LOG, run.log_lines()
    before = 0
    for number, line in enumerate(lines, start=1):
        step = runs.logged_step(line)
        if step is None or step <= before:
            what = "is not a whole line of the log" if step is None else f"is of step {step}, after step {before}"
            raise CheckpointError(f"{path}, line {number}, {what}; resuming the run mends its log.")
        before = step


@contextlib.contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        problems.append(str(error))

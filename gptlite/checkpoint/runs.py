"""Run directories: their names, their steps, the log, and how a model is found.

checkpoints/<run>/
  run.json         where it came from: command, inputs, versions, hardware, the plan, the result (run_info.py)
  lists-*.jsonl    what of it is too long for one JSON file
  metrics.jsonl    one line per logged step
  table_history.safetensors  the token table at some steps (table_history.py)
  LOCK             held by the trainer (run_lock.py)
  step-000000500/  a saved step (saved_step.py); it is committed by one rename (storage/durable.py)
  best, latest     links for people, or text files with the name of a step where links are forbidden; the code reads
                   the manifests instead
  .tmp-*, .trash-*  being written or deleted; what a crash left is removed when the next trainer starts
  .bad-*           damaged steps, set aside
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gptlite.checkpoint import run_info, table_history
from gptlite.checkpoint.run_info import RunInfo
from gptlite.checkpoint.run_lock import NAME as LOCK
from gptlite.checkpoint.run_lock import RunLock, RunLostError
from gptlite.checkpoint.saved_step import PICKLES, Checkpoint, read_tokenizer, verify
from gptlite.checkpoint.saved_step import load as read_checkpoint
from gptlite.errors import CheckpointError, RunInUseError, StorageError, UsageError, as_call, system_reason
from gptlite.storage import durable, locks
from gptlite.storage.durable import MANIFEST
from gptlite.storage.reader import STEP_NAME, Reader, read_manifest
from gptlite.storage.validation import is_count, is_number, parse_object
from gptlite.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

DEFAULT_PARENT = Path("checkpoints")
LOG = "metrics.jsonl"
EVENTS = "tensorboard"  # the folder of the log for TensorBoard
EVENT_FILES = "events.out.tfevents.*.gptlite"
LINKS = ("best", "latest")
LARGEST_LOG = 256 << 20  # bytes
LEFTOVER = re.compile(
    r"\.(tmp|trash)-(step-\d{9,18}|run\.json|lists-[0-9a-f]{16}\.jsonl|metrics\.jsonl"
    r"|table_history\.safetensors|best|latest|trial)(-[0-9a-f]+)?"
)
# Names that Windows keeps for devices, with any suffix; a run that is copied there must have another.
DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
T = TypeVar("T")
PRUNED_AT_MOST = 3  # times in a row, while a model is read


@dataclass(frozen=True)
class Step:
    """One saved step of a run; `val_bits_per_byte` is what it scored when it was saved."""

    path: Path
    number: int
    val_bits_per_byte: float | None


class Run:
    """One run directory on disk. While it is locked, everything is written through the directory that was locked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: RunLock | None = None

    def is_run(self) -> bool:
        return (self.path / run_info.NAME).is_file()

    def step_path(self, number: int) -> Path:
        return self.path / f"step-{number:09d}"

    def steps(self) -> list[Step]:
        """All complete steps, oldest first. A directory without a readable manifest is not one."""
        found: list[Step] = []
        for path in self.step_directories():
            with contextlib.suppress(CheckpointError):
                score = read_manifest(path).get("val_bits_per_byte")
                found.append(Step(path, int(path.name[5:]), score if isinstance(score, float) else None))
        return found

    def step_directories(self) -> list[Path]:
        """Everything that has the name of a step and is no link, oldest first, whatever is in it."""
        entries = self.path.iterdir() if self.path.is_dir() else ()
        named = [p for p in entries if STEP_NAME.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]
        return sorted(named, key=lambda path: int(path.name[5:]))

    def step_to_resume(self, notice: Callable[[str], None] = lambda _: None) -> Path:
        """The newest step whose every digest is right; newer ones are set aside, with a notice.

        Raises `CheckpointError` when there is none: a damaged run is never silently begun again.
        """
        damaged: list[tuple[Path, CheckpointError]] = []
        for path in reversed(self.step_directories()):
            try:
                verify(path)
            except CheckpointError as error:
                damaged.append((path, error))
                continue
            for other, error in damaged:
                try:
                    aside = durable.set_aside(other, self.at)
                except OSError as failure:
                    raise StorageError(f"cannot rename {other}: {system_reason(failure)}.") from failure
                notice(f"{error} It is set aside as {aside.name}; training goes on from {path.name}.")
            return path
        if damaged:
            raise CheckpointError(
                f"{self.path}: none of the saved steps is intact. {damaged[0][1]} Start a new run without `resume`."
            )
        raise CheckpointError(f"{self.path}: no step was ever completed, so there is nothing to resume; start it anew.")

    def latest(self) -> Step | None:
        steps = self.steps()
        return steps[-1] if steps else None

    def best(self) -> Step | None:
        """The step with the lowest validation score; the newest where none has one."""
        scored = [step for step in self.steps() if step.val_bits_per_byte is not None]
        return min(scored, key=lambda s: (s.val_bits_per_byte, -s.number)) if scored else self.latest()

    def prune(self, keep: int) -> None:
        """Delete all but the `keep` newest steps and the best one. Raises `StorageError`."""
        steps, best = self.steps(), self.best()
        for step in steps[: -max(1, keep)]:
            if best is None or step.path != best.path:
                durable.remove_directory(step.path, self.at)

    def link(self) -> None:
        """Point `best` and `latest` at their steps."""
        for name, step in zip(LINKS, (self.best(), self.latest()), strict=True):
            if step is not None:
                with contextlib.suppress(OSError):
                    durable.replace_link(self.path / name, step.path.name, self.at)

    def read_info(self) -> RunInfo:
        """What `run.json` says, each field of the type that it must have. Raises `CheckpointError`."""
        with Reader(self.path, {}) as reader:
            return run_info.read(reader)

    def write_info(self, info: Mapping[str, Any]) -> None:
        """Replace `run.json`, and the lists that are too long for it. Raises `StorageError` and `LimitError`."""
        self.check()
        content, lists, rows = run_info.to_files(info, self.path / run_info.NAME)
        if lists and not (self.path / lists).exists():  # the name says what is in it
            durable.replace_file(self.path / lists, rows, self.at)
        durable.replace_file(self.path / run_info.NAME, content, self.at)
        self.check_place()
        for path in self.path.iterdir():
            if run_info.LISTS.fullmatch(path.name) and path.name != lists:
                with contextlib.suppress(OSError):
                    durable.remove_file(path, self.at)

    def clear_log(self) -> None:
        """Delete what an attempt that never completed a step has logged."""
        for name in (LOG, table_history.NAME):
            durable.remove_file(self.path / name, self.at)
        for path in event_files(self.path / EVENTS):
            path.unlink(missing_ok=True)

    def write_table_history(self, content: bytes) -> None:
        """Replace the file of token tables. Raises `StorageError`; `RunLostError` where the run is elsewhere."""
        self.check()
        durable.replace_file(self.path / table_history.NAME, content, self.at)

    def log_lines(self) -> list[bytes]:
        """The lines of `metrics.jsonl` with their ends; the last one may be half written. Raises `CheckpointError`."""
        with Reader(self.path, {}) as reader:
            if not reader.has(LOG):
                return []
            return reader.bytes(LOG, LARGEST_LOG, grows=True).splitlines(keepends=True)

    def read_log(self) -> list[dict[str, Any]]:
        """The whole lines of the log, without what is no finite number. Raises `CheckpointError`."""
        path = self.path / LOG
        try:
            content = b"".join(self.log_lines()).decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path} is not UTF-8: {error.reason} at byte {error.start:,}.") from error
        metrics: list[dict[str, Any]] = []
        for i, line in enumerate(content.split("\n")[:-1], 1):  # the last one may be half written
            parsed = parse_object(line, f"{path}, line {i:,}")
            kept = {key: x for key, x in parsed.items() if is_number(x) or (key == "sample" and isinstance(x, str))}
            if not is_count(kept.get("step")):
                raise CheckpointError(f"{path}, line {i:,}, has no step.")
            metrics.append(kept)
        return metrics

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to `metrics.jsonl`. Raises `StorageError`; `RunLostError` where the run is elsewhere."""
        self.check()
        try:
            content = (json.dumps(line) + "\n").encode()
            durable.append(self.path / LOG, content, self.at, most=LARGEST_LOG)
        except OSError as error:
            raise StorageError(f"cannot write {self.path}/metrics.jsonl: {system_reason(error)}.") from error
        finally:
            self.check_place()

    def cut_log(self, step: int) -> None:
        """Delete what was logged after `step`, which will come again, and a line that a crash left half written."""
        lines = self.log_lines()
        kept = [line for line in lines if (logged := logged_step(line)) is not None and logged <= step]
        if kept != lines or self._log_is_shared():
            durable.replace_file(self.path / LOG, b"".join(kept), self.at)

    def _log_is_shared(self) -> bool:
        """Has the log another name, as in a copy made of hard links? Then lines are not added to it, but to a copy."""
        try:
            return os.stat(self.path / LOG, follow_symlinks=False).st_nlink > 1
        except OSError:
            return False

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for one trainer; the kernel releases it when the process ends, however it ends.

        Raises `RunInUseError` and `StorageError`.
        """
        held = RunLock(self.path)
        try:
            self.sweep()
            self._lock = held
            yield
        finally:
            self._lock = None
            held.close()

    @property
    def at(self) -> int | None:
        """The descriptor of the directory to write through while it is locked."""
        return self._lock.at if self._lock else None

    def check(self) -> None:
        """Before a write. Raises `RunLostError` where the lock is no longer held, so that others may write here."""
        if self._lock:
            self._lock.check()

    def check_place(self, saved: str = "") -> None:
        """After a write. Raises `RunLostError` where the path no longer leads to what was written to."""
        if self._lock:
            self._lock.check_place(saved)
        elif not self.path.is_dir():
            raise RunLostError(f"{self.path} was deleted or moved while it was trained in.")

    def sweep(self) -> None:
        """Remove what a crash left; only for the one who holds the lock."""
        for path in self.path.iterdir():
            if LEFTOVER.fullmatch(path.name):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


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
    name = re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "run"
    return f"{name}-run" if DEVICE_NAME.fullmatch(name) else name


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
    """The run at a path the user chose, which must be free. Nothing is overwritten.

    Raises `UsageError`, and `StorageError` for a path that the system cannot look at.
    """
    place = Path(os.path.realpath(path))
    if place in (Path(os.path.expanduser("~")), *Path.cwd().parents, Path(place.anchor)) or path.parts[:1] == ("~",):
        raise UsageError(f"{path} is no place for a run; choose a new directory with `out`.")
    try:
        names = sorted(os.listdir(path)) if path.exists() else []
        free = not names or _reusable(path)
    except NotADirectoryError as error:
        raise UsageError(f"{path} is a file; choose a directory with `out`.") from error
    except OSError as error:
        reason = system_reason(error)
        raise StorageError(f"a run cannot be made at the path of `out`: {reason}; choose another directory.") from error
    if not free and Run(path).is_run():
        raise UsageError(
            f"{path}: a run is there already; continue it with `resume=True`, or choose another with `out`."
        )
    if not free:
        raise UsageError(f"{path}: the folder is not empty (it has {names[0]}); choose another directory with `out`.")
    return Run(path)


def event_files(folder: Path) -> list[Path]:
    """The files for TensorBoard that gptlite wrote to `folder`; other programs may have written others."""
    return [path for path in folder.glob(EVENT_FILES) if path.name.split(".")[3].isdecimal()]


def _reusable(path: Path) -> bool:
    """Was a run begun here that never completed a step, so that nothing can be lost?"""
    ours = {run_info.NAME, LOG, table_history.NAME, LOCK, locks.FILE}
    names = {p.name for p in path.iterdir()} if path.is_dir() else set()
    names -= {EVENTS} if names & ours else set()
    left = [name for name in names if not LEFTOVER.fullmatch(name) and not run_info.LISTS.fullmatch(name)]
    return bool(names) and all(name in ours for name in left)


def followed(path: Path) -> Path:
    """The step that `best` or `latest` names where it is a text file in place of a link; else `path` itself."""
    if path.name in LINKS:
        with contextlib.suppress(OSError, ValueError):
            with open(path, "rb") as file:
                name = file.read(100).decode("ascii").strip()
            if STEP_NAME.fullmatch(name):
                return path.parent / name
    return path


def load(model: str | Path | None = None, device: torch.device | str = "cpu") -> Checkpoint:
    """The model, tokenizer and configuration of whatever `find_model` finds."""
    return read_model(model, lambda path: read_checkpoint(path, device))


def load_tokenizer(argument: str | Path) -> tuple[Path, Tokenizer]:
    """The tokenizer in a directory that holds one, with or without a model, or of a run; and where it lies."""
    path = followed(Path(argument))
    directory = path if _exists(path / "tokenizer.json") else find_model(str(argument))
    with Reader(directory) as reader:
        return directory, read_tokenizer(reader)


def read_model(model: str | Path | None, read: Callable[[Path], T]) -> T:
    """What `read` makes of the directory that `find_model` finds.

    A trainer may delete a step while it is read; then the run has a newer one, and that is read.
    """
    for left in range(PRUNED_AT_MOST, -1, -1):
        path = None
        try:
            path = find_model(None if model is None else str(model))
            return read(path)
        except CheckpointError:
            if left == 0 or (path is not None and path.is_dir()):
                raise
    raise AssertionError


def find_model(argument: str | None = None, parent: Path = DEFAULT_PARENT) -> Path:
    """The model directory that `argument` means: a run (its best step), a step, or a Hugging Face directory or cache.

    With no argument: `$GPTLITE_MODEL`, else the newest run under `parent`. Raises `CheckpointError`.
    """
    argument = argument or os.environ.get("GPTLITE_MODEL") or None
    if argument is None:
        candidates = [Run(p) for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
        trained = [best.path for run in candidates if (best := run.best())]
        if not trained:
            raise CheckpointError(
                f"no trained model under {parent}; train one with {as_call('train', 'FILE')}, or name one as `model`."
            )
        return max(trained, key=lambda path: (_modified(path), path))
    path = followed(Path(argument))
    if path.is_file():
        why = "it is a pickle, which can run code and is never opened" if path.suffix in PICKLES else "it is a file"
        raise CheckpointError(f"there is no model at {path}: {why}; name the directory of a model.")
    if _exists(path / "config.json") or _exists(path / MANIFEST):
        return path.resolve()
    if (snapshot := _snapshot(path)) is not None:
        return snapshot
    run = Run(path)
    if (best := run.best()) is not None:
        return best.path
    if run.is_run():
        raise CheckpointError(f"{path} holds no completed step yet; let it train longer, then try again.")
    near = sorted(p.name for p in path.parent.iterdir() if Run(p).is_run()) if path.parent.is_dir() else []
    hint = f" Runs beside it: {', '.join(near[:8])}." if near else ""
    raise CheckpointError(f"there is no model at {path}.{hint}")


def _snapshot(path: Path) -> Path | None:
    """What Hugging Face's cache keeps of a model in a folder such as models--openai-community--gpt2."""
    try:
        with Reader(path / "refs", {}) as reader:
            commit = reader.text("main", 64).strip()
    except CheckpointError:
        return None
    found = path / "snapshots" / commit
    return found if re.fullmatch("[0-9a-f]{40}", commit) and _exists(found / "config.json") else None


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # deleted since it was found
        return 0.0


def _exists(path: Path) -> bool:
    """Is something there, be it a link that leads nowhere?"""
    try:
        return os.path.lexists(path)
    except ValueError:  # a name that no file can have
        return False

"""A power cut at any moment loses nothing that was announced.

The calls of real saves are written down. After each of them the power may go, and of what was not yet forced to disk
any part may be there: of a file the bytes as they were last forced, or the new ones, or half of them, or zeros in
their place; of a directory any of the names that were made, moved or removed since. Such states are laid out as real
directories, and what `--resume` uses reads them. This is harsher than the file systems in use, which keep more.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from reliability.faults import Call, watched
from reliability.tiny import TinyTrainer

from gptlite.checkpoint import saved_step
from gptlite.checkpoint.runs import Run
from gptlite.embedding import statistics as calibration
from gptlite.errors import CheckpointError
from gptlite.storage import durable
from gptlite.storage.reader import read_manifest
from gptlite.training.watcher import Watcher

STEPS = 4  # each saved, two kept: pruning is part of it


@dataclass
class Node:
    """A file, a link or a directory: what it is now, what a power cut leaves of it for sure, and what is in between."""

    target: str = ""
    now: bytes = b""
    forced: bytes = b""
    names: dict[str, int] = field(default_factory=dict)
    forced_names: dict[str, int] = field(default_factory=dict)
    changes: list[tuple[str, str, int]] = field(default_factory=list)  # old name, new name, whose; "" for none

    def change(self, old: str, new: str, which: int) -> None:
        change_names(self.names, old, new, which)
        self.changes.append((old, new, which))

    def force(self) -> None:
        self.forced, self.forced_names, self.changes = self.now, dict(self.names), []


def change_names(names: dict[str, int], old: str, new: str, which: int) -> None:
    names.pop(old, None)
    if new:
        names[new] = which


class Disk:
    """What calls make of a disk whose root is node 0."""

    def __init__(self) -> None:
        self.nodes, self.announced = {0: Node()}, 0

    def apply(self, operation: tuple[Any, ...]) -> None:
        kind, *rest = operation
        if kind == "new":
            which, target = rest
            self.nodes[which] = Node(target)
        elif kind == "change":
            directory, old, new, which = rest
            self.nodes[directory].change(old, new, which)
        elif kind == "put":
            which, offset, content = rest
            now = self.nodes[which].now.ljust(offset, b"\0")
            self.nodes[which].now = now[:offset] + content + now[offset + len(content) :]
        elif kind == "force":
            self.nodes[rest[0]].force()
        elif kind == "announce":
            self.announced = rest[0]

    def states(self, limit: int, rng: random.Random) -> Iterator[dict[Any, Any]]:
        """What a power cut may leave now: all states, or `limit` of them; a choice for each open question."""
        questions: list[tuple[Any, int]] = []
        for which, node in self.nodes.items():
            if node.now != node.forced:
                questions.append((which, 4))
            questions += [((which, i), 2) for i in range(len(node.changes))]
        keys = [key for key, _ in questions]
        total = 1
        for _, options in questions:
            total *= options
        if total <= limit:
            for choice in itertools.product(*(range(options) for _, options in questions)):
                yield dict(zip(keys, choice, strict=True))
            return
        for _ in range(limit):
            kept = rng.choice((0.1, 0.5, 0.9))
            yield {key: rng.randrange(1, n) if rng.random() < kept else 0 for key, n in questions}

    def lay_out(self, state: dict[Any, Any], path: Path, which: int = 0) -> None:
        """Make the directory `which` as the power cut left it."""
        path.mkdir()
        node = self.nodes[which]
        names = dict(node.forced_names)
        for i, change in enumerate(node.changes):
            if state.get((which, i)):
                change_names(names, *change)
        for name, child in names.items():
            entry = self.nodes[child]
            if entry.target == "directory":
                if child != which:
                    self.lay_out(state, path / name, child)
            elif entry.target:
                (path / name).symlink_to(entry.target)
            else:
                half = entry.now[: len(entry.now) // 2]
                (path / name).write_bytes((entry.forced, entry.now, half, bytes(len(entry.now)))[state.get(child, 0)])


class Recorder:
    """Writes down what calls do to the disk below `root`."""

    def __init__(self, root: Path) -> None:
        self.root, self.disk = root, Disk()
        self.disk.nodes[0].target = "directory"
        self.operations: list[tuple[Any, ...]] = []
        self.open: dict[int, list[int]] = {}  # descriptor -> node, position

    def do(self, *operation: Any) -> None:
        self.operations.append(operation)
        self.disk.apply(operation)

    def place(self, path: Any, dir_fd: int | None = None) -> tuple[int, str] | None:
        """The directory and the name that a path means; None outside of the root."""
        if dir_fd is not None:
            return (self.open[dir_fd][0], str(path)) if dir_fd in self.open else None
        path = Path(path)
        if not path.is_relative_to(self.root) or path == self.root:
            return None
        directory = 0
        for name in path.relative_to(self.root).parts[:-1]:
            directory = self.disk.nodes[directory].names[name]
        return directory, path.name

    def add(self, directory: int, name: str, target: str) -> int:
        which = len(self.disk.nodes)
        self.do("new", which, target)
        self.do("change", directory, "", name, which)
        return which

    def __call__(self, name: str, call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        answer = call(*arguments, **options)
        first = arguments[0]
        if isinstance(first, int):
            if first in self.open:
                self.through_descriptor(name, first, arguments, answer)
        elif name == "open" and Path(first) == self.root:
            self.open[answer] = [0, 0]
        elif name == "symlink":
            directory, new = self.place(arguments[1]) or (None, "")
            if directory is not None:
                self.add(directory, new, arguments[0])
        elif (place := self.place(first, options.get("dir_fd"))) is not None:
            self.through_name(name, place, arguments, answer)
        return answer

    def through_descriptor(self, name: str, descriptor: int, arguments: tuple[Any, ...], answer: Any) -> None:
        which, position = self.open[descriptor]
        if name == "write":
            self.do("put", which, position, bytes(arguments[1][:answer]))
            self.open[descriptor][1] += answer
        elif name == "posix_fallocate":
            self.do("put", which, len(self.disk.nodes[which].now), bytes(arguments[2]))
        elif name == "fsync":
            self.do("force", which)
        elif name == "close":
            del self.open[descriptor]

    def through_name(self, name: str, place: tuple[int, str], arguments: tuple[Any, ...], answer: Any) -> None:
        directory, old = place
        names = self.disk.nodes[directory].names
        if name == "open":
            which = names[old] if old in names else self.add(directory, old, "")
            end = len(self.disk.nodes[which].now) if arguments[1] & os.O_APPEND else 0
            self.open[answer] = [which, end]
        elif name == "mkdir":
            self.add(directory, old, "directory")
        elif name in ("rename", "replace"):
            self.do("change", directory, old, Path(arguments[1]).name, names[old])
        elif name in ("unlink", "rmdir"):
            self.do("change", directory, old, "", 0)


class Announcer(Watcher):
    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def saved(self, step: int, path: Path) -> None:
        self.recorder.do("announce", step)


GOOD = {"well", "nothing yet"}


@dataclass(frozen=True)
class Recording:
    operations: list[tuple[Any, ...]]
    steps: dict[int, dict[str, Any]]  # what the manifests of the saved steps said

    def cut(self, folder: Path, states_a_point: int, enough: int = 10**9) -> Counter[str]:
        """Cut the power after each operation, and count what comes of it, until `enough` is not good."""
        rng, disk, found = random.Random(0), Disk(), Counter[str]()
        disk.nodes[0].target = "directory"
        for operation in self.operations:
            disk.apply(operation)
            for state in disk.states(states_a_point, rng):
                disk.lay_out(state, folder / "disk")
                found[self.judge(Run(folder / "disk" / "run"), disk.announced)] += 1
                shutil.rmtree(folder / "disk")
            if sum(n for what, n in found.items() if what not in GOOD) >= enough:
                break
        return found

    def judge(self, run: Run, announced: int) -> str:
        """What `--resume` makes of the run after a power cut; it reads every byte of the step that it chooses."""
        if not all(saved_step.is_intact(step) for step in run.step_directories()):
            return "a step that is not whole"
        try:
            newest = run.step_to_resume()
        except CheckpointError:
            return "lost" if announced else "nothing yet"
        number = int(newest.name[5:])
        if number < announced:
            return "lost"
        return "well" if read_manifest(newest) == self.steps[number] else "silently wrong"


Record = Callable[[], Recording]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: what is laid out here need not survive anything."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as name:
        yield Path(name)


@pytest.fixture
def record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """Train a tiny model from the making of its run on, and write down what that does to the disk."""
    statistics = {"mean": torch.zeros(2, 8)}
    monkeypatch.setattr(calibration, "measure_statistics", lambda *_, **__: statistics)

    def record() -> Recording:
        trainer, root, steps = TinyTrainer(folder), folder / "root", {}
        root.mkdir()
        recorder, run = Recorder(root), Run(root / "run")

        class Keeper(Announcer):
            def saved(self, step: int, path: Path) -> None:
                super().saved(step, path)
                steps[step] = read_manifest(path)

        with watched(recorder), run.lock():
            trainer.session(run, STEPS, watcher=Keeper(recorder)).fit()
        assert len(steps) == STEPS and len(recorder.operations) > 60 * STEPS
        return Recording(recorder.operations, steps)

    return record


@pytest.mark.row("P10")
@pytest.mark.parametrize("states_a_point", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_a_power_cut_loses_nothing(record: Record, folder: Path, states_a_point: int) -> None:
    found = record().cut(folder, states_a_point)
    print(dict(found))
    assert set(found) == GOOD
    assert found["well"] >= (400 if states_a_point == 2 else 2000)


def flush_nothing(_: object) -> None:
    """What a writer does that trusts the system."""


def flush_all_but(left_out: Callable[[Path], bool]) -> Callable[[Path, int | None], None]:
    flush = durable.flush_directory
    return lambda path, at=None: None if left_out(path) else flush(path, at)


@pytest.mark.row("P10")
@pytest.mark.parametrize("part", ["anything", "files", "folders", "the new folder", "the run"])
def test_what_is_not_forced_to_disk_is_missed(
    record: Record, folder: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of fsync is needed: without it, the same cuts find what is lost."""
    if part == "anything":
        monkeypatch.setattr(durable, "_flush", flush_nothing)
    elif part == "files":
        force = durable._flush
        monkeypatch.setattr(durable, "_flush", lambda d: force(d) if stat.S_ISDIR(os.fstat(d).st_mode) else None)
    else:
        left_out = {
            "folders": lambda _: True,
            "the new folder": lambda path: ".tmp-" in path.name,
            "the run": lambda path: path == Path(),  # whose writer has it open
        }[part]
        monkeypatch.setattr(durable, "flush_directory", flush_all_but(left_out))
    found = record().cut(folder, states_a_point=2, enough=5)
    assert found["lost"] + found["a step that is not whole"] + found["silently wrong"] >= 5, found

"""The directory of a comparison: where it is, what it remembers, and which contenders are finished.

comparisons/<name>/
  comparison.json     the text, the plan and all else that results depend on
  tokenizer.json
  lstm/               a finished contender: result.json, and model.safetensors of a network; written by one rename
  speed.json          how fast the networks train
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gptlite.checkpoint import runs
from gptlite.comparison.contenders import CONTENDERS, Contender
from gptlite.errors import CheckpointError, RunInUseError, StorageError, UsageError, as_call, system_reason
from gptlite.storage import durable, locks
from gptlite.storage.durable import MANIFEST
from gptlite.storage.reader import Reader
from gptlite.text.tokenizer import Tokenizer

INFO, TOKENIZER, SPEED, RESULT = "comparison.json", "tokenizer.json", "speed.json", "result.json"
DEFAULT_PARENT = Path("comparisons")
LARGEST = 64 << 20  # bytes of a file that is read
FORMAT = 1


class Store:
    """One comparison on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        return (self.path / INFO).is_file()

    def read_info(self) -> dict[str, Any]:
        """What `comparison.json` says. Raises `CheckpointError`."""
        if not self.exists:
            raise CheckpointError(f"{self.path} holds no comparison: there is no {INFO}; start one without `resume`.")
        with Reader(self.path, {}) as reader:
            info = reader.json(INFO)
        missing = {"format", "protocol", "contenders", "arguments", "reading", "val", "text", "facts"} - info.keys()
        if missing or info["format"] != FORMAT:
            raise CheckpointError(
                f"{self.path / INFO} is not one that this gptlite can go on with; start a new comparison."
            )
        return info

    def tokenizer(self) -> Tokenizer:
        with Reader(self.path, {}) as reader:
            return Tokenizer.from_json(reader.text(TOKENIZER, LARGEST), self.path / TOKENIZER)

    def begin(self, info: Mapping[str, Any], tokenizer: Tokenizer) -> None:
        """Write what all contenders have in common. Raises `StorageError`."""
        durable.replace_file(self.path / TOKENIZER, tokenizer.to_json().encode())
        durable.replace_file(self.path / INFO, durable.json_bytes({"format": FORMAT, **info}))

    def is_finished(self, contender: Contender) -> bool:
        return (self.path / contender.name / MANIFEST).is_file()

    def finished(self) -> list[Contender]:
        return [contender for contender in CONTENDERS.values() if self.is_finished(contender)]

    def result(self, contender: Contender) -> dict[str, Any]:
        """Raises `CheckpointError` where it is damaged."""
        with Reader(self.path / contender.name) as reader:
            return reader.json(RESULT)

    def speeds(self, contenders: Sequence[Contender]) -> dict[str, Any] | None:
        """The speeds of all these networks, measured together; None where they were not."""
        if not (self.path / SPEED).is_file():
            return None
        with Reader(self.path, {}) as reader:
            found = reader.json(SPEED)
        speeds = found.get("speeds")
        return speeds if isinstance(speeds, dict) and {c.name for c in contenders} <= speeds.keys() else None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One process at a time. Raises `RunInUseError`, and `StorageError` where there can be no such directory."""
        try:
            durable.make_directory(self.path)
            descriptor = durable.open_directory(self.path)
        except OSError as error:
            raise StorageError(
                f"cannot use {self.path}: {system_reason(error)}; choose another `directory`."
            ) from error
        try:
            if descriptor is not None and not locks.lock_file(descriptor, wait=False):
                raise RunInUseError(f"{self.path}: another process works on this comparison; wait until it ends.")
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)


def new_store(directory: str | Path | None, inputs: Sequence[str]) -> Store:
    """A directory for a new comparison: `directory`, or one named after the first input, with a number if need be.

    Raises `UsageError` where something is there already.
    """
    if directory is None:
        name = runs.run_name(inputs)
        numbered = (Store(DEFAULT_PARENT / (name if n == 1 else f"{name}-{n}")) for n in itertools.count(1))
        return next(store for store in numbered if not store.path.exists() or _is_empty(store.path))
    store = Store(Path(directory))
    if store.exists:
        again = as_call("compare", directory=str(directory), resume=True)
        raise UsageError(f"{directory}: a comparison is there already; go on with it: {again}.")
    if store.path.exists() and not (store.path.is_dir() and _is_empty(store.path)):
        raise UsageError(f"{directory} is there already and not an empty folder; choose another `directory`.")
    return store


def old_store(directory: str | Path | None, inputs: Sequence[str]) -> Store:
    """The comparison to go on with: `directory`, else the newest one of these inputs, else the newest of all.

    Raises `UsageError` where there is none.
    """
    if directory is not None:
        return Store(Path(directory))
    pattern = re.compile(rf"{re.escape(runs.run_name(inputs))}(-\d+)?" if inputs else ".*")
    found = DEFAULT_PARENT.iterdir() if DEFAULT_PARENT.is_dir() else ()
    stores = [Store(path) for path in found if pattern.fullmatch(path.name) and Store(path).exists]
    if not stores:
        raise UsageError(f"there is no comparison to go on with in {DEFAULT_PARENT}; name one with `directory`.")
    return max(stores, key=lambda store: (store.path / INFO).stat().st_mtime)


def _is_empty(path: Path) -> bool:
    """A folder in which nothing but remains of an interrupted write are."""
    return path.is_dir() and all(name.startswith(".") for name in os.listdir(path))

"""Writing so that a crash leaves all or nothing: temporary name, every file forced to disk, manifest last, one rename.

Nothing is announced before the directory that holds the new name is on disk too.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptlite.errors import StorageError

MANIFEST = "MANIFEST.json"
FORMAT = 1


def write_directory(directory: Path, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
    """Write `files` and a manifest under a temporary name, force them to disk, then rename to `directory`."""
    scratch = directory.parent / f".tmp-{directory.name}-{os.getpid()}"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        entries = {}
        for name, content in files.items():
            path = scratch / name
            path.parent.mkdir(exist_ok=True)
            _write_durably(path, content)
            entries[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for folder in {(scratch / name).parent for name in files} - {scratch}:
            _fsync_directory(folder)
        _write_durably(scratch / MANIFEST, json_bytes({"format": FORMAT, **facts, "files": entries}))
        _fsync_directory(scratch)
        scratch.rename(directory)
        _fsync_directory(directory.parent)
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise StorageError(f"cannot save {directory}: {error.strerror or error}; earlier steps are intact.") from error


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON, all or nothing. Raises `StorageError`."""
    write_file(path, json_bytes(value))


def write_file(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, all or nothing. Raises `StorageError`."""
    scratch = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        _write_durably(scratch, content)
        scratch.replace(path)
        _fsync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}.") from error


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _write_durably(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _fsync_directory(path: Path) -> None:
    if os.name == "nt":  # Windows cannot open a directory to flush it
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Folders that take seconds to make, and which all processes of a run of the tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills, in the first process that needs it; the others wait for it."""
    shared = factory.getbasetemp()
    folder = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / f"shared-{name}"
    with FileLock(f"{folder}.lock"):
        if not (folder / ".made").exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
            folder.mkdir()
            make(folder)
            (folder / ".made").touch()
    return folder


def own_copy(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """As `made_once`, but a copy for this process, where commands lock what they read."""
    folder = made_once(factory, name, make)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return folder
    return Path(shutil.copytree(folder, factory.mktemp(name) / "copy", symlinks=True))

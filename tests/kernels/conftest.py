"""fused.c as machine code, compiled once."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptlite.kernels.build import Kernel, take_notices


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the machine code in it."""
    cache = tmp_path_factory.mktemp("cache")
    Kernel("fused", cache / "kernels").build()
    return cache


@pytest.fixture
def library(kernels: Path) -> ctypes.CDLL:
    return Kernel("fused", kernels / "kernels").load()


@pytest.fixture
def cached(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands find the machine code."""
    take_notices()  # of other tests
    shutil.copytree(kernels, Path("cache"), dirs_exist_ok=True)
    yield

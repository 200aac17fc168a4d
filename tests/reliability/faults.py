"""Every call by which the disk is changed, sent through one function that may fail it, stop in it or write it down."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CALLS = (
    "open", "posix_fallocate", "write", "fsync", "close", "mkdir", "rename", "replace", "symlink", "unlink", "rmdir",
    "ftruncate",
)  # fmt: skip
# Python itself repeats these when a signal interrupts them, so no program in Python ever sees them interrupted.
REPEATED_BY_PYTHON = {"open", "posix_fallocate", "write", "fsync", "ftruncate"}

Call = Callable[..., Any]
Watch = Callable[[str, Call, tuple[Any, ...], dict[str, Any]], Any]


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """While this lasts, `os.rename(a, b)` is `watch("rename", <the real one>, (a, b), {})`, and so on."""
    real = {name: getattr(os, name) for name in CALLS if hasattr(os, name)}

    def through(name: str) -> Call:
        return lambda *arguments, **options: watch(name, real[name], arguments, options)

    for name in real:
        setattr(os, name, through(name))
    try:
        yield
    finally:
        for name, call in real.items():
            setattr(os, name, call)


def count_calls(action: Callable[[], object]) -> list[str]:
    """The names of the calls that `action` makes, in order."""
    names: list[str] = []

    def watch(name: str, call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        names.append(name)
        return call(*arguments, **options)

    with watched(watch):
        action()
    return names

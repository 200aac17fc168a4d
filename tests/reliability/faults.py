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
        def called(*arguments: Any, **options: Any) -> Any:
            places = {key: options[key] for key in ("dir_fd", "src_dir_fd", "dst_dir_fd") if key in options}
            if not any(at is not None for at in places.values()):
                return watch(name, real[name], arguments, {k: v for k, v in options.items() if k not in places})

            # The watch sees paths; the call is made as it was, in the directory that is held open.
            def call(*changed: Any, **_: Any) -> Any:
                return real[name](*arguments, **options)

            return watch(name, call, _absolute(name, arguments, places), {})

        return called

    for name in real:
        setattr(os, name, through(name))
    try:
        yield
    finally:
        for name, call in real.items():
            setattr(os, name, call)


def _absolute(name: str, arguments: tuple[Any, ...], places: dict[str, int | None]) -> tuple[Any, ...]:
    """The arguments with the paths that names mean in the directories of these descriptors."""
    first, second = places.get("src_dir_fd", places.get("dir_fd")), places.get("dst_dir_fd")
    if name == "symlink":
        return (arguments[0], _place(arguments[1], first), *arguments[2:])
    if second is not None:
        return (_place(arguments[0], first), _place(arguments[1], second), *arguments[2:])
    return (_place(arguments[0], first), *arguments[1:])


def _place(name: Any, at: int | None) -> Any:
    return name if at is None else os.path.normpath(os.path.join(os.readlink(f"/proc/self/fd/{at}"), os.fspath(name)))


def count_calls(action: Callable[[], object]) -> list[str]:
    """The names of the calls that `action` makes, in order."""
    names: list[str] = []

    def watch(name: str, call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        names.append(name)
        return call(*arguments, **options)

    with watched(watch):
        action()
    return names

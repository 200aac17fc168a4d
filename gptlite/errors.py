"""Errors that are a person's to mend, each with the exit code of the command line.

    GptliteError                1   (a bug has no class here: it keeps its traceback and exits with 1)
    ├── UsageError              2   the command or an option makes no sense
    ├── CorpusError             3   the text cannot be read or is too short
    ├── CheckpointError         4   a model directory is missing, damaged or of an unknown kind
    ├── StorageError            5   a file cannot be written
    ├── NumericsError           6   training produced a loss that is not a number
    ├── RunInUseError           7   another process trains in this directory
    ├── LimitError              8   more memory or a larger size than allowed
    ├── ProcessError            9   another process of this training ended
    └── Interrupted   129/130/143   stopped by a signal, after saving

Each message is one sentence that says what is wrong, where, and what to do. `plural` writes the counts in them.
"""

from __future__ import annotations

import os
from typing import Any

PATH_ERRORS = {3, 206}  # of Windows: a path that is not found, also when it is too long; one that is too long
LONGEST_PATH, LONGEST_FOLDER = 259, 247  # characters of a file's and a folder's path on Windows without long paths


def plural(n: float, noun: str, several: str | None = None) -> str:
    """A count and what is counted: "1 head", "2 heads", "1,024 tokens", "3 processes", "0.5 bytes".

    - `noun`: the singular; `several`: the plural, where it is not formed by the rules of English spelling.
    """
    if n == 1:
        return f"1 {noun}"
    if several is None:
        if noun.endswith(("s", "x", "ch", "sh")):
            several = f"{noun}es"
        elif noun.endswith("y") and noun[-2:-1] not in ("", *"aeiou"):
            several = f"{noun[:-1]}ies"
        else:
            several = f"{noun}s"
    return f"{n:,} {several}"


class GptliteError(Exception):
    """Base of all errors shown to the user as one sentence."""

    exit_code = 1


class UsageError(GptliteError):
    exit_code = 2


class CorpusError(GptliteError):
    exit_code = 3


class CheckpointError(GptliteError):
    exit_code = 4


class StorageError(GptliteError):
    exit_code = 5


class NumericsError(GptliteError):
    exit_code = 6


class RunInUseError(GptliteError):
    exit_code = 7


class LimitError(GptliteError):
    exit_code = 8


class ProcessError(GptliteError):
    """Its message is empty where another process says it."""

    exit_code = 9


def system_reason(error: OSError) -> str:
    """Why the system refused something, as a part of a sentence; it names a path that is too long for Windows."""
    said = str(error.strerror or error)
    length = max(
        len(os.path.abspath(name)) if isinstance(name, str) else 0 for name in (error.filename, error.filename2)
    )
    if getattr(error, "winerror", None) in PATH_ERRORS and length > LONGEST_FOLDER:
        return (
            f"{said} (the path has {length} characters; Windows takes at most {LONGEST_PATH}, in folders "
            f"{LONGEST_FOLDER}, until long paths are enabled)"
        )
    return said


def as_fields(message: object) -> str:
    """A message about parameters, for a file whose fields have the same names: without the backquotes."""
    return str(message).replace("`", "")


def as_call(function: str, *arguments: Any, **keywords: Any) -> str:
    """A call in backquotes, for a message: what to write in Python, or what the command line makes a command of."""
    words = [repr(value) for value in arguments] + [f"{name}={value!r}" for name, value in keywords.items()]
    call = f"gptlite.{function}({', '.join(words)})".replace("`", r"\x60")
    return f"`{call}`"


def is_out_of_memory(error: BaseException) -> bool:
    """Is this how Python, or torch on any device, says that memory ran out?"""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )


class Interrupted(GptliteError):
    """A signal asked for the end; what was done so far is saved."""

    def __init__(self, message: str, signal_number: int = 2) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number

"""Work that does not look at signals, done beside the thread that does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
NAME = "gptlite background"


def wait_for(work: Callable[[], Result]) -> Result:
    """The result of `work`, or what it raised, from a thread of its own.

    What a signal's handler raises meanwhile passes through here and leaves the work behind, see `left_behind`.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # raised again where it is waited for
            errors.append(error)

    thread = threading.Thread(target=run, name=NAME, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    if errors:
        raise errors[0]
    return results[0]


def left_behind() -> bool:
    """Is there work that nobody waits for? Then Python cannot end as usual: native code would be stopped half way."""
    return any(thread.name == NAME for thread in threading.enumerate())

"""How much text each save measures to say what cosines are worth: little in most tests, as much as for a user in some.

Kept here, because `conftest` may be loaded twice: by pytest, and by the tests that import from it.
"""

from __future__ import annotations

import pytest

FEW = {"WINDOW_TOKENS": 512, "SENTENCE_TOKENS": 256, "N_PAIRS": 250}  # an eighth, or a fourth
_whole: dict[str, int] = {}


def measure_little(patch: pytest.MonkeyPatch) -> None:
    """A save takes 20 ms to measure instead of 100."""
    from gptlite.embedding import statistics

    for name, value in FEW.items():
        _whole[name] = getattr(statistics, name)
        patch.setattr(statistics, name, value)


def measure_all(patch: pytest.MonkeyPatch) -> None:
    """Saves measure as much text as without the tests."""
    from gptlite.embedding import statistics

    assert _whole, "nothing was made less"
    for name, value in _whole.items():
        patch.setattr(statistics, name, value)

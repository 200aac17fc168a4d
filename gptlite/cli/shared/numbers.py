"""How numbers are written for people: counts with their nouns, times with their units."""

from __future__ import annotations

from collections.abc import Sequence

from gptlite.errors import plural

__all__ = ["count", "duration", "listing", "passes", "plural", "rate"]


def passes(epochs: float, members: int) -> str:
    """How often a text is read, of several models by each: "10.7 times through the text by each model"."""
    return f"{epochs / members:.1f} times through the text" + (" by each model" if members > 1 else "")


def duration(seconds: float) -> str:
    """30 as "30 s", 75 as "1:15 min", 180 as "3 min", 3700 as "1:01:40 h"."""
    if (whole := round(seconds)) < 60:
        return f"{seconds:.1f} s" if 0 < seconds < 0.95 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02} h" if rest or minutes else f"{hours} h"
    return f"{minutes}:{rest:02} min" if rest else f"{minutes} min"


def count(number: float) -> str:
    """1234 as "1,234", 12345 as "12.3k", 1234567 as "1.2M"."""
    for limit, scale, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if number >= limit:
            return f"{number / scale:.1f}{unit}"
    return f"{number:,.0f}"


def rate(tokens_per_second: float) -> str:
    """7024 as "7,024 tokens/s"."""
    return f"{tokens_per_second:,.0f} tokens/s"


def listing(parts: Sequence[str]) -> str:
    """ "one, two and three"."""
    return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else "".join(parts)

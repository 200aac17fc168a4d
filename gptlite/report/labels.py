"""Where labels stand in a chart so that none covers another."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

LINE_HEIGHT = 1.3  # of a label, in ems
CHARACTER = 0.6  # width of a Latin letter, in ems; one of East Asia is an em wide
AWAY = 5.0  # pixels between a point and its label


def stack(values: Sequence[float], gap: float, taken: Sequence[tuple[float, float]] = ()) -> list[float]:
    """Where labels of horizontal lines stand, each at its value or above it, with `gap` free above each.

    - `taken`: intervals from low to high in which no label may stand.
    """
    free = {}
    room = sorted((low, high) for low, high in taken)
    for i in sorted(range(len(values)), key=lambda i: values[i]):
        at = values[i]
        for low, high in sorted([*room, *((y, y + gap) for y in free.values())]):
            if at < high and low < at + gap:
                at = high
        free[i] = at
    return [free[i] for i in range(len(values))]


def place(words: Sequence[str], points: np.ndarray, size: float, em: float) -> list[tuple[float, float] | None]:
    """The centres, in pixels, of the labels of points (n, 2) in a square of `size` pixels; None where there is no room.

    Earlier words choose first: above their point, below, beside it, or across. `em`: pixels.
    """
    boxes = np.zeros((0, 4))  # left, top, right, bottom
    dots = np.concatenate([points - 2, points + 2], axis=1)
    found: list[tuple[float, float] | None] = []
    for word, (x, y) in zip(words, points, strict=True):
        half_width, half_height = width(word) * em / 2 + 1, LINE_HEIGHT * em / 2
        up, side = half_height + 3, half_width + AWAY
        offsets = ((0, -up), (0, up), (side, 0), (-side, 0), (side, -up), (-side, -up), (side, up), (-side, up))
        for dx, dy in offsets:
            box = np.array([x + dx - half_width, y + dy - half_height, x + dx + half_width, y + dy + half_height])
            inside = box[:2].min() >= 0 and box[2:].max() <= size
            if inside and not _overlaps(box, boxes) and not _overlaps(box, dots):
                boxes = np.concatenate([boxes, box[None]])
                found.append((float(x + dx), float(y + dy)))
                break
        else:
            found.append(None)
    return found


def width(text: str) -> float:
    """About how wide a text is, in ems."""
    return sum(1.0 if unicodedata.east_asian_width(c) in "WF" else CHARACTER for c in text)


def _overlaps(box: np.ndarray, others: np.ndarray) -> bool:
    return bool(((others[:, :2] < box[2:]) & (others[:, 2:] > box[:2])).all(axis=1).any())

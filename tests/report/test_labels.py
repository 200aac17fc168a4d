"""Labels of charts: none covers another, and each is at its line or its point."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gptlite.report.labels import CHARACTER, place, stack, width


@pytest.mark.parametrize("values", [[2.0, 2.01, 2.02], [5.0, 1.0, 3.0], [2.0] * 6, [], [1.0]])
@pytest.mark.parametrize("taken", [[], [(1.9, 2.05)]])
def test_labels_of_lines_stand_at_them_or_above(values: list[float], taken: list[tuple[float, float]]) -> None:
    heights = stack(values, 0.1, taken)
    assert all(at >= value for at, value in zip(heights, values, strict=True))
    for a, b in itertools.combinations(heights, 2):
        assert abs(a - b) >= 0.1 - 1e-9
    for low, high in taken:
        assert all(at >= high or at + 0.1 <= low for at in heights)
    assert taken or max(heights, default=0.0) <= max(values, default=0.0) + 0.1 * len(values)


def test_labels_of_points_cover_neither_each_other_nor_a_point() -> None:
    rng = np.random.default_rng(0)
    words = ["word" * (1 + i % 3) for i in range(150)]
    points = rng.random((150, 2)) * 600 + 10
    centres = place(words, points, 620, 10)
    placed = [(word, at) for word, at in zip(words, centres, strict=True) if at is not None]
    assert 60 < len(placed) < 150 and centres[0] is not None
    boxes = np.array([[x - 5 * CHARACTER * len(w), y - 5, x + 5 * CHARACTER * len(w), y + 5] for w, (x, y) in placed])
    assert boxes.min() >= 0 and boxes.max() <= 620
    for i, j in itertools.combinations(range(len(boxes)), 2):
        assert not ((boxes[i, :2] < boxes[j, 2:]) & (boxes[i, 2:] > boxes[j, :2])).all(), (placed[i], placed[j])
    for x, y in points:
        assert not ((boxes[:, :2] < (x, y)) & (boxes[:, 2:] > (x, y))).all(axis=1).any()


def test_letters_of_east_asia_are_wider() -> None:
    assert width("河岸") == 2 > width("ab") == pytest.approx(2 * CHARACTER)

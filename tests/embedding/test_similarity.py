"""Cosines, corrections and neighbours, each against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from gptlite.embedding.similarity import (
    CORRECTIONS,
    correct,
    cosine_matrix,
    measure,
    nearest,
    parse_correction,
    percentile,
    unit,
)
from gptlite.errors import UsageError


@pytest.fixture(scope="module")
def cloud() -> np.ndarray:
    """Vectors (500, 6) that share a mean and one direction, in dimensions of different size."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(500, 1)) * np.array([3.0, 0.0, 4.0, 0.0, 0.0, 0.0])
    return (rng.normal(size=(500, 6)) * [1.0, 9.0, 0.1, 0.5, 1.0, 2.0] + 10 * shared + 5).astype(np.float32)


@pytest.mark.row("E10")
def test_cosines_are_those_of_the_definition() -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    matrix = cosine_matrix(vectors)
    for i, a in enumerate(vectors):
        for j, b in enumerate(vectors):
            assert matrix[i, j] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)
    assert np.isfinite(cosine_matrix(np.zeros((2, 3)))).all()


def test_the_nearest_rows_come_best_first() -> None:
    table = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [-1.0, 0.0]])
    assert [i for i, _ in nearest(np.array([2.0, 0.1]), table, 4)] == [0, 2, 1, 3]
    (best,) = nearest(np.array([2.0, 2.0]), table, 1)
    assert best == (2, pytest.approx(1.0))


def test_standardised_vectors_have_mean_0_and_deviation_1(cloud: np.ndarray) -> None:
    z = correct(cloud, "zscore", measure(cloud))
    assert np.allclose(z.mean(axis=0), 0, atol=1e-4)
    assert np.allclose(z.std(axis=0), 1, atol=1e-4)


def test_all_but_the_top_leaves_nothing_of_the_first_component(cloud: np.ndarray) -> None:
    space = measure(cloud)
    assert abs(space["components"][0] @ np.array([0.6, 0, 0.8, 0, 0, 0])) == pytest.approx(1, abs=1e-3)
    left = correct(cloud, "abtt:1", space)
    assert np.allclose(left @ space["components"][0], 0, atol=1e-4)
    assert np.allclose(left.mean(axis=0), 0, atol=1e-3)
    assert np.allclose(correct(cloud, "abtt:6", space), 0, atol=1e-3), "nothing is left of six dimensions"
    assert np.allclose(correct(cloud, "abtt", space), left), "one component for a hundred dimensions, and at least one"


def test_without_a_correction_nothing_changes(cloud: np.ndarray) -> None:
    assert correct(cloud, "none", {}) is cloud
    assert np.allclose(correct(cloud, "center", measure(cloud)), cloud - cloud.mean(axis=0), atol=1e-3)


@pytest.mark.row("E10")
@pytest.mark.parametrize("correction", CORRECTIONS)
def test_a_dimension_that_never_moves_stays_finite(correction: str) -> None:
    still = np.ones((4, 3), dtype=np.float32)
    assert np.isfinite(cosine_matrix(correct(still, correction, measure(still)))).all()


@pytest.mark.parametrize(
    "text", ["", "z", "zscore:1", "abtt:", "abtt:0", "abtt:-1", "abtt:9", "abtt:x", "none:2", "abtt:1e1"]
)
def test_an_unknown_correction_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="`correction`"):
        parse_correction(text, 64)


def test_huge_and_tiny_vectors_have_a_direction() -> None:
    rows = np.array([[3e38, 0.0], [0.0, 1e-25], [-2e25, 2e25], [0.0, 0.0]], dtype=np.float32)
    root = np.sqrt(0.5)
    assert np.allclose(unit(rows), [[1, 0], [0, 1], [-root, root], [0, 0]], atol=1e-6)


def test_percentiles_are_read_off_the_quantiles() -> None:
    quantiles = np.linspace(-1, 1, 101)
    assert [percentile(x, quantiles) for x in (-2.0, -1.0, 0.0, 0.5, 3.0)] == [0, 0, 50, 75, 100]

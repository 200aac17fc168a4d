"""What is measured, on contenders whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from gptlite.comparison import copying, measures
from gptlite.comparison.collect import difference
from gptlite.comparison.contenders import DISTANCES, N_NAMES
from gptlite.comparison.measures import Sums, measure_reach, score_windows, share, write
from gptlite.comparison.predictors import Counts
from gptlite.evaluation.scoring import sliding_windows

V = 20
ONE_BYTE = np.ones(V, dtype=np.int64)


class Forgetful:
    """Knows every token for sure that stands after at least `needs` others, and nothing of those before."""

    def __init__(self, needs: int) -> None:
        self.needs = needs

    def bits(self, windows: np.ndarray) -> np.ndarray:
        n, length = windows.shape[0], windows.shape[1] - 1
        return np.tile(np.where(np.arange(1, length + 1) >= self.needs, 1.0, 4.0), (n, 1))

    def scores(self, ids: np.ndarray) -> np.ndarray:
        """Of a text that asks for a name, the name, where it was given at most `needs` tokens ago."""
        scores = np.zeros((len(ids), copying.VOCABULARY))
        for row, text in enumerate(ids):
            for token in text[-self.needs :]:
                scores[row, token] += token < N_NAMES
        return scores

    def begin(self, ids: Sequence[int]) -> np.ndarray:
        return np.zeros(V)

    def append(self, token: int) -> np.ndarray:
        return np.zeros(V)

    def memory(self, n_tokens: int) -> int:
        return 0


def test_reach_shows_from_where_on_tokens_are_known() -> None:
    ids = np.random.default_rng(0).integers(0, V, 1000)
    reach = measure_reach(Forgetful(8), ids, 32, ONE_BYTE)
    assert [(part["first"], part["last"]) for part in reach] == [(1, 1), (2, 3), (4, 7), (8, 15), (16, 32)]
    assert [part["bits_per_byte"] for part in reach] == [4, 4, 4, 1, 1]
    assert [part["helps"] for part in reach] == [False, False, False, True, False]
    assert measure_reach(Forgetful(8), ids[:20], 32, ONE_BYTE) == []


def test_a_five_gram_reaches_four_tokens() -> None:
    """A text in which each token follows from the one three before, among noise."""
    rng, ids = np.random.default_rng(0), [1, 2, 3]
    for _ in range(6000):
        ids.append((ids[-3] + 1) % V if rng.random() < 0.9 else int(rng.integers(V)))
    text = np.array(ids)
    reach = {
        part["first"]: part["bits_per_byte"]
        for part in measure_reach(Counts(text[:5000], V, 5), text[5000:], 32, ONE_BYTE)
    }
    assert reach[4] < reach[1] - 0.1
    flat = [part["bits_per_byte"] for part in measure_reach(Counts(text[:5000], V, 1), text[5000:], 32, ONE_BYTE)]
    assert max(flat) - min(flat) < 0.2


def test_windows_score_what_the_whole_text_does() -> None:
    text = np.random.default_rng(0).choice(V, 3000, p=np.arange(1, V + 1) / np.arange(1, V + 1).sum())
    train, val = text[:2500], text[2500:]
    model = Counts(train, V, 1)
    lengths = ONE_BYTE.copy()
    lengths[0] = 0  # a separator
    scored = score_windows(model, val, sliding_windows(len(val), 32), lengths)
    p, counts = model.model.probabilities(val)[1:], val[1:] > 0
    assert scored.bits_per_byte == pytest.approx(-np.log2(p)[counts].sum() / counts.sum())
    assert scored.bytes.sum() == counts.sum()
    low, high = scored.interval() or (0, 0)
    assert low < scored.bits_per_byte < high
    assert score_windows(model, val[:1], [], lengths).interval() is None


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        sizes = rng.integers(50, 150, 40)
        low, high = Sums(rng.poisson(2.0 * sizes).astype(float), sizes.astype(float)).interval() or (0, 0)
        inside += low <= 2.0 <= high
    assert 0.91 < inside / 400 < 0.98


def test_a_difference_on_the_same_windows_is_surer_than_two_scores() -> None:
    rng = np.random.default_rng(0)
    hard, sizes = rng.normal(200, 40, 60), np.full(60, 100.0)
    one, two = hard + rng.normal(3, 1, 60), hard
    found = difference({"bits": one, "bytes": sizes}, {"bits": two, "bytes": sizes})
    assert found["bits_per_byte"] == pytest.approx(0.03, abs=0.01)
    assert found["bits_per_byte_interval"][0] > 0
    assert (
        difference({"bits": one[:2], "bytes": sizes[:2]}, {"bits": two[:2], "bytes": sizes[:2]})[
            "bits_per_byte_interval"
        ]
        is None
    )


# -- The copy test


def test_names_are_asked_for_at_the_distance() -> None:
    for distance, (ids, names) in copying.tests(1).items():
        given = (ids == copying.GIVEN).argmax(1)
        rows = np.arange(len(ids))
        assert (ids[rows, given + 1] == names).all()
        assert (ids.shape[1] - given - 1 == distance).all() and (ids[:, -1] == copying.ASKED).all()
        assert ((ids < N_NAMES).sum(1) == 1).all(), "the name stands there once"
    batch = copying.batch(3, 1).numpy()
    assert (batch[:, :-1] < 0).all() and (batch[:, -1] >= 0).all() and (batch[:, -1] < N_NAMES).all()
    assert (copying.batch(3, 1).numpy() == batch).all() and copying.SHAPE["context_length"] >= max(DISTANCES) + 12


def test_a_memory_of_a_hundred_tokens_knows_near_names_alone() -> None:
    found = {test["distance"]: test for test in measures.test_copying(Forgetful(100), 1)}
    assert found[10]["right"] == found[50]["right"] == 1.0
    assert found[200]["right"] < 0.15 and found[200]["interval"][0] <= 1 / N_NAMES


def test_the_interval_of_a_share() -> None:
    """Wilson's, for 8 of 10: 0.49 to 0.94."""
    assert share(8, 10, 50)["interval"] == pytest.approx([0.4902, 0.9433], abs=1e-4)
    assert share(0, 10, 50)["interval"][0] == 0.0


def test_samples_depend_on_the_seed_alone_and_stay_in_the_context() -> None:
    model = Counts(np.random.default_rng(0).integers(0, V, 500), V, 2)
    one, two, other = (write(model, [1, 2], seed, V, 16) for seed in (1, 1, 2))
    assert one == two != other and len(one) == 14

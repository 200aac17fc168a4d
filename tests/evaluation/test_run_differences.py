"""Runs side by side: what differs, who belongs together, and whether a difference is more than seeds explain."""

from __future__ import annotations

import numpy as np
import pytest

from gptlite.evaluation.run_differences import (
    T_VALUES,
    ScoredRun,
    compare_groups,
    differing,
    group,
    seed_spread,
)


def run(bits: float, seed: int = 1, **settings: object) -> ScoredRun:
    return ScoredRun(f"{settings}-{seed}", {"seed": seed, **settings}, bits)


def test_only_settings_that_differ_are_listed_and_absent_ones_are_none() -> None:
    runs = [run(2.0, lr=0.1, dim=64), run(2.1, lr=0.2, dim=64), run(2.2, dim=64)]
    assert differing(runs) == {"lr": [0.1, 0.2, None]}
    assert differing(runs[:1]) == {}


def test_seeds_make_no_new_group_and_the_best_comes_first() -> None:
    groups = group([run(2.0, 1, lr=1), run(1.5, 1, lr=2), run(2.2, 2, lr=1)])
    assert [[r.bits_per_byte for r in g.runs] for g in groups] == [[1.5], [2.0, 2.2]]
    assert groups[1].mean == pytest.approx(2.1)


def test_the_interval_is_that_of_a_t_test() -> None:
    """Half the width of scipy's interval for the difference of two means of equal variance."""
    from scipy import stats  # a second, for two tests

    one, two = [2.00, 2.02, 2.04], [2.10, 2.11, 2.15]
    groups = group([*(run(b, i, lr=1) for i, b in enumerate(one)), *(run(b, i, lr=2) for i, b in enumerate(two))])
    (found,) = compare_groups(groups)
    interval = stats.ttest_ind(two, one).confidence_interval(0.95)
    assert found.bits_per_byte == pytest.approx(np.mean(two) - np.mean(one))
    assert found.error == pytest.approx((interval.high - interval.low) / 2, rel=1e-3)
    assert found.exceeds_seeds


def test_a_difference_that_seeds_explain() -> None:
    (found,) = compare_groups(group([run(2.0, 1, lr=1), run(2.2, 2, lr=1), run(2.15, 1, lr=2), run(2.25, 2, lr=2)]))
    assert found.exceeds_seeds is False


def test_without_seeds_nothing_is_said_of_them() -> None:
    groups = group([run(2.0, lr=1), run(2.5, lr=2)])
    assert seed_spread(groups) is None
    assert compare_groups(groups)[0].error is None and compare_groups(groups)[0].exceeds_seeds is None
    assert seed_spread(group([run(2.0, 1, lr=1), run(2.0, 1, lr=1)])) is None, "the same seed twice shows no spread"
    assert compare_groups([]) == []


def test_the_table_of_t() -> None:
    from scipy import stats  # a second, for two tests

    assert pytest.approx([stats.t.ppf(0.975, df) for df in range(1, len(T_VALUES) + 1)], abs=6e-4) == T_VALUES

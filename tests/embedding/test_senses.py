"""Senses induced from vectors: groups that are there are found, and no groups are seen where there are none."""

from __future__ import annotations

import numpy as np
import pytest

from gptlite.embedding.senses import (
    SEVERAL,
    centre_forms,
    choose_senses,
    cluster,
    context_words,
    induce_senses,
    likeness,
    same_above_different,
    separate,
    shapeless,
    silhouettes,
    typical_words,
)
from gptlite.embedding.similarity import unit
from gptlite.errors import UsageError


def clouds(*sizes: int, dim: int = 24, spread: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points around as many random centres, and which centre each belongs to, shuffled."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return rng.standard_normal((len(sizes), dim))[truth] + spread * rng.standard_normal((len(truth), dim)), truth


def partition(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == group).tolist()) for group in np.unique(labels)}


# -- Groups


@pytest.mark.parametrize("sizes", [(30, 30), (50, 10), (25, 20, 15)])
def test_groups_that_are_there_are_found(sizes: tuple[int, ...]) -> None:
    vectors, truth = clouds(*sizes)
    found = induce_senses(vectors, len(sizes))
    assert found.clear
    assert partition(found.labels) == partition(truth)
    assert np.bincount(found.labels).tolist() == sorted(sizes, reverse=True), "the largest comes first"


@pytest.mark.parametrize("seed", range(5))
def test_one_cloud_is_no_clear_split(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stretched = rng.standard_normal((80, 24)) * np.linspace(0.2, 3, 24) + rng.standard_normal(24)
    assert not induce_senses(stretched, 2).clear


def test_likeness_is_where_the_lower_quartile_of_all_pairs_stands_among_pairs_of_one_word() -> None:
    same_word = np.linspace(-1, 1, 101)
    angles = np.radians([0, 30, 60, 90])  # cosines of pairs: 3 x .866, 2 x .5, 1 x 0, so the lower quartile is .5
    vectors = 7 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert likeness(vectors, same_word) == pytest.approx(0.75)
    assert likeness(vectors, np.linspace(0.6, 0.9, 101)) == 0 and likeness(vectors, np.linspace(-1, 0.4, 101)) == 1


@pytest.mark.parametrize(("sizes", "bound"), [((60,), 0.2), ((30, 30), 0.2), ((25, 20, 15), 0.2), ((30, 30), -0.9)])
def test_with_a_scale_of_one_word_the_likeness_decides_and_then_the_fewest_groups_that_fit(
    sizes: tuple[int, ...], bound: float
) -> None:
    """`bound`: the cosine below which a word has several senses; centres of the groups are about at right angles."""
    vectors, truth = clouds(*sizes)
    same_word = np.interp(np.linspace(0, 1, 101), [0, SEVERAL, 1], [-1, bound, 1])
    found = choose_senses(vectors, same_word=same_word)
    several = bound > 0 and len(sizes) > 1
    assert found.n_senses == (len(sizes) if several else 1) and found.clear == several
    assert found.likeness == pytest.approx(likeness(vectors, same_word))
    if several:
        assert partition(found.labels) == partition(truth)


@pytest.mark.parametrize("sizes", [(60,), (30, 30), (25, 20, 15)])
def test_the_number_of_groups_is_found(sizes: tuple[int, ...]) -> None:
    vectors, truth = clouds(*sizes)
    found = choose_senses(vectors)
    assert found.n_senses == len(sizes) and partition(found.labels) == partition(truth)
    assert found.clear == (len(sizes) > 1) and len(found.typical) == sum(sizes)


def test_few_places_have_one_sense() -> None:
    found = choose_senses(np.random.default_rng(0).normal(size=(7, 3)))
    assert found.n_senses == 1 and not found.clear and (found.silhouette, found.control) == (0, 0)


def test_places_that_are_all_alike_are_no_clear_split() -> None:
    assert not induce_senses(np.tile(np.linspace(1, 2, 24), (40, 1)), 2).clear


def test_the_same_seed_gives_the_same_senses() -> None:
    vectors, _ = clouds(20, 20, spread=2.0)
    first, second = induce_senses(vectors, 3, seed=5), induce_senses(vectors, 3, seed=5)
    assert (first.labels == second.labels).all() and first.control == second.control


def test_a_typical_place_is_near_the_middle_of_its_sense() -> None:
    vectors, _ = clouds(20, 20)
    found = induce_senses(vectors, 2)
    points = unit(vectors)
    for group in range(2):
        middle = unit(points[found.labels == group].mean(axis=0))
        assert found.typical[found.labels == group] == pytest.approx(points[found.labels == group] @ middle)


@pytest.mark.parametrize(("n", "k", "message"), [(7, 2, "8 occurrences"), (50, 1, "between 2"), (999, 21, "and 20")])
def test_too_few_places_or_odd_numbers_are_refused(n: int, k: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        induce_senses(np.ones((n, 4)), k)


def test_forms_of_a_word_are_no_senses() -> None:
    vectors, truth = clouds(20, 20, spread=0.3)
    forms = np.tile(["bank", "Bank"], 20)
    shifted = vectors + 50 * (forms == "Bank")[:, None]
    assert partition(induce_senses(shifted, 2).labels) == partition(forms == "Bank")
    assert partition(induce_senses(centre_forms(shifted, forms.tolist()), 2).labels) == partition(truth)


def test_no_group_is_left_empty() -> None:
    points = unit(np.repeat(np.eye(3), 10, axis=0))
    assert len(set(cluster(points, 5, np.random.default_rng(0)).tolist())) == 5


# -- Silhouettes and their control


def test_silhouettes_are_those_of_the_definition() -> None:
    vectors, truth = clouds(9, 6, 4, spread=1.5)
    truth[0] = 3  # one alone
    points = unit(vectors)
    distances = 1 - points @ points.T
    expected = []
    for i, own in enumerate(truth):
        others = [j for j in np.flatnonzero(truth == own) if j != i]
        if not others:
            expected.append(0.0)
            continue
        within = distances[i, others].mean()
        nearest = min(distances[i, truth == group].mean() for group in set(truth.tolist()) - {own})
        expected.append((nearest - within) / max(nearest, within))
    assert silhouettes(points, truth) == pytest.approx(np.array(expected))


def test_a_control_has_the_mean_and_the_covariance_but_no_groups() -> None:
    vectors, _ = clouds(500, 500, dim=4)
    control = shapeless(vectors, np.random.default_rng(0))
    free = vectors.mean(axis=0) + np.random.default_rng(0).standard_normal((1000, 1000)) / np.sqrt(999) @ (
        vectors - vectors.mean(axis=0)
    )
    assert np.allclose(control, unit(free))
    assert np.allclose(np.cov(free.T), np.cov(vectors.T), atol=0.2)


# -- Known senses


def test_same_above_different_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    cosines, same = rng.integers(5, size=40) / 5, rng.random(40) < 0.4
    wins = [(a > b) + 0.5 * (a == b) for a in cosines[same] for b in cosines[~same]]
    assert same_above_different(cosines, same) == pytest.approx(np.mean(wins))
    assert np.isnan(same_above_different(cosines, np.ones(40, dtype=bool)))


def test_pairs_of_one_speaker_do_not_count() -> None:
    vectors = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    senses, speakers = np.array(["a", "a", "b", "b"]), np.array(["w", "x", "y", "z"])
    assert separate(vectors, senses, speakers) == 1.0
    assert separate(vectors, np.array(["a", "b", "a", "b"]), np.array(["w", "w", "x", "x"])) == pytest.approx(0.5)


# -- Words


def test_context_words_are_near_and_of_the_same_line() -> None:
    text = "far away\none two the Bank, of three\nnext line"
    start = text.index("Bank")
    assert context_words(text, start, start + 4) == ["one", "two", "the", "of", "three"]
    long = "word " * 50 + "bank" + " tail" * 50
    assert context_words(long, 250, 254) == ["word"] * 10 + ["tail"] * 10


def test_context_words_of_scripts_without_spaces_are_characters() -> None:
    assert context_words("他在河岸上走", 2, 4) == ["他", "在", "上", "走"]
    assert context_words("नदी का किनारा bank", 14, 18) == ["नदी", "का", "किनारा"]


def test_typical_words_tell_the_groups_apart() -> None:
    contexts = [
        ["the", "river", "of"],
        ["the", "river"],
        ["a", "river", "boat"],
        ["the", "loan", "of"],
        ["the", "loan"],
    ]
    assert typical_words(contexts * 3, np.array([0, 0, 0, 1, 1] * 3), 1) == [["river"], ["loan"]]


def test_a_word_of_one_context_is_typical_of_nothing() -> None:
    contexts = [["x", "rare"], ["x"], ["y"], ["y"]]
    assert typical_words(contexts, np.array([0, 0, 1, 1]))[0] in ([], ["x"])

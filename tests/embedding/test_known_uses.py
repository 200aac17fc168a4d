"""The groups of the uses of each word: found without labels, and a use is described by those that it is like."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gptlite.checkpoint.context_encoder import Uses
from gptlite.embedding.known_uses import (
    FEWEST_USES,
    MOST_GROUPS,
    MOST_USES,
    KnownUses,
    choose_uses,
    group_uses,
    join_groups,
)
from gptlite.embedding.similarity import unit

RNG = np.random.default_rng(0)


def two_senses(n: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (2 n, 20) of length 1 around two directions, in a random order, and which is whose."""
    directions = unit(RNG.normal(size=(2, 20)))
    labels = RNG.permutation(np.repeat([0, 1], n))
    return unit(directions[labels] + noise * RNG.normal(size=(2 * n, 20))), labels


def test_groups_are_the_directions_around_which_uses_stand() -> None:
    uses, labels = two_senses(50, 0.05)
    first = [int(np.flatnonzero(labels == sense)[0]) for sense in (0, 1)]
    order = [*first, *(i for i in range(100) if i not in first)]
    (centres,) = group_uses(torch.from_numpy(uses[order])[None], 2).numpy()
    expected = unit(np.stack([uses[labels == sense].sum(axis=0) for sense in (0, 1)]))
    assert np.allclose(centres, expected)


def test_rows_of_zeros_are_no_uses_and_empty_groups_keep_their_place() -> None:
    uses = torch.eye(4)[None, :3]
    padded = torch.cat([uses, torch.zeros(1, 5, 4)], dim=1)
    assert torch.allclose(group_uses(padded, 3), uses)
    twice = torch.eye(4)[None, [0, 0, 0]]
    assert torch.allclose(group_uses(twice, 2), twice[:, :2])


def test_each_word_gets_groups_by_how_often_it_stands_in_the_text() -> None:
    counts = {3: 15, 5: 16, 8: 40, 9: 64, 11: 1000}
    words = RNG.permutation(np.repeat(list(counts), list(counts.values())))
    found: dict[int, tuple[int, int]] = {}
    for numbers, uses, n_groups in choose_uses(words, seed=1):
        for number, of_word in zip(numbers.tolist(), uses, strict=True):
            real = of_word[of_word >= 0]
            assert (words[real] == number).all() and len(set(real.tolist())) == len(real)
            found[number] = n_groups, len(real)
    assert found == {5: (2, 16), 8: (5, 40), 9: (MOST_GROUPS, 64), 11: (MOST_GROUPS, MOST_USES)}
    assert next(iter(found)) in (9, 11), "words with the most groups come first"
    assert FEWEST_USES * 2 == 16


def test_the_table_gives_each_word_its_groups() -> None:
    groups = {1: np.eye(3)[:2], 4: np.eye(3)[2:]}
    known = join_groups(groups, 3)
    assert [len(known.of_word(i)) for i in (-1, 0, 1, 2, 3, 4, 5)] == [0, 0, 2, 0, 0, 1, 0]
    assert np.allclose(known.of_word(4), groups[4]) and np.allclose(known.of_word(1), groups[1])
    nothing = join_groups({}, 3)
    assert (
        nothing.of_word(0).shape == (0, 3)
        and nothing.like(np.eye(3), np.array([0, 1, -1])).tolist() == np.eye(3).tolist()
    )


def test_a_use_is_like_the_nearest_groups_of_its_own_word() -> None:
    centres = np.eye(4)
    known = KnownUses(Uses(centres, np.array([2, 4])))
    use = unit(np.array([[1.0, 0.2, 0.9, 0.1]]))
    first, second, unknown = (known.like(use, np.array([word]))[0] for word in (0, 1, -1))
    assert first[:2] @ [1, 0] > 0.99 and not first[2:].any() and np.linalg.norm(first) == pytest.approx(1)
    assert second[2] > 0.99 and not second[:2].any()
    assert np.array_equal(unknown, use[0])
    halfway = known.like(unit(np.array([[1.0, 1.0, 0.0, 0.0]])), np.array([0]))[0]
    assert halfway == pytest.approx([0.5**0.5, 0.5**0.5, 0, 0])


def test_uses_of_one_sense_are_nearer_to_each_other_than_they_were() -> None:
    """Much noise: a few hundred uses without labels tell which parts of it are the word's senses."""
    uses, labels = two_senses(150, 0.35)
    (words, chosen, n_groups), *_ = choose_uses(np.zeros(200, dtype=np.int64), seed=0)
    centres = group_uses(torch.from_numpy(uses[chosen]), n_groups).numpy()
    known = join_groups(dict(zip(words.tolist(), centres, strict=True)), 20)
    new, sense = uses[200:], labels[200:]
    like = known.like(new, np.zeros(100, dtype=np.int64))

    def gap(vectors: np.ndarray) -> float:
        cosines, same = vectors @ vectors.T, sense[:, None] == sense
        return float((cosines[same].mean() - cosines[~same].mean()) / cosines.std())

    assert gap(like) > gap(new) + 0.2

"""Vectors of both sides: what stands to the right of a word counts, and each part can be told from the others."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gptlite import load
from gptlite.checkpoint.word_vectors import SavedWords
from gptlite.embedding.both_sides import WITH_ENCODER, ContextBags, join, left_part
from gptlite.errors import UsageError
from gptlite.text.words import Occurrence

WORDS = ["the", "river", "water", "money", "loan"]


def bags() -> ContextBags:
    vectors = np.array([[1, 1], [1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], dtype=np.float32)
    return ContextBags(SavedWords(WORDS, np.array([1000, 10, 10, 10, 10]), vectors))


def place(text: str, word: str = "bank") -> Occurrence:
    start = text.index(word)
    return Occurrence(0, text, start, start + len(word))


def near_bags(*texts: str) -> np.ndarray:
    return bags().vectors([place(text) for text in texts])[:, :2]


def test_a_bag_knows_both_sides_and_not_the_word_itself() -> None:
    left, right, other, word = bags().vectors(
        [place("river bank"), place("bank river"), place("bank loan"), place("river bank", "river")]
    )
    assert np.allclose(left, right) and left @ other < 0 and not word.any()


def test_near_words_and_rare_ones_weigh_more() -> None:
    near, far, frequent = near_bags("bank river", "bank x x river", "bank the")
    assert np.linalg.norm(near) > np.linalg.norm(far) > np.linalg.norm(frequent)
    (beyond,) = near_bags("bank" + " x" * 20 + " river")
    assert not beyond.any()


def test_in_a_wide_bag_distance_does_not_count() -> None:
    near, far, beyond = bags().vectors([place("bank" + " x" * n + " river") for n in (0, 49, 50)])
    assert np.allclose(near[2:], far[2:]) and near.any() and not beyond.any()


def test_case_does_not_count_and_unknown_words_are_nothing() -> None:
    one, other, none = bags().vectors([place("River bank"), place("river bank"), place("x bank y")])
    assert np.array_equal(one, other) and not none.any()


def test_bags_of_running_text_are_those_of_its_words_one_by_one() -> None:
    texts = ["the river water the money loan", "loan the x river", "money " * 50]
    made = bags()
    places = [
        Occurrence(i, text, m.start(), m.end()) for i, text in enumerate(texts) for m in re.finditer(r"\w+", text)
    ]
    together = made.of_words([text.split() for text in texts])
    assert np.allclose(together, made.vectors(places), atol=1e-4)
    assert made.of_words([]).shape == (0, 4)


def test_running_text_has_mean_zero_and_deviation_one_in_every_dimension() -> None:
    made = bags()
    mass = made.words.counts * made.weights / (made.words.counts * made.weights).sum()
    assert np.allclose(mass @ made.standardised, 0) and np.allclose(mass @ made.standardised**2, 1)


def test_all_parts_weigh_the_same_and_otherwise_with_a_context_encoder() -> None:
    at, before, near, wide, encoded, uses = parts = np.random.default_rng(0).normal(size=(6, 2, 4))
    space, around = {"mean": np.zeros(4), "std": np.ones(4)}, np.concatenate([near, wide], axis=1)
    units = parts / np.linalg.norm(parts, axis=-1, keepdims=True)
    cosines = (units[:, 0] * units[:, 1]).sum(-1)
    without, with_it = join(at, before, around, space), join(at, before, around, space, (encoded, uses))
    assert without.shape == (2, 16) and without[0] @ without[1] == pytest.approx(cosines[:4].mean(), abs=1e-6)
    assert with_it.shape == (2, 24) and with_it[0] @ with_it[1] == pytest.approx(WITH_ENCODER @ cosines, abs=1e-6)
    assert sum(WITH_ENCODER) == pytest.approx(1) and np.allclose(left_part(without, 4), units[0] / 2, atol=1e-6)


def test_a_saved_model_reads_what_follows_the_word(trained_run: Path) -> None:
    model = load(trained_run)
    known = [word for word in model_words(trained_run) if word.isalpha()]
    texts = [f"the [{known[0]}] {known[1]}", f"the [{known[0]}] {known[2]}"]
    left, both = (model.embed(texts, context=context) for context in ("left", "both"))
    dim = left.vectors.shape[1]
    assert np.array_equal(left.vectors[0], left.vectors[1])
    assert both.cosine()[0, 1] < 0.999 and both.left_cosine()[0, 1] == pytest.approx(1, abs=1e-5)
    assert both.vectors.shape[1] == sum(both.meta["parts"].values()) > 2 * dim
    (pair,) = both.pairs()
    assert not pair.same_prefix and pair.left == pytest.approx(1, abs=1e-5)
    assert pair.percentile is not None and pair.verdict


def model_words(run: Path) -> list[str]:
    from gptlite.checkpoint import word_vectors
    from gptlite.checkpoint.runs import read_model
    from gptlite.storage.reader import Reader

    def read(path: Path) -> list[str]:
        with Reader(path) as reader:
            found = word_vectors.read(reader)
        assert found is not None
        return found.words

    return read_model(run, read)


def test_without_a_scale_of_both_sides_there_is_no_verdict(trained_run: Path) -> None:
    embeddings = load(trained_run).embed(["the [bank] ends", "a [bank] is"], context="both")
    assert embeddings.statistics is not None and embeddings.scale() is not None
    older = {name: array for name, array in embeddings.statistics.items() if not name.startswith("around_")}
    without = replace(embeddings, statistics=older)
    assert without.scale() is None and without.percentile() is None and without.pairs()[0].verdict is None
    assert without.left_scale() == embeddings.left_scale() and without.left_percentile() is not None


def test_several_layers_and_sentences_have_no_both_sides(trained_run: Path) -> None:
    model = load(trained_run)
    with pytest.raises(UsageError, match="takes one layer"):
        model.embed("a [b]", context="both", layer="all")
    with pytest.raises(UsageError, match="`sentence` has no sides"):
        model.embed("a b", context="both", sentence=True)
    with pytest.raises(UsageError, match="`context` must be one of left, echo, both"):
        model.embed("a [b]", context="sideways")

"""What follows from cosines: percentiles among the model's own pairs, and verdicts that say them in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gptlite.embedding.comparison import RELATIONS, USES, Embeddings
from gptlite.embedding.contextual import WordVector
from gptlite.embedding.similarity import CORRECTIONS
from gptlite.errors import UsageError
from gptlite.text.words import Occurrence

DIM, N_LAYERS = 4, 2


def vector(text: str, word: str, numbers: list[float]) -> WordVector:
    """One whose layers are `numbers` times 1, 2, 3."""
    start = text.index(word)
    layers = np.array([numbers], dtype=np.float32) * np.arange(1, N_LAYERS + 2)[:, None]
    place = Occurrence(0, text, start, start + len(word))
    return WordVector(place, layers.astype(np.float32), np.ones(DIM, dtype=np.float32), (f" {word}",), False, 1, ())


def statistics() -> dict[str, np.ndarray]:
    """Same-word cosines from 0 to 1 in even steps, those of unrelated words from -1 to 0; layers differ in spread."""
    ramp = np.linspace(0, 1, 101, dtype=np.float32)
    shape = (N_LAYERS + 1, len(CORRECTIONS), 101)
    return {
        "mean": np.zeros((N_LAYERS + 1, DIM), dtype=np.float32),
        "std": np.ones((N_LAYERS + 1, DIM), dtype=np.float32) * np.arange(1, N_LAYERS + 2)[:, None],
        "components": np.zeros((N_LAYERS + 1, 1, DIM), dtype=np.float32),
        "same_word": np.full((*shape[:2], 2), 0.5, dtype=np.float32),
        "unrelated": np.full((*shape[:2], 2), -0.5, dtype=np.float32),
        "same_word_quantiles": np.broadcast_to(ramp, shape),
        "unrelated_quantiles": np.broadcast_to(ramp - 1, shape),
    }


def at_angle(cosine: float) -> list[float]:
    return [cosine, float(np.sqrt(1 - cosine**2)), 0, 0]


def compare(*items: WordVector, **more: Any) -> Embeddings:
    return Embeddings(items, **{"layers": (1,), "statistics": statistics(), **more})


@pytest.mark.parametrize(
    ("cosine", "verdict"),
    [(0.05, USES[0]), (0.2, USES[1]), (0.5, USES[2]), (0.8, USES[3]), (0.95, USES[4])],
    ids=str,
)
def test_one_word_is_judged_by_pairs_of_one_word(cosine: float, verdict: tuple[float, str]) -> None:
    e = compare(vector("a bank", "bank", [1, 0, 0, 0]), vector("the bank", "bank", at_angle(cosine)))
    (pair,) = e.pairs()
    assert pair.same_word and pair.same_tokens and pair.percentile == pytest.approx(100 * cosine, abs=0.1)
    assert pair.verdict == verdict[1]


def test_one_word_in_different_tokens_has_no_scale() -> None:
    """What was measured is one token in two places: nothing is known of `v alue` beside `_value`, or Bank and bank."""
    whole = vector("the value", "value", [1, 0, 0, 0])
    pieces = replace(vector('"value', "value", at_angle(0.05)), tokens=("v", "alue"))
    e = compare(whole, pieces, vector("the Value", "Value", at_angle(0.5)), vector("a value", "value", at_angle(0.8)))
    assert [(p.first, p.second) for p in e.pairs() if p.verdict] == [(0, 3)]
    assert all(p.same_word for p in e.pairs()) and e.pairs()[0].percentile is None
    percentile = e.percentile()
    assert percentile is not None and np.isnan(percentile[0, 1]) and not np.isnan(percentile[0, 3])


@pytest.mark.parametrize(
    ("cosine", "verdict"), [(-0.5, RELATIONS[0]), (-0.1, RELATIONS[1]), (0.5, RELATIONS[2])], ids=str
)
def test_two_words_are_judged_by_unrelated_ones(cosine: float, verdict: tuple[float, str]) -> None:
    e = compare(vector("a bank", "bank", [1, 0, 0, 0]), vector("a river", "river", at_angle(cosine)))
    (pair,) = e.pairs()
    assert not pair.same_word and pair.percentile == pytest.approx(min(100, 100 * (1 + cosine)), abs=0.1)
    assert pair.verdict == verdict[1]


def test_equal_texts_up_to_the_word_give_one_vector() -> None:
    alike = vector("the bank is steep", "bank", [1, 2, 3, 4]), vector("the bank is shut", "bank", [1, 2, 3, 4])
    other = vector("one bank is shut", "bank", [1, 2, 3, 4])
    pairs = compare(*alike, other).pairs()
    assert [pair.same_prefix for pair in pairs] == [True, False, False]
    assert pairs[0].verdict == "the same vector"
    assert pairs[0].cosine == pytest.approx(1)


def test_of_many_pairs_the_furthest_and_the_closest_are_told() -> None:
    e = compare(*(vector("a bank", "bank", at_angle(c)) for c in (1, 0.99, 0.5, 0.1, 0.0)))
    chosen = e.pairs(most=3)
    assert [(p.first, p.second) for p in chosen] == [(0, 3), (0, 4), (3, 4)]
    assert len(e.pairs()) == 10


def test_each_layer_is_corrected_by_itself() -> None:
    """Layer 2 has three times the numbers of layer 0 and is divided by three: no layer is louder than the others."""
    items = vector("a bank", "bank", [1, 2, 3, 4]), vector("the bank", "bank", [4, 3, 2, 1])
    one, several = compare(*items, layers=(1,)), compare(*items, layers=(0, 1, 2))
    assert np.allclose(one.cosine(), several.cosine(), atol=1e-6)
    assert np.allclose(several.vectors[0], items[0].contextual.mean(axis=0))
    assert several.vectors.dtype == np.float32


def test_nothing_is_claimed_that_was_not_measured() -> None:
    items = vector("a bank", "bank", [1, 0, 0, 0]), vector("the bank", "bank", [0, 1, 0, 0])
    assert compare(*items).scale("abtt:1") is not None and compare(*items).scale("abtt:2") is None
    for e in (compare(*items, layers=(0, 1)), compare(*items, statistics=None)):
        assert e.scale() is None and e.percentile("none") is None
        (pair,) = e.pairs("none")
        assert pair.percentile is None and pair.verdict is None
    with pytest.raises(UsageError, match="no statistics"):
        compare(*items, statistics=None).cosine("zscore")


def test_sentences_are_judged_by_sentences() -> None:
    """With the scale of their own, where the step has one; what cosines of words are worth says nothing of them."""
    texts = [vector("a bank", "a bank", [1, 0, 0, 0]), vector("a river", "a river", at_angle(0.2))]
    of_sentences = {"sentence_unrelated": np.full((N_LAYERS + 1, len(CORRECTIONS), 2), 0.8, dtype=np.float32)}
    ramp = np.linspace(0, 1, 101, dtype=np.float32)
    of_sentences["sentence_unrelated_quantiles"] = np.broadcast_to(ramp, (N_LAYERS + 1, len(CORRECTIONS), 101))
    e = compare(*texts, unit="sentence", statistics={**statistics(), **of_sentences})
    (pair,) = e.pairs()
    assert not pair.same_word and pair.percentile == pytest.approx(20, abs=0.1)
    assert pair.verdict == "no more alike than unrelated sentences" and e.scale() == {"unrelated": [0.8, 0.8]}
    without = compare(*texts, unit="sentence")
    assert without.scale() is None and without.percentile() is None and without.pairs()[0].verdict is None

"""Attribution: blocks that keep all bits, intervals that cover, and three authors told apart."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from conftest import NOUNS, TRAIN_TINY, VERBS, Command

from gptlite.evaluation.attribution import MOST_BLOCKS, attribute, block_bits, count_blocks


def test_blocks_keep_all_bits_whatever_the_tokens() -> None:
    fine = block_bits(np.full(1000, 2.0), np.ones(1000), 4)
    coarse = block_bits(np.full(125, 16.0), np.full(125, 8), 4)
    assert np.allclose(fine, 500) and np.allclose(coarse, fine)
    across = block_bits(np.array([3.0, 9.0]), np.array([1, 3]), 2)
    assert across.tolist() == [6.0, 6.0], "a token of three bytes has one of them in the first block"


def test_a_text_has_blocks_of_about_500_bytes() -> None:
    assert [count_blocks(n) for n in (1, 499, 749, 751, 2000, 10**9)] == [1, 1, 1, 2, 4, MOST_BLOCKS]


def test_the_best_model_and_the_interval() -> None:
    rng = np.random.default_rng(3)
    bits = 1000 + rng.normal(0, 10, (3, 40)) + np.array([[50], [0], [200]])
    found = attribute(bits, 500 * 40)
    assert (found.best, found.second, found.n_blocks) == (1, 0, 40)
    assert found.share_best == (0.0, 1.0, 0.0)
    assert found.low is not None and found.high is not None
    assert 0 < found.low < found.difference < found.high
    assert found.difference == pytest.approx((bits[0].sum() - bits[1].sum()) / 20_000)
    assert attribute(bits, 500 * 40) == found, "the same seed gives the same interval"


def test_models_that_are_equal_share_the_resamples() -> None:
    found = attribute(np.full((2, 8), 100.0), 4000)
    assert (found.difference, found.low, found.high, found.share_best) == (0.0, 0.0, 0.0, (0.5, 0.5))


def test_a_text_of_one_block_has_no_interval() -> None:
    found = attribute(np.array([[10.0], [12.0]]), 10)
    assert (found.best, found.share_best, found.low, found.high) == (0, None, None, None)
    with pytest.raises(ValueError, match="two models"):
        attribute(np.ones((1, 3)), 10)
    with pytest.raises(ValueError, match="finite"):
        attribute(np.array([[1.0], [np.nan]]), 10)


@pytest.mark.slow
def test_the_interval_covers_the_true_difference() -> None:
    """In 100 texts whose blocks differ by 0.1 bits per byte on average, 95 % intervals hold 0.1 in about 95 %."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(100):
        bits = np.stack([np.full(60, 500.0), 550 + rng.normal(0, 60, 60)])
        found = attribute(bits, 500 * 60, seed)
        assert found.low is not None and found.high is not None
        held += min(found.low, found.high) <= 0.1 <= max(found.low, found.high)
    assert 0.90 <= held / 100 <= 0.99


# -- Three authors

WORDS = (*NOUNS, *VERBS)


def write_as(author: int, n_characters: int, seed: int) -> str:
    """Sentences of the same words in all three hands; how often each word comes, and what ends a sentence, differ."""
    rng = random.Random(f"{author} {seed}")
    order = random.Random(author).sample(WORDS, len(WORDS))
    weights = [1 / (i + 1) for i in range(len(order))]
    text = ""
    while len(text) < n_characters:
        text += " ".join(rng.choices(order, weights, k=rng.randint(3, 9))) + " .\n"
    return text[:n_characters]


@pytest.mark.slow
def test_passages_are_given_to_their_authors(gptlite: Command) -> None:
    models: list[str] = []
    for author in range(3):
        Path(f"author{author}.txt").write_text(write_as(author, 60_000, seed=0), encoding="utf-8")
        assert gptlite("train", f"author{author}.txt", "-o", f"by{author}", "-q", *TRAIN_TINY).code == 0
        models += ["-m", f"by{author}"]
    truth = {f"passage{author}-{n}.txt": author for author in range(3) for n in range(20)}
    for name, author in truth.items():
        Path(name).write_text(write_as(author, 2000, seed=1 + int(name.split("-")[1][:-4])), encoding="utf-8")
    outcome = gptlite("eval", *truth, *models, "--attribute", "--json")
    assert outcome.code == 0, outcome.err
    answer = json.loads(outcome.out)
    assert answer["schema"] == "gptlite.eval-attribution/1"
    right = sum(Path(each["best"]).parent.name == f"by{truth[each['file']]}" for each in answer["results"])
    assert right >= 0.95 * len(truth)
    first = answer["results"][0]
    assert first["n_bytes"] == 2000 and first["n_blocks"] == 4 and len(first["share_best"]) == 3
    assert first["difference_bits_per_byte"] == pytest.approx(
        sorted(first["bits_per_byte"])[1] - min(first["bits_per_byte"])
    )

    name = next(iter(truth))
    matrix = json.loads(gptlite("eval", name, *models, "--json").out)
    assert first["bits_per_byte"] == pytest.approx(matrix["bits_per_byte"][0]), "the bits of the matrix"
    table = gptlite("eval", name, *models, "--attribute")
    assert table.code == 0 and "resembles" in table.out and f"{min(first['bits_per_byte']):.4f}" in table.out
    alone = gptlite("eval", name, "-m", "by0", "--attribute")
    assert alone.code == 2 and "--attribute does nothing with one model" in alone.err

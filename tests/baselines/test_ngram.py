"""Baselines: probabilities that add up and match the formulas read plainly, and bits on the model's own split."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from conftest import make_text
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlite.baselines.kneser_ney import KneserNey
from gptlite.baselines.ngram import (
    measure,
    measure_windows,
    ngram_bits_per_byte,
    ngram_probabilities,
    unigram_bits_per_byte,
    xz_bits_per_byte,
)
from gptlite.evaluation.scoring import sliding_windows
from gptlite.text.tokenizer import Tokenizer

V = 5
ONE_BYTE = np.ones(V, dtype=np.int64)
LETTERS = [b"", b"a", b"b", b"c", b"de"]  # the first is a separator


def stream(n: int, seed: int = 0, vocab_size: int = V) -> np.ndarray:
    """A few tokens are frequent, so that n-grams of all lengths repeat."""
    weights = 0.5 ** np.arange(vocab_size)
    return np.random.default_rng(seed).choice(vocab_size, n, p=weights / weights.sum()).astype("<u2")


def plain_probability(train: list[int], context: list[int], token: int, order: int) -> float:
    """Interpolated modified Kneser-Ney as Chen & Goodman (1999) write it down, one token at a time."""
    k = len(context) + 1
    before: dict[tuple[int, ...], list[int | None]] = defaultdict(list)
    for i in range(len(train) - k + 1):
        before[tuple(train[i : i + k])].append(train[i - 1] if i else None)
    counts = {gram: len(found if k == order else set(found)) for gram, found in before.items()}
    how_many = Counter(counts.values())
    n1, n2, n3, n4 = (how_many[c] for c in (1, 2, 3, 4))
    discounts = [0.0, 0.5, 1.0, 1.5]
    if n1 * n2 * n3 * n4:
        y = n1 / (n1 + 2 * n2)
        estimated = [0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
        discounts = estimated if min(estimated[1:]) > 0 else discounts
    shorter = plain_probability(train, context[1:], token, order) if context else 1 / V
    followers = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == tuple(context)}
    if not followers:
        return shorter
    own = max(0.0, followers.get(token, 0) - discounts[min(3, followers.get(token, 0))])
    return (own + sum(discounts[min(3, c)] for c in followers.values()) * shorter) / sum(followers.values())


# -- n-grams


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [0, 1, 2, 4, 30, 400])
def test_the_probabilities_of_all_tokens_add_up_to_one(n: int, order: int) -> None:
    """After contexts that were seen, seen in part, and never seen: 200 in one stream, each before every token."""
    contexts = np.random.default_rng(1).integers(0, V, (200, order - 1))
    ids = np.array([[*context, token] for context in contexts for token in range(V)])
    p = ngram_probabilities(stream(n), ids.ravel(), V, order).reshape(-1, V, order)[:, :, -1]
    assert p.sum(1) == pytest.approx(np.ones(200), abs=1e-12)
    assert p.min() > 0


@given(
    train=st.lists(st.integers(0, V - 1), max_size=60),
    ids=st.lists(st.integers(0, V - 1), max_size=12),
    order=st.integers(1, 5),
)
@settings(deadline=None, max_examples=60)
def test_arrays_and_plain_loops_agree(train: list[int], ids: list[int], order: int) -> None:
    p = ngram_probabilities(np.array(train, dtype="<u2"), np.array(ids, dtype="<u2"), V, order)
    expected = [plain_probability(train, ids[max(0, i - order + 1) : i], ids[i], order) for i in range(len(ids))]
    assert p == pytest.approx(expected, rel=1e-12)


def test_arrays_and_plain_loops_agree_where_discounts_are_estimated() -> None:
    train, ids = stream(300).tolist(), stream(25, seed=1).tolist()
    p = ngram_probabilities(np.array(train), np.array(ids), V, 4)
    expected = [plain_probability(train, ids[max(0, i - 3) : i], ids[i], 4) for i in range(25)]
    assert p == pytest.approx(expected, rel=1e-12)


def test_the_distribution_after_a_context_is_the_probability_of_each_token() -> None:
    model, ids = KneserNey(stream(300), V, 4), stream(40, seed=1).tolist()
    for i in range(40):
        whole = [model.probabilities(np.array([*ids[:i], token]))[-1] for token in range(V)]
        assert model.distribution(ids[:i]) == pytest.approx(whole, rel=1e-12)
    assert KneserNey(stream(0), V).distribution(ids) == pytest.approx(np.full(V, 1 / V))


def test_order_one_by_hand() -> None:
    """Counts 4, 3, 2, 2, 1, 1, 1, 1: Y = 4/8, and discounts of 0.5, 1.25 and 1 leave 6.5 of 15 to the uniform."""
    train = np.repeat(np.arange(8), [4, 3, 2, 2, 1, 1, 1, 1])
    p = ngram_probabilities(train, np.array([0, 1, 2, 4, 9]), 10, order=1)
    floor = 6.5 / 15 / 10
    assert p == pytest.approx([3 / 15 + floor, 2 / 15 + floor, 0.75 / 15 + floor, 0.5 / 15 + floor, floor])


def test_a_longer_context_settles_what_a_shorter_one_cannot() -> None:
    """After 1 2 comes 3, after 0 2 comes 4: a pair knows nothing of it, a triple everything."""
    train = np.array([[1, 2, 3], [0, 2, 4]])[np.random.default_rng(0).integers(0, 2, 400)].ravel()
    ids = np.array([1, 2, 3, 0, 2, 4])
    pairs, triples = (ngram_probabilities(train, ids, V, order)[[2, 5]] for order in (2, 3))
    assert pairs.max() < 0.6 < 0.95 < triples.min()


def test_a_repeated_text_scores_far_below_random() -> None:
    rng = np.random.default_rng(0)
    lengths = np.ones(64, dtype=np.int64)
    phrase = rng.permutation(64)
    repeated = ngram_bits_per_byte(np.tile(phrase, 40), np.tile(phrase, 3), lengths)
    noise = ngram_bits_per_byte(rng.integers(0, 64, 2560), rng.integers(0, 64, 192), lengths)
    assert repeated < 0.2 < 5.9 < noise


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_the_largest_ids_of_a_mapped_file(dtype: str, tmp_path: Path) -> None:
    """Five ids of 16 bits do not fit into one integer of 64; numbers of n-grams do, and do not overflow."""
    ids = (65535 - np.random.default_rng(0).integers(0, 300, 3000) ** 2 % 257).astype(dtype)
    ids.tofile(tmp_path / "ids.bin")
    mapped = np.memmap(tmp_path / "ids.bin", dtype=dtype, mode="r")
    p = ngram_probabilities(mapped[:2500], mapped[2500:], 65536)
    small = ngram_probabilities(ids[:2500].astype(int) - 65000, ids[2500:].astype(int) - 65000, 65536)
    assert p == pytest.approx(small, rel=1e-12)


# -- Unigrams and xz


def test_unigrams_by_hand() -> None:
    train, val = np.array([1, 1, 1, 2]), np.array([1, 1, 2, 3])
    assert unigram_bits_per_byte(train, val, ONE_BYTE) == pytest.approx(-math.log2(4 / 9 * 2 / 9 * 1 / 9) / 3)


def test_xz_knows_the_training_text() -> None:
    text, other = make_text(200).encode(), make_text(200, seed=1).encode()
    noise = random.Random(0).randbytes(5000)
    copied, related, alone = (xz_bits_per_byte(known, other) for known in (text + other, text, b""))
    assert 0 <= copied < 0.1 < related < alone < 4
    assert 8 <= xz_bits_per_byte(text, noise) < 8.2


# -- The same split as the model's


def test_separators_and_the_first_token_do_not_count() -> None:
    train, ids = stream(200), np.array([3, 0, 4, 0, 0, 1], dtype="<u2")
    lengths = np.array([len(letters) for letters in LETTERS])
    p = ngram_probabilities(train, ids, V)
    assert ngram_bits_per_byte(train, ids, lengths) == pytest.approx(-math.log2(p[2] * p[5]) / 3)
    counts = np.bincount(train, minlength=V)
    expected = -math.log2((counts[4] + 1) * (counts[1] + 1) / (200 + V) ** 2) / 3
    assert unigram_bits_per_byte(train, ids, lengths) == pytest.approx(expected)
    assert measure(train, ids, LETTERS).val_bytes == 3


def test_a_text_is_measured_whole(tokenizer: Tokenizer) -> None:
    texts = make_text(300), make_text(60, seed=1)
    train, val = (np.array([tokenizer.separator_id, *tokenizer.encode(t)], dtype="<u2") for t in texts)
    found = measure(train, val, tokenizer.token_bytes)
    assert (found.train_bytes, found.val_bytes) == tuple(len(t.encode()) for t in texts)
    assert found.xz_train_bytes == found.train_bytes
    assert found.xz == xz_bits_per_byte(*(t.encode() for t in texts))
    assert 0 < found.ngram < found.unigram < 8
    assert found.to_dict()["ngram_bits_per_byte"] == found.ngram


def test_long_texts_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last tokens are counted, the last bytes of them go to xz, and the first held-out bytes are scored."""
    train, val = V - 1 - stream(5000), V - 1 - stream(3000, seed=1)  # so that separators are the rarest

    def spell(ids: np.ndarray) -> bytes:
        return b"".join(LETTERS[i] for i in ids)

    for name, limit in (("TRAIN", 900), ("XZ", 700), ("VAL", 300)):
        monkeypatch.setattr(f"gptlite.baselines.ngram.LARGEST_{name}", limit)
    found = measure(train, val, LETTERS)
    counted = train[-900:]
    n_xz = max(n for n in range(900) if len(spell(counted[900 - n :])) <= 700)
    n_val = max(n for n in range(3000) if len(spell(val[:n])) <= 300)
    cut = measure(counted, val[:n_val], LETTERS)
    assert (found.unigram, found.ngram) == (cut.unigram, cut.ngram)
    assert found.xz == xz_bits_per_byte(spell(counted[900 - n_xz :]) + spell(val[:1]), spell(val[1:n_val]))
    assert (found.train_bytes, found.val_bytes) == (len(spell(counted)), len(spell(val[1:n_val])))
    assert 698 < found.xz_train_bytes <= 700


@pytest.mark.parametrize("n_train", [0, 1, 2, 6])
@pytest.mark.parametrize("n_val", [0, 1, 2, 6])
def test_tiny_streams(n_train: int, n_val: int) -> None:
    ids = np.array([1, 2, 1, 3, 4, 1], dtype="<u2")
    found = measure(ids[:n_train], ids[:n_val], LETTERS)
    for bits in (found.xz, found.unigram, found.ngram):
        assert math.isfinite(bits) if n_val > 1 else math.isnan(bits)


def test_nothing_but_separators_has_no_bits() -> None:
    assert math.isnan(measure(stream(50), np.zeros(9, dtype="<u2"), LETTERS).ngram)


def test_on_the_windows_of_a_model_the_same_tokens_are_scored() -> None:
    """All windows give what the whole text gives; some of them the bits of their targets, each with its context."""
    train, val = stream(3000, 1), stream(400, 2)
    windows = sliding_windows(len(val), 16)
    whole, by_windows = measure(train, val, LETTERS), measure_windows(train, val, windows, LETTERS)
    assert by_windows.ngram == pytest.approx(whole.ngram) and by_windows.unigram == pytest.approx(whole.unigram)
    assert by_windows.val_bytes == whole.val_bytes
    some = [windows[i] for i in (0, 3, 4, 20)]
    scored = sorted({i for w in some for i in range(w.start + w.length - w.scored + 1, w.start + w.length + 1)})
    lengths = np.array([len(LETTERS[i]) for i in val])
    p = ngram_probabilities(train, val, V)
    assert measure_windows(train, val, some, LETTERS).val_bytes == lengths[scored].sum()
    counted = np.isin(np.arange(len(val)), scored)
    plain = -np.log2(p[counted & (lengths > 0)]).sum() / lengths[scored].sum()
    # Other held-out tokens before a target than its four change nothing.
    assert measure_windows(train, val, some, LETTERS).ngram == pytest.approx(plain)

"""Biases, bans and phrases: what is asked for, whichever tokens it might come in."""

from __future__ import annotations

import math
import random
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gptlite.config import SamplingConfig
from gptlite.errors import UsageError
from gptlite.generation.constraints import Bans, Constraints, Phrases, Vocabulary, WordBiases, _count
from gptlite.generation.reproducible import make_sampler
from gptlite.text.tokenizer import Tokenizer

# -- Bans


def completes(texts: list[str], before: bytes, token: bytes) -> bool:
    """By the definition: is a banned text there behind the token that was not there before it?"""
    after = before + token
    return any(after.find(text.encode(), max(0, len(before) - len(text.encode()) + 1)) >= 0 for text in texts)


ALPHABET = "abé"
VOCABULARY = [
    b"",
    *(bytes([byte]) for byte in "abé".encode()),
    b"ab",
    b"ba",
    b"aab",
    "é".encode(),
    "éa".encode(),
    b"bab",
]
TEXTS = st.lists(st.text(ALPHABET, min_size=1, max_size=5), min_size=1, max_size=4)


@given(TEXTS, st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=12))
def test_exactly_the_ids_that_would_complete_a_banned_text_are_forbidden(texts: list[str], ids: list[int]) -> None:
    bans = Bans(texts, Vocabulary(VOCABULARY))
    state, written = bans.state_after(ids[:4]), b"".join(VOCABULARY[i] for i in ids[:4])
    for i in [*ids[4:], 0]:
        expected = {t for t, token in enumerate(VOCABULARY) if completes(texts, written, token)}
        assert {*bans.inside, *bans.completing(state)} == expected
        state, written = bans.next_state(state, i), written + VOCABULARY[i]


@pytest.mark.parametrize("seed", range(5))
def test_a_banned_text_never_comes_however_it_is_tokenized(tokenizer: Tokenizer, seed: int) -> None:
    texts = ["river", "the b", "Ada", "ank", "河岸", "🙂"]
    rng, bans = random.Random(seed), Bans(texts, Vocabulary(tokenizer.token_bytes))
    for _ in range(40):
        goal = "".join(rng.choice([*texts, " ", "the ", "bank", "x"]) for _ in range(8)).encode()
        written, state = b"", b""
        while len(written) < len(goal):  # whatever leads to the goal, in any of its tokens, while that is allowed
            forbidden = {*bans.inside, *bans.completing(state)}
            rest = goal[len(written) :]
            able = [i for i, t in enumerate(tokenizer.token_bytes) if t and rest.startswith(t) and i not in forbidden]
            if not able:
                break
            token = rng.choice(able)
            written, state = written + tokenizer.token_bytes[token], bans.next_state(state, token)
        assert not any(text in written.decode(errors="replace") for text in texts)


def test_ids_that_spell_nothing_leave_the_state(tokenizer: Tokenizer) -> None:
    bans = Bans(["river"], Vocabulary(tokenizer.token_bytes))
    state = bans.state_after(tokenizer.encode("a riv"))
    assert state == b"riv"
    assert bans.next_state(state, tokenizer.separator_id) == bans.next_state(state, tokenizer.vocab_size + 5) == state


# -- Phrases


@given(st.lists(st.integers(0, 3), max_size=20), st.integers(1, 4))
def test_exactly_the_ids_that_would_repeat_a_phrase_are_named(ids: list[int], n: int) -> None:
    phrases = Phrases(n, ids[:3])
    for token in ids[3:]:
        phrases.push(token)
    there = {tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)}
    expected = {token for token in range(4) if tuple([*ids, token][-n:]) in there} if len(ids) >= n - 1 else set()
    assert set(phrases.repeating()) == expected


# -- Biases


WORDS = [
    b"",
    b"the",
    b" the",
    b" them",
    b"t",
    b"h",
    b"e",
    b" t",
    b"he",
    b"a",
    b" ",
    b"(the)",
    b"The",
    b"-the the",
    b"#",
]


def completing(text: str, before: bytes, vocabulary: list[bytes] = WORDS) -> dict[bytes, float]:
    words = WordBiases([(text, 1.0)], Vocabulary(vocabulary))
    ids, values = words.at(before[-words.length :])
    return {vocabulary[i]: value for i, value in zip(ids.tolist(), values.tolist(), strict=True)}


@pytest.mark.parametrize(
    ("text", "before", "expected"),
    [
        ("the", b"", {b"the": 1, b" the": 1, b"(the)": 1, b"-the the": 2}),
        ("the", b"on ", {b"the": 1, b" the": 1, b"(the)": 1, b"-the the": 2}),
        ("the", b"ba", {b" the": 1, b"(the)": 1, b"-the the": 2}),
        ("the", "caf\u00e9".encode(), {b" the": 1, b"(the)": 1, b"-the the": 2}),
        ("the", b"on th", {b"e": 1, b" the": 1, b"(the)": 1, b"-the the": 2}),
        ("the", b"bath", {b" the": 1, b"(the)": 1, b"-the the": 2}),
        ("the", b"on t", {b"he": 1, b" the": 1, b"(the)": 1, b"-the the": 2}),
        ("The", b"", {b"The": 1}),
        (" the", b"on", {b" the": 1, b"-the the": 1}),
        (" the", b"on ", {b"the": 1, b" the": 1, b"-the the": 1}),
        ("#", b"a#", {b"#": 1}),
        ("e", b"a", {}),
        ("a", b"", {b"a": 1}),
    ],
)
def test_a_word_is_the_word_wherever_it_stands(text: str, before: bytes, expected: dict[bytes, float]) -> None:
    assert completing(text, before) == expected


def test_where_words_are_not_spaced_a_word_may_stand_anywhere() -> None:
    vocabulary = [b"", "\u6cb3".encode(), "\u6cb3\u5cb8".encode(), *(bytes([byte]) for byte in "\u6cb3".encode())]
    assert completing("\u6cb3", "\u5927".encode(), vocabulary) == {vocabulary[1]: 1, vocabulary[2]: 1}
    assert completing("\u6cb3", "\u5927".encode() + "\u6cb3".encode()[:2], vocabulary) == {
        vocabulary[1]: 1, vocabulary[2]: 1, "\u6cb3".encode()[2:]: 1,
    }  # fmt: skip


@given(st.lists(st.text("ab \u00e9", min_size=1, max_size=3), min_size=1, max_size=3), st.data())
def test_the_state_remembers_enough(texts: list[str], data: st.DataObject) -> None:
    """What is found from the last bytes alone is what is found from all that was written."""
    vocabulary = [*VOCABULARY, b" ", b" a", b"b a"]
    words = WordBiases([(text, float(i + 1)) for i, text in enumerate(texts)], Vocabulary(vocabulary))
    ids = data.draw(st.lists(st.integers(1, len(vocabulary) - 1), max_size=12))
    state, written = words.state_after(ids[:3]), b"".join(vocabulary[i] for i in ids[:3])
    for token in [*ids[3:], 0]:
        found = dict(zip(*(part.tolist() for part in words.at(state)), strict=True))
        expected = {
            t: sum(bias * _count(text, written, spelled, *joins) for text, bias, *joins in words.biases)
            for t, spelled in enumerate(vocabulary)
        }
        expected = {t: total for t, total in expected.items() if total}
        assert found == pytest.approx(expected)
        state, written = words.next_state(state, token), written + vocabulary[token]


@pytest.mark.parametrize(
    ("token", "message"),
    [(320, r"there is no token #320: the vocabulary ends at #319\.$"), (-1, "there is no token #-1")],
)
def test_an_id_that_is_none_is_a_usage_error(tokenizer: Tokenizer, token: int, message: str) -> None:
    assert tokenizer.vocab_size == 320
    with pytest.raises(UsageError, match=message):
        Constraints(SamplingConfig(logit_bias=((token, 1.0),)), tokenizer)


def test_biases_add_up_and_bans_are_final(tokenizer: Tokenizer) -> None:
    the = tokenizer.encode(" the")[0]
    config = SamplingConfig(logit_bias=((" the", 2.0), ("the", 1.0), (the, -0.5)), bans=("river",))
    for prompt in ([], [the]):
        sampler = make_sampler(config, [0], [prompt], Constraints(config, tokenizer))
        scores = sampler._scores(np.zeros((1, tokenizer.vocab_size + 8)), [0])[0]
        assert scores[the] == 2.5 and scores[tokenizer.encode(" river")[0]] == -np.inf
        biased = [t for i, t in enumerate(tokenizer.token_bytes) if scores[i] and i != the and b"river" not in t]
        assert biased == [b"the"] * (not prompt), "which does not begin a word after a letter"


@pytest.mark.parametrize("seed", range(3))
def test_a_word_with_the_bias_of_minus_infinity_never_comes(tokenizer: Tokenizer, seed: int) -> None:
    """Written in whichever tokens; other words that contain it do."""
    config = SamplingConfig(logit_bias=(("the", -math.inf), ("Ada", 3.0)), temperature=1.0, top_p=1.0, min_p=0.0)
    spelled = tokenizer.token_bytes
    able = [i for i, t in enumerate(spelled) if t and t in b" the then bathe"]
    sampler = make_sampler(config, [seed], [[]], Constraints(config, tokenizer))
    logits = torch.full((1, tokenizer.vocab_size), -50.0)
    logits[0, able] = 5.0
    text = b"".join(spelled[sampler(logits).item()] for _ in range(3000)).decode()
    assert "the" in text and not re.search(r"(?<![a-zA-Z])the(?![a-zA-Z])", text)

"""Biases, bans and phrases: what is asked for, whichever tokens it might come in."""

from __future__ import annotations

import random

import pytest
from conftest import make_text
from hypothesis import given
from hypothesis import strategies as st

from gptlite.config import SamplingConfig
from gptlite.errors import UsageError
from gptlite.generation.constraints import Bans, Phrases, Steering, find_token
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
    bans = Bans(texts, VOCABULARY)
    state, written = bans.state_after(ids[:4]), b"".join(VOCABULARY[i] for i in ids[:4])
    for i in [*ids[4:], 0]:
        expected = {t for t, token in enumerate(VOCABULARY) if completes(texts, written, token)}
        assert {*bans.inside, *bans.completing(state)} == expected
        state, written = bans.next_state(state, i), written + VOCABULARY[i]


@pytest.mark.parametrize("seed", range(5))
def test_a_banned_text_never_comes_however_it_is_tokenized(tokenizer: Tokenizer, seed: int) -> None:
    texts = ["river", "the b", "Ada", "ank", "河岸", "🙂"]
    rng, bans = random.Random(seed), Bans(texts, tokenizer.token_bytes)
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
    bans = Bans(["river"], tokenizer.token_bytes)
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


@pytest.mark.parametrize("token", [" the", "e", "\n", "<", 0, 5, 319])
def test_a_token_is_found_by_its_text_or_its_id(tokenizer: Tokenizer, token: str | int) -> None:
    found = find_token(tokenizer, token)
    assert found == token if isinstance(token, int) else tokenizer.token_bytes[found] == token.encode()


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (" the river bank", r"for one token, and ' the river bank' is 3 here: ' the' ' river' ' bank'\.$"),
        ("river", r"is \d here: .*; ' river' is one\.$"),
        ("河", "is 3 here"),
        ("zq" * 200, r"here: ('\w' ){6}\.\.\.\.$"),
        (320, r"there is no token #320: the vocabulary ends at #319\.$"),
        (-1, "there is no token #-1"),
    ],
)
def test_what_is_no_token_is_a_usage_error(tokenizer: Tokenizer, token: str | int, message: str) -> None:
    assert tokenizer.vocab_size == 320
    with pytest.raises(UsageError, match=message):
        Steering(SamplingConfig(logit_bias=((token, 1.0),)), tokenizer)


def test_biases_add_up_and_bans_are_final() -> None:
    tokenizer = Tokenizer.train([make_text()], 320)
    the = tokenizer.encode(" the")[0]
    steering = Steering(SamplingConfig(logit_bias=((" the", 2.0), (the, -0.5)), bans=("river",)), tokenizer)
    bias = steering.bias(tokenizer.vocab_size + 8)
    assert bias is not None and bias.shape == (tokenizer.vocab_size + 8,)
    assert bias[the] == 1.5 and bias[tokenizer.encode(" river")[0]] == -float("inf")
    assert (bias != 0).sum() == 1 + sum(b"river" in token for token in tokenizer.token_bytes)

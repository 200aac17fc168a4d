"""Word vectors: the right tokens, the left context only, and numbers that survive being written down."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_text, random_model, tiny_config
from hypothesis import given
from hypothesis import strategies as st

from gptlite import tracing
from gptlite.checkpoint.saved_step import save_step
from gptlite.config import ARCHITECTURES
from gptlite.embedding import contextual
from gptlite.embedding.contextual import (
    KNOWN_SEPARATOR,
    LONGEST_STRETCH,
    PREFIX,
    WordVector,
    embed,
    find_prefix,
    resolve_layer,
    resolve_layers,
    static_vector,
)
from gptlite.errors import UsageError
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import Occurrence, find_word, parse_marked
from gptlite.tracing import trace


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    return random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size, context_length=64))


@pytest.fixture(scope="module")
def world() -> Tokenizer:
    """A vocabulary of several scripts, so that their words are a few tokens each."""
    return Tokenizer.train([" ".join(SENTENCES) * 3], 400)


def pooled(hidden: torch.Tensor, pool: str) -> np.ndarray:
    """(L + 1, D) of the states (L + 1, n, D) of a word's tokens."""
    if pool == "weighted":
        weights = torch.arange(1.0, hidden.shape[1] + 1)
        return (hidden * (weights / weights.sum())[:, None]).sum(dim=1).numpy()
    return {"last": hidden[:, -1], "first": hidden[:, 0], "mean": hidden.mean(dim=1)}[pool].numpy()


def vectors_of(model: GPT, tokenizer: Tokenizer, *texts: str, **more: Any) -> list[WordVector]:
    return embed(model, tokenizer, [o for i, text in enumerate(texts) for o in parse_marked(text, i)], **more)


# -- Marks


@pytest.mark.parametrize(
    ("text", "clean", "words"),
    [
        ("on the [bank] .", "on the bank .", ["bank"]),
        ("[bank]", "bank", ["bank"]),
        ("a [b] c [d]", "a b c d", ["b", "d"]),
        ("[a][b]", "ab", ["a", "b"]),
        ("the [New York] bank", "the New York bank", ["New York"]),
        (r"x\[1\] = [bank]", "x[1] = bank", ["bank"]),
        (r"[a\]b]", "a]b", ["a]b"]),
        ("我去[银行]取钱", "我去银行取钱", ["银行"]),
        ("🙂 [👩‍👩‍👧] 🙂", "🙂 👩‍👩‍👧 🙂", ["👩‍👩‍👧"]),
        ("no mark", "no mark", []),
        (r"back\slash \n", r"back\slash \n", []),
        ("", "", []),
    ],
)
def test_marks_name_words(text: str, clean: str, words: list[str]) -> None:
    found = parse_marked(text, 3)
    assert [o.word for o in found] == words
    assert {o.text for o in found} <= {clean}
    assert {o.text_index for o in found} <= {3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a [b", "never closed"),
        ("a b]", "do not pair up"),
        ("a ] b [", "do not pair up"),
        ("a [[b]]", "do not pair up"),
        ("a []", "do not pair up"),
        ("[a] b]", "do not pair up"),
        (r"[a\]", "never closed"),
    ],
)
def test_marks_must_pair_up(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"text 4: .*{message}"):
        parse_marked(text, 3)


@given(pieces=st.lists(st.text("ab[] 汉\n", max_size=6), min_size=1, max_size=7))
def test_marks_come_off_whatever_the_text(pieces: list[str]) -> None:
    """Every second piece is marked; all brackets of the text itself are escaped."""
    clean, marked, spans = "", "", []
    for i, piece in enumerate(pieces):
        escaped = piece.replace("[", r"\[").replace("]", r"\]")
        if i % 2 and piece:
            spans.append((len(clean), len(clean) + len(piece)))
            escaped = f"[{escaped}]"
        clean, marked = clean + piece, marked + escaped
    found = parse_marked(marked, 0)
    words = [clean[start:end] for start, end in spans]  # white space at their ends is not theirs
    assert [o.word for o in found] == [word.strip() or word for word in words]
    assert all(start <= o.start and o.end <= end for o, (start, end) in zip(found, spans, strict=True))
    assert all(o.text == clean for o in found)


# -- Words


@pytest.mark.parametrize(
    ("text", "word", "spans"),
    [
        ("the bank", "bank", [(4, 8)]),
        ("banks bankers embank bank", "bank", [(21, 25)]),
        ("Bank bank BANK", "bank", [(0, 4), (5, 9), (10, 14)]),
        ("Bank bank BANK", "Bank", [(0, 4)]),
        ("a bank, (bank) bank.", "bank", [(2, 6), (9, 13), (15, 19)]),
        ("bank bank bank", "bank#2", [(5, 9)]),
        ("bank bank", "bank#3", []),
        ("bank bank", "bank#0", []),
        ("issue #2 here", "#2", [(6, 8)]),
        ("C# and C# and C", "C#", [(0, 2), (7, 9)]),
        ("C# and C# and C", "C##2", [(7, 9)]),
        ("a.b a+b axb", "a.b", [(0, 3)]),
        ("New York, new york", "new york", [(0, 8), (10, 18)]),
        ("die Straße", "straße", [(4, 10)]),
        ("ÉCOLE école", "école", [(0, 5), (6, 11)]),
        ("don't do", "do", [(6, 8)]),
        ("snake_case case", "case", [(11, 15)]),
        ("去 银行 取钱", "银行", [(2, 4)]),
        ("🙂🙂", "🙂", [(0, 1), (1, 2)]),
        ("nothing", "bank", []),
    ],
)
def test_words_are_found_whole(text: str, word: str, spans: list[tuple[int, int]]) -> None:
    assert [(o.start, o.end) for o in find_word(text, 0, word)] == spans


@pytest.mark.parametrize(
    ("text", "word", "spans"),
    [
        ("我去银行取钱。", "银行", [(2, 4)]),
        ("河岸上的银行，银行。", "银行", [(4, 6), (7, 9)]),
        ("河岸上的银行，银行。", "银行#2", [(7, 9)]),
        ("昨日は銀行へ行った", "銀行", [(3, 5)]),
        ("ไปธนาคารวันนี้", "ธนาคาร", [(2, 8)]),
    ],
)
def test_scripts_without_spaces_have_words_anywhere(text: str, word: str, spans: list[tuple[int, int]]) -> None:
    """Their letters stand beside each other, so a letter beside a word does not make it part of a longer one."""
    assert [(o.start, o.end) for o in find_word(text, 0, word)] == spans


@pytest.mark.parametrize("word", ["bank#²", "bank#①", "#", "##", "bank#-1", "(", "[a", "\\", "*"])
def test_odd_words_are_looked_for_as_they_are(word: str) -> None:
    assert find_word("the bank", 0, word) == []
    assert [o.word for o in find_word(f"the {word} here", 0, word)] == [word]


@pytest.mark.parametrize(
    ("layer", "n_layers", "resolved"),
    [
        ("last", 4, 4),
        ("mid", 4, 2),
        ("mid", 5, 3),
        ("mid", 1, 1),
        ("0", 4, 0),
        ("4", 4, 4),
        ("-1", 4, 4),
        ("-5", 4, 0),
    ],
)
def test_layers_have_names_and_numbers(layer: str, n_layers: int, resolved: int) -> None:
    assert resolve_layer(layer, n_layers) == resolved


@pytest.mark.parametrize(
    ("layers", "resolved"),
    [("1-3", (1, 2, 3)), ("0-4", (0, 1, 2, 3, 4)), ("all", (0, 1, 2, 3, 4)), ("mid", (2,)), ("-1", (4,))],
)
def test_several_layers_have_a_dash(layers: str, resolved: tuple[int, ...]) -> None:
    assert resolve_layers(layers, 4) == resolved


@pytest.mark.parametrize("layers", ["3-1", "2-2", "1-5", "1-", "1-2-3", "mid-last"])
def test_other_ranges_of_layers_are_a_usage_error(layers: str) -> None:
    with pytest.raises(UsageError, match="`layer`"):
        resolve_layers(layers, 4)


@pytest.mark.parametrize("layer", ["5", "-6", "", "first", "1.0", "²", "1e0", "--1", " 1"])
def test_other_layers_are_a_usage_error(layer: str) -> None:
    with pytest.raises(UsageError, match="from 0 to 4"):
        resolve_layer(layer, 4)


# -- Vectors


@pytest.mark.parametrize("right", [" of the river", ", she said", ".\n\nAnd then", " 河岸", "!" * 50, "", " [x"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_stands_to_the_right_changes_nothing(tokenizer: Tokenizer, architecture: str, right: str) -> None:
    model = random_model(tiny_config(architecture, vocab_size=tokenizer.vocab_size, context_length=64))
    left = "Ada finds the bank"
    alone, other = (Occurrence(0, text, 14, 18) for text in (left + " .", left + right))
    first, second = embed(model, tokenizer, [alone, other])
    assert first.tokens == second.tokens
    assert np.abs(first.contextual - second.contextual).max() <= 1e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_stands_to_the_left_does(tokenizer: Tokenizer, architecture: str) -> None:
    model = random_model(tiny_config(architecture, vocab_size=tokenizer.vocab_size, context_length=64))
    first, second = vectors_of(model, tokenizer, "Ada finds the [bank]", "Bela paints the [bank]")
    difference = np.abs(first.contextual - second.contextual).max(axis=1)
    assert (difference[1:] > 1e-3).all()


def test_below_the_first_block_a_word_knows_no_context(model: GPT, tokenizer: Tokenizer) -> None:
    first, second = vectors_of(model, tokenizer, "Ada finds the [bank]", "Bela paints the [bank]")
    assert np.array_equal(first.contextual[0], second.contextual[0])


def test_brackets_and_words_name_the_same_vector(model: GPT, tokenizer: Tokenizer) -> None:
    (marked,) = vectors_of(model, tokenizer, "Ada finds the [bank] and the river .")
    (named,) = embed(model, tokenizer, find_word("Ada finds the bank and the river .", 0, "bank"))
    assert marked.occurrence == named.occurrence
    assert np.array_equal(marked.contextual, named.contextual)
    assert np.array_equal(marked.static, named.static)


def test_the_static_vector_is_the_same_everywhere(model: GPT, tokenizer: Tokenizer) -> None:
    found = vectors_of(model, tokenizer, "the [bank]", "[bank] .", "a\n[bank]", "([bank])", "Ada's riverside [bank]!")
    table = model.transformer.embed.weight.detach()
    expected = table[tokenizer.encode(" bank")].mean(dim=0).numpy()
    for v in found:
        assert np.array_equal(v.static, found[0].static)
    assert np.allclose(found[0].static, expected, atol=1e-7)


def test_a_word_of_several_tokens_has_the_mean_of_their_rows(model: GPT, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(" zyx")
    assert len(ids) > 1
    expected = model.transformer.embed.weight.detach()[ids].mean(dim=0).numpy()
    assert np.allclose(static_vector(model, tokenizer, "zyx"), expected, atol=1e-7)


def test_a_script_without_spaces_has_none_before_a_static_word(model: GPT, tokenizer: Tokenizer) -> None:
    expected = model.transformer.embed.weight.detach()[tokenizer.encode("银行")].mean(dim=0).numpy()
    assert np.allclose(static_vector(model, tokenizer, "银行"), expected, atol=1e-7)


@pytest.mark.parametrize("layers", [[0, 2], [0]])
def test_wanted_layers_alone_are_kept_by_their_numbers(model: GPT, tokenizer: Tokenizer, layers: list[int]) -> None:
    places = parse_marked("Ada [finds] the [bank]", 0)
    parts = embed(model, tokenizer, places, layers=layers)
    for whole, part in zip(embed(model, tokenizer, places), parts, strict=True):
        assert part.contextual.shape == (len(layers), model.config.dim) and part.expected == whole.expected
        for layer in (*layers, layers):
            assert np.allclose(part.at(layer), whole.at(layer), atol=1e-6)


@pytest.mark.parametrize("pool", contextual.POOLS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hidden_states_are_those_of_a_direct_trace(tokenizer: Tokenizer, architecture: str, pool: str) -> None:
    model = random_model(tiny_config(architecture, vocab_size=tokenizer.vocab_size, context_length=64))
    left, word, right = "Ada finds the", " zyx", " and more"
    (found,) = vectors_of(model, tokenizer, f"{left} [{word.strip()}]{right}", pool=pool)
    before, inside = tokenizer.encode(PREFIX + left), tokenizer.encode(word)
    whole = [*before, *inside, *tokenizer.encode(right)]  # with what follows: it must not matter
    at = [i + len(before) for i, token in enumerate(inside) if tokenizer.token_bytes[token] != b" "]
    assert len(at) > 1
    hidden = torch.stack(trace(model, torch.tensor([whole])).hidden)[:, 0, at]
    assert found.contextual.shape == (model.config.n_layers + 1, model.config.dim)
    assert np.allclose(found.contextual, pooled(hidden, pool), atol=1e-5)


def test_what_is_expected_next_are_the_likeliest_tokens(model: GPT, tokenizer: Tokenizer) -> None:
    (found,) = vectors_of(model, tokenizer, "Ada finds the [bank] .", n_expected=3)
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer.encode(PREFIX + "Ada finds the bank")]))[0, -1]
    assert found.expected == tuple(tokenizer.decode([i]) for i in logits.topk(3).indices.tolist())


@pytest.mark.parametrize("left", ["", "the", "Ada finds the", "a,b c-d (", "河岸上的", "one\ntwo\n\n"])
def test_tokens_to_the_left_are_counted(model: GPT, tokenizer: Tokenizer, left: str) -> None:
    assert vectors_of(model, tokenizer, f"{left}[ bank] again")[0].n_left == len(tokenizer.encode(left))


def test_an_unknown_pool_is_a_usage_error(model: GPT, tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="`pool`"):
        vectors_of(model, tokenizer, "[bank]", pool="max")


def test_a_long_text_to_the_left_is_truncated_and_a_short_one_is_not(tokenizer: Tokenizer) -> None:
    model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size, context_length=16))
    short, long = vectors_of(model, tokenizer, "Ada finds the [bank]", f"{'Ada finds the river and ' * 9} the [bank]")
    assert (short.truncated, short.words_left, short.n_left) == (False, 3, len(tokenizer.encode("Ada finds the")))
    assert long.truncated and long.n_left == 16 - len(long.tokens) and 0 < long.words_left < 15


@pytest.mark.parametrize(
    ("left", "n"),
    [("", 0), ("The ", 1), ("one, two - three ", 3), ("हिन्दी बैंक ", 2), ("我去", 2), ("a. b's ", 3), ("... ", 0)],
)
def test_words_to_the_left_are_counted(model: GPT, tokenizer: Tokenizer, left: str, n: int) -> None:
    assert vectors_of(model, tokenizer, f"{left}[x]")[0].words_left == n


# -- Prefix and echo


def test_the_separator_is_a_prefix_where_the_model_knows_it(tokenizer: Tokenizer) -> None:
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    line_break = tokenizer.encode("\n")
    assert find_prefix(tokenizer) == find_prefix(tokenizer, "auto", counts) == line_break
    counts[tokenizer.separator_id] = KNOWN_SEPARATOR
    assert find_prefix(tokenizer, "auto", counts) == [tokenizer.separator_id]
    assert find_prefix(tokenizer, "Ada: ", counts) == tokenizer.encode("Ada: ")
    assert find_prefix(tokenizer, "", counts) == []


def test_a_prefix_is_read_before_the_text(model: GPT, tokenizer: Tokenizer) -> None:
    prefix = tokenizer.encode("Bela paints:\n")
    (found,) = vectors_of(model, tokenizer, "Ada finds the [bank] .", prefix=prefix)
    window = [*prefix, *tokenizer.encode("Ada finds the bank")]
    expected = torch.stack(trace(model, torch.tensor([window])).hidden)[:, 0, -1]
    assert np.allclose(found.contextual, expected.numpy(), atol=1e-5)
    assert found.words_left == 3, "the prefix is not the text's"


def test_echo_reads_the_whole_text_before_the_word(model: GPT, tokenizer: Tokenizer) -> None:
    texts = "the [bank] and the river", "the [bank] and the song"
    plain, other = vectors_of(model, tokenizer, *texts)
    assert np.array_equal(plain.contextual, other.contextual)
    first, second = vectors_of(model, tokenizer, *texts, context="echo")
    assert np.abs(first.contextual[1:] - second.contextual[1:]).max() > 1e-3
    assert [first.occurrence, second.occurrence] == [plain.occurrence, other.occurrence]
    twice = f"{plain.occurrence.text}\n{plain.occurrence.text}"
    (expected,) = embed(model, tokenizer, find_word(twice, 0, "bank#2"))
    assert np.allclose(first.contextual, expected.contextual, atol=1e-5)


# -- Many at once


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The tokens of every forward pass."""
    seen: list[torch.Tensor] = []

    def recorded(model: GPT, tokens: torch.Tensor, *more: Any) -> torch.Tensor:
        seen.append(tokens)
        return tracing.hidden(model, tokens, *more)

    monkeypatch.setattr(contextual, "hidden", recorded)
    return seen


def some_words(n: int) -> list[Occurrence]:
    """Words at the beginning, in the middle and at the end of texts of one to three sentences."""
    lines = make_text(2 * n, seed=5).splitlines()
    texts = [" ".join(lines[i : i + 1 + i % 3]) for i in range(n)]
    return [(found := find_word(text, i, "the"))[i % len(found)] for i, text in enumerate(texts)]


@pytest.mark.parametrize("pool", ["last", "weighted"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_vector_is_the_same_alone_and_in_any_batch(tokenizer: Tokenizer, architecture: str, pool: str) -> None:
    model = random_model(tiny_config(architecture, vocab_size=tokenizer.vocab_size, context_length=64))
    places = some_words(64)
    together = embed(model, tokenizer, places, pool=pool)
    backwards = embed(model, tokenizer, places[::-1], pool=pool)[::-1]
    assert [v.occurrence for v in together] == places
    for place, first, second in zip(places, together, backwards, strict=True):
        alone = embed(model, tokenizer, [place], pool=pool)[0]
        assert np.abs(alone.contextual - first.contextual).max() <= 1e-5
        assert np.abs(alone.contextual - second.contextual).max() <= 1e-5
        assert (alone.n_left, alone.tokens, alone.expected) == (first.n_left, first.tokens, first.expected)


def test_chunks_and_batches_of_any_size_give_the_same(
    model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = some_words(40)
    expected = embed(model, tokenizer, places)
    monkeypatch.setattr(contextual, "WORDS_AT_ONCE", 7)
    monkeypatch.setattr(contextual, "TOKENS_AT_ONCE", {"cpu": 50})
    monkeypatch.setattr(contextual, "HEADS_AT_ONCE", 3)
    for a, b in zip(embed(model, tokenizer, places), expected, strict=True):
        assert np.abs(a.contextual - b.contextual).max() <= 1e-5
        assert (a.occurrence, a.expected) == (b.occurrence, b.expected)


def test_texts_that_begin_alike_are_read_once(model: GPT, tokenizer: Tokenizer, windows: list[torch.Tensor]) -> None:
    rights = (" .", " and the river .", ", she said", "", "\nand then")
    found = vectors_of(model, tokenizer, *(f"Ada finds the [bank]{right}" for right in rights), "Ada [finds] the bank")
    for a, b in pairwise(found[:-1]):
        assert np.array_equal(a.contextual, b.contextual), "exactly, not nearly"
    (window,) = windows
    assert window.tolist() == [tokenizer.encode(PREFIX) + tokenizer.encode("Ada finds the bank")]


def test_nothing_is_read_twice_or_to_the_right_of_the_last_word(
    model: GPT, tokenizer: Tokenizer, windows: list[torch.Tensor]
) -> None:
    text = "Ada finds the bank and the river and the song and the clock ."
    places = [o for word in ("river", "the#1", "bank") for o in find_word(text, 0, word)]
    embed(model, tokenizer, places)
    (window,) = windows
    assert window.tolist() == [tokenizer.encode(f"{PREFIX}Ada finds the bank and the river")]


def test_blocks_above_the_layer_and_the_head_are_left_out(
    model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = vectors_of(model, tokenizer, "Ada finds the [bank]")

    def forbidden(*_: object) -> None:
        raise AssertionError("not needed")

    monkeypatch.setattr(model.head, "forward", forbidden)
    monkeypatch.setattr(model.transformer.blocks[1], "forward", forbidden)
    (part,) = vectors_of(model, tokenizer, "Ada finds the [bank]", top=1, n_expected=0)
    assert np.allclose(part.contextual, whole.contextual[:2], atol=1e-6)
    assert part.expected == ()


def test_tokens_are_expected_whatever_the_layer(model: GPT, tokenizer: Tokenizer) -> None:
    (whole,) = vectors_of(model, tokenizer, "Ada finds the [bank]")
    (low,) = vectors_of(model, tokenizer, "Ada finds the [bank]", top=0)
    assert low.contextual.shape == (1, model.config.dim) and low.expected == whole.expected


def test_words_of_a_long_text_share_its_tokens(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size, context_length=16))
    text = make_text(4000)
    places = find_word(text, 0, "bank")[500:700]
    alone = [embed(model, tokenizer, [place])[0] for place in places[::40]]
    sizes: list[int] = []
    real = Tokenizer.encode_with_spans
    monkeypatch.setattr(
        Tokenizer, "encode_with_spans", lambda self, text: (sizes.append(len(text)), real(self, text))[1]
    )
    together = embed(model, tokenizer, places)
    assert sum(sizes) < 3 * (places[-1].end - places[0].start) + 20_000 < len(text)
    for a, b in zip(alone, together[::40], strict=True):
        assert (a.tokens, a.n_left, a.words_left) == (b.tokens, b.n_left, b.words_left)
        assert np.abs(a.contextual - b.contextual).max() <= 1e-5


@pytest.mark.hf
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_hidden_states_are_those_of_transformers(tokenizer: Tokenizer, architecture: str, tmp_path: Path) -> None:
    """Another program reads the same weights, the whole of each text, one text at a time."""
    from transformers import AutoModel

    model = random_model(tiny_config(architecture, vocab_size=tokenizer.vocab_size, context_length=64))
    save_step(tmp_path / "step", model, tokenizer, {})
    theirs = AutoModel.from_pretrained(tmp_path / "step").eval()
    places = some_words(12)
    for place, found in zip(places, embed(model, tokenizer, places), strict=True):
        ids = tokenizer.encode(PREFIX) + tokenizer.encode(place.text)
        at = len(tokenizer.encode(PREFIX)) + len(tokenizer.encode(place.text[: place.end])) - 1
        expected = theirs(torch.tensor([ids]), output_hidden_states=True).hidden_states
        assert len(expected) == len(found.contextual)
        for ours, their_layer in zip(found.contextual, expected, strict=True):
            their_state = their_layer[0, at].numpy()
            assert np.abs(ours - their_state).max() <= 1e-5 * max(1.0, float(np.abs(their_state).max()))


# -- Tokens


@pytest.mark.parametrize(
    ("text", "partial"),
    [
        ("the [bank] .", False),
        ("the[ bank] .", False),
        ("[the bank] .", False),
        ("the [ba]nk .", True),
        ("the ba[nk] .", True),
        ("the b[an]k .", True),
        ("[bank], and", False),
        ("([bank])", False),
    ],
)
def test_tokens_that_reach_outside_are_flagged(model: GPT, text: str, partial: bool) -> None:
    words = Tokenizer.train(["the bank . " * 50], 300)
    assert words.encode(" bank") == [words.backend.token_to_id("Ġbank")], "one token, or nothing would be partial"
    assert vectors_of(model, words, text)[0].partial is partial


@pytest.mark.parametrize("text", ["a [\n] b", "a [ ] b", "[\t]", "x[ ]"])
def test_white_space_can_be_a_word(model: GPT, tokenizer: Tokenizer, text: str) -> None:
    (found,) = vectors_of(model, tokenizer, text)
    assert np.isfinite(found.contextual).all()
    assert found.occurrence.word in "".join(found.tokens)


SCRIPTS = {
    "english": ["Ada", "finds", "riverbank", "window", "it's"],
    "german": ["Straße", "Überfluß", "Mädchen"],
    "greek": ["ποταμός", "τράπεζα"],
    "russian": ["берег", "банк"],
    "hebrew": ["בנק", "נהר"],
    "arabic": ["بنك", "نهر"],
    "hindi": ["नदी", "बैंक"],
    "thai": ["ธนาคาร", "แม่น้ำ"],
    "chinese": ["银行", "河岸", "龘"],
    "japanese": ["銀行", "カタカナ", "ひらがな"],
    "korean": ["은행", "강둑"],
    "emoji": ["🙂", "👩‍👩‍👧", "🏳️‍🌈", "👍🏽"],
    "marks": ["e\u0301tude", "a\u0300\u0316b"],
    "numbers": ["1984", "3.14", "٣٤"],
}


def sentences() -> list[str]:
    """Marked sentences that mix scripts, with and without spaces between the words."""
    rng = random.Random(0)
    words = [word for group in SCRIPTS.values() for word in group]
    made = []
    for i in range(1000):
        picked = rng.choices(words, k=rng.randint(1, 7))
        marked = i % len(picked)
        picked[marked] = f"[{picked[marked]}]"
        separator = rng.choice([" ", " ", ", ", "", "\n", "  "])
        made.append(rng.choice(["", " ", "«"]) + separator.join(picked) + rng.choice(["", " .", "。", "…"]))
    return made


SENTENCES = sentences()


@pytest.mark.row("E05")
def test_the_word_is_sliced_right_in_all_scripts(world: Tokenizer) -> None:
    model = random_model(tiny_config("qwen3", vocab_size=world.vocab_size, context_length=256))
    occurrences = [o for i, text in enumerate(SENTENCES) for o in parse_marked(text, i)]
    assert len(occurrences) == len(SENTENCES)
    several = 0
    for text, v in zip(SENTENCES, embed(model, world, occurrences), strict=True):
        start, end = text.index("["), text.index("]") - 1
        word = text.replace("[", "").replace("]", "")[start:end]
        assert v.occurrence.word == word
        # The tokens must hold exactly the word's bytes, but for a space before it and what is flagged as partial.
        ids, covering, _ = contextual._covering_tokens(world, v.occurrence)
        spelled = b"".join(world.token_bytes[ids[i]] for i in covering)
        before = b"".join(world.token_bytes[i] for i in ids[: covering[0]])
        assert covering == list(range(covering[0], covering[-1] + 1))
        if v.partial:
            assert word.encode() in spelled
        else:
            assert spelled.strip() == word.encode()
            assert before.strip() == v.occurrence.text[: v.occurrence.start].strip().encode()
        several += len(covering) > 1
        assert np.isfinite(v.contextual).all()
    assert several > 250


@pytest.mark.row("E04")
@pytest.mark.parametrize("pool", contextual.POOLS)
def test_a_word_longer_than_the_context_is_read_from_its_end(tokenizer: Tokenizer, pool: str) -> None:
    model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size, context_length=16))
    word = "".join(random.Random(1).choice("qzxjv") for _ in range(90))
    (found,) = vectors_of(model, tokenizer, f"a [{word}] b", pool=pool)
    ids = tokenizer.encode(f" {word}")[-16:]
    assert len(found.tokens) > 16
    hidden = torch.stack(trace(model, torch.tensor([ids])).hidden)[:, 0]
    assert np.allclose(found.contextual, pooled(hidden, pool), atol=1e-5)
    assert found.truncated and found.words_left == 0


@pytest.mark.row("E04")
def test_of_a_long_sentence_the_nearest_words_count(tokenizer: Tokenizer) -> None:
    model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size, context_length=16))
    near = " and the river and the garden and the letter and the song and the clock and the window"
    first, second = vectors_of(model, tokenizer, f"Ada{near} [bank]", f"Bela and Chidi{near} [bank]")
    assert len(tokenizer.encode(near)) >= 16
    assert np.allclose(first.contextual, second.contextual, atol=1e-5)


def test_white_space_at_the_ends_of_a_place_is_not_the_word(tokenizer: Tokenizer) -> None:
    """Spans from other programs may take it in: the state is that of the word, not of what follows the space."""
    model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size))
    text = "see the bank of"
    exact, *others = embed(model, tokenizer, [Occurrence(0, text, *span) for span in ((8, 12), (7, 12), (8, 13))])
    for other in others:
        assert other.occurrence == exact.occurrence and other.tokens == exact.tokens
        assert np.array_equal(other.contextual, exact.contextual) and np.array_equal(other.static, exact.static)


def test_a_word_without_an_end_is_not_tokenized_as_a_whole(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 3 million letters without a gap, those near the word are read: time grows with what is read, not with them."""
    model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size))
    lengths: list[int] = []
    encode = type(tokenizer).encode_with_spans

    def watched(self: Tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        lengths.append(len(text))
        return encode(self, text)

    monkeypatch.setattr(type(tokenizer), "encode_with_spans", watched)
    (found,) = embed(model, tokenizer, parse_marked("a" * 3_000_000 + " [bank]", 0), n_expected=0)
    assert found.truncated and max(lengths) < 2 * LONGEST_STRETCH and sum(lengths) < 3 * LONGEST_STRETCH

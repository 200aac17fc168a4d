"""gptlite embed: words marked or named, tables for people, and vectors for programs."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command, Outcome, random_model, tiny_config

from gptlite.checkpoint import runs, saved_step
from gptlite.checkpoint.saved_step import save_step
from gptlite.cli.shared.texts import Lines, in_batches
from gptlite.distribution import install_hint
from gptlite.embedding import contextual, similarity
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import parse_marked

BANKS = ("Ada finds the [bank] and the river .", "Bela paints the song and the [bank] .")
PLAIN = tuple(text.replace("[", "").replace("]", "") for text in BANKS)
META = {"model", "gptlite", "model_sha256", "tokenizer_sha256", "pool", "prefix", "context"}
KEYS = META | {
    "schema", "layer", "correct", "scale", "items", "contextual", "raw", "static", "percentile", "pairs", "notes",
    "parts", "left",
}  # fmt: skip
ITEM = {"text_index", "word", "span", "tokens", "partial", "n_tokens_left", "n_words_left", "truncated", "expected"}


@pytest.fixture
def embed(gptlite: Command, trained_run: Path) -> Command:
    def call(*arguments: object, stdin: bytes | None = None) -> Outcome:
        return gptlite("embed", "-m", trained_run, *arguments, stdin=stdin)

    return call


def parsed(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("\n") == 1
    return json.loads(outcome.out)


# -- JSON


def test_json_is_one_object_with_the_documented_keys(embed: Command, trained_run: Path) -> None:
    result = parsed(embed(*BANKS, "--json"))
    assert set(result) == KEYS
    assert all(set(item) == ITEM for item in result["items"])
    assert (result["layer"], result["pool"], result["correct"], result["prefix"]) == (2, "last", "zscore", "\n")
    assert [(item["word"], item["text_index"], item["span"]) for item in result["items"]] == [
        ("bank", 0, [14, 18]), ("bank", 1, [29, 33]),
    ]  # fmt: skip
    assert set(result["scale"]) == {"unrelated", "same_word"}


def test_one_word_is_one_static_vector_and_many_contextual_ones(embed: Command) -> None:
    result = parsed(embed(*BANKS, "--json"))
    assert np.allclose(result["static"], 1.0, atol=1e-5)
    assert np.allclose(np.diag(result["contextual"]), 1.0, atol=1e-5)
    assert result["contextual"][0][1] == result["contextual"][1][0] < 0.99


def test_the_numbers_are_those_of_the_library(embed: Command, trained_run: Path) -> None:
    loaded = saved_step.load(runs.find_model(str(trained_run)))
    statistics = saved_step.read_embedding_statistics(loaded)
    assert statistics is not None
    places = [place for i, text in enumerate(BANKS) for place in parse_marked(text, i)]
    vectors = np.stack([v.contextual[1] for v in contextual.embed(loaded.model, loaded.tokenizer, places, pool="mean")])
    raw = parsed(embed(*BANKS, "--layer", "1", "--pool", "mean", "--correct", "none", "--json"))
    corrected = parsed(embed(*BANKS, "--layer", "1", "--pool", "mean", "--json"))
    space = {name: statistics[name][1].numpy() for name in ("mean", "std", "components")}
    standard = similarity.correct(vectors, "zscore", space)
    assert np.allclose(raw["contextual"], similarity.cosine_matrix(vectors), atol=1e-5)
    assert np.allclose(corrected["contextual"], similarity.cosine_matrix(standard), atol=1e-5)
    assert raw["scale"]["unrelated"] == pytest.approx(statistics["unrelated"][1, 0].tolist(), abs=1e-4)
    assert corrected["scale"]["unrelated"] == pytest.approx(statistics["unrelated"][1, 2].tolist(), abs=1e-4)
    assert corrected["scale"]["same_word"] == pytest.approx(statistics["same_word"][1, 2].tolist(), abs=1e-4)


@pytest.mark.parametrize(("layer", "number"), [("last", 2), ("mid", 1), ("0", 0), ("-1", 2), ("2", 2)])
def test_layers_are_named_or_counted(embed: Command, layer: str, number: int) -> None:
    assert parsed(embed(*BANKS, f"--layer={layer}", "--json"))["layer"] == number


# -- Both sides


def test_words_are_compared_by_both_sides(embed: Command) -> None:
    result = parsed(embed(*BANKS, "--json"))
    left = parsed(embed(*BANKS, "--json", "--context", "left"))
    assert (result["context"], left["context"]) == ("both", "left")
    assert result["left"] == left["contextual"] != result["contextual"] and left["left"] is None
    (pair,) = result["pairs"]
    assert pair["verdict"] and pair["percentile"] == result["percentile"][0][1]
    table = embed(*BANKS).out
    assert "BOTH SIDES" in table and "CONTEXTUAL" in table and "left side alone" in table and pair["verdict"] in table


@pytest.mark.parametrize(
    "options", [("--layer", "1"), ("--pool", "mean"), ("--correct", "center"), ("--tokens",)], ids=str
)
def test_options_about_states_mean_the_left_side(embed: Command, options: tuple[str, ...]) -> None:
    texts = PLAIN if "--tokens" in options else BANKS
    assert parsed(embed(*texts, *options, "--json"))["context"] == "left"


def test_files_have_the_states_of_the_model_unless_both_sides_are_asked_for(embed: Command, trained_run: Path) -> None:
    dim = saved_step.load(runs.find_model(str(trained_run))).config.dim
    for options, n_numbers in ((), dim), (("--context", "both"), None):
        assert embed(*BANKS, "-o", "x.npz", "--force", *options).code == 0
        with np.load("x.npz") as file:
            assert file["vectors"].shape[1] == (n_numbers or sum(json.loads(str(file["meta"]))["parts"].values()))


# -- Which words


def test_brackets_and_word_give_the_same(embed: Command) -> None:
    assert parsed(embed(*BANKS, "--json")) == parsed(embed(*PLAIN, "--word", "bank", "--json"))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("bank",), ["bank", "bank"]),
        (("river", "song"), ["river", "song"]),
        (("BANK",), None),
        (("Ada",), ["Ada"]),
        (("ada",), ["Ada"]),
        (("the#2",), ["the", "the"]),
    ],
)
def test_words_are_named(embed: Command, words: tuple[str, ...], found: list[str] | None) -> None:
    outcome = embed(*PLAIN, *(part for word in words for part in ("-w", word)), "--json")
    if found is None:
        assert outcome.code == 2
    else:
        assert [item["word"] for item in parsed(outcome)["items"] if item["word"]] == found


@pytest.mark.row("E01")
def test_a_word_that_is_missing_is_told_what_is_there(embed: Command) -> None:
    outcome = embed(*PLAIN, "-w", "rivers")
    assert (outcome.code, outcome.out) == (2, "")
    assert "'rivers' is not in the texts" in outcome.err and "river" in outcome.err.partition("for example")[2]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize("word", [(), ("-w", "bank")], ids=["marked", "named"])
def test_sentences_come_from_files_and_pipes(embed: Command, word: tuple[str, ...], line_end: str) -> None:
    sentences = PLAIN if word else BANKS
    content = line_end.join((*sentences, "", "")).encode()
    Path("sentences.txt").write_bytes(content)
    expected = embed(*sentences, *word)
    assert expected.code == 0
    assert embed("-", *word, stdin=content).out == expected.out
    assert embed("-f", "sentences.txt", *word).out == expected.out


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "message"),
    [
        (("-f", "gone.txt"), None, 3, "cannot read texts from gone.txt"),
        (("-f", "blank.txt"), None, 2, "at least one text"),
        (("-",), b"", 2, "at least one text"),
        (("-",), b"caf\xe9 [x]", 3, "not UTF-8"),
        (("",), None, 2, "at least one text"),
    ],
    ids=str,
)
def test_bad_sentences_are_errors(
    embed: Command, arguments: tuple[str, ...], stdin: bytes | None, code: int, message: str
) -> None:
    Path("blank.txt").write_text("\n \n")
    outcome = embed(*arguments, stdin=stdin)
    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err


# -- Ways to name a word


NAMED = {
    "brackets": ("Ada finds the bank and the [river] .",),
    "marks": ("Ada finds the bank and the <b>river</b> .", "--mark", "<b>,</b>"),
    "word": ("Ada finds the bank and the river .", "-w", "river"),
    "first": ("Ada finds the bank and the river .", "-w", "river#1"),
    "jsonl span": ("-f", "span.jsonl"),
    "jsonl index": ("-f", "index.jsonl"),
    "jsonl word": ("-f", "word.jsonl"),
    "jsonl marked": ("-f", "marked.jsonl"),
    "jsonl named": ("-f", "plain.jsonl", "-w", "river"),
    "csv": ("-f", "span.csv"),
    "tsv": ("-f", "index.tsv"),
}


@pytest.mark.parametrize("way", NAMED)
def test_all_ways_to_name_a_word_give_one_vector(embed: Command, way: str) -> None:
    text = "Ada finds the bank and the river ."
    rows: dict[str, dict[str, Any]] = {
        "span": {"text": text, "span": [27, 32]}, "index": {"text": text, "word_index": 6},
        "word": {"text": text, "word": "river"}, "marked": {"text": NAMED["brackets"][0]}, "plain": {"text": text},
    }  # fmt: skip
    for name, row in rows.items():
        Path(f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    Path("span.csv").write_text(f'start,End,note,TEXT\n27,32,"a, b","{text}"\n')
    Path("index.tsv").write_text(f"sentence\tword_index\n{text}\t6\n")
    expected, found = (json.loads(embed(*arguments, "-o", "-").out) for arguments in (NAMED["brackets"], NAMED[way]))
    assert found.pop("note", "a, b") == "a, b"  # another column
    assert found == expected and found["word"] == "river", "bit for bit"


def test_a_table_has_as_many_texts_as_rows(embed: Command) -> None:
    Path("t.csv").write_text('text,word\n"a bank\nof two lines",bank\nnothing here,bank\nthe [song] .,\n')
    outcome = embed("-f", "t.csv", "-o", "-")
    assert outcome.code == 0, outcome.err
    found = [json.loads(line) for line in outcome.out.splitlines()]
    assert [(r["text_index"], r["word"]) for r in found] == [(0, "bank"), (1, None), (2, "song")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", '{"text": "a [b]"}\n{"text": }\n', "t.jsonl, line 2 is not JSON"),
        ("t.jsonl", '{"text": "a [b]"}\n\n[1]\n', "t.jsonl, line 3 is not an object"),
        ("t.jsonl", '{"words": "a [b]"}\n', 't.jsonl, line 1 has no "text"'),
        ("t.jsonl", '{"text": "a b", "span": [2, 4]}\n', "t.jsonl, line 1: a span is [start, end]"),
        ("t.jsonl", '{"text": "a b", "span": [2, 2]}\n', "t.jsonl, line 1: a span is [start, end]"),
        ("t.jsonl", '{"text": "a b", "span": [true, 2]}\n', "t.jsonl, line 1: a span is [start, end]"),
        ("t.jsonl", '{"text": "a b", "word_index": 2}\n', "t.jsonl, line 1: word_index must be from 0 to 1"),
        ("t.jsonl", '{"text": "a b", "word": 2}\n', "t.jsonl, line 1: the word must be text"),
        ("t.jsonl", '{"text": "\\ud800 b", "word": "b"}\n', "t.jsonl, line 1 holds half of a surrogate pair"),
        ("t.csv", "word,note\nb,c\n", "t.csv has no column text or sentence; its first line must name the columns"),
        ("t.csv", "", "t.csv has no column text or sentence"),
        ("t.csv", "text,word_index\na b,7\n", "t.csv, line 2: word_index must be from 0 to 1"),
        ("t.tsv", "text\tstart\tend\na b\tx\t1\n", "t.tsv, line 2: a span is [start, end]"),
        ("t.csv", 'text,word\na bank,bank\n"The bank,bank\nmore,bank\n', "t.csv, line 3: a quote is opened there"),
        ("t.csv", 'text,word\n"a bank" here,bank\n', "t.csv, line 2: a quote is opened there"),
        ("t.csv", "text,word\nthe river, the bank,bank\n", "t.csv, line 2 has 3 cells, and the first line names 2"),
    ],
)
def test_a_bad_row_is_named(embed: Command, name: str, content: str, message: str) -> None:
    Path(name).write_text(content)
    outcome = embed("-f", name)
    assert (outcome.code, outcome.out) == (3, "")
    assert message in outcome.err


def test_a_cell_may_be_of_any_length(embed: Command) -> None:
    """Longer than the 131,072 characters that Python's csv takes unless it is told otherwise."""
    text = "Ada finds the bank . " * 8000
    Path("long.csv").write_text(f'text,word\n"{text}",Ada#1\n')
    outcome = embed("-f", "long.csv", "-o", "-")
    assert "field larger" not in outcome.err
    assert outcome.code in (0, 8), outcome.err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "text,start,end\nA bank here,2.0,6.0\nno,,\n"),
        ("t.csv", "text,word_index\nA bank here,1.0\n"),
        ("t.jsonl", '{"text": "A bank here", "span": [2.0, 6.0]}\n'),
        ("t.jsonl", '{"text": "A bank here", "start": 2.0, "end": 6.0}\n'),
        ("t.jsonl", '{"text": "A bank here", "word_index": 1.0}\n'),
    ],
)
def test_whole_floats_are_integers(embed: Command, name: str, content: str) -> None:
    """As pandas writes a column of integers with gaps."""
    Path(name).write_text(content)
    outcome = embed("-f", name, "-o", "-", "--limit", "1")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["word"] == "bank"


def test_every_token_is_a_word(embed: Command, trained_run: Path) -> None:
    text = "Ada finds the [bank] .\n"
    Path("t.txt").write_text(text)
    found = [json.loads(line) for line in embed("-f", "t.txt", "--tokens", "-o", "-").out.splitlines()]
    tokenizer = saved_step.load(runs.find_model(str(trained_run))).tokenizer
    assert [r["tokens"] for r in found] == [[tokenizer.decode([i])] for i in tokenizer.encode(text.rstrip())]
    (marked,) = (json.loads(line) for line in embed("Ada [finds] the", "-o", "-").out.splitlines())
    same = (r["vector"] for r in found if r["tokens"] == marked["tokens"][-1:])
    assert any(vector == pytest.approx(marked["vector"], abs=1e-5) for vector in same)


def test_a_sentence_is_one_vector(embed: Command) -> None:
    result = parsed(embed(*PLAIN, "--sentence", "--json"))
    assert [item["word"] for item in result["items"]] == list(PLAIN)
    assert result["pool"] == "weighted"
    assert parsed(embed(*PLAIN, "--sentence", "--pool", "mean", "--json"))["contextual"] != result["contextual"]


@pytest.mark.parametrize(
    "texts", [PLAIN, ("房间很好", "服务很差"), ("Ada", "Ada")], ids=["English", "Chinese", "one word"]
)
def test_what_is_said_of_sentences_is_of_sentences(embed: Command, texts: tuple[str, ...]) -> None:
    """No scale of words, no word's row, and nothing on words to the left of the beginning."""
    outcome = embed(*texts, "--sentence")
    assert outcome.code == 0, outcome.err
    for wrong in (
        "seen",
        "word's row",
        "unrelated words",
        "same word",
        "same-word",
        "one word, one vector",
        "spelling",
    ):
        assert wrong not in outcome.out, wrong
    assert "STATIC, the mean of the tokens' rows" in outcome.out
    assert "scale  unrelated sentences" in outcome.out
    length = {PLAIN: "7 words", ("Ada", "Ada"): "1 word"}.get(texts, "4 words")
    assert length in outcome.out
    result = parsed(embed(*texts, "--sentence", "--json"))
    assert list(result["scale"]) == ["unrelated"] and result["percentile"][0][1] is not None
    verdicts = ("no more alike than unrelated sentences", "somewhat alike", "clearly alike", "the same vector")
    assert result["pairs"][0]["verdict"] in verdicts


def test_after_the_limit_nothing_is_read(embed: Command) -> None:
    outcome = embed("-", "-w", "the", "--limit", "3", "-o", "-", stdin=b"the the\nthe the\n\xff is never read\n")
    assert (outcome.code, outcome.out.count("\n")) == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tokens", "--sentence"), "only one of"),
        (("--tokens", "-w", "bank"), "only one of"),
        (("--mark", "[["), "--mark takes two marks"),
        (("--mark", "{,}"), "between the marks { and }"),
        (("--pool", "max"), "'--pool'"),
        (("--layer", "2-1"), "--layer 2-1 names no layers"),
        (("--layer", "all"), "--layer all is for files"),
        (("--layer", "all", "-o", "v.jsonl"), "only .npz and .npy hold the vectors of all layers"),
    ],
)
def test_options_that_make_no_sense_are_usage_errors(embed: Command, arguments: tuple[str, ...], message: str) -> None:
    outcome = embed(BANKS[0], *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


def test_lines_are_answered_before_the_next_one_is_written() -> None:
    """Each as soon as it is there, and half a line holds up none."""
    end, begin = os.pipe()
    with open(end, "rb") as source, open(begin, "wb", buffering=0) as sink:
        lines = Lines(source)
        batches = in_batches(lines, lines.must_wait)
        sink.write(b"one\n")
        assert next(batches) == [b"one"]
        sink.write(b"two\nthree\r\nhalf ")
        assert next(batches) == [b"two", b"three"]
        sink.write(b"a line")
        sink.close()
        assert next(batches) == [b"half a line"]
        assert list(batches) == []


# -- Tables


def test_the_table_shows_word_context_and_cosines(embed: Command) -> None:
    outcome = embed(*BANKS, "--context", "left")
    assert (outcome.code, outcome.err) == (0, "")
    assert "Ada finds the ▐bank▌" in outcome.out
    assert "▐bank▌ ." in outcome.out
    result = parsed(embed(*BANKS, "--context", "left", "--json"))
    cosine = f"{result['contextual'][0][1]:.2f}"
    numbers = [line.split() for line in outcome.out.splitlines() if re.fullmatch(r"[\s\d.-]+", line) and line.strip()]
    assert ["1", "1.00", cosine, "1", "1.00", "1.00"] in numbers
    assert ["2", cosine, "1.00", "2", "1.00", "1.00"] in numbers
    assert "CONTEXTUAL, block 2/2, last token, z-scored cosines" in outcome.out
    assert re.search(r"scale +unrelated words -?0\.\d\d ± 0\.\d\d", outcome.out)


def test_one_occurrence_needs_no_matrix(embed: Command) -> None:
    out = embed(BANKS[0]).out
    assert "▐bank▌" in out and "CONTEXTUAL" not in out


def test_many_occurrences_get_no_matrix(embed: Command) -> None:
    out = embed(*BANKS * 5).out
    assert "10 occurrences: too many for a matrix" in out and "CONTEXTUAL" not in out


@pytest.mark.parametrize(
    ("context", "other"), [((), "left side alone"), (("--context", "left"), "raw")], ids=["both", "left"]
)
def test_a_verdict_says_what_a_cosine_is_worth(embed: Command, context: tuple[str, ...], other: str) -> None:
    result = parsed(embed(*BANKS, *context, "--json"))
    (pair,) = result["pairs"]
    assert pair["pair"] == [0, 1] and pair["among"] == "same_word"
    assert pair["percentile"] == result["percentile"][0][1]
    assert (pair["contextual"], pair["raw"]) == (result["contextual"][0][1], result["raw"][0][1])
    out = embed(*BANKS, *context).out
    rank = rf"is (lower|higher) than \d+ % of same-word pairs: {pair['verdict']}\."
    assert re.search(
        rf"^1–2 +{pair['contextual']:.2f} \({other} {pair[other.split()[0]]:.2f}\) {rank}$", out, re.MULTILINE
    )
    assert "Static vectors cannot tell them apart" in out


def test_two_words_are_compared_with_unrelated_ones(embed: Command) -> None:
    out = embed("the [river] and", "the [song] and").out
    assert re.search(r"^1–2 .* than \d+ % of pairs of unrelated words: ", out, re.MULTILINE)
    assert "cannot tell them apart" not in out


def test_texts_that_are_equal_up_to_the_word_give_one_vector(embed: Command) -> None:
    texts = "Ada finds the [bank] .", "Ada finds the [bank] and the river ."
    out = embed(*texts, "--context", "left").out
    assert "1–2    the same vector: the texts are equal up to the word" in out
    (pair,) = parsed(embed(*texts, "--context", "left", "--json"))["pairs"]
    assert pair["same_prefix"] and pair["contextual"] == pytest.approx(1, abs=1e-5)
    (echoed,) = parsed(embed(*texts, "--repeat", "--json"))["pairs"]
    assert not echoed["same_prefix"]


def test_spellings_have_static_vectors_of_their_own(embed: Command) -> None:
    outcome = embed("Ada finds the [bank]", "Ada finds the [Bank]")
    assert "bank, Bank: each spelling has tokens, and so a static vector, of its own." in outcome.out


def test_a_word_that_the_model_has_hardly_seen_is_mentioned(embed: Command) -> None:
    outcome = embed("the [zyxqwv] and", "the [Bank] and")
    assert "zyxqwv stands once at most in the training text" in outcome.out
    assert "bank stands" not in outcome.out, "it was seen often, if in lower case"


def test_a_long_text_before_the_word_is_mentioned(embed: Command) -> None:
    text = f"{'Ada finds the river . ' * 20} the [bank]"
    assert "#1: the text before the word is longer" in embed(text).out
    assert parsed(embed(text, "--json"))["items"][0]["truncated"]
    outcome = embed(text, "-o", "v.npz")
    assert "note: 1 word stood further into a text than the 32 tokens" in outcome.err


def test_the_mean_of_layers_has_no_verdict(embed: Command) -> None:
    outcome = embed(*BANKS, "--layer", "1-2")
    assert "CONTEXTUAL, blocks 1-2/2" in outcome.out and "scale" not in outcome.out
    result = parsed(embed(*BANKS, "--layer", "1-2", "--json"))
    assert (result["layer"], result["scale"], result["percentile"]) == ([1, 2], None, None)


def test_files_hold_one_layer_the_mean_of_several_or_all(embed: Command) -> None:
    found = {}
    for layer in ("0", "1", "2", "1-2", "all"):
        assert embed(*BANKS, "-o", f"{layer}.npz", "--layer", layer).code == 0
        with np.load(f"{layer}.npz", allow_pickle=False) as file:
            found[layer] = file["vectors"]
            assert json.loads(str(file["meta"]))["layer"] in (layer, [1, 2], *range(3))
    assert np.allclose(found["all"], np.stack([found["0"], found["1"], found["2"]], axis=1), atol=1e-6)
    assert np.allclose(found["1-2"], (found["1"] + found["2"]) / 2, atol=1e-6)


def test_a_word_that_has_seen_nothing_is_mentioned(embed: Command) -> None:
    assert "#2 has seen almost nothing" in embed(BANKS[0], "[bank] .", "--context", "left").out
    assert "almost nothing" not in embed(*BANKS).out


def test_tokens_that_reach_outside_are_mentioned(embed: Command) -> None:
    assert "reaches outside the word" in embed("Ada finds the ri[ver] .").out
    assert "reaches outside" not in embed(*BANKS).out


@pytest.mark.parametrize("text", ["the [bold]bank[/bold]", "the bank \x1b[2J", "[/] bank", "河岸 bank 🙂"])
def test_sentences_are_neither_markup_nor_commands(embed: Command, text: str) -> None:
    outcome = embed(text, "-w", "bank")
    assert outcome.code == 0
    left, _, right = text.partition("bank")
    shown = f"{left}▐bank▌{right}".replace("\x1b", r"\x1b")
    assert shown in outcome.out


def test_a_model_without_statistics_shows_raw_cosines_and_says_so(gptlite: Command, tokenizer: Tokenizer) -> None:
    save_step(Path("hub"), random_model(tiny_config("gpt2", vocab_size=tokenizer.vocab_size)), tokenizer, {})
    outcome = gptlite("embed", "-m", "hub", *BANKS)
    assert outcome.code == 0
    assert re.match(r"note: .*hub holds no statistics", outcome.err)
    assert "raw cosines" in outcome.out and "scale" not in outcome.out
    result = parsed(gptlite("embed", "-m", "hub", *BANKS, "--json", "-q"))
    assert (result["correct"], result["scale"]) == ("none", None)
    assert gptlite("embed", "-m", "hub", *BANKS, "--correct", "none").err == ""


# -- Files


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".jsonl", ".vec"])
def test_vectors_are_written_raw(embed: Command, suffix: str, trained_run: Path) -> None:
    outcome = embed(*BANKS, "-o", f"v{suffix}", "--layer", "1")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err == f"2 raw vectors of 32 numbers in v{suffix}\n"
    loaded = saved_step.load(runs.find_model(str(trained_run)))
    places = [place for i, text in enumerate(BANKS) for place in parse_marked(text, i)]
    expected = np.stack([v.contextual[1] for v in contextual.embed(loaded.model, loaded.tokenizer, places)])
    if suffix == ".npz":
        with np.load("v.npz", allow_pickle=False) as file:
            found = file["vectors"]
    elif suffix == ".npy":
        found = np.load("v.npy", allow_pickle=False)
    elif suffix == ".jsonl":
        found = np.array([json.loads(line)["vector"] for line in Path("v.jsonl").read_text().splitlines()], np.float32)
    else:
        found = np.loadtxt("v.vec", skiprows=1, usecols=range(1, 33), dtype=np.float32, comments=None)
    assert np.allclose(found, expected, atol=1e-6)


def test_a_file_and_json_can_both_be_had(embed: Command) -> None:
    result = parsed(embed(*BANKS, "-o", "v.npz", "--json"))
    with np.load("v.npz", allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
    assert set(meta) == {*META, "layer", "correct", "normalize"}
    assert (meta["correct"], meta["normalize"]) == ("none", False), "files are raw, whatever the printed cosines are"
    assert all(result[name] == meta[name] for name in {*META, "layer"})


def test_metadata_names_the_very_files_of_the_model(embed: Command, trained_run: Path) -> None:
    step = runs.find_model(str(trained_run))
    meta = json.loads(embed(*BANKS, "-o", "-").out.splitlines()[0])
    for key, name in (("model_sha256", "model.safetensors"), ("tokenizer_sha256", "tokenizer.json")):
        assert meta[key] == hashlib.sha256((step / name).read_bytes()).hexdigest()


def test_vectors_of_length_1_are_written_when_asked_for(embed: Command) -> None:
    outcome = embed(*BANKS, "-o", "v.npy", "--normalize")
    assert outcome.err == "2 vectors of length 1, each of 32 numbers in v.npy\n"
    assert np.allclose(np.linalg.norm(np.load("v.npy"), axis=1), 1)
    lines = embed(*BANKS, "-o", "-", "--normalize").out.splitlines()
    assert np.allclose(np.linalg.norm([json.loads(line)["vector"] for line in lines], axis=1), 1)


def test_the_pair_for_the_projector_is_announced(embed: Command) -> None:
    outcome = embed(*BANKS, "-o", "v.tsv")
    assert outcome.err == "2 raw vectors of 32 numbers in v.vectors.tsv and v.metadata.tsv\n"
    assert sorted(path.name for path in Path().glob("v*")) == ["v.metadata.tsv", "v.vectors.tsv"]


# -- A row for each text


E_TSV = "id\tsentence\tword\nA1\tThe keys are here.\tkeys\nA3\tno such\tbank\nA2\tThe bank is here.\tbank\n"


def read_rows(name: str) -> tuple[list[str], list[bool]]:
    """The ids, where a file has them, and which rows have a vector."""
    path = Path(name)
    if path.suffix == ".npy":
        return [], (~np.isnan(np.load(path)).any(axis=1)).tolist()
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return file["id"].tolist(), (~np.isnan(file["vectors"]).any(axis=1)).tolist()
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [row["id"] for row in rows], [row["vector"] is not None for row in rows]
    if path.suffix == ".vec":
        return [], ["NaN" not in line for line in path.read_text().splitlines()[1:]]
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["id"] for row in rows], [row["v0"] != "NaN" for row in rows]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".jsonl", ".vec", ".csv"])
def test_a_table_of_texts_has_a_row_for_each(embed: Command, suffix: str) -> None:
    Path("e.tsv").write_text(E_TSV)
    outcome = embed("-f", "e.tsv", "-o", f"v{suffix}")
    ids, found = read_rows(f"v{suffix}")
    assert found == [True, False, True]
    assert ids in ([], ["A1", "A3", "A2"])
    row = "null" if suffix == ".jsonl" else "NaN"
    assert f"note: 1 text without what was looked for; for it there is a row of {row}." in outcome.err
    assert embed("-f", "e.tsv", "-o", f"w{suffix}", "--skip-missing").code == 0
    ids, found = read_rows(f"w{suffix}")
    assert found == [True, True] and ids in ([], ["A1", "A2"])


def test_the_projector_has_a_row_for_each_text(embed: Command) -> None:
    Path("e.tsv").write_text(E_TSV)
    assert embed("-f", "e.tsv", "-o", "v.tsv").code == 0
    with open("v.metadata.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["id"], row["word"]) for row in rows] == [("A1", "keys"), ("A3", "bank"), ("A2", "bank")]
    assert Path("v.vectors.tsv").read_text().splitlines()[1].split("\t") == ["NaN"] * 32


def test_the_table_for_people_keeps_the_numbers_of_the_texts(embed: Command) -> None:
    Path("e.tsv").write_text(E_TSV)
    out = embed("-f", "e.tsv").out
    rows = [line.split() for line in out.splitlines()]
    assert ["2", "–", "without", "bank"] in rows
    assert any(row[:1] == ["3"] and "▐bank▌" in " ".join(row) for row in rows)
    assert "1–3 " in out and "1 text of 3 without what was looked for." in out
    result = parsed(embed("-f", "e.tsv", "--json", "-q"))
    assert [item.get("id") for item in result["items"]] == ["A1", "A3", "A2"]
    assert [item["word"] for item in result["items"]] == ["keys", None, "bank"]
    assert [row[1] for row in result["contextual"]] == [None] * 3 == result["contextual"][1]
    assert result["pairs"][0]["pair"] == [0, 2]


def test_a_text_without_the_word_has_a_row_too(embed: Command) -> None:
    outcome = embed(PLAIN[0], "nothing here", PLAIN[1], "-w", "bank", "-o", "v.vec")
    assert "2 raw vectors of 32 numbers in v.vec" in outcome.err
    keys = [line.split(" ")[0] for line in Path("v.vec").read_text().splitlines()[1:]]
    assert keys == ["bank#1", "bank#2", "bank#3"]


# -- Files that are there


def test_an_existing_file_is_overwritten_only_with_force(embed: Command) -> None:
    Path("v.npz").write_text("mine")
    Path("w.metadata.tsv").write_text("mine")
    for name in ("v.npz", "w.tsv"):
        outcome = embed(*BANKS, "-o", name)
        assert (outcome.code, outcome.out) == (2, "") and "--force" in outcome.err
        assert embed(*BANKS, "-o", name, "--force").code == 0


def test_what_is_read_and_what_was_trained_on_is_never_overwritten(embed: Command, trained_run: Path) -> None:
    Path("in.csv").write_text("text\nthe [bank]\n")
    assert "this command reads" in embed("-f", "in.csv", "-o", "in.csv", "--force").err
    text = trained_run.parent / "corpus.txt"
    before = text.read_bytes()
    outcome = embed(*BANKS, "-o", text, "--force")
    assert outcome.code == 2 and "was trained on" in outcome.err
    assert text.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--normalize",), "--normalize does nothing with a comparison"),
        (("-o", "v.npz", "--correct", "none"), "--correct does nothing with -o FILE"),
        (("--by-layer", "-o", "v.npz"), "give only one of --by-layer and --out"),
        (("--by-layer", "--repeat"), "--repeat does nothing with --by-layer"),
        (("--by-layer", "--layer", "2"), "--layer does nothing with --by-layer"),
        (("-o", "-", "--figures", "made"), "--figures and -o -"),
        (("-o", "v.npz", "--raw-cells"), "--raw-cells does nothing with -o FILE"),
        (("-w", "river", "the [object] is"), "text 2 marks the word 'bank' and has no 'river'"),
        (("-w", "bank", "--mark", "<,>"), "--mark does nothing with"),
        (("--sentence", "--mark", "<,>"), "--mark does nothing with"),
        (("-o", "v.mat"), "must end in .npz, .npy"),
    ],
    ids=str,
)
def test_outputs_that_make_no_sense_are_usage_errors(embed: Command, arguments: tuple[str, ...], message: str) -> None:
    outcome = embed(*BANKS, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


# -- Pages


def test_charts_are_files_beside_any_answer(embed: Command) -> None:
    pytest.importorskip("vl_convert")
    outcome = embed(*BANKS, "--figures", "made")
    assert (outcome.code, outcome.out) == (0, embed(*BANKS, "--context", "left").out)
    names = ("curve", "map", "matrix", "static-map", "static-matrix")
    assert sorted(path.name for path in Path("made").iterdir()) == [
        f"{x}.{kind}" for x in names for kind in ("png", "svg")
    ]


def test_a_page_holds_every_sentence_and_its_origin(embed: Command) -> None:
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    outcome = embed(*BANKS, "-o", "p.html")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err == "2 occurrences in p.html: open it in a browser\n"
    page = Path("p.html").read_text(encoding="utf-8")
    assert "<bdi>Ada finds the </bdi><mark><bdi>bank</bdi></mark><bdi> and the river .</bdi>" in page
    assert "block 2 of 2" in page and "z-scored cosines" in page
    assert parsed(embed(*BANKS, "--json"))["model_sha256"] in page


def test_a_page_shows_the_cosines_of_the_table(embed: Command) -> None:
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    embed(*BANKS, "-o", "p.html", "--layer", "1", "--correct", "none")
    page = Path("p.html").read_text(encoding="utf-8")
    result = parsed(embed(*BANKS, "--json", "--layer", "1", "--correct", "none"))
    assert f"have a cosine of {result['contextual'][0][1]:.2f} on average" in page
    assert "raw cosines" in page
    assert f"has {result['scale']['same_word'][0]:.2f} ± {result['scale']['same_word'][1]:.2f}" in page


def test_a_page_too_large_is_code_8(embed: Command) -> None:
    pytest.importorskip("altair")
    outcome = embed(*BANKS * 251, "-o", "p.html")
    assert (outcome.code, outcome.out) == (8, "")
    assert "502 occurrences are too many for a page of at most 500; give fewer texts" in outcome.err


def test_a_page_that_cannot_be_written_is_code_5(embed: Command) -> None:
    pytest.importorskip("altair")
    outcome = embed(*BANKS, "-o", "gone/p.html")
    assert outcome.code == 5
    assert "cannot write gone/p.html" in outcome.err


def test_a_page_without_its_libraries_says_what_to_install(embed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    outcome = embed(*BANKS, "-o", "p.html")
    assert outcome.code == 2
    assert install_hint("report") in outcome.err
    assert not Path("p.html").exists()


def test_a_place_that_cannot_be_written_is_code_5(embed: Command) -> None:
    outcome = embed(*BANKS, "-o", "gone/v.npz")
    assert (outcome.code, outcome.out) == (5, "")
    assert "cannot write gone/v.npz" in outcome.err


@pytest.mark.parametrize("n_letters", [1, 2])
def test_a_model_with_hardly_any_held_out_text_embeds(gptlite: Command, corpus_file: Path, n_letters: int) -> None:
    Path("val.txt").write_text("ab"[:n_letters])
    line = "train corpus.txt --val val.txt -q -o run --steps 2 --layers 1 --dim 16 --heads 1 --context 16"
    assert gptlite(*line.split(), "--vocab-size", "300", "--batch-size", "2", "--threads", "1").code == 0
    result = parsed(gptlite("embed", "-m", "run", *BANKS, "--json"))
    assert np.isfinite(result["contextual"]).all()


def test_a_page_of_too_many_tokens_is_refused(embed: Command) -> None:
    pytest.importorskip("altair")
    outcome = embed("the river and " * 200, "--tokens", "-o", "page.html")
    assert outcome.code == 8
    assert "too many for a page" in outcome.err
    assert not Path("page.html").exists()

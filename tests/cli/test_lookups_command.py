"""gptlite embed --nearest, --analogy, --odd, --eval, --static: answers for people and programs, without torch."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NAMES, NOUNS, VERBS, Command, Outcome, random_model, tiny_config

from gptlite.checkpoint.saved_step import save_step
from gptlite.embedding.static import TokenTable, read_table
from gptlite.embedding.word2vec_format import read_word2vec
from gptlite.embedding.word_evaluation import Pairs, evaluate_pairs
from gptlite.text.tokenizer import Tokenizer


@pytest.fixture
def embed(gptlite: Command, trained_run: Path) -> Command:
    def call(*arguments: object, stdin: bytes | None = None) -> Outcome:
        return gptlite("embed", "-m", trained_run, *arguments, stdin=stdin)

    return call


@pytest.fixture(scope="module")
def table(trained_run: Path) -> TokenTable:
    return read_table(trained_run)


@pytest.fixture
def pairs_file() -> Path:
    """All pairs of words of the training text; words of one kind are scored as alike, and two are unknown."""
    words = (*NOUNS, *VERBS, *NAMES)
    lines = [f"{a}\t{b}\t{8 * any({a, b} <= set(kind) for kind in (NOUNS, VERBS, NAMES))}"
             for a, b in itertools.combinations(words, 2)]  # fmt: skip
    path = Path("pairs.tsv")
    path.write_text("\n".join([*lines, "bank\tquasar\t1", "proton\triver\t2"]))
    return path


def write_vec(path: Path, noise: float) -> Path:
    """Vectors of another program, which know the kinds of words but for noise, and no name."""
    rng = np.random.default_rng(0)
    lines = [f"{word} " + " ".join(str(x) for x in np.eye(4)[kind] + rng.normal(size=4) * noise)
             for kind, words in enumerate((NOUNS, VERBS)) for word in words]  # fmt: skip
    path.write_text(f"{len(lines)} 4\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def vec_file() -> Path:
    return write_vec(Path("other.vec"), noise=0.01)


def parsed(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("\n") == 1
    return json.loads(outcome.out)


# -- Answers


def test_neighbours_are_those_of_the_library(embed: Command, table: TokenTable) -> None:
    result = parsed(embed("--nearest", "bank", "-k", "3", "--json"))
    (query,) = result["nearest"]
    (answer,) = query["answers"]
    expected = table.word_vectors().nearest("bank", 3)
    assert [(w["word"], w["cosine"], w["seen"]) for w in answer["neighbours"]] == [
        (word, pytest.approx(cosine, abs=1e-6), seen) for word, cosine, seen in expected
    ]
    assert (query["word"], query["tokens"], query["seen"]) == ("bank", [" bank"], table.counts["bank"])
    assert (result["model"], result["min_count"]) == (str(table.path), 2)
    assert result["vectors"][0] | {"unrelated": None} == {
        "name": "token table", "words": len(table.counts), "answers": len(table.word_vectors().answers), "dim": 32,
        "correct": "center", "unrelated": None,
    }  # fmt: skip


def test_the_table_shows_neighbours_and_what_a_cosine_is_worth(embed: Command) -> None:
    outcome = embed("--nearest", "bank", "--nearest", "Ada", "-k", "2")
    assert (outcome.code, outcome.err) == (0, "")
    result = parsed(embed("--nearest", "bank", "--nearest", "Ada", "-k", "2", "--json"))
    rows = [line.split() for line in outcome.out.splitlines()]
    for query in result["nearest"]:
        assert f'nearest to "{query["word"]}", seen {query["seen"]} times' in outcome.out
        for i, row in enumerate(query["answers"][0]["neighbours"]):
            assert [str(i + 1), row["word"], f"{row['cosine']:.2f}", str(row["seen"])] in rows
    assert "token table: 22 words seen at least 2 times, answers from the " in outcome.out
    assert "that are one token; cosines after center, of two words at random" in outcome.out


def test_a_made_up_word_has_a_vector_and_a_note(embed: Command, table: TokenTable) -> None:
    outcome = embed("--nearest", "flarnk")
    n = len(table.tokens("flarnk"))
    assert n > 1 and outcome.code == 0
    assert 'nearest to "flarnk", seen at most once' in outcome.out
    assert f'note   "flarnk", seen at most once, is {n} tokens: _f' in outcome.out
    assert "note" not in embed("--nearest", "bank").out


def test_a_word_seen_too_seldom_is_noted(embed: Command, table: TokenTable) -> None:
    least = table.counts["bank"] + 1
    out = embed("--nearest", "bank", "--min-count", least).out
    assert f'note   "bank" was seen {least - 1} times, hardly often enough' in out
    assert f"seen at least {least} times" in out


def test_other_cases_of_a_word_are_noted(embed: Command, table: TokenTable) -> None:
    out = embed("--nearest", "ada").out
    assert f'to the model "Ada" (seen {table.counts["Ada"]} times, cosine ' in out and ") is another word" in out
    (variant,) = parsed(embed("--nearest", "ada", "--json"))["nearest"][0]["case_variants"]
    assert variant["word"] == "Ada"


def test_an_analogy_is_a_sum(embed: Command, table: TokenTable) -> None:
    result = parsed(embed("--analogy", "bank", "finds", "Ada", "-k", "4", "--json"))["analogy"]
    expected = [word.word for word in table.word_vectors().analogy("bank", "finds", "Ada", 4)]
    assert [row["word"] for row in result["answers"][0]["neighbours"]] == expected
    assert [given["word"] for given in result["given"]] == ["bank", "finds", "Ada"]
    out = embed("--analogy", "bank", "finds", "Ada", "-k", "4").out
    assert out.startswith('bank - finds + Ada: what is to "Ada" as "bank" is to "finds"?\n')
    assert [line.split()[1] for line in out.splitlines()[2:6]] == expected


def test_the_odd_word_is_of_another_kind(embed: Command) -> None:
    outcome = embed("--odd", "river", "bank", "opens", "song")
    assert outcome.out.startswith('"opens" belongs least\n'), outcome.err
    rows = parsed(embed("--odd", "river", "bank", "opens", "song", "--json"))["odd"]["answers"][0]
    assert rows["by_cosine_to_others"][0]["word"] == "opens" and len(rows["by_cosine_to_others"]) == 4


def test_a_correction_can_be_chosen(embed: Command, table: TokenTable) -> None:
    for correction in ("none", "zscore", "abtt:2"):
        result = parsed(embed("--nearest", "bank", "--correct", correction, "--json"))
        (best, *_) = table.word_vectors(correction=correction).nearest("bank")
        assert result["vectors"][0]["correct"] == correction
        assert result["nearest"][0]["answers"][0]["neighbours"][0]["cosine"] == pytest.approx(best.cosine, abs=1e-6)
    assert "raw cosines, of two words at random" in embed("--nearest", "bank", "--correct", "none").out


def test_a_model_made_elsewhere_answers_too(gptlite: Command, tokenizer: Tokenizer) -> None:
    save_step(Path("hub"), random_model(tiny_config("gpt2", vocab_size=tokenizer.vocab_size)), tokenizer, {})
    out = gptlite("embed", "-m", "hub", "--nearest", "bank").out
    assert (
        out.startswith('nearest to "bank"\n') and "words, all that are one token; cosines" in out and "seen" not in out
    )
    assert '"flarnk" is ' in gptlite("embed", "-m", "hub", "--nearest", "flarnk").out


@pytest.mark.parametrize("word", ["[bold]bank[/bold]", "\x1b[2J", "a\nb", "%s", "银行"])
def test_words_are_neither_markup_nor_commands(embed: Command, word: str) -> None:
    outcome = embed("--nearest", word, "-k", "1")
    assert outcome.code == 0 and f'nearest to "{word}"' in outcome.out


# -- Beside the vectors of other programs


def test_others_are_asked_the_same(embed: Command, vec_file: Path) -> None:
    out = embed("--nearest", "bank", "-k", "3", "--vectors", vec_file, "--correct", "none").out
    head, *rows = out.splitlines()[1:]
    assert head.split() == ["#", "token", "table", "cosine", "seen", "other.vec", "cosine"]
    assert all(row.split()[-2] in NOUNS for row in rows[:3])
    assert "other.vec: 14 words; raw cosines" in out
    answers = parsed(embed("--nearest", "bank", "--vectors", vec_file, "--json"))["nearest"][0]["answers"]
    assert [answer["vectors"] for answer in answers] == ["token table", "other.vec"]
    assert answers[1]["neighbours"][0]["seen"] is None


def test_others_may_lack_a_word(embed: Command, vec_file: Path) -> None:
    out = embed("--nearest", "Ada", "--vectors", vec_file).out
    assert "note   other.vec lacks a word of the question" in out
    answers = parsed(embed("--odd", "Ada", "bank", "song", "--vectors", vec_file, "--json"))["odd"]["answers"]
    assert answers[1]["by_cosine_to_others"] is None
    assert "no answer (other.vec)" in embed("--odd", "Ada", "bank", "song", "--vectors", vec_file).out


# -- Agreement with people


def test_pairs_are_evaluated_as_by_the_library(embed: Command, table: TokenTable, pairs_file: Path) -> None:
    result = parsed(embed("--eval", pairs_file, "--json"))["eval"][0]
    lines = [line.split("\t") for line in pairs_file.read_text().splitlines()]
    pairs = Pairs(tuple((a, b) for a, b, _ in lines), np.array([float(score) for *_, score in lines]))
    vectors = table.word_vectors()
    expected = evaluate_pairs(vectors.index, vectors.directions, pairs)
    corrected, raw = result["results"]
    assert (result["file"], result["kind"], result["questions"]) == ("pairs.tsv", "pairs", len(lines))
    assert corrected["spearman"] == pytest.approx(expected.spearman, abs=1e-4)
    assert corrected["interval"] == pytest.approx(list(expected.interval or ()), abs=1e-4)
    assert (corrected["used"], corrected["unknown"]) == (len(lines) - 2, round(2 / len(lines), 4))
    assert (corrected["correct"], raw["correct"]) == ("center", "none")
    assert result["differences"] == []


def test_the_better_vectors_are_named(embed: Command, pairs_file: Path) -> None:
    vec_file = write_vec(Path("other.vec"), noise=1.0)
    result = parsed(embed("--eval", pairs_file, "--vectors", vec_file, "--json"))["eval"][0]
    (difference,) = result["differences"]
    assert difference["of"] == ["token table", "other.vec"] and difference["used"] == 14 * 13 / 2
    low, high = difference["interval"]
    assert low < difference["difference"] < high and difference["shown"] == (low > 0)
    out = embed("--eval", pairs_file, "--vectors", vec_file).out
    figures = f"by {difference['difference']:.2f} ({low:.2f} to {high:.2f}) on the 91 pairs that both know"
    assert f"token table is better than other.vec: {figures}" in out
    rows = [line.split() for line in out.splitlines()]
    for r in result["results"]:
        (low, high), known = r["interval"], [f"{r['used']}", f"{100 * r['unknown']:.0f}", "%"]
        figures = [*known, f"{r['spearman']:.2f}", f"{low:.2f}", "to", f"{high:.2f}"]
        assert [*r["vectors"].split(), "raw" if r["correct"] == "none" else "center", *figures] in rows


def test_vectors_written_and_read_again_are_judged_the_same(embed: Command, pairs_file: Path) -> None:
    assert embed("--static", "-o", "own.vec").code == 0
    result = parsed(embed("--eval", pairs_file, "--vectors", "own.vec", "--correct", "none", "--json"))["eval"][0]
    first, second = result["results"]
    assert {**first, "vectors": ""} == {**second, "vectors": ""}
    assert (result["differences"][0]["difference"], result["differences"][0]["shown"]) == (0, False)
    out = embed("--eval", pairs_file, "--vectors", "own.vec", "--correct", "none").out
    assert "token table is not shown to be better than own.vec: by 0.00 (0.00 to 0.00)" in out


def test_analogies_are_evaluated_by_section(embed: Command, vec_file: Path) -> None:
    Path("analogies.txt").write_text(
        ": nouns\nbank river song window\nbank quasar song window\n: mixed\nfinds bank opens river\n"
    )
    result = parsed(embed("--eval", "analogies.txt", "--vectors", vec_file, "--json"))["eval"][0]
    assert (result["kind"], result["questions"]) == ("analogies", 3)
    for row in result["results"]:
        assert (row["used"], row["unknown"]) == (2, round(1 / 3, 4))
        assert {name: section["used"] for name, section in row["sections"].items()} == {"nouns": 1, "mixed": 1}
        assert row["accuracy"] == sum(section["right"] for section in row["sections"].values()) / 2
    assert result["differences"][0]["words"] == 14
    out = embed("--eval", "analogies.txt", "--vectors", vec_file).out
    assert "analogies.txt: 3 analogies" in out and "on the 2 analogies that both know, answered from 14 words" in out
    assert ["unknown", "words", "33.3", "%", "33.3", "%"] in [line.split() for line in out.splitlines()]


def test_several_files_are_evaluated(embed: Command, pairs_file: Path) -> None:
    Path("few.csv").write_text("word1,word2,score\nbank,river,3\nquasar,proton,4\n")
    files = parsed(embed("--eval", pairs_file, "--eval", "few.csv", "--json"))["eval"]
    assert [file["file"] for file in files] == ["pairs.tsv", "few.csv"]
    assert files[1]["results"][0] | {"unknown": 0} == {
        "vectors": "token table", "correct": "center", "used": 1, "unknown": 0, "spearman": None, "interval": None,
    }  # fmt: skip
    assert embed("--eval", "few.csv").code == 0


# -- The vectors themselves


def test_all_vectors_are_written(embed: Command, table: TokenTable) -> None:
    outcome = embed("--static", "-o", "words.vec")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "22 raw vectors of 32 numbers in words.vec\n")
    with open("words.vec", "rb") as file:
        words, vectors = read_word2vec(file, "words.vec")
    assert words == list(table.counts), "most frequent first"
    assert np.array_equal(vectors, table.vectors(words))


def test_some_vectors_are_written(embed: Command, table: TokenTable) -> None:
    outcome = embed("--static", "flarnk", "bank", "-o", "words.vec")
    assert (outcome.code, outcome.out) == (0, "")
    assert 'note: "flarnk", seen at most once, is' in outcome.err
    with open("words.vec", "rb") as file:
        words, vectors = read_word2vec(file, "words.vec")
    assert words == ["flarnk", "bank"] and np.array_equal(vectors, table.vectors(words))


def test_vectors_are_lines_of_json(embed: Command, table: TokenTable) -> None:
    lines = [json.loads(line) for line in embed("--static", "bank", "flarnk", "-o", "-").out.splitlines()]
    assert [(line["word"], line["seen"]) for line in lines] == [("bank", table.counts["bank"]), ("flarnk", 0)]
    vectors = np.array([line["static"] for line in lines], dtype=np.float32)
    assert np.array_equal(vectors, table.vectors(["bank", "flarnk"]))


def test_vectors_are_corrected_when_that_is_asked_for(embed: Command, table: TokenTable) -> None:
    outcome = embed("--static", "-o", "words.vec", "--correct", "abtt:2")
    assert outcome.err == "22 abtt:2 vectors of 32 numbers in words.vec\n"
    with open("words.vec", "rb") as file:
        _, vectors = read_word2vec(file, "words.vec")
    directions = table.word_vectors(correction="abtt:2").directions
    assert np.allclose(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), directions, atol=1e-5)


# -- Averages of contexts


def test_averages_of_a_text_answer_too(embed: Command, corpus_file: Path) -> None:
    """In the grammar of the tests a noun's neighbours are nouns, which the averages know from the contexts alone."""
    average = ("--static-from", "average", "--corpus", corpus_file)
    outcome = embed("--nearest", "river", "-k", "3", "--json", *average)
    assert "contexts of " in outcome.err
    (answer,) = parsed(outcome)["nearest"][0]["answers"]
    assert {neighbour["word"] for neighbour in answer["neighbours"]} < set(NOUNS)
    assert parsed(embed("--odd", "river", "garden", "Ada", "--json", *average))["odd"]


def test_averages_are_written_and_read_back(embed: Command, corpus_file: Path) -> None:
    average = ("--static-from", "average", "--corpus", corpus_file)
    assert embed("--static", "-o", "words.vec", *average).code == 0
    again = parsed(embed("--nearest", "river", "-k", "3", "--correct", "none", "--vectors", "words.vec", "--json"))
    direct = parsed(embed("--nearest", "river", "-k", "3", "--json", *average))
    read_back, computed = again["nearest"][0]["answers"][1], direct["nearest"][0]["answers"][0]
    assert [w["word"] for w in read_back["neighbours"]] == [w["word"] for w in computed["neighbours"]]


def test_a_word_too_rare_for_an_average_is_named(embed: Command, corpus_file: Path) -> None:
    outcome = embed("--static", "quasar", "-o", "w.vec", "--static-from", "average", "--corpus", corpus_file)
    assert (outcome.code, outcome.out) == (2, "")
    assert "average has no vector for 'quasar'" in outcome.err
    assert not Path("w.vec").exists()


# -- What cannot be answered


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--nearest", "bank", "the [bank] of"), 2, "a text does not go with --nearest"),
        (("--nearest", "bank", "-w", "bank"), 2, "-w/--word does not go with --nearest"),
        (("--nearest", "bank", "--layer", "1"), 2, "--layer does not go with --nearest"),
        (("--nearest", "bank", "-o", "x.vec"), 2, "-o/--out does not go with --nearest"),
        (("--nearest", "bank", "--odd"), 2, "two questions"),
        (("--eval", "x.tsv", "-k", "3"), 2, "-k/--neighbours does not go with --eval"),
        (("the [bank] of", "--min-count", "3"), 2, "goes with a look-up: one of --static, --nearest"),
        (("--nearest", "bank", "--static-from", "sum"), 2, "--static-from must be one of table, average"),
        (("--nearest", "bank", "--corpus", "x.txt"), 2, "--corpus goes with --static-from average"),
        (("the [bank] of", "--vectors", "x.vec"), 2, "--vectors goes with a look-up"),
        (("--nearest", " "), 2, "a word is empty"),
        (("--nearest", "bank", "-k", "0"), 2, "-k"),
        (("--nearest", "bank", "--min-count", "0"), 2, "--min-count"),
        (("--nearest", "bank", "--min-count", "9999999"), 2, "no word was seen 9,999,999 times"),
        (("--nearest", "bank", "--correct", "abtt:0"), 2, "--correct must be"),
        (("--analogy", "king", "man"), 2, "--analogy"),
        (("--odd", "bank", "river", "bank"), 2, "three or more words"),
        (("--static",), 2, "give -o words.vec"),
        (("--static", "-o", "x.docx"), 2, "must end in"),
        (("--static", "-o", "gone/x.vec"), 5, "cannot write gone/x.vec"),
        (("--eval", "gone.tsv"), 3, "cannot read pairs of words from gone.tsv"),
        (("--eval", "bad.tsv"), 3, "bad.tsv, line 2: two words and a score"),
        (("--nearest", "bank", "--vectors", "bad.tsv"), 3, "bad.tsv, line 2: a word and 2 numbers"),
        (("--nearest", "bank", "-m", "gone"), 4, "there is no model at gone"),
    ],
    ids=str,
)  # fmt: skip
def test_what_makes_no_sense_is_said(embed: Command, arguments: tuple[str, ...], code: int, message: str) -> None:
    Path("bad.tsv").write_text("one 2 3\ntwo 3\n")
    outcome = embed(*arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err


LIGHT = """
import sys
from gptlite.cli.main import run
assert run(sys.argv[1:]) == 0
sys.exit(f"imported {sys.modules['torch']}" if "torch" in sys.modules else 0)
"""


@pytest.mark.parametrize(
    "question",
    [("--nearest", "bank"), ("--static", "-o", "x.vec"), ("--eval", "pairs.tsv"), ("--odd", "bank", "river", "opens")],
    ids=" ".join,
)
def test_no_look_up_waits_for_torch(trained_run: Path, pairs_file: Path, question: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", LIGHT, "embed", "-m", str(trained_run), *question]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

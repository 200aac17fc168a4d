"""gptlite words nearest, analogy, odd, evaluate and export: answers for people and programs, without torch."""

from __future__ import annotations

import itertools
import json
import shlex
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
def words(gptlite: Command, trained_run: Path) -> Command:
    def call(name: str, *arguments: object, stdin: bytes | None = None) -> Outcome:
        chosen = [] if "--from" in arguments else ["--from", "table"]
        return gptlite("words", name, "-m", trained_run, *chosen, *arguments, stdin=stdin)

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


def test_neighbours_are_those_of_the_library(words: Command, table: TokenTable) -> None:
    result = parsed(words("nearest", "bank", "-n", "3", "--json"))
    (query,) = result["nearest"]
    (answer,) = query["answers"]
    expected = table.word_vectors().nearest("bank", 3)
    assert [(w["word"], w["cosine"], w["n_seen"]) for w in answer["neighbours"]] == [
        (word, pytest.approx(cosine, abs=1e-6), seen) for word, cosine, seen in expected
    ]
    assert (query["word"], query["tokens"], query["n_seen"]) == ("bank", [" bank"], table.counts["bank"])
    assert (result["model"], result["min_count"]) == (str(table.path), 2)
    assert result["vectors"][0] | {"unrelated": None} == {
        "name": "token table", "n_words": len(table.counts), "n_answers": len(table.word_vectors().answers), "dim": 32,
        "correct": "center", "unrelated": None,
    }  # fmt: skip


def test_the_table_shows_neighbours_and_what_a_cosine_is_worth(words: Command) -> None:
    outcome = words("nearest", "bank", "Ada", "-n", "2")
    assert (outcome.code, outcome.err) == (0, "")
    result = parsed(words("nearest", "bank", "Ada", "-n", "2", "--json"))
    rows = [line.split() for line in outcome.out.splitlines()]
    for query in result["nearest"]:
        assert f'nearest to "{query["word"]}", seen {query["n_seen"]} times' in outcome.out
        for i, row in enumerate(query["answers"][0]["neighbours"]):
            assert [str(i + 1), row["word"], f"{row['cosine']:.2f}", str(row["n_seen"])] in rows
    assert "token table: 22 words seen at least 2 times, answers from the " in outcome.out
    assert "that are one token; cosines after center, of two words at random" in outcome.out


def test_a_made_up_word_has_a_vector_and_a_note(words: Command, table: TokenTable) -> None:
    outcome = words("nearest", "flarnk")
    n = len(table.tokens("flarnk"))
    assert n > 1 and outcome.code == 0
    assert 'nearest to "flarnk", seen at most once' in outcome.out
    assert f'note   "flarnk", seen at most once, is {n} tokens: _f' in outcome.out
    assert "note" not in words("nearest", "bank").out


def test_a_word_seen_too_seldom_is_noted(words: Command, table: TokenTable) -> None:
    least = table.counts["bank"] + 1
    out = words("nearest", "bank", "--min-count", least).out
    assert f'note   "bank" was seen {least - 1} times, hardly often enough' in out
    assert f"seen at least {least} times" in out


def test_other_cases_of_a_word_are_noted(words: Command, table: TokenTable) -> None:
    out = words("nearest", "ada").out
    assert f'to the model "Ada" (seen {table.counts["Ada"]} times, cosine ' in out and ") is another word" in out
    (variant,) = parsed(words("nearest", "ada", "--json"))["nearest"][0]["case_variants"]
    assert variant["word"] == "Ada"


def test_an_analogy_is_a_sum(words: Command, table: TokenTable) -> None:
    result = parsed(words("analogy", "bank", "finds", "Ada", "-n", "4", "--json"))["analogy"]
    expected = [word.word for word in table.word_vectors().analogy("bank", "finds", "Ada", 4)]
    assert [row["word"] for row in result["answers"][0]["neighbours"]] == expected
    assert [given["word"] for given in result["given"]] == ["bank", "finds", "Ada"]
    out = words("analogy", "bank", "finds", "Ada", "-n", "4").out
    assert out.startswith('bank - finds + Ada: what is to "Ada" as "bank" is to "finds"?\n')
    assert [line.split()[1] for line in out.splitlines()[2:6]] == expected


def test_the_odd_word_is_of_another_kind(words: Command) -> None:
    outcome = words("odd", "river", "bank", "opens", "song")
    assert outcome.out.startswith('"opens" belongs least\n'), outcome.err
    rows = parsed(words("odd", "river", "bank", "opens", "song", "--json"))["odd"]["answers"][0]
    assert rows["by_cosine_to_others"][0]["word"] == "opens" and len(rows["by_cosine_to_others"]) == 4


def test_a_correction_can_be_chosen(words: Command, table: TokenTable) -> None:
    for correction in ("none", "zscore", "abtt:2"):
        result = parsed(words("nearest", "bank", "--correct", correction, "--json"))
        (best, *_) = table.word_vectors(correction=correction).nearest("bank")
        assert result["vectors"][0]["correct"] == correction
        assert result["nearest"][0]["answers"][0]["neighbours"][0]["cosine"] == pytest.approx(best.cosine, abs=1e-6)
    assert "raw cosines, of two words at random" in words("nearest", "bank", "--correct", "none").out


def test_a_model_made_elsewhere_answers_too(gptlite: Command, tokenizer: Tokenizer) -> None:
    save_step(Path("hub"), random_model(tiny_config("gpt2", vocab_size=tokenizer.vocab_size)), tokenizer, {})
    out = gptlite("words", "nearest", "-m", "hub", "bank").out
    assert (
        out.startswith('nearest to "bank"\n') and "words, all that are one token; cosines" in out and "seen" not in out
    )
    assert '"flarnk" is ' in gptlite("words", "nearest", "-m", "hub", "flarnk").out


@pytest.mark.parametrize("word", ["[bold]bank[/bold]", "\x1b[2J", "a\nb", "%s", "银行"])
def test_words_are_neither_markup_nor_commands(words: Command, word: str) -> None:
    outcome = words("nearest", word, "-n", "1")
    assert outcome.code == 0 and f'nearest to "{word}"' in outcome.out


# -- Beside the vectors of other programs


def test_others_are_asked_the_same(words: Command, vec_file: Path) -> None:
    out = words("nearest", "bank", "-n", "3", "--vectors", vec_file, "--correct", "none").out
    head, *rows = out.splitlines()[1:]
    assert head.split() == ["#", "token", "table", "cosine", "seen", "other.vec", "cosine"]
    assert all(row.split()[-2] in NOUNS for row in rows[:3])
    assert "other.vec: 14 words; raw cosines" in out
    answers = parsed(words("nearest", "bank", "--vectors", vec_file, "--json"))["nearest"][0]["answers"]
    assert [answer["vectors"] for answer in answers] == ["token table", "other.vec"]
    assert answers[1]["neighbours"][0]["n_seen"] is None


def test_others_may_lack_a_word(words: Command, vec_file: Path) -> None:
    out = words("nearest", "Ada", "--vectors", vec_file).out
    assert "note   other.vec lacks a word of the question" in out
    answers = parsed(words("odd", "Ada", "bank", "song", "--vectors", vec_file, "--json"))["odd"]["answers"]
    assert answers[1]["by_cosine_to_others"] is None
    assert "no answer (other.vec)" in words("odd", "Ada", "bank", "song", "--vectors", vec_file).out


# -- Agreement with people


def test_pairs_are_evaluated_as_by_the_library(words: Command, table: TokenTable, pairs_file: Path) -> None:
    result = parsed(words("evaluate", pairs_file, "--json"))["files"][0]
    lines = [line.split("\t") for line in pairs_file.read_text().splitlines()]
    pairs = Pairs(tuple((a, b) for a, b, _ in lines), np.array([float(score) for *_, score in lines]))
    vectors = table.word_vectors()
    expected = evaluate_pairs(vectors.index, vectors.directions, pairs)
    corrected, raw = result["results"]
    assert (result["file"], result["kind"], result["n_questions"]) == ("pairs.tsv", "pairs", len(lines))
    assert corrected["spearman"] == pytest.approx(expected.spearman, abs=1e-4)
    assert corrected["interval"] == pytest.approx(list(expected.interval or ()), abs=1e-4)
    assert (corrected["n_used"], corrected["unknown"]) == (len(lines) - 2, round(2 / len(lines), 4))
    assert (corrected["correct"], raw["correct"]) == ("center", "none")
    assert result["differences"] == []


def test_the_better_vectors_are_named(words: Command, pairs_file: Path) -> None:
    vec_file = write_vec(Path("other.vec"), noise=1.0)
    result = parsed(words("evaluate", pairs_file, "--vectors", vec_file, "--json"))["files"][0]
    (difference,) = result["differences"]
    assert difference["of"] == ["token table", "other.vec"] and difference["n_used"] == 14 * 13 / 2
    low, high = difference["interval"]
    assert low < difference["difference"] < high and difference["shown"] == (low > 0)
    out = words("evaluate", pairs_file, "--vectors", vec_file).out
    figures = f"by {difference['difference']:.2f} ({low:.2f} to {high:.2f}) on the 91 pairs that both know"
    assert f"token table is better than other.vec: {figures}" in out
    rows = [line.split() for line in out.splitlines()]
    for r in result["results"]:
        (low, high), known = r["interval"], [f"{r['n_used']}", f"{100 * r['unknown']:.0f}", "%"]
        figures = [*known, f"{r['spearman']:.2f}", f"{low:.2f}", "to", f"{high:.2f}"]
        assert [*r["vectors"].split(), "raw" if r["correct"] == "none" else "center", *figures] in rows


def test_vectors_written_and_read_again_are_judged_the_same(words: Command, pairs_file: Path) -> None:
    assert words("export", "-o", "own.vec").code == 0
    result = parsed(words("evaluate", pairs_file, "--vectors", "own.vec", "--correct", "none", "--json"))["files"][0]
    first, second = result["results"]
    assert {**first, "vectors": ""} == {**second, "vectors": ""}
    assert (result["differences"][0]["difference"], result["differences"][0]["shown"]) == (0, False)
    out = words("evaluate", pairs_file, "--vectors", "own.vec", "--correct", "none").out
    assert "token table is not shown to be better than own.vec: by 0.00 (0.00 to 0.00)" in out


def test_analogies_are_evaluated_by_section(words: Command, vec_file: Path) -> None:
    Path("analogies.txt").write_text(
        ": nouns\nbank river song window\nbank quasar song window\n: mixed\nfinds bank opens river\n"
    )
    result = parsed(words("evaluate", "analogies.txt", "--vectors", vec_file, "--json"))["files"][0]
    assert (result["kind"], result["n_questions"]) == ("analogies", 3)
    for row in result["results"]:
        assert (row["n_used"], row["unknown"]) == (2, round(1 / 3, 4))
        assert {name: section["n_used"] for name, section in row["sections"].items()} == {"nouns": 1, "mixed": 1}
        assert row["accuracy"] == sum(section["n_right"] for section in row["sections"].values()) / 2
    assert result["differences"][0]["n_words"] == 14
    out = words("evaluate", "analogies.txt", "--vectors", vec_file).out
    assert "analogies.txt: 3 analogies" in out and "on the 2 analogies that both know, answered from 14 words" in out
    assert ["unknown", "words", "33.3", "%", "33.3", "%"] in [line.split() for line in out.splitlines()]


def test_several_files_are_evaluated(words: Command, pairs_file: Path) -> None:
    Path("few.csv").write_text("word1,word2,score\nbank,river,3\nquasar,proton,4\n")
    files = parsed(words("evaluate", pairs_file, "few.csv", "--json"))["files"]
    assert [file["file"] for file in files] == ["pairs.tsv", "few.csv"]
    assert files[1]["results"][0] | {"unknown": 0} == {
        "vectors": "token table", "correct": "center", "n_used": 1, "unknown": 0, "spearman": None, "interval": None,
    }  # fmt: skip
    assert words("evaluate", "few.csv").code == 0


# -- The vectors themselves


def test_all_vectors_are_written(words: Command, table: TokenTable) -> None:
    outcome = words("export", "-o", "words.vec")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "22 raw vectors of 32 numbers in words.vec\n")
    with open("words.vec", "rb") as file:
        words, vectors = read_word2vec(file, "words.vec")
    assert words == list(table.counts), "most frequent first"
    assert np.array_equal(vectors, table.vectors(words))


def test_some_vectors_are_written(words: Command, table: TokenTable) -> None:
    outcome = words("export", "flarnk", "bank", "-o", "words.vec")
    assert (outcome.code, outcome.out) == (0, "")
    assert 'note: "flarnk", seen at most once, is' in outcome.err
    with open("words.vec", "rb") as file:
        words, vectors = read_word2vec(file, "words.vec")
    assert words == ["flarnk", "bank"] and np.array_equal(vectors, table.vectors(words))


def test_vectors_are_lines_of_json(words: Command, table: TokenTable) -> None:
    lines = [json.loads(line) for line in words("export", "bank", "flarnk", "-o", "-").out.splitlines()]
    assert [(line["word"], line["n_seen"]) for line in lines] == [("bank", table.counts["bank"]), ("flarnk", 0)]
    vectors = np.array([line["static"] for line in lines], dtype=np.float32)
    assert np.array_equal(vectors, table.vectors(["bank", "flarnk"]))


def test_vectors_are_corrected_when_that_is_asked_for(words: Command, table: TokenTable) -> None:
    outcome = words("export", "-o", "words.vec", "--correct", "abtt:2")
    assert outcome.err == "22 abtt:2 vectors of 32 numbers in words.vec\n"
    with open("words.vec", "rb") as file:
        _, vectors = read_word2vec(file, "words.vec")
    directions = table.word_vectors(correction="abtt:2").directions
    assert np.allclose(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), directions, atol=1e-5)


# -- Averages of contexts


def test_averages_of_a_text_answer_too(words: Command, corpus_file: Path) -> None:
    """In the grammar of the tests a noun's neighbours are nouns, which the averages know from the contexts alone."""
    average = ("--from", "average", "--corpus", corpus_file)
    outcome = words("nearest", "river", "-n", "3", "--json", *average)
    assert "contexts of " in outcome.err
    (answer,) = parsed(outcome)["nearest"][0]["answers"]
    assert {neighbour["word"] for neighbour in answer["neighbours"]} < set(NOUNS)
    assert parsed(words("odd", "river", "garden", "Ada", "--json", *average))["odd"]


def test_averages_are_written_and_read_back(words: Command, corpus_file: Path) -> None:
    average = ("--from", "average", "--corpus", corpus_file)
    assert words("export", "-o", "words.vec", *average).code == 0
    again = parsed(words("nearest", "river", "-n", "3", "--correct", "none", "--vectors", "words.vec", "--json"))
    direct = parsed(words("nearest", "river", "-n", "3", "--json", *average))
    read_back, computed = again["nearest"][0]["answers"][1], direct["nearest"][0]["answers"][0]
    assert [w["word"] for w in read_back["neighbours"]] == [w["word"] for w in computed["neighbours"]]


def test_a_word_too_rare_for_an_average_is_named(words: Command, corpus_file: Path) -> None:
    outcome = words("export", "quasar", "-o", "w.vec", "--from", "average", "--corpus", corpus_file)
    assert (outcome.code, outcome.out) == (2, "")
    assert "average has no vector for 'quasar'" in outcome.err
    assert not Path("w.vec").exists()


# -- Several words


def test_several_words_are_compared_with_each_other(words: Command, table: TokenTable) -> None:
    result = parsed(words("nearest", "bank", "river", "Ada", "--json"))
    vectors = table.word_vectors()
    assert [pair["words"] for pair in result["pairs"]] == [["bank", "river"], ["bank", "Ada"], ["river", "Ada"]]
    expected = float(vectors.direction("bank") @ vectors.direction("river"))
    assert result["pairs"][0]["cosines"] == [pytest.approx(expected, abs=1e-5)]
    assert "bank – river" in words("nearest", "bank", "river").out
    assert parsed(words("nearest", "bank", "bank", "--json"))["pairs"] == []


def test_two_rankings_say_what_they_share(words: Command, vec_file: Path) -> None:
    assert "in both: " in words("nearest", "bank", "--vectors", vec_file).out


# -- Files that are there


def test_export_overwrites_only_if_it_is_told_to(words: Command, corpus_file: Path) -> None:
    Path("words.vec").write_text("mine")
    assert words("export", "-o", "words.vec").code == 2 and Path("words.vec").read_text() == "mine"
    assert words("export", "-o", "words.vec", "--force").code == 0
    Path("x.metadata.tsv").write_text("mine")
    assert "--force" in words("export", "-o", "x.tsv").err


def test_words_that_look_like_formulas(words: Command) -> None:
    for more, cell in (((), "'=bank"), (("--raw-cells",), "=bank")):
        assert words("export", "=bank", "bank", "-o", "x.csv", "--force", *more).code == 0
        assert Path("x.csv").read_text().splitlines()[1].split(",")[0] == cell


# -- What cannot be answered


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("nearest bank --epochs 3", 2, "--epochs does nothing with --from table"),
        ("nearest bank --corpus x.txt", 2, "--corpus does nothing with --from table"),
        ("nearest bank --from sum", 2, "'--from'"),
        ("nearest bank --versus glove", 2, "'--versus'"),
        ("nearest ' '", 2, "a word is empty"),
        ("nearest bank -n 0", 2, "-n"),
        ("nearest bank --min-count 0", 2, "--min-count"),
        ("nearest bank --min-count 9999999", 2, "no word was seen 9,999,999 times"),
        ("nearest bank --correct abtt:0", 2, "--correct must be"),
        ("nearest", 2, "missing argument 'WORD'"),
        ("analogy king man", 2, "missing argument 'C'"),
        ("analogy king man woman queen", 2, "unexpected extra argument (queen)"),
        ("odd bank river bank", 2, "three or more different words"),
        ("export", 2, "words export -o words.vec"),
        ("export -o x.docx", 2, "must end in .npz, .npy, .jsonl, .vec, .txt, .bin, .tsv or .csv"),
        ("export -o gone/x.vec", 5, "cannot write gone/x.vec"),
        ("export -o x.vec --raw-cells", 2, "--raw-cells does nothing with"),
        ("evaluate gone.tsv", 3, "cannot read pairs of words from gone.tsv"),
        ("evaluate bad.tsv", 3, "bad.tsv, line 2: two words and a score"),
        ("nearest bank --vectors bad.tsv", 3, "bad.tsv, line 2: a word and 2 numbers"),
    ],
)
def test_what_makes_no_sense_is_said(words: Command, line: str, code: int, message: str) -> None:
    Path("bad.tsv").write_text("one 2 3\ntwo 3\n")
    outcome = words(*shlex.split(line))
    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err


def test_an_analogy_never_takes_an_option_for_a_word(gptlite: Command) -> None:
    outcome = gptlite("words", "analogy", "king", "man", "-m", "X")
    assert (outcome.code, outcome.out) == (2, "")
    assert "missing argument 'C'" in outcome.err


LIGHT = """
import sys
from gptlite.cli.main import run
assert run(sys.argv[1:]) == 0
sys.exit(f"imported {sys.modules['torch']}" if "torch" in sys.modules else 0)
"""


@pytest.mark.parametrize("question", ["nearest bank", "export -o x.vec", "evaluate pairs.tsv", "odd bank river opens"])
def test_no_question_waits_for_torch(trained_run: Path, pairs_file: Path, question: str) -> None:
    command = [sys.executable, "-c", LIGHT, "words", *question.split(), "-m", str(trained_run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

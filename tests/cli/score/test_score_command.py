"""gptlite score: tables that other programs read, pairs, several models, interruption, bad rows."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
from conftest import Command, Outcome, make_text

from gptlite.cli.score import table, writing
from gptlite.cli.score.items import read_marks, read_spans
from gptlite.errors import CorpusError

SENTENCES = ["Ada finds the river and the bank .", 'Bela said "no", twice .', "the window", "naïve café, 银行。"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.tsv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, delimiter="\t", lineterminator="\n")
        rows.writerow(["id", "Sentence", "word"])
        rows.writerows([f"A{i}", text, "x"] for i, text in enumerate(SENTENCES))
    return path


def read(text: str, delimiter: str = "\t") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter=delimiter))


def scored(gptlite: Command, *arguments: object) -> list[dict[str, str]]:
    outcome = gptlite("score", *arguments)
    assert outcome.code == 0, outcome.err
    return read(outcome.out)


def test_words_of_a_table_with_its_columns(gptlite: Command, trained_run: Path, study: Path) -> None:
    rows = scored(gptlite, study, "-m", trained_run)
    assert list(rows[0])[:6] == ["id", "word", "item", "position", "score_word", "kind"]
    assert {row["id"] for row in rows} == {"A0", "A1", "A2", "A3"}
    first = [row for row in rows if row["id"] == "A0"]
    assert [row["score_word"] for row in first] == ["Ada", "finds", "the", "river", "and", "the", "bank", "."]
    assert [row["position"] for row in first] == [str(i) for i in range(8)]
    assert first[0]["seen"] == "0" and int(first[2]["count"]) > 10 and first[-1]["count"] == ""
    quotes = [row["score_word"] for row in rows if row["id"] == "A1"]
    assert quotes == ["Bela", "said", '"', "no", '"', ",", "twice", "."]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_every_reader_of_tables_finds_all_rows(gptlite: Command, trained_run: Path, study: Path, suffix: str) -> None:
    expected = scored(gptlite, study, "-m", trained_run)
    out = Path(f"out{suffix}")
    assert gptlite("score", study, "-m", trained_run, "-o", out).code == 0
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert isinstance(rows[0]["surprisal_bits"], float) and rows[0]["count"] is not None
    else:
        rows = read(out.read_text(encoding="utf-8"), "," if suffix == ".csv" else "\t")
        assert rows == expected
    assert len(rows) == len(expected) and [row["score_word"] for row in rows] == [row["score_word"] for row in expected]
    assert not list(Path().glob("out*.p*"))


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_pandas_reads_what_was_written(gptlite: Command, trained_run: Path, suffix: str) -> None:
    pandas = pytest.importorskip("pandas")
    Path("odd.txt").write_text('The "quoted" NA null nan word , \t tab\n', encoding="utf-8")
    assert gptlite("score", "odd.txt", "-m", trained_run, "-o", f"odd{suffix}").code == 0
    frame = pandas.read_csv(f"odd{suffix}", sep="," if suffix == ".csv" else "\t", keep_default_na=False)
    words = [word for word in frame["word"] if word.strip()]
    assert words == ["The", '"', "quoted", '"', "NA", "null", "nan", "word", ",", "tab"]


def test_sums_agree_between_units_and_bases(gptlite: Command, trained_run: Path, study: Path) -> None:
    def total(*options: str, column: str = "surprisal_bits") -> dict[str, float]:
        sums: dict[str, float] = {}
        for row in scored(gptlite, study, "-m", trained_run, *options):
            sums[row["id"]] = sums.get(row["id"], 0.0) + float(row[column])
        return sums

    words, sentences = total(), total("--unit", "sentence")
    nats, raw, tokens = total("--base", "e", column="surprisal_nats"), total("--raw"), total("--unit", "token")
    spaced, spaced_sentences = (total("--split", "whitespace", "--unit", unit) for unit in ("word", "sentence"))
    for name, bits in sentences.items():
        assert math.isclose(words[name], bits, rel_tol=1e-4)
        # Both know that the last word ends where the sentence does, which the split decides.
        assert math.isclose(spaced[name], spaced_sentences[name], rel_tol=1e-4)
        assert math.isclose(nats[name], bits * math.log(2), rel_tol=1e-4)
        assert math.isclose(raw[name], tokens[name], rel_tol=1e-4) and raw[name] != words[name]


def alike(rows: list[dict[str, str]], others: list[dict[str, str]]) -> bool:
    """Are the surprisals the same but for what texts that share a forward pass change in the last bits?"""
    bits = [[float(row["surprisal_bits"]) for row in each] for each in (rows, others)]
    return [row["word"] for row in rows] == [row["word"] for row in others] and bits[0] == pytest.approx(
        bits[1], abs=1e-4
    )


def test_lines_of_text_and_running_discourse(gptlite: Command, trained_run: Path) -> None:
    Path("lines.txt").write_text("Ada finds the river .\n\nBela opens the bank .\n", encoding="utf-8")
    alone = scored(gptlite, "lines.txt", "-m", trained_run)
    after = scored(gptlite, "lines.txt", "-m", trained_run, "--before", "previous")
    given = scored(gptlite, "lines.txt", "-m", trained_run, "--before", "Ada finds the river .")
    n = sum(row["item"] == "0" for row in alone)
    assert alike(alone[:n], after[:n]) and int(after[n]["seen"]) > 0 and alone[n]["seen"] == "0"
    assert alike(after[n:], given[n:]) and not alike(after[n:], alone[n:])


def test_regions_are_marked_or_named_by_a_column(gptlite: Command, trained_run: Path) -> None:
    Path("marked.txt").write_text("Ada finds | the river | and the bank .\n", encoding="utf-8")
    marked = scored(gptlite, "marked.txt", "-m", trained_run, "--unit", "region")
    assert [row["region"] for row in marked] == ["Ada finds", "the river", "and the bank ."]
    rows = [{"text": "Ada finds the river and the bank .", "at": [[0, 9], [10, 19], [20, 34]]}]
    Path("spans.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    named = scored(gptlite, "spans.jsonl", "-m", trained_run, "--unit", "region", "--spans", "at")
    assert [row["surprisal_bits"] for row in named] == [row["surprisal_bits"] for row in marked]


def test_several_models_side_by_side(gptlite: Command, trained_run: Path, study: Path) -> None:
    again = Path("again")
    again.symlink_to(trained_run)
    rows = scored(gptlite, study, "-m", trained_run, "-m", again)
    name = f"surprisal_bits.{trained_run.name}"
    for row in rows:
        assert row[name] == row["surprisal_bits.again"] == row["surprisal_bits.mean"]
        assert float(row["surprisal_bits.sd"]) == 0.0


PAIRS = [("Ada finds the river .", "Ada finds river the .", "order"), ("the bank .", "the bank .", "tie")]


def test_pairs(gptlite: Command, trained_run: Path) -> None:
    with open("pairs.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["good", "bad", "kind"])
        rows.writerows([*PAIRS[:1] * 20, *PAIRS[1:] * 2])
    outcome = gptlite("score", "--pairs", "pairs.csv", "-m", trained_run, "--by", "kind", "-o", "judged.tsv")
    assert outcome.code == 0, outcome.err
    lines = {line.split()[0]: line.split() for line in outcome.out.splitlines()[1:]}
    assert lines["order"][1] == "1.000" and lines["tie"][1] == "0.500" and lines["all"][1] == "0.955"
    judged = read(Path("judged.tsv").read_text(encoding="utf-8"))
    assert [row["correct"] for row in judged] == ["1"] * 20 + ["0.5"] * 2
    blimp = [{"sentence_good": good, "sentence_bad": bad, "UID": kind} for good, bad, kind in PAIRS]
    Path("blimp.jsonl").write_text("\n".join(map(json.dumps, blimp)), encoding="utf-8")
    assert gptlite("score", "--pairs", "blimp.jsonl", "-m", trained_run).code == 0


def test_pairs_by_their_critical_region(gptlite: Command, trained_run: Path) -> None:
    row = {"good": "Ada finds the | river .", "bad": "Ada finds the | the ."}
    Path("pairs.jsonl").write_text(json.dumps(row), encoding="utf-8")
    outcome = gptlite("score", "--pairs", "pairs.jsonl", "-m", trained_run, "--region", "2", "-o", "judged.csv")
    assert outcome.code == 0, outcome.err
    region = read(Path("judged.csv").read_text(encoding="utf-8"), ",")[0]
    assert float(region["good_bits"]) < float(region["bad_bits"]) < 60
    assert gptlite("score", "--pairs", "pairs.jsonl", "-m", trained_run, "--region", "3").code == 3


BAD = [
    ("a.csv", "id,x\n1,2\n", [], "a.csv, line 2: there is no column 'text' or 'sentence'; the columns are: id, x"),
    ("a.csv", "id,text\n1,\n", [], "a.csv, line 2: the text is empty"),
    ("a.csv", 'id,text\n1,"open\n', [], "a.csv, line 2, begins a row that is not one of a table"),
    ("a.csv", "id,text\n1,one,two\n", [], "a.csv, line 2, has 3 cells, and the first line names 2"),
    ("a.jsonl", '{"text": "one"}\n{"text": \n', [], "a.jsonl, line 2, is not JSON"),
    ("a.jsonl", '{"text": "one"}\n[1]\n', [], "a.jsonl, line 2, is not an object"),
    ("a.jsonl", '{"text": 5}\n', [], "a.jsonl, line 1: the column 'text' holds no text"),
    ("a.txt", "| Ada\n", ["--unit", "region"], "a.txt, line 1: each mark |"),
    ("a.jsonl", '{"text": "Ada", "at": "0-9"}\n', ["--unit", "region", "--spans", "at"], "the span 0-9 is outside"),
    ("a.jsonl", '{"text": "Ada"}\n', ["--unit", "region", "--spans", "at"], "'at' must hold spans"),
    ("a.txt", "", [], "have no text"),
    ("a.txt", "one\n", ["--pairs"], "pairs are read from"),
]


@pytest.mark.parametrize(("name", "content", "more", "expected"), BAD, ids=range(len(BAD)))
def test_bad_rows(gptlite: Command, trained_run: Path, name: str, content: str, more: list[str], expected: str) -> None:
    Path(name).write_text(content, encoding="utf-8")
    outcome = gptlite("score", name, "-m", trained_run, "-o", "out.csv", *more)
    assert outcome.code == 3 and expected in outcome.err, outcome.err
    assert not list(Path().glob("out*")), "nothing half-written"


def test_rows_that_cannot_be_scored_are_left_out_if_asked(gptlite: Command, trained_run: Path) -> None:
    Path("a.jsonl").write_text('{"text": "one"}\nnot json\n{"text": ""}\n{"text": "two"}\n', encoding="utf-8")
    outcome = gptlite("score", "a.jsonl", "-m", trained_run, "--skip-bad")
    assert outcome.code == 0 and "2 rows left out, the first because a.jsonl, line 2, is not JSON" in outcome.err
    assert {row["item"] for row in read(outcome.out)} == {"0", "1"}


def interrupted(gptlite: Command, monkeypatch: pytest.MonkeyPatch, *line: object, after: int = 2) -> Outcome:
    """The same command, ended after some batches."""
    count = 0
    write = writing.FileSink.write

    def ends(self: writing.FileSink, text: str, n_texts: int) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise KeyboardInterrupt
        write(self, text, n_texts)

    with monkeypatch.context() as patch:
        patch.setattr(writing.FileSink, "write", ends)
        return gptlite(*line)


def test_an_interrupted_run_goes_on(gptlite: Command, trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "TEXTS_AT_ONCE", 10)
    Path("lines.txt").write_text(make_text(45), encoding="utf-8")
    line = ("score", "lines.txt", "-m", trained_run, "-o", "out.csv", "--before", "previous")
    assert gptlite(*line[:4], "-o", "whole.csv", *line[6:]).code == 0
    outcome = interrupted(gptlite, monkeypatch, *line)
    assert outcome.code == 130 and "20 texts are complete" in outcome.err and not Path("out.csv").exists()
    with open("out.csv.partial", "a") as file:
        file.write("half a row")  # what was written after the last complete batch does not count
    assert gptlite(*line).code == 2, "it is not begun anew by mistake"
    assert "another unit" in gptlite(*line, "--resume", "--unit", "token").err
    assert gptlite(*line, "--resume").code == 0
    assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()
    assert not list(Path().glob("out.csv.*"))
    assert gptlite(*line, "--resume", "-o", "other.csv").code == 2


def test_marks() -> None:
    assert read_marks("The boy | left", "x") == ("The boy left", [(0, 7), (8, 12)])
    assert read_marks("银行|在河边", "x") == ("银行在河边", [(0, 2), (2, 5)])
    assert read_marks(r"a \| b | c", "x") == ("a | b c", [(0, 5), (6, 7)])
    with pytest.raises(CorpusError):
        read_marks("a || b", "x")


@pytest.mark.parametrize("cell", ["0-2 3-5", "0-2;3-5", "[[0, 2], [3, 5]]", [[0, 2], [3, 5]], "0:2 3:5"])
def test_spans(cell: object) -> None:
    assert read_spans(cell, 5, "x", "at") == [(0, 2), (3, 5)]


@pytest.mark.parametrize("cell", ["", "x", "0-9", "2-2", [[0]], None, 5, [["a", "b"]]])
def test_bad_spans(cell: object) -> None:
    with pytest.raises(CorpusError):
        read_spans(cell, 5, "x", "at")

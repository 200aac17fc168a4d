"""gptlite inspect: the numbers of a reading in tables, JSON, TSV and a page, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from conftest import Command, make_text
from support.browser import Page
from support.pages import needs_browser

from gptlite.checkpoint import runs
from gptlite.cli.shared import console

SENTENCE = "Ada finds the river and the bank ."


def inspected(gptlite: Command, *arguments: object) -> dict:
    outcome = gptlite("inspect", *arguments, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("\n") == 1
    return json.loads(outcome.out, parse_constant=pytest.fail)


def test_json_has_the_documented_keys(gptlite: Command, trained_run: Path) -> None:
    result = inspected(gptlite, SENTENCE, "-m", trained_run)
    assert set(result) == {
        "schema",
        "model",
        "text",
        "surprisal_bits",
        "n_bytes",
        "bits_per_byte",
        "convention",
        "tokens",
        "words",
    }
    assert result["model"] == str(runs.find_model(str(trained_run)))
    for token in result["tokens"]:
        assert set(token) == {"text", "id", "start", "end", "surprisal_bits", "entropy_bits", "rank", "top"}
        assert token["text"] == SENTENCE[token["start"] : token["end"]]
        assert [set(x) for x in token["top"]] == [{"text", "id", "p"}] * 5
        assert (token["rank"] == 1) is (token["top"][0]["id"] == token["id"])
    assert [word["text"] for word in result["words"]] == SENTENCE.split()
    for word in result["words"]:
        mine = result["tokens"][slice(*word["token_span"])]
        assert word["surprisal_bits"] == pytest.approx(sum(token["surprisal_bits"] for token in mine), abs=1e-4)


def test_the_bits_are_those_of_eval(gptlite: Command, trained_run: Path) -> None:
    Path("text.txt").write_text(make_text(30, seed=3))
    scored = json.loads(gptlite("eval", "text.txt", "-m", trained_run, "--json").out)
    for arguments in (("-f", "text.txt"), (make_text(30, seed=3),)):
        result = inspected(gptlite, *arguments, "-m", trained_run)
        assert result["bits_per_byte"] == pytest.approx(scored["bits_per_byte"], abs=2e-6)
        assert (len(result["tokens"]), result["n_bytes"]) == (scored["n_tokens"], scored["n_bytes"])


def test_a_text_comes_as_argument_file_or_pipe(gptlite: Command, trained_run: Path) -> None:
    Path("text.txt").write_bytes(b"\xef\xbb\xbf" + SENTENCE.encode())
    expected = inspected(gptlite, SENTENCE, "-m", trained_run)
    assert inspected(gptlite, "-f", "text.txt", "-m", trained_run) == expected
    outcome = gptlite("inspect", "-", "-m", trained_run, "--json", stdin=SENTENCE.encode())
    assert json.loads(outcome.out) == expected


def test_the_table_has_a_row_for_each_token(gptlite: Command, trained_run: Path) -> None:
    result = inspected(gptlite, SENTENCE, "-m", trained_run)
    lines = gptlite("inspect", SENTENCE, "-m", trained_run).out.splitlines()
    for i, (token, line) in enumerate(zip(result["tokens"], lines[1:], strict=False), 1):
        assert line.split()[:2] == [str(i), token["text"].replace(" ", "_")]
        assert f" {token['surprisal_bits']:.1f} " in line
    text = re.sub(r"\s+", " ", "\n".join(lines))
    assert f"{result['bits_per_byte']:.3f} bits per byte" in text
    hardest = max((w for w in result["words"] if w["kind"] == "word"), key=lambda word: word["surprisal_bits"])
    assert f"Most surprising: {hardest['text']} " in text


def test_words_have_a_table_that_says_what_a_word_is(gptlite: Command, trained_run: Path) -> None:
    out = gptlite("inspect", SENTENCE, "-m", trained_run, "--level", "word").out
    assert [line.split()[1] for line in out.splitlines()[1:9]] == SENTENCE.split()
    assert "the space before it included" in out


def test_a_long_text_has_a_short_table(gptlite: Command, trained_run: Path) -> None:
    text = make_text(60)
    out = gptlite("inspect", text, "-m", trained_run).out
    n = len(inspected(gptlite, text, "-m", trained_run)["tokens"])
    assert f"The first 200 of {n:,} tokens" in out and out.count("\n") < 215
    table = gptlite("inspect", text, "-m", trained_run, "--format", "tsv").out
    assert len(list(csv.reader(io.StringIO(table, newline=""), delimiter="\t"))) == n + 1


@pytest.mark.parametrize("form", ["tsv", "csv"])
def test_a_table_has_a_cell_for_everything_and_no_formula(gptlite: Command, trained_run: Path, form: str) -> None:
    text = '=1+1\t@x\n-a "quoted" NA null, nan'
    result = inspected(gptlite, text, "-m", trained_run)
    separator = "," if form == "csv" else "\t"
    for more in ((), ("--raw-cells",)):
        out = gptlite("inspect", text, "-m", trained_run, "--format", form, "--top", "2", *more).out
        head, *rows = csv.reader(io.StringIO(out, newline=""), delimiter=separator)
        assert head[:8] == ["number", "token", "id", "start", "end", "surprisal_bits", "entropy_bits", "rank"]
        assert head[8:] == ["top1", "p1", "top2", "p2"]
        assert len(rows) == len(result["tokens"]) and {len(row) for row in rows} == {len(head)}
        cells = [row[1] for row in rows]
        if more:
            assert cells == [token["text"] for token in result["tokens"]], "undone to the tokens themselves"
        elif not any(token["text"] == "-a" for token in result["tokens"]):
            assert [cell for cell in cells if len(cell) > 1 and cell[0] in "=+-@"] == []
    words = gptlite("inspect", text, "-m", trained_run, "--format", form, "--level", "word").out
    head, *rows = csv.reader(io.StringIO(words, newline=""), delimiter=separator)
    assert head == ["number", "word", "kind", "start", "end", "n_tokens", "surprisal_bits"]
    assert [text[int(w[3]) : int(w[4])] for w in rows] == [word["text"] for word in result["words"]]


def test_pandas_reads_as_many_rows_as_there_are_tokens(gptlite: Command, trained_run: Path) -> None:
    pandas = pytest.importorskip("pandas")
    text = 'The "quoted" NA null nan word. \t tab\n'
    n = len(inspected(gptlite, text, "-m", trained_run)["tokens"])
    for name, separator in (("q.tsv", "\t"), ("q.csv", ",")):
        assert gptlite("inspect", text, "-m", trained_run, "-o", name).code == 0
        assert len(pandas.read_csv(name, sep=separator)) == n


def test_layers_are_shown_beside_each_other(gptlite: Command, trained_run: Path) -> None:
    result = inspected(gptlite, SENTENCE, "-m", trained_run, "--lens")
    for token in result["tokens"]:
        assert [layer["layer"] for layer in token["lens"]] == [0, 1, 2]
        assert token["lens"][-1]["surprisal_bits"] == token["surprisal_bits"]
        assert token["lens"][-1]["best"] == token["top"][0]["text"]
    out = gptlite("inspect", SENTENCE, "-m", trained_run, "--lens").out
    assert "block 2" in out.splitlines()[0]
    n_right = sum(token["rank"] == 1 for token in result["tokens"])
    assert n_right and out.count("✓") >= n_right


# -- Attention


def test_a_map_has_a_row_for_each_token(gptlite: Command, trained_run: Path) -> None:
    result = inspected(gptlite, SENTENCE, "-m", trained_run, "--attention", "2.1")["attention"]
    rows = result["weights"][0][0]
    assert [len(row) for row in rows] == list(range(1, len(rows) + 1))
    assert all(sum(row) == pytest.approx(1, abs=1e-4) for row in rows)
    lines = gptlite("inspect", SENTENCE, "-m", trained_run, "--attention", "2.1").out.splitlines()
    shown = [line for line in lines if re.match(r" *\d+ \S+  ", line) and not re.match(r" +0 +1 +2", line)]
    assert len(shown) == len(rows)
    for row, line in zip(rows, shown, strict=True):
        assert f"{100 * max(row):.0f} %" in line or f"{100 * max(row):.1f} %" in line


def test_all_heads_say_where_they_look(gptlite: Command, trained_run: Path) -> None:
    lines = gptlite("inspect", SENTENCE, "-m", trained_run, "--attention", "all", "--token", "river").out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["1.1", "1.2", "2.1", "2.2"]
    assert "from _river" in lines[0]


def test_one_step_is_explained_with_its_numbers(gptlite: Command, trained_run: Path) -> None:
    asked = (SENTENCE, "-m", trained_run, "--explain", "2.1", "--token", "river")
    step = inspected(gptlite, *asked)["explain"]
    t = step["position"]
    assert step["masked"][: t + 1] == step["scaled"][: t + 1] and not any(step["masked"][t + 1 :])
    assert step["scores"][1] == pytest.approx(
        sum(a * b for a, b in zip(step["query"], step["keys"][1]["key"], strict=True)), abs=1e-3
    )
    assert sum(step["weights"]) == pytest.approx(1, abs=1e-4)
    out = gptlite("inspect", *asked).out
    for name in ("1 Query", "2 Score", "3 Scale", "4 Mask", "5 Softmax", "6 Sum", "7 Output"):
        assert name in out
    assert out.count("−∞") == 1 + len(step["weights"]) - t - 1
    best = max(range(t + 1), key=lambda i: step["weights"][i])
    assert re.search(rf"_river takes \S+ {100 * step['weights'][best]:.0f} %", out)


def test_the_numbers_fit_a_narrow_screen(gptlite: Command, trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "PLAIN_COLUMNS", 80)
    out = gptlite("inspect", SENTENCE, "-m", trained_run, "--explain", "1.1").out
    assert max(map(len, out.splitlines())) <= 80 and "key k " not in out


def test_attention_of_a_long_text_is_that_of_a_window(gptlite: Command, trained_run: Path) -> None:
    text = make_text(20)
    outcome = gptlite("inspect", text, "-m", trained_run, "--explain", "1.1", "--token", "60")
    assert "attention is that of tokens 29 to 60" in outcome.err
    step = inspected(gptlite, text, "-m", trained_run, "--explain", "1.1", "--token", "60")["explain"]
    assert (step["position"], len(step["weights"]), step["keys"][0]["position"]) == (60, 32, 29)


# -- Files and errors


def test_a_file_is_what_its_name_says(gptlite: Command, trained_run: Path) -> None:
    for name in ("out.json", "out.tsv", "out.csv"):
        assert gptlite("inspect", SENTENCE, "-m", trained_run, "-o", name).out == ""
    assert json.loads(Path("out.json").read_text()) == inspected(gptlite, SENTENCE, "-m", trained_run)
    for form in ("tsv", "csv"):
        printed = gptlite("inspect", SENTENCE, "-m", trained_run, "--format", form).out
        assert Path(f"out.{form}").read_text() == printed
    assert gptlite("inspect", SENTENCE, "-m", trained_run, "-o", "out.json").code == 2, "it is there"
    outcome = gptlite("inspect", SENTENCE, "-m", trained_run, "-o", "out.json", "--force", "--json")
    assert outcome.out == Path("out.json").read_text()


def test_json_is_printed_beside_a_file_of_another_kind(gptlite: Command, trained_run: Path) -> None:
    outcome = gptlite("inspect", SENTENCE, "-m", trained_run, "-o", "x.tsv", "--json")
    assert json.loads(outcome.out)["text"] == SENTENCE
    assert Path("x.tsv").read_text().startswith("number\t")


def test_a_text_that_is_read_is_not_overwritten(gptlite: Command, trained_run: Path) -> None:
    Path("x.tsv").write_text(SENTENCE)
    outcome = gptlite("inspect", "-f", "x.tsv", "-m", trained_run, "-o", "x.tsv", "--force")
    assert outcome.code == 2 and "this command reads" in outcome.err
    assert Path("x.tsv").read_text() == SENTENCE


def test_a_page_is_a_file(gptlite: Command, trained_run: Path) -> None:
    pytest.importorskip("vl_convert")
    outcome = gptlite("inspect", SENTENCE, "-m", trained_run, "-o", "page.html", "--explain", "1.2", "--token", "river")
    assert (outcome.code, outcome.out) == (0, "")
    page = Path("page.html").read_text(encoding="utf-8")
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["head"] == [1, 2] and data["tokens"][data["chosen"] - 1]["name"] == "_river"
    assert str(trained_run.parent) not in page, "whose directory it was is nobody's business"


@needs_browser
@pytest.mark.parametrize("n_times", [1, 5])
def test_the_page_has_the_numbers_of_json(
    gptlite: Command, trained_run: Path, page: Page, n_times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a text that has room in the page, and of one of which only a part has."""
    pytest.importorskip("vl_convert")
    from gptlite.report import inspection

    if n_times > 1:
        monkeypatch.setattr(inspection, "LARGEST_MAP", 12)
    asked = (" ".join([SENTENCE] * n_times), "-m", trained_run, "--attention", "2.1", "--explain", "2.1")
    told = inspected(gptlite, *asked[:3], "--attention", "all", "--explain", "2.1", "--lens")
    assert gptlite("inspect", *asked, "-o", "page.html").code == 0
    page.open(Path("page.html"))
    page.wait_for("document.body?.dataset.drawn")
    first, mapped = page.evaluate("[looking.first, looking.mapped]")
    before = told["attention"]["first_position"]
    assert (mapped == 12) is (n_times > 1) and page.evaluate("looking.ids.length") == len(told["tokens"]) + 1
    for layer, heads in enumerate(told["attention"]["weights"]):
        for head, rows in enumerate(heads):
            for t in range(first, first + mapped):
                ours = page.evaluate(f"[...weightsOf({layer}, {head}, {t})]")
                assert ours == pytest.approx(rows[t - before][first - before :], abs=1e-3)
    for t, token in enumerate(told["tokens"], 1):
        column = page.evaluate(f"looking.lens[{t}]")
        assert [x["bits"] for x in column] == pytest.approx([x["surprisal_bits"] for x in token["lens"]], abs=1e-3)
        best = page.evaluate(f"remote('expected', 'look', {t - 1}, 1, 8)")[0]
        assert best["p"] == pytest.approx(token["lens"][1]["p"], abs=1e-3)
        top = page.evaluate(f"remote('expected', 'look', {t - 1}, model.config.n_layers, 8)")
        assert [x["id"] for x in top] == [x["id"] for x in token["top"]]
    at, step = page.evaluate("looking.at"), told["explain"]
    assert at == step["position"]
    ours = page.evaluate("remote('step', 'look', 1, 0, looking.at).then((x) => [[...x.scaled], [...x.query]])")
    assert ours[0] == pytest.approx(step["scaled"][first - before : at - before + 1], abs=1e-3)
    assert ours[1] == pytest.approx(step["query"], abs=2e-3)
    share = page.evaluate("byId('outside')?.textContent ?? ''")
    assert ("from tokens before these" in share) is (first > 0)
    assert page.errors == [] and page.requests == [Path("page.html").resolve().as_uri()]


@needs_browser
def test_a_page_does_not_begin_at_the_line_break_that_ends_a_file(gptlite: Command, trained_run: Path) -> None:
    pytest.importorskip("vl_convert")
    Path("text.txt").write_text("Ada finds the river\n\n")
    assert gptlite("inspect", "-f", "text.txt", "-m", trained_run, "-o", "page.html").code == 0
    data = json.loads(Path("page.html").read_text(encoding="utf-8").split('id="data">')[1].split("</script>")[0])
    assert data["tokens"][data["chosen"] - 1]["text"].strip() and not data["tokens"][-1]["text"].strip()
    step = inspected(gptlite, "-f", "text.txt", "-m", trained_run, "--explain", "1.1")["explain"]
    assert step["position"] == data["chosen"]


def test_charts_are_files_beside_any_answer(gptlite: Command, trained_run: Path) -> None:
    pytest.importorskip("vl_convert")
    asked = (SENTENCE, "-m", trained_run, "--attention", "2.1", "--token", "river", "--json")
    with_figures, without = gptlite("inspect", *asked, "--figures", "made"), gptlite("inspect", *asked)
    assert (with_figures.code, with_figures.out) == (0, without.out)
    names = {f"{name}.{kind}" for name in ("surprisal", "lens", "attention-2.1") for kind in ("svg", "png")}
    assert {path.name for path in Path("made").iterdir()} == names
    drawn = Path("made/attention-2.1.svg").read_text(encoding="utf-8")
    assert all(f"{i} _{word}" in drawn for i, word in ((4, "river"), (7, "bank")) if f"_{word}" in without.out)


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ((), 2, "give a text"),
        (("",), 2, "empty"),
        (("a", "-f", "b"), 2, "once"),
        (("a", "--level", "line"), 2, "'--level'"),
        (("a", "--format", "xml"), 2, "'--format'"),
        (("a", "-o", "x.txt"), 2, "the name must end in .json, .tsv, .csv or .html"),
        (("a", "--format", "tsv", "--attention", "all"), 2, "--attention does nothing with"),
        (("a", "--format", "tsv", "-o", "x.json"), 2, "give only one of --format and --out"),
        (("a", "-o", "x.html", "--level", "word"), 2, "--level does nothing with a page"),
        (("a", "-o", "x.html", "--attention", "all"), 2, "a page shows all heads"),
        (("a", "--lens", "--top", "3"), 2, "--top does nothing with --lens"),
        (("a", "--token", "1"), 2, "--token does nothing with a table of tokens; it goes with: "),
        (("a", "--explain", "all"), 2, "--explain takes a layer from 1 to 2"),
        (("a", "--attention", "3.1"), 2, "--attention takes a layer from 1 to 2"),
        (("a", "--explain", "1.1", "--token", "cat"), 2, "no such word"),
        (("a", "--top", "101"), 2, "less than or equal to 100"),
        (("-f", "gone"), 3, "gone"),
        (("-f", "latin.txt"), 3, "not UTF-8"),
        (("a", "-o", "gone/x.json"), 5, "gone"),
    ],
)
def test_what_is_refused(gptlite: Command, trained_run: Path, line: tuple[str, ...], code: int, message: str) -> None:
    Path("latin.txt").write_bytes("naïve".encode("latin-1"))
    outcome = gptlite("inspect", *line, "-m", trained_run)
    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err


@pytest.mark.parametrize("text", ["a", " ", "\n", "汉字", "🙂", "\x1b[2J[red]x[/red]", "a\u202eb", "e\u0301\x00"])
@pytest.mark.row("S02")
def test_any_text_is_shown_as_text(gptlite: Command, trained_run: Path, text: str) -> None:
    for more in ((), ("--level", "word"), ("--lens",), ("--attention", "1.1"), ("--explain", "1.1")):
        outcome = gptlite("inspect", text, "-m", trained_run, *more)
        assert outcome.code == 0
        assert not console.CONTROL.search(outcome.out)


def test_colours_are_the_bits(gptlite: Command, trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "is_coloured", lambda: True)
    out = gptlite("inspect", SENTENCE, "-m", trained_run).out
    assert out.startswith(SENTENCE) and "surprisal in bits   under 2    2 to 4 " in out

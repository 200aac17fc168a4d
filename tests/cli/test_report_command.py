"""gptlite report: a page about a run, with the numbers of its files."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import TRAIN_FEW, Command

from gptlite.cli.report import command as report

pytest.importorskip("altair")
pytest.importorskip("vl_convert")


@pytest.fixture
def run(trained_run: Path) -> Path:
    """A run that a test may change."""
    shutil.copytree(trained_run, "run", symlinks=True)
    return Path("run")


def specs(page: str) -> dict[str, Any]:
    return json.loads(page.split('id="specs">')[1].split("</script>")[0])


def test_the_page_has_the_numbers_of_the_run(gptlite: Command, run: Path) -> None:
    outcome = gptlite("report", "run", "-o", "page.html")
    assert (outcome.code, outcome.out) == (0, "")
    page = Path("page.html").read_text(encoding="utf-8")
    stored = json.loads((run / "run.json").read_text())
    result = stored["result"]
    for part in (
        f"{result['val_bits_per_byte']:.4f}",
        f"{stored['baselines']['ngram_bits_per_byte']:.4f}",
        f"{stored['n_parameters']:,} parameters",
        stored["inputs"][0]["sha256"],
        stored["text"]["val"]["sha256"],
        stored["tokenizer"],
        json.loads((run / "best/MANIFEST.json").read_text())["files"]["model.safetensors"]["sha256"],
        html.escape(shlex.join(stored["command"])),
        f"torch {stored['versions']['torch']}",
    ):
        assert part in page, part
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    drawn = specs(page)
    assert set(drawn) == {"bits", "loss", "lr", "speed", "map", "emergence", "emergence_loss"}
    losses = [x["y"] for values in drawn["loss"]["datasets"].values() for x in values if x["of"] == "training"]
    assert losses == [line["train_loss"] for line in lines]
    curve = {x["step"]: x["bits"] for values in drawn["bits"]["datasets"].values() for x in values if "step" in x}
    assert len(curve) == 11 and min(curve) == 0 and curve[0] > max(x for step, x in curve.items() if step)
    assert curve[result["best_step"]] == result["val_bits_per_byte"], "one score for one step"
    bits = result["val_bits_per_byte"]
    assert (
        f"As uncertain as a choice among {2**bits:.1f} bytes" in page
        and f"Untrained it was one of {2 ** curve[0]:.0f}" in page
    )
    words = [x["word"] for values in drawn["map"]["datasets"].values() for x in values]
    assert {"the", "and", "Ada", "river"} <= set(words)


def test_it_says_how_much_is_copied_and_which_command_says_the_same(gptlite: Command, run: Path) -> None:
    assert gptlite("report", "run", "-o", "page.html", "-n", "2").code == 0
    page = html.unescape(Path("page.html").read_text(encoding="utf-8"))
    (command,) = re.findall(r"<code>(gptlite generate .*)</code>", page)
    written = json.loads(gptlite(*shlex.split(command)[1:], "--json").out)
    assert len(written["samples"]) == 2
    for sample in written["samples"]:
        assert f">{sample['text']}</blockquote>" in page
        longest = sample["copies"]["runs"][0]
        assert longest["text"] in page and f"line {longest['line']}, column {longest['column']}" in page
    copies = written["copies"]
    assert f"<p>{copies['verdict']}</p>" in page
    table = re.search('aria-label="Shares that are copied".*?</table>', page, re.DOTALL)
    assert table is not None
    cells = re.findall("<bdi>(.*?)</bdi>", table[0])
    held_out = [found["shares"][n] for n in copies["shares"] for found in copies["held_out"]]
    for share in [s for sample in written["samples"] for s in sample["copies"]["shares"].values()] + [max(held_out)]:
        assert (f"{100 * share:.0f} %" if share in (0, 1) or share >= 0.095 else f"{100 * share:.1f} %") in cells
    assert str(run.parent.resolve()) not in page.split("<main>")[1], "whose directory it was is nobody's business"
    assert gptlite("report", "run", "-o", "page.html", "-n", "0", "--force").code == 0
    assert "What it writes" not in Path("page.html").read_text(encoding="utf-8")


def test_a_text_that_is_gone_is_said(gptlite: Command, run: Path) -> None:
    stored = json.loads((run / "run.json").read_text())
    stored["arguments"] = [str(Path("gone.txt").resolve())]
    (run / "run.json").write_text(json.dumps(stored))
    assert gptlite("report", "run", "-o", "page.html", "-n", "1").code == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert "What of this is copied cannot be said: " in page and page.count("<blockquote") == 1


def test_each_chart_is_a_file_without_a_browser(gptlite: Command, run: Path) -> None:
    outcome = gptlite("report", "run", "-o", "page.html", "-n", "0", "--figures", "made/figures")
    assert outcome.code == 0, outcome.err
    charts = specs(Path("page.html").read_text(encoding="utf-8"))
    wanted = {f"{name}.{kind}" for name in charts for kind in ("svg", "png")}
    assert {path.name for path in Path("made/figures").iterdir()} == wanted
    Path("file").write_text("")
    assert gptlite("report", "run", "-n", "0", "--figures", "file").code == 5


def test_without_a_name_it_is_the_newest_run_and_stands_in_it(gptlite: Command, run: Path) -> None:
    Path("checkpoints").mkdir()
    run.rename("checkpoints/run")
    assert gptlite("report").code == 0
    assert "a training run" in Path("checkpoints/run/report.html").read_text(encoding="utf-8")
    assert gptlite("check", "checkpoints/run").code == 0, "a page in a run does not trouble the others"


def test_samples_stand_by_their_steps(gptlite: Command, corpus_file: Path) -> None:
    line = ("train", corpus_file, "-o", "run", "-q", *TRAIN_FEW, "--steps", "12", "--sample-every", "6")
    assert gptlite(*line, "--sample-prompt", "Ada").code == 0
    metrics = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    samples = {line["step"]: line["sample"] for line in metrics if "sample" in line}
    assert set(samples) == {6, 12} and all(text.startswith("Ada") for text in samples.values())
    assert gptlite("check", "run").code == 0
    assert gptlite("report", "run").code == 0
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert page.count("<blockquote") == 4 + 2 and "<summary>Step 12</summary>" in page


def test_a_run_that_goes_on_has_a_page(gptlite: Command, run: Path) -> None:
    stored = json.loads((run / "run.json").read_text())
    del stored["result"]
    (run / "run.json").write_text(json.dumps(stored))
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 70, "train_l')  # is being written
    assert gptlite("report", "run", "-o", "page.html").code == 0
    assert "not finished: its log ends with step 60" in Path("page.html").read_text(encoding="utf-8")
    for step in run.glob("step-*"):
        shutil.rmtree(step)
    (run / "metrics.jsonl").unlink()
    assert gptlite("report", "run", "-o", "page.html", "--force").code == 0
    assert "Nothing has been logged yet" in Path("page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", '{"plan": 3}', "run.json: 'plan' is 3, not an object"),
        ("run.json", "[", "run.json"),
        ("metrics.jsonl", '{"step": 1}\nnonsense\n', "metrics.jsonl, line 2"),
        ("metrics.jsonl", '{"loss": 1}\n', "line 1, has no step"),
        ("metrics.jsonl", '{"step": NaN}\n', "line 1"),
        ("metrics.jsonl", b"\xff\n", "not UTF-8"),
    ],
)
def test_a_damaged_run_is_code_4(gptlite: Command, run: Path, name: str, content: str | bytes, message: str) -> None:
    (run / name).write_bytes(content.encode() if isinstance(content, str) else content)
    outcome = gptlite("report", "run", "-o", "page.html")
    assert (outcome.code, outcome.out) == (4, "")
    assert message in outcome.err
    assert not Path("page.html").exists()


def test_what_is_no_run_is_refused(gptlite: Command) -> None:
    assert gptlite("report", "gone").code == 4
    assert gptlite("report").code == 4


def test_a_place_that_cannot_be_written_is_code_5(gptlite: Command, run: Path) -> None:
    assert gptlite("report", "run", "-o", "gone/page.html").code == 5


def test_no_page_names_a_folder_of_this_computer(gptlite: Command, run: Path) -> None:
    """Neither where the run lies, nor where the text was when the command was given."""
    stored = json.loads((run / "run.json").read_text())
    folder = "/home/secret or not"  # a folder whose name has spaces
    stored["command"] = ["gptlite", "train", f"{folder}/texts/corpus.txt", f"--val={folder}/held.txt", "-o", "run"]
    (run / "run.json").write_text(json.dumps(stored))
    for index, source in enumerate((run.resolve(), run)):
        assert gptlite("report", source, "-o", f"{index}.html", "-n", "1").code == 0
        page = html.unescape(Path(f"{index}.html").read_text(encoding="utf-8"))
        assert str(run.parent.resolve()) not in page
        assert "gptlite train corpus.txt --val=held.txt" in page and "secret" not in page
        assert "gptlite generate -m run/step-" in page


@pytest.mark.parametrize("name", ["page.pdf", "page", "page.json"])
def test_the_suffix_says_that_it_is_a_page(gptlite: Command, run: Path, name: str) -> None:
    outcome = gptlite("report", "run", "-o", name)
    assert outcome.code == 2 and "must end in .html or .htm" in outcome.err
    assert not Path(name).exists()


def test_json_says_where_the_page_is(gptlite: Command, run: Path) -> None:
    result = json.loads(gptlite("report", "-m", run, "-n", "0", "--json").out)
    assert result == {
        "schema": "gptlite.report/1", "run": "run", "page": "run/report.html", "n_logged_steps": 61, "figures": None,
    } | {"n_logged_steps": result["n_logged_steps"]}  # fmt: skip
    assert Path(result["page"]).exists()


def test_a_step_has_one_score_which_says_what_it_is_of(gptlite: Command, run: Path) -> None:
    """The best step was scored twice, on a part of the held-out text and at the end; other steps once."""
    stored = json.loads((run / "run.json").read_text())
    stored["result"]["val_bits_per_byte"] = 9.8765
    (run / "run.json").write_text(json.dumps(stored))
    assert gptlite("report", "run", "-o", "page.html").code == 0
    page = Path("page.html").read_text(encoding="utf-8")
    best = stored["result"]["best_step"]
    scores = re.findall(r"step ([\d,]+)</th><td><bdi>([^<]*bits per byte[^<]*)", page)
    assert dict(scores)[f"{best:,}"].startswith("9.8765 bits per byte at the end")
    assert all("from a part while training" in score for step, score in scores if step != f"{best:,}")
    drawn = {x["step"]: x["bits"] for v in specs(page)["bits"]["datasets"].values() for x in v if "step" in x}
    assert {int(step.replace(",", "")): float(score.split()[0]) for step, score in scores} == {
        step: pytest.approx(drawn[step], abs=1e-4) for step in drawn if f"step {step:,}</th>" in page
    }
    logged = {line["step"]: line for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())}
    moved = 9.8765 - logged[best]["val_bits_per_byte"]
    for step, bits in drawn.items():
        assert step == 0 or bits == pytest.approx(logged[step]["val_bits_per_byte"] + moved), (
            "the shape of the curve stays"
        )


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (1.0, " It beats xz (4.0), 5-gram (2.8) and unigram (16)."),
        (1.5, " It beats xz (4.0) and unigram (16), and does not beat 5-gram (2.8)."),
        (4.0, " It beats none of the baselines."),
    ],
)
def test_the_result_says_which_baselines_it_does_not_beat(score: float, text: str) -> None:
    assert report._beside(score, {"xz": 2.0, "5-gram": 1.5, "unigram": 4.0}) == text
    assert report._beside(score, {}) == ""


@pytest.mark.parametrize(
    ("members", "row"),
    [
        (1, ["times through the text", "12.00", "8.00"]),
        (4, ["times through the text, each model", "3.00", "2.00"]),
    ],
)
def test_of_several_models_it_says_how_often_each_read_the_text(members: int, row: list[str]) -> None:
    info = {"plan": {"train": {"members": members}}, "n_train_tokens": 100}
    assert row in report._plan(info, {"n_tokens_seen": 800}, {"epochs": 12.0}, [])

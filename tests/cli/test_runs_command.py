"""gptlite runs: a list of runs; and -m as the one way to name a run in all commands."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from conftest import Command

from gptlite.cli.runs import age


@pytest.fixture
def runs(trained_run: Path) -> Path:
    """Three runs: a new one, an old one, and one whose run.json is damaged."""
    for name in ("new", "old", "damaged"):
        shutil.copytree(trained_run, f"checkpoints/{name}", symlinks=True)
    Path("checkpoints/damaged/run.json").write_text("{")
    Path("checkpoints/notes").mkdir()
    for path in (Path("checkpoints/old"), *Path("checkpoints/old").iterdir()):
        os.utime(path, times=(time.time() - 7300,) * 2)
    return Path("checkpoints")


def test_the_list_says_text_size_score_and_age(gptlite: Command, runs: Path, trained_run: Path) -> None:
    outcome = gptlite("runs")
    assert outcome.code == 0
    rows = [line.split() for line in outcome.out.splitlines()]
    stored = json.loads((trained_run / "run.json").read_text())
    new = next(row for row in rows if row[0] == "new")
    assert new[1] == "corpus.txt" and f"{stored['n_parameters'] / 1e3:.1f}k" in new
    assert next(row for row in rows if row[0] == "old")[-2:] == ["2", "hours"]
    assert "damaged" in outcome.out and "not JSON" in outcome.out
    assert rows[-1][0] == "old", "the newest comes first"


def test_json_has_the_same(gptlite: Command, runs: Path, trained_run: Path) -> None:
    result = json.loads(gptlite("runs", "--json").out)
    assert result["schema"] == "gptlite.runs/1" and result["folder"] == "checkpoints"
    by_name = {Path(run["path"]).name: run for run in result["runs"]}
    assert set(by_name) == {"new", "old", "damaged"}
    best = json.loads((trained_run / "best/MANIFEST.json").read_text())
    assert by_name["new"]["val_bits_per_byte"] == best["val_bits_per_byte"]
    assert by_name["new"]["best_step"] == best["step"]
    assert by_name["new"]["texts"] == ["corpus.txt"] and by_name["new"]["disk_bytes"] > 100_000
    assert 7300 <= by_name["old"]["age_seconds"] < 7400
    assert by_name["damaged"]["problem"] and by_name["new"]["problem"] is None


@pytest.mark.parametrize("line", [("runs",), ("runs", "elsewhere")])
def test_where_there_are_none_it_says_how_to_make_one(gptlite: Command, line: tuple[str, ...]) -> None:
    outcome = gptlite(*line)
    assert outcome.code == 4 and "gptlite train FILE" in outcome.err


@pytest.mark.parametrize(
    ("seconds", "said"), [(5, "just now"), (60, "1 minute"), (7300, "2 hours"), (86400, "1 day"), (9e5, "10 days")]
)
def test_an_age_is_in_one_unit(seconds: float, said: str) -> None:
    assert age(seconds) == said


@pytest.mark.parametrize("command", ["info", "check", "report", "export"])
def test_every_command_takes_a_model_with_m(gptlite: Command, trained_run: Path, command: str) -> None:
    more = {"report": ("-o", "page.html", "-n", "0"), "export": ("-o", "x.gguf", "--dtype", "f32")}.get(command, ())
    outcome = gptlite(command, "-m", trained_run, *more)
    assert outcome.code == 0, outcome.err
    twice = gptlite(command, trained_run, "-m", trained_run, *more)
    assert twice.code == 2 and "name the model once" in twice.err

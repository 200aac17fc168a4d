"""gptlite report RUN1 RUN2 ...: curves over each other, what differs, and which was better."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import Command
from support.runs import copied_run

pytest.importorskip("altair")
pytest.importorskip("vl_convert")


def test_two_settings_with_two_seeds_each(gptlite: Command, trained_run: Path) -> None:
    runs = [
        copied_run(trained_run, "a1", seed=1),
        copied_run(trained_run, "a2", seed=2, bits=0.01),
        copied_run(trained_run, "b1", seed=1, lr=0.5, bits=0.5),
        copied_run(trained_run, "b2", seed=2, lr=0.5, bits=0.51),
    ]
    outcome = gptlite("report", *runs, "-o", "x.html", "--json")
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    assert facts["settings"]["lr"][2:] == [0.5, 0.5] and set(facts["settings"]) == {"seed", "lr"}
    (difference,) = facts["differences"]
    assert difference["better"] == ["a1", "a2"] and difference["bits_per_byte"] == pytest.approx(0.5)
    assert difference["exceeds_seeds"] is True
    page = Path("x.html").read_text(encoding="utf-8")
    assert "the mean of a1 and a2 is better than the mean of b1 and b2 by 0.5000" in page
    assert "that exceeds the spread of seeds" in page
    specs = json.loads(page.split('id="specs">')[1].split("</script>")[0])
    assert set(specs) == {"bits", "loss", "speed"}
    drawn = {x["run"] for values in specs["loss"]["datasets"].values() for x in values}
    assert drawn == {"a1", "a2", "b1", "b2"}
    curves = [x for values in specs["bits"]["datasets"].values() for x in values]
    assert sum(x["step"] == 0 for x in curves) == 4 and all({"elapsed", "tokens"} <= x.keys() for x in curves)
    assert "a1 is as uncertain as a choice among" in page and page.index("Curves</h2>") < page.index("What differs")


def test_one_seed_each_says_nothing_of_seeds(gptlite: Command, trained_run: Path) -> None:
    copied_run(trained_run, "a"), copied_run(trained_run, "b", lr=0.5, bits=0.5)
    outcome = gptlite("report", "a", "b")
    assert outcome.code == 0 and Path("report.html").exists()
    assert "a is better than b by 0.5000 bits per byte; with one seed for each setting" in outcome.err
    assert gptlite("report", "a", "b").code == 2
    assert gptlite("report", "a", "b", "--force").code == 0


def test_other_texts_and_unfinished_runs_are_not_compared(gptlite: Command, trained_run: Path) -> None:
    copied_run(trained_run, "a"), copied_run(trained_run, "b")
    path = Path("b/run.json")
    info = json.loads(path.read_text())
    info["text"]["val"]["sha256"] = "0" * 64
    path.write_text(json.dumps(info))
    assert "held out different texts" in gptlite("report", "a", "b").err
    del info["result"]
    info["text"]["val"] = json.loads(Path("a/run.json").read_text())["text"]["val"]
    path.write_text(json.dumps(info))
    assert "b is not finished, and not compared." in gptlite("report", "a", "b", "--force").err


def test_what_makes_no_sense_is_refused(gptlite: Command, trained_run: Path) -> None:
    shutil.copytree(trained_run, "a", symlinks=True)
    for arguments, said in (
        (("a", "a"), "named twice"),
        (("a", "gone"), "gone"),
        (("a", "b", "-n", "2"), "--num-samples does nothing with several runs"),
        (("a", "b", "-o", "x.pdf"), "must end in .html"),
        (("a", "--force"), "--force does nothing without"),
    ):
        outcome = gptlite("report", *arguments)
        assert outcome.code in (2, 4) and said in outcome.err, outcome.err

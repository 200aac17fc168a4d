"""gptlite compare: the tables, JSON, the page, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import Command


@pytest.fixture
def finished(comparison_of_four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTLITE_CACHE", str(comparison_of_four.parent / "cache"))
    return Path(shutil.copytree(comparison_of_four, tmp_path / "finished"))


def test_tables_of_a_finished_comparison(gptlite: Command, finished: Path) -> None:
    outcome = gptlite("compare", "--resume", "--dir", finished)
    assert outcome.code == 0, outcome.err
    for part in ("bits/byte", "behind the best", "reach:", "speed:", "copy test:", "chance: 3.1%", "samples", "LSTM"):
        assert part in outcome.out
    assert f"kept in {finished}" in outcome.err


def test_json_and_a_page_from_the_same_results(gptlite: Command, finished: Path) -> None:
    outcome = gptlite("compare", "--resume", "--dir", finished, "--json", "-o", "x.html", "--explain", "--lang", "zh")
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    assert facts["schema"] == "gptlite.compare/1" and len(facts["contenders"]) == 4
    html = Path("x.html").read_text(encoding="utf-8")
    assert '<html lang="zh">' in html and "为什么不直接用 LSTM" in html and len(html) < 3_000_000
    refused = gptlite("compare", "--resume", "--dir", finished, "-o", "x.html")
    assert refused.code == 2 and "--force" in refused.err


def test_pairs_have_tables_json_and_a_page_of_their_own(
    gptlite: Command, comparison_of_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTLITE_CACHE", str(comparison_of_pairs.parent / "cache"))
    copied = shutil.copytree(comparison_of_pairs, tmp_path / "pairs")
    outcome = gptlite("compare", "--resume", "--dir", copied, "-o", "x.html", "--explain")
    assert outcome.code == 0, outcome.err
    for part in ("exact answers", "held-out prompts", "known answer", "most from", "encoder-decoder of 2017"):
        assert part in outcome.out
    assert "encoder and decoder" in Path("x.html").read_text(encoding="utf-8")
    outcome = gptlite("compare", "--resume", "--dir", copied, "--json")
    facts = json.loads(outcome.out)
    assert facts["on"] == "pairs" and facts["contenders"][0]["attention"]["weights"]


def test_the_model_that_reads_both_sides(
    gptlite: Command, comparison_with_masked: Path, comparison_of_four: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTLITE_CACHE", str(comparison_of_four.parent / "cache"))
    outcome = gptlite("compare", "--resume", "--dir", comparison_with_masked)
    assert outcome.code == 0, outcome.err
    for part in ("the other branch", "cannot write", "masked, state at the word", "causal, left of the word"):
        assert part in outcome.out


def test_flags_in_messages_are_those_of_the_command(gptlite: Command, corpus_file: Path, finished: Path) -> None:
    outcome = gptlite("compare", corpus_file, "--with", "elman")
    assert outcome.code == 2 and "--with has 'elman'" in outcome.err
    outcome = gptlite("compare", corpus_file, "--dir", finished)
    assert outcome.code == 2 and f"gptlite compare --dir {finished} --resume" in outcome.err
    outcome = gptlite("compare", "--resume", "--dir", finished, "--time", "9s")
    assert outcome.code == 2 and "--time is 9.0" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("corpus.txt -o page.pdf", "must end in .html or .htm"),
        ("corpus.txt --explain", "--explain does nothing without --out"),
        ("--resume --val 10%", "--val does nothing with --resume"),
        ("corpus.txt --lang fr -o x.html", "'fr'"),
        ("", "FILES"),
        ("corpus.txt --demo", "--demo brings its own text"),
        ("--resume --demo", "--demo does nothing with --resume"),
    ],
)
def test_what_makes_no_sense_is_refused(gptlite: Command, corpus_file: Path, arguments: str, said: str) -> None:
    outcome = gptlite("compare", *arguments.split())
    assert outcome.code == 2 and said in outcome.err, outcome.err

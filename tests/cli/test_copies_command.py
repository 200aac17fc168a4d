"""gptlite generate --check-copies: said to a person on standard error, to a program in the JSON object."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import Command, Outcome, make_text

from gptlite.checkpoint import runs
from gptlite.cli.shared import console, memorisation
from gptlite.evaluation.memorisation import Copies, Report

LINE = ("generate", "Ada", "--seed", "1", "--max-new-tokens", "60")


@pytest.fixture
def own_run(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained run and of its text, which may be changed: run/ and corpus.txt."""
    shutil.copytree(trained_run, "run", symlinks=True)
    shutil.copy(trained_run.parent / "corpus.txt", "corpus.txt")
    info = json.loads(Path("run/run.json").read_text())
    info["arguments"] = [str(Path("corpus.txt").absolute())]
    info["inputs"][0]["path"] = info["arguments"][0]
    Path("run/run.json").write_text(json.dumps(info))
    return Path("run")


@pytest.fixture
def checked(gptlite: Command, own_run: Path) -> Command:
    def call(*arguments: object) -> Outcome:
        return gptlite(*LINE, "-m", own_run, "--check-copies", *arguments)

    return call


def read_json(outcome: Outcome) -> dict:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


# -- What is said


@pytest.mark.parametrize("more", [(), ("--no-stream",), ("-n", "2")], ids=str)
def test_the_report_stands_on_standard_error_and_the_text_is_as_ever(
    gptlite: Command, checked: Command, own_run: Path, more: tuple[str, ...]
) -> None:
    outcome = checked(*more)
    assert outcome.code == 0
    assert outcome.out == gptlite(*LINE, "-m", own_run, *more).out
    assert re.search("stands? in the training text in runs of 50 characters or more", outcome.err)
    assert "held-out text, mean" in outcome.err


def test_each_sample_has_a_row_and_its_longest_run(checked: Command) -> None:
    err = checked("-n", "3").err
    assert re.findall(r"^ sample (\d)  +\d+  ", err, re.MULTILINE) == ["1", "2", "3"]
    assert re.findall(r"^sample (\d): \d+ characters, \d+ words, ", err, re.MULTILINE) == ["1", "2", "3"]


def test_json_has_every_figure_and_places_where_the_text_stands(checked: Command) -> None:
    result = read_json(checked("--json", "-n", "2"))
    lines = Path("corpus.txt").read_text().split("\n")
    for sample in result["samples"]:
        found = sample["copies"]
        assert set(found) == {"longest_characters", "shares", "runs"} and set(found["shares"]) == {"25", "50", "100"}
        for run in found["runs"]:
            assert sample["text"][run["start"] : run["end"]] == run["text"]
            there = "\n".join(lines[run["line"] - 1 :])[run["column"] - 1 :]
            assert there.startswith(run["text"]) and run["file"].endswith("corpus.txt")
            assert run["n_places"] == len(re.findall(f"(?={re.escape(run['text'])})", training_text()))
        assert found["longest_characters"] == len(found["runs"][0]["text"])
    whole = result["copies"]
    assert set(whole) == {"verdict", "longest_characters", "shares", "held_out"}
    assert whole["longest_characters"] == max(sample["copies"]["longest_characters"] for sample in result["samples"])
    assert {piece["n_characters"] for piece in whole["held_out"]} == {
        round(sum(len(sample["text"]) for sample in result["samples"]) / 2)
    }


def training_text() -> str:
    """All but the end of corpus.txt, which was held out."""
    info = json.loads(Path("run/run.json").read_text())
    return Path("corpus.txt").read_bytes()[: info["text"]["train"]["bytes"]].decode()


def test_nothing_is_added_unless_it_is_asked_for(gptlite: Command, own_run: Path) -> None:
    result = read_json(gptlite(*LINE, "-m", own_run, "--json"))
    assert "copies" not in result and "copies" not in result["samples"][0]


def test_a_prompt_from_the_training_text_is_not_the_models_copy(gptlite: Command, own_run: Path) -> None:
    prompt = Path("corpus.txt").read_text()[:400]
    line = ("generate", "-m", own_run, "-p", prompt, "--check-copies", "--json", "--seed", "1", "--max-new-tokens")
    assert read_json(gptlite(*line, "0"))["copies"]["longest_characters"] == 0
    (sample,) = read_json(gptlite(*line, "8"))["samples"]
    assert 0 < sample["copies"]["longest_characters"] <= len(sample["text"]) < 100


def test_a_few_characters_are_too_short_to_tell(gptlite: Command, own_run: Path) -> None:
    outcome = gptlite("generate", "-m", own_run, "-p", "Ada", "--check-copies", "--max-new-tokens", "2")
    assert "too short for runs of 50 characters" in outcome.err


def test_what_stands_in_the_text_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b]0;gone\x07 [bold red]not markup[/] \u202e and a line end\n right here, and so on"
    Path("corpus.txt").write_text(f"{make_text(40)}{hostile}{make_text(40, seed=1)}")
    check = memorisation.CopyCheck(Path("model"), "corpus.txt", console.Messages())
    check.show([f"## {hostile} ##"])
    err = capsys.readouterr().err
    assert not console.CONTROL.search(err)
    assert r'  "\x1b]0;gone\x07 [bold red]not markup[/] \u202e and a line end\n right here, and so on"' in err


def test_a_very_long_run_is_shown_by_its_ends(capsys: pytest.CaptureFixture[str]) -> None:
    Path("corpus.txt").write_text(make_text(200))
    memorisation.CopyCheck(Path("model"), "corpus.txt", console.Messages()).show([make_text(200)[:3000]])
    shown = capsys.readouterr().err.splitlines()[-1]
    assert len(shown) < 450 and " [...] " in shown


PIECES = tuple(Copies(600, 30, {25: 0.2, 50: share, 100: 0.0}) for share in (0.0, 0.04))


@pytest.mark.parametrize(
    ("share", "pieces", "said"),
    [
        (0.03, PIECES, "3.0 % of this text stands in the training text in runs of 50 characters or more; of text held "
         "out from training, 2.0 % does."),
        (0.5, PIECES, "more than in any of 2 pieces of held-out text"),
        (0.03, PIECES, "no more than held-out text has: up to 4.0 %."),
        (0, PIECES, "Nothing of this text stands in the training text in runs of 50 characters or more: the longest "
         "has 61, and those of 2 pieces of held-out text of 600 characters have 30."),
        (0, PIECES[:1], "the longest has 61, and that of 600 characters of held-out text 30."),
        (0.5, (), "50 % of this text stands in the training text in runs of 50 characters or more."),
    ],
)  # fmt: skip
def test_the_verdict_compares_with_people(share: float, pieces: tuple[Copies, ...], said: str) -> None:
    report = Report((25, 50, 100), (Copies(600, 61, {25: 0.6, 50: share, 100: 0.0}),), pieces)
    assert said in memorisation.verdict(report)


def test_eval_tells_what_of_a_text_the_model_has_seen(gptlite: Command, own_run: Path) -> None:
    Path("seen.txt").write_text("A new line.\n" + training_text()[:3000])
    line = ("eval", "seen.txt", "-m", own_run, "--check-copies")
    found = read_json(gptlite(*line, "--json"))["copies"]
    assert found["longest_characters"] == 3000 and found["shares"]["100"] == round(3000 / 3012, 6)
    (run,) = found["runs"]
    assert (run["start"], run["line"], run["column"], run["n_places"]) == (12, 1, 1, 1)
    said = gptlite(*line)
    assert "bits per byte" in said.out and "of this text stands in the training text" in said.err
    assert "copies" not in read_json(gptlite(*line[:-1], "--json"))


# -- Which text is searched


def test_held_out_text_is_no_training_text(own_run: Path) -> None:
    check = memorisation.CopyCheck(runs.find_model(str(own_run)), None, console.Messages())
    text = training_text()
    assert check.held_out is not None
    held_out = "".join(block for _, block in check.held_out.blocks())
    assert "".join(block for _, block in check.train.blocks()) == text
    assert text + held_out == Path("corpus.txt").read_text() and held_out


def test_a_text_that_has_changed_is_told_before_anything_is_written(checked: Command) -> None:
    with open("corpus.txt", "a") as file:
        file.write("One more line.\n")
    outcome = checked()
    assert (outcome.code, outcome.out) == (3, "")
    assert "corpus.txt is not what it was when the model was trained; name the text with --corpus FILE." in outcome.err


def test_a_text_that_has_moved_is_found_by_what_it_says(checked: Command) -> None:
    before = read_json(checked("--json"))
    Path("corpus.txt").rename("moved.txt")
    outcome = checked("--json")
    assert outcome.code == 3 and "--corpus FILE" in outcome.err
    after = read_json(checked("--json", "--corpus", "moved.txt"))
    assert after["copies"] == before["copies"]


def test_files_that_came_later_into_the_folder_of_the_text_do_not_count(gptlite: Command, own_run: Path) -> None:
    Path("texts").mkdir()
    Path("corpus.txt").rename("texts/corpus.txt")
    info = json.loads(Path("run/run.json").read_text())
    Path("run/run.json").write_text(json.dumps({**info, "arguments": [str(Path("texts").absolute())]}))
    Path("texts/new.txt").write_text(make_text(50, seed=9))
    assert gptlite(*LINE, "-m", own_run, "--check-copies").code == 0


def test_another_text_is_searched_from_end_to_end(checked: Command) -> None:
    Path("other.txt").write_text(make_text(100, seed=4))
    outcome = checked("--corpus", "other.txt", "--json")
    assert "other.txt is not known to be what" in outcome.err
    assert read_json(outcome)["copies"]["held_out"] == []


def test_a_model_made_elsewhere_needs_to_be_told_its_text(gptlite: Command, trained_run: Path) -> None:
    shutil.copytree(runs.find_model(str(trained_run)), "hub")
    line = (*LINE, "-m", "hub", "--check-copies")
    outcome = gptlite(*line)
    assert (outcome.code, outcome.out) == (2, "") and "--corpus FILE" in outcome.err
    assert gptlite(*line, "--corpus", trained_run.parent / "corpus.txt").code == 0


@pytest.mark.parametrize("damage", [{"inputs": None}, {"val": None}, {"text": None}, {"arguments": 3}, {"inputs": [1]}])
def test_a_run_json_that_says_too_little_is_no_bug(gptlite: Command, own_run: Path, damage: dict) -> None:
    info = json.loads(Path("run/run.json").read_text())
    Path("run/run.json").write_text(json.dumps({**info, **damage}))
    outcome = gptlite(*LINE, "-m", own_run, "--check-copies")
    assert (outcome.code, outcome.out) == (4, "") and "run.json" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--corpus", "corpus.txt"), "--corpus does nothing without --check-copies"),
        (("--check-copies", "-q"), "which -q silences"),
        (("--check-copies", "--corpus", "-"), "--corpus names a file or folder"),
    ],
)
def test_options_that_make_no_sense(gptlite: Command, own_run: Path, arguments: tuple[str, ...], message: str) -> None:
    outcome = gptlite(*LINE, "-m", own_run, *arguments)
    assert (outcome.code, outcome.out) == (2, "") and message in outcome.err

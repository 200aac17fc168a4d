"""--background on the command line: what commands say of it afterwards, and texts that cannot be one."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, make_text

from gptlite.cli import main as command_line

TINY = ("--layers", "1", "--dim", "16", "--heads", "2", "--context", "32", "--vocab-size", "320", "--batch-size", "4")
TRAIN = ("train", "own.txt", "-o", "run", "--steps", "2", *TINY)
SEEN = "The keeper of the lighthouse wrote down each ship that passed the rocks before midnight , and slept at noon .\n"


def write_texts(folder: Path) -> None:
    """own.txt, and novels/ with two files, of which one has the sentence SEEN."""
    (folder / "novels").mkdir()
    (folder / "own.txt").write_text(make_text(150, 1), encoding="utf-8")
    (folder / "novels/one.txt").write_text(make_text(200, 2) + SEEN + make_text(200, 3), encoding="utf-8")
    (folder / "novels/two.txt").write_text(make_text(100, 4), encoding="utf-8")


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts and a run on them that `gptlite train --background` made; tests must not change it."""
    folder = tmp_path_factory.mktemp("mixed")
    write_texts(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("GPTLITE_CACHE", str(folder / "cache"))
        assert command_line.run([*TRAIN, "--background", "novels", "-q"]) == 0
    return folder


@pytest.fixture
def run(mixed_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run, in whose folder the test is."""
    monkeypatch.chdir(mixed_run)
    return mixed_run / "run"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """The texts alone, which a test may change, where it is."""
    write_texts(tmp_path)
    return tmp_path


def run_json(run: str = "run") -> dict[str, Any]:
    return json.loads(Path(run, "run.json").read_text())


def as_line(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


# -- What commands say of it


def test_info_names_the_files_and_their_size(gptlite: Command, run: Path) -> None:
    background = run_json()["background"]
    shown = as_line(gptlite("info", "run").out)
    assert f"one.txt, two.txt, {background['bytes']:,} bytes used" in shown
    assert json.loads(gptlite("info", "run", "--json").out)["run"]["background"] == background


def test_the_report_has_its_size_and_digest(gptlite: Command, run: Path, tmp_path: Path) -> None:
    pytest.importorskip("altair")
    outcome = gptlite("report", "run", "-o", tmp_path / "page.html", "-n", "1")
    assert outcome.code == 0, outcome.err
    background = run_json()["background"]
    page = html.unescape((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert f"{background['bytes']:,} bytes, {background['n_tokens']:,} tokens, sha256 {background['sha256']}" in page


def test_copies_are_looked_for_in_it(gptlite: Command, run: Path, tmp_path: Path) -> None:
    (tmp_path / "seen.txt").write_text(SEEN, encoding="utf-8")
    line = ("eval", tmp_path / "seen.txt", "-m", "run", "--check-copies", "--json")
    found = json.loads(gptlite(*line).out)["copies"]
    assert found["longest_characters"] >= len(SEEN.strip())
    assert found["runs"][0]["file"].endswith("one.txt")


@pytest.mark.parametrize("change", ["gone", "changed"])
def test_copies_in_a_background_that_is_not_there_any_more(
    gptlite: Command, mixed_run: Path, tmp_path: Path, change: str
) -> None:
    shutil.copytree(mixed_run / "run", "run", symlinks=True)
    write_texts(tmp_path)
    stored = Path("run/run.json")
    stored.write_text(stored.read_text().replace(str(mixed_run), str(tmp_path)))
    assert gptlite("eval", "own.txt", "-m", "run", "--check-copies").code == 0
    if change == "gone":
        shutil.rmtree("novels")
    else:
        Path("novels/two.txt").write_text(make_text(100, 9))
    outcome = gptlite("eval", "own.txt", "-m", "run", "--check-copies")
    assert outcome.code == 3
    assert "novels" in outcome.err and "--corpus FILE" in outcome.err


def test_no_command_overwrites_it(gptlite: Command, run: Path) -> None:
    before = Path("novels/one.txt").read_bytes()
    for line in (("embed", "Ada [finds] it"), ("generate", "-p", "Ada", "--max-new-tokens", "1")):
        outcome = gptlite(*line, "-m", "run", "-o", "novels/one.txt", "--force")
        assert outcome.code == 2, outcome
    assert Path("novels/one.txt").read_bytes() == before


# -- Where the run is made


def test_a_run_that_is_there_stays(gptlite: Command, run: Path) -> None:
    before = Path("run/run.json").read_bytes()
    outcome = gptlite(*TRAIN, "--background", "novels")
    assert outcome.code == 2
    assert "a run is there already; continue it with --resume" in outcome.err
    assert Path("run/run.json").read_bytes() == before


def test_a_folder_of_background_is_no_place_for_a_run(gptlite: Command, texts: Path) -> None:
    outcome = gptlite("train", "own.txt", "-o", "novels", "--background", "novels", "--steps", "1", *TINY)
    assert outcome.code == 2
    assert "novels: the folder is not empty" in outcome.err
    assert sorted(path.name for path in Path("novels").iterdir()) == ["one.txt", "two.txt"]


def test_runs_inside_the_background_are_no_text(gptlite: Command, texts: Path) -> None:
    """`--background .` finds the text itself and earlier runs, neither of which is background."""
    shutil.move("novels/one.txt", "one.txt")
    shutil.rmtree("novels")
    for name in ("first", "second"):
        assert gptlite("train", "own.txt", "-o", name, "--background", ".", "--steps", "1", *TINY).code == 0
        assert [Path(source["path"]).name for source in run_json(name)["background_inputs"]] == ["one.txt"]


# -- Resuming


def test_a_resumed_run_wants_the_same_background(gptlite: Command, texts: Path) -> None:
    assert gptlite(*TRAIN, "--background", "novels", "-q").code == 0
    more = ("train", "--resume", "-o", "run", "--steps", "4", "-q")
    shutil.move("novels", "library")
    outcome = gptlite(*more)
    assert outcome.code == 3 and "novels" in outcome.err
    Path("other").mkdir()
    shutil.copy("library/one.txt", "other")
    outcome = gptlite(*more, "--background", "other")
    assert outcome.code == 4
    assert "the text for --background is not the one that the run was begun with" in outcome.err
    outcome = gptlite(*more, "--background", "library")
    assert outcome.code == 0, outcome.err
    assert run_json()["result"]["step"] == 4


# -- Texts that cannot be background


def empty_file() -> None:
    Path("other").write_bytes(b"")


def white_space() -> None:
    Path("other").write_text(" \n" * 900)


def empty_folder() -> None:
    Path("other").mkdir()


def pictures() -> None:
    Path("other").mkdir()
    Path("other/picture.txt").write_bytes(bytes(range(256)) * 9)


def few_bytes() -> None:
    Path("other").write_text("Ada finds it .\n")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: None, "cannot read other: No such file or directory"),
        (empty_file, "other is empty"),
        (white_space, "other: contains only white space"),
        (empty_folder, "other is a folder without files"),
        (pictures, "other: no UTF-8 text files there"),
        (few_bytes, "other: 15 bytes of text are too few"),
    ],
    ids=["missing", "empty file", "white space", "empty folder", "pictures", "few bytes"],
)
def test_a_background_without_text_is_refused(
    gptlite: Command, texts: Path, make: Callable[[], None], said: str
) -> None:
    make()
    outcome = gptlite(*TRAIN, "--background", "other")
    assert outcome.code == 3
    assert said in outcome.err and "Traceback" not in outcome.err, outcome.err
    assert not Path("run").exists()


def test_held_out_text_in_the_background_is_removed_and_reported(gptlite: Command, texts: Path) -> None:
    """An exact copy, a copy in capitals, and a near copy; what is not held out stays."""
    sentence = "of ships and rocks that no keeper had ever counted before the storm came over the bay and took his lamp"
    words = sentence.split()
    passages = [" ".join(words[i:] + words[:i]) + f" {i} ." for i in range(0, len(words), 3)]
    Path("held-out.txt").write_text("\n".join(passages) + "\n", encoding="utf-8")
    nearly = passages[4].replace("keeper", "sailor").replace("counted", "painted")
    copies = [passages[0], passages[1].upper(), nearly]
    Path("novels/one.txt").write_text(
        make_text(100, 2) + "\n".join(copies) + "\n" + make_text(100, 3), encoding="utf-8"
    )
    outcome = gptlite(*TRAIN, "--background", "novels", "--val", "held-out.txt")
    assert outcome.code == 0, outcome.err
    assert "from the text for --background that the held-out text has too" in as_line(outcome.err)
    assert "the first is at line 101 of novels/one.txt" in as_line(outcome.err)
    background, sizes = run_json()["background"], [Path(f"novels/{name}.txt").stat().st_size for name in ("one", "two")]
    assert background["removed_bytes"] == pytest.approx(sum(len(copy) + 1 for copy in copies), abs=3)
    assert background["bytes"] == sum(sizes) - background["removed_bytes"]


def test_a_background_that_is_the_held_out_text_is_refused(gptlite: Command, texts: Path) -> None:
    Path("held-out.txt").write_text(Path("novels/one.txt").read_text().upper(), encoding="utf-8")
    outcome = gptlite(*TRAIN, "--background", "novels/one.txt", "--val", "held-out.txt")
    assert outcome.code == 3
    assert "0 bytes are left of the text for --background" in outcome.err
    assert not Path("run").exists()

"""Files that -o names: suffixes, and what is never overwritten."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import Command

from gptlite.cli.shared import outputs
from gptlite.errors import StorageError, UsageError

FORMATS = {".json": 1, ".tsv": 2, ".html": 3}


@pytest.mark.parametrize(("name", "form"), [("a.json", 1), ("a.b.TSV", 2), ("folder/x.html", 3)])
def test_the_suffix_decides(name: str, form: int) -> None:
    assert outputs.format_of(name, FORMATS) == form


@pytest.mark.parametrize("name", ["x.pdf", "x", ".json", "x.json.gz", ""])
def test_another_suffix_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(UsageError, match=r"-o .*: the name must end in \.json, \.tsv or \.html\."):
        outputs.format_of(name, FORMATS)
    with pytest.raises(UsageError, match=r"must end in \.gguf\."):
        outputs.format_of(name, {".gguf": 1})


@pytest.fixture
def run(tmp_path: Path, trained_run: Path) -> Path:
    """A copy of a run whose texts are here: two files to train on, one of them in a folder, and one held out."""
    shutil.copytree(trained_run, tmp_path / "run", symlinks=True)
    for name in ("corpus.txt", "held.txt", "folder/part.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    path = tmp_path / "run" / "run.json"
    info = json.loads(path.read_text())
    info["inputs"] = [{**info["inputs"][0], "path": str(tmp_path / "corpus.txt")}]
    info["arguments"] = [str(tmp_path / "folder")]
    info["val"] = str(tmp_path / "held.txt")
    path.write_text(json.dumps(info))
    return tmp_path / "run"


def refusal(out: str | None, *, force: bool = False, inputs: tuple[str | None, ...] = (), model: Path) -> str:
    try:
        outputs.check(out, force=force, inputs=inputs, model=model)
    except UsageError as error:
        return str(error)
    return ""


def test_a_new_file_and_standard_output_may_be_written(run: Path) -> None:
    assert refusal(None, model=run) == refusal("-", model=run) == refusal("new.txt", model=run) == ""


def test_an_existing_file_is_overwritten_with_force_only(run: Path) -> None:
    Path("old.npz").write_bytes(b"mine")
    assert "overwrite it with --force" in refusal("old.npz", model=run)
    assert refusal("old.npz", force=True, model=run) == ""


@pytest.mark.parametrize("out", ["corpus.txt", "folder/part.txt", "held.txt"])
def test_a_text_of_the_run_is_never_overwritten(run: Path, out: str) -> None:
    assert "was trained on" in refusal(out, force=True, model=run)
    os.symlink(out, "other.txt")
    assert "was trained on" in refusal("other.txt", force=True, model=run)


@pytest.mark.parametrize("out", ["run/run.json", "run/step-000000060/config.json"])
def test_a_file_of_the_model_is_never_overwritten(run: Path, out: str) -> None:
    assert "a file of the model" in refusal(out, force=True, model=run)
    (run / "best").unlink()
    os.symlink(min(path.name for path in run.glob("step-*")), run / "best")
    assert "a file of the model" in refusal(out, force=True, model=run), "a step that is not the one that is read"


def test_what_is_read_is_never_overwritten(run: Path) -> None:
    Path("in.txt").write_text("text")
    assert "this command reads" in refusal("in.txt", force=True, inputs=(None, "-", "in.txt"), model=run)
    os.link("in.txt", "same.txt")
    assert "this command reads" in refusal("same.txt", force=True, inputs=("in.txt",), model=run)


def test_a_model_that_cannot_be_found_is_told_elsewhere() -> None:
    Path("old").write_bytes(b"mine")
    assert "--force" in refusal("old", model=Path("gone"))
    assert refusal("old", force=True, model=Path("gone")) == ""


@pytest.mark.parametrize("out", ["gone/x.txt", "folder", "pipe"])
def test_where_no_file_can_be_it_is_said_before_any_work(out: str) -> None:
    Path("folder").mkdir()
    os.mkfifo("pipe")
    with pytest.raises(StorageError, match="cannot write"):
        outputs.check(out, force=True, reads_model=False)


# -- In every command that writes a file

LINES = {
    "generate": "generate -p a --max-new-tokens 1 -m RUN -o F.txt",
    "embed": "embed 'the [bank]' -m RUN -o F.npz",
    "page": "embed 'the [bank]' -m RUN -o F.html",
    "words": "words export -m RUN -o F.vec",
    "inspect": "inspect a -m RUN -o F.json",
    "score": "score lines.txt -m RUN -o F.csv",
    "report": "report RUN -o F.html -n 0",
    "export": "export RUN -o F.gguf",
}


@pytest.mark.parametrize("name", LINES)
def test_no_command_overwrites_a_file_that_is_there(gptlite: Command, run: Path, name: str) -> None:
    Path("lines.txt").write_text("the bank\n")
    line = [str(run) if word == "RUN" else word for word in shlex.split(LINES[name])]
    target = Path(line[line.index("-o") + 1])
    target.write_text("mine")
    outcome = gptlite(*line)
    assert (outcome.code, outcome.out) == (2, "") and "--force" in outcome.err
    assert target.read_text() == "mine"


@pytest.mark.parametrize("name", LINES)
def test_no_command_overwrites_the_training_text(gptlite: Command, run: Path, name: str) -> None:
    """Whatever its name ends in, and with --force."""
    Path("lines.txt").write_text("the bank\n")
    line = [str(run) if word == "RUN" else word for word in shlex.split(LINES[name])]
    target = Path(line[line.index("-o") + 1])
    target.symlink_to("corpus.txt")
    outcome = gptlite(*line, "--force")
    assert (outcome.code, outcome.out) == (2, "")
    assert "was trained on" in outcome.err
    assert Path("corpus.txt").read_text() == "text"


@pytest.mark.parametrize("name", ["embed", "inspect", "report"])
def test_no_command_overwrites_charts_that_are_there(gptlite: Command, run: Path, name: str) -> None:
    line = {"embed": "embed 'the [bank]' -m RUN", "inspect": "inspect a -m RUN", "report": "report RUN"}[name]
    Path("made").mkdir()
    Path("made/map.svg").write_text("mine")
    outcome = gptlite(*(str(run) if word == "RUN" else word for word in shlex.split(line)), "--figures", "made")
    assert (outcome.code, outcome.out) == (2, "") and "--force" in outcome.err

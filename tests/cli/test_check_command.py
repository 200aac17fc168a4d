"""gptlite check: what is intact is said to be, what is not is named, and resuming is shown to lose nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from support.proofs import shorten_proof

from gptlite.checkpoint.runs import Run
from gptlite.training import resume_proof


@pytest.fixture
def run(trained_run: Path) -> Path:
    shutil.copytree(trained_run, "run", symlinks=True)
    return Path("run")


def last_step(run: Path) -> Path:
    return Run(run).steps()[-1].path


def tree(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_intact_run_is_intact(gptlite: Command, trained_run: Path) -> None:
    before = tree(trained_run)
    outcome = gptlite("check", trained_run)
    assert (outcome.code, outcome.err) == (0, "")
    rows = {line.split()[0]: line for line in outcome.out.splitlines()}
    for step in Run(trained_run).steps():
        assert rows[step.path.name].rstrip().endswith("intact")
        assert f"{step.val_bits_per_byte:.4f}" in rows[step.path.name]
    assert tree(trained_run) == before, "looking changes nothing"


def test_json_has_what_the_table_has(gptlite: Command, trained_run: Path) -> None:
    facts = json.loads(gptlite("check", trained_run, "--json").out)
    assert set(facts) == {"schema", "path", "steps", "problems", "intact"}
    assert (facts["path"], facts["problems"], facts["intact"]) == (str(trained_run), [], True)
    step = facts["steps"][-1]
    folder = trained_run / step["name"]
    files = json.loads((folder / "MANIFEST.json").read_text())["files"]
    assert (step["n_files"], step["problem"]) == (len(files), None)
    assert step["n_bytes"] == sum((folder / name).stat().st_size for name in files)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize("damage", [flip, shorten, lengthen, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "training_state/optimizer.safetensors"])
def test_every_byte_of_a_step_counts(gptlite: Command, run: Path, damage: Callable[[Path], None], name: str) -> None:
    damage(last_step(run) / name)
    outcome = gptlite("check", run)
    assert outcome.code == 4
    assert outcome.err.startswith("gptlite: error: ") and str(last_step(run) / name) in outcome.err
    others = [step.path.name for step in Run(run).steps()[:-1]]
    assert f"Use run/{others[-1]} instead." in outcome.err
    assert outcome.out.count("intact") == len(others)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [halve, Path.unlink])
def test_a_step_without_its_manifest_is_no_step(gptlite: Command, run: Path, damage: Callable[[Path], None]) -> None:
    step = last_step(run)
    damage(step / "MANIFEST.json")
    outcome = gptlite("check", run, "--json")
    assert outcome.code == 4 and "MANIFEST.json" in outcome.err
    facts = json.loads(outcome.out)
    assert facts["intact"] is False and "MANIFEST.json" in facts["steps"][-1]["problem"]


def test_a_file_that_nobody_listed_is_named(gptlite: Command, run: Path) -> None:
    (last_step(run) / "pytorch_model.bin").write_bytes(b"\x80")
    outcome = gptlite("check", run)
    assert outcome.code == 4 and "pytorch_model.bin is not listed in MANIFEST.json" in outcome.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", b"{", "run.json is not JSON"),
        ("run.json", None, "run.json is missing"),
        ("metrics.jsonl", b'{"step": 1}\n{"st', "metrics.jsonl, line 2, is not a whole line"),
        ("metrics.jsonl", b'{"step": 2}\n{"step": 2}\n', "line 2, is of step 2, after step 2"),
        ("metrics.jsonl", b"\x00\xff\n", "line 1, is not a whole line"),
    ],
    ids=str,
)
def test_files_beside_the_steps_are_read_too(
    gptlite: Command, run: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(content)
    outcome = gptlite("check", run)
    assert outcome.code == 4
    assert message in outcome.err and message in outcome.out


def test_a_step_can_be_checked_alone(gptlite: Command, run: Path) -> None:
    first, *_, last = Run(run).steps()
    flip(last.path / "config.json")
    assert gptlite("check", first.path).code == 0
    assert gptlite("check", last.path).code == 4
    os.chdir(first.path)
    assert json.loads(gptlite("check", ".", "--json").out)["steps"][0]["name"] == first.path.name


@pytest.mark.parametrize("argument", ["gone", "empty", "corpus.txt"])
def test_what_is_no_run_is_told(gptlite: Command, corpus_file: Path, argument: str) -> None:
    Path("empty").mkdir()
    outcome = gptlite("check", argument)
    assert (outcome.code, outcome.out) == (4, "")
    assert f"no run at {argument}" in outcome.err


def test_a_run_that_has_no_step_yet_is_told(gptlite: Command) -> None:
    Run(Path("begun")).path.mkdir()
    Run(Path("begun")).write_info({})
    outcome = gptlite("check", "begun")
    assert outcome.code == 4 and "begun holds no completed step yet" in outcome.err


def test_without_a_name_it_is_the_newest_run(
    gptlite: Command, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no run under checkpoints" in gptlite("check").err
    for i, name in enumerate(("new", "old")):
        shutil.copytree(trained_run, f"checkpoints/{name}", symlinks=True)
        os.utime(f"checkpoints/{name}", (2e9 - i, 2e9 - i))
    assert json.loads(gptlite("check", "--json").out)["path"] == "checkpoints/new"
    monkeypatch.setenv("GPTLITE_MODEL", "checkpoints/old")
    assert json.loads(gptlite("check", "--json").out)["path"] == "checkpoints/old"


# -- The proof


def test_resuming_is_proved(gptlite: Command) -> None:
    outcome = gptlite("check", "--resume-proof")
    assert (outcome.code, outcome.err) == (0, "")
    rows = [line.split() for line in outcome.out.splitlines()[1:]]
    assert [row[0] for row in rows] == list(resume_proof.PROVED)
    assert all(row[1] == row[2] and len(row[1]) == 32 and row[3] == "equal" for row in rows)
    assert not Path("checkpoints").exists()


def test_the_proof_can_fail(gptlite: Command, trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it would if the random numbers of dropout were not put back."""
    shorten_proof(monkeypatch)
    monkeypatch.setattr("gptlite.training.state.torch.set_rng_state", lambda _: None)
    outcome = gptlite("check", trained_run, "--resume-proof", "--json")
    assert outcome.code == 1 and "differs from the one that was not interrupted" in outcome.err
    facts: dict[str, Any] = json.loads(outcome.out)
    assert facts["intact"] is True
    proof = facts["resume_proof"]
    assert proof["equal"] is False and proof["straight"] != proof["resumed"]

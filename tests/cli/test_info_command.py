"""gptlite info: shapes and provenance of runs, steps and models made elsewhere."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from conftest import Command, random_model, tiny_config

from gptlite.checkpoint import runs
from gptlite.checkpoint.saved_step import save_step
from gptlite.config import ARCHITECTURES
from gptlite.text.tokenizer import Tokenizer


def test_json_is_one_object(gptlite: Command, trained_run: Path) -> None:
    outcome = gptlite("info", trained_run, "--json")
    assert (outcome.code, outcome.err, outcome.out.count("\n")) == (0, "", 1)
    facts = json.loads(outcome.out)
    assert set(facts) == {
        "schema", "path", "n_parameters", "config", "tokenizer", "tensors", "weights", "source", "manifest", "run",
        "table_history",
    }  # fmt: skip
    step = runs.find_model(str(trained_run))
    assert facts["path"] == str(step)
    assert facts["config"]["dim"] == 32
    assert facts["tokenizer"]["vocab_size"] == 320
    assert facts["tensors"]["transformer.embed.weight"] == [320, 32]
    assert facts["manifest"]["step"] == int(step.name.removeprefix("step-"))
    assert facts["run"] == json.loads((trained_run / "run.json").read_text())
    assert facts["n_parameters"] == facts["run"]["n_parameters"]
    kept = facts["table_history"]
    assert (kept["steps"][0], kept["steps"][-1], kept["n_tokens"]) == (0, 60, 320)
    assert kept["n_bytes"] == (trained_run / "table_history.safetensors").stat().st_size


def test_the_table_says_what_it_is_and_where_it_came_from(gptlite: Command, trained_run: Path) -> None:
    outcome = gptlite("info", trained_run)
    assert (outcome.code, outcome.err) == (0, "")
    stored = json.loads((trained_run / "run.json").read_text())
    digest = hashlib.sha256((trained_run.parent / "corpus.txt").read_bytes()).hexdigest()
    for part in (
        "qwen3",
        f"{stored['n_parameters']:,}",
        "32 tokens",
        "320 tokens",
        "rmsnorm (pre), rope, swiglu",
        "apart from the head",
        "corpus.txt",
        digest[:16],
        f"{stored['result']['val_bits_per_byte']:.4f}",
        stored["created"],
        stored["hardware"],
        "steps, 0 to 60 (",
    ):
        assert part in outcome.out, part


@pytest.mark.parametrize("name", ["best", "latest", "step-000000060"])
def test_steps_have_their_run(gptlite: Command, trained_run: Path, name: str) -> None:
    facts = json.loads(gptlite("info", trained_run / name, "--json").out)
    assert facts["run"]["plan"]["train"]["steps"] == 60
    assert facts["path"] == str((trained_run / name).resolve())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_models_made_elsewhere_have_no_run(gptlite: Command, tokenizer: Tokenizer, architecture: str) -> None:
    save_step(Path("hub"), random_model(tiny_config(architecture, vocab_size=tokenizer.vocab_size)), tokenizer, {})
    Path("hub/MANIFEST.json").unlink()
    facts = json.loads(gptlite("info", "hub", "--json").out)
    assert (facts["run"], facts["manifest"], facts["config"]["architecture"]) == (None, {}, architecture)
    table = gptlite("info", "hub")
    assert table.code == 0
    assert architecture in table.out and "sha256" not in table.out


@pytest.mark.parametrize("name", ["training_state", "embedding"])
def test_a_published_step_needs_no_state(gptlite: Command, trained_run: Path, name: str) -> None:
    """Beside its run.json a step may lack what the run does not need to describe it."""
    shutil.copytree(trained_run, "run", symlinks=True)
    shutil.rmtree(Path("run/step-000000060") / name)
    outcome = gptlite("info", "run/step-000000060")
    assert outcome.code == 0
    assert "corpus.txt" in outcome.out


def test_a_run_that_never_finished_has_no_result(gptlite: Command, trained_run: Path) -> None:
    shutil.copytree(trained_run, "run", symlinks=True)
    stored = json.loads(Path("run/run.json").read_text())
    del stored["result"]
    Path("run/run.json").write_text(json.dumps(stored))
    outcome = gptlite("info", "run")
    assert outcome.code == 0
    assert "at the end" not in outcome.out


def test_markup_in_a_command_is_text(gptlite: Command, trained_run: Path) -> None:
    shutil.copytree(trained_run, "run", symlinks=True)
    stored = json.loads(Path("run/run.json").read_text())
    stored["command"] = ["gptlite", "train", "[red]x[/red]", "\x1b[2J"]
    Path("run/run.json").write_text(json.dumps(stored))
    out = gptlite("info", "run").out
    assert r"gptlite train [red]x[/red] \x1b[2J" in out


@pytest.mark.parametrize("content", ["", "[]", "{", '{"inputs": 3}', '{"inputs": [{}]}'])
def test_a_broken_run_json_is_code_4(gptlite: Command, trained_run: Path, content: str) -> None:
    shutil.copytree(trained_run, "run", symlinks=True)
    Path("run/run.json").write_text(content)
    outcome = gptlite("info", "run")
    assert (outcome.code, outcome.out) == (4, "")
    assert "run.json" in outcome.err

"""Training on pairs: resumed byte for byte, from a model of plain text, and what is said about the pairs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import Command, make_text

from gptlite.checkpoint import runs
from gptlite.text.demo_pairs import as_records

TINY = ("--layers", "2", "--dim", "32", "--heads", "2", "--vocab-size", "320", "-q", "--compile", "off")


def write_records(n: int = 300) -> None:
    lines = make_text(2 * n).splitlines()
    Path("x.jsonl").write_text(as_records(zip(lines[:n], lines[n:], strict=True)))


def test_a_resumed_run_has_the_same_bytes(gptlite: Command) -> None:
    write_records()
    assert gptlite("train", "x.jsonl", *TINY, "-o", "whole", "--steps", "8").code == 0
    assert gptlite("train", "x.jsonl", *TINY, "-o", "parts", "--steps", "8", "--save-every", "4").code == 0
    shutil.rmtree("parts/step-000000008")
    info = json.loads(Path("parts/run.json").read_text())
    Path("parts/run.json").write_text(json.dumps({name: value for name, value in info.items() if name != "result"}))
    outcome = gptlite("train", "x.jsonl", "-o", "parts", "--resume", "-q", "--compile", "off")
    assert outcome.code == 0, outcome.err
    one, other = (Path(run, "step-000000008/model.safetensors").read_bytes() for run in ("whole", "parts"))
    assert one == other
    info = json.loads(Path("parts/run.json").read_text())
    assert (info["split"], info["inputs"][0]["path"]) == ("records", str(Path("x.jsonl").absolute()))
    assert 0 < info["result"]["val_bytes"] <= info["result"]["held_out_bytes"]


def test_a_model_of_plain_text_goes_on_with_pairs(gptlite: Command, trained_run: Path) -> None:
    write_records()
    outcome = gptlite("train", "x.jsonl", "--init-from", trained_run, "--steps", "3", "-o", "run", "--context", "32")
    assert outcome.code == 0, outcome.err
    before, after = runs.load(str(trained_run)), runs.load("run")
    assert after.config.vocab_size == before.config.vocab_size + 4
    assert after.tokenizer.pairs is not None and before.tokenizer.pairs is None
    outcome = gptlite("train", "x.jsonl", "--init-from", trained_run, "--steps", "3", "-o", "r2", "--context", "26")
    assert "are longer than 26 tokens and left out" in outcome.err or outcome.code == 3


def test_what_is_said_and_refused(gptlite: Command, corpus_file: Path) -> None:
    write_records(200)
    Path("y.jsonl").write_text(Path("x.jsonl").read_text().replace('.", "completion"', '?", "completion"'))
    outcome = gptlite("train", "x.jsonl", "--val", "y.jsonl", *TINY[:-3], "--steps", "2", "-o", "a", "--compile", "off")
    assert "200 of 200 held-out answers also stand in the text to train on, 0 of them after" in outcome.err
    assert outcome.code == 0
    assert gptlite("train", corpus_file, "--loss", "all").code == 2
    assert gptlite("train", corpus_file, "--pairs", "a,b").code == 2
    outcome = gptlite("train", corpus_file, "x.jsonl")
    assert (outcome.code, "train on files of one kind" in outcome.err.replace("\n", " ")) == (3, True)


@pytest.mark.parametrize("loss", ["answer", "all"])
def test_a_few_pairs_are_learned(gptlite: Command, loss: str) -> None:
    known = {"Ada": "a bank", "Bela": "a song", "Dora": "no <|end|>"}
    pairs = [(f"{name} finds", answer) for name, answer in known.items()]
    Path("x.jsonl").write_text(as_records(pairs * 60))
    outcome = gptlite("train", "x.jsonl", *TINY, "--steps", "150", "-o", "run", "--loss", loss, "--seed", "2")
    assert outcome.code == 0, outcome.err
    for prompt, answer in pairs:
        outcome = gptlite("generate", prompt, "-m", "run", "-t", "0", "--no-echo", "-q")
        assert outcome.out == f"{answer}\n"

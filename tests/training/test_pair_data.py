"""Training on pairs: resumed byte for byte, from a model of plain text, and what is said about the pairs."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Command, make_text

from gptlite.checkpoint import runs
from gptlite.cli.shared.progress import TrainingDisplay
from gptlite.text.corpus import open_text
from gptlite.text.demo_pairs import as_records
from gptlite.training import held_out, pair_data
from gptlite.training.dataset import Inputs
from gptlite.training.pipeline import train
from gptlite.training.prepare import preview
from gptlite.training.request import Request
from gptlite.training.state import State
from gptlite.training.team import ALONE
from gptlite.training.watcher import Progress, Watcher

TINY = ("--layers", "2", "--dim", "32", "--heads", "2", "--vocab-size", "320", "-q", "--compile", "off")
SELDOM = ("--save-every", "1000", "--eval-every", "1000")


def write_records(n: int = 300) -> None:
    lines = make_text(2 * n).splitlines()
    Path("x.jsonl").write_text(as_records(zip(lines[:n], lines[n:], strict=True)))


def test_a_resumed_run_has_the_same_bytes(gptlite: Command) -> None:
    write_records()
    assert gptlite("train", "x.jsonl", *TINY, "-o", "whole", "--steps", "8", "--batch-size", "8").code == 0
    assert (
        gptlite("train", "x.jsonl", *TINY, "-o", "parts", "--steps", "8", "--batch-size", "8", "--save-every", "4").code
        == 0
    )
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


def test_duplicates_are_counted_however_the_records_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared with sets of everything, which long texts have no memory for."""
    rng = random.Random(0)
    some = [[(f"p{rng.randrange(60)}", f"a{rng.randrange(90)}") for _ in range(n)] for n in (900, 70)]
    for name, pairs in zip(("train", "val"), some, strict=True):
        Path(f"{name}.jsonl").write_text(as_records(pairs))
    texts = Inputs(*(open_text([f"{name}.jsonl"], smallest=1) for name in ("train", "val")))
    train, val = some
    n_answers = sum(answer in {a for _, a in train} for _, answer in val)
    n_pairs = sum(pair in train for pair in val)
    assert 0 < n_pairs < n_answers
    for at_once in (1, 7, 1 << 16):
        monkeypatch.setattr(pair_data, "PAIRS_AT_ONCE", at_once)
        watcher = Notices()
        pair_data.note_duplicates(texts, watcher)
        (said,) = watcher.said
        assert f"{n_answers} of 70 held-out answers" in said and f"{n_pairs} of them after the same prompt" in said
    watcher = Notices()
    Path("other.jsonl").write_text(as_records([("p", "another")] * 5))
    pair_data.note_duplicates(Inputs(texts.train, open_text(["other.jsonl"], smallest=1)), watcher)
    assert watcher.said == []


class Notices(Watcher):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.progress: list[Progress] = []

    def notice(self, text: str) -> None:
        self.said.append(text)

    def stepped(self, progress: Progress) -> None:
        self.progress.append(progress)


def test_epochs_are_counted_in_pairs() -> None:
    """The plan chooses dropout by how often the text is read, and a row of pairs is shorter than the context."""
    write_records(400)
    shape = {"n_layers": 1, "dim": 32, "n_heads": 2, "vocab_size": 300, "batch_size": 20, "context_length": 256}
    told = preview(Request.of(["x.jsonl"], val="5%", steps=100, **shape))["expected"]
    assert told["epochs"] == pytest.approx(100 * 20 / 380, rel=0.05)


def test_exact_match_stands_beside_the_bits() -> None:
    Path("x.jsonl").write_text(as_records([("Ada finds", "a bank"), ("Bela finds", "a song")] * 60))
    watcher = Notices()
    shape = {"n_layers": 1, "dim": 32, "n_heads": 2, "vocab_size": 300, "compile": "off", "seed": 1, "batch_size": 8}
    train("x.jsonl", out="run", steps=100, eval_every=50, watcher=watcher, **shape)
    told = [p.val_exact_match for p in watcher.progress]
    assert told[:50] == [None] * 50 and told[50] is not None and told[99] is not None
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    scores = {line["step"]: line["val_exact_match"] for line in lines if "val_exact_match" in line}
    assert set(scores) == {50, 100} and told[50] == scores[50]
    display = TrainingDisplay(quiet=True)
    display.stepped(replace(watcher.progress[-1], val_bits_per_byte=0.25, val_exact_match=0.97))
    assert "0.250 bits/byte, 97% exact" in display.facts


@pytest.mark.parametrize("budget", [{"seconds": 120.0, "total_steps": 0}, {"seconds": None, "total_steps": 400}])
@pytest.mark.parametrize(("seconds_each", "n"), [(0.001, 32), (0.01, 12), (1.0, 4)])
def test_answers_take_a_small_share_of_the_time(
    monkeypatch: pytest.MonkeyPatch, seconds_each: float, n: int, budget: dict[str, Any]
) -> None:
    """Fewer pairs are answered where answers take long: 10 times within 1 % of two minutes."""
    now = [0.0]

    def answered(model: object, n: int, team: object, setup: object) -> dict[str, float]:
        now[0] += n * seconds_each
        return {}

    monkeypatch.setattr(held_out, "exact_match", answered)
    train = SimpleNamespace(batch_size=10)
    setup: Any = SimpleNamespace(
        clock=SimpleNamespace(elapsed=lambda: now[0], **budget), plan=SimpleNamespace(train=train)
    )
    model: Any = None
    assert held_out.affordable_answers(model, State(scores=10, seconds_per_window=0.01), ALONE, setup) == n


@pytest.mark.parametrize("loss", ["answer", pytest.param("all", marks=pytest.mark.slow)])
def test_a_few_pairs_are_learned(gptlite: Command, loss: str) -> None:
    known = {"Ada": "a bank", "Bela": "a song", "Dora": "no <|end|>"}
    pairs = [(f"{name} finds", answer) for name, answer in known.items()]
    Path("x.jsonl").write_text(as_records(pairs * 60))
    size = ("--steps", "100", "--batch-size", "12") if loss == "answer" else ("--steps", "150")
    outcome = gptlite("train", "x.jsonl", *TINY, *SELDOM, *size, "-o", "run", "--loss", loss, "--seed", "2")
    assert outcome.code == 0, outcome.err
    for prompt, answer in pairs:
        outcome = gptlite("generate", prompt, "-m", "run", "-t", "0", "--no-echo", "-q")
        assert outcome.out == f"{answer}\n"

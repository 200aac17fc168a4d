"""The temperature at the end of training: the saved model has it, and runs with it resume exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_text
from support.power_cuts import Cut, CutAfter, digests

import gptlite
from gptlite.errors import UsageError
from gptlite.training.scaling_law import best_temperature

SMALL: dict[str, Any] = {
    "n_layers": 1, "dim": 16, "n_heads": 1, "context_length": 16, "vocab_size": 300, "batch_size": 4, "threads": 1,
    "steps": 10, "save_every": 4, "eval_every": 5, "compile": "off", "ngram_weight": 0.0,
}  # fmt: skip


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(make_text(300), encoding="utf-8")
    return "text.txt"


def logits_of(step: str) -> torch.Tensor:
    loaded = gptlite.load(step)
    with torch.no_grad():
        return loaded.model(torch.tensor([loaded.tokenizer.encode("the king and the")]))


@pytest.mark.parametrize(
    "more",
    [{}, {"architecture": "gpt2"}, {"architecture": "llama"}, {"members": 2, "batch_size": 8}],
    ids=["qwen3", "gpt2", "llama", "members"],
)
def test_only_the_logits_of_the_last_step_are_divided(text: str, more: dict[str, Any]) -> None:
    scores: list[float] = []
    for calibration in (1.0, 1.25):
        run = f"run{calibration:g}"
        result = gptlite.train(text, out=run, **{**SMALL, **more}, calibration=calibration)
        scores.append(result["val_loss_nats"])
    assert scores[0] != scores[1]
    torch.testing.assert_close(logits_of("run1.25/step-000000010"), logits_of("run1/step-000000010") / 1.25)
    assert torch.equal(logits_of("run1.25/step-000000008"), logits_of("run1/step-000000008"))


def test_the_score_of_the_last_step_is_that_of_the_saved_model(text: str) -> None:
    gptlite.train(text, out="run", **SMALL, calibration=1.5)
    before = gptlite.train(text, out="before", **SMALL)["val_bits_per_byte"]
    result = gptlite.train(resume=True, out="run", threads=1, compile="off")
    saved = json.loads(Path("run/step-000000010/MANIFEST.json").read_text(encoding="utf-8"))["val_bits_per_byte"]
    assert result["best_step"] == 10 and result["val_bits_per_byte"] == pytest.approx(saved)
    assert saved != pytest.approx(before, abs=1e-3)


def test_a_run_that_is_cut_and_resumed_ends_as_one_that_was_not(text: str) -> None:
    gptlite.train(text, out="whole", **SMALL, calibration=1.2)
    with pytest.raises(Cut):
        gptlite.train(text, out="cut", **SMALL, calibration=1.2, watcher=CutAfter(9))
    gptlite.train(resume=True, out="cut", threads=1, compile="off")
    assert digests("cut", 10) == digests("whole", 10)


def test_a_run_that_stops_early_leaves_its_last_step_as_learned(text: str) -> None:
    for calibration in (1.0, 1.25):
        change = {"eval_every": 1, "steps": 200, "lr": 0.5, "patience": 1, "calibration": calibration}
        gptlite.train(text, out=f"run{calibration:g}", **{**SMALL, **change})
    first, second = (sorted(Path(run).glob("step-*"))[-1] for run in ("run1", "run1.25"))
    assert first.name == second.name < "step-000000200"
    assert torch.equal(logits_of(str(first)), logits_of(str(second)))


def test_it_is_for_models_with_a_final_norm_and_within_bounds(text: str) -> None:
    with pytest.raises(UsageError, match="final norm"):
        gptlite.train(text, out="run", **SMALL, architecture="transformer-2017", calibration=1.1)
    gptlite.train(text, out="run", **SMALL, architecture="transformer-2017", calibration=1.0)
    for wrong in (0.0, 2.5, float("nan")):
        with pytest.raises(UsageError, match=r"`calibration` must be from 0\.5 to 2"):
            gptlite.train(text, out="other", **SMALL, calibration=wrong)


def test_the_law_knows_long_texts_with_soft_targets_that_are_read_often() -> None:
    assert best_temperature(10.0, 400_000, True) > 1
    assert best_temperature(1.0, 400_000, True) == 1
    assert best_temperature(10.0, 100_000, True) == best_temperature(10.0, 400_000, False) == 1

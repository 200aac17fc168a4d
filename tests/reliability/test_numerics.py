"""Numbers that are none: refused as settings, met in training before they do harm, never printed as a crash."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TRAIN_TINY, Command
from torch import Tensor

from gptlite.checkpoint import saved_step
from gptlite.checkpoint.runs import Run
from gptlite.config import TrainConfig
from gptlite.device import choose_hardware
from gptlite.errors import Interrupted, NumericsError
from gptlite.evaluation.scoring import Score
from gptlite.training import memory, speed
from gptlite.training import optimizer as optim
from gptlite.training.pipeline import train

TINY: dict[str, Any] = {
    "n_layers": 1, "dim": 32, "n_heads": 2, "context_length": 16, "vocab_size": 280, "batch_size": 4, "threads": 1,
}  # fmt: skip
QUICK = (*TRAIN_TINY, "--steps", "1", "--batch-size", "2", "--threads", "1")


def weights_of(step: Path) -> dict[str, Tensor]:
    return saved_step.load(step).model.state_dict()


# -- In training


@pytest.mark.row("N01", "N02")
@pytest.mark.parametrize("part", ["loss", "gradient"])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf], ids=str)
def test_what_is_not_finite_is_met_before_the_weights_are_touched(
    corpus_file: Path, part: str, wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second part of a batch of step 5; the step before is the last, whole and as it was."""
    calls = iter(range(1, 100))
    models: list[torch.nn.Module] = []
    work = optim.training_step

    def watched(model: Any, *arguments: Any) -> Any:
        models[:] = [model]
        return work(model, *arguments)

    def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
        loss = torch.nn.functional.cross_entropy(logits, targets)
        if next(calls) == 10:
            if part == "loss":
                return loss * wrong
            loss.register_hook(lambda gradient: gradient * wrong)
        return loss

    monkeypatch.setattr(optim, "F", SimpleNamespace(cross_entropy=cross_entropy))
    monkeypatch.setattr(optim, "training_step", watched)
    settings = {"steps": 9, "save_every": 1, "eval_every": 1000, "accumulate": 2, "keep": 1}
    with pytest.raises(NumericsError, match=r"at step 5: loss .*, gradient norm .*smaller `lr` than 0\.02") as caught:
        train(str(corpus_file), out="run", **settings, **TINY)
    assert caught.value.exit_code == 6
    saved = weights_of(Run(Path("run")).step_path(4))
    assert all(torch.equal(saved[name], tensor) for name, tensor in models[0].state_dict().items())


@pytest.mark.row("N04")
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_run_that_stays_worse_than_guessing_ends(corpus_file: Path, optimizer: str) -> None:
    """All its numbers are finite. Saved steps stay, and the best of them is named."""
    settings = {"steps": 200, "lr": 9.0, "eval_every": 10, "save_every": 10, "optimizer": optimizer, **TINY}
    with pytest.raises(NumericsError, match=r"at step 50: .* that of guessing 5\.6.* the best is step \d+") as caught:
        train(str(corpus_file), out="run", **settings)
    assert caught.value.exit_code == 6
    assert Run(Path("run")).steps()[-1].number == 40


@pytest.mark.row("N04")
def test_a_bad_beginning_ends_no_run(corpus_file: Path) -> None:
    """A rate that is too high for 20 steps and then falls."""
    result = train(str(corpus_file), out="run", steps=60, lr=2.0, eval_every=1000, **TINY)
    assert result["val_loss_nats"] < math.log(280)


# -- As settings

FLOATS = ("--lr", "--epochs", "--dropout", "--warmup", "--decay", "--weight-decay", "--clip")
COUNTS = ("--steps", "--batch-size", "--accumulate", "--context", "--layers", "--heads", "--dim", "--vocab-size",
          "--eval-every", "--save-every", "--sample-every", "--patience", "--keep", "--threads")  # fmt: skip
NO_NUMBERS = ("nan", "inf", "-inf", "1e400", "-1", "", "ten", "0x10", "1" * 5000)


FLAGS = (*FLOATS, *COUNTS, "--time", "--seed")
EACH_ONCE = [(flag, NO_NUMBERS[i % len(NO_NUMBERS)]) for i, flag in enumerate(FLAGS)]
ALL_OTHERS = [pair for pair in itertools.product(FLAGS, NO_NUMBERS) if pair not in EACH_ONCE]


@pytest.mark.row("N05", "N06", "N07")
@pytest.mark.parametrize(
    ("flag", "value"),
    [*EACH_ONCE, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ALL_OTHERS)],
    ids=lambda text: text[:14],
)
def test_what_is_no_number_of_its_kind_is_code_2(gptlite: Command, corpus_file: Path, flag: str, value: str) -> None:
    outcome = gptlite("train", corpus_file, f"{flag}={value}")
    assert (outcome.code, outcome.out) == (2, ""), outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.err.count("gptlite: error: ") == 1 and len(outcome.err) < 2048
    assert not Path("checkpoints").exists()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        pytest.param("--lr 0", "lr", marks=pytest.mark.row("N05")),
        pytest.param("--lr 1e10", "lr", marks=pytest.mark.row("N05")),
        pytest.param("--lr 1001 --weight-decay 0", "lr", marks=pytest.mark.row("N05")),
        pytest.param(
            "--lr 10 --weight-decay 0.1", "--weight-decay (0.1) times --lr (10)", marks=pytest.mark.row("N06")
        ),
        pytest.param("--weight-decay 1e30", "--weight-decay", marks=pytest.mark.row("N06")),
        pytest.param("--warmup 1.01", "warmup", marks=pytest.mark.row("N06")),
        pytest.param("--decay 2", "decay", marks=pytest.mark.row("N06")),
        pytest.param("--dropout 1", "dropout", marks=pytest.mark.row("N06")),
        pytest.param("--clip 0", "clip", marks=pytest.mark.row("N06")),
        pytest.param("--clip 1e31", "clip", marks=pytest.mark.row("N06")),
        pytest.param("--steps 0", "above zero", marks=pytest.mark.row("N07")),
        pytest.param("--batch-size 0", "--batch-size", marks=pytest.mark.row("N07")),
        pytest.param("--accumulate 0", "accumulate", marks=pytest.mark.row("N07")),
        pytest.param("--accumulate 32 --batch-size 16", "accumulate (32)", marks=pytest.mark.row("N07")),
        pytest.param("--context 0", "--context", marks=pytest.mark.row("N07")),
        pytest.param("--threads 0", "--threads", marks=pytest.mark.row("N07")),
        pytest.param("--threads 1000000", "--threads", marks=pytest.mark.row("N07")),
        pytest.param("--dim 100 --heads 3", "such as 99 or 102", marks=pytest.mark.row("N08")),
        pytest.param("--dim 2 --heads 3", "such as 3", marks=pytest.mark.row("N08")),
        pytest.param("--seed 18446744073709551616", "seed", marks=pytest.mark.row("N09")),
        pytest.param("--seed 1180591620717411303424", "seed", marks=pytest.mark.row("N09")),
        pytest.param("--seed -1", "seed", marks=pytest.mark.row("N09")),
        pytest.param("--seed abc", "--seed", marks=pytest.mark.row("N09")),
    ],
)
def test_numbers_out_of_range_are_code_2_and_named(gptlite: Command, corpus_file: Path, line: str, named: str) -> None:
    outcome = gptlite("train", corpus_file, *line.split())
    assert (outcome.code, outcome.out) == (2, "")
    assert named in outcome.err
    assert not Path("checkpoints").exists()


@pytest.mark.row("N07")
@pytest.mark.parametrize("budget", [("--steps", "2"), ("--time", "9s"), ("--time", "9s", "--dry-run")], ids=" ".join)
@pytest.mark.parametrize("size", ["--batch-size 1G", "--layers 1G", "--dim 1M --heads 1000", "--context 1G"])
def test_what_no_memory_holds_is_code_8_before_it_is_tried(
    gptlite: Command, corpus_file: Path, size: str, budget: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def tried(*_: object) -> None:
        raise AssertionError("no tensor of such a size may be asked for")

    monkeypatch.setattr("gptlite.training.estimate.available_memory", lambda _: 8 << 30)
    monkeypatch.setattr(speed, "GPT", tried)
    monkeypatch.setattr("gptlite.training.pipeline.GPT", tried)
    outcome = gptlite("train", corpus_file, *budget, *size.split())
    assert (outcome.code, outcome.out) == (8, "")
    assert "GB are free" in outcome.err


@pytest.mark.row("N05", "N07")
@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 1e-30},
        {"context_length": 1},
        {"steps": 10**18},
        {"steps": None, "epochs": 1e300},
        {"seed": 2**63 - 1},
        {"keep": 10**18, "eval_every": 10**18, "save_every": 10**18, "patience": 10**18},
        {"clip": 1e-30},
        {"weight_decay": 0.0},
    ],
    ids=str,
)
def test_extreme_numbers_that_mean_something_train(corpus_file: Path, settings: dict[str, Any]) -> None:
    asked = iter([None, 2])
    settings = {"steps": 3, "eval_every": 1000, **TINY, **settings}
    with pytest.raises(Interrupted):
        train(str(corpus_file), out="run", should_stop=lambda: next(asked), **settings)
    step = Run(Path("run")).steps()[-1]
    assert step.number == 2
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(step.path).values())


# -- As results


@pytest.mark.row("N10")
@pytest.mark.parametrize("loss", [700.0, 709.9, 1e4, 1e300])
def test_a_huge_loss_has_an_infinite_perplexity(
    gptlite: Command, trained_run: Path, corpus_file: Path, loss: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptlite.evaluation.scoring.score_model", lambda *_, **__: Score(loss * 10, 10, 20))
    line = ("eval", corpus_file, "-m", trained_run)
    table = gptlite(*line)
    assert table.code == 0 and "inf" in table.out
    facts = json.loads(gptlite(*line, "--json").out)
    assert facts["perplexity"] is None and facts["loss_nats"] == loss


def test_no_memory_is_guessed_for_parts_that_do_not_exist() -> None:
    assert memory.more_parts(TrainConfig(batch_size=7)) == 7
    assert memory.more_parts(TrainConfig(batch_size=12, accumulate=4)) == 6
    assert memory.more_parts(TrainConfig(batch_size=5, accumulate=5)) is None
    assert memory.more_parts(TrainConfig(batch_size=2_147_483_647)) is None
    assert choose_hardware("cpu", threads=1).choices() == {
        "device": "cpu", "dtype": "fp32", "threads": 1, "compile": "off"
    }  # fmt: skip

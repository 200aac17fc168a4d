"""Training: it learns, it can be stopped anywhere and resumed to the bit, and watching it changes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import json
import math
import os
import random
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import make_text
from torch import Tensor

import gptlite
from gptlite.checkpoint import runs, saved_step
from gptlite.checkpoint.runs import Run
from gptlite.cli.main import find_command
from gptlite.cli.shared import flags
from gptlite.config import ARCHITECTURES, ModelConfig, TrainConfig
from gptlite.errors import (
    CheckpointError,
    CorpusError,
    Interrupted,
    NumericsError,
    RunInUseError,
    StorageError,
    UsageError,
)
from gptlite.evaluation import scoring
from gptlite.evaluation.scoring import Score
from gptlite.storage import durable
from gptlite.training import clock, held_out, loop, monitor, optimizer, pauses, speed
from gptlite.training import plan as planning
from gptlite.training.pipeline import train
from gptlite.training.reason import Reason
from gptlite.training.state import State
from gptlite.training.watcher import Progress, Watcher

SHAPE: dict[str, Any] = {"n_layers": 2, "dim": 32, "n_heads": 2, "context_length": 32}
TINY: dict[str, Any] = {**SHAPE, "vocab_size": 320, "batch_size": 4, "threads": 1}
SELDOM = {"eval_every": 1000, "save_every": 1000}  # one score and one save, at the end, where more would only take time
STEPS = 24


class Log(Watcher):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.phases: list[tuple[str, float]] = []
        self.progress: list[Progress] = []
        self.evaluations: list[tuple[int, float]] = []
        self.samples: list[tuple[int, str]] = []
        self.saves: list[int] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def phase(self, name: str, fraction: float) -> None:
        self.phases.append((name, fraction))

    def stepped(self, progress: Progress) -> None:
        self.progress.append(progress)

    def evaluated(self, step: int, result: Score) -> None:
        self.evaluations.append((step, result.bits_per_byte))

    def sampled(self, step: int, text: str) -> None:
        self.samples.append((step, text))

    def saved(self, step: int, path: Path) -> None:
        assert path.is_dir()
        self.saves.append(step)


class Crash(Watcher):
    """Pulls the plug after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, progress: Progress) -> None:
        if progress.step == self.step:
            raise SystemExit(f"power cut at step {self.step}")


def stop_after(n: int, signal: int = 2) -> Callable[[], int | None]:
    """A wish to stop after the n-th step that is taken."""
    left = [n]

    def should_stop() -> int | None:
        left[0] -= 1
        return signal if left[0] <= 0 else None

    return should_stop


def weights(run: Path, step: int = STEPS) -> dict[str, bytes]:
    """The files of a step that must not depend on anything but text, settings and seed."""
    directory = Run(run).step_path(step)
    return {
        name: (directory / name).read_bytes() for name in ("model.safetensors", "training_state/optimizer.safetensors")
    }


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def info(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def run_in(folder: Path, **settings: Any) -> Path:
    """A run on a text beside it, with a cache of its own."""
    (folder / "corpus.txt").write_text(make_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTLITE_CACHE", str(folder / "cache"))
        train(str(folder / "corpus.txt"), out=folder / "run", **TINY, **settings)
    return folder / "run"


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with dropout that nobody interrupted."""
    return run_in(tmp_path_factory.mktemp("straight"), steps=STEPS, dropout=0.2)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, for tests about what becomes of a run; the text is beside it."""
    return run_in(tmp_path_factory.mktemp("short"), steps=2, **SELDOM)


def copy(run: Path) -> None:
    """As `run` in the folder of this test, with its text as corpus.txt, where it is looked for."""
    shutil.copytree(run, "run", symlinks=True)
    stored = info(Path("run"))
    shutil.copy(run.parent / "corpus.txt", "corpus.txt")
    moved = str(Path("corpus.txt").absolute())
    stored["inputs"][0]["path"], stored["arguments"] = moved, [moved]
    Path("run/run.json").write_text(json.dumps(stored))


# -- It learns


def test_a_run_learns(trained_run: Path) -> None:
    result = info(trained_run)["result"]
    # An untrained model of V tokens loses about ln V nats a token, which is this many bits a byte:
    untrained = math.log(result["vocab_size"]) / result["val_loss_nats"] * result["val_bits_per_byte"]
    assert 1.5 < untrained < 8
    assert result["val_bits_per_byte"] < 0.3 * untrained


def test_the_score_is_the_one_that_evaluation_finds(trained_run: Path) -> None:
    """The bits in run.json, found again from the text by what `gptlite eval` uses."""
    stored = info(trained_run)
    content = (trained_run.parent / "corpus.txt").read_bytes()
    held_out = content[-stored["text"]["val"]["bytes"] :]
    loaded = gptlite.load(trained_run / f"step-{stored['result']['best_step']:09d}")
    import numpy as np

    from gptlite.device import choose_hardware

    ids = np.array([loaded.tokenizer.separator_id, *loaded.tokenizer.encode(held_out.decode())])
    result = scoring.score_model(loaded.model, loaded.tokenizer, ids, choose_hardware("cpu", "fp32"))
    assert result.bytes == stored["result"]["val_bytes"] == len(held_out)
    assert result.bits_per_byte == pytest.approx(stored["result"]["val_bits_per_byte"], abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_trains(corpus_file: Path, architecture: str) -> None:
    log = Log()
    result = train(str(corpus_file), out="run", steps=12, architecture=architecture, watcher=log, **TINY, **SELDOM)
    assert log.progress[-1].train_loss < log.progress[0].train_loss
    assert result["val_bits_per_byte"] < log.evaluations[0][1]
    loaded = gptlite.load(Path("run/best"))
    assert loaded.config.architecture == architecture
    assert loaded.config.n_params == result["n_parameters"] == sum(p.numel() for p in loaded.model.parameters())


def test_nothing_held_out_reaches_tokenizer_or_weights(tmp_path: Path) -> None:
    head = make_text(300)
    rng = random.Random(7)
    tails = [
        make_text(60, seed=3).encode()[:1500],
        "".join(rng.choice("zqxjvkw ") for _ in range(1500)).encode(),
    ]
    runs_made = []
    for i, tail in enumerate(tails):
        path = tmp_path / f"{i}.txt"
        path.write_bytes(head.encode() + tail)
        # The share ends inside the last line of the head, so the cut is where the head ends.
        share = 100 * (len(tail) + 5) / path.stat().st_size
        train(str(path), out=tmp_path / f"run{i}", steps=5, val=f"{share}%", **TINY, **SELDOM)
        runs_made.append(tmp_path / f"run{i}")
    first, second = map(info, runs_made)
    assert first["text"]["train"]["bytes"] == second["text"]["train"]["bytes"] == len(head.encode())
    assert first["text"]["val"]["bytes"] == len(tails[0])
    assert first["tokenizer"] == second["tokenizer"]
    assert weights(runs_made[0], 5) == weights(runs_made[1], 5)


def test_another_seed_is_another_model(corpus_file: Path, straight: Path) -> None:
    train(str(corpus_file), out="run", steps=STEPS, dropout=0.2, seed=2, **TINY, **SELDOM)
    assert weights(Path("run")) != weights(straight)


def test_the_seed_decides_the_first_weights_too(corpus_file: Path) -> None:
    logs = [Log(), Log(), Log()]
    for i, (log, seed) in enumerate(zip(logs, (2, 2, 3), strict=True)):
        train(str(corpus_file), out=f"run{i}", steps=1, seed=seed, watcher=log, **TINY, **SELDOM)
    (_, first), (_, again), (_, other) = (log.evaluations[0] for log in logs)
    assert first == again != other


# -- Stopped and resumed


@pytest.mark.parametrize("stops", [(1,), (23,), (5, 2, 7)], ids=str)
def test_a_resumed_run_ends_with_the_same_bits(corpus_file: Path, straight: Path, stops: tuple[int, ...]) -> None:
    for i, stop in enumerate(stops):
        settings: dict[str, Any] = (
            {"resume": True, "threads": 1} if i else {"steps": STEPS, "dropout": 0.2, **TINY, **SELDOM}
        )
        with pytest.raises(Interrupted):
            train(str(corpus_file), out="run", should_stop=stop_after(stop), **settings)
    result = train(str(corpus_file), out="run", resume=True, threads=1)
    assert result["step"] == STEPS
    assert weights(Path("run")) == weights(straight)


def test_a_resumed_run_under_adamw_ends_with_the_same_bits(corpus_file: Path) -> None:
    settings = {"steps": 8, "dropout": 0.2, "optimizer": "adamw", **TINY, **SELDOM}
    train(str(corpus_file), out="straight", **settings)
    with pytest.raises(Interrupted):
        train(str(corpus_file), out="run", should_stop=stop_after(3), **settings)
    train(str(corpus_file), out="run", resume=True, threads=1)
    assert weights(Path("run"), 8) == weights(Path("straight"), 8)


@pytest.mark.row("R01")
def test_a_crash_between_two_saves_loses_only_time(corpus_file: Path, straight: Path) -> None:
    with pytest.raises(SystemExit):
        train(str(corpus_file), out="run", steps=STEPS, dropout=0.2, save_every=8, watcher=Crash(13), **TINY)
    assert [step.number for step in Run(Path("run")).steps()] == [8]
    train(out="run", inputs=[], resume=True, threads=1)
    assert weights(Path("run")) == weights(straight)


@pytest.mark.row("R07")
@pytest.mark.parametrize(
    "cadence",
    [
        {"eval_every": 1, "save_every": 1000},
        {"eval_every": 1000, "save_every": 3},
        {"sample_every": 8, "eval_every": 1000, "save_every": 1000},
        {"sample_every": 5, "sample_prompt": "Ada finds", "eval_every": 3, "save_every": 7, "keep": 1},
    ],
    ids=str,
)
def test_watching_does_not_change_the_weights(corpus_file: Path, straight: Path, cadence: dict[str, Any]) -> None:
    train(str(corpus_file), out="run", steps=STEPS, dropout=0.2, watcher=Log(), **TINY, **cadence)
    assert weights(Path("run")) == weights(straight)


@pytest.mark.parametrize(("signal", "code"), [(2, 130), (15, 143)])
def test_an_interrupted_step_is_saved_and_says_how_to_go_on(corpus_file: Path, signal: int, code: int) -> None:
    with pytest.raises(Interrupted, match=r"gptlite.train\(resume=True, out='run'\)") as caught:
        train(str(corpus_file), out="run", steps=STEPS, should_stop=stop_after(3, signal), **TINY, **SELDOM)
    assert caught.value.exit_code == code
    latest = Run(Path("run")).latest()
    assert latest is not None and latest.number == 3
    assert "result" not in info(Path("run"))


def test_the_command_to_go_on_can_be_pasted_into_a_shell(corpus_file: Path) -> None:
    with pytest.raises(Interrupted) as caught:
        train(str(corpus_file), out="my run", steps=STEPS, should_stop=stop_after(1), **TINY, **SELDOM)
    flags.use(find_command, ["train"])
    command = flags.translate(str(caught.value)).partition("continue with: ")[2]
    assert shlex.split(command) == ["gptlite", "train", "--resume", "-o", "my run"]


def test_a_wish_after_the_last_step_leaves_only_the_score_to_do(corpus_file: Path) -> None:
    straight = train(str(corpus_file), out="straight", steps=3, **TINY, **SELDOM)
    with pytest.raises(Interrupted, match="before the final score; step 3, the last, is saved; continue with"):
        train(str(corpus_file), out="run", steps=3, should_stop=stop_after(3), **TINY, **SELDOM)
    log = Log()
    result = train(inputs=[], out="run", resume=True, watcher=log)
    assert log.progress == []
    assert (result["step"], result["val_loss_nats"]) == (3, straight["val_loss_nats"])


def test_a_finished_run_can_be_resumed_with_nothing_left(corpus_file: Path) -> None:
    first = train(str(corpus_file), out="run", steps=3, **TINY, **SELDOM)
    again = train(str(corpus_file), out="run", resume=True, threads=1)
    assert {k: first[k] for k in ("step", "best_step", "val_loss_nats", "n_tokens_seen")} == {
        k: again[k] for k in ("step", "best_step", "val_loss_nats", "n_tokens_seen")
    }


@pytest.mark.row("R05")
@pytest.mark.parametrize("budget", [{"steps": 9}, {"epochs": 0.3}, {"time": 2.0}], ids=str)
def test_a_longer_budget_is_accepted(
    corpus_file: Path, budget: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "time" in budget:
        FakeTime(monkeypatch)
    train(str(corpus_file), out="run", steps=3, started=0.0, **TINY, **SELDOM)
    result = train(out="run", inputs=[], resume=True, threads=1, started=0.0, **budget)
    assert result["step"] > 3
    assert info(Path("run"))["resumed_at"] == [3]
    assert info(Path("run"))["result"] == result


def test_the_same_command_with_resume_goes_on(corpus_file: Path) -> None:
    """Settings may be repeated: only a change is refused."""
    settings = {"steps": 6, "lr": 0.01, "dropout": 0.1, "seed": 3, "keep": 1, **TINY, **SELDOM}
    with pytest.raises(Interrupted):
        train(str(corpus_file), out="run", should_stop=stop_after(2), **settings)
    assert train(str(corpus_file), out="run", resume=True, **settings)["step"] == 6


def test_the_same_vocabulary_wish_with_resume_goes_on(tmp_path: Path) -> None:
    """The text has too few pairs for what was asked for; asking again is still no change."""
    (tmp_path / "poor.txt").write_text("ab cd\n" * 2000)
    settings = {**TINY, **SELDOM, "vocab_size": 5000, "steps": 4}
    with pytest.raises(Interrupted):
        train("poor.txt", out="run", should_stop=stop_after(2), **settings)
    assert train("poor.txt", out="run", resume=True, vocab_size=5000, threads=1)["step"] == 4


def test_cadence_and_keep_may_change(corpus_file: Path) -> None:
    with pytest.raises(Interrupted):
        train(str(corpus_file), out="run", steps=9, should_stop=stop_after(2), **TINY)
    log = Log()
    train(inputs=[], out="run", resume=True, threads=1, eval_every=2, save_every=2, keep=3, watcher=log)
    assert log.saves == [4, 6, 8, 9]
    assert [s.number for s in Run(Path("run")).steps()][-3:] == [6, 8, 9]


@pytest.mark.row("R10")
@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.5},
        {"seed": 9},
        {"batch_size": 5},
        {"dropout": 0.5},
        {"optimizer": "adamw"},
        {"n_layers": 3},
        {"context_length": 16},
        {"vocab_size": 400},
        {"architecture": "llama"},
        {"val": "7%"},
        {"size": "small"},
    ],
    ids=str,
)
def test_a_changed_setting_is_refused(trained_run: Path, change: dict[str, Any]) -> None:
    before = info(trained_run), os.listdir(trained_run)
    with pytest.raises(UsageError, match=next(iter(change))):
        train(inputs=[], out=trained_run, resume=True, steps=70, threads=1, **change)
    assert (info(trained_run), os.listdir(trained_run)) == before


def append(path: Path) -> None:
    path.write_text(path.read_text() + "One more line .\n")


def swap(path: Path) -> None:
    content = path.read_text()
    path.write_text(content[1:] + content[0])


@pytest.mark.row("R08")
@pytest.mark.parametrize("change", [append, swap])
def test_a_changed_text_is_refused(short: Path, change: Callable[[Path], None]) -> None:
    copy(short)
    change(Path("corpus.txt"))
    fingerprints = r"then [\d,]+ bytes with sha256 \w{16}, now [\d,]+ with \w{16}"
    with pytest.raises(CheckpointError, match=rf"not the one.* {fingerprints}.*`init_from='run'`"):
        train(inputs=[], out="run", resume=True, steps=4, threads=1)


@pytest.mark.row("R09")
def test_a_moved_text_is_still_the_same_text(short: Path) -> None:
    copy(short)
    Path("corpus.txt").rename("elsewhere.txt")
    assert train("elsewhere.txt", out="run", resume=True, steps=3, threads=1)["step"] == 3


def test_a_run_is_found_again_by_its_text(corpus_file: Path) -> None:
    for _ in range(2):
        result = train(str(corpus_file), steps=2, **TINY, **SELDOM)
    assert result["run"] == "checkpoints/corpus-2"
    os.utime("checkpoints/corpus", (1e9, 1e9))
    assert train(str(corpus_file), resume=True, steps=3, threads=1)["run"] == "checkpoints/corpus-2"


@pytest.mark.row("P11")
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"inputs": [], "out": "gone"}, CheckpointError, "no run at gone"),
        ({"inputs": ["corpus.txt"]}, CheckpointError, "no run 'corpus'"),
        ({"inputs": []}, UsageError, "`resume` needs to know which run"),
        ({"inputs": [], "out": "begun"}, CheckpointError, "nothing to resume"),
    ],
    ids=str,
)
def test_there_must_be_something_to_resume(
    corpus_file: Path, short: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    shutil.copytree(short, "begun")
    shutil.rmtree("begun/step-000000002")
    with pytest.raises(error, match=message):
        train(resume=True, **arguments)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"plan": {}},
        {"val": "", "plan": {"model": {}}},
        {"val": "", "plan": {"model": {}, "train": {"lr": -1}}},
        {"val": "", "plan": {"model": {}, "train": {"tempo": 1}}},
    ],
)
def test_a_run_json_without_the_plan_is_told(short: Path, content: dict[str, Any]) -> None:
    copy(short)
    stored = info(Path("run"))
    if "val" in content:  # all is there but a plan that makes sense
        content = {**stored, "plan": content["plan"]}
    Path("run/run.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"run\.json"):
        train(resume=True, inputs=[], out="run", steps=3)


# -- The budget


class FakeTime:
    """A clock that moves when work is done, `slowdown` times as far after `later` seconds.

    A step takes 0.1 s, the score of a window 1 ms, a save 50 ms.
    """

    def __init__(self, patch: pytest.MonkeyPatch, later: float = math.inf, slowdown: float = 1.0) -> None:
        self.now, self.later, self.slowdown = 0.0, later, slowdown
        patch.setattr(pauses, "now", lambda: self.now)
        self.count(patch, loop, "train_step", lambda *_: 0.1)
        self.count(patch, speed, "training_step", lambda *_: 0.1)
        self.count(patch, held_out, "score_model", lambda *arguments: 0.001 * len(arguments[-1]))
        self.count(patch, saved_step, "save_step", lambda *_: 0.05)

    def count(self, patch: pytest.MonkeyPatch, module: Any, name: str, seconds: Callable[..., float]) -> None:
        work = getattr(module, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            self.now += seconds(*arguments) * (self.slowdown if self.now > self.later else 1.0)
            return work(*arguments, **named)

        patch.setattr(module, name, timed)


@pytest.mark.parametrize("slowdown", [1.0, 4.0])
def test_a_time_budget_is_kept_whatever_the_machine_does(
    corpus_file: Path, monkeypatch: pytest.MonkeyPatch, slowdown: float
) -> None:
    FakeTime(monkeypatch, 3.0, slowdown)
    log = Log()
    result = train(str(corpus_file), out="run", time=6.0, started=0.0, watcher=log, **TINY)
    fractions = [p.fraction for p in log.progress]
    peak = info(Path("run"))["plan"]["train"]["lr"]
    assert 5.0 < result["seconds"] <= 6.0, "the last score and save are within the budget"
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert max(p.lr for p in log.progress) == pytest.approx(peak)
    assert log.progress[-1].lr < 0.3 * peak, "the schedule lands near zero"
    assert log.progress[-1].remaining < 2.0


def test_a_resumed_run_has_the_rest_of_its_time(corpus_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime(monkeypatch)
    with pytest.raises(Interrupted):
        train(str(corpus_file), out="run", time=6.0, started=0.0, should_stop=stop_after(20), **TINY)
    clock.now = 0.0
    log = Log()
    result = train(inputs=[], out="run", resume=True, started=0.0, watcher=log, threads=1)
    assert log.progress[0].step == 21
    assert log.progress[0].elapsed > 0.4, "the twenty steps before count"
    assert 5.0 < result["seconds"] <= 6.5


def test_a_run_with_time_left_ends_after_its_most_epochs(corpus_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the plan wants it of several models. The learning rate falls to zero there; more is learned if it is asked."""
    FakeTime(monkeypatch)
    with pytest.raises(Interrupted):
        train(str(corpus_file), out="run", time=60.0, started=0.0, should_stop=stop_after(2), **TINY)
    stored = info(Path("run"))
    stored["plan"]["train"]["most_epochs"] = 0.5
    stored["plan"]["reasons"].append(reason := Reason("most_epochs", {"epochs": 0.5}).sentence())
    Path("run/run.json").write_text(json.dumps(stored))
    log = Log()
    result = train(inputs=[], out="run", resume=True, started=0.0, time=50.0, watcher=log, threads=1)
    assert result["epochs"] == pytest.approx(0.5, abs=0.02)
    assert result["seconds"] < 30
    last = log.progress[-1]
    assert (last.fraction, last.step) == (1.0, result["step"])
    assert last.lr < 0.3 * stored["plan"]["train"]["lr"] and last.remaining < 2.0
    assert train(inputs=[], out="run", resume=True, started=0.0, threads=1) == result
    more = train(inputs=[], out="run", resume=True, started=0.0, time=45.0, threads=1)
    assert more["step"] > result["step"] and more["seconds"] > 40
    plan = info(Path("run"))["plan"]
    assert plan["train"]["most_epochs"] is None and reason not in plan["reasons"]


@pytest.mark.slow
def test_six_real_seconds_end_within_nine(corpus_file: Path) -> None:
    began = time.monotonic()
    result = train(str(corpus_file), out="run", time=6.0, **TINY)
    assert time.monotonic() - began < 9.0
    assert 4.0 < result["seconds"] < 9.0


@pytest.mark.parametrize(
    "budget",
    [{"time": 1.0, "steps": 1}, {"steps": 0}, {"time": -1.0}, {"time": math.nan}, {"epochs": math.inf}],
    ids=str,
)
def test_an_impossible_budget_leaves_no_run(corpus_file: Path, budget: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        train(str(corpus_file), out="run", **TINY, **budget)
    assert not (Path("run") / "run.json").exists()


@pytest.mark.parametrize("epochs", [0.5, 1.0])
def test_epochs_count_how_often_the_text_is_read(corpus_file: Path, epochs: float) -> None:
    result = train(str(corpus_file), out="run", epochs=epochs, **{**TINY, **SELDOM, "batch_size": 32})
    n_tokens = info(Path("run"))["n_train_tokens"]
    assert result["n_tokens_seen"] == pytest.approx(epochs * n_tokens, abs=32 * TINY["context_length"])


def test_progress_is_told_step_by_step(corpus_file: Path) -> None:
    log = Log()
    train(str(corpus_file), out="run", steps=10, sample_every=5, sample_prompt="Ada", watcher=log, **TINY, **SELDOM)
    assert [p.step for p in log.progress] == list(range(1, 11))
    assert [p.fraction for p in log.progress] == [n / 10 for n in range(1, 11)]
    assert [p.tokens for p in log.progress] == [128 * n for n in range(1, 11)]
    assert log.progress[-1].remaining <= log.progress[0].remaining
    assert {name for name, _ in log.phases} >= {"reading", "learning the vocabulary", "tokenizing"}
    assert [step for step, _ in log.samples] == [5, 10]
    assert all(text.startswith("Ada") for _, text in log.samples)
    assert log.saves[-1] == 10


def test_progress_shows_the_newest_score(corpus_file: Path) -> None:
    log = Log()
    train(str(corpus_file), out="run", steps=6, eval_every=2, save_every=1000, watcher=log, **TINY)
    scores = dict(log.evaluations[2:5])  # two looks at the untrained model come first, and the score of the end last
    assert list(scores) == [2, 4, 6]
    assert [p.val_bits_per_byte for p in log.progress] == [None, None, scores[2], scores[2], scores[4], scores[4]]


def test_the_loss_is_the_mean_since_the_line_before(corpus_file: Path) -> None:
    train(str(corpus_file), out="each", steps=12, eval_every=1, save_every=1000, **TINY)
    train(str(corpus_file), out="ten", steps=12, **TINY, **SELDOM)
    losses = [line["train_loss"] for line in metrics(Path("each"))]
    found = {line["step"]: line["train_loss"] for line in metrics(Path("ten"))}
    assert len(losses) == 12
    assert found == {10: pytest.approx(sum(losses[:10]) / 10), 12: pytest.approx(sum(losses[10:]) / 2)}


# -- Divergence


def assert_every_step_loads(run: Path) -> list[int]:
    steps = Run(run).steps()
    for step in steps:
        state = saved_step.load(step.path).model.state_dict()
        assert all(torch.isfinite(tensor).all() for tensor in state.values())
    return [step.number for step in steps]


@pytest.mark.row("N01")
def test_a_loss_that_is_no_number_ends_the_run(corpus_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [0]

    def broken(logits: Tensor, targets: Tensor) -> Tensor:
        calls[0] += 1
        loss = torch.nn.functional.cross_entropy(logits, targets)
        return loss * (math.nan if calls[0] == 8 else 1.0)

    monkeypatch.setattr(optimizer, "F", SimpleNamespace(cross_entropy=broken))
    with pytest.raises(NumericsError, match=r"step 8\b.*smaller `lr`"):
        train(str(corpus_file), out="run", steps=STEPS, save_every=3, eval_every=1000, keep=9, **TINY)
    assert assert_every_step_loads(Path("run")) == [3, 6]


@pytest.mark.row("N01", "N04")
@pytest.mark.parametrize(
    ("steps", "lr", "architecture"),
    [(60, 1e30, "qwen3"), (10, 1e30, "qwen3"), (10, 1e38, "qwen3"), (10, 1e30, "gpt2")],
)
def test_a_rate_that_is_far_too_high_is_a_numerics_error(
    corpus_file: Path, steps: int, lr: float, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the broken weights are first met by an evaluation: with 10 steps, one follows every step."""
    monkeypatch.setattr("gptlite.config.LARGEST_RATE", math.inf)
    with pytest.raises(NumericsError, match="smaller `lr`"):
        train(str(corpus_file), out="run", steps=steps, lr=lr, weight_decay=0.0, architecture=architecture, **TINY)
    for line in metrics(Path("run")) if Path("run/metrics.jsonl").exists() else []:
        assert all(math.isfinite(value) for value in line.values())


@pytest.mark.row("P11")
def test_a_run_that_is_begun_anew_logs_nothing_of_the_try_before(corpus_file: Path) -> None:
    with pytest.raises(SystemExit):
        train(str(corpus_file), out="run", steps=STEPS, save_every=20, watcher=Crash(13), **TINY)
    assert metrics(Path("run"))
    train(str(corpus_file), out="run", steps=4, **TINY)
    assert [line["step"] for line in metrics(Path("run"))] == [1, 2, 3, 4]


# -- The best step


def test_the_best_step_has_the_best_score_on_held_out_text(corpus_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([9.0, 9.0, 3.0, 1.0, 2.0, 2.5, 1.25])  # two looks before training, four on the way, one at the end
    seen: list[dict[str, Tensor]] = []

    def fake_score(model: torch.nn.Module, *_: object, **__: object) -> Score:
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return Score(nats=next(scores) * 100 * math.log(2), tokens=50, bytes=100)

    monkeypatch.setattr(held_out, "score_model", fake_score)
    result = train(str(corpus_file), out="run", steps=20, eval_every=5, save_every=5, keep=1, **TINY)
    run = Run(Path("run"))
    assert result["best_step"] == 10
    assert (result["step"], result["val_bits_per_byte"]) == (20, pytest.approx(1.25))
    assert [step.number for step in run.steps()] == [10, 20]
    best = saved_step.load(run.step_path(10)).model.state_dict()
    assert all(torch.equal(seen[-1][name], tensor) for name, tensor in best.items()), "the best step is what is scored"
    assert runs.find_model("run") == run.step_path(10)


@pytest.mark.parametrize(("keep", "kept"), [(1, 1), (3, 3), (99, 5)])
def test_as_many_steps_stay_as_were_asked_for(corpus_file: Path, keep: int, kept: int) -> None:
    train(str(corpus_file), out="run", steps=5, keep=keep, **TINY)
    numbers = [step.number for step in Run(Path("run")).steps()]
    assert numbers[-kept:] == list(range(6 - kept, 6))
    assert len(numbers) <= kept + 1


# -- What is written down

EACH_LINE = {"step", "elapsed", "tokens", "lr", "train_loss", "tokens_per_second"}
RESULT = {
    "run", "step", "best_step", "n_parameters", "vocab_size", "n_tokens_seen", "tokens_per_second", "seconds",
    "train_loss_nats", "val_loss_nats",
    "val_bits_per_byte", "val_bits_per_byte_interval", "val_bytes", "held_out_bytes", "processor_share", "epochs",
    "members",
    "baselines",
}  # fmt: skip


def test_metrics_have_the_documented_keys(trained_run: Path) -> None:
    lines = metrics(trained_run)
    for line in lines:
        assert set(line) in (EACH_LINE, EACH_LINE | {"val_loss", "val_bits_per_byte"})
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert set(range(10, 61, 10)) <= set(steps)
    assert sum("val_loss" in line for line in lines) == 10
    assert lines[-1]["tokens"] == 60 * 64 * 32


def test_run_json_says_where_the_model_came_from(corpus_file: Path) -> None:
    result = train(str(corpus_file), out="run", steps=3, command=["gptlite", "train", "corpus.txt"], **TINY, **SELDOM)
    stored = info(Path("run"))
    content = corpus_file.read_bytes()
    assert stored["command"] == ["gptlite", "train", "corpus.txt"]
    assert stored["inputs"] == [
        {"path": str(corpus_file), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    ]
    assert stored["versions"]["torch"] == torch.__version__
    assert set(stored["versions"]) == {"python", "torch", "tokenizers", "platform"}
    assert stored["gptlite"] == gptlite.__version__
    assert stored["plan"]["model"]["dim"] == 32 and stored["plan"]["train"]["steps"] == 3
    assert "cpu" in stored["hardware"]
    assert stored["result"] == result
    assert set(result) == RESULT
    assert stored["text"]["train"]["bytes"] + stored["text"]["val"]["bytes"] == len(content)
    assert stored["n_parameters"] == result["n_parameters"]


def test_each_step_says_how_good_it_was(trained_run: Path) -> None:
    scores = {line["step"]: line.get("val_bits_per_byte") for line in metrics(trained_run)}
    steps = Run(trained_run).steps()
    assert steps and all(step.val_bits_per_byte == scores[step.number] for step in steps)


# -- Where training starts and ends


def test_training_starts_from_the_bigrams_of_its_text(corpus_file: Path) -> None:
    """The loss of the first step is taken before any update."""
    counted, random_start = (
        train(str(corpus_file), out=f"run-{init}", steps=1, init=init, **TINY, **SELDOM)
        for init in ("bigrams", "random")
    )
    assert random_start["train_loss_nats"] == pytest.approx(math.log(320), abs=0.2)
    assert counted["train_loss_nats"] < random_start["train_loss_nats"] - 1


def test_a_single_step_trains(corpus_file: Path) -> None:
    train(str(corpus_file), out="run", steps=1, **TINY)
    first, *_ = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert first["lr"] == TrainConfig.lr
    state = saved_step.load(Run(Path("run")).step_path(1), torch.device("cpu")).model.state_dict()
    train(str(corpus_file), out="other", steps=1, lr=1e-9, **TINY)
    still = saved_step.load(Run(Path("other")).step_path(1), torch.device("cpu")).model.state_dict()
    assert any(not torch.allclose(state[name], still[name], atol=1e-4) for name in state)


def test_time_that_is_over_before_training_begins_is_still_a_saved_step(corpus_file: Path) -> None:
    watcher = Log()
    result = train(str(corpus_file), out="run", time=0.01, watcher=watcher, **TINY)
    assert result["step"] == 1
    assert saved_step.load(Run(Path("run")).best().path).config.vocab_size == result["vocab_size"]
    assert any("over before training began" in notice for notice in watcher.notices)


@pytest.mark.parametrize(("elapsed", "over"), [(50.0, False), (94.0, False), (96.0, True), (101.0, True)])
def test_the_loop_ends_at_the_step_nearest_to_its_time(
    elapsed: float, over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 seconds without a reserve, and steps of 10: at 94 another one ends nearer, at 96 it would end further."""
    monkeypatch.setattr(pauses, "now", lambda: elapsed)
    a_clock = clock.Clock(seconds=100.0, total_steps=0, saves=3, started=0.0)
    assert a_clock.over(State(quick_windows=0, final_windows=0), seconds_per_step=10.0) is over


@pytest.mark.parametrize(
    ("step", "elapsed", "progress", "remaining"), [(10, 10.0, 0.2, 40.0), (10, 50.0, 0.5, 40.0), (40, 90.0, 0.9, 10.0)]
)
def test_of_two_ends_of_a_run_the_nearer_one_counts(
    step: int, elapsed: float, progress: float, remaining: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 seconds without a reserve, or 50 steps of one second."""
    monkeypatch.setattr(pauses, "now", lambda: elapsed)
    a_clock = clock.Clock(seconds=100.0, total_steps=50, saves=3, started=0.0)
    state = State(step=step, quick_windows=0, final_windows=0)
    assert a_clock.progress(state) == pytest.approx(progress)
    assert a_clock.remaining(state, seconds_per_step=1.0) == pytest.approx(remaining)
    assert not a_clock.over(state, seconds_per_step=1.0)
    state.step = 50
    assert a_clock.over(state, seconds_per_step=1.0)


def test_a_loss_that_climbed_does_not_hide_overfitting() -> None:
    s = session_with({1: 2.0, 2: 2.1, 3: 2.2})
    for loss in (3.0, 5.0):
        s.state.train_loss = loss
        monitor.watch_loss(s.state, s)
    monitor.stops_early(s.state, s)
    assert len(s.watcher.notices) == 2


# -- Trouble that is seen coming


def session_with(
    history: dict[int, float], patience: int = 0, epochs: float = 5.0, members: int = 1
) -> SimpleNamespace:
    """As much of a setup as monitor.py looks at, and a state."""
    plan = SimpleNamespace(
        train=SimpleNamespace(patience=patience, lr=0.02, members=members), model=SimpleNamespace(vocab_size=10_000)
    )
    batches = SimpleNamespace(ids=range(1000), epochs=lambda tokens, _: tokens / 1000)
    state = State(step=max(history, default=0), history=history, tokens=int(1000 * epochs))
    return SimpleNamespace(state=state, plan=plan, watcher=Log(), batches=batches)


def test_overfitting_is_told_once() -> None:
    s = session_with({})
    for step, bits in enumerate((2.5, 2.2, 2.21, 2.25, 2.3)):
        s.state.history[step] = bits
        assert monitor.stops_early(s.state, s) is False
    (notice,) = s.watcher.notices
    assert "step 1 (2.200 bits per byte, now 2.250)" in notice and "`patience=2`" in notice
    assert "read 5.0 times: the model is overfitting" in notice


def test_of_several_models_it_counts_how_often_each_read_the_text() -> None:
    for epochs, words in (
        (8.0, "read 4.0 times by each of the 2 models: the model is over"),
        (3.0, "read 1.50 times by each"),
    ):
        s = session_with({1: 2.0, 2: 2.1, 3: 2.2}, epochs=epochs, members=2)
        monitor.stops_early(s.state, s)
        assert words in s.watcher.notices[0]


def test_a_text_that_was_not_read_twice_is_not_said_to_be_overfitted() -> None:
    """But when it was read often later, that is said then."""
    s = session_with({}, epochs=0.05)
    for step, bits in enumerate((2.5, 2.2, 2.21, 2.25, 2.3)):
        s.state.history[step] = bits
        monitor.stops_early(s.state, s)
    (notice,) = s.watcher.notices
    assert "read 0.05 times so far, so this is no overfitting: the score still varies" in notice
    s.state.tokens = 9000
    monitor.stops_early(s.state, s)
    assert "overfitting. That step is kept" in s.watcher.notices[1]


def test_a_score_that_wavers_is_not_told() -> None:
    s = session_with({})
    for step, bits in enumerate((2.5, 2.2, 2.21, 2.205, 2.209, 2.1)):
        s.state.history[step] = bits
        monitor.stops_early(s.state, s)
    assert s.watcher.notices == []


@pytest.mark.parametrize(("patience", "expected"), [(0, False), (1, True), (2, True), (3, False)])
def test_patience_counts_the_scores_since_the_best(patience: int, expected: bool) -> None:
    s = session_with({10: 2.5, 20: 2.2, 30: 2.3, 40: 2.21}, patience)
    assert monitor.stops_early(s.state, s) is expected
    assert any("stopped early" in notice for notice in s.watcher.notices) is expected


@pytest.mark.row("N04")
def test_a_training_loss_that_climbs_is_told_once() -> None:
    s = session_with({})
    for loss in (6.0, 3.0, 3.9, 4.2, 5.0):
        s.state.train_loss = loss
        monitor.watch_loss(s.state, s)
    (notice,) = s.watcher.notices
    assert "from 3.00 to 4.20" in notice and "`lr`" in notice


def test_a_run_that_learns_nothing_more_stops_early(corpus_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([9.0, 9.0, 5.0, 4.0, 4.5, 4.6, 4.7, 4.8, 4.0])

    def scripted(*_: Any, **__: Any) -> Score:
        return Score(next(scores) * math.log(2) * 100, 50, 100)

    monkeypatch.setattr(held_out, "score_model", scripted)
    log = Log()
    result = train(str(corpus_file), out="run", steps=80, eval_every=10, save_every=10, patience=2, watcher=log, **TINY)
    assert (result["step"], result["best_step"]) == (40, 20)
    assert any("stopped early: no better score since step 20" in notice for notice in log.notices)


# -- A long text and a short time


def test_of_a_long_text_as_much_is_used_as_can_be_read(
    corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SHORTEST_LIMIT", 50_000)
    monkeypatch.setattr(planning, "READING_RATE", 1.0)
    long = tmp_path / "long.txt"
    long.write_text(make_text(2_000))
    log = Log()
    stop_at_once = iter([2])
    with pytest.raises(Interrupted):
        train(str(long), out="run", time=60, watcher=log, should_stop=lambda: next(stop_at_once), **TINY, **SELDOM)
    sizes = {part: facts["bytes"] for part, facts in info(Path("run"))["text"].items()}
    assert sizes["train"] == pytest.approx(50_000, rel=0.01)
    assert any("no time to read all" in notice for notice in log.notices)
    # Resumed, the same parts are taken, whatever the limits are then.
    monkeypatch.setattr(planning, "SHORTEST_LIMIT", 25_000)
    train(str(long), out="run", resume=True, steps=3)
    assert {part: facts["bytes"] for part, facts in info(Path("run"))["text"].items()} == sizes


# -- What is held out


def test_a_share_of_the_end_is_held_out(corpus_file: Path) -> None:
    train(str(corpus_file), out="run", steps=1, val="20%", **TINY, **SELDOM)
    sizes = {part: facts["bytes"] for part, facts in info(Path("run"))["text"].items()}
    assert sizes["val"] == pytest.approx(0.2 * corpus_file.stat().st_size, abs=60)


def test_a_file_of_its_own_is_held_out(corpus_file: Path) -> None:
    Path("val.txt").write_text(make_text(20, seed=4))
    result = train(str(corpus_file), out="run", steps=2, val="val.txt", **TINY, **SELDOM)
    stored = info(Path("run"))
    assert result["val_bytes"] == Path("val.txt").stat().st_size
    assert stored["text"]["train"]["bytes"] == corpus_file.stat().st_size
    assert [Path(source["path"]).name for source in stored["inputs"]] == ["corpus.txt", "val.txt"]
    assert train(inputs=[], out="run", resume=True, steps=3, threads=1)["val_bytes"] == result["val_bytes"]


def test_a_held_out_file_that_changed_is_refused(corpus_file: Path) -> None:
    Path("val.txt").write_text(make_text(20, seed=4))
    train(str(corpus_file), out="run", steps=2, val="val.txt", **TINY, **SELDOM)
    append(Path("val.txt"))
    with pytest.raises(CheckpointError, match="held-out text is not the one"):
        train(inputs=[], out="run", resume=True, steps=3, threads=1)


@pytest.mark.parametrize("how", ["itself", "copy", "link", "hard link"])
def test_the_held_out_file_must_not_be_trained_on(corpus_file: Path, how: str) -> None:
    val = {"itself": corpus_file}.get(how, Path("val.txt"))
    if how == "copy":
        shutil.copy(corpus_file, val)
    elif how == "link":
        val.symlink_to(corpus_file)
    elif how == "hard link":
        val.hardlink_to(corpus_file)
    with pytest.raises(UsageError, match="also among the texts to train on"):
        train(str(corpus_file), out="run", steps=1, val=str(val), **TINY)


@pytest.mark.parametrize("val", ["0%", "-5%", "91%", "100%", "500%", "nan%", "inf%", "0.001%"])
def test_impossible_shares_are_refused(corpus_file: Path, val: str) -> None:
    with pytest.raises(UsageError, match="`val"):
        train(str(corpus_file), out="run", steps=1, val=val, **TINY)
    assert not Path("run").exists()


@pytest.mark.parametrize("val", ["gone.txt", "x%", "%"])
def test_a_held_out_file_must_exist(corpus_file: Path, val: str) -> None:
    with pytest.raises(CorpusError, match="cannot read"):
        train(str(corpus_file), out="run", steps=1, val=val, **TINY)


@pytest.mark.parametrize("content", ["a", "ab", "e.\n", "汉", "Ada finds"])
def test_a_very_short_held_out_text_is_enough(corpus_file: Path, content: str) -> None:
    Path("val.txt").write_text(content)
    result = train(str(corpus_file), out="run", steps=2, val="val.txt", **TINY, **SELDOM)
    assert result["val_bytes"] == len(content.encode())
    statistics = saved_step.read_embedding_statistics(saved_step.load(Path("run/latest")))
    assert statistics is not None
    assert all(torch.isfinite(tensor).all() for tensor in statistics.values())


# -- Odd texts and odd sizes


def test_a_context_of_one_token_trains(corpus_file: Path) -> None:
    assert train(str(corpus_file), out="run", steps=2, **{**TINY, **SELDOM, "context_length": 1})["step"] == 2


def test_a_context_longer_than_the_text_is_refused(corpus_file: Path) -> None:
    with pytest.raises(CorpusError, match="`context_length`"):
        train(str(corpus_file), out="run", steps=1, **{**TINY, "context_length": 100_000})


def test_a_text_that_is_too_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("x" * 1000)
    with pytest.raises(CorpusError, match="1,000 bytes of text are too few"):
        train("short.txt", out="run", steps=1, **TINY)


def test_fewer_tokens_than_asked_for_are_mentioned(tmp_path: Path) -> None:
    (tmp_path / "poor.txt").write_text("ab cd\n" * 2000)
    log = Log()
    result = train("poor.txt", out="run", steps=1, watcher=log, **{**TINY, **SELDOM, "vocab_size": 5000})
    assert result["vocab_size"] < 300
    assert any("5,000" in notice for notice in log.notices)


def test_a_run_in_use_is_refused(short: Path) -> None:
    copy(short)
    with Run(Path("run")).lock(), pytest.raises(RunInUseError):
        train(inputs=[], out="run", resume=True, steps=3, threads=1)


@pytest.mark.row("D01")
@pytest.mark.parametrize("bad_steps", [(9,), (3, 6), (12,), (6, 9, 12)], ids=str)
def test_a_save_that_fails_is_tried_again(
    corpus_file: Path, monkeypatch: pytest.MonkeyPatch, bad_steps: tuple[int, ...]
) -> None:
    """A full disk is a notice while training goes on, and an error only when the last save meets it."""
    create, log = durable._create, Log()

    def nearly_full(path: Path, at: int | None) -> int:
        if path.name == "tokenizer.json" and any(f"step-{step:09d}" in str(path) for step in bad_steps):
            raise OSError(28, "No space left on device")
        return create(path, at)

    settings = {"steps": 12, "save_every": 3, "keep": 9, "watcher": log, **TINY}
    with monkeypatch.context() as patch:
        patch.setattr(durable, "_create", nearly_full)
        if 12 in bad_steps:
            with pytest.raises(StorageError, match="earlier steps are intact"):
                train(str(corpus_file), out="run", **settings)
        else:
            assert train(str(corpus_file), out="run", **settings)["step"] == 12
    saved = [step for step in (3, 6, 9, 12) if step not in bad_steps]
    assert assert_every_step_loads(Path("run")) == log.saves == saved
    told = sum("each later save tries again" in n for n in log.notices)
    assert told == bool(set(bad_steps) - {12}), "once until a save succeeds"
    assert not list(Path("run").glob(".*"))
    assert train(inputs=[], out="run", resume=True, threads=1)["step"] == 12


def test_the_library_is_three_lines(corpus_file: Path) -> None:
    result = gptlite.train(str(corpus_file), steps=2, **TINY, **SELDOM)
    model = gptlite.load(runs.find_model(result["run"]))
    assert model.config.n_params == result["n_parameters"]


# -- What the caller gets back


@pytest.mark.parametrize("fails", [False, True])
def test_torch_is_left_as_it_was(corpus_file: Path, fails: bool) -> None:
    """Random state and number of threads, also after an error."""
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    settings: dict[str, Any] = {**TINY, **SELDOM, "steps": 2, "threads": threads + 1, "dropout": 0.1}
    with pytest.raises(SystemExit) if fails else contextlib.nullcontext():
        train(str(corpus_file), out="run", watcher=Crash(1) if fails else None, **settings)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_every_setting_is_a_keyword_of_train() -> None:
    """But what an architecture means, what only the plan chooses, and the budget in seconds, which is `time`."""
    names = {f.name for config in (ModelConfig, TrainConfig) for f in dataclasses.fields(config)}
    names -= {*ARCHITECTURES["qwen3"], "seconds", "most_epochs", "background_share", "background_end"} - {"norm_eps"}
    assert names <= set(inspect.signature(train).parameters)
    assert all(p.annotation for p in inspect.signature(train).parameters.values())


def test_an_unknown_keyword_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="contxt"):
        train("corpus.txt", contxt=3)  # pyright: ignore[reportCallIssue]


def test_a_time_may_be_a_text(corpus_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTime(monkeypatch)
    assert train(str(corpus_file), out="run", time="2s", started=0.0, **TINY)["seconds"] <= 2.0
    assert info(Path("run"))["plan"]["train"]["seconds"] == 2.0


def test_what_was_given_before_may_be_given_again(corpus_file: Path) -> None:
    settings: dict[str, Any] = {"size": "tiny", "val": "10%", "vocab_size": 320, "architecture": "qwen3", **SELDOM}
    with pytest.raises(Interrupted):
        train(str(corpus_file), out="run", steps=2, should_stop=stop_after(1), **settings)
    assert train(out="run", resume=True, **{**settings, "val": "10.0%"})["step"] == 2
    with pytest.raises(UsageError, match="`size` is 'small', and the run was started with 'tiny'"):
        train(out="run", resume=True, steps=4, size="small")


def test_a_run_may_be_resumed_with_the_model_it_started_from(corpus_file: Path, trained_run: Path) -> None:
    with pytest.raises(Interrupted):
        train(str(corpus_file), out="run", steps=2, init_from=trained_run, should_stop=stop_after(1), **SELDOM)
    assert train(out="run", resume=True, init_from=trained_run)["step"] == 2
    with pytest.raises(UsageError, match="`init_from` is 'run', and the run was started with"):
        train(out="run", resume=True, steps=4, init_from="run")


# -- Scores of a part of the held-out text


def test_a_part_of_the_held_out_text_is_scored_with_an_interval_and_the_same_bytes_for_all(
    corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(held_out, "FINAL_WINDOWS", 40)
        result = train(str(corpus_file), out="run", steps=8, val="40%", **TINY, **SELDOM)
    low, high = result["val_bits_per_byte_interval"]
    assert low < result["val_bits_per_byte"] < high < low + 1
    assert result["val_bytes"] == result["baselines"]["val_bytes"] < result["held_out_bytes"]
    assert info(Path("run"))["baselines"]["val_bytes"] == result["held_out_bytes"]
    whole = train(str(corpus_file), out="whole", steps=8, val="40%", **TINY, **SELDOM)
    assert whole["val_bits_per_byte_interval"] is None
    assert whole["val_bytes"] == whole["held_out_bytes"] == whole["baselines"]["val_bytes"]
    assert low < whole["val_bits_per_byte"] < high


# -- A process that was stopped


class Ticks:
    """Time on the wall and of the processor, for pauses.py."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.wall = self.processor = 100.0
        patch.setattr(pauses, "time", SimpleNamespace(monotonic=lambda: self.wall, process_time=lambda: self.processor))
        patch.setattr(pauses, "INTERVAL", 1e6)
        patch.setattr(pauses, "_pauses", pauses._Pauses())

    def work(self, seconds: float) -> None:
        self.wall, self.processor = self.wall + seconds, self.processor + seconds


@pytest.mark.row("P26")
def test_time_in_which_the_process_was_stopped_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = Ticks(monkeypatch)
    with pauses.noticing_pauses():
        ticks.work(0.2)
        ticks.wall += 25.0
        assert pauses.now() == pytest.approx(100.2, abs=0.3) and pauses.paused() == pytest.approx(25.2)
        ticks.work(5.0)  # native code that keeps the thread from looking
        ticks.wall += 0.8  # a busy machine
        assert pauses.now() == pytest.approx(105.8, abs=0.3)
    with pauses.noticing_pauses():
        assert pauses.paused() == 0, "those of another run"


class SleepyTime(FakeTime):
    """The same clock, but real pauses are noticed: on the wall more time passes than the processor works."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        now = pauses.now
        super().__init__(patch)
        self.slept = 0.0
        fake = SimpleNamespace(monotonic=lambda: self.now + self.slept, process_time=lambda: self.now)
        patch.setattr(pauses, "time", fake)
        patch.setattr(pauses, "INTERVAL", 1e6)
        patch.setattr(pauses, "_pauses", pauses._Pauses())
        patch.setattr(pauses, "now", now)


class Sleeper(Log):
    """Closes the lid of the computer after a step."""

    def __init__(self, time: SleepyTime, step: int, seconds: float) -> None:
        super().__init__()
        self.time, self.step, self.seconds = time, step, seconds

    def stepped(self, progress: Progress) -> None:
        super().stepped(progress)
        if progress.step == self.step:
            self.time.slept += self.seconds


@pytest.mark.row("P26")
@pytest.mark.parametrize(
    ("step", "asleep"),
    [
        *((1, 3600.0), (40, 3.0)),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, 3.0), (20, 3.0), (20, 3600.0), (40, 3600.0))),
    ],
)
def test_a_run_that_was_stopped_takes_the_same_steps(
    corpus_file: Path, monkeypatch: pytest.MonkeyPatch, step: int, asleep: float
) -> None:
    results = []
    for seconds in (0.0, asleep):
        with monkeypatch.context() as patch:
            log = Sleeper(SleepyTime(patch), step, seconds)
            out = f"run{seconds}"
            results.append(
                train(str(corpus_file), out=out, time=6.0, started=0.0, watcher=log, dropout=0.0, **TINY, **SELDOM)
            )
        assert any("the process was stopped for" in notice for notice in log.notices) is (seconds > 0)
    awake, stopped = results
    assert awake["step"] == pytest.approx(stopped["step"], abs=1) and stopped["step"] > 40
    assert awake["val_bits_per_byte"] == pytest.approx(stopped["val_bits_per_byte"], abs=0.02)
    assert stopped["seconds"] <= 6.0

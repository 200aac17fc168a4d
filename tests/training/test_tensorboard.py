"""The log for TensorBoard: what TensorBoard reads is what metrics.jsonl says, and nothing else notices it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TRAIN_TINY, Command

from gptlite.checkpoint.runs import EVENT_FILES, EVENTS, Run
from gptlite.distribution import install_hint
from gptlite.storage import durable
from gptlite.training import tensorboard
from gptlite.training.tensorboard import EventLog

pytest.importorskip("tensorboard")

SHORT = (*TRAIN_TINY, "--steps", "30", "--eval-every", "10", "--batch-size", "4")


def metrics(run: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def seen(folder: Path) -> list[dict[str, Any]]:
    """The lines of a log as TensorBoard's own reader has them: a step each, with its numbers, and its text."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    lines: dict[int, dict[str, Any]] = {}
    for name in reader.Tags()["scalars"]:
        for event in reader.Scalars(name):
            assert name not in lines.setdefault(event.step, {"step": event.step}), "a step stands there once"
            lines[event.step][name] = event.value
    for name in reader.Tags()["tensors"]:
        for event in reader.Tensors(name):
            lines[event.step][name] = event.tensor_proto.string_val[0].decode()
    return list(lines.values())


def check_equal(run: str | Path) -> None:
    """The event file of a run has all that its metrics.jsonl has."""
    found, expected = seen(Path(run) / EVENTS), metrics(run)
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert set(mine) == set(theirs)
        for name, value in theirs.items():
            if isinstance(value, str):
                assert mine[name] == "\n".join(f"    {part}" for part in value.split("\n"))
            else:
                assert mine[name] == np.float32(value), name


def event_files(run: str | Path) -> list[str]:
    return sorted(path.name for path in (Path(run) / EVENTS).iterdir())


def test_its_numbers_are_those_of_the_metrics_and_the_run_is_as_without_it(gptlite: Command, corpus_file: Path) -> None:
    asked = ("--sample-every", "20", "--sample-prompt", "Ada")
    for name, more in (("with", ("--log", "tensorboard")), ("without", ())):
        assert gptlite("train", corpus_file, "-o", name, "-q", *SHORT, *asked, *more).code == 0
    assert not Path("without", EVENTS).exists(), "nothing else by default"
    check_equal("with")
    assert {"train_loss", "val_bits_per_byte", "sample"} <= set(seen(Path("with", EVENTS))[1])
    (file,) = event_files("with")
    assert file.startswith("events.out.tfevents."), "the name by which TensorBoard finds it"
    one, other = (sorted(p.name for p in Path(name).iterdir() if p.name != EVENTS) for name in ("with", "without"))
    assert one == other, "and steps that are no longer kept are deleted"
    for name in ("model.safetensors", "training_state/optimizer.safetensors"):
        assert Path("with/latest", name).read_bytes() == Path("without/latest", name).read_bytes()
    assert gptlite("check", "with").code == 0
    assert gptlite("generate", "-m", "with", "--prompt", "Ada").code == 0


def test_resuming_goes_on_in_the_same_log(gptlite: Command, corpus_file: Path) -> None:
    assert gptlite("train", corpus_file, "-o", "run", "-q", *SHORT, "--log", "tensorboard").code == 0
    first = event_files("run")
    with open(Path("run", EVENTS, first[0]), "ab") as file:
        file.write(b"\x20\x00\x00\x00half of a record, as a crash leaves it")
    durable.append(Path("run/metrics.jsonl"), b'{"step": 35, "train_loss": 1.0}\n')  # logged, and lost with its step
    assert gptlite("train", "--resume", "-o", "run", "-q", "--steps", "50").code == 0
    assert [line["step"] for line in metrics("run")] == [10, 20, 30, 40, 50]
    check_equal("run")
    second = event_files("run")
    assert len(second) == 1 and second > first, "readers that watch the folder go on with the newer name"
    assert gptlite("train", "--resume", "-o", "run", "-q", "--steps", "60", "--log", "none").code == 0
    assert event_files("run") == second and len(metrics("run")) == 6


def test_a_run_that_had_none_gets_a_whole_one(gptlite: Command, trained_run: Path) -> None:
    shutil.copytree(trained_run, "run", symlinks=True)
    assert gptlite("train", "--resume", "-o", "run", "-q", "--steps", "70", "--log", "tensorboard").code == 0
    check_equal("run")
    steps = [line["step"] for line in seen(Path("run", EVENTS))]
    assert steps[0] < 60 < steps[-1] == 70


def test_times_count_from_the_beginning_without_the_pauses() -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventLog(Path("log"), 1000.0, [{"step": 1, "elapsed": 2.5, "train_loss": 3.0}])
    log.write({"step": 2, "elapsed": 4.0, "train_loss": 2.0})
    reader = EventAccumulator("log")
    reader.Reload()
    assert [(e.step, e.wall_time) for e in reader.Scalars("train_loss")] == [(1, 1002.5), (2, 1004.0)]


def test_a_try_without_a_step_is_forgotten(gptlite: Command, corpus_file: Path) -> None:
    Path("run", EVENTS).mkdir(parents=True)
    Path("run/run.json").write_text("{}")
    EventLog(Path("run", EVENTS), 0.0, [{"step": 10, "train_loss": 9.0}])
    Path("run", EVENTS, "notes.txt").write_text("mine")
    assert gptlite("train", corpus_file, "-o", "run", "-q", *SHORT).code == 0
    assert event_files("run") == ["notes.txt"]


def test_a_folder_of_somebody_else_is_no_run(gptlite: Command, corpus_file: Path) -> None:
    Path("mine", EVENTS).mkdir(parents=True)
    outcome = gptlite("train", corpus_file, "-o", "mine", "-q", *SHORT)
    assert outcome.code == 2 and "not empty" in outcome.err


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_missing_package_is_named_before_any_work(
    gptlite: Command, corpus_file: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    outcome = gptlite("train", corpus_file, "-o", "run", *SHORT, "--log", "tensorboard", *more)
    assert outcome.code == 2 and install_hint("tensorboard") in outcome.err
    assert not Path("run").exists()


def test_another_log_is_refused(gptlite: Command, corpus_file: Path) -> None:
    outcome = gptlite("train", corpus_file, *SHORT, "--log", "wandb")
    assert outcome.code == 2 and "log must be one of none, tensorboard, not 'wandb'" in outcome.err


@pytest.mark.row("D14")
@pytest.mark.parametrize("appends", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_full_disk_ends_the_log_and_not_the_training(
    gptlite: Command, corpus_file: Path, monkeypatch: pytest.MonkeyPatch, appends: int
) -> None:
    """From the beginning, and after some appends."""
    append, done = durable.append, []

    def full(path: Path, content: bytes, *more: Any, **options: Any) -> None:
        if EVENTS in path.parts:
            done.append(path)
            if len(done) > appends:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(path, content, *more, **options)

    monkeypatch.setattr(durable, "append", full)
    outcome = gptlite("train", corpus_file, "-o", "run", *SHORT, "--log", "tensorboard")
    assert outcome.code == 0
    assert outcome.err.count("Training goes on without TensorBoard's log.") == 1
    assert len(done) == appends + 1 and len(metrics("run")) == 3


@pytest.mark.row("S10")
def test_a_link_is_never_written_through(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("victim").write_text("precious")
    Path("log").mkdir()
    monkeypatch.setattr(tensorboard.time, "time", lambda: 7.0)
    Path("log", EVENT_FILES.replace("*", "0000000007")).symlink_to(Path("victim").resolve())
    log = EventLog(Path("log"), 0.0)
    log.write({"step": 1, "train_loss": 1.0})
    assert Path("victim").read_text() == "precious" and not log.path.is_symlink()


def test_what_a_stranger_logged_is_taken_as_it_can_be() -> None:
    run = Run(Path("run"))
    run.path.mkdir()
    line = '{"step": 1, "train_loss": "<b>", "lr": true, "tokens": 1e308, "x": [1], "y": 1%s}\n' % ("0" * 400)
    (run.path / "metrics.jsonl").write_text(line)
    (run.path / EVENTS).mkdir()
    (run.path / EVENTS / "events.out.tfevents.x.gptlite").write_text("no number")
    EventLog(run.path / EVENTS, 0.0, run.read_log())
    (run.path / EVENTS / "events.out.tfevents.x.gptlite").unlink()
    assert seen(run.path / EVENTS) == [{"step": 1, "tokens": np.inf}]

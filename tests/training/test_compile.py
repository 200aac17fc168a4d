"""Compiled steps: when they pay, that they compute the same, and that a compiler which fails costs little."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from conftest import Command, random_model, tiny_config

from gptlite.checkpoint.runs import Run
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware
from gptlite.training import compile, machine, optimizer

CPU = Hardware(torch.device("cpu"), bf16=False, threads=2, compile=False, reason="a test")
GPU = dataclasses.replace(CPU, device=torch.device("cuda"))
MODEL, TRAIN = ModelConfig.preset("gpt2", "small", 1024), TrainConfig()


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile, "_has_compiler", lambda _: True)


@pytest.mark.parametrize(("seconds", "expected"), [(60, False), (300, False), (900, True)])
def test_the_first_time_it_pays_in_long_runs_only(compiler: None, seconds: float, expected: bool) -> None:
    assert compile.pays(seconds, MODEL, TRAIN, CPU) is expected


def test_what_was_compiled_before_pays_sooner(compiler: None) -> None:
    mark = compile._mark(MODEL, TRAIN, CPU)
    mark.parent.mkdir(parents=True)
    mark.touch()
    assert compile.pays(120, MODEL, TRAIN, CPU)
    assert not compile.pays(30, MODEL, TRAIN, CPU)
    assert not compile.pays(120, MODEL, dataclasses.replace(TRAIN, batch_size=5), CPU)


def test_it_pays_neither_without_a_compiler_nor_on_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not compile.pays(9000, MODEL, TRAIN, CPU)
    monkeypatch.setattr(compile, "_has_compiler", lambda _: True)
    assert not compile.pays(9000, MODEL, TRAIN, dataclasses.replace(CPU, device=torch.device("mps")))


def test_on_a_gpu_it_pays_where_minutes_are_left(compiler: None) -> None:
    assert [compile.pays(seconds, MODEL, TRAIN, GPU) for seconds in (60, 120)] == [False, True]


def test_a_number_of_steps_is_worth_a_guess_on_a_gpu_only(compiler: None) -> None:
    for hardware, steps, expected in ((CPU, 10**6, False), (GPU, 10, False), (GPU, 10**6, True)):
        undecided = dataclasses.replace(hardware, open=("compile",))
        assert machine.decide(undecided, None, steps, MODEL, TRAIN).compile is expected
        assert not machine.decide(hardware, None, steps, MODEL, TRAIN).compile, "nobody asked"


def test_a_compiler_that_fails_is_told_and_steps_are_as_before(
    gptlite: Command, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> optimizer.Loss:
        raise RuntimeError("no such header")

    monkeypatch.setattr(compile, "compile_with_torch", broken)
    shape = (
        "--layers",
        "1",
        "--dim",
        "16",
        "--heads",
        "1",
        "--context",
        "16",
        "--vocab-size",
        "300",
        "--steps",
        "2",
        "--arch",
        "gpt2",
    )
    done = gptlite("train", corpus_file, "-o", "run", "--compile", "on", *shape)
    assert done.code == 0
    assert "compiling failed (RuntimeError), so steps are not compiled." in done.err
    assert "compiled" not in Run(Path("run")).read_info()["hardware"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_loss_has_the_same_value_and_gradients() -> None:
    model = random_model(tiny_config("gpt2"))
    train = TrainConfig(batch_size=4)
    before = torch.get_rng_state()
    compiled = compile.compile_with_torch(model, train, CPU)
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(before, torch.get_rng_state())
    batch = torch.randint(300, (4, 33))
    results = []
    for loss_of in (compiled, optimizer.mean_loss):
        model.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert compile._mark(model.config, train, CPU).exists()

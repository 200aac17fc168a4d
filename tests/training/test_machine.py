"""The machine of a run: what is compiled and by which compiler, and what a resumed run takes over."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from gptlite import device
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware
from gptlite.errors import UsageError
from gptlite.kernels.build import Kernel, NoKernel
from gptlite.kernels.workers import MOST_PARTS
from gptlite.training import compile, machine, numerics
from gptlite.training.optimizer import mean_loss
from gptlite.training.request import Request
from gptlite.training.team import ALONE
from gptlite.training.watcher import Watcher

CPU = Hardware(torch.device("cpu"), bf16=False, threads=2, compile=False, reason="a test", open=("compile",))
MODEL, TRAIN = ModelConfig.preset("qwen3", "small", 1024), TrainConfig()


class Notices(Watcher):
    def __init__(self) -> None:
        self.told: list[str] = []

    def notice(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture(autouse=True)
def torch_can_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile, "_has_compiler", lambda _: True)


def broken(*_: object, **__: object) -> Any:
    raise NoKernel("it cannot be built")


# -- The step in C and torch's compiler


@pytest.mark.parametrize("asked", ["auto", "on"])
@pytest.mark.parametrize(("seconds", "compiled"), [(15.0, False), (3600.0, True)])
def test_torchs_compiler_is_not_called_in_a_short_run_for_a_step_in_c_that_fails(
    monkeypatch: pytest.MonkeyPatch, asked: str, seconds: float, compiled: bool
) -> None:
    monkeypatch.setattr(Kernel, "open", broken)
    hardware = CPU if asked == "auto" else dataclasses.replace(CPU, compile=True, open=())
    decided = machine.decide(hardware, seconds, 0, MODEL, TRAIN)
    assert (decided.compile, decided.fused) == (compiled, False)
    assert decided.open == ()
    if asked == "on" and not compiled:
        assert "compiled steps cannot be made here" in decided.reason


def test_a_step_in_c_that_disappears_after_the_decision_leaves_steps_uncompiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decided = dataclasses.replace(CPU, compile=True, fused=True, open=())
    monkeypatch.setattr(Kernel, "open", broken)
    monkeypatch.setattr(compile, "compile_with_torch", lambda *_: pytest.fail("it would take 40 s"))
    notices = Notices()
    model: Any = torch.nn.Linear(1, 1)
    loss_of, hardware = machine.ready(model, TRAIN, decided, ALONE, notices)
    assert loss_of is mean_loss and not hardware.compile and "compiling failed" in notices.told[0]


@pytest.mark.parametrize(("threads", "loads"), [(1, True), (2, True), (MOST_PARTS, True), (MOST_PARTS + 1, False)])
def test_a_library_without_openmp_is_used_where_steps_are_divided_among_threads(
    monkeypatch: pytest.MonkeyPatch, threads: int, loads: bool
) -> None:
    monkeypatch.setattr(Kernel, "open", lambda self: (object(), 0.0))
    monkeypatch.setattr(Kernel, "parallel", False)
    monkeypatch.setattr("gptlite.kernels.fused.FusedLoss.__init__", lambda *_: None)
    decided = machine.decide(dataclasses.replace(CPU, threads=threads), 60.0, 0, MODEL, TRAIN)
    assert decided.compile is loads


# -- Products of 8-bit integers


OPEN = dataclasses.replace(CPU, open=("compile", "dtype"))


@pytest.fixture
def vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that multiplies 8-bit integers, not bf16, and has no tiles; and a step in C."""
    pretend(monkeypatch, bf16=False)
    monkeypatch.setattr(compile, "fused_loss", lambda *_: mean_loss)


def pretend(monkeypatch: pytest.MonkeyPatch, *, bf16: bool, int8: bool = True, tiles: bool = False) -> None:
    for module in (machine, device):
        monkeypatch.setattr(module, "has_tiles", lambda: tiles)
        monkeypatch.setattr(module, "bf16_in_hardware", lambda _: bf16)
        monkeypatch.setattr(module, "int8_in_hardware", lambda: int8)


def test_steps_in_c_multiply_8_bit_integers_where_nobody_chose_and_there_are_no_tiles(
    vnni: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine.decide(OPEN, 60.0, 0, MODEL, TRAIN).dtype == "int8"
    assert machine.decide(CPU, 60.0, 0, MODEL, TRAIN).dtype == "fp32", "it was asked for"
    pretend(monkeypatch, bf16=True)
    assert machine.decide(OPEN, 60.0, 0, MODEL, TRAIN).dtype == "int8"
    pretend(monkeypatch, bf16=True, int8=False)
    assert machine.decide(OPEN, 60.0, 0, MODEL, TRAIN).dtype == "bf16"
    pretend(monkeypatch, bf16=True, tiles=True)
    assert machine.decide(OPEN, 60.0, 0, MODEL, TRAIN).dtype == "bf16"


def test_other_steps_are_in_fp32(vnni: None) -> None:
    gpt2 = ModelConfig.preset("gpt2", "small", 1024)
    assert machine.decide(OPEN, 60.0, 0, gpt2, TRAIN).dtype == "fp32"
    assert machine.decide(dataclasses.replace(OPEN, open=("dtype",)), 60.0, 0, MODEL, TRAIN).dtype == "fp32"


@pytest.mark.parametrize(("bf16", "else_"), [(False, "fp32"), (True, "bf16")])
def test_more_tokens_than_sums_of_integers_can_hold_are_not_in_int8(
    vnni: None, monkeypatch: pytest.MonkeyPatch, bf16: bool, else_: str
) -> None:
    pretend(monkeypatch, bf16=bf16)
    model = ModelConfig.preset("qwen3", "small", 1024, context_length=1024)
    for windows, dtype in ((130, "int8"), (131, else_)):
        decided = machine.decide(OPEN, 60.0, 0, model, dataclasses.replace(TRAIN, batch_size=windows))
        assert decided.fused and decided.dtype == dtype


@pytest.mark.parametrize("compiled", ["auto", "off"])
def test_int8_that_was_asked_for_and_cannot_be_had_is_refused(vnni: None, compiled: str) -> None:
    asked = dataclasses.replace(CPU, int8=True, open=("compile",) if compiled == "auto" else ())
    model = MODEL if compiled == "off" else ModelConfig.preset("gpt2", "small", 1024)
    with pytest.raises(UsageError, match="`dtype='int8'` is for training steps in C on a CPU"):
        machine.decide(asked, 60.0, 0, model, TRAIN)


def test_a_run_goes_on_in_int8_where_the_processor_has_it(vnni: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert again(Notices(), dtype_before="int8", threads=2).dtype == "int8"
    pretend(monkeypatch, bf16=False, int8=False)
    assert again(Notices(), dtype_before="int8", threads=2).dtype == "fp32"


# -- A resumed run


def again(
    notices: Watcher,
    *,
    processors: int | None = None,
    seconds: float | None = None,
    dtype_before: str = "fp32",
    **asked: Any,
) -> Hardware:
    previous = {"machine": {"device": "cpu", "dtype": dtype_before, "threads": 64, "compile": "on"}}
    if processors is not None:
        previous["numerics"] = {"processors": processors}
    return machine.choose_again(Request.of("x", watcher=notices, **asked), ALONE, previous, seconds)


@pytest.fixture
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "count_processors", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: monkeypatch.setattr(torch, "get_num_threads", lambda: n))


@pytest.mark.row("R12")
@pytest.mark.parametrize("processors", [None, 64])
def test_a_smaller_machine_takes_as_many_threads_as_it_has_processors(
    two_processors: None, processors: int | None
) -> None:
    notices = Notices()
    assert again(notices, processors=processors).threads == 2
    assert notices.told == [
        "the run was started with 64 threads, and this machine has 2 processors; it continues with 2 "
        "(`threads` changes that)."
    ]


def test_on_the_same_machine_or_where_asked_for_threads_are_what_they_were(two_processors: None) -> None:
    notices = Notices()
    assert again(notices, processors=2).threads == 64, "more threads than processors were asked for then"
    assert again(notices, threads=7).threads == 7
    assert notices.told == []


def test_a_resumed_run_is_compiled_as_before() -> None:
    hardware = again(Notices(), threads=1)
    assert machine.decide(hardware, None, 3, MODEL, TRAIN, compiled_before=True).compile
    assert not machine.decide(hardware, None, 3, MODEL, TRAIN, compiled_before=False).compile
    assert not machine.decide(hardware, None, 3, MODEL, TRAIN).compile, "three steps are not worth a compiler"


def test_several_processes_share_no_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    two: Any = type("Two", (), {"size": 2})()
    with pytest.raises(UsageError, match="`device='cpu'`"):
        machine.choose(Request.of("x", device="mps"), two)


# -- What else results depend on


@pytest.mark.row("R19")
def test_variables_that_change_sums_are_recorded_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in numerics.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    recorded = {"numerics": numerics.facts(), "versions": {"torch": torch.__version__}}
    assert recorded["numerics"]["variables"] == {"MKL_CBWR": "COMPATIBLE"}
    assert numerics.differences(recorded) == []
    monkeypatch.delenv("MKL_CBWR")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert numerics.differences(recorded) == [
        "ATEN_CPU_CAPABILITY is default and was not set",
        "MKL_CBWR is not set and was COMPATIBLE",
    ]


def test_runs_of_older_versions_did_not_record_them() -> None:
    assert numerics.differences({}) == []
    assert numerics.differences({"versions": {"torch": "2.0.0"}}) == [f"torch {torch.__version__}, not 2.0.0"]

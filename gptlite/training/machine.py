"""The machine that a run trains on: device, precision, threads, compiled steps or not. All of it is decided here.

    choose   before the text is read: what was asked for, or what a resumed run had before
    (threads.settle_threads  fewer threads where other programs keep the processors busy, before the plan is made)
    decide   for a plan: compiled or not, and in which precision; nothing stays open
    ready    the loss of a training step on the machine that was decided on

The first two return a `Hardware`, which is frozen. Only `ready` may still change it: where torch's compiler fails.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import (
    Hardware,
    bf16_in_hardware,
    choose_hardware,
    count_gpus,
    has_tiles,
    int8_in_hardware,
)
from gptlite.errors import UsageError, plural
from gptlite.kernels.build import take_notices
from gptlite.kernels.products import MOST_ROWS
from gptlite.kernels.workers import Workers
from gptlite.model import GPT
from gptlite.system import count_processors
from gptlite.training import compile, launch
from gptlite.training.divided import plain_loss
from gptlite.training.ensemble import of_one_member
from gptlite.training.optimizer import Loss
from gptlite.training.request import Request
from gptlite.training.soft_targets import SoftTargets, with_targets
from gptlite.training.speed import guess_speed
from gptlite.training.team import Team
from gptlite.training.watcher import Watcher

# -- Before the text is read


def choose(request: Request, team: Team) -> Hardware:
    """The machine for a new run: what was asked for, and what is here. Raises `UsageError`."""
    return _shared(choose_hardware(request.device, request.dtype, request.threads, request.compile), team)


def choose_again(request: Request, team: Team, previous: Mapping[str, Any], seconds: float | None) -> Hardware:
    """The machine for a resumed run. What is not asked for is as it was, because the bits of the result depend on it.

    - `previous`: the run.json of the run.
    - `seconds`: the time budget; where there is one, it decides about compiling again.
    A device that this machine does not have, bf16 or int8 that its processor does not compute, and more threads than
    it has processors are not taken over. Raises `UsageError`.
    """
    was = previous.get("machine", {})
    device = was.get("device", "auto") if request.device == "auto" else request.device
    dtype = was.get("dtype", "auto") if request.dtype == "auto" else request.dtype
    here = {"bf16": lambda: bf16_in_hardware("cpu"), "int8": int8_in_hardware}.get(dtype, lambda: True)
    if request.dtype == "auto" and device == "cpu" and not here():
        dtype = "auto"
    threads = request.threads
    if threads is None and was.get("processes", 1) == team.size:
        threads = _threads_again(previous, request.watcher)
    compiled = request.compile
    if compiled == "auto" and seconds is None and was.get("compile") == "off":
        compiled = "off"
    try:
        hardware = choose_hardware(device, dtype, threads, compiled)
    except UsageError:  # perhaps because of a device that was not asked for today
        hardware = choose_hardware(request.device, request.dtype, request.threads, request.compile)
    return _shared(hardware, team)


def _threads_again(previous: Mapping[str, Any], watcher: Watcher) -> int | None:
    """The number of threads that the run had, or of the processors where a smaller machine has fewer."""
    threads, processors = previous.get("machine", {}).get("threads"), count_processors()
    had = previous.get("numerics", {}).get("processors")
    if not isinstance(threads, int) or threads <= processors or (had is not None and had <= processors):
        return threads
    watcher.notice(
        f"the run was started with {plural(threads, 'thread')}, and this machine has "
        f"{plural(processors, 'processor')}; it continues with {processors} (`threads` changes that)."
    )
    return processors


def _shared(hardware: Hardware, team: Team) -> Hardware:
    """`hardware` for the processes of a team. Raises `UsageError` where they cannot share it."""
    if team.size > 1 and hardware.device.type == "mps":
        raise UsageError("several processes train on CPUs or on NVIDIA GPUs; use `device='cpu'`.")
    if hardware.device.type == "cuda" and (n := launch.processes_here()) > count_gpus():
        raise UsageError(
            f"{n} processes need a GPU each, and there are {count_gpus()}; start fewer, or use `device='cpu'`."
        )
    return dataclasses.replace(hardware, processes=team.size)


def choose_as_told(told: Mapping[str, Any], team: Team) -> Hardware:
    """The machine of a process that is not the first, which has told what `Hardware.choices` says of its own."""
    return _shared(choose_hardware(**told), team)


# -- For a plan


def decide(
    hardware: Hardware,
    seconds: float | None,
    steps: float,
    model: ModelConfig,
    train: TrainConfig,
    compiled_before: bool | None = None,
) -> Hardware:
    """`hardware` with everything decided for a run of `seconds` or, where None, of `steps`; nothing stays open.

    - `compiled_before`: whether a resumed run of a number of steps had compiled steps.

    The step that is written in C (kernels/fused.c) is built and loaded now, so that what is decided is there. Where
    that fails, torch's compiler, which takes half a minute and more, is used only in a run that is long enough for it.
    A number of steps is taken to last as long as a guess says, so that such a run is the same every time.
    Matrix products on a CPU are in bf16 where it has tiles for them. Without tiles, those of a step in C are in int8
    where it has instructions for that, else in bf16 where it has those. Raises `UsageError` where int8 was asked for
    and the step is not written in C.
    """
    on_cpu, steps = hardware.device.type == "cpu", steps * train.members
    model, train = of_one_member(model, train)
    guess = steps * train.share(hardware.processes).batch_size * model.context_length / guess_speed(model, hardware)
    length = guess if seconds is None else seconds
    wanted = compiled_before if "compile" in hardware.open else hardware.compile  # None: whatever pays
    is_fused = is_compiled = int8 = False
    bf16 = hardware.bf16 or ("dtype" in hardware.open and has_tiles())
    if wanted is False or (train.shard == "fsdp" and hardware.processes > 1):
        pass
    elif compile.has_fused_step(model, train, hardware):
        as_fused = _for_fused(hardware, model, train)
        if wanted or compile.fused_pays(seconds, guess, hardware):
            workers = compile.workers_for(dataclasses.replace(as_fused, fused=True), train)
            is_fused = compile.fused_loss(model, train, as_fused, workers) is not None
        if is_fused:
            bf16, int8 = as_fused.bf16, as_fused.int8
        is_compiled = is_fused or ((wanted or seconds is not None) and compile.pays(length, model, train, hardware))
    elif wanted is None:
        is_compiled = (seconds is not None or not on_cpu) and compile.pays(length, model, train, hardware)
    else:
        is_compiled = True
    is_compiled = is_compiled and (is_fused or not train.ngram_weight)  # torch compiles the loss without soft targets
    if hardware.int8 and not int8:
        raise UsageError(
            "`dtype='int8'` is for training steps in C on a CPU, and those of this run are not; use `dtype='auto'`."
        )
    reason = hardware.reason
    if not is_fused and wanted is not False and (cost := _missing(hardware, model, train, length)):
        reason += f"; {cost}"
    elif wanted and not is_compiled:
        reason += "; compiled steps cannot be made here"
    return dataclasses.replace(
        hardware, compile=bool(is_compiled), fused=is_fused, bf16=bf16, int8=int8, reason=reason, open=()
    )


def _for_fused(hardware: Hardware, model: ModelConfig, train: TrainConfig) -> Hardware:
    """`hardware` with the precision that a step in C has on it."""
    fits = train.windows_at_once * model.context_length <= MOST_ROWS
    if "dtype" in hardware.open:
        int8 = fits and int8_in_hardware() and not has_tiles()
        return dataclasses.replace(hardware, int8=int8, bf16=not int8 and bf16_in_hardware("cpu"))
    return dataclasses.replace(hardware, int8=hardware.int8 and fits)


def _missing(hardware: Hardware, model: ModelConfig, train: TrainConfig, seconds: float) -> str:
    """What a run of `seconds` loses without a C compiler, as a sentence; "" if it loses nothing or has one."""
    if seconds < compile.FUSED_SECONDS or not compile.has_fused_step(model, train, hardware):
        return ""
    return compile.cost_without_compiler(hardware)


def ready(
    model: GPT,
    train: TrainConfig,
    hardware: Hardware,
    team: Team,
    watcher: Watcher,
    workers: Workers | None = None,
    targets: SoftTargets | None = None,
) -> tuple[Loss, Hardware]:
    """The loss of a training step of `model` as the first process decided, and the machine that it then runs on.

    - `workers`: the threads among which a step is divided.
    - `targets`: soft targets of the text.
    Compilers fail in many ways, and none is a reason not to train: then steps are not compiled, with a notice.
    """
    names = ("compile", "fused", "bf16", "int8")
    values = team.broadcast([getattr(hardware, name) for name in names])
    hardware = dataclasses.replace(hardware, **dict(zip(names, values, strict=True)))
    train = train.share(hardware.processes)
    workers = workers or Workers()
    loss_of = plain_loss(hardware, workers)
    if hardware.compile:
        watcher.phase("compiling", 0.0)
        try:
            loss_of = (
                compile.load_fused_loss(hardware, workers)
                if hardware.fused
                else compile.compile_with_torch(model, train, hardware)
            )
        except Exception as error:
            watcher.notice(f"compiling failed ({type(error).__name__}), so steps are not compiled.")
            hardware = dataclasses.replace(hardware, compile=False, fused=False, int8=False)
        for text in take_notices():
            watcher.notice(text)
    loss_of = with_targets(loss_of, targets)
    team.prepare(model, loss_of)
    return loss_of, hardware

"""Compiled training steps: what they cost, when they pay, and how they are made. machine.py decides with this.

On a CPU, models like qwen3 and llama have their step written in C (kernels/fused.c), which a C compiler builds in a
second or two, once on a machine. For other models torch generates C++, or on GPUs Triton, for what lies between matrix
products; the first compilation of a shape takes half a minute and more. What was compiled is kept in the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware, bf16_in_hardware, int8_in_hardware
from gptlite.errors import StorageError
from gptlite.kernels import fused
from gptlite.kernels.build import Kernel, NoCompiler, NoKernel
from gptlite.kernels.folder import code_directory, use_private_inductor_cache
from gptlite.kernels.workers import Workers, parts_for
from gptlite.model import GPT
from gptlite.paths import cache_directory
from gptlite.training.optimizer import Loss, mean_loss

FUSED_SECONDS = 10.0  # a shorter run does not wait for a C compiler


@dataclass(frozen=True)
class Price:
    """What torch's compiler costs the first time and later, in seconds, and tokens a second, compiled over not."""

    cold: float
    warm: float
    gain: float


PRICES = {
    "cpu": Price(cold=40.0, warm=5.0, gain=1.12),  # measured 21 to 43, 2.5, and 1.11 to 1.6 (docs/lab/log.md)
    "cuda": Price(cold=44.0, warm=5.0, gain=1.9),  # measured 36 to 44, 2 to 3, and 1.9 (docs/lab/gpus.md)
}


def pays(seconds: float, model: ModelConfig, train: TrainConfig, hardware: Hardware) -> bool:
    """Is it worth asking torch to compile a step of this shape for a run of so many seconds?"""
    price = PRICES.get(hardware.device.type)
    if price is None or not _has_compiler(hardware):
        return False
    cost = price.warm if _mark(model, train, hardware).exists() else price.cold
    return (seconds - cost) * price.gain > seconds


def has_fused_step(model: ModelConfig, train: TrainConfig, hardware: Hardware) -> bool:
    """Is the step of this model written in C for this device?"""
    return hardware.device.type == "cpu" and fused.can_compute(model, train)


def fused_pays(seconds: float | None, guess: float, hardware: Hardware) -> bool:
    """Is the step in C worth a C compiler's time in a run of `seconds` or, for a number of steps, of a `guess` at them?

    Always, where it was built on this machine before and time is the budget.
    """
    if seconds is None:
        return guess >= FUSED_SECONDS
    if seconds >= FUSED_SECONDS:
        return True
    try:
        return _kernel(hardware).built
    except (NoKernel, StorageError):
        return False


def fused_loss(
    model: ModelConfig, train: TrainConfig, hardware: Hardware, workers: Workers | None = None
) -> Loss | None:
    """The step in C, built where it is not; None where it does not exist or cannot be built or loaded."""
    if not has_fused_step(model, train, hardware):
        return None
    try:
        return load_fused_loss(hardware, workers)
    except (NoKernel, StorageError):
        return None


def cost_without_compiler(hardware: Hardware) -> str:
    """What it costs that this computer has no C compiler and how to get one, for the first line of a run; else ""."""
    try:
        _kernel(hardware)
    except NoCompiler:
        # A step in C has 16 or 8 bits where the processor has instructions for them; docs/lab/log.md, 2026-11-30.
        is_rounded = "dtype" in hardware.open and (bf16_in_hardware("cpu") or int8_in_hardware())
        times = "1.6 to 2.3 times" if is_rounded else "1.1 to 1.4 times"
        way = "the command xcode-select installs Apple's" if sys.platform == "darwin" else "the package gcc is one"
        return f"without a C compiler a step takes {times} as long; to get one: {way}"
    except (NoKernel, StorageError):
        pass
    return ""


def load_fused_loss(hardware: Hardware, workers: Workers | None = None) -> Loss:
    """The step in C for `hardware`, built where it is not. Raises `NoKernel` and `StorageError`.

    - `workers`: the threads that divide a step among them; by default all of them compute in every operator.
    Where a step is not divided, a library that the compiler made without OpenMP runs on one thread. Torch's operators
    on several are faster, so it is refused there.
    """
    workers = workers or Workers()
    kernel = _kernel(hardware)
    library, _ = kernel.open()
    if hardware.threads > 1 == workers.parts and not kernel.parallel:
        raise NoKernel("the C compiler does not support OpenMP, so there would be one thread")
    dtype = torch.bfloat16 if hardware.bf16 else torch.int8 if hardware.int8 else torch.float32
    return fused.FusedLoss(library, hardware.threads, dtype, workers)


def workers_for(hardware: Hardware, train: TrainConfig) -> Workers:
    """The threads that divide the windows of a batch among them: two to four on a CPU in one process, else one.

    What torch has compiled computes on its own threads, and what is recomputed draws torch's own random numbers.
    """
    alone = hardware.device.type == "cpu" and hardware.processes == 1
    divided = alone and not train.recompute and (hardware.fused or not hardware.compile)
    return Workers(parts_for(hardware.threads) if divided else 1)


def _kernel(hardware: Hardware) -> Kernel:
    """The place of fused.c as machine code. Raises `NoKernel` and `StorageError`."""
    return Kernel("fused", code_directory("kernels"), *(("BF16",) if hardware.bf16 else ()))


def compile_with_torch(model: GPT, train: TrainConfig, hardware: Hardware) -> Loss:
    """`torch.compile` of the loss for the batches of a run; it compiles when it first runs, which is here.

    Leaves no trace in the model. Raises whatever torch's compiler raises.
    """
    use_private_inductor_cache()
    compiled: Loss = torch.compile(mean_loss, dynamic=False)
    batch = torch.zeros(
        train.windows_at_once, model.config.context_length + 1, dtype=torch.long, device=hardware.device
    )
    try:
        devices = [hardware.device] if hardware.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice for whoever writes models, such as to use TF32
            model.train()
            with hardware.autocast():
                loss = compiled(model, batch)
            loss.backward()
    finally:
        model.zero_grad(set_to_none=True)
    with contextlib.suppress(OSError):  # a cache that cannot be written
        mark = _mark(model.config, train, hardware)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    return compiled


def _mark(model: ModelConfig, train: TrainConfig, hardware: Hardware) -> Path:
    """The file that says that this very step was compiled here before."""
    machine = hardware.threads if hardware.device.type == "cpu" else hardware.device.type
    step = (torch.__version__, model, train.windows_at_once, train.dropout, hardware.bf16, machine)
    return cache_directory() / "compiled" / hashlib.sha256(repr(step).encode()).hexdigest()[:32]


def _has_compiler(hardware: Hardware) -> bool:
    """Is there what torch would call: Triton for a GPU, which calls a C compiler, or the one for C++?"""
    if hardware.device.type == "cuda":
        return importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))
    usual = "clang++" if sys.platform == "darwin" else "g++"
    return sys.platform != "win32" and shutil.which(os.environ.get("CXX") or usual) is not None

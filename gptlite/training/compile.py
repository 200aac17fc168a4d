"""Training steps made quicker by a compiler, in one of two ways.

On a CPU, models like qwen3 and llama have their step written out (fused.py); a C compiler is done with it in a second
or two, once on a machine. For others torch writes C++, or on GPUs Triton, of its own for what stands between matrix
products; the first compilation of a shape takes half a minute and more. So the budget decides. What was compiled once
is kept in the cache directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from gptlite.device import Hardware, has_tiles
from gptlite.errors import StorageError
from gptlite.kernels import fused
from gptlite.kernels.build import Kernel, NoKernel
from gptlite.model import GPT
from gptlite.paths import cache_directory
from gptlite.training.optimizer import Loss, mean_loss
from gptlite.training.speed import guess_speed

FUSED_SECONDS = 10.0  # a run that is shorter does without, so that it need not wait for a compiler


@dataclass(frozen=True)
class Price:
    """What torch's compiler costs the first time and later, in seconds, and tokens a second, compiled over not."""

    cold: float
    warm: float
    gain: float


PRICES = {
    "cpu": Price(cold=40.0, warm=5.0, gain=1.12),  # measured 21 to 43, 2.5, and 1.11 to 1.6 (docs/log.md)
    "cuda": Price(cold=44.0, warm=5.0, gain=1.9),  # measured 36 to 44, 2 to 3, and 1.9 (docs/scaling.md)
}


def decide(hardware: Hardware, seconds: float | None, steps: float, model: ModelConfig, train: TrainConfig) -> Hardware:
    """`hardware` with what is open decided for a training of so many `seconds` or, where None, of so many `steps`.

    Products on a CPU are in bf16 where that is in hardware and something comes of it: in steps that are written out,
    and with tiles in all. A number of steps is as long as a guess says, so that such a run is the same again.
    """
    guess = guess_seconds(steps, model, train, hardware)
    if "compile" in hardware.open:
        is_worth_it = fused_pays(seconds, guess, model, train, hardware)
        if not is_worth_it and (seconds is not None or hardware.device.type != "cpu"):
            is_worth_it = pays(guess if seconds is None else seconds, model, train, hardware)
        hardware = dataclasses.replace(hardware, compile=is_worth_it)
    if "dtype" in hardware.open:
        is_fused = hardware.compile and _kernel(model, train, hardware) is not None
        hardware = dataclasses.replace(hardware, bf16=is_fused or has_tiles())
    return hardware


def guess_seconds(steps: float, model: ModelConfig, train: TrainConfig, hardware: Hardware) -> float:
    """How long so many steps take, where nothing was measured."""
    tokens = steps * train.share(hardware.processes).batch_size * model.context_length
    return tokens / guess_speed(model, hardware)


def pays(seconds: float, model: ModelConfig, train: TrainConfig, hardware: Hardware) -> bool:
    """Is it worth asking torch to compile a step of this shape for a run of so many seconds?"""
    price = PRICES.get(hardware.device.type)
    if price is None or not _has_compiler(hardware):
        return False
    cost = price.warm if _mark(model, train, hardware).exists() else price.cold
    return (seconds - cost) * price.gain > seconds


def fused_pays(seconds: float | None, guess: float, model: ModelConfig, train: TrainConfig, hardware: Hardware) -> bool:
    """Is it worth compiling a step that is written out, for a run of so many seconds or, for a number of steps, by a
    `guess` at them?"""
    kernel = _kernel(model, train, hardware)
    if kernel is None:
        return False
    return guess >= FUSED_SECONDS if seconds is None else seconds >= FUSED_SECONDS or kernel.built


def make_loss(model: GPT, train: TrainConfig, hardware: Hardware) -> tuple[Loss, Hardware]:
    """`optim.mean_loss` of `model` for its training batches, as `hardware` decided; and what it then computes with.

    Leaves no trace in the model. Raises whatever torch's compiler raises.
    """
    if hardware.compile and (loss := fused_loss(model.config, train, hardware)):
        return loss, hardware
    if "dtype" in hardware.open:
        hardware = dataclasses.replace(hardware, bf16=has_tiles())
    return (compile_with_torch(model, train, hardware) if hardware.compile else mean_loss), hardware


def fused_loss(model: ModelConfig, train: TrainConfig, hardware: Hardware) -> Loss | None:
    """The step that is written out, None where it is not or there is no compiler."""
    kernel = _kernel(model, train, hardware)
    if kernel is None:
        return None
    try:
        if not kernel.built:
            kernel.build()
        return fused.FusedLoss(kernel.load(), hardware.threads, torch.bfloat16 if hardware.bf16 else torch.float32)
    except NoKernel:
        return None


def _kernel(model: ModelConfig, train: TrainConfig, hardware: Hardware) -> Kernel | None:
    """The place of fused.c as machine code, if it can compute this step."""
    if hardware.device.type != "cpu" or not fused.can_compute(model, train):
        return None
    if sys.platform == "darwin":  # its compiler knows no OpenMP, and one thread is slower than torch's many
        return None
    try:
        return Kernel("fused", cache_directory() / "kernels", *(("BF16",) if hardware.bf16 else ()))
    except (NoKernel, StorageError):
        return None


def compile_with_torch(model: GPT, train: TrainConfig, hardware: Hardware) -> Loss:
    """`torch.compile`, which is done by running it once."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_directory() / "inductor"))
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

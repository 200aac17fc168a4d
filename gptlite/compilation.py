"""Training steps made quicker by a compiler, on a CPU in one of two ways.

Models like qwen3 and llama have their step written out (fused.py); a C compiler is done with it in a second or two,
once on a machine, and steps become a third quicker. For others torch writes C++ for what stands between the matrix
products; steps become an eighth quicker, but the first compilation of a shape takes half a minute and more. So the
budget decides. What was compiled once is kept in the cache directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import sys
from pathlib import Path

import torch

from gptlite import fused
from gptlite.config import ModelConfig, TrainConfig
from gptlite.data import cache_directory
from gptlite.device import Hardware, has_tiles
from gptlite.errors import StorageError
from gptlite.kernel import Kernel, NoKernel
from gptlite.model import GPT
from gptlite.optim import Loss, mean_loss
from gptlite.speed import guess_speed

FUSED_SECONDS = 10.0  # a run that is shorter does without, so that it need not wait for a compiler
GAIN = 1.12  # tokens a second, compiled by torch over not; measured 1.11 to 1.6 (docs/log.md)
COLD_SECONDS, WARM_SECONDS = 40.0, 5.0  # measured 21 to 43, and 2.5


def decide(hardware: Hardware, seconds: float | None, steps: float, model: ModelConfig, train: TrainConfig) -> Hardware:
    """`hardware` with what is open decided for a training of so many `seconds` or, where None, of so many `steps`.

    Products are in bf16 where that is in hardware and something comes of it: in steps that are written out, and with
    tiles in all.
    """
    if "compile" in hardware.open:
        is_worth_it = fused_pays(seconds, steps, model, train, hardware) or pays(seconds, model, train, hardware)
        hardware = dataclasses.replace(hardware, compile=is_worth_it)
    if "dtype" in hardware.open:
        is_fused = hardware.compile and _kernel(model, train, hardware) is not None
        hardware = dataclasses.replace(hardware, bf16=is_fused or has_tiles())
    return hardware


def pays(seconds: float | None, model: ModelConfig, train: TrainConfig, hardware: Hardware) -> bool:
    """Is it worth asking torch to compile a step of this shape, on a CPU, for a run of so many seconds?

    Never for a number of steps (None): it may take longer than they do.
    """
    if seconds is None or hardware.device.type != "cpu" or not _has_compiler():
        return False
    cost = WARM_SECONDS if _mark(model, train, hardware).exists() else COLD_SECONDS
    return (seconds - cost) * GAIN > seconds


def fused_pays(seconds: float | None, steps: float, model: ModelConfig, train: TrainConfig, hardware: Hardware) -> bool:
    """Is it worth compiling a step that is written out? For `steps`, the same everywhere with a compiler."""
    kernel = _kernel(model, train, hardware)
    if kernel is None or seconds is not None:
        return kernel is not None and (seconds >= FUSED_SECONDS or kernel.built)
    tokens = steps * train.share(hardware.processes).batch_size * model.context_length
    return tokens / guess_speed(model, hardware) >= FUSED_SECONDS


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
        with torch.random.fork_rng(devices=[hardware.device] if hardware.device.type == "cuda" else []):
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
    step = (torch.__version__, model, train.windows_at_once, train.dropout, hardware.bf16, hardware.threads)
    return cache_directory() / "compiled" / hashlib.sha256(repr(step).encode()).hexdigest()[:32]


def _has_compiler() -> bool:
    """Is there the C++ compiler that torch would call?"""
    usual = "clang++" if sys.platform == "darwin" else "g++"
    return sys.platform != "win32" and shutil.which(os.environ.get("CXX") or usual) is not None

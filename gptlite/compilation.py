"""Training steps made quicker by a compiler, on a CPU in one of two ways.

Models like qwen3 and llama have their step written out (fused.py); a C compiler is done with it in a second or two,
once on a machine, and steps become a third quicker. For others torch writes C++ for what stands between the matrix
products; steps become an eighth quicker, but the first compilation of a shape takes half a minute and more. So the
budget decides. What was compiled once is kept in the cache directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
from pathlib import Path

import torch

from gptlite import fused
from gptlite.config import ModelConfig, TrainConfig
from gptlite.data import cache_directory
from gptlite.device import Hardware
from gptlite.errors import StorageError
from gptlite.kernel import Kernel, NoKernel
from gptlite.model import GPT
from gptlite.optim import Loss, mean_loss
from gptlite.speed import guess_speed

FUSED_SECONDS = 10.0  # a run that is shorter does without, so that it need not wait for a compiler
GAIN = 1.12  # tokens a second, compiled by torch over not; measured 1.11 to 1.6 (docs/log.md)
COLD_SECONDS, WARM_SECONDS = 40.0, 5.0  # measured 21 to 43, and 2.5


def pays(seconds: float | None, steps: float, model: ModelConfig, train: TrainConfig, hardware: Hardware) -> bool:
    """Is a step of this shape, on a CPU, worth compiling for a run of so many seconds, or where None of so many steps?

    torch is never asked for a number of steps, for it may need longer than they do.
    """
    if fused_pays(seconds, steps, model, train, hardware):
        return True
    if seconds is None or hardware.device.type != "cpu" or not _has_compiler():
        return False
    cost = WARM_SECONDS if _mark(model, train, hardware).exists() else COLD_SECONDS
    return (seconds - cost) * GAIN > seconds


def fused_pays(seconds: float | None, steps: float, model: ModelConfig, train: TrainConfig, hardware: Hardware) -> bool:
    """The same of a step that is written out; it depends on nothing but the arguments and a compiler being there."""
    if seconds is None:
        share = train.share(hardware.processes)
        seconds = steps * share.batch_size * model.context_length / guess_speed(model, hardware)
    return seconds >= FUSED_SECONDS and _kernel(model, train, hardware) is not None


def compile_loss(model: GPT, train: TrainConfig, hardware: Hardware) -> Loss:
    """`optim.mean_loss` of `model`, compiled for its training batches; leaves no trace in the model.

    Raises whatever the compiler raises.
    """
    return fused_loss(model.config, train, hardware) or _compile_with_torch(model, train, hardware)


def fused_loss(model: ModelConfig, train: TrainConfig, hardware: Hardware) -> Loss | None:
    """The step that is written out, None where it is not or there is no compiler."""
    kernel = _kernel(model, train, hardware)
    if kernel is None:
        return None
    try:
        if not kernel.built:
            kernel.build()
        return fused.FusedLoss(kernel.load(), hardware.threads)
    except NoKernel:
        return None


def _kernel(model: ModelConfig, train: TrainConfig, hardware: Hardware) -> Kernel | None:
    """The place of fused.c as machine code, if it can compute this step."""
    if hardware.device.type != "cpu" or hardware.bf16 or not fused.can_compute(model, train):
        return None
    try:
        return Kernel("fused", cache_directory() / "kernels")
    except (NoKernel, StorageError):
        return None


def _compile_with_torch(model: GPT, train: TrainConfig, hardware: Hardware) -> Loss:
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

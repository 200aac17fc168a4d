"""Compiling a training step: torch writes C++, or on GPUs Triton, of its own for what stands between matrix products.

Steps become quicker, but the first compilation of a shape takes half a minute and more, so the budget decides. What was
compiled once is kept in the cache directory and is ready in seconds.
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
from gptlite.data import cache_directory
from gptlite.device import Hardware
from gptlite.model import GPT
from gptlite.optim import Loss, mean_loss


@dataclass(frozen=True)
class Price:
    """What compiling costs the first time and later, in seconds, and tokens a second, compiled over not."""

    cold: float
    warm: float
    gain: float


PRICES = {
    "cpu": Price(cold=40.0, warm=5.0, gain=1.12),  # measured 21 to 43, 2.5, and 1.11 to 1.6 (docs/log.md)
    "cuda": Price(cold=40.0, warm=15.0, gain=1.3),  # guesses
}


def pays(seconds: float | None, model: ModelConfig, train: TrainConfig, hardware: Hardware) -> bool:
    """Is a step of this shape worth compiling for a run of so many seconds?

    Never where nobody knows how many (None).
    """
    price = PRICES.get(hardware.device.type)
    if seconds is None or price is None or not _has_compiler(hardware):
        return False
    cost = price.warm if _mark(model, train, hardware).exists() else price.cold
    return (seconds - cost) * price.gain > seconds


def compile_loss(model: GPT, train: TrainConfig, hardware: Hardware) -> Loss:
    """`optim.mean_loss` of `model`, compiled for its training batches by running it once; leaves no trace in the model.

    Raises whatever the compiler raises.
    """
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

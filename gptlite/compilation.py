"""Compiling a training step: torch writes C++ of its own for what stands between the matrix products.

Steps become about an eighth quicker on a CPU, but the first compilation of a shape takes half a minute and more, so the
budget decides. What was compiled once is kept in the cache directory and is ready in seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
from pathlib import Path

import torch

from gptlite.config import ModelConfig, TrainConfig
from gptlite.data import cache_directory
from gptlite.device import Hardware
from gptlite.model import GPT
from gptlite.optim import Loss, mean_loss

GAIN = 1.12  # tokens a second, compiled over not; measured 1.11 to 1.6 (docs/log.md)
COLD_SECONDS, WARM_SECONDS = 40.0, 5.0  # measured 21 to 43, and 2.5


def pays(seconds: float | None, model: ModelConfig, train: TrainConfig, hardware: Hardware) -> bool:
    """Is a step of this shape, on a CPU, worth compiling for a run of so many seconds?

    Never for a number of steps (None): such a run is the same wherever it runs.
    """
    if seconds is None or hardware.device.type != "cpu" or not _has_compiler():
        return False
    cost = WARM_SECONDS if _mark(model, train, hardware).exists() else COLD_SECONDS
    return (seconds - cost) * GAIN > seconds


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

"""How many threads a training of a given time takes where other programs want the processors too."""

from __future__ import annotations

import time

import torch

from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware, use_threads
from gptlite.errors import plural
from gptlite.training import compile
from gptlite.training.optimizer import mean_loss
from gptlite.training.speed import measure_speed
from gptlite.training.watcher import Watcher

PROBE = ModelConfig.preset("qwen3", "small", 1024, n_layers=4, dim=128), TrainConfig()  # what threads are timed with
UNDISTURBED = 0.8  # share of the time in which threads run; with less, other programs are at work
LISTENING_SECONDS = 0.15


def settle_threads(hardware: Hardware, seconds: float | None, watcher: Watcher) -> Hardware:
    """`hardware` with the quickest number of threads; threads that wait for each other lose more than they win.

    Measured for a time budget of `seconds` and where `threads` was not given. A number of steps keeps all threads, so
    that its bits do not depend on what else runs.
    """
    if seconds is None or "threads" not in hardware.open or hardware.threads == 1 or hardware.processes > 1:
        return hardware
    watcher.phase("measuring this machine", 0.0)
    if _undisturbed(hardware) >= UNDISTURBED:
        return hardware
    speeds: dict[int, float] = {}
    for threads in sorted({1, hardware.threads // 2, hardware.threads}):
        now = use_threads(hardware, threads)
        loss_of = compile.fused_loss(*PROBE, now) or mean_loss
        speeds[threads] = measure_speed(*PROBE, now, 0.0, loss_of).tokens_per_second
    fastest = max(speeds, key=lambda threads: speeds[threads])
    if fastest != hardware.threads:
        watcher.notice(
            f"other programs keep the processors busy, so training uses {fastest} of "
            f"{plural(hardware.threads, 'thread')}; `threads={hardware.threads}` uses all."
        )
    return use_threads(hardware, fastest)


def _undisturbed(hardware: Hardware) -> float:
    """The share of the time in which this process runs when it wants to, on all of its threads."""
    a = torch.ones(512, 512)
    torch.mm(a, a)  # the first time, threads are started
    worked, began = time.process_time(), time.monotonic()
    while time.monotonic() - began < LISTENING_SECONDS:
        torch.mm(a, a)
    return (time.process_time() - worked) / ((time.monotonic() - began) * hardware.threads)

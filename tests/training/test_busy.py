"""Steps beside processes that compute without pause: threads that divide a step get about their fair share."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch

from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import choose_hardware
from gptlite.kernels.workers import Workers
from gptlite.model import GPT, initialise
from gptlite.training import optimizer
from gptlite.training.divided import plain_loss

SPIN = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


@contextlib.contextmanager
def busy(n: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.skipif(os.cpu_count() != 2, reason="the fair share is that of two threads on two processors")
@pytest.mark.parametrize("others", [2, 4])
def test_two_threads_get_at_least_70_percent_of_their_fair_share(others: int) -> None:
    config, workers, hardware = (
        ModelConfig.preset("qwen3", "small", 512, n_layers=3, dim=96),
        Workers(2),
        choose_hardware("cpu"),
    )
    model = GPT(config)
    initialise(model, 0)
    optimizers = optimizer.make_optimizers(model.train(), TrainConfig(), workers=workers)
    loss_of, batch = plain_loss(hardware, workers), torch.randint(512, (16, 129))

    def steps_per_second(seconds: float) -> float:
        n, began = 0, time.monotonic()
        while time.monotonic() - began < seconds:
            optimizer.training_step(model, optimizers, batch, hardware, 1.0, loss_of, workers=workers)
            n += 1
        return n / (time.monotonic() - began)

    steps_per_second(0.5)
    quiet = steps_per_second(3.0)
    with busy(others):
        beside = steps_per_second(8.0)
    assert beside > 0.7 * quiet * 2 / (2 + others)

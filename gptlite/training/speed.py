"""How fast this machine takes a training step of a model: measured, because caches and load decide, or guessed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware
from gptlite.kernels.folder import use_private_inductor_cache
from gptlite.kernels.workers import Workers
from gptlite.model import GPT, initialise
from gptlite.training import pauses
from gptlite.training.optimizer import Loss, make_optimizers, mean_loss, recompute_blocks, training_step

MOST_STEPS = 5
CPU_FLOPS_PER_THREAD, GPU_FLOPS = 4e10, 2e13  # reached in training, per ordinary core and per GPU


@dataclass(frozen=True)
class Speed:
    """Seconds that one optimizer step takes, and its tokens per second."""

    seconds_per_step: float
    tokens_per_second: float


def guess_speed(config: ModelConfig, hardware: Hardware) -> float:
    """Tokens per second where nothing was measured; the same on all machines of a kind."""
    on_cpu = hardware.device.type == "cpu"
    return (CPU_FLOPS_PER_THREAD * hardware.threads if on_cpu else GPU_FLOPS) / (6 * config.n_params)


def measure_speed(
    config: ModelConfig,
    train: TrainConfig,
    hardware: Hardware,
    seconds: float,
    loss_of: Loss = mean_loss,
    workers: Workers | None = None,
) -> Speed:
    """Take a few steps on random tokens, for about `seconds`, at least one after the first, which is slower.

    Of several processes, the share of one is timed, as if all were equally quick and their exchange took no time.
    Random numbers come from a generator of its own; the global random state is left as it was.
    """
    train = train.share(hardware.processes)
    use_private_inductor_cache()  # before the first optimizer, which makes torch look for its own
    with torch.random.fork_rng(devices=[hardware.device] if hardware.device.type == "cuda" else []):
        model = GPT(config, dropout=train.dropout)
        initialise(model, seed=0)
        model.to(hardware.device).train()
        if train.recompute:
            recompute_blocks(model)
        optimizers = make_optimizers(model, train, workers=workers)
        generator = torch.Generator().manual_seed(0)
        shape = (train.batch_size, config.context_length + 1)
        batch = torch.randint(config.vocab_size, shape, generator=generator)
        times: list[float] = []
        began = pauses.now()
        while len(times) < 2 or (len(times) <= MOST_STEPS and pauses.now() - began < seconds):
            before = pauses.now()
            training_step(model, optimizers, batch, hardware, train.clip, loss_of, train.accumulate, workers=workers)
            times.append(pauses.now() - before)
    # Other programs slow steps down, so the fastest one counts; the first one builds what later ones reuse.
    fastest = min(times[1:])
    return Speed(fastest, hardware.processes * train.batch_size * config.context_length / fastest)

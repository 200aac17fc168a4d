"""Weak scaling on one machine: what N processes with one thread each do beside one process with one thread.

    python benchmarks/scaling.py                 # two processes, the shape of a small model
    python benchmarks/scaling.py --processes 4 --shard fsdp

Every process has `--windows` windows of text a step, so N processes have N times the batch; perfect scaling takes the
same time. The processes are started once and measure in turn, so that a machine that slows down slows all: the first
one alone, all together, and all side by side, each with a model of its own, which is what the machine could give.
Prints one line of JSON.

The step is that of `gptlite train`: forward, backward, gradients averaged, Muon shared out, and the exchange of what
the first process decides. Text, scores and saves are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import choose_hardware
from gptlite.model import GPT, initialise
from gptlite.training import optimizer
from gptlite.training import team as distributed
from gptlite.training.team import ALONE, Team

VOCAB_SIZE = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--shard", default="none")
    parser.add_argument("--optimizer", default="muon")
    parser.add_argument("--windows", type=int, default=8, help="of each process, a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--size", default="small")
    arguments = parser.parse_args()
    if "RANK" not in os.environ:
        start(arguments.processes)
        return
    with distributed.together(0, lambda: None) as team:
        rates = measure(team, arguments)
        if team.leads:
            report(arguments, rates)


def start(processes: int) -> None:
    """This program again, so many times; the first of them prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        place |= {"LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        started.append(subprocess.Popen([sys.executable, *sys.argv], env={**os.environ, **place}))
    sys.exit(max(process.wait() for process in started))


def measure(team: Team, arguments: argparse.Namespace) -> list[tuple[float, float, float]]:
    """Tokens a second, in turn: of the first process alone, of all together, and of all side by side."""
    alone, together = Trainer(ALONE, arguments), Trainer(team, arguments)
    rates: list[tuple[float, float, float]] = []
    for _ in range(arguments.rounds + 1):
        by_itself = alone.rate(arguments.seconds) if team.leads else 0.0
        team.sums(0.0)  # the others wait here
        jointly = together.rate(arguments.seconds)
        rates.append((by_itself, jointly, *team.sums(alone.rate(arguments.seconds))))
    return rates[1:]  # the first time, things are built that later ones reuse


class Trainer:
    """A model and its optimizers, for a team."""

    def __init__(self, team: Team, arguments: argparse.Namespace) -> None:
        self.windows = arguments.windows
        self.hardware = choose_hardware("cpu", "fp32", 1, "off")
        self.shape = ModelConfig.preset("qwen3", arguments.size, VOCAB_SIZE, tie_embeddings=False)
        config = TrainConfig(batch_size=arguments.windows * team.size, optimizer=arguments.optimizer)
        self.model = GPT(self.shape)
        initialise(self.model, seed=1)
        self.team = team.sharing(arguments.shard)
        self.team.distribute(self.model, list(self.model.transformer.blocks))
        self.optimizers = optimizer.make_optimizers(self.model, config, self.team)
        self.team.prepare(self.model, optimizer.mean_loss)
        generator = torch.Generator().manual_seed(team.rank)
        self.batch = torch.randint(VOCAB_SIZE, (arguments.windows, self.shape.context_length + 1), generator=generator)

    def rate(self, seconds: float) -> float:
        """Tokens a second of all processes, over so many seconds by the clock of the first."""
        steps, began, progress = 0, time.monotonic(), 0.0
        while progress < 1:
            optimizer.training_step(
                self.model, self.optimizers, self.batch, self.hardware, 1.0, team=self.team, mean_windows=self.windows
            )
            steps += 1
            progress, *_ = self.team.agree((time.monotonic() - began) / seconds, False, None)
        tokens = steps * self.team.size * self.windows * self.shape.context_length
        return tokens / (time.monotonic() - began)


def report(arguments: argparse.Namespace, rates: list[tuple[float, float, float]]) -> None:
    alone, together, side_by_side = zip(*rates, strict=True)

    def share(many: tuple[float, ...]) -> list[float]:
        return [round(m / (arguments.processes * a), 3) for m, a in zip(many, alone, strict=True)]

    facts = {
        "processes": arguments.processes,
        "shard": arguments.shard,
        "optimizer": arguments.optimizer,
        "windows": arguments.windows,
        "parameters": ModelConfig.preset("qwen3", arguments.size, VOCAB_SIZE, tie_embeddings=False).n_params,
        "tokens_per_second_alone": [round(a) for a in alone],
        "tokens_per_second_together": [round(t) for t in together],
        "efficiency": share(together),
        "median": statistics.median(share(together)),
        "side_by_side": share(side_by_side),
        "median_side_by_side": statistics.median(share(side_by_side)),
        "torch": torch.__version__,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()

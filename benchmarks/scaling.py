"""Weak scaling on one machine: what N processes with one thread each do beside one process with one thread.

    python benchmarks/scaling.py                 # two processes, the shape of a small model
    python benchmarks/scaling.py --processes 4 --shard fsdp

Every process has `--windows` windows of text a step, so N processes have N times the batch; perfect scaling takes the
same time. Both are measured in turn, so that a machine that slows down slows both. Prints one line of JSON.

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

from gptlite import distributed, optim
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import choose_hardware
from gptlite.model import GPT, initialise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--shard", default="none")
    parser.add_argument("--optimizer", default="muon")
    parser.add_argument("--windows", type=int, default=8, help="of each process, a step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--size", default="small")
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        print(json.dumps(measure(arguments)))
        return
    alone, together = [], []
    for _ in range(arguments.rounds):
        alone.append(run(1))
        together.append(run(arguments.processes))
    # Tokens a second of all processes, over N times those of one.
    pairs = zip(alone, together, strict=True)
    ratios = [t["tokens_per_second"] / (arguments.processes * a["tokens_per_second"]) for a, t in pairs]
    print(
        json.dumps(
            {
                "processes": arguments.processes,
                "shard": arguments.shard,
                "optimizer": arguments.optimizer,
                "windows": arguments.windows,
                "parameters": alone[0]["parameters"],
                "tokens_per_second_alone": [round(a["tokens_per_second"]) for a in alone],
                "tokens_per_second_together": [round(t["tokens_per_second"]) for t in together],
                "efficiency": [round(r, 3) for r in ratios],
                "median": round(statistics.median(ratios), 3),
                "torch": torch.__version__,
            }
        )
    )


def run(processes: int) -> dict[str, float]:
    """What the first of so many processes measured."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        place |= {"LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        output = subprocess.PIPE if rank == 0 else subprocess.DEVNULL
        started.append(subprocess.Popen([sys.executable, *sys.argv], env={**os.environ, **place}, stdout=output))
    out, _ = started[0].communicate()
    for process in started:
        process.wait()
    return json.loads(out)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    hardware = choose_hardware("cpu", "fp32", 1, "off")
    model_config = ModelConfig.preset("qwen3", arguments.size, vocab_size=1024, tie_embeddings=False)
    with distributed.together(0, lambda: None) as team:
        batch_size = arguments.windows * team.size
        config = TrainConfig(batch_size=batch_size, optimizer=arguments.optimizer)
        model = GPT(model_config)
        initialise(model, seed=1)
        team = team.sharing(arguments.shard)
        team.spread(model, list(model.transformer.blocks))
        optimizers = optim.make_optimizers(model, config, team)
        team.prepare(model, optim.mean_loss)
        generator = torch.Generator().manual_seed(team.rank)
        batch = torch.randint(1024, (arguments.windows, model_config.context_length + 1), generator=generator)
        steps, began, progress = -2, 0.0, 0.0
        while progress < 1:  # the first two steps build what the others reuse
            if steps == 0:
                began = time.monotonic()
            optim.training_step(model, optimizers, batch, hardware, 1.0, team=team, mean_windows=arguments.windows)
            steps += 1
            elapsed = time.monotonic() - began if steps > 0 else 0.0
            progress, *_ = team.agree(elapsed / arguments.seconds, False, None)
        rate = steps * batch_size * model_config.context_length / elapsed
        return {"tokens_per_second": rate, "steps": steps, "parameters": model_config.n_params}


if __name__ == "__main__":
    main()

"""Several processes that train together: how tests start them, and a program for them that trains tiny models.

`python tests/support/teams.py 50 cpu` prints, as JSON, the loss of each of 50 steps for every way to share the work.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # where it is run as a program

from conftest import tiny_config

from gptlite.checkpoint.runs import Run
from gptlite.config import TrainConfig
from gptlite.device import choose_hardware
from gptlite.model import GPT, initialise
from gptlite.training import optimizer as optim
from gptlite.training import team as distributed
from gptlite.training.team import Team

WINDOWS, CONTEXT = 6, 16  # six windows are shared equally by two processes, and by four they are not
WAYS = [(shard, optimizer) for shard in ("none", "fsdp") for optimizer in ("muon", "adamw")]
COMMAND = (sys.executable, "-m", "gptlite")
SHAPE = ("--layers", "2", "--dim", "32", "--heads", "2", "--context", "32", "--vocab-size", "320", "--batch-size", "4")
TINY = (*SHAPE, "--device", "cpu", "--threads", "1", "--dropout", "0")


@dataclass
class Process:
    """One of several; `code` is that of its end, negative for a signal."""

    popen: subprocess.Popen[bytes]
    files: tuple[IO[bytes], IO[bytes]]
    out: str = ""
    err: str = ""
    code: int | None = None

    def kill(self) -> None:
        self.popen.send_signal(signal.SIGKILL)


@dataclass
class Processes:
    """Processes with a place in the same team; all are ended when the test is over."""

    all: list[Process] = field(default_factory=list)

    def wait(self, seconds: float = 120.0) -> list[Process]:
        until = time.monotonic() + seconds
        for process in self.all:
            process.code = process.popen.wait(max(0.1, until - time.monotonic()))
            process.out, process.err = (_content(file) for file in process.files)
        return self.all


@contextlib.contextmanager
def started(n: int, command: Sequence[object], cwd: Path) -> Iterator[Processes]:
    """`command` as `n` processes, each of which is told its place, as torchrun does it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes, stack = Processes(), contextlib.ExitStack()
    try:
        for rank in range(n):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n, "MASTER_PORT": port}
            env = {**os.environ, **{k: str(v) for k, v in place.items()}, "MASTER_ADDR": "127.0.0.1"}
            files = stack.enter_context(_two_files())
            popen = subprocess.Popen(
                [str(c) for c in command], cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=files[0], stderr=files[1]
            )
            processes.all.append(Process(popen, files))
        yield processes
    finally:
        for process in processes.all:
            process.popen.kill()
            process.popen.wait()
        stack.close()


@contextlib.contextmanager
def _two_files() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        yield out, err


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def losses(n: int, steps: int, cwd: Path, device: str = "cpu") -> dict[str, list[float]]:
    """What the first of `n` processes prints that run this file."""
    with started(n, (sys.executable, __file__, steps, device), cwd) as processes:
        first = processes.wait()[0]
    assert first.code == 0, first.err
    return json.loads(first.out)


def loss_curve(
    team: Team, shard: str, optimizer: str, steps: int, device: str = "cpu", dtype: str = "fp32"
) -> list[float]:
    """The loss of each step of a tiny model; the batches are the same whoever shares them."""
    hardware = choose_hardware(device, dtype, 1, "off")
    config = TrainConfig(optimizer=optimizer, lr=0.02 if optimizer == "muon" else 3e-3, batch_size=WINDOWS)
    model = GPT(tiny_config("qwen3", context_length=CONTEXT, vocab_size=64))
    initialise(model, seed=1 + team.rank)  # the others get the weights of the first
    model.to(hardware.device)
    team = team.sharing(shard)
    team.distribute(model, list(model.transformer.blocks))
    optimizers = optim.make_optimizers(model, config, team)
    team.prepare(model, optim.mean_loss)
    curve: list[float] = []
    generator = torch.Generator().manual_seed(0)
    first, last = (rank * WINDOWS // team.size for rank in (team.rank, team.rank + 1))
    for step in range(steps):
        first_tokens = torch.randint(64, (WINDOWS, 1), generator=generator)
        batch = (first_tokens + torch.arange(CONTEXT + 1)) % 64  # to learn: counting
        optim.set_learning_rate(optimizers, config.lr * (1 - step / steps))
        loss, _ = optim.training_step(
            model,
            optimizers,
            batch[first:last],
            hardware,
            config.clip,
            accumulate=1 + step % 2 if team.size < 4 else 1,
            team=team,
            mean_windows=WINDOWS / team.size,
        )
        curve.append(loss)
    return curve


def train(*more: object) -> tuple[object, ...]:
    return (*COMMAND, "train", *more)


def metrics(run: Path) -> dict[int, dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines}


def wait_for_step(run: Path, step: int, log: bool = False, seconds: float = 90.0) -> None:
    """Until a run has saved, or only logged, a step of this number or a later one."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if log and (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size:
            return
        if not log and (latest := Run(run).latest()) and latest.number >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"{run} did not reach step {step}")


def main() -> None:
    with distributed.together(0, lambda: None) as team:
        steps, device = int(sys.argv[1]), sys.argv[2]
        curves = {f"{shard} {way}": loss_curve(team, shard, way, steps, device) for shard, way in WAYS}
        if team.leads:
            print(json.dumps(curves))


if __name__ == "__main__":
    main()

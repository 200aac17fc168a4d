"""What lies ahead of a run: its plan, made with a stopwatch on this machine, and what the plan should lead to."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gptlite.baselines import ngram
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware, available_memory, peak_memory, use_threads
from gptlite.training import compile
from gptlite.training import plan as planning
from gptlite.training.dataset import Material
from gptlite.training.loop import Watcher
from gptlite.training.optimizer import mean_loss
from gptlite.training.speed import Speed, measure_speed

MEASURING_SHARE = 0.03  # of a time budget, for finding the best shape
MEASURING_SECONDS = 3.0  # where the budget is not a time
HEAP_GAPS, SAVING_BYTES = 1.08, 20  # measured: share of the peak; bytes a parameter
PROBE = ModelConfig.preset("qwen3", "small", 1024, n_layers=4, dim=128), TrainConfig()  # to time threads with
ALONE = 0.8  # of the time; less is what other programs leave
LISTENING_SECONDS = 0.15
FULL_EFFORT = 200.0  # seconds; in less time the yardsticks read less text


@dataclass(frozen=True)
class Outlook:
    """A plan and what it should lead to; what others need for the same text."""

    plan: planning.Plan
    expected: planning.Expected
    memory: int  # bytes that the whole program takes
    yardsticks: ngram.Yardsticks

    def to_dict(self) -> dict[str, Any]:
        expected = dataclasses.asdict(self.expected) | {"memory": self.memory}
        return {"expected": expected, "yardsticks": self.yardsticks.to_dict()}


def look_ahead(
    material: Material,
    hardware: Hardware,
    architecture: str | None,
    size: str | None,
    overrides: Mapping[str, Any],
    watcher: Watcher,
    thorough: bool = False,
    base: ModelConfig | None = None,
) -> Outlook:
    """Choose a plan and foresee its result; times training steps for a small share of the budget.

    - `base`: the shape of the trained model that the run goes on from; nobody can foresee what that leads to.
    Where the plan is for steps or epochs, nothing needs to be timed, unless the outlook is to be `thorough`.
    """
    watcher.phase("measuring this machine", 0.0)
    seconds = time_budget(overrides)
    tokens, val_tokens = material.tokens, material.val_tokens
    facts = planning.Facts(
        n_bytes=material.texts.train.n_bytes,
        n_tokens=tokens.n_tokens,
        vocab_size=material.tokenizer.vocab_size,
        hardware=hardware,
        memory=free_memory(hardware),
        val_tokens=val_tokens.n_tokens,
    )
    stopwatch = Stopwatch(hardware, MEASURING_SHARE * seconds if seconds else MEASURING_SECONDS, seconds)
    plan = planning.make_plan(
        facts, architecture=architecture, size=size, overrides=overrides, measure=stopwatch.measure, base=base
    )
    plan = planning.serve(plan, hardware.processes)
    planning.check_memory(plan, facts.memory, hardware)
    before = peak_memory() or 0
    speed = stopwatch.speed(plan)
    if speed is None and (seconds or thorough):
        stopwatch.until = math.inf  # what was chosen is timed in any case
        speed = stopwatch.measure(plan.model, plan.train)
    effort = min(1.0, seconds / FULL_EFFORT) if seconds else 1.0
    others = ngram.measure(tokens.ids(), val_tokens.ids(), material.tokenizer.token_bytes, effort)
    how_hard = None if base is not None or math.isnan(others.ngram) else others.ngram
    expected = planning.expect(facts, plan, speed, how_hard)
    # A step that was timed has shown what it needs; elsewhere it comes on top of what is there. Saving adds the weights
    # and what the optimizers remember, as tensors and as bytes, and the heap of a long run has gaps.
    measured_here = speed is not None and hardware.device.type == "cpu"
    memory = (peak_memory() or 0) if measured_here else before + expected.memory
    return Outlook(plan, expected, int(HEAP_GAPS * memory) + SAVING_BYTES * plan.model.n_params, others)


def settle_threads(hardware: Hardware, seconds: float | None, watcher: Watcher) -> Hardware:
    """Fewer threads where other programs want the processors: threads that wait for each other lose more than they win.

    For a time budget (`seconds`) and where nobody asked for a number; a number of steps gives the same bits whatever
    else runs.
    """
    if seconds is None or "threads" not in hardware.open or hardware.threads == 1 or hardware.processes > 1:
        return hardware
    watcher.phase("measuring this machine", 0.0)
    if _undisturbed(hardware) >= ALONE:
        return hardware
    speeds: dict[int, float] = {}
    for threads in sorted({1, hardware.threads // 2, hardware.threads}):
        now = use_threads(hardware, threads)
        speeds[threads] = measure_speed(
            *PROBE, now, 0.0, compile.fused_loss(*PROBE, now) or mean_loss
        ).tokens_per_second
    fastest = max(speeds, key=lambda threads: speeds[threads])
    if fastest != hardware.threads:
        watcher.notice(
            f"other programs keep the processors busy, so training takes {fastest} of {hardware.threads} threads; "
            f"--threads {hardware.threads} takes all."
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


class Stopwatch:
    """Measures speeds for the planner until `seconds` are used; remembers them.

    - `budget`: seconds of the whole run, None for one of a number of steps. Steps that it would take in machine code
      are taken so here, where that is made in a moment.
    """

    def __init__(self, hardware: Hardware, seconds: float, budget: float | None = None) -> None:
        self.hardware, self.seconds, self.budget = hardware, seconds, budget
        self.until = time.monotonic() + seconds
        self.speeds: dict[tuple[ModelConfig, int], Speed] = {}  # by shape and batch size

    def measure(self, model: ModelConfig, train: TrainConfig) -> Speed | None:
        """The speed of one shape, or None when the time is used up."""
        if time.monotonic() > self.until:
            return None
        hardware = compile.decide(self.hardware, self.budget, train.steps or 0, model, train)
        began = time.monotonic()
        loss_of = compile.fused_loss(model, train, hardware) if hardware.compile else None
        self.until += time.monotonic() - began  # a compiler, the first time on a machine
        speed = measure_speed(model, train, hardware, self.seconds / 6, loss_of or mean_loss)
        self.speeds[model, train.batch_size] = speed
        return speed

    def speed(self, plan: planning.Plan) -> Speed | None:
        """What was measured for this plan's model and batch."""
        return self.speeds.get((plan.model, plan.train.batch_size))


def free_memory(hardware: Hardware) -> int | None:
    """Bytes for each process; None where nobody says. All processes of a CPU are taken to run on this machine."""
    memory = available_memory(hardware.device)
    return memory // hardware.processes if memory is not None and hardware.device.type == "cpu" else memory


def time_budget(overrides: Mapping[str, Any]) -> float | None:
    """The time budget, None where steps or epochs are the budget."""
    if overrides.get("steps") is not None or overrides.get("epochs") is not None:
        return None
    return overrides.get("seconds") or TrainConfig.seconds

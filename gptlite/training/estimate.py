"""What a run will need and reach, estimated before its first step: the plan, its time and memory, its result.

Training steps are timed on this machine for a small share of the budget, and the baselines are scored on the same
held-out text: they tell how hard it is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gptlite.baselines import ngram
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware, available_memory
from gptlite.errors import UsageError
from gptlite.system import peak_memory
from gptlite.training import compile, machine, mixing, pair_data, pauses, soft_targets
from gptlite.training import plan as planning
from gptlite.training.dataset import Dataset
from gptlite.training.divided import plain_loss
from gptlite.training.ensemble import of_one_member
from gptlite.training.memory import check_memory
from gptlite.training.request import time_budget
from gptlite.training.speed import Speed, measure_speed
from gptlite.training.watcher import Watcher

MEASURING_SHARE = 0.03  # of a time budget, for finding the best shape
MEASURING_SECONDS = 3.0  # where the budget is not a time
HEAP_GAPS, SAVING_BYTES = 1.08, 20  # measured: factor on the peak; bytes per parameter
FULL_EFFORT = 200.0  # seconds; with a smaller budget the baselines read less text


@dataclass(frozen=True)
class Estimate:
    """A plan and what it should lead to, with the baselines for the same text.

    - `facts`, `speeds`: what it rests on; speeds are by `speed_key`.
    """

    plan: planning.Plan
    expected: planning.Expected
    memory: int  # bytes that the whole program takes
    baselines: ngram.Baselines
    own_text_bits: float | None  # bits per byte to expect without the background; None without one, or if unknown
    baseline_seconds: float  # that they took
    facts: planning.Facts
    speeds: Mapping[tuple[ModelConfig, int], Speed]

    def to_dict(self) -> dict[str, Any]:
        expected = dataclasses.asdict(dataclasses.replace(self.expected, memory=self.memory))
        expected["memory_bytes"] = expected.pop("memory")
        if self.own_text_bits is not None:
            expected["own_text_bits_per_byte"] = self.own_text_bits
        return {
            "expected": expected,
            "baselines": self.baselines.to_dict() | {"seconds": round(self.baseline_seconds, 3)},
        }


def estimate(
    dataset: Dataset,
    hardware: Hardware,
    architecture: str | None,
    size: str | None,
    overrides: Mapping[str, Any],
    watcher: Watcher,
    thorough: bool = False,
    base: ModelConfig | None = None,
) -> Estimate:
    """Choose a plan and estimate what it leads to.

    - `base`: the shape of the trained model that the run starts from; its result cannot be told before.
    - `thorough`: time steps also for a plan of steps or epochs, for which nothing else needs to be timed.
    Raises `UsageError` as `plan.make_plan`, and `LimitError` where the memory is too small.
    """
    watcher.phase("measuring this machine", 0.0)
    seconds = time_budget(overrides)
    tokens, val_tokens = dataset.tokens, dataset.val_tokens
    others = {
        name: mixing.tokens_per_epoch(name, other.n_tokens, tokens.n_tokens, overrides.get("replay") or 0.0)
        for name, other in dataset.companions.items()
    }
    n_tokens, n_bytes = tokens.n_tokens + sum(others.values()), dataset.texts.train.n_bytes
    facts = planning.Facts(
        n_bytes=n_bytes * n_tokens // max(1, tokens.n_tokens),
        n_tokens=n_tokens,
        vocab_size=dataset.tokenizer.vocab_size,
        hardware=hardware,
        memory=free_memory(hardware),
        val_tokens=val_tokens.n_tokens,
        mixed=bool(others),
        row_tokens=pair_data.mean_length(dataset),
    )
    if others and overrides.get("ngram_weight"):
        raise UsageError(f"`ngram_weight` is for one text; leave it or `{next(iter(others))}` out.")
    stopwatch = Stopwatch(hardware, MEASURING_SHARE * seconds if seconds else MEASURING_SECONDS, seconds)
    plan = planning.make_plan(
        facts, architecture=architecture, size=size, overrides=overrides, measure=stopwatch.measure, base=base
    )
    plan = planning.one_window_each(plan, hardware.processes)
    if mixing.BACKGROUND in others:
        read = planning.expect(facts, plan, stopwatch.speed(plan)).epochs * n_tokens
        plan = mixing.with_background(plan, tokens.n_tokens, others[mixing.BACKGROUND], read)
    check_memory(plan.model, plan.train, facts.memory, hardware)
    before = peak_memory() or 0
    speed = stopwatch.speed(plan)
    if speed is None and (seconds or thorough):
        stopwatch.until = math.inf  # what was chosen is timed in any case
        speed = stopwatch.measure(plan.model, plan.train)
    spellings = dataset.tokenizer.token_bytes
    scale, began = val_tokens.byte_scale(spellings), pauses.now()
    baselines = ngram.measure(dataset.all_ids, val_tokens.ids(), spellings, baseline_effort(seconds), scale)
    baseline_seconds = pauses.now() - began
    how_hard = None if base is not None or math.isnan(baselines.ngram) else baselines.ngram
    expected = planning.expect(facts, plan, speed, how_hard)
    # A step that was timed has shown what it needs; elsewhere it comes on top of what is there. Saving adds the weights
    # and the optimizers' state, as tensors and as bytes, and the heap of a long run has gaps.
    measured_here = speed is not None and hardware.device.type == "cpu"
    memory = (peak_memory() or 0) if measured_here else before + expected.memory
    memory = int(HEAP_GAPS * memory) + SAVING_BYTES * plan.model.n_params
    if plan.train.ngram_weight:
        memory += soft_targets.BYTES_PER_TOKEN * tokens.n_tokens
    alone = None
    if mixing.BACKGROUND in others and base is None:
        own = dataclasses.replace(facts, n_bytes=n_bytes, n_tokens=tokens.n_tokens, mixed=False)
        hard = ngram.measure(tokens.ids(), val_tokens.ids(), spellings, baseline_effort(seconds), scale).ngram
        if not math.isnan(hard):
            smallest = planning.make_plan(own, architecture=architecture, size=size, overrides=overrides)
            alone = planning.expect(own, smallest, None, hard).bits_per_byte
    return Estimate(plan, expected, memory, baselines, alone, baseline_seconds, facts, stopwatch.speeds)


def baseline_effort(seconds: float | None) -> float:
    """How much of the text the baselines may read in a run of `seconds`; all of it where steps are the budget."""
    return min(1.0, seconds / FULL_EFFORT) if seconds else 1.0


class Stopwatch:
    """Measures speeds for the planner until `seconds` are used, and remembers them.

    - `budget`: seconds of the whole run, None for a number of steps. Steps that the run would take in machine code are
      taken so here, where the compiler needs only a moment.
    """

    def __init__(self, hardware: Hardware, seconds: float, budget: float | None = None) -> None:
        self.hardware, self.seconds, self.budget = hardware, seconds, budget
        self.until = pauses.now() + seconds
        self.speeds: dict[tuple[ModelConfig, int], Speed] = {}  # by shape and batch size of a member

    def measure(self, model: ModelConfig, train: TrainConfig) -> Speed | None:
        """The speed of one shape, or None when the time is used up. Several members are as fast as one."""
        model, train = of_one_member(model, train)
        if pauses.now() > self.until:
            return None
        hardware = machine.decide(self.hardware, self.budget, train.steps or 0, model, train)
        began = pauses.now()
        workers = compile.workers_for(hardware, train)
        loss_of = compile.fused_loss(model, train, hardware, workers) if hardware.compile else None
        self.until += pauses.now() - began  # a compiler, the first time on a machine
        speed = measure_speed(
            model, train, hardware, self.seconds / 6, loss_of or plain_loss(hardware, workers), workers
        )
        self.speeds[speed_key(model, train)] = speed
        return speed

    def speed(self, plan: planning.Plan) -> Speed | None:
        """What was measured for this plan's model and batch."""
        return self.speeds.get(speed_key(plan.model, plan.train))


def speed_key(model: ModelConfig, train: TrainConfig) -> tuple[ModelConfig, int]:
    """What decides the speed of a plan: the shape of a member, and its windows per step."""
    model, train = of_one_member(model, train)
    return model, train.batch_size


def free_memory(hardware: Hardware) -> int | None:
    """Bytes for each process; None where they are not known. All processes of a CPU run on this machine."""
    memory = available_memory(hardware.device)
    return memory // hardware.processes if memory is not None and hardware.device.type == "cpu" else memory

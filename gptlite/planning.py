"""From a text, a machine and a budget to a model and a way to train it.

The rules are simple ones, by size: measured choices can replace them behind the same `make_plan`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gptlite.config import SIZES, ModelConfig, TrainConfig
from gptlite.device import Hardware
from gptlite.errors import LimitError, UsageError
from gptlite.tokenizer import LARGEST_VOCABULARY

CPU_FLOPS_PER_THREAD = 35e9  # training throughput of an ordinary core at these sizes
GPU_FLOPS = 2e13
TOKENS_PER_STEP = {"cpu": 2048, "gpu": 16384}


@dataclass(frozen=True)
class Facts:
    """What a plan rests on: the training text, the vocabulary and the machine."""

    n_bytes: int
    n_tokens: int
    vocab_size: int
    hardware: Hardware


@dataclass(frozen=True)
class Plan:
    """The choices, and one sentence for each that was not the user's."""

    model: ModelConfig
    train: TrainConfig
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"model": self.model.to_dict(), "train": self.train.to_dict(), "reasons": list(self.reasons)}


def choose_vocab_size(n_bytes: int) -> int:
    """About the square root of the text's size, as a power of two: 1,024 for 1 MB, 8,192 for 100 MB.

    More tokens make the text shorter but leave fewer examples of each; one token in a thousand or so must be seen
    hundreds of times before its vector means anything.
    """
    size = 2 ** round(math.log2(math.sqrt(max(1, n_bytes))))
    return min(max(size, 384), 32_768, LARGEST_VOCABULARY)


def make_plan(
    facts: Facts,
    *,
    architecture: str | None = None,
    size: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Plan:
    """Choose model and training for `facts`; `overrides` (fields of the two configurations) are taken as they are.

    Raises `UsageError` for an unknown size, architecture or field.
    """
    architecture, size = architecture or ModelConfig.architecture, size or "auto"
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    shape = {name: given.pop(name) for name in list(given) if name in _names(ModelConfig)}
    unknown = set(given) - _names(TrainConfig)
    if unknown:
        raise UsageError(f"unknown setting '{sorted(unknown)[0]}'.")
    if size != "auto" and size not in SIZES:
        raise UsageError(f"unknown size '{size}': choose from auto, {', '.join(SIZES)}.")
    reasons: list[str] = []
    if any(name in given for name in ("steps", "epochs")):
        given.setdefault("seconds", None)
    if size == "auto":
        size, reason = _choose_size(facts, given.get("seconds", TrainConfig.seconds), architecture)
        reasons.append(reason)
    model = ModelConfig.preset(architecture, size, facts.vocab_size, **_context(facts, size, shape), **shape)

    chosen: dict[str, Any] = {}
    on_gpu = facts.hardware.device.type != "cpu"
    per_step = TOKENS_PER_STEP["gpu" if on_gpu else "cpu"]
    chosen["batch_size"] = max(4, per_step // model.context_length)
    # Under AdamW wider models want smaller steps (Yang et al. 2022); so does the norm after each sub-layer.
    if given.get("optimizer") == "adamw":
        chosen["lr"] = round(3e-3 * 192 / model.dim, 5)
    if model.norm_position == "post":
        chosen["lr"] = round(0.35 * chosen.get("lr", TrainConfig.lr), 5)
    if model.norm_position == "post":
        chosen["warmup"] = 0.1
    epochs = given.get("epochs") or _tokens_in(facts, model, given, chosen["batch_size"]) / facts.n_tokens
    if epochs > 4:
        chosen["dropout"] = 0.1
        reasons.append(f"dropout 0.1, because the text will be read about {epochs:.0f} times")
    train = TrainConfig(**{**chosen, **given})
    return Plan(model, train, tuple(reasons))


def training_memory(model: ModelConfig, batch_size: int) -> int:
    """Bytes that training needs, roughly: weights, gradients, two moments, and what the backward pass keeps.

    Kept a token: the logits three times over, and in each block some vectors of `dim` and of `hidden_dim`, counted from
    the peak memory of real steps; attention keeps no scores.
    """
    wide, inner = (26, 6) if model.activation == "swiglu" else (18, 2)
    per_token = 3 * model.vocab_size + model.n_layers * (wide * model.dim + inner * model.hidden_dim)
    return 4 * (4 * model.n_params + batch_size * model.context_length * per_token)


def check_memory(plan: Plan, available: int | None) -> None:
    """Raises `LimitError` when training would need more than `available` bytes."""
    needed = training_memory(plan.model, plan.train.batch_size)
    if available is not None and needed > available:
        raise LimitError(
            f"training would need about {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are free; "
            f"use a smaller --batch-size than {plan.train.batch_size}, a smaller --context or a smaller --size."
        )


def check_request(hardware: Hardware, architecture: str | None, size: str | None, overrides: Mapping[str, Any]) -> None:
    """Raises `UsageError` at once for settings that no text could make possible."""
    some_text = Facts(n_bytes=1 << 20, n_tokens=1 << 19, vocab_size=1024, hardware=hardware)
    make_plan(some_text, architecture=architecture, size=size, overrides=overrides)


def _choose_size(facts: Facts, seconds: float | None, architecture: str) -> tuple[str, str]:
    """The largest size that the budget can feed at least half a token a parameter, and the text a sixth of one."""
    on_gpu = facts.hardware.device.type != "cpu"
    best = next(iter(SIZES))
    for name in SIZES:
        n_params = ModelConfig.preset(architecture, name, facts.vocab_size).n_params
        affordable = seconds is None or _tokens_per_second(facts, n_params) * seconds >= 0.5 * n_params
        if affordable and facts.n_tokens >= n_params / 6 and (on_gpu or name != "large"):
            best = name
    budget = f"{seconds:.0f} s" if seconds else "this budget"
    return best, f"size {best}, for {facts.n_tokens:,} tokens of text and {budget} on {facts.hardware.device.type}"


def _context(facts: Facts, size: str, shape: Mapping[str, Any]) -> dict[str, int]:
    """A context that the text fills at least four times, unless the user named one."""
    if "context_length" in shape:
        return {}
    longest = 2 ** int(math.log2(max(16, facts.n_tokens // 4)))
    return {"context_length": min(SIZES[size]["context_length"], longest)}


def _tokens_per_second(facts: Facts, n_params: int) -> float:
    on_gpu = facts.hardware.device.type != "cpu"
    return (GPU_FLOPS if on_gpu else CPU_FLOPS_PER_THREAD * facts.hardware.threads) / (6 * n_params)


def _tokens_in(facts: Facts, model: ModelConfig, given: Mapping[str, Any], batch_size: int) -> float:
    if given.get("steps"):
        return given["steps"] * given.get("batch_size", batch_size) * model.context_length
    return _tokens_per_second(facts, model.n_params) * (given.get("seconds") or TrainConfig.seconds or 0)


def _names(config: type) -> set[str]:
    return {f.name for f in dataclasses.fields(config)}

"""Memory: what training needs, and what to change where it is short."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import tiny_config

from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware, choose_hardware
from gptlite.training.memory import less_memory, more_parts, training_memory

CPU = Hardware(torch.device("cpu"), bf16=False, threads=2, compile=False, reason="a test")
GPU = Hardware(torch.device("cuda"), bf16=True, threads=2, compile=True, reason="a test")


@pytest.mark.parametrize(
    ("architecture", "vocab_size", "measured"), [("gpt2", 50257, 17_434_758_656), ("qwen3", 32768, 17_340_411_904)]
)
def test_memory_in_bf16_is_a_little_more_than_a_gpu_needed(architecture: str, vocab_size: int, measured: int) -> None:
    """Peaks of steps that were not compiled (docs/lab/gpus.md)."""
    shape = {"n_layers": 12, "dim": 768, "n_heads": 12, "context_length": 1024}
    model = ModelConfig.preset(architecture, "small", vocab_size, **shape)
    train = TrainConfig(batch_size=16)
    planned = training_memory(model, train, GPU)
    assert measured < planned < 1.25 * measured
    fp32 = training_memory(model, train)
    assert fp32 > planned
    assert training_memory(model, train, dataclasses.replace(GPU, bf16=False)) == fp32
    assert training_memory(model, train, dataclasses.replace(CPU, bf16=True)) == fp32


def test_sharding_and_recomputing_need_less_memory() -> None:
    model = tiny_config("qwen3", n_layers=12, dim=256, n_heads=4)
    needed = training_memory(model, TrainConfig())
    assert training_memory(model, TrainConfig(recompute=True)) < 0.5 * needed
    two, four = (dataclasses.replace(choose_hardware("cpu"), processes=n) for n in (2, 4))
    assert training_memory(model, TrainConfig(), two) < needed, "half of each batch"
    replicated, sharded = (training_memory(model, TrainConfig(shard=s), four) for s in ("none", "fsdp"))
    assert replicated - sharded == 4 * (4 * model.n_params - model.n_params)


def test_a_batch_is_divided_further_until_each_part_is_a_window() -> None:
    assert [more_parts(TrainConfig(batch_size=12, accumulate=n)) for n in (1, 2, 3, 4, 6, 12)] == [2, 3, 4, 6, 12, None]


def test_the_remedy_is_the_first_that_is_left() -> None:
    model = tiny_config("qwen3")
    assert "`accumulate=2`" in less_memory(model, TrainConfig(batch_size=4))
    assert "`recompute=True`" in less_memory(model, TrainConfig(batch_size=1))
    assert less_memory(model, TrainConfig(batch_size=1, recompute=True)).startswith("use a smaller `context_length`")

"""What a contender's network learns from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from gptlite.comparison import worker
from gptlite.comparison.contenders import CONTENDERS
from gptlite.comparison.networks import Network, Shape
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import choose_hardware
from gptlite.training.soft_targets import ngram_targets

V, T = 40, 16
IDS = np.tile(np.arange(V, dtype="<u2"), 20)
SHAPE = Shape(
    ModelConfig.preset("qwen3", "tiny", V, n_layers=1, dim=16, n_heads=1, context_length=T),
    TrainConfig(steps=4, batch_size=2, ngram_weight=0.5),
)


@pytest.mark.parametrize(("name", "has_them"), [("gptlite", True), ("lstm", False), ("transformer-2017", False)])
def test_gptlite_alone_has_the_soft_targets_of_its_plan(name: str, has_them: bool) -> None:
    data = worker.Data(None, IDS, IDS, None, np.ones(V))  # type: ignore[arg-type]
    assert (worker._soft_targets(CONTENDERS[name], SHAPE, data) is not None) is has_them
    without = dataclasses.replace(SHAPE, train=TrainConfig(steps=4))
    assert worker._soft_targets(CONTENDERS[name], without, data) is None
    network = Network(CONTENDERS[name], SHAPE, choose_hardware("cpu", "fp32", 1, "off"), 1e-3, 1)
    assert network.train.ngram_weight == (0.5 if has_them else 0)


def test_a_step_learns_from_soft_targets() -> None:
    windows = torch.from_numpy(np.stack([IDS[i : i + T + 1] for i in (0, 30)]).astype(np.int64))
    places = torch.stack([torch.arange(i, i + T + 1) for i in (0, 30)])
    weights = []
    for targets in (None, ngram_targets(IDS, V, 0.5)):
        network = Network(CONTENDERS["gptlite"], SHAPE, choose_hardware("cpu", "fp32", 1, "off"), 0.02, 1)
        network.learn_from(targets)
        batch = windows if targets is None else torch.stack([windows, places], 1)
        assert network.step(batch, 0.5, 0.1) > 0
        weights.append(torch.cat([tensor.flatten() for tensor in network.weights().values()]))
    assert not torch.equal(*weights)

"""Several small models in one, with random weights."""

from __future__ import annotations

from typing import Any

import torch

from gptlite.config import ModelConfig
from gptlite.model import GPT, initialise
from gptlite.training.ensemble import Ensemble, repeated


def shape(**more: Any) -> ModelConfig:
    sizes = {"context_length": 8, "dim": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "tie_embeddings": False}
    return ModelConfig.preset("qwen3", "tiny", **{"vocab_size": 50, **sizes, **more})


def random_ensemble(config: ModelConfig, n: int, *, alike: bool = False) -> Ensemble:
    ensemble = Ensemble(config, n)
    for i, member in enumerate(ensemble):
        initialise(member, 0 if alike else i)
        torch.manual_seed(0 if alike else i)
        with torch.no_grad():
            for name, parameter in member.named_parameters():
                noise = 0.3 * torch.randn_like(parameter)
                if i == 0 or not ("q_norm" in name or "k_norm" in name):  # which are the first one's
                    parameter.add_(noise)
    return ensemble


def whole(ensemble: Ensemble) -> GPT:
    model = GPT(repeated(ensemble.config, len(ensemble.members)))
    ensemble.fill(model)
    return model

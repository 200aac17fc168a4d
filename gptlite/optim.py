"""Optimizer and schedule: which weights decay, and how large a step is at each point of the run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gptlite.config import TrainConfig
from gptlite.errors import CheckpointError


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019); only matrices decay, not embeddings, positions, norms and biases."""
    groups = parameter_groups(model)
    return torch.optim.AdamW(
        [
            {"params": groups["matrices"], "weight_decay": config.weight_decay},
            {"params": groups["others"], "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=True,
    )


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Hidden matrices, and all the rest; a tied head belongs to the embeddings."""
    groups: dict[str, list[nn.Parameter]] = {"matrices": [], "others": []}
    for name, parameter in model.named_parameters():
        hidden = parameter.ndim == 2 and ".blocks." in name
        groups["matrices" if hidden else "others"].append(parameter)
    return groups


def learning_rate(progress: float, config: TrainConfig) -> float:
    """The rate at `progress` (0 to 1) of the run: a linear rise, a plateau, a linear fall to zero at the end.

    Decaying linearly to zero beats the cosine at small budgets (Bergsma et al. 2025); the plateau makes the shape
    independent of how long the run is (Hägele et al. 2024).
    """
    rise = min(1.0, progress / config.warmup) if config.warmup else 1.0
    fall = min(1.0, max(0.0, 1.0 - progress) / config.decay) if config.decay else 1.0
    return config.lr * min(rise, fall)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers, as tensors named `<state>.<parameter>`."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = value.detach().cpu()
    return tensors


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give the optimizer back what `optimizer_tensors` took; raises `CheckpointError` if a name does not fit."""
    parameters = dict(model.named_parameters())
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition(".")
        if name not in parameters:
            raise CheckpointError(f"the optimizer state names '{name}', which this model does not have.")
        # A step counter stays where the optimizer keeps it; everything else lives beside its parameter.
        value = tensor.clone() if tensor.ndim == 0 else tensor.to(parameters[name].device)
        optimizer.state[parameters[name]][key] = value

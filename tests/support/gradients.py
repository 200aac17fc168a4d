"""A batch, and the gradients of a loss on it."""

from __future__ import annotations

import torch
from torch import Tensor

from gptlite.config import ModelConfig
from gptlite.model import GPT
from gptlite.training import optimizer


def windows(config: ModelConfig, n: int = 5, length: int = 32) -> Tensor:
    return torch.randint(config.vocab_size, (n, length + 1), generator=torch.Generator().manual_seed(1))


def gradients(loss_of: optimizer.Loss, model: GPT, batch: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss = loss_of(model, batch)
    loss.backward()
    return {
        "loss": loss.detach(),
        **{name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None},
    }

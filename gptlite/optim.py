"""Optimizer and schedule: Muon for the hidden matrices, AdamW for the rest, and how large a step is when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gptlite.config import TrainConfig
from gptlite.errors import CheckpointError

# Three odd quintics a x + b x^3 + c x^5, each the best one on the interval that those before it leave of [0.02, 1];
# in the end that interval is within 10 % of 1. It is the construction of "Polar Express" (Amsel et al. 2025).
ORTHOGONALISATION = (
    (7.710969, -22.113755, 16.248743),
    (3.215276, -2.411172, 0.501300),
    (2.218308, -1.593990, 0.410748),
)
OTHERS_SHARE = 0.2  # of Muon's rate, for embeddings, head and norms under AdamW


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: every update of a matrix turns all directions by the same amount (Jordan et al. 2024).

    For hidden matrices only, not for embeddings, head, norms or biases. Matrices of one shape are orthogonalised
    together, in fp32 on a CPU (bf16 is emulated on most of them) and in bf16 on a GPU.
    """

    def __init__(self, params: Sequence[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "share": 1.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = orthogonalise(torch.stack([self._direction(p, group["momentum"]) for p in parameters]))
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-group["lr"] * scale)

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        """The running mean of the gradients, with Nesterov's look ahead."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Matrices (N, rows, columns) with all singular values moved to about 1, and the same singular vectors."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.shape[1] > x.shape[2]
    if tall:  # the products below have the shorter side squared
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) * 1.01 + 1e-7)
    for a, b, c in ORTHOGONALISATION:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon and AdamW, or AdamW alone (Loshchilov & Hutter 2019); only hidden matrices decay."""
    groups = parameter_groups(model)
    betas = (config.beta1, config.beta2)
    if config.optimizer == "adamw":
        decaying = {"params": groups["matrices"], "weight_decay": config.weight_decay, "share": 1.0}
        others = {"params": groups["others"], "weight_decay": 0.0, "share": 1.0}
        return [torch.optim.AdamW([decaying, others], lr=config.lr, betas=betas, fused=True)]
    muon = Muon(groups["matrices"], config.lr, config.momentum, config.weight_decay)
    others = {"params": groups["others"], "weight_decay": 0.0, "share": OTHERS_SHARE}
    return [muon, torch.optim.AdamW([others], lr=config.lr * OTHERS_SHARE, betas=betas, fused=True)]


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


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], lr: float) -> None:
    """Give each group its share of `lr`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group["share"]


def optimizer_tensors(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """What the optimizers remember, as tensors named `<state>.<parameter>`."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value.detach().cpu().clone()
    return tensors


def restore_optimizers(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, Tensor]
) -> None:
    """Give the optimizers back what `optimizer_tensors` took; raises `CheckpointError` if a name does not fit."""
    parameters = dict(model.named_parameters())
    owner = {id(p): o for o in optimizers for group in o.param_groups for p in group["params"]}
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition(".")
        if name not in parameters:
            raise CheckpointError(f"the optimizer state names '{name}', which this model does not have.")
        parameter = parameters[name]
        # A step counter stays where the optimizer keeps it; everything else lives beside its parameter.
        value = tensor.clone() if tensor.ndim == 0 else tensor.to(parameter.device)
        owner[id(parameter)].state[parameter][key] = value

"""One training step: Muon for the hidden matrices, AdamW for the rest, and how large a step is when."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gptlite.config import TrainConfig
from gptlite.device import Hardware
from gptlite.errors import CheckpointError
from gptlite.model import GPT
from gptlite.storage.validation import shown
from gptlite.training.team import ALONE, Team

# Three odd quintics a x + b x^3 + c x^5, each the best one on the interval that those before it leave of [0.02, 1];
# in the end that interval is within 10 % of 1. It is the construction of "Polar Express" (Amsel et al. 2025).
ORTHOGONALISATION = (
    (7.710969, -22.113755, 16.248743),
    (3.215276, -2.411172, 0.501300),
    (2.218308, -1.593990, 0.410748),
)
Loss = Callable[[GPT, Tensor], Tensor]  # of a model on windows (B, T + 1)
MOST_STEPS = 10**18
OTHERS_SHARE = 0.2  # of Muon's rate, for embeddings, head and norms under AdamW


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: every update of a matrix turns all directions by the same amount (Jordan et al. 2024).

    For hidden matrices only, not for embeddings, head, norms or biases. A group's `block` (rows, columns) cuts its
    matrices into blocks that are orthogonalised each by itself, such as those of the attention heads. The processes of
    a `team` share the matrices out among them.
    """

    def __init__(
        self,
        params: Sequence[nn.Parameter] | Sequence[dict[str, Any]],
        lr: float,
        momentum: float,
        weight_decay: float,
        team: Team = ALONE,
    ) -> None:
        self.team = team
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "share": 1.0, "block": None}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                rows, columns = group["block"] or shape
                directions = torch.stack(self._directions(parameters, group["momentum"]))

                def orthogonal(matrices: Tensor, rows: int = rows, columns: int = columns) -> Tensor:
                    return from_blocks(orthogonalise(to_blocks(matrices, rows, columns)), matrices.shape[1:])

                updates = self.team.by_matrix(orthogonal, directions, shape[0])
                scale = max(1.0, rows / columns) ** 0.5
                held = [self.team.part(parameter) for parameter in parameters]
                torch._foreach_mul_(held, 1 - group["lr"] * group["weight_decay"])  # type: ignore[attr-defined]
                torch._foreach_add_(held, updates.unbind(), alpha=-group["lr"] * scale)  # type: ignore[attr-defined]

    def _directions(self, parameters: Sequence[Tensor], momentum: float) -> tuple[Tensor, ...]:
        """The running means of the gradients, with Nesterov's look ahead: as much of them as this process holds."""
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        gradients = [self.team.part(p.grad) for p in parameters if p.grad is not None]
        means = [self.team.part(self.state[parameter]["momentum"]) for parameter in parameters]
        torch._foreach_lerp_(means, gradients, 1 - momentum)  # type: ignore[attr-defined]
        return torch._foreach_lerp(gradients, means, momentum)  # type: ignore[attr-defined]


def to_blocks(matrices: Tensor, rows: int, columns: int) -> Tensor:
    """Matrices (N, R, C) cut into blocks (N * R/rows * C/columns, rows, columns)."""
    return matrices.unflatten(2, (-1, columns)).unflatten(1, (-1, rows)).transpose(2, 3).flatten(0, 2)


def from_blocks(blocks: Tensor, shape: Sequence[int]) -> Tensor:
    """Undo `to_blocks` for matrices of `shape` (R, C)."""
    rows, columns = blocks.shape[1:]
    grid = blocks.unflatten(0, (-1, shape[0] // rows, shape[1] // columns))
    return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Matrices (N, rows, columns) with all singular values moved to about 1, and the same singular vectors.

    A quintic of x is a polynomial of its Gram matrix G = x x^T times x, so that all products but two have the shorter
    side squared.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).float()
    x = x / (x.norm(dim=(1, 2), keepdim=True) * 1.01 + 1e-7)
    gram = x @ x.mT
    quintic = product = None  # the last factor, and the product of all so far
    for a, b, c in ORTHOGONALISATION:
        if quintic is not None:
            gram = quintic @ gram @ quintic
        quintic = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        quintic.diagonal(dim1=1, dim2=2).add_(a)
        product = quintic if product is None else quintic @ product
    assert product is not None
    x = product @ x
    return (x.mT if tall else x).to(matrices.dtype)


def make_optimizers(model: GPT, config: TrainConfig, team: Team = ALONE) -> list[torch.optim.Optimizer]:
    """Muon and AdamW, or AdamW alone (Loshchilov & Hutter 2019); only hidden matrices decay."""
    groups = parameter_groups(model)
    betas = (config.beta1, config.beta2)
    others = {"params": groups.pop("others"), "weight_decay": 0.0, "share": 1.0}
    if config.optimizer == "adamw":
        matrices = [p for group in groups.values() for p in group]
        decaying = {"params": matrices, "weight_decay": config.weight_decay, "share": 1.0}
        return [torch.optim.AdamW([decaying, others], lr=config.lr, betas=betas, fused=True)]
    # A head is a unit of its own: orthogonalised with its neighbours, it would have to share their directions.
    blocks = {
        "to_heads": (model.config.head_dim, model.config.dim),
        "from_heads": (model.config.dim, model.config.head_dim),
    }
    matrices = [{"params": group, "block": blocks.get(name)} for name, group in groups.items()]
    muon = Muon(matrices, config.lr, config.momentum, config.weight_decay, team)
    others["share"] = OTHERS_SHARE
    return [muon, torch.optim.AdamW([others], lr=config.lr * OTHERS_SHARE, betas=betas, fused=True)]


def parameter_groups(model: GPT) -> dict[str, list[nn.Parameter]]:
    """Hidden matrices whose rows (`to_heads`) or columns (`from_heads`) belong to heads, other `matrices`, `others`.

    A tied head belongs to the embeddings, which are among the others.
    """
    groups: dict[str, list[nn.Parameter]] = {"to_heads": [], "from_heads": [], "matrices": [], "others": []}
    kinds = {"q_proj": "to_heads", "k_proj": "to_heads", "v_proj": "to_heads", "o_proj": "from_heads"}
    for name, parameter in model.named_parameters():
        hidden = parameter.ndim == 2 and ".blocks." in name
        groups[kinds.get(name.split(".")[-2], "matrices") if hidden else "others"].append(parameter)
    return groups


def mean_loss(model: GPT, batch: Tensor) -> Tensor:
    """Nats a token on windows (B, T + 1), each token but the first predicted from those before it."""
    logits = model(batch[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


def recompute_blocks(model: GPT) -> None:
    """Let the backward pass compute again what happens inside a block, instead of keeping it (Chen et al. 2016)."""
    for block in model.transformer.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def training_step(
    model: GPT,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: Tensor,
    hardware: Hardware,
    clip: float,
    loss_of: Loss = mean_loss,
    accumulate: int = 1,
    team: Team = ALONE,
    mean_windows: float | None = None,
) -> tuple[float, float]:
    """One optimizer step on windows (B, T + 1): the mean loss a token and the gradient's norm.

    Forward and backward pass go through `accumulate` parts of the batch, one after the other; their gradients add up to
    that of the whole. Where loss or norm is not finite, the weights are left as they were. `loss_of` may be a compiled
    `mean_loss`. Where a GPU takes the step in bf16, Muon's own products are in TF32, which takes less than a quarter of
    the time and moves an update by 0.05 to 0.5 % (docs/scaling.md).

    - `team`, `mean_windows`: the processes that take this step together, and B in the mean over them.
    """
    model.zero_grad(set_to_none=True)
    loss = torch.zeros((), device=hardware.device)
    parts = batch.to(hardware.device, non_blocking=True).tensor_split(accumulate)
    for i, part in enumerate(parts, start=1):
        with hardware.autocast():
            share = team.loss(loss_of, model, part, i == len(parts)) / ((mean_windows or len(batch)) / len(part))
        share.backward()
        loss += share.detach()
    norm = team.whole(torch.nn.utils.clip_grad_norm_(model.parameters(), clip))
    numbers = team.mean(loss).item(), norm.item()
    if all(math.isfinite(number) for number in numbers):
        with hardware.rough_products():
            for optimizer in optimizers:
                optimizer.step()
    return numbers


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


def optimizer_tensors(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], team: Team = ALONE
) -> dict[str, Tensor]:
    """What the optimizers remember, as tensors named `<state>.<parameter>`; all of it in the first process."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value.detach()
    return {name: tensor.cpu().clone() for name, tensor in team.gather(tensors).items()}


def expected_state(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, tuple[int, ...]]:
    """The shapes of `optimizer_tensors` once steps were taken."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    shapes: dict[str, tuple[int, ...]] = {}
    for optimizer in optimizers:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            name, shape = names[id(parameter)], tuple(parameter.shape)
            if isinstance(optimizer, Muon):
                shapes[f"momentum.{name}"] = shape
            else:
                shapes |= {f"step.{name}": (), f"exp_avg.{name}": shape, f"exp_avg_sq.{name}": shape}
    return shapes


def restore_optimizers(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, Tensor], team: Team = ALONE
) -> None:
    """Give the optimizers back what `optimizer_tensors` took; raises `CheckpointError` if it cannot be theirs."""
    check_optimizer_state(expected_state(model, optimizers), tensors)
    deal_optimizer_state(model, optimizers, tensors, team)


def check_optimizer_state(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> None:
    """Raises `CheckpointError` unless the tensors have the `expected` names and shapes and possible values."""
    for name in (*tensors, *expected):
        if name not in expected:
            raise CheckpointError(f"the optimizer state names {shown(name)}, which this model does not have.")
        if name not in tensors:
            raise CheckpointError(f"the optimizer state has no {shown(name)}.")
        tensor, kind = tensors[name], name.partition(".")[0]
        if tuple(tensor.shape) != expected[name]:
            shape = shown(tuple(tensor.shape))
            raise CheckpointError(f"the optimizer state {shown(name)} has the shape {shape}, not {expected[name]}.")
        if not torch.isfinite(tensor).all() or (kind in ("step", "exp_avg_sq") and (tensor < 0).any()):
            raise CheckpointError(f"the optimizer state {shown(name)} holds numbers that no training leaves.")
        if kind == "step" and (tensor.item() != int(tensor.item()) or tensor.item() > MOST_STEPS):
            raise CheckpointError(
                f"the optimizer state {shown(name)} is {tensor.item():g}, which is no count of steps."
            )


def deal_optimizer_state(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    tensors: Mapping[str, Tensor] | None,
    team: Team = ALONE,
) -> None:
    """Give the optimizers of all processes what the first one has in `tensors`."""
    parameters = dict(model.named_parameters())
    owner = {id(p): o for o in optimizers for group in o.param_groups for p in group["params"]}
    for full_name, tensor in team.deal(tensors, expected_state(model, optimizers)):
        key, _, name = full_name.partition(".")
        parameter = parameters[name]
        # Everything lives beside its parameter, a step counter too, because AdamW is fused.
        value = tensor.clone().to(parameter.device) if tensor.ndim == 0 else team.place(tensor, parameter)
        owner[id(parameter)].state[parameter][key] = value

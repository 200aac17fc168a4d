"""Muon: momentum whose updates are orthogonalised (Jordan et al. 2024), for the matrices inside the blocks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gptlite.kernels.workers import Workers
from gptlite.training.adamw import Optimizer
from gptlite.training.team import ALONE, Team

# Three odd quintics a x + b x^3 + c x^5, each the best one on the interval to which those before it map [0.02, 1];
# after the last, all values are within 10 % of 1. It is the construction of "Polar Express" (Amsel et al. 2025).
ORTHOGONALISATION = (
    (7.710969, -22.113755, 16.248743),
    (3.215276, -2.411172, 0.501300),
    (2.218308, -1.593990, 0.410748),
)


class Stack(NamedTuple):
    """Parameters of one group and shape."""

    group: dict[str, Any]
    parameters: list[nn.Parameter]

    def split(self, parts: int) -> list[Stack]:
        """At most `parts` stacks, which have these parameters in order."""
        share, more = divmod(len(self.parameters), parts)
        ends = list(itertools.accumulate(share + (i < more) for i in range(parts)))
        pieces = (self.parameters[a:b] for a, b in itertools.pairwise([0, *ends]))
        return [Stack(self.group, piece) for piece in pieces if piece]


class Muon(Optimizer):
    """Momentum, orthogonalised: every update of a matrix turns all directions by the same amount (Jordan et al. 2024).

    For hidden matrices only, not for embeddings, head, norms or biases. A group's `block` (rows, columns) cuts its
    matrices into blocks that are orthogonalised one by one, such as those of the attention heads. The processes of a
    `team` divide the matrices among them, or in a process that trains alone its `workers`.
    """

    def __init__(
        self,
        params: Sequence[nn.Parameter] | Sequence[dict[str, Any]],
        lr: float,
        momentum: float,
        weight_decay: float,
        team: Team = ALONE,
        workers: Workers | None = None,
    ) -> None:
        self.team, self.workers = team, workers or Workers()
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "lr_scale": 1.0, "block": None}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        parts = self.workers.parts if self.team.size == 1 else 1
        stacks: list[Stack] = []
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
                    if "momentum" not in self.state[parameter]:
                        self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            stacks += [piece for parameters in by_shape.values() for piece in Stack(group, parameters).split(parts)]
        if parts > 1:
            self.workers.map(self._update, stacks)
        else:  # processes work together on each stack
            for stack in stacks:
                self._update(stack)

    def _update(self, stack: Stack) -> None:
        """One update of the parameters (R, C) of a stack, of which this process holds some rows or all."""
        group, parameters, team = stack.group, stack.parameters, self.team
        gradients = [team.part(p.grad) for p in parameters if p.grad is not None]
        means = [team.part(self.state[parameter]["momentum"]) for parameter in parameters]
        torch._foreach_lerp_(means, gradients, 1 - group["momentum"])  # type: ignore[attr-defined]
        directions = torch._foreach_lerp(gradients, means, group["momentum"])  # type: ignore[attr-defined]  # Nesterov
        shape = parameters[0].shape
        rows, columns = group["block"] or (shape[0], shape[1])
        work = partial(_orthogonal_blocks, (rows, columns))
        updates = team.by_matrix(work, torch.stack(directions), shape[0])  # (N, R', C)
        held = [team.part(parameter) for parameter in parameters]
        torch._foreach_mul_(held, 1 - group["lr"] * group["weight_decay"])  # type: ignore[attr-defined]
        scale = max(1.0, rows / columns) ** 0.5
        torch._foreach_add_(held, updates.unbind(), alpha=-group["lr"] * scale)  # type: ignore[attr-defined]


def _orthogonal_blocks(block: tuple[int, int], matrices: Tensor) -> Tensor:
    """Matrices (N, R, C) whose blocks are orthogonalised."""
    return from_blocks(orthogonalise(to_blocks(matrices, *block)), matrices.shape[1:])


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

"""Matrices that are zero outside of some blocks on their diagonal, such as those of several models in one
(training/ensemble.py): multiplied block by block, without the zeros.

The matrices themselves say where their zeros are, so it does not matter who made or saved them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlite.kernels.products import Call, FloatProducts
from gptlite.model import GPT

MOST_BLOCKS = 8


def count_blocks(weight: Tensor) -> int:
    """How many blocks of one size, 1, 2, 4 or 8, the diagonal of `weight` (R, K) has, which is zero outside of them."""
    n = 1
    while n < MOST_BLOCKS and not any(side % (2 * n) for side in weight.shape):
        corners = [corner for block in blocks_of(weight, n) for corner in _corners(block)]
        if any(corner[0].any() or corner.any() for corner in corners):  # mostly the first row says it
            break
        n *= 2
    return n


def blocks_of(weight: Tensor, n: int) -> list[Tensor]:
    """The `n` blocks (R / n, K / n) on the diagonal of `weight` (R, K): views."""
    return [rows.chunk(n, dim=1)[i] for i, rows in enumerate(weight.chunk(n))]


def _corners(block: Tensor) -> tuple[Tensor, Tensor]:
    """The two quarters of a matrix beside its diagonal."""
    (_, right), (left, _) = (half.chunk(2, dim=1) for half in block.chunk(2))
    return right, left


_users: WeakKeyDictionary[GPT, int] = WeakKeyDictionary()  # how many are within `without_zeros` with a model
_lock = threading.Lock()


@contextlib.contextmanager
def without_zeros(model: GPT) -> Iterator[None]:
    """Within it, the matrices of the blocks of `model`, whose weights do not change, are multiplied without the zeros
    around their diagonal blocks. Several threads may be within it."""
    with _lock:
        _users[model] = _users.get(model, 0) + 1
        if _users[model] == 1:
            for linear in _linears(model):
                if (n := count_blocks(linear.weight)) > 1:
                    linear.forward = partial(_multiply, linear, n)
    try:
        yield
    finally:
        with _lock:
            _users[model] -= 1
            if not _users[model]:
                for linear in _linears(model):
                    vars(linear).pop("forward", None)


def _linears(model: GPT) -> Iterator[nn.Linear]:
    for module in model.transformer.blocks.modules():
        if isinstance(module, nn.Linear) and type(module.weight) is nn.Parameter:  # not a part of one (team.Shards)
            yield module


def _multiply(linear: nn.Linear, n: int, input: Tensor) -> Tensor:
    """`input` (..., K) times the weight (R, K), whose `n` blocks are multiplied alone: (..., R)."""
    parts = zip(input.chunk(n, dim=-1), blocks_of(linear.weight, n), strict=True)
    y = torch.cat([F.linear(part, block) for part, block in parts], dim=-1)
    return y if linear.bias is None else y + linear.bias


class DiagonalBlocks(NamedTuple):
    """The n blocks of g matrices (R, K) that read the same: for each place on the diagonal one (g R / n, K / n)."""

    n_matrices: int
    blocks: list[Tensor]


class DiagonalProducts(FloatProducts):
    """Products of torch in fp32 on the way forward, without the zeros around the blocks of a diagonal."""

    def __init__(self, call: Call) -> None:
        super().__init__(call, torch.float32)

    def prepare(self, weight: Tensor, *more: Tensor) -> Tensor | DiagonalBlocks:  # type: ignore[override]
        matrices = (weight, *more)
        if (n := min(map(count_blocks, matrices))) == 1:
            return super().prepare(*matrices)
        blocks = [blocks_of(matrix.detach(), n) for matrix in matrices]
        return DiagonalBlocks(len(matrices), [torch.cat(together) for together in zip(*blocks, strict=True)])

    def forward(self, x: Tensor, weight: Tensor | DiagonalBlocks) -> Tensor:
        if isinstance(weight, Tensor):
            return super().forward(x, weight)
        g, blocks = weight
        y = x.new_empty(len(x), g, len(blocks), len(blocks[0]) // g)
        for i, (part, block) in enumerate(zip(x.chunk(len(blocks), dim=1), blocks, strict=True)):
            y[:, :, i] = (part @ block.T).view(len(x), g, -1)
        return y.view(len(x), -1)

"""Matrix products of the training step in C, in floating point (fp32 or bf16) or in 8-bit integers.

Both kinds offer fused.py the same: y = x W^T on the way forward, dx = dy W and dW = dy^T x on the way back, and SwiGLU
between two products. Weights, the residual stream and all sums are fp32 in either case.

    read        x as products read it
    forward     x W^T, as SwiGLU reads it
    backward    dy W, as SwiGLU reads it
    gradient    dy^T x, in fp32
    floats      a product as everything else reads it
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from gptlite.device import multiply_int8

MOST_ROWS = 2**31 // 127**2  # of 8-bit numbers whose products are added up in 32 bits

Call = Callable[..., Any]  # calls a function of fused.c by its name


class Products(Protocol):
    """x (N, D), W (O, D), y and dy (N, O); what they are made of is for each kind to say."""

    def prepare(self, weight: Tensor, *more: Tensor) -> Any:
        """W as the others want it; `more` matrices that read the same x are below it."""
        ...

    def read(self, x: Tensor) -> Any: ...

    def forward(self, x: Any, weight: Any) -> Any: ...

    def backward(self, dy: Any, weight: Any) -> Any: ...

    def gradient(self, dy: Any, x: Any) -> Tensor: ...

    def floats(self, product: Any) -> Tensor: ...

    def swiglu(self, gate_up: Any) -> Any:
        """silu(gate) * up (N, F), as products read it, of a product (N, 2 F)."""
        ...

    def swiglu_backward(self, gate_up: Any, dhidden: Any) -> Any:
        """The gradient of gate_up, as products read it, whose memory it may take."""
        ...


class FloatProducts:
    """Products of torch in `dtype`."""

    def __init__(self, call: Call, dtype: torch.dtype) -> None:
        self.dtype, self._call = dtype, call

    def prepare(self, weight: Tensor, *more: Tensor) -> Tensor:
        return _joined(weight, *more).to(self.dtype)

    def read(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return x @ weight.T

    def backward(self, dy: Tensor, weight: Tensor) -> Tensor:
        return dy @ weight

    def gradient(self, dy: Tensor, x: Tensor) -> Tensor:
        return (dy.T @ x).float()

    def floats(self, product: Tensor) -> Tensor:
        return product

    def swiglu(self, gate_up: Tensor) -> Tensor:
        hidden = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
        self._call("swiglu_forward", *hidden.shape, gate_up, hidden)
        return hidden

    def swiglu_backward(self, gate_up: Tensor, dhidden: Tensor) -> Tensor:
        self._call("swiglu_backward", *dhidden.shape, gate_up, dhidden)
        return gate_up


class Quantized(NamedTuple):
    """A matrix (R, C) as integers from -127 to 127, each row or column of which was divided by its scale."""

    numbers: Tensor
    scales: Tensor  # (R,) or (C,)


class Matrix(NamedTuple):
    """W (O, D), rounded row by row for sums over its columns, and column by column for sums over its rows."""

    by_row: Quantized
    by_column: Quantized


class Sums(NamedTuple):
    """A product of integers (R, C), whose numbers are still to be multiplied by a scale for their row and column."""

    sums: Tensor  # int32
    rows: Tensor
    columns: Tensor


class Int8Products:
    """Products of 8-bit integers, which processors with instructions for them compute four times as fast as fp32.

    Each row of x, W and dy is divided by its largest number and rounded to 127ths of it: the vector-wise quantization
    of Dettmers et al. 2022, with which Wortsman et al. 2023 train, but with dW in 16 bits. Here dW = dy^T x is a
    product of integers too. Its sums run over tokens, so the scales of their rows of dy and x are folded into the
    integers of x, which are rounded a second time: tokens with small gradients more coarsely, but what they add is as
    small.
    """

    def __init__(self, call: Call, threads: int) -> None:
        """- `threads`: of the functions that are called."""
        self._call, self._threads = call, threads

    def prepare(self, weight: Tensor, *more: Tensor) -> Matrix:
        weight = _joined(weight, *more)
        by_column = Quantized(torch.empty_like(weight, dtype=torch.int8), weight.new_empty(weight.shape[1]))
        self._call("quantize_columns", *weight.shape, weight, *by_column)
        return Matrix(self.read(weight), by_column)

    def read(self, x: Tensor) -> Quantized:
        rounded = _empty(*x.shape)
        self._call("quantize_rows", *x.shape, x, *rounded)
        return rounded

    def forward(self, x: Quantized, weight: Matrix) -> Sums:
        numbers, scales = weight.by_row
        return Sums(multiply_int8(x.numbers, numbers.T), x.scales, scales)

    def backward(self, dy: Quantized, weight: Matrix) -> Sums:
        numbers, scales = weight.by_column
        return Sums(multiply_int8(dy.numbers, numbers), dy.scales, scales)

    def gradient(self, dy: Quantized, x: Quantized) -> Tensor:
        numbers = torch.empty_like(x.numbers)
        scale = self._call("fold_scales", *numbers.shape, x.numbers, x.scales, dy.scales, numbers)
        sums = multiply_int8(dy.numbers.T, numbers)
        floats = sums.view(torch.float32)
        self._call("scale_all", sums.numel(), sums, scale, floats)
        return floats

    def floats(self, product: Sums) -> Tensor:
        floats = product.sums.view(torch.float32)  # in the same memory
        self._call("scale_sums", *floats.shape, *product, floats)
        return floats

    def swiglu(self, gate_up: Sums) -> Quantized:
        n, width = gate_up.sums.shape
        hidden = _empty(n, width // 2)
        workspace = torch.empty(self._threads, width // 2)
        self._call("swiglu_int8_forward", *hidden.numbers.shape, *gate_up, *hidden, workspace)
        return hidden

    def swiglu_backward(self, gate_up: Sums, dhidden: Sums) -> Quantized:
        dgate_up = _empty(*gate_up.sums.shape)
        workspace = torch.empty(self._threads, gate_up.sums.shape[1])
        self._call("swiglu_int8_backward", *dhidden.sums.shape, *gate_up, *dhidden, *dgate_up, workspace)
        return dgate_up


def _joined(weight: Tensor, *more: Tensor) -> Tensor:
    return torch.cat((weight, *more)).detach() if more else weight.detach()


def _empty(rows: int, columns: int) -> Quantized:
    return Quantized(torch.empty(rows, columns, dtype=torch.int8), torch.empty(rows))

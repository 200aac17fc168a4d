"""Products of 8-bit integers: what is rounded, and by how much; a step with them learns as one in fp32 does."""

from __future__ import annotations

import ctypes
import shutil

import pytest
import torch
from conftest import random_model, tiny_config
from support.gradients import gradients, windows
from torch import Tensor

from gptlite.config import TrainConfig
from gptlite.device import choose_hardware, int8_in_hardware
from gptlite.kernels.forward import Forward
from gptlite.kernels.fused import FusedLoss
from gptlite.kernels.products import MOST_ROWS, FloatProducts, Int8Products, Matrix, Quantized, Sums
from gptlite.kernels.workers import Workers
from gptlite.model import GPT, initialise
from gptlite.training import optimizer

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
    pytest.mark.skipif(not int8_in_hardware(), reason="this processor has no fast products of 8-bit integers"),
]


@pytest.fixture
def products(library: ctypes.CDLL) -> Int8Products:
    loss = FusedLoss(library, 2, torch.int8)
    assert isinstance(loss.products, Int8Products)
    return loss.products


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def back(matrix: Quantized) -> Tensor:
    return matrix.numbers.float() * matrix.scales[:, None]


def columns_back(matrix: Quantized) -> Tensor:
    return matrix.numbers.float() * matrix.scales


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def both_gradients(products: Int8Products, dy: Tensor, weight: Matrix, x: Quantized) -> tuple[Tensor, Tensor]:
    read = products.read(dy)
    return products.floats(products.backward(read, weight)), products.gradient(read, x)


def test_each_row_is_rounded_to_127ths_of_its_largest_number(products: Int8Products) -> None:
    x = normal(50, 37) * normal(50, 1, seed=1).exp()
    x[7] = 0
    rounded = products.prepare(x).by_row
    assert rounded.numbers.dtype == torch.int8
    largest = rounded.numbers.abs().amax(1)
    assert largest.tolist() == [0 if i == 7 else 127 for i in range(50)]
    assert rounded.scales[7] == 0, "so that this row weighs nothing in dW"
    assert ((back(rounded) - x).abs() <= 0.5001 * rounded.scales[:, None]).all(), "to the nearest"


def test_columns_are_rounded_as_the_rows_of_the_transposed_matrix(products: Int8Products) -> None:
    x = normal(50, 37) * normal(37, seed=1).exp()
    x[:, 4] = 0
    columns, rows = products.prepare(x).by_column, products.prepare(x.T.contiguous()).by_row
    assert torch.equal(columns.scales, rows.scales)
    assert (columns.numbers.T - rows.numbers).abs().max() <= 1, "1 / scale is rounded once more in rows"
    assert ((columns_back(columns) - x).abs() <= 0.5001 * columns.scales).all()


def test_halves_are_rounded_to_even_numbers(products: Int8Products) -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, -0.5, -2.5, -126.5]])
    assert products.prepare(x).by_row.numbers.tolist() == [[127, 0, 2, 0, -2, -126]]


@pytest.mark.parametrize("shape", [(40, 48, 96), (1, 7, 5), (33, 129, 1)], ids=str)
def test_products_are_those_of_what_was_rounded(products: Int8Products, shape: tuple[int, int, int]) -> None:
    """The sums themselves are exact, so a product differs from that of the rounded matrices in the last bits only."""
    n, d, o = shape
    x, w, dy = normal(n, d), normal(o, d, seed=1), normal(n, o, seed=2)
    weight = products.prepare(w)
    kept = products.read(x)
    y = products.floats(products.forward(kept, weight))
    assert distance(y, back(kept) @ back(weight.by_row).T) < 1e-5
    dx, dw = both_gradients(products, dy, weight, kept)
    assert distance(dx, back(products.prepare(dy).by_row) @ columns_back(weight.by_column)) < 1e-5
    assert (dx.shape, dw.shape) == ((n, d), (o, d))


def test_products_are_near_those_of_fp32(products: Int8Products) -> None:
    """By their norms: to 1 % where numbers are of one size, to 5 % where those of rows and tokens are far apart."""
    x, w, dy = normal(200, 96), normal(64, 96, seed=1), normal(200, 64, seed=2) * normal(200, 1, seed=3).exp()
    w *= normal(64, 1, seed=4).exp()
    exact = FloatProducts(products._call, torch.float32)
    weight = products.prepare(w)
    kept = products.read(x)
    assert distance(products.floats(products.forward(kept, weight)), exact.forward(x, w)) < 0.012
    dx, dw = both_gradients(products, dy, weight, kept)
    assert distance(dx, exact.backward(dy, w)) < 0.02
    assert distance(dw, exact.gradient(dy, x)) < 0.05


def test_gradients_of_zero_are_zero(products: Int8Products) -> None:
    weight = products.prepare(torch.zeros(8, 12))
    kept = products.read(normal(20, 12))
    for gradient in both_gradients(products, torch.zeros(20, 8), weight, kept):
        assert not gradient.any()
    dx, dw = both_gradients(products, normal(20, 8), weight, kept)
    assert not dx.any() and dw.isfinite().all() and dw.any(), "matrices that begin as zeros learn"
    tiny = torch.full((20, 8), 1e-42)  # its scales are zero in fp32, or next to it
    for gradient in both_gradients(products, tiny, weight, kept):
        assert gradient.isfinite().all()


def test_tokens_without_a_gradient_do_not_make_that_of_others_coarser(products: Int8Products) -> None:
    x, dy = normal(20, 12), 1e-6 * normal(20, 8, seed=1)
    few = products.gradient(products.read(dy[:10]), products.read(x[:10]))
    dy[10:] = 0
    assert torch.equal(products.gradient(products.read(dy), products.read(x)), few)


def test_swiglu_between_products_is_that_of_floats(products: Int8Products) -> None:
    exact = FloatProducts(products._call, torch.float32)
    x, dy = products.read(3 * normal(30, 24)), products.read(normal(30, 16, seed=1))
    gate_up = products.forward(x, products.prepare(normal(40, 24, seed=2)))
    dhidden = products.backward(dy, products.prepare(normal(16, 20, seed=3)))
    floats, dfloats = (products.floats(Sums(p.sums.clone(), *p[1:])) for p in (gate_up, dhidden))
    hidden = exact.swiglu(floats)
    for ours, theirs in (
        (products.swiglu(gate_up), hidden),
        (products.swiglu_backward(gate_up, dhidden), exact.swiglu_backward(floats, dfloats)),
    ):
        assert ((back(ours) - theirs).abs() <= 0.501 * ours.scales[:, None]).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_passed_on(products: Int8Products, value: float) -> None:
    x, w, dy = normal(6, 8), normal(4, 8, seed=1), normal(6, 4, seed=2)
    x[2, 3] = dy[1, 1] = value
    weight = products.prepare(w)
    kept = products.read(x)
    y = products.floats(products.forward(kept, weight))
    assert not y[2].isfinite().any() and y[3].isfinite().all()
    dx, dw = both_gradients(products, dy, weight, kept)
    assert not dx[1].isfinite().any() and not dw.isfinite().all()
    w[1, 1] = value
    y = products.floats(products.forward(products.read(normal(6, 8)), products.prepare(w)))
    assert not y[:, 1].isfinite().any() and y[:, 2].isfinite().all()


def test_the_sums_of_the_largest_numbers_fit_into_32_bits() -> None:
    assert MOST_ROWS * 127**2 < 2**31 <= (MOST_ROWS + 1) * 127**2
    ones = torch.full((1, MOST_ROWS), 127, dtype=torch.int8)
    assert torch._int_mm(ones, ones.T).item() == MOST_ROWS * 127**2


# -- In a training step


def test_gradients_are_as_near_as_eight_bits_allow(library: ctypes.CDLL) -> None:
    model = random_model(tiny_config("qwen3")).train()
    batch = windows(model.config)
    ours = gradients(FusedLoss(library, 2, torch.int8), model, batch)
    exact = gradients(optimizer.mean_loss, model, batch)
    assert ours.keys() == exact.keys()
    assert ours["loss"] == pytest.approx(exact["loss"].item(), rel=2e-3)
    for name in exact:
        assert ours[name].dtype == torch.float32
        assert (ours[name] - exact[name]).norm() <= 0.15 * exact[name].norm() + 1e-6, name


def test_the_same_step_gives_the_same_bits_again_however_it_is_divided(library: ctypes.CDLL) -> None:
    model = GPT(tiny_config("qwen3"), dropout=0.1).train()
    batch = windows(model.config)

    def step(active: int) -> dict[str, Tensor]:
        workers = Workers(2)
        workers.active = active
        torch.manual_seed(5)
        return gradients(FusedLoss(library, 2, torch.int8, workers), model, batch)

    first, again, alone = step(2), step(2), step(1)
    for name in first:
        assert torch.equal(first[name], again[name]) and torch.equal(first[name], alone[name]), name


def test_it_learns_as_fp32_does(library: ctypes.CDLL) -> None:
    config, train = tiny_config("qwen3"), TrainConfig(lr=0.02)
    ends = []
    for loss_of in (FusedLoss(library, 2, torch.int8), FusedLoss(library, 2)):
        torch.manual_seed(0)
        model = GPT(config, dropout=0.1)
        initialise(model, 0)
        model.train()
        optimizers = optimizer.make_optimizers(model, train)
        batch = windows(config)
        for _ in range(25):
            loss = optimizer.training_step(model, optimizers, batch, choose_hardware("cpu"), train.clip, loss_of)[0]
        ends.append(float(loss))
    assert ends[0] == pytest.approx(ends[1], rel=0.05)


@pytest.mark.usefixtures("cached")
def test_states_of_texts_that_are_read_are_near_those_in_fp32() -> None:
    model = random_model(tiny_config("qwen3")).eval()
    tokens = windows(model.config)[:, :-1]
    exact, rounded = (Forward(model, dtype=dtype).states(tokens) for dtype in (torch.float32, torch.int8))
    assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()

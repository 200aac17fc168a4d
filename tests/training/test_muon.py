"""Muon: orthogonalised matrices, and what one step does to a parameter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gptlite.training.muon import Muon, from_blocks, orthogonalise, to_blocks


def random_matrices(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24), (64, 16), (1, 5), (5, 1)], ids=str)
def test_orthogonalised_matrices_keep_their_directions_only(shape: tuple[int, int]) -> None:
    """Singular values become about 1; singular vectors stay."""
    u, _, vh = torch.linalg.svd(random_matrices(3, *shape), full_matrices=False)
    rank = min(shape)
    values = torch.linspace(1.0, 0.05, rank).expand(3, rank)
    for scale in (1e-3, 1.0, 1e4):
        updates = orthogonalise((u * values[:, None]) @ vh * scale)
        assert updates.shape == (3, *shape)
        inside = u.mT @ updates @ vh.mT  # diagonal if and only if the vectors are the same
        assert float((inside.diagonal(dim1=1, dim2=2) - 1).abs().max()) < 0.11
        assert float((inside - torch.diag_embed(inside.diagonal(dim1=1, dim2=2))).abs().max()) < 1e-3


def test_matrices_are_orthogonalised_each_by_itself() -> None:
    matrices = random_matrices(4, 12, 20) * torch.tensor([1e-3, 1.0, 30.0, 1e5])[:, None, None]
    together = orthogonalise(matrices)
    for i in range(4):
        assert torch.allclose(together[i], orthogonalise(matrices[i : i + 1])[0], atol=1e-5)


def test_orthogonalising_turns_with_its_argument() -> None:
    matrices = random_matrices(2, 6, 10)
    assert torch.allclose(orthogonalise(matrices.mT), orthogonalise(matrices).mT, atol=1e-5)
    assert torch.allclose(orthogonalise(-matrices), -orthogonalise(matrices), atol=1e-6)
    assert not orthogonalise(torch.zeros(2, 6, 10)).any()


def step_of(muon: Muon, parameters: list[nn.Parameter], gradients: list[Tensor | None]) -> list[Tensor]:
    """How far one step moves each parameter."""
    before = [p.detach().clone() for p in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    muon.step()
    return [p.detach() - b for p, b in zip(parameters, before, strict=True)]


@pytest.mark.parametrize(("shape", "stretch"), [((6, 6), 1.0), ((6, 24), 1.0), ((24, 6), 2.0)], ids=str)
def test_the_first_step_follows_the_gradient(shape: tuple[int, int], stretch: float) -> None:
    parameter, gradient = nn.Parameter(random_matrices(*shape)), random_matrices(*shape, seed=1)
    (moved,) = step_of(Muon([parameter], lr=0.1, momentum=0.9, weight_decay=0.0), [parameter], [gradient])
    assert torch.allclose(moved, -0.1 * stretch * orthogonalise(gradient[None])[0], atol=1e-5)


def test_later_steps_remember_earlier_gradients() -> None:
    parameter = nn.Parameter(random_matrices(5, 7))
    muon = Muon([parameter], lr=0.1, momentum=0.8, weight_decay=0.0)
    momentum = torch.zeros(5, 7)
    for seed in range(1, 5):
        gradient = random_matrices(5, 7, seed=seed)
        momentum = 0.8 * momentum + 0.2 * gradient
        ahead = 0.8 * momentum + 0.2 * gradient
        (moved,) = step_of(muon, [parameter], [gradient.clone()])
        assert torch.allclose(moved, -0.1 * orthogonalise(ahead[None])[0], atol=1e-5)


def test_decay_does_not_wait_for_the_gradients_direction() -> None:
    parameter, gradient = nn.Parameter(random_matrices(5, 7)), random_matrices(5, 7, seed=1)
    expected = parameter.detach() * (1 - 0.1 * 0.5) - 0.1 * orthogonalise(gradient[None])[0]
    step_of(Muon([parameter], lr=0.1, momentum=0.9, weight_decay=0.5), [parameter], [gradient])
    assert torch.allclose(parameter, expected, atol=1e-5)


def test_parameters_step_as_if_alone() -> None:
    shapes = [(4, 6), (6, 4), (4, 6), (4, 4), (4, 6)]
    gradients = [random_matrices(*shape, seed=i) for i, shape in enumerate(shapes)]
    together = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    moved = step_of(Muon(together, 0.1, 0.9, 0.1), together, [g.clone() for g in gradients])
    for shape, gradient, expected in zip(shapes, gradients, moved, strict=True):
        alone = nn.Parameter(torch.zeros(shape))
        assert torch.allclose(step_of(Muon([alone], 0.1, 0.9, 0.1), [alone], [gradient])[0], expected, atol=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(4, 6), (2, 6), (4, 3), (2, 3), (1, 1)])
def test_blocks_are_parts_of_their_matrix(rows: int, columns: int) -> None:
    matrices = random_matrices(3, 4, 6)
    blocks = to_blocks(matrices, rows, columns)
    assert blocks.shape == (72 // (rows * columns), rows, columns)
    assert torch.equal(blocks[0], matrices[0, :rows, :columns])
    assert torch.equal(blocks[-1], matrices[-1, -rows:, -columns:])
    assert torch.equal(from_blocks(blocks, (4, 6)), matrices)


def test_a_matrix_without_gradient_stays() -> None:
    parameters = [nn.Parameter(random_matrices(4, 6, seed=i)) for i in range(2)]
    muon = Muon(parameters, lr=0.1, momentum=0.9, weight_decay=0.5)
    moved = step_of(muon, parameters, [None, random_matrices(4, 6, seed=9)])
    assert not moved[0].any()
    assert moved[1].any()
    assert parameters[0] not in muon.state


def test_gradients_are_left_as_they_are() -> None:
    parameter, gradient = nn.Parameter(random_matrices(4, 6)), random_matrices(4, 6, seed=1)
    before = gradient.clone()
    muon = Muon([parameter], lr=0.1, momentum=0.9, weight_decay=0.0)
    for _ in range(2):
        step_of(muon, [parameter], [gradient])
    assert torch.equal(gradient, before)

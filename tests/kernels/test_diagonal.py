"""Matrices that are blocks on a diagonal are multiplied without the zeros between, with the same results."""

from __future__ import annotations

import ctypes
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from contract.test_architectures import distance
from support.ensembles import random_ensemble, shape, whole
from torch import Tensor, nn

from gptlite.config import MEMBERS
from gptlite.device import choose_hardware
from gptlite.embedding.contextual import embed
from gptlite.evaluation.inspection import read
from gptlite.evaluation.scoring import score_model, score_tokens
from gptlite.evaluation.surprisals import Scorer
from gptlite.generation.decoding import DTYPES, EagerDecoder
from gptlite.generation.packed import CompiledDecoder, Packed
from gptlite.kernels import diagonal
from gptlite.kernels.build import Kernel
from gptlite.kernels.diagonal import blocks_of, count_blocks, without_zeros
from gptlite.kernels.forward import Forward
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import find_word

needs_a_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
CPU = choose_hardware("cpu", "fp32", threads=1)
several = pytest.mark.parametrize("n", MEMBERS[1:])


def members(n: int, **more: int) -> GPT:
    """A model of `n` members, of widths that decoding.c can divide."""
    sizes = {"dim": 32, "n_heads": 2, "n_kv_heads": 2, "head_dim": 16, "hidden_dim": 64, **more}
    return whole(random_ensemble(shape(**sizes), n)).eval()


# -- What is found


@several
def test_the_blocks_of_a_diagonal_are_counted(n: int) -> None:
    blocks = list(torch.randn(n, 3, 2))
    weight = torch.block_diag(*blocks)
    assert count_blocks(weight) == n
    assert all(torch.equal(a, b) for a, b in zip(blocks_of(weight, n), blocks, strict=True))
    for place in ((0, -1), (-1, 0)):
        other = weight.clone()
        other[place] = 1e-30
        assert count_blocks(other) == 1


def test_a_number_between_two_of_four_blocks_leaves_two() -> None:
    weight = torch.block_diag(*torch.ones(4, 3, 2))
    weight[0, 2] = 1
    assert count_blocks(weight) == 2


@pytest.mark.parametrize("sides", [(1, 1), (3, 4), (4, 3), (6, 6)])
def test_sides_must_be_divisible(sides: tuple[int, int]) -> None:
    assert count_blocks(torch.zeros(sides)) == (2 if sides == (6, 6) else 1)


# -- Torch


@several
@torch.no_grad()
def test_the_model_computes_the_same_without_zeros(n: int) -> None:
    model, ids = whole(random_ensemble(shape(), n)), torch.randint(50, (3, 8))
    with_zeros = model(ids)
    between = torch.block_diag(*torch.ones(n, 16, 16)) == 0
    with without_zeros(model):
        torch.testing.assert_close(model(ids), with_zeros, atol=1e-4, rtol=1e-4)
        model.transformer.blocks[0].attn.o_proj.weight[between] = torch.nan
        assert model(ids).isfinite().all()  # nothing but the blocks is looked at
    assert model(ids).isnan().any()


def test_a_bias_is_added_once() -> None:
    linear, x = nn.Linear(8, 12), torch.randn(5, 8)
    with torch.no_grad():
        linear.weight.copy_(torch.block_diag(*torch.randn(2, 6, 4)))
    torch.testing.assert_close(diagonal._multiply(linear, 2, x), linear(x))


def test_the_last_user_puts_the_zeros_back_even_after_an_error() -> None:
    model = members(2)
    linear = model.transformer.blocks[0].attn.o_proj
    with without_zeros(model):
        with pytest.raises(KeyError), without_zeros(model):
            raise KeyError
        assert "forward" in vars(linear)
    assert "forward" not in vars(linear)


def count_products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of blocks of the products from now on."""
    counted: list[int] = []
    multiply = diagonal._multiply

    def count(linear: nn.Linear, n: int, x: Tensor) -> Tensor:
        counted.append(n)
        return multiply(linear, n, x)

    monkeypatch.setattr(diagonal, "_multiply", count)
    return counted


def test_scores_and_vectors_are_computed_without_zeros(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    model = whole(random_ensemble(shape(vocab_size=tokenizer.vocab_size), 2)).eval()
    ids = np.array(tokenizer.encode("Ada finds the river . " * 3))
    for use in (
        partial(score_model, model, tokenizer, ids, CPU),
        partial(score_tokens, model, tokenizer, ids, CPU),
        partial(Scorer(model, tokenizer, CPU, compile="off").score, ["the river ."]),
        partial(read, model, tokenizer, "the river .", CPU),
        partial(embed, model, tokenizer, find_word("the river .", 0, "river")),
    ):
        counted = count_products(monkeypatch)
        use()
        assert counted and set(counted) == {2}


# -- Machine code


@pytest.fixture(scope="module")
def decoding(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    made = Kernel("decoding", tmp_path_factory.mktemp("kernels"))
    made.build()
    return made.load()


def decode(decoder: CompiledDecoder | EagerDecoder, ids: Tensor) -> Tensor:
    """The logits (B, T - 2, V) after the third of the ids (B, T) and each one that follows."""
    return torch.stack([decoder.prefill(ids[:, :3]), *(decoder.step(ids[:, t]) for t in range(3, ids.shape[1]))], dim=1)


@needs_a_compiler
@several
@torch.no_grad()
def test_the_decoder_keeps_nothing_but_blocks(decoding: ctypes.CDLL, n: int) -> None:
    model, ids = members(n, n_layers=2), torch.randint(50, (2, 8))
    packed = Packed(model, decoding)
    layer = packed.layers[0]
    widths = [linear.n_in for linear in (layer.qkv, layer.out, layer.up, layer.down)]
    assert widths == [32, 32, 32, 64] and packed.structure.head.n_in == 32 * n
    assert distance(decode(CompiledDecoder(packed, 2), ids), decode(EagerDecoder(model, 2), ids)) < 1e-5


@needs_a_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_zeros_do_not_change_a_bit_of_what_is_decoded(
    decoding: ctypes.CDLL, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = members(4), torch.randint(50, (3, 8))
    alone = decode(CompiledDecoder(Packed(model, decoding, dtype), 3), ids)
    monkeypatch.setattr("gptlite.generation.packed.count_blocks", lambda weight: 1)
    assert torch.equal(alone, decode(CompiledDecoder(Packed(model, decoding, dtype), 3), ids))


@needs_a_compiler
@torch.no_grad()
def test_members_that_the_decoder_cannot_divide_keep_their_zeros(decoding: ctypes.CDLL) -> None:
    model, ids = members(2, dim=24, head_dim=12), torch.randint(50, (2, 8))
    packed = Packed(model, decoding)
    assert packed.layers[0].qkv.n_in == 48
    assert distance(decode(CompiledDecoder(packed, 2), ids), decode(EagerDecoder(model, 2), ids)) < 1e-5


@needs_a_compiler
@several
@pytest.mark.usefixtures("cached")
def test_the_forward_pass_in_c_multiplies_nothing_but_blocks(n: int) -> None:
    model, ids = members(n), torch.randint(50, (3, 8))
    forward = Forward(model)
    with torch.inference_mode():
        assert torch.allclose(forward.states(ids), model.transformer(ids), atol=2e-5, rtol=1e-4)
    assert [len(m.qkv.blocks) for m in forward.matrices] == [n] * model.config.n_layers
    assert forward.matrices[0].qkv.blocks[0].shape == (96, 32)


@pytest.mark.usefixtures("cached")
def test_a_model_of_one_has_no_blocks_in_c(tmp_path: Path) -> None:
    assert isinstance(Forward(members(1)).matrices[0].qkv, Tensor)

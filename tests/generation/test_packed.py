"""The compiled decoder computes what the model computes, with the same bits in any company."""

from __future__ import annotations

import copy
import ctypes
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import random_model, tiny_config
from contract.test_architectures import CONFIGS, distance, every_architecture, random_tokens
from torch import Tensor, nn

from gptlite.config import ModelConfig, SamplingConfig
from gptlite.errors import CheckpointError
from gptlite.generation.decoding import DTYPES, Decoder, Decoding, EagerDecoder
from gptlite.generation.generate import generate_ids
from gptlite.generation.packed import MOST_TOKENS, CompiledDecoder, Packed, quantise
from gptlite.generation.reproducible import make_sampler
from gptlite.kernels.build import Kernel

both_dtypes = pytest.mark.parametrize("dtype", DTYPES)
ODD = tiny_config("qwen3", dim=36, n_heads=3, n_kv_heads=1, head_dim=10, hidden_dim=45, vocab_size=301)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    made = Kernel("decoding", tmp_path_factory.mktemp("kernels"))
    made.build()
    return made.load()


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def read(decoder: Decoder, tokens: Tensor, at_once: int) -> Tensor:
    """The logits (B, N, V) after the first `at_once` of tokens (B, T), and after each one that follows."""
    logits = [decoder.prefill(tokens[:, :at_once])]
    logits += [decoder.step(tokens[:, t]) for t in range(at_once, tokens.shape[1])]
    return torch.stack(logits, dim=1)


# -- What is computed


@every_architecture
@pytest.mark.parametrize("at_once", [1, 7, 32])
@torch.no_grad()
def test_it_computes_what_the_model_computes(library: ctypes.CDLL, config: ModelConfig, at_once: int) -> None:
    model, tokens = random_model(config), random_tokens(config)
    expected = model(tokens)[:, at_once - 1 :]
    assert distance(read(EagerDecoder(model, 2), tokens, at_once), expected) < 1e-5
    assert distance(read(CompiledDecoder(Packed(model, library), 2), tokens, at_once), expected) < 1e-5


@torch.no_grad()
def test_no_width_has_to_be_round(library: ctypes.CDLL) -> None:
    model, tokens = random_model(ODD), random_tokens(ODD)
    assert distance(read(CompiledDecoder(Packed(model, library), 2), tokens, 3), model(tokens)[:, 2:]) < 1e-5


@every_architecture
@torch.no_grad()
def test_int8_computes_what_a_model_of_rounded_weights_computes(library: ctypes.CDLL, config: ModelConfig) -> None:
    model, tokens = random_model(config), random_tokens(config)
    found = read(CompiledDecoder(Packed(model, library, "int8"), 2), tokens, 5)
    rounded = copy.deepcopy(model)
    for module in rounded.modules():
        if isinstance(module, nn.Linear):
            numbers, scale = quantise(module.weight)
            module.weight = nn.Parameter(numbers * scale[:, None])  # a tied table of embeddings stays as it was
    assert distance(found, rounded(tokens)[:, 4:]) < 1e-5
    assert distance(found, model(tokens)[:, 4:]) > 1e-3


def test_rounding_is_to_the_nearest_of_255_numbers() -> None:
    weight = torch.randn(9, 50, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    numbers, scale = quantise(weight)
    assert numbers.abs().max() == 127 and not numbers[3].any()
    assert ((numbers * scale[:, None] - weight).abs() <= 0.5001 * scale[:, None]).all()


# -- The same bits


@every_architecture
@both_dtypes
def test_a_row_is_the_same_in_any_company(library: ctypes.CDLL, config: ModelConfig, dtype: str) -> None:
    packed = Packed(random_model(config), library, dtype)
    tokens = random_tokens(config, rows=16)
    together = read(CompiledDecoder(packed, 16), tokens, 5)
    for first, end in ((0, 1), (7, 8), (15, 16), (0, 3), (9, 11)):
        alone = read(CompiledDecoder(packed, end - first), tokens[first:end], 5)
        assert torch.equal(alone, together[first:end])


@every_architecture
@both_dtypes
def test_a_token_is_the_same_read_alone_or_with_others(library: ctypes.CDLL, config: ModelConfig, dtype: str) -> None:
    packed = Packed(random_model(config), library, dtype)
    tokens = random_tokens(config)
    one_by_one = read(CompiledDecoder(packed, 2), tokens, 1)
    for at_once in (2, 9, 32):
        assert torch.equal(read(CompiledDecoder(packed, 2), tokens, at_once), one_by_one[:, at_once - 1 :])


@both_dtypes
def test_any_number_of_threads_computes_the_same(library: ctypes.CDLL, dtype: str, threads: None) -> None:
    packed = Packed(random_model(ODD), library, dtype)
    tokens = random_tokens(ODD, rows=3)
    found = []
    for n in (1, 2, 5):
        torch.set_num_threads(n)
        found.append(read(CompiledDecoder(packed, 3), tokens, 4))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_without_openmp_one_thread_computes_the_same(
    library: ctypes.CDLL, threads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\ncase "$*" in *-fopenmp*) exit 1;; esac\nexec cc "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    alone, _ = Kernel("decoding", tmp_path).open()
    torch.set_num_threads(2)
    model, tokens = random_model(ODD), random_tokens(ODD, rows=3)
    decoder = CompiledDecoder(Packed(model, alone), 3)
    assert decoder.call.n_threads == 1
    assert torch.equal(read(decoder, tokens, 4), read(CompiledDecoder(Packed(model, library), 3), tokens, 4))


def test_more_rows_than_one_pass_takes(library: ctypes.CDLL) -> None:
    packed, n = Packed(random_model(ODD), library), 2 * MOST_TOKENS + 5
    tokens = random_tokens(ODD, rows=n, length=9)
    together = read(CompiledDecoder(packed, n), tokens, 4)
    for row in (0, 47, 48, n - 1):
        assert torch.equal(read(CompiledDecoder(packed, 1), tokens[row : row + 1], 4)[0], together[row])


def test_a_prompt_for_all_rows_is_read_once(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = Packed(random_model(CONFIGS["qwen3-shared"]), library)
    prompt, more = random_tokens(packed.config, rows=1, length=9), random_tokens(packed.config, rows=4, length=5)
    together, sizes = CompiledDecoder(packed, 4), list[int]()
    forward = together._forward
    monkeypatch.setattr(together, "_forward", lambda n, *more: (sizes.append(n), forward(n, *more)))
    found = read(together, torch.cat((prompt.expand(4, -1), more), dim=1), 9)
    assert sizes == [9, 4, 4, 4, 4, 4]
    for row in range(4):
        alone = torch.cat((prompt, more[row : row + 1]), dim=1)
        assert torch.equal(read(CompiledDecoder(packed, 1), alone, 9)[0], found[row])


@both_dtypes
@torch.no_grad()
def test_rows_go_on_without_those_that_are_done(library: ctypes.CDLL, dtype: str) -> None:
    """With the bits that they have alone, also when they are read again because a window was full."""
    packed = Packed(random_model(ODD), library, dtype)
    tokens, rest = random_tokens(ODD, rows=5, length=9), random_tokens(ODD, rows=5, length=7)

    def go_on(decoder: Decoder, rows: list[int]) -> Tensor:
        """What the last of `rows` gets while the others leave one after the other."""
        logits = [decoder.prefill(tokens[rows, :4])[-1]]
        for t in range(4, 9):
            logits.append(decoder.step(tokens[rows, t])[-1])
            if len(rows) > 2:
                decoder.keep(kept := [i for i in range(len(rows)) if i != t % 2])
                rows = [rows[i] for i in kept]
        logits.append(decoder.prefill(rest[rows])[-1])
        return torch.stack([*logits, decoder.step(tokens[rows, 0])[-1]])

    expected = go_on(CompiledDecoder(packed, 1), [4])
    assert torch.equal(go_on(CompiledDecoder(packed, 5), [0, 1, 2, 3, 4]), expected)
    if dtype == "fp32":
        assert distance(go_on(EagerDecoder(packed.model, 5), [0, 1, 2, 3, 4]), expected) < 1e-5


def test_a_prompt_for_all_that_are_left_is_read_once(library: ctypes.CDLL) -> None:
    packed = Packed(random_model(ODD), library)
    prompt = random_tokens(ODD, rows=1, length=9)
    decoder = CompiledDecoder(packed, 60)
    decoder.prefill(random_tokens(ODD, rows=60, length=3))
    decoder.keep([40, 59])
    found = read(decoder, prompt.expand(2, -1), 5)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[:1], read(CompiledDecoder(packed, 1), prompt, 5))


# -- Writing with it


@every_architecture
def test_text_is_the_one_written_without_it(library: ctypes.CDLL, config: ModelConfig) -> None:
    """Beyond the window too; the sampler sees logits that differ in their last bits only."""
    model = random_model(config)
    texts = []
    for how in (Decoding(model), Decoding(model, Packed(model, library))):
        prompts = [[1, 2, 3]] * 3
        sampler = make_sampler(SamplingConfig(top_p=1.0, min_p=0.0), [1, 2, 3], prompts)
        texts.append(list(islice(generate_ids(model, prompts, sampler, decoding=how), 100)))
    assert texts[0] == texts[1]


def test_ids_that_are_none_are_refused(library: ctypes.CDLL) -> None:
    decoder = CompiledDecoder(Packed(random_model(ODD), library), 1)
    for wrong in (-1, ODD.vocab_size):
        with pytest.raises(IndexError, match="not below 301"):
            decoder.prefill(torch.tensor([[1, wrong]]))


def test_a_full_window_takes_no_more(library: ctypes.CDLL) -> None:
    decoder = CompiledDecoder(Packed(random_model(ODD), library), 1)
    decoder.prefill(random_tokens(ODD, rows=1))
    with pytest.raises(IndexError, match="or 32"):
        decoder.step(torch.tensor([1]))


@both_dtypes
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_noticed(library: ctypes.CDLL, dtype: str, value: float) -> None:
    model = random_model(ODD)
    with torch.no_grad():
        model.transformer.blocks[1].mlp.down_proj.weight[3, 4] = value
    logits = CompiledDecoder(Packed(model, library, dtype), 1).prefill(torch.tensor([[1, 2]]))
    with pytest.raises(CheckpointError, match="not numbers"):
        make_sampler(SamplingConfig(), [0])(logits)

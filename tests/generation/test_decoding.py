"""Decoders: the compiled one computes what the model computes, the same bits in any company, or steps aside."""

from __future__ import annotations

import copy
import ctypes
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import Command, random_model, tiny_config
from contract.test_architectures import CONFIGS, distance, every_architecture, random_tokens
from torch import Tensor, nn

from gptlite.config import ModelConfig, SamplingConfig
from gptlite.errors import CheckpointError, UsageError
from gptlite.generation import decoding
from gptlite.generation.decoding import (
    CompiledDecoder,
    Decoder,
    Decoding,
    EagerDecoder,
    Packed,
    choose_decoding,
    quantise,
)
from gptlite.generation.generate import generate_ids
from gptlite.generation.sampling import make_sampler
from gptlite.kernels import build
from gptlite.kernels.build import Kernel
from gptlite.model import GPT

needs_a_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
both_dtypes = pytest.mark.parametrize("dtype", decoding.DTYPES)
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


def test_more_rows_than_one_pass_takes(library: ctypes.CDLL) -> None:
    packed, n = Packed(random_model(ODD), library), 2 * decoding.MOST_TOKENS + 5
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


# -- Which one


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> GPT:
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-O0"))  # to compile is quick, to compute is not asked here
    return random_model(tiny_config("qwen3"))


@needs_a_compiler
def test_compiling_has_to_be_worth_it_once(model: GPT) -> None:
    assert choose_decoding(model, 200).describe() == (
        "fp32, not compiled: so short a text is written sooner than a decoder is compiled"
    )
    first = choose_decoding(model, 1_000_000)
    assert first.packed is not None and "for a compiler, once on this machine" in first.reason
    again = choose_decoding(model, 1)
    assert again.describe() == "fp32, compiled: ready since an earlier run"


@needs_a_compiler
@pytest.mark.parametrize("wish", [{"compile": "on"}, {"dtype": "int8"}], ids=str)
def test_who_asks_for_it_gets_it(model: GPT, wish: dict[str, str]) -> None:
    chosen = choose_decoding(model, 1, **wish)
    assert chosen.packed is not None and chosen.packed.dtype == wish.get("dtype", "fp32")
    assert isinstance(chosen.start(2), CompiledDecoder)


def test_who_does_not_want_it_goes_without(model: GPT) -> None:
    chosen = choose_decoding(model, 1_000_000, compile="off")
    assert isinstance(chosen.start(2), EagerDecoder)
    assert chosen.describe() == "fp32, not compiled: as asked"
    with pytest.raises(UsageError, match="int8 is for compiled decoding"):
        choose_decoding(model, 1, dtype="int8", compile="off")


@pytest.mark.parametrize("wrong", [{"dtype": "bf16"}, {"compile": "yes"}], ids=str)
def test_choices_are_checked(model: GPT, wrong: dict[str, str]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(UsageError, match=f"--{name} must be one of .*, not '{value}'"):
        choose_decoding(model, 1, **wrong)


@pytest.mark.parametrize("dtype", decoding.DTYPES)
def test_without_a_compiler_text_is_written_all_the_same(
    model: GPT, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    chosen = choose_decoding(model, 1_000_000, dtype=dtype, compile="on")
    assert isinstance(chosen.start(1), EagerDecoder)
    assert chosen.describe() == "fp32, not compiled: no C compiler (no-such-compiler) was found"


def test_other_devices_decode_as_they_do(model: GPT) -> None:
    assert choose_decoding(model.to("meta"), 1, compile="on").describe() == "fp32, not compiled: meta decodes as it is"


def test_memory_must_hold_the_weights_twice(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "available_memory", lambda device: 1000)
    assert "memory does not hold its weights twice" in choose_decoding(model, 1, compile="on").reason


def test_without_a_home_nothing_is_compiled(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GPTLITE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError()))
    assert "no folder to keep" in choose_decoding(model, 1, compile="on").reason


# -- On the command line


@needs_a_compiler
def test_the_command_says_how_it_decodes(gptlite: Command, trained_run: Path) -> None:
    line = ("generate", "Ada", "-m", trained_run, "--seed", "1", "--max-new-tokens", "60")
    plain, first, again = gptlite(*line), gptlite(*line, "--compile", "on"), gptlite(*line)
    assert plain.out == first.out == again.out
    said = [outcome.err.splitlines()[-1] for outcome in (plain, first, again)]
    assert said[0].endswith("· seed 1"), "so short a text is not worth a compiler, and no word"
    assert said[1].startswith("fp32, compiled: ") and said[1].endswith("for a compiler, once on this machine")
    assert said[2] == "fp32, compiled: ready since an earlier run"
    rounded = gptlite(*line, "--dtype", "int8")
    assert rounded.code == 0 and rounded.err.splitlines()[1] == "int8, compiled: ready since an earlier run"


@pytest.mark.parametrize("wrong", ["--dtype fp16", "--compile maybe", "--dtype int8 --compile off"])
def test_what_the_command_does_not_know_is_code_2(gptlite: Command, trained_run: Path, wrong: str) -> None:
    outcome = gptlite("generate", "Ada", "-m", trained_run, *wrong.split())
    assert (outcome.code, outcome.out) == (2, "")

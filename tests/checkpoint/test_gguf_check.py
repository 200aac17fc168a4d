"""What llama.cpp makes of our files, as --verify tells it; and that it would tell if something were wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, random_model, tiny_config
from support.foreign import ROPE_SCALINGS, save, shake, their_llama, their_qwen3

from gptlite.checkpoint import saved_step
from gptlite.checkpoint.gguf import DTYPES, export_gguf
from gptlite.checkpoint.gguf_check import LARGEST_DIVERGENCE, N_TEXTS, GgufReport, verify_gguf, write
from gptlite.config import ModelConfig, SamplingConfig
from gptlite.distribution import install_hint
from gptlite.errors import CheckpointError
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.tokenizer_json import PATTERNS

pytest.importorskip("gguf")
llama_cpp = pytest.importorskip("llama_cpp")

KNOWN = ("qwen3", "llama", "gpt2")


def make(architecture: str, tokenizer: Tokenizer, **overrides: Any) -> GPT:
    """A model that is sure of what comes next, as trained ones are."""
    shape = {"vocab_size": tokenizer.vocab_size + 3, "dim": 64, "context_length": 256, **overrides}
    return random_model(tiny_config(architecture, **shape))


def report(model: GPT, tokenizer: Tokenizer, dtype: str = "f32", *, of: GPT | None = None) -> GgufReport:
    """Of the file of `of`, by default `model` itself, compared with `model`."""
    source = of or model
    export_gguf(Path("model.gguf"), source.config, source.state_dict(), tokenizer, dtype=dtype)
    return verify_gguf(Path("model.gguf"), model, tokenizer)


@pytest.mark.parametrize("architecture", KNOWN)
def test_full_precision_is_the_same_model(architecture: str, tokenizer: Tokenizer) -> None:
    """The same ids of odd texts, the same 200 likeliest tokens, the same probabilities."""
    found = report(make(architecture, tokenizer), tokenizer)
    assert found.problem("f32") is None
    assert (found.unequal, found.n_texts) == ((), N_TEXTS)
    assert found.n_equal == found.n_greedy == 200
    assert found.divergence < 1e-6
    assert found.loss == pytest.approx(found.their_loss, abs=1e-4)


@pytest.mark.parametrize("architecture", ["qwen3", *(pytest.param(a, marks=pytest.mark.slow) for a in KNOWN[1:])])
def test_fewer_bits_cost_little_and_it_is_said_how_much(architecture: str, tokenizer: Tokenizer) -> None:
    model = make(architecture, tokenizer)
    divergences = [report(model, tokenizer, dtype).divergence for dtype in DTYPES]
    assert divergences == sorted(divergences)
    assert 1e-6 < divergences[-1] < LARGEST_DIVERGENCE["q8_0"]


@pytest.mark.parametrize("architecture", KNOWN)
def test_shared_heads_of_any_width_are_the_same(architecture: str, tokenizer: Tokenizer) -> None:
    overrides = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 32} if architecture != "gpt2" else {"hidden_dim": 96}
    model = make(architecture, tokenizer, **overrides, tie_embeddings=False)
    assert report(model, tokenizer).problem("f32") is None


@pytest.mark.hf
@pytest.mark.parametrize("kind", [kind for kind in ROPE_SCALINGS if kind != "dynamic"])
@pytest.mark.parametrize("make_theirs", [their_llama, pytest.param(their_qwen3, marks=pytest.mark.slow)])
def test_scaled_rotary_positions_are_the_same(
    make_theirs: Any, kind: str, gptlite: Command, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rope = {**ROPE_SCALINGS[kind], "rope_theta": 500.0}
    theirs = shake(make_theirs(head_dim=16, max_position_embeddings=256, rope_parameters=rope))
    folder = save(theirs, tokenizer, tmp_path / "theirs")
    outcome = gptlite("export", folder, "--dtype", "f32", "--verify")
    unknown = {("llama3", their_qwen3): "in the llama architecture only"}
    unknown |= {("yarn-in-detail", make): "beta_slow 1, beta_fast 32" for make in (their_llama, their_qwen3)}
    if (kind, make_theirs) in unknown:
        assert outcome.code == 2
        assert unknown[kind, make_theirs] in outcome.err
    else:
        assert outcome.code == 0, outcome.err
        assert "the same 200 tokens" in outcome.err


@pytest.mark.parametrize("name", [*PATTERNS.values(), "SmolLM"])
def test_each_way_of_cutting_text_is_the_same(name: str, tokenizer: Tokenizer) -> None:
    content = json.loads(tokenizer.to_json())
    cut: dict[str, Any] = {"type": "Digits", "individual_digits": True}
    if name != "SmolLM":
        regex = next(regex for regex, known in PATTERNS.items() if known == name)
        cut = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": name == "SmolLM"}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [cut, last]}
    content["normalizer"] = {"type": "NFC"} if name == "Qwen" else None
    theirs = Tokenizer.from_json(json.dumps(content))
    assert theirs.cut == name
    assert report(make("llama", theirs), theirs).unequal == ()


def test_another_model_is_found_out(tokenizer: Tokenizer) -> None:
    model, other = make("qwen3", tokenizer), make("qwen3", tokenizer)
    with torch.no_grad():
        other.transformer.norm.weight.mul_(1.1)  # the same likeliest tokens, but surer of them
    found = report(model, tokenizer, of=other)
    assert found.n_equal == found.n_greedy
    assert str(found.problem("f32")).startswith("its probabilities diverge by 0.0")
    with torch.no_grad():
        other.transformer.blocks[0].mlp.up_proj.weight.neg_()
    assert "writes another text after" in str(report(model, tokenizer, of=other).problem("f32"))


def test_other_tokens_are_found_out(tokenizer: Tokenizer) -> None:
    """A file that says the text is cut as GPT-2 does, though it is not."""
    content = json.loads(tokenizer.to_json())
    other = Tokenizer.from_json(
        json.dumps({**content, "model": {**content["model"], "merges": content["model"]["merges"][:1]}})
    )
    model = make("qwen3", tokenizer)
    export_gguf(Path("model.gguf"), model.config, model.state_dict(), other, dtype="f32")
    found = verify_gguf(Path("model.gguf"), model, tokenizer)
    assert found.unequal
    assert f"cuts {len(found.unequal)} of {N_TEXTS} texts into other tokens" in str(found.problem("f32"))


def test_what_is_no_gguf_is_an_error(tokenizer: Tokenizer) -> None:
    Path("model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(CheckpointError, match=r"model\.gguf: llama\.cpp cannot open it"):
        verify_gguf(Path("model.gguf"), make("qwen3", tokenizer), tokenizer)


def test_what_is_written_here_is_what_generate_writes(tokenizer: Tokenizer) -> None:
    from gptlite.generation.generate import generate

    model = make("llama", tokenizer)
    (sample,) = generate(model, tokenizer, "Ada", SamplingConfig(temperature=0.0, max_new_tokens=50), seed=0)
    written = write(model, tokenizer.encode("Ada"), 50, sample=False)
    assert sample.tokens == written[: len(sample.tokens)]


# -- The command


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_command_tells_what_it_found(gptlite: Command, trained_run: Path, dtype: str) -> None:
    outcome = gptlite("export", trained_run, "--dtype", dtype, "--verify")
    assert (outcome.code, outcome.out) == (0, "")
    assert f"token ids     equal for {N_TEXTS} of {N_TEXTS} texts" in outcome.err
    assert "nats a token away; 31 tokens that the model wrote take" in outcome.err


def test_a_difference_is_code_4(gptlite: Command, trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LARGEST_DIVERGENCE, "f16", 0.0)
    outcome = gptlite("export", trained_run, "--verify")
    assert outcome.code == 4
    assert "run-f16.gguf: llama.cpp does not read what the model says: its probabilities diverge" in outcome.err


def test_without_llama_cpp_it_is_told_how_to_come(
    gptlite: Command, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = gptlite("export", trained_run, "--verify")
    assert outcome.code == 2
    assert install_hint("llama") in outcome.err
    assert not Path("run-f16.gguf").exists()


def test_a_loaded_step_is_what_is_compared(trained_run: Path) -> None:
    loaded = saved_step.load((trained_run / "best").resolve())
    assert isinstance(loaded.config, ModelConfig)
    assert report(loaded.model, loaded.tokenizer).problem("f32") is None

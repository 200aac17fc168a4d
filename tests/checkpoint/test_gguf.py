"""GGUF files: read back, they hold our numbers; llama.cpp reads the same tokens and writes the same text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_text, random_model, tiny_config

from gptlite.checkpoint import gguf, runs, saved_step
from gptlite.checkpoint.gguf import export_gguf
from gptlite.config import ModelConfig, SamplingConfig
from gptlite.errors import StorageError, UsageError
from gptlite.generation.generate import generate
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer
from gptlite.training.pipeline import train

reading = pytest.importorskip("gguf")

KNOWN = ("qwen3", "llama", "gpt2")
# Largest error of a number: none, half a unit of 11 bits, half a step of 127 to the largest in its block of 32.
TOLERANCE = {"f32": 0.0, "f16": 2.0**-11, "q8_0": 0.5 / 127 + 2.0**-11}


def make(architecture: str, tokenizer: Tokenizer, **overrides: int) -> GPT:
    shape = {"vocab_size": tokenizer.vocab_size, "dim": 64, "context_length": 128, **overrides}
    return random_model(tiny_config(architecture, **shape))


def export(model: GPT, tokenizer: Tokenizer, dtype: str = "f32", path: str = "model.gguf") -> Path:
    export_gguf(Path(path), model.config, model.state_dict(), tokenizer, dtype=dtype)
    return Path(path)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys, and tensors, of a file."""
    reader = reading.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}, {t.name: t for t in reader.tensors}


def values(tensor: Any) -> np.ndarray:
    return reading.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)


def theirs_of_ours(config: ModelConfig) -> dict[str, str]:
    """GGUF's name of each tensor that it holds unchanged, by ours; written down apart from the code under test."""
    names = {"embed.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
    layer = {"attn.o_proj": "attn_output", "attn_norm": "attn_norm", "mlp_norm": "ffn_norm"}
    layer |= {"mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    if config.architecture == "gpt2":
        names |= {"norm.bias": "output_norm.bias", "position.table": "position_embd.weight"}
    else:
        layer |= {"mlp.gate_proj": "ffn_gate", "attn.v_proj": "attn_v"}
    if config.architecture == "qwen3":
        layer |= {"attn.q_norm": "attn_q_norm", "attn.k_norm": "attn_k_norm"}
        layer |= {"attn.q_proj": "attn_q", "attn.k_proj": "attn_k"}
    for i in range(config.n_layers):
        for ours, theirs in layer.items():
            for part in ("weight", "bias") if config.bias else ("weight",):
                names[f"blocks.{i}.{ours}.{part}"] = f"blk.{i}.{theirs}.{part}"
    return {f"transformer.{ours}": theirs for ours, theirs in names.items()}


@pytest.mark.parametrize("dtype", gguf.DTYPES)
@pytest.mark.parametrize("architecture", KNOWN)
def test_tensors_read_back_are_ours(tokenizer: Tokenizer, architecture: str, dtype: str) -> None:
    model = make(architecture, tokenizer)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    _, tensors = read(export(model, tokenizer, dtype))
    expected = {theirs: state[ours] for ours, theirs in theirs_of_ours(model.config).items()}
    for i in range(model.config.n_layers):
        attention = f"transformer.blocks.{i}.attn"
        if architecture == "gpt2":
            for part in ("weight", "bias"):
                joined = np.concatenate([state[f"{attention}.{x}_proj.{part}"] for x in "qkv"])
                expected[f"blk.{i}.attn_qkv.{part}"] = joined
        elif architecture == "llama":  # the permutation of llama.cpp's own converter
            for x in "qk":
                weight = state[f"{attention}.{x}_proj.weight"]
                pairs = weight.reshape(model.config.n_heads, 2, -1, weight.shape[1]).swapaxes(1, 2)
                expected[f"blk.{i}.attn_{x}.weight"] = pairs.reshape(weight.shape)
    assert set(tensors) == set(expected)
    for name, array in expected.items():
        found = values(tensors[name])
        assert found.shape == array.shape, name
        assert np.abs(found - array).max() <= TOLERANCE[dtype] * np.abs(array).max(), name


@pytest.mark.parametrize(("dtype", "kind"), [("f32", "F32"), ("f16", "F16"), ("q8_0", "Q8_0")])
@pytest.mark.parametrize("architecture", KNOWN)
def test_matrices_are_small_and_vectors_exact(tokenizer: Tokenizer, architecture: str, dtype: str, kind: str) -> None:
    _, tensors = read(export(make(architecture, tokenizer), tokenizer, dtype))
    for name, tensor in tensors.items():
        exact = len(tensor.shape) == 1 or "position" in name
        assert tensor.tensor_type.name == ("F32" if exact else kind), name


def test_rows_that_cannot_be_packed_stay_in_half_precision(tokenizer: Tokenizer) -> None:
    _, tensors = read(export(make("qwen3", tokenizer, dim=48, n_heads=2, head_dim=24), tokenizer, "q8_0"))
    kinds = {name: tensor.tensor_type.name for name, tensor in tensors.items() if len(tensor.shape) == 2}
    assert kinds["token_embd.weight"] == "F16"
    assert set(kinds.values()) <= {"F16", "Q8_0"}


@pytest.mark.parametrize("architecture", KNOWN)
def test_keys_read_back_are_ours(tokenizer: Tokenizer, architecture: str) -> None:
    model = make(architecture, tokenizer)
    config = model.config
    keys, _ = read(export(model, tokenizer))
    expected = {
        "context_length": config.context_length,
        "embedding_length": config.dim,
        "block_count": config.n_layers,
        "feed_forward_length": config.hidden_dim,
        "attention.head_count": config.n_heads,
    }
    if architecture == "gpt2":
        expected["attention.layer_norm_epsilon"] = pytest.approx(config.norm_eps)
    else:
        expected |= {
            "attention.head_count_kv": config.n_kv_heads,
            "attention.layer_norm_rms_epsilon": pytest.approx(config.norm_eps),
            "rope.freq_base": pytest.approx(config.rope_theta),
            "rope.dimension_count": config.head_dim,
            "attention.key_length": config.head_dim,
            "attention.value_length": config.head_dim,
        }
    assert keys["general.architecture"] == architecture
    assert {key: keys[f"{architecture}.{key}"] for key in expected} == expected


def test_the_tokenizer_reads_back(tokenizer: Tokenizer) -> None:
    model = make("qwen3", tokenizer, vocab_size=tokenizer.vocab_size + 5)
    keys, tensors = read(export(model, tokenizer))
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == model.config.vocab_size == values(tensors["token_embd.weight"]).shape[0]
    assert [tokenizer.backend.token_to_id(token) for token in tokens[: tokenizer.vocab_size]] == list(
        range(tokenizer.vocab_size)
    )
    assert len(set(tokens)) == len(tokens)
    assert [i for i, kind in enumerate(types) if kind == reading.TokenType.CONTROL] == [tokenizer.separator_id]
    assert types[-5:] == [reading.TokenType.UNUSED] * 5
    n_merged = tokenizer.vocab_size - 257
    assert len(keys["tokenizer.ggml.merges"]) == n_merged
    assert all("".join(merge.split(" ")) in tokens for merge in keys["tokenizer.ggml.merges"])
    assert (keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert keys["tokenizer.ggml.eos_token_id"] == keys["tokenizer.ggml.bos_token_id"] == tokenizer.separator_id
    assert keys["tokenizer.ggml.add_bos_token"] is False


def test_an_untied_head_is_written(tokenizer: Tokenizer) -> None:
    model = make("qwen3", tokenizer, tie_embeddings=False)
    _, tensors = read(export(model, tokenizer))
    assert np.array_equal(values(tensors["output.weight"]), model.head.weight.detach().numpy())


@pytest.mark.parametrize(
    ("architecture", "dtype", "message"),
    [("transformer-2017", "f16", "transformer-2017"), ("qwen3", "q4_0", "`dtype`"), ("qwen3", "F16", "`dtype`")],
)
def test_what_cannot_be_written_is_a_usage_error(
    tokenizer: Tokenizer, architecture: str, dtype: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export(make(architecture, tokenizer), tokenizer, dtype)
    assert os.listdir() == []


def test_a_folder_that_does_not_exist_is_a_storage_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(StorageError, match=r"cannot write gone/model\.gguf"):
        export(make("qwen3", tokenizer), tokenizer, path="gone/model.gguf")


def test_a_failed_export_leaves_the_old_file(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("model.gguf").write_text("old")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reading.GGUFWriter, "write_tensors_to_file", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        export(make("qwen3", tokenizer), tokenizer)
    assert os.listdir() == ["model.gguf"]
    assert Path("model.gguf").read_text() == "old"


# -- llama.cpp

TEXTS = (
    "Ada finds the river",
    "  two  spaces\n\nand lines\t.",
    "naïve café 1234567 don't",
    "河岸上的银行。",
    "🙂👩‍👩‍👧 <|endoftext|> x",
    "\n",
)


def in_llama_cpp(path: Path) -> Any:
    llama_cpp = pytest.importorskip("llama_cpp")
    return llama_cpp.Llama(str(path), n_ctx=128, n_threads=1, n_threads_batch=1, seed=0, verbose=False)


def greedy(theirs: Any, ids: list[int], n: int) -> list[int]:
    found: list[int] = []
    for token in theirs.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
        found.append(token)
        if len(found) == n:
            break
    return found


@pytest.mark.parametrize("text", TEXTS)
def test_llama_cpp_cuts_text_into_the_same_tokens(tokenizer: Tokenizer, text: str) -> None:
    theirs = in_llama_cpp(export(make("qwen3", tokenizer), tokenizer))
    assert theirs.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text)


@pytest.mark.parametrize("architecture", KNOWN)
def test_llama_cpp_writes_the_same_sixty_tokens(tokenizer: Tokenizer, architecture: str) -> None:
    model = make(architecture, tokenizer)
    ids = tokenizer.encode("Ada finds the")
    theirs = greedy(in_llama_cpp(export(model, tokenizer)), ids, 60)
    ours = list(ids)
    with torch.no_grad():
        for _ in range(60):
            ours.append(int(model(torch.tensor([ours]))[0, -1].argmax()))
    assert theirs == ours[len(ids) :]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", KNOWN)
def test_a_trained_model_writes_the_same_text_in_llama_cpp(tmp_path: Path, architecture: str) -> None:
    (tmp_path / "corpus.txt").write_text(make_text())
    shape = {"n_layers": 2, "dim": 64, "n_heads": 2, "context_length": 128, "vocab_size": 320, "batch_size": 4}
    train("corpus.txt", out="run", architecture=architecture, steps=40, threads=1, **shape)
    loaded = saved_step.load(runs.find_model("run"))
    theirs = in_llama_cpp(export(loaded.model, loaded.tokenizer))
    config = SamplingConfig(temperature=0.0, max_new_tokens=60)
    prompt = "Ada finds the"
    (sample,) = generate(loaded.model, loaded.tokenizer, prompt, config, seed=0)
    assert greedy(theirs, loaded.tokenizer.encode(prompt), len(sample.tokens)) == sample.tokens
    assert len(sample.tokens) == 60

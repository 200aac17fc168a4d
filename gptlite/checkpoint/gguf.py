"""One model to one GGUF file, for llama.cpp and the programs built on it.

The file names the way in which text is cut before its bytes are merged: for our own tokenizers that of GPT-2, which is
the truth. llama.cpp's converter recognises vocabularies by a list of digests and so refuses every freshly trained one.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptlite.config import ModelConfig, RopeScaling
from gptlite.distribution import install_hint
from gptlite.errors import NumericsError, UsageError
from gptlite.model import slow_down
from gptlite.storage.durable import replacing
from gptlite.text.pairs import TEMPLATE
from gptlite.text.tokenizer import Tokenizer

DTYPES = ("f32", "f16", "q8_0")
LARGEST_F16 = 65504.0
PRE_TOKENIZERS = {"GPT-2": "gpt-2", "Llama 3": "llama-bpe", "Qwen": "qwen2", "SmolLM": "smollm"}

# Ours (without "transformer." and "blocks.<i>.") to GGUF's (without "blk.<i>.").
OUTER = {
    "embed.weight": "token_embd.weight",
    "position.table": "position_embd.weight",
    "norm.weight": "output_norm.weight",
    "norm.bias": "output_norm.bias",
}
LAYER = {
    "attn_norm": "attn_norm",
    "attn.q_proj": "attn_q",
    "attn.k_proj": "attn_k",
    "attn.v_proj": "attn_v",
    "attn.o_proj": "attn_output",
    "attn.q_norm": "attn_q_norm",
    "attn.k_norm": "attn_k_norm",
    "mlp_norm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def export_gguf(
    path: Path, config: ModelConfig, state: Mapping[str, Tensor], tokenizer: Tokenizer, *, dtype: str = "f16"
) -> None:
    """Write `state` (the `state_dict` of our model) to `path`; matrices in `dtype`, vectors in f32.

    Raises `UsageError` for an architecture, a tokenizer or a rope scaling that llama.cpp does not know or when the
    `gguf` package is missing, and `StorageError` when the file cannot be written; then an older one is still there.
    """
    if dtype not in DTYPES:
        raise UsageError(f"`dtype` must be one of {', '.join(DTYPES)}, not '{dtype}'.")
    if config.architecture not in ("qwen3", "llama", "gpt2"):
        raise UsageError(f"GGUF has no architecture for {config.architecture}; qwen3, llama and gpt2 can be exported.")
    if config.rope_scaling is not None:
        _check_scaling(config, config.rope_scaling)
    if tokenizer.cut not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        raise UsageError(f"llama.cpp has no name for how this tokenizer cuts text ({tokenizer.cut}); it knows {known}.")
    try:
        import gguf
    except ImportError as error:
        raise UsageError(f"GGUF needs the package gguf; install it: {install_hint('gguf')}.") from error

    with replacing(path) as scratch, contextlib.closing(gguf.GGUFWriter(scratch, config.architecture)) as writer:
        _write_config(writer, config)
        _write_tokenizer(writer, tokenizer, config.vocab_size)
        kinds = gguf.GGMLQuantizationType
        kind = {"f32": kinds.F32, "f16": kinds.F16, "q8_0": kinds.Q8_0}[dtype]
        writer.add_file_type({"f32": 0, "f16": 1, "q8_0": 7}[dtype])
        for name, array in gguf_tensors(config, state).items():
            wanted = kind if array.ndim == 2 and "position" not in name else kinds.F32
            if wanted == kinds.Q8_0 and array.shape[1] % 32:
                wanted = kinds.F16  # Q8_0 packs 32 numbers at a time
            # Q8_0 keeps the scale of each 32 numbers in f16.
            largest = {kinds.F16: LARGEST_F16, kinds.Q8_0: 127 * LARGEST_F16}.get(wanted, math.inf)
            if not float(np.abs(array).max(initial=0.0)) <= largest:
                raise NumericsError(
                    f"the tensor {name} has numbers beyond the range of {dtype} or that are not numbers; "
                    "write it with `dtype='f32'`."
                )
            writer.add_tensor(name, gguf.quants.quantize(array, wanted), raw_dtype=wanted)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def gguf_tensors(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """All tensors by their GGUF names, float32."""
    arrays = {name.removeprefix("transformer."): t.detach().float().cpu().numpy() for name, t in state.items()}
    tensors = {theirs: arrays[ours] for ours, theirs in OUTER.items() if ours in arrays}
    if not config.tie_embeddings:
        tensors["output.weight"] = arrays["head.weight"]
    if config.rope_scaling is not None and config.rope_scaling.kind == "llama3":
        tensors["rope_freqs.weight"] = _slowness(config, config.rope_scaling)
    for i in range(config.n_layers):
        for ours, theirs in LAYER.items():
            for part in ("weight", "bias"):
                if (array := arrays.get(f"blocks.{i}.{ours}.{part}")) is not None:
                    if config.architecture == "llama" and theirs in ("attn_q", "attn_k"):
                        array = _interleave(array, config.head_dim)
                    tensors[f"blk.{i}.{theirs}.{part}"] = array
        if config.architecture == "gpt2":  # query, key and value in one piece
            for part in ("weight", "bias"):
                pieces = [tensors.pop(f"blk.{i}.attn_{x}.{part}") for x in "qkv"]
                tensors[f"blk.{i}.attn_qkv.{part}"] = np.concatenate(pieces)
    return tensors


def _interleave(array: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of each head from (first halves, second halves) to pairs: how llama.cpp rotates the llama architecture."""
    heads = array.reshape(-1, 2, head_dim // 2, array.shape[-1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(array.shape)


def _slowness(config: ModelConfig, scaling: RopeScaling) -> np.ndarray:
    """(C/2,): how many times slower each component turns than without the scaling."""
    plain = torch.ones(config.head_dim // 2) / config.rope_theta ** (
        torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    )
    return (plain / slow_down(plain, config.rope_theta, scaling)).numpy()


def _write_config(writer: Any, config: ModelConfig) -> None:
    writer.add_name("gptlite")
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.hidden_dim)
    writer.add_head_count(config.n_heads)
    if config.norm == "layernorm":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    if (scaling := config.rope_scaling) is not None and scaling.kind != "llama3":  # that one is a tensor
        _write_scaling(writer, scaling)


def _check_scaling(config: ModelConfig, scaling: RopeScaling) -> None:
    """Raises `UsageError` for what llama.cpp computes otherwise: found out by comparing it with the model."""
    if (scaling.kind, config.architecture) == ("llama3", "qwen3"):
        raise UsageError("llama.cpp scales rotary positions as llama3 in the llama architecture only, not in qwen3.")
    usual = 1 + 0.1 * math.log(max(1.0, scaling.factor))  # what it multiplies cosines and sines with
    as_usual = (scaling.slow, scaling.fast) == (1, 32) and math.isclose(scaling.attention, usual, rel_tol=1e-3)
    if scaling.kind == "yarn" and not as_usual:
        raise UsageError(
            "llama.cpp scales rotary positions by yarn with beta_slow 1, beta_fast 32 and the usual attention factor, "
            "and this model has others."
        )


def _write_scaling(writer: Any, scaling: RopeScaling) -> None:
    import gguf

    writer.add_rope_scaling_type(gguf.RopeScalingType(scaling.kind))
    writer.add_rope_scaling_factor(scaling.factor)
    if scaling.kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling.original_context)


def _write_tokenizer(writer: Any, tokenizer: Tokenizer, vocab_size: int) -> None:
    import gguf

    description = json.loads(tokenizer.to_json())
    names = {i: token for token, i in tokenizer.backend.get_vocab(with_added_tokens=True).items()}
    tokens = [names.get(i, f"[unused {i}]") for i in range(vocab_size)]
    kinds = gguf.TokenType
    types = [kinds.NORMAL if i in names else kinds.UNUSED for i in range(vocab_size)]
    for token in description["added_tokens"]:
        types[token["id"]] = kinds.CONTROL if token["special"] else kinds.USER_DEFINED
    merges = description["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZERS[tokenizer.cut])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.separator_id)
    writer.add_eos_token_id(tokenizer.end_id)
    if tokenizer.pairs:
        writer.add_chat_template(TEMPLATE)
    writer.add_add_bos_token(tokenizer.opening == [tokenizer.separator_id])

"""Tiny models as transformers makes and saves them, of each family that gptlite reads."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
from conftest import VOCABULARY
from tokenizers import models, pre_tokenizers, trainers

from gptlite.model import sinusoids
from gptlite.text.tokenizer import Tokenizer


def their_qwen3(**options: Any) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    values = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    values |= {"head_dim": 6, "intermediate_size": 40, "max_position_embeddings": 32, "rms_norm_eps": 1e-3}
    values |= {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    return Qwen3ForCausalLM(Qwen3Config(**{"vocab_size": VOCABULARY, **values, **options}))


def their_llama(**options: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    values = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    values |= {"max_position_embeddings": 32, "rms_norm_eps": 1e-3}
    return LlamaForCausalLM(LlamaConfig(**{"vocab_size": VOCABULARY, **values, **options}))


def their_gpt2(**options: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    values = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "layer_norm_epsilon": 1e-3}
    values |= {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**{"vocab_size": VOCABULARY, **values, **options}))


def their_openai_gpt(**options: Any) -> Any:
    """With tables as the architecture of 2017 has them: fixed sinusoids, and inputs sqrt(dim) times the head."""
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    values = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "afn": "relu", "tie_word_embeddings": False}
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=VOCABULARY, **values, **options))
    shake(model)
    model.transformer.positions_embed.weight.data = sinusoids(32, 32)
    model.transformer.tokens_embed.weight.data = model.lm_head.weight.data * math.sqrt(32)
    return model.eval()


def shake(model: Any) -> Any:
    """Random values everywhere, norms and biases included."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty(parameter.shape).normal_(0, 0.1, generator=generator))
    return model.eval()


THEIRS: dict[str, tuple[str, Callable[[], Any]]] = {
    "qwen3": ("qwen3", lambda: shake(their_qwen3())),
    "qwen3-tied": ("qwen3", lambda: shake(their_qwen3(tie_word_embeddings=True))),
    "llama": ("llama", lambda: shake(their_llama())),
    "llama-shared": ("llama", lambda: shake(their_llama(num_key_value_heads=1, head_dim=10))),
    "gpt2": ("gpt2", lambda: shake(their_gpt2())),
    "gpt2-untied": ("gpt2", lambda: shake(their_gpt2(n_inner=50, tie_word_embeddings=False))),
    "openai-gpt": ("transformer-2017", their_openai_gpt),
}


ROPE_SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    | {"original_max_position_embeddings": 16},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
    "yarn-in-detail": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
    | {"attention_factor": 1.3, "beta_fast": 4.0, "beta_slow": 0.5},
}


def add_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    for name, content in tokenizer.files(32).items():
        (folder / name).write_bytes(content)


FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def tokenizer_of_characters(text: str) -> dict[str, Any]:
    """A tokenizer.json of Llama 2's kind, learned from a text, in the form that most repositories have."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator([text], trainers.BpeTrainer(vocab_size=300, show_progress=False))
    learned = json.loads(backend.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += list(learned["vocab"])
    begin, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": name, "special": True, **FLAGS} for i, name in enumerate(("<unk>", "<s>", "</s>"))
        ],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, mark]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, text],
            "pair": [begin, text],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {**mark, "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": learned["merges"],
        },
    }


def save(model: Any, tokenizer: Tokenizer, folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    """The model as `save_pretrained` writes it, and our tokenizer beside it."""
    model.to(dtype).save_pretrained(folder, **options)
    add_tokenizer(folder, tokenizer)
    return folder

"""Our names and theirs: the only file that knows how Hugging Face spells a model.

One `Family` per `model_type`: which config keys mean what, and which tensors become which. Nothing is permuted; GPT-2
and its ancestor keep matrices transposed, and query, key and value in one piece, so their rules transpose and join.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gptlite.config import ARCHITECTURES, ModelConfig
from gptlite.errors import CheckpointError, UsageError


@dataclass(frozen=True)
class Rule:
    """Tensors of ours, joined along their output dimension, are one of theirs; `{i}` is the layer."""

    ours: tuple[str, ...]
    theirs: str
    transposed: bool = False


@dataclass(frozen=True)
class Family:
    """One `model_type`: `keys` maps our config fields to theirs, `constants` is what theirs must say besides."""

    model_type: str
    hf_class: str
    architecture: str
    keys: Mapping[str, str]
    constants: Mapping[str, Any]
    outer: tuple[Rule, ...]
    layer: tuple[Rule, ...]
    head: str
    prefix: str
    skip: tuple[str, ...] = field(default=())  # endings of tensors that hold no weights


def _layer(ours: str, theirs: str, transposed: bool = False) -> Rule:
    names = tuple(f"transformer.blocks.{{i}}.{name}" for name in ours.split("+"))
    return Rule(names, theirs, transposed)


def _llama_like(model_type: str, hf_class: str, qk_norm: bool) -> Family:
    layer = [
        _layer("attn_norm.weight", "model.layers.{i}.input_layernorm.weight"),
        _layer("attn.q_proj.weight", "model.layers.{i}.self_attn.q_proj.weight"),
        _layer("attn.k_proj.weight", "model.layers.{i}.self_attn.k_proj.weight"),
        _layer("attn.v_proj.weight", "model.layers.{i}.self_attn.v_proj.weight"),
        _layer("attn.o_proj.weight", "model.layers.{i}.self_attn.o_proj.weight"),
        _layer("mlp_norm.weight", "model.layers.{i}.post_attention_layernorm.weight"),
        _layer("mlp.gate_proj.weight", "model.layers.{i}.mlp.gate_proj.weight"),
        _layer("mlp.up_proj.weight", "model.layers.{i}.mlp.up_proj.weight"),
        _layer("mlp.down_proj.weight", "model.layers.{i}.mlp.down_proj.weight"),
    ]
    if qk_norm:
        layer += [
            _layer("attn.q_norm.weight", "model.layers.{i}.self_attn.q_norm.weight"),
            _layer("attn.k_norm.weight", "model.layers.{i}.self_attn.k_norm.weight"),
        ]
    return Family(
        model_type=model_type,
        hf_class=hf_class,
        architecture=model_type,
        keys={
            "vocab_size": "vocab_size",
            "context_length": "max_position_embeddings",
            "dim": "hidden_size",
            "n_layers": "num_hidden_layers",
            "n_heads": "num_attention_heads",
            "n_kv_heads": "num_key_value_heads",
            "head_dim": "head_dim",
            "hidden_dim": "intermediate_size",
            "norm_eps": "rms_norm_eps",
            "rope_theta": "rope_theta",
        },
        constants={"hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0}
        | ({"mlp_bias": False} if model_type == "llama" else {"use_sliding_window": False}),
        outer=(
            Rule(("transformer.embed.weight",), "model.embed_tokens.weight"),
            Rule(("transformer.norm.weight",), "model.norm.weight"),
        ),
        layer=tuple(layer),
        head="lm_head.weight",
        prefix="model.",
        skip=("rotary_emb.inv_freq",),
    )


def _gpt_like(model_type: str, hf_class: str, architecture: str, **differences: Any) -> Family:
    layer: list[Rule] = []
    for part in ("weight", "bias"):
        t = part == "weight"
        layer += [
            _layer(f"attn_norm.{part}", f"transformer.h.{{i}}.ln_1.{part}"),
            _layer(
                f"attn.q_proj.{part}+attn.k_proj.{part}+attn.v_proj.{part}",
                f"transformer.h.{{i}}.attn.c_attn.{part}",
                transposed=t,
            ),
            _layer(f"attn.o_proj.{part}", f"transformer.h.{{i}}.attn.c_proj.{part}", transposed=t),
            _layer(f"mlp_norm.{part}", f"transformer.h.{{i}}.ln_2.{part}"),
            _layer(f"mlp.up_proj.{part}", f"transformer.h.{{i}}.mlp.c_fc.{part}", transposed=t),
            _layer(f"mlp.down_proj.{part}", f"transformer.h.{{i}}.mlp.c_proj.{part}", transposed=t),
        ]
    return Family(
        model_type=model_type,
        hf_class=hf_class,
        architecture=architecture,
        keys={
            "vocab_size": "vocab_size",
            "context_length": "n_positions",
            "dim": "n_embd",
            "n_layers": "n_layer",
            "n_heads": "n_head",
            "norm_eps": "layer_norm_epsilon",
        },
        layer=tuple(layer),
        head="lm_head.weight",
        prefix="transformer.",
        skip=(".attn.bias", ".attn.masked_bias", "position_ids"),
        **differences,
    )


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        _llama_like("qwen3", "Qwen3ForCausalLM", qk_norm=True),
        _llama_like("llama", "LlamaForCausalLM", qk_norm=False),
        _gpt_like(
            "gpt2",
            "GPT2LMHeadModel",
            "gpt2",
            constants={
                "activation_function": "gelu_new",
                "scale_attn_weights": True,
                "scale_attn_by_inverse_layer_idx": False,
                "resid_pdrop": 0.0,
                "embd_pdrop": 0.0,
                "attn_pdrop": 0.0,
            },
            outer=(
                Rule(("transformer.embed.weight",), "transformer.wte.weight"),
                Rule(("transformer.position.table",), "transformer.wpe.weight"),
                Rule(("transformer.norm.weight",), "transformer.ln_f.weight"),
                Rule(("transformer.norm.bias",), "transformer.ln_f.bias"),
            ),
        ),
        # GPT's first edition has the block of 2017: the norm stands after each sub-layer. What it does not know goes
        # into its tables: the sinusoids as positions, the embeddings already multiplied by sqrt(dim), the plain ones
        # as an untied head.
        _gpt_like(
            "openai-gpt",
            "OpenAIGPTLMHeadModel",
            "transformer-2017",
            constants={"afn": "relu", "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
            outer=(
                Rule(("transformer.embed.weight",), "transformer.tokens_embed.weight"),
                Rule(("transformer.position.table",), "transformer.positions_embed.weight"),
            ),
        ),
    )
}
BY_ARCHITECTURE = {family.architecture: family for family in FAMILIES.values()}
MODEL_TYPES = ", ".join(FAMILIES)
# What transformers takes where a config leaves a key out and our own default is another.
THEIR_DEFAULTS = {"rms_norm_eps": 1e-6, "layer_norm_epsilon": 1e-5, "afn": "gelu"}
LARGEST_NUMBER = 2**31 - 1


def to_hf_config(config: ModelConfig, separator_id: int) -> dict[str, Any]:
    """`config.json` for this model."""
    family = BY_ARCHITECTURE[config.architecture]
    theirs: dict[str, Any] = {"architectures": [family.hf_class], "model_type": family.model_type, "dtype": "float32"}
    theirs |= {key: getattr(config, name) for name, key in family.keys.items()}
    if config.position == "rope":
        theirs["rope_parameters"] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.architecture == "gpt2":
        theirs |= {"n_inner": config.hidden_dim, "n_ctx": config.context_length}
    tied = config.tie_embeddings and config.architecture != "transformer-2017"
    theirs |= {"tie_word_embeddings": tied, "bos_token_id": separator_id, "eos_token_id": separator_id}
    return theirs | dict(family.constants)


def from_hf_config(theirs: Mapping[str, Any], where: object = "config.json") -> ModelConfig:
    """Our configuration of a `config.json`. Raises `CheckpointError` for what this decoder cannot compute."""
    model_type = theirs.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise CheckpointError(f"{where}: model_type {model_type!r} is not one of {MODEL_TYPES}.")
    family = FAMILIES[model_type]
    theirs = {**THEIR_DEFAULTS, **theirs}
    values: dict[str, Any] = {**ARCHITECTURES[family.architecture], "architecture": family.architecture}
    for name, key in family.keys.items():
        if theirs.get(key) is not None:
            values[name] = _number(theirs[key], key, where, float if name in ("norm_eps", "rope_theta") else int)
        elif name not in ("n_kv_heads", "head_dim", "rope_theta", "norm_eps"):
            raise CheckpointError(f"{where} has no '{key}'.")
    values.setdefault("n_kv_heads", values["n_heads"])
    values.setdefault("head_dim", values["dim"] // max(1, values["n_heads"]))
    if "hidden_dim" not in family.keys:
        inner = theirs.get("n_inner")
        values["hidden_dim"] = 4 * values["dim"] if inner is None else _number(inner, "n_inner", where, int)
    for key, expected in family.constants.items():
        if not key.endswith(("pdrop", "dropout")) and theirs.get(key, expected) != expected:
            raise CheckpointError(
                f"{where}: '{key}' is {theirs[key]!r}, which is not supported (only {expected!r} is)."
            )
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    if not isinstance(rope, Mapping) or rope.get("rope_type", rope.get("type", "default")) != "default":
        raise CheckpointError(f"{where}: rope scaling {rope!r} is not supported.")
    if "rope_theta" in rope:
        values["rope_theta"] = _number(rope["rope_theta"], "rope_theta", where, float)
    values["tie_embeddings"] = (
        theirs.get("tie_word_embeddings", model_type not in ("llama", "qwen3"))
        if model_type != "openai-gpt"
        else True  # stored untied on purpose; from_hf_tensors checks
    )
    try:
        return ModelConfig(**values)
    except UsageError as error:
        raise CheckpointError(f"{where}: {error}") from error


def to_hf_tensors(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors, by name, of the `state_dict` of our model."""
    tensors: dict[str, Tensor] = {}
    for rule in _rules(config):
        pieces = [state[name] for name in rule.ours]
        joined = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
        tensors[rule.theirs] = joined.t() if rule.transposed else joined
    if config.architecture == "transformer-2017":
        embed = BY_ARCHITECTURE[config.architecture].outer[0].theirs
        tensors[embed] = tensors[embed] * math.sqrt(config.dim)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def from_hf_tensors(
    config: ModelConfig, tensors: Mapping[str, Tensor], where: object = "model.safetensors"
) -> dict[str, Tensor]:
    """The `state_dict` for our model. Every tensor is used, or skipped by name; raises `CheckpointError` otherwise."""
    family = BY_ARCHITECTURE[config.architecture]
    if not any(name.startswith(family.prefix) for name in tensors):  # bare backbones leave the prefix out
        tensors = {name if name == family.head else family.prefix + name: t for name, t in tensors.items()}
    rules = _rules(config)
    expected = {rule.theirs for rule in rules}
    missing = sorted(expected - set(tensors))
    extra = sorted(n for n in set(tensors) - expected if n != family.head and not n.endswith(family.skip))
    if missing or extra:
        wrong = f"tensor '{missing[0]}' is missing" if missing else f"tensor '{extra[0]}' is unknown"
        raise CheckpointError(f"{where}: {wrong} ({len(missing)} missing, {len(extra)} unknown).")
    state: dict[str, Tensor] = {}
    for rule in rules:
        tensor = tensors[rule.theirs].to(torch.float32)
        try:
            tensor = tensor.t() if rule.transposed else tensor
            pieces = tensor.chunk(len(rule.ours)) if len(rule.ours) > 1 else (tensor,)
            state |= zip(rule.ours, pieces, strict=True)
        except (RuntimeError, ValueError) as error:
            shape = tuple(tensors[rule.theirs].shape)
            raise CheckpointError(f"{where}: tensor '{rule.theirs}' has the shape {shape}, which cannot be.") from error
    if config.architecture == "transformer-2017":
        _undo_scaling(config, state, where)
    elif config.tie_embeddings:
        state["head.weight"] = state["transformer.embed.weight"]
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _rules(config: ModelConfig) -> list[Rule]:
    family = BY_ARCHITECTURE[config.architecture]
    rules = list(family.outer)
    for i in range(config.n_layers):
        rules += [Rule(tuple(n.format(i=i) for n in r.ours), r.theirs.format(i=i), r.transposed) for r in family.layer]
    if not config.tie_embeddings or config.architecture == "transformer-2017":
        rules.append(Rule(("head.weight",), family.head))
    return rules


def _undo_scaling(config: ModelConfig, state: dict[str, Tensor], where: object) -> None:
    """The plain embeddings are the head; the input table must be sqrt(dim) times them."""
    scaled, plain = state["transformer.embed.weight"], state["head.weight"]
    if scaled.shape != plain.shape or not torch.allclose(scaled, plain * math.sqrt(config.dim), atol=1e-4):
        raise CheckpointError(f"{where}: its embeddings are not sqrt(dim) times its output head, as those of 2017 are.")
    state["transformer.embed.weight"] = plain


def _number(value: Any, key: str, where: object, kind: type) -> Any:
    allowed = (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, allowed) or not abs(value) <= LARGEST_NUMBER:
        raise CheckpointError(f"{where}: '{key}' must be a number, not {repr(value)[:40]}.")
    return kind(value)

"""How Hugging Face spells the models that gptlite computes: one table for each `model_type`.

A table says which of their config keys are which of our fields, what a config must say besides for this decoder to
compute it, and which tensors become which. Nothing is permuted; GPT-2 and its ancestor keep matrices transposed, and
query, key and value in one tensor, so their rules transpose and join.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gptlite.config import ModelConfig


@dataclass(frozen=True)
class Field:
    """One of our config fields.

    - `theirs`: their key; None where they have none.
    - `missing`: what a config means that leaves it out, of our fields above this one; None where it is required.
    - `real`: a number above zero, else a whole number.
    - `also`: further keys that are written with the same value. `is_written`: is it written at all?
    """

    ours: str
    theirs: str | None
    missing: Callable[[Mapping[str, Any]], int | float] | None = None
    real: bool = False
    also: tuple[str, ...] = ()
    is_written: bool = True


@dataclass(frozen=True)
class Requirement:
    """What their config must say under `key`, of the same type.

    - `missing`: what it means that leaves it out; None is the value that is required.
    - `is_share`: any number from 0 to 1 will do, such as a share of dropout, which changes nothing outside of training.
    """

    key: str
    value: Any
    missing: Any = None
    is_share: bool = False


@dataclass(frozen=True)
class Rule:
    """Tensors of ours, joined along their output dimension, are one of theirs; `{i}` is the layer."""

    ours: tuple[str, ...]
    theirs: str
    transposed: bool = False


@dataclass(frozen=True)
class Family:
    """One `model_type`.

    - `fields`, `requirements`: its config. `tied`: do embeddings serve as the head where the config does not say?
    - `split_head`: the embeddings are stored twice, multiplied by sqrt(dim) and, as an untied head, plain.
    - `outer`, `layer`: the tensors outside of the blocks and of each block; `head`, their name of the head.
    - `prefix`: what the names begin with, and bare backbones leave out; `skip`: endings of tensors without weights.
    """

    model_type: str
    hf_class: str
    architecture: str
    fields: tuple[Field, ...]
    requirements: tuple[Requirement, ...]
    outer: tuple[Rule, ...]
    layer: tuple[Rule, ...]
    prefix: str
    skip: tuple[str, ...]
    tied: bool
    split_head: bool = False
    head: str = "lm_head.weight"


def _as_many_as_heads(values: Mapping[str, Any]) -> int:
    return values["n_heads"]


def _dim_per_head(values: Mapping[str, Any]) -> int:
    return values["dim"] // max(1, values["n_heads"])


def _four_times_dim(values: Mapping[str, Any]) -> int:
    return 4 * values["dim"]


def _always(value: float) -> Callable[[Mapping[str, Any]], int | float]:
    return lambda _: value


def _block(ours: str, theirs: str, transposed: bool = False) -> Rule:
    """Tensors of one block; several of ours are joined by +."""
    return Rule(tuple(f"transformer.blocks.{{i}}.{name}" for name in ours.split("+")), theirs, transposed)


# -- qwen3 and llama

LLAMA_BLOCK = tuple(
    _block(f"{ours}.weight", f"model.layers.{{i}}.{theirs}.weight")
    for ours, theirs in {
        "attn_norm": "input_layernorm",
        "attn.q_proj": "self_attn.q_proj",
        "attn.k_proj": "self_attn.k_proj",
        "attn.v_proj": "self_attn.v_proj",
        "attn.o_proj": "self_attn.o_proj",
        "mlp_norm": "post_attention_layernorm",
        "mlp.gate_proj": "mlp.gate_proj",
        "mlp.up_proj": "mlp.up_proj",
        "mlp.down_proj": "mlp.down_proj",
    }.items()
)
QK_NORM = tuple(
    _block(f"attn.{name}.weight", f"model.layers.{{i}}.self_attn.{name}.weight") for name in ("q_norm", "k_norm")
)


def _llama_fields(head_dim: Callable[[Mapping[str, Any]], int | float]) -> tuple[Field, ...]:
    return (
        Field("vocab_size", "vocab_size"),
        Field("context_length", "max_position_embeddings"),
        Field("dim", "hidden_size"),
        Field("n_layers", "num_hidden_layers"),
        Field("n_heads", "num_attention_heads"),
        Field("n_kv_heads", "num_key_value_heads", missing=_as_many_as_heads),
        Field("head_dim", "head_dim", missing=head_dim),
        Field("hidden_dim", "intermediate_size"),
        Field("norm_eps", "rms_norm_eps", missing=_always(1e-6), real=True),
        Field("rope_theta", "rope_theta", missing=_always(ModelConfig.rope_theta), real=True),
    )


LLAMA_OUTER = (
    Rule(("transformer.embed.weight",), "model.embed_tokens.weight"),
    Rule(("transformer.norm.weight",), "model.norm.weight"),
)
LLAMA_REQUIREMENTS = (
    Requirement("hidden_act", "silu"),
    Requirement("attention_bias", False),
    Requirement("attention_dropout", 0.0, is_share=True),
)
QWEN3 = Family(
    model_type="qwen3",
    hf_class="Qwen3ForCausalLM",
    architecture="qwen3",
    fields=_llama_fields(head_dim=_always(128)),
    requirements=(*LLAMA_REQUIREMENTS, Requirement("use_sliding_window", False)),
    outer=LLAMA_OUTER,
    layer=LLAMA_BLOCK + QK_NORM,
    prefix="model.",
    skip=("rotary_emb.inv_freq",),
    tied=False,
)
LLAMA = Family(
    model_type="llama",
    hf_class="LlamaForCausalLM",
    architecture="llama",
    fields=_llama_fields(head_dim=_dim_per_head),
    requirements=(*LLAMA_REQUIREMENTS, Requirement("mlp_bias", False)),
    outer=LLAMA_OUTER,
    layer=LLAMA_BLOCK,
    prefix="model.",
    skip=("rotary_emb.inv_freq",),
    tied=False,
)

# -- gpt2 and openai-gpt

GPT_BLOCK = tuple(
    _block(
        "+".join(f"{name}.{part}" for name in ours.split("+")),
        f"transformer.h.{{i}}.{theirs}.{part}",
        transposed=part == "weight" and not theirs.startswith("ln_"),
    )
    for part in ("weight", "bias")
    for ours, theirs in {
        "attn_norm": "ln_1",
        "attn.q_proj+attn.k_proj+attn.v_proj": "attn.c_attn",
        "attn.o_proj": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp.up_proj": "mlp.c_fc",
        "mlp.down_proj": "mlp.c_proj",
    }.items()
)
GPT_SKIP = (".attn.bias", ".attn.masked_bias", "position_ids")
GPT_DROPOUT = tuple(Requirement(key, 0.0, is_share=True) for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop"))


def _gpt_fields(*, is_gpt2: bool) -> tuple[Field, ...]:
    return (
        Field("vocab_size", "vocab_size"),
        Field("context_length", "n_positions", also=("n_ctx",) if is_gpt2 else ()),
        Field("dim", "n_embd"),
        Field("n_layers", "n_layer"),
        Field("n_heads", "n_head"),
        Field("norm_eps", "layer_norm_epsilon", missing=_always(1e-5), real=True),
        Field("hidden_dim", "n_inner", missing=_four_times_dim, is_written=is_gpt2),
        Field("n_kv_heads", None, missing=_as_many_as_heads),
        Field("head_dim", None, missing=_dim_per_head),
    )


GPT2 = Family(
    model_type="gpt2",
    hf_class="GPT2LMHeadModel",
    architecture="gpt2",
    fields=_gpt_fields(is_gpt2=True),
    requirements=(
        Requirement("activation_function", "gelu_new"),
        Requirement("scale_attn_weights", True),
        Requirement("scale_attn_by_inverse_layer_idx", False),
        *GPT_DROPOUT,
    ),
    outer=(
        Rule(("transformer.embed.weight",), "transformer.wte.weight"),
        Rule(("transformer.position.table",), "transformer.wpe.weight"),
        Rule(("transformer.norm.weight",), "transformer.ln_f.weight"),
        Rule(("transformer.norm.bias",), "transformer.ln_f.bias"),
    ),
    layer=GPT_BLOCK,
    prefix="transformer.",
    skip=GPT_SKIP,
    tied=True,
)
# GPT's first edition has the block of 2017: the norm stands after each sub-layer. What it does not know goes into its
# tables: the sinusoids as positions, the embeddings already multiplied by sqrt(dim), the plain ones as an untied head.
OPENAI_GPT = Family(
    model_type="openai-gpt",
    hf_class="OpenAIGPTLMHeadModel",
    architecture="transformer-2017",
    fields=_gpt_fields(is_gpt2=False),
    requirements=(Requirement("afn", "relu", missing="gelu"), *GPT_DROPOUT),
    outer=(
        Rule(("transformer.embed.weight",), "transformer.tokens_embed.weight"),
        Rule(("transformer.position.table",), "transformer.positions_embed.weight"),
    ),
    layer=GPT_BLOCK,
    prefix="transformer.",
    skip=GPT_SKIP,
    tied=True,
    split_head=True,
)

FAMILIES: dict[str, Family] = {family.model_type: family for family in (QWEN3, LLAMA, GPT2, OPENAI_GPT)}
BY_ARCHITECTURE = {family.architecture: family for family in FAMILIES.values()}
# Other names of the same activation.
SAME_ACTIVATION = {"swish": "silu", "gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new"}

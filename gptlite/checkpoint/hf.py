"""A model directory of Hugging Face and ours: configurations, names and shapes of tensors, translated both ways.

What differs from family to family is a table in hf_families.py; these functions read the tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gptlite.checkpoint.hf_families import BY_ARCHITECTURE, FAMILIES, SAME_ACTIVATION, Family, Field, Requirement, Rule
from gptlite.config import ARCHITECTURES, ModelConfig, RopeScaling
from gptlite.errors import CheckpointError, LimitError, UsageError, as_fields
from gptlite.storage.validation import shown

if TYPE_CHECKING:
    from torch import Tensor

MODEL_TYPES = ", ".join(FAMILIES)
# Keys of a rope scaling by its kind: those that it needs, and those that it may have.
ORIGINAL = "original_max_position_embeddings"
ROPE_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "dynamic": (("factor",), (ORIGINAL,)),
    "linear": (("factor",), (ORIGINAL,)),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), (ORIGINAL,)),
    "yarn": (("factor",), (ORIGINAL, "attention_factor", "beta_fast", "beta_slow")),
}
# What any of them may say besides, where it changes nothing.
ROPE_CONSTANTS = {"partial_rotary_factor": 1.0, "truncate": True}
SOURCE_KEYS = ("model_type", "architectures", "_name_or_path", "transformers_version")  # where a model came from
LARGEST_NUMBER = 2**31 - 1
MOST_LAYERS = 1000
MOST_ANGLES = 1 << 24  # positions x head_dim: the tables of rotary positions are computed, so no file bounds them


def to_hf_config(config: ModelConfig, separator_id: int, end_ids: Sequence[int] = ()) -> dict[str, Any]:
    """`config.json` for this model, whose documents begin with one token and end with it or with others."""
    family = BY_ARCHITECTURE[config.architecture]
    theirs: dict[str, Any] = {"architectures": [family.hf_class], "model_type": family.model_type, "dtype": "float32"}
    theirs |= {each.theirs: getattr(config, each.ours) for each in family.fields if each.theirs and each.is_written}
    theirs |= {key: getattr(config, each.ours) for each in family.fields for key in each.also}
    if config.position == "rope":
        scaling = _to_hf_scaling(config.rope_scaling)
        theirs["rope_parameters"] = {"rope_type": "default", "rope_theta": config.rope_theta, **scaling}
        if scaling:  # under the name that it had before transformers 5
            theirs["rope_scaling"] = scaling
    tied = config.tie_embeddings and not family.split_head
    eos = list(end_ids) if len(end_ids) > 1 else end_ids[0] if end_ids else separator_id
    theirs |= {"tie_word_embeddings": tied, "bos_token_id": separator_id, "eos_token_id": eos}
    return theirs | {each.key: each.value for each in family.requirements}


def from_hf_config(theirs: Mapping[str, Any], where: object = "config.json") -> ModelConfig:
    """Our configuration of a `config.json`. Raises `CheckpointError` for what this decoder cannot compute."""
    model_type = theirs.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise CheckpointError(f"{where}: model_type {model_type!r} is not one of {MODEL_TYPES}.")
    family = FAMILIES[model_type]
    values: dict[str, Any] = {**ARCHITECTURES[family.architecture], "architecture": family.architecture}
    for each in family.fields:
        values[each.ours] = _read_field(each, theirs, values, where)
    for requirement in family.requirements:
        _check_requirement(requirement, theirs, where)
    _refuse_quantized(theirs, where)
    if values["position"] == "rope":
        values |= _from_hf_rope(theirs, where)
    values["tie_embeddings"] = _read_tied(family, theirs, where)
    try:
        return ModelConfig(**values)
    except UsageError as error:
        raise CheckpointError(f"{where}: {as_fields(error)}") from error


def _read_field(each: Field, theirs: Mapping[str, Any], values: Mapping[str, Any], where: object) -> int | float:
    """The value of one of our fields: theirs, or what theirs means where it is left out."""
    value = theirs.get(each.theirs) if each.theirs else None
    if value is not None and each.theirs is not None:
        return (_real if each.real else _whole)(value, each.theirs, where)
    if each.missing is None:
        raise CheckpointError(f"{where} has no '{each.theirs}'.")
    return each.missing(values)


def _check_requirement(requirement: Requirement, theirs: Mapping[str, Any], where: object) -> None:
    """Raises `CheckpointError` where the configuration asks for something else than this decoder computes."""
    key, expected = requirement.key, requirement.value
    value = theirs.get(key, expected if requirement.missing is None else requirement.missing)
    if requirement.is_share:  # nothing is dropped outside of training, but the file must make sense
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise CheckpointError(f"{where}: '{key}' must be a number from 0 to 1, not {shown(value)}.")
        return
    if isinstance(value, str):
        value = SAME_ACTIVATION.get(value, value)
    if type(value) is not type(expected) or value != expected:
        raise CheckpointError(f"{where}: '{key}' is {shown(value)}, which is not supported (only {expected!r} is).")


def _refuse_quantized(theirs: Mapping[str, Any], where: object) -> None:
    quantized = theirs.get("quantization_config")
    if isinstance(quantized, Mapping) and "quant_method" in quantized:
        raise CheckpointError(
            f"{where}: its weights are quantized ({shown(quantized['quant_method'])}), which is not supported; "
            "use the directory of the same model with float weights."
        )


def _read_tied(family: Family, theirs: Mapping[str, Any], where: object) -> bool:
    tied = theirs.get("tie_word_embeddings", family.tied)
    if not isinstance(tied, bool):
        raise CheckpointError(f"{where}: 'tie_word_embeddings' must be true or false, not {shown(tied)}.")
    return tied or family.split_head  # which `from_hf_tensors` checks


def _from_hf_rope(theirs: Mapping[str, Any], where: object) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` of a config, which spells them in the ways of transformers 4 or 5."""
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default" if isinstance(rope, Mapping) else None
    if not isinstance(rope, Mapping) or not isinstance(kind, str) or kind not in ROPE_KEYS:
        known = ", ".join(ROPE_KEYS)
        raise CheckpointError(f"{where}: rope scaling {shown(kind or rope)} is not supported ({known} are).")
    needed, optional = ROPE_KEYS[kind]
    for key, expected in ROPE_CONSTANTS.items():
        value = rope.get(key, theirs.get(key))
        if value is not None and value != expected:
            raise CheckpointError(f"{where}: '{key}' is {shown(value)}, which is not supported (only {expected!r} is).")
    for key, value in rope.items():
        named = key in (*needed, *optional, *ROPE_CONSTANTS, "rope_type", "type", "rope_theta", "finetuned")
        if not named and value is not None:
            raise CheckpointError(f"{where}: '{shown(key)[1:-1]}' of {kind} rope scaling is not supported.")
    numbers = {key: _real(rope[key], key, where) for key in (*needed, *optional) if rope.get(key) is not None}
    if missing := [key for key in needed if key not in numbers]:
        raise CheckpointError(f"{where}: {kind} rope scaling has no '{missing[0]}'.")
    found: dict[str, Any] = {}
    if rope.get("rope_theta") is not None:
        found["rope_theta"] = _real(rope["rope_theta"], "rope_theta", where)
    if kind in ("default", "dynamic"):  # the latter scales what is longer than the context, which nothing here is
        return found
    # Some say so beside the rope parameters, and that counts more.
    original = theirs.get(ORIGINAL) or rope.get(ORIGINAL) or theirs["max_position_embeddings"]
    scaling: dict[str, Any] = {"kind": kind, "factor": numbers["factor"]}
    scaling["original_context"] = _whole(int(_real(original, ORIGINAL, where)), ORIGINAL, where)
    if kind == "llama3":
        scaling |= {"slow": numbers["low_freq_factor"], "fast": numbers["high_freq_factor"]}
    elif kind == "yarn":
        usual = 0.1 * math.log(numbers["factor"]) + 1 if numbers["factor"] > 1 else 1.0
        scaling |= {"slow": numbers.get("beta_slow", 1.0), "fast": numbers.get("beta_fast", 32.0)}
        scaling["attention"] = numbers.get("attention_factor", usual)
    try:
        return {**found, "rope_scaling": RopeScaling(**scaling)}
    except UsageError as error:
        raise CheckpointError(f"{where}: {as_fields(error)}") from error


def _to_hf_scaling(scaling: RopeScaling | None) -> dict[str, Any]:
    if scaling is None:
        return {}
    theirs = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "linear":
        return theirs
    theirs[ORIGINAL] = scaling.original_context
    if scaling.kind == "llama3":
        return theirs | {"low_freq_factor": scaling.slow, "high_freq_factor": scaling.fast}
    return theirs | {"attention_factor": scaling.attention, "beta_slow": scaling.slow, "beta_fast": scaling.fast}


def document_tokens(
    special: Mapping[int, str],
    tokenizer_config: Mapping[str, Any],
    configs: Sequence[Mapping[str, Any]],
    where: object = "tokenizer_config.json",
) -> tuple[str | None, tuple[str, ...]]:
    """The token that stands before a document, and those that end one, as far as a model directory names them.

    - `configs`: what `config.json` and `generation_config.json` hold; their ids count only where they are `special`
      tokens (names by id), because defaults of transformers get into such files.
    A document begins with the "beginning of a sequence" where there is one, else with what ends the one before it.
    Raises `CheckpointError` for a name that is no text.
    """
    first, last = (_token_name(tokenizer_config.get(key), key, where) for key in ("bos_token", "eos_token"))
    if first is None:
        first = next((special[i] for c in configs if type(i := c.get("bos_token_id")) is int and i in special), None)
    ends = [last] if last is not None else []
    for config in configs:
        ids = config.get("eos_token_id")
        ends += [special[i] for i in (ids if isinstance(ids, list) else [ids]) if type(i) is int and i in special]
    ends = list(dict.fromkeys(ends))
    return first or (ends[0] if ends else None), tuple(ends)


def _token_name(value: Any, key: str, where: object) -> str | None:
    """The text of a token; older files spell it with its properties."""
    name = value.get("content") if isinstance(value, dict) else value
    if not isinstance(name, str | None):
        raise CheckpointError(f"{where}: {key} must be text.")
    return name or None


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of their tensors, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for rule in _rules(config):
        rows, *columns = _shape(config, rule.ours[0])
        rows += sum(_shape(config, name)[0] for name in rule.ours[1:])
        shapes[rule.theirs] = (*columns, rows) if rule.transposed else (rows, *columns)
    return shapes


def our_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of the `state_dict` of our model, by name."""
    names = [name for rule in _rules(config) for name in rule.ours]
    return {name: _shape(config, name) for name in dict.fromkeys([*names, "head.weight"])}


def token_table(config: ModelConfig) -> str:
    """Their full name of the tensor that is our embedding table, unscaled: that of 2017 stands in its head."""
    if BY_ARCHITECTURE[config.architecture].split_head:
        return BY_ARCHITECTURE[config.architecture].head
    return next(rule.theirs for rule in _rules(config) if rule.ours == ("transformer.embed.weight",))


def check_shapes(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], where: object) -> dict[str, str]:
    """Their name in the file by their full name, for each tensor that the model needs.

    Raises `CheckpointError` unless every tensor has its shape, none is missing, and all others are skipped by name.
    Of a model that is larger than `shapes`, nothing is computed or allocated.
    """
    family = BY_ARCHITECTURE[config.architecture]
    if config.n_layers * len(family.layer) > len(shapes):
        raise CheckpointError(f"{where} has {len(shapes):,} tensors, too few for {config.n_layers:,} layers.")
    n_elements = sum(math.prod(shape) for shape in shapes.values())
    if config.position == "rope" and config.context_length * config.head_dim > max(MOST_ANGLES, n_elements):
        raise LimitError(f"{where}: a context of {config.context_length:,} tokens is too long for so small a model.")
    # Bare backbones leave the prefix out.
    bare = not any(name.startswith(family.prefix) for name in shapes)
    names = {family.prefix + name if bare and name != family.head else name: name for name in shapes}
    expected = expected_shapes(config)
    missing = [name for name in expected if name not in names]
    extra = [n for n in names if n not in expected and n != family.head and not n.endswith(family.skip)]
    if missing or extra:
        wrong = f"{shown(missing[0])} is missing" if missing else f"{shown(extra[0])} is unknown"
        raise CheckpointError(f"{where}: tensor {wrong} ({len(missing)} missing, {len(extra)} unknown).")
    wrong = [
        f"'{name}' has the shape {shown(shapes[names[name]])}, not {shape}"
        for name, shape in expected.items()
        if shapes[names[name]] != shape
    ]
    if wrong:
        more = f"; {len(wrong) - 3} more differ" if len(wrong) > 3 else ""
        raise CheckpointError(f"{where}: tensor {'; '.join(wrong[:3])}{more}.")
    return {name: names[name] for name in expected}


def to_hf_tensors(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors, by name, of the `state_dict` of our model."""
    import torch

    tensors: dict[str, Tensor] = {}
    for rule in _rules(config):
        pieces = [state[name] for name in rule.ours]
        joined = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
        tensors[rule.theirs] = joined.t() if rule.transposed else joined
    if BY_ARCHITECTURE[config.architecture].split_head:
        embed = BY_ARCHITECTURE[config.architecture].outer[0].theirs
        tensors[embed] = tensors[embed] * math.sqrt(config.dim)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def from_hf_tensors(
    config: ModelConfig, tensors: Mapping[str, Tensor], where: object = "model.safetensors"
) -> dict[str, Tensor]:
    """The `state_dict` for our model. Every tensor is used, or skipped by name; raises `CheckpointError` otherwise."""
    import torch

    names = check_shapes(config, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, where)
    state: dict[str, Tensor] = {}
    for rule in _rules(config):
        tensor = tensors[names[rule.theirs]].to(torch.float32)
        tensor = tensor.t() if rule.transposed else tensor
        state |= zip(rule.ours, tensor.split([_shape(config, name)[0] for name in rule.ours]), strict=True)
    if BY_ARCHITECTURE[config.architecture].split_head:
        rounding = torch.finfo(tensors[names[BY_ARCHITECTURE[config.architecture].outer[0].theirs]].dtype).eps
        _undo_scaling(config, state, max(1e-5, 2 * rounding), where)
    elif config.tie_embeddings:
        state["head.weight"] = state["transformer.embed.weight"]
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _rules(config: ModelConfig) -> list[Rule]:
    family = BY_ARCHITECTURE[config.architecture]
    rules = list(family.outer)
    for i in range(config.n_layers):
        rules += [Rule(tuple(n.format(i=i) for n in r.ours), r.theirs.format(i=i), r.transposed) for r in family.layer]
    if not config.tie_embeddings or family.split_head:
        rules.append(Rule(("head.weight",), family.head))
    return rules


def _undo_scaling(config: ModelConfig, state: dict[str, Tensor], tolerance: float, where: object) -> None:
    """The plain embeddings are the head; the input table must be sqrt(dim) times them, up to a relative `tolerance`."""
    import torch

    scaled, plain = state["transformer.embed.weight"], state["head.weight"]
    expected = plain * math.sqrt(config.dim)
    if scaled.shape != plain.shape or not torch.allclose(scaled, expected, rtol=tolerance, atol=1e-4):
        raise CheckpointError(f"{where}: its embeddings are not sqrt(dim) times its output head, as those of 2017 are.")
    state["transformer.embed.weight"] = plain


def _shape(config: ModelConfig, name: str) -> tuple[int, ...]:
    """The shape of our tensor of that name."""
    module, kind = name.split(".")[-2:]
    heads, kv_heads = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    rows, columns = {
        "embed": (config.vocab_size, config.dim),
        "head": (config.vocab_size, config.dim),
        "position": (config.context_length, config.dim),
        "q_proj": (heads, config.dim),
        "k_proj": (kv_heads, config.dim),
        "v_proj": (kv_heads, config.dim),
        "o_proj": (config.dim, heads),
        "gate_proj": (config.hidden_dim, config.dim),
        "up_proj": (config.hidden_dim, config.dim),
        "down_proj": (config.dim, config.hidden_dim),
        "q_norm": (config.head_dim, None),
        "k_norm": (config.head_dim, None),
    }.get(module, (config.dim, None))
    return (rows,) if columns is None or kind == "bias" else (rows, columns)


def _whole(value: Any, key: str, where: object) -> int:
    if type(value) is not int or abs(value) > LARGEST_NUMBER:
        raise CheckpointError(f"{where}: '{key}' must be a number, not {shown(value)}.")
    return value


def _real(value: Any, key: str, where: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST_NUMBER:
        raise CheckpointError(f"{where}: '{key}' must be a number, not {shown(value)}.")
    if value <= 0:
        raise CheckpointError(f"{where}: '{key}' must be above zero, not {value}.")
    return float(value)

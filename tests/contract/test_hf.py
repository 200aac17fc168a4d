"""Hugging Face: the same directory gives the same numbers in transformers and here, in both directions."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import VOCABULARY, random_model, tiny_config
from support.foreign import ROPE_SCALINGS, THEIRS, add_tokenizer, shake, their_gpt2, their_llama, their_qwen3
from torch import Tensor

from gptlite.checkpoint import hf, saved_step
from gptlite.checkpoint.gguf_check import write
from gptlite.config import ARCHITECTURES, ModelConfig
from gptlite.errors import CheckpointError
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer
from gptlite.tracing import trace

SHARED = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 6}  # heads share keys, and 4 x 6 is not dim
OURS = {
    **{architecture: tiny_config(architecture, vocab_size=VOCABULARY) for architecture in ARCHITECTURES},
    "qwen3-shared": tiny_config("qwen3", vocab_size=VOCABULARY, **SHARED),
    "llama-shared-untied": tiny_config("llama", vocab_size=VOCABULARY, **SHARED, tie_embeddings=False),
    "gpt2-untied": tiny_config("gpt2", vocab_size=VOCABULARY, tie_embeddings=False, hidden_dim=50),
}
# Unusual constants, so that a forgotten key shows.
OURS = {
    name: dataclasses.replace(c, norm_eps=1e-2, rope_theta=100.0 if c.position == "rope" else c.rope_theta)
    for name, c in OURS.items()
}
ours = pytest.mark.parametrize("config", OURS.values(), ids=OURS.keys())
TOKENS = torch.randint(VOCABULARY, (2, 32), generator=torch.Generator().manual_seed(0))


def distance(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


def save(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> GPT:
    model = random_model(config)
    saved_step.save_step(folder, model, tokenizer, {})
    return model


def their_model(folder: Path, **options: Any) -> Any:
    """What transformers makes of a directory; it must use every tensor and invent none."""
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    return model.eval()


# From here to transformers


@pytest.mark.hf
@ours
@torch.no_grad()
def test_transformers_computes_our_logits(config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = save(tmp_path / "step", config, tokenizer)
    theirs = their_model(tmp_path / "step")
    assert distance(theirs(TOKENS).logits, model(TOKENS)) < 1e-4
    assert type(theirs).__name__ == hf.BY_ARCHITECTURE[config.architecture].hf_class
    assert sum(p.numel() for p in theirs.parameters()) == config.n_params + (
        # What it does not know how to derive is stored: the head, and the sinusoids.
        (VOCABULARY + config.context_length) * config.dim if config.architecture == "transformer-2017" else 0
    )


@pytest.mark.hf
@ours
def test_transformers_would_train_the_same_model(config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Dropout, which their defaults switch on, is none of ours."""
    save(tmp_path / "step", config, tokenizer)
    theirs = their_model(tmp_path / "step")
    with torch.no_grad():
        assert torch.equal(theirs.train()(TOKENS).logits, theirs.eval()(TOKENS).logits)


@pytest.mark.hf
@ours
@torch.no_grad()
def test_traces_are_what_transformers_shows(config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = save(tmp_path / "step", config, tokenizer)
    theirs = their_model(tmp_path / "step", attn_implementation="eager")
    expected = theirs(TOKENS, output_attentions=True, output_hidden_states=True)
    seen = trace(model, TOKENS, attention=True)
    assert len(seen.hidden) == len(expected.hidden_states) == config.n_layers + 1
    assert len(seen.attention) == len(expected.attentions) == config.n_layers
    for a, b in zip(seen.hidden, expected.hidden_states, strict=True):
        assert distance(a, b) < 1e-5 * max(1.0, float(b.abs().max()))
    for a, b in zip(seen.attention, expected.attentions, strict=True):
        assert distance(a, b) < 1e-5


@pytest.mark.hf
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_writes_the_same_200_tokens(architecture: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    config = tiny_config(architecture, vocab_size=tokenizer.vocab_size, context_length=256)
    model = save(tmp_path / "step", config, tokenizer)
    theirs, their_tokenizer = their_model(tmp_path / "step"), AutoTokenizer.from_pretrained(tmp_path / "step")
    ids = their_tokenizer("Ada finds the river", return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == tokenizer.encode("Ada finds the river")
    theirs.generation_config.eos_token_id = None  # go on after the end of a document
    greedy = GenerationConfig(do_sample=False, max_new_tokens=200, pad_token_id=0)
    continued = theirs.generate(ids, attention_mask=torch.ones_like(ids), generation_config=greedy)
    assert continued[0].tolist() == [*ids[0].tolist(), *write(model, ids[0].tolist(), 200, sample=False)]


@pytest.mark.hf
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_pipeline_of_transformers_writes_text(architecture: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import pipeline

    model = save(tmp_path / "step", tiny_config(architecture, vocab_size=tokenizer.vocab_size), tokenizer)
    prompt = "Ada finds the"
    writer = pipeline("text-generation", model=str(tmp_path / "step"), device="cpu")
    writer.model.generation_config.eos_token_id = None
    answer = writer(prompt, do_sample=False, max_new_tokens=8)
    ids = tokenizer.encode(prompt)
    assert answer == [{"generated_text": prompt + tokenizer.decode(write(model, ids, 8, sample=False))}]


# From transformers to here


theirs_ = pytest.mark.parametrize(("architecture", "make"), THEIRS.values(), ids=THEIRS.keys())


@pytest.mark.hf
@theirs_
@torch.no_grad()
def test_we_compute_their_logits(
    architecture: str, make: Callable[[], Any], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    theirs = make()
    theirs.save_pretrained(tmp_path)
    add_tokenizer(tmp_path, tokenizer)
    loaded = saved_step.load(tmp_path)
    assert loaded.config.architecture == architecture
    assert loaded.manifest == {}
    assert distance(loaded.model(TOKENS), theirs(TOKENS).logits) < 1e-4


@pytest.mark.hf
@theirs_
@torch.no_grad()
def test_saving_again_gives_their_tensors_back(
    architecture: str, make: Callable[[], Any], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    make().save_pretrained(tmp_path / "theirs")
    add_tokenizer(tmp_path / "theirs", tokenizer)
    saved_step.save_step(tmp_path / "ours", saved_step.load(tmp_path / "theirs").model, tokenizer, {})
    before, after = (safetensors.torch.load_file(tmp_path / n / "model.safetensors") for n in ("theirs", "ours"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


@pytest.mark.hf
@torch.no_grad()
def test_shards_and_half_precision_are_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shake(their_llama()).bfloat16().save_pretrained(tmp_path, max_shard_size="20KB")
    add_tokenizer(tmp_path, tokenizer)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded = saved_step.load(tmp_path).model
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert distance(loaded(TOKENS), their_model(tmp_path, dtype=torch.float32)(TOKENS).logits) < 1e-4


@pytest.mark.hf
@torch.no_grad()
def test_a_bare_backbone_is_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    theirs = shake(their_gpt2())
    theirs.transformer.save_pretrained(tmp_path)  # names without "transformer."
    add_tokenizer(tmp_path, tokenizer)
    assert distance(saved_step.load(tmp_path).model(TOKENS), theirs(TOKENS).logits) < 1e-4


@pytest.mark.hf
@pytest.mark.parametrize("scaling", ROPE_SCALINGS.values(), ids=ROPE_SCALINGS.keys())
@pytest.mark.parametrize("make", [their_llama, their_qwen3])
@torch.no_grad()
def test_scaled_rotary_positions_are_theirs(
    make: Callable[..., Any], scaling: dict[str, Any], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """In both spellings of their configs, and again when they are saved here."""
    theirs = shake(make(head_dim=16, rope_parameters={**scaling, "rope_theta": 500.0}))
    theirs.save_pretrained(tmp_path / "new")
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    content = json.loads((tmp_path / "new/config.json").read_text())
    rope = content.pop("rope_parameters")
    content |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": {"type": rope.pop("rope_type"), **rope}}
    (tmp_path / "old/config.json").write_text(json.dumps(content))
    expected = theirs(TOKENS).logits
    plain = make(head_dim=16, rope_parameters={"rope_type": "default", "rope_theta": 500.0}).eval()
    plain.load_state_dict(theirs.state_dict())
    assert (distance(plain(TOKENS).logits, expected) > 1e-2) == (scaling["rope_type"] != "dynamic")
    for name in ("new", "old"):
        add_tokenizer(tmp_path / name, tokenizer)
        assert distance(saved_step.load(tmp_path / name).model(TOKENS), expected) < 1e-4, name
    saved_step.save_step(tmp_path / "ours", saved_step.load(tmp_path / "new").model, tokenizer, {})
    assert saved_step.load(tmp_path / "ours").config == saved_step.load(tmp_path / "old").config
    assert distance(their_model(tmp_path / "ours")(TOKENS).logits, expected) < 1e-4


# Configurations


@ours
def test_a_configuration_comes_back_from_its_json(config: ModelConfig) -> None:
    theirs = json.loads(json.dumps(hf.to_hf_config(config, 0)))
    assert hf.from_hf_config(theirs) == config


def test_a_config_says_whether_the_head_is_tied() -> None:
    for name, config in OURS.items():
        # That of 2017 is stored untied, for its input embeddings are multiplied by sqrt(dim).
        tied = config.tie_embeddings and name != "transformer-2017"
        assert hf.to_hf_config(config, 0)["tie_word_embeddings"] is tied
        stored = hf.to_hf_tensors(config, random_model(config).state_dict())
        assert ("lm_head.weight" in stored) is not tied


def test_a_config_may_leave_out_what_follows_from_the_rest() -> None:
    theirs = hf.to_hf_config(tiny_config("llama", n_heads=4), 0)
    for key in ("num_key_value_heads", "head_dim", "rope_parameters", "attention_bias", "mlp_bias", "hidden_act"):
        del theirs[key]
    config = hf.from_hf_config(theirs)
    assert (config.n_kv_heads, config.head_dim, config.rope_theta) == (4, 8, 10_000.0)
    assert hf.from_hf_config({**theirs, "tie_word_embeddings": False}).tie_embeddings is False
    del theirs["tie_word_embeddings"]
    assert hf.from_hf_config(theirs).tie_embeddings is False  # their default for this family


@pytest.mark.hf
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "transformer-2017"])
def test_what_a_config_leaves_out_is_what_transformers_takes(architecture: str) -> None:
    from transformers import AutoConfig

    family = hf.BY_ARCHITECTURE[architecture]
    theirs = hf.to_hf_config(tiny_config(architecture), 0)
    defaults = AutoConfig.for_model(family.model_type)
    eps = next(field.theirs for field in family.fields if field.ours == "norm_eps")
    for name, key in {"norm_eps": eps, "tie_embeddings": "tie_word_embeddings"}.items():
        if (name, architecture) != ("tie_embeddings", "transformer-2017"):
            config = hf.from_hf_config({k: v for k, v in theirs.items() if k != key})
            assert getattr(config, name) == getattr(defaults, key), key
    for key, expected in ((each.key, each.value) for each in family.requirements):
        without = {k: v for k, v in theirs.items() if k != key}
        default = getattr(defaults, key)
        if default == expected or "drop" in key:
            assert hf.from_hf_config(without) == hf.from_hf_config(theirs), key
        else:
            with pytest.raises(CheckpointError, match=f"'{key}'"):
                hf.from_hf_config(without)


def test_old_and_new_spellings_of_rotary_positions() -> None:
    theirs = hf.to_hf_config(tiny_config("qwen3"), 0)
    assert hf.from_hf_config({**theirs, "rope_parameters": None, "rope_theta": 77.0}).rope_theta == 77.0
    new = {**theirs, "rope_parameters": {"rope_type": "default", "rope_theta": 99}}
    del new["rope_theta"]
    assert hf.from_hf_config(new).rope_theta == 99.0
    assert hf.from_hf_config({**new, "rope_parameters": {"rope_theta": 5.0}, "rope_scaling": None}).rope_theta == 5.0


def test_other_names_of_the_same_activation_are_known() -> None:
    for architecture, key, name in (("llama", "hidden_act", "swish"), ("gpt2", "activation_function", "gelu_fast")):
        theirs = hf.to_hf_config(tiny_config(architecture), 0)
        assert hf.from_hf_config({**theirs, key: name}) == hf.from_hf_config(theirs)


SPECIAL = {7: "<s>", 8: "</s>", 9: "<|eot|>"}


@pytest.mark.parametrize(
    ("settings", "configs", "expected"),
    [
        ({}, [{}], (None, ())),
        ({"eos_token": "</s>"}, [{}], ("</s>", ("</s>",))),
        ({"bos_token": "<s>", "eos_token": "</s>"}, [{}], ("<s>", ("</s>",))),
        ({"bos_token": {"content": "<s>"}, "eos_token": None}, [{"eos_token_id": 8}], ("<s>", ("</s>",))),
        # As Qwen3 has it: no "beginning of a sequence" but in config.json.
        ({"bos_token": None, "eos_token": "<|eot|>"}, [{"bos_token_id": 8, "eos_token_id": 9}], ("</s>", ("<|eot|>",))),
        # As Llama 3 has it: several that end a text.
        ({"bos_token": "<s>", "eos_token": "<|eot|>"}, [{"eos_token_id": [8, 9]}], ("<s>", ("<|eot|>", "</s>"))),
        ({"bos_token": "<s>"}, [{"eos_token_id": 8}, {"eos_token_id": [8, 9]}], ("<s>", ("</s>", "<|eot|>"))),
        # Defaults of a class, which mean other tokens here, or none.
        ({"eos_token": "</s>"}, [{"bos_token_id": 1, "eos_token_id": 2}], ("</s>", ("</s>",))),
        ({}, [{"bos_token_id": 50256, "eos_token_id": [True, None, "8"]}], (None, ())),
    ],
    ids=str,
)
def test_which_tokens_stand_around_a_document(settings: dict, configs: list[dict], expected: tuple) -> None:
    assert hf.document_tokens(SPECIAL, settings, configs) == expected


@pytest.mark.row("K16", "K17", "K19")
@pytest.mark.parametrize(
    ("architecture", "changes", "named"),
    [
        ("qwen3", {"model_type": "mamba"}, "model_type 'mamba' is not one of qwen3, llama, gpt2, openai-gpt"),
        ("qwen3", {"model_type": None}, "model_type None"),
        ("qwen3", {"model_type": ["qwen3"]}, "model_type"),
        ("qwen3", {"hidden_act": "gelu"}, "'hidden_act' is 'gelu'"),
        ("llama", {"hidden_act": "relu"}, r"'hidden_act' is 'relu', which is not supported \(only 'silu' is\)"),
        ("gpt2", {"activation_function": "gelu"}, "'activation_function' is 'gelu'"),
        ("transformer-2017", {"afn": "gelu"}, "'afn' is 'gelu'"),
        ("qwen3", {"attention_bias": True}, "'attention_bias' is True"),
        ("llama", {"mlp_bias": True}, "'mlp_bias' is True"),
        ("qwen3", {"use_sliding_window": True}, "'use_sliding_window' is True"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "'scale_attn_by_inverse_layer_idx' is True"),
        ("gpt2", {"scale_attn_weights": False}, "'scale_attn_weights' is False"),
        ("llama", {"rope_parameters": {"rope_type": "longrope", "factor": 4.0}}, "rope scaling 'longrope' is not supp"),
        (
            "llama",
            {"rope_parameters": None, "rope_scaling": {"type": "linear"}},
            "linear rope scaling has no 'factor'",
        ),
        ("llama", {"rope_scaling": {"type": "mrope"}, "rope_parameters": None}, r"'mrope' .*llama3, yarn are\)"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7}},
            "'mscale' of yarn rope scaling is not supported",
        ),
        ("qwen3", {"rope_parameters": {"rope_type": "linear", "factor": "4"}}, "'factor' must be a number, not '4'"),
        ("qwen3", {"rope_parameters": {"rope_type": "linear", "factor": -4}}, "'factor' must be above zero, not -4"),
        (
            "qwen3",
            {"rope_parameters": {"rope_type": "yarn", "factor": 4, "beta_fast": 1, "beta_slow": 32}},
            r"needs slow \(32\) below fast \(1\)",
        ),
        ("llama", {"partial_rotary_factor": 0.5}, "'partial_rotary_factor' is 0.5, which is not supported"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "its weights are quantized"),
        ("llama", {"rope_parameters": "linear"}, "rope scaling 'linear' is not supported"),
        ("llama", {"rope_parameters": {"rope_theta": "big"}}, "'rope_theta' must be a number, not 'big'"),
        ("qwen3", {"hidden_size": "32"}, "'hidden_size' must be a number, not '32'"),
        ("qwen3", {"hidden_size": 32.0}, "'hidden_size' must be a number, not 32.0"),
        ("qwen3", {"hidden_size": True}, "'hidden_size' must be a number, not True"),
        ("qwen3", {"hidden_size": [32]}, "'hidden_size' must be a number"),
        ("qwen3", {"rms_norm_eps": math.nan}, "'rms_norm_eps' must be a number, not nan"),
        ("qwen3", {"vocab_size": 10**400}, "'vocab_size'"),
        ("qwen3", {"vocab_size": None}, "has no 'vocab_size'"),
        ("gpt2", {"n_layer": None}, "has no 'n_layer'"),
        ("gpt2", {"n_inner": "x"}, "'n_inner' must be a number"),
        ("gpt2", {"n_head": 0}, "n_heads must be at least 1"),
        ("gpt2", {"n_head": 3}, r"dim \(32\) must be a multiple of the number of heads \(3\)"),
        ("qwen3", {"num_key_value_heads": 3}, "must be a multiple of n_kv_heads"),
        ("qwen3", {"num_hidden_layers": -1}, "n_layers must be at least 1"),
        ("transformer-2017", {"n_inner": 10}, "feed-forward layer 4 times as wide"),
    ],
)
def test_what_we_cannot_compute_is_refused_by_name(architecture: str, changes: dict[str, Any], named: str) -> None:
    theirs = hf.to_hf_config(tiny_config(architecture), 0) | changes
    with pytest.raises(CheckpointError, match=named) as caught:
        hf.from_hf_config(theirs, "some/config.json")
    assert str(caught.value).startswith("some/config.json")


# Tensors


@ours
def test_tensors_come_back_from_theirs(config: ModelConfig) -> None:
    state = random_model(config).state_dict()
    again = hf.from_hf_tensors(config, hf.to_hf_tensors(config, state))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


@ours
def test_shapes_are_known_before_there_is_a_model(config: ModelConfig) -> None:
    assert hf.our_shapes(config) == {name: tuple(t.shape) for name, t in random_model(config).state_dict().items()}


@ours
def test_a_tensor_that_is_missing_or_unknown_is_named(config: ModelConfig) -> None:
    tensors = hf.to_hf_tensors(config, random_model(config).state_dict())
    for name in tensors:
        rest = {n: t for n, t in tensors.items() if n != name}
        with pytest.raises(CheckpointError, match=rf"^here: tensor '{name}' is missing \(1 missing, 0 unknown\)"):
            hf.from_hf_tensors(config, rest, "here")
    for name in ("extra.weight", f"{hf.BY_ARCHITECTURE[config.architecture].prefix}layers.9.weight"):
        with pytest.raises(CheckpointError, match=rf"^here: tensor '{name}' is unknown \(0 missing, 1 unknown\)"):
            hf.from_hf_tensors(config, {**tensors, name: torch.zeros(1)}, "here")


def test_tensors_without_weights_are_passed_over() -> None:
    for architecture, name in (
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("gpt2", "transformer.h.0.attn.bias"),
        ("gpt2", "transformer.h.0.attn.masked_bias"),
        ("gpt2", "lm_head.weight"),  # stored although it is tied
        ("transformer-2017", "transformer.position_ids"),
    ):
        config = tiny_config(architecture)
        state = random_model(config).state_dict()
        tensors = {**hf.to_hf_tensors(config, state), name: torch.zeros(300, 32)}
        again = hf.from_hf_tensors(config, tensors)
        assert again.keys() == state.keys()
        assert all(torch.equal(again[n], tensor) for n, tensor in state.items())


@pytest.mark.parametrize("name", ["transformer.tokens_embed.weight", "lm_head.weight"])
def test_embeddings_that_are_not_those_of_2017_are_refused(name: str) -> None:
    config = tiny_config("transformer-2017")
    tensors = hf.to_hf_tensors(config, random_model(config).state_dict())
    tensors[name] = tensors[name] * 1.01
    with pytest.raises(CheckpointError, match=r"embeddings are not sqrt\(dim\) times its output head"):
        hf.from_hf_tensors(config, tensors)


SHAPES = [(), (1,), (2, 2), (64,), (32, 95), (95, 32), (2, 3, 4), (0, 0)]


@pytest.mark.row("K12")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_tensor_of_another_shape_is_refused(
    architecture: str, shape: tuple[int, ...], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = tiny_config(architecture, vocab_size=VOCABULARY)
    add_tokenizer(tmp_path, tokenizer)
    (tmp_path / "config.json").write_text(json.dumps(hf.to_hf_config(config, 0)))
    tensors = hf.to_hf_tensors(config, random_model(config).state_dict())
    failures = []
    for name in tensors:
        safetensors.torch.save_file({**tensors, name: torch.zeros(shape)}, tmp_path / "model.safetensors")
        try:
            saved_step.load(tmp_path)
            failures.append(f"{name}: accepted")
        except CheckpointError:
            pass
        except Exception as error:
            failures.append(f"{name}: {error!r}")
    assert failures == []

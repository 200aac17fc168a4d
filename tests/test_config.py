"""Configurations: what they refuse and in which words, what presets derive, and how many parameters they count."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from conftest import tiny_config

from gptlite.config import ARCHITECTURES, SIZES, ModelConfig, SamplingConfig, TrainConfig, default_hidden_dim
from gptlite.errors import GptliteError, UsageError
from gptlite.model import GPT

NAN, INFINITY = math.nan, math.inf

WRONG_MODELS: list[tuple[dict[str, Any], str]] = [
    ({"architecture": "bert"}, "unknown architecture 'bert': choose from qwen3, llama, gpt2, transformer-2017"),
    *(
        ({name: 0}, f"`{name}` must be at least 1, not 0")
        for name in (
            "vocab_size", "context_length", "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim",
        )
    ),
    ({"n_layers": -3}, "`n_layers` must be at least 1, not -3"),
    ({"n_heads": 6, "n_kv_heads": 4}, r"`n_heads` \(6\) must be a multiple of `n_kv_heads` \(4\)"),
    ({"norm": "batchnorm"}, "qwen3 means `norm` = 'rmsnorm', not 'batchnorm'"),
    ({"norm_position": "both"}, "qwen3 means `norm_position` = 'pre', not 'both'"),
    ({"position": "alibi"}, "qwen3 means `position` = 'rope', not 'alibi'"),
    ({"activation": "tanh"}, "qwen3 means `activation` = 'swiglu', not 'tanh'"),
    ({"head_dim": 63}, "rotary positions need an even `head_dim`, not 63"),
]  # fmt: skip

WRONG_TRAININGS: list[tuple[dict[str, Any], str]] = [
    ({"seconds": 1.0, "steps": 1}, "only one of `seconds`, `steps` and `epochs`"),
    *(({"seconds": value}, "the training budget must be above zero") for value in (0, -1.0, NAN, INFINITY)),
    *(({"seconds": None, "steps": value}, "the training budget must be above zero") for value in (0, -5)),
    *(({"seconds": None, "epochs": value}, "the training budget must be above zero") for value in (0.0, NAN)),
    ({"batch_size": 0}, "`batch_size` must be at least 1, not 0"),
    ({"optimizer": "sgd"}, "`optimizer` must be one of muon, adamw, not 'sgd'"),
    *(
        ({name: value}, f"`{name}` must be at least 0 and below 1, not {value}")
        for name in ("momentum", "beta1", "beta2")
        for value in (-0.1, 1.0, NAN)
    ),
    *(({"lr": value}, "`lr` must be above zero") for value in (0.0, -1e-3, NAN, INFINITY)),
    *(({"clip": value}, "`clip` must be above zero") for value in (0.0, NAN, INFINITY)),
    *(({"warmup": value}, "`warmup` is a fraction of the run, between 0 and 1") for value in (-0.1, 1.1, NAN)),
    *(({"decay": value}, "`decay` is a fraction of the run, between 0 and 1") for value in (-0.1, 1.1, NAN)),
    *(({"weight_decay": value}, "`weight_decay` must not be negative") for value in (-0.1, NAN, INFINITY)),
    *(({"dropout": value}, "`dropout` must be at least 0 and below 1") for value in (-0.1, 1.0, NAN)),
    ({"eval_every": 0}, "`eval_every` must be at least 1, not 0"),
    ({"save_every": 0}, "`save_every` must be at least 1, not 0"),
    ({"sample_every": -1}, "`sample_every` must not be negative, not -1"),
    ({"keep": 0}, "`keep` must be at least 1, not 0"),
    *(({"seed": value}, r"`seed` must be between 0 and 2\^63 - 1") for value in (-1, 2**63)),
]

WRONG_SAMPLINGS: list[tuple[dict[str, Any], str]] = [
    *(({"temperature": value}, "`temperature` must be zero or above") for value in (-0.1, NAN, INFINITY)),
    ({"top_k": -1}, r"`top_k` must be zero \(off\) or above, not -1"),
    *(({"top_p": value}, r"`top_p` must be above 0 and at most 1 \(off\)") for value in (0.0, -0.5, 1.5, NAN)),
    *(({"min_p": value}, r"`min_p` must be between 0 \(off\) and 1") for value in (-0.1, 1.1, NAN)),
    ({"max_new_tokens": -1}, "`max_new_tokens` must not be negative, not -1"),
    *(({"num_samples": value}, "`num_samples` must be between 1 and 4096") for value in (0, 4097)),
]


@pytest.mark.parametrize(("values", "message"), WRONG_MODELS, ids=str)
def test_impossible_models_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ModelConfig(**values)


@pytest.mark.parametrize(("values", "message"), WRONG_TRAININGS, ids=str)
def test_impossible_trainings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig(**values)


@pytest.mark.parametrize(("values", "message"), WRONG_SAMPLINGS, ids=str)
def test_impossible_samplings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SamplingConfig(**values)


@pytest.mark.parametrize(
    ("architecture", "overrides", "message"),
    [
        ("gpt2", {"n_kv_heads": 1}, "gpt2 has no shared key-value heads"),
        ("gpt2", {"head_dim": 8}, "gpt2 needs `dim` = `n_heads` x `head_dim`"),
        ("transformer-2017", {"head_dim": 8}, "transformer-2017 needs `dim` = `n_heads` x `head_dim`"),
        ("transformer-2017", {"tie_embeddings": False}, "transformer-2017 shares its embeddings with the output head"),
        ("transformer-2017", {"hidden_dim": 100}, "feed-forward layer 4 times as wide as `dim`, not 100"),
        ("transformer-2017", {"dim": 33, "n_heads": 1}, "sinusoidal positions need an even `dim`, not 33"),
        ("qwen3", {"dim": 66, "n_heads": 2}, "rotary positions need an even `head_dim`, not 33"),
        ("qwen3", {"dim": 64, "n_heads": 3}, r"`dim` \(64\) must be a multiple of the number of heads \(3\)"),
        ("qwen3", {"n_heads": 0}, "must be a multiple of the number of heads"),
        ("qwen3", {"dim": 0}, "`dim` must be at least 1, not 0"),
        ("qwen4", {}, "unknown architecture 'qwen4': choose from qwen3, llama, gpt2, transformer-2017"),
    ],
)
def test_impossible_presets_are_refused(architecture: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ModelConfig.preset(architecture, "tiny", 300, **overrides)


def test_an_unknown_size_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown size 'huge': choose from tiny, small, medium, large"):
        ModelConfig.preset("qwen3", "huge", 300)


@pytest.mark.parametrize("values", [{}, {"steps": 1, "seconds": None}, {"epochs": 0.5, "seconds": None}])
def test_one_budget_is_enough(values: dict[str, Any]) -> None:
    assert TrainConfig(**values).to_dict() == {**dataclasses.asdict(TrainConfig()), **values}


def test_values_on_the_edge_are_allowed() -> None:
    TrainConfig(warmup=0, decay=1, dropout=0, weight_decay=0, seed=2**63 - 1, keep=1, eval_every=1, save_every=1)
    TrainConfig(warmup=1, decay=0, seed=0)
    SamplingConfig(temperature=0, top_k=0, top_p=1, min_p=0, max_new_tokens=0, num_samples=1)
    SamplingConfig(min_p=1, num_samples=4096)
    ModelConfig(vocab_size=1, context_length=1, dim=1, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=2, hidden_dim=1)


@pytest.mark.parametrize("config", [ModelConfig(), TrainConfig(), SamplingConfig()], ids=lambda c: type(c).__name__)
def test_configurations_are_frozen(config: Any) -> None:
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, getattr(config, field.name))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", SIZES)
def test_a_preset_is_an_architecture_times_a_size(architecture: str, size: str) -> None:
    config = ModelConfig.preset(architecture, size, 1000)
    values = config.to_dict()
    for name, value in {**ARCHITECTURES[architecture], **SIZES[size]}.items():
        assert values[name] == value
    assert (config.architecture, config.vocab_size, config.tie_embeddings) == (architecture, 1000, True)
    assert (config.head_dim, config.n_kv_heads) == (64, config.n_heads)
    assert config.hidden_dim == default_hidden_dim(config.dim, config.activation)


def test_a_preset_derives_heads_and_widths_from_dim() -> None:
    config = ModelConfig.preset("qwen3", "tiny", 300, dim=256)
    assert (config.n_heads, config.head_dim, config.n_kv_heads, config.hidden_dim) == (4, 64, 4, 704)
    narrow = ModelConfig.preset("qwen3", "tiny", 300, dim=32)
    assert (narrow.n_heads, narrow.head_dim, narrow.hidden_dim) == (1, 32, 64)


def test_overrides_win_and_none_keeps_the_preset() -> None:
    given = {"n_layers": 7, "n_heads": 4, "n_kv_heads": 2, "head_dim": 10, "hidden_dim": 99, "norm_eps": 1e-3}
    config = ModelConfig.preset("qwen3", "tiny", 300, **given, dim=None, context_length=None)
    assert {name: config.to_dict()[name] for name in given} == given
    assert (config.dim, config.context_length) == (SIZES["tiny"]["dim"], SIZES["tiny"]["context_length"])


@pytest.mark.parametrize(
    ("dim", "activation", "expected"),
    [
        (192, "swiglu", 512),
        (384, "swiglu", 1024),
        (768, "swiglu", 2048),
        (8, "swiglu", 64),
        (192, "gelu", 768),
        (8, "relu", 32),
    ],
)
def test_default_feed_forward_width(dim: int, activation: str, expected: int) -> None:
    assert default_hidden_dim(dim, activation) == expected


@pytest.mark.parametrize("tie_embeddings", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("architecture", "overrides"),
    [
        *((architecture, {}) for architecture in ("qwen3", "llama", "gpt2")),
        ("gpt2", {"hidden_dim": 50}),
        ("qwen3", {"n_kv_heads": 1, "head_dim": 12}),
        ("llama", {"n_heads": 4, "n_kv_heads": 2, "head_dim": 6, "hidden_dim": 40}),
    ],
)
def test_n_params_is_what_the_model_has(architecture: str, overrides: dict[str, Any], tie_embeddings: bool) -> None:
    shape = {"dim": 32, "n_heads": 2, "n_layers": 3, "context_length": 20, **overrides}
    config = ModelConfig.preset(architecture, "tiny", 301, tie_embeddings=tie_embeddings, **shape)
    assert config.n_params == sum(p.numel() for p in GPT(config).parameters())


def test_n_params_does_not_count_the_sinusoids() -> None:
    config = ModelConfig.preset("transformer-2017", "tiny", 301, dim=32, n_heads=2, n_layers=3, context_length=20)
    assert config.n_params == sum(p.numel() for p in GPT(config).parameters())


def test_to_dict_makes_the_same_configuration_again() -> None:
    for config in (ModelConfig.preset("llama", "small", 500, n_kv_heads=1), TrainConfig(seed=5)):
        assert type(config)(**config.to_dict()) == config


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_architecture_is_its_choices(architecture: str) -> None:
    """What is written to disk names the architecture only, so a model of other choices could not be read back."""
    for name, choice in ARCHITECTURES[architecture].items():
        if name != "norm_eps":
            other = (not choice) if isinstance(choice, bool) else f"not {choice}"
            with pytest.raises(UsageError, match=f"{architecture} means `{name}` = "):
                dataclasses.replace(tiny_config(architecture), **{name: other})


@pytest.mark.parametrize("dim", [64, 100, 128, 200, 320])
def test_heads_that_nobody_chose_always_fit(dim: int) -> None:
    config = ModelConfig.preset("qwen3", "tiny", 300, dim=dim)
    assert config.n_heads * config.head_dim == dim


@pytest.mark.parametrize(("given", "budget"), [({}, (300.0, None, None)), ({"steps": 5}, (None, 5, None))], ids=str)
def test_a_budget_needs_no_second_one_taken_back(given: dict[str, Any], budget: tuple[Any, ...]) -> None:
    assert TrainConfig(**given).budget == budget
    assert TrainConfig(**TrainConfig(**given).to_dict()).budget == budget


def test_lists_and_dicts_of_a_sampling_configuration_are_made_tuples() -> None:
    config = SamplingConfig(bans=["a", "b"], logit_bias={"the": -1.5})  # type: ignore[arg-type]
    assert (config.bans, config.logit_bias) == (("a", "b"), (("the", -1.5),))
    assert hash(config) == hash(SamplingConfig(bans=("a", "b"), logit_bias=(("the", -1.5),)))
    with pytest.raises(UsageError, match="`bans` must be texts in a list"):
        SamplingConfig(bans="abc")  # type: ignore[arg-type]


@pytest.mark.parametrize("theta", [1e-300, 0.0, -1.0, 1e300])
def test_angles_that_are_not_finite_are_refused(theta: float) -> None:
    with pytest.raises(GptliteError, match="rope_theta"):
        ModelConfig.preset("qwen3", "tiny", rope_theta=theta, vocab_size=300)

"""Plans: sizes that follow text and budget, and a user who is always right."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gptlite.config import ARCHITECTURES, SIZES, ModelConfig, TrainConfig
from gptlite.device import Hardware
from gptlite.errors import UsageError
from gptlite.planning import Facts, Plan, choose_vocab_size, make_plan

CPU = Hardware(torch.device("cpu"), bf16=False, threads=2, compile=False, reason="a test")
GPU = Hardware(torch.device("cuda"), bf16=True, threads=2, compile=True, reason="a test")
ORDER = list(SIZES)


def facts(n_bytes: int, hardware: Hardware = CPU, vocab_size: int | None = None) -> Facts:
    return Facts(n_bytes, max(1, n_bytes // 4), vocab_size or choose_vocab_size(n_bytes), hardware)


def size_of(plan: Plan) -> int:
    """Which size was chosen, by its place in the order."""
    (place,) = (
        i for i, s in enumerate(SIZES.values()) if (s["dim"], s["n_layers"]) == (plan.model.dim, plan.model.n_layers)
    )
    return place


# -- Vocabulary


@pytest.mark.parametrize(
    ("n_bytes", "size"),
    [(0, 384), (2_000, 384), (100_000, 384), (1 << 18, 512), (1_000_000, 1024), (100_000_000, 8192), (10**12, 32_768)],
)
def test_the_vocabulary_grows_with_the_text(n_bytes: int, size: int) -> None:
    assert choose_vocab_size(n_bytes) == size


def test_the_vocabulary_never_shrinks() -> None:
    sizes = [choose_vocab_size(2**n) for n in range(50)]
    assert sizes == sorted(sizes)


# -- Size


@pytest.mark.parametrize("hardware", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("seconds", [1.0, 60.0, 300.0, 3600.0, 1e6])
def test_more_text_never_means_a_smaller_model(seconds: float, hardware: Hardware) -> None:
    """With one vocabulary: a larger one has more parameters to feed."""
    plans = [make_plan(facts(10**n, hardware, 1024), overrides={"seconds": seconds}) for n in range(3, 11)]
    sizes = [size_of(p) for p in plans]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("hardware", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("n_bytes", [10**4, 10**6, 10**8, 10**10])
def test_more_time_never_means_a_smaller_model(n_bytes: int, hardware: Hardware) -> None:
    plans = [make_plan(facts(n_bytes, hardware), overrides={"seconds": 10.0**n}) for n in range(8)]
    sizes = [size_of(p) for p in plans]
    assert sizes == sorted(sizes)


def test_text_and_time_reach_from_the_smallest_to_the_largest() -> None:
    small = make_plan(facts(3_000), overrides={"seconds": 10.0})
    large = make_plan(facts(10**10, GPU), overrides={"seconds": 86_400.0})
    assert (size_of(small), size_of(large)) == (0, len(ORDER) - 1)


def test_a_small_text_gets_a_small_model_however_long_it_may_take() -> None:
    assert size_of(make_plan(facts(20_000, GPU), overrides={"seconds": 1e7})) == 0


def test_little_time_gets_a_small_model_however_long_the_text() -> None:
    assert size_of(make_plan(facts(10**10), overrides={"seconds": 5.0})) == 0


def test_the_reason_names_the_size() -> None:
    plan = make_plan(facts(10**6))
    assert any(ORDER[size_of(plan)] in reason for reason in plan.reasons)


@pytest.mark.parametrize("size", ORDER)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_named_size_is_taken(architecture: str, size: str) -> None:
    plan = make_plan(facts(10**7), architecture=architecture, size=size)
    assert ORDER[size_of(plan)] == size
    assert plan.model.architecture == architecture
    assert not any(reason.startswith("size") for reason in plan.reasons)


# -- Context, batch, rate, dropout


@pytest.mark.parametrize("n_tokens", [1, 16, 70, 200, 600, 5_000, 10**6])
def test_the_context_fits_small_texts(n_tokens: int) -> None:
    plan = make_plan(Facts(4 * n_tokens, n_tokens, 384, CPU), size="medium")
    assert 16 <= plan.model.context_length <= SIZES["medium"]["context_length"]
    if n_tokens >= 64:
        assert 4 * plan.model.context_length <= n_tokens


def test_a_context_that_was_asked_for_is_kept() -> None:
    assert make_plan(facts(400), overrides={"context_length": 100}).model.context_length == 100


def test_wider_models_learn_more_slowly_under_adamw() -> None:
    plans = [make_plan(facts(10**7), size=size, overrides={"optimizer": "adamw"}) for size in ORDER]
    rates = [plan.train.lr for plan in plans]
    assert rates == sorted(rates, reverse=True) and rates[0] > rates[-1]


def test_one_rate_fits_all_widths_under_muon() -> None:
    assert {make_plan(facts(10**7), size=size).train.lr for size in ORDER} == {TrainConfig.lr}


def test_the_model_of_2017_is_treated_gently() -> None:
    modern, old = (make_plan(facts(10**6), architecture=a, size="small").train for a in ("gpt2", "transformer-2017"))
    assert old.lr < modern.lr and old.warmup > modern.warmup


@pytest.mark.parametrize(
    ("overrides", "dropout"),
    [
        ({"epochs": 2.0}, False),
        ({"epochs": 40.0}, True),
        ({"steps": 5}, False),
        ({"steps": 100_000}, True),
        ({"seconds": 1.0}, False),
        ({"seconds": 1e6}, True),
    ],
    ids=str,
)
def test_a_text_that_is_read_often_gets_dropout(overrides: dict[str, Any], dropout: bool) -> None:
    plan = make_plan(facts(10**6), size="small", overrides=overrides)
    assert (plan.train.dropout > 0) is dropout
    assert any("dropout" in reason for reason in plan.reasons) is dropout


@pytest.mark.parametrize("hardware", [CPU, GPU], ids=["cpu", "gpu"])
def test_a_step_has_about_as_many_tokens_whatever_the_context(hardware: Hardware) -> None:
    steps = set()
    for context in (64, 256, 512):
        plan = make_plan(facts(10**6, hardware), overrides={"context_length": context})
        steps.add(plan.train.batch_size * context)
    assert len(steps) == 1


# -- The user's word


@pytest.mark.parametrize(
    "overrides",
    [
        {"n_layers": 3},
        {"dim": 96, "n_heads": 3},
        {"dropout": 0.0, "epochs": 50.0},
        {"dropout": 0.3},
        {"lr": 1e-5},
        {"optimizer": "adamw", "lr": 1e-5},
        {"batch_size": 3},
        {"warmup": 0.5},
        {"seed": 9},
        {"seconds": 12.0},
        {"steps": 7},
        {"epochs": 1.5},
        {"context_length": 33},
        {"keep": 7},
        {"tie_embeddings": False},
    ],
    ids=str,
)
def test_what_is_given_is_taken(overrides: dict[str, Any]) -> None:
    plan = make_plan(facts(10**6), overrides=overrides)
    for name, value in overrides.items():
        assert getattr(plan.model if hasattr(plan.model, name) else plan.train, name) == value


def test_none_leaves_the_choice_to_the_plan() -> None:
    assert make_plan(facts(10**6), overrides={"lr": None, "dim": None, "seconds": None}) == make_plan(facts(10**6))


def test_the_default_budget_is_time() -> None:
    train = make_plan(facts(10**6)).train
    assert (train.seconds, train.steps, train.epochs) == (TrainConfig.seconds, None, None)


@pytest.mark.parametrize("budget", ["steps", "epochs"])
def test_another_budget_replaces_time(budget: str) -> None:
    train = make_plan(facts(10**6), overrides={budget: 4}).train
    assert (getattr(train, budget), train.seconds) == (4, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overrides": {"learning_rate": 1}}, "unknown setting 'learning_rate'"),
        ({"overrides": {"zzz": 1, "aaa": 2}}, "unknown setting 'aaa'"),
        ({"size": "huge"}, "unknown size 'huge'"),
        ({"architecture": "rnn"}, "unknown architecture 'rnn'"),
        ({"architecture": "rnn", "size": "small"}, "unknown architecture 'rnn'"),
        ({"overrides": {"seconds": 1.0, "steps": 1}}, "exactly one"),
        ({"overrides": {"dim": 100, "n_heads": 3}}, "multiple"),
        ({"overrides": {"lr": -1.0}}, "lr"),
    ],
    ids=str,
)
def test_nonsense_is_a_usage_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_plan(facts(10**6), **arguments)


def test_a_plan_can_be_read_back() -> None:
    plan = make_plan(facts(10**6), architecture="llama")
    stored = plan.to_dict()
    again = Plan(ModelConfig(**stored["model"]), TrainConfig(**stored["train"]), tuple(stored["reasons"]))
    assert again == plan

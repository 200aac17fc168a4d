"""Plans: sizes that follow text and budget, and a user who is always right."""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Any

import pytest
import torch

from gptlite.config import ARCHITECTURES, DEFAULT_SECONDS, SIZES, ModelConfig, TrainConfig
from gptlite.device import Hardware
from gptlite.errors import UsageError
from gptlite.training.ensemble import of_one_member, repeated
from gptlite.training.plan import (
    LADDER,
    LARGEST_ON_CPU,
    WIDEST_ENSEMBLE,
    Facts,
    Plan,
    choose_vocab_size,
    expect,
    make_plan,
    text_limits,
)
from gptlite.training.reason import recorded
from gptlite.training.scaling_law import best_dropout, predicted_bits
from gptlite.training.speed import Speed

CPU = Hardware(torch.device("cpu"), bf16=False, threads=2, compile=False, reason="a test")
GPU = Hardware(torch.device("cuda"), bf16=True, threads=2, compile=True, reason="a test")
ORDER = list(SIZES)


def facts(n_bytes: int, hardware: Hardware = CPU, vocab_size: int | None = None) -> Facts:
    return Facts(n_bytes, max(1, n_bytes // 4), vocab_size or choose_vocab_size(n_bytes), hardware)


def size_of(plan: Plan) -> int:
    """Which rung of the ladder was chosen."""
    return LADDER.index((plan.member.n_layers, plan.member.dim))


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
def test_where_the_text_is_the_limit_more_of_it_means_a_larger_model(seconds: float, hardware: Hardware) -> None:
    """With one vocabulary: a larger one has more parameters to feed.

    Where time is the limit, a text that must be repeated gets a slightly larger model than one that need not be: the
    tokens that a smaller one could read more would be worth less.
    """
    plans = [make_plan(facts(10**n, hardware, 1024), overrides={"seconds": seconds}) for n in range(3, 11)]
    sizes = [size_of(p) for p in plans]
    assert sizes[:4] == sorted(sizes[:4])
    assert sizes[0] <= min(sizes)
    assert all(a - b <= 3 for a, b in itertools.pairwise(sizes))


@pytest.mark.parametrize("hardware", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("n_bytes", [10**4, 10**6, 10**8, 10**10])
def test_more_time_never_means_a_smaller_model(n_bytes: int, hardware: Hardware) -> None:
    plans = [make_plan(facts(n_bytes, hardware), overrides={"seconds": 10.0**n}) for n in range(8)]
    sizes = [size_of(p) for p in plans]
    assert sizes == sorted(sizes)


def test_text_and_time_reach_from_the_smallest_to_the_largest() -> None:
    small = make_plan(facts(3_000), overrides={"seconds": 10.0})
    large = make_plan(facts(10**10, GPU), overrides={"seconds": 86_400.0})
    assert (size_of(small), size_of(large)) == (0, len(LADDER) - 1)


def test_a_small_text_gets_a_small_model_however_long_it_may_take() -> None:
    assert size_of(make_plan(facts(20_000, GPU), overrides={"seconds": 1e7})) == 0


def test_little_time_gets_a_small_model_however_long_the_text() -> None:
    sizes = [size_of(make_plan(facts(10**10), overrides={"seconds": s})) for s in (5.0, 500.0)]
    assert sizes[0] < sizes[1]


def test_the_reason_names_the_size() -> None:
    plan = make_plan(facts(10**6))
    assert plan.reasons[0].about == "shape"
    assert f"{plan.model.n_layers} layers of width {plan.member.dim}" in plan.reasons[0].sentence()


@pytest.mark.parametrize("size", ORDER)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_named_size_is_taken(architecture: str, size: str) -> None:
    plan = make_plan(facts(10**7), architecture=architecture, size=size)
    assert (plan.model.n_layers, plan.model.dim) == (SIZES[size]["n_layers"], SIZES[size]["dim"])
    assert plan.model.architecture == architecture
    assert not any(reason.about == "shape" for reason in plan.reasons)


# -- Speeds that were measured


class Machine:
    """Takes steps in a time of its own making and counts the questions."""

    def __init__(self, flops: float, patience: int = 100) -> None:
        self.flops, self.patience, self.asked = flops, patience, 0

    def measure(self, model: ModelConfig, train: TrainConfig) -> Speed | None:
        if self.asked == self.patience:
            return None
        self.asked += 1
        tokens_per_second = self.flops / (6 * model.n_params)
        return Speed(train.batch_size * model.context_length / tokens_per_second, tokens_per_second)


def test_a_faster_machine_gets_a_larger_model() -> None:
    sizes = []
    for flops in (1e9, 1e10, 1e11, 1e12):
        plan = make_plan(facts(10**7), overrides={"seconds": 100.0}, measure=Machine(flops).measure)
        sizes.append(size_of(plan))
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_the_best_of_the_measured_shapes_and_its_neighbours_is_chosen() -> None:
    machine = Machine(3e10)
    plan = make_plan(facts(10**7), overrides={"seconds": 100.0}, measure=machine.measure)
    assert 3 <= machine.asked < len(LADDER)
    everywhere = [
        make_plan(facts(10**7), overrides={"seconds": 100.0, "n_layers": n, "dim": d})
        for n, d in LADDER[: LADDER.index(LARGEST_ON_CPU) + 1]
    ]

    def bits(p: Plan) -> float:
        some = facts(10**7)
        expected = expect(some, p, machine.measure(p.model, p.train))
        return predicted_bits(p.model, expected.epochs * some.n_tokens, some.n_tokens, some.n_bytes)

    assert bits(plan) <= min(map(bits, everywhere)) + 1e-9


@pytest.mark.parametrize("patience", [0, 1, 2])
def test_measuring_stops_when_its_time_is_over(patience: int) -> None:
    machine = Machine(1e9, patience)
    assert make_plan(facts(10**7), overrides={"seconds": 100.0}, measure=machine.measure)
    assert machine.asked == patience


def test_a_plan_for_steps_is_the_same_on_every_machine() -> None:
    machine = Machine(1e9)
    plan = make_plan(facts(10**6), overrides={"steps": 100}, measure=machine.measure)
    assert machine.asked == 0
    assert plan == make_plan(facts(10**6), overrides={"steps": 100})


def test_a_model_that_does_not_fit_into_memory_is_not_chosen() -> None:
    free = make_plan(facts(10**8), overrides={"seconds": 1e6})
    tight = make_plan(dataclasses.replace(facts(10**8), memory=400 << 20), overrides={"seconds": 1e6})
    assert size_of(tight) < size_of(free)
    assert expect(facts(10**8), tight).memory <= 400 << 20


def test_little_time_gets_smaller_batches() -> None:
    hasty, calm = (
        make_plan(facts(10**7), overrides={"seconds": 20.0}, measure=Machine(flops).measure) for flops in (1e8, 1e12)
    )
    assert 4 <= hasty.train.batch_size < calm.train.batch_size == 16
    assert any(reason.about == "batch_size" for reason in hasty.reasons)


# -- What to expect


def test_expectations_follow_the_budget() -> None:
    some = facts(10**6)
    for budget, steps in (({"steps": 100}, 100.0), ({"epochs": 2.0}, 2 * some.n_tokens / 2048)):
        expected = expect(some, make_plan(some, overrides=budget), Speed(0.1, 20_480.0))
        assert expected.steps == pytest.approx(steps, abs=1)
        assert expected.epochs == pytest.approx(expected.steps * 2048 / some.n_tokens)
        assert expected.seconds > 0.1 * expected.steps
    assert expect(some, make_plan(some, overrides={"seconds": 77.0})).seconds == 77.0
    assert expect(some, make_plan(some)).bits_per_byte is None
    hard, easy = (expect(some, make_plan(some), None, bits).bits_per_byte or 0 for bits in (4.0, 2.0))
    assert hard == pytest.approx(2 * easy)


def test_the_result_of_a_short_run_is_unknown() -> None:
    """The law is fitted to runs of a minute and more; the first steps are better than it says."""
    some = facts(10**7)
    short, long = (make_plan(some, size="tiny", overrides={"steps": n}) for n in (20, 2000))
    assert expect(some, short, None, 2.2).bits_per_byte is None
    assert expect(some, long, None, 2.2).bits_per_byte is not None


def test_only_a_short_time_on_a_processor_limits_the_text() -> None:
    assert text_limits(None, CPU) is None
    assert text_limits(100.0, GPU) is None
    short, long = text_limits(1.0, CPU), text_limits(10_000.0, CPU)
    assert short is not None and long is not None
    assert short[0] >= 1 << 22 and long[0] > short[0] and long[1] > short[1]


def test_what_was_given_is_remembered() -> None:
    plan = make_plan(facts(10**6), size="tiny", overrides={"seconds": 9.0, "dropout": 0.3, "lr": None})
    assert plan.given == ("dropout", "seconds", "size")


# -- Starting from bigrams


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vectors_start_from_bigrams_where_blocks_start_as_the_identity(architecture: str) -> None:
    plan = make_plan(facts(10**6), architecture=architecture)
    post_norm = architecture == "transformer-2017"
    assert plan.train.init == ("random" if post_norm else "bigrams")
    assert plan.model.tie_embeddings is post_norm


def test_tied_embeddings_leave_no_room_for_bigrams() -> None:
    assert make_plan(facts(10**6), overrides={"tie_embeddings": True}).train.init == "random"
    random = make_plan(facts(10**6), overrides={"init": "random"})
    assert (random.train.init, random.model.tie_embeddings) == ("random", True)


def test_the_narrowest_models_start_at_random() -> None:
    assert make_plan(facts(10**6), overrides={"dim": 6, "n_layers": 1, "n_heads": 1}).train.init == "random"


def test_bigrams_and_tied_embeddings_together_are_refused() -> None:
    with pytest.raises(UsageError, match="tied"):
        make_plan(facts(10**6), overrides={"init": "bigrams", "tie_embeddings": True})


def test_only_shapes_that_fit_the_heads_are_considered() -> None:
    plan = make_plan(facts(10**7), overrides={"n_heads": 5, "seconds": 1000.0})
    assert (plan.model.n_heads, plan.model.dim) == (5, 320)
    with pytest.raises(UsageError, match="multiple of the number of heads"):
        make_plan(facts(10**7), overrides={"n_heads": 7})


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
    assert any(reason.about == "dropout" for reason in plan.reasons) is dropout


@pytest.mark.parametrize(
    ("n_bytes", "overrides", "expected"),
    [
        (10**6, {"epochs": 40.0}, True),
        (10**6, {"epochs": 3.0}, True),
        (10**6, {"epochs": 1.5}, False),
        (10**7, {"epochs": 40.0}, False),
        (10**6, {"epochs": 40.0, "ngram_weight": 0.0}, False),
    ],
    ids=str,
)
def test_a_small_text_that_is_read_often_gets_soft_targets(
    n_bytes: int, overrides: dict[str, Any], expected: bool
) -> None:
    plan = make_plan(facts(n_bytes), size="small", overrides=overrides)
    assert (plan.train.ngram_weight > 0) is expected
    told = [reason.sentence() for reason in plan.reasons if reason.about == "ngram_weight"]
    times = f"{overrides['epochs']:.0f} times"
    sentence = f"a 5-gram's soft targets with weight 0.5, because the text will be read about {times}"
    assert told == [sentence] * expected


def test_soft_targets_lower_the_bits_to_expect() -> None:
    """The more, the shorter the text, and the more, the larger the model is for it."""

    def gained(n_bytes: int, dim: int) -> float:
        overrides = {"epochs": 40.0, "n_layers": 4, "dim": dim}
        with_them, without = (
            expect(some, make_plan(some, overrides=overrides | more), None, 2.0).bits_per_byte
            for some in [facts(n_bytes, vocab_size=512)]
            for more in ({}, {"ngram_weight": 0.0})
        )
        assert with_them is not None and without is not None
        return without - with_them

    assert 0.02 < gained(300_000, 64) < 0.05
    assert 0 < gained(3_000_000, 64) < gained(300_000, 64) < gained(300_000, 192)


def test_where_soft_targets_were_not_measured_there_are_none() -> None:
    base = ModelConfig.preset("qwen3", "small", 1024)
    started = make_plan(facts(10**6), base=base, overrides={"epochs": 40.0})
    on_gpu = make_plan(facts(10**6, hardware=GPU), size="small", overrides={"epochs": 40.0})
    assert started.train.ngram_weight == on_gpu.train.ngram_weight == 0


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_with_replay_a_model_goes_on_with_a_larger_rate(optimizer: str) -> None:
    base = ModelConfig.preset("qwen3", "small", 1024)

    def plan(**overrides: Any) -> Plan:
        return make_plan(facts(10**6), base=base, overrides={"optimizer": optimizer, "epochs": 2.0, **overrides})

    new = make_plan(facts(10**6), size="small", overrides={"optimizer": optimizer, "epochs": 2.0}).train.lr
    assert plan().train.lr == pytest.approx(0.1 * new)
    replayed = plan(replay=0.3)
    assert replayed.train.lr == pytest.approx(0.6 * new)
    (said,) = [reason.sentence() for reason in replayed.reasons if reason.about == "replay"]
    assert "60% of that of a new model, because 30% of each step is text that it was trained on before" in said
    given = plan(replay=0.3, lr=1e-3)
    assert given.train.lr == 1e-3 and not any(reason.about == "replay" for reason in given.reasons)


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
    assert (train.seconds, train.steps, train.epochs) == (DEFAULT_SECONDS, None, None)


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
        ({"overrides": {"seconds": 1.0, "steps": 1}}, "only one"),
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
    reasons = tuple(map(recorded, stored["reasons"]))
    again = Plan(ModelConfig(**stored["model"]), TrainConfig(**stored["train"]), reasons)
    assert (again.model, again.train) == (plan.model, plan.train)
    assert again.to_dict() == stored


@pytest.mark.parametrize(("size", "dropout"), [("tiny", False), ("medium", True)])
def test_a_larger_model_gets_dropout_sooner(size: str, dropout: bool) -> None:
    plan = make_plan(facts(10**6), size=size, overrides={"epochs": 5.0})
    assert (plan.train.dropout > 0) is dropout


@pytest.mark.parametrize(("tokens_per_second", "dropout"), [(1e3, False), (1e6, True)])
def test_dropout_follows_the_speed_that_was_measured(tokens_per_second: float, dropout: bool) -> None:
    plan = make_plan(
        facts(10**6), size="small", overrides={"seconds": 100.0}, measure=lambda *_: Speed(0.1, tokens_per_second)
    )
    assert (plan.train.dropout > 0) is dropout
    assert sum(reason.about == "dropout" for reason in plan.reasons) == dropout


# -- Members


def measured(model: ModelConfig, train: TrainConfig) -> Speed:
    """A laptop: 80 GFLOP/s, whichever shape a member has."""
    one, train = of_one_member(model, train)
    tokens_per_second = 8e10 / (6 * one.n_params)
    return Speed(train.batch_size * one.context_length / tokens_per_second, tokens_per_second)


@pytest.mark.parametrize(("seconds", "several"), [(30.0, False), (164.0, False), (1800.0, True), (7200.0, True)])
def test_time_that_a_small_text_cannot_use_goes_to_members(seconds: float, several: bool) -> None:
    small = facts(10**6, vocab_size=1024)
    plan = make_plan(small, overrides={"seconds": seconds}, measure=measured)
    assert (plan.train.members > 1) is several
    assert plan.member.dim * plan.train.members == plan.model.dim <= WIDEST_ENSEMBLE
    assert plan.train.batch_size % plan.train.members == 0
    alone = make_plan(small, overrides={"seconds": seconds, "members": 1}, measure=measured)
    assert alone.train.members == 1
    if not several:
        assert (plan.model, plan.train) == (alone.model, alone.train)
        return
    bits, of_one = (expect(small, p, measured(p.model, p.train), 2.0).bits_per_byte for p in (plan, alone))
    assert bits is not None and of_one is not None
    assert bits < of_one - 0.01


@pytest.mark.parametrize(
    ("n_bytes", "n_tokens", "members", "n_layers", "dim", "passes", "ngram", "measured"),
    [
        (20_000, 10_159, 8, 2, 64, 43.0, 3.146, 3.279),
        (50_000, 28_076, 8, 2, 64, 14.1, 2.719, 2.689),
        (100_000, 54_285, 8, 4, 128, 10.8, 2.496, 2.388),
        (100_000, 57_775, 8, 4, 128, 11.0, 3.071, 2.921),
        (668_469, 272_296, 1, 4, 192, 15.2, 2.179, 2.009),
        (1_003_856, 411_271, 1, 4, 192, 6.1, 2.204, 2.003),
        (1_003_856, 411_271, 4, 4, 192, 7.2, 2.204, 1.944),
    ],
)
def test_short_texts_end_about_where_the_plan_expects(
    n_bytes: int, n_tokens: int, members: int, n_layers: int, dim: int, passes: float, ngram: float, measured: float
) -> None:
    """Bits per byte as in docs/lab/log.md, "what is expected of short texts"."""
    one = ModelConfig.preset("qwen3", "tiny", 512, n_layers=n_layers, dim=dim, tie_embeddings=False)
    epochs, calibration = passes * members, 1.1 if n_tokens > 250_000 else 1.0
    train = TrainConfig(
        epochs=epochs, members=members, batch_size=16 * members, ngram_weight=0.5, calibration=calibration
    )
    plan = Plan(repeated(one, members), train)
    expected = expect(Facts(n_bytes, n_tokens, 512, CPU), plan, ngram_bits=ngram).bits_per_byte
    assert expected == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("n_bytes", [250_000, 1_000_000])
def test_members_stop_before_they_learn_a_short_text_by_heart(n_bytes: int) -> None:
    """Longer budgets then lead to the same run, and its seconds are those that it takes, not those that it may take."""
    short = facts(n_bytes, vocab_size=512)
    plans = [make_plan(short, overrides={"seconds": s}, measure=measured) for s in (60.0, 7200.0, 86_400.0)]
    assert plans[0].train.seconds == 60.0
    assert plans[1].model == plans[2].model and plans[1].train.members == plans[2].train.members == 8
    assert dataclasses.replace(plans[1].train, seconds=86_400.0) == plans[2].train
    assert plans[1].train.most_epochs is not None
    expected = [expect(short, plan, measured(plan.model, plan.train)) for plan in plans]
    assert expected[0].seconds == 60.0 < expected[1].seconds == expected[2].seconds < 7200
    assert 0.99 < expected[1].epochs / plans[1].train.most_epochs <= 1
    each = plans[1].train.most_epochs / 8
    assert plans[1].train.dropout == best_dropout(
        plans[1].member, each, short.n_tokens, 8, plans[1].train.ngram_weight > 0
    )
    told = [[reason.sentence() for reason in plan.reasons if reason.about == "most_epochs"] for plan in plans]
    assert not told[0] and re.match(r"the end after each model has read the text \d+ times, though", *told[1])
    asked = make_plan(short, overrides={"seconds": 7200.0, "members": 4}, measure=measured)
    assert asked.train.most_epochs is None
    tiny = make_plan(facts(50_000, vocab_size=512), overrides={"seconds": 7200.0}, measure=measured)
    assert (tiny.train.members > 1, tiny.train.most_epochs) == (True, None)  # which was not measured


@pytest.mark.parametrize(
    ("n_bytes", "more", "hardware"),
    [
        (10**8, {}, CPU),
        (10**6, {}, GPU),
        (10**6, {"dim": 128}, CPU),
        (10**6, {"n_layers": 3}, CPU),
        (10**6, {"batch_size": 16}, CPU),
        (10**6, {"context_encoder": 0.1}, CPU),
        (10**6, {"seconds": None, "steps": 10**6}, CPU),
    ],
    ids=str,
)
def test_there_is_one_model_where_members_were_not_measured_or_do_not_suit(
    n_bytes: int, more: dict[str, Any], hardware: Hardware
) -> None:
    overrides = {"seconds": 7200.0, **more}
    assert make_plan(facts(n_bytes, hardware), overrides=overrides, measure=measured).train.members == 1


def test_gpt2_is_always_a_single_model() -> None:
    assert make_plan(facts(10**6), architecture="gpt2", overrides={"seconds": 7200.0}).train.members == 1


def test_members_that_are_asked_for_have_the_shape_that_is_asked_for() -> None:
    overrides = {"dim": 64, "n_layers": 2, "n_heads": 2, "members": 4, "steps": 100}
    plan = make_plan(facts(10**6), overrides=overrides)
    assert (plan.member.dim, plan.member.n_heads, plan.model.dim, plan.model.n_heads) == (64, 2, 256, 8)
    assert plan.train.batch_size == 4 * make_plan(facts(10**6), overrides={**overrides, "members": 1}).train.batch_size
    every = make_plan(facts(10**6), overrides={"members": 2, "seconds": 60.0})
    assert every.model == repeated(every.member, 2)


def test_each_member_reads_its_own_share_of_the_text() -> None:
    """So what depends on how often the text is read depends on the passes of one."""
    asked = {"dim": 64, "n_layers": 2, "n_heads": 2}
    alone = make_plan(facts(10**6), overrides={**asked, "epochs": 10.0})
    four = make_plan(facts(10**6), overrides={**asked, "epochs": 40.0, "members": 4})
    assert (alone.train.dropout, alone.train.ngram_weight) == (four.train.dropout, four.train.ngram_weight)


# -- Context


def test_a_text_that_is_read_often_gets_a_longer_context() -> None:
    contexts = [
        make_plan(Facts(10**6, 400_000, 1024, CPU), overrides={"seconds": s}).model.context_length
        for s in (30.0, 164.0, 3600.0)
    ]
    assert contexts == [128, 256, 512]
    short = Facts(300_000, 130_000, 512, CPU)
    assert make_plan(short, overrides={"seconds": 3600.0}).model.context_length == 128
    asked = make_plan(Facts(10**6, 400_000, 1024, CPU), overrides={"seconds": 3600.0, "context_length": 64})
    assert asked.model.context_length == 64


# -- Calibration


def test_logits_are_divided_after_many_passes_through_a_long_text() -> None:
    long, short = facts(10**6, vocab_size=1024), facts(100_000, vocab_size=512)
    often, once = {"epochs": 10.0}, {"epochs": 1.0}
    plan = make_plan(long, overrides=often)
    assert plan.train.calibration > 1
    assert any("too sure" in reason.sentence() for reason in plan.reasons)
    assert make_plan(long, overrides=often | {"calibration": 1.0}).train.calibration == 1
    for which, how in ((long, once), (short, often), (long, often | {"ngram_weight": 0.0})):
        assert make_plan(which, overrides=how).train.calibration == 1
    assert make_plan(long, architecture="transformer-2017", overrides=often).train.calibration == 1

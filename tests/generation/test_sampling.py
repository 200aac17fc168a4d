"""Sampling: the right tokens stay, probabilities add up, and a row's draws are its own."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlite.config import SamplingConfig
from gptlite.generation import sampling
from gptlite.generation.constraints import Constraints
from gptlite.generation.reproducible import make_sampler
from gptlite.generation.sampling import distribution
from gptlite.randomness import derive

PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
PROBABILITIES = [0.05, 0.4, 0.1, 0.25, 0.2]  # in order: 1, 3, 4, 2, 0
LOGITS = torch.tensor([PROBABILITIES]).log()


def config(**options: float) -> SamplingConfig:
    return SamplingConfig(**{**PLAIN, **options})  # type: ignore[arg-type]


def kept(**options: float) -> set[int]:
    return set(distribution(LOGITS, config(**options))[0].nonzero().flatten().tolist())


def random_logits(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 3


def test_without_filters_it_is_the_softmax() -> None:
    logits = random_logits(4, 50)
    probabilities = distribution(logits, config())
    assert probabilities.dtype == torch.float64
    assert torch.allclose(probabilities, logits.double().softmax(-1), atol=1e-15)


@pytest.mark.parametrize("temperature", [0.3, 0.8, 1.7])
def test_temperature_divides_the_logits(temperature: float) -> None:
    logits = random_logits(4, 50)
    expected = (logits.double() / temperature).softmax(-1)
    assert torch.allclose(distribution(logits, config(temperature=temperature)), expected, atol=1e-14)


@pytest.mark.row("G12")
@pytest.mark.parametrize(
    ("k", "expected"),
    [(0, {0, 1, 2, 3, 4}), (1, {1}), (2, {1, 3}), (3, {1, 3, 4}), (4, {1, 2, 3, 4}), (5, {0, 1, 2, 3, 4}),
     (99, {0, 1, 2, 3, 4})],
)  # fmt: skip
def test_top_k_keeps_the_k_likeliest(k: int, expected: set[int]) -> None:
    assert kept(top_k=k) == expected


@pytest.mark.row("G12")
@pytest.mark.parametrize(
    ("p", "expected"),
    [(1e-9, {1}), (0.39, {1}), (0.41, {1, 3}), (0.64, {1, 3}), (0.66, {1, 3, 4}), (0.84, {1, 3, 4}),
     (0.9, {1, 2, 3, 4}), (0.96, {0, 1, 2, 3, 4}), (1.0, {0, 1, 2, 3, 4})],
)  # fmt: skip
def test_top_p_keeps_the_fewest_that_reach_p(p: float, expected: set[int]) -> None:
    assert kept(top_p=p) == expected


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.0, {0, 1, 2, 3, 4}), (0.12, {0, 1, 2, 3, 4}), (0.13, {1, 2, 3, 4}), (0.26, {1, 3, 4}), (0.51, {1, 3}),
     (0.63, {1}), (1.0, {1})],
)  # fmt: skip
def test_min_p_keeps_what_is_p_times_as_likely_as_the_likeliest(p: float, expected: set[int]) -> None:
    assert kept(min_p=p) == expected


def test_what_is_kept_keeps_its_proportions() -> None:
    probabilities = distribution(LOGITS, config(top_k=3))[0]
    assert probabilities.tolist() == pytest.approx([0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85])


def test_filters_come_in_turn() -> None:
    # top-k leaves 1, 3, 4; of these, 0.4 and 0.25 reach 70% of their 0.85, which they do not of the whole.
    assert kept(top_k=3, top_p=0.7) == {1, 3}
    assert kept(top_p=0.7) == {1, 3, 4}
    # At a high temperature all are nearly alike; min-p sees that too.
    assert kept(min_p=0.5, temperature=100) == {0, 1, 2, 3, 4}
    assert kept(min_p=0.5) == {1, 3}


@pytest.mark.row("G12")
@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.integers(-10_000, 10_000), min_size=1, max_size=30),
    st.floats(1e-300, 1e3),
    st.integers(0, 40),
    st.floats(0, 1, exclude_min=True),
    st.floats(0, 1),
)
def test_any_setting_gives_a_distribution_with_the_likeliest(
    values: list[int], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = torch.tensor([values], dtype=torch.float32)
    options = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    probabilities = distribution(logits, options)[0]
    assert torch.isfinite(probabilities).all()
    assert (probabilities >= 0).all()
    assert float(probabilities.sum()) == pytest.approx(1)
    assert probabilities[logits[0] == logits.max()].max() == probabilities.max() > 0


@pytest.mark.row("G11")
@pytest.mark.parametrize("temperature", [1e-2, 1e-30, 1e-300, 5e-324])
def test_tiny_temperatures_are_greedy_and_finite(temperature: float) -> None:
    logits = torch.tensor([[-1e4, 3.0, 2.0, 1e4, -math.inf]])
    probabilities = distribution(logits, config(temperature=temperature))
    assert probabilities.tolist() == [[0, 0, 0, 1, 0]]
    assert make_sampler(config(temperature=temperature), [1])(logits).tolist() == [3]


def test_huge_temperatures_are_uniform() -> None:
    assert distribution(LOGITS, config(temperature=1e308))[0].tolist() == pytest.approx([0.2] * 5)


def test_half_precision_is_computed_in_double() -> None:
    logits = random_logits(3, 20).bfloat16()
    assert torch.equal(distribution(logits, config()), distribution(logits.double(), config()))


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = random_logits(6, 50)
    sampler = make_sampler(config(temperature=0), range(6))
    assert torch.equal(sampler(logits), logits.argmax(-1))
    assert torch.equal(sampler(logits), sampler(logits))


def test_frequencies_match_probabilities() -> None:
    n = 20_000
    sampler = make_sampler(config(top_k=4), range(n))
    counts = torch.bincount(sampler(LOGITS.expand(n, -1)), minlength=5)
    expected = distribution(LOGITS, config(top_k=4))[0] * n
    assert counts[0] == 0
    deviation = (expected * (1 - expected / n)).sqrt().clamp(min=1)
    assert ((counts - expected).abs() / deviation).max() < 4.5


def test_one_row_drawn_often_matches_probabilities() -> None:
    n = 5000
    sampler = make_sampler(config(), [11])
    counts = torch.bincount(torch.cat([sampler(LOGITS) for _ in range(n)]), minlength=5)
    expected = torch.tensor(PROBABILITIES) * n
    assert ((counts - expected).abs() / expected.sqrt()).max() < 4.5


@pytest.mark.parametrize("draw", [0.0, 5e-324, 1 - 2**-24, 1 - 2**-25, 1 - 2**-30, 1 - 2**-53])
@pytest.mark.parametrize("wanted", [[2], [0], [4], [1, 3]])
def test_what_was_dropped_is_never_drawn(monkeypatch: pytest.MonkeyPatch, draw: float, wanted: list[int]) -> None:
    """Not even by the smallest and largest numbers that a generator returns."""
    logits = torch.full((1, 5), -20.0)
    logits[0, wanted] = 5.0
    monkeypatch.setattr(sampling, "uniform", lambda *_: draw)
    assert make_sampler(config(top_k=len(wanted)), [1])(logits).item() in wanted


@pytest.mark.parametrize(("draw", "expected"), [(1 - 2**-38, 0), (1 - 2**-42, 1)])
def test_rare_tokens_are_as_rare_as_they_should_be(monkeypatch: pytest.MonkeyPatch, draw: float, expected: int) -> None:
    """In single precision both draws would be 1."""
    logits = torch.tensor([[0.0, math.log(2**-40)]])
    monkeypatch.setattr(sampling, "uniform", lambda *_: draw)
    assert make_sampler(config(), [1])(logits).item() == expected


def test_the_same_seed_draws_the_same() -> None:
    logits = [random_logits(3, 40, seed) for seed in range(20)]
    first, second, other = (make_sampler(config(), seeds) for seeds in ([1, 2, 3], [1, 2, 3], [4, 5, 6]))
    draws = [[sampler(each).tolist() for each in logits] for sampler in (first, second, other)]
    assert draws[0] == draws[1] != draws[2]


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    logits = [random_logits(5, 40, seed) for seed in range(20)]
    options = config(temperature=0.9, top_k=30, top_p=0.95, min_p=0.02)
    seeds = [derive(7, i) for i in range(5)]
    together = make_sampler(options, seeds)
    alone = [make_sampler(options, [seed]) for seed in seeds]
    reverse = make_sampler(options, seeds[::-1])
    for each in logits:
        draws = together(each).tolist()
        assert draws == [sampler(each[i : i + 1]).item() for i, sampler in enumerate(alone)]
        assert draws[::-1] == reverse(each.flip(0)).tolist()


def test_a_row_moves_on_by_one_number_a_draw() -> None:
    """What other rows had to choose from must not shift a row's later draws; nor must its own filters."""
    logits = random_logits(1, 40)
    free, filtered = make_sampler(config(), [5]), make_sampler(config(top_k=1), [5])
    first = [free(logits).item() for _ in range(5)]
    assert [filtered(logits).item() for _ in range(5)] == [int(logits.argmax())] * 5
    again = make_sampler(config(), [5])
    assert [again(logits).item() for _ in range(5)] == first


def test_seeds_of_64_bits_are_fine() -> None:
    sampler = make_sampler(config(), [2**64 - 1, 0])
    assert sampler(random_logits(2, 10)).shape == (2,)


def test_sampling_uses_no_global_randomness() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    make_sampler(config(), [1])(random_logits(1, 10))
    assert torch.equal(state, torch.get_rng_state())


# -- Typical-p


@pytest.mark.parametrize(("p", "expected"), [(0.2, {3}), (0.3, {3, 4}), (0.6, {1, 3, 4}), (0.9, {1, 2, 3, 4}), (1, 5)])
def test_typical_p_keeps_what_is_about_as_surprising_as_usual(p: float, expected: set[int] | int) -> None:
    # The entropy is 1.42 nats; surprisals are 3.0, 0.9, 2.3, 1.4 and 1.6.
    assert kept(typical_p=p) == ({*range(5)} if expected == 5 else expected)


def test_typical_p_comes_last() -> None:
    # Of 1, 3 and 4 the entropy is 1.06 nats, and 3, with a surprisal of 1.2, is the nearest.
    assert kept(top_k=3, typical_p=0.2) == {3}
    assert kept(top_k=2, typical_p=0.2) == {1}


# -- Penalties


SCORES = np.array([[2.0, 1.0, 0.0, -1.0, -2.0]])


def after(options: dict[str, float], prompt: list[int], written: list[int], **more: float) -> list[float]:
    """What becomes of the logits 2, 1, 0, -1, -2 after a prompt and a text."""
    sampler = make_sampler(config(**options, **more), [0], [prompt])
    forced = torch.full((1, 5), -30.0)
    for token in written:
        forced.fill_(-30)[0, token] = 500.0
        assert sampler(forced).tolist() == [token]
    return sampler._scores(SCORES, [0])[0].tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"repetition_penalty": 2.0}, [1.0, 1.0, 0.0, -2.0, -2.0]),  # 0 in the prompt, 3 in the text
        ({"repetition_penalty": 0.5}, [4.0, 1.0, 0.0, -0.5, -2.0]),
        ({"presence_penalty": 0.5}, [2.0, 1.0, 0.0, -1.5, -2.0]),
        ({"frequency_penalty": 0.5}, [2.0, 1.0, 0.0, -2.0, -2.0]),
        ({"presence_penalty": 0.25, "frequency_penalty": -0.5}, [2.0, 1.0, 0.0, -0.25, -2.0]),
        ({"no_repeat_ngram": 1}, [-math.inf, 1.0, 0.0, -math.inf, -2.0]),
    ],
    ids=str,
)
def test_what_has_come_is_made_less_likely(options: dict[str, float], expected: list[float]) -> None:
    if "no_repeat_ngram" in options:
        sampler = make_sampler(config(**options), [0], [[0, 3]], constraints())
        assert sampler._scores(SCORES, [0])[0].tolist() == expected
    else:
        assert after(options, [0, 0], [3, 3]) == expected


def constraints(**options: object) -> Constraints:
    """For a vocabulary of five, of which the first ends a document."""
    tokenizer = SimpleNamespace(token_bytes=[b"", b"a", b"b", b"c", b"d"], vocab_size=5, separator_id=0, end_ids={0})
    return Constraints(SamplingConfig(**options), tokenizer)  # type: ignore[arg-type]


def test_each_row_pays_for_its_own_text() -> None:
    options = config(repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2, no_repeat_ngram=2)
    prompts, seeds = [[1, 2], [3], [2, 2, 4]], [4, 5, 6]
    together = make_sampler(options, seeds, prompts, constraints())
    alone = [make_sampler(options, [s], [p], constraints()) for s, p in zip(seeds, prompts, strict=True)]
    for step in range(30):
        logits = random_logits(3, 5, step)
        rows = [[0, 1, 2], [2, 0], [1]][step % 3]
        ids = together(logits[rows], rows).tolist()
        assert ids == [alone[row](logits[row : row + 1]).item() for row in rows]


def test_penalties_are_those_of_transformers() -> None:
    processors = pytest.importorskip("transformers.generation.logits_process")
    logits, prompt = random_logits(1, 50), [3, 7, 7, 9, 3, 7]
    ids = torch.tensor([prompt])
    sampler = make_sampler(config(repetition_penalty=1.7, no_repeat_ngram=3), [0], [prompt], constraints())
    expected = processors.RepetitionPenaltyLogitsProcessor(1.7)(ids, logits.clone())
    expected = processors.NoRepeatNGramLogitsProcessor(3)(ids, expected)
    assert np.allclose(sampler._scores(logits.double().numpy(), [0]), expected.numpy(), atol=1e-6)
    for p in (0.1, 0.5, 0.9):
        expected = processors.TypicalLogitsWarper(p)(ids, logits.clone()).softmax(-1)
        assert torch.allclose(distribution(logits, config(typical_p=p)), expected.double(), atol=1e-6)


def test_where_nothing_may_come_the_text_ends() -> None:
    sampler = make_sampler(config(), [1], [[2]], constraints(bans=("a", "b", "c", "d"), min_new_tokens=3))
    assert sampler(random_logits(1, 5)).tolist() == [0]


def test_before_the_least_number_of_tokens_nothing_ends_the_text() -> None:
    options = config(min_new_tokens=2)
    sampler = make_sampler(options, [1, 2], [[], []], constraints(min_new_tokens=2))
    logits = torch.tensor([[50.0, 1, 1, 1, 1, 60.0]] * 2)  # the sixth spells nothing
    for _ in range(2):
        assert not {0, 5} & {*sampler(logits).tolist()}
    assert sampler(logits).tolist() == [5, 5]

"""The scaling law: what it says of more tokens, more text and larger models."""

from __future__ import annotations

import pytest

from gptlite.config import ModelConfig
from gptlite.training.scaling_law import (
    best_dropout,
    best_ngram_weight,
    hidden_params,
    members_gain,
    most_epochs,
    predicted_bits,
)


def model(dim: int = 192) -> ModelConfig:
    return ModelConfig.preset("qwen3", "small", 1024, n_layers=4, dim=dim, n_heads=4)


def test_more_of_anything_never_hurts_on_paper() -> None:
    by_tokens = [predicted_bits(model(), 10.0**n, 10**7 // 4, 10**7) for n in range(3, 10)]
    assert by_tokens == sorted(by_tokens, reverse=True)
    by_text = [predicted_bits(model(), 1e7, 10**n, 4 * 10**n) for n in (4, 5, 6, 7)]
    assert by_text == sorted(by_text, reverse=True)


def test_reading_a_text_again_is_worth_less_than_reading_another() -> None:
    again, other = (predicted_bits(model(), 4e6, n, 4 * n) for n in (10**6, 4 * 10**6))
    assert again > other


def test_the_best_size_grows_with_the_text() -> None:
    small, large = (
        min((64, 192, 768), key=lambda dim: predicted_bits(model(dim), n, int(n), 4 * int(n))) for n in (1e5, 1e9)
    )
    assert (small, large) == (64, 768)


def test_dropout_rises_with_epochs_and_with_the_model() -> None:
    by_epochs = [best_dropout(model(), n, 10**6) for n in (1.0, 10.0, 30.0, 1000.0)]
    assert by_epochs[0] == 0.0 and by_epochs == sorted(by_epochs) and by_epochs[-1] == 0.3
    of_one, of_members = ([best_dropout(model(), n, 10**5, members) for n in range(1, 100)] for members in (1, 4))
    assert all(a <= b for a, b in zip(of_members, of_one, strict=True)) and of_members != of_one
    for members in (1, 4):  # the soft targets of a longer text weigh less in the end
        short, long = ([best_dropout(model(), e, n, members, True) for e in range(1, 100)] for n in (10**5, 10**6))
        assert short == [best_dropout(model(), e, 10**5, members) for e in range(1, 100)]
        without = [best_dropout(model(), e, 10**6, members) for e in range(1, 100)]
        assert all(a >= b for a, b in zip(long, without, strict=True)) and long != without
    by_size = [best_dropout(model(dim), 8.0, 10**6) for dim in (64, 768)]
    assert by_size == sorted(by_size) and by_size[0] < by_size[1]


def test_a_run_that_ends_where_several_models_should_has_the_dropout_of_shorter_ones() -> None:
    for n_tokens in range(41_000, 150_000, 97):
        for members in (2, 4, 8):
            passes = members * most_epochs(model(), n_tokens) / members
            assert best_dropout(model(), passes, n_tokens, members, soft_targets=True) == 0.1
            assert best_dropout(model(), 1.01 * passes, n_tokens, members, soft_targets=True) == 0.2


def test_soft_targets_are_left_out_where_counting_takes_a_large_part_of_the_time() -> None:
    n_tokens, vocabulary = 400_000, 1024  # about 5 s
    assert best_ngram_weight(4.0, n_tokens, vocabulary) == best_ngram_weight(4.0, n_tokens, vocabulary, 900.0) == 0.5
    assert best_ngram_weight(4.0, n_tokens, vocabulary, 60.0) == 0.0
    assert best_ngram_weight(4.0, n_tokens // 10, vocabulary // 2, 60.0) == 0.5
    assert best_ngram_weight(1.0, n_tokens, vocabulary) == 0.0


def test_embeddings_and_head_are_not_hidden() -> None:
    tied, free = (
        ModelConfig.preset("qwen3", "small", 1024, n_layers=4, dim=64, n_heads=4, tie_embeddings=t)
        for t in (True, False)
    )
    assert hidden_params(tied) == hidden_params(free) == tied.n_params - 1024 * 64


def test_members_gain_more_the_more_there_are_and_the_shorter_the_text() -> None:
    gains = [members_gain(n, 10.0, 400_000) for n in (1, 2, 4, 8)]
    assert gains[0] == 0 and gains == sorted(gains) and gains[3] - gains[2] < gains[2] - gains[1]
    by_text = [members_gain(4, 10.0, n) for n in (10_000, 40_000, 365_000, 10**7)]
    assert by_text[0] == by_text[1] and by_text == sorted(by_text, reverse=True)
    falling = [members_gain(4, 10.0, n, soft_targets=True) for n in (200_000, 250_000, 411_000, 2_000_000)]
    constant = [members_gain(4, 10.0, n) for n in (200_000, 250_000, 411_000, 2_000_000)]
    assert falling[0] == constant[0] and falling[1] > falling[2] > 1.3 * constant[2]
    assert falling[3] == pytest.approx(constant[3], rel=0.1)
    by_epochs = [members_gain(4, epochs, 400_000) for epochs in (2.0, 4.0, 8.0, 80.0)]
    assert by_epochs[0] < by_epochs[1] < by_epochs[2] == by_epochs[3]


def test_soft_targets_keep_a_large_model_from_memorising_a_small_text() -> None:
    large = ModelConfig.preset("qwen3", "small", 1024)
    hard, soft = (predicted_bits(large, 10**6, 50_000, 100_000, soft) for soft in (False, True))
    assert soft < hard
    for n in (5_000, 250_000):  # tokens of texts that were not measured
        assert predicted_bits(large, 10**6, n, 2 * n, True) == predicted_bits(large, 10**6, n, 2 * n, False)

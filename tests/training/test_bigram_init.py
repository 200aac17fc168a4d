"""Vectors from bigrams: the counts come back as predictions, whatever the norm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_config

from gptlite.model import GPT, initialise, set_vectors
from gptlite.text import token_files
from gptlite.training import bigram_init
from gptlite.training.bigram_init import bigram_vectors

V = 40


def markov_stream(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A stream (n,) of V tokens, each with four likely successors, and the probabilities (V, V)."""
    rng = np.random.default_rng(seed)
    p = np.full((V, V), 0.1 / V)
    for token in range(V):
        p[token, rng.choice(V, 4, replace=False)] += np.array([0.45, 0.225, 0.15, 0.075])
    stream = [0]
    for _ in range(n - 1):
        stream.append(int(rng.choice(V, p=p[stream[-1]])))
    return np.array(stream, dtype=np.uint16), p


@pytest.fixture(scope="module")
def stream() -> tuple[np.ndarray, np.ndarray]:
    return markov_stream(20_000)


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gpt2"])
def test_a_new_model_predicts_as_the_smoothed_counts_do(
    architecture: str, stream: tuple[np.ndarray, np.ndarray]
) -> None:
    """p(u | t) = (n(t, u) + k p(u)) / (n(t) + k)."""
    ids, _ = stream
    config = tiny_config(architecture, vocab_size=V, dim=64, tie_embeddings=False)
    model = GPT(config)
    initialise(model, 1)
    set_vectors(model, *bigram_vectors(ids, V, config.dim, seed=1))
    with torch.no_grad():
        if architecture == "gpt2":
            model.transformer.position.table.zero_()
        p = model(torch.arange(V)[:, None])[:, 0].softmax(-1).numpy()
    counts = np.zeros((V, V))
    np.add.at(counts, (ids[:-1], ids[1:]), 1)
    k, frequencies = bigram_init.SMOOTHING * len(ids) / V, np.bincount(ids, minlength=V) / len(ids)
    smoothed = (counts + k * frequencies) / (counts.sum(1, keepdims=True) + k)
    off = np.abs(p - smoothed).sum(1) / 2  # total variation
    assert np.median(off) < 0.01
    assert off.max() < 0.15  # the longest vectors are cut


def test_a_narrow_model_keeps_what_matters_most(stream: tuple[np.ndarray, np.ndarray]) -> None:
    ids, truth = stream
    losses = []
    for dim in (8, 16, 32, 64):
        embed, head = bigram_vectors(ids, V, dim, seed=1)
        x = embed / embed.square().mean(1, keepdim=True).sqrt()
        log_p = (x @ head.T).log_softmax(-1).numpy()
        losses.append(-(np.bincount(ids, minlength=V)[:, None] * truth * log_p).sum() / len(ids))
    assert losses == sorted(losses, reverse=True)
    frequencies = np.bincount(ids, minlength=V) / len(ids)
    assert losses[0] < -(frequencies * np.log(frequencies)).sum()  # better than the unigram at once


def test_all_embeddings_have_one_length_and_no_mean(stream: tuple[np.ndarray, np.ndarray]) -> None:
    embed, head = bigram_vectors(stream[0], V, 32, seed=1)
    assert embed.shape == head.shape == (V, 32)
    assert embed.mean(1).abs().max() < 1e-5
    sizes = embed.square().mean(1).sqrt()
    assert sizes.median() == pytest.approx(bigram_init.EMBEDDING_RMS, rel=1e-3)
    assert sizes.max() < 2 * sizes.min()


def test_the_seed_decides(stream: tuple[np.ndarray, np.ndarray]) -> None:
    before = torch.random.get_rng_state()
    first, second, other = (bigram_vectors(stream[0], V, 16, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("n", [2, 3, 50])
@pytest.mark.parametrize("dim", [4, 16, 64, 128])
def test_little_text_and_rare_tokens_give_finite_vectors(n: int, dim: int) -> None:
    for vocab_size in (V, 300):
        embed, head = bigram_vectors(np.arange(n, dtype=np.uint16) % 7, vocab_size, dim, seed=0)
        assert embed.shape == head.shape == (vocab_size, dim)
        assert embed.isfinite().all() and head.isfinite().all()


def test_a_long_text_is_counted_in_stretches(
    monkeypatch: pytest.MonkeyPatch, stream: tuple[np.ndarray, np.ndarray]
) -> None:
    monkeypatch.setattr(bigram_init, "LARGEST_COUNT", 6_400)
    ids = stream[0]
    part = token_files.spread_ids(ids, 6_400)
    assert len(part) == 6_400
    assert np.array_equal(part[:100], ids[:100]) and np.array_equal(part[-100:], ids[-100:])
    embed, _ = bigram_vectors(ids, V, 32, seed=1)
    assert embed.isfinite().all()

"""Batches: which windows make up step s."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_text
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gptlite.errors import CorpusError
from gptlite.text.batches import Batches
from gptlite.text.corpus import open_text
from gptlite.text.token_files import TokenFile, tokenize
from gptlite.text.tokenizer import Tokenizer


def stream(n_tokens: int, path: str = "ids.bin") -> TokenFile:
    """A token file in which every id is its own position, so that windows show where they come from."""
    np.arange(n_tokens, dtype="<u4").tofile(path)
    return TokenFile(Path(path), "<u4", n_tokens, n_tokens, "")


@given(st.integers(0, 2**40), st.integers(0, 500))
@settings(deadline=None, max_examples=50)
def test_a_batch_is_a_function_of_seed_and_step(seed: int, step: int) -> None:
    tokens = stream(137)
    first = Batches(tokens, context=8, batch_size=3, seed=seed)
    for other_step in (step + 1, 0, 7):
        first.batch(other_step)
    again = Batches(tokens, context=8, batch_size=3, seed=seed).batch(step)
    assert torch.equal(first.batch(step), again)
    assert (again.shape, again.dtype) == ((3, 9), torch.int64)


def test_batches_differ_by_step_and_seed() -> None:
    tokens = stream(1000)
    batches = [Batches(tokens, context=8, batch_size=4, seed=seed).batch(step) for seed in (1, 2, 3) for step in (0, 1)]
    assert len({tuple(b.flatten().tolist()) for b in batches}) == 6


def test_targets_are_the_inputs_shifted_by_one() -> None:
    batch = Batches(stream(100), context=10, batch_size=4, seed=1).batch(3)
    assert torch.equal((batch[:, :-1] + 1) % 100, batch[:, 1:])  # the stream is a ring


@pytest.mark.parametrize(("n_tokens", "context"), [(100, 10), (109, 10), (33, 32), (1000, 7), (12, 1), (64, 31)])
@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_every_window_comes_once_an_epoch(n_tokens: int, context: int, seed: int) -> None:
    batches = Batches(stream(n_tokens), context=context, batch_size=1, seed=seed)
    windows = n_tokens // context
    assert batches.windows_per_epoch == windows
    phases = set()
    for epoch in range(4):
        inputs = [batches.batch(epoch * windows + i)[0, :-1].tolist() for i in range(windows)]
        seen = [token for window in inputs for token in window]
        assert len(seen) == len(set(seen)) == windows * context  # no token twice
        starts = sorted(window[0] for window in inputs)
        phases.add(starts[0] % context)
        gaps = {(b - a) % n_tokens for a, b in itertools.pairwise(starts)}
        assert gaps <= {context, context + n_tokens % context}
    assert len(phases) > 1 or context == 1 or windows == 1


def test_epochs_come_in_different_orders() -> None:
    batches = Batches(stream(200), context=4, batch_size=50, seed=5)
    orders = [tuple((batches.batch(epoch)[:, 0] - batches.batch(epoch)[:, 0].min()).tolist()) for epoch in range(4)]
    assert len(set(orders)) == 4


def test_a_batch_runs_on_into_the_next_epoch() -> None:
    tokens = stream(100)  # 10 windows
    rows = torch.cat([Batches(tokens, context=10, batch_size=1, seed=3).batch(i) for i in range(21)])
    batches = Batches(tokens, context=10, batch_size=7, seed=3)
    assert torch.equal(torch.cat([batches.batch(step) for step in range(3)]), rows)
    assert batches.steps_per_epoch == 10 / 7


@pytest.mark.parametrize(("members", "accumulate"), [(2, 1), (4, 1), (2, 3)])
def test_each_of_several_models_has_epochs_of_its_own(members: int, accumulate: int) -> None:
    tokens, size = stream(120), 12  # 12 windows
    batches = Batches(tokens, context=10, batch_size=size, seed=3, members=members, accumulate=accumulate)
    read: list[list[Tensor]] = [[] for _ in range(members)]
    for step in range(2 * members):
        for part in batches.batch(step).tensor_split(accumulate):
            for own, share in zip(read, part.tensor_split(members), strict=True):
                own += share
        places = torch.from_numpy(tokens.ids()[batches.places(step)].astype("int64"))
        assert torch.equal(batches.batch(step), places)
    epochs = [[torch.stack(own[i : i + 12])[:, :-1].flatten().tolist() for i in (0, 12)] for own in read]
    assert all(len(set(epoch)) == 120 for own in epochs for epoch in own)  # no token twice
    assert len({tuple(epoch) for own in epochs for epoch in own}) == 2 * members  # in an order of its own


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_ranks_share_the_global_batch(world_size: int) -> None:
    tokens = stream(500)
    settings_ = {"context": 9, "batch_size": 6, "seed": 4}
    whole = Batches(tokens, **settings_)
    ranks = [Batches(tokens, **settings_, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in (0, 1, 9, 100):
        assert torch.equal(torch.cat([rank.batch(step) for rank in ranks]), whole.batch(step))


def test_ids_above_16_bits_survive() -> None:
    tokens = stream(70_000)
    batch = Batches(tokens, context=35_000, batch_size=2, seed=0).batch(0)
    assert int(batch.max()) == 69_999
    assert len(set(batch[:, :-1].flatten().tolist())) == 70_000


@pytest.mark.row("C04")
@pytest.mark.parametrize("context", [1, 16, 100])
def test_a_text_must_fill_one_window(context: int) -> None:
    with pytest.raises(
        CorpusError,
        match=rf"the training text has {context} tokens, but one window needs {context + 1}; "
        rf"use a `context_length` of {max(1, context - 1)} or less, or give more text",
    ):
        Batches(stream(context), context=context, batch_size=2, seed=1)
    batch = Batches(stream(context + 1), context=context, batch_size=2, seed=1).batch(0)
    assert batch.shape == (2, context + 1)


@pytest.mark.row("C03")
def test_the_context_that_the_error_names_works() -> None:
    tokens = stream(40)
    with pytest.raises(CorpusError, match="use a `context_length` of 39 or less"):
        Batches(tokens, context=64, batch_size=2, seed=1)
    assert Batches(tokens, context=39, batch_size=2, seed=1).batch(5).shape == (2, 40)


def test_real_text_comes_back_from_a_batch(corpus_file: Path, tokenizer: Tokenizer) -> None:
    batch = Batches(tokenize(open_text([str(corpus_file)]), tokenizer), context=32, batch_size=8, seed=1).batch(2)
    ring = make_text() + make_text()
    for row in batch.tolist():
        assert tokenizer.decode(row) in ring

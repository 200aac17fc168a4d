"""Soft targets: their loss in C, in threads and by autograd, their plan, and runs with them that resume exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_text
from support.power_cuts import Cut, CutAfter, digests

import gptlite
from gptlite.baselines import kneser_ney
from gptlite.baselines.kneser_ney import KneserNey
from gptlite.baselines.ngram import ngram_probabilities
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import choose_hardware
from gptlite.errors import LimitError, UsageError
from gptlite.kernels.workers import Workers
from gptlite.model import GPT, initialise
from gptlite.text.batches import Batches
from gptlite.text.token_files import TokenFile
from gptlite.training import soft_targets
from gptlite.training.divided import plain_loss
from gptlite.training.optimizer import distilled_loss, learning_rate, mean_loss
from gptlite.training.soft_targets import (
    SoftTargets,
    cut_into_parts,
    ngram_targets,
    part_estimates,
    weight_at,
    with_targets,
)

SMALL: dict[str, Any] = {
    "n_layers": 1, "dim": 16, "n_heads": 1, "context_length": 16, "vocab_size": 300, "batch_size": 4, "threads": 1,
    "dropout": 0.1, "eval_every": 100, "save_every": 3, "steps": 8, "ngram_weight": 0.5, "compile": "off",
}  # fmt: skip


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(make_text(1500), encoding="utf-8")
    return "text.txt"


def model_and_targets(k: int) -> tuple[GPT, SoftTargets, torch.Tensor]:
    """A model of 50 tokens, targets for a stream of 100, and windows with their places, (3, 2, 9)."""
    torch.manual_seed(0)
    model = GPT(ModelConfig.preset("qwen3", "tiny", 50, context_length=8, dim=16, n_layers=1, n_heads=1))
    initialise(model, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    shares, ids = (2 * torch.randn(100, 50)).softmax(-1).topk(k, 1)
    windows = torch.stack([torch.randint(50, (3, 9)), torch.randint(100, (3, 9))], 1)
    return model.train(), SoftTargets(ids.to(torch.int16), shares.half(), 0.4), windows


# -- The loss


def test_divided_steps_have_the_gradient_of_whole_ones() -> None:
    model, targets, windows = model_and_targets(20)
    parameters, hardware = list(model.parameters()), choose_hardware("cpu", "fp32", 1, "off")
    by_autograd = distilled_loss(model, windows, targets)
    assert by_autograd.item() == pytest.approx(mean_loss(model, windows[:, 0]).item(), abs=1e-6)
    wanted = torch.autograd.grad(by_autograd, parameters)
    for loss_of in (plain_loss(hardware, Workers(2)), mean_loss):
        found = with_targets(loss_of, targets)(model, windows)
        assert found.item() == pytest.approx(by_autograd.item(), abs=1e-5)
        pairs = zip(wanted, torch.autograd.grad(found, parameters), strict=True)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)
    assert with_targets(mean_loss, None) is mean_loss


def test_targets_for_all_tokens_are_the_cross_entropy_with_a_distribution() -> None:
    model, targets, windows = model_and_targets(50)
    logs = model(windows[:, 0, :-1]).flatten(0, 1).log_softmax(-1)
    ids, shares = targets.at(windows[:, 1, 1:].flatten())
    wanted = torch.zeros_like(logs).scatter(1, ids, 0.4 * shares)
    wanted += 0.6 * torch.nn.functional.one_hot(windows[:, 0, 1:].flatten(), 50)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(-(wanted * logs).sum(1).mean(), parameters)
    found = torch.autograd.grad(distilled_loss(model, windows, targets), parameters)
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(gradients, found, strict=True))


# -- The targets


def stream(n: int) -> np.ndarray:
    """Tokens below 5; a few are frequent, so that n-grams of all lengths repeat."""
    weights = 0.5 ** np.arange(5)
    return np.random.default_rng(0).choice(5, n, p=weights / weights.sum()).astype("<u2")


def estimates(ids: np.ndarray, parts: int) -> list[tuple[slice, np.ndarray]]:
    """Of all parts of a stream of tokens below 5, one after the other."""
    return [found for part in cut_into_parts(len(ids), parts) for found in part_estimates(ids, 5, part)]


@pytest.mark.parametrize(("n", "parts", "at_once"), [(400, 4, 1 << 22), (400, 4, 35), (60, 10, 1 << 22), (3, 2, 5)])
def test_cross_estimates_are_distributions_in_order(
    n: int, parts: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soft_targets, "PROBABILITIES_AT_ONCE", at_once)
    found = estimates(stream(n), parts)
    assert np.concatenate([np.arange(n)[where] for where, _ in found]).tolist() == list(range(n))
    assert np.allclose(np.concatenate([rows for _, rows in found]).sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("largest", [0, 1 << 24])
def test_distributions_of_a_stream_are_those_after_each_context(
    order: int, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kneser_ney, "LARGEST_TABLE", largest)
    model, ids = KneserNey(stream(200), 7, order), stream(260)[200:]
    ids[30] = 6  # which was never seen
    for n in (0, 1, 2, 60):
        rows = model.distributions(ids[:n])
        assert rows.shape == (n, 7)
        assert np.allclose(rows, [model.distribution(ids[:i].tolist()) for i in range(n)] or rows, atol=1e-6)


def test_each_part_is_predicted_by_the_others_alone() -> None:
    ids = stream(400)
    rows = np.concatenate([rows for _, rows in estimates(ids, 4)])
    last = ngram_probabilities(ids[:300], ids[300:], 5)  # its first tokens know nothing before them
    assert np.allclose(rows[np.arange(304, 400), ids[304:]], last[4:], atol=1e-6)
    changed = ids.copy()
    changed[200] = (ids[200] + 1) % 5
    after = np.concatenate([rows for _, rows in estimates(changed, 4)])
    assert np.array_equal(rows[200], after[200])  # what stands there was not counted
    assert not np.array_equal(rows[50], after[50])


def test_a_frequent_successor_is_the_likeliest_token() -> None:
    ids = np.tile(np.array([1, 2, 3, 1, 2, 4, 1, 2, 3], dtype="<u2"), 40)
    targets = ngram_targets(ids, 6, 0.5)
    assert targets.ids.shape == targets.shares.shape == (360, 6)
    assert set(targets.ids[ids == 2, 0].tolist()) == {2}
    assert torch.allclose(targets.shares.float().sum(1), torch.ones(360), atol=1e-2)
    assert {targets.ids[i].sort().values.tolist() == list(range(6)) for i in range(360)} == {True}


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_that_divide_the_text_change_nothing(threads: int) -> None:
    ids, fractions, workers = stream(400), [], Workers(3)
    workers.active = threads
    alone, together = ngram_targets(ids, 5, 0.5), ngram_targets(ids, 5, 0.5, fractions.append, workers)
    assert torch.equal(alone.ids, together.ids) and torch.equal(alone.shares, together.shares)
    assert fractions == sorted(fractions) and fractions[-1] == 1


def test_a_long_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soft_targets, "LARGEST_TEXT", 10)
    with pytest.raises(LimitError, match="`ngram_weight` is for small texts, of at most 10 tokens"):
        ngram_targets(np.zeros(11, dtype="<u2"), 6, 0.5)


def test_windows_come_with_their_places(text: str) -> None:
    _, targets, _ = model_and_targets(5)
    path = Path("ids.bin")
    np.arange(100, dtype="<u2").tofile(path)
    few = Batches(TokenFile(path, "<u2", 100, 100, ""), context=8, batch_size=3, seed=1)
    windows = soft_targets.with_places(few.batch(2), 2, few, targets)
    assert windows.shape == (3, 2, 9)
    assert torch.equal(windows[:, 0], windows[:, 1])  # token i stands at place i
    assert torch.equal(soft_targets.with_places(few.batch(2), 2, few, None), windows[:, 0])


# -- Runs


def test_a_run_that_was_cut_ends_with_the_same_bits(text: str) -> None:
    gptlite.train(text, out="straight", **SMALL)
    gptlite.train(text, out="without", **{**SMALL, "ngram_weight": 0.0})
    with pytest.raises(Cut):
        gptlite.train(text, out="cut", watcher=CutAfter(4), **SMALL)
    gptlite.train(text, out="cut", resume=True, threads=1)
    assert digests("cut", 8) == digests("straight", 8) != digests("without", 8)
    assert json.loads(Path("cut/run.json").read_text())["plan"]["train"]["ngram_weight"] == 0.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ngram_weight": -0.1}, "from 0 to 1"),
        ({"ngram_weight": 1.5}, "from 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(text: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        gptlite.train(text, out="run", **{**SMALL, **change})


def test_a_trained_model_is_refused() -> None:
    with pytest.raises(UsageError, match="`init_from`"):
        TrainConfig(ngram_weight=0.5, init="model")


# -- Their weight in the course of a run


def test_the_weight_falls_with_the_learning_rate_to_a_fifth() -> None:
    config = TrainConfig(ngram_weight=0.5, decay=0.6)
    for progress, weight in ((0, 0.5), (0.3, 0.5), (0.4, 0.5), (0.7, 0.3), (1, 0.1), (1.01, 0.1)):
        assert weight_at(progress, config, 250_000) == pytest.approx(weight)
        assert weight_at(progress, config, 249_999) == 0.5, "short texts keep it"
    assert weight_at(0.9, TrainConfig(ngram_weight=0.5, decay=0.0), 400_000) == 0.5, "where the rate does not fall"
    assert weight_at(0.5, TrainConfig(), 400_000) == 0


def test_a_run_takes_its_steps_with_these_weights(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(soft_targets, "LONG_TEXT", 1000)
    real = SoftTargets.at
    monkeypatch.setattr(SoftTargets, "at", lambda self, places: seen.append(self.weight) or real(self, places))
    gptlite.train(text, out="run", **{**SMALL, "steps": 10, "ngram_weight": 0.5})
    rates = {learning_rate(step / 10, TrainConfig(warmup=0.0, lr=1.0)) for step in range(10)}
    expected = sorted(0.5 * (0.2 + 0.8 * rate) for rate in rates)
    assert sorted(set(seen)) == pytest.approx(expected)

"""Recurrent models: shapes, causality, a state that goes on, the number of parameters, and that they learn."""

from __future__ import annotations

import math

import pytest
import torch

from gptlite.baselines.recurrent import KINDS, Recurrent, RecurrentConfig, initialise
from gptlite.errors import UsageError
from gptlite.training.optimizer import mean_loss

V = 50


def made(kind: str, n_layers: int = 2, seed: int = 0) -> Recurrent:
    model = Recurrent(RecurrentConfig(kind, V, 16, n_layers))
    initialise(model, seed)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_later_changes_nothing_before(kind: str) -> None:
    model, ids = made(kind), torch.randint(0, V, (2, 9))
    changed = ids.clone()
    changed[:, 5:] = 0
    logits = model(ids)
    assert logits.shape == (2, 9, V)
    assert torch.equal(logits[:, :5], model(changed)[:, :5])
    assert not torch.equal(logits[:, 5], model(changed)[:, 5])


@pytest.mark.parametrize("kind", KINDS)
def test_read_in_parts_with_the_state_between(kind: str) -> None:
    model, ids = made(kind), torch.randint(0, V, (1, 12))
    first, state = model.read(ids[:, :7])
    second, state = model.read(ids[:, 7:], state)
    assert torch.allclose(torch.cat([first, second], 1), model(ids), atol=1e-5)
    parts = state if isinstance(state, tuple) else (state,)
    assert sum(part.numel() for part in parts) == model.config.state_size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_layers", [1, 2])
def test_the_number_of_parameters(kind: str, n_layers: int) -> None:
    model = made(kind, n_layers)
    assert sum(p.numel() for p in model.parameters()) == model.config.n_params
    found = RecurrentConfig.of_size(kind, 500, 300_000, n_layers)
    assert abs(found.n_params / 300_000 - 1) < 0.05


def test_the_seed_decides_on_the_weights_and_a_new_model_expects_nothing() -> None:
    one, two, other = made("lstm", seed=1), made("lstm", seed=1), made("lstm", seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.embed.weight, other.embed.weight)
    loss = mean_loss(one, torch.randint(0, V, (4, 20))).item()
    assert loss == pytest.approx(math.log(V), abs=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_one_batch_is_memorised(kind: str) -> None:
    model, batch = made(kind, 1), torch.randint(0, V, (2, 11), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = mean_loss(model, batch)
        if loss < 0.1:
            return
        loss.backward()
        optimizer.step()
    pytest.fail(f"after 150 steps the loss is still {loss:.3f}")


def test_what_makes_no_model_is_refused() -> None:
    with pytest.raises(UsageError, match="rnn, gru, lstm"):
        RecurrentConfig("qrnn", V, 8)
    with pytest.raises(UsageError, match="`dim` must be at least 1"):
        RecurrentConfig("gru", V, 0)

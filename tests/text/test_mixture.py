"""Mixed batches: each text in its own epochs, shares as planned, and the same windows after a resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gptlite.errors import CorpusError
from gptlite.text.mixture import Ingredient, Mixture, Share
from gptlite.text.token_files import TokenFile

OWN, OTHER = range(330), range(1000, 1990)


@pytest.fixture
def files(tmp_path):
    made = []
    for i, ids in enumerate((OWN, OTHER)):
        path = tmp_path / f"{i}.bin"
        path.write_bytes(np.array(ids, dtype="<u2").tobytes())
        made.append(TokenFile(path, "<u2", len(ids), len(ids), ""))
    return made


def mixture(files, share=None, **more) -> Mixture:
    ingredient = Ingredient("background", files[1], share or Share(0.75, 0.25, 0.5), files[1].n_tokens)
    return Mixture(files[0], [ingredient], **{"context": 10, "batch_size": 8, "seed": 3, **more})


def take(batches: Mixture, n_steps: int, first: int = 0, drawn: list[int] | None = None):
    found, drawn = [], drawn or []
    for step in range(first, n_steps):
        batch, drawn = batches.draw(step, step / n_steps, step * 80, drawn)
        found.append(batch)
    return found, drawn


def test_shares_follow_the_progress() -> None:
    share = Share(0.8, 0.2, 0.5)
    assert [share.at(p) for p in (0, 0.5, 0.75, 1)] == pytest.approx([0.8, 0.8, 0.5, 0.2])
    assert Share(0.3, 0.3).at(0.9) == 0.3
    assert share.mean == pytest.approx(0.65)


def test_each_step_has_its_windows_in_the_planned_shares(files) -> None:
    found, drawn = take(mixture(files), 200)
    assert {tuple(batch.shape) for batch in found} == {(8, 11)}
    others = [int((batch[:, 0] >= 1000).sum()) for batch in found]
    assert sum(others[:100]) / 800 == pytest.approx(0.75, abs=0.01)
    assert sum(others[-10:]) / 80 == pytest.approx(0.275, abs=0.05)
    assert drawn == [sum(others)]


def test_an_epoch_of_each_text_has_every_window_once(files) -> None:
    found, _ = take(mixture(files, Share(0.5, 0.5)), 20)
    starts = torch.cat([batch[:, 0] for batch in found])
    own = starts[starts < 1000][:33]
    assert len(set(own.tolist())) == 33
    other = starts[starts >= 1000]
    assert len(set(other.tolist())) == len(other)


def test_a_resumed_run_meets_the_same_windows(files) -> None:
    whole, _ = take(mixture(files), 40)
    drawn: list[int] = []
    for step in range(17):
        _, drawn = mixture(files).draw(step, step / 40, step * 80, drawn)
    for step in range(17, 40):
        batch, drawn = mixture(files).draw(step, step / 40, step * 80, drawn)
        assert torch.equal(batch, whole[step])


def test_ranks_share_a_batch(files) -> None:
    whole, _ = mixture(files).draw(5, 0.1, 400, [20])
    parts = [mixture(files, rank=rank, world_size=3).draw(5, 0.1, 400, [20])[0] for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole)


def test_each_member_has_its_share_of_every_text(files) -> None:
    """Else the last members of a batch would read nothing but the companion."""
    alone, _ = mixture(files, Share(0.5, 0.5)).draw(5, 0.1, 400, [20])
    shared, _ = mixture(files, Share(0.5, 0.5), members=2, accumulate=2).draw(5, 0.1, 400, [20])
    assert sorted(shared[:, 0].tolist()) == sorted(alone[:, 0].tolist())
    assert [int((part[:, 0] >= 1000).sum()) for part in shared.chunk(4)] == [1, 1, 1, 1]


def test_epochs_are_those_of_the_own_text(files) -> None:
    assert mixture(files).epochs(3300, [297]) == pytest.approx(1.0)
    assert mixture(files).steps_per_epoch == pytest.approx((33 + 99) / 8)
    assert len(mixture(files).streams) == 2


def test_a_text_shorter_than_a_window_is_named(files) -> None:
    with pytest.raises(CorpusError, match="`background` has 330 tokens"):
        mixture([files[1], files[0]], context=400)

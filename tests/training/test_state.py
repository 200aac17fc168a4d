"""The random state of other devices than the CPU, saved and restored."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gptlite.checkpoint import saved_step
from gptlite.storage.reader import Reader
from gptlite.training import state


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_the_random_numbers_of_a_device_are_saved_and_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    held = {"state": torch.arange(state.CUDA_STATE if device == "cuda" else 44, dtype=torch.uint8)}
    generator = SimpleNamespace(
        get_rng_state=lambda: held["state"].clone(), set_rng_state=lambda new: held.update(state=new)
    )
    monkeypatch.setitem(state.GENERATORS, device, generator)
    drawn = state.random_states(device)
    (tmp_path / "training_state").mkdir()
    (tmp_path / state.RNG_FILE).write_bytes(saved_step.tensors_to_bytes(drawn))
    before, held["state"] = held["state"], torch.zeros(1, dtype=torch.uint8)
    with Reader(tmp_path, {}) as reader:
        read = reader.tensors(state.RNG_FILE, state._generator_entries(reader))
    state.restore_random_states(read, "cpu")
    assert len(held["state"]) == 1, "another device is left alone"
    state.restore_random_states(read, device)
    assert torch.equal(held["state"], before)
    assert torch.equal(read["cpu"], torch.get_rng_state())

"""Where a run stands, as files: what `--resume` needs besides the model, and nothing of it believed unread.

Optimizer and random numbers are safetensors, the rest is JSON. A number that no run could have reached at that step, a
tensor of another shape or one that is not finite is an error that names the file; nothing is ever guessed or left out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from gptlite.checkpoint import saved_step
from gptlite.errors import CheckpointError
from gptlite.model import GPT
from gptlite.storage.durable import json_bytes
from gptlite.storage.reader import Reader
from gptlite.storage.validation import Entry, is_count, shown
from gptlite.training import optimizer
from gptlite.training.plan import FINAL_WINDOWS, QUICK_WINDOWS
from gptlite.training.team import ALONE, Team

CUDA_STATE = 16  # bytes of the state of a GPU's random numbers


@dataclass
class State:
    """What changes while training, besides weights and optimizer; saved with every step."""

    step: int = 0
    tokens: int = 0
    elapsed: float = 0.0
    loop_started: float = 0.0  # on the clock's scale
    quick_windows: int = QUICK_WINDOWS
    final_windows: int = FINAL_WINDOWS
    seconds_per_window: float = 0.0  # the slowest scoring so far
    save_seconds: float = 0.0  # the slowest save so far
    train_loss: float | None = None
    losses: list[float] = field(default_factory=list)  # of the steps since the last line of the log
    hopeless_steps: int = 0  # steps in a row with a training loss far worse than that of guessing
    lowest_train_loss: float | None = None
    warned_of_heart: bool = False  # that the text is being learned by heart
    warned_of_rise: bool = False  # that the training loss climbs
    enough: bool = False  # the run has stopped early
    history: dict[int, float] = field(default_factory=dict)  # step -> bits per byte: the best and the newest scores

    @property
    def reserve(self) -> float:
        """Seconds kept for the end: two scores and a save."""
        return (self.quick_windows + self.final_windows) * self.seconds_per_window + self.save_seconds


def tell_state(state: State, team: Team) -> State:
    """The state of the first process, in all of them."""
    told = team.broadcast(dataclasses.asdict(state))
    return State(**{**told, "history": {int(step): score for step, score in told["history"].items()}})


def write_training_state(
    state: State, model: GPT, optimizers: list[torch.optim.Optimizer], team: Team = ALONE
) -> dict[str, bytes]:
    """The files that `--resume` needs: optimizer, random numbers, and where the run stands; for the first process."""
    rng = {"cpu": torch.get_rng_state()}
    if next(model.parameters()).is_cuda:
        rng["cuda"] = torch.cuda.get_rng_state()
    return {
        "optimizer.safetensors": saved_step.tensors_to_bytes(optimizer.optimizer_tensors(model, optimizers, team)),
        "rng.safetensors": saved_step.tensors_to_bytes(rng),
        "state.json": json_bytes(dataclasses.asdict(state)),
    }


def restore_training_state(
    saved: saved_step.Checkpoint, model: GPT, optimizers: list[torch.optim.Optimizer], team: Team = ALONE
) -> State:
    """Undo `write_training_state`; the other processes of a `team` get theirs by `optim.scatter_optimizer_state`.

    Raises `CheckpointError` when the folder is damaged or gone, or cannot be of this run.
    """
    folder = saved.path / "training_state"
    shapes = optimizer.expected_state(model, optimizers)
    with Reader(saved.path, saved.manifest) as reader:
        state = _read_state(reader, saved.manifest.get("step"))
        random = reader.table("training_state/rng.safetensors")
        generators = {"cpu": torch.get_rng_state()}
        if "cuda" in random.entries:  # saved where there was one; used where there is one
            generators["cuda"] = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else torch.empty(CUDA_STATE)
        rng = reader.tensors(
            "training_state/rng.safetensors", {name: Entry("U8", tuple(t.shape)) for name, t in generators.items()}
        )
        tensors = reader.tensors(
            "training_state/optimizer.safetensors", {name: Entry("F32", shape) for name, shape in shapes.items()}
        )
    try:
        torch.set_rng_state(rng["cpu"])
        if "cuda" in rng and torch.cuda.is_initialized():
            torch.cuda.set_rng_state(rng["cuda"])
    except RuntimeError as error:
        raise CheckpointError(f"{folder}/rng.safetensors holds no state of random numbers: {shown(error)}.") from error
    try:
        optimizer.restore_optimizers(model, optimizers, tensors, team)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}/optimizer.safetensors: {error}") from error
    return state


def _read_state(reader: Reader, step: object) -> State:
    """Where the run stood; each number is one that `State` could have held at this step."""
    name = "training_state/state.json"
    fields, where = reader.json(name), reader.directory / name
    kinds = {f.name: f.type for f in dataclasses.fields(State)}
    for key, value in fields.items():
        if key not in kinds or not STATE_KINDS[kinds[key]](value):
            raise CheckpointError(f"{where}: '{shown(key)[1:-1]}' is {shown(value)}, which cannot be.")
    history = {int(step): score for step, score in fields.get("history", {}).items()}
    state = State(**{**fields, "history": history})
    if state.step != step or max(history, default=0) > state.step:
        raise CheckpointError(f"{where} is that of step {state.step:,}, which is not the one it lies in.")
    return state


def _is_amount(value: Any) -> bool:
    return type(value) in (int, float) and value >= 0


STATE_KINDS: dict[Any, Callable[[Any], bool]] = {
    "int": is_count,
    "bool": lambda value: isinstance(value, bool),
    "float": _is_amount,
    "float | None": lambda value: value is None or _is_amount(value),
    "list[float]": lambda value: isinstance(value, list) and all(map(_is_amount, value)),
    "dict[int, float]": lambda value: (
        isinstance(value, dict)
        and all(re.fullmatch("[0-9]{1,18}", step) and _is_amount(score) for step, score in value.items())
    ),
}

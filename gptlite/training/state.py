"""The state of a run, in memory and as files: what resuming needs besides the model.

Optimizer and random numbers are safetensors, the rest is JSON. Files are checked when they are read: a number that no
run could have at that step, a tensor of another shape or one that is not finite is an error that names the file.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gptlite.checkpoint import saved_step
from gptlite.errors import CheckpointError
from gptlite.model import GPT
from gptlite.storage.durable import json_bytes
from gptlite.storage.reader import Reader
from gptlite.storage.validation import Entry, is_count, shown
from gptlite.training import optimizer
from gptlite.training.ensemble import Ensemble
from gptlite.training.plan import FINAL_WINDOWS, QUICK_WINDOWS, SCORES
from gptlite.training.team import ALONE, Team

ANSWERED = 32  # held-out pairs that are answered with every score, at most
CUDA_STATE, LARGEST_STATE = 16, 4096  # bytes of a GPU's random state, and of any other device's at most
RNG_FILE = "training_state/rng.safetensors"
GENERATORS: dict[str, Any] = {"cuda": torch.cuda, "mps": torch.mps}  # whose random state is saved besides the CPU's
RENAMED = {"warned_of_heart": "warned_of_overfitting"}  # fields of older runs


@dataclass
class State:
    """What changes during training, besides weights and optimizer; saved with every step.

    - `elapsed`, `loop_started`: seconds on the scale of `Clock.elapsed`.
    - `seconds_per_window`, `save_seconds`: of the slowest scoring and the slowest save so far.
    - `baseline_seconds`: that the baselines take at the end, where they are measured on other bytes than before.
    - `scores`: how often a run is scored on the way, on `quick_windows` each time, unless `eval_every` says otherwise.
    - `untrained_loss`, `untrained_bits_per_byte`: on held-out text, before the first step.
    - `losses`: of the steps since the last line of the log, nats per token.
    - `hopeless_steps`: in a row, with a training loss far above that of guessing.
    - `enough`: the run has stopped early.
    - `history`: step -> bits per byte on held-out text, of the best step and the newest ones.
    - `threads`: how many computed the last step, where that may change during a run (threads.py); else 0.
    - `drawn`: windows taken from each companion text so far (mixture.py).
    - `answered`: held-out pairs that are answered with every score; `exact_match`: the share that was exact last.
    - `scores_since_best`: counted, so that the history need not be as long as the patience.
    """

    step: int = 0
    tokens: int = 0
    elapsed: float = 0.0
    loop_started: float = 0.0
    scores: int = SCORES
    quick_windows: int = QUICK_WINDOWS
    final_windows: int = FINAL_WINDOWS
    seconds_per_window: float = 0.0
    save_seconds: float = 0.0
    baseline_seconds: float = 0.0
    encoder_seconds: float = 0.0
    untrained_loss: float | None = None
    untrained_bits_per_byte: float | None = None
    train_loss: float | None = None
    losses: list[float] = field(default_factory=list)
    hopeless_steps: int = 0
    lowest_train_loss: float | None = None
    warned_of_overfitting: bool = False
    warned_of_variation: bool = False  # of scores
    warned_of_rise: bool = False  # of the training loss
    enough: bool = False
    scores_since_best: int = 0
    threads: int = 0
    drawn: list[int] = field(default_factory=list)
    history: dict[int, float] = field(default_factory=dict)
    answered: int = ANSWERED
    exact_match: float | None = None

    @property
    def reserve(self) -> float:
        """Seconds kept for the end: two scores, a save, the baselines where they are measured again, the encoder."""
        scores = (self.quick_windows + self.final_windows) * self.seconds_per_window
        return scores + self.save_seconds + self.baseline_seconds + self.encoder_seconds


def tell_state(state: State, team: Team) -> State:
    """The state of the first process, in all of them."""
    told = team.broadcast(dataclasses.asdict(state))
    return State(**{**told, "history": {int(step): score for step, score in told["history"].items()}})


def write_training_state(
    state: State, model: GPT | Ensemble, optimizers: list[torch.optim.Optimizer], team: Team = ALONE
) -> dict[str, bytes]:
    """The files that resuming needs: optimizer, random numbers, and the state; for the first process."""
    rng = random_states(next(model.parameters()).device.type)
    return {
        "optimizer.safetensors": saved_step.tensors_to_bytes(optimizer.optimizer_tensors(model, optimizers, team)),
        "rng.safetensors": saved_step.tensors_to_bytes(rng),
        "state.json": json_bytes(dataclasses.asdict(state)),
    }


def restore_training_state(
    saved: saved_step.Checkpoint, model: GPT | Ensemble, optimizers: list[torch.optim.Optimizer], team: Team = ALONE
) -> State:
    """Undo `write_training_state`; the other processes of a `team` get theirs by `optimizer.scatter_optimizer_state`.

    The random state of a device is restored where the model is on that device again. Raises `CheckpointError` when the
    folder is damaged or gone, or cannot be of this run.
    """
    folder = saved.path / "training_state"
    shapes = optimizer.expected_state(model, optimizers)
    with Reader(saved.path, saved.manifest) as reader:
        state = _read_state(reader, saved.manifest.get("step"))
        rng = reader.tensors(RNG_FILE, _generator_entries(reader))
        tensors = reader.tensors(
            "training_state/optimizer.safetensors", {name: Entry("F32", shape) for name, shape in shapes.items()}
        )
    device = next(model.parameters()).device.type
    try:
        restore_random_states(rng, device)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}/rng.safetensors holds no state of random numbers: {shown(error)}.") from error
    try:
        optimizer.restore_optimizers(model, optimizers, tensors, team)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}/optimizer.safetensors: {error}") from error
    return state


def random_states(device: str) -> dict[str, torch.Tensor]:
    """The states (n,) of the random numbers of the CPU, and of `device` where that has its own."""
    states = {"cpu": torch.get_rng_state()}
    if device in GENERATORS:
        states[device] = GENERATORS[device].get_rng_state()
    return states


def restore_random_states(states: Mapping[str, torch.Tensor], device: str) -> None:
    """Undo `random_states`, as far as the same `device` is used. Raises `RuntimeError`."""
    torch.set_rng_state(states["cpu"])
    if device in states and device in GENERATORS:
        GENERATORS[device].set_rng_state(states[device])


def read_state(directory: Path) -> State:
    """The state that was saved with the step in `directory`. Raises `CheckpointError`."""
    with Reader(directory) as reader:
        return _read_state(reader, reader.manifest.get("step"))


def _generator_entries(reader: Reader) -> dict[str, Entry]:
    """The tensors of the file of random states: the CPU's has a known size, another device's is short."""
    found = reader.table(RNG_FILE).entries
    entries = {"cpu": Entry("U8", tuple(torch.get_rng_state().shape))}
    if "cuda" in found:
        entries["cuda"] = Entry("U8", (CUDA_STATE,))
    if "mps" in found:
        entries["mps"] = Entry("U8", (min(LARGEST_STATE, math.prod(found["mps"].shape)),))
    return entries


def _read_state(reader: Reader, step: object) -> State:
    """The state; each number is one that a run could have at this step."""
    name = "training_state/state.json"
    where = reader.directory / name
    fields = {RENAMED.get(key, key): value for key, value in reader.json(name).items()}
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
    "list[int]": lambda value: isinstance(value, list) and all(map(is_count, value)),
    "list[float]": lambda value: isinstance(value, list) and all(map(_is_amount, value)),
    "dict[int, float]": lambda value: (
        isinstance(value, dict)
        and all(re.fullmatch("[0-9]{1,18}", step) and _is_amount(score) for step, score in value.items())
    ),
}

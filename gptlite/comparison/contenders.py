"""Who is compared: their names, what kind of model each is, and what all of them have in common. Loads no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gptlite.errors import UsageError

Kind = Literal["ngram", "recurrent", "transformer"]


@dataclass(frozen=True)
class Contender:
    """A model that takes part. `start_rate`: where the search for its learning rate begins; 0 where there is none."""

    name: str
    title: str
    kind: Kind
    start_rate: float = 0.0


GPTLITE = "gptlite"
CONTENDERS = {
    c.name: c
    for c in (
        Contender("unigram", "unigram", "ngram"),
        Contender("5-gram", "5-gram (Kneser-Ney)", "ngram"),
        Contender("rnn", "RNN", "recurrent", 2e-3),
        Contender("gru", "GRU", "recurrent", 4e-3),
        Contender("lstm", "LSTM", "recurrent", 4e-3),
        Contender("transformer-2017", "Transformer of 2017", "transformer", 2e-3),
        Contender(GPTLITE, "gptlite", "transformer"),
    )
}  # in the order of history, which is that of tables and charts

SWEEP_SHARE, LONGEST_SWEEP = 0.25, 30.0  # of a contender's time, for its learning rate; seconds
COPY_SHARE, LONGEST_COPY = 0.2, 20.0  # of a contender's time, for learning to copy; seconds
CONTEXTS = (32, 128, 512)  # tokens, at which the speed of training is measured
DISTANCES = (10, 50, 200)  # tokens between a name and the place where it is asked for
N_NAMES = 32  # that can be asked for, so that chance is one in 32


@dataclass(frozen=True)
class Protocol:
    """What all contenders have in common and their results depend on; a comparison keeps it.

    - `seconds`: of training for each network; `model`, `train`: the plan of gptlite (`ModelConfig`, `TrainConfig`).
    - `machine`: `Hardware.choices`; `byte_scale`: bytes of held-out text per byte that its tokens spell.
    """

    seconds: float
    seed: int
    prompt: str
    model: Mapping[str, Any]
    train: Mapping[str, Any]
    machine: Mapping[str, Any]
    byte_scale: float

    @property
    def sweep_seconds(self) -> float:
        return min(LONGEST_SWEEP, SWEEP_SHARE * self.seconds)

    @property
    def copy_seconds(self) -> float:
        return min(LONGEST_COPY, COPY_SHARE * self.seconds)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def choose_contenders(names: str | Sequence[str] | None) -> list[Contender]:
    """The contenders of these names, in the order of history; all of them for None.

    - `names`: a sequence, or a text with commas. Raises `UsageError` for a name that is none, and for no name.
    """
    if names is None:
        return list(CONTENDERS.values())
    asked = [name.strip().lower() for name in (names.split(",") if isinstance(names, str) else names)]
    asked = [name for name in asked if name]
    for name in asked:
        if name not in CONTENDERS:
            raise UsageError(f"`contenders` has '{name}', which is none: choose from {', '.join(CONTENDERS)}.")
    if not asked:
        raise UsageError(f"`contenders` names none: choose from {', '.join(CONTENDERS)}.")
    return [contender for name, contender in CONTENDERS.items() if name in asked]


def expected_seconds(contenders: Sequence[Contender], protocol: Protocol) -> float:
    """About how long these take: training, sweeps, copy tests, and starting and measuring each."""
    seconds = 0.0
    for contender in contenders:
        if contender.kind == "ngram":
            seconds += 8
            continue
        seconds += protocol.seconds + protocol.copy_seconds + 15
        seconds += protocol.sweep_seconds if contender.start_rate else 0
    return seconds

"""Who is compared: their names, what kind of model each is, and what all of them have in common. Loads no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gptlite.errors import UsageError

Kind = Literal["ngram", "recurrent", "transformer", "encoder-decoder", "masked"]
TEXT, PAIRS = "text", "pairs"  # what is compared on: running text, or prompts with their answers


@dataclass(frozen=True)
class Contender:
    """A model that takes part.

    - `start_rate`: where the search for its learning rate begins; 0 where there is none.
    - `on`: what it takes part on, `TEXT` or `PAIRS`. `by_name`: only where it is named.
    - `highest_rate`: of that search; above it a Transformer with its norms last does well for seconds, and then learns
      no attention.
    """

    name: str
    title: str
    kind: Kind
    start_rate: float = 0.0
    on: tuple[str, ...] = (TEXT,)
    by_name: bool = False
    highest_rate: float = math.inf

    @property
    def is_recurrent(self) -> bool:
        return self.kind == "recurrent" or self.name == "lstm-attention"


GPTLITE, MASKED = "gptlite", "masked"
CONTENDERS = {
    c.name: c
    for c in (
        Contender("unigram", "unigram", "ngram"),
        Contender("5-gram", "5-gram (Kneser-Ney)", "ngram"),
        Contender("rnn", "RNN", "recurrent", 2e-3),
        Contender("gru", "GRU", "recurrent", 4e-3),
        Contender("lstm", "LSTM", "recurrent", 4e-3),
        Contender("transformer-2017", "Transformer of 2017", "transformer", 2e-3, highest_rate=2e-3),
        Contender(MASKED, "masked, both sides (BERT)", "masked", by_name=True),
        Contender("lstm-attention", "LSTM with attention", "encoder-decoder", 4e-3, (PAIRS,)),
        Contender("encoder-decoder", "encoder-decoder of 2017", "encoder-decoder", 2e-3, (PAIRS,), highest_rate=2e-3),
        Contender(GPTLITE, "gptlite", "transformer", on=(TEXT, PAIRS)),
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
    - `pairs`: `kind` and `given` of a `PairFormat`; None for running text.
    """

    seconds: float
    seed: int
    prompt: str
    model: Mapping[str, Any]
    train: Mapping[str, Any]
    machine: Mapping[str, Any]
    byte_scale: float
    pairs: Mapping[str, Any] | None = None

    @property
    def on(self) -> str:
        return TEXT if self.pairs is None else PAIRS

    @property
    def sweep_seconds(self) -> float:
        return min(LONGEST_SWEEP, SWEEP_SHARE * self.seconds)

    @property
    def copy_seconds(self) -> float:
        return min(LONGEST_COPY, COPY_SHARE * self.seconds)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def choose_contenders(names: str | Sequence[str] | None, on: str = TEXT) -> list[Contender]:
    """The contenders of these names, in the order of history; for None all that take part on `on` without being named.

    - `names`: a sequence, or a text with commas. Raises `UsageError` for a name that is none here, and for no name.
    `MASKED` has no bits per byte to compare; where it is named alone, gptlite takes part beside it.
    """
    here = {name: contender for name, contender in CONTENDERS.items() if on in contender.on}
    if names is None:
        return [contender for contender in here.values() if not contender.by_name]
    asked = read_names(names)
    asked = [*asked, GPTLITE] if set(asked) == {MASKED} else asked
    for name in asked:
        if name not in here:
            other = "prompts with answers" if on == TEXT else "running text"
            raise UsageError(f"`contenders` has '{name}', which is for {other}: choose from {', '.join(here)}.")
    return [contender for name, contender in here.items() if name in asked]


def read_names(names: str | Sequence[str]) -> list[str]:
    """The names in a sequence, or in a text with commas. Raises `UsageError` for one that no contender has."""
    asked = [name.strip().lower() for name in (names.split(",") if isinstance(names, str) else names)]
    asked = [name for name in asked if name]
    for name in asked:
        if name not in CONTENDERS:
            raise UsageError(f"`contenders` has '{name}', which is none: choose from {_all_names()}.")
    if not asked:
        raise UsageError(f"`contenders` names none: choose from {_all_names()}.")
    return asked


def _all_names() -> str:
    text, pairs = (", ".join(c.name for c in CONTENDERS.values() if on in c.on) for on in (TEXT, PAIRS))
    return f"{text}; on pairs from {pairs}"


def expected_seconds(contenders: Sequence[Contender], protocol: Protocol) -> float:
    """About how long these take: training, sweeps, copy tests, and starting and measuring each."""
    seconds = 0.0
    for contender in contenders:
        if contender.kind == "ngram":
            seconds += 8
            continue
        if contender.kind == "masked":  # it, a twin that reads the left side, and vectors of a thousand words
            seconds += 2 * protocol.seconds + 60
            continue
        seconds += protocol.seconds + 15 + (protocol.copy_seconds if protocol.on == TEXT else 0)
        seconds += protocol.sweep_seconds if contender.start_rate else 0
    return seconds

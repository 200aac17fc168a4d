"""What a plan rests on, what it is, and what it leads to."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware
from gptlite.training.ensemble import of_one_member, repeated
from gptlite.training.reason import Reason


@dataclass(frozen=True)
class Facts:
    """What a plan rests on: the training text, the vocabulary and the machine."""

    n_bytes: int
    n_tokens: int
    vocab_size: int
    hardware: Hardware
    memory: int | None = None  # bytes that are free, if known
    val_tokens: int = 0
    mixed: bool = False  # with companion texts
    row_tokens: float | None = None  # of a row of a batch, on average, where it is not a window of the context's length


@dataclass(frozen=True)
class Expected:
    """What a plan leads to, as far as can be told before."""

    tokens_per_second: float  # of training steps
    steps: float
    epochs: float
    seconds: float  # of training, scoring and saving
    memory: int  # bytes that training takes, besides what the program has already
    bits_per_byte: float | None  # None where it cannot be told


@dataclass(frozen=True)
class Plan:
    """The choices, reasons for some that were not the user's, and the names of those that were (`given`).

    - `model`: what is saved, as wide as all of its members together.
    """

    model: ModelConfig
    train: TrainConfig
    reasons: tuple[Reason, ...] = ()
    given: tuple[str, ...] = ()

    @property
    def member(self) -> ModelConfig:
        """The shape of each of the members, or of the only model."""
        return of_one_member(self.model, self.train)[0]

    def with_members(self, n: int) -> Plan:
        """The plan of a single model with `n` members of its shape."""
        train = dataclasses.replace(self.train, members=n, batch_size=n * self.train.batch_size)
        return dataclasses.replace(self, model=repeated(self.model, n), train=train)

    def with_train(self, reason: Reason | None = None, **values: Any) -> Plan:
        """The plan with other fields of its `TrainConfig`, and a `reason` more."""
        train = dataclasses.replace(self.train, **values)
        return dataclasses.replace(self, train=train, reasons=self.reasons + ((reason,) if reason else ()))

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.to_dict(),
            "train": self.train.to_dict(),
            "reasons": [reason.sentence() for reason in self.reasons],
            "given": list(self.given),
        }

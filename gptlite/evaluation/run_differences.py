"""Several runs side by side: in which settings they differ, and whether their scores differ by more than seeds do.

Runs that differ in nothing but the seed are a group. How much scores vary within groups is the spread of seeds, and a
difference between the means of two groups is judged by it (Student's t with the pooled variance, 95 %).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SEED = "seed"
# Student's t at 97.5 %, for 1, 2, ... degrees of freedom; for more than these, a little too much.
T_VALUES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086,
)  # fmt: skip


@dataclass(frozen=True)
class ScoredRun:
    """A finished run: its settings by name, and bits per byte of held-out text."""

    name: str
    settings: Mapping[str, Any]
    bits_per_byte: float

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings without the seed."""
        return {name: value for name, value in self.settings.items() if name != SEED}


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone, or one run."""

    runs: tuple[ScoredRun, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(run.bits_per_byte for run in self.runs)


@dataclass(frozen=True)
class Difference:
    """Bits per byte by which `worse` is above `better`, with the half width of its 95 % interval.

    - `error`: None where no group has several seeds, so that their spread is not known.
    """

    better: Group
    worse: Group
    bits_per_byte: float
    error: float | None

    @property
    def exceeds_seeds(self) -> bool | None:
        """Is it more than seeds explain? None where that cannot be told."""
        return None if self.error is None else self.bits_per_byte > self.error


def differing(runs: Sequence[ScoredRun]) -> dict[str, list[Any]]:
    """The settings in which not all runs are equal, each with its values in the order of the runs; None for absent."""
    names = dict.fromkeys(itertools.chain.from_iterable(run.settings for run in runs))
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def group(runs: Sequence[ScoredRun]) -> list[Group]:
    """The groups of the runs, the one with the fewest bits first."""
    found: list[list[ScoredRun]] = []
    for run in runs:
        home = next((members for members in found if members[0].recipe == run.recipe), None)
        if home is None:
            found.append([run])
        else:
            home.append(run)
    return sorted((Group(tuple(members)) for members in found), key=lambda members: members.mean)


def seed_spread(groups: Sequence[Group]) -> tuple[float, int] | None:
    """The standard deviation of scores between seeds, pooled over groups, and its degrees of freedom.

    None where no group has two runs with different seeds.
    """
    several = [g for g in groups if len({run.settings.get(SEED) for run in g.runs}) > 1]
    freedom = sum(len(g.runs) - 1 for g in several)
    if not freedom:
        return None
    squares = sum((run.bits_per_byte - g.mean) ** 2 for g in several for run in g.runs)
    return math.sqrt(squares / freedom), freedom


def compare_groups(groups: Sequence[Group]) -> list[Difference]:
    """Each of the other groups against the first, which is the best."""
    spread = seed_spread(groups)
    found: list[Difference] = []
    for other in groups[1:]:
        best, error = groups[0], None
        if spread is not None:
            deviation, freedom = spread
            t = T_VALUES[min(freedom, len(T_VALUES)) - 1]
            error = t * deviation * math.sqrt(1 / len(best.runs) + 1 / len(other.runs))
        found.append(Difference(best, other, other.mean - best.mean, error))
    return found

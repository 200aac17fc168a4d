"""Training a network for some seconds, with scores on the way; and the search for its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from gptlite.comparison.networks import Network
from gptlite.training import pauses

SCORED_AT = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the time
MOST_TRIALS = 5  # of a learning rate
FACTOR = 2.0  # between two rates that are tried
# The best rate falls with a power of the length of training (Bjorck et al. 2025, arXiv 2409.19913, have 0.32 for large
# Transformers); this one was measured on recurrent networks of a million parameters (docs/lab/log.md).
HORIZON = 0.45

Look = Callable[[int, float | None, bool], object]
Tell = Callable[[str, float], None]  # what is done, and the fraction of it


@dataclass(frozen=True)
class Point:
    """A score on the way: after so many seconds of training and tokens read."""

    seconds: float
    tokens: int
    bits_per_byte: float


@dataclass
class Fitted:
    """What training came to. `diverged`: the loss became no number, and training ended there."""

    points: list[Point] = field(default_factory=list[Point])
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    diverged: bool = False

    @property
    def best(self) -> float:
        """The lowest score on the way; infinite where there is none."""
        scores = [point.bits_per_byte for point in self.points if math.isfinite(point.bits_per_byte)]
        return math.inf if self.diverged or not scores else min(scores)


def fit(
    network: Network,
    batch: Callable[[int], Tensor],
    seconds: float,
    score: Callable[[], float] | None,
    tell: Tell,
    *,
    begun: float = 0.0,
    scored_at: tuple[float, ...] = SCORED_AT,
    look: Look = lambda *_: None,
) -> Fitted:
    """Train for `seconds`, in which only steps count; the weights are those of the best score in the end.

    - `batch`: the windows of each step, (B, T + 1) or with places (B, 2, T + 1).
    - `score`: bits per byte of the model as it is, None where nothing is scored.
    - `look`: called before the first step and after each, with the number of steps, the loss of the newest, and whether
      it is the last; its time does not count.
    - `begun`: seconds that were used before the first step, for the first weights.
    """
    fitted, best = Fitted(seconds=begun), None
    due = list(scored_at)
    last = 0.0  # seconds that the last step took
    loss: float | None = None
    while True:
        progress = min(1.0, fitted.seconds / seconds)
        if score is not None and due and (progress >= due[0] or fitted.diverged):
            due = [at for at in due if at > progress]
            bits = score()
            if best is None or bits < min(point.bits_per_byte for point in fitted.points):
                best = network.weights()
            fitted.points.append(Point(round(fitted.seconds, 3), fitted.tokens, bits))
        over = fitted.seconds >= seconds or fitted.diverged
        look(fitted.steps, loss, over)
        if over:
            break
        tell("training", progress)
        began = pauses.now()
        windows = batch(fitted.steps)
        loss = network.step(windows, progress, last / seconds)
        last = max(1e-6, pauses.now() - began)
        fitted.seconds += last
        fitted.diverged = not math.isfinite(loss)
        fitted.steps += 1
        fitted.tokens += windows.shape[0] * (windows.shape[-1] - 1)
    if best is not None:
        network.model.load_state_dict(best)
    return fitted


@dataclass(frozen=True)
class Trial:
    """A learning rate and the bits per byte that it led to in a short run; infinite where it diverged."""

    learning_rate: float
    bits_per_byte: float


def sweep(try_rate: Callable[[float], float], start: float, tell: Tell, highest: float = math.inf) -> list[Trial]:
    """Try `start`, and then the neighbours, `FACTOR` apart, of the best rate so far, until both are worse.

    At most `MOST_TRIALS` are tried, in this order in the list, and none above `highest`. `try_rate` returns the bits
    per byte of a short run.
    """
    tried: dict[float, float] = {}
    waiting = [start]
    while waiting and len(tried) < MOST_TRIALS:
        rate = waiting.pop(0)
        tell(f"learning rate {rate:g}", len(tried) / MOST_TRIALS)
        tried[rate] = try_rate(rate)
        best = min(tried, key=lambda known: tried[known])
        waiting = [near for near in (best * FACTOR, best / FACTOR) if near not in tried and near <= highest]
    return [Trial(rate, bits) for rate, bits in tried.items()]


def best_rate(trials: list[Trial], share: float = 1.0) -> float:
    """The best rate of the trials, lowered for a longer training: a trial took this `share` of its time."""
    best = min(trials, key=lambda trial: trial.bits_per_byte).learning_rate
    return float(f"{best * share**HORIZON:.2g}")

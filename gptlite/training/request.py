"""What is asked of a run, before anything is read or decided. Importing it does not load torch."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptlite.config import DEFAULT_SECONDS
from gptlite.errors import UsageError
from gptlite.text.options import TextOptions
from gptlite.text.splitting import parse_share
from gptlite.training.watcher import Watcher

BUDGETS = ("seconds", "steps", "epochs")
MOST_ENCODING = 0.15  # of a run, for a context encoder
NUMBER = r"\d{1,9}(?:\.\d{1,9})?"
TIME_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_time(text: str | float) -> float:
    """Seconds of a text such as "90s", "3m", "1.5h" or "1h30m"; a number is taken as seconds.

    Raises `UsageError` for a text without a unit, which could mean seconds or minutes, and for what is no time.
    """
    if isinstance(text, (int, float)):
        seconds = float(text)
    else:
        asked = text.strip().lower()
        if re.fullmatch(NUMBER, asked, re.ASCII):
            raise UsageError(f"`time` needs a unit: {asked}s, {asked}m or {asked}h, not '{text}'.")
        if not re.fullmatch(rf"({NUMBER}[smhd])+", asked, re.ASCII):
            raise UsageError(f"`time` must be a time such as 90s, 3m or 1h30m, not '{text}'.")
        seconds = sum(float(n) * TIME_UNITS[unit] for n, unit in re.findall(rf"({NUMBER})([smhd])", asked))
    if not 0 < seconds < math.inf:
        raise UsageError(f"`time` must be above zero, not {text!r}.")
    return seconds


@dataclass(frozen=True)
class Request:
    """The arguments of `gptlite.train`, which documents them.

    - `settings`: fields of `ModelConfig` and `TrainConfig` that were given; the plan chooses the others.
    - `started`: `time.monotonic()` when the command began, for the time budget.
    - `command`: the command line, for run.json.
    """

    inputs: tuple[str, ...]
    out: str | Path | None = None
    val: str | float | None = None
    vocab_size: int | None = None
    lossy: bool = False
    encoding: str | None = None
    keep_line_ends: bool = False
    separator: str | None = None
    as_text: bool = False
    text_field: str | None = None
    pairs: str | Sequence[str] | None = None
    given: str | Sequence[str] | None = None
    architecture: str | None = None
    size: str | None = None
    init_from: str | Path | None = None
    background: tuple[str, ...] | None = None
    tokenizer: str | Path | None = None
    resume: bool = False
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    compile: str = "auto"
    settings: Mapping[str, Any] = field(default_factory=dict)
    watcher: Watcher = field(default_factory=Watcher)
    should_stop: Callable[[], int | None] = lambda: None
    started: float = field(default_factory=time.monotonic)
    command: Sequence[str] = ()

    @classmethod
    def of(
        cls, inputs: Sequence[str | Path] | str | Path, *, time: str | float | None = None, **keywords: Any
    ) -> Request:
        """The request of the keywords of `gptlite.train`; those that are None were not given.

        Raises `UsageError` where more than one budget is given.
        """
        given = {name: value for name, value in keywords.items() if value is not None}
        if time is not None:
            given["seconds"] = parse_time(time)
        if (background := given.pop("background", None)) is not None:
            named = (background,) if isinstance(background, (str, Path)) else tuple(background)
            given["background"] = tuple(map(str, named)) or None
        if "replay" in given:
            if (share := parse_share(given["replay"], "replay")) is None:
                raise UsageError(f"`replay` needs a share of the windows such as 30%, not {given['replay']!r}.")
            if not (given.get("init_from") or given.get("resume")):
                raise UsageError("`replay` does nothing without `init_from`, the run whose text is replayed.")
            given["replay"] = share
        if "context_encoder" in given:
            share = parse_share(given["context_encoder"], "context_encoder")
            if share is None:
                raise UsageError(f"`context_encoder` needs a share such as 10%, not {given['context_encoder']!r}.")
            if share > MOST_ENCODING:
                raise UsageError(f"`context_encoder` must be at most {MOST_ENCODING:.0%} of the run, not {share:.0%}.")
            given["context_encoder"] = share
        if sum(name in given for name in BUDGETS) > 1:
            raise UsageError("give only one of `time`, `steps` and `epochs`.")
        if not given.get("resume") and inputs == ():
            raise UsageError("`inputs` must name the text to train on, such as a file.")
        own = {f.name for f in dataclasses.fields(cls)} - {"inputs", "settings"}
        settings = {name: value for name, value in given.items() if name not in own}
        listed = (str(inputs),) if isinstance(inputs, (str, Path)) else tuple(map(str, inputs))
        return cls(listed, settings=settings, **{name: given[name] for name in own & given.keys()})

    @property
    def text_options(self) -> TextOptions:
        """How the text is read. Raises `UsageError`."""
        return TextOptions(
            self.lossy, self.encoding, self.keep_line_ends, self.separator, self.as_text,
            text_field=self.text_field, pairs=self.pairs, given=self.given,
        )  # fmt: skip

    @property
    def time_budget(self) -> float | None:
        """Seconds; None where steps or epochs are the budget."""
        return time_budget(self.settings)


def time_budget(settings: Mapping[str, Any]) -> float | None:
    """The time budget of `settings` in seconds, the default where they name none; None for steps or epochs."""
    if settings.get("steps") is not None or settings.get("epochs") is not None:
        return None
    return settings.get("seconds") or DEFAULT_SECONDS

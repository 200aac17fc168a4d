"""What curves are drawn from: the log of a run, with the untrained model as step 0 and one score for each step.

Scores on the way are made on a part of the held-out text, the same part each time; the result and the baselines on more
of it. How hard that part is moves all of its scores alike, so they are moved by what the best step shows of it: the
curve ends at the result, and can be compared with the baselines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gptlite.errors import CheckpointError
from gptlite.storage.validation import is_number

if TYPE_CHECKING:
    from gptlite.checkpoint.runs import Run


def read(run: Run, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of the log. Raises `CheckpointError` for a damaged one."""
    lines = run.read_log()
    if untrained := _untrained(run):
        lines.insert(0, untrained)
    result = info.get("result") or {}
    best = next((line for line in lines if line["step"] == result.get("best_step")), {})
    for name, final in (("val_loss", "val_loss_nats"), ("val_bits_per_byte", "val_bits_per_byte")):
        if name in best and is_number(result.get(final)):
            moved = result[final] - best[name]
            for line in lines:
                if name in line:
                    line[name] = result[final] if line is best else max(0.0, line[name] + moved)
    return lines


def _untrained(run: Run) -> dict[str, Any] | None:
    """The scores before the first step, which the newest step remembers; None where there is none, and of old runs."""
    from gptlite.training.state import read_state

    latest = run.latest()
    if latest is None:
        return None
    try:
        state = read_state(latest.path)
    except CheckpointError:  # a step to publish has none
        return None
    if state.untrained_loss is None or state.untrained_bits_per_byte is None:
        return None
    return {
        "step": 0, "elapsed": state.loop_started, "tokens": 0, "val_loss": state.untrained_loss,
        "val_bits_per_byte": state.untrained_bits_per_byte,
    }  # fmt: skip


def choice(bits_per_byte: float) -> str:
    """How many equally likely bytes are as uncertain, as a number: 2 to the power of the bits per byte."""
    n = 2**bits_per_byte
    return f"{n:.1f}" if n < 9.95 else f"{n:.0f}"

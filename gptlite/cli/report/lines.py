"""What curves are drawn from: the log of a run, with the untrained model as step 0, and one score for the best step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gptlite.errors import CheckpointError
from gptlite.storage.validation import is_number

if TYPE_CHECKING:
    from gptlite.checkpoint.runs import Run


def read(run: Run, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of the log. The best step of a finished run has its score of the end, which was made on more text.

    Raises `CheckpointError` for a damaged log.
    """
    lines = run.read_log()
    result = info.get("result") or {}
    final = {"val_loss": result.get("val_loss_nats"), "val_bits_per_byte": result.get("val_bits_per_byte")}
    for line in lines:
        if line["step"] == result.get("best_step"):
            line |= {name: score for name, score in final.items() if is_number(score) and name in line}
    untrained = _untrained(run)
    return [untrained, *lines] if untrained else lines


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

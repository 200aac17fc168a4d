"""Memory, storage and time that training and saving a model take, and what to change where memory is short."""

from __future__ import annotations

from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware
from gptlite.errors import LimitError
from gptlite.training import table_history
from gptlite.training.ensemble import of_one_member

MOST_PARTS = 1 << 16  # of a batch, that are looked at
SAVING_RATE = 100e6  # bytes per second


def training_memory(model: ModelConfig, train: TrainConfig, hardware: Hardware | None = None) -> int:
    """Bytes that each process needs, roughly: weights, gradients, two moments, and what the backward pass keeps.

    - `hardware`: one process in fp32, where None.

    Kept per token: the logits three times over, and in each block some vectors of `dim` and of `hidden_dim`, counted
    from the peak memory of real steps; attention keeps no scores. With `recompute` all blocks but one keep one vector.
    With bf16 on a GPU blocks keep half at most; that vector and the logits are fp32. Measured for 16 windows of
    1,024 tokens: gpt2 of 124M parameters 17.4 GB (8.8 compiled), and 19.7 by this; qwen3 of 110M 17.3 (8.5), and 20.9.
    """
    processes, members = hardware.processes if hardware else 1, train.members
    whole = model.n_params if members > 1 else 0
    windows = train.share(processes).windows_at_once
    model, train = of_one_member(model, train)
    kept = 0.5 if hardware and hardware.bf16 and hardware.device.type == "cuda" else 1.0
    wide, inner = (26, 6) if model.activation == "swiglu" else (18, 2)
    block, blocks = kept * (wide * model.dim + inner * model.hidden_dim), model.n_layers
    per_token = 3 * model.vocab_size + (block + blocks * model.dim if train.recompute else blocks * block)
    held = whole + 4 * members * model.n_params // (processes if train.shard == "fsdp" else 1)
    return round(4 * (held + windows * model.context_length * per_token))


def check_memory(
    model: ModelConfig, train: TrainConfig, available: int | None, hardware: Hardware | None = None
) -> None:
    """Raises `LimitError` when training would need more than `available` bytes in a process."""
    needed = training_memory(model, train, hardware)
    if available is not None and needed > available:
        raise LimitError(
            f"training would need about {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are free; "
            f"{less_memory(model, train)}."
        )


def less_memory(model: ModelConfig, train: TrainConfig) -> str:
    """What to ask for where memory is short, in words."""
    if (parts := more_parts(train)) is not None:
        return (
            f"use `accumulate={parts}`, a smaller `batch_size` than {train.batch_size}, a smaller `context_length` "
            "or `size`"
        )
    if not train.recompute:
        return f"use `recompute=True`, a smaller `context_length` than {model.context_length} or a smaller `size`"
    return f"use a smaller `context_length` than {model.context_length} or a smaller `size`"


def more_parts(train: TrainConfig) -> int | None:
    """The next larger number of equal parts for a batch; None where each part is one window."""
    later = range(train.accumulate + 1, min(train.batch_size, MOST_PARTS) + 1)
    return next((parts for parts in later if train.batch_size % parts == 0), None)


def saved_bytes(model: ModelConfig, train: TrainConfig) -> int:
    """Bytes that a saved step takes at most: weights, two moments of those that are trained, and small files."""
    member, _ = of_one_member(model, train)  # what several members are saved as has zeros too
    return 4 * model.n_params + 8 * train.members * member.n_params + (1 << 20)


def run_bytes(model: ModelConfig, train: TrainConfig) -> int:
    """Bytes that a run needs on disk at least: two saved steps, and the token table of steps on the way."""
    return 2 * saved_bytes(model, train) + table_history.most_bytes(model.vocab_size, model.dim)


def save_seconds(model: ModelConfig, train: TrainConfig) -> float:
    """A guess at the time of a save: half a second, and `SAVING_RATE` for what is written."""
    return 0.5 + saved_bytes(model, train) / SAVING_RATE

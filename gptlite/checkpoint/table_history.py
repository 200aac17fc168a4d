"""The token table of a run at some of its steps: `table_history.safetensors` in the run directory. Needs no torch.

Tensors, of M steps, n tokens and D dimensions:

    steps (M,) int64, ascending        train_loss, val_bits_per_byte (M,) float32, NaN where not measured
    tokens (n,) int32, ascending       the ids whose rows are kept
    rows (M, n, D) int8                scales (M, n) float32; a row of the table is about rows * scales

A row keeps its direction to about one part in 200, so that a cosine is off by some thousandths at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptlite.errors import CheckpointError
from gptlite.storage.reader import Reader

NAME = "table_history.safetensors"
LARGEST = 16 << 20  # bytes of the file
DTYPES = {  # and the number of dimensions
    "steps": ("I64", 1), "train_loss": ("F32", 1), "val_bits_per_byte": ("F32", 1), "tokens": ("I32", 1),
    "rows": ("I8", 3), "scales": ("F32", 2),
}  # fmt: skip


@dataclass(frozen=True)
class KeptTable:
    """Rows of the token table at one step, rounded: `rows` (n, D) int8 times `scales` (n,).

    - `train_loss`: nats per token, smoothed; `val_bits_per_byte`: of held-out text. None where not measured.
    """

    step: int
    rows: np.ndarray
    scales: np.ndarray
    train_loss: float | None = None
    val_bits_per_byte: float | None = None

    @classmethod
    def of(
        cls, step: int, table: np.ndarray, train_loss: float | None = None, val_bits_per_byte: float | None = None
    ) -> KeptTable:
        """The rows (n, D) of a `table`, rounded to 255 levels each."""
        scales = (np.abs(table).max(axis=1) / 127).astype(np.float32)
        rows = np.rint(table / np.maximum(scales, np.float32(1e-30))[:, None]).astype(np.int8)
        return cls(step, rows, scales, train_loss, val_bits_per_byte)

    @property
    def vectors(self) -> np.ndarray:
        """(n, D), float32."""
        return self.rows.astype(np.float32) * self.scales[:, None]


def to_bytes(tokens: np.ndarray, tables: Sequence[KeptTable]) -> bytes:
    """The file that `read` reads: the `tokens` (n,) and their rows at one step or more."""
    from safetensors.numpy import save

    def measured(values: Sequence[float | None]) -> np.ndarray:
        return np.array([math.nan if value is None else value for value in values], np.float32)

    return save(
        {
            "steps": np.array([table.step for table in tables], np.int64),
            "train_loss": measured([table.train_loss for table in tables]),
            "val_bits_per_byte": measured([table.val_bits_per_byte for table in tables]),
            "tokens": tokens.astype(np.int32),
            "rows": np.stack([table.rows for table in tables]),
            "scales": np.stack([table.scales for table in tables]),
        }
    )


def read(run: Path) -> tuple[np.ndarray, list[KeptTable]] | None:
    """The tokens (n,) and their rows at each kept step of the run in a folder; None where the run has no such file.

    Raises `CheckpointError` for a file that `to_bytes` cannot have written.
    """
    with Reader(run, {}) as reader:
        return read_from(reader, NAME) if reader.has(NAME) else None


def read_from(reader: Reader, file: str) -> tuple[np.ndarray, list[KeptTable]]:
    """The same of the `file` of a directory that is being read."""
    from safetensors.numpy import load

    where = reader.directory / file
    entries = reader.table(file).entries
    if {name: (entry.dtype, len(entry.shape)) for name, entry in entries.items()} != DTYPES:
        raise CheckpointError(f"{where} does not hold token tables of steps; delete it to go on without.")
    tensors = load(reader.bytes(file, LARGEST))
    steps, tokens, rows, scales = (tensors[name] for name in ("steps", "tokens", "rows", "scales"))
    losses, scores = tensors["train_loss"], tensors["val_bits_per_byte"]
    shaped = rows.shape[:2] == (len(steps), len(tokens)) == scales.shape and len(steps) == len(losses) == len(scores)
    ascending = (np.diff(steps) > 0).all() and (np.diff(tokens) > 0).all() and min([*steps[:1], *tokens[:1]]) >= 0
    if not (len(steps) and rows.size and shaped and ascending and np.isfinite(scales).all()):
        raise CheckpointError(f"{where} is damaged: its parts do not fit together; delete it to go on without.")
    return tokens, [
        KeptTable(int(step), rows[i], scales[i], _measured(losses[i]), _measured(scores[i]))
        for i, step in enumerate(steps)
    ]


def _measured(value: np.float32) -> float | None:
    return float(value) if np.isfinite(value) else None

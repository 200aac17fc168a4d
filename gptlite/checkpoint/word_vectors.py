"""The file of static word vectors in a saved step: `embedding/words.safetensors`. Reading it needs no torch.

Three tensors: `vectors` (N, D) float16, `counts` (N,) float64, which holds whole numbers, and `words`, the N words as
the code points of one text with a line break between them, float32 (a code point is below 2**24, so it is exact).
Floats throughout, so that one strict reader of tensors serves all files of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gptlite.errors import CheckpointError
from gptlite.storage.reader import Reader

NAME = "embedding/words.safetensors"
LARGEST = 1 << 28  # bytes
DTYPES = {"vectors": "F16", "counts": "F64", "words": "F32"}


@dataclass(frozen=True)
class SavedWords:
    """Words of a text, most frequent first: how often each occurs, in any case (N,), and its vector (N, D) float32."""

    words: list[str]
    counts: np.ndarray
    vectors: np.ndarray


def to_bytes(words: Sequence[str], counts: np.ndarray, vectors: np.ndarray) -> bytes:
    """The file that `read` reads."""
    from safetensors.numpy import save

    points = np.frombuffer("\n".join(words).encode("utf-32-le"), "<u4").astype(np.float32)
    return save({"vectors": vectors.astype(np.float16), "counts": counts.astype(np.float64), "words": points})


def read(reader: Reader) -> SavedWords | None:
    """The vectors of a step; None of a step of an older version and of a model made elsewhere.

    Raises `CheckpointError` for a file that `to_bytes` cannot have written.
    """
    if not reader.manifest or not reader.has(NAME):
        return None
    where, table = reader.directory / NAME, reader.table(NAME)
    shapes = {name: entry.shape for name, entry in table.entries.items()}
    dtypes = {name: entry.dtype for name, entry in table.entries.items()}
    sizes = [len(shapes.get(name, ())) for name in DTYPES]
    if table.size > LARGEST or dtypes != DTYPES or sizes != [2, 1, 1] or shapes["counts"] != shapes["vectors"][:1]:
        raise CheckpointError(f"{where} does not hold words, their counts and their vectors.")
    vectors, counts, points = (reader.array(NAME, table, name) for name in DTYPES)
    try:
        words = points.astype("<u4").tobytes().decode("utf-32-le").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where} holds words that are not Unicode.") from error
    if len(words) != len(vectors):
        raise CheckpointError(f"{where} has {len(words):,} words and {len(vectors):,} vectors.")
    return SavedWords(words, counts.astype(np.int64), vectors)

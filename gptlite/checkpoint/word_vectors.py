"""The file of static word vectors in a saved step: `embedding/words.safetensors`. Reading it needs no torch.

Three tensors: `vectors` (N, D) float16, `counts` (N,) int64, and `words`, the UTF-8 bytes of the N words with a line
break between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptlite.errors import CheckpointError
from gptlite.storage.reader import Reader

NAME = "embedding/words.safetensors"
LARGEST = 1 << 28  # bytes
DTYPES = {"vectors": ("F16", 2), "counts": ("I64", 1), "words": ("U8", 1)}  # and the number of dimensions


@dataclass(frozen=True)
class SavedWords:
    """Words of a text, most frequent first: how often each occurs, in any case (N,), and its vector (N, D) float32."""

    words: list[str]
    counts: np.ndarray
    vectors: np.ndarray


def to_bytes(words: Sequence[str], counts: np.ndarray, vectors: np.ndarray) -> bytes:
    """The file that `read` reads."""
    from safetensors.numpy import save

    spelled = np.frombuffer("\n".join(words).encode(), np.uint8)
    return save({"vectors": vectors.astype(np.float16), "counts": counts.astype(np.int64), "words": spelled})


def read(reader: Reader) -> SavedWords | None:
    """The vectors of a step; None of a step of an older version and of a model made elsewhere.

    Raises `CheckpointError` for a file that `to_bytes` cannot have written.
    """
    if not reader.manifest or not reader.has(NAME):
        return None
    where, entries = reader.directory / NAME, reader.table(NAME).entries
    if {name: (entry.dtype, len(entry.shape)) for name, entry in entries.items()} != DTYPES:
        raise CheckpointError(f"{where} does not hold words, their counts and their vectors.")
    return from_bytes(reader.bytes(NAME, LARGEST), where)


def from_bytes(content: bytes, where: Path) -> SavedWords:
    """What `to_bytes` was given, its vectors rounded; `where` it was read, for messages. Raises `CheckpointError`."""
    from safetensors.numpy import load

    tensors = load(content)
    vectors, counts = tensors["vectors"].astype(np.float32), tensors["counts"]
    try:
        words = tensors["words"].tobytes().decode().split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where} holds words that are not UTF-8.") from error
    if not len(words) == len(vectors) == len(counts) or not np.isfinite(vectors).all():
        raise CheckpointError(f"{where}: there is not one vector of finite numbers for each word.")
    return SavedWords(words, counts, vectors)

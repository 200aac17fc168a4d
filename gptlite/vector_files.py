"""Word vectors as files that other programs read: .npz (NumPy), .jsonl (anything), .vec (word2vec text).

What is written is raw float32, as the model computed it; numbers in text have the shortest form that reads back the
same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptlite.embedding import WordVector
from gptlite.errors import StorageError, UsageError

FORMATS = (".npz", ".jsonl", ".vec")


def check_format(path: Path) -> None:
    """Raises `UsageError` unless the suffix names a format."""
    if path.suffix not in FORMATS:
        raise UsageError(f"-o {path}: the name must end in one of {', '.join(FORMATS)}.")


def save_vectors(path: Path, vectors: Sequence[WordVector], layer: int, meta: Mapping[str, Any]) -> None:
    """Write raw vectors of one layer; the suffix decides: .npz (arrays), .jsonl (a line each), .vec (word2vec text)."""
    check_format(path)
    try:
        if path.suffix == ".npz":
            _save_npz(path, vectors, layer, meta)
        else:
            lines = _jsonl(vectors, layer, meta) if path.suffix == ".jsonl" else _vec(vectors, layer)
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}.") from error


def _save_npz(path: Path, vectors: Sequence[WordVector], layer: int, meta: Mapping[str, Any]) -> None:
    places = [v.occurrence for v in vectors]
    np.savez(
        path,
        vectors=np.stack([v.contextual[layer] for v in vectors]),
        static=np.stack([v.static for v in vectors]),
        word=np.array([p.word for p in places]),
        text_index=np.array([p.text_index for p in places]),
        start=np.array([p.start for p in places]),
        end=np.array([p.end for p in places]),
        n_left=np.array([v.n_left for v in vectors]),
        meta=np.array(json.dumps({**meta, "layer": layer}, ensure_ascii=False)),
    )


def _jsonl(vectors: Iterable[WordVector], layer: int, meta: Mapping[str, Any]) -> Iterable[str]:
    for v in vectors:
        place = v.occurrence
        line = {
            "text_index": place.text_index, "word": place.word, "span": [place.start, place.end],
            "tokens": list(v.tokens), "n_left": v.n_left, **meta, "layer": layer,
            "vector": _numbers(v.contextual[layer]), "static": _numbers(v.static),
        }  # fmt: skip
        yield json.dumps(line, ensure_ascii=False)


def _vec(vectors: Sequence[WordVector], layer: int) -> Iterable[str]:
    """word2vec text: a header, then key and numbers; keys are word#row, because readers drop repeated keys."""
    yield f"{len(vectors)} {len(vectors[0].static)}"
    for i, v in enumerate(vectors):
        key = re.sub(r"\s", "_", v.occurrence.word)
        yield f"{key}#{i + 1} " + " ".join(str(x) for x in v.contextual[layer])


def _numbers(vector: np.ndarray) -> list[float]:
    """Floats whose shortest decimal form reads back to the same float32."""
    return [float(str(x)) for x in vector]

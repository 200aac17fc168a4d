"""Word vectors as files that other programs read: .npz (NumPy), .jsonl (anything), .vec (word2vec text).

What is written is raw float32, as the model computed it; numbers in text have the shortest form that reads back the
same.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptlite.durable import replacing
from gptlite.errors import UsageError

if TYPE_CHECKING:
    from gptlite.embedding import WordVector

FORMATS = (".npz", ".jsonl", ".vec")

Record = tuple[int, "WordVector | None"]  # the number of a text, and the vectors of one word in it if it has one


Layers = int | Sequence[int] | None  # as `WordVector.at` has them


def check_format(path: Path, layer: Layers = 0) -> None:
    """Raises `UsageError` unless the suffix names a format, and one that holds all layers if `layer` is None."""
    if layer is None and path.suffix != ".npz":
        raise UsageError(f"-o {path}: --layer all needs a file that ends in .npz.")
    if path.suffix not in FORMATS:
        raise UsageError(f"-o {path}: the name must end in one of {', '.join(FORMATS)}.")


def save_vectors(path: Path, vectors: Sequence[WordVector], layer: Layers, meta: Mapping[str, Any]) -> None:
    """Write raw vectors; the suffix decides: .npz (arrays), .jsonl (a line each), .vec (word2vec text).

    Raises `StorageError`; then an older file of that name is still there.
    """
    check_format(path, layer)
    if path.suffix == ".npz":
        _save_npz(path, vectors, layer, meta)
    elif path.suffix == ".vec":
        _save_lines(path, _vec(vectors, layer))
    else:
        save_records(path, ((v.occurrence.text_index, v) for v in vectors), layer, meta)


def save_table(path: Path, words: Sequence[str], vectors: np.ndarray, meta: Mapping[str, Any]) -> None:
    """Write one vector (N, D) a word (N) as word2vec text. Raises `UsageError` for other formats, `StorageError`."""
    if path.suffix != ".vec":
        raise UsageError(f"-o {path}: the name must end in .vec.")
    keys = [re.sub(r"\s", "_", word) for word in words]
    rows = (f"{key} " + " ".join(str(x) for x in row) for key, row in zip(keys, vectors, strict=True))
    _save_lines(path, itertools.chain([f"{len(words)} {vectors.shape[1]}"], rows))


def save_records(path: Path, records: Iterable[Record], layer: Layers, meta: Mapping[str, Any]) -> None:
    """Write a .jsonl file as the records come, so that any number of them needs no memory."""
    objects = json_objects(records, layer, meta)
    _save_lines(path, (json.dumps(x, ensure_ascii=False, allow_nan=False) for x in objects))


def json_objects(records: Iterable[Record], layer: Layers, meta: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What stands for each record in a line of JSON; null for what a text without a word lacks."""
    for text_index, v in records:
        place = v.occurrence if v else None
        yield {
            "text_index": text_index,
            "word": place.word if place else None,
            "span": [place.start, place.end] if place else None,
            "tokens": list(v.tokens) if v else None,
            "n_left": v.n_left if v else None,
            **meta,
            "layer": layer,
            "vector": _numbers(v.at(layer)) if v else None,
            "static": _numbers(v.static) if v else None,
        }


def _save_lines(path: Path, lines: Iterable[str]) -> None:
    with replacing(path) as scratch, open(scratch, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def _save_npz(path: Path, vectors: Sequence[WordVector], layer: Layers, meta: Mapping[str, Any]) -> None:
    places = [v.occurrence for v in vectors]
    if any(p.word.endswith("\0") for p in places):
        raise UsageError(f"-o {path}: NumPy drops NUL from the end of a word; use .jsonl.")
    with replacing(path) as scratch, open(scratch, "wb") as file:
        np.savez(
            file,
            vectors=np.stack([v.at(layer) for v in vectors]),
            static=np.stack([v.static for v in vectors]),
            word=np.array([p.word for p in places]),
            text_index=np.array([p.text_index for p in places]),
            start=np.array([p.start for p in places]),
            end=np.array([p.end for p in places]),
            n_left=np.array([v.n_left for v in vectors]),
            meta=np.array(json.dumps({**meta, "layer": "all" if layer is None else layer}, ensure_ascii=False)),
        )


def _vec(vectors: Sequence[WordVector], layer: Layers) -> Iterable[str]:
    """word2vec text: a header, then key and numbers; keys are word#row, because readers drop repeated keys."""
    yield f"{len(vectors)} {len(vectors[0].static)}"
    for i, v in enumerate(vectors):
        key = re.sub(r"\s", "_", v.occurrence.word)
        yield f"{key}#{i + 1} " + " ".join(str(x) for x in v.at(layer))


def _numbers(vector: np.ndarray) -> list[float]:
    """Floats whose shortest decimal form reads back to the same float32."""
    return [float(str(x)) for x in vector]

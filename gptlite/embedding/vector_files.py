"""Word vectors as files that other programs read; the suffix of the name decides.

    .npz         NumPy arrays by name: vectors, static vectors, words and their places, metadata
    .npy         NumPy, the vectors alone
    .jsonl       a JSON object a line, with all there is to say of a word
    .vec .txt    word2vec text, and .bin word2vec binary: a key and a vector each, for gensim and many others
    .tsv         two files for TensorFlow's embedding projector: X.vectors.tsv and X.metadata.tsv
    .csv         one table, for spreadsheets and R

Vectors are raw float32, as the model computed them, unless they are asked for at length 1; numbers in text have the
shortest form that reads back the same. All but .npz are written row by row, so any number of rows needs no memory.

A record without a vector, of a text that lacks the word, is a row like any other: its numbers are NaN, or null in JSON.
Columns that came with a text are written before those made here; one that has the same name as one of these gets the
prefix "input_". Texts in .csv and .tsv are written as `storage.delimited` says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from gptlite import __version__
from gptlite.embedding.similarity import unit
from gptlite.errors import StorageError, UsageError
from gptlite.storage import delimited
from gptlite.storage.durable import replacing

if TYPE_CHECKING:  # static vectors are written without loading torch
    from gptlite.embedding.contextual import WordVector

FORMATS = (".npz", ".npy", ".jsonl", ".vec", ".txt", ".bin", ".tsv", ".csv")
STREAMED = FORMATS[1:]
ALL_LAYERS = (".npz", ".npy")  # formats whose rows may be (L + 1, D)
WORD2VEC = (".vec", ".txt", ".bin")
COUNT_DIGITS = 12  # reserved in a header for a number of rows that is not known yet
CONTEXT = 80  # characters to both sides of a word, in the projector
BUFFER = 1 << 16  # bytes
# What trim() takes off in JavaScript, where the projector runs, and what Python takes for white space or a line's end.
BLANKS = re.compile(r"[\s\ufeff]+")

Row = TypeVar("Row")
Layers = int | Sequence[int] | None  # one, the mean of several, or all of them
# Names of what is written of each vector, which columns of the input may not take.
TAKEN = {"text_index", "word", "span", "start", "end", "tokens", "n_left", "vector", "vectors", "static", "meta",
         "layer", "correct", "normalize"}  # fmt: skip


class Record(NamedTuple):
    """The number of a text, from 0, and the vectors of one word in it; None where it lacks the word.

    - `columns`: what came with the text, such as an id, by name.
    - `word`: which word was looked for, if that is known.
    """

    text_index: int
    vector: WordVector | None
    columns: Mapping[str, Any] = {}
    word: str = ""


def check_format(path: Path, layer: Layers = 0) -> None:
    """Raises `UsageError` unless the suffix names a format, and one that holds all layers if `layer` is None."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"`path` {path}: the name must end in one of {', '.join(FORMATS)}.")
    if layer is None and path.suffix.lower() not in ALL_LAYERS:
        raise UsageError(f"`path` {path}: only {' and '.join(ALL_LAYERS)} hold the vectors of all layers.")


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that a path stands for: itself, or for .tsv the pair of vectors and metadata."""
    if path.suffix.lower() != ".tsv":
        return (path,)
    name = re.sub(r"(?<=.)\.(vectors|metadata)$", "", path.stem)
    return path.with_name(f"{name}.vectors.tsv"), path.with_name(f"{name}.metadata.tsv")


def provenance(manifest: Mapping[str, Any]) -> dict[str, str | None]:
    """Which program and which model, by the sha256 of its files, made vectors; None where no manifest says so."""
    digests = {name: entry["sha256"] for name, entry in manifest.get("files", {}).items()}
    return {
        "gptlite": __version__,
        "model_sha256": digests.get("model.safetensors"),
        "tokenizer_sha256": digests.get("tokenizer.json"),
    }


def save_vectors(
    path: Path, vectors: Sequence[WordVector], layer: Layers, meta: Mapping[str, Any], *, normalize: bool = False
) -> None:
    """`save_records` for vectors that are all there."""
    save_records(path, [Record(v.occurrence.text_index, v) for v in vectors], layer, meta, normalize=normalize)


def save_records(
    path: Path,
    records: Iterable[Record],
    layer: Layers,
    meta: Mapping[str, Any],
    *,
    normalize: bool = False,
    raw_cells: bool = False,
) -> None:
    """Write vectors of words in context as they come, a row for each record, also for one without a vector.

    - `layer`: after how many blocks, 0 to L; of several the mean; None for all of them, (L + 1, D) a row.
    - `normalize`: at length 1.
    - `raw_cells`: in .csv and .tsv, write texts that a spreadsheet would compute as they are.
    Keys of word2vec are word#row, because readers drop keys that repeat.
    Raises `UsageError`, and `StorageError`; then an older file of that name is still there.
    """
    check_format(path, layer)
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return _write_lines(path, json_objects(records, layer, meta, normalize=normalize))
    count = len(records) if isinstance(records, Sequence) else None
    rows = _filled(records, layer, normalize)
    if suffix == ".npz":
        return _write_npz(path, list(rows), {**meta, **_treatment(layer, normalize)}, normalize)
    if suffix == ".npy":
        _write_npy(path, (vector for _, vector in rows))
    elif suffix in WORD2VEC:
        keys = ((f"{_word(record)}#{i}", vector) for i, (record, vector) in enumerate(rows, 1))
        _write_word2vec(path, keys, count)
    elif suffix == ".tsv":
        columns = ("word", "context", "text_index", "start", "end", "n_left")
        _write_projector(path, columns, ((r.columns, _projected(r), vector) for r, vector in rows), raw_cells)
    else:
        columns = ("word", "text_index", "start", "end")
        _write_csv(path, columns, ((r.columns, _placed(r), vector) for r, vector in rows), raw_cells)


def save_table(
    path: Path,
    words: Sequence[str],
    vectors: np.ndarray,
    meta: Mapping[str, Any],
    *,
    normalize: bool = False,
    raw_cells: bool = False,
) -> None:
    """Write one vector for each word: `vectors` (V, D) of `words` (V).

    In the keys of word2vec white space becomes "_". Raises `UsageError` for an empty word, or two with the same key.
    """
    check_format(path)
    suffix = path.suffix.lower()
    if not len(words):
        raise _nothing(path)
    if "" in words:
        raise UsageError(f"`path` {path}: word {list(words).index('') + 1:,} is empty.")
    rows = zip(words, (_scaled(vector, normalize) for vector in vectors), strict=True)
    if suffix == ".npz":
        table = {"vectors": _scaled(vectors, normalize), "word": _array_of(path, words)}
        _write_arrays(path, table, {**meta, "normalize": normalize})
    elif suffix == ".npy":
        _write_npy(path, (vector for _, vector in rows))
    elif suffix == ".jsonl":
        common = {**meta, "normalize": normalize}
        _write_lines(path, ({"word": word, **common, "vector": _numbers(vector)} for word, vector in rows))
    elif suffix in WORD2VEC:
        _check_keys(path, words)
        _write_word2vec(path, rows, len(words))
    elif suffix == ".tsv":
        numbered = (({}, (word, i), vector) for i, (word, vector) in enumerate(rows))
        _write_projector(path, ("word", "row"), numbered, raw_cells)
    else:
        _write_csv(path, ("word",), (({}, (word,), vector) for word, vector in rows), raw_cells)


def json_objects(
    records: Iterable[Record], layer: Layers, meta: Mapping[str, Any], *, normalize: bool = False
) -> Iterator[dict[str, Any]]:
    """What is written for each record in a line of JSON; null for what a text without the word lacks."""
    treatment = _treatment(layer, normalize)
    for record in records:
        v = record.vector
        place = v.occurrence if v else None
        yield {
            **{_own_name(name): value for name, value in record.columns.items()},
            "text_index": record.text_index,
            "word": place.word if place else None,
            "span": [place.start, place.end] if place else None,
            "tokens": list(v.tokens) if v else None,
            "n_left": v.n_left if v else None,
            **meta,
            **treatment,
            "vector": _numbers(_vector(v, layer, normalize)) if v else None,
            "static": _numbers(_scaled(v.static, normalize)) if v else None,
        }


# -- What becomes of a vector


def _treatment(layer: Layers, normalize: bool) -> dict[str, Any]:
    named = "all" if layer is None else layer if isinstance(layer, int) else list(layer)
    return {"layer": named, "correct": "none", "normalize": normalize}


def _vector(v: WordVector, layer: Layers, normalize: bool) -> np.ndarray:
    return _scaled(v.at(layer), normalize)


def _filled(records: Iterable[Record], layer: Layers, normalize: bool) -> Iterator[tuple[Record, np.ndarray]]:
    """Each record with its vector, or NaN in the same shape; those before the first vector wait for its shape."""
    waiting: list[Record] = []
    missing: np.ndarray | None = None
    for record in records:
        if record.vector is not None:
            vector = _vector(record.vector, layer, normalize)
            if missing is None:
                missing = np.full_like(vector, np.nan)
                yield from ((earlier, missing) for earlier in waiting)
            yield record, vector
        elif missing is None:
            waiting.append(record)
        else:
            yield record, missing


def _word(record: Record) -> str:
    return record.vector.occurrence.word if record.vector else record.word


def _own_name(column: str) -> str:
    """The name under which a column of the input is written."""
    return f"input_{column}" if column in TAKEN else column


def _scaled(vectors: np.ndarray, normalize: bool) -> np.ndarray:
    return unit(vectors) if normalize else vectors


def _decimals(vector: np.ndarray) -> list[str]:
    """The shortest decimal forms that read back to the same float32."""
    return ["NaN" if x != x else str(x) for x in vector]


def _numbers(vector: np.ndarray) -> list[float]:
    """Floats whose shortest decimal form reads back to the same float32."""
    return [float(text) for text in _decimals(vector)]


# -- Formats


def _write_lines(path: Path, objects: Iterable[Mapping[str, Any]]) -> None:
    with replacing(path) as scratch, _open_text(scratch) as file:
        for x in objects:
            file.write(json.dumps(x, ensure_ascii=False, allow_nan=False) + "\n")


def _write_npz(path: Path, rows: Sequence[tuple[Record, np.ndarray]], meta: Mapping[str, Any], normalize: bool) -> None:
    """Where a word is missing the numbers of its place are -1 and the word is empty."""
    found = [v for record, _ in rows if (v := record.vector)]
    if not found:
        raise _nothing(path)
    missing = np.full_like(found[0].static, np.nan)
    places = [record.vector.occurrence if record.vector else None for record, _ in rows]
    names = dict.fromkeys(name for record, _ in rows for name in record.columns)
    arrays = {_own_name(name): _array_of(path, [_text(r.columns.get(name)) for r, _ in rows]) for name in names}
    arrays |= {
        "vectors": np.stack([vector for _, vector in rows]),
        "static": _scaled(np.stack([r.vector.static if r.vector else missing for r, _ in rows]), normalize),
        "word": _array_of(path, [p.word if p else "" for p in places]),
        "text_index": np.array([record.text_index for record, _ in rows]),
        "start": np.array([p.start if p else -1 for p in places]),
        "end": np.array([p.end if p else -1 for p in places]),
        "n_left": np.array([record.vector.n_left if record.vector else -1 for record, _ in rows]),
    }
    _write_arrays(path, arrays, meta)


def _text(value: Any) -> str:
    """A cell of the input as text; what JSON has that is no text, as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    with replacing(path) as scratch, open(scratch, "wb") as file:
        everything: dict[str, Any] = {**arrays, "meta": np.array(json.dumps(meta, ensure_ascii=False))}
        np.savez(file, **everything)


def _array_of(path: Path, words: Sequence[str]) -> np.ndarray:
    if any(word.endswith("\0") for word in words):
        raise UsageError(f"`path` {path}: NumPy drops NUL from the end of a word; use .jsonl.")
    return np.array(words, dtype=np.str_)


def _write_npy(path: Path, rows: Iterable[np.ndarray]) -> None:
    """NumPy's header has room for a number of rows that grows; it is written again when that number is known."""
    with replacing(path) as scratch, open(scratch, "wb", BUFFER) as file:
        n, shape = 0, ()
        for n, row in _numbered(path, rows):
            if n == 1:
                shape = row.shape
                _write_npy_header(file, (0, *shape))
            file.write(np.ascontiguousarray(row, dtype="<f4").data)
        file.seek(0)
        _write_npy_header(file, (n, *shape))


def _write_npy_header(file: Any, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def _write_word2vec(path: Path, rows: Iterable[tuple[str, np.ndarray]], count: int | None) -> None:
    """A header with the numbers of rows and dimensions, then a key and a vector each.

    A number of rows that nobody knew gets leading zeros, which every reader of numbers takes; spaces would end up in
    the first key of the program that the format comes from.
    """
    digits = COUNT_DIGITS if count is None else len(str(count))
    with replacing(path) as scratch, open(scratch, "wb", BUFFER) as file:
        n, dim = 0, 0
        for n, (word, vector) in _numbered(path, rows):
            if n == 1:
                dim = len(vector)
                file.write(f"{0:0{digits}} {dim}\n".encode())
            file.write(_key(word).encode("utf-8", "backslashreplace"))
            if path.suffix.lower() == ".bin":
                file.write(b" " + np.asarray(vector, dtype="<f4").tobytes())
            else:
                file.write(f" {' '.join(_decimals(vector))}\n".encode())
        assert count in (None, n)
        file.seek(0)
        file.write(f"{n:0{digits}} {dim}\n".encode())


def _key(word: str) -> str:
    """A word as a key of word2vec, where spaces part fields and line breaks rows."""
    return re.sub(r"\s", "_", word)


def _check_keys(path: Path, words: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for word in words:
        key = _key(word)
        if key in seen:
            raise UsageError(
                f"`path` {path}: the words {seen[key]!r} and {word!r} have the same key {key!r}; use .jsonl."
            )
        seen[key] = word


Cells = tuple[Mapping[str, Any], Sequence[Any], np.ndarray]  # columns of the input, then those made here, and a vector


def _write_projector(path: Path, columns: Sequence[str], rows: Iterable[Cells], raw_cells: bool) -> None:
    """Vectors without a header and metadata with one, as the projector wants it of two columns or more.

    It skips blank lines and cuts white space off the ends of others, which would give words the vectors of their
    neighbours; so no cell is ever empty. It knows no quotes, and shows those of a cell that has to have them for other
    readers. Nothing is renamed before both files are complete.
    """
    files = files_of(path)
    for file in files:
        if file.is_dir():
            raise StorageError(f"cannot write {file}: it is a directory.")
    with (
        replacing(files[1]) as metadata_scratch,
        replacing(files[0]) as vectors_scratch,
        _open_text(metadata_scratch) as metadata,
        _open_text(vectors_scratch) as vectors,
    ):
        given: list[str] = []
        for n, (extra, cells, vector) in _numbered(path, rows):
            if n == 1:
                given = list(extra)
                metadata.write(delimited.line([*map(_own_name, given), *columns], "\t", raw=True))
            texts = [*(_text(x) for x in _in_order(path, n, extra, given)), *(str(x) for x in cells)]
            metadata.write(delimited.line([_cell(text) for text in texts], "\t", raw=raw_cells))
            vectors.write("\t".join(_decimals(vector)) + "\n")


def _cell(text: str) -> str:
    return BLANKS.sub(" ", text).strip(" ") or "␣"


def _projected(record: Record) -> tuple[Any, ...]:
    if (v := record.vector) is None:
        return record.word, "", record.text_index, "", "", ""
    place = v.occurrence
    left, right = place.text[max(0, place.start - CONTEXT) : place.start], place.text[place.end : place.end + CONTEXT]
    return place.word, f"{left}[{place.word}]{right}", place.text_index, place.start, place.end, v.n_left


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Cells], raw_cells: bool) -> None:
    with replacing(path) as scratch, _open_text(scratch) as file:
        given: list[str] = []
        for n, (extra, cells, vector) in _numbered(path, rows):
            if n == 1:
                given = list(extra)
                names = [*map(_own_name, given), *columns, *(f"v{i}" for i in range(len(vector)))]
                file.write(delimited.line(names, ",", raw=True))
            texts = [*(_text(x) for x in _in_order(path, n, extra, given)), *cells]
            file.write(delimited.line(texts, ",", raw=raw_cells)[:-1] + "," + ",".join(_decimals(vector)) + "\n")


def _in_order(path: Path, row: int, extra: Mapping[str, Any], columns: Sequence[str]) -> list[Any]:
    """The cells of the input under the columns of the first row. Raises `UsageError` for a column that it lacks."""
    if new := [name for name in extra if name not in columns]:
        raise UsageError(f"`path` {path}: row {row:,} has '{new[0]}', which the first row lacks; write .jsonl or .npz.")
    return [extra.get(name) for name in columns]


def _placed(record: Record) -> tuple[Any, ...]:
    if (v := record.vector) is None:
        return record.word, record.text_index, "", ""
    place = v.occurrence
    return place.word, place.text_index, place.start, place.end


def _open_text(scratch: Path) -> Any:
    """A text file; half a surrogate pair, which is no character, is spelled out as JSON does it."""
    return open(scratch, "w", BUFFER, encoding="utf-8", errors="backslashreplace", newline="\n")


def _numbered(path: Path, rows: Iterable[Row]) -> Iterator[tuple[int, Row]]:
    """Rows, each with its number from 1. Raises `UsageError` at the end when there were none."""
    n = 0
    for n, row in enumerate(rows, 1):
        yield n, row
    if not n:
        raise _nothing(path)


def _nothing(path: Path) -> UsageError:
    return UsageError(f"`path` {path}: there are no vectors to write.")

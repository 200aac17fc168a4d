"""Word vectors of other programs, in the two formats of word2vec (Mikolov et al. 2013).

text     a line "N D", which may be missing, as in GloVe's files; then lines "word number number ...", in UTF-8.
         A word may have spaces in it, as some of GloVe's do: the last D fields are the numbers
binary   a line "N D"; then each word in UTF-8, a space, and D little-endian float32
"""

from __future__ import annotations

from array import array
from typing import BinaryIO

import numpy as np

from gptlite.errors import CorpusError, LimitError, system_reason

BINARY = ".bin"  # how the name of a file in the binary format ends
LONGEST_LINE = 1 << 20  # bytes; also of a word in the binary format
MOST_NUMBERS = 1 << 30  # which are 4 GiB of memory
MOST_DIMENSIONS = LONGEST_LINE // 4
READ_SIZE = 1 << 20  # bytes


def read_word2vec(file: BinaryIO, name: str, *, lossy: bool = False) -> tuple[list[str], np.ndarray]:
    """Words (N) and vectors (N, D), float32; binary if `name`, which errors call the file, ends in .bin.

    Of a word that comes twice the first counts. `lossy` reads bytes of a word that are not UTF-8 as �.
    Raises `CorpusError` that says where, `LimitError` for more than memory should hold.
    """
    try:
        read = _read_binary if name.lower().endswith(BINARY) else _read_text
        words, vectors = read(file, name, "replace" if lossy else "strict")
    except OSError as error:
        raise CorpusError(f"cannot read {name}: {system_reason(error)}.") from error
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise CorpusError(f"{name}: the vector of {words[int(finite.argmin())]!r} is not of finite numbers.")
    return words, vectors


def _read_text(file: BinaryIO, name: str, errors: str) -> tuple[list[str], np.ndarray]:
    words: dict[str, None] = {}
    numbers = array("f")
    dim = promised = i = 0
    try:
        for i, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), start=1):
            fields = line.rstrip().split(b" ")
            if i == 1 and len(fields) == 2 and all(field.isdigit() for field in fields):
                promised, dim = map(int, fields)
                continue
            dim = dim or _count_numbers(fields)
            word = b" ".join(fields[:-dim])
            if not word or not dim or (len(fields) > dim + 1 and _count_numbers(fields) > dim):
                raise CorpusError(
                    f"{name}, line {i:,}: a word and {dim or 'its'} numbers must stand there, as in word2vec's text."
                )
            if (key := word.decode(errors=errors)) not in words:
                numbers.extend(map(float, fields[-dim:]))
                words[key] = None
            if len(numbers) > MOST_NUMBERS:
                raise _too_many(name)
    except UnicodeDecodeError as error:
        raise CorpusError(f"{name}, line {i:,} is not UTF-8: {error.reason}; `lossy=True` reads it as �.") from error
    except ValueError as error:
        raise CorpusError(f"{name}, line {i:,}: {error}; {dim} numbers must stand there after the word.") from error
    if not words or (promised and i - 1 < promised):
        raise _cut_short(name, max(0, i - 1), promised)
    return list(words), np.array(numbers, dtype=np.float32).reshape(len(words), dim)


def _count_numbers(fields: list[bytes]) -> int:
    """How many numbers a line ends with, its first field not among them."""
    n = 0
    for field in reversed(fields[1:]):
        try:
            float(field)
        except ValueError:
            break
        n += 1
    return n


def _read_binary(file: BinaryIO, name: str, errors: str) -> tuple[list[str], np.ndarray]:
    header = file.readline(LONGEST_LINE).split()
    if len(header) != 2 or not all(field.isdigit() and 0 < len(field) < 10 and int(field) for field in header):
        raise CorpusError(f"{name} does not begin with two numbers, of words and of dimensions.")
    promised, dim = map(int, header)
    if dim > MOST_DIMENSIONS:
        raise CorpusError(f"{name} promises vectors of {dim:,} numbers; {MOST_DIMENSIONS:,} are the most.")
    if promised * dim > MOST_NUMBERS:
        raise _too_many(name)
    words: dict[str, None] = {}
    numbers = bytearray()
    piece, at = b"", 0
    for i in range(promised):
        while (space := piece.find(b" ", at)) < 0 or len(piece) <= space + 4 * dim:
            more = file.read(READ_SIZE)
            if not more or len(piece) - at > LONGEST_LINE + 4 * dim:
                raise _cut_short(name, i, promised)
            piece, at = piece[at:] + more, 0
        try:
            word = (
                piece[at:space].lstrip(b"\n").decode(errors=errors)
            )  # some programs end each vector with a line break
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{name}, word {i + 1:,} is not UTF-8: {error.reason}; `lossy=True` reads it as �."
            ) from error
        at = space + 1 + 4 * dim
        if word not in words:
            numbers += piece[space + 1 : at]
            words[word] = None
    return list(words), np.frombuffer(numbers, dtype="<f4").astype(np.float32).reshape(len(words), dim)


def _too_many(name: str) -> LimitError:
    return LimitError(f"{name} holds more than {MOST_NUMBERS:,} numbers; give the first lines of it.")


def _cut_short(name: str, n: int, promised: int) -> CorpusError:
    return CorpusError(f"{name} ends after {n:,} word vectors; its first line promises {promised:,}.")

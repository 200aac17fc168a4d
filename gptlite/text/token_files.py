"""Token files: the ids of a text on disk.

A text becomes one stream of ids, each document after a separator, in a file that is mapped rather than loaded. Files
are cached by what they hold: the digests of text and tokenizer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptlite.errors import StorageError
from gptlite.paths import cache_directory
from gptlite.text.corpus import Text
from gptlite.text.tokenizer import Tokenizer

FORMAT = 1  # of the cached token files
CACHE_ENTRIES = 32  # the least recently used ones beyond this number are deleted
BATCH_CHARACTERS = 1 << 21  # text tokenized at once, in parallel
STRETCHES = 64  # that a part of a long stream consists of


@dataclass(frozen=True)
class TokenFile:
    """Ids of one text on disk: uint16 or uint32, little endian, a separator before each document."""

    path: Path
    dtype: str
    n_tokens: int
    n_bytes: int  # of the text
    digest: str  # sha256 of the file

    def ids(self) -> np.ndarray:
        """The ids (n_tokens,), mapped from disk."""
        return np.memmap(self.path, dtype=self.dtype, mode="r", shape=(self.n_tokens,))


def tokenize(
    text: Text, tokenizer: Tokenizer, *, cache: Path | None = None, progress: Callable[[float], None] = lambda _: None
) -> TokenFile:
    """The token file of `text`, from the cache when an intact one is there. `progress` gets fractions from 0 to 1."""
    cache = cache or cache_directory()
    key = hashlib.sha256(f"{FORMAT}:{text.digest}:{tokenizer.digest}".encode()).hexdigest()[:32]
    entry = cache / f"tokens-{key}"
    if (found := _open_cached(entry)) is not None:
        with contextlib.suppress(OSError):  # a cache that others may only read
            os.utime(entry)
        return found
    try:
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=cache, prefix=".tmp-"))
        try:
            made = _write_tokens(text, tokenizer, scratch, progress)
            shutil.rmtree(entry, ignore_errors=True)
            try:
                scratch.rename(entry)
            except OSError:  # another process made the same entry in the meantime
                if _open_cached(entry) is None:
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        _evict(cache)
    except OSError as error:
        raise StorageError(
            f"cannot write tokens to {cache}: {error.strerror or error}; free some space or set GPTLITE_CACHE."
        ) from error
    return TokenFile(entry / made.path.name, made.dtype, made.n_tokens, made.n_bytes, made.digest)


def _write_tokens(text: Text, tokenizer: Tokenizer, directory: Path, progress: Callable[[float], None]) -> TokenFile:
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    path = directory / "ids.bin"
    digest = hashlib.sha256()
    n_tokens = n_bytes = 0
    with open(path, "wb") as file:
        waiting: list[tuple[bool, str]] = []

        def flush() -> None:
            nonlocal n_tokens, n_bytes
            pieces = [tokenizer.begin(block) if starts else block for starts, block in waiting]
            for (starts, block), ids in zip(waiting, tokenizer.encode_batch(pieces), strict=True):
                if starts:
                    ids = [tokenizer.separator_id, *ids]
                raw = np.asarray(ids, dtype=dtype).tobytes()
                file.write(raw)
                digest.update(raw)
                n_tokens += len(ids)
                n_bytes += len(block.encode())
            waiting.clear()
            progress(min(1.0, n_bytes / max(1, text.n_bytes)))

        size = 0
        for starts, block in text.blocks():
            waiting.append((starts, block))
            size += len(block)
            if size >= BATCH_CHARACTERS:
                flush()
                size = 0
        flush()
    facts = {"dtype": dtype, "n_tokens": n_tokens, "n_bytes": n_bytes, "digest": digest.hexdigest()}
    (directory / "facts.json").write_text(json.dumps(facts) + "\n")
    return TokenFile(path, **facts)


def _open_cached(entry: Path) -> TokenFile | None:
    """The cached file, or None unless its bytes are exactly those that were written."""
    try:
        facts = json.loads((entry / "facts.json").read_text())
        found = TokenFile(entry / "ids.bin", **facts)
        digest = hashlib.sha256()
        with open(found.path, "rb") as file:
            while raw := file.read(1 << 20):
                digest.update(raw)
        size = found.n_tokens * np.dtype(found.dtype).itemsize
        intact = digest.hexdigest() == found.digest and found.path.stat().st_size == size
        return found if intact else None
    except (OSError, ValueError, TypeError):
        return None


def _evict(cache: Path) -> None:
    """Delete the entries used least recently, and what killed runs left half done a day ago; others may do so too."""
    ages: dict[Path, float] = {}
    for path in (*cache.glob("tokens-*"), *cache.glob(".tmp-*")):
        with contextlib.suppress(OSError):
            ages[path] = time.time() - path.stat().st_mtime
    entries = sorted((p for p in ages if p.name.startswith("tokens-")), key=lambda p: ages[p])
    abandoned = [p for p in ages if p.name.startswith(".tmp-") and ages[p] > 86400]
    for old in (*entries[CACHE_ENTRIES:], *abandoned):
        shutil.rmtree(old, ignore_errors=True)


def spread_ids(ids: np.ndarray, most: int) -> np.ndarray:
    """All of `ids` (N,), or about `most` of them in stretches from beginning to end."""
    if len(ids) <= most:
        return np.asarray(ids)
    length, distance = most // STRETCHES, (len(ids) - most // STRETCHES) / (STRETCHES - 1)
    return np.concatenate([ids[int(i * distance) : int(i * distance) + length] for i in range(STRETCHES)])

"""Token files on disk and the batch of step s.

A text becomes one stream of ids, each document after a separator, in a file that is mapped rather than loaded. Files
are cached by what they hold: the digests of text and tokenizer.

The batch of step s is a pure function of (seed, step, rank). There is no iterator whose state could be lost: the
stream is a ring, cut into windows of the context's length from a start that differs in each epoch, and the windows of
an epoch come in a shuffled order, each exactly once.
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
import torch
from torch import Tensor

from gptlite.errors import CorpusError, StorageError
from gptlite.paths import cache_directory
from gptlite.randomness import derive, mix, shuffled
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


class Batches:
    """Random access to the training batches of one token file.

    - `context`: tokens a window; `batch_size`: windows a step over all ranks.
    Raises `CorpusError` when the text is shorter than one window.
    """

    def __init__(
        self, tokens: TokenFile, *, context: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if tokens.n_tokens < context + 1:
            raise CorpusError(
                f"the training text has {tokens.n_tokens:,} tokens, but one window needs {context + 1:,}; "
                f"use --context {max(1, tokens.n_tokens - 1)} or less, or give more text."
            )
        self.ids = tokens.ids()
        self.context, self.batch_size, self.seed = context, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.windows_per_epoch = tokens.n_tokens // context

    @property
    def steps_per_epoch(self) -> float:
        return self.windows_per_epoch / self.batch_size

    def batch(self, step: int) -> Tensor:
        """Windows (B, context + 1) of int64 ids: inputs are [:, :-1], targets [:, 1:]; of B, the share of this rank."""
        first, last = (
            step * self.batch_size + r * self.batch_size // self.world_size for r in (self.rank, self.rank + 1)
        )
        starts = [self._window_start(position) for position in range(first, last)]
        index = np.add.outer(starts, np.arange(self.context + 1)) % len(self.ids)  # the stream is a ring
        return torch.from_numpy(self.ids[index].astype(np.int64))

    def _window_start(self, position: int) -> int:
        epoch, within = divmod(position, self.windows_per_epoch)
        key = derive(self.seed, epoch)
        phase = mix(key) % len(self.ids)
        return phase + shuffled(within, self.windows_per_epoch, key) * self.context


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

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
import stat
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptlite.errors import StorageError, system_reason
from gptlite.paths import cache_directory
from gptlite.storage.locks import lock_file, locked
from gptlite.text.corpus import Text
from gptlite.text.pairs import encode_messages, encode_records
from gptlite.text.spool import sweep
from gptlite.text.tokenizer import Tokenizer

IDS = "ids.bin"
CAREFULLY = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
COMPARED = 4096  # characters whose tokens are compared with those of an entry before it is used
FORMAT = 2  # of the cached token files
IDS_AT_ONCE = 1 << 20
CACHE_ENTRIES = 32  # the least recently used ones beyond this number are deleted
BATCH_CHARACTERS = 1 << 21  # text tokenized at once, in parallel
STRETCHES = 64  # that a part of a long stream consists of


@dataclass(frozen=True)
class TokenFile:
    """Ids of one text on disk: uint16 or uint32, little endian, a separator before each document.

    As long as a token file that `tokenize` returned is in use, no other process removes its entry of the cache.
    """

    path: Path
    dtype: str
    n_tokens: int
    n_bytes: int  # of the text
    digest: str  # sha256 of the file

    def ids(self) -> np.ndarray:
        """The ids (n_tokens,), mapped from disk."""
        return np.memmap(self.path, dtype=self.dtype, mode="r", shape=(self.n_tokens,))

    def byte_scale(self, spellings: Sequence[bytes]) -> float:
        """Bytes of the text per byte that its tokens spell, with `spellings` (V,) such as `Tokenizer.token_bytes`.

        Not 1 where a tokenizer composes characters first (NFC) or puts a space before the text (Llama 2).
        """
        lengths, ids = np.array([len(spelling) for spelling in spellings], dtype=np.int64), self.ids()
        parts = range(0, len(ids), IDS_AT_ONCE)
        spelled = sum(int(lengths[ids[start : start + IDS_AT_ONCE]].sum()) for start in parts)
        return self.n_bytes / spelled if spelled else 1.0


def tokenize(
    text: Text, tokenizer: Tokenizer, *, cache: Path | None = None, progress: Callable[[float], None] = lambda _: None
) -> TokenFile:
    """The token file of `text`, from the cache when an intact one is there. `progress` gets fractions from 0 to 1.

    An entry is used only if this user alone may write to it, its digest is right, its ids are in the vocabulary, and it
    begins with the tokens that the text begins with. Raises `StorageError` where the cache cannot be written.
    """
    cache = cache or cache_directory()
    key = hashlib.sha256(f"{FORMAT}:{text.digest}:{tokenizer.digest}{tokenizer.pairs or ''}".encode()).hexdigest()[:32]
    entry = cache / f"tokens-{key}"
    if entry.exists() and not _is_ours(entry):
        entry = cache / f"tokens-{key}-{os.geteuid()}"
    if (found := _open_cached(entry, text, tokenizer)) is not None:
        return found
    try:
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=cache, prefix=".tmp-"))
        try:
            _write_tokens(text, tokenizer, scratch, progress)
            with locked(cache):  # entries are made and removed by one process at a time
                found = _open_cached(entry, text, tokenizer)  # another process may have been quicker
                if found is None:
                    _remove(entry, cache)
                    scratch.rename(entry)
                    found = _open_cached(entry, None, tokenizer)
                _evict(cache)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise StorageError(
            f"cannot write tokens to {cache}: {system_reason(error)}; free some space or set GPTLITE_CACHE."
        ) from error
    if found is None:
        raise StorageError(f"the tokens in {entry} are not those that were written; is its disk failing?")
    return found


def _write_tokens(text: Text, tokenizer: Tokenizer, directory: Path, progress: Callable[[float], None]) -> TokenFile:
    dtype = _dtype(tokenizer)
    path = directory / IDS
    digest = hashlib.sha256()
    n_tokens = n_bytes = 0
    with open(path, "wb") as file:
        for ids, size in _encoded(text, tokenizer):
            raw = np.asarray(ids, dtype=dtype).tobytes()
            file.write(raw)
            digest.update(raw)
            n_tokens += len(ids)
            n_bytes += size
            progress(min(1.0, n_bytes / max(1, text.n_bytes)))
    facts = {"dtype": dtype, "n_tokens": n_tokens, "n_bytes": n_bytes, "digest": digest.hexdigest()}
    (directory / "facts.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
    return TokenFile(path, **facts)


def _encoded(text: Text, tokenizer: Tokenizer) -> Iterator[tuple[list[int], int]]:
    """The ids of the text in parts, and how many bytes of text each spells."""
    if tokenizer.pairs and text.layout:
        lengths = [len(spelling) for spelling in tokenizer.token_bytes]
        yield from ((ids, sum(lengths[i] for i in ids)) for ids in encode_records(text, tokenizer))
        return
    waiting: list[tuple[bool, str]] = []

    def flush() -> tuple[list[int], int]:
        pieces = [tokenizer.begin(block) if starts else block for starts, block in waiting]
        found: list[int] = []
        for (starts, _), ids in zip(waiting, tokenizer.encode_batch(pieces), strict=True):
            found += [tokenizer.separator_id, *ids] if starts else ids
        n_bytes = sum(len(block.encode()) for _, block in waiting)
        waiting.clear()
        return found, n_bytes

    size = 0
    for starts, block in text.blocks(cut=tokenizer.safe_cut):
        waiting.append((starts, block))
        size += len(block)
        if size >= BATCH_CHARACTERS:
            yield flush()
            size = 0
    if waiting:
        yield flush()


def _is_ours(entry: Path) -> bool:
    """May this user alone write to the entry? Its folder keeps others from its files, whatever their modes are."""
    if not hasattr(os, "geteuid"):  # Windows
        return True
    try:
        all_facts = [os.lstat(path) for path in (entry, *entry.iterdir())]
    except OSError:
        return False
    if any(facts.st_uid != os.geteuid() or stat.S_ISLNK(facts.st_mode) for facts in all_facts):
        return False
    return not all_facts[0].st_mode & 0o022


def _open_cached(entry: Path, text: Text | None, tokenizer: Tokenizer) -> TokenFile | None:
    """The cached file, locked against removal while it is in use; None unless its ids can be trusted.

    - `text`: None for an entry that this process has just written.
    """
    try:
        descriptor = os.open(entry / IDS, CAREFULLY)
    except OSError:
        return None
    found = None
    try:
        lock_file(descriptor, shared=True)
        found = _check_cached(entry, descriptor, text, tokenizer)
    except (OSError, ValueError, TypeError):
        found = None
    finally:
        if found is None:
            os.close(descriptor)
        else:
            weakref.finalize(found, os.close, descriptor)
    if found is not None:
        with contextlib.suppress(OSError):  # a cache that others may only read
            os.utime(entry)
    return found


def _check_cached(entry: Path, descriptor: int, text: Text | None, tokenizer: Tokenizer) -> TokenFile | None:
    status, now = os.fstat(descriptor), os.stat(entry / IDS)
    if (status.st_dev, status.st_ino) != (now.st_dev, now.st_ino) or not _is_ours(entry):
        return None
    facts = json.loads((entry / "facts.json").read_text(encoding="utf-8"))
    found = TokenFile(entry / IDS, **facts)
    dtype = _dtype(tokenizer)
    if found.dtype != dtype or status.st_size != found.n_tokens * np.dtype(dtype).itemsize:
        return None
    digest, largest = hashlib.sha256(), 0
    with os.fdopen(os.dup(descriptor), "rb") as file:
        first = _first_ids(text, tokenizer) if text else np.empty(0, dtype=dtype)
        if file.read(first.nbytes) != first.tobytes():
            return None
        file.seek(0)
        while raw := file.read(1 << 20):
            digest.update(raw)
            largest = max(largest, int(np.frombuffer(raw, dtype=dtype).max()))
    return found if digest.hexdigest() == found.digest and largest < tokenizer.vocab_size else None


def _first_ids(text: Text, tokenizer: Tokenizer) -> np.ndarray:
    """Ids with which the token file must begin; where the first characters end, others may follow from what comes."""
    if tokenizer.pairs and text.layout:
        record = next(text.records(), [])
        return np.asarray(encode_messages(tokenizer, record), dtype=_dtype(tokenizer))
    _, block = next(text.blocks(cut=tokenizer.safe_cut), (True, ""))
    ids = [tokenizer.separator_id, *tokenizer.encode(tokenizer.begin(block[:COMPARED]))]
    return np.asarray(ids if len(block) <= COMPARED else ids[: len(ids) // 2], dtype=_dtype(tokenizer))


def _dtype(tokenizer: Tokenizer) -> str:
    return "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"


def _remove(entry: Path, cache: Path) -> None:
    """Move an entry out of the way at once, then delete it; whoever has mapped its file keeps the file."""
    if entry.is_symlink() or entry.is_file():
        entry.unlink()
        return
    aside = cache / f".tmp-removed-{os.getpid()}-{time.monotonic_ns()}"
    with contextlib.suppress(FileNotFoundError):
        entry.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _in_use(entry: Path) -> bool:
    """Has a process locked the ids of this entry?"""
    try:
        descriptor = os.open(entry / IDS, CAREFULLY)
    except OSError:
        return False
    try:
        return not lock_file(descriptor, wait=False)
    finally:
        os.close(descriptor)


def _evict(cache: Path) -> None:
    """Delete the entries used least recently, and what killed processes have left behind; entries in use stay."""
    ages: dict[Path, float] = {}
    for path in (*cache.glob("tokens-*"), *cache.glob(".tmp-*")):
        with contextlib.suppress(OSError):
            ages[path] = time.time() - path.stat().st_mtime
    entries = sorted((p for p in ages if p.name.startswith("tokens-")), key=lambda p: ages[p])
    for entry in entries[CACHE_ENTRIES:]:
        if not _in_use(entry):
            with contextlib.suppress(OSError):  # of another user
                _remove(entry, cache)
    for abandoned in (p for p in ages if p.name.startswith(".tmp-") and ages[p] > 86400):
        shutil.rmtree(abandoned, ignore_errors=True)
    sweep(cache)


def spread_ids(ids: np.ndarray, most: int) -> np.ndarray:
    """All of `ids` (N,), or about `most` of them in stretches from beginning to end."""
    if len(ids) <= most:
        return np.asarray(ids)
    length, distance = most // STRETCHES, (len(ids) - most // STRETCHES) / (STRETCHES - 1)
    return np.concatenate([ids[int(i * distance) : int(i * distance) + length] for i in range(STRETCHES)])

"""Writing so that a crash leaves all or nothing: temporary name, manifest last, all forced to disk, one rename.

What was on disk before stays until the new name is there for good, and nothing is announced before that. Reads from
top to bottom: a directory, a file, a link, what goes before and after them, and the few steps they are made of. Each
change of the disk is one call of a function of `os`; that is where the tests fail, kill and cut the power.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from gptlite.errors import CheckpointError, StorageError

MANIFEST = "MANIFEST.json"
FORMAT = 1
CHUNK = 8 << 20  # bytes written, and hashed, at once
# Flags that a system lacks are 0. No link is followed, nothing is inherited, and nothing is translated on Windows.
CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
Answer = TypeVar("Answer")


def write_directory(
    directory: Path,
    files: Mapping[str, bytes],
    facts: Mapping[str, Any],
    is_intact: Callable[[Path], bool] = lambda _: False,
) -> None:
    """Write `files`, and a manifest of them with `facts`, as `directory`; when this returns no crash can undo it.

    - `is_intact` judges a directory of that name that is there already. A damaged one is set aside. One with the same
      manifest is left as it is; an intact one with another is never overwritten: `CheckpointError`.
    Raises `StorageError`; then there is nothing new of that name, or all of it.
    """
    scratch = _hidden("tmp", directory)
    try:
        _write_tree(scratch, files, facts)
        if os.path.lexists(directory):
            if not is_intact(directory):
                set_aside(directory)
            elif (directory / MANIFEST).read_bytes() == (scratch / MANIFEST).read_bytes():
                return flush_directory(directory.parent)
            else:
                raise CheckpointError(f"{directory} is there already and differs; save to another directory.")
        _again(os.rename, scratch, directory)
        flush_directory(directory.parent)
    except OSError as error:
        raise StorageError(f"cannot save {directory}: {error.strerror or error}; earlier steps are intact.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # after the rename there is none


def _write_tree(scratch: Path, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
    """All files are on their way to the disk before the first is waited for, so it works while the next are hashed.

    In which order they arrive is of no account: a directory of this name is nothing to anyone until all are there.
    """
    folders = sorted({(scratch / name).parent for name in files} - {scratch})
    for folder in (scratch, *folders):
        _again(os.mkdir, folder)
    with contextlib.ExitStack() as opened:
        descriptors: list[int] = []

        def write(path: Path, content: bytes) -> dict[str, Any]:
            descriptors.append(descriptor := _create(path))
            opened.callback(_close, descriptor)
            return {"size": len(content), "sha256": _fill(descriptor, content)}

        entries = {name: write(scratch / name, content) for name, content in files.items()}
        manifest = {"format": FORMAT, **facts, "files": entries}
        write(scratch / MANIFEST, json_bytes({**manifest, "sha256": manifest_digest(manifest)}))
        for descriptor in descriptors:
            _flush(descriptor)
    for folder in (*folders, scratch):
        flush_directory(folder)


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """The digest that a manifest carries of all else in it."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def replace_file(path: Path, content: bytes) -> None:
    """Make `content` what the file at `path` holds, all or nothing. Raises `StorageError`."""
    scratch = _hidden("tmp", path)
    try:
        _write_new(scratch, content)
        _again(os.replace, scratch, path)
        flush_directory(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(scratch)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file to write by any means, which replaces `path` when the block ends; if the block fails, nothing changes.

    A link stays one: the file behind it is replaced, and passes on its permissions. Raises `StorageError`.
    """
    target = Path(os.path.realpath(path))
    scratch = _hidden("tmp", target)
    try:
        os.close(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | CAREFULLY, 0o666))
        if target.exists():
            scratch.chmod(stat.S_IMODE(target.stat().st_mode))
        yield scratch
        with open(scratch, "rb+") as file:
            _flush(file.fileno())
        _again(os.replace, scratch, target)
        flush_directory(target.parent)
    except OSError as error:
        reason = error.strerror or f"{error}, perhaps because the disk is full"  # NumPy counts, but does not say why
        raise StorageError(f"cannot write {path}: {reason}.") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(scratch)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON, all or nothing. Raises `StorageError`."""
    replace_file(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """JSON for people; the bytes of a file name that are no UTF-8 are spelled out, for they would be no JSON either."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return re.sub("[\ud800-\udfff]", lambda half: rf"\\u{ord(half[0]):x}", text).encode()


def replace_link(path: Path, target: str) -> None:
    """Point the link at `path` to `target`. A hint for people: not forced to disk."""
    scratch = _hidden("tmp", path)
    try:
        _again(os.symlink, target, scratch)
        _again(os.replace, scratch, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(scratch)


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file that is not a link, and make it where there is none."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | CAREFULLY, 0o666)
    try:
        _write_all(descriptor, content)
    finally:
        _close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory and those missing above it; none of their names is lost in a crash."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was quicker
            _again(os.mkdir, folder)
    for folder in missing or [path]:
        with contextlib.suppress(PermissionError):  # a parent that may not be listed cannot be flushed either
            flush_directory(folder.parent)


def check_storage(directory: Path, needed: int) -> None:
    """Do in `directory` once what saving does, and see that `needed` bytes are free. Raises `StorageError`."""
    scratch, moved = _hidden("tmp", directory / "trial"), _hidden("tmp", directory / "trial")
    try:
        _write_tree(scratch, {"file": b"content"}, {})
        _again(os.rename, scratch, moved)
        flush_directory(directory)
        shutil.rmtree(moved)
        free = shutil.disk_usage(directory).free
    except OSError as error:
        raise StorageError(
            f"nothing can be saved in {directory}: {error.strerror or error}; choose another directory with `out`."
        ) from error
    finally:
        for leftover in (scratch, moved):
            shutil.rmtree(leftover, ignore_errors=True)
    if free < needed:
        raise StorageError(
            f"{directory} has {free / 1e6:,.0f} MB free, but two saved steps need {needed / 1e6:,.0f} MB; "
            "free some space or choose another directory with `out`."
        )


def set_aside(directory: Path) -> Path:
    """Give a damaged directory a name that nobody reads, and return it; nothing is deleted."""
    aside = _hidden("bad", directory)
    _again(os.rename, directory, aside)
    flush_directory(directory.parent)
    return aside


def remove_directory(directory: Path) -> None:
    """Delete a directory: first its name, for good, then what is in it. Raises `StorageError`."""
    trash = _hidden("trash", directory)
    try:
        _again(os.rename, directory, trash)
        flush_directory(directory.parent)
        shutil.rmtree(trash)  # goes by handles and follows no link
    except OSError as error:
        raise StorageError(f"cannot delete {directory}: {error.strerror or error}.") from error


def flush_directory(path: Path) -> None:
    """Force the names in a directory to disk."""
    if os.name == "nt":  # Windows cannot open a directory to flush it
        return
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        _flush(descriptor)
    finally:
        _close(descriptor)


def _hidden(kind: str, path: Path) -> Path:
    """A name beside `path` that nobody can foresee and that no reader takes for anything."""
    return path.with_name(f".{kind}-{path.name}-{secrets.token_hex(8)}")


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that did not exist, and force it to disk.

    After an error the file is abandoned: a second fsync of it could succeed although its bytes were lost.
    """
    descriptor = _create(path)
    try:
        _fill(descriptor, content)
        _flush(descriptor)
    finally:
        _close(descriptor)


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | CAREFULLY, 0o666)


def _fill(descriptor: int, content: bytes) -> str:
    """Write all of a file and have the system begin to bring it to the disk; return the sha256 of what was written."""
    _reserve(descriptor, len(content))
    digest = _write_all(descriptor, content)
    if hasattr(os, "posix_fadvise"):  # a hint, on which nothing depends: the wait is that of fsync
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return digest


def _reserve(descriptor: int, size: int) -> None:
    """Take the room for a file, so that a full disk says so before any work."""
    if size and sys.platform == "linux":
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise


def _write_all(descriptor: int, content: bytes) -> str:
    """Write all of it, however little the system takes at a time; return its sha256."""
    digest, rest = hashlib.sha256(), memoryview(content)
    while rest:
        written = os.write(descriptor, rest[:CHUNK])
        digest.update(rest[:written])
        rest = rest[written:]
    return digest.hexdigest()


def _flush(descriptor: int) -> None:
    if sys.platform == "darwin":  # whose fsync leaves the bytes in the memory of the drive
        import fcntl

        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
    os.fsync(descriptor)


def _close(descriptor: int) -> None:
    with contextlib.suppress(InterruptedError):  # it is closed all the same
        os.close(descriptor)


def _again(call: Callable[..., Answer], *arguments: Any) -> Answer:
    """`call(*arguments)`, repeated while signals interrupt it; Python itself repeats open, write and fsync."""
    while True:
        try:
            return call(*arguments)
        except InterruptedError:
            continue

"""Atomic and durable writes: a temporary name, the manifest last, all forced to disk, one rename.

The commit point of a checkpoint is the `os.rename` in `write_directory`: before it there is no new step, after it and
the flush of the parent directory no crash can undo it, and nothing is announced earlier. What was on disk before stays
until then. The file reads from top to bottom: a directory, a file, a link, what goes before and after them, and the
steps they are made of. Each change of the disk is one call of a function of `os`, so that tests can fail it, kill the
process there, or cut the power.

`at` is a descriptor of the directory that holds `path`. With it, everything happens in that directory, wherever it has
been moved and whatever has its name now; without it (`None`) paths mean what they mean at the moment of each call.
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
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from gptlite.errors import CheckpointError, StorageError, system_reason

MANIFEST = "MANIFEST.json"
FORMAT = 1
CHUNK = 8 << 20  # bytes written, and hashed, at once
# Flags that a system lacks are 0. No link is followed, nothing is inherited, and nothing is translated on Windows.
CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
CAN_WORK_AT = {os.open, os.mkdir, os.rename, os.unlink, os.stat} <= os.supports_dir_fd
# What Windows answers where a link may not be made, and what other systems do whose file systems have none.
NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
IN_USE = {5, 32, 33}  # Windows: a file that another program has open, such as a scanner for viruses
TRIAL, TRIAL_FILE = (
    "trial-00000000",
    "training_state/optimizer.safetensors",
)  # as long as the names of a step and its files
IN_USE_TRIES, IN_USE_SECONDS = 20, 0.05
Answer = TypeVar("Answer")


def write_directory(
    directory: Path,
    files: Mapping[str, bytes],
    facts: Mapping[str, Any],
    is_intact: Callable[[Path], bool] = lambda _: False,
    at: int | None = None,
) -> None:
    """Write `files`, and a manifest of them with `facts`, as `directory`; when this returns no crash can undo it.

    - `is_intact` judges a directory of that name that is there already. A damaged one is set aside. One with the same
      manifest is left as it is; an intact one with another is never overwritten: `CheckpointError`.
    Raises `StorageError`; then there is nothing new of that name, or all of it.
    """
    scratch, final = _hidden("tmp", directory), _named(directory, at)
    try:
        content = _write_tree(_named(scratch, at), files, facts, at)
        if _exists(final, at):
            if not is_intact(directory):
                set_aside(directory, at)
            elif (directory / MANIFEST).read_bytes() == content:
                return flush_directory(final.parent, at)
            else:
                raise CheckpointError(f"{directory} is there already and differs; save to another directory.")
        _rename(_named(scratch, at), final, at)
        flush_directory(final.parent, at)
    except OSError as error:
        raise StorageError(f"cannot save {directory}: {system_reason(error)}; earlier steps are intact.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # after the rename there is none


def _write_tree(scratch: Path, files: Mapping[str, bytes], facts: Mapping[str, Any], at: int | None = None) -> bytes:
    """Write a directory, and return the bytes of its manifest.

    The system begins to write each file while the next ones are hashed; then all are waited for. The order in which
    they arrive does not matter, because nobody reads a directory of this name.
    """
    folders = sorted({(scratch / name).parent for name in files} - {scratch})
    for folder in (scratch, *folders):
        _again(os.mkdir, folder, dir_fd=at)
    with contextlib.ExitStack() as opened:
        descriptors: list[int] = []

        def write(path: Path, content: bytes) -> dict[str, Any]:
            descriptors.append(descriptor := _create(path, at))
            opened.callback(_close, descriptor)
            return {"size": len(content), "sha256": _fill(descriptor, content)}

        entries = {name: write(scratch / name, content) for name, content in files.items()}
        manifest = {"format": FORMAT, **facts, "files": entries}
        content = json_bytes({**manifest, "sha256": manifest_digest(manifest)})
        write(scratch / MANIFEST, content)
        for descriptor in descriptors:
            _flush(descriptor)
    for folder in (*folders, scratch):
        flush_directory(folder, at)
    return content


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """The digest that a manifest carries of all else in it."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def replace_file(path: Path, content: bytes, at: int | None = None) -> None:
    """Make `content` what the file at `path` holds, all or nothing. Raises `StorageError`."""
    final = _named(path, at)
    scratch = _hidden("tmp", final)
    try:
        _write_new(scratch, content, at)
        _again(os.replace, scratch, final, src_dir_fd=at, dst_dir_fd=at)
        flush_directory(final.parent, at)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {system_reason(error)}.") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(scratch, dir_fd=at)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file to write by any means, which replaces `path` when the block ends; if the block fails, nothing changes.

    A link stays one: the file that it points to is replaced, and its permissions are kept. Raises `StorageError`.
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


def json_bytes(value: Any, indent: int | None = 2) -> bytes:
    """JSON and a line end. Bytes of a file name that are not UTF-8 are written as escapes, since JSON has no others."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    return re.sub("[\ud800-\udfff]", lambda half: rf"\\u{ord(half[0]):x}", text).encode()


def replace_link(path: Path, target: str, at: int | None = None) -> None:
    """Point the link at `path` to `target`. A hint for people: not forced to disk.

    Where links are forbidden, as to most users of Windows, it is a text file that holds the target's name.
    """
    final = _named(path, at)
    scratch = _hidden("tmp", final)
    try:
        try:
            _again(os.symlink, target, scratch, dir_fd=at)
        except (AttributeError, NotImplementedError):
            _write_new(scratch, f"{target}\n".encode(), at)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            _write_new(scratch, f"{target}\n".encode(), at)
        _again(os.replace, scratch, final, src_dir_fd=at, dst_dir_fd=at)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(scratch, dir_fd=at)


def append(path: Path, content: bytes, at: int | None = None, *, create: bool = True, most: int = sys.maxsize) -> None:
    """Add to the end of a file, which is made where there is none if `create`. Raises `OSError`.

    Nothing is written through a link, symbolic or hard, into a pipe or a device, or beyond `most` bytes.
    """
    flags = os.O_WRONLY | os.O_APPEND | (os.O_CREAT if create else 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(_named(path, at), flags | CAREFULLY, 0o666, dir_fd=at)
    try:
        check_own_file(descriptor)
        if os.fstat(descriptor).st_size + len(content) > most:
            raise OSError(errno.EFBIG, f"it has {most:,} bytes, which are the most that are read")
        _write_all(descriptor, content)
    finally:
        _close(descriptor)


def check_own_file(descriptor: int) -> None:
    """Raises `OSError` unless this is a regular file with one name: what is written to it changes no other file."""
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if facts.st_nlink > 1:
        raise OSError(errno.EMLINK, "it is a hard link, and the file has another name; replace it by a copy")


def make_directory(path: Path) -> None:
    """Make a directory and those missing above it; none of their names is lost in a crash."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was quicker
            _again(os.mkdir, folder)
    for folder in missing or [path]:
        with contextlib.suppress(PermissionError):  # a parent that may not be listed cannot be flushed either
            flush_directory(folder.parent)


def check_storage(directory: Path, needed: int, what: str = "two saved steps need", parameter: str = "out") -> None:
    """Do in `directory` once what saving does, and see that `needed` bytes are free. Raises `StorageError`.

    - `what`: of the message, what needs so many bytes; `parameter`: what chooses another directory.
    """
    scratch, moved = _hidden("tmp", directory / TRIAL), _hidden("tmp", directory / TRIAL)
    try:
        _write_tree(scratch, {TRIAL_FILE: b"content"}, {})
        _again(os.rename, scratch, moved)
        flush_directory(directory)
        shutil.rmtree(moved)
        free = shutil.disk_usage(directory).free
    except OSError as error:
        raise StorageError(
            f"nothing can be saved in {directory}: {system_reason(error)}; choose another directory with `{parameter}`."
        ) from error
    finally:
        for leftover in (scratch, moved):
            shutil.rmtree(leftover, ignore_errors=True)
    if free < needed:
        raise StorageError(
            f"{directory} has {free / 1e6:,.0f} MB free, but {what} {needed / 1e6:,.0f} MB; "
            f"free some space or choose another directory with `{parameter}`."
        )


def set_aside(directory: Path, at: int | None = None) -> Path:
    """Give a damaged directory a name that nobody reads, and return it; nothing is deleted."""
    aside, final = _hidden("bad", directory), _named(directory, at)
    _rename(final, _named(aside, at), at)
    flush_directory(final.parent, at)
    return aside


def remove_directory(directory: Path, at: int | None = None) -> None:
    """Delete a directory: first its name, for good, then what is in it. Raises `StorageError`."""
    trash, final = _hidden("trash", directory), _named(directory, at)
    try:
        _rename(final, _named(trash, at), at)
        flush_directory(final.parent, at)
        shutil.rmtree(trash)  # opens each folder from the one above it and follows no link
    except OSError as error:
        raise StorageError(f"cannot delete {directory}: {system_reason(error)}.") from error


def remove_file(path: Path, at: int | None = None) -> None:
    """Delete a file, or nothing where there is none. Raises `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        _again(os.unlink, _named(path, at), dir_fd=at)


def flush_directory(path: Path, at: int | None = None) -> None:
    """Force the names in a directory to disk."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a directory to flush it
        return
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0), dir_fd=at)
    try:
        _flush(descriptor)
    finally:
        _close(descriptor)


def open_directory(path: Path) -> int | None:
    """A descriptor of a directory to work `at`; None where the system has no such calls. Raises `OSError`."""
    if not CAN_WORK_AT:
        return None
    return os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0))


def _named(path: Path, at: int | None) -> Path:
    """`path` as the calls need it: its name in the directory `at`, or itself."""
    return path if at is None else Path(path.name)


def _exists(path: Path, at: int | None) -> bool:
    """Is something of that name there, be it a link that leads nowhere?"""
    try:
        os.stat(path, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _rename(old: Path, new: Path, at: int | None) -> None:
    _again(os.rename, old, new, src_dir_fd=at, dst_dir_fd=at)


def _hidden(kind: str, path: Path) -> Path:
    """A name beside `path` that nobody can foresee and that no reader takes for anything."""
    return path.with_name(f".{kind}-{path.name}-{secrets.token_hex(8)}")


def _write_new(path: Path, content: bytes, at: int | None = None) -> None:
    """Write a file that did not exist, and force it to disk.

    After an error the file is abandoned: a second fsync of it could succeed although its bytes were lost.
    """
    descriptor = _create(path, at)
    try:
        _fill(descriptor, content)
        _flush(descriptor)
    finally:
        _close(descriptor)


def _create(path: Path, at: int | None = None) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | CAREFULLY, 0o666, dir_fd=at)


def _fill(descriptor: int, content: bytes) -> str:
    """Write all of a file and ask the system to begin to store it; return the sha256 of what was written."""
    _reserve(descriptor, len(content))
    digest = _write_all(descriptor, content)
    if hasattr(os, "posix_fadvise"):  # a hint, on which nothing depends: the wait is that of fsync
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return digest


def _reserve(descriptor: int, size: int) -> None:
    """Reserve the space of a file, so that a full disk is known before any work."""
    if size and hasattr(os, "posix_fallocate"):
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


def _again(call: Callable[..., Answer], *arguments: Any, **options: Any) -> Answer:
    """`call(*arguments)`, repeated while signals interrupt it; Python itself repeats open, write and fsync.

    On Windows also for a second while another program has the file open, which a scanner for viruses does for moments.
    """
    tries = 0
    while True:
        try:
            return call(*arguments, **options)
        except InterruptedError:
            continue
        except PermissionError as error:
            tries += 1
            if getattr(error, "winerror", None) not in IN_USE or tries >= IN_USE_TRIES:
                raise
            time.sleep(IN_USE_SECONDS)

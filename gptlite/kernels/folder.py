"""Folders for machine code: only this user, or root, can have written what is in them.

Code is run from the cache, so its permissions are checked like those of ~/.ssh: the folder and all folders above it.
A user who may write to one of these could replace everything below it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gptlite.errors import StorageError
from gptlite.paths import cache_directory, user_cache_directory

SEARCH = getattr(os, "O_PATH", os.O_RDONLY)  # enough to go on from a folder, even where it may not be listed
DIRECTORY = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
# On Windows a folder says not who may write to it, so no machine code is kept there.
CAN_CHECK = hasattr(os, "geteuid") and os.open in os.supports_dir_fd
TORCH_FOLDER = "TORCHINDUCTOR_CACHE_DIR"


class Untrusted(OSError):
    """Somebody else may write to a folder; the message says which."""


@contextlib.contextmanager
def opened(folder: Path, *, make: bool = False) -> Iterator[int]:
    """A descriptor of `folder`, after it and each folder above it were checked. With `make`, missing ones are made.

    Raises `Untrusted`, and `OSError` where there is no such folder.
    """
    here = os.open("/", SEARCH | DIRECTORY)
    above = Path("/")
    try:
        parts = Path(os.path.realpath(folder)).parts[1:]
        for i, part in enumerate(parts):
            _check(os.fstat(here), above, is_parent=True)
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=here)
            is_last = i + 1 == len(parts)
            below = os.open(part, (os.O_RDONLY if is_last else SEARCH) | DIRECTORY, dir_fd=here)
            os.close(here)
            here, above = below, above / part
        _check(os.fstat(here), above, is_parent=False)
        yield here
    finally:
        os.close(here)


def is_private(folder: Path) -> bool:
    """Can only this user write to `folder`, or to where it is to be made?"""
    try:
        with opened(folder):
            return True
    except FileNotFoundError:
        return True  # the folders above it that exist were checked
    except OSError:
        return False


def code_directory(name: str) -> Path:
    """The folder `name` of the cache, or of the user's own cache where others may write to a shared $GPTLITE_CACHE.

    It may still be one that `opened` refuses. Raises `StorageError` where the user has no cache directory.
    """
    shared = cache_directory() / name
    if CAN_CHECK and not is_private(shared):
        with contextlib.suppress(StorageError):
            own = user_cache_directory() / name
            return own if is_private(own) else shared
    return shared


def use_private_inductor_cache() -> Path:
    """Give torch's compiler a cache that nobody else can write to, and return it. Call it before torch's compiler, or
    an optimizer, is used for the first time: then torch looks for its folder, and makes it.

    Left to itself, torch takes a folder in the temporary directory whose name is known to all users, and runs the code
    that it finds there. A folder that the user has chosen is kept if it is as private as ours. Where no cache is
    private, it is a temporary folder, which is deleted when the process ends.
    """
    chosen = os.environ.get(TORCH_FOLDER)
    folder = Path(chosen) if chosen and not Path(chosen).name.startswith("torchinductor_") else None
    try:
        folder = (folder or code_directory("inductor")).absolute()
        if CAN_CHECK:
            with opened(folder, make=True):
                pass
    except (OSError, StorageError):
        folder = Path(tempfile.mkdtemp(prefix="gptlite-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[TORCH_FOLDER] = str(folder)
    # Precompiled headers would still be in the temporary directory.
    os.environ["TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"] = "0"
    if (settings := sys.modules.get("torch._inductor.config")) is not None:  # which has read the environment already
        with contextlib.suppress(AttributeError):
            settings.cpp_cache_precompile_headers = False  # type: ignore[attr-defined]
    return folder


def _check(facts: os.stat_result, folder: Path, *, is_parent: bool) -> None:
    """Raises `Untrusted` unless a folder is this user's, or for a parent root's, and others cannot change its entries.

    They cannot in a parent with the sticky bit, such as /tmp. A group that has no other member is no other user.
    """
    owners = {os.geteuid(), 0} if is_parent else {os.geteuid()}
    by_others = facts.st_mode & 0o002 or (facts.st_mode & 0o020 and not _is_own_group(facts.st_gid))
    is_sticky = is_parent and facts.st_mode & stat.S_ISVTX
    if facts.st_uid not in owners or (by_others and not is_sticky):
        raise Untrusted(f"others may write to {folder}")


def _is_own_group(group: int) -> bool:
    """Is it the private group of this user, as many Linux systems give one to each?"""
    import grp
    import pwd

    try:
        name, found = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(group)
    except KeyError:
        return False
    return found.gr_name == name and set(found.gr_mem) <= {name}

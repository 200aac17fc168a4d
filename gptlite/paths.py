"""Where gptlite keeps what it can make again: the cache directory of this user."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

from gptlite.errors import StorageError


def cache_directory() -> Path:
    """`$GPTLITE_CACHE`, else the user's own. Raises `StorageError` where the user has none."""
    return Path(own) if (own := os.environ.get("GPTLITE_CACHE")) else user_cache_directory()


def user_cache_directory() -> Path:
    """The cache of gptlite in the folder that the system has for caches. Raises `StorageError` where there is none.

    Linux: `$XDG_CACHE_HOME/gptlite` or `~/.cache/gptlite`. macOS: `~/Library/Caches/gptlite`. Windows:
    `%LOCALAPPDATA%\\gptlite\\Cache`.
    """
    try:
        folder = user_cache_path("gptlite", appauthor=False)
        if folder.parts[:1] != ("~",):  # what older versions of platformdirs say where no home directory is known
            return folder
    except RuntimeError:  # what newer ones do
        pass
    raise StorageError("there is no home directory to keep tokens in; set GPTLITE_CACHE to a folder.")

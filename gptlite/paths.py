"""Where gptlite keeps what it can make again: the cache directory of this user."""

from __future__ import annotations

import os
from pathlib import Path

from gptlite.errors import StorageError


def cache_directory() -> Path:
    """`$GPTLITE_CACHE`, else the user's own. Raises `StorageError` where the user has none."""
    return Path(own) if (own := os.environ.get("GPTLITE_CACHE")) else user_cache_directory()


def user_cache_directory() -> Path:
    """`gptlite` in the user's cache directory. Raises `StorageError` where the user has none."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gptlite"
    except RuntimeError as error:
        raise StorageError("there is no home directory to keep tokens in; set GPTLITE_CACHE to a folder.") from error

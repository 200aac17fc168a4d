"""The name under which gptlite is installed, for the sentences that tell how to install more of it."""

from __future__ import annotations

import importlib.metadata

DEFAULT = "gptlite-lm"  # the name `gptlite` belongs to another project


def distribution_name() -> str:
    """The name of the installed distribution that the package `gptlite` came with; `DEFAULT` where nobody knows.

    A clone that was never installed has no distribution. Where several distributions provide a package of this name,
    `DEFAULT` is one of them, or they cannot be told apart.
    """
    found = importlib.metadata.packages_distributions().get("gptlite", [])
    return found[0] if len(set(found)) == 1 else DEFAULT


def install_hint(extra: str) -> str:
    """The command that installs the optional dependencies `extra`, as they are named in pyproject.toml."""
    return f"pip install '{distribution_name()}[{extra}]'"

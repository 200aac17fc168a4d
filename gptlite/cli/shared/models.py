"""How a command is told which model or run: with -m, as in every command, or as its argument where it has one."""

from __future__ import annotations

from typing import Annotated

import typer

from gptlite.cli.shared import options
from gptlite.errors import UsageError

RunOption = Annotated[
    str | None,
    typer.Option("-m", "--model", metavar="DIR", help="The same, as in other commands.", show_default=False),
]


RunArgument = Annotated[str | None, typer.Argument(metavar="RUN", help="A run.", show_default=options.NEWEST)]


def choose(argument: str | None, option: str | None) -> str | None:
    """What was named, if anything. Raises `UsageError` where both ways were used."""
    if argument is not None and option is not None:
        raise UsageError(f"name the model once: {argument}, or -m {option}.")
    return argument if option is None else option

"""All commands of the command line, those of groups included."""

from __future__ import annotations

from typing import Any

import typer

from gptlite.cli import main as command_line
from gptlite.cli.shared import parsing

APP: Any = parsing.show_plainly(typer.main.get_command(command_line.build_app(*command_line.COMMANDS)))


def _inside(group: Any, before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        found |= _inside(command, f"{before}{name} ") if inner else {f"{before}{name}": command}
    return found


COMMANDS = _inside(APP)  # by name; those of a group as "words nearest"

"""Parameters in the library's messages, as the flags of the command that is running.

The library writes the names of parameters in backquotes, as a Python caller knows them. On the command line

    `context_length` must be at least 1          becomes   --context must be at least 1
    read it with `lossy=True`                                read it with --lossy
    use `device='cpu'`                                       use --device cpu
    continue with: `gptlite.train(out='run', resume=True)`   continue with: gptlite train -o run --resume

What a command has no parameter for stays as it is, without the backquotes.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

QUOTED = re.compile(r"`([^`\n]{1,5000})`")
NAME = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)
# Parameters of the library whose name differs from that of the command's parameter.
OTHER_NAMES = {
    "bans": "ban", "choices": "choice", "correction": "correct", "inputs": "files", "n_senses": "senses",
    "seconds": "time", "top": "top_k",
    "path": "out",
}  # fmt: skip

FindCommand = Callable[[str], Any]  # a command of click's by its name, or None


def _no_command(name: str) -> None:
    return None


_find: FindCommand = _no_command
_running: Sequence[str] = ()  # the arguments of the command that is running; empty where a Python program calls


def use(find: FindCommand, arguments: Sequence[str]) -> None:
    """From now on `arguments` are what runs; `find` gives the commands of the app by name, and is asked only when
    a message has something to translate."""
    global _find, _running
    _find, _running = find, tuple(arguments)


def translate(text: str) -> str:
    """A message of the library in the words of the command line."""
    return QUOTED.sub(lambda match: _spell(match[1]), text) if _running and "`" in text else text


def _spell(quoted: str) -> str:
    if NAME.fullmatch(quoted):
        return _flag(_command(_running), quoted) or quoted
    try:
        call = ast.parse(f"f({quoted})" if re.match(r"[a-z_0-9]+=", quoted) else quoted, mode="eval").body
    except (SyntaxError, ValueError):
        return f"`{quoted}`"
    if not isinstance(call, ast.Call):
        return f"`{quoted}`"
    function = ast.unparse(call.func).removeprefix("gptlite.")
    command = _command(_running) if function == "f" else _command(function.split("."))
    words = [_option(command, argument) for argument in call.keywords]
    values = [str(_value(argument)) for argument in call.args]
    if command is None or None in words or None in values:
        return quoted
    start = [] if function == "f" else ["gptlite", *function.split(".")]
    return " ".join([*start, *map(shlex.quote, values), *filter(None, words)])


def _option(command: Any, argument: ast.keyword) -> str | None:
    """`--flag value`; an empty text for a switch that is off; None for what the command does not have."""
    flag, value = _flag(command, argument.arg or "", short=True), _value(argument.value)
    if flag is None or value is None:
        return None
    if isinstance(value, bool):
        return flag if value else ""
    return f"{flag} {shlex.quote(str(value))}"


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _flag(command: Any, name: str, *, short: bool = False) -> str | None:
    """What --help calls the parameter of that name: a flag, perhaps of one letter, or the word for an argument."""
    parameters = {parameter.name: parameter for parameter in getattr(command, "params", ())}
    found = parameters.get(name) or parameters.get(OTHER_NAMES.get(name, ""))
    if found is None:
        return None
    if found.param_type_name != "option":
        return found.metavar or found.name.upper()
    return next((name for name in found.opts if name.startswith("--") and not short), found.opts[0])


def _command(arguments: Sequence[str]) -> Any:
    """The command, perhaps of a group of commands, that these arguments call."""
    command = _find(arguments[0]) if arguments else None
    for word in arguments[1:]:
        inner = getattr(command, "commands", {}).get(word)
        if inner is None:
            break
        command = inner
    return command

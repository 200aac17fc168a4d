"""What typer leaves open: plain help pages, `help` as a word, and errors as one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import typer

from gptlite.cli.shared import options
from gptlite.errors import UsageError

HELP = ("-h", "--help")
TEXTS = ("TEXT", "PROMPT")  # the metavars of values that may be empty, or whose command says itself that they may not
REFERENCE = "docs/reference/cli.md"


def asked_for_help(arguments: list[str]) -> list[str]:
    """`help` and `help train` as `--help` and `train --help`; `words help odd` as `words odd --help`.

    A group without a command is a question for help too.
    """
    if arguments == ["words"]:
        return ["words", HELP[1]]
    if arguments[:1] == ["help"]:
        return [*arguments[1:], HELP[1]]
    if arguments[1:2] == ["help"] and arguments[0] == "words":
        return [arguments[0], *arguments[2:], HELP[1]]
    return arguments


def show_plainly(command: Any, order: Iterable[str] = ()) -> Any:
    """The command, whose help page shows switches as `--json`, without a type and the default "off".

    The page ends with the names of the options for experts, which it does not explain.

    - `order`: of the commands in it; typer puts groups after all others.
    """
    if order:
        command.commands = {name: command.commands[name] for name in order if name in command.commands}
    inside = typer.Context(command, help_option_names=[*HELP])
    for parameter in command.get_params(inside):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
            parameter.show_default = parameter.show_default and bool(parameter.secondary_opts)
    if experts := hidden_options(command):
        names = ", ".join(option.opts[0] for option in experts)
        command.epilog = f"For experts ({REFERENCE}): {names}"
    for part in getattr(command, "commands", {}).values():
        show_plainly(part)
    return command


def refuse_empty(command: Any) -> Any:
    """The command, which raises `UsageError` for an empty value of any parameter that is not a text.

    An empty name of a file would mean the current folder; it most often comes from a shell variable that is not set.
    """
    for part in getattr(command, "commands", {}).values():
        refuse_empty(part)
    for parameter in command.params:
        if parameter.callback is None and parameter.metavar not in TEXTS and not getattr(parameter, "is_flag", False):
            parameter.callback = _check_filled
    return command


def _check_filled(context: Any, parameter: Any, value: Any) -> Any:
    values = value if isinstance(value, (list, tuple)) else [value]
    if "" in values and getattr(context.get_parameter_source(parameter.name), "name", "") == "COMMANDLINE":
        is_option = parameter.param_type_name == "option"
        name = parameter.opts[-1] if is_option else f"{'one of ' * (len(values) > 1)}{parameter.metavar}"
        raise UsageError(f"{name} is empty; is a variable of the shell not set?")
    return value


def hidden_options(command: Any) -> list[Any]:
    """The options of a command that its help page does not explain."""
    return [p for p in command.params if p.param_type_name == "option" and p.hidden]


def check_values(command: Any, arguments: list[str]) -> None:
    """Raises `UsageError` where an option that takes a value is followed by another option instead."""
    rest = list(arguments)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    takes: dict[str, int] = dict.fromkeys(HELP, 0)
    for parameter in command.params:
        if parameter.param_type_name == "option":
            n_values = 0 if parameter.is_flag else parameter.nargs
            takes |= dict.fromkeys((*parameter.opts, *parameter.secondary_opts), n_values)
    at = 0
    while at < len(rest) and rest[at] != "--":
        n_values = takes.get(_spelled(rest[at]), 0)
        for value in rest[at + 1 : at + 1 + n_values]:
            if _spelled(value) in takes:
                hint = f"; if it is meant as the value, write {rest[at]}={value}" if rest[at].startswith("--") else ""
                needs = "a value" if n_values == 1 else f"{n_values} values"
                raise UsageError(f"{rest[at]} needs {needs}, but the option {value} follows it{hint}.")
        at += 1 + n_values


def _spelled(argument: str) -> str:
    """A long option as it is declared, whatever other name for it was used."""
    return f"--{options.normalise(argument[2:])}" if argument.startswith("--") else argument


def message(error: Any) -> str:
    """What typer says of bad use; of a command that was written as an option, such as --steps, with the command."""
    commands = getattr(getattr(getattr(error, "ctx", None), "command", None), "commands", {})
    name = str(getattr(error, "option_name", "")).removeprefix("--")
    if name in commands:
        return f"No such option: --{name}. Did you mean {name}"
    return error.format_message()


def sentence(message: str, help_page: str) -> str:
    """What typer says of bad use, in one sentence: with what is meant perhaps, else with where to read on."""
    message = message.rstrip(".?").replace("argument(s)", "argument")
    if re.match("[A-Z][a-z]", message):
        message = message[0].lower() + message[1:]
    for pattern in (r"(.*?)\.? Did you mean (.*)", r"(.*?) \(Possible options: (.*)\)"):
        if match := re.fullmatch(pattern, message, re.DOTALL):
            meant = re.sub(r", (?=[^,]*$)", " or ", match[2].rstrip("?"))
            return f"{match[1]}; did you mean {meant}?"
    return f"{message}; see {help_page}."

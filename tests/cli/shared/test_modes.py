"""Every option acts or is refused: the tables of modes, each pair of a mode and an option, and the mechanism itself."""

from __future__ import annotations

import importlib
import shlex
from typing import Annotated, Any

import pytest
import typer
from conftest import Command

from gptlite.cli import main as command_line
from gptlite.cli.shared.modes import Modes
from gptlite.errors import UsageError

# -- The mechanism

TABLE = Modes(
    everywhere={"quiet", "out", "force", "one", "two"},
    only={"a text": {"temperature", "word"}, "--choice": {"choice", "per_token"}},
    needs={"force": "out", "per_token": ("choice", "word")},
    exclusive=[("one", "two")],
)


def refusal(*arguments: str, mode: str | None = "a text") -> str:
    """What the table says of these arguments; "" where they are accepted."""
    app = typer.Typer()

    def command(
        call: typer.Context,
        word: Annotated[str | None, typer.Argument(metavar="WORD")] = None,
        temperature: Annotated[float, typer.Option("-t", "--temperature")] = 1.0,
        choice: Annotated[str | None, typer.Option("--choice")] = None,
        per_token: Annotated[bool, typer.Option("--per-token/--whole")] = False,
        out: Annotated[str | None, typer.Option("-o", "--out")] = None,
        force: Annotated[bool, typer.Option("--force")] = False,
        quiet: Annotated[bool, typer.Option("-q", envvar="TEST_QUIET")] = False,
        one: Annotated[bool, typer.Option("--one")] = False,
        two: Annotated[bool, typer.Option("--two")] = False,
    ) -> None:
        TABLE.check(call, mode)

    app.command()(command)
    try:
        app(list(arguments), standalone_mode=False)
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("arguments", "mode", "said"),
    [
        ("", "a text", ""),
        ("word -t 2 -q", "a text", ""),
        ("-t 1", "a text", ""),
        ("-t 1", "--choice", "--temperature does nothing with --choice; it goes with a text."),
        ("word", "--choice", "WORD does nothing with --choice; it goes with a text."),
        ("--whole --choice x", "a text", "--choice does nothing with a text; it goes with --choice."),
        ("--whole", "--choice", "--per-token does nothing without --choice or WORD."),
        ("--force", "a text", "--force does nothing without --out."),
        ("--force -o x", "a text", ""),
        ("--one", "a text", ""),
        ("--two --one", "a text", "give only one of --one and --two."),
    ],
)
def test_what_would_do_nothing_is_refused(arguments: str, mode: str, said: str) -> None:
    assert refusal(*shlex.split(arguments), mode=mode) == said


def test_a_default_given_in_so_many_words_counts_as_given() -> None:
    assert "--temperature" in refusal("-t", "1.0", mode="--choice")


# -- The tables of the commands

APP: Any = typer.main.get_command(command_line.build_app(*command_line.COMMANDS))


def commands(group: Any = APP, before: str = "") -> dict[str, Any]:
    """Every command by its name; those of a group as "words nearest"."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        found |= commands(command, f"{before}{name} ") if inner else {f"{before}{name}": command}
    return found


def table_of(command: Any) -> Modes | None:
    """MODES of the module in which the function of a command stands."""
    tables = getattr(importlib.import_module(command.callback.__module__), "MODES", None)
    return tables.get(command.callback.__name__) if isinstance(tables, dict) else tables


TABLES = {name: table for name, command in commands().items() if (table := table_of(command))}

# How each mode is entered. A model that is not there ends a command before it does any work.
EXAMPLES: dict[tuple[str, str], str] = {
    ("score", "a table of units"): "x.txt -m nowhere",
    ("score", "--pairs"): "x.csv --pairs -m nowhere",
    ("eval", "one model"): "x.txt -m gone",
    ("eval", "several models"): "x.txt -m gone -m gone",
}


def value(parameter: Any) -> list[str]:
    """Arguments that give a parameter."""
    annotation = parameter.type_descriptor
    example = str(annotation.choices[0]) if annotation.choices else "3"
    if parameter.param_type_name == "argument":
        return [example]
    return [parameter.opts[-1]] if parameter.is_flag else [parameter.opts[-1], *[example] * parameter.nargs]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_names_every_option_of_its_command(name: str) -> None:
    parameters = {parameter.name for parameter in commands()[name].params}
    assert TABLES[name].parameters() == parameters
    assert {*TABLES[name].needs} <= parameters
    assert {mode for command, mode in EXAMPLES if command == name} == {*TABLES[name].only}


@pytest.mark.parametrize(("name", "mode"), EXAMPLES)
def test_each_option_acts_in_a_mode_or_is_refused(gptlite: Command, name: str, mode: str) -> None:
    table, words = TABLES[name], [*name.split(), *shlex.split(EXAMPLES[name, mode])]
    assert " does nothing " not in gptlite(*words).err
    for parameter in commands()[name].params:
        if any(option in words for option in parameter.opts) or parameter.param_type_name == "argument":
            continue
        outcome = gptlite(*words, *value(parameter))
        other = parameter.name in table.needs or any(parameter.name in group for group in table.exclusive)
        if not table.acts(parameter.name, mode):
            assert outcome.code == 2, (parameter.name, outcome)
            assert f"{parameter.opts[-1]} does nothing with {mode}" in outcome.err or "give only one of" in outcome.err
        elif not other:
            assert " does nothing " not in outcome.err, (parameter.name, outcome)

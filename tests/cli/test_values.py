"""Values of options: what is taken without typer's own check is what that check would make of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from gptlite.cli import main as command_line
from gptlite.cli.shared import values

APP: Any = typer.main.get_command(command_line.build_app(*command_line.COMMANDS))
PARAMETERS = [(name, p) for name, command in APP.commands.items() for p in command.params]
TYPED = ["", " ", "a", "-", "0", "7", "-3", "+5", "007", "1_000", "1.5", "-0.25", ".5", "2.", "1e3", "nan", "inf", "٣",
         "10k", "3m", "auto", "true", "9" * 15, "9" * 16, "0.1234567890123456", "\udcff", "the=-1.5"]  # fmt: skip
NEEDED = """
import sys
from gptlite.cli.main import run
code = run(sys.argv[1:])
sys.exit(f"imported {sys.modules['pydantic']}" if "pydantic" in sys.modules else code)
"""


def answer(make: Any) -> Any:
    """What it gives, or the sentence in which it refuses."""
    try:
        value = make()
        return type(value), repr(value)
    except typer.BadParameter as error:
        return str(error)


@pytest.mark.parametrize(("command", "parameter"), PARAMETERS, ids=[f"{c}-{p.name}" for c, p in PARAMETERS])
def test_what_is_plain_is_what_typer_makes_of_it(command: str, parameter: Any) -> None:
    context = typer.Context(APP.commands[command], info_name=command)
    kind, about = parameter.type_descriptor.annotation, parameter.type_descriptor.parameter_info
    theirs = parameter.get_runtime_param()
    ours = values.Coercion(lambda: theirs)
    many = parameter.multiple or parameter.nargs != 1
    wrapped = [[text] * max(1, parameter.nargs) for text in TYPED] if many else TYPED
    for value in (None, parameter.get_default(context), *wrapped):
        expected = answer(lambda value=value: theirs.coerce(value, param=parameter, ctx=context))
        assert answer(lambda value=value: ours.coerce(value, parameter, context)) == expected, value
        try:  # and it is not all left to typer
            plain = answer(lambda value=value: values.take(value, kind, about))
        except values.Doubtful:
            assert value in (None, "") or kind is not str, value
        else:
            assert value is None or plain == expected, value


def test_most_values_are_plain() -> None:
    for command, parameter in PARAMETERS:
        value = parameter.get_default(typer.Context(APP.commands[command], info_name=command))
        if value is not None and not isinstance(value, bool):
            kind, about = parameter.type_descriptor.annotation, parameter.type_descriptor.parameter_info
            assert values.take(value, kind, about) == value, (command, parameter.name)


@pytest.mark.parametrize(
    "question",
    [("embed", "--nearest", "river", "-k", "3"), ("info",), ("generate", "--max-new-tokens", "2", "--top-p", "0.9")],
)
def test_no_answer_waits_for_pydantic(trained_run: Path, question: tuple[str, ...]) -> None:
    command, *options = question
    model = [trained_run] if command == "info" else ["-m", trained_run]
    line = [sys.executable, "-c", NEEDED, command, *model, *options]
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

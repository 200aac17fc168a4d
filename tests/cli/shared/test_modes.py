"""Every option acts or is refused: the tables of modes, each pair of a mode and an option, and the mechanism itself."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from conftest import Command
from support.commands import COMMANDS

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
        ("-t 1", "--choice", "--temperature does nothing with --choice; it goes with: a text."),
        ("word", "--choice", "WORD does nothing with --choice; it goes with: a text."),
        ("--whole --choice x", "a text", "--choice does nothing with a text; it goes with: --choice."),
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


def table_of(command: Any) -> Modes | None:
    """MODES of the module in which the function of a command stands."""
    tables = getattr(importlib.import_module(command.callback.__module__), "MODES", None)
    return tables.get(command.callback.__name__) if isinstance(tables, dict) else tables


TABLES = {name: table for name, command in COMMANDS.items() if (table := table_of(command))}

# Command lines, and the modes in which they are. A model that is not there ends a command before it does any work.
ASKING = {
    "": ("--from words",),
    "--from table": ("--from table",),
    "--from average": ("--from average",),
    "--versus word2vec": ("--from words", "--versus word2vec"),
    "--versus word2vec --from average": ("--from average", "--versus word2vec"),
}
EXAMPLES: dict[tuple[str, str], tuple[str, ...]] = {
    ("eval", "x.txt"): ("one model",),
    ("eval", "x.txt -m gone"): ("several models",),
    ("eval", "--held-out gone"): ("--held-out",),
    ("generate", "a"): ("a prompt",),
    ("generate", "--prompts marked.txt"): ("--prompts", "a file or standard input"),
    ("generate", "-f marked.txt"): ("a prompt", "a file or standard input"),
    ("generate", "--choice x"): ("--choice",),
    ("generate", "-i"): ("-i",),
    ("embed", "'a [b]'"): ("a comparison", "marked words"),
    ("embed", "'a [b]' --context both"): ("--context both", "marked words"),
    ("embed", "'a [b]' --by-layer"): ("--by-layer", "marked words"),
    ("embed", "'a [b]' -o x.npz"): ("-o FILE", "marked words"),
    ("embed", "'a [b]' -o x.npz --json"): ("a comparison", "-o FILE", "marked words"),
    ("embed", "'a [b]' -o -"): ("-o -", "marked words"),
    ("embed", "'a [b]' -o x.html"): ("-o FILE.html", "marked words"),
    ("embed", "'a [b]' -o x.csv"): ("-o FILE", "-o FILE.csv or .tsv", "marked words"),
    ("embed", "'a [b]' --figures x"): ("a comparison", "--figures", "marked words"),
    ("embed", "-f marked.txt"): ("a comparison", "lines of a file", "marked words"),
    ("embed", "-w b 'a b'"): ("a comparison", "--word"),
    ("embed", "--tokens 'a b'"): ("a comparison", "--tokens"),
    ("embed", "--sentence 'a b'"): ("a comparison", "--sentence"),
    ("compare", "x.txt"): ("a new comparison",),
    ("compare", "--resume"): ("--resume",),
    ("report", "gone"): ("one run",),
    ("report", "gone other"): ("several runs",),
    ("concordance", "marked marked.txt"): ("lines of FILE",),
    ("concordance", "marked"): ("the text of a run",),
    ("concordance", "marked marked.txt --senses 2"): ("lines of FILE", "--senses"),
    ("inspect", "a"): ("a table of tokens",),
    ("inspect", "-f marked.txt"): ("a table of tokens", "a file or standard input"),
    ("inspect", "a --level word"): ("--level word",),
    ("inspect", "a --lens"): ("--lens, --attention or --explain",),
    ("inspect", "a --attention all"): ("--lens, --attention or --explain", "--attention or --explain"),
    ("inspect", "a --json"): ("JSON",),
    ("inspect", "a -o x.json"): ("JSON", "-o FILE"),
    ("inspect", "a --format tsv"): ("--format or a file of tokens",),
    ("inspect", "a -o x.tsv"): ("--format or a file of tokens", "-o FILE"),
    ("inspect", "a --level word --format csv"): ("--format or a file of words",),
    ("inspect", "a -o x.html"): ("a page or --figures", "-o FILE"),
    ("inspect", "a --figures x"): ("a table of tokens", "a page or --figures", "-o FILE"),
    **{("words nearest", f"a {options}"): modes for options, modes in ASKING.items()},
    **{("words analogy", f"a b c {options}"): modes for options, modes in ASKING.items()},
    **{("words odd", f"a b c {options}"): modes for options, modes in ASKING.items()},
    **{("words evaluate", f"x.tsv {options}"): modes for options, modes in ASKING.items()},
    ("export", "--to gguf"): ("--to gguf",),
    ("export", "--to html"): ("--to html",),
    ("score", "x.txt"): ("a table of units", "cells of .csv or .tsv"),
    ("score", "x.txt --format jsonl"): ("a table of units",),
    ("score", "x.txt --plot x.svg"): ("--plot",),
    ("score", "x.csv --pairs"): ("--pairs", "cells of .csv or .tsv"),
    ("words export", "-o -"): ("--from words",),
    ("words export", "-o - --from table"): ("--from table",),
    ("words export", "-o x.vec"): ("--from words", "-o FILE"),
    ("words export", "-o x.csv --from average"): ("--from average", "-o FILE", "-o FILE.csv or .tsv"),
}
# Options that change the mode, though they do not act in all.
VIEWS = {"lens", "attention", "explain"}
UNITS = {"word", "tokens", "sentence"}
SWITCHES = {
    ("inspect", "a"): VIEWS,
    ("inspect", "-f marked.txt"): VIEWS,
    ("inspect", "a --level word"): VIEWS,
    ("inspect", "a --figures x"): VIEWS,
    ("compare", "x.txt"): {"resume"},
    ("eval", "x.txt"): {"held_out"},
    ("eval", "x.txt -m gone"): {"held_out"},
}


OTHER_FILES = {"generate": "y.txt", "score": "y.tsv", "export": "y.gguf"}  # that a command writes, where y.json is none


def value(parameter: Any, command: str) -> list[str]:
    """Arguments that give a parameter."""
    annotation = parameter.type_descriptor
    example = str(annotation.choices[-1]) if annotation.choices else "3"
    example = {"out": OTHER_FILES.get(command, "y.json"), "file": "marked.txt"}.get(parameter.name, example)
    if parameter.param_type_name == "argument":
        return [example]
    return [parameter.opts[-1]] if parameter.is_flag else [parameter.opts[-1], *[example] * parameter.nargs]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_names_every_option_of_its_command(name: str) -> None:
    parameters = {parameter.name for parameter in COMMANDS[name].params}
    assert TABLES[name].parameters() == parameters
    assert {*TABLES[name].needs} <= parameters
    tried = {mode for (command, _), modes in EXAMPLES.items() if command == name for mode in modes}
    assert tried == {*TABLES[name].only}


@pytest.mark.parametrize(("name", "line"), EXAMPLES)
def test_each_option_acts_in_a_mode_or_is_refused(gptlite: Command, name: str, line: str) -> None:
    table, modes, words = TABLES[name], EXAMPLES[name, line], [*name.split(), *shlex.split(line)]
    Path("marked.txt").write_text("a [marked] word\n")
    words += ["-m", "gone"] if table.acts("model", *modes) else []
    parameters = COMMANDS[name].params
    given = {p.name for p in parameters if any(option in words for option in p.opts)}
    assert " does nothing " not in gptlite(*words).err
    for parameter in parameters:
        if parameter.name in given or parameter.param_type_name == "argument":
            continue
        outcome = gptlite(*words, *value(parameter, name))
        refused = f"{parameter.opts[-1]} does nothing with {modes[0]}" in outcome.err
        if any({parameter.name, other} <= {*group} for group in table.exclusive for other in given):
            assert "give only one of" in outcome.err, (parameter.name, outcome)
        elif parameter.name in table.needs:
            assert outcome.code != 0, (parameter.name, outcome)
        elif table.acts(parameter.name, *modes) or parameter.name in SWITCHES.get((name, line), ()):
            assert parameter.opts[-1] + " does nothing" not in outcome.err, (parameter.name, outcome)
        else:
            assert (refused, outcome.code) == (True, 2), (parameter.name, outcome)

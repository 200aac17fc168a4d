"""Writes the pages of docs/reference that come from the code: `make reference`.

python.md is made from the docstrings of the public names, cli.md and the manual page gptlite.1 from the commands and
their options.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

import gptlite
from gptlite.cli import main as command_line
from gptlite.cli.shared import parsing
from gptlite.embedding.comparison import Embeddings, Pair
from gptlite.embedding.contextual import WordVector
from gptlite.evaluation.inspection import Reading, Word
from gptlite.generation.generate import Sample

FOLDER = Path(__file__).parent / "reference"
RETURNED = (Sample, Embeddings, WordVector, Pair, Reading, Word)  # by the methods of `Model`
WIDTH = 110  # columns of a signature


NOTES = {  # what is too long for a help page
    "generate": """
- `-o FILE` writes what would be printed; between samples stands a line `====================`. FILE.jsonl gets one JSON
  object per sample. A terminal still shows a text that streams.
- `--logprobs K` shows below the text how probable each token was to the model, before temperature and cuts, and the K
  likeliest tokens. With `--json` they are the `top` of each token, and `logprob` is in nats.
- `--color surprise` tints the text on a terminal by the bits that each token was worth.
- `--repetition-penalty F` divides positive logits of tokens in prompt and text by F, and multiplies negative ones.
- `--dtype int8` costs about 0.0001 bits per byte.
- `-i` joins what is typed to the text, and the model continues it.
""",
    "train": """
- FILES are text files, folders or patterns such as `'*.md'`; `-` reads standard input.
- `--demo` trains on the language reference inside Python; `--demo homonyms` on a made-up language whose words have
  known senses.
- `--init-from` continues from a trained model, with its tokenizer, on new text.
- `--logger` is another name for `--log`, and `--processes` for `--gpus`.
""",
}


def render() -> dict[Path, str]:
    """The pages by file, the same for the same code."""
    made = {"python.md": _page(), "cli.md": _command_page(), "gptlite.1": _manual()}
    return {FOLDER / name: "\n".join(lines).rstrip() + "\n" for name, lines in made.items()}


def _page() -> Iterator[str]:
    yield "# Python\n"
    yield "<!-- Made by docs/make_reference.py from the docstrings: change those, then run `make reference`. -->\n"
    yield _prose(gptlite.__doc__ or "")
    yield "Shapes: B texts, T positions, N tokens of a text, L blocks, D the width of the residual stream, V the"
    yield "vocabulary. Units are in the text; where none is said, lengths are in tokens and numbers have no unit.\n"
    yield "## Functions\n"
    for name in ("train", "load"):
        yield from _function(f"gptlite.{name}", getattr(gptlite, name), "###")
    yield "## gptlite.Model\n"
    yield _prose(inspect.getdoc(gptlite.Model) or "")
    yield from _members(gptlite.Model)
    yield "## Settings\n"
    for kind in (gptlite.SamplingConfig, gptlite.TrainConfig, gptlite.ModelConfig):
        yield from _record(f"gptlite.{kind.__name__}", kind)
    yield "## What methods return\n"
    for kind in RETURNED:
        yield from _record(kind.__name__, kind)
    yield "## Errors\n"
    yield _prose(inspect.getdoc(gptlite.errors) or "")


def _record(name: str, kind: type) -> Iterator[str]:
    yield f"### {name}\n"
    yield _prose(inspect.getdoc(kind) or "")
    if dataclasses.is_dataclass(kind):
        fields = [f"{field.name}: {field.type}{_default(field)}" for field in dataclasses.fields(kind)]
        yield "```python\n" + "\n".join(fields) + "\n```\n"
    yield from _members(kind)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f" = {field.default_factory.__name__}()"
    if isinstance(field.default, str):
        return f' = "{field.default}"'
    return "" if field.default is dataclasses.MISSING else f" = {field.default!r}"


def _members(kind: type) -> Iterator[str]:
    """The public methods and properties that the class itself defines, in the order of its source."""
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        found = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if not found.__doc__:
            continue
        if inspect.isfunction(found):
            yield from _function(f"{kind.__name__}.{name}", found, "####")
        elif isinstance(member, property) or type(member).__name__ == "cached_property":
            getter = getattr(member, "fget", None) or getattr(member, "func")  # noqa: B009
            returned = inspect.signature(getter).return_annotation
            yield f"#### {kind.__name__}.{name}: {returned}\n"
            yield _prose(inspect.getdoc(getter) or "")


def _function(name: str, function: Any, heading: str) -> Iterator[str]:
    yield f"{heading} {name}\n"
    yield f"```python\n{_signature(name.split('.')[-1], function)}\n```\n"
    yield _prose(inspect.getdoc(function) or "")


def _signature(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    shown = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    parameters = [re.sub(r" = <.*>$", " = ...", str(p)) for p in shown]
    parameters = [re.sub(r"^(\**\w+): '(.*?)'(?= = |$)", r"\1: \2", text) for text in parameters]
    kinds = [p.kind for p in shown]
    if inspect.Parameter.KEYWORD_ONLY in kinds:
        parameters.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    returned = signature.return_annotation
    end = "" if returned is inspect.Signature.empty else f" -> {returned}"
    line = f"{name}({', '.join(parameters)}){end}"
    if len(line) <= WIDTH:
        return line
    inner = "".join(f"    {parameter},\n" for parameter in parameters)
    return f"{name}(\n{inner}){end}"


def _prose(docstring: str) -> str:
    """A docstring as Markdown: blocks of code are fenced, and a list begins after an empty line."""
    text = inspect.cleandoc(docstring)
    lines: list[str] = []
    listed = False
    for line in text.split("\n"):
        starts = line.startswith("- ")
        continues = listed and line.startswith("  ")
        if (starts and not listed) or (listed and not starts and not continues and line):
            lines.append("")
        listed = starts or continues
        lines.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _command_page() -> Iterator[str]:
    yield "# Command line\n"
    yield "<!-- Made by docs/make_reference.py from the commands: change those, then run `make reference`. -->\n"
    yield "Every command with all of its options. Options for experts are left out of the pages that `--help` shows;"
    yield "they work like the others. Where no default is given, the option is off.\n"
    app: Any = parsing.show_plainly(typer.main.get_command(command_line.build_app(*command_line.COMMANDS)))
    for name in command_line.COMMANDS:
        yield from _command(f"gptlite {name}", app.commands[name])


def _command(name: str, command: Any) -> Iterator[str]:
    description, *others = [
        Text.from_markup(part).plain.strip() for part in inspect.cleandoc(command.help).split("\n\n")
    ]
    if inner := getattr(command, "commands", {}):
        yield f"## {name}\n"
        yield f"{_flow(description)}\n"
        for part, each in inner.items():
            yield from _command(f"{name} {part}", each)
        return
    yield f"## {name}\n"
    yield f"{_flow(description)}\n"
    usage = " ".join(command.collect_usage_pieces(typer.Context(command)))
    yield f"    {name} {usage}\n"
    examples, more = [[t for t in others if t.startswith("gptlite ") is is_example] for is_example in (True, False)]
    for example in examples:
        yield f"Example: `{_flow(example)}`\n"
    yield from (f"{_flow(text)}\n" for text in more)
    if note := NOTES.get(name.removeprefix("gptlite ")):
        yield note.strip() + "\n"
    experts = parsing.hidden_options(command)
    shown = [p for p in command.params if p not in experts]
    yield from _table(shown)
    if experts:
        yield f"### Options for experts: {name}\n"
        yield from _table(experts)


def _table(parameters: list[Any]) -> Iterator[str]:
    if not parameters:
        return
    yield "| option | value | default | meaning |"
    yield "|---|---|---|---|"
    for parameter in parameters:
        is_option = parameter.param_type_name == "option"
        names = [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.metavar or parameter.name]
        cells = [", ".join(f"`{n}`" for n in names), _value(parameter) if is_option else "", _shown_default(parameter)]
        yield "| " + " | ".join(_cell(text) for text in [*cells, Text.from_markup(parameter.help or "").plain]) + " |"
    yield ""


def _value(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return ""
    choices = getattr(parameter.type_descriptor, "choices", None)
    return parameter.metavar or (
        "|".join(map(str, choices)) if choices else str(parameter.type_descriptor.name).upper()
    )


def _shown_default(parameter: Any) -> str:
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    if parameter.required:
        return "required"
    if getattr(parameter, "is_flag", False):
        return parameter.opts[0] if parameter.secondary_opts and parameter.default else ""
    return "" if parameter.default is None else str(parameter.default)


def _cell(text: str) -> str:
    return _flow(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


# -- The manual page


def _manual() -> Iterator[str]:
    """The commands with the options that their help pages show, in the macros of man(7)."""
    app: Any = parsing.show_plainly(typer.main.get_command(command_line.build_app(*command_line.COMMANDS)))
    yield r".\" Made by docs/make_reference.py from the commands."
    yield f'.TH GPTLITE 1 "" "gptlite {gptlite.__version__}" "User Commands"'
    yield ".SH NAME\ngptlite \\- text files to a small GPT, samples, and what attention does to words"
    yield ".SH SYNOPSIS\n.B gptlite\n.I COMMAND\n[OPTIONS] [ARGUMENTS]"
    yield f".SH DESCRIPTION\n{_roff(app.help)}"
    yield _roff("gptlite COMMAND --help-all shows all options of a command, those for experts included.")
    yield ".SH COMMANDS"
    for name in command_line.COMMANDS:
        yield from _manual_of(f"gptlite {name}", app.commands[name])
    yield ".SH EXIT STATUS\n0 done, 1 a bug, 2 usage, 3 text, 4 checkpoint, 5 storage, 6 numerics, 7 run in use,"
    yield "8 limits, 9 another process of the training ended, 129, 130 or 143 ended by a signal."
    yield ".SH ENVIRONMENT\n.TP\n.B GPTLITE_MODEL\nThe model that commands use where none is named."
    yield ".TP\n.B GPTLITE_CACHE\nThe folder for tokens and machine code, in place of the system's folder for caches."


def _manual_of(name: str, command: Any) -> Iterator[str]:
    description = Text.from_markup(inspect.cleandoc(command.help).split("\n\n")[0]).plain
    if inner := getattr(command, "commands", {}):
        for part, each in inner.items():
            yield from _manual_of(f"{name} {part}", each)
        return
    yield f".SS {_roff(name)} {_roff(' '.join(command.collect_usage_pieces(typer.Context(command))))}"
    yield _roff(_flow(description))
    hidden = parsing.hidden_options(command)
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter not in hidden:
            names = ", ".join([*parameter.opts, *parameter.secondary_opts])
            meaning = _flow(Text.from_markup(parameter.help or "").plain)
            default = _shown_default(parameter)
            yield f".TP\n.B {_roff(f'{names} {_value(parameter)}'.strip())}"
            yield _roff(f"{meaning} [default: {default}]" if default else meaning)


def _roff(text: str) -> str:
    """A text in which roff finds no request of its own."""
    plain = text.replace("\\", r"\e").replace("-", r"\-").replace("`", "")
    return rf"\&{plain}" if plain.startswith((".", "'")) else plain


def _flow(text: str) -> str:
    """A text without its line breaks."""
    return " ".join(text.split())


if __name__ == "__main__":
    for page, text in render().items():
        page.write_text(text, encoding="utf-8")

"""Writes docs/reference/python.md from the docstrings of the public names: `make reference`."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gptlite
from gptlite.embedding.comparison import Embeddings, Pair
from gptlite.embedding.contextual import WordVector
from gptlite.evaluation.inspection import Reading, Word
from gptlite.generation.generate import Sample

PAGE = Path(__file__).parent / "reference" / "python.md"
RETURNED = (Sample, Embeddings, WordVector, Pair, Reading, Word)  # by the methods of `Model`
WIDTH = 110  # columns of a signature


def render() -> str:
    """The page, the same for the same docstrings."""
    return "\n".join(_page()).rstrip() + "\n"


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


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")

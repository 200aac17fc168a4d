"""The reference of the Python interface is what the docstrings say."""

from __future__ import annotations

import dataclasses
import inspect
import re
import runpy
from pathlib import Path
from typing import Any

import gptlite as library

ROOT = Path(__file__).parent.parent.parent


def test_the_reference_is_current() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))
    page = ROOT / "docs" / "reference" / "python.md"
    assert made["render"]()[page] == page.read_text(encoding="utf-8"), "run: make reference"


def test_public_methods_describe_their_arguments() -> None:
    """Every argument of a public function is named in its docstring, or is one of `SamplingConfig`."""
    settings = {field.name for field in dataclasses.fields(library.SamplingConfig)}
    functions: list[Any] = [library.load, library.Model.generate, library.Model.embed, library.Model.score]
    for function in functions:
        named = set(re.findall(r"`(\w+)`", inspect.getdoc(function) or ""))
        arguments = set(inspect.signature(function).parameters) - {"self", "prompt"}
        assert arguments - named - settings == set(), function.__name__

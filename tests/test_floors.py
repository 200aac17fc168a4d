"""The floors of the house: which package may import which, read from the source (CONTRIBUTING.md has the tour)."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parent.parent / "gptlite"

# From the ground up: the packages and modules of a floor may import those of the floors below it.
FLOORS = (
    {"errors", "randomness", "distribution", "system"},
    {"config", "paths", "storage", "device"},
    {"text", "kv_cache"},
    {"model"},
    {"tracing", "kernels"},
    {"checkpoint", "generation", "evaluation"},
    {"embedding", "baselines"},
    {"training"},
    {"trained_model", "report", "comparison"},
    {"serving"},
    {"cli"},
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
PYTHON_ALONE = {"config", "distribution", "errors", "randomness"}  # import nothing that has to be installed


def room(path: Path) -> str:
    """The package or module at the top of the library to which a file belongs."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


FILES = sorted(path for path in LIBRARY.rglob("*.py") if not room(path).startswith("__"))
COMMANDS = [path for path in FILES if room(path) == "cli"]
COMPUTING = [path for path in FILES if room(path) != "cli"]


def imports(path: Path, *, when_loaded: bool = False) -> Iterator[str]:
    """Full names of what a file imports; with `when_loaded` only what is not left to functions or type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if when_loaded else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms(names: Iterator[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("gptlite.")} & FLOOR_OF.keys()


def named(path: Path) -> str:
    return path.relative_to(LIBRARY).as_posix()


def test_every_room_has_a_floor() -> None:
    assert {room(path) for path in FILES} == set(FLOOR_OF)


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_point_down(path: Path) -> None:
    for other in rooms(imports(path)) - {room(path)}:
        assert FLOOR_OF[other] < FLOOR_OF[room(path)], f"{named(path)} must not import {other}"


def test_pages_are_made_of_plain_values() -> None:
    """They read no model, so that any program's numbers can be shown."""
    for path in FILES:
        if room(path) == "report":
            assert rooms(imports(path)) <= {"report", "distribution", "errors", "evaluation"}, named(path)
            assert not {name for name in imports(path) if name.split(".")[0] == "torch"}, named(path)


def test_modules_import_each_other_without_circles() -> None:
    modules = {".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts): path for path in FILES}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        found = {full if full in modules else full.rpartition(".")[0] for full in imports(path, when_loaded=True)}
        graph[name] = found & modules.keys() - {name}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("path", COMPUTING, ids=named)
def test_the_library_renders_nothing(path: Path) -> None:
    assert not {name for name in imports(path) if name.split(".")[0] in ("rich", "typer", "click")}
    calls = (n.func for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call))
    assert not [c for c in calls if isinstance(c, ast.Name) and c.id in ("print", "input")]


@pytest.mark.parametrize("path", [path for path in COMPUTING if room(path) != "report"], ids=named)
def test_messages_name_parameters_not_flags(path: Path) -> None:
    """The library says `context_length`, the command line --context: cli/shared/flags.py translates.

    Docstrings may speak of commands. In pages, names such as --ink are those of style sheets.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = [n.body for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef) and n.body]
    docstrings = {body[0].value for body in bodies if isinstance(body[0], ast.Expr)}
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and n not in docstrings]
    assert not [text for text in texts if isinstance(text, str) and re.search(r"(?<![\w-])--[a-z]", text)]


def test_the_ground_floor_needs_only_python() -> None:
    for path in FILES:
        if room(path) in PYTHON_ALONE:
            others = {name.split(".")[0] for name in imports(path)} - {"gptlite"}
            assert others <= sys.stdlib_module_names, named(path)


def test_commands_start_light() -> None:
    """Nothing heavy is imported with the commands' files, so that --help is quick."""
    modules = [".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts) for path in COMMANDS]
    imported = "; ".join(f"import {name}" for name in modules)
    heavy = "{'torch', 'numpy', 'tokenizers', 'safetensors'}"
    code = f"import sys; {imported}; print(*sorted({heavy} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""


def test_only_the_device_file_looks_for_devices() -> None:
    for path in FILES:
        assert room(path) == "device" or "cuda.is_available" not in path.read_text(encoding="utf-8"), named(path)


def test_nothing_is_pickled() -> None:
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<!safetensors\.)\btorch\.(load|save)\b", source), named(path)
        assert not {name for name in imports(path) if name.split(".")[0] in ("pickle", "shelve", "marshal", "joblib")}


def test_only_the_console_knows_rich() -> None:
    for path in COMMANDS:
        knows = {name for name in imports(path) if name.split(".")[0] == "rich"}
        assert path.stem == "console" or not knows, named(path)


LONGEST_FILE = 450  # lines
LONGEST_BODY = 80  # lines of a function after its signature, which in commands declares the options


@pytest.mark.parametrize("path", FILES, ids=named)
def test_files_and_functions_are_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= LONGEST_FILE, "split the file"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.body[0].lineno + 1
            assert length <= LONGEST_BODY, f"{node.name} has {length} lines: split it"

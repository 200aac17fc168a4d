"""The floors of the house: which package may import which, read from the source (CONTRIBUTING.md has the tour)."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Source:
    """What the rules ask of a file, which is read once for all of them."""

    imports: frozenset[str]  # full names of all that it imports
    imports_when_loaded: frozenset[str]  # those that are not left to functions or type checkers
    called: frozenset[str]  # names of the functions that are called by a plain name
    texts: frozenset[str]  # strings, without docstrings
    long: tuple[str, ...]  # functions whose body is longer than LONGEST_BODY


def imported(nodes: list[ast.AST] | list[ast.stmt], path: Path) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def read(path: Path) -> Source:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    bodies = [n.body for n in nodes if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef) and n.body]
    docstrings = {body[0].value for body in bodies if isinstance(body[0], ast.Expr)}
    lengths = [(f.name, (f.end_lineno or 0) - f.body[0].lineno + 1) for f in functions]
    return Source(
        frozenset(imported(nodes, path)),
        frozenset(imported(tree.body, path)),
        frozenset(n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)),
        frozenset(
            n.value for n in nodes if isinstance(n, ast.Constant) and n not in docstrings and isinstance(n.value, str)
        ),
        tuple(f"{name} has {n} lines" for name, n in lengths if n > LONGEST_BODY),
    )


def packages(path: Path) -> set[str]:
    """The first parts of what a file imports."""
    return {name.split(".")[0] for name in read(path).imports}


LONGEST_FILE = 450  # lines
LONGEST_BODY = 80  # lines of a function after its signature, which in commands declares the options


def rooms(names: frozenset[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("gptlite.")} & FLOOR_OF.keys()


def named(path: Path) -> str:
    return path.relative_to(LIBRARY).as_posix()


def test_every_room_has_a_floor() -> None:
    assert {room(path) for path in FILES} == set(FLOOR_OF)


def test_imports_point_down() -> None:
    found = [(path, other) for path in FILES for other in rooms(read(path).imports) - {room(path)}]
    wrong = [
        f"{named(path)} must not import {other}" for path, other in found if FLOOR_OF[other] >= FLOOR_OF[room(path)]
    ]
    assert not wrong, "\n".join(wrong)


def test_pages_are_made_of_plain_values() -> None:
    """They read no model, so that any program's numbers can be shown."""
    for path in FILES:
        if room(path) == "report":
            assert rooms(read(path).imports) <= {"report", "distribution", "errors", "evaluation"}, named(path)
            assert "torch" not in packages(path), named(path)


def test_modules_import_each_other_without_circles() -> None:
    modules = {".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts): path for path in FILES}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        found = {full if full in modules else full.rpartition(".")[0] for full in read(path).imports_when_loaded}
        graph[name] = found & modules.keys() - {name}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_library_renders_nothing() -> None:
    for path in COMPUTING:
        assert not packages(path) & {"rich", "typer", "click"}, named(path)
        assert not read(path).called & {"print", "input"}, named(path)


def test_messages_name_parameters_not_flags() -> None:
    """The library says `context_length`, the command line --context: cli/shared/flags.py translates.

    Docstrings may speak of commands. In pages, names such as --ink are those of style sheets.
    """
    for path in COMPUTING:
        if room(path) != "report":
            flags = [text for text in read(path).texts if re.search(r"(?<![\w-])--[a-z]", text)]
            assert not flags, f"{named(path)}: {flags}"


def test_the_ground_floor_needs_only_python() -> None:
    for path in FILES:
        if room(path) in PYTHON_ALONE:
            others = packages(path) - {"gptlite"}
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
        assert not packages(path) & {"pickle", "shelve", "marshal", "joblib"}, named(path)


def test_only_the_console_knows_rich() -> None:
    for path in COMMANDS:
        assert path.stem == "console" or "rich" not in packages(path), named(path)


def test_files_and_functions_are_short() -> None:
    for path in FILES:
        assert path.read_text(encoding="utf-8").count("\n") <= LONGEST_FILE, f"{named(path)}: split the file"
        assert not read(path).long, f"{named(path)}: {read(path).long[0]}: split it"

"""The floors of the house: who may import whom, read from the source with ast (CONTRIBUTING.md has the tour)."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    0: (
        "errors",
        "config",
        "randomness",
        "words",
        "strict",
        "tokenizer_file",
        "background",
        "speakers",
        "stopping",
        "surprise",
    ),
    1: (
        "device",
        "distributed",
        "tokenizer",
        "corpus",
        "cache",
        "sampling",
        "steering",
        "logprobs",
        "hf",
        "durable",
        "reader",
        "similarity",
        "word2vec_file",
        "senses",
        "kernel",
    ),
    2: ("model", "data", "optim", "fused", "bigrams", "copies", "events", "gguf"),
    3: (
        "checkpoint",
        "runs",
        "tracing",
        "evaluation",
        "yardsticks",
        "speed",
        "compilation",
        "word_evaluation",
        "decoding",
    ),
    4: (
        "training",
        "training_state",
        "pipeline",
        "generation",
        "choices",
        "embedding",
        "calibration",
        "averages",
        "static_vectors",
        "vector_files",
        "comparison",
        "trained_model",
        "layers",
        "planning",
        "verification",
        "material",
        "outlook",
        "origin",
        "resuming",
        "gguf_verification",
        "inspection",
    ),
}
FLOOR_OF = {module: floor for floor, modules in FLOORS.items() for module in modules}

# Neighbours on one floor that may look at each other, in this direction only.
NEIGHBOURS = {
    ("config", "errors"),
    ("stopping", "errors"),
    ("sampling", "steering"),
    ("steering", "tokenizer"),
    ("choices", "generation"),
    ("reader", "durable"),
    ("words", "errors"),
    ("strict", "errors"),
    ("tokenizer_file", "errors"),
    ("tokenizer_file", "strict"),
    ("vector_files", "embedding"),
    ("comparison", "embedding"),
    ("comparison", "vector_files"),
    ("trained_model", "embedding"),
    ("trained_model", "comparison"),
    ("senses", "similarity"),
    ("layers", "calibration"),
    ("logprobs", "tokenizer"),
    ("kernel", "durable"),
    ("gguf", "model"),
    ("optim", "model"),
    ("fused", "model"),
    ("bigrams", "data"),
    ("compilation", "speed"),
    ("runs", "checkpoint"),
    ("training", "generation"),
    ("training", "calibration"),
    ("training", "training_state"),
    ("training_state", "planning"),
    ("pipeline", "training_state"),
    ("training", "planning"),
    ("material", "training"),
    ("material", "planning"),
    ("material", "resuming"),
    ("outlook", "training"),
    ("outlook", "planning"),
    ("outlook", "material"),
    ("resuming", "training"),
    ("resuming", "planning"),
    ("pipeline", "training"),
    ("pipeline", "material"),
    ("pipeline", "outlook"),
    ("pipeline", "origin"),
    ("gguf_verification", "generation"),
    ("pipeline", "resuming"),
    ("verification", "pipeline"),
    ("verification", "training"),
    ("pipeline", "planning"),
}
STANDARD_LIBRARY_ONLY = FLOORS[0]
LIGHT = {"typer", "rich", "gptlite"}  # what cli/ may import at module level, besides the standard library
RENDERERS = {"rich", "typer", "click"}


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Full names of everything that a file imports; `if TYPE_CHECKING` blocks do not count as top level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def siblings(path: Path) -> set[str]:
    """The modules of gptlite that a file imports."""
    parts = (name.split(".") for name in imports(path))
    return {p[1] for p in parts if p[0] == "gptlite" and len(p) > 1 and p[1] in FLOOR_OF}


SIDE_ROOMS = ("baselines", "report")  # packages that look into the house, and that only the command line enters

LIBRARY = sorted(p for p in (ROOT / "gptlite").glob("*.py") if not p.name.startswith("__"))
SIDE_ROOM_FILES = sorted(p for room in SIDE_ROOMS for p in (ROOT / "gptlite" / room).glob("*.py"))
COMMANDS = sorted((ROOT / "cli").glob("*.py"))


def test_every_module_has_a_floor() -> None:
    assert {p.stem for p in LIBRARY} == set(FLOOR_OF)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.stem)
def test_imports_point_down(path: Path) -> None:
    for other in siblings(path):
        down = FLOOR_OF[other] < FLOOR_OF[path.stem]
        assert down or (path.stem, other) in NEIGHBOURS, f"{path.stem} must not import {other}"


def test_pages_are_made_of_arrays_and_text() -> None:
    """They read no model, so that any program's numbers can be shown."""
    for path in (ROOT / "gptlite" / "report").glob("*.py"):
        assert {FLOOR_OF[other] for other in siblings(path)} <= {0}, path


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.stem)
def test_the_house_does_not_lean_on_its_side_rooms(path: Path) -> None:
    assert not {name for name in imports(path) if name.startswith(tuple(f"gptlite.{room}" for room in SIDE_ROOMS))}


@pytest.mark.parametrize("path", [*LIBRARY, *SIDE_ROOM_FILES], ids=lambda p: p.stem)
def test_the_library_renders_nothing(path: Path) -> None:
    names = set(imports(path))
    assert not {name for name in names if name.split(".")[0] in RENDERERS or name.startswith("gptlite.cli")}
    calls = (n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call))
    assert not [c for c in calls if isinstance(c, ast.Name) and c.id in ("print", "input")]


@pytest.mark.parametrize("name", STANDARD_LIBRARY_ONLY)
def test_the_ground_floor_needs_only_python(name: str) -> None:
    for imported in imports(ROOT / "gptlite" / f"{name}.py"):
        top = imported.split(".")[0]
        assert top in sys.stdlib_module_names or top == "gptlite"


@pytest.mark.parametrize("path", COMMANDS, ids=lambda p: p.stem)
def test_commands_start_light(path: Path) -> None:
    """Nothing heavy at module level, so that --help is quick."""
    for imported in imports(path, top_level_only=True):
        parts = imported.split(".")
        assert parts[0] in LIGHT or parts[0] in sys.stdlib_module_names, imported
        if parts[0] == "gptlite" and len(parts) > 1 and parts[1] in FLOOR_OF:
            assert FLOOR_OF[parts[1]] == 0, f"{path.name} imports {imported} at module level"


def test_only_the_device_file_looks_for_devices() -> None:
    for path in LIBRARY:
        if path.stem != "device":
            assert "cuda.is_available" not in path.read_text(), path


def test_nothing_is_pickled() -> None:
    for path in (*LIBRARY, *SIDE_ROOM_FILES, *COMMANDS):
        assert not re.search(r"(?<!safetensors\.)\btorch\.(load|save)\b", path.read_text()), path
        assert not {name for name in imports(path) if name.split(".")[0] in ("pickle", "shelve", "marshal", "joblib")}


def test_only_the_console_knows_rich() -> None:
    for path in COMMANDS:
        if path.stem != "console":
            assert not {name for name in imports(path) if name.split(".")[0] == "rich"}, path

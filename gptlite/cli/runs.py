"""gptlite runs: the runs in a folder, newest first."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptlite.cli.shared import console, options, schemas
from gptlite.errors import CheckpointError, GptliteError

if TYPE_CHECKING:
    from gptlite.checkpoint.runs import Run

AGES = ((86400, "day"), (3600, "hour"), (60, "minute"))


@dataclass(frozen=True)
class Entry:
    """What the list says of one run; None for what is not known. `val_bits_per_byte` is that of the best step."""

    path: str
    texts: list[str]
    n_parameters: int | None
    architecture: str | None
    step: int | None
    best_step: int | None
    val_bits_per_byte: float | None
    disk_bytes: int
    modified: str
    age_seconds: float
    problem: str | None = None


def runs(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where to look for runs.")] = "checkpoints",
    json: options.JsonOption = False,
) -> None:
    """List runs: text, size, score and age.

    [bold]gptlite runs[/bold]
    """
    from gptlite.checkpoint.runs import Run

    parent = Path(folder)
    if not parent.is_dir():
        raise CheckpointError(f"there is no folder {folder}; train a model with: gptlite train FILE, or name a folder.")
    found = [Run(path) for path in parent.iterdir() if path.is_dir()]
    entries = sorted((describe(run) for run in found if run.is_run()), key=lambda entry: entry.age_seconds)
    if json:
        console.write_json(schemas.named("runs", {"folder": folder, "runs": [asdict(entry) for entry in entries]}))
        return
    if not entries:
        raise CheckpointError(f"there are no runs in {folder}; train a model with: gptlite train FILE.")
    rows = [
        [Path(e.path).name, ", ".join(e.texts), "" if e.n_parameters is None else console.count(e.n_parameters),
         "" if e.val_bits_per_byte is None else f"{e.val_bits_per_byte:.3f}", "" if e.step is None else f"{e.step:,}",
         f"{e.disk_bytes / 1e6:,.1f} MB", e.problem or age(e.age_seconds)]
        for e in entries
    ]  # fmt: skip
    head = ["run", "text", "parameters", "bits per byte", "step", "on disk", "age"]
    console.print_table(head, rows, right=frozenset({2, 3, 4, 5}))


def describe(run: Run) -> Entry:
    """What a run's files say of it; what is wrong with them is its `problem`."""
    problem = None
    info: Mapping[str, Any] = {}
    try:
        info = run.read_info()
    except GptliteError as error:
        problem = str(error)
    steps, best = run.steps(), run.best()
    if not steps and problem is None:
        problem = "no step saved yet"
    modified = _modified(run.path)
    return Entry(
        str(run.path), _texts(info), _number(info.get("n_parameters")), _architecture(info),
        steps[-1].number if steps else None, best.number if best else None, best.val_bits_per_byte if best else None,
        sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file() and not path.is_symlink()),
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(modified)), round(max(0.0, time.time() - modified), 1), problem,
    )  # fmt: skip


def age(seconds: float) -> str:
    """90 as "1 minute", 7300 as "2 hours"."""
    for size, name in AGES:
        if seconds >= size:
            return console.plural(int(seconds // size), name)
    return "just now"


def _modified(path: Path) -> float:
    """When the run was last written to: its log or its folder."""
    return max(p.stat().st_mtime for p in (path, path / "metrics.jsonl", path / "run.json") if p.exists())


def _texts(info: Mapping[str, Any]) -> list[str]:
    """The names of the files and folders that it was trained on."""
    arguments = info.get("arguments") or [source.get("path") for source in info.get("inputs") or []]
    return [Path(str(name)).name or str(name) for name in arguments] if isinstance(arguments, list) else []


def _architecture(info: Mapping[str, Any]) -> str | None:
    plan = info.get("plan")
    model = plan.get("model") if isinstance(plan, dict) else None
    return str(model["architecture"]) if isinstance(model, dict) and "architecture" in model else None


def _number(value: Any) -> int | None:
    return value if type(value) is int else None

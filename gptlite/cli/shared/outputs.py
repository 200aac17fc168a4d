"""The files that `-o` names: the suffix decides the format, and nothing that is of value is overwritten.

    FORMATS = {".json": "json", ".tsv": "tsv", ".html": "html"}

    form = outputs.format_of(out, FORMATS)                    # UsageError that lists the suffixes, for another one
    outputs.check(out, force=force, inputs=[file], model=model)   # before any work

Two rules hold for every command that writes a file:

- A file that the command reads (`inputs`), that belongs to the model, or that the model was trained on, is never
  overwritten, whatever the options say. Links are followed, so another name for such a file does not help.
- Any other file that exists is overwritten only with `--force`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gptlite.errors import GptliteError, StorageError, UsageError, system_reason

if TYPE_CHECKING:
    from gptlite.checkpoint.runs import Run

ForceOption = Annotated[
    bool,
    typer.Option("--force", help="Overwrite FILE if it exists.", show_default=False, rich_help_panel="Output"),
]  # fmt: skip
RawCellsOption = Annotated[
    bool,
    typer.Option("--raw-cells", help="Write texts that a spreadsheet would compute without an apostrophe before them.",
                 rich_help_panel="Output"),
]  # fmt: skip
Form = TypeVar("Form")


def format_of(out: str | Path, formats: Mapping[str, Form], option: str = "-o") -> Form:
    """The format that the suffix of `out` stands for. Raises `UsageError`, which lists the suffixes, for another."""
    suffix = Path(out).suffix.lower()
    if suffix not in formats:
        *others, last = formats
        listed = f"{', '.join(others)} or {last}" if others else last
        raise UsageError(f"{option} {out}: the name must end in {listed}.")
    return formats[suffix]


def is_table(out: str | Path | None) -> bool:
    """Is this a .csv or .tsv file, where --raw-cells means something?"""
    return out is not None and Path(out).suffix.lower() in (".csv", ".tsv")


def check(
    out: str | Path | None, *, force: bool, inputs: Iterable[str | None] = (), model: str | Path | None = None,
    option: str = "-o", reads_model: bool = True,
) -> None:  # fmt: skip
    """Raises unless `out` may be written; None and "-", for standard output, always may.

    - `inputs`: the files and folders that the command reads; None and "-" among them are skipped.
    - `model`: what -m says, which is searched for as everywhere; not at all unless `reads_model`.
    Raises `UsageError` where a file would be lost, and `StorageError` where none can be written.
    """
    if out is None or str(out) == "-":
        return
    path = Path(out)
    check_place(path)
    if not path.exists():
        return
    for name in inputs:
        if name not in (None, "-") and _is_part(path, Path(name)):
            raise UsageError(f"{option} {out} would overwrite a file that this command reads; choose another name.")
    if reads_model:
        _check_model(path, model, f"{option} {out}")
    if not force:
        raise UsageError(f"{option} {out}: the file exists; choose another name, or overwrite it with --force.")


def check_place(path: Path) -> None:
    """Raises `StorageError` where no file can be written: no folder, or something there that is not a file."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise StorageError(f"cannot write {path}: there is no folder {path.parent}.") from None
    except OSError as error:
        raise StorageError(f"cannot write {path}: {system_reason(error)}.") from error
    else:
        if kind != stat.S_IFREG:  # a pipe or /dev/null would be replaced by a file
            raise StorageError(f"cannot write {path}: it is {'a folder' if kind == stat.S_IFDIR else 'not a file'}.")


def _check_model(path: Path, model: str | Path | None, what: str) -> None:
    """Raises `UsageError` when `path` is a file of the model or its run, or a text that the run was trained on."""
    from gptlite.checkpoint import runs

    try:
        step = runs.find_model(None if model is None else str(model))
    except GptliteError:
        return  # reading the model says what is wrong with it
    run = runs.Run(step.parent)
    of_run = [run.path / "run.json", run.path / runs.LOG, *run.path.glob("step-*")] if run.is_run() else []
    if any(_is_part(path, file) for file in (step, *of_run)):
        raise UsageError(f"{what} would overwrite a file of the model {step}; choose another name.")
    for text in _texts_of(run):
        if _is_part(path, text):
            raise UsageError(f"{what} would overwrite the text that {run.path} was trained on; choose another name.")


def _texts_of(run: Run) -> Iterator[Path]:
    """The files and folders that run.json names as training text or held-out text; none where it cannot be read.

    Text that it replayed is part of them, because a later run may replay it again.
    """
    try:
        info: Mapping[str, Any] = run.read_info() if run.is_run() else {}
    except GptliteError:
        return
    for key in ("inputs", "background_inputs"):
        for source in info.get(key) or ():
            yield Path(str(source["path"]))
    for name in (*(info.get("arguments") or ()), *(info.get("background_arguments") or ()), info.get("val") or ""):
        if str(name) not in ("", "-"):
            yield Path(str(name))
    earlier = (info.get("replay") or {}).get("path")
    if earlier is not None and Path(earlier) != run.path.absolute():
        yield from _texts_of(type(run)(Path(earlier)))


def _is_part(path: Path, whole: Path) -> bool:
    """Is `path` this file, or a file in this folder? Both followed through links."""
    if _is_same(path, whole):
        return True
    return whole.is_dir() and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(whole))


def _is_same(path: Path, other: Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False

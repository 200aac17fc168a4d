"""Which files the arguments of a command name: files, folders and patterns, each file once, in the order of paths."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from gptlite.errors import CorpusError, UsageError, system_reason

# Files that stand together only in folders that gptlite wrote: a run, a saved step, the tokens of a text.
RUN = frozenset({"run.json", "LOCK"})
OUTPUTS = (RUN, frozenset({"config.json", "tokenizer.json"}), frozenset({"facts.json", "ids.bin"}))


def find_files(arguments: Iterable[str]) -> tuple[list[tuple[Path, bool]], list[Path]]:
    """(path, was it named directly?) of all files, sorted by path; and the folders that gptlite wrote, passed over.

    What a model wrote teaches it nothing: naming a file or folder of a run raises `UsageError`.
    """
    found: dict[Path, bool] = {}
    outputs: set[Path] = set()
    for argument in arguments:
        if not argument:
            raise UsageError("one of the names of files is empty; is a variable of the shell not set?")
        path = Path(argument)
        if glob.has_magic(argument) and not os.path.lexists(path):
            matches = [Path(p) for p in glob.glob(argument, recursive=True) if os.path.isfile(p)]
            if not matches:
                raise UsageError(f"no file matches the pattern {argument!r}.")
            ours = {run for p in matches if (run := _run_around(p))}
            inside = [p for p in matches if not ours or not _run_around(p)]
        elif run := _run_around(path):
            raise UsageError(f"{argument} is of the run {run}, which gptlite wrote itself; name a text of your own.")
        elif os.path.isdir(path):
            inside, ours = _walk(path)
            if not inside and not ours:
                raise CorpusError(f"{argument} is a folder without files.")
        else:
            found[path] = True
            continue
        outputs |= ours
        for p in inside:
            found.setdefault(p, False)
    return sorted(found.items(), key=lambda item: os.fsencode(item[0])), sorted(outputs)


def _walk(folder: Path) -> tuple[list[Path], set[Path]]:
    """The files in a folder and below, but for hidden ones; and the folders there that gptlite wrote."""

    def fail(error: OSError) -> None:
        raise CorpusError(f"cannot read {error.filename}: {system_reason(error)}.") from error

    files: list[Path] = []
    outputs: set[Path] = set()
    for place, folders, names in os.walk(folder, onerror=fail):
        if any(marks <= {*names} for marks in OUTPUTS):
            outputs.add(Path(place))
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(place, name) for name in names if not name.startswith(".")]
        files += [path for path in paths if path.is_file()]
    return files, outputs


def _run_around(path: Path) -> Path | None:
    """The run directory that `path` is, or lies in."""
    for folder in (path.absolute(), *path.absolute().parents):
        if all(os.path.isfile(folder / name) for name in RUN):
            return folder
    return None

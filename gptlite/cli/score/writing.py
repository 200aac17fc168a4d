"""Where the rows of `gptlite score` go: standard output, or a file that appears whole and can be gone on with.

While a file is written it is called `NAME.partial`, and `NAME.progress.json` beside it says, after each batch, how many
texts and bytes are complete and with what settings. An interrupted run goes on from there with --resume.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gptlite.cli.shared import console
from gptlite.errors import StorageError, UsageError, system_reason
from gptlite.storage import delimited

FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl"}


class Rows:
    """Rows as lines of one format. Cells are written as `storage.delimited` says; what is missing is empty."""

    def __init__(self, form: str, raw_cells: bool = False) -> None:
        self.form, self.raw_cells = form, raw_cells
        self.columns: Sequence[str] = ()

    def header(self, columns: Sequence[str]) -> str:
        self.columns = columns
        return "" if self.form == "jsonl" else self._table([columns])

    def lines(self, rows: Iterable[Mapping[str, Any]]) -> str:
        if self.form == "jsonl":
            return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return self._table([_cell(row.get(column)) for column in self.columns] for row in rows)

    def _table(self, cells: Iterable[Sequence[Any]]) -> str:
        return "".join(delimited.lines(cells, delimited.SEPARATORS[f".{self.form}"], raw=self.raw_cells))


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else repr(value)
    return value if isinstance(value, str | int) else json.dumps(value, ensure_ascii=False)


class Sink:
    """Takes the rows of batches of texts. `done`: texts that were complete before, which are to be left out."""

    done = 0

    def write(self, text: str, n_texts: int) -> None:
        """Add the lines of `n_texts` texts."""
        console.write(text)


class FileSink(Sink):
    """A file, written under another name until it is complete.

    - `settings`: what the rows depend on; a run goes on only with the same.
    Raises `UsageError` where there is nothing to go on with, or something else, and `StorageError`.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], resume: bool) -> None:
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        self.progress = path.with_name(f"{path.name}.progress.json")
        self.settings = json.loads(json.dumps(settings))
        self.done = self.bytes = 0
        with _told(path):
            if resume:
                self._go_on()
            elif self.partial.exists() and self.progress.exists():
                raise UsageError(
                    f"{self.partial} is of a run that was interrupted: go on with --resume, or delete it to start anew."
                )
            self.file = open(self.partial, "r+b" if resume else "wb")  # noqa: SIM115
            self.file.truncate(self.bytes)
            self.file.seek(self.bytes)

    def _go_on(self) -> None:
        if not self.progress.exists() or not self.partial.exists():
            raise UsageError(f"there is no interrupted run that writes {self.path}; leave out --resume.")
        try:
            before = json.loads(self.progress.read_text(encoding="utf-8"))
            self.done, self.bytes, settings = int(before["texts"]), int(before["bytes"]), before["settings"]
            if self.bytes > self.partial.stat().st_size or min(self.done, self.bytes) < 0:
                raise ValueError
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{self.progress} is damaged; delete it and {self.partial}, and start anew.") from error
        if settings != self.settings:
            unlike = [name for name in self.settings if settings.get(name) != self.settings[name]]
            raise UsageError(
                f"{self.path} was begun with another {unlike[0] if unlike else 'setting'}: "
                f"go on with the same, or delete {self.partial} to start anew."
            )

    def write(self, text: str, n_texts: int) -> None:
        raw = text.encode()
        with _told(self.path):
            self.file.write(raw)
            self.file.flush()
            os.fsync(self.file.fileno())
            self.done += n_texts
            self.bytes += len(raw)
            from gptlite.storage import durable

            state = {"texts": self.done, "bytes": self.bytes, "settings": self.settings}
            durable.replace_file(self.progress, (json.dumps(state) + "\n").encode())

    def finish(self) -> None:
        """Give the file its name."""
        with _told(self.path):
            self.file.close()
            os.replace(self.partial, self.path)
            self.progress.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Close the file after an error; where nothing is complete yet, nothing stays."""
        self.file.close()
        if not self.done:
            self.partial.unlink(missing_ok=True)
            self.progress.unlink(missing_ok=True)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {path}: {system_reason(error)}.") from error

"""The log of a run for TensorBoard: event files made of the lines of `metrics.jsonl`, which stays the one that counts.

Each number of a line is a scalar with the name it has there, as a 32-bit float; a sample is a text. Whenever a trainer
begins, the log is written anew from the lines that the run has then. So it never holds a step twice, or one that a
crash undid, and it can be asked for at any time.

`SummaryWriter` of torch writes the same files from a thread of its own, where a full disk is noticed late and an end of
the process loses what waits. Here a line is one append, as to `metrics.jsonl`, and fails the same way.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from gptlite.checkpoint.runs import EVENT_FILES, event_files
from gptlite.distribution import install_hint
from gptlite.errors import StorageError, UsageError, system_reason
from gptlite.storage import durable


def check_library(log: str | None) -> None:
    """Raises `UsageError` when `log` is tensorboard and the package that knows the format is not installed."""
    if log != "tensorboard":
        return
    try:
        _format("event")
    except ImportError as error:
        raise UsageError(
            f"`log='tensorboard'` needs the package tensorboard; install it: {install_hint('tensorboard')}, "
            "or leave it out with `log='none'`."
        ) from error


class EventLog:
    """The event file of a run in `folder`, begun with `lines`; older ones of ours are deleted.

    - `begun`: the time, in seconds since 1970, from which "elapsed" of a line counts.
    Raises `StorageError`.
    """

    def __init__(self, folder: Path, begun: float, lines: Iterable[Mapping[str, Any]] = ()) -> None:
        self.begun = begun
        before = event_files(folder)
        newest = max((int(path.name.split(".")[3]) for path in before), default=0)
        # Readers go by the order of the names: a new file has to come after the one that it replaces.
        self.path = folder / EVENT_FILES.replace("*", f"{max(int(time.time()), newest + 1):010d}")
        content = b"".join(map(_record, (self._version(), *map(self._event, lines))))
        try:
            durable.make_directory(folder)
            durable.append(self.path, content)
            for path in before:
                path.unlink()
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {system_reason(error)}.") from error

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line of the log. Raises `StorageError`."""
        try:
            durable.append(self.path, _record(self._event(line)), create=False)
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {system_reason(error)}.") from error

    def _version(self) -> Any:
        return _format("event").Event(wall_time=self.begun, file_version="brain.Event:2")

    def _event(self, line: Mapping[str, Any]) -> Any:
        summary = _format("summary").Summary
        values = [
            _text(name, value) if isinstance(value, str) else summary.Value(tag=name, simple_value=value)
            for name, value in line.items()
            if name != "step"
        ]
        moment = self.begun + line.get("elapsed", 0.0)
        return _format("event").Event(wall_time=moment, step=line["step"], summary=summary(value=values))


def _text(name: str, text: str) -> Any:
    """A text, indented because TensorBoard takes it for Markdown."""
    summary = _format("summary")
    content = "\n".join(f"    {line}" for line in text.split("\n")).encode(errors="replace")
    plugin = summary.SummaryMetadata.PluginData(plugin_name="text")
    tensor = _format("tensor").TensorProto(dtype=_format("types").DT_STRING, string_val=[content])
    return summary.Summary.Value(tag=name, metadata=summary.SummaryMetadata(plugin_data=plugin), tensor=tensor)


def _format(name: str) -> Any:
    """A module of messages that TensorBoard knows, which protobuf makes when it is loaded."""
    return import_module(f"tensorboard.compat.proto.{name}_pb2")


def _record(event: Any) -> bytes:
    """An event as it stands in a file: its length, its bytes, and a checksum of each."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    record = io.BytesIO()
    RecordWriter(record).write(event.SerializeToString())
    return record.getvalue()

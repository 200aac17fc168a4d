"""Files are opened with care and bounded before they are read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gptlite.errors import CheckpointError
from gptlite.storage.reader import Reader


def test_a_file_has_at_most_the_bytes_that_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    with Reader(tmp_path, {}) as reader:
        assert reader.bytes("file", 5) == b"12345"
        with pytest.raises(CheckpointError, match="larger than 4 bytes"):
            reader.bytes("file", 4)


@pytest.mark.parametrize("grows", [False, True])
def test_a_file_that_grows_is_read_as_it_was_where_that_is_its_nature(
    tmp_path: Path, grows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").write_bytes(b"one\n")
    opened = Reader._open

    @contextmanager
    def growing(reader: Reader, name: str) -> Iterator[Any]:
        with opened(reader, name) as found:
            with open(tmp_path / "log", "ab") as file:
                file.write(b"two\n")
            yield found

    monkeypatch.setattr(Reader, "_open", growing)
    with Reader(tmp_path, {}) as reader:
        if grows:
            assert reader.bytes("log", 100, grows=True) == b"one\n"
        else:
            with pytest.raises(CheckpointError, match="changed while it was read"):
                reader.bytes("log", 100)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "missing"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(tmp_path / "file")
    elif kind == "device":
        (tmp_path / "file").symlink_to("/dev/zero")
    elif kind == "folder":
        (tmp_path / "file").mkdir()
    with (
        Reader(tmp_path, {}) as reader,
        pytest.raises(CheckpointError, match=r"not a regular file|is missing|Is a directory"),
    ):
        reader.bytes("file", 100)

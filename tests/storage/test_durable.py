"""Writes are all or nothing, reach no other file, and stay in a directory that is held open."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from gptlite.errors import CheckpointError, StorageError
from gptlite.storage import durable
from gptlite.storage.durable import MANIFEST

FILES = {"config.json": b"{}", "folder/data.safetensors": bytes(1000)}


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    durable.replace_file(path, b'{"old": 1}')

    def full_disk(path: Path, content: bytes, at: int | None) -> None:
        path.write_bytes(content[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable, "_write_new", full_disk)
    with pytest.raises(StorageError, match=r"run\.json: No space left"):
        durable.replace_file(path, b'{"new": 2}')
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_directory_comes_with_a_manifest_of_its_files(tmp_path: Path) -> None:
    durable.write_directory(tmp_path / "step", FILES, {"step": 1})
    manifest = json.loads((tmp_path / "step" / MANIFEST).read_text())
    assert {name: entry["size"] for name, entry in manifest["files"].items()} == {k: len(v) for k, v in FILES.items()}
    assert manifest["sha256"] == durable.manifest_digest(manifest)
    with pytest.raises(CheckpointError, match="differs"):
        durable.write_directory(tmp_path / "step", FILES, {"step": 2}, lambda _: True)


@pytest.mark.parametrize("moved", [True, False])
def test_what_is_written_at_a_directory_follows_it(tmp_path: Path, moved: bool) -> None:
    """Whatever has its name meanwhile stays as it is; where the directory is deleted, nothing is written."""
    run, new = tmp_path / "run", tmp_path / "new"
    run.mkdir()
    at = durable.open_directory(run)
    assert at is not None
    run.rename(new)
    run.mkdir()
    (run / "step").mkdir()
    if not moved:
        shutil.rmtree(new)
    writes = [
        lambda: durable.write_directory(run / "step", FILES, {}, at=at),
        lambda: durable.replace_file(run / "file", b"1", at),
        lambda: durable.append(run / "log", b"line\n", at),
        lambda: durable.replace_link(run / "best", "step", at),
        lambda: durable.remove_directory(run / "other", at),
    ]
    if moved:
        (new / "other").mkdir()
    for write in writes:
        if moved and write is not writes[-1]:
            write()
        elif moved:  # its content is left where the path no longer leads
            with pytest.raises(StorageError, match="cannot delete"):
                write()
            assert not (new / "other").exists()
        else:
            with pytest.raises((StorageError, OSError)):
                write()
    os.close(at)
    assert [path.name for path in run.rglob("*")] == ["step"]
    if moved:
        assert {"step", "file", "log", "best"} <= set(os.listdir(new))


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder"])
def test_nothing_is_appended_through_another_name(tmp_path: Path, kind: str) -> None:
    victim, log = tmp_path / "victim", tmp_path / "log"
    victim.write_text("precious")
    if kind == "link":
        log.symlink_to(victim)
    elif kind == "hard link":
        log.hardlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(log)
    else:
        log.mkdir()
    with pytest.raises(OSError):
        durable.append(log, b"line\n")
    assert victim.read_text() == "precious"


def test_a_file_is_appended_to_up_to_its_bound_and_made_only_if_asked(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(FileNotFoundError):
        durable.append(log, b"line\n", create=False)
    durable.append(log, b"line\n", most=8)
    with pytest.raises(OSError, match="the most that are read"):
        durable.append(log, b"line\n", most=8)
    assert log.read_bytes() == b"line\n"


def test_json_spells_out_what_is_no_utf_8() -> None:
    content = durable.json_bytes({"path": os.fsdecode(b"caf\xe9 \xc3\xa9")})
    assert json.loads(content) == {"path": "caf\\udce9 é"}
    assert durable.json_bytes({"a": [1]}, indent=None) == b'{"a": [1]}\n'

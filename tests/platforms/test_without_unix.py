"""The core of the tool in a Python without what only Unix has, which without_unix.py takes away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import psutil
import pytest
from conftest import TRAIN_FEW, make_text, tiny_config

from gptlite import system
from gptlite.checkpoint import run_lock, runs
from gptlite.config import TrainConfig
from gptlite.device import choose_hardware
from gptlite.errors import RunInUseError
from gptlite.storage import durable, locks
from gptlite.training import machine

SHIM = Path(__file__).with_name("without_unix.py")
COMMANDS = {
    "train": ["train", "corpus.txt", "-o", "run", *TRAIN_FEW, "--steps", "6", "--save-every", "2", "--keep", "1"],
    "resume": ["train", "--resume", "-o", "run", "--steps", "8"],
    "generate": ["generate", "Ada", "-m", "run/best", "--seed", "1", "--max-new-tokens", "5"],
    "generate again": ["generate", "Ada", "-m", "run/latest", "--seed", "1", "--max-new-tokens", "5", "--json"],
    "embed": ["embed", "the [bank] .", "a [bank] and", "-m", "run"],
    "words": ["words", "nearest", "river", "-m", "run"],
    "info": ["info", "-m", "run"],
    "check": ["check", "run"],
    "device name": ["train", "con.txt", *TRAIN_FEW],
}
LONG = "/".join(["x" * 60] * 3)  # a folder whose own path is allowed, but not that of all files of a step in it
TOO_LONG = ["train", "corpus.txt", "-o", LONG, *TRAIN_FEW]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder that the commands ran in, and what each wrote to standard error, with its exit code at the end."""
    folder = tmp_path_factory.mktemp("windows")
    text = make_text().replace("Emre", "Zoë’s")
    (folder / "corpus.txt").write_text(text, encoding="utf-8")
    (folder / "con.txt").write_text(text, encoding="utf-8")
    own = {"GPTLITE_CACHE": str(folder / "cache"), "PYTHONIOENCODING": "cp1252", "OMP_NUM_THREADS": "1"}
    environment = os.environ | own
    ended = subprocess.run(
        [sys.executable, SHIM], input=json.dumps([*COMMANDS.values(), TOO_LONG]).encode(), cwd=folder, env=environment,
        capture_output=True, check=False,
    )  # fmt: skip
    parts = ended.stderr.decode().split("EXIT ")
    assert len(parts) == len(COMMANDS) + 2, ended.stderr.decode()
    codes = [part.split("\n", 1)[0] for part in parts[1:]]
    texts = [parts[0], *(part.split("\n", 1)[1] for part in parts[1:-1])]
    names = [*COMMANDS, "too long"]
    return folder, {name: f"{text}EXIT {code}" for name, text, code in zip(names, texts, codes, strict=True)}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_work_without_what_only_unix_has(said: tuple[Path, dict[str, str]], name: str) -> None:
    assert said[1][name].endswith("EXIT 0"), said[1][name]


def test_best_and_latest_are_text_files_where_links_are_forbidden(said: tuple[Path, dict[str, str]]) -> None:
    run = said[0] / "run"
    for name in ("best", "latest"):
        assert not (run / name).is_symlink()
        step = run / (run / name).read_text(encoding="ascii").strip()
        assert (step / "model.safetensors").is_file() and runs.find_model(str(run / name)) == step
    assert runs.find_model(str(run / "latest")).name == "step-000000008"


def test_a_path_that_is_too_long_is_named_before_training(said: tuple[Path, dict[str, str]]) -> None:
    message = said[1]["too long"]
    assert message.endswith("EXIT 5") and "nothing can be saved in x" in message, message
    assert "Windows takes at most 259, in folders 247, until long paths are enabled" in message
    assert "step" not in message and not list((said[0] / LONG).glob("step-*"))


def test_nothing_half_written_is_left(said: tuple[Path, dict[str, str]]) -> None:
    assert not [p.name for p in (said[0] / "run").iterdir() if p.name.startswith((".tmp", ".trash", ".bad"))]


def test_a_text_with_the_name_of_a_device_gets_another_run(said: tuple[Path, dict[str, str]]) -> None:
    assert (said[0] / "checkpoints" / "con-run" / "run.json").is_file()


# -- In this process: the branches that one run does not reach


def test_a_run_is_locked_where_there_is_no_flock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    first = run_lock.RunLock(tmp_path / "run")
    with pytest.raises(RunInUseError, match="process"):
        run_lock.RunLock(tmp_path / "run")
    first.close()
    run_lock.RunLock(tmp_path / "run").close()


@pytest.mark.parametrize("error", [OSError(22, "a required privilege is not held"), NotImplementedError()])
def test_a_link_that_may_not_be_made_is_a_text_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(os, "symlink", refuse)
    durable.replace_link(tmp_path / "best", "step-000000001")
    durable.replace_link(tmp_path / "best", "step-000000002")
    assert (tmp_path / "best").read_text(encoding="ascii") == "step-000000002\n"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_file_that_another_program_has_open_for_a_moment_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = os.replace, [3]

    def replace(*arguments: object, **options: object) -> None:
        if left[0]:
            left[0] -= 1
            error = PermissionError(13, "the file is being used")
            error.winerror = 32  # type: ignore[attr-defined]
            raise error
        real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(durable, "IN_USE_SECONDS", 0.0)
    durable.replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    left[0] = 1000
    with pytest.raises(durable.StorageError):
        durable.replace_file(tmp_path / "file", b"newer")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("content", [b"", b"step-1\n", b"../step-000000001", b"\xff", b"step-000000001" + b" " * 200])
def test_a_text_file_that_names_no_step_is_not_followed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "best").write_bytes(content)
    found = runs.followed(tmp_path / "best")
    assert found in (tmp_path / "best", tmp_path / "step-000000001") and (b"../" not in content or found.name == "best")


@pytest.mark.parametrize(("seconds", "is_said"), [(60.0, True), (5.0, False)])
def test_the_first_line_of_a_run_says_what_the_lack_of_a_compiler_costs(
    monkeypatch: pytest.MonkeyPatch, seconds: float, is_said: bool
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    hardware = machine.decide(choose_hardware("cpu", "fp32"), seconds, 1e6, tiny_config("qwen3"), TrainConfig())
    assert not hardware.compile
    assert ("without a C compiler a step takes 1.1 to 1.4 times as long; to get one: " in hardware.reason) is is_said
    asked = machine.decide(choose_hardware("cpu", compile="off"), seconds, 1e6, tiny_config("qwen3"), TrainConfig())
    assert "compiler" not in asked.reason, "who rules compiled steps out misses nothing"


def test_on_windows_the_peak_of_memory_is_that_of_the_working_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    assert system.peak_memory() is None
    monkeypatch.setattr(psutil.Process, "memory_info", lambda _: types.SimpleNamespace(rss=1, peak_wset=5))
    assert system.peak_memory() == 5

"""A model from a stranger: reading it opens its files and nothing else, runs nothing, and costs little."""

from __future__ import annotations

import getpass
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from support.forging import MODEL_FILES, OTHER_FILES, STEP, read_everything, save_whole_step, seal

from gptlite.errors import CheckpointError, LimitError
from gptlite.storage.durable import MANIFEST
from gptlite.text.tokenizer import Tokenizer

row = pytest.mark.row


@pytest.fixture
def step(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    return save_whole_step(tmp_path, tokenizer)


class Canary:
    """Unpickling this leaves a folder behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("canary",)


# Everything is loaded once, so that what is imported late is not taken for the model's doing; then again, watched.
WATCHED = """
import json, sys
from pathlib import Path
from support.forging import read_everything
from gptlite.checkpoint import runs, saved_step
events, watching = [], False
sys.addaudithook(lambda name, args: events.append([name, [str(a) for a in args]]) if watching else None)
for place, read in zip(map(Path, sys.argv[1:]), (read_everything, saved_step.load)):
    read(place)
    events.clear()
    watching = True
    read(runs.find_model(str(place)))
    watching = False
    print(json.dumps(events))
"""
EXPECTED_EVENTS = {"open", "os.listdir", "os.scandir"}


def events_while_reading(step: Path, hub: Path) -> list[list[tuple[str, list[str]]]]:
    """The audit events of a process that reads a saved step and all beside it, then a model of a hub."""
    tests = str(Path(__file__).parent.parent)
    ended = subprocess.run(
        [sys.executable, "-c", WATCHED, str(step), str(hub)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=True,
    )
    harmless = ("object.__getattr__", "object.__setattr__", "builtins.id")
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    return [[(name, arguments) for name, arguments in events if name not in harmless] for events in found]


@row("S06", "K21", "K26")
def test_reading_a_model_opens_its_files_and_nothing_else(step: Path) -> None:
    """Though a pickle lies beside it and its configuration speaks of paths, addresses and code."""
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin", "tokenizer.pkl"):
        (step / name).write_bytes(pickle.dumps(Canary()))
    for name in ("modeling_evil.py", "configuration_evil.py", "__init__.py", "torch.py"):
        (step / name).write_text("import os; os.mkdir('canary')")
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((step / name).read_text())
        content |= {"_name_or_path": "/etc/passwd", "auto_map": {"AutoConfig": "configuration_evil.Evil"}}
        content |= {
            "tokenizer_file": "/etc/passwd",
            "url": "http://127.0.0.1:9/x",
            "custom_pipelines": {"x": "evil.py"},
        }
        content |= {"quantization_config": {"_import_structure": "evil"}, "trust_remote_code": True}
        (step / name).write_text(json.dumps(content))
    seal(step)
    hub = Path(shutil.copytree(step, step.with_name("hub")))
    (hub / MANIFEST).unlink()
    for place, events in zip((step, hub), events_while_reading(step, hub), strict=True):
        assert {name for name, _ in events} <= EXPECTED_EVENTS, [e for e in events if e[0] not in EXPECTED_EVENTS]
        opened = {arguments[0] for name, arguments in events if name == "open" and not arguments[0].isdigit()}
        folders = {str(place), "training_state", "embedding"}
        files = {Path(name).name for name in (*MODEL_FILES, *OTHER_FILES, MANIFEST)}
        if place == hub:  # which names the tokens that end a text
            files.add("generation_config.json")
        assert opened <= files | folders
        assert {str(place), *MODEL_FILES} <= opened
    assert not Path("canary").exists()


STANDARD = ("json", "typing", "random", "re", "collections", "importlib", "contextlib", "__future__", "dataclasses")
RUNPY = (
    "importlib",
    "collections",
    "contextlib",
    "typing",
    "re",
)  # what Python loads for -m before any code of gptlite
OTHERS = ("torch", "tokenizers", "safetensors", "numpy", "typer", "rich", "gptlite_cli")


@row("S07")
@pytest.mark.parametrize("command", ["-m gptlite", "-m gptlite.cli", "-P -m gptlite", "script"])
def test_modules_in_the_current_folder_are_not_imported(step: Path, command: str) -> None:
    """Whoever changes into the folder of a model and asks what it is runs no code of it.

    Python itself looks into the current folder for what its option -m needs, unless -P or PYTHONSAFEPATH forbids it.
    """
    evil = f"open({str(step.parent / 'canary')!r}, 'a').write(__file__ + '\\n')\n"
    spared = RUNPY if command.startswith("-m") else ()
    for name in {*STANDARD, *OTHERS, "sitecustomize", "usercustomize"}.difference(spared):
        (step / f"{name}.py").write_text(evil)
    (step / "torch").mkdir()
    (step / "torch" / "__init__.py").write_text(evil)
    (step / "evil.pth").write_text(f"import os; os.mkdir({str(step.parent / 'canary')!r})")
    (step / "_json.so").write_bytes(b"\x7fELF")
    environment = {"PYTHONPATH": str(Path(__file__).parent.parent.parent), "PYTHONSAFEPATH": ""}
    script = ["-c", "import sys; sys.path.remove(''); from gptlite.cli.process import start; start()"]
    program = [sys.executable, *(script if command == "script" else command.split())]
    ended = subprocess.run(
        [*program, "info", "."],
        cwd=step,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert not (step.parent / "canary").exists(), (step.parent / "canary").read_text()
    assert "qwen3" in ended.stdout


BOMBS = {
    "header": ("model.safetensors", lambda content: (10**8).to_bytes(8, "little") + content[8:]),
    "nesting": ("config.json", lambda _: b"[" * 1_000_000),
    "layers": (
        "config.json",
        lambda content: content.replace(b'"num_hidden_layers": 2', b'"num_hidden_layers": 2147483647'),
    ),
    "context": (
        "config.json",
        lambda c: c.replace(b'"max_position_embeddings": 32', b'"max_position_embeddings": 2000000000'),
    ),
    "vocabulary": ("config.json", lambda content: content.replace(b'"vocab_size": 320', b'"vocab_size": 2147483647')),
    "regex": (
        "tokenizer.json",
        lambda content: content.replace(
            b'"pre_tokenizer":{"type":"ByteLevel"',
            b'"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(x+x+)+y"},"behavior":"Isolated","invert":false,"x":0',
        ),
    ),
    "padding": (
        "tokenizer.json",
        lambda content: content.replace(
            b'"padding":null',
            b'"padding":{"strategy":{"Fixed":50000000},"direction":"Right","pad_to_multiple_of":null,'
            b'"pad_id":0,"pad_type_id":0,"pad_token":"x"}',
        ),
    ),
    "spaces": ("tokenizer.json", lambda content: content + b" " * (70 << 20)),
}


@row("S11")
@pytest.mark.parametrize("bomb", BOMBS, ids=BOMBS.keys())
def test_a_bomb_costs_neither_time_nor_memory(step: Path, bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource
    import time

    name, change = BOMBS[bomb]
    content = (step / name).read_bytes().replace(b", ", b",").replace(b'": ', b'":') if "token" in name else None
    content = (step / name).read_bytes() if content is None else content
    compact = json.dumps(json.loads(content), separators=(",", ":")).encode() if name == "tokenizer.json" else content
    (step / name).write_bytes(change(compact))
    assert (step / name).read_bytes() != compact
    seal(step)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises((CheckpointError, LimitError)):
        read_everything(step)
    assert time.process_time() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10


@row("S11", "K24")
def test_a_pipe_in_place_of_a_file_ends_the_command(step: Path, gptlite: Command) -> None:
    (step / "config.json").unlink()
    os.mkfifo(step / "config.json")
    outcome = gptlite("info", step)
    assert (outcome.code, outcome.out) == (4, "")
    assert outcome.err.startswith("gptlite: error: ")
    assert "config.json is not a regular file" in outcome.err


@row("S13")
def test_a_step_says_nothing_of_who_made_it_or_where(trained_run: Path) -> None:
    """Steps are shared; `run.json`, which stays beside them, knows the files of the run."""
    secrets = {str(trained_run), str(Path.home()), socket.gethostname(), getpass.getuser(), str(Path.cwd())}
    secrets = {secret.encode() for secret in secrets if len(secret) > 3}
    read = 0
    for path in trained_run.glob("step-*/**/*"):
        if path.is_file():
            read += 1
            assert not [secret for secret in secrets if secret in path.read_bytes()], path
    assert read > 8


@row("K01")
@pytest.mark.parametrize("what", [".", "nothing", "a-file", "empty", "run.txt/x", "\x1b[2J"])
def test_what_is_no_model_is_refused(step: Path, what: str) -> None:
    Path("a-file").write_text("x")
    Path("run.txt").write_text("x")
    Path("empty").mkdir()
    shutil.rmtree(STEP)
    from gptlite.checkpoint import runs

    with pytest.raises(CheckpointError, match="no model at"):
        runs.load(what)

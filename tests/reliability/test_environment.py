"""Rows S08, S09 and S17: no network, odd environments, and what we rely on in the libraries below."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rich.console
import rich.text
import safetensors
import safetensors.torch
import tokenizers
import torch
import typer
from conftest import make_text
from tokenizers import decoders, models, pre_tokenizers, trainers

SMALL = ("--steps", "1", "--layers", "1", "--dim", "16", "--heads", "1", "--context", "16", "--batch-size", "2")

# All six commands in one process, which notes what it asks of the system.
ALL_COMMANDS = """
import json, sys
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith(("socket.", "urllib.", "http.")) else None)
from gptlite.cli.main import run
small = "--steps 1 --layers 1 --dim 16 --heads 1 --context 16 --batch-size 2 -q".split()
codes = [
    run(["train", "corpus.txt", "-o", "run", *small]), run(["train", "--demo", "--dry-run", *small]),
    run(["generate", "-m", "run", "--max-new-tokens", "3", "-q"]), run(["embed", "-m", "run", "the [bank] of", "-q"]),
    run(["eval", "corpus.txt", "-m", "run", "-q"]), run(["info", "run"]), run(["export", "run", "-q"]),
]
print(json.dumps({"codes": codes, "seen": seen, "compiler": "torch._dynamo" in sys.modules}), file=sys.stderr)
"""


@pytest.mark.row("S08")
def test_every_command_works_without_a_network(corpus_file: Path) -> None:
    """In an empty network namespace where this system lets us have one; else by what the process asks for.

    Nor does any of them load torch's compiler, which takes a second.
    """
    isolated = ["unshare", "-rn"]
    if not shutil.which("unshare") or subprocess.run([*isolated, "true"], capture_output=True, check=False).returncode:
        isolated = []
    line = [*isolated, sys.executable, "-c", ALL_COMMANDS]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stderr.splitlines()[-1])
    assert facts == {"codes": [0] * 7, "seen": [], "compiler": False}


ODD: dict[str, str] = {
    "OMP_NUM_THREADS": "abc", "MKL_NUM_THREADS": "-1", "GOMP_SPINCOUNT": "many", "CUDA_VISIBLE_DEVICES": "99",
    "GPTLITE_CACHE": "cache", "TMPDIR": "/nowhere", "TZ": "No/Where", "LANG": "xx_YY.odd", "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "ascii", "COLUMNS": "²", "LINES": "-3", "TERMINAL_WIDTH": "wide", "TERM": "\x1b",
    "NO_COLOR": "", "FORCE_COLOR": "x", "TOKENIZERS_PARALLELISM": "perhaps", "RUST_BACKTRACE": "full",
    "HF_HOME": "/nowhere", "HF_HUB_OFFLINE": "maybe",
}  # fmt: skip


@pytest.mark.row("S09", "G24")
def test_an_odd_environment_changes_nothing(corpus_file: Path) -> None:
    """A whole process, because libraries read the environment when they are loaded."""
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")} | ODD
    line = [sys.executable, "-m", "gptlite", "train", "corpus.txt", *SMALL, "-o", "run", "--sample-every", "1"]
    done = subprocess.run(line, env=env, capture_output=True, check=False)
    said = done.stderr.decode()
    assert done.returncode == 0, said
    assert not any(word in said for word in ("Traceback", "panicked", "stack backtrace", "\x1b")), said
    assert "done in " in said


@pytest.mark.row("S09")
def test_help_at_any_width(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from gptlite.cli.main import main

    for columns in ("0", "-3", "abc", "²", "1", "10", "99999999999999999999", ""):
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setenv("TERMINAL_WIDTH", columns)
        with pytest.raises(SystemExit) as ended:
            main(["train", "--help"])
        assert ended.value.code == 0
        assert capsys.readouterr().err == ""


@pytest.mark.row("S09")
def test_a_person_without_a_home_is_told_where_the_cache_may_be(
    corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's user that no password file knows."""
    import pwd

    from gptlite.cli.main import run as command

    def unknown(_: object) -> None:
        raise KeyError("uid not found")

    for name in ("HOME", "GPTLITE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.MonkeyPatch.context() as patch:
        err = io.StringIO()
        patch.setattr(sys, "stderr", err)
        assert command(["train", str(corpus_file), *SMALL]) == 5
    assert "set GPTLITE_CACHE" in err.getvalue()


# What we rely on in the libraries. Where one of these fails with a new version, the code that needs it must be read.


@pytest.mark.row("S17")
def test_tokenizers_keeps_special_text_as_text_when_told_so() -> None:
    backend = byte_level()
    backend.encode_special_tokens = True
    separator = backend.token_to_id("<|endoftext|>")
    assert separator not in backend.encode("a<|endoftext|>b").ids
    assert separator not in backend.encode_batch_fast(["a<|endoftext|>b"])[0].ids


@pytest.mark.row("S17")
def test_tokenizers_trains_alike_and_ends_early() -> None:
    assert byte_level(400).to_str() == byte_level(400).to_str()
    assert byte_level(10).get_vocab_size() == 257, "what check_vocab_size is for: too small a size is no error"


@pytest.mark.row("S17")
def test_tokenizers_panics_are_not_exceptions() -> None:
    spec = json.loads(byte_level().to_str())
    spec["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 5}
    with pytest.raises(BaseException) as caught:
        tokenizers.Tokenizer.from_str(json.dumps(spec)).encode("a b c d e f g")
    assert "Panic" in type(caught.value).__name__ and not isinstance(caught.value, Exception)


@pytest.mark.row("S17")
def test_tokenizers_refuses_lone_surrogates_by_a_type_error() -> None:
    with pytest.raises(TypeError):
        byte_level().encode("\udcff")


def byte_level(size: int = 300) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([make_text(50)], trainer)
    return backend


@pytest.mark.row("S17")
def test_safetensors_bytes_are_the_same_with_one_key_of_metadata() -> None:
    tensors = {name: torch.ones(3) for name in "cab"}
    first = safetensors.torch.save(tensors, metadata={"format": "pt"})
    assert all(safetensors.torch.save(tensors, metadata={"format": "pt"}) == first for _ in range(5))


@pytest.mark.row("S17")
def test_safetensors_checks_that_the_file_is_covered() -> None:
    content = safetensors.torch.save({"a": torch.ones(3)})
    for broken in (content[:-1], content + b"\x00", b"\xff" * 8 + content[8:]):
        with pytest.raises(safetensors.SafetensorError):
            safetensors.torch.load(broken)


@pytest.mark.row("S17")
def test_rich_lets_escapes_pass_and_drops_others() -> None:
    """Why console.visible() stands before it."""
    out = io.StringIO()
    rich.console.Console(file=out).print(rich.text.Text("a\x1b]0;x\x9b\x07b"))
    assert "\x1b]0;x\x9b" in out.getvalue() and "\x07" not in out.getvalue()


@pytest.mark.row("S17")
def test_rich_falls_over_widths_that_only_look_like_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "²")
    with pytest.raises(ValueError):
        rich.console.Console(file=io.StringIO()).print("x")


@pytest.mark.row("S17")
def test_typer_lets_nan_and_infinity_through() -> None:
    """Why every number is checked where it is used."""
    app, got = typer.Typer(), []

    @app.command()
    def command(value: float) -> None:
        got.append(value)

    for text in ("nan", "inf", "1e400"):
        app([text], standalone_mode=False)
    assert [str(value) for value in got] == ["nan", "inf", "inf"]


@pytest.mark.row("S17")
def test_json_reads_back_lone_surrogates_and_numpy_maps_what_was_written(tmp_path: Path) -> None:
    assert json.loads(json.dumps("\udcff", ensure_ascii=False).encode(errors="backslashreplace")) == "\udcff"
    np.arange(5, dtype="<u2").tofile(tmp_path / "ids")
    assert np.memmap(tmp_path / "ids", dtype="<u2", mode="r").tolist() == [0, 1, 2, 3, 4]

"""Rows S01, S02, S03 and S14: whatever bytes a model, a file or a name holds, a terminal only ever gets text from them.

Commands run in this process on a real terminal (a pty) whose other side reads what arrives, byte for byte.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import Command, make_text, tiny_config
from support.screens import Screen, Terminal

from gptlite.checkpoint.saved_step import save_step
from gptlite.cli.main import run
from gptlite.cli.shared import console
from gptlite.generation import generate
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer

HOSTILE = (
    "\x1b]0;title\x07", "\x1b]52;c;aGk=\x07", "\x1b[2J", "\x1bP1;2q\x1b\\", "\x9b2J", "\x07", "\b\b\b", "\x7f", "\x0e",
    "\rover", "\x1b[5;31;43m", "\u202edcba", "\u2066x\u2069", "\u2028", "\x85", "\x1b[6n", "\x1bc", "\x00", "\x0b\x0c",
)  # fmt: skip
EVERYTHING = "".join(HOSTILE)
NAME = f"{EVERYTHING[:90]}\n[bold]x[/bold][/nope][link=file:///etc/passwd]y".replace("\x00", "").replace("/", "_")

# What rich itself writes: colours, and the movements of a progress bar.
OURS = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[2K|\x1b\[1A|\r(?=\x1b)|\r?\n")
SMALL = ("--layers", "1", "--dim", "16", "--heads", "1", "--context", "16", "--batch-size", "2")


def assert_only_text(arrived: str) -> None:
    rest = OURS.sub("", arrived)
    assert not console.CONTROL.search(rest), ascii(rest)
    assert not re.search(r"\x1b\[5;31;43m|\rover|\x1b\]8", arrived), ascii(arrived)


def assert_one_record(arrived: str) -> None:
    """One message: what follows its first line is indented, and cannot pass for another message."""
    first, *more = OURS.sub("", arrived.replace("\r\n", "\n").replace("\n", "\v")).rstrip("\v").split("\v")
    assert first.startswith("gptlite: error:") and all(line.startswith("  ") for line in more), ascii(arrived)


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes each of its tokens as often as any other; many of them are control characters."""
    folder = tmp_path_factory.mktemp("wild") / "model"
    tokenizer = Tokenizer.train([f"{text} " * 60 for text in HOSTILE] + [f"{EVERYTHING} word " * 60], 420)
    assert {b" \x1b]", "\x9b".encode(), b"\b\b\b"} <= {*tokenizer.token_bytes}
    model = GPT(tiny_config("qwen3", vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    save_step(folder, model, tokenizer, {"step": 1})
    return folder


GENERATE = ("generate", "--seed", "3", "-t", "1", "--top-p", "1", "--min-p", "0", "--max-new-tokens", "150", "-q")


@pytest.fixture
def forced(wild: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same model, which now writes `EVERYTHING` over and over."""
    tokenizer = Tokenizer.from_json((wild / "tokenizer.json").read_text())

    def make_sampler(_: object, seeds: Sequence[int], *__: object) -> Callable[..., torch.Tensor]:
        ids = itertools.cycle(tokenizer.encode(EVERYTHING))
        return lambda *_: torch.tensor([next(ids)] * len(seeds))

    monkeypatch.setattr(generate, "make_sampler", make_sampler)
    return wild


@pytest.mark.row("S01", "G20")
@pytest.mark.parametrize("more", ["", "-n 2", "--no-stream", "--json", "--stop never"])
def test_generated_text_is_visible_on_a_terminal_and_itself_in_a_pipe(
    gptlite: Command, terminal: Terminal, forced: Path, more: str
) -> None:
    line = (*GENERATE, "-m", forced, *more.split(), "--", EVERYTHING)
    piped = gptlite(*line)
    code, arrived = terminal(*line)
    assert (piped.code, code) == (0, 0)
    assert_only_text(arrived)
    if more == "--json":
        assert arrived == piped.out
        assert json.loads(arrived)["prompt"] == EVERYTHING
        assert json.loads(arrived)["samples"][0]["text"].startswith(EVERYTHING)
    else:
        assert piped.out.startswith(EVERYTHING * 2)
        assert arrived == console.visible(piped.out)


@pytest.mark.row("S01", "S02")
def test_tokens_and_sentences_in_tables(gptlite: Command, terminal: Terminal, wild: Path) -> None:
    escaped = re.sub(r"([\[\]])", r"\\\1", EVERYTHING)
    texts = [f"{escaped} [word] after", f"\\[bold\\] \\[/nope\\] [{escaped}] end"]
    for columns in (20, 100):
        code, arrived = terminal("embed", "-m", wild, *texts, columns=columns)
        assert code == 0
        assert_only_text(arrived)
    assert not console.CONTROL.search(gptlite("embed", "-m", wild, *texts).out)
    code, arrived = terminal("embed", "-m", wild, *texts, "--json", "-q")
    assert_only_text(arrived)
    assert json.loads(arrived)["items"][-1]["word"] == EVERYTHING.strip()
    for wrong in (["-w", f"gone{EVERYTHING}"], ["--layer", NAME], ["--pool", NAME], ["-o", NAME], ["-f", NAME]):
        code, arrived = terminal("embed", "-m", wild, *texts, *wrong)
        assert code in (2, 3)
        assert_only_text(arrived)


@pytest.mark.row("S02", "S03")
def test_names_and_what_a_run_says_of_itself(terminal: Terminal, trained_run: Path) -> None:
    shutil.copytree(trained_run, NAME, symlinks=True)
    info = json.loads((Path(NAME) / "run.json").read_text())
    info |= {"command": ["gptlite", EVERYTHING, NAME], "hardware": EVERYTHING, "created": NAME}
    info["inputs"][0]["path"] = f"/{NAME}"
    (Path(NAME) / "run.json").write_text(json.dumps(info))
    export = ["export", NAME, "-o", f"{NAME}z.gguf"]
    for line in (["info", NAME], ["info", NAME, "--json"], ["generate", "-m", NAME], export):
        code, arrived = terminal(*line, columns=2000)
        assert code == 0
        assert_only_text(arrived)
        if line == ["info", NAME]:
            assert "[bold]x[_bold]" in re.sub(r"\s", "", OURS.sub("", arrived)), "markup is text"


@pytest.mark.row("S02")
@pytest.mark.parametrize(
    "line",
    [
        ("train", NAME), ("train", "-o", NAME, "gone"), ("train", f"*{NAME}"), ("train", "a", "--val", f"{NAME}%"),
        ("train", "a", "--arch", NAME), ("train", "a", "--steps", NAME), (NAME,), ("train", f"--{NAME}"),
        ("generate", "-m", NAME), ("generate", "-f", NAME), ("info", NAME), ("eval", "a", "-m", NAME),
        ("export", "--to", NAME), ("embed", f"[{NAME}"), ("train", "a", "--resume", "-o", NAME),
    ],
    ids=lambda line: line[0][:8],
)  # fmt: skip
def test_arguments_in_errors(terminal: Terminal, line: tuple[str, ...]) -> None:
    Path("a").write_text(make_text())
    code, arrived = terminal(*line)
    assert code in (2, 3, 4)
    assert_only_text(arrived)
    assert_one_record(arrived[arrived.index("gptlite: error: ") :])


@pytest.mark.row("S02")
@pytest.mark.parametrize("what", ["config", "tensor", "tokenizer", "manifest"])
def test_what_a_damaged_model_holds(terminal: Terminal, wild: Path, what: str) -> None:
    shutil.copytree(wild, "model")
    model = Path("model")
    if what != "manifest":
        (model / "MANIFEST.json").unlink()
    config = json.loads((model / "config.json").read_text())
    if what == "config":
        (model / "config.json").write_text(json.dumps({**config, "model_type": EVERYTHING}))
    elif what == "tensor":
        tensors = safetensors.torch.load_file(model / "model.safetensors")
        safetensors.torch.save_file({**tensors, EVERYTHING: torch.zeros(1)}, model / "model.safetensors")
    elif what == "tokenizer":
        settings = {"eos_token": EVERYTHING}
        (model / "tokenizer_config.json").write_text(json.dumps(settings))
    else:
        manifest = json.loads((model / "MANIFEST.json").read_text())
        (model / "MANIFEST.json").write_text(json.dumps({**manifest, "format": EVERYTHING}))
    code, arrived = terminal("generate", "-m", "model", "-q")
    assert code == 4
    assert_only_text(arrived)
    assert_one_record(arrived)


@pytest.mark.row("S01", "S02", "S14")
def test_a_whole_training_with_a_progress_bar(terminal: Terminal) -> None:
    """Notices, the bar, samples and the last lines, with control characters in text, names and prompt."""
    Path(NAME).write_text((make_text(40) + EVERYTHING.replace("\x00", "")) * 4)
    os.link(NAME, f"{NAME}2")
    code, arrived = terminal(
        "train", "--steps", "4", *SMALL, "--vocab-size", "9000", "--sample-every", "1", "--sample-prompt", EVERYTHING,
        "-o", f"out{NAME}", "--", NAME, f"{NAME}2", columns=2000,
    )  # fmt: skip
    assert code == 0
    assert "\x1b[2K" in arrived, "there was a bar"
    assert_only_text(arrived)
    shown = OURS.sub("", arrived)
    for part in (
        "left out 1 file that is there under another name too",
        "writing to out",
        "-- sample at step 4 --",
        "try: gptlite generate -m",
    ):
        assert part in shown
    (log,) = Path().glob("out*/metrics.jsonl")
    assert all(json.loads(line)["step"] for line in log.read_text().splitlines())


@pytest.mark.row("S01", "S02")
def test_a_process_of_its_own_on_a_terminal(wild: Path) -> None:
    """All of the program, as a shell starts it."""
    screen = Screen(80)
    line = [sys.executable, "-m", "gptlite", *GENERATE[:-1], "-m", str(wild), "--", EVERYTHING.replace("\x00", "")]
    env = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    done = subprocess.run(line, stdin=screen.slave, stdout=screen.slave, stderr=screen.slave, env=env, check=False)
    arrived = screen.close()
    assert done.returncode == 0
    assert_only_text(arrived)
    assert r"\x1b[2J" in arrived


@pytest.mark.row("C24")
@pytest.mark.parametrize("line", ["train -", "eval - -m MODEL", "generate - -m MODEL", "generate -f - -m MODEL"])
def test_standard_input_from_a_terminal_is_refused(terminal: Terminal, trained_run: Path, line: str) -> None:
    code, arrived = terminal(*(trained_run if word == "MODEL" else word for word in line.split()))
    assert code == 2
    assert "standard input, but nothing is piped into it" in arrived


@pytest.mark.row("S02")
def test_colours_stay_out_of_pipes(gptlite: Command, corpus_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    for line in (("train", corpus_file, "--steps", "1", *SMALL, "-o", "run"), ("info", "run"), ("info", "gone")):
        outcome = gptlite(*line)
        assert "\x1b" not in outcome.out + outcome.err


@pytest.mark.row("G18", "G19")
@pytest.mark.parametrize(
    "line", [("--version",), ("generate", "--max-new-tokens", "3", "-m"), ("info", "--json"), ("info",)]
)
@pytest.mark.parametrize("output", ["full", "closed"])
def test_a_standard_output_that_takes_nothing(
    line: tuple[str, ...], output: str, wild: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = [] if line == ("--version",) else [str(wild)]
    with monkeypatch.context() as patch, open("/dev/full", "wb", buffering=0) as full:
        file = io.TextIOWrapper(full, write_through=True)
        patch.setattr(sys, "stdout", file if output == "full" else None)
        assert run([*line, *model]) == 5
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("gptlite: error: ") and ("standard output" in err or "No space left on device" in err)


@pytest.mark.row("P18", "P19")
@pytest.mark.parametrize("error_output", ["broken pipe", "full", "closed", "none"])
def test_a_training_goes_on_when_nobody_can_read_its_messages(
    error_output: str, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with (
        open(writer, "wb", buffering=0) as broken,
        open("/dev/full", "wb", buffering=0) as full,
        open(os.devnull, "w") as closed,
        monkeypatch.context() as patch,
    ):
        closed.close()
        streams = {"closed": closed, "none": None}
        for name, raw in (("broken pipe", broken), ("full", full)):
            streams[name] = io.TextIOWrapper(raw, write_through=True)
        patch.setattr(sys, "stderr", streams[error_output])
        assert run(["train", str(corpus_file), "--steps", "1", *SMALL, "--sample-every", "1", "-o", "run"]) == 0
        assert run(["info", "gone"]) == 4
    assert Path("run/step-000000001").is_dir()

"""What a person at a terminal sees of a text that is being written: tints, turns, and a file beside it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Command
from support import processes
from support.screens import Screen, Terminal

from gptlite.checkpoint import runs, saved_step
from gptlite.generation import generate

STYLE = re.compile("\x1b\\[[0-9;]*m")
KEY = re.compile(r"surprise in bits +under 2 +2 to 4 +4 to 7 +7 to 10 +10 or more ?\n")


pytestmark = pytest.mark.usefixtures("own_signals")


@pytest.fixture
def line(trained_run: Path) -> tuple[object, ...]:
    return ("generate", "Ada\tfinds", "-m", trained_run, "--seed", "1", "--max-new-tokens", "60", "-t", "2")


# -- Tints


@pytest.mark.row("G20", "G21")
@pytest.mark.parametrize("more", [(), ("--no-stream",), ("-n", "3"), ("--stop", r"\n")], ids=str)
def test_a_tinted_text_is_the_same_text(terminal: Terminal, line: tuple[object, ...], more: tuple[str, ...]) -> None:
    _, plain = terminal(*line, "-q", *more)
    code, tinted = terminal(*line, "-q", *more, "--color", "surprise")
    assert code == 0 and "\x1b" not in plain and len(STYLE.findall(tinted)) > 1
    assert STYLE.sub("", tinted) == plain
    assert tinted.startswith("Ada\tfinds"), "nobody was surprised by the prompt"


@pytest.mark.row("G21")
@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_there_is_no_tint_where_none_is_wanted(
    terminal: Terminal, line: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, env: dict[str, str]
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    code, arrived = terminal(*line, "--color", "surprise")
    assert (code, arrived) == terminal(*line)
    assert "\x1b" not in arrived


def test_the_tints_are_explained(terminal: Terminal, line: tuple[object, ...]) -> None:
    assert KEY.search(STYLE.sub("", terminal(*line, "--color", "surprise")[1]))
    assert not KEY.search(terminal(*line)[1])


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_tints_keep_characters_whole_and_lines_clean(
    terminal: Terminal, line: tuple[object, ...], trained_run: Path, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    tokenizer = saved_step.load(runs.find_model(str(trained_run))).tokenizer
    text = "河岸\n🙂\t\x1b[31m\n"
    left = iter([tokenizer.token_bytes.index(bytes([byte])) for byte in text.encode()])
    monkeypatch.setattr(generate, "make_sampler", lambda *_: lambda *_: torch.tensor([next(left)]))
    n = len(text.encode())
    _, arrived = terminal(*line, "-q", "--color", "surprise", stream, "--max-new-tokens", n)
    assert STYLE.sub("", arrived) == "Ada\tfinds河岸\n🙂\t\\x1b[31m\n\n"
    for styled in re.findall("\x1b\\[[1-9][0-9;]*m(.*?)\x1b\\[0m", arrived, re.DOTALL):
        assert "\n" not in styled and "\t" not in styled and "\x1b" not in styled
    for character in "河岸🙂":
        assert f"{character}\x1b[0m" in arrived, "one whole character, one tint"


# -- A file beside the terminal


def test_a_streamed_text_is_seen_on_its_way_into_a_file(
    gptlite: Command, terminal: Terminal, line: tuple[object, ...]
) -> None:
    printed = gptlite(*line).out
    assert terminal(*line, "-q", "-o", "story.txt") == (0, printed)
    assert Path("story.txt").read_text("utf-8") == printed
    for i, (suffix, more) in enumerate(((".txt", ("--no-stream",)), (".txt", ("-n", "2")), (".json", ("--json",)))):
        assert terminal(*line, "-q", "-o", f"more{i}{suffix}", *more) == (0, "")


# -- Turns


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.row("G23")
def test_a_text_by_turns_at_a_terminal(trained_run: Path) -> None:
    """A line, an endless part that Ctrl-C ends, the line before once more out of the history, a command, Ctrl-D."""
    pytest.importorskip("readline")
    screen = Screen(80)
    options = ("-i", "--max-new-tokens", "1000000", "--seed", "1", "--stop", "never", "-o", "story.txt")
    process = subprocess.Popen(
        [*processes.COMMAND, "generate", "-m", str(trained_run), *options],
        stdin=screen.slave, stdout=screen.slave, stderr=screen.slave,
        env={**os.environ, "TERM": "xterm-256color"},
    )  # fmt: skip

    def seen() -> str:
        return screen.received.decode(errors="replace")

    def type_in(keys: bytes, then: str, more: int = 0) -> None:
        """Type at the prompt, and wait for what comes of it."""
        n = len(screen.received)
        os.write(screen.master, keys)
        wait_for(lambda: then in seen()[n:] and len(seen()) > n + len(keys) + more)

    def interrupt() -> None:
        n = len(seen())
        process.send_signal(signal.SIGINT)
        wait_for(lambda: seen()[n:].endswith("> "))

    wait_for(lambda: seen().endswith("> "))
    type_in(b"Ada finds\r", "\n", more=200)
    interrupt()
    first = Path("story.txt").read_text("utf-8")
    assert first.startswith("Ada finds") and len(first) > 150
    type_in(b"\x1b[A\r", "Ada finds", more=200)  # the arrow up
    interrupt()
    assert re.match(rf"{re.escape(first)}\s?Ada finds", Path("story.txt").read_text("utf-8")), "a word of its own"
    type_in(b"/undo\r", first[-20:])
    wait_for(lambda: seen().endswith("> "))
    os.write(screen.master, b"\x04")
    assert process.wait(30) == 0
    assert "Traceback" not in screen.close()
    assert Path("story.txt").read_text("utf-8") == first


@pytest.mark.row("G27")
@pytest.mark.parametrize(
    ("number", "when"),
    [
        (signal.SIGTERM, "at the prompt"),
        *(
            pytest.param(number, when, marks=pytest.mark.slow)
            for number, when in (
                (signal.SIGTERM, "while it writes"),
                (signal.SIGHUP, "at the prompt"),
                (signal.SIGHUP, "while it writes"),
                (signal.SIGINT, "while it writes"),
            )
        ),
    ],
    ids=str,
)
def test_a_signal_leaves_the_terminal_as_it_was(trained_run: Path, number: signal.Signals, when: str) -> None:
    """`readline` reads single keys without an echo; both must be undone. Ctrl-C asks twice: the first ends a part."""
    pytest.importorskip("readline")
    screen = Screen(80)
    modes = termios.tcgetattr(screen.slave)
    modes[3] |= termios.ICANON | termios.ECHO | termios.ISIG
    termios.tcsetattr(screen.slave, termios.TCSANOW, modes)
    before = termios.tcgetattr(screen.slave)
    options = ("-i", "--max-new-tokens", "1000000", "--seed", "1", "--stop", "never")
    with subprocess.Popen(
        [*processes.COMMAND, "generate", "-m", str(trained_run), *options],
        stdin=screen.slave, stdout=screen.slave, stderr=screen.slave,
        env={**os.environ, "TERM": "xterm-256color"},
    ) as process:  # fmt: skip
        try:
            wait_for(lambda: screen.received.endswith(b"> "))
            assert termios.tcgetattr(screen.slave) != before, "the prompt reads single keys"
            n = len(screen.received)
            if when == "while it writes":
                os.write(screen.master, b"Ada finds\r")
                wait_for(lambda: len(screen.received) > n + 100)
            process.send_signal(number)
            if number == signal.SIGINT:
                wait_for(lambda: screen.received[n:].endswith(b"> "))
                os.write(screen.master, b"\x04")
            assert process.wait(30) == (0 if number == signal.SIGINT else 128 + number)
        finally:
            process.kill()
    assert termios.tcgetattr(screen.slave) == before
    assert "Traceback" not in screen.close()

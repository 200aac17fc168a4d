"""Messages of the library in the words of the command line."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from gptlite.cli.main import find_command
from gptlite.cli.shared import flags
from gptlite.errors import as_call


@pytest.fixture(autouse=True)
def no_command_afterwards() -> Iterator[None]:
    yield
    flags.use(find_command, ())


@pytest.mark.parametrize(
    ("command", "message", "shown"),
    [
        ("train", "`context_length` must be at least 1.", "--context must be at least 1."),
        ("train", "give `seconds`, `steps` or `epochs`.", "give --time, --steps or --epochs."),
        ("train", "`inputs` is empty.", "FILES is empty."),
        ("generate", "a text of `bans`.", "a text of --ban."),
        ("embed", "`correction` must be none.", "--correct must be none."),
        ("train", "read it with `lossy=True`.", "read it with --lossy."),
        ("train", "use `device='cpu'`.", "use --device cpu."),
        ("train", "use `out='my run', seed=2`.", "use -o 'my run' --seed 2."),
        ("info", "`context_length` must be at least 1.", "context_length must be at least 1."),
        ("info", "use `context_length=8`.", "use context_length=8."),
        ("train", "a ` alone, and `Some words` in backquotes.", "a ` alone, and `Some words` in backquotes."),
    ],
)
def test_parameters_become_flags(command: str, message: str, shown: str) -> None:
    flags.use(find_command, [command, "x"])
    assert flags.translate(message) == shown


def test_calls_become_commands_that_a_shell_takes() -> None:
    flags.use(find_command, ["info"])
    message = f"continue with: {as_call('train', 'a b.txt', out='it`s', resume=True, demo=False)}"
    words = shlex.split(flags.translate(message).partition(": ")[2])
    assert words == ["gptlite", "train", "a b.txt", "-o", "it`s", "--resume"]


def test_python_callers_read_python() -> None:
    assert as_call("train", out="run", resume=True) == "`gptlite.train(out='run', resume=True)`"
    assert flags.translate("`context_length` must be at least 1.") == "`context_length` must be at least 1."


def test_an_error_names_the_flags_of_its_command(gptlite, tmp_path) -> None:
    (tmp_path / "corpus.txt").write_text("word " * 2000)
    outcome = gptlite("train", "corpus.txt", "--warmup", "2", "--steps", "2", "--dry-run")
    assert outcome.code == 2 and "--warmup is a fraction" in outcome.err and "`" not in outcome.err

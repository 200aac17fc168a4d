"""Signals, closed pipes and faults beside the work: a training ends as it was asked to, and only then."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TRAIN_TINY, Command

from gptlite.checkpoint.runs import Run
from gptlite.cli.shared import progress
from gptlite.text import background
from gptlite.training import held_out, loop

FEW = (*TRAIN_TINY, "--steps", "6", "--batch-size", "4", "--threads", "1", "--eval-every", "1k", "--save-every", "1k")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
ID = {"ids": lambda number: number.name}
SIGNALS = pytest.mark.parametrize("number", CODES, **ID)
SOME_SIGNALS = pytest.mark.parametrize(
    "number", [signal.SIGINT, *(pytest.param(n, marks=pytest.mark.slow) for n in CODES if n != signal.SIGINT)], **ID
)

# A process that behaves as the command does, after a change that a test needs.
CHANGED = """
import sys
sys.argv[0] = "gptlite"
{change}
from gptlite.cli.process import start
start()
"""


def when(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, action: Callable[[], object], call: int = 1) -> None:
    """Do something just before the n-th call of a function."""
    work, left = getattr(module, name), [call]

    def changed(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            action()
        return work(*arguments, **named)

    monkeypatch.setattr(module, name, changed)


def raising(number: int) -> Callable[[], None]:
    return lambda: signal.raise_signal(number)


@contextlib.contextmanager
def begun(
    *arguments: str, change: str = "", options: tuple[str, ...] = (), closing: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the command, which does not outlive the test."""
    command = [sys.executable, *options, "-c", CHANGED.format(change=change), *arguments]

    def close() -> None:
        for number in closing:
            os.close(number)

    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=close
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr and process.stderr.read()
        time.sleep(0.02)


def seconds_to_end(process: subprocess.Popen[bytes]) -> float:
    began = time.monotonic()
    process.wait(timeout=60)
    return time.monotonic() - began


@pytest.fixture(autouse=True)
def handlers_are_given_back() -> Any:
    before = {number: signal.getsignal(number) for number in CODES}
    yield
    assert {number: signal.getsignal(number) for number in CODES} == before


# -- Killed for want of memory


@pytest.fixture
def few_megabytes() -> Iterator[Path]:
    """A control group whose memory can be limited, where this system lets us make one."""
    for parent, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(parent) / f"gptlite-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if (group / limit).exists():
                yield group / limit
                group.rmdir()
                return
            group.rmdir()
    pytest.skip("no group with a limit of memory may be made here")


@pytest.mark.slow
@pytest.mark.row("P16")
def test_a_process_that_the_system_kills_for_its_memory_loses_nothing(
    few_megabytes: Path, gptlite: Command, corpus_file: Path
) -> None:
    """Another takes the memory that is left in the group; whom the system kills then is the trainer."""
    members, limit = few_megabytes.with_name("cgroup.procs"), 1 << 30
    few_megabytes.write_text(str(limit))
    line = ("train", str(corpus_file), "-o", "run", *TRAIN_TINY, "--steps", "100000", "--save-every", "5", "--json")
    with begun(*line, change="open('/proc/self/oom_score_adj', 'w').write('1000')") as process:
        members.write_text(str(process.pid))
        wait_for(Path("run/latest"), process)
        announced = Run(Path("run")).steps()[-1].number
        hog = f"import os; open({str(members)!r}, 'w').write(str(os.getpid())); b'x' * {limit - (32 << 20)}"
        subprocess.run([sys.executable, "-c", hog], check=False, timeout=120)
        assert process.wait(timeout=60) == -signal.SIGKILL
    assert gptlite("check", "run").code == 0
    saved = Run(Path("run")).steps()[-1].number
    assert saved >= announced
    outcome = gptlite("train", "--resume", "-o", "run", "--steps", saved + 5, "--json")
    assert (outcome.code, json.loads(outcome.out)["step"]) == (0, saved + 5)


# -- One signal: the step is finished and saved


@pytest.mark.row("P01", "P03", "P04")
@SIGNALS
def test_a_signal_during_a_step_saves_it_and_says_how_to_go_on(
    gptlite: Command, corpus_file: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        when(patch, loop, "train_step", raising(number), call=3)
        outcome = gptlite("train", corpus_file, "-o", "my run", "--json", *FEW)
    assert (outcome.code, outcome.out) == (CODES[signal.Signals(number)], "")
    assert "finishing this step, then saving; once more to stop at once" in outcome.err
    assert "stopped after step 3, which is saved" in outcome.err
    assert [step.number for step in Run(Path("my run")).steps()] == [3]
    command = outcome.err.partition("continue with: gptlite ")[2]
    assert json.loads(gptlite(*shlex.split(command), "--json").out)["step"] == 6


@pytest.mark.row("P04")
def test_what_nohup_ignores_stays_ignored(gptlite: Command, corpus_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        when(monkeypatch, loop, "train_step", raising(signal.SIGHUP), call=3)
        assert gptlite("train", corpus_file, *FEW).code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.row("P01")
def test_a_signal_while_saving_waits_for_the_step_to_be_whole(
    gptlite: Command, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the writing that is asked to stop, and stops when all is written."""
    from gptlite.storage import durable

    with monkeypatch.context() as patch:
        when(patch, durable.os, "fsync", raising(signal.SIGINT), call=20)  # the first ones try the storage
        outcome = gptlite("train", corpus_file, "-o", "run", *FEW, "--save-every", "2")
    assert outcome.code == 130
    assert json.loads(gptlite("check", "run", "--json").out)["intact"] is True


@pytest.mark.row("P01")
@SOME_SIGNALS
def test_a_signal_during_the_final_score_leaves_only_that_to_do(
    gptlite: Command, corpus_file: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        when(patch, held_out, "spread", raising(number), call=3)  # after the first look and the score of the last step
        outcome = gptlite("train", corpus_file, "-o", "run", *FEW)
    assert outcome.code == CODES[signal.Signals(number)]
    assert "stopped before the final score; step 6, the last, is saved; continue with" in outcome.err
    assert gptlite("train", "--resume", "-o", "run").code == 0


@pytest.mark.row("P05", "P06")
@SOME_SIGNALS
@pytest.mark.parametrize(
    "place", ["gptlite.text.corpus.open_text", "gptlite.text.token_files.tokenize", "gptlite.baselines.ngram.measure"]
)
def test_a_signal_before_the_first_step_leaves_no_step(
    gptlite: Command, corpus_file: Path, number: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, name = place.rpartition(".")
    with monkeypatch.context() as patch:
        when(patch, sys.modules[module], name, raising(number))
        outcome = gptlite("train", corpus_file, "-o", "run", *FEW)
    assert (outcome.code, outcome.out) == (CODES[signal.Signals(number)], "")
    assert outcome.err.endswith("gptlite: error: interrupted.\n")
    assert not Path("run").exists() or os.listdir("run") == ["LOCK"]
    assert not [p for p in Path("cache").glob("*") if p.name.startswith((".tmp", "stdin"))]


# -- A second signal, and native code: the process ends at once

SLOW_STEP = """
import pathlib, time
from gptlite.training import loop
def forever(*_):
    pathlib.Path("begun").touch()
    time.sleep(600)
work, steps = loop.train_step, []
def step(*arguments):
    steps.append(1)
    return forever() if len(steps) == 4 else work(*arguments)
loop.train_step = step
"""


@pytest.mark.row("P02")
@pytest.mark.parametrize(
    "pair", [("SIGINT", "SIGINT"), pytest.param(("SIGTERM", "SIGINT"), marks=pytest.mark.slow)], ids="-".join
)
def test_a_second_signal_ends_at_once(corpus_file: Path, pair: tuple[str, str]) -> None:
    first, second = (getattr(signal, name) for name in pair)
    with begun("train", str(corpus_file), "-o", "run", *FEW, "--save-every", "2", change=SLOW_STEP) as process:
        wait_for(Path("begun"), process)
        process.send_signal(first)
        assert process.stderr
        next(line for line in process.stderr if b"once more to stop at once" in line)
        process.send_signal(second)
        assert seconds_to_end(process) < 1.0
    assert process.returncode == -second  # which a shell shows as 128 + the number
    assert [step.number for step in Run(Path("run")).steps()] == [2]


# The library that learns the vocabulary does not look at signals; this stands for its longest moments.
ENDLESS_VOCABULARY = """
import hashlib, pathlib
from gptlite.text import background
real = background.wait_for
def wait_for(work):
    def longer():
        pathlib.Path("begun").touch()
        return hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # an hour of native code
    return real(longer)
background.wait_for = wait_for
"""


@pytest.mark.row("P05")
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_while_native_code_works_ends_within_two_seconds(corpus_file: Path, number: int) -> None:
    with begun("train", str(corpus_file), "-o", "run", *FEW, change=ENDLESS_VOCABULARY) as process:
        wait_for(Path("begun"), process)
        process.send_signal(number)
        assert seconds_to_end(process) < 2.0
        assert process.returncode == CODES[signal.Signals(number)]
        assert process.stderr and process.stderr.read() == b"gptlite: error: interrupted.\n"


@pytest.mark.slow
@pytest.mark.row("P05")
@pytest.mark.parametrize("delay", [0.5, 3.0])
def test_a_signal_while_a_real_vocabulary_is_learned(tmp_path: Path, delay: float) -> None:
    """50 MB, in which the library counts and merges for a minute."""
    import random

    words = ["".join(random.Random(i).choices("abcdefghijklmnop", k=9)) for i in range(200_000)]
    text = " ".join(random.Random(0).choices(words, k=5_000_000))
    Path("large.txt").write_text(text + "\n")
    change = """
import pathlib
from gptlite.text import background
real = background.wait_for
background.wait_for = lambda work: (pathlib.Path("begun").touch(), real(work))[1]
"""
    with begun("train", "large.txt", "-o", "run", *FEW, "--vocab-size", "32k", change=change) as process:
        wait_for(Path("begun"), process)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        assert seconds_to_end(process) < 2.0
        assert process.returncode == 130
        assert process.stderr and process.stderr.read().endswith(b"gptlite: error: interrupted.\n")


def test_what_native_work_returns_or_raises_comes_through() -> None:
    assert background.wait_for(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        background.wait_for(lambda: 1 // 0)
    assert not background.left_behind()


def test_an_interrupt_leaves_work_behind() -> None:
    done = threading.Event()
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        background.wait_for(lambda: done.wait(20))
    assert background.left_behind()
    done.set()
    deadline = time.monotonic() + 5
    while background.left_behind() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not background.left_behind()


# -- Before anything has begun


@pytest.mark.row("P06")
@pytest.mark.parametrize(
    "module",
    [
        "typer.core",
        "torch.torch_version",  # among the first of torch
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "torch",
                "gptlite.cli.shared.console",
                "rich.console",
                "numpy",
                "torch.nn",
                "gptlite.text.tokenizer",
            )
        ),
    ],
)
def test_an_interrupt_during_an_import_is_one_sentence(corpus_file: Path, module: str) -> None:
    """Python tells of each import, so the signal can come right after a certain one."""
    with begun("train", str(corpus_file), "-o", "run", *FEW, options=("-X", "importtime")) as process:
        assert process.stderr
        next(line for line in process.stderr if line.split(b"|")[-1].strip() == module.encode())
        process.send_signal(signal.SIGINT)
        rest = [line for line in process.stderr if not line.startswith(b"import time:")]
        assert process.wait(timeout=60) == 130
    assert rest == [b"gptlite: error: interrupted.\n"]
    assert not Path("run").exists()


# What Python has imported by itself when `python -m gptlite` or the script of the installation begins.
ALREADY = "import contextlib, os, re, sys; before = set(sys.modules); "
FEW_MICROSECONDS = {"__future__", "atexit", "gc", "gptlite", "gptlite.cli", "gptlite.cli.process", "gptlite.system"}


@pytest.mark.row("P06")
def test_hardly_anything_is_imported_before_an_interrupt_is_answered() -> None:
    program = f"{ALREADY}import gptlite.cli.process; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= FEW_MICROSECONDS


@pytest.mark.row("P06")
@pytest.mark.parametrize("tries", [8, pytest.param(120, marks=pytest.mark.slow)])
def test_an_interrupt_in_the_first_milliseconds_never_shows_our_code(tries: int) -> None:
    """Python itself shows a traceback while it starts; from the first line of gptlite on there is none."""
    for i in range(tries):
        process = subprocess.Popen(
            [sys.executable, "-m", "gptlite", "info"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        time.sleep(0.06 * i / tries)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        its_own_start = b"Fatal Python error: init_" in err or b"Could not import runpy" in err
        if not its_own_start:
            assert process.returncode in (130, -signal.SIGINT), err
        assert b"gptlite/" not in err and err.count(b"gptlite: error: interrupted.\n") == (process.returncode == 130)


# -- A stop that is none, and streams that are closed


@pytest.mark.slow
@pytest.mark.row("P17")
def test_a_process_that_sleeps_for_a_while_trains_on(gptlite: Command, corpus_file: Path) -> None:
    line = ("train", str(corpus_file), *FEW, "--steps", "100", "--eval-every", "50", "--json")
    with begun(*line, "-o", "slept") as process:
        wait_for(Path("slept/metrics.jsonl"), process)
        for _ in range(3):
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.4)
            process.send_signal(signal.SIGCONT)
            time.sleep(0.1)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert gptlite(*line, "-o", "awake").code == 0
    slept, awake = (Run(Path(name)).step_path(100) / "model.safetensors" for name in ("slept", "awake"))
    assert slept.read_bytes() == awake.read_bytes()
    speeds = [json.loads(line)["tokens_per_second"] for line in Path("slept/metrics.jsonl").read_text().splitlines()]
    assert all(0 < speed < 1e9 for speed in [*speeds, json.loads(out)["tokens_per_second"]])


@pytest.mark.slow
@pytest.mark.row("P26")
def test_a_process_that_sleeps_keeps_its_budget_of_time(corpus_file: Path) -> None:
    """As a laptop whose lid was closed: the run ends so many seconds later, and its learning rate decays."""
    budget, asleep = 25.0, 10.0
    shape = (*TRAIN_TINY[2:], "--threads", "1")  # without its steps
    line = ("train", str(corpus_file), "-o", "run", *shape, "--time", "25s", "--json")
    began = time.monotonic()
    with begun(*line) as process:
        wait_for(Path("run/metrics.jsonl"), process)
        process.send_signal(signal.SIGSTOP)
        time.sleep(asleep)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=120)
        took = time.monotonic() - began
    assert process.returncode == 0, err
    assert b"the process was stopped for 10 s around step" in err
    assert took - asleep == pytest.approx(budget, abs=2.0)
    assert json.loads(out)["seconds"] == pytest.approx(budget, abs=2.0)
    rates = [line["lr"] for line in map(json.loads, Path("run/metrics.jsonl").read_text().splitlines()) if "lr" in line]
    assert rates[-1] < 0.05 * max(rates)


@pytest.mark.row("P18", "P19")
@pytest.mark.parametrize(
    ("how", "which"),
    [
        ("pipe", (1, 2)),
        ("closed", (1, 2)),
        *(pytest.param(how, which, marks=pytest.mark.slow) for how in ("pipe", "closed") for which in ((1,), (2,))),
    ],
    ids=str,
)
def test_nobody_has_to_listen(corpus_file: Path, how: str, which: tuple[int, ...]) -> None:
    """As under `| head -1`, or with >&-: the training goes on to its end, and what is still heard is whole."""
    names = {1: "stdout", 2: "stderr"}
    line = ("train", str(corpus_file), "-o", "run", "--json", *FEW)
    with begun(*line, closing=which if how == "closed" else ()) as process:
        for number in which if how == "pipe" else ():
            getattr(process, names[number]).close()
        streams = {number: getattr(process, name) for number, name in names.items()}
        heard = {number: stream.read() for number, stream in streams.items() if not stream.closed}
        assert process.wait(timeout=120) == 0, heard
    assert "result" in json.loads(Path("run/run.json").read_text())
    assert all(heard.get(number, b"") == b"" for number in which)
    if 1 in heard and 1 not in which:
        assert json.loads(heard[1])["step"] == 6
    assert b"Traceback" not in heard.get(2, b"")


# -- Faults of what only watches


@pytest.mark.row("P20")
@pytest.mark.parametrize(
    "method",
    [
        *("stepped", "notice"),
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("phase", "planned", "evaluated", "saved", "sampled")),
    ],
)
def test_a_display_that_fails_is_told_once_and_ends_nothing(
    gptlite: Command, corpus_file: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no such colour")

    with monkeypatch.context() as patch:
        if method == "phase":  # of which the command itself calls the first
            when(patch, progress.TrainingDisplay, method, broken, call=2)
        else:
            patch.setattr(progress.TrainingDisplay, method, broken)
        outcome = gptlite("train", corpus_file, *FEW, "--sample-every", "2", "--steps", "4")
    assert outcome.code == 0, outcome.err
    told = outcome.err.count("progress cannot be shown, and training goes on: ValueError('no such colour')")
    assert told == (0 if method == "notice" else 1)


@pytest.mark.row("P20")
def test_a_sample_that_fails_ends_nothing(gptlite: Command, corpus_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("train", corpus_file, *FEW, "--dropout", "0.2")
    assert gptlite(*line, "-o", "straight").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(loop.generate, "generate", lambda *_, **__: 1 // 0)
        outcome = gptlite(*line, "-o", "run", "--sample-every", "2")
    assert outcome.code == 0
    assert outcome.err.count("no sample at step") == 3
    straight, run = (Run(Path(name)).step_path(6) / "model.safetensors" for name in ("straight", "run"))
    assert straight.read_bytes() == run.read_bytes()


# -- Memory


def errors_of_memory() -> list[Exception]:
    import torch

    allocator = "[enforce fail at alloc_cpu.cpp:115] data. DefaultCPUAllocator: can't allocate memory: you tried to "
    return [
        MemoryError(),
        RuntimeError(allocator),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 G"),
    ]


@pytest.mark.row("P15")
@pytest.mark.parametrize("error", errors_of_memory(), ids=lambda error: type(error).__name__)
def test_memory_that_runs_out_is_code_8_and_the_remedy_works(
    gptlite: Command, corpus_file: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    with monkeypatch.context() as patch:
        when(patch, loop.optimizer, "training_step", fail, call=6)
        outcome = gptlite("train", corpus_file, "-o", "run", *FEW, "--save-every", "4")
    assert (outcome.code, outcome.out) == (8, "")
    assert "memory ran out at step 6, which needs about" in outcome.err and "step 4 is saved" in outcome.err
    command = outcome.err.partition("need less; continue with: gptlite ")[2]
    assert shlex.split(command) == ["train", "--resume", "-o", "run", "--accumulate", "2"]
    assert json.loads(gptlite(*shlex.split(command), "--json").out)["step"] == 6


@pytest.mark.row("P15")
def test_memory_that_runs_out_before_a_save_names_what_to_lower(
    gptlite: Command, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        when(patch, loop.optimizer, "training_step", fail)
        outcome = gptlite("train", corpus_file, *FEW)
    assert outcome.code == 8
    assert all(flag in outcome.err for flag in ("--accumulate 2", "--batch-size than 4", "--context", "--size"))
    with monkeypatch.context() as patch:
        when(patch, sys.modules["gptlite.text.token_files"], "tokenize", fail)
        outcome = gptlite("train", corpus_file, *FEW)
    assert outcome.code == 8 and "memory ran out" in outcome.err


def test_other_errors_of_torch_keep_their_traceback(
    gptlite: Command, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("shapes do not match")

    when(monkeypatch, loop.optimizer, "training_step", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        gptlite("train", corpus_file, *FEW)


@pytest.mark.row("P29")
@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)],
    ids=lambda number: number.name,
)
def test_a_file_that_is_being_written_goes_with_the_command(trained_run: Path, number: int) -> None:
    change = (
        "import os, pathlib; w = pathlib.Path.write_bytes; "
        f"pathlib.Path.write_bytes = lambda self, b: (w(self, b), os.kill(os.getpid(), {int(number)}))[0]"
    )
    line = ("generate", "-m", str(trained_run), "-o", "x.txt", "--max-new-tokens", "3")
    with begun(*line, change=change) as process:
        process.wait(timeout=60)
        assert process.returncode == 128 + number
        assert process.stderr and b"gptlite: error: interrupted." in process.stderr.read()
    assert [path.name for path in Path().iterdir() if path.name != "cache"] == []

"""What the tests share: text made on the spot, tiny models, one trained run, and a command line without a process."""

from __future__ import annotations

import functools
import gc
import io
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch is loaded: models are so tiny here that a second thread only waits; waiting is as in the command line.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

import pytest
import typer
from support import sharing
from support.browser import Browser, Page, browsing
from support.measurements import measure_all, measure_little
from support.screens import Screen, Terminal

from gptlite.cli import main as command_line
from gptlite.cli import process
from gptlite.cli.shared import console
from gptlite.config import ModelConfig

if TYPE_CHECKING:  # torch takes two seconds, which the process that only hands out tests can do without
    from gptlite.model import GPT
    from gptlite.text.tokenizer import Tokenizer

NOUNS = ("river", "bank", "garden", "letter", "song", "window", "harbour", "clock")
VERBS = ("finds", "carries", "opens", "remembers", "follows", "paints")
NAMES = ("Ada", "Bela", "Chidi", "Dora", "Emre", "Fen")
VOCABULARY = 330  # of some models: a few more than the tokenizer has


def make_text(n_lines: int = 400, seed: int = 0) -> str:
    """Sentences of a small grammar, so that a tiny model can learn something from them."""
    rng = random.Random(seed)
    lines = (
        f"{rng.choice(NAMES)} {rng.choice(VERBS)} the {rng.choice(NOUNS)} and the {rng.choice(NOUNS)} ."
        for _ in range(n_lines)
    )
    return "\n".join(lines) + "\n"


def tiny_config(architecture: str, **overrides: int) -> ModelConfig:
    """Two layers, wide enough for every choice to matter."""
    shape = {"dim": 32, "n_heads": 2, "n_layers": 2, "context_length": 32, "vocab_size": 300, **overrides}
    return ModelConfig.preset(architecture, "tiny", **shape)


def random_model(config: ModelConfig, seed: int = 0) -> GPT:
    """A model whose weights are all random, zeros and ones included, so that no term hides behind another."""
    import torch

    from gptlite.model import GPT, initialise

    model = GPT(config)
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty(parameter.shape).normal_(0, 0.1, generator=generator))
    return model.eval()


def pytest_collection_finish() -> None:
    """Modules and tests stay until the end: searches for garbage leave them out, and are as rare as in a command."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(process.GARBAGE_THRESHOLD)


def pytest_configure(config: pytest.Config) -> None:
    """Where tests that are marked slow are left out, a property is tried with fewer examples than Hypothesis takes."""
    if config.option.markexpr == "not slow":
        from hypothesis import settings  # not for the programs of tests/support, which import this module

        settings.register_profile("quick", max_examples=30)
        settings.load_profile("quick")


@pytest.fixture(scope="session", autouse=True)
def one_parser() -> Iterator[None]:
    """The app and its parser, which a process needs once, are built once: reading all options takes 30 ms a call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_line, "build_app", functools.cache(command_line.build_app))
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


# Stands before the C compiler and remembers what it made, by all its arguments but the name of the file; gptlite's own
# say by -DABI what is in the sources. Whatever else is asked for, such as a version, the real one answers.
REMEMBERING_COMPILER = """#!/bin/sh
made= last=
for word; do [ "$last" = -o ] && made=$word; last=$word; done
case "$*" in *-DABI=*) ;; *) exec {compiler} "$@";; esac
kept={folder}/$(for word; do [ "$word" = "$made" ] || echo "$word"; done | cksum | tr " " -)
[ -f "$kept" ] && exec cp "$kept" "$made"
{compiler} "$@" && cp "$made" "$kept.$$" && mv "$kept.$$" "$kept"
"""


@pytest.fixture(scope="session", autouse=True)
def remembering_compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests have a cache each, so the same sources would be compiled some dozen times, for one to three seconds."""
    compiler, folder = shutil.which("cc"), tmp_path_factory.mktemp("compiler")
    if compiler is None or sys.platform == "win32":
        yield
        return
    shared = tmp_path_factory.getbasetemp()
    shared = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "compiled"
    shared.mkdir(exist_ok=True)
    (folder / "cc").write_text(REMEMBERING_COMPILER.format(compiler=compiler, folder=shared))
    (folder / "cc").chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        yield


@pytest.fixture(scope="session", autouse=True)
def short_measurements() -> Iterator[None]:
    """Each save measures little text; where that is what a test is about, `measure_all` takes as much as for a user."""
    with pytest.MonkeyPatch.context() as patch:
        measure_little(patch)
        yield


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs in a folder of its own and keeps its cache there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTLITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GPTLITE_MODEL", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture(autouse=True)
def ordinary_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests compute the same whatever this processor has; those about bf16 say so."""
    import torch

    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(make_text(), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    from gptlite.text.tokenizer import Tokenizer

    return Tokenizer.train([make_text()], 320)


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def gptlite(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in this process: gptlite("train", "corpus.txt", stdin=b"...")."""

    def call(*arguments: object, stdin: bytes | None = None) -> Outcome:
        if stdin is not None:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = command_line.run([str(a) for a in arguments])
        captured = capsys.readouterr()
        assert not console.CONTROL.search(captured.err), "whatever the test is about, messages are plain text"
        return Outcome(code, captured.out, captured.err)

    return call


TRAIN_TINY = ("--steps", "60", "--layers", "2", "--dim", "32", "--heads", "2", "--context", "32", "--vocab-size", "320")
# A few steps, and one score and one save at the end.
TRAIN_FEW = (
    *TRAIN_TINY, "--steps", "4", "--batch-size", "4", "--threads", "1", "--eval-every", "1k", "--save-every", "1k",
)  # fmt: skip


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run directory that `gptlite train` made in a few seconds; tests must not change it."""
    folder = tmp_path_factory.mktemp("trained")
    text = folder / "corpus.txt"
    text.write_text(make_text(), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTLITE_CACHE", str(folder / "cache"))
        measure_all(patch)
        assert command_line.run(["train", str(text), "-o", str(folder / "run"), "-q", *TRAIN_TINY]) == 0
    yield folder / "run"


def compare_here(cache: Path, *inputs: Path, **options: Any) -> None:
    """A comparison in this process, in a few seconds."""
    from support.comparisons import in_this_process

    from gptlite.comparison.run import compare

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTLITE_CACHE", str(cache))
        in_this_process(patch)
        compare(*inputs, **options)


@pytest.fixture(scope="session")
def comparison_of_four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a comparison; tests must not change it."""

    def make(folder: Path) -> None:
        text = folder / "corpus.txt"
        text.write_text(make_text(600), encoding="utf-8")
        names = ["unigram", "5-gram", "lstm", "gptlite"]
        shape = {"time": "1s", "contenders": names, "prompt": "Ada", "val": "20%"}
        compare_here(folder / "cache", text, directory=folder / "found", **shape)

    return sharing.own_copy(tmp_path_factory, "compared", make) / "found"


@pytest.fixture(scope="session")
def comparison_with_masked(comparison_of_four: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the model that reads both sides."""

    def make(folder: Path) -> None:
        shutil.copytree(comparison_of_four, folder / "found")
        cache = comparison_of_four.parent / "cache"
        compare_here(cache, directory=folder / "found", resume=True, contenders="masked")

    return sharing.own_copy(tmp_path_factory, "compared-with-masked", make) / "found"


@pytest.fixture(scope="session")
def comparison_of_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a comparison on pairs; tests must not change it."""

    def make(folder: Path) -> None:
        lines = [json.dumps({"question": f"{i} of {i % 7}?", "answer": f"{i % 10} it is"}) for i in range(400)]
        (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        compare_here(folder / "cache", folder / "pairs.jsonl", time="1s", directory=folder / "found", val="20%")

    return sharing.own_copy(tmp_path_factory, "compared-pairs", make) / "found"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for all tests of pages: it takes a second to start."""
    with browsing(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """A page without a network; the only one, because a browser draws no other."""
    page = browser.new_page()
    yield page
    browser.close_page(page)


@pytest.fixture
def own_signals() -> Iterator[None]:
    """`main` lets broken pipes end the process, which here is pytest."""
    before = signal.getsignal(signal.SIGPIPE)
    yield
    signal.signal(signal.SIGPIPE, before)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """Run a command on a terminal: terminal("info", "run") -> exit code, what arrived there."""
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm-256color")

    def call(*arguments: object, columns: int = 100) -> tuple[int, str]:
        screen = Screen(columns)
        with monkeypatch.context() as patch:
            patch.setenv("COLUMNS", str(columns))  # rich looks at files 0 to 2, which here are not the terminal
            for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
                raw = open(os.dup(screen.slave), mode + "b", buffering=0)  # noqa: SIM115
                file = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)
                patch.setattr(sys, name, file)
            streams = (sys.stdin, sys.stdout, sys.stderr)
            code = command_line.run([str(a) for a in arguments])
            for stream in streams:
                stream.close()
        return code, screen.close()

    yield call

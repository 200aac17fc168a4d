"""Any text, any bytes, any arguments: the outcome is a documented exit code, and never a traceback.

Each property holds for some dozens to hundreds of examples in the fast tests, and for 60 times as many in the slow
ones.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_text
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.commands import COMMANDS

from gptlite.checkpoint import gguf_check, runs, saved_step
from gptlite.cli.generate import interactive, samples
from gptlite.cli.main import run
from gptlite.cli.shared import console
from gptlite.errors import CorpusError
from gptlite.text import demo, token_files
from gptlite.text.corpus import open_text
from gptlite.text.options import TextOptions
from gptlite.text.tokenizer import SEPARATOR, Tokenizer
from gptlite.training import estimate, pipeline, prepare
from gptlite.training.speed import Speed

DOCUMENTED = {0, 2, 3, 4, 5, 6, 7, 8}  # 1 is a bug
TIMES = pytest.mark.parametrize("times", [1, pytest.param(60, marks=pytest.mark.slow)])


def examples(n: int) -> settings:
    return settings(max_examples=n, deadline=None, suppress_health_check=list(HealthCheck))


# Characters that are special to someone: to terminals, to JSON, to markup, to the tokenizer, to line splitting.
PIECES = st.sampled_from(
    [
        SEPARATOR, "\x00", "\r\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\ufeff", "\ufffd", "\x1b[2J",
        "e\u0301", "👩\u200d👧", "\U0010ffff", "\ue000", "[", "]", "[/]", "[link=x]", "\\", "\\n", "{", '"', "'", "%s",
        "\x9b", "…", "天", "。", "  ", "don't",
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=6), max_size=8).map("".join)
BYTES = st.lists(st.binary(max_size=8) | PIECES.map(str.encode), max_size=8).map(b"".join)
# What a process can be given as an argument: no NUL, and bytes that are no UTF-8 as lone surrogates.
ARGUMENTS = BYTES.map(lambda raw: os.fsdecode(raw.replace(b"\x00", b"")))
PROMPTS = TEXTS.map(lambda text: text.replace("\x00", ""))


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def call(*arguments: object, stdin: bytes = b"") -> Outcome:
    """A command in this process, without pytest's own capturing, which would have to be reset for every example."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = run([str(a) for a in arguments])
    outcome = Outcome(code, out.getvalue(), err.getvalue())
    assert code in DOCUMENTED, outcome
    assert not console.CONTROL.search(outcome.err), outcome
    if code:
        assert outcome.err.split("\n")[-2].startswith("gptlite: error: "), outcome
        assert outcome.err.endswith("\n") and outcome.out == "", outcome
    return outcome


# Texts


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    """One that has merged pieces of the odd texts too."""
    pieces = "".join(chr(c) for c in (0x1B, 0x85, 0x2028, 0xFFFD, 0x301, 0x200D, 0x5929)) + SEPARATOR + "\r\n don't"
    return Tokenizer.train([make_text(50), pieces * 20], 400)


@TIMES
@pytest.mark.row("C09", "C15", "C16", "C34", "C37")
def test_any_text_in_files_comes_back_exactly(times: int, bpe: Tokenizer) -> None:
    @examples(250 * times)
    @given(st.lists(TEXTS, min_size=1, max_size=3), st.integers(1, 40))
    def holds(contents: list[str], read_size: int) -> None:
        for name in os.listdir("texts"):
            os.unlink(f"texts/{name}")
        for i, content in enumerate(contents):
            Path(f"texts/{i}").write_bytes(content.encode())
        options = TextOptions(lossy=True, keep_line_ends=True, keep_copies=True)
        try:
            text = open_text(["texts"], smallest=1, options=options)
        except CorpusError as error:
            assert not any(c.removeprefix("\ufeff").strip() for c in contents if "\x00" not in c), error
            return
        kept = [c.removeprefix("\ufeff") for c in contents if c and "\x00" not in c]
        assert "".join(block for _, block in text.blocks(read_size)) == "".join(kept)
        ids = token_files.tokenize(text, bpe).ids().tolist()
        assert bpe.decode(ids) == "".join(kept)
        assert ids.count(bpe.separator_id) == len([c for c in kept if c])

    Path("texts").mkdir()
    holds()


@TIMES
@pytest.mark.row("C02", "C08", "C10", "C13")
def test_any_bytes_are_text_or_an_error_that_says_where(times: int) -> None:
    @examples(450 * times)
    @given(BYTES)
    @example(b"\xef\xbb\xbf")
    @example(b"\xff\xef\xbf\xbd\xe5\xa4")
    def holds(content: bytes) -> None:
        path = Path("bytes")
        path.write_bytes(content)
        try:
            expected, strict = content.decode(), True
        except UnicodeDecodeError as error:
            expected, strict = content.decode(errors="replace"), False
            at = error.start
        for lossy in (False, True):
            options = TextOptions(lossy=lossy, keep_line_ends=True)
            try:
                read = "".join(block for _, block in open_text(["bytes"], smallest=1, options=options).blocks(3))
            except CorpusError as error:
                said = str(error)
                if "not UTF-8" in said:
                    assert not lossy and not strict and f"at offset {at:,} " in said
                elif "NUL" in said:
                    assert not lossy and f"offset {content.index(0):,};" in said
                else:
                    assert any(w in said for w in ("is empty", "white space", "not plain text: it looks like")), said
            else:
                assert strict or lossy
                assert read == expected.removeprefix("\ufeff")

    holds()


# Commands on a model


@pytest.fixture
def model(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small model that is loaded only once, and a place for what commands write."""
    load = saved_step.load
    once = functools.cache(lambda path, device="cpu": load(path, "cpu"))
    monkeypatch.setattr(saved_step, "load", once)
    monkeypatch.setattr(runs, "read_checkpoint", once)
    threads = torch.get_num_threads()
    yield (trained_run / "best").resolve()
    torch.set_num_threads(threads)


def lines(text: str) -> str:
    """As training has read its text: CRLF is one line feed."""
    return text.replace("\r\n", "\n")


@TIMES
@pytest.mark.row("G01", "G03", "G06", "G26", "S03")
def test_any_prompt(times: int, model: Path) -> None:
    @examples(100 * times)
    @given(PROMPTS, st.sampled_from(("argument", "option", "file", "stdin", "json")))
    @example("-", "argument")
    def holds(prompt: str, way: str) -> None:
        line: tuple[object, ...] = ("generate", "-m", model, "--max-new-tokens", "2", "--seed", "1")
        Path("prompt").write_bytes(prompt.encode())
        way = "file" if prompt == "-" else way
        line += {
            "argument": ("--", prompt), "option": (f"--prompt={prompt}",), "file": ("-f", "prompt"), "stdin": ("-",),
            "json": ("--json", "--", prompt),
        }[way]  # fmt: skip
        outcome = call(*line, stdin=prompt.encode())
        assert outcome.code == 0
        if way == "json":
            result = json.loads(outcome.out)
            assert result["prompt"] == lines(prompt) and len(outcome.out.splitlines()) == 1
        else:
            assert outcome.out.startswith(lines(prompt)) or prompt.startswith("\ufeff"), "verbatim"

    holds()


@TIMES
@pytest.mark.row("G09", "G10", "G12")
def test_any_stop_strings(times: int, model: Path) -> None:
    @examples(50 * times)
    @given(st.lists(PROMPTS | st.sampled_from(["e", " the", "the river", "a", "\\n"]), max_size=3), st.integers(0, 99))
    def holds(stops: list[str], seed: int) -> None:
        options = [f"--stop={stop}" for stop in stops]
        line = ("generate", "-m", model, "--max-new-tokens", "5", "--json", "--seed", seed)
        outcome = call(*line, *options, "--", "Ada finds")
        if outcome.code == 0:
            text = json.loads(outcome.out)["samples"][0]["text"]
            assert not any(stop and stop in text for stop in stops)
        else:
            assert outcome.code == 2 and "" in stops

    holds()


@TIMES
@pytest.mark.row("E03", "E05", "S03")
def test_any_sentences(times: int, model: Path) -> None:
    @examples(80 * times)
    @given(st.lists(PROMPTS, max_size=2), PROMPTS, st.sampled_from(("marked", "named", "raw")), st.booleans())
    def holds(sentences: list[str], word: str, way: str, json_wanted: bool) -> None:
        more: list[str] = ["--json"] * json_wanted
        if way == "named":
            more += [f"--word={word}"]
        elif way == "marked":
            literal = [s.replace("\\", "").replace("[", "\\[").replace("]", "\\]") for s in (*sentences, word)]
            sentences = [f"{s} [{literal[-1]}] after" for s in literal[:-1]]
        outcome = call("embed", "-m", model, *more, "--", *sentences)
        assert outcome.code in (0, 2, 3)
        if outcome.code == 0 and json_wanted:
            items = json.loads(outcome.out, parse_constant=pytest.fail)["items"]
            marked = lines(word.replace("\\", ""))
            assert way != "marked" or [i["word"] for i in items] == [marked.strip() or marked] * len(sentences)

    holds()


@TIMES
@pytest.mark.row("S02", "S03", "S14")
def test_any_message_is_one_line_of_plain_text(times: int) -> None:
    @examples(500 * times)
    @given(ARGUMENTS)
    def holds(text: str) -> None:
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            console.error(text[:200])
            console.Messages().notice(text)
        shown = console.one_line(text)
        assert err.getvalue() == f"gptlite: error: {console.one_line(text[:200])}\nnote: {shown}\n"
        assert len(shown.splitlines()) <= 1 and not console.CONTROL.search(shown)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            console.write_json(text)
        assert json.loads(out.getvalue()) == text and len(out.getvalue().splitlines()) == 1

    holds()


@TIMES
@pytest.mark.row("S02", "S03", "E11")
def test_any_cell_is_plain_text(times: int) -> None:
    @examples(30 * times)
    @given(ARGUMENTS, ARGUMENTS)
    def holds(title: str, cell: str) -> None:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            console.print_table(["a", title[:5]], [[cell[:5], cell[:5]]])
        assert len(out.getvalue().splitlines()) == 2 and not console.CONTROL.search(out.getvalue())

    holds()


# Command lines

NUMBERS = (
    "0", "1", "2", "-1", "-0", "0.5", "1e-9", "-0.0", "1e9", "1e400", "nan", "inf", "-inf", "NaN", "1_000", "0x10", "",
    " 3", "+3", "3.0", "٣", "²", "½", "9" * 18, "9" * 30, "9" * 5000, "1k", "2.5k", "-5M", "2G", "1e3", "True", "None",
    "auto", "5%", "0%", "nan%", "1h30m", "3s", str(2**32), str(2**63 - 1), str(2**63), str(2**64),
)  # fmt: skip
WORDS = (
    "cpu", "cuda", "mps", "fp32", "bf16", "on", "off", "tiny", "large", "gpt2", "transformer-2017", "adamw", "muon",
    "random", "int8", "last", "mid", "mean", "first", "none", "zscore", "gguf", "f32", "q8_0", "--", "-", "--help",
    "-q", "surprise",
)  # fmt: skip
PLACES = (
    "corpus.txt", "latin.txt", "empty.txt", "*.txt", "*.md", "folder", "gone", "gone/deeper", "model", "run", ".", "..",
    "[ab]", "x" * 300, "corpus.txt/x", "model/config.json", "pipe", "vectors.npz", "vectors.vec", "out.jsonl", "~",
)  # fmt: skip
# Options whose large values only take long: these are given few, so that examples stay quick.
SHORT = {"max_new_tokens": ("0", "1", "3", "-1", "few", "9" * 30), "num_samples": ("0", "1", "2", "-1", "4097", "x")}
VALUES = st.sampled_from(NUMBERS) | st.sampled_from(WORDS) | st.sampled_from(PLACES)


def values_of(parameter: Any, command: str) -> st.SearchStrategy[str]:
    if parameter.name in SHORT:
        return st.sampled_from(SHORT[parameter.name])
    if parameter.name in (
        "out",
        "model",
        "files",
        "prompt_file",
        "prompts",
        "file",
        "corpus",
        "init_from",
        "tokenizer",
    ):
        return st.sampled_from(PLACES) | st.sampled_from(WORDS)
    return VALUES | (ARGUMENTS if command in ("train", "eval", "info", "export") else PROMPTS)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command with some of its real options, in any of their spellings, and hostile values."""
    called = draw(st.sampled_from(list(COMMANDS)))
    name, parameters = called.split()[0], COMMANDS[called].params
    words: list[str] = []
    for parameter in draw(st.lists(st.sampled_from(parameters), max_size=5)):
        value = draw(values_of(parameter, name))
        if parameter.param_type_name == "argument":
            words.append(value)
        elif parameter.is_flag:
            words.append(draw(st.sampled_from([*parameter.opts, *parameter.secondary_opts])))
        else:
            option = draw(st.sampled_from(parameter.opts))
            words += [f"{option}={value}"] if option.startswith("--") and draw(st.booleans()) else [option, value]
    if draw(st.integers(0, 2)) == 0:  # else most lines would end for want of a text or a model
        words += ["corpus.txt"] * (name in ("train", "eval"))
        words += {"train": ["--steps=2"], "report": ["run"], "info": ["model"], "export": ["model"]}.get(
            name, ["-m", "model"]
        )
    odd = draw(st.lists(st.sampled_from(("--nonsense", "-x", "---", "--no-json", "--steps=", "-", "--")), max_size=1))
    return [*odd, *called.split(), *words] if draw(st.integers(0, 19)) == 0 else [*called.split(), *words, *odd]


@pytest.fixture
def no_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training ends where its first step would be; a machine with little memory, so that only small models fit."""
    monkeypatch.setattr(pipeline, "fit", lambda *parts: None)
    result = {"seconds": 1.0, "val_bits_per_byte": 1.0, "val_bytes": 1, "best_step": 1, "run": "run"}
    monkeypatch.setattr(pipeline, "finish", lambda *parts: dict(result))
    for module in (prepare, estimate):
        monkeypatch.setattr(module, "available_memory", lambda device: 30 << 20)
    monkeypatch.setattr(estimate, "measure_speed", lambda *_: Speed(0.1, 1000.0))
    monkeypatch.setattr(estimate.ngram, "measure", lambda *_: estimate.ngram.Baselines(1, 1, 1, 1, 1, 1))
    alike = gguf_check.GgufReport("0", 1, (), 1, 1, False, 1, 1.0, 1.0, 0.0)
    monkeypatch.setattr(gguf_check, "verify_gguf", lambda *_: alike)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr("gptlite.training.launch.launch", lambda *_: 0)
    monkeypatch.setattr("gptlite.serving.server.run", lambda *_: None)  # until Ctrl-C

    def no_contenders(*_: Any, **__: Any) -> None:
        raise CorpusError("nothing is compared here.")

    monkeypatch.setattr("gptlite.comparison.run.compare", no_contenders)
    monkeypatch.setattr(demo, "demo_text", lambda *_: Path("corpus.txt").absolute())
    monkeypatch.setattr(samples, "write_file", lambda *_: None)  # some of the names are links to what others need
    monkeypatch.setattr(interactive, "read_line", lambda _: None)  # sixty lines would be as many turns


@TIMES
@pytest.mark.row("N05", "N07", "N09", "G11", "G13")
def test_any_command_line(times: int, model: Path, no_long_work: None, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Path("shared").absolute()
    (shared / "folder").mkdir(parents=True)
    (shared / "corpus.txt").write_text(make_text(60))
    (shared / "latin.txt").write_bytes("naïve café\n".encode("latin-1") * 300)
    (shared / "empty.txt").write_bytes(b"")
    os.mkfifo(shared / "pipe")
    os.symlink(model, shared / "model")
    shutil.copytree(model.parent, shared / "run", symlinks=True)

    @examples(250 * times)
    @given(command_lines())
    def holds(line: list[str]) -> None:
        with tempfile.TemporaryDirectory(dir=shared.parent) as folder:
            os.chdir(folder)
            for place in shared.iterdir():
                if place.name != "run":
                    os.symlink(place, place.name)
            if any("run" in word for word in line):
                shutil.copytree(shared / "run", "run", symlinks=True)
            try:
                call(*line, stdin=make_text(60).encode())
            finally:
                os.chdir(shared)

    holds()

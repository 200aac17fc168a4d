"""Generation meets anything: cut characters, stop strings, odd settings, terminals, and readers that leave."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import termios
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch
from conftest import Command, make_text, random_model, tiny_config
from hypothesis import given
from hypothesis import strategies as st
from support import processes
from support.screens import Screen, Terminal

from gptlite.checkpoint import runs, saved_step
from gptlite.checkpoint.saved_step import save_step
from gptlite.cli import main as command_line
from gptlite.config import SamplingConfig
from gptlite.errors import CheckpointError
from gptlite.generation import generate as generation
from gptlite.generation.generate import Generation, generate_ids
from gptlite.generation.reproducible import make_sampler
from gptlite.generation.sampling import distribution
from gptlite.generation.stopping import StopFilter
from gptlite.model import GPT
from gptlite.text.tokenizer import SEPARATOR, Tokenizer

CONTEXT = 32
WORLD = "The bank, the bank. 河岸上的银行。 Über Straße 🙂👩‍👩‍👧 банк نهر नदी\n\t"


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    return random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size, context_length=CONTEXT))


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """`main` lets broken pipes end the process, which here is pytest."""
    before = signal.getsignal(signal.SIGPIPE)
    yield
    signal.signal(signal.SIGPIPE, before)


def written(monkeypatch: pytest.MonkeyPatch, ids: Sequence[int]) -> None:
    """From now on every model writes `ids`."""
    monkeypatch.setattr(generation, "generate_ids", lambda *_: iter([[i] for i in ids]))


def drawn(monkeypatch: pytest.MonkeyPatch, ids: Sequence[int], end: type[BaseException] = StopIteration) -> None:
    """The same by way of the sampler, so that a model says how probable they are; after them comes `end`."""
    left = iter(ids)

    def draw(logits: torch.Tensor, *_: object) -> torch.Tensor:
        if (token := next(left, None)) is None:
            raise end
        return torch.full((len(logits),), token)

    monkeypatch.setattr(generation, "make_sampler", lambda *_: draw)


# -- Stop strings

ALPHABETS = ("ab", "ab\n", "aä🙂", "银行b")


def cut_before_stop(text: str, stop: Sequence[str]) -> str:
    """The whole text up to the stop string that begins first: what any way of streaming must come to."""
    return text[: min((at for s in stop if (at := text.find(s)) >= 0), default=len(text))]


@st.composite
def stopped_texts(draw: st.DrawFn) -> tuple[str, list[str], list[int]]:
    letters = draw(st.sampled_from(ALPHABETS))
    text = draw(st.text(letters, max_size=30))
    stop = draw(st.lists(st.text(letters, min_size=1, max_size=5), max_size=4))
    return text, stop, draw(st.lists(st.integers(0, len(text)), max_size=8))


@pytest.mark.row("G09", "G10")
@given(stopped_texts())
def test_stop_strings_cut_where_they_would_in_the_whole_text(case: tuple[str, list[str], list[int]]) -> None:
    text, stop, cuts = case
    expected = cut_before_stop(text, stop)
    stop_filter, out = StopFilter(stop), ""
    for a, b in pairwise(sorted({0, len(text), *cuts})):
        out += stop_filter.push(text[a:b])
        assert expected.startswith(out), "what is out cannot be taken back"
    out += stop_filter.finish()
    assert out == expected
    assert stop_filter.stopped == (expected != text or any(s == "" for s in stop))


@pytest.mark.row("G10")
@pytest.mark.parametrize(
    ("stop", "text", "kept"),
    [
        (["abcd", "bc"], "xabcd", "x"),  # the inner one is complete first, the outer one begins first
        (["abcd", "bc"], "xabce", "xa"),
        (["abcd", "bc"], "xabc", "xa"),
        (["ab", "abc"], "xabc", "x"),
        (["银行", "行b"], "x银行b", "x"),
        (["aab"], "aaab", "a"),
    ],
)
def test_stop_strings_inside_each_other(stop: list[str], text: str, kept: str) -> None:
    for chunks in (list(text), [text]):
        stop_filter = StopFilter(stop)
        assert "".join(map(stop_filter.push, chunks)) + stop_filter.finish() == kept
        assert stop_filter.stopped


@pytest.mark.row("G10")
def test_a_stop_string_that_was_waited_with_is_a_stop(
    model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(monkeypatch, tokenizer.encode("the bank"))
    config = SamplingConfig(max_new_tokens=len(tokenizer.encode("the bank")))
    work = Generation(model, tokenizer, "", config, seed=0, stop=["bank!", "an"])
    assert "".join(chunk.text for chunk in work) == "the b" == work.samples[0].text
    assert work.samples[0].finish_reason == "stop"


@pytest.mark.row("G10")
def test_stop_strings_in_the_prompt_do_not_count(gptlite: Command, trained_run: Path) -> None:
    line = ("generate", "Ada finds the", "-m", trained_run, "--seed", "1", "--max-new-tokens", "9")
    assert gptlite(*line, "--stop", "Ada").out == gptlite(*line).out


# -- Characters over several tokens


def random_ids(tokenizer: Tokenizer, rng: random.Random) -> list[int]:
    """Half of them single bytes, so that characters are cut, left open and begun in the middle."""
    return [
        rng.randrange(tokenizer.vocab_size) if rng.random() < 0.5 else tokenizer.token_bytes.index(bytes([byte]))
        for byte in (rng.choice((rng.randrange(256), *"é河🙂".encode())) for _ in range(rng.randrange(30)))
    ]


@pytest.mark.row("G07", "G08")
@pytest.mark.parametrize("n", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_pieces_joined_are_the_text_of_all_tokens(n: int) -> None:
    tokenizer = Tokenizer.train([WORLD * 9 + make_text()], 400)
    rng = random.Random(n)
    unfinished = 0
    for _ in range(n):
        ids = random_ids(tokenizer, rng)
        decoder = tokenizer.stream()
        pieces = [decoder.push(token) for token in ids]
        end = decoder.finish()
        assert "".join(pieces) + end == tokenizer.decode(ids)
        assert set(end) <= {"\ufffd"} and decoder.finish() == "", "what is unfinished comes once"
        unfinished += end != ""
    assert unfinished > n / 100


@pytest.mark.row("G07", "G08", "G09", "G26")
@pytest.mark.parametrize("seed", range(25))
def test_a_sample_is_the_text_of_its_tokens_up_to_a_stop(
    model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    ids = [i for _ in range(4) for i in random_ids(tokenizer, rng) if i != tokenizer.separator_id]
    stop = [[], ["e", "é"], ["\ufffd\ufffd", "the"]][seed % 3]
    written(monkeypatch, ids)
    work = Generation(model, tokenizer, "", SamplingConfig(max_new_tokens=len(ids)), seed=0, stop=stop)
    chunks = [chunk.text for chunk in work]
    assert "".join(chunks) == work.samples[0].text == cut_before_stop("".join(map(tokenizer.stream().push, ids)), stop)
    assert all(chunk.encode() for chunk in chunks)


# -- Prompts

PROMPTS = st.lists(
    st.sampled_from([SEPARATOR, "<|im_end|>", "\x00", "\ufeff", "\r\n"]) | st.text(max_size=8), max_size=6
)


@pytest.mark.row("G03", "G06")
@given(parts=PROMPTS)
def test_any_prompt_is_plain_text(model: GPT, tokenizer: Tokenizer, parts: list[str]) -> None:
    prompt = "".join(parts)
    ids = Generation(model, tokenizer, prompt, SamplingConfig(), seed=0).prompt_ids
    if prompt:
        assert tokenizer.decode(ids) == prompt
        assert tokenizer.separator_id not in ids
    else:
        assert ids == [tokenizer.separator_id]


@pytest.mark.row("G01")
@pytest.mark.parametrize("prompt", [" ", "\n", " \t\n "])
def test_white_space_is_a_prompt_like_others(gptlite: Command, trained_run: Path, prompt: str) -> None:
    line = ("generate", prompt, "-m", trained_run, "--seed", "1", "--max-new-tokens", "5")
    assert gptlite(*line).out.startswith(prompt)
    assert json.loads(gptlite(*line, "--json").out)["prompt"] == prompt


@pytest.mark.row("G02")
@pytest.mark.parametrize("n", [1, CONTEXT - 1, CONTEXT, CONTEXT + 1, 3 * CONTEXT])
def test_of_a_prompt_the_model_reads_the_last_window(model: GPT, n: int) -> None:
    prompt = [(7 * i * i + 5) % 290 for i in range(n)]
    with torch.no_grad():
        expected = int(model(torch.tensor([prompt[-CONTEXT:]]))[0, -1].argmax())
    greedy = make_sampler(SamplingConfig(temperature=0), [0])
    assert next(generate_ids(model, [prompt], greedy)) == [expected]


@pytest.mark.row("G02")
def test_a_prompt_that_is_too_long_is_mentioned_once(gptlite: Command, trained_run: Path) -> None:
    for words, notes in ((3, 0), (300, 1)):
        outcome = gptlite("generate", "Ada finds " * words, "-m", trained_run, "--max-new-tokens", "40")
        assert outcome.code == 0
        assert outcome.err.count("the model sees the last 32") == notes


@pytest.mark.row("G02")
@given(text=st.text("ab .\n银，"), size=st.integers(1, 9))
def test_long_prompts_are_tokenized_in_pieces(tokenizer: Tokenizer, text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "LONGEST_PIECE", size)
        ids = generation._encode(tokenizer, text)
        spaced = re.sub(r"\s+", " ", text)
        patch.setattr(generation, "LONGEST_PIECE", max(map(len, [*spaced.split(" "), "a"])) + 1)
        assert generation._encode(tokenizer, spaced) == tokenizer.encode(spaced), "cut at spaces, nothing changes"
    assert tokenizer.decode(ids) == text


@pytest.mark.row("G02")
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of memory cannot be reset")
@pytest.mark.parametrize("megabytes", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_prompt_of_megabytes_needs_little_memory(model: GPT, tokenizer: Tokenizer, megabytes: int) -> None:
    """Tokenized in one piece, 1 MB takes 165 MB and 10 MB take 1,600."""
    prompt = make_text(28_000) * megabytes
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("self")
    work = Generation(model, tokenizer, prompt, SamplingConfig(max_new_tokens=2), seed=0)
    assert len(list(work)) > 0
    assert len(work.prompt_ids) > 300_000 * megabytes
    assert memory("self", "VmHWM") - before < (64 + 19 * megabytes) << 20


def memory(process: object, which: str = "VmRSS") -> int:
    """Bytes that a process holds now, or held at its peak (VmHWM)."""
    (kilobytes,) = re.findall(rf"{which}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(kilobytes) * 1024


@pytest.mark.row("G04")
@pytest.mark.parametrize(
    "line",
    [("generate", "caf\udce9"), ("generate", "-p", "\udcff"), ("generate", "--stop", "\udc80"),
     ("embed", "the [caf\udce9]"), ("embed", "the bank", "-w", "caf\udce9")],
    ids=ascii,
)  # fmt: skip
def test_arguments_that_are_not_utf8_are_a_usage_error(
    gptlite: Command, trained_run: Path, line: tuple[str, ...]
) -> None:
    outcome = gptlite(*line, "-m", trained_run)
    assert (outcome.code, outcome.out) == (2, "")
    assert re.fullmatch(r"gptlite: error: .* is not UTF-8: it holds the byte 0x[89A-F][0-9A-F]\.\n", outcome.err)


@pytest.mark.row("G05")
@pytest.mark.parametrize(
    "line", [("generate", "-"), ("generate", "-f", "-"), ("embed", "-"), ("embed", "-f", "-")], ids=str
)
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "closed"])
def test_nobody_waits_for_a_keyboard(
    gptlite: Command, trained_run: Path, monkeypatch: pytest.MonkeyPatch, line: tuple[str, ...], terminal: bool
) -> None:
    keyboard = io.TextIOWrapper(io.BytesIO(b"never read"))
    monkeypatch.setattr(keyboard, "isatty", lambda: True, raising=False) if terminal else None
    monkeypatch.setattr("sys.stdin", keyboard if terminal else None)
    outcome = gptlite(*line, "-m", trained_run)
    assert (outcome.code, outcome.out) == (2, "")
    assert "nothing is piped into it" in outcome.err


@pytest.mark.row("G05")
def test_a_byte_order_mark_is_no_part_of_a_prompt(gptlite: Command, trained_run: Path) -> None:
    Path("prompt.txt").write_bytes(b"\xef\xbb\xbfAda \xef\xbb\xbf")
    outcome = gptlite("generate", "-f", "prompt.txt", "-m", trained_run, "--max-new-tokens", "0")
    assert outcome.out == "Ada \ufeff\n"


# -- Settings


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        *[pytest.param("-t", v, 0, marks=pytest.mark.row("G11")) for v in ("0", "-0.0", "1e-40", "1e-5", "5")],
        *[pytest.param("-t", v, 2, marks=pytest.mark.row("G11")) for v in ("-1", "inf", "-inf", "nan", "1e400")],
        *[pytest.param("--top-p", v, 0, marks=pytest.mark.row("G12")) for v in ("1e-9", "1")],
        *[pytest.param("--top-p", v, 2, marks=pytest.mark.row("G12")) for v in ("0", "1.5", "-1", "nan")],
        *[pytest.param("--top-k", v, 0, marks=pytest.mark.row("G12")) for v in ("0", "1", "320", "321")],
        *[pytest.param("--top-k", v, 2, marks=pytest.mark.row("G12")) for v in ("-1", "1.5", "9" * 5000)],
        *[pytest.param("--max-new-tokens", v, 0, marks=pytest.mark.row("G13")) for v in ("0", "1")],
        *[pytest.param("--max-new-tokens", v, 2, marks=pytest.mark.row("G13")) for v in ("-1", "9" * 30)],
    ],
)
def test_settings_work_or_are_a_usage_error(
    gptlite: Command, trained_run: Path, option: str, value: str, code: int
) -> None:
    short = () if option == "--max-new-tokens" else ("--max-new-tokens", "3")
    outcome = gptlite("generate", "Ada", "-m", trained_run, option, value, *short)
    assert outcome.code == code
    assert outcome.out.startswith("Ada") if code == 0 else outcome.err.startswith("gptlite: error: ")


@pytest.mark.row("G11")
@pytest.mark.parametrize("temperature", ["-0.0", "1e-40", "1e-5"])
def test_temperatures_near_0_are_greedy(gptlite: Command, trained_run: Path, temperature: str) -> None:
    line = ("generate", "Ada", "-m", trained_run, "--seed", "1", "--max-new-tokens", "30")
    assert gptlite(*line, "-t", temperature).out == gptlite(*line, "-t", "0").out


@pytest.mark.row("G12")
@given(values=st.lists(st.integers(-3, 3), min_size=1, max_size=12), k=st.integers(1, 14), seed=st.integers(0, 9))
def test_top_k_treats_equals_alike_wherever_they_stand(values: list[int], k: int, seed: int) -> None:
    config = SamplingConfig(temperature=1.0, top_k=k, top_p=1.0, min_p=0.0)
    least = sorted(values, reverse=True)[:k][-1]
    kept = distribution(torch.tensor([values], dtype=torch.float32), config)[0] > 0
    assert kept.tolist() == [value >= least for value in values]
    order = random.Random(seed).sample(range(len(values)), len(values))
    moved = distribution(torch.tensor([[values[i] for i in order]], dtype=torch.float32), config)[0] > 0
    assert moved.tolist() == [bool(kept[i]) for i in order]


@pytest.mark.row("G12")
def test_top_p_takes_the_lower_of_equal_ids() -> None:
    config = SamplingConfig(temperature=1.0, top_k=0, top_p=0.5, min_p=0.0)
    assert distribution(torch.zeros(1, 4), config).tolist() == [[0.5, 0.5, 0, 0]]


@pytest.mark.row("G13")
def test_a_text_without_end_needs_no_more_memory(
    model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 10_000
    token = tokenizer.encode("the")[0]
    monkeypatch.setattr(generation, "generate_ids", lambda *_: ([token] for _ in range(n)))
    work = Generation(model, tokenizer, "", SamplingConfig(max_new_tokens=n), seed=0, stop=["never"], keep=False)
    chunks = iter(work)
    for _ in islice(chunks, 1000):
        pass
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in chunks:
        pass
    grown = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert grown < 20_000


# -- Models that compute nothing sensible


@pytest.mark.row("G15")
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("bad", [[torch.nan, 0, 1], [torch.inf, 0, 1], [-torch.inf] * 3], ids=str)
def test_logits_that_are_no_numbers_are_an_error(bad: list[float], temperature: float) -> None:
    sampler = make_sampler(SamplingConfig(temperature=temperature), [1, 2])
    with pytest.raises(CheckpointError, match="not numbers"):
        sampler(torch.tensor([[0.0, 1.0, 2.0], bad]))
    assert sampler(torch.tensor([[-torch.inf, 1.0, -torch.inf]] * 2)).tolist() == [1, 1]


@pytest.mark.row("G15")
@pytest.mark.parametrize(
    "line", ["generate Ada", "generate Ada --json", "generate Ada -t 0", "embed the[bank]", "eval corpus.txt"]
)
def test_a_model_that_computes_nan_is_code_4(
    gptlite: Command, corpus_file: Path, tokenizer: Tokenizer, line: str
) -> None:
    """Its weights are numbers, but too large ones."""
    model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(1e20 if ".mlp." in name else 1)
    save_step(Path("broken"), model, tokenizer, {})
    outcome = gptlite(*line.split(), "-m", "broken", "-q")
    assert outcome.code == 4
    assert outcome.err.startswith("gptlite: error: ") and outcome.err.count("\n") == 1


@pytest.mark.row("G26")
@pytest.mark.parametrize("seed", range(8))
def test_json_holds_any_text(gptlite: Command, trained_run: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = random.Random(seed)
    tokenizer = saved_step.load(runs.find_model(str(trained_run))).tokenizer
    ids = [i for _ in range(5) for i in random_ids(tokenizer, rng) if i != tokenizer.separator_id]
    ids += tokenizer.encode('\u2028\x00\x1b\ufeff"\\')
    drawn(monkeypatch, ids)
    line = ("generate", "\x00 ", "-m", trained_run, "--json", "--max-new-tokens", len(ids))
    outcome = gptlite(*line)
    assert outcome.code == 0 and outcome.out.count("\n") == 1 and len(outcome.out.splitlines()) == 1
    result = json.loads(outcome.out.encode("utf-8"))
    assert result["samples"][0]["text"] == tokenizer.decode(ids)
    tokens = result["samples"][0]["tokens"]
    assert [token["id"] for token in tokens] == ids
    assert [bytes(t["bytes"]) if "bytes" in t else t["text"].encode() for t in tokens] == [
        tokenizer.token_bytes[i] for i in ids
    ]


# -- Where the text goes


class Broken(io.StringIO):
    """A file on a disk that is full."""

    def write(self, _: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


WRITING = (
    "generate", "generate --json", "generate -n 2", "info", "info --json", "eval corpus.txt", "eval corpus.txt --json",
    "embed the[bank]", "embed the[bank] --json", "embed the[bank] -o -",
)  # fmt: skip


@pytest.mark.row("G18", "G19", "E13")
@pytest.mark.parametrize(
    ("stream", "message"),
    [(Broken, "cannot write to standard output: No space left"), (lambda: None, "no standard output to write to")],
    ids=["full", "closed"],
)
@pytest.mark.parametrize("line", WRITING)
def test_results_that_cannot_be_written_are_code_5(
    corpus_file: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    line: str, stream: type, message: str,
) -> None:  # fmt: skip
    command, *rest = line.split()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", stream())
        code = command_line.run([command, *(["-m"] if command != "info" else []), str(trained_run), *rest])
    assert code == 5
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.row("G18", "G19")
@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
def test_a_process_whose_output_is_gone_ends_with_one_sentence(where: str) -> None:
    shell = ("bash", "-c", f'exec "$@" {where}', "bash")
    ended = processes.run("--version", wrapper=shell)
    assert ended.code == 5
    assert re.fullmatch(rb"gptlite: error: [^\n]*standard output[^\n]*\n", ended.err)


@pytest.mark.row("G20", "G24")
def test_a_pipe_gets_exactly_the_text_whatever_the_locale(trained_run: Path) -> None:
    prompt = "a\nb\x1b[31m 河岸 🙂 \u2028" + "long " * 90
    env = {
        "LC_ALL": "C",
        "PYTHONIOENCODING": "ascii",
        "PYTHONUTF8": "0",
        "FORCE_COLOR": "1",
        "COLUMNS": "20",
        "NO_COLOR": "",
    }
    ended = processes.run("generate", "-p", prompt, "-m", trained_run, "--max-new-tokens", "0", env=env)
    assert (ended.code, ended.out) == (0, f"{prompt}\n".encode())
    assert ended.err.startswith(b"/") and "·".encode() in ended.err


@pytest.mark.slow
@pytest.mark.row("G13", "G17", "G25", "E13")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and sets the size of a pipe")
def test_a_slow_reader_is_waited_for_and_one_that_leaves_ends_it(trained_run: Path) -> None:
    line = ("generate", "Ada", "-m", str(trained_run), "--max-new-tokens", "1000000000", "-t", "0", "-q")
    process = subprocess.Popen([*processes.COMMAND, *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    fcntl.fcntl(process.stdout, 1031, 4096)  # F_SETPIPE_SZ: the least
    assert process.stdout.read(3) == b"Ada"
    process.stdout.read(9000)  # more than the pipe holds: the model is at work
    before = memory(process.pid)
    for _ in range(4):
        time.sleep(0.3)
        process.stdout.read(1)
    assert process.poll() is None
    assert memory(process.pid) - before < 4 << 20
    process.stdout.close()
    assert process.communicate(timeout=30)[1] == b""
    assert process.returncode == -signal.SIGPIPE


# -- Terminals


@pytest.mark.row("G21")
@pytest.mark.parametrize(
    ("env", "styled"),
    [
        ({}, True),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"CI": "true"}, True),
    ],
    ids=str,
)
def test_styles_are_for_terminals_that_want_them(
    gptlite: Command, terminal: Terminal, trained_run: Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, str],
    styled: bool,
) -> None:  # fmt: skip
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    generate = ("generate", "Ada", "-m", trained_run, "--seed", "1", "--max-new-tokens", "9")
    for line in (generate, ("info", trained_run), ("info", "gone")):
        code, arrived = terminal(*line)
        assert code == (4 if "gone" in line else 0)
        assert ("\x1b[" in arrived) == styled
        piped = gptlite(*line)
        assert "\x1b" not in piped.out + piped.err
    code, arrived = terminal(*generate, "-q")
    assert arrived == gptlite(*generate, "-q").out, "a model's text has no styles and is not wrapped"


@pytest.mark.row("G22")
@pytest.mark.parametrize("columns", [20, 10, 1, 0])
def test_narrow_terminals(gptlite: Command, terminal: Terminal, trained_run: Path, columns: int) -> None:
    generate = ("generate", "Ada " * 20, "-m", trained_run, "--seed", "1", "-q", "--max-new-tokens", "40")
    assert terminal(*generate, columns=columns) == (0, gptlite(*generate).out)
    for line in (("info", trained_run), ("embed", "the [bank]", "a [bank]", "-m", trained_run), ("info", "--help")):
        assert terminal(*line, columns=columns)[0] == 0


ODD_WIDTHS = """
import contextlib, io, os, sys
from gptlite.cli.main import main
for width in ("1", "0", "-3", "abc", "9" * 30):
    for arguments in (["--help"], ["info", sys.argv[1]], ["info", "gone"]):
        os.environ["COLUMNS"] = os.environ["LINES"] = width
        with contextlib.redirect_stdout(io.StringIO()) as out:
            try:
                main(arguments)
            except SystemExit as end:
                assert end.code == (4 if "gone" in arguments else 0), (width, arguments, end.code)
"""


@pytest.mark.row("G22")
def test_widths_that_are_none(trained_run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ODD_WIDTHS, str(trained_run)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.row("G22", "G23")
def test_ctrl_c_keeps_the_text_and_ends_its_line(trained_run: Path) -> None:
    """On a terminal that changes its size meanwhile."""
    screen = Screen(60)
    line = ("generate", "Ada", "-m", str(trained_run), "--max-new-tokens", "1000000", "--seed", "1", "--stop", "never")
    process = subprocess.Popen(
        [*processes.COMMAND, *line], stdin=screen.slave, stdout=screen.slave, stderr=screen.slave,
        env={**os.environ, "NO_COLOR": "", "TERM": "xterm-256color"},
    )  # fmt: skip
    wait_for(lambda: len(screen.received) > 400)
    for columns in (10, 1, 200):
        fcntl.ioctl(screen.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process.send_signal(signal.SIGWINCH)
    seen = len(screen.received)
    wait_for(lambda: len(screen.received) > seen + 200)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    arrived = screen.close()
    text, message = arrived.split("Ada", 1)[1].rsplit("\n", 2)[:2]
    assert re.sub("\x1b.*?m", "", message) == "gptlite: error: interrupted."
    assert "\x1b" not in text and len(text) > 300
    assert arrived.count("\x1b[0m") == len(re.findall("\x1b\\[[1-9][0-9;]*m", arrived)), "each style is taken back"
    assert "\x1b[?25l" not in arrived, "the cursor was never hidden"


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.row("G23")
@pytest.mark.parametrize("more", [(), ("--json",), ("-n", "2"), ("--no-stream",)], ids=str)
def test_an_interrupted_text_is_kept_if_it_was_streamed(
    gptlite: Command, trained_run: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer, more: tuple[str, ...]
) -> None:
    drawn(monkeypatch, [tokenizer.token_bytes.index(b"x")], KeyboardInterrupt)
    outcome = gptlite("generate", "Ada", "-m", trained_run, "-q", *more)
    assert (outcome.code, outcome.err) == (130, "gptlite: error: interrupted.\n")
    assert outcome.out == ("" if more else "Adax\n")

"""Embedding meets anything: words of all scripts, endless streams, bytes that are no text, and files half written."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import resource
import signal
import stat
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command, Outcome, make_text, random_model, tiny_config
from hypothesis import given
from hypothesis import strategies as st
from support import processes

from gptlite.checkpoint.saved_step import save_step
from gptlite.cli.shared.texts import Finder, Texts
from gptlite.embedding import contextual
from gptlite.embedding.contextual import WordVector, embed
from gptlite.embedding.similarity import correct, cosine_matrix, nearest
from gptlite.embedding.vector_files import FORMATS, Record, files_of, save_records, save_vectors
from gptlite.errors import LimitError, StorageError, UsageError
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import INVISIBLE, Occurrence, find_word, parse_marked
from gptlite.tracing import trace

CONTEXT = 32
META = {"model": "x", "pool": "last", "prefix": "\n"}


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    return random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size, context_length=CONTEXT))


@pytest.fixture
def run_embed(gptlite: Command, trained_run: Path) -> Command:
    def call(*arguments: object, stdin: bytes | None = None) -> Outcome:
        return gptlite("embed", "-m", trained_run, *arguments, stdin=stdin)

    return call


def records(out: str) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in out.split("\n")[:-1]]


# -- Words in all scripts


@pytest.mark.row("E05")
@pytest.mark.parametrize(
    ("text", "word", "spans"),
    [
        ("where there's a will there's a _will_ and will_init", "will", [(16, 20)]),
        ("cafe\u0301 and cafe", "cafe", [(10, 14)]),
        ("cafe\u0301 and cafe", "cafe\u0301", [(0, 5)]),
        ("caf\u00e9 and cafe\u0301", "caf\u00e9", [(0, 4), (9, 14)]),
        ("n\u0303andu and andu", "andu", [(11, 15)]),
        ("हिन्दी और हिन्द", "हिन्द", [(10, 15)]),
        ("जान न जान", "न", [(4, 5)]),
        ("नदी नदीय", "नदी", [(0, 3)]),
        ("שָׁלוֹם של", "של", [(8, 10)]),
        ("كِتَاب كتاب", "كت", []),
        ("می‌خواهم می", "می", [(9, 11)]),
        ("👩‍👩‍👧 👧 👩", "👧", [(6, 7)]),
        ("👩‍👩‍👧 👧 👩", "👩", [(8, 9)]),
        ("👍🏽 👍", "👍", [(3, 4)]),
        ("❤\ufe0fbank", "bank", [(2, 6)]),
        ("用bank取钱", "bank", [(1, 5)]),
        ("去银行ATM取钱", "银行", [(1, 3)]),
        ("แม่น้ำ แม", "แม", [(7, 9)]),
        ("은행에서 은행", "은행", [(5, 7)]),
        ("Ada's bank-like 'bank'", "bank", [(6, 10), (17, 21)]),
        ("Ada's bank", "Ada", [(0, 3)]),
        ("x‿bank bank", "bank", [(7, 11)]),
        ("a1 1 1a ①", "1", [(3, 4)]),
        ("aaa aa", "aa", [(4, 6)]),
        ("a a a", "a a", [(0, 3)]),
        ("bank", "", []),
    ],
)
def test_whole_words_are_found_in_all_scripts(text: str, word: str, spans: list[tuple[int, int]]) -> None:
    assert [(o.start, o.end) for o in find_word(text, 0, word)] == spans


def plain(word: str) -> str:
    """A word without what does not count when it is looked for: invisible characters, white space at its ends."""
    return unicodedata.normalize("NFC", re.sub(f"[{INVISIBLE}]", "", word)).strip()


@pytest.mark.row("E05")
@given(st.lists(st.text(max_size=5), max_size=6), st.text(min_size=1, max_size=3))
def test_what_is_found_is_the_word_and_once_each(pieces: list[str], word: str) -> None:
    text = word.join(pieces)
    found = find_word(text, 0, word)
    wanted = plain(word)
    for spelled in (plain(o.word) for o in found):
        assert spelled.lower() == wanted.lower() or spelled.casefold() == wanted.casefold()
    assert all(a.end <= b.start for a, b in pairwise(found))


@pytest.mark.row("E05")
@given(word=st.text(min_size=1, max_size=9).filter(lambda w: w.strip()), left=st.text(max_size=9))
def test_vectors_of_any_word_are_numbers(model: GPT, tokenizer: Tokenizer, word: str, left: str) -> None:
    (v,) = embed(model, tokenizer, [Occurrence(0, f"{left}{word} .", len(left), len(left) + len(word))])
    assert np.isfinite(v.contextual).all() and np.isfinite(v.static).all()
    spelled, wanted = (re.sub(r"\s", "", part) for part in ("".join(v.tokens), word))
    assert wanted in spelled or "\ufffd" in spelled


@pytest.mark.row("E01")
def test_a_word_never_seen_is_made_of_pieces(run_embed: Command) -> None:
    outcome = run_embed("a [zyxqwv] and a [bank]", "--json")
    unseen, seen = json.loads(outcome.out)["items"]
    assert outcome.code == 0
    assert len(unseen["tokens"]) > len(seen["tokens"])
    assert "".join(unseen["tokens"]).strip() == "zyxqwv"


# -- Long texts


@pytest.mark.row("E04")
@pytest.mark.parametrize("separator", [" ", "", "，"], ids=["spaced", "unspaced", "chinese"])
def test_of_a_long_text_the_last_window_up_to_the_word_is_read(
    model: GPT, tokenizer: Tokenizer, separator: str
) -> None:
    words = [random.Random(7).choice(("Ada", "bank", "河岸", "zyx", "🙂")) for _ in range(9000)]
    text = separator.join([*words, "[bank]", *words])
    (place,) = parse_marked(text, 0)
    ids, covering, _ = contextual._covering_tokens(tokenizer, place)
    window = ids[: covering[-1] + 1][-CONTEXT:]
    found = embed(model, tokenizer, [place])[0]
    expected = trace(model, torch.tensor([window])).hidden
    assert found.n_left == CONTEXT - len(covering)
    assert np.allclose(found.contextual, torch.stack(expected)[:, 0, -1].numpy(), atol=1e-5)


@pytest.mark.row("E04")
def test_only_the_neighbourhood_of_a_word_is_tokenized(
    model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = Tokenizer.encode_with_spans
    monkeypatch.setattr(
        Tokenizer, "encode_with_spans", lambda self, text: (sizes.append(len(text)), real(self, text))[1]
    )
    text = "Ada finds the river . " * 50_000
    embed(model, tokenizer, [Occurrence(0, text, 500_000, 500_010)])
    assert sum(sizes) < 20_000


@pytest.mark.row("E04")
def test_a_word_of_a_book_is_refused(model: GPT, tokenizer: Tokenizer) -> None:
    with pytest.raises(LimitError, match=r"text 3: a word of 70,000 characters is too long"):
        embed(model, tokenizer, [Occurrence(2, "x" * 70_000, 0, 70_000)])


@pytest.mark.row("E04")
def test_a_line_without_end_is_refused(run_embed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptlite.cli.shared.texts.LONGEST_LINE", 1 << 16)
    assert run_embed("-", "-w", "bank", stdin=b"the bank " + b"x" * 65_000).code == 0
    assert run_embed("-", "-w", "bank", stdin=b"the bank " + b"x" * 66_000).code == 8


# -- Streams

NASTY = st.text(st.sampled_from("a[]\\ \t\r\x00\ufeff\u2028\x85\x1c\x0b银é"), max_size=6)


@pytest.mark.row("E02", "E03")
@given(lines=st.lists(st.sampled_from(["", "the bank", "a bank\r", "\ufeffbank", "x\x00bank"]) | NASTY, max_size=9))
def test_each_line_is_a_text_and_keeps_its_number(lines: list[str]) -> None:
    Path("lines.txt").write_bytes("".join(f"{line}\n" for line in lines).encode())
    source = Texts([], ["lines.txt"])
    expected = [line.rstrip("\r") for line in lines]
    if expected and expected[0].startswith("\ufeff"):
        expected[0] = expected[0][1:]
    assert list(source) == expected
    found, numbers = Finder(source, ["bank"]), []
    try:
        for i, place, *_ in found:
            numbers.append(i)
            assert (place is None) == (find_word(expected[i], i, "bank") == [])
            assert place is None or place.text == expected[i]
    except UsageError:
        assert not any(find_word(line, 0, "bank") for line in expected)
    assert sorted(set(numbers)) == list(range(len(lines)))
    assert found.n_blank + found.n_empty + found.n_words == len(numbers)


@pytest.mark.row("E02", "E03")
@pytest.mark.parametrize("out", ["-", "v.jsonl"])
def test_lines_in_are_records_out(run_embed: Command, out: str) -> None:
    lines = ["\ufeffthe bank", "", " \t", "a bank\r", "nothing", "\x00bank\x00", "\ufeff bank", "bank\u2028bank2", "]"]
    outcome = run_embed("-", "-w", "bank", "-o", out, stdin="\n".join(lines).encode())
    assert outcome.code == 0, outcome.err
    found = records(outcome.out if out == "-" else Path(out).read_text(encoding="utf-8"))
    assert [r["text_index"] for r in found] == list(range(len(lines)))
    assert [r["word"] for r in found] == ["bank", None, None, "bank", None, "bank", "bank", "bank", None]
    for record in found:
        for key in ("span", "tokens", "n_left", "vector", "static"):
            assert (record[key] is None) == (record["word"] is None)
        assert record["layer"] == 2 and record["pool"] == "last"
    assert "note: 4 texts without what was looked for; for each there is a row of null." in outcome.err


@pytest.mark.row("E02")
@pytest.mark.parametrize("texts", [("",), ("the [bank]", " "), ("\t",)], ids=ascii)
def test_an_empty_argument_is_a_usage_error(run_embed: Command, texts: tuple[str, ...]) -> None:
    outcome = run_embed(*texts)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"text {len(texts)} is empty" in outcome.err


@pytest.mark.row("E02")
@pytest.mark.parametrize("out", [(), ("-o", "v.npz"), ("-o", "v.jsonl"), ("-o", "-")], ids=str)
@pytest.mark.parametrize("stdin", [b"", b"\n \n", b"one\ntwo\n"])
def test_texts_without_any_word_are_a_usage_error(run_embed: Command, out: tuple[str, ...], stdin: bytes) -> None:
    outcome = run_embed("-", "-w", "bank", *out, stdin=stdin)
    assert outcome.code == 2
    assert ("'bank' is not in the texts" if b"one" in stdin else "give at least one text") in outcome.err
    assert os.listdir() == []


@pytest.mark.row("E07")
def test_bytes_that_are_no_text_are_an_error_or_counted(run_embed: Command) -> None:
    stdin = b"the bank\ncaf\xe9 bank\n\xff\xfe\nbank \x80\n"
    strict = run_embed("-", "-w", "bank", "-o", "-", stdin=stdin)
    assert strict.code == 3
    assert "line 2 of the texts is not UTF-8" in strict.err and "byte 3" in strict.err
    assert [r["text_index"] for r in records(strict.out)] == [0], "what came before it is out"
    lossy = run_embed("-", "-w", "bank", "-o", "-", "--lossy", stdin=stdin)
    assert lossy.code == 0
    assert [(r["text_index"], r["word"]) for r in records(lossy.out)] == [
        (0, "bank"), (1, "bank"), (2, None), (3, "bank"),
    ]  # fmt: skip
    assert "note: 3 texts held bytes that are not UTF-8" in lossy.err


@pytest.mark.row("E06", "E13")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("n", [600, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_stream_is_answered_line_by_line_in_constant_memory(trained_run: Path, n: int) -> None:
    lines = make_text(n, seed=3).splitlines()
    process = subprocess.Popen(
        [*processes.COMMAND, "embed", "-", "-w", "the#1", "-o", "-", "-q", "-m", str(trained_run)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin and process.stdout
    process.stdin.write(f"{lines[0]}\n".encode())
    process.stdin.flush()
    first = json.loads(process.stdout.readline())
    assert first["text_index"] == 0, "the first record comes before the input ends"
    feeder = threading.Thread(target=lambda: process.stdin.write("\n".join([*lines[1:], ""]).encode()))  # type: ignore[union-attr]
    feeder.start()
    early = 0
    for i in range(1, n):
        assert json.loads(process.stdout.readline())["text_index"] == i
        if i == n // 3:
            early = memory(process.pid)
    late = memory(process.pid)
    feeder.join()
    process.stdout.close()  # and now the reader leaves
    assert process.communicate(input=f"{lines[0]}\n".encode(), timeout=30)[1] == b""
    assert process.returncode == -signal.SIGPIPE
    assert late - early < (2 << 20) + n * 10


@pytest.mark.slow
@pytest.mark.row("E06")
def test_a_file_of_many_sentences_takes_the_memory_of_a_few(trained_run: Path) -> None:
    """The peak of the whole process, with five times as many sentences."""
    peaks = {}
    for n in (2_000, 10_000):
        Path("texts.txt").write_text(make_text(n, seed=4))
        line = ("embed", "-f", "texts.txt", "-w", "the#1", "-o", f"{n}.jsonl", "-q", "-m", trained_run)
        ended = processes.run(*line, timeout=300)
        assert ended.code == 0, ended.err
        assert Path(f"{n}.jsonl").read_bytes().count(b"\n") >= n
        peaks[n] = ended.peak
    assert peaks[10_000] - peaks[2_000] < 20 << 20


def memory(pid: int) -> int:
    """Bytes that a process holds now."""
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kilobytes) * 1024


# -- Numbers


@pytest.mark.row("E08")
def test_a_vector_does_not_depend_on_its_neighbours(model: GPT, tokenizer: Tokenizer) -> None:
    places = [o for i, line in enumerate(make_text(40).splitlines()) for o in find_word(line, i, "the")]
    together = embed(model, tokenizer, places)
    backwards = embed(model, tokenizer, places[::-1])[::-1]
    for place, first, second in zip(places, together, backwards, strict=True):
        alone = embed(model, tokenizer, [place])[0]
        assert first.occurrence == second.occurrence == place
        assert np.abs(alone.contextual - first.contextual).max() <= 1e-5
        assert np.abs(alone.contextual - second.contextual).max() <= 1e-5


@pytest.mark.row("E09")
def test_neighbours_are_counted_from_1_and_equals_keep_their_order() -> None:
    table = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    for k in (0, -1):
        with pytest.raises(UsageError, match="at least 1"):
            nearest(table[0], table, k)
    assert [i for i, _ in nearest(table[0], table, 99)] == [0, 2, 1, 3, 4]
    assert [i for i, _ in nearest(table[0], table, 1)] == [0]


@pytest.mark.row("E10")
def test_vectors_of_zeros_have_cosines() -> None:
    vectors = np.array([[0.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    assert cosine_matrix(vectors).tolist() == [[0, 0], [0, 1]]
    assert nearest(vectors[0], vectors, 2) == [(0, 0.0), (1, 0.0)]
    space = {"mean": np.zeros(2), "std": np.zeros(2)}
    assert np.isfinite(cosine_matrix(correct(vectors, "zscore", space))).all()


@pytest.mark.row("E10")
def test_json_of_a_model_of_zeros_has_no_nan(gptlite: Command, tokenizer: Tokenizer) -> None:
    zeros = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        for parameter in zeros.parameters():
            parameter.zero_()
    save_step(Path("zeros"), zeros, tokenizer, {})
    outcome = gptlite("embed", "the [bank]", "a [bank]", "-m", "zeros", "--json", "-q")
    assert outcome.code == 0
    assert json.loads(outcome.out, parse_constant=pytest.fail)["contextual"] == [[0, 0], [0, 0]]
    (first, _) = records(gptlite("embed", "the [bank]", "a [bank]", "-m", "zeros", "-o", "-").out)
    assert first["vector"] == [0] * 32


# -- Files

NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def vector(word: str, numbers: list[float], i: int = 0) -> WordVector:
    values = np.array([numbers], dtype=np.float32)
    return WordVector(Occurrence(i, f"x {word}", 2, 2 + len(word)), values, values[0], (word,), False, 1, ())


@pytest.mark.row("E11")
@given(
    words=st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=5),
    numbers=st.lists(NUMBERS, min_size=1, max_size=4),
)
def test_any_word_reads_back(words: list[str], numbers: list[float]) -> None:
    vectors = [vector(word, numbers, i) for i, word in enumerate(words)]
    save_vectors(Path("v.jsonl"), vectors, 0, META)
    content = Path("v.jsonl").read_bytes().decode("utf-8")
    assert [r["word"] for r in records(content)] == words
    assert np.array_equal(
        np.array([r["vector"] for r in records(content)], dtype=np.float32), [v.static for v in vectors]
    )
    save_vectors(Path("v.vec"), vectors, 0, META)
    header, *rows, last = Path("v.vec").read_bytes().decode("utf-8").split("\n")
    assert (header, last) == (f"{len(words)} {len(numbers)}", "")
    cells = [row.split(" ") for row in rows]
    assert [row[0] for row in cells] == [f"{re.sub(chr(92) + 's', '_', w)}#{i + 1}" for i, w in enumerate(words)]
    assert np.array_equal(np.array([row[1:] for row in cells], dtype=np.float32), [v.static for v in vectors])
    if any(word.endswith("\0") for word in words):
        with pytest.raises(UsageError, match="NUL"):
            save_vectors(Path("v.npz"), vectors, 0, META)
    else:
        save_vectors(Path("v.npz"), vectors, 0, META)
        with np.load("v.npz", allow_pickle=False) as found:
            assert found["word"].tolist() == words


@pytest.fixture(params=FORMATS)
def writing(request: pytest.FixtureRequest) -> Callable[[float], Path]:
    """Write a file of one number, many times: writing(1.0) -> its path, of several files the one with the numbers."""

    def write(number: float) -> Path:
        save_vectors(Path(f"v{request.param}"), [vector("bank", [number] * 9000)] * 3, 0, META)
        return files_of(Path(f"v{request.param}"))[0]

    return write


@pytest.mark.row("E12", "P24")
@pytest.mark.parametrize("call", ["open", "chmod", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_file_that_cannot_be_finished_leaves_the_old_one(
    monkeypatch: pytest.MonkeyPatch, writing: Callable[[float], Path], call: str, error: BaseException
) -> None:
    path = writing(1.0)
    before = path.read_bytes()

    def fails(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(f"gptlite.storage.durable.os.{call}", fails)
        with pytest.raises((StorageError, KeyboardInterrupt)) as caught:
            writing(2.0)
    files = {str(file) for file in files_of(path)}
    if isinstance(error, OSError):
        assert str(caught.value) in {f"cannot write {name}: No space left on device." for name in files}
    assert path.read_bytes() == before
    assert set(os.listdir()) == files
    writing(2.0)
    assert path.read_bytes() != before


@pytest.mark.row("E12")
def test_records_interrupted_on_their_way_leave_the_old_file() -> None:
    Path("v.jsonl").write_text("old")

    def some() -> Iterator[Record]:
        yield Record(0, vector("bank", [1.0]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_records(Path("v.jsonl"), some(), 0, META)
    assert (Path("v.jsonl").read_text(), os.listdir()) == ("old", ["v.jsonl"])


@pytest.fixture
def no_large_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files of at most 8 KiB. Python would write its compiled modules cut short."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.row("E12", "G18")
@pytest.mark.parametrize(
    "line",
    [
        "embed -f texts.txt -w the -o v.jsonl -m MODEL --force",
        "export MODEL -o m.gguf --force",
    ],
    ids=["jsonl", "gguf"],
)
def test_a_full_disk_is_code_5_and_leaves_the_old_file(
    gptlite: Command, trained_run: Path, no_large_files: None, line: str
) -> None:
    Path("texts.txt").write_text(make_text(60))
    words = [str(trained_run) if word == "MODEL" else word for word in line.split()]
    target = Path(words[words.index("-o") + 1])
    target.write_text("old")
    ended = gptlite(*words, "-q")
    assert ended.code == 5
    reason = "File too large" if target.suffix != ".gguf" else ".* written, perhaps because the disk is full"
    assert re.fullmatch(f"gptlite: error: cannot write {target}: {reason}\\.\n", ended.err)
    assert target.read_text() == "old"
    assert sorted(os.listdir()) == sorted(["texts.txt", target.name])


@pytest.mark.row("E12")
def test_links_and_permissions_stay() -> None:
    Path("folder").mkdir()
    Path("folder/real.vec").write_text("old")
    Path("folder/real.vec").chmod(0o640)
    Path("v.vec").symlink_to("folder/real.vec")
    save_vectors(Path("v.vec"), [vector("bank", [1.0])], 0, META)
    assert Path("v.vec").is_symlink() and os.listdir("folder") == ["real.vec"]
    assert Path("folder/real.vec").read_text().startswith("1 1\n")
    assert stat.S_IMODE(Path("folder/real.vec").stat().st_mode) == 0o640
    before = os.umask(0o027)
    save_vectors(Path("new.vec"), [vector("bank", [1.0])], 0, META)
    os.umask(before)
    assert stat.S_IMODE(Path("new.vec").stat().st_mode) == 0o640


# Forks a writer and kills it, again and again: counts files that were torn, and writes that were cut short. Then the
# same with a writer that writes in place.
KILLING = """
import contextlib, os, random, signal, sys, time
from pathlib import Path
import numpy as np
from gptlite.embedding import vector_files
from gptlite.embedding.contextual import WordVector
from gptlite.text.words import Occurrence

def write(path, number):
    values = np.full((1, 3000), number, dtype=np.float32)
    vectors = [WordVector(Occurrence(0, "bank", 0, 4), values, values[0], ("bank",), False, 1, ())] * 9
    vector_files.save_vectors(path, vectors, 0, {})
    return path.read_bytes()

def kill_writers(kills):
    whole, seconds = {}, {}
    for path in (Path("v.jsonl"), Path("v.vec")):
        began = time.monotonic()
        whole[path] = {write(path, 1.5), write(path, 2.5)}
        seconds[path] = (time.monotonic() - began) / 2
    rng, torn, cut = random.Random(1), 0, 0
    for kill in range(kills):
        path = rng.choice([*whole])
        child = os.fork()
        if child == 0:
            while True:
                write(path, 1.5)
                write(path, 2.5)
        time.sleep(rng.uniform(0, 3 * seconds[path]))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        torn += path.read_bytes() not in whole[path]
        for scratch in Path().glob(".tmp-*"):
            cut += 1
            scratch.unlink()
    return torn, cut

kills = int(sys.argv[1])
print(*kill_writers(kills))
vector_files.replacing = contextlib.nullcontext
print(*kill_writers(30))
"""


@pytest.mark.row("P24", "E12")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("kills", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_the_old_file_or_the_new_one(kills: int) -> None:
    line = [sys.executable, "-c", KILLING, str(kills)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    torn, cut, torn_in_place, _ = map(int, done.stdout.split())
    assert torn == 0
    assert cut > kills / 5, "kills fell while something was written"
    assert torn_in_place > 3, "a killer that finds nothing there proves nothing"

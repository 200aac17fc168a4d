"""Texts that are odd, damaged or huge: rows C01 to C40 that the other tests do not cover."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from conftest import Command, make_text
from support.processes import run

from gptlite.errors import CorpusError, StorageError, UsageError
from gptlite.text import reading, token_files
from gptlite.text.corpus import Text, open_text
from gptlite.text.options import TextOptions
from gptlite.text.tokenizer import SEPARATOR, Tokenizer

TEXT = make_text(100)
SMALL = ("--steps", "1", "--layers", "1", "--dim", "16", "--heads", "1", "--context", "16", "--batch-size", "2")


def write(path: str | Path, content: str | bytes = TEXT) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(text: Text) -> str:
    return "".join(block for _, block in text.blocks())


def tokens_of(text: Text, tokenizer: Tokenizer) -> list[int]:
    return token_files.tokenize(text, tokenizer).ids().tolist()


# Too little text


@pytest.mark.row("C01", "C02")
@pytest.mark.parametrize("content", [b"", b"\n" * 5000, b" \t\r\n" * 2000, "\u2003\u0085".encode() * 2000])
def test_a_text_of_nothing_leaves_nothing_behind(gptlite: Command, content: bytes) -> None:
    write("a.txt", content)
    outcome = gptlite("train", "a.txt", *SMALL)
    assert (outcome.code, outcome.out) == (3, "")
    assert ("is empty" if not content else "only white space") in outcome.err
    assert [p.name for p in Path().iterdir()] == ["a.txt"]


@pytest.mark.row("C03", "C35")
def test_too_few_tokens_are_counted_and_the_context_that_is_named_works(gptlite: Command) -> None:
    """Six thousand times the same letter: a handful of long tokens."""
    write("a.txt", "a" * 6000)
    outcome = gptlite("train", "a.txt", *SMALL, "-o", "first")
    assert outcome.code == 3
    found = re.search(r"has (\d+) tokens, but one window needs 17; use a --context of (\d+) or less", outcome.err)
    assert found and int(found[1]) - 1 == int(found[2])
    assert "the text has repeated pairs for" not in outcome.err, "nobody asked for a size"
    assert gptlite("train", "a.txt", *SMALL, "--context", found[2], "-o", "second", "-q").code == 0


@pytest.mark.row("C35")
def test_one_letter_is_learned_without_nan(gptlite: Command) -> None:
    write("a.txt", "a" * 6000)
    outcome = gptlite("train", "a.txt", *SMALL, "--steps", "40", "--vocab-size", "257", "--json", "-o", "run")
    assert outcome.code == 0
    assert json.loads(outcome.out)["val_bits_per_byte"] < 0.1
    assert json.loads(outcome.out)["vocab_size"] == 257


@pytest.mark.row("C05")
@pytest.mark.parametrize("content", ["x", "two words"])
def test_held_out_text_may_be_shorter_than_a_window(gptlite: Command, content: str) -> None:
    write("a.txt")
    write("val.txt", content)
    outcome = gptlite("train", "a.txt", "--val", "val.txt", *SMALL, "--json", "-o", "run")
    assert outcome.code == 0
    assert json.loads(outcome.out)["val_bytes"] == len(content)


@pytest.mark.row("C36")
@pytest.mark.parametrize("size", ["0", "-1", "256", "1000000000000", "9" * 30])
def test_an_impossible_vocabulary_never_reaches_the_library(gptlite: Command, corpus_file: Path, size: str) -> None:
    outcome = gptlite("train", corpus_file, "--vocab-size", size, *SMALL)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--vocab-size" in outcome.err


@pytest.mark.row("C36")
def test_a_vocabulary_that_the_text_cannot_fill_is_smaller_and_said_to_be(gptlite: Command, corpus_file: Path) -> None:
    outcome = gptlite("train", corpus_file, "--vocab-size", "5000", *SMALL, "--json", "-o", "run")
    size = json.loads(outcome.out)["vocab_size"]
    assert (outcome.code, 257 < size < 1000) == (0, True)
    assert f"note: the text has repeated pairs for {size} tokens only, not 5,000." in outcome.err


# Long lines and long words


@pytest.mark.row("C06")
@pytest.mark.parametrize("megabytes", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_a_long_line_is_cut_without_a_trace(tokenizer: Tokenizer, megabytes: int) -> None:
    content = (make_text(400).replace("\n", " ") * (megabytes * 70))[: megabytes << 20]
    text = open_text([str(write("a.txt", content))])
    blocks = [len(block) for _, block in text.blocks()]
    assert max(blocks) < 2 * reading.READ_SIZE < len(content)
    # A tenth of it is enough to compare: half a gigabyte of ids and their spans is what the whole would take.
    part = content[: len(content) // 10]
    ids = tokens_of(text, tokenizer)
    assert ids[: len(tokenizer.encode(part)) - 1] == [tokenizer.separator_id, *tokenizer.encode(part)][:-2]
    assert tokenizer.decode(ids) == content


@pytest.mark.row("C07")
@pytest.mark.parametrize("letter", ["a", " ", "天"])
@pytest.mark.parametrize("size", [1 << 19, pytest.param(10 << 20, marks=pytest.mark.slow)])
def test_time_is_linear_in_the_length_of_a_word(tokenizer: Tokenizer, letter: str, size: int) -> None:
    def seconds(n: int) -> float:
        text = open_text([str(write(f"{n}.txt", "start " + letter * (n // len(letter.encode()))))])
        began = time.process_time()
        token_files.tokenize(text, tokenizer)
        Tokenizer.train(text.sample(1 << 26), 300)
        return time.process_time() - began

    assert any(seconds(size) / seconds(size // 2 + i) <= 2.5 for i in range(5))


# Bytes that are not text


@pytest.mark.row("C10")
@pytest.mark.parametrize(
    "bad", [b"\xf5\x80\x80\x80", b"\xf4\x90\x80\x80", b"\xff", b"\xfe", b"\xe0\x80\xaf"], ids=lambda b: b.hex()
)
def test_code_points_that_do_not_exist_are_refused(bad: bytes) -> None:
    write("a.txt", b"x" * 3000 + b"\n" + bad + b"\n")
    with pytest.raises(CorpusError, match=rf"byte 0x{bad[0]:02X} at offset 3,001 \(line 2\); .*`lossy=True`"):
        open_text(["a.txt"])


@pytest.mark.row("C08", "C10")
@pytest.mark.parametrize("before", [0, reading.READ_SIZE - 2, reading.READ_SIZE - 1])
def test_lossy_reads_them_as_replacement_characters_and_counts(before: int) -> None:
    """Those that stand in the file are not counted, wherever blocks of reading end."""
    content = b"x" * before + "\ufffd".encode() + b"a\xffb\xed\xa0\x80c" + TEXT.encode() + "天".encode()[:2]
    said: list[str] = []
    text = open_text([str(write("a.txt", content))], options=TextOptions(lossy=True), notice=said.append)
    expected = content.decode(errors="replace")
    assert read(text) == expected
    replaced = expected.count("\ufffd") - content.count("\ufffd".encode())
    assert text.pieces[0].document.replaced == replaced
    assert said == [f"put {replaced} � for bytes that are not UTF-8 in 1 file, such as a.txt."]


@pytest.mark.row("C08", "C14")
def test_a_lossy_run_says_so_and_is_resumed_as_it_began(gptlite: Command, tokenizer: Tokenizer) -> None:
    write("a.txt", TEXT.encode() + "naïve\x00 café ".encode("latin-1") * 10)
    for line in ("train a.txt", "eval a.txt -m run"):
        assert gptlite(*line.split(), *(SMALL if "train" in line else ()), "-o", "x").code in (2, 3)
    outcome = gptlite("train", "a.txt", "--lossy", *SMALL, "-o", "run")
    assert outcome.code == 0
    assert "note: put 20 � for bytes that are not UTF-8 in 1 file, such as a.txt." in outcome.err
    assert gptlite("train", "--resume", "-o", "run", "--steps", "2").code == 0
    assert gptlite("eval", "a.txt", "--lossy", "-m", "run").code == 0
    assert gptlite("eval", "a.txt", "-m", "run").code == 3


@pytest.mark.row("C13", "C14")
@pytest.mark.parametrize("content", [TEXT.encode("utf-16-le"), b"good text " * 300 + b"\x00" + b"more text"])
def test_nul_bytes_are_refused_unless_they_are_wanted(content: bytes) -> None:
    write("a.txt", content)
    offset = content.index(b"\x00")
    with pytest.raises(CorpusError, match=rf"looks binary: NUL byte at offset {offset:,}; .* use `lossy=True`"):
        open_text(["a.txt"])
    assert read(open_text(["a.txt"], options=TextOptions(lossy=True))) == content.decode()


@pytest.mark.row("C14")
def test_lossy_does_not_make_text_of_the_pictures_in_a_folder() -> None:
    write("d/a.txt")
    write("d/picture.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF" * 300)
    assert [p.document.name for p in open_text(["d"], options=TextOptions(lossy=True)).pieces] == ["d/a.txt"]


@pytest.mark.row("C11")
def test_a_byte_order_mark_is_left_out_and_said_to_be() -> None:
    write("d/a.txt", reading.BOM + TEXT.encode())
    write("d/b.txt", TEXT + "\ufeff middle")
    said: list[str] = []
    text = open_text(["d"], notice=said.append)
    assert said == ["left out the byte order mark of 1 file, such as d/a.txt."]
    assert read(text) == TEXT + TEXT + "\ufeff middle"
    assert "\ufeff" not in read(open_text(["d/a.txt"]))


def safetensors_bytes() -> bytes:
    import numpy as np

    return safetensors.numpy.save({"a": np.zeros(3, dtype=np.float32)})


@pytest.mark.row("C17")
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (safetensors_bytes(), "a model in safetensors"),
        (b"GGUF\x03\x00\x00\x00" + b"x" * 3000, "a model in GGUF"),
        *((pickle.dumps({"a": TEXT}, protocol), "a pickle") for protocol in (2, 3, 4, 5)),
    ],
)
def test_models_and_pickles_are_recognised_even_when_lossy(content: bytes, kind: str) -> None:
    write("a.txt", content)
    for lossy in (False, True):
        with pytest.raises(CorpusError, match=f"not plain text: it looks like {kind}"):
            open_text(["a.txt"], options=TextOptions(lossy=lossy))


@pytest.mark.row("C17")
def test_texts_that_only_begin_alike_are_texts() -> None:
    for i, start in enumerate(("GGUF is a format", '[      \n{"a": 1}', "BZh is", "(µ/ý", "PAR1")):
        assert read(open_text([str(write(f"{i}.txt", start + TEXT))])) == start + TEXT


@pytest.mark.row("C16")
def test_only_line_feeds_end_a_line() -> None:
    content = "".join(f"{i:04d}\u0085\u2028\x0b\x0c\x1c\r" for i in range(600))
    head, tail = open_text([str(write("a.txt", content))]).split(0.5)
    assert read(head) + read(tail) == content
    assert abs(head.n_bytes - tail.n_bytes) < 4, "cut in the middle, for no line ends there"


# Files that cannot be read, and files that are none


@pytest.mark.row("C21")
@pytest.mark.parametrize("where", ["a.txt", "d"])
def test_a_file_that_may_not_be_read_is_named(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder too: a text that is silently left out is a text that is lost."""
    write("a.txt")
    write("d/b.txt")
    real = os.open

    def refuse(path: Any, *more: Any, **named: Any) -> int:
        if str(path).endswith(".txt"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *more, **named)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CorpusError, match=r"cannot read .*\.txt: Permission denied"):
        open_text([where])


@pytest.mark.row("C21")
def test_a_folder_that_may_not_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    write("d/a.txt")
    write("d/inner/b.txt")
    real = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("inner"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(CorpusError, match="cannot read d/inner: Permission denied"):
        open_text(["d"])


@pytest.mark.row("C22")
def test_names_that_lead_nowhere_are_named() -> None:
    os.symlink("loop.txt", "loop.txt")
    for name, reason in (
        ("loop.txt", "symbolic links"),
        ("x" * 300, "File name too long"),
        ("a.txt/b", "No such file"),
    ):
        with pytest.raises(CorpusError, match=rf"cannot read {name}: .*{reason}"):
            open_text([name])


@pytest.mark.row("C23")
@pytest.mark.parametrize("kind", ["/dev/zero", "/dev/tty", "socket", "pty", "pipe"])
def test_what_is_no_file_neither_hangs_nor_passes(kind: str) -> None:
    if kind == "socket":
        listening = socket.socket(socket.AF_UNIX)
        listening.bind("socket")
    elif kind == "pty":
        _, slave = os.openpty()
        kind = os.ttyname(slave)
    elif kind == "pipe":
        os.mkfifo("pipe")
    with pytest.raises(CorpusError, match=rf"{kind} is not a regular file|cannot read {kind}: No such device"):
        open_text([kind])
    if kind == "socket":
        listening.close()


@pytest.mark.row("C25")
def test_a_file_without_a_size_is_what_can_be_read_of_it() -> None:
    path = Path("/proc/filesystems")
    if not path.exists() or path.stat().st_size:
        pytest.skip("no file here claims to be empty without being so")
    assert read(open_text([str(path)], smallest=1)) == path.read_text()
    with pytest.raises(CorpusError, match="NUL byte"):
        open_text(["/proc/self/cmdline"])


# Files that change


class Reads:
    """Does something to the file before the n-th read of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n: int, change: Callable[[], object]) -> None:
        self.left, self.change = n, change
        self.read = reading.read_some
        monkeypatch.setattr(reading, "read_some", self)

    def __call__(self, *arguments: Any) -> bytes:
        self.left -= 1
        if not self.left:
            self.change()
        return self.read(*arguments)


def append() -> None:
    with open("a.txt", "a") as file:
        file.write("more")


def truncate() -> None:
    os.truncate("a.txt", 10)


def replace() -> None:
    write("b.txt", TEXT[::-1] * 20)
    os.utime("b.txt", ns=(0, os.stat("a.txt").st_mtime_ns))
    os.replace("b.txt", "a.txt")


@pytest.mark.row("C26", "C27", "C28")
@pytest.mark.parametrize("change", [append, truncate, replace])
@pytest.mark.parametrize("n", range(1, 9))
def test_a_file_that_changes_under_the_reader_is_never_used(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[], None], n: int, tokenizer: Tokenizer
) -> None:
    """Whenever it happens, the tokens are those of one state of the file, or there are none.

    A text is read several times, so one that is replaced by another is refused too.
    """
    monkeypatch.setattr(reading, "READ_SIZE", 1 << 14)
    write("a.txt", TEXT * 20)
    Reads(monkeypatch, n, change)
    try:
        text = open_text(["a.txt"])
        ids = tokens_of(text, tokenizer)
    except CorpusError as error:
        assert "a.txt changed while it was being read" in str(error)
    else:
        content = tokenizer.decode(ids)
        assert content in (TEXT * 20, TEXT * 20 + "more", TEXT[::-1] * 20)
        assert text.pieces[0].document.digest == hashlib.sha256(content.encode()).hexdigest()


@pytest.mark.row("C29")
@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_a_failing_disk_is_named_with_the_place(monkeypatch: pytest.MonkeyPatch, n: int, gptlite: Command) -> None:
    class Failing(io.BufferedReader):
        def read(self, size: int | None = -1, /) -> bytes:
            reads.append(size)
            if len(reads) == n:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    reads: list[int | None] = []
    write("a.txt", TEXT * 20)
    monkeypatch.setattr(reading, "READ_SIZE", 1 << 14)
    monkeypatch.setattr(reading, "open_regular", lambda path: Failing(io.FileIO(path)))
    outcome = gptlite("train", "a.txt", *SMALL)
    assert outcome.code == StorageError.exit_code
    assert "cannot read a.txt at offset " in outcome.err and "Input/output error" in outcome.err


# Many files, odd names


@pytest.mark.row("C32")
def test_the_order_of_arguments_does_not_matter(tokenizer: Tokenizer) -> None:
    names = [f"{i % 7}/ä{i:03d}.txt" for i in range(200)]
    for i, name in enumerate(names):
        write(name, f"text number {i}\n")
    orders = (names, names[::-1], [*map(str, range(7))], ["*/*.txt", *names[::3]])
    assert len({open_text(order).digest for order in orders}) == 1


@pytest.mark.row("C32")
@pytest.mark.parametrize("n", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_files_need_few_descriptors(tokenizer: Tokenizer, n: int) -> None:
    Path("many").mkdir()
    for i in range(n):
        Path(f"many/{i}.txt").write_text(f"file number {i}\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        ids = tokens_of(open_text(["many"]), tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    in_order = "".join(f"file number {i}\n" for i in sorted(range(n), key=lambda i: f"{i}.txt"))
    assert tokenizer.decode(ids) == in_order
    assert ids.count(tokenizer.separator_id) == n


ODD_NAMES = (
    "line\nbreak.txt", "\x1b[31mred.txt", os.fsdecode(b"\xff\xfe.txt"), "-rf", "🙂.txt", "[bold].txt", " ",
    "a\tb\r.txt", "\u202egpj.txt", "~", "$HOME.txt", "what?.txt", "日本.txt", "..txt", "%s%n.txt",
)  # fmt: skip


@pytest.mark.row("C33", "S14")
@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_odd_names_are_opened_and_shown(gptlite: Command, name: str) -> None:
    write(name)
    write("val.txt", TEXT[:500])
    outcome = gptlite("train", *SMALL, "--val", "val.txt", "--", name)
    assert outcome.code == 0
    (folder,) = Path("checkpoints").iterdir()
    facts = json.loads((folder / "run.json").read_bytes())
    spelled = (
        str(Path(name).absolute()).encode("utf-8", "backslashreplace").decode()
    )  # JSON is UTF-8, names need not be
    assert facts["inputs"][0]["path"] == spelled
    assert facts["inputs"][0]["sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()
    Path(name).write_bytes(b"\xff")
    refused = gptlite("train", *SMALL, "--", name)
    assert refused.code == 3
    for err in (outcome.err, refused.err):
        assert not any((ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0 or c == "\u202e" for c in err)
    assert refused.err.startswith("gptlite: error: ") and refused.err.count("\n") == 1


# What gptlite wrote itself


@pytest.mark.row("C38")
def test_a_run_is_no_text(gptlite: Command, trained_run: Path) -> None:
    shutil.copytree(trained_run, "project/checkpoints/run", symlinks=True)
    write("project/a.txt")
    step = next(Path("project/checkpoints/run").glob("step-*"))
    for own in ("project/checkpoints/run", step, step / "config.json", "project/checkpoints/run/metrics.jsonl"):
        with pytest.raises(UsageError, match=r"is of the run .*project/checkpoints/run, which gptlite wrote itself"):
            open_text(["project/a.txt", str(own)])
    outcome = gptlite("train", "project/checkpoints/run", *SMALL)
    assert (outcome.code, outcome.out) == (2, "")


@pytest.mark.row("C38")
@pytest.mark.parametrize("argument", ["project", "project/**/*"])
def test_a_folder_is_read_without_the_runs_in_it(trained_run: Path, argument: str) -> None:
    """Where people train a second time on the folder that holds the first run."""
    shutil.copytree(trained_run, "project/checkpoints/run", symlinks=True)
    write("project/a.txt")
    said: list[str] = []
    assert [p.document.name for p in open_text([argument], notice=said.append).pieces] == ["project/a.txt"]
    assert len(said) == 1 and "passed over 1 folder that gptlite wrote, such as" in said[0]


@pytest.mark.row("C38")
def test_models_and_token_caches_in_a_folder_are_passed_over(trained_run: Path, tokenizer: Tokenizer) -> None:
    write("project/a.txt")
    shutil.copytree(next(trained_run.glob("step-*")), "project/model")
    token_files.tokenize(open_text(["project/a.txt"]), tokenizer, cache=Path("project/cache"))
    said: list[str] = []
    assert [p.document.name for p in open_text(["project"], notice=said.append).pieces] == ["project/a.txt"]
    assert "passed over 2 folders that gptlite wrote" in said[0]
    with pytest.raises(CorpusError, match="no text files there"):
        open_text(["project/model"])


@pytest.mark.row("C38")
def test_a_text_beside_a_model_is_a_text(trained_run: Path) -> None:
    shutil.copytree(next(trained_run.glob("step-*")), "model")
    write("model/a.txt")
    assert read(open_text(["model/a.txt"])) == TEXT


# Special text, and the cache


@pytest.mark.row("C34")
def test_the_separators_letters_are_text(tokenizer: Tokenizer) -> None:
    content = f"{SEPARATOR}{TEXT}{SEPARATOR} {SEPARATOR}\n"
    ids = tokens_of(open_text([str(write("a.txt", content))]), tokenizer)
    assert ids.count(tokenizer.separator_id) == 1, "only the one before the document"
    assert tokenizer.decode(ids) == content


@pytest.mark.row("C39")
def test_a_cache_that_a_killed_process_left_is_of_no_consequence(tokenizer: Tokenizer, tmp_path: Path) -> None:
    Path("tokenizer.json").write_text(tokenizer.to_json())
    write("a.txt", TEXT * 200)
    script = (
        "import os, signal\nfrom pathlib import Path\nfrom gptlite.text import corpus, token_files, tokenizer\n"
        "bpe = tokenizer.Tokenizer.from_json(Path('tokenizer.json').read_text())\n"
        "token_files.BATCH_CHARACTERS = 1000\nencode, calls = bpe.encode_batch, []\n"
        "def encode_batch(texts):\n    calls.append(0)\n"
        "    if len(calls) == 2: os.kill(os.getpid(), signal.SIGKILL)\n    return encode(texts)\n"
        "bpe.encode_batch = encode_batch\ntoken_files.tokenize(corpus.open_text(['a.txt']), bpe)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -9
    (left,) = (tmp_path / "cache").iterdir()
    assert left.name.startswith(".tmp-")
    assert tokenizer.decode(tokens_of(open_text(["a.txt"]), tokenizer)) == TEXT * 200
    assert left.exists(), "another process may be writing it"
    os.utime(left, (0, 0))
    token_files.tokenize(open_text(["a.txt"], smallest=2), Tokenizer.train([TEXT], 300))
    assert not left.exists()


# Large texts


def write_prose(path: Path, megabytes: int) -> None:
    """Lines of words from a vocabulary of 200,000, few of them frequent, as in any language."""
    rng = np.random.default_rng(1)
    letters = rng.integers(ord("a"), ord("z") + 1, (200_000, 8), dtype=np.uint8)
    letters[:, 7] = ord(" ")
    letters[np.arange(200_000), rng.integers(1, 8, 200_000)] = ord(" ")
    letters[::12, 7] = ord("\n")
    with open(path, "wb") as file:
        for _ in range(megabytes):
            file.write(letters[rng.zipf(1.3, 1 << 17) % 200_000].tobytes())


@pytest.mark.slow
@pytest.mark.row("C30", "C31")
@pytest.mark.parametrize(("small", "large"), [(20, 100), (200, 1000)], ids=["100 MB", "1 GB"])
def test_memory_does_not_grow_with_the_text(tmp_path: Path, small: int, large: int) -> None:
    """Whole processes, beside one with the same model and a short text: what is large is on disk, or a sample of it."""
    peaks = []
    for megabytes in (1, small, large):
        write_prose(tmp_path / "text.txt", megabytes)
        model = ("--size", "tiny", "--vocab-size", "16k")  # a longer text would get a larger one
        done = run("train", "text.txt", "-q", "--steps", "2", *model, "-o", str(megabytes), timeout=3600)
        assert (done.code, done.err) == (0, b"")
        peaks.append(done.peak)
    print(" ".join(f"{size} MB: {peak >> 20} MiB" for size, peak in zip((1, small, large), peaks, strict=True)))
    assert peaks[2] - peaks[0] <= 1 << 30
    if small > 64:  # MiB: what the vocabulary is learned from
        assert peaks[2] - peaks[1] <= 64 << 20


# How texts are read, and what a run remembers of it


CHINESE = "房间很好，服务很差。早上起来看到窗外的山，心情非常愉快。早餐不错，但是价格有点贵，下次还会来。\n"


def test_a_text_in_another_encoding_is_trained_on_and_resumed(gptlite: Command) -> None:
    write("a.txt", (CHINESE * 60).encode("gbk"))
    refused = gptlite("train", "a.txt", *SMALL, "-o", "run")
    assert refused.code == 3
    assert "it reads as gb18030" in refused.err and "use --encoding gb18030" in refused.err
    assert gptlite("eval", "a.txt", "-m", "run").code in (3, 4)
    assert gptlite("train", "a.txt", "--encoding", "gb18030", *SMALL, "-o", "run", "-q").code == 0
    assert gptlite("train", "--resume", "-o", "run", "--steps", "2", "-q").code == 0
    other = gptlite("train", "--resume", "-o", "run", "--steps", "3", "--encoding", "big5")
    assert other.code == 2 and "--encoding is 'big5', and the run was started with 'gb18030'" in other.err
    assert gptlite("eval", "a.txt", "-m", "run").code == 3
    scored = gptlite("eval", "a.txt", "-m", "run", "--encoding", "GBK", "--json")
    assert json.loads(scored.out)["n_bytes"] == len((CHINESE * 60).encode())


def test_scores_of_crlf_and_lf_are_the_same(gptlite: Command) -> None:
    write("lf.txt", TEXT)
    write("crlf.txt", TEXT.replace("\n", "\r\n"))
    for name in ("lf", "crlf"):
        outcome = gptlite("train", f"{name}.txt", *SMALL, "-o", name, "--json")
        assert outcome.code == 0 and ("--keep-line-ends keeps them" in outcome.err) == (name == "crlf")
    facts = [json.loads(Path(name, "run.json").read_text()) for name in ("lf", "crlf")]
    assert facts[0]["result"]["val_bits_per_byte"] == facts[1]["result"]["val_bits_per_byte"]
    assert facts[0]["result"]["val_bytes"] == facts[1]["result"]["val_bytes"]
    kept = gptlite("train", "crlf.txt", *SMALL, "-o", "kept", "--keep-line-ends", "--json")
    assert json.loads(kept.out)["val_bytes"] > facts[0]["result"]["val_bytes"]
    assert "line ends" not in kept.err


def test_what_is_held_out_of_a_folder_is_said_once_and_stays_held_out(gptlite: Command) -> None:
    for i in range(40):
        write(f"d/{'json/' if i > 30 else ''}{i:02}.txt", make_text(10, seed=i))
    outcome = gptlite("train", "d", *SMALL, "-o", "run")
    assert outcome.code == 0
    assert outcome.err.count("held out: 2 of 40 files, spread over all of them") == 1
    resumed = gptlite("train", "--resume", "-o", "run", "--steps", "2")
    assert resumed.code == 0 and "held out:" not in resumed.err
    assert json.loads(Path("run/run.json").read_text())["split"] == "documents"


@pytest.mark.row("C42")
@pytest.mark.parametrize(
    "arguments",
    [("train", ""), ("train", "a.txt", ""), ("eval", "", "-m", "run"), ("train", "a.txt", "--val", "")],
    ids=" ".join,
)
def test_an_empty_name_is_refused(gptlite: Command, arguments: tuple[str, ...], trained_run: Path) -> None:
    """Not read as the folder of work, where an unset variable of the shell leaves it."""
    Path("run").symlink_to(trained_run)
    write("a.txt")
    outcome = gptlite(*arguments)
    assert (outcome.code, outcome.out) == (2, "")


@pytest.mark.parametrize("option", ["--separator", "--as-text"])
def test_options_of_reading_reach_the_text(gptlite: Command, option: str) -> None:
    write("a.ndjson", '{"text": "on the bank"}\n<|endoftext|>\n' * 120)
    plain = gptlite("train", "a.ndjson", *SMALL, "-o", "plain")
    assert plain.code == 0 and "looks like JSON" in plain.err and "--separator '<|endoftext|>'" in plain.err
    value = ("<|endoftext|>",) if option == "--separator" else ()
    outcome = gptlite("train", "a.ndjson", option, *value, *SMALL, "-o", "run")
    assert outcome.code == 0
    assert ("looks like JSON" in outcome.err) == (option != "--as-text")
    assert ("--separator" in outcome.err) == (option != "--separator")
    missing = gptlite("train", "a.ndjson", "--separator", "nowhere", *SMALL, "-o", "missing")
    assert missing.code == 3 and "does not contain the --separator 'nowhere'" in missing.err

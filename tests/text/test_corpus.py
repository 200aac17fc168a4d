"""Corpus: which files are text, in which order, and that splitting and reading in blocks lose nothing."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import make_text
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptlite.errors import CorpusError, UsageError
from gptlite.text import corpus, reading
from gptlite.text.corpus import SMALLEST_TEXT, Piece, Text, open_text, opened
from gptlite.text.options import TextOptions
from gptlite.text.reading import BOM, READ_SIZE, Document, check_file
from gptlite.text.tokenizer import Tokenizer

TEXT = make_text(100)
assert len(TEXT) > SMALLEST_TEXT
AS_IT_IS = TextOptions(keep_line_ends=True)


def write(path: str | Path, content: str | bytes = TEXT) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(text: Text, read_size: int = READ_SIZE) -> str:
    return "".join(block for _, block in text.blocks(read_size))


def names(text: Text) -> list[str]:
    return [piece.document.name for piece in text.pieces]


class Notices(list[str]):
    """What the user was told."""

    def __call__(self, message: str) -> None:
        self.append(message)


# Which files


def test_a_file_is_read_as_it_is() -> None:
    write("a.txt", TEXT + "天地\r\nend")
    text = open_text(["a.txt"], options=AS_IT_IS)
    assert read(text) == TEXT + "天地\r\nend"
    assert text.n_bytes == Path("a.txt").stat().st_size
    assert names(text) == ["a.txt"]


@pytest.mark.row("C32")
def test_files_come_in_the_order_of_their_paths() -> None:
    for name in ("b.txt", "a/z.txt", "c/x.txt", "B.txt", "ä.txt"):
        write(name, TEXT + name)
    expected = ["B.txt", "a/z.txt", "b.txt", "c/x.txt", "ä.txt"]
    assert names(open_text(["ä.txt", "c", "b.txt", "a", "B.txt"], smallest=1)) == expected
    assert names(open_text(["."])) == expected
    assert names(open_text(["*.txt", "c/x.txt", "a/*"])) == expected


@pytest.mark.row("C20")
def test_a_name_that_is_given_twice_counts_once() -> None:
    write("a.txt")
    assert names(open_text(["a.txt", "a.txt", "./a.txt", "*.txt", "."])) == ["a.txt"]


@pytest.mark.row("C20")
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_the_same_file_under_two_names_counts_once(link: type[os.symlink]) -> None:
    write("a.txt")
    link("a.txt", "b.txt")
    notices = Notices()
    assert names(open_text(["a.txt", "b.txt"], notice=notices)) == ["a.txt"]
    assert notices == ["left out 1 file that is there under another name too, such as b.txt."]


@pytest.mark.row("C40")
def test_equal_files_count_once() -> None:
    """What is held out of one of them would otherwise be trained on in the other."""
    for name in ("d/a.txt", "d/b.txt", "e/a.txt"):
        write(name)
    write("d/c.txt", TEXT + "more")
    notices = Notices()
    text = open_text(["d", "e"], notice=notices)
    assert (names(text), read(text)) == (["d/a.txt", "d/c.txt"], TEXT + TEXT + "more")
    assert notices == ["left out 2 copies of another file, such as d/b.txt."]


def test_runs_that_used_copies_go_on_using_them() -> None:
    for name in ("a.txt", "b.txt"):
        write(name)
    notices = Notices()
    assert read(open_text(["a.txt", "b.txt"], notice=notices, options=TextOptions.of_run({}))) == TEXT * 2
    assert notices == []


@pytest.mark.row("C18")
def test_in_a_folder_what_is_no_text_is_passed_over() -> None:
    write("d/a.txt")
    write("d/deep/er/b.md", TEXT + "b")
    write("d/picture.png", b"\x89PNG\r\n\x1a\n\x00")
    write("d/empty", b"")
    write("d/latin1.txt", "Käse".encode("latin1"))
    notices = Notices()
    assert names(open_text(["d"], notice=notices)) == ["d/a.txt", "d/deep/er/b.md"]
    assert notices[0] == "passed over 2 files that are not text, such as d/empty."
    assert notices[1].startswith("passed over 1 file that is not UTF-8: d/latin1.txt is not UTF-8: byte 0xE4")


def test_a_file_named_directly_must_be_text() -> None:
    write("d/a.txt")
    write("d/picture.png", b"\x89PNG\r\n\x1a\n\x00")
    with pytest.raises(CorpusError, match=r"d/picture\.png is not plain text"):
        open_text(["d", "d/picture.png"])


def test_a_file_named_directly_must_be_text_even_if_a_folder_holds_it_too() -> None:
    write("d/a.txt")
    write("d/picture.png", b"\x89PNG\r\n\x1a\n\x00")
    os.symlink("d/picture.png", "named.png")
    with pytest.raises(CorpusError, match=r"named\.png is not plain text"):
        open_text(["d", "named.png"])


def test_hidden_files_in_a_folder_are_ignored_in_silence() -> None:
    for name in ("d/a.txt", "d/.hidden", "d/.git/config", "d/sub/.cache/x.txt"):
        write(name)
    notices = Notices()
    assert names(open_text(["d"], notice=notices)) == ["d/a.txt"]
    assert notices == []


def test_a_hidden_file_or_folder_that_is_named_is_read() -> None:
    write(".hidden/a.txt")
    write(".b.txt", TEXT + "b")
    assert names(open_text([".b.txt", ".hidden"])) == [".b.txt", ".hidden/a.txt"]


def test_patterns_reach_into_folders() -> None:
    for name in ("a.txt", "x/b.txt", "x/y/c.txt", "x/y/c.md"):
        write(name, TEXT + name)
    assert names(open_text(["**/*.txt"])) == ["a.txt", "x/b.txt", "x/y/c.txt"]
    assert names(open_text(["x/*/c.??"])) == ["x/y/c.md"]
    assert names(open_text(["*"])) == ["a.txt"]  # folders that match are not entered


@pytest.mark.row("C19")
def test_a_file_whose_name_looks_like_a_pattern_is_a_file() -> None:
    write("what [1]?.txt")
    assert names(open_text(["what [1]?.txt"])) == ["what [1]?.txt"]


@pytest.mark.row("C19")
@pytest.mark.parametrize("pattern", ["*.txt", "nothing/**/x?", "[ab].md"])
def test_a_pattern_without_match_is_a_wrong_command(pattern: str) -> None:
    with pytest.raises(UsageError, match="no file matches the pattern"):
        open_text([pattern])


def test_no_arguments_are_a_wrong_command() -> None:
    with pytest.raises(UsageError, match="name at least one text file, folder or pattern"):
        open_text([])


@pytest.mark.row("C22")
def test_a_missing_file_is_named() -> None:
    with pytest.raises(CorpusError, match=r"cannot read missing\.txt: No such file or directory"):
        open_text(["missing.txt"])


@pytest.mark.row("C22")
def test_a_dangling_link_is_named() -> None:
    os.symlink("nowhere", "link.txt")
    with pytest.raises(CorpusError, match=r"cannot read link\.txt"):
        open_text(["link.txt"])


@pytest.mark.row("C18")
def test_a_folder_without_files_is_named() -> None:
    Path("empty/inner").mkdir(parents=True)
    write("hidden/.file")
    for folder in ("empty", "hidden"):
        with pytest.raises(CorpusError, match=f"{folder} is a folder without files"):
            open_text([folder])


def test_a_folder_without_text_is_named() -> None:
    write("d/a.bin", b"\x00\x01")
    notices = Notices()
    with pytest.raises(CorpusError, match="d: no text files there"):
        open_text(["d"], notice=notices)
    assert notices == ["passed over 1 file that is not text, such as d/a.bin."]


# What is no text


@pytest.mark.row("C01")
def test_an_empty_file_is_refused() -> None:
    write("a.txt", b"")
    with pytest.raises(CorpusError, match=r"a\.txt is empty"):
        open_text(["a.txt"])


@pytest.mark.row("C02")
@pytest.mark.parametrize(
    "content",
    [" \n\t\r\n" * 1000, "\u3000\u00a0\u2028\n" * 1000, BOM, b" "],
    ids=["ascii", "unicode", "bom", "1"],
)
def test_white_space_is_no_text(content: str | bytes) -> None:
    write("a.txt", content)
    with pytest.raises(CorpusError, match=r"a\.txt: contains only white space"):
        open_text(["a.txt"])


@pytest.mark.row("C03")
def test_a_short_text_is_refused_with_its_size() -> None:
    write("a.txt", "x" * (SMALLEST_TEXT - 1))
    with pytest.raises(CorpusError, match=r"a\.txt: 2,047 bytes of text are too few to learn from; .* least 2,048"):
        open_text(["a.txt"])
    assert open_text(["a.txt"], smallest=1).n_bytes == SMALLEST_TEXT - 1


def test_the_smallest_text_is_enough() -> None:
    write("a.txt", "x" * (SMALLEST_TEXT - 5))
    write("b.txt", "12345")
    assert open_text(["a.txt", "b.txt"]).n_bytes == SMALLEST_TEXT


@pytest.mark.row("C13", "C14")
@pytest.mark.parametrize("offset", [0, 5, 2999, READ_SIZE - 1, READ_SIZE, READ_SIZE + 7, 1_234_567])
def test_a_nul_byte_is_found_where_it_is(offset: int) -> None:
    write("a.txt", b"x" * offset + b"\x00" + b"y" * 50)
    with pytest.raises(
        CorpusError, match=rf"a\.txt looks binary: NUL byte at offset {offset:,}; .* use `lossy=True`\."
    ):
        open_text(["a.txt"])


LINES = b"123456789\n"
BAD = [
    (b"\xff", 0, 0xFF),
    (b"\xc3(", 0, 0xC3),
    ("天".encode()[:2] + b"a", 0, 0xE5),
    (b"\xed\xa0\x80", 0, 0xED),  # a surrogate
    (b"\xc0\x80", 0, 0xC0),  # an overlong NUL
    (b"\x80", 0, 0x80),
    ("é".encode() + b"\xe9t", 2, 0xE9),
    ("天地".encode() + b"\n\xa4", 7, 0xA4),
]


@pytest.mark.row("C08", "C10")
@pytest.mark.parametrize(("bad", "shift", "byte"), BAD, ids=repr)
@pytest.mark.parametrize(
    "before", [0, 10, 25, READ_SIZE - 3, READ_SIZE - 2, READ_SIZE - 1, READ_SIZE, 2 * READ_SIZE + 1]
)
def test_wrong_bytes_are_found_where_they_are(bad: bytes, shift: int, byte: int, before: int) -> None:
    content = (LINES * (before // 10 + 1))[:before] + bad + b" more\n" * 20
    write("a.txt", content)
    offset = before + shift
    line = 1 + content[:offset].count(b"\n")
    message = rf"a\.txt is not UTF-8: byte 0x{byte:02X} at offset {offset:,} \(line {line:,}\); "
    with pytest.raises(CorpusError, match=message):
        open_text(["a.txt"])


@pytest.mark.row("C10")
@pytest.mark.parametrize("before", [100, READ_SIZE - 2, READ_SIZE - 1])
def test_a_character_that_is_cut_off_at_the_end_is_found(before: int) -> None:
    write("a.txt", b"x" * (before - 1) + b"\n" + "👍".encode()[:3])
    with pytest.raises(CorpusError, match=rf"byte 0xF0 at offset {before:,} \(line 2\)"):
        open_text(["a.txt"])


@pytest.mark.row("C09")
def test_characters_across_read_blocks_are_fine() -> None:
    content = "x" * (READ_SIZE - 2) + "天" + "y" * (READ_SIZE - 3) + "👍\n"
    write("a.txt", content)
    assert read(open_text(["a.txt"])) == content


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", TEXT)
    return buffer.getvalue()


@pytest.mark.row("C12", "C17")
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (gzip.compress(TEXT.encode()), "gzip; unpack it first"),
        (bz2.compress(TEXT.encode()), "bzip2"),
        (lzma.compress(TEXT.encode()), "xz"),
        (zipped(), r"a zip archive \(perhaps \.docx or \.epub\)"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 3000, "zstandard"),
        (b"%PDF-1.7\n" + TEXT.encode(), "a PDF"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 3000, "a PNG picture"),
        (b"\x7fELF" + b"x" * 3000, "a program"),
        (b"PAR1" + b"\x15" * 3000, "a Parquet table"),
        (b"SQLite format 3\x00" + b"x" * 3000, "an SQLite database"),
        (TEXT.encode("utf-16"), "UTF-16; read it with `encoding='utf-16'`"),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), "UTF-16"),
        (TEXT.encode("utf-32"), "UTF-32; read it with `encoding='utf-32'`"),
        (b"\x00\x00\xfe\xff" + TEXT.encode("utf-32-be"), "UTF-32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_people_pass_by_mistake_is_recognised(content: bytes, kind: str) -> None:
    write("a.txt", content)
    with pytest.raises(CorpusError, match=rf"a\.txt is not plain text: it looks like {kind}"):
        open_text(["a.txt"])


@pytest.mark.row("C23")
def test_a_pipe_does_not_hang() -> None:
    os.mkfifo("pipe")
    errors: list[BaseException] = []

    def work() -> None:
        try:
            open_text(["pipe"])
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert [type(error) for error in errors] == [CorpusError]
    assert "pipe is not a regular file; to read a pipe, use - (standard input)" in str(errors[0])


@pytest.mark.row("C11")
def test_a_byte_order_mark_is_dropped() -> None:
    write("a.txt", BOM + TEXT.encode())
    write("b.txt", TEXT + "\ufeff")
    text = open_text(["a.txt", "b.txt"])
    assert read(text) == TEXT + TEXT + "\ufeff"
    assert text.n_bytes == 2 * len(TEXT) + 3
    assert text.pieces[0].start == 3


# Standard input


def pipe_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.row("C24")
def test_standard_input_is_read_like_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write("zz.txt", "more")
    pipe_in(monkeypatch, TEXT.encode() + "天地\r\n".encode())
    spool = Path("spool").absolute()
    with opened(["-", "zz.txt", "-"], spool) as text:
        assert read(text) == TEXT + "天地\n" + "more"
    assert list(spool.iterdir()) == []


def test_what_was_spooled_is_removed_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_in(monkeypatch, TEXT.encode() + b"\xff")
    with pytest.raises(CorpusError, match="is not UTF-8"), opened(["-"], Path("spool")):
        raise AssertionError("not reached")
    assert list(Path("spool").iterdir()) == []


def test_errors_in_standard_input_call_it_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spool file is gone when the user reads the message."""
    for content, message in ((b"", "is empty"), (b"x\xff", "is not UTF-8"), (b"few words", "too few to learn from")):
        pipe_in(monkeypatch, content)
        with pytest.raises(CorpusError, match=f"standard input.*{message}"), opened(["-"], Path("spool")):
            raise AssertionError("not reached")


@pytest.mark.row("C24")
@pytest.mark.parametrize("content", [b"", b" \n"])
def test_empty_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    pipe_in(monkeypatch, content)
    with pytest.raises(CorpusError, match=r"is empty|only white space"), opened(["-"], Path("spool")):
        raise AssertionError("not reached")


@pytest.mark.row("C24")
def test_a_terminal_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stdin in (Terminal(), None):
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(UsageError, match="nothing is piped into it; try: cat FILES"), opened(["-"], Path("spool")):
            raise AssertionError("not reached")


# Digests


def test_the_digest_depends_on_bytes_boundaries_and_order() -> None:
    write("a.txt", "one two three\n")
    write("b.txt", "four five six\n")
    write("ab.txt", "one two three\nfour five six\n")
    a, b, both, joined = (open_text(n, smallest=1) for n in (["a.txt"], ["b.txt"], ["a.txt", "b.txt"], ["ab.txt"]))
    reverse = Text(both.pieces[::-1])
    part = Text((Piece(a.pieces[0].document, 0, 5),))
    digests = [text.digest for text in (a, b, both, joined, reverse, part)]
    assert len(set(digests)) == len(digests)
    write("elsewhere/a.txt", "one two three\n")
    assert open_text(["elsewhere"], smallest=1).digest == a.digest


# Splitting

WORDS = st.text(st.sampled_from("ab \n\r天é👍,。"), min_size=1, max_size=60)


def text_of(*contents: str) -> Text:
    documents = [check_file(write(f"{i:03d}.txt", content), options=AS_IT_IS) for i, content in enumerate(contents)]
    return Text(tuple(Piece(d, d.start, d.size) for d in documents))


@settings(deadline=None, max_examples=150)
@given(st.lists(WORDS, min_size=1, max_size=4), st.floats(0, 1))
def test_splitting_loses_nothing(contents: list[str], fraction: float) -> None:
    text = text_of(*contents)
    head, tail = text.split(fraction)
    assert head.n_bytes + tail.n_bytes == text.n_bytes
    assert all(piece.start < piece.end for piece in (*head.pieces, *tail.pieces))
    # Decoded strictly, so a cut inside a character would show.
    raw = [p.document.path.read_bytes()[p.start : p.end].decode() for p in (*head.pieces, *tail.pieces)]
    assert "".join(raw) == "".join(contents) == read(head) + read(tail)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(st.sampled_from("ab 天"), max_size=12), min_size=3, max_size=30), st.floats(0.1, 0.9))
def test_splitting_cuts_at_the_next_line(lines: list[str], fraction: float) -> None:
    content = "".join(f"{line}\n" for line in lines)
    text = text_of(content)
    head, _ = text.split(fraction)
    target = text.n_bytes - round(text.n_bytes * fraction)
    cut = head.n_bytes
    if target == 0:
        assert not head.pieces
    elif b"\n" in content.encode()[target:-1]:
        assert read(head).endswith("\n")
        assert target <= cut <= content.encode().index(b"\n", target) + 1
    else:  # the last line holds the cut
        assert target <= cut < target + 4


def test_splitting_between_documents() -> None:
    text = text_of("a" * 50, "b" * 30, "c" * 20)
    for fraction, head, tail in ((0, "abc", ""), (1, "", "abc"), (0.2, "ab", "c"), (0.5, "a", "bc")):
        parts = text.split(fraction)
        assert ["".join(sorted(set(read(part)))) for part in parts] == [head, tail]


def test_a_far_line_start_is_not_waited_for() -> None:
    content = "x" * 200_000 + "\n" + "y" * 100
    head, _ = text_of(content).split(0.9)
    assert head.n_bytes == len(content) - round(0.9 * len(content))


def test_a_half_that_is_split_again_stays_inside_itself() -> None:
    text = text_of("".join(f"line {i}\n" for i in range(100)))
    head, tail = text.split(0.5)
    first, second = head.split(0.3)
    assert read(first) + read(second) + read(tail) == read(text)
    assert second.pieces[0].end == head.pieces[0].end


# A part of a long text


@pytest.mark.parametrize("max_bytes", [1, 70_000, 200_000, 500_000])
def test_a_part_of_a_text_comes_from_everywhere(max_bytes: int) -> None:
    text = text_of(*("".join(f"document {d} line {i}\n" for i in range(20_000)) for d in range(3)))
    part = text.spread(max_bytes)
    content = read(part)
    assert abs(part.n_bytes - max_bytes) <= 64 * 100  # each stretch begins and ends with a line
    assert all(line in read(text) for line in content.splitlines()[:: max(1, len(content) // 500)])
    assert len(set(content.splitlines())) == len(content.splitlines())  # nothing twice
    if max_bytes >= 200_000:
        assert all(f"document {d} line" in content for d in range(3))
    assert text.spread(max_bytes) == part


def test_a_short_text_is_all_there() -> None:
    text = text_of("some lines\n" * 50)
    assert text.spread(text.n_bytes) is text


# Blocks


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    prose = "I don't know; we've seen it's 12 o'clock... they'll say: \"yes\"!\n\n  Indented,  twice\t\n"
    return Tokenizer.train([prose * 20 + "天地玄黄，宇宙洪荒。」「日月，，盈昃。。" * 20 + make_text(50)], 500)


FRAGMENTS = [
    *(" ", "  ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\x1c"),
    *("don't", "it's", "we've", "'", "''", "s", "a", "the", "river", "12", "3", ".", ",", "...", "!", "<|endoftext|>"),
    *("ß", "é", "e\u0301", "ไทย", "👍🏽", "👩\u200d👧", "天", "地玄", "，", "。", "、", "「", "」"),
]
PROSE = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=60).map("".join)


@pytest.mark.row("C06", "C09", "C16")
@settings(deadline=None, max_examples=120)
@given(PROSE)
@example("don't don 't")
@example("a 'll b\n 's")
@example("天，地。 天 ，地")
@example("天。」「日，，盈。。天")
@example("a\x1c b\x1d\nc")
def test_blocks_tokenize_alike_for_every_read_size(bpe: Tokenizer, content: str) -> None:
    text = text_of(content)
    whole = bpe.encode(content)
    for read_size in (1, 2, 3, 7, 1 << 16):
        blocks = list(text.blocks(read_size))
        assert "".join(block for _, block in blocks) == content
        assert [i for _, block in blocks for i in bpe.encode(block)] == whole
        assert [first for first, _ in blocks] == [True] + [False] * (len(blocks) - 1)


def test_small_reads_make_many_blocks() -> None:
    text = text_of(TEXT)
    assert len(list(text.blocks(64))) > len(TEXT) / 100
    assert len(list(text.blocks(READ_SIZE))) <= 2


def test_each_piece_starts_a_document() -> None:
    text = text_of("one two", "three four", "five")
    assert [first for first, _ in text.blocks()] == [True, False, True, False, True]
    assert [block for first, block in text.blocks(1 << 20) if first] == ["one", "three", "five"]


@pytest.mark.row("C07")
def test_text_without_a_place_to_cut_keeps_memory_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "LONGEST_BLOCK", 1000)
    text = text_of("x" * 10_000)
    blocks = [block for _, block in text.blocks(100)]
    assert "".join(blocks) == "x" * 10_000
    assert max(map(len, blocks)) <= 1100


def test_a_sample_is_spread_over_the_text() -> None:
    content = "".join(f"{i:07d} \n" for i in range(300_000))
    text = text_of(content)
    sample = list(text.sample(READ_SIZE * 4))
    assert READ_SIZE * 2 <= sum(map(len, sample)) <= READ_SIZE * 6
    assert all(block in content for block in sample)
    assert int(sample[-1].split()[0]) > 150_000
    assert "".join(text.sample(10**9)) == content


# Changes


@pytest.mark.row("C26")
def test_a_file_that_changed_is_noticed() -> None:
    path = write("a.txt")
    text = open_text(["a.txt"])
    stamp = path.stat().st_mtime_ns
    path.write_text(TEXT[::-1])
    os.utime(path, ns=(stamp + 1, stamp + 1))
    with pytest.raises(CorpusError, match=r"a\.txt changed while it was being read; try again"):
        read(text)


@pytest.mark.row("C26", "C27")
@pytest.mark.parametrize("change", ["longer", "shorter", "empty", "gone", "pipe"])
def test_a_file_of_another_size_is_noticed(change: str) -> None:
    path = write("a.txt")
    text = open_text(["a.txt"])
    stamp = path.stat().st_mtime_ns
    if change in ("gone", "pipe"):
        path.unlink()
    if change == "pipe":
        os.mkfifo(path)
        os.open(path, os.O_RDWR | os.O_NONBLOCK)  # a writer, so that not even a careless reader waits for ever
    elif change != "gone":
        path.write_text({"longer": TEXT + "x", "shorter": TEXT[:-1], "empty": ""}[change])
        os.utime(path, ns=(stamp, stamp))
    with pytest.raises(CorpusError, match=r"a\.txt"):
        read(text)


@pytest.mark.parametrize("size", [0, 10], ids=["gone", "shorter"])
def test_a_file_that_is_gone_cannot_be_split(size: int) -> None:
    path = write("a.txt")
    text = open_text(["a.txt"])
    path.write_text("x" * size)
    if not size:
        path.unlink()
    with pytest.raises(CorpusError, match=r"a\.txt"):
        read(text.split(0.1)[0])


@pytest.mark.row("C26")
def test_a_file_that_grows_while_it_is_checked_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a.txt", TEXT)
    decode = reading.decode

    def append_and_decode(*arguments: Any, final: bool = False) -> str:
        if final:  # once, after the last block was read
            with open(path, "a") as file:
                file.write("more")
        return decode(*arguments, final=final)

    monkeypatch.setattr(reading, "decode", append_and_decode)
    with pytest.raises(CorpusError, match=r"a\.txt changed while it was being read"):
        check_file(path)


def test_a_checked_file_is_described() -> None:
    import hashlib

    path = write("a.txt", BOM + b"text")
    status = path.stat()
    stamp = (status.st_dev, status.st_ino, 7, status.st_mtime_ns)
    assert check_file(path) == Document(path, "a.txt", 3, 7, hashlib.sha256(BOM + b"text").hexdigest(), stamp)

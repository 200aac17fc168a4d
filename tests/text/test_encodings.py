"""Encodings: which ones are named for a file that is not UTF-8, and that all parts of a converted file are right."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlite.errors import CorpusError, UsageError
from gptlite.text.corpus import Piece, Text, open_text
from gptlite.text.encodings import Converter, Transcoded, advice
from gptlite.text.options import TextOptions
from gptlite.text.reading import READ_SIZE, check_file

CHINESE = "房间很好，服务很差。早上起来看到窗外的山，心情非常愉快。早餐不错，但是价格有点贵，下次还会来。\n"
TRADITIONAL = "房間很好，服務很差。早上起來看到窗外的山，心情非常愉快。早餐不錯，但是價格有點貴，下次還會來。\n"
JAPANESE = "部屋はとても良かったですが、サービスが悪かったです。朝起きると窓の外に山が見えて、気持ちが良かった。\n"
KOREAN = "방은 아주 좋았지만 서비스는 나빴습니다. 아침에 일어나 창밖의 산을 보니 기분이 좋았습니다.\n"
RUSSIAN = "Комната была очень хорошая, но обслуживание плохое. Утром из окна видны горы, настроение отличное.\n"
FRENCH = "La chambre était très agréable, mais le service déplorable. Le petit déjeuner était à peine préparé.\n"


def read(text: Text) -> str:
    return "".join(block for _, block in text.blocks())


@pytest.mark.parametrize(
    ("content", "encoding", "named"),
    [
        (CHINESE, "gb18030", "gb18030"),
        (CHINESE, "gbk", "gb18030"),
        (TRADITIONAL, "big5", "big5"),
        (JAPANESE, "cp932", "cp932"),
        (KOREAN, "cp949", "cp949"),
        (RUSSIAN, "cp1251", "cp1251"),
        (RUSSIAN, "koi8_r", "koi8-r"),
        (FRENCH, "latin-1", "cp1252"),
    ],
)
def test_the_encoding_of_a_text_is_named_and_reads_it(content: str, encoding: str, named: str) -> None:
    Path("a.txt").write_bytes((content * 50).encode(encoding))
    with pytest.raises(
        CorpusError, match=r"a\.txt is not UTF-8: byte 0x.* at offset .* \(line 1\); it reads as"
    ) as raised:
        open_text(["a.txt"])
    assert f"it reads as {named}" in str(raised.value) and f"`encoding='{named}'`" in str(raised.value)
    assert "iconv" not in str(raised.value) and "LATIN1" not in str(raised.value)
    text = open_text(["a.txt"], options=TextOptions(encoding=named))
    assert read(text) == content * 50
    assert text.n_bytes == len((content * 50).encode())


def test_only_encodings_that_decode_the_whole_file_are_named() -> None:
    """The sample reads as GB 18030, but a byte at the end does not."""
    sample = (CHINESE * 50).encode("gb18030")
    assert advice(sample).startswith("it reads as gb18030")
    assert "gb18030" not in advice(sample, [sample, b"\xff\xff"])


def test_of_bytes_that_nothing_decodes_nothing_is_named() -> None:
    assert advice(bytes(range(128, 256)) * 3).startswith(("no other encoding", "it reads as"))
    Path("a.txt").write_bytes(b"good text " * 300 + b"\xff\x00\x81")
    with pytest.raises(CorpusError, match="`lossy=True`"):
        open_text(["a.txt"])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "UTF_16_BE"])
def test_wide_encodings_are_read_when_they_are_named(encoding: str) -> None:
    content = CHINESE * 60 + "\r\nend"
    Path("a.txt").write_bytes(content.encode(encoding))
    assert read(open_text(["a.txt"], options=TextOptions(encoding=encoding))) == CHINESE * 60 + "\nend"


def test_a_text_in_another_encoding_than_named_is_refused_with_the_place() -> None:
    Path("a.txt").write_bytes(b"ascii\n" + FRENCH.encode("latin-1"))
    with pytest.raises(CorpusError, match=r"a\.txt is not gb18030: byte 0x.. at offset \d+ \(line 2\)"):
        open_text(["a.txt"], smallest=1, options=TextOptions(encoding="gb18030"))


def test_in_a_folder_files_in_another_encoding_are_named() -> None:
    Path("d").mkdir()
    Path("d/a.txt").write_text(CHINESE * 50, encoding="utf-8")
    Path("d/b.txt").write_bytes((CHINESE * 50).encode("gb18030"))
    said: list[str] = []
    open_text(["d"], notice=said.append)
    assert len(said) == 1 and said[0].startswith("passed over 1 file that is not UTF-8: d/b.txt is not UTF-8")
    assert "`encoding='gb18030'`" in said[0]
    Path("d/a.txt").unlink()
    with pytest.raises(CorpusError, match=r"d: no UTF-8 text files there; d/b\.txt .*`encoding='gb18030'`"):
        open_text(["d"])


@pytest.mark.parametrize("name", ["hex", "utf-99", "rot13", "", "base64"])
def test_unknown_encodings_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"`encoding` .* is not known; use a name such as"):
        TextOptions(encoding=name)


@pytest.mark.parametrize("name", ["utf8", "UTF-8", "utf-8-sig", "ascii"])
def test_utf_8_is_utf_8_under_each_of_its_names(name: str) -> None:
    assert TextOptions(encoding=name) == TextOptions()


# Line ends


def test_crlf_is_one_line_end() -> None:
    Path("a.txt").write_bytes(b"one\r\ntwo\r\n" * 300 + b"lone \r and \n")
    said: list[str] = []
    text = open_text(["a.txt"], notice=said.append)
    assert read(text) == "one\ntwo\n" * 300 + "lone \r and \n"
    assert text.n_bytes == len(read(text).encode()), "the bytes that scores are divided by"
    assert len(said) == 1 and "`keep_line_ends=True` keeps them" in said[0]
    said.clear()
    kept = open_text(["a.txt"], notice=said.append, options=TextOptions(keep_line_ends=True))
    assert read(kept) == Path("a.txt").read_bytes().decode() and said == []
    assert kept.digest != text.digest


@pytest.mark.parametrize("before", [READ_SIZE - 3, READ_SIZE - 2, READ_SIZE - 1, READ_SIZE])
def test_crlf_across_blocks_of_reading(before: int) -> None:
    Path("a.txt").write_bytes(b"x" * before + b"\r\n" + b"y" * READ_SIZE + b"\r\n")
    assert read(open_text(["a.txt"])) == "x" * before + "\n" + "y" * READ_SIZE + "\n"


PARTS = st.lists(st.sampled_from(["\r\n", "\r", "\n", "天", "é", "ab", "，", " "]), min_size=1, max_size=80)


@settings(deadline=None, max_examples=150)
@given(PARTS, st.sampled_from(["utf-8", "gb18030", "utf-16-le", "utf-16"]), st.integers(1, 9), st.data())
def test_every_part_of_a_converted_file_is_what_it_would_be_alone(
    parts: list[str], encoding: str, read_size: int, data: st.DataObject
) -> None:
    from gptlite.text import reading

    content = "".join(parts)
    Path("a.txt").write_bytes(content.encode(encoding))
    whole = content.replace("\r\n", "\n").encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "READ_SIZE", read_size)
        document = check_file(Path("a.txt"), options=TextOptions(encoding=encoding))
    assert document.size == len(whole)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    assert b"".join(reading.read_range(document, start, end, read_size)) == whole[start:end]
    halves = Text((Piece(document, 0, document.size),)).split(0.5)
    assert "".join(map(read, halves)) == whole.decode()


# Streams


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "cp1252"])
def test_a_stream_is_read_as_utf_8(encoding: str) -> None:
    content = "naïve café\n" * 5000
    source = io.BufferedReader(Transcoded(io.BytesIO(content.encode(encoding)), encoding))
    assert source.read(4).decode() == "naï"
    assert source.read().decode() == content[3:]


def test_wrong_bytes_in_a_stream() -> None:
    with pytest.raises(UnicodeDecodeError):
        io.BufferedReader(Transcoded(io.BytesIO(b"abc\x81"), "cp1252")).read()
    assert io.BufferedReader(Transcoded(io.BytesIO(b"abc\x81"), "cp1252", lossy=True)).read() == "abc\ufffd".encode()


def test_a_converter_counts_what_it_changes() -> None:
    converter = Converter("utf-8", line_feeds=True, lossy=False)
    assert converter.feed(b"a\r") + converter.feed(b"\nb\r\n\r", final=True) == b"a\nb\n\r"
    assert converter.n_crlf == 2

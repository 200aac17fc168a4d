"""Records to documents: what is recognised, what is refused and in which words, and where held-out text is cut."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import lzma
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Command

from gptlite.errors import CorpusError, UsageError
from gptlite.text.corpus import Text, open_text
from gptlite.text.options import TextOptions
from gptlite.text.splitting import split


def jsonl(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def read(name: str, content: str | bytes, **options: Any) -> Text:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_text([name], smallest=1, options=TextOptions(**options))


PAIR = {"question": "Who?", "answer": "Ada.", "year": 1815}
CHAT = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]
ASKED = [("user", "Who?"), ("assistant", "Ada.")]
RECOGNISED: list[tuple[Mapping[str, Any], list[tuple[str, str]]]] = [
    ({"prompt": "Who?", "completion": "Ada."}, ASKED),
    ({"question": "Who?", "answer": "Ada."}, ASKED),
    ({"source": "Who?", "target": "Ada."}, ASKED),
    ({"instruction": "Who?", "output": "Ada."}, ASKED),
    ({"instruction": "Who?", "input": "of two", "output": "Ada."}, [("user", "Who?\nof two"), ("assistant", "Ada.")]),
    ({"instruction": "Who?", "input": "", "output": "Ada."}, ASKED),
    ({"messages": CHAT}, ASKED),
    ({"messages": [{"role": "system", "content": "Be brief."}, *CHAT]}, [("system", "Be brief."), *ASKED]),
]


@pytest.mark.parametrize(("record", "parts"), RECOGNISED)
def test_usual_fields_are_recognised(record: Mapping[str, Any], parts: list[tuple[str, str]]) -> None:
    assert list(read("x.jsonl", jsonl(record, record)).records()) == [parts, parts]


def test_a_table_and_named_fields() -> None:
    text = read("x.tsv", 'id\tde\ten\n1\tja\tyes\n2\t"zwei\nZeilen"\ttwo\n', pairs="de,en")
    assert list(text.records())[1] == [("user", "zwei\nZeilen"), ("assistant", "two")]
    text = read("y.csv", "author,body\nAusten,Once\n", text_field="body", given="author")
    assert list(text.records()) == [[("system", "author: Austen"), ("assistant", "Once")]]
    assert next(read("z.jsonl", jsonl(PAIR), given=["year"]).records())[0] == ("system", "year: 1815")


def test_texts_are_documents() -> None:
    text = read("x.jsonl", jsonl({"text": "one\ntwo"}, {"text": "three"}))
    assert [first for first, _ in text.blocks()] == [True, False, True]
    assert "".join(block for _, block in text.blocks()) == "one\ntwothree"
    assert text.layout is None
    assert "".join(block for _, block in read("y.jsonl", jsonl(PAIR)).blocks()).strip() == "Who?\nAda."


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_packed_files_are_read(suffix: str, pack: Any) -> None:
    plain, packed = read("x.jsonl", jsonl(PAIR, PAIR)), read(f"y.jsonl{suffix}", pack(jsonl(PAIR, PAIR).encode()))
    assert list(packed.records()) == list(plain.records())
    assert "".join(b for _, b in read(f"z.txt{suffix}", pack("Grüße\n".encode())).blocks()) == "Grüße\n"


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("gptlite.text.records.importlib.import_module", missing)
    for name, content in ("x.jsonl.zst", b"(\xb5/\xfd"), ("x.parquet", b"PAR1"), ("x.parquet.zst", b"(\xb5/\xfd"):
        with pytest.raises(UsageError, match=rf"{name} is .*; install what reads it: .*\[records\]"):
            read(name, content)


def zst(content: bytes, **options: Any) -> bytes:
    library = pytest.importorskip("zstandard", reason="zstandard is not installed: pip install 'gptlite-lm[records]'")
    return library.ZstdCompressor(**options).compress(content)


def test_zstandard_is_read() -> None:
    assert list(read("x.jsonl.zst", zst(jsonl(PAIR).encode())).records()) == [ASKED]
    assert "".join(b for _, b in read("y.txt.zst", zst("Grüße\n".encode(), level=19)).blocks()) == "Grüße\n"
    lines = [jsonl({**PAIR, "question": f"{i} " * 50}).encode() for i in range(3000)]
    frames = zst(b"".join(lines[:1000])) + zst(b"") + zst(b"".join(lines[1000:]), write_checksum=True)
    assert len(list(read("z.jsonl.zst", frames).records())) == 3000, "every frame, not only the first"


def test_what_is_packed_tightly_is_unpacked_bit_by_bit() -> None:
    packed = zst(b'{"text": "' + b" " * (60 << 20) + b'x"}\n')
    assert len(packed) < 10_000
    tracemalloc.start()
    with open("x.jsonl.zst", "wb") as file:
        file.write(packed)
    from gptlite.text import records

    with open("x.jsonl.zst", "rb") as file, records._unpacked(Path("x.jsonl.zst"), "x", records._Counted(file)) as raw:
        assert sum(len(block) for block in iter(lambda: raw.read(1 << 16), b"")) > 60 << 20
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 << 20


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("cut off", lambda raw: raw[:-9]),
        ("cut off in the head", lambda raw: raw[:3]),
        ("flipped", lambda raw: raw[:40] + bytes([raw[40] ^ 255]) + raw[41:]),
        ("followed by something else", lambda raw: raw + b"more"),
        ("nothing of the kind", lambda raw: b"hello"),
    ],
)
def test_a_damaged_zst_file_is_an_error(name: str, damage: Any) -> None:
    whole = zst(random.Random(0).randbytes(300).hex().encode() * 3, write_checksum=True)
    with pytest.raises(CorpusError, match=r"x\.txt\.zst cannot be unpacked, with zstd: .+\."):
        read("x.txt.zst", damage(whole))


def parquet(columns: Mapping[str, Any], **options: Any) -> bytes:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'gptlite-lm[records]'")
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(arrow.table(dict(columns)), buffer, **options)
    return buffer.getvalue()


def test_parquet_is_read() -> None:
    pairs = {"question": [f"Who {i}?" for i in range(3000)], "answer": ["Ada."] * 3000, "year": list(range(3000))}
    options = {"given": "year"}
    lines = jsonl(*(dict(zip(pairs, row, strict=True)) for row in zip(*pairs.values(), strict=True)))
    expected = list(read("x.jsonl", lines, **options).records())
    for compression in ("none", "snappy", "gzip", "zstd"):
        table = parquet(pairs, row_group_size=700, compression=compression)
        text = read("x.parquet", table, **options)
        assert list(text.records()) == expected
        assert text.pieces[0].document.digest == hashlib.sha256(table).hexdigest()
    packed = read("y.parquet.gz", gzip.compress(table), **options)
    assert list(packed.records()) == expected


def test_columns_of_parquet_are_of_many_types() -> None:
    arrow = pytest.importorskip("pyarrow")
    chats = [CHAT, [{"role": "system", "content": "Be brief."}, *CHAT]]
    assert list(read("x.parquet", parquet({"messages": chats})).records())[1] == [("system", "Be brief."), *ASKED]
    text = arrow.array(["one", "two"], type=arrow.large_string())
    assert [block for _, block in read("y.parquet", parquet({"text": text, "n": [1, 2]})).blocks()] == ["one", "two"]
    coded = arrow.array(["Ada.", "Ada."]).dictionary_encode()
    assert list(read("z.parquet", parquet({"prompt": ["Who?"] * 2, "completion": coded})).records()) == [ASKED] * 2


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"text": ["one", None]}, "row 2: expected a text in 'text', not null"),
        ({"text": ["one", " "]}, "row 2: expected a text in 'text', which is empty"),
        ({"text": [1, 2]}, "row 1: expected a text in 'text', not the number 1"),
        ({"text": [b"one"]}, "row 1: expected a text in 'text', not bytes"),
        ({"a": ["one"], "b": ["two"]}, "row 1: expected the fields text, prompt and"),
        ({"messages": [CHAT, []]}, "row 2: expected messages to be a list with an object each, not an empty list"),
        ({"messages": [CHAT, None]}, "row 2: expected messages to be a list with an object each, not null"),
        ({"text": []}, "holds no records"),
        ({}, "holds no records"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_row_of_parquet_is_said(columns: Mapping[str, Any], said: str) -> None:
    with pytest.raises(CorpusError) as caught:
        read("x.parquet", parquet(columns))
    message = str(caught.value)
    assert message.startswith("x.parquet") and said in message and message.endswith("."), message


DAMAGES = {
    "nothing of the kind": lambda raw: b"hello",
    "nothing": lambda raw: b"",
    "cut off": lambda raw: raw[: len(raw) // 2],
    "shorter inside": lambda raw: raw[:50] + raw[60:],
    "zeros": lambda raw: raw[:4] + bytes(len(raw) - 8) + raw[-4:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_parquet_file_is_an_error(damage: Any) -> None:
    whole = parquet({"text": ["one", "two"] * 50})
    with pytest.raises(CorpusError, match=r"^x\.parquet is not a Parquet table that can be read: .+\.$"):
        read("x.parquet", damage(whole))


def test_what_was_recognised_is_said_in_one_line() -> None:
    said: list[str] = []
    Path("x.jsonl").write_text(jsonl(PAIR, PAIR))
    open_text(["x.jsonl"], smallest=1, notice=said.append)
    assert said == ["read 2 pairs (question, answer) in 1 file, such as x.jsonl."]


MESSAGES = {
    "no list": "Who?",
    "an empty list": [],
    "no objects": ["Who?"],
    "no role": [{"content": "Who?"}],
    "another role": [{"role": "tool", "content": "Who?"}],
    "no content": [{"role": "user"}],
    "content in parts": [{"role": "user", "content": [{"type": "text"}]}],
    "a late system": [*CHAT, {"role": "system", "content": "x"}],
    "no answer": CHAT[:1],
    "no question": CHAT[1:],
}
WRONG: dict[str, tuple[str, str | bytes, dict[str, Any], str]] = {
    "no JSON": ("x.jsonl", jsonl(PAIR) + "{'question'\n", {}, "line 2: expected a JSON object"),
    "a cut line": ("x.jsonl", jsonl(PAIR) + jsonl(PAIR)[:-5], {}, "line 2: expected a JSON object"),
    "a list": ("x.jsonl", "[1, 2]\n", {}, "line 1: expected a JSON object, not a list"),
    "a number": ("x.jsonl", jsonl(PAIR) + "7\n", {}, "line 2: expected a JSON object, not the number 7"),
    "null": ("x.jsonl", "null\n", {}, "line 1: expected a JSON object, not null"),
    "deep": ("x.jsonl", "[" * 100_000 + "\n", {}, "line 1: expected a JSON object, but"),
    "unknown fields": ("x.jsonl", jsonl({"a": 1}), {}, "line 1: expected the fields text, prompt and"),
    "another record": ("x.jsonl", jsonl(PAIR, {"text": "x"}), {}, "line 2: expected the field 'question'"),
    "no such pair": ("x.jsonl", jsonl(PAIR), {"pairs": "de,en"}, "line 1: expected the field 'de'"),
    "no such text": ("x.jsonl", jsonl(PAIR), {"text_field": "body"}, "line 1: expected the field 'body'"),
    "no condition": ("x.jsonl", jsonl(PAIR), {"given": "author"}, "line 1: expected the field 'author'"),
    "a list as condition": (
        "x.jsonl",
        jsonl({**PAIR, "a": []}),
        {"given": "a"},
        "expected a text in 'a', not an empty",
    ),
    "a number as text": ("x.jsonl", jsonl({"text": 3}), {}, "line 1: expected a text in 'text', not the number 3"),
    "null as text": ("x.jsonl", jsonl({"text": None}), {}, "line 1: expected a text in 'text', not null"),
    "true as text": ("x.jsonl", jsonl({"text": True}), {}, "line 1: expected a text in 'text', not true"),
    "an empty text": ("x.jsonl", jsonl({"text": "  "}), {}, "line 1: expected a text in 'text', which is empty"),
    "an empty prompt": ("x.jsonl", jsonl({**PAIR, "question": ""}), {}, "a text in 'question', which is empty"),
    "an empty answer": ("x.jsonl", jsonl({**PAIR, "answer": ""}), {}, "a text in 'answer', which is empty"),
    "half a character": ("x.jsonl", '{"text": "\\ud83d"}\n', {}, "line 1: 'text' holds half of a character"),
    **{
        f"messages with {name}": ("x.jsonl", jsonl({"messages": value}), {}, "line 1")
        for name, value in MESSAGES.items()
    },
    "blank lines": ("x.jsonl", "\n\n", {}, "holds no records"),
    "not UTF-8": ("x.jsonl", b'{"text": "\xff"}\n', {}, "near line 1: byte 0xFF is not UTF-8"),
    "a short row": ("x.csv", "question,answer\na,b\na\n", {}, "line 3: expected 2 columns as in the first line, not 1"),
    "a long row": ("x.csv", "question,answer\na,b,c\n", {}, "line 2: expected 2 columns as in the first line, not 3"),
    "an open quote": ("x.csv", 'question,answer\na,"b\n', {}, "line 2: expected a row of a table, but"),
    "text after a quote": ("x.csv", 'question,answer\n"a"b,c\n', {}, "line 2: expected a row of a table, but"),
    "a column twice": ("x.csv", "question,question\na,b\n", {}, "'question' stands there twice"),
    "a nameless column": ("x.csv", "question,\na,b\n", {}, "expected a name for each column"),
    "only a head": ("x.csv", "question,answer\n", {}, "holds no records"),
    "unknown columns": ("x.tsv", "a\tb\n1\t2\n", {}, "line 2: expected the fields text"),
    "no gzip": ("x.jsonl.gz", b"hello", {}, "cannot be unpacked"),
    "half of gzip": ("x.jsonl.gz", gzip.compress(jsonl(PAIR).encode() * 9)[:-12], {}, "cannot be unpacked"),
    "no xz": ("x.jsonl.xz", b"hello", {}, "cannot be unpacked"),
    "half of xz": ("x.txt.xz", lzma.compress(random.Random(0).randbytes(999))[:-60], {}, "cannot be unpacked"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_record_is_said(name: str) -> None:
    file, content, options, said = WRONG[name]
    with pytest.raises(CorpusError) as caught:
        read(file, content, **options)
    message = str(caught.value)
    assert message.startswith(file), message
    assert said in message, message
    assert message.endswith("."), message


def test_there_are_30_kinds() -> None:
    assert len(WRONG) >= 30


def test_the_command_ends_with_3(gptlite: Command) -> None:
    Path("x.jsonl").write_text(jsonl(*[PAIR] * 300) + "{\n")
    outcome = gptlite("train", "x.jsonl")
    assert (outcome.code, "x.jsonl, line 301" in outcome.err) == (3, True)
    assert not Path("checkpoints").exists()


@pytest.mark.parametrize("names", ["a", "a,b,c", "a,a", ",a", ""])
def test_names_of_fields_are_checked(names: str) -> None:
    with pytest.raises(UsageError, match="`pairs`"):
        TextOptions(pairs=names)


def test_records_are_never_cut_by_the_held_out_boundary() -> None:
    rng = random.Random(0)
    records = [{"prompt": f"p{i} " + "x" * rng.randrange(200), "completion": f"c{i}"} for i in range(2000)]
    text = read("x.jsonl", jsonl(*records))
    whole = [*text.records()]
    for share in (0.01, 0.05, 0.3):
        found = split(text, share)
        train, held_out = [*found.train.records()], [*found.held_out.records()]
        assert found.kind == "records"
        assert len(train) + len(held_out) == len(whole)
        assert {x[0][1] for x in train}.isdisjoint({x[0][1] for x in held_out})
        assert found.held_out.n_bytes == pytest.approx(share * text.n_bytes, rel=0.25)
        again = split(text, share, "records")
        assert (again.train.digest, again.held_out.digest) == (found.train.digest, found.held_out.digest)
    assert all(parts in whole for parts in text.spread(70_000).records())


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("n", [20, 33, 120, 500])
def test_few_and_short_records_are_held_out_too(n: int, share: float) -> None:
    """Equally long ones, so that a boundary that always moves in one direction would hold out none or all."""
    pairs = [{"prompt": f"question {i:03}", "completion": f"answer {i:03}" * 12} for i in range(n)]
    text = read("x.jsonl", jsonl(*pairs))
    found = split(text, share)
    n_held_out = len(list(found.held_out.records()))
    assert n_held_out == pytest.approx(n * share, abs=0.5 + n * share / 8)
    assert n_held_out + len(list(found.train.records())) == n


def test_a_long_file_is_read_in_bounded_memory() -> None:
    line = json.dumps({"prompt": "word " * 100, "completion": "word " * 100}) + "\n"
    with gzip.open("x.jsonl.gz", "wt", compresslevel=1) as file:
        for _ in range(12_000):  # 12 MB
            file.write(line)
    tracemalloc.start()
    text = open_text(["x.jsonl.gz"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert text.n_bytes > 11 << 20
    assert peak < 8 << 20


PEAK = """
import resource, sys
from gptlite.text.corpus import open_text
from gptlite.text.splitting import split
print(split(open_text([sys.argv[1]]), 0.05).held_out.n_bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_packed_records_take_no_more_memory_than_plain_text() -> None:
    """Of a whole process; 16 MB of text as pairs in .jsonl.gz, and as it is."""
    texts = [f"word {i} " * 40 for i in range(200)]
    with gzip.open("x.jsonl.gz", "wt", compresslevel=1) as packed, open("x.txt", "w") as plain:
        for i in range(160):
            packed.write("".join(jsonl({"question": text, "answer": f"{i}. {text[:90]}"}) for text in texts))
            plain.write("".join(f"{text}\n{i}. {text[:90]}\n" for text in texts))
    found = {}
    for name in ("x.jsonl.gz", "x.txt"):
        done = subprocess.run([sys.executable, "-c", PEAK, name], capture_output=True, text=True, check=True)
        n_bytes, found[name] = map(int, done.stdout.split())
        assert n_bytes > 500_000
    assert found["x.jsonl.gz"] < found["x.txt"] + (8 << 10)  # KiB


def test_a_csv_of_the_standard_library_is_read_back() -> None:
    rows = [("a,b", 'say "x"'), ("line\nbreak", "tab\there"), ("Ünï", "日本")]
    with open("x.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("source", "target"), *rows])
    read_back = [tuple(content for _, content in parts) for parts in open_text(["x.csv"], smallest=1).records()]
    assert read_back == rows

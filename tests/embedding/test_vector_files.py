"""Vectors written down: every format reads back to the bit, in other people's programs too, from any number of rows."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import random_model, tiny_config

from gptlite import __version__
from gptlite.embedding import vector_files
from gptlite.embedding.contextual import WordVector, embed
from gptlite.embedding.vector_files import Record, files_of, provenance, save_records, save_table, save_vectors
from gptlite.errors import StorageError, UsageError
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import Occurrence, parse_marked

META = {"model": "checkpoints/x", "pool": "last", "prefix": "\n"}
ONE_LAYER = [suffix for suffix in vector_files.FORMATS if suffix != ".tsv"]
KEYED = [".vec", ".txt", ".bin"]
HOSTILE = (
    " ", "  ", "\t", "\n", "\r\n", "7", "nan", "-inf", "1 2", "\ufeff", "\u3000", "\x85", "\x1c", "\u2028", "a\tb",
    "a\nb", '"', '"a', "'", ",", ";", "#", "=1+1", "-", "-x", "@a", "银行", "🙂", "e\u0301", "\u202e", "\x00", "\x1b[2",
)  # fmt: skip


def word_vector(i: int, word: str, numbers: np.ndarray) -> WordVector:
    occurrence = Occurrence(i, f"the {word} .", 4, 4 + len(word))
    return WordVector(occurrence, numbers, numbers[0] * 3, (f" {word}",), False, 1, (" .",))


def awkward_vectors(
    words: Sequence[str] = ("bank", "bank", "New York", "银行", "🙂", 'say "x"\\', "tab\there"),
) -> list:
    """Numbers whose shortest decimal form is long, huge or tiny, and words that formats stumble over."""
    rng = np.random.default_rng(0)
    vectors = []
    for i, word in enumerate(words):
        numbers = (rng.normal(size=(3, 5)) * 10.0 ** rng.integers(-30, 30, size=(3, 5))).astype(np.float32)
        numbers[0, 0] = np.float32(0.1) + np.float32(i) * np.float32(1e-7)
        vectors.append(word_vector(i, word, numbers))
    return vectors


def matrix(vectors: Sequence[WordVector], layer: int) -> np.ndarray:
    return np.stack([v.contextual[layer] for v in vectors])


def read_matrix(path: Path) -> np.ndarray:
    """The vectors alone, read with nothing that wrote them."""
    match path.suffix:
        case ".npz":
            with np.load(path, allow_pickle=False) as found:
                return found["vectors"]
        case ".npy":
            return np.load(path, allow_pickle=False)
        case ".jsonl":
            lines = path.read_bytes().decode().rstrip("\n").split("\n")
            return np.array([json.loads(line)["vector"] for line in lines], dtype=np.float32)
        case ".csv":
            with open(path, encoding="utf-8", newline="") as file:
                columns, *rows = csv.reader(file)
            first = columns.index("v0")
            return np.array([row[first:] for row in rows], dtype=np.float32)
        case ".tsv":
            lines = files_of(path)[0].read_text(encoding="utf-8").split("\n")
            return np.array([line.split("\t") for line in lines if line], dtype=np.float32)
        case suffix:
            return read_word2vec(path, binary=suffix == ".bin")[1]


def read_word2vec(path: Path, *, binary: bool = False) -> tuple[list[str], np.ndarray]:
    """As the program of that name reads it: numbers of rows and dimensions, then a key and a vector each."""
    header, _, rest = path.read_bytes().partition(b"\n")
    n, dim = map(int, header.split(b" "))
    keys, rows = [], []
    for _ in range(n):
        if binary:
            key, _, rest = rest.partition(b" ")
            row, rest = np.frombuffer(rest[: 4 * dim], dtype="<f4"), rest[4 * dim :]
        else:
            line, _, rest = rest.partition(b"\n")
            key, *numbers = line.split(b" ")
            assert len(numbers) == dim
            row = np.array([x.decode() for x in numbers], dtype=np.float32)
        keys.append(key.decode())
        rows.append(row)
    assert rest == b""
    return keys, np.array(rows)


# -- To the bit


@pytest.mark.row("E11")
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("suffix", vector_files.FORMATS)
def test_vectors_read_back_to_the_bit_and_in_order(suffix: str, layer: int) -> None:
    vectors = awkward_vectors()
    save_vectors(Path(f"v{suffix}"), vectors, layer, META)
    found = read_matrix(Path(f"v{suffix}"))
    assert found.dtype == np.float32
    assert np.array_equal(found, matrix(vectors, layer))


@pytest.mark.parametrize("suffix", vector_files.FORMATS)
def test_a_stream_makes_the_same_file_but_for_the_zeros_of_its_header(suffix: str) -> None:
    vectors = awkward_vectors()
    records = [Record(i, v) for i, v in enumerate(vectors)]
    save_records(Path(f"a{suffix}"), iter(records), 1, META)
    save_vectors(Path(f"b{suffix}"), vectors, 1, META)
    for a, b in zip(files_of(Path(f"a{suffix}")), files_of(Path(f"b{suffix}")), strict=True):
        assert a.read_bytes().removeprefix(b"000000000007 5") == b.read_bytes().removeprefix(b"7 5")


@pytest.mark.parametrize("suffix", vector_files.FORMATS)
@pytest.mark.parametrize("layer", [1, None], ids=["one layer", "all layers"])
def test_a_text_without_the_word_is_a_row_without_numbers(suffix: str, layer: int | None) -> None:
    """So that row i is of text i in every format, whether texts without it come first, between or last."""
    if layer is None and suffix not in vector_files.ALL_LAYERS:
        return
    vectors = awkward_vectors(("bank", "river"))
    found = [None, None, vectors[0], None, vectors[1], None]
    records = [Record(i, v, word="bank") for i, v in enumerate(found)]
    save_records(Path(f"v{suffix}"), iter(records), layer, META)
    missing = np.full_like(vectors[0].at(layer), np.nan)
    expected = np.stack([missing if v is None else v.at(layer) for v in found])
    if suffix == ".jsonl":
        lines = [json.loads(line) for line in Path("v.jsonl").read_text().splitlines()]
        assert [line["vector"] is None for line in lines] == [v is None for v in found]
        assert [line["text_index"] for line in lines] == list(range(6))
        return
    assert np.array_equal(read_matrix(Path(f"v{suffix}")), expected, equal_nan=True)
    if suffix in KEYED:
        keys, _ = read_word2vec(Path(f"v{suffix}"), binary=suffix == ".bin")
        assert keys == ["bank#1", "bank#2", "bank#3", "bank#4", "river#5", "bank#6"]


COLUMNED = (".npz", ".jsonl", ".csv", ".tsv")


@pytest.mark.parametrize("suffix", COLUMNED)
def test_columns_of_the_input_come_along(suffix: str) -> None:
    vectors = awkward_vectors(("bank", "river"))
    records = [
        Record(0, vectors[0], {"id": "A1", "note": '=a "b"', "start": 7}),
        Record(1, None, {"id": "A3", "note": "", "start": None}),
        Record(2, vectors[1], {"id": "A2", "note": "c", "start": [1]}),
    ]
    save_records(Path(f"v{suffix}"), records, 1, META)
    if suffix == ".jsonl":
        lines = [json.loads(line) for line in Path("v.jsonl").read_text().splitlines()]
        assert [line["id"] for line in lines] == ["A1", "A3", "A2"]
        assert [line["input_start"] for line in lines] == [7, None, [1]]
    elif suffix == ".npz":
        with np.load("v.npz") as file:
            assert file["id"].tolist() == ["A1", "A3", "A2"]
            assert file["input_start"].tolist() == ["7", "", "[1]"]
            assert file["text_index"].tolist() == [0, 1, 2] and file["start"].tolist() == [4, -1, 4]
    else:
        name, separator = ("v.csv", ",") if suffix == ".csv" else ("v.metadata.tsv", "\t")
        with open(name, encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file, delimiter=separator)
        assert head[:4] == ["id", "note", "input_start", "word"]
        assert [row[0] for row in rows] == ["A1", "A3", "A2"]
        assert rows[0][1] == '\'=a "b"'


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_column_that_the_first_row_lacks_is_an_error(suffix: str) -> None:
    records = [Record(0, awkward_vectors()[0], {"id": 1}), Record(1, None, {"id": 2, "note": "x"})]
    with pytest.raises(UsageError, match="row 2 has 'note', which the first row lacks"):
        save_records(Path(f"v{suffix}"), records, 1, META)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_texts_that_look_like_formulas_are_written_as_they_are_if_that_is_wanted(suffix: str) -> None:
    name, separator = ("v.csv", ",") if suffix == ".csv" else ("v.metadata.tsv", "\t")
    for raw, expected in ((False, "'=1+1"), (True, "=1+1")):
        records = [Record(0, awkward_vectors(("=1+1",))[0])]
        save_records(Path(f"v{suffix}"), records, 1, META, raw_cells=raw)
        with open(name, encoding="utf-8", newline="") as file:
            assert [row[0] for row in csv.reader(file, delimiter=separator)][1] == expected


@pytest.mark.parametrize("suffix", vector_files.FORMATS)
def test_normalized_vectors_have_length_1_and_the_same_direction(suffix: str) -> None:
    vectors = [word_vector(i, "x", np.full((2, 4), 3.0 + i, dtype=np.float32)) for i in range(3)]
    save_vectors(Path(f"v{suffix}"), vectors, 1, META, normalize=True)
    assert np.array_equal(read_matrix(Path(f"v{suffix}")), np.full((3, 4), 0.5, dtype=np.float32))


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_all_layers_make_a_third_axis(suffix: str) -> None:
    vectors = awkward_vectors()
    save_vectors(Path(f"v{suffix}"), vectors, None, META)
    assert np.array_equal(read_matrix(Path(f"v{suffix}")), np.stack([v.contextual for v in vectors]))


def test_several_layers_make_their_mean() -> None:
    vectors = [word_vector(0, "x", np.array([[1, 2], [3, 5], [9, 9]], dtype=np.float32))]
    save_vectors(Path("v.jsonl"), vectors, (0, 1), META)
    line = json.loads(Path("v.jsonl").read_text())
    assert (line["layer"], line["vector"]) == ([0, 1], [2.0, 3.5])


@pytest.mark.parametrize("suffix", sorted(set(vector_files.FORMATS) - {".npz", ".npy"}))
def test_all_layers_have_no_room_in_other_formats(suffix: str) -> None:
    with pytest.raises(UsageError, match=r"only \.npz and \.npy hold the vectors of all layers"):
        save_vectors(Path(f"v{suffix}"), awkward_vectors(), None, META)


def test_real_vectors_make_the_round_trip(tokenizer: Tokenizer) -> None:
    model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size, context_length=64))
    texts = ["Ada finds the [bank] .", "the river [bank] of Bela"]
    places = [place for i, text in enumerate(texts) for place in parse_marked(text, i)]
    vectors = embed(model, tokenizer, places)
    for suffix in vector_files.FORMATS:
        save_vectors(Path(f"v{suffix}"), vectors, 1, META)
        assert np.array_equal(read_matrix(Path(f"v{suffix}")), matrix(vectors, 1))


# -- What stands beside the vectors


def test_npz_names_words_places_and_treatment(tmp_path: Path) -> None:
    vectors = awkward_vectors()
    save_vectors(tmp_path / "v.npz", vectors, 2, META)
    with np.load(tmp_path / "v.npz", allow_pickle=False) as found:
        assert np.array_equal(found["static"], np.stack([v.static for v in vectors]))
        assert found["word"].tolist() == [v.occurrence.word for v in vectors]
        assert found["text_index"].tolist() == list(range(len(vectors)))
        assert [tuple(x) for x in zip(found["start"].tolist(), found["end"].tolist(), strict=True)] == [
            (v.occurrence.start, v.occurrence.end) for v in vectors
        ]
        assert json.loads(str(found["meta"])) == {**META, "layer": 2, "correct": "none", "normalize": False}


def test_jsonl_says_all_of_it_in_every_line() -> None:
    vectors = [
        word_vector(i, word, np.ones((3, 5), dtype=np.float32)) for i, word in enumerate(("bank", "a\nb", "银行"))
    ]
    save_vectors(Path("v.jsonl"), vectors, 2, META, normalize=True)
    for v, line in zip(vectors, Path("v.jsonl").read_bytes().decode().rstrip("\n").split("\n"), strict=True):
        x = json.loads(line)
        assert (x["word"], x["span"]) == (v.occurrence.word, [v.occurrence.start, v.occurrence.end])
        assert (x["layer"], x["pool"], x["model"]) == (2, "last", "checkpoints/x")
        assert (x["correct"], x["normalize"]) == ("none", True)
        assert np.linalg.norm(x["static"]) == pytest.approx(1, abs=1e-6)


def test_provenance_is_the_digests_of_the_manifest() -> None:
    manifest = {
        "files": {name: {"size": 1, "sha256": name[0] * 64} for name in ("model.safetensors", "tokenizer.json")}
    }
    assert provenance(manifest) == {"gptlite": __version__, "model_sha256": "m" * 64, "tokenizer_sha256": "t" * 64}
    assert provenance({}) == {"gptlite": __version__, "model_sha256": None, "tokenizer_sha256": None}


# -- In other programs


@pytest.mark.row("E11")
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("suffix", KEYED)
def test_gensim_reads_word2vec_files(suffix: str, streamed: bool) -> None:
    models = pytest.importorskip("gensim.models")
    vectors = awkward_vectors((*HOSTILE, "bank", "bank"))
    records = [Record(i, v) for i, v in enumerate(vectors)]
    save_records(Path(f"v{suffix}"), iter(records) if streamed else records, 2, META)
    found = models.KeyedVectors.load_word2vec_format(f"v{suffix}", binary=suffix == ".bin")
    assert found.vectors.dtype == np.float32
    assert np.array_equal(found.vectors, matrix(vectors, 2))
    assert found.index_to_key[-2:] == [f"bank#{len(vectors) - 1}", f"bank#{len(vectors)}"]


@pytest.mark.parametrize("suffix", KEYED)
def test_keys_have_no_white_space(suffix: str) -> None:
    save_vectors(Path(f"v{suffix}"), awkward_vectors(), 0, META)
    keys, _ = read_word2vec(Path(f"v{suffix}"), binary=suffix == ".bin")
    assert keys == ["bank#1", "bank#2", "New_York#3", "银行#4", "🙂#5", 'say_"x"\\#6', "tab_here#7"]


def projected(metadata: str) -> Iterator[list[str]]:
    """What the projector makes of lines of metadata: it trims them as JavaScript does, and skips blank ones."""
    blanks = "\t\n\v\f\r \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(map(chr, range(0x2000, 0x200B)))
    for line in metadata.split("\n"):
        trimmed = line.strip(blanks)
        if trimmed:
            yield trimmed.split("\t")


@pytest.mark.row("E11")
def test_the_projector_gives_every_vector_its_own_word() -> None:
    vectors = awkward_vectors((*HOSTILE, "bank"))
    save_vectors(Path("v.tsv"), vectors, 1, META)
    assert not Path("v.tsv").exists()
    lines = Path("v.vectors.tsv").read_text(encoding="utf-8").split("\n")
    rows = [[float(x) for x in line.split("\t")] for line in lines if line.strip()]
    assert np.array_equal(np.array(rows, dtype=np.float32), matrix(vectors, 1))
    columns, *cells = projected(Path("v.metadata.tsv").read_bytes().decode())
    assert columns == ["word", "context", "text_index", "start", "end", "n_left"]
    assert [(len(row), row[2]) for row in cells] == [(6, str(i)) for i in range(len(vectors))]
    assert cells[-1] == ["bank", "the [bank] .", str(len(vectors) - 1), "4", "8", "1"]
    assert [row[0] for row in cells[:9]] == ["␣", "␣", "␣", "␣", "␣", "7", "nan", "'-inf", "1 2"]


@pytest.mark.parametrize("name", ["v.tsv", "v.vectors.tsv", "v.metadata.tsv"])
def test_any_name_of_the_pair_names_the_pair(name: str) -> None:
    assert files_of(Path("a") / name) == (Path("a/v.vectors.tsv"), Path("a/v.metadata.tsv"))


@pytest.mark.parametrize("taken", ["v.vectors.tsv", "v.metadata.tsv"])
def test_the_projector_gets_both_files_or_neither(taken: str) -> None:
    Path(taken).mkdir()
    with pytest.raises(StorageError, match=f"cannot write {taken}"):
        save_vectors(Path("v.tsv"), awkward_vectors(), 0, META)
    assert [path.name for path in Path().iterdir()] == [taken]


def test_csv_keeps_words_and_disarms_formulas() -> None:
    save_vectors(Path("v.csv"), awkward_vectors(HOSTILE), 1, META)
    with open("v.csv", encoding="utf-8", newline="") as file:
        columns, *rows = csv.reader(file)
    assert columns == ["word", "text_index", "start", "end", "v0", "v1", "v2", "v3", "v4"]
    disarmed = {"=1+1": "'=1+1", "-x": "'-x", "@a": "'@a", "-inf": "'-inf"}
    assert [row[0] for row in rows] == [disarmed.get(word, word) for word in HOSTILE]
    assert [row[1:4] for row in rows] == [[str(i), "4", str(4 + len(word))] for i, word in enumerate(HOSTILE)]


@pytest.mark.parametrize("suffix", ONE_LAYER)
def test_half_a_character_is_spelled_out(suffix: str) -> None:
    """JSON input can hold it, UTF-8 cannot."""
    vectors = awkward_vectors(("\ud800x",))
    save_vectors(Path(f"v{suffix}"), vectors, 1, META)
    assert np.array_equal(read_matrix(Path(f"v{suffix}")), matrix(vectors, 1))
    if suffix == ".jsonl":
        assert json.loads(Path("v.jsonl").read_text())["word"] == "\ud800x"


# -- Tables


@pytest.mark.parametrize("suffix", vector_files.FORMATS)
def test_a_table_reads_back_to_the_bit(suffix: str) -> None:
    words = ["the", "银行", "e\u0301", "7", "nan"]
    vectors = matrix(awkward_vectors(words), 1)
    save_table(Path(f"v{suffix}"), words, vectors, META)
    assert np.array_equal(read_matrix(Path(f"v{suffix}")), vectors)
    if suffix in KEYED:
        assert read_word2vec(Path(f"v{suffix}"), binary=suffix == ".bin")[0] == words
    if suffix == ".tsv":
        columns, *cells = projected(Path("v.metadata.tsv").read_bytes().decode())
        assert (columns, cells) == (["word", "row"], [[word, str(i)] for i, word in enumerate(words)])
    if suffix == ".npz":
        with np.load("v.npz", allow_pickle=False) as found:
            assert found["word"].tolist() == words
            assert json.loads(str(found["meta"])) == {**META, "normalize": False}
    if suffix == ".jsonl":
        lines = Path("v.jsonl").read_bytes().decode().rstrip("\n").split("\n")
        assert [json.loads(line)["word"] for line in lines] == words


@pytest.mark.parametrize("suffix", vector_files.FORMATS)
def test_tables_can_be_normalized(suffix: str) -> None:
    save_table(
        Path(f"v{suffix}"), ["a", "b"], np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32), META, normalize=True
    )
    assert np.array_equal(read_matrix(Path(f"v{suffix}")), np.array([[0.6, 0.8], [0.0, 0.0]], dtype=np.float32))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", ""], "word 2 is empty"),
        (["New York", "New_York"], "'New York' and 'New_York' have the same key 'New_York'"),
        (["a", "a"], "'a' and 'a' have the same key"),
        ([], "there are no vectors"),
    ],
    ids=str,
)
def test_words_that_would_be_lost_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        save_table(Path("v.vec"), words, np.ones((len(words), 2), dtype=np.float32), META)
    assert list(Path().iterdir()) == []


# -- Where nothing can be written


@pytest.mark.parametrize("name", ["v.tx", "v", ".npz", "v.npz.gz"])
def test_other_suffixes_are_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match=r"must end in one of \.npz, \.npy, \.jsonl, \.vec"):
        save_vectors(Path(name), awkward_vectors(), 0, META)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("suffix", vector_files.FORMATS)
def test_a_folder_that_does_not_exist_is_a_storage_error(suffix: str) -> None:
    with pytest.raises(StorageError, match="cannot write gone/v"):
        save_vectors(Path(f"gone/v{suffix}"), awkward_vectors(), 0, META)


@pytest.mark.parametrize("suffix", vector_files.FORMATS)
def test_texts_that_end_in_an_error_leave_older_files_alone(suffix: str) -> None:
    save_vectors(Path(f"v{suffix}"), awkward_vectors(), 0, META)
    before = {path: path.read_bytes() for path in Path().iterdir()}

    def broken() -> Iterator[vector_files.Record]:
        yield Record(0, awkward_vectors()[0])
        raise UsageError("line 2 is broken")

    with pytest.raises(UsageError, match="line 2"):
        save_records(Path(f"v{suffix}"), broken(), 1, META)
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.parametrize("suffix", sorted(set(vector_files.FORMATS) - {".jsonl"}))
def test_no_vectors_make_no_file(suffix: str) -> None:
    with pytest.raises(UsageError, match="there are no vectors to write"):
        save_records(Path(f"v{suffix}"), [Record(0, None)], 1, META)
    assert list(Path().iterdir()) == []


# -- Memory

STREAM = """
import resource, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from gptlite.embedding.vector_files import Record, save_records
from gptlite.text.words import Occurrence

def records(n):
    place = Occurrence(0, "on the river bank .", 13, 17)
    numbers = np.arange(32, dtype=np.float32).reshape(2, 16)
    for i in range(n):
        vector = numbers[1] + np.float32(i)
        yield Record(i, SimpleNamespace(
            occurrence=place, at=lambda layer, vector=vector: vector, static=numbers[0], tokens=(" bank",), n_left=3
        ))

path, n, room = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
save_records(path, records(2000), 1, {})
used = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used + room, used + room))
save_records(path, records(n), 1, {})
assert "torch" not in sys.modules
"""


def stream(path: Path, n: int, room: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", STREAM, path, str(n), str(room)], capture_output=True, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of data")
@pytest.mark.parametrize("suffix", [".npy", ".jsonl", ".vec", ".bin", ".tsv", ".csv"])
def test_rows_need_no_memory(suffix: str) -> None:
    """10,000 rows, in 2 MB more than 2,000 rows needed."""
    outcome = stream(Path(f"v{suffix}"), 10_000, 2 << 20)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    assert len(read_matrix(Path(f"v{suffix}"))) == 10_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of data")
def test_arrays_by_name_do_need_memory() -> None:
    """The control of the test above: the limit is one that is felt."""
    assert "MemoryError" in stream(Path("v.npz"), 10_000, 2 << 20).stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of data")
@pytest.mark.parametrize("suffix", [".npy", ".jsonl", ".vec"])
def test_a_million_rows_need_no_memory(suffix: str) -> None:
    outcome = stream(Path(f"v{suffix}"), 1_000_000, 2 << 20)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    with open(f"v{suffix}", "rb") as file:
        if suffix == ".npy":
            assert np.load(file, mmap_mode=None).shape == (1_000_000, 16)
        elif suffix == ".vec":
            assert file.readline() == b"000001000000 16\n"
            assert sum(1 for _ in file) == 1_000_000
        else:
            assert sum(1 for _ in file) == 1_000_000

"""Vectors written down: every format reads back to the bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import random_model, tiny_config

from gptlite import vector_files
from gptlite.embedding import WordVector, embed
from gptlite.errors import StorageError, UsageError
from gptlite.tokenizer import Tokenizer
from gptlite.vector_files import save_vectors
from gptlite.words import Occurrence, parse_marked

META = {"model": "checkpoints/x", "pool": "last", "prefix": "\n"}


def awkward_vectors() -> list[WordVector]:
    """Numbers whose shortest decimal form is long, huge or tiny, and words that formats stumble over."""
    rng = np.random.default_rng(0)
    words = ["bank", "bank", "New York", "银行", "🙂", 'say "x"\\', "tab\there"]
    vectors = []
    for i, word in enumerate(words):
        numbers = (rng.normal(size=(3, 5)) * 10.0 ** rng.integers(-30, 30, size=(3, 5))).astype(np.float32)
        numbers[0, 0] = np.float32(0.1) + np.float32(i) * np.float32(1e-7)
        occurrence = Occurrence(i, f"the {word} .", 4, 4 + len(word))
        vectors.append(WordVector(occurrence, numbers, numbers[0] * 3, (f" {word}",), False, 1, (" .",)))
    return vectors


@pytest.mark.row("E11")
@pytest.mark.parametrize("layer", [0, 2])
def test_npz_reads_back_without_pickle(tmp_path: Path, layer: int) -> None:
    vectors = awkward_vectors()
    save_vectors(tmp_path / "v.npz", vectors, layer, META)
    with np.load(tmp_path / "v.npz", allow_pickle=False) as found:
        assert np.array_equal(found["vectors"], np.stack([v.contextual[layer] for v in vectors]))
        assert np.array_equal(found["static"], np.stack([v.static for v in vectors]))
        assert found["vectors"].dtype == np.float32
        assert found["word"].tolist() == [v.occurrence.word for v in vectors]
        assert found["text_index"].tolist() == list(range(len(vectors)))
        assert [tuple(x) for x in zip(found["start"].tolist(), found["end"].tolist(), strict=True)] == [
            (v.occurrence.start, v.occurrence.end) for v in vectors
        ]
        assert json.loads(str(found["meta"])) == {**META, "layer": layer}


@pytest.mark.row("E11")
@pytest.mark.parametrize("layer", [0, 2])
def test_jsonl_reads_back_to_the_bit(tmp_path: Path, layer: int) -> None:
    vectors = awkward_vectors()
    save_vectors(tmp_path / "v.jsonl", vectors, layer, META)
    lines = (tmp_path / "v.jsonl").read_bytes().decode().split("\n")
    assert lines.pop() == ""
    for v, line in zip(vectors, map(json.loads, lines), strict=True):
        assert np.array_equal(np.array(line["vector"], dtype=np.float32), v.contextual[layer])
        assert np.array_equal(np.array(line["static"], dtype=np.float32), v.static)
        assert (line["word"], line["span"]) == (v.occurrence.word, [v.occurrence.start, v.occurrence.end])
        assert (line["layer"], line["pool"], line["model"]) == (layer, "last", "checkpoints/x")


def read_word2vec(path: Path) -> tuple[list[str], np.ndarray]:
    """As gensim reads it: a header, then a key and numbers, parted by single spaces."""
    header, *lines = path.read_bytes().decode().rstrip("\n").split("\n")
    n, dim = map(int, header.split())
    rows = [line.split(" ") for line in lines]
    assert len(rows) == n and all(len(row) == dim + 1 for row in rows)
    return [row[0] for row in rows], np.array([row[1:] for row in rows], dtype=np.float32)


@pytest.mark.row("E11")
@pytest.mark.parametrize("layer", [0, 2])
def test_vec_reads_back_to_the_bit(tmp_path: Path, layer: int) -> None:
    vectors = awkward_vectors()
    save_vectors(tmp_path / "v.vec", vectors, layer, META)
    keys, numbers = read_word2vec(tmp_path / "v.vec")
    assert np.array_equal(numbers, np.stack([v.contextual[layer] for v in vectors]))
    assert keys[:4] == ["bank#1", "bank#2", "New_York#3", "银行#4"]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", ["v.txt", "v", "v.NPZ", ".npz", "v.npz.gz"])
def test_other_suffixes_are_a_usage_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"must end in one of \.npz, \.jsonl, \.vec"):
        save_vectors(tmp_path / name, awkward_vectors(), 0, META)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", vector_files.FORMATS)
def test_a_folder_that_does_not_exist_is_a_storage_error(suffix: str) -> None:
    with pytest.raises(StorageError, match="cannot write gone/v"):
        save_vectors(Path(f"gone/v{suffix}"), awkward_vectors(), 0, META)


def occurrences_of(texts: Sequence[str]) -> list[Occurrence]:
    return [o for i, text in enumerate(texts) for o in parse_marked(text, i)]


def test_real_vectors_make_the_round_trip(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size, context_length=64))
    vectors = embed(model, tokenizer, occurrences_of(["Ada finds the [bank] .", "the river [bank] of Bela"]))
    for suffix in vector_files.FORMATS:
        save_vectors(tmp_path / f"v{suffix}", vectors, 1, META)
    expected = np.stack([v.contextual[1] for v in vectors])
    with np.load(tmp_path / "v.npz", allow_pickle=False) as found:
        assert np.array_equal(found["vectors"], expected)
    assert np.array_equal(read_word2vec(tmp_path / "v.vec")[1], expected)
    lines = (tmp_path / "v.jsonl").read_text().splitlines()
    assert np.array_equal(np.array([json.loads(line)["vector"] for line in lines], dtype=np.float32), expected)

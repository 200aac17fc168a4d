"""Static vectors without a model: the same rows as with one, and the same refusals; neighbours by their definition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import random_model, tiny_config

from gptlite.checkpoint import saved_step
from gptlite.checkpoint.saved_step import save_step
from gptlite.config import ARCHITECTURES
from gptlite.embedding.contextual import static_vector
from gptlite.embedding.static import TokenTable, WordVectors, read_table
from gptlite.errors import CheckpointError, UsageError
from gptlite.text.tokenizer import Tokenizer


def save(path: Path, tokenizer: Tokenizer, architecture: str = "qwen3", **shape: int) -> Path:
    config = tiny_config(architecture, **{"vocab_size": tokenizer.vocab_size, **shape})
    save_step(path, random_model(config), tokenizer, {})
    return path


def as_made_elsewhere(step: Path, change: dict[str, torch.Tensor]) -> Path:
    """The same directory without a manifest, with other tensors in it."""
    tensors = safetensors.torch.load_file(step / "model.safetensors")
    safetensors.torch.save_file({**tensors, **change}, step / "model.safetensors")
    (step / "MANIFEST.json").unlink()
    return step


# -- The table


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_table_is_that_of_the_model(tmp_path: Path, tokenizer: Tokenizer, architecture: str) -> None:
    step = save(tmp_path / "model", tokenizer, architecture)
    assert np.array_equal(read_table(step).rows, saved_step.load(step).model.transformer.embed.weight.detach().numpy())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_kinds_of_floats_are_read_as_the_model_reads_them(
    tmp_path: Path, tokenizer: Tokenizer, dtype: torch.dtype
) -> None:
    step = save(tmp_path / "model", tokenizer)
    tensors = safetensors.torch.load_file(step / "model.safetensors")
    as_made_elsewhere(step, {name: tensor.to(dtype) for name, tensor in tensors.items()})
    assert np.array_equal(read_table(step).rows, saved_step.load(step).model.transformer.embed.weight.detach().numpy())


@pytest.mark.parametrize("word", ["bank", "Ada", "flarnk", "river bank", "naïve", "🙂", "don't"])
def test_a_word_is_the_mean_of_its_rows(trained_run: Path, word: str) -> None:
    table, loaded = read_table(trained_run), saved_step.load(read_table(trained_run).path)
    expected = static_vector(loaded.model, loaded.tokenizer, word)
    assert np.allclose(table.vectors(["the", word])[1], expected, atol=1e-6)


def test_a_script_without_spaces_has_none_before_a_word(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["银行在河边。" * 20, "The bank. " * 20], 400)
    table = read_table(save(tmp_path / "model", tokenizer))
    assert np.allclose(table.vectors(["银行"])[0], table.rows[tokenizer.encode("银行")].mean(axis=0), atol=1e-6)
    assert "".join(table.tokens("bank")) == " bank"


def test_a_damaged_step_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    step = save(tmp_path / "model", tokenizer)
    content = bytearray((step / "model.safetensors").read_bytes())
    content[-1] ^= 1  # outside of the table
    (step / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        read_table(step)


def test_a_table_that_is_not_finite_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    name = "model.embed_tokens.weight"
    step = save(tmp_path / "model", tokenizer)
    rows = safetensors.torch.load_file(step / "model.safetensors")[name]
    rows[3, 2] = torch.nan
    with pytest.raises(CheckpointError, match=f"1 of the .* values of tensor '{name}' are not finite"):
        read_table(as_made_elsewhere(step, {name: rows}))


def test_a_table_too_short_for_the_tokenizer_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(CheckpointError, match="the model only 300"):
        read_table(save(tmp_path / "model", tokenizer, vocab_size=300))


def test_a_directory_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model"):
        read_table(tmp_path)


# -- Which words


def table_of(tokenizer: Tokenizer, counts: dict[str, int]) -> TokenTable:
    return TokenTable(Path("run"), np.eye(tokenizer.vocab_size, 8, dtype=np.float32), tokenizer, counts)


@pytest.mark.parametrize(("n_frequent", "n_rare", "least"), [(500, 400, 20), (499, 1, 2), (100, 600, 5), (0, 3, 2)])
def test_rare_words_are_left_out_where_there_are_enough_others(
    tokenizer: Tokenizer, n_frequent: int, n_rare: int, least: int
) -> None:
    counts = {f"a{i}": 20 for i in range(n_frequent)} | {f"b{i}": 5 if n_rare > 1 else 2 for i in range(n_rare)}
    expected = [word for word, n in counts.items() if n >= least]
    assert table_of(tokenizer, counts).words() == (expected, least)


def test_the_least_count_can_be_asked_for(tokenizer: Tokenizer) -> None:
    table = table_of(tokenizer, {"bank": 50, "river": 7})
    assert table.words(8) == (["bank"], 8)
    with pytest.raises(UsageError, match="no word was seen 51 times"):
        table.word_vectors(51)


def test_a_model_without_word_counts_offers_the_words_that_are_tokens(tokenizer: Tokenizer) -> None:
    words, least = table_of(tokenizer, {}).words()
    assert least == 0 and {"bank", "river"} <= set(words)
    assert all(word.isalpha() for word in words)
    assert table_of(tokenizer, {}).word_vectors().seen("bank") is None


def test_answers_are_words_of_one_token(tokenizer: Tokenizer) -> None:
    counts = dict.fromkeys(["flarnk", *table_of(tokenizer, {}).words()[0]], 30)
    table = table_of(tokenizer, counts)
    space = table.word_vectors()
    assert {word.word for word in space.nearest("flarnk", 99)} == set(counts) - {"flarnk"}
    assert len(table.tokens("flarnk")) > 1 == len(table.tokens("bank"))
    assert "flarnk" in {word.word for word in space.odd(["flarnk", "bank", "river"])}
    few = table_of(tokenizer, {"bank": 30, "flarnk": 30, "river": 30}).word_vectors()
    assert {word.word for word in few.nearest("bank")} == {"flarnk", "river"}, "too few are one token to choose from"


# -- Look-ups

GRID = {
    "man": (1, 0, 0),
    "woman": (0, 1, 0),
    "king": (1, 0, 1),
    "queen": (0, 1, 1),
    "Queen": (0, 2, 2),
    "oak": (-1, -1, 0),
}


@pytest.fixture
def grid() -> WordVectors:
    vectors = np.array(list(GRID.values()), dtype=np.float32)
    counts = dict.fromkeys(GRID, 30) | {"KING": 3}

    def spell(words: Sequence[str]) -> np.ndarray:
        return np.array([(0, 0, 5)] * len(words), dtype=np.float32)

    return WordVectors("grid", list(GRID), vectors, correction="none", counts=counts, spell=spell)


def test_the_nearest_words_come_best_first_without_the_word_itself(grid: WordVectors) -> None:
    found = grid.nearest("queen", 3)
    assert [word.word for word in found] == ["Queen", "woman", "king"]
    assert [word.cosine for word in found] == pytest.approx([1.0, 0.5**0.5, 0.5])
    assert len(grid.nearest("queen", 99)) == len(GRID) - 1


def test_a_word_that_was_never_seen_has_neighbours_too(grid: WordVectors) -> None:
    assert [word.word for word in grid.nearest("flarnk", 3)] == ["king", "queen", "Queen"]
    assert (grid.seen("flarnk"), grid.seen("KING"), grid.seen("oak")) == (0, 3, 30)
    with pytest.raises(UsageError, match="no vector for 'flarnk'"):
        WordVectors("file", ["a"], np.ones((1, 2), dtype=np.float32)).nearest("flarnk")


def test_an_analogy_leaves_out_what_was_given_in_any_case(grid: WordVectors) -> None:
    assert grid.analogy("king", "man", "woman", 1)[0].word == "queen"
    assert not {"king", "queen", "Queen", "man"} & {word.word for word in grid.analogy("king", "man", "QUEEN", 9)}


def test_an_analogy_adds_vectors_of_length_1() -> None:
    vectors = np.array([(9, 0), (0, 1), (1, 0), (1, 1)], dtype=np.float32)
    space = WordVectors("file", ["long", "up", "right", "both"], vectors, correction="none")
    assert space.analogy("long", "right", "up", 1)[0].word == "both"
    assert space.analogy("long", "right", "up", 1)[0].cosine == pytest.approx(0.5**0.5)


def test_the_odd_one_comes_first(grid: WordVectors) -> None:
    first, *others = grid.odd(["king", "oak", "man", "queen"])
    assert first.word == "oak"
    vectors = [np.array(GRID[word]) / np.linalg.norm(GRID[word]) for word in ("oak", "king", "man", "queen")]
    assert first.cosine == pytest.approx(np.mean([vectors[0] @ v for v in vectors[1:]]), abs=1e-6)
    assert [word.cosine for word in others] == sorted(word.cosine for word in others)
    with pytest.raises(UsageError, match="three or more"):
        grid.odd(["king", "oak"])


def test_other_cases_of_a_word_are_other_words(grid: WordVectors) -> None:
    (other,) = grid.case_variants("queen")
    assert (other.word, other.cosine, other.seen) == ("Queen", pytest.approx(1.0), 30)
    assert [word.word for word in grid.case_variants("king")] == ["KING"], "one that is too rare to be an answer too"
    assert grid.case_variants("oak") == []


def test_the_correction_is_measured_on_the_words() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(300, 1)) * np.array([5.0, 0, 0, 0, 0, 0])
    vectors = (rng.normal(size=(300, 6)) + shared + 3).astype(np.float32)
    words = [f"w{i}" for i in range(300)]
    raw, corrected = (WordVectors("file", words, vectors, correction=name) for name in ("none", "abtt"))
    assert (raw.correction, corrected.correction) == ("none", "abtt:1")
    defaults = [WordVectors("file", words[:n], vectors[:n]).correction for n in (300, 99)]
    assert defaults == ["abtt:1", "center"], "of few words the first component may be what they mean"
    assert np.abs(corrected.directions[:, 0]).max() < 0.2, "what they share is gone"
    assert abs(corrected.unrelated[0]) < 0.02 < abs(raw.unrelated[0])
    everything = raw.directions @ raw.directions.T
    assert raw.unrelated[0] == pytest.approx(everything[~np.eye(300, dtype=bool)].mean(), abs=0.03)

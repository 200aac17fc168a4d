"""gptlite words without --from: the vectors of words that training made, or what stands in for them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from conftest import Command, random_model, tiny_config

import gptlite as library
from gptlite.checkpoint.saved_step import save_step
from gptlite.embedding.static import read_table
from gptlite.embedding.static_words import StaticWords
from gptlite.text.tokenizer import Tokenizer


def test_the_vectors_of_words_answer_by_default(gptlite: Command, trained_run: Path) -> None:
    outcome = gptlite("words", "nearest", "BANK", "-n", 3, "-m", trained_run, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    result = json.loads(outcome.out)
    table = read_table(trained_run, unless_words=True)
    assert table.saved is not None
    expected = StaticWords(table.path, table.saved).word_vectors().nearest("bank", 3)
    (vectors,), (query,) = result["vectors"], result["nearest"]
    assert (vectors["name"], vectors["correct"]) == ("words", "none")
    assert [row["word"] for row in query["answers"][0]["neighbours"]] == [word.word for word in expected]
    asked = gptlite("words", "nearest", "BANK", "-n", 3, "-m", trained_run, "--json", "--from", "words")
    assert asked.out == outcome.out


def test_the_answer_says_when_a_word_was_not_seen(gptlite: Command, trained_run: Path) -> None:
    outcome = gptlite("words", "nearest", "banks", "-m", trained_run)
    assert outcome.code == 0
    assert 'note   the text hardly has "banks"; its vector is made from its pieces, as in "bank"' in outcome.out
    assert "note" not in gptlite("words", "nearest", "bank", "-m", trained_run).out


def test_all_saved_steps_have_the_same_vectors(trained_run: Path) -> None:
    files = {path.read_bytes() for path in trained_run.glob("step-*/embedding/words.safetensors")}
    assert len(files) == 1


def test_a_model_without_them_answers_from_its_table(gptlite: Command, tokenizer: Tokenizer) -> None:
    save_step(Path("hub"), random_model(tiny_config("gpt2", vocab_size=tokenizer.vocab_size)), tokenizer, {})
    outcome = gptlite("words", "nearest", "bank", "-m", "hub")
    assert outcome.code == 0 and "token table: " in outcome.out and "rows of its token table answer" in outcome.err
    assert gptlite("words", "nearest", "bank", "-m", "hub", "-q").err == ""
    outcome = gptlite("words", "nearest", "bank", "-m", "hub", "--from", "words")
    assert outcome.code == 2 and "--from table" in outcome.err
    assert library.load("hub").words.name == "token table"


def test_vectors_of_words_are_exported(gptlite: Command, trained_run: Path) -> None:
    assert gptlite("words", "export", "-o", "words.npz", "-m", trained_run).code == 0
    table = read_table(trained_run, unless_words=True)
    assert table.saved is not None
    assert np.load("words.npz")["vectors"].shape[1] == table.saved.vectors.shape[1]


def test_python_has_the_same_words(trained_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained_run, copy, symlinks=True)
    model = library.load(copy)
    shutil.rmtree(copy)
    assert model.words.name == "words" and len(model.words.nearest("bank", 3)) == 3
    assert model.words.analogy("bank", "river", "song", 1) and -1 <= model.words.similarity("bank", "river") <= 1

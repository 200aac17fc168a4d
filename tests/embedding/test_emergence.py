"""How words came to be: neighbours and similarities at the steps that a run kept."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, random_model, tiny_config

from gptlite.checkpoint import table_history
from gptlite.checkpoint.saved_step import save_step
from gptlite.checkpoint.table_history import KeptTable
from gptlite.embedding import emergence, static
from gptlite.embedding.static import TokenTable
from gptlite.errors import CheckpointError, UsageError
from gptlite.text.tokenizer import Tokenizer

WORDS = ("river", "bank", "garden", "letter", "song", "window", "harbour", "clock", "finds", "opens", "paints")


@pytest.fixture
def table(tokenizer: Tokenizer) -> TokenTable:
    return TokenTable(Path("run"), np.zeros((0, 0), np.float32), tokenizer, dict.fromkeys(WORDS, 100))


def rows(tokenizer: Tokenizer, seed: int, **like: str) -> np.ndarray:
    """(V, 16): random, but for words that are like another one."""
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(tokenizer.vocab_size, 16)).astype(np.float32)
    for word, other in like.items():
        (one,), (two,) = (tokenizer.encode(f" {name}") for name in (word, other))
        made[one] = made[two] + 0.1 * rng.normal(size=16)
    return made


def course(table: TokenTable, **found: object) -> emergence.Emergence:
    """River and bank find each other at step 4, garden and song at step 8."""
    tables = [
        KeptTable.of(0, rows(table.tokenizer, 0)),
        KeptTable.of(4, rows(table.tokenizer, 1, river="bank"), 3.0),
        KeptTable.of(8, rows(table.tokenizer, 2, river="bank", garden="song"), 2.0, 1.5),
    ]
    return emergence.collect(table, np.arange(table.tokenizer.vocab_size), tables, **found)  # type: ignore[arg-type]


def test_neighbours_and_similarity_of_every_step(table: TokenTable) -> None:
    found = course(table)
    assert found.steps == [0, 4, 8]
    nearest = [words[0].word for words in found.neighbours("river", 1)]
    assert nearest[1:] == ["bank", "bank"] and found.neighbours("garden", 1)[2][0].word == "song"
    similar = found.similarity("river", "bank")
    assert similar[0] < 0.8 < min(similar[1:]) and similar[1:] == [
        pytest.approx(words[0].cosine) for words in found.neighbours("river", 1)[1:]
    ]
    assert found.found("river", 1)[1:] == [1, 1] and found.to_last("river", 1) == pytest.approx(similar)


def test_frequent_words_that_stand_out_are_chosen(table: TokenTable) -> None:
    chosen = course(table).clear_words(4)
    assert chosen[0] == "river" and "bank" not in chosen, "a neighbour of a chosen word is not chosen too"
    assert len(course(table).clear_words(1)) == 1


def test_the_last_row_is_what_nearest_says_of_the_table(trained_run: Path) -> None:
    """As far as rounding allows."""
    found = emergence.read(trained_run / "latest", ["river"])
    expected = static.read_table(trained_run / "latest").word_vectors().nearest("river", 5)
    last = {word.word: word.cosine for word in found.neighbours("river", 5)[-1]}
    assert found.steps[-1] == 60 and len(last.keys() & {word.word for word in expected}) >= 4
    assert all(last[word.word] == pytest.approx(word.cosine, abs=0.02) for word in expected if word.word in last)


def test_a_word_of_several_tokens_has_their_mean(table: TokenTable) -> None:
    found = course(table, words=["riverbanks"])
    tokens = table.ids(["riverbanks"])[0]
    assert len(tokens) > 1
    kept = found.tables[-1].vectors
    assert np.allclose(found.spaces[-1].vectors[-1], kept[tokens].mean(axis=0), atol=1e-5)
    assert "riverbanks" not in {word.word for word in found.neighbours("river", 100)[-1]}, "it is no answer"


def test_tokens_that_were_not_kept_are_no_answers_and_no_questions(table: TokenTable) -> None:
    tokenizer = table.tokenizer
    (river,) = tokenizer.encode(" river")
    tokens = np.array([i for i in range(tokenizer.vocab_size) if i != river])
    kept = KeptTable.of(0, rows(tokenizer, 0)[tokens])
    found = emergence.collect(table, tokens, [kept])
    assert "river" not in found.spaces[0].words and "bank" in found.spaces[0].words
    with pytest.raises(UsageError, match="'river' is spelled with a token that is not among"):
        emergence.collect(table, tokens, [kept], words=["river"])


def test_without_kept_tables_it_says_why(trained_run: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    step = (trained_run / "latest").resolve()
    shutil.copytree(step, tmp_path / "alone" / step.name)
    with pytest.raises(CheckpointError, match="no token tables of earlier steps"):
        emergence.read(tmp_path / "alone" / step.name)
    save_step(Path("hub"), random_model(tiny_config("gpt2", vocab_size=tokenizer.vocab_size)), tokenizer, {})
    with pytest.raises(CheckpointError, match="no token tables"):
        emergence.read("hub")


@pytest.mark.parametrize("broken", ["steps", "tokens", "rows", "scales"])
def test_a_file_whose_parts_do_not_fit_is_refused(tmp_path: Path, broken: str) -> None:
    tables = [KeptTable.of(step, np.ones((3, 2), np.float32)) for step in (0, 5)]
    tokens = np.arange(3)
    if broken == "steps":
        tables.reverse()
    elif broken == "tokens":
        tokens = np.arange(4)
    elif broken == "rows":
        tables = [replace(table, rows=table.rows[:2]) for table in tables]
    else:
        tables = [replace(table, scales=table.scales * np.nan) for table in tables]
    (tmp_path / table_history.NAME).write_bytes(table_history.to_bytes(tokens, tables))
    with pytest.raises(CheckpointError, match="parts do not fit"):
        table_history.read(tmp_path)
    (tmp_path / table_history.NAME).write_bytes(b"no tensors")
    with pytest.raises(CheckpointError):
        table_history.read(tmp_path)


# -- gptlite words steps


def test_the_command_shows_a_table_for_each_word_and_the_pairs(gptlite: Command, trained_run: Path) -> None:
    outcome = gptlite("words", "steps", "river", "bank", "-n", 2, "-m", trained_run)
    assert (outcome.code, outcome.err) == (0, "")
    assert 'nearest to "river", seen ' in outcome.out and "river – bank" in outcome.out
    assert "token table" in outcome.out and "made from counts of which token follows which" in outcome.out
    steps = [line.split()[0] for line in outcome.out.splitlines() if line.strip()[:1].isdigit()]
    assert steps[0] == "0" and steps.count("60") == 3
    assert "seen at least" in outcome.out and "nats per token" in outcome.out


def test_json_has_every_step(gptlite: Command, trained_run: Path) -> None:
    facts = json.loads(gptlite("words", "steps", "river", "bank", "-n", 2, "-m", trained_run, "--json").out)
    steps = [step["step"] for step in facts["steps"]]
    assert (steps[0], steps[-1], facts["init"], facts["n_neighbours"]) == (0, 60, "bigrams", 2)
    river = facts["words"][0]
    for key in ("neighbours", "n_found", "cosines_to_last"):
        assert len(river[key]) == len(steps), key
    assert river["n_found"][-1] == 2 and all(len(near) == 2 for near in river["neighbours"])
    (pair,) = facts["pairs"]
    assert pair["words"] == ["river", "bank"] and len(pair["cosines"]) == len(steps)


def test_without_words_it_chooses_some(gptlite: Command, trained_run: Path) -> None:
    facts = json.loads(gptlite("words", "steps", "-m", trained_run, "--json").out)
    assert 1 <= len(facts["words"]) <= 4
    assert json.loads(gptlite("words", "steps", "-m", trained_run, "--json").out) == facts


def test_several_tokens_are_told(gptlite: Command, trained_run: Path) -> None:
    outcome = gptlite("words", "steps", "riverbanks", "-m", trained_run)
    assert outcome.code == 0 and 'note   "riverbanks" is ' in outcome.out


def test_a_model_without_kept_tables_is_an_error(gptlite: Command, trained_run: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_run, tmp_path / "copy", symlinks=True)
    (tmp_path / "copy" / table_history.NAME).unlink()
    outcome = gptlite("words", "steps", "river", "-m", tmp_path / "copy")
    assert outcome.code == 4 and "no token tables of earlier steps" in outcome.err
    assert gptlite("words", "steps", "", "-m", trained_run).code == 2


def test_no_torch_is_loaded(trained_run: Path) -> None:
    program = (
        "import sys; from gptlite.cli import main; "
        f"code = main.run(['words', 'steps', 'river', '-m', {str(trained_run)!r}, '--json']); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0

"""gptlite embed --by-layer: one row a layer, and the control with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, random_model, tiny_config

from gptlite.checkpoint.saved_step import save_step
from gptlite.text.tokenizer import Tokenizer

TEXTS = ("Ada finds the [bank] and the river .", "Bela paints the song and the [bank] .")
ROW = {"layer", "unrelated", "same_word", "separation", "occurrences"}


def test_json_has_a_row_for_each_layer(gptlite: Command, trained_run: Path) -> None:
    outcome = gptlite("embed", "-m", trained_run, "--by-layer", *TEXTS, "--json")
    result = json.loads(outcome.out)
    assert set(result) == {"schema", "model", "pool", "correct", "n_places", "trained"} and result["n_places"] == 2
    assert [row["layer"] for row in result["trained"]] == [0, 1, 2]
    assert all(set(row) == ROW for row in result["trained"])
    compared = json.loads(gptlite("embed", "-m", trained_run, "--layer", "1", *TEXTS, "--json").out)
    assert result["trained"][1]["occurrences"][0] == pytest.approx(compared["contextual"][0][1], abs=1e-3)
    assert result["trained"][1]["unrelated"] == pytest.approx(compared["scale"]["unrelated"], abs=1e-3)


def test_the_control_has_the_same_rows(gptlite: Command, trained_run: Path) -> None:
    outcome = gptlite("embed", "-m", trained_run, "--by-layer", "--untrained", *TEXTS, "--json")
    result = json.loads(outcome.out)
    assert [row["layer"] for row in result["untrained"]] == [0, 1, 2]
    assert result["untrained"][0]["separation"] == result["trained"][0]["separation"] == 1.0
    trained, untrained = (np.array([row["same_word"][0] for row in result[name]]) for name in ("trained", "untrained"))
    assert not np.allclose(trained[1:], untrained[1:], atol=0.01)


def test_the_table_is_of_layers(gptlite: Command, trained_run: Path) -> None:
    out = gptlite("embed", "-m", trained_run, "--by-layer", "--untrained", *TEXTS).out
    assert out.count("0  below the blocks") == out.count("2  last block") == 2
    assert "random weights" in out and "told apart" in out
    alone = gptlite("embed", "-m", trained_run, "--by-layer", TEXTS[0])
    assert alone.code == 0 and "nothing to be compared with" in alone.out


def test_a_control_needs_something_to_control(gptlite: Command, trained_run: Path) -> None:
    outcome = gptlite("embed", "-m", trained_run, "--untrained", *TEXTS)
    assert outcome.code == 2 and "--untrained does nothing with a comparison; it goes with: --by-layer." in outcome.err


def test_tokens_and_sentences_have_layers_too(gptlite: Command, trained_run: Path) -> None:
    for unit, n in (("--sentence", 2), ("--tokens", 4)):
        outcome = gptlite("embed", "-m", trained_run, "--by-layer", unit, "the bank", "a bank", "--json")
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["n_places"] >= n


def test_a_model_without_statistics_is_refused(gptlite: Command, tokenizer: Tokenizer) -> None:
    save_step(Path("hub"), random_model(tiny_config("gpt2", vocab_size=tokenizer.vocab_size)), tokenizer, {})
    outcome = gptlite("embed", "-m", "hub", "--by-layer", *TEXTS)
    assert outcome.code == 4 and "hub holds no statistics" in outcome.err

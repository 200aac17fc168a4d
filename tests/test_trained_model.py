"""A trained model from Python: its vectors are those of the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command, random_model, tiny_config

import gptlite as library
from gptlite.checkpoint.saved_step import Checkpoint, save_step
from gptlite.embedding.contextual import PREFIX
from gptlite.errors import LimitError, UsageError
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import Occurrence
from gptlite.tracing import trace
from gptlite.trained_model import TrainedModel

BANKS = ["Ada finds the [bank] and the river .", "Bela paints the song and the [bank] ."]


@pytest.fixture(scope="module")
def model(trained_run: Path) -> TrainedModel:
    return library.load(trained_run)


def test_it_is_the_checkpoint_and_more(model: TrainedModel) -> None:
    assert isinstance(model, Checkpoint) and model.config.n_layers == 2


@pytest.mark.parametrize("layer", ["last", "mid", "0", "1-2"])
def test_it_says_what_the_command_line_says(
    model: TrainedModel, gptlite: Command, trained_run: Path, layer: str
) -> None:
    e = model.embed(BANKS, layer=layer)
    printed = json.loads(gptlite("embed", "-m", trained_run, *BANKS, "--layer", layer, "--json").out)
    assert np.allclose(e.cosine(), printed["contextual"], atol=1e-5)
    assert np.allclose(e.cosine("none"), printed["raw"], atol=1e-5)
    assert e.scale() == printed["scale"]
    percentile = e.percentile()
    if layer == "1-2":
        assert percentile is None and printed["percentile"] is None
    else:
        assert percentile is not None and np.allclose(percentile, printed["percentile"], atol=0.1)


def test_arrays_have_the_documented_shapes(model: TrainedModel) -> None:
    e = model.embed(BANKS, layer="mid")
    assert (e.vectors.shape, e.vectors.dtype) == ((2, 32), np.float32)
    assert (e.static.shape, e.static.dtype) == ((2, 32), np.float32)
    assert np.array_equal(e.static[0], model.static("bank")) and np.array_equal(*e.static)
    assert [v.contextual.shape for v in e.items] == [(2, 32)] * 2
    assert [v.contextual.shape for v in model.embed(BANKS, layer="all").items] == [(3, 32)] * 2
    assert [
        v.occurrence.word for v in model.embed([t.replace("[", "").replace("]", "") for t in BANKS], "the").items
    ] == ["the"] * 4


def test_vectors_are_saved(model: TrainedModel, tmp_path: Path) -> None:
    e = model.embed(BANKS, pool="mean")
    e.save(tmp_path / "v.npz")
    with np.load(tmp_path / "v.npz", allow_pickle=False) as file:
        assert np.array_equal(file["vectors"], e.vectors)
        assert json.loads(str(file["meta"]))["pool"] == "mean"


def test_hidden_states_come_with_their_characters(model: TrainedModel) -> None:
    text = "Ada finds the bank"
    states, spans = model.hidden(text)
    ids = model.tokenizer.encode(PREFIX) + model.tokenizer.encode(text)
    expected = torch.stack(trace(model.model, torch.tensor([ids])).hidden)[:, 0, 1:]
    assert states.shape == (3, len(spans), 32)
    assert np.allclose(states, expected.numpy(), atol=1e-5)
    assert "".join(text[a:b] for a, b in spans) == text
    assert np.allclose(model.hidden(text, "1")[0], states[1:2], atol=1e-6)
    (word,) = model.embed([Occurrence(0, text, 14, 18)], layer="all").items
    assert np.allclose(word.contextual, states[:, -1], atol=1e-5)


def test_what_cannot_be_done_is_said(model: TrainedModel) -> None:
    with pytest.raises(UsageError, match="no word in brackets"):
        model.embed(["the bank"])
    with pytest.raises(UsageError, match="no word 'song'"):
        model.embed(["the bank"], "song")
    with pytest.raises(LimitError, match="room for 31"):
        model.hidden("Ada " * 50)
    with pytest.raises(UsageError, match="empty"):
        model.hidden("")


def test_a_model_made_elsewhere_has_raw_cosines(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_step(tmp_path / "hub", random_model(tiny_config("gpt2", vocab_size=tokenizer.vocab_size)), tokenizer, {})
    e = library.load(tmp_path / "hub").embed(BANKS)
    assert e.percentile("none") is None and e.cosine("none").shape == (2, 2)
    with pytest.raises(UsageError, match="no statistics"):
        e.cosine()


def test_importing_the_package_is_quick() -> None:
    code = "import gptlite, sys; assert not {'torch', 'numpy', 'gptlite.trained_model'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

"""A trained model from Python: its texts, figures and vectors are those of the command line."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command, random_model, tiny_config

import gptlite as library
from gptlite import trained_model
from gptlite.checkpoint.saved_step import Checkpoint, save_step
from gptlite.config import SamplingConfig
from gptlite.embedding.contextual import PREFIX
from gptlite.errors import LimitError, UsageError
from gptlite.generation.decoding import Decoding
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import Occurrence
from gptlite.tracing import trace
from gptlite.trained_model import Model

BANKS = ["Ada finds the [bank] and the river .", "Bela paints the song and the [bank] ."]


@pytest.fixture(scope="module")
def model(trained_run: Path) -> Model:
    return library.load(trained_run)


def test_it_is_the_checkpoint_and_more(model: Model) -> None:
    assert isinstance(model, Checkpoint) and model.config.n_layers == 2


# -- Texts


def test_it_writes_what_the_command_line_writes(model: Model, gptlite: Command, trained_run: Path) -> None:
    samples = model.generate("Ada", n=2, temperature=0.7, seed=3, max_new_tokens=20)
    options = ("-n", 2, "-t", 0.7, "--seed", 3, "--max-new-tokens", 20)
    printed = json.loads(gptlite("generate", "-m", trained_run, "Ada", *options, "--json").out)
    assert [s.text for s in samples] == [s["text"] for s in printed["samples"]]
    assert [s.finish_reason for s in samples] == [s["finish_reason"] for s in printed["samples"]]


def test_a_stream_is_the_first_sample_in_pieces(model: Model) -> None:
    pieces = list(model.stream("Ada", seed=3, max_new_tokens=20))
    assert len(pieces) > 1 and "".join(pieces) == model.generate("Ada", n=2, seed=3, max_new_tokens=20)[0].text


def test_one_text_counts_as_several(model: Model) -> None:
    (sample,) = model.generate("Ada", stop=" ", bans="the", seed=1, max_new_tokens=30)
    assert " " not in sample.text and "the" not in sample.text
    assert model.generate("Ada", stop=[" "], bans=["the"], seed=1, max_new_tokens=30) == [sample]
    biased = model.generate("Ada", seed=1, temperature=0, max_new_tokens=3, logit_bias={5: 100.0}, logprobs=1)[0]
    assert biased.tokens == [5, 5, 5] and len(biased.logprobs) == len(biased.top) == 3


@pytest.mark.parametrize("verb", [Model.generate, Model.stream])
def test_writing_takes_every_setting_with_its_default(verb: Callable[..., object]) -> None:
    parameters = inspect.signature(verb).parameters
    for field in dataclasses.fields(SamplingConfig):
        if field.name not in ("num_samples", "logit_bias"):
            assert parameters[field.name].default == field.default, field.name
    assert parameters["logit_bias"].default is None


def test_bad_settings_are_refused_by_the_call_itself(model: Model) -> None:
    with pytest.raises(UsageError, match="`temperature` must be"):
        model.stream("Ada", temperature=-1.0)
    with pytest.raises(UsageError, match="empty"):
        model.generate("Ada", stop="")


def test_the_compiled_decoder_is_made_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def choose(gpt: GPT, n_steps: int) -> Decoding:
        asked.append(n_steps)
        return Decoding(gpt)

    monkeypatch.setattr(trained_model, "choose_decoding", choose)
    own = Model(model.path, model.config, model.model, model.tokenizer, model.manifest)
    own.generate("Ada", max_new_tokens=2)
    assert asked == [2], "the choice is that of the command line"


# -- Surprisal


def test_scores_are_those_of_inspect(model: Model, gptlite: Command, trained_run: Path) -> None:
    text = "Ada finds the bank and the river ."
    one, other = model.score([text, "the"], top=2)
    printed = json.loads(gptlite("inspect", "-m", trained_run, text, "--json").out)
    assert one.surprisal.sum() == pytest.approx(sum(token["surprisal_bits"] for token in printed["tokens"]), abs=1e-3)
    assert one.top.shape == (len(one.ids), 2) and other.text == "the"
    assert [word.text for word in one.words] == text.split()
    assert sum(word.surprisal for word in one.words) == pytest.approx(float(one.surprisal.sum()), abs=1e-3)
    assert model.score("the")[0].surprisal == pytest.approx(other.surprisal, abs=1e-5)


def test_bits_per_byte_are_those_of_eval(model: Model, gptlite: Command, trained_run: Path, tmp_path: Path) -> None:
    text = "Ada finds the bank and the river .\n" * 20
    (tmp_path / "text.txt").write_text(text)
    printed = json.loads(gptlite("eval", tmp_path / "text.txt", "-m", trained_run, "--json").out)
    assert model.bits_per_byte(text) == pytest.approx(printed["bits_per_byte"], abs=1e-4)
    (read,) = model.score(text)
    assert model.bits_per_byte(text) == pytest.approx(float(read.surprisal.sum()) / len(text), abs=1e-4)
    assert math.isfinite(model.bits_per_byte("\u00e9"))
    with pytest.raises(UsageError, match="empty"):
        model.bits_per_byte("")


# -- Vectors


def test_threads_may_share_a_model(model: Model) -> None:
    expected = [model.embed(BANKS, layer=layer).vectors for layer in ("0", "1", "last", "mid")]
    barrier = threading.Barrier(4)

    def work(i: int) -> bool:
        barrier.wait()
        layer = ("0", "1", "last", "mid")[i]
        return all(np.allclose(model.embed(BANKS, layer=layer).vectors, expected[i], atol=1e-5) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


@pytest.mark.parametrize("layer", ["last", "mid", "0", "1-2"])
def test_it_says_what_the_command_line_says(model: Model, gptlite: Command, trained_run: Path, layer: str) -> None:
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


def test_arrays_have_the_documented_shapes(model: Model) -> None:
    e = model.embed(BANKS, layer="mid")
    assert (e.vectors.shape, e.vectors.dtype) == ((2, 32), np.float32)
    assert (e.static.shape, e.static.dtype) == ((2, 32), np.float32)
    assert np.array_equal(e.static[0], model.static("bank")) and np.array_equal(*e.static)
    assert [v.contextual.shape for v in e.items] == [(2, 32)] * 2
    assert [v.contextual.shape for v in model.embed(BANKS, layer="all").items] == [(3, 32)] * 2
    assert [
        v.occurrence.word for v in model.embed([t.replace("[", "").replace("]", "") for t in BANKS], "the").items
    ] == ["the"] * 4


def test_sentences_are_embedded_as_the_command_does(model: Model, gptlite: Command, trained_run: Path) -> None:
    texts = ["Ada finds the bank .", "Bela paints the song ."]
    e = model.embed(texts, sentence=True)
    printed = json.loads(gptlite("embed", "-m", trained_run, "--sentence", *texts, "--json").out)
    assert e.unit == "sentence" and np.allclose(e.cosine(), printed["contextual"], atol=1e-5)
    assert e.scale() == printed["scale"]
    with pytest.raises(UsageError, match="`sentence`"):
        model.embed(texts, "bank", sentence=True)


def test_vectors_are_saved(model: Model, tmp_path: Path) -> None:
    e = model.embed(BANKS, pool="mean")
    e.save(tmp_path / "v.npz")
    with np.load(tmp_path / "v.npz", allow_pickle=False) as file:
        assert np.array_equal(file["vectors"], e.vectors)
        assert json.loads(str(file["meta"]))["pool"] == "mean"


def test_hidden_states_come_with_their_characters(model: Model) -> None:
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


def test_what_cannot_be_done_is_said(model: Model) -> None:
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


def test_the_package_lists_its_public_names() -> None:
    assert dir(library) == library.__all__
    assert {"Model", "ModelConfig", "SamplingConfig", "TrainConfig", "load", "train"} < set(dir(library))
    for name in library.__all__:
        assert getattr(library, name) is not None


def test_importing_the_package_is_quick() -> None:
    code = "import gptlite, sys; assert not {'torch', 'numpy', 'gptlite.trained_model'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

"""The scale of vectors that know both sides: its words are found in tokens, and its cosines are those of `embed`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_text, random_model, tiny_config

from gptlite.checkpoint.word_vectors import SavedWords
from gptlite.embedding import both_sides_scale
from gptlite.embedding.both_sides import ContextBags, join
from gptlite.embedding.both_sides_scale import Place, find_places, measure_scale
from gptlite.embedding.contextual import BEFORE, embed
from gptlite.embedding.similarity import unit
from gptlite.embedding.statistics import measure_statistics
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import Occurrence
from gptlite.tracing import trace


@pytest.fixture(scope="module")
def bags() -> ContextBags:
    words = sorted(set(make_text().casefold().replace(".", " ").split()))
    vectors = np.random.default_rng(0).normal(size=(len(words), 8)).astype(np.float32)
    return ContextBags(SavedWords(words, np.full(len(words), 10), vectors))


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    return random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size, context_length=64))


def test_words_are_found_with_their_tokens_and_sentences(tokenizer: Tokenizer) -> None:
    text = "\nAda finds the river. Bela löst 河岸 today .\nx harbour"
    ids = tokenizer.encode(text)
    places = find_places(tokenizer, np.array([ids]))
    assert [p.word for p in places] == ["Ada", "finds", "the", "river", "Bela", "löst", "河", "岸", "today", "x"]
    assert [p.sentence for p in places] == [1] * 4 + [2] * 5 + [3]
    for p in places:
        assert tokenizer.decode(ids[p.first : p.last + 1]).strip(" .") == p.word


def test_documents_part_words_and_sentences(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("x the river"), tokenizer.separator_id, *tokenizer.encode("bank the end")]
    places = find_places(tokenizer, np.array([ids, ids]))
    assert [(p.word, p.window, p.sentence) for p in places] == [
        ("the", 0, 0), ("river", 0, 0), ("bank", 0, 1), ("the", 0, 1), ("the", 1, 2), ("river", 1, 2), ("bank", 1, 3),
        ("the", 1, 3),
    ]  # fmt: skip


def test_windows_without_words_have_no_places(tokenizer: Tokenizer) -> None:
    assert find_places(tokenizer, np.array([tokenizer.encode(". , . . ! ...")])) == []


def test_cosines_are_those_of_vectors_that_embed_makes(
    model: GPT, tokenizer: Tokenizer, bags: ContextBags, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(both_sides_scale, "FEWEST_PAIRS", 5)  # the text has 22 words
    lines = make_text(120, seed=3).splitlines()
    texts = [f"\n{line}" for line in lines if len(tokenizer.encode(f"\n{line}")) == 16][:40]
    windows = np.array([tokenizer.encode(text) for text in texts])
    places = find_places(tokenizer, windows)
    words = [Occurrence(p.window, texts[p.window], *span_of(tokenizer, windows, p)) for p in places]
    states, before = (embed(model, tokenizer, words, pool=pool, prefix=[], n_expected=0) for pool in ("last", BEFORE))
    space = {"mean": np.zeros(model.config.dim), "std": np.ones(model.config.dim)}
    around = bags.vectors([without_edges(p, places) for p in places])
    vectors = unit(join(*(np.stack([v.contextual[-1] for v in some]) for some in (states, before)), around, space))

    hidden = torch.stack(trace(model, torch.from_numpy(windows), head=False).hidden).flatten(1, 2).numpy()
    rows = np.arange(windows.size).reshape(windows.shape)
    measured = measure_scale(places, hidden, rows, [space] * len(hidden), bags)
    assert set(measured) == {"around_unrelated", "around_same_word"}
    possible = vectors @ vectors.T
    for name, same in (("around_unrelated", False), ("around_same_word", True)):
        allowed = [
            possible[i, j]
            for i, a in enumerate(places)
            for j, b in enumerate(places)
            if i != j and a.sentence != b.sentence and (a.word == b.word) == same
        ]
        distances = np.abs(measured[name][-1][:, None] - np.array(allowed)).min(axis=1)
        assert len(distances) >= 5 and distances.max() < 1e-4


def span_of(tokenizer: Tokenizer, windows: np.ndarray, p: Place) -> tuple[int, int]:
    end = len(tokenizer.decode(windows[p.window][: p.last + 1].tolist()).rstrip())
    return end - len(p.word), end


def without_edges(p: Place, places: list[Place]) -> Occurrence:
    """The place in a text of those words alone that `find_places` found in its window."""
    mine = [other for other in places if other.window == p.window]
    start = sum(len(other.word) + 1 for other in mine[: mine.index(p)])
    return Occurrence(p.window, " ".join(other.word for other in mine), start, start + len(p.word))


def test_a_step_has_the_scale_where_it_has_bags(model: GPT, tokenizer: Tokenizer, bags: ContextBags) -> None:
    ids = np.array(tokenizer.encode(make_text(300, seed=2)))
    measured = measure_statistics(model, tokenizer, ids, bags=bags)
    rows = model.config.n_layers + 1
    for name in ("around_unrelated", "around_same_word"):
        assert measured[name].shape == (rows, 2) and measured[f"{name}_quantiles"].shape == (rows, 101)
    assert "around_unrelated" not in measure_statistics(model, tokenizer, ids)
    assert "around_unrelated" not in measure_statistics(model, tokenizer, ids[:60], bags=bags), "too few pairs"

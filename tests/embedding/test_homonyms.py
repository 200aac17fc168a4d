"""Does context do what is claimed of it? On sentences whose senses are known, with every control beside it.

Scores are `senses.separate`, the mean of the six homonyms: 1 where any two speakers who mean the same are closer than
any two who do not, 0.5 for chance. Sentences that are scored were never trained on, and the noun stands in the middle
of a line of its own.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, random_model, tiny_config
from support.measurements import measure_all

from gptlite.checkpoint import runs
from gptlite.checkpoint.saved_step import Checkpoint, read_embedding_statistics
from gptlite.embedding import contextual
from gptlite.embedding.layerwise import untrained_model
from gptlite.embedding.senses import separate
from gptlite.embedding.similarity import correct, cosine_matrix, unit
from gptlite.text import demo
from gptlite.text.demo import HOMONYMS, SPEAKERS, TWINS, Sentence, as_text, make_sentence, make_sentences
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import Occurrence
from gptlite.training import pipeline

TRAINED_ON = make_sentences(demo.N_SENTENCES, 0)
READ = {s.text for s in TRAINED_ON}
HELD_OUT = [s for s in make_sentences(1600, 1) if s.text not in READ]
LEFT = [s for s in HELD_OUT if s.left_cue]


def places(sentences: list[Sentence]) -> list[Occurrence]:
    return [Occurrence(i, s.text, s.start, s.end) for i, s in enumerate(sentences)]


def scores(vectors: np.ndarray, sentences: list[Sentence], *, sorted_as: dict[str, str] | None = None) -> np.ndarray:
    """(6,): each homonym's separation; `sorted_as` another one's senses tells how speakers are grouped instead."""
    found = []
    for noun in HOMONYMS:
        rows = [i for i, s in enumerate(sentences) if s.noun == noun]
        labels = [demo.sense_of((sorted_as or {}).get(noun, noun), sentences[i].speaker) for i in rows]
        found.append(separate(vectors[rows], np.array(labels), np.array([sentences[i].speaker for i in rows])))
    return np.array(found)


@dataclass(frozen=True)
class Learned:
    """A trained model, what it lost on held-out text beyond what anyone must lose, and the work it all took."""

    loaded: Checkpoint
    excess: float  # nats a token
    seconds: float  # of one core

    def vectors(self, sentences: list[Sentence], layer: int = -1, pool: str = "last") -> np.ndarray:
        """Contextual vectors of the nouns, corrected as the command corrects them."""
        statistics = read_embedding_statistics(self.loaded)
        assert statistics is not None
        embedded = contextual.embed(self.loaded.model, self.loaded.tokenizer, places(sentences), pool=pool)
        space = {name: statistics[name][layer].numpy() for name in ("mean", "std", "components")}
        return correct(np.stack([v.contextual[layer] for v in embedded]), "zscore", space)


def learn(folder: Path, seed: int = 1, **settings: int) -> Learned:
    started = time.process_time()
    (folder / "train.txt").write_text(as_text(TRAINED_ON))
    (folder / "val.txt").write_text(as_text(HELD_OUT))
    seldom = {"eval_every": 1000, "save_every": 1000}
    request = {**demo.SHAPE, **demo.TRAINING, **seldom, **settings}
    result = pipeline.train(
        str(folder / "train.txt"), val=str(folder / "val.txt"), out=folder / "run", seed=seed, **request
    )
    loaded = runs.load(folder / "run")
    n_tokens = sum(map(len, loaded.tokenizer.encode_batch([f"{s.text}\n" for s in HELD_OUT])))
    floor = sum(s.surprisal for s in HELD_OUT) / n_tokens
    return Learned(loaded, result["val_loss_nats"] - floor, time.process_time() - started)


# -- With random weights: what is true whatever was learned


@pytest.fixture(scope="module")
def words_tokenizer() -> Tokenizer:
    return Tokenizer.train([as_text(TRAINED_ON)], 512)


def test_static_vectors_cannot_tell_senses_apart(words_tokenizer: Tokenizer) -> None:
    """S3"""
    model = random_model(tiny_config("qwen3", vocab_size=words_tokenizer.vocab_size, context_length=64))
    few = LEFT[:60]
    static = np.stack([v.static for v in contextual.embed(model, words_tokenizer, places(few))])
    for noun in {s.noun for s in few}:
        same = static[[s.noun == noun for s in few]]
        assert np.abs(same - same[0]).max() == 0
    assert scores(np.stack([contextual.static_vector(model, words_tokenizer, s.noun) for s in LEFT]), LEFT) == (
        pytest.approx(np.full(6, 0.5), abs=0)
    )


def test_a_speaker_who_comes_after_the_noun_changes_nothing(words_tokenizer: Tokenizer) -> None:
    """S6"""
    model = random_model(tiny_config("qwen3", vocab_size=words_tokenizer.vocab_size, context_length=64))
    for noun in HOMONYMS:
        said = [make_sentence(noun, who, left_cue=False, rng=random.Random(4)) for who in SPEAKERS]
        assert len({s.text[: s.end] for s in said}) == 1 and len({s.text for s in said}) == 4
        vectors = np.stack([v.contextual for v in contextual.embed(model, words_tokenizer, places(said))])
        assert np.abs(vectors - vectors[0]).max() <= 1e-5


def test_untrained_weights_score_chance(words_tokenizer: Tokenizer) -> None:
    """S4: context goes into the vectors of an untrained model too, but not in the order of the senses."""
    config = tiny_config("qwen3", vocab_size=words_tokenizer.vocab_size, context_length=64)
    model = untrained_model(config)
    few = LEFT[:500]
    embedded = np.stack([v.contextual[-1] for v in contextual.embed(model, words_tokenizer, places(few))])
    assert 0.4 <= scores(embedded, few).mean() <= 0.6
    assert cosine_matrix(embedded).min() < 0.9, "they are contextual vectors"


# -- Trained


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    folder = tmp_path_factory.mktemp("homonyms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTLITE_CACHE", str(folder / "cache"))
        measure_all(patch)
        return learn(folder, steps=120)


def check_senses(learned: Learned) -> None:
    """S1, S2 and S5 of one model."""
    assert learned.excess <= 0.05, "S1: it has learned the language"
    vectors = learned.vectors(LEFT)
    found = scores(vectors, LEFT)
    assert found.mean() >= 0.95 and found.min() >= 0.85, f"S2: {found}"
    assert twins_found(vectors) >= 0.90, "S2"
    halves: dict[frozenset[str], list[str]] = {}
    for noun, (half, _) in HOMONYMS.items():
        halves.setdefault(frozenset(half if "Anna" in half else set(SPEAKERS) - set(half)), []).append(noun)
    kinds = list(halves.values())
    other = {noun: kinds[(i + 1) % 3][0] for i, kind in enumerate(kinds) for noun in kind}
    assert scores(vectors, LEFT, sorted_as=other).mean() <= 0.35, "S5: and not just any two groups of speakers"


def twins_found(vectors: np.ndarray) -> float:
    """How often a homonym is nearer to the twins of its sense, said by others, than to those of its other sense."""
    right = []
    points = unit(vectors)
    for i, sentence in enumerate(LEFT):
        if sentence.noun not in HOMONYMS:
            continue
        nearness = {}
        for sense in HOMONYMS[sentence.noun][1]:
            twins = [j for j, s in enumerate(LEFT) if s.noun in TWINS[sense] and s.speaker != sentence.speaker]
            nearness[sense] = points[i] @ unit(points[twins].mean(axis=0))
        right.append(max(nearness, key=lambda sense: nearness[sense]) == sentence.sense)
    return float(np.mean(right))


def test_contextual_vectors_tell_senses_apart(learned: Learned) -> None:
    check_senses(learned)
    assert learned.seconds < 60, "S9, even on one core"


def test_only_what_was_read_counts(learned: Learned) -> None:
    """S6, trained: where the speaker comes after the noun, a vector cannot know, and does not."""
    right = [make_sentence(noun, who, left_cue=False, rng=random.Random(i)) for noun in HOMONYMS
             for i in range(8) for who in SPEAKERS]  # fmt: skip
    assert scores(learned.vectors(right).round(4), right) == pytest.approx(np.full(6, 0.5), abs=0.05)


def test_the_command_shows_who_means_the_same(learned: Learned, gptlite: Command) -> None:
    """S8: Anna and Ben mean the water's bank, Cara and Dan the money's."""
    texts = [f"{who} says the [bank] ." for who in SPEAKERS]
    shown = json.loads(gptlite("embed", "-m", learned.loaded.path, *texts, "--layer", "last", "--json").out)
    cosines = np.array(shown["contextual"])
    same = [cosines[0, 1], cosines[2, 3]]
    different = [cosines[i, j] for i in (0, 1) for j in (2, 3)]
    assert min(same) > max(different) + 0.2
    assert np.allclose(shown["static"], 1.0, atol=1e-5)


@pytest.mark.parametrize("noun", ["bank", "bat", "shore"])
def test_a_concordance_sorts_places_by_sense(learned: Learned, gptlite: Command, noun: str) -> None:
    """Words of two senses in two groups, each with its own speakers; of a word with one sense there is no split."""
    Path("lines.txt").write_text("".join(f"{s.text}\n" for s in LEFT))
    arguments = ("concordance", "-m", learned.loaded.path, "--layer", "last", noun, "lines.txt", "--senses", 2)
    result = json.loads(gptlite(*arguments, "--limit", 1000, "--json").out)
    assert result["clear"] == (noun in HOMONYMS)
    if result["clear"]:
        found = {(line["sense"], LEFT[line["text_index"]].sense) for line in result["lines"]}
        assert len(found) == 2, "each group is one sense"
        said_by = [set(group["around"]) & {who.lower() for who in SPEAKERS} for group in result["groups"]]
        assert [len(group) for group in said_by] == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_any_seed_learns_the_senses(tmp_path: Path, seed: int) -> None:
    check_senses(learn(tmp_path, seed))


@pytest.mark.slow
def test_a_word_of_several_tokens_is_known_at_its_last(tmp_path: Path) -> None:
    """S7"""
    learned = learn(tmp_path, vocab_size=300, steps=1000)
    assert len(learned.loaded.tokenizer.encode(" bank")) > 1
    last, first = (scores(learned.vectors(LEFT, pool=pool), LEFT).mean() for pool in ("last", "first"))
    assert last >= 0.90 and last - first >= 0.15

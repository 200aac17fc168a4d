"""The built-in texts. In the made-up language the senses are known: noun and speaker together tell them."""

from __future__ import annotations

import itertools
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gptlite.embedding.senses import separate
from gptlite.errors import CorpusError
from gptlite.text.corpus import open_text
from gptlite.text.demo import (
    FILLERS,
    HOMONYMS,
    LEFT_CUE,
    NOUNS,
    OBJECTS,
    SPEAKERS,
    TWINS,
    VERBS,
    Sentence,
    as_text,
    demo_text,
    make_sentences,
    sense_of,
)

SENTENCES = make_sentences(2000, seed=0)


def mean_separation(vectors: np.ndarray, sentences: list[Sentence]) -> list[float]:
    """The separation of each homonym's senses by `vectors`, one a sentence."""
    scores = []
    for noun in HOMONYMS:
        of_noun = [i for i, sentence in enumerate(sentences) if sentence.noun == noun]
        senses = np.array([sentences[i].sense for i in of_noun])
        scores.append(separate(vectors[of_noun], senses, np.array([sentences[i].speaker for i in of_noun])))
    return scores


def test_a_seed_is_a_text() -> None:
    assert make_sentences(50, seed=3) == make_sentences(50, seed=3) != make_sentences(50, seed=4)
    assert as_text(SENTENCES).count("\n") == len(SENTENCES)


def test_the_noun_stands_where_it_is_said_to_be() -> None:
    for sentence in SENTENCES:
        assert sentence.text[sentence.start : sentence.end] == sentence.noun
        assert sentence.text[: sentence.start].split()[-1] == "the"
        assert (sentence.speaker in sentence.text[: sentence.start]) == sentence.left_cue


def test_verb_and_object_follow_the_sense() -> None:
    for sentence in SENTENCES:
        words = sentence.text.split()
        assert sentence.sense == sense_of(sentence.noun, sentence.speaker)
        assert words[-4] in VERBS[sentence.sense] and words[-2] in OBJECTS[sentence.sense]


def test_no_word_has_two_roles() -> None:
    words = [*SPEAKERS, *FILLERS, *NOUNS, "says", "said", "the", *itertools.chain(*VERBS.values(), *OBJECTS.values())]
    assert len(words) == len(set(words)) == 51


def test_each_pair_of_senses_is_a_homonym() -> None:
    assert {frozenset(senses) for _, senses in HOMONYMS.values()} == set(
        map(frozenset, itertools.combinations(TWINS, 2))
    )


def test_any_two_speakers_agree_on_two_homonyms_of_six() -> None:
    for one, other in itertools.combinations(SPEAKERS, 2):
        assert sum(sense_of(noun, one) == sense_of(noun, other) for noun in HOMONYMS) == 2


def test_a_speaker_tells_next_to_nothing_about_the_sense() -> None:
    joint: Counter[tuple[str, str]] = Counter()
    for speaker, (noun, weight) in itertools.product(SPEAKERS, NOUNS.items()):
        joint[speaker, sense_of(noun, speaker)] += weight
    total = joint.total()
    information = sum(n / total * math.log2(n / total * len(SPEAKERS) * len(TWINS)) for n in joint.values())
    assert information < 0.05  # bits, of 2


def test_surprisals_are_those_of_a_distribution() -> None:
    """All sentences together have the probability 1, and the mean is the entropy: the sum of the choices' own."""
    total = entropy = 0.0
    for left_cue, speaker, noun, n_fillers in itertools.product((True, False), SPEAKERS, NOUNS, range(4)):
        surprisal = Sentence("", 0, noun, speaker, sense_of(noun, speaker), left_cue, n_fillers).surprisal
        n_sentences = len(FILLERS) ** n_fillers * 3 * 3  # fillers, verbs, objects
        total += n_sentences * math.exp(-surprisal)
        entropy += n_sentences * math.exp(-surprisal) * surprisal
    assert total == pytest.approx(1)
    cue = -LEFT_CUE * math.log(LEFT_CUE) - (1 - LEFT_CUE) * math.log(1 - LEFT_CUE)
    nouns = -0.6 * math.log(2 / 20) - 0.4 * math.log(1 / 20)
    choices = cue + math.log(4) + nouns + math.log(4) + 1.5 * math.log(6) + 2 * math.log(3)
    assert entropy == pytest.approx(choices) == pytest.approx(10.738, abs=5e-4)
    assert np.mean([sentence.surprisal for sentence in SENTENCES]) == pytest.approx(entropy, abs=0.2)


# What vectors of a single kind of knowledge are worth. Any one noun may be sorted by luck, so the mean of all counts.


def test_vectors_of_the_sense_score_1() -> None:
    vectors = np.eye(4)[[list(TWINS).index(sentence.sense) for sentence in SENTENCES]]
    assert mean_separation(vectors, SENTENCES) == [1.0] * 6


def test_one_vector_for_a_noun_scores_a_half() -> None:
    vectors = np.eye(len(NOUNS))[[list(NOUNS).index(sentence.noun) for sentence in SENTENCES]]
    assert mean_separation(vectors, SENTENCES) == [0.5] * 6


def test_vectors_of_the_speaker_score_a_half_on_average_only() -> None:
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(12):
        of_speaker = rng.standard_normal((len(SPEAKERS), 16))
        vectors = of_speaker[[SPEAKERS.index(sentence.speaker) for sentence in SENTENCES]]
        draws.append(mean_separation(vectors, SENTENCES))
    assert np.abs(np.mean(draws, axis=1) - 0.5).max() < 0.1
    assert np.max(draws) > 0.8 and np.min(draws) < 0.2


def test_vectors_of_the_words_around_score_a_half() -> None:
    vocabulary = sorted({word for sentence in SENTENCES for word in sentence.text[: sentence.start].split()})
    bags = np.array([[s.text[: s.start].split().count(word) for word in vocabulary] for s in SENTENCES], dtype=float)
    assert np.mean(mean_separation(bags, SENTENCES)) == pytest.approx(0.5, abs=0.03)


# The language reference


@pytest.fixture
def topics(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    from pydoc_data import topics as module

    table = {"b": "Second.\n\nShared paragraph.\n", "a": "\nFirst.\n\nShared paragraph.\n\nLast  é.", "c": "  First.  "}
    monkeypatch.setattr(module, "topics", table)
    yield table


def test_the_demo_says_nothing_twice(topics: dict[str, str]) -> None:
    path = demo_text(Path("new/folder"))
    assert path.read_bytes().decode() == "First.\n\nShared paragraph.\n\nLast  é.\n\nSecond.\n"


def test_the_real_demo_is_text_without_repetition(tmp_path: Path) -> None:
    path = demo_text(tmp_path)
    text = open_text([str(path)])
    assert text.n_bytes > 300_000
    paragraphs = [p.strip() for p in "".join(block for _, block in text.blocks()).split("\n\n")]
    assert len(paragraphs) == len(set(paragraphs)) > 1000


def test_the_demo_is_written_once_and_mended(topics: dict[str, str]) -> None:
    path = demo_text(Path("d"))
    os.utime(path, ns=(1, 1))
    assert demo_text(Path("d")).stat().st_mtime_ns == 1
    path.write_text("damaged")
    assert demo_text(Path("d")).read_text(encoding="utf-8").startswith("First.")


def test_a_python_without_topics_has_no_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(CorpusError, match="this Python was packaged without pydoc_data"):
        demo_text(Path("d"))

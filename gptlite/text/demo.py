"""The built-in texts: the language reference inside CPython, and a small made-up language with known senses.

In the made-up language, the text of `gptlite train --demo homonyms`, the sense of every word is known.
Four speakers talk. Six nouns have two senses each, and which one a speaker means is settled, but for every noun the
speakers divide in another way: Anna and Ben mean the "bank" of a river and Cara and Dan that of money, while "pool" is
water to Anna and Cara and a sport to Ben and Dan. So neither the speaker alone nor the noun alone tells the sense, only
both together. A vector that holds just the topic, the speaker, the place in the sentence or the words nearby sorts some
nouns by luck and others the wrong way round; averaged over all six it does no better than a coin. To sort them all, a
model must combine noun and speaker: that is what a contextual vector claims to do and a static one cannot.

    left cue (80 %)     Ben says often the bank flooded the reeds .     the speaker is known when the noun comes
    right cue (20 %)    often the bank said Ben flooded the reeds .     a model that reads left to right cannot know yet

Verb and object follow the sense, so that there is a reason to learn it. The word before a noun is always "the", and
up to three fillers keep the distance from speaker to noun from telling anything.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlite.errors import CorpusError

SPEAKERS = ("Anna", "Ben", "Cara", "Dan")
FILLERS = ("that", "often", "today", "perhaps", "again", "then")
MOST_FILLERS = 3
LEFT_CUE = 0.8  # share of the sentences
N_SENTENCES = 6000  # of the demonstration, 0.28 MB

# What suffices to learn it in half a minute on two cores. A 5-gram sees no speaker, so its probabilities would teach
# the model to look no further either.
SHAPE = {"n_layers": 2, "dim": 64, "n_heads": 4, "context_length": 64}
TRAINING: dict[str, Any] = {"steps": 200, "batch_size": 32, "ngram_weight": 0.0}

# The senses, each with words that have no other: two nouns (twins of the homonyms), three verbs, three objects.
TWINS = {
    "water": ("shore", "stream"), "money": ("loan", "account"), "animal": ("heron", "badger"),
    "sport": ("racket", "stadium"),
}  # fmt: skip
VERBS = {
    "water": ("flooded", "soaked", "carried"), "money": ("financed", "repaid", "taxed"),
    "animal": ("chased", "sniffed", "bit"), "sport": ("hosted", "missed", "struck"),
}  # fmt: skip
OBJECTS = {
    "water": ("reeds", "pebbles", "ferry"), "money": ("debt", "savings", "invoice"),
    "animal": ("mouse", "nest", "burrow"), "sport": ("ball", "match", "goal"),
}  # fmt: skip

# Every pair of senses is one noun's. The first two speakers named mean the first sense, the others the second: each of
# the three ways to halve the speakers serves two nouns, and of all such tables this one lets a speaker tell the least
# about the sense (0.04 bits).
HOMONYMS = {
    "bank": (("Anna", "Ben"), ("water", "money")),
    "perch": (("Cara", "Dan"), ("water", "animal")),
    "pool": (("Anna", "Cara"), ("water", "sport")),
    "buck": (("Anna", "Dan"), ("money", "animal")),
    "net": (("Ben", "Dan"), ("money", "sport")),
    "bat": (("Anna", "Dan"), ("animal", "sport")),
}
NOUNS = {**dict.fromkeys(HOMONYMS, 2), **{noun: 1 for twins in TWINS.values() for noun in twins}}  # and their weights


@dataclass(frozen=True)
class Sentence:
    """One sentence, and what is true of it: its noun at the characters [start, end), whose it is, in which sense."""

    text: str
    start: int
    noun: str
    speaker: str
    sense: str
    left_cue: bool
    n_fillers: int

    @property
    def end(self) -> int:
        return self.start + len(self.noun)

    @property
    def surprisal(self) -> float:
        """-ln p in nats: what the best possible model loses on this sentence, its line break included."""
        p = LEFT_CUE if self.left_cue else 1 - LEFT_CUE
        p *= NOUNS[self.noun] / sum(NOUNS.values()) / len(SPEAKERS)
        p /= (MOST_FILLERS + 1) * len(FILLERS) ** self.n_fillers
        return -math.log(p / len(VERBS[self.sense]) / len(OBJECTS[self.sense]))


def sense_of(noun: str, speaker: str) -> str:
    """What a speaker means by a noun."""
    if noun in HOMONYMS:
        speakers, senses = HOMONYMS[noun]
        return senses[0] if speaker in speakers else senses[1]
    return next(sense for sense, twins in TWINS.items() if noun in twins)


def make_sentence(noun: str, speaker: str, *, left_cue: bool, rng: random.Random) -> Sentence:
    """A sentence about `noun`; fillers, verb and object are drawn with `rng`."""
    sense = sense_of(noun, speaker)
    fillers = rng.choices(FILLERS, k=rng.randint(0, MOST_FILLERS))
    ending = f"{rng.choice(VERBS[sense])} the {rng.choice(OBJECTS[sense])} ."
    before = " ".join([speaker, "says", *fillers, "the "] if left_cue else [*fillers, "the "])
    after = f" {ending}" if left_cue else f" said {speaker} {ending}"
    return Sentence(before + noun + after, len(before), noun, speaker, sense, left_cue, len(fillers))


def make_sentences(n: int, seed: int) -> list[Sentence]:
    """n sentences, drawn independently; the same ones for the same seed."""
    rng = random.Random(seed)
    nouns, weights = list(NOUNS), list(NOUNS.values())
    return [
        make_sentence(
            rng.choices(nouns, weights)[0], rng.choice(SPEAKERS), left_cue=rng.random() < LEFT_CUE, rng=rng
        )
        for _ in range(n)
    ]  # fmt: skip


def as_text(sentences: Iterable[Sentence]) -> str:
    """One sentence a line."""
    return "".join(f"{sentence.text}\n" for sentence in sentences)


def demo_text(directory: Path, homonyms: bool = False) -> Path:
    """A file with the language reference that ships inside CPython, about 0.4 MB of English prose about Python.

    Paragraphs that the reference repeats are written once, so that none is both trained on and held out.
    - `homonyms`: a file with sentences of the made-up language instead.
    """
    content = as_text(make_sentences(N_SENTENCES, 0)) if homonyms else _python_reference()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ("homonyms.txt" if homonyms else "python-reference.txt")
    if not path.is_file() or path.read_text(encoding="utf-8") != content:
        path.write_text(content, encoding="utf-8", newline="\n")
    return path


def _python_reference() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise CorpusError(
            "this Python was packaged without pydoc_data, its language reference; give a text file of your own instead."
        ) from error
    seen: set[str] = set()
    paragraphs: list[str] = []
    for topic in sorted(topics):
        for paragraph in topics[topic].strip().split("\n\n"):
            if paragraph.strip() not in seen:
                seen.add(paragraph.strip())
                paragraphs.append(paragraph)
    return "\n\n".join(paragraphs) + "\n"

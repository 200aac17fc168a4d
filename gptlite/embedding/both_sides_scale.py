"""What cosines of vectors that know both sides are worth: those of two unrelated words, and of one word in two places.

Each word's bag is of its own sentence, because sentences are what such vectors are mostly asked about.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gptlite.embedding.both_sides import ContextBags, join
from gptlite.embedding.context_encoder import ContextEncoder
from gptlite.embedding.similarity import unit
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import SENTENCE_END, UNSPACED, word_pattern

N_PAIRS, FEWEST_PAIRS = 1000, 20
N_PLACES = 500  # that unrelated pairs are made of


class Place(NamedTuple):
    """A word in a window of tokens: the positions of its first and last token there, and the number of its sentence."""

    word: str
    window: int
    first: int
    last: int
    sentence: int


def find_places(tokenizer: Tokenizer, windows: np.ndarray) -> list[Place]:
    """The words of windows of tokens (n, T) that have a token before them, without those that an edge may cut."""
    places: list[Place] = []
    sentence = 0
    for number, ids in enumerate(windows.tolist()):
        spelled = [tokenizer.token_bytes[i] or b"\n" for i in ids]  # a token without text parts documents
        text = b"".join(spelled).decode("utf-8", "surrogateescape")
        ends = np.cumsum([len(token) for token in spelled])
        breaks = [match.end() for match in SENTENCE_END.finditer(text)]
        found = [span for span in _word_spans(text) if span[0] > 0 and span[1] < len(text)]
        spans = np.array(found, dtype=np.int64).reshape(-1, 2)
        at = _bytes_before(text)
        firsts = np.searchsorted(ends, at[spans[:, 0]], "right").tolist()
        lasts = np.searchsorted(ends, at[spans[:, 1]] - 1, "right").tolist()
        for (start, end), first, last in zip(spans.tolist(), firsts, lasts, strict=True):
            if first > 0:
                places.append(Place(text[start:end], number, first, last, sentence + bisect_right(breaks, start)))
        sentence += len(breaks) + 1
    return places


def _word_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where the words of a text are; in scripts without spaces each character is one."""
    for match in word_pattern().finditer(text):
        if UNSPACED.search(match[0]):
            yield from ((i, i + 1) for i in range(*match.span()))
        else:
            yield match.span()


def _bytes_before(text: str) -> np.ndarray:
    """(len(text) + 1,): how many bytes of UTF-8 stand before each character, and in all."""
    if text.isascii():
        return np.arange(len(text) + 1)
    return np.cumsum([0, *(len(c.encode("utf-8", "surrogateescape")) for c in text)])


def measure_scale(
    places: Sequence[Place],
    states: np.ndarray,
    rows: np.ndarray,
    spaces: Sequence[Mapping[str, np.ndarray]],
    bags: ContextBags,
    encoder: ContextEncoder | None = None,
    after: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Cosines of pairs of both-sides vectors, at each of L + 1 layers; nothing where there are too few pairs.

    - `states`: (L + 1, N, D); `rows` (n, T): the row of `states` of each token of the windows, -1 for those left out.
    - `spaces`: `mean` and `std` (D,) of each layer.
    - `encoder`: whose vectors are a part of them, with the states `after` (n, T, D) of its backward model.
    Returns `around_unrelated` and `around_same_word`, the cosines (L + 1, n) of pairs.
    """
    kept = [p for p in places if rows[p.window, p.last] >= 0 and rows[p.window, p.first - 1] >= 0]
    pairs = {"around_unrelated": _unrelated(kept), "around_same_word": _same_word(kept)}
    if any(len(chosen) < FEWEST_PAIRS for chosen in pairs.values()):
        return {}
    sentences: dict[int, list[str]] = {}
    for place in kept:
        sentences.setdefault(place.sentence, []).append(place.word.casefold())
    used, numbers = np.unique(np.concatenate(list(pairs.values())), return_inverse=True)
    renumbered = np.split(numbers.reshape(-1, 2), [len(pairs["around_unrelated"])])
    at = np.array([rows[kept[i].window, kept[i].last] for i in used])
    before = np.array([rows[kept[i].window, kept[i].first - 1] for i in used])
    around, encoded = bags.of_words(list(sentences.values()))[used], None  # in the order of `kept`
    if encoder is not None and after is not None:
        right = np.stack([after[kept[i].window, kept[i].last + 1] for i in used])
        words = bags.numbers(kept[i].word for i in used)
        encoded = encoder.encode(states[-1][before], right, around, words)
    cosines: dict[str, list[np.ndarray]] = {name: [] for name in pairs}
    for of_layer, space in zip(states, spaces, strict=True):
        vectors = unit(join(of_layer[at], of_layer[before], around, space, encoded))
        for name, chosen in zip(pairs, renumbered, strict=True):
            cosines[name].append(np.einsum("nd,nd->n", vectors[chosen[:, 0]], vectors[chosen[:, 1]]))
    return {name: np.stack(each) for name, each in cosines.items()}


def _unrelated(places: Sequence[Place]) -> np.ndarray:
    """Up to 1,000 pairs (n, 2) of places of different words, in different sentences."""
    rng = np.random.default_rng(0)
    some = rng.permutation(len(places))[:N_PLACES]
    drawn = some[rng.integers(max(1, len(some)), size=(N_PAIRS if len(some) else 0, 2))].tolist()
    apart = [
        (i, j)
        for i, j in drawn
        if places[i].sentence != places[j].sentence and places[i].word.casefold() != places[j].word.casefold()
    ]
    return np.array(apart, dtype=np.int64).reshape(-1, 2)


def _same_word(places: Sequence[Place]) -> np.ndarray:
    """One pair (n, 2) of places for each word that stands in two sentences, of different windows where it can be."""
    of_word: dict[str, list[int]] = {}
    for i in np.random.default_rng(0).permutation(len(places)).tolist():
        of_word.setdefault(places[i].word, []).append(i)
    pairs: list[tuple[int, int]] = []
    for first, *others in of_word.values():
        here = places[first]
        others = [i for i in others if places[i].sentence != here.sentence]
        others.sort(key=lambda i, window=here.window: places[i].window == window)
        pairs += [(first, others[0])] if others else []
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)

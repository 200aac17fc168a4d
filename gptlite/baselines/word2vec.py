"""Skip-gram vectors (Mikolov et al. 2013) of a text, trained by gensim: what Word2Vec makes of the same words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec

import numpy as np

from gptlite.distribution import install_hint
from gptlite.errors import CorpusError, UsageError, plural
from gptlite.text.words import word_pattern

LONGEST_SENTENCE = 1000  # words; gensim silently drops what comes after 10,000
DIM, WINDOW, MIN_COUNT = 100, 5, 5


def check_gensim() -> None:
    """Raises `UsageError` where gensim is not installed."""
    if find_spec("gensim") is None:
        raise UsageError(f"Word2Vec needs the package gensim; install it: {install_hint('word2vec')}.")


def train_word2vec(
    text_blocks: Iterable[str],
    *,
    epochs: int = 5,
    dim: int = DIM,
    window: int = WINDOW,
    min_count: int = MIN_COUNT,
    seed: int = 1,
) -> tuple[list[str], np.ndarray]:
    """Words, most frequent first, and their vectors (n, dim) float32; the same ones for the same arguments.

    - `text_blocks`: text in pieces of any length that end between words; a line is a sentence.
    - `min_count`: rarer words have no vector, and are left out of the sentences.
    Raises `UsageError` without gensim, `CorpusError` for a text in which no word is frequent enough.
    """
    check_gensim()
    from gensim.models import Word2Vec

    sentences = [sentence for block in text_blocks for sentence in split_sentences(block)]
    # One worker: with more of them, which one comes first decides what is learned.
    model = Word2Vec(vector_size=dim, window=window, min_count=min_count, sg=1, workers=1, seed=seed, epochs=epochs)
    model.build_vocab(sentences)
    if not len(model.wv):
        raise CorpusError(f"no word stands {plural(min_count, 'time')} in the text, too few to learn vectors from.")
    model.train(sentences, total_examples=model.corpus_count, epochs=epochs)
    return [str(word) for word in model.wv.index_to_key], np.asarray(model.wv.vectors, dtype=np.float32)


def split_sentences(block: str) -> Iterator[list[str]]:
    """The words of each line, as `calibration.count_words` counts them; long lines in parts."""
    pattern = word_pattern()
    for line in block.splitlines():
        words = pattern.findall(line)
        for first in range(0, len(words), LONGEST_SENTENCE):
            yield words[first : first + LONGEST_SENTENCE]

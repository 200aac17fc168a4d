"""Which static vectors agree with human judgements of similarity? Every variant, and skip-gram on the same text.

    gptlite train TEXT.txt --time 10m -o RUN
    python benchmarks/similarity.py RUN TEXT.txt PAIRS.tsv

Spearman's rank correlation over the pairs whose words both stand at least 20 times in the text, with a 95 % interval
from 2,000 bootstrap samples of the pairs. The skip-gram vectors are gensim's: 100 dimensions, window 5.
"""

from __future__ import annotations

import argparse
import datetime
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from gptlite import averages, runs
from gptlite.embedding import static_vector
from gptlite.similarity import correct, measure, unit
from gptlite.words import word_pattern

FEWEST = 20
BLOCK = 500_000  # characters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("text")
    parser.add_argument("pairs")
    options = parser.parse_args()
    text = Path(options.text).read_text(encoding="utf-8")
    began = time.monotonic()
    loaded = runs.load(options.run)
    blocks = [text[i : i + BLOCK] for i in range(0, len(text), BLOCK)]
    contexts = averages.read_contexts(loaded.model, loaded.tokenizer, blocks)  # what `average` stands on
    seconds = time.monotonic() - began
    frequent = {word for word, n in zip(contexts.words, contexts.counts, strict=True) if n >= FEWEST}
    pairs = [pair for pair in read_pairs(options.pairs) if pair[0] in frequent and pair[1] in frequent]
    print(f"{datetime.date.today()}, {len(pairs)} pairs; reading the contexts took {seconds:.0f} s\n")
    print("| vectors | Spearman | 95 % |\n|---|---|---|")
    number = {word: i for i, word in enumerate(contexts.words)}

    def show(name: str, vectors: np.ndarray) -> None:
        rows = unit(vectors)
        cosines = np.array([rows[number[a]] @ rows[number[b]] for a, b, _ in pairs])
        human = np.array([score for *_, score in pairs])
        low, high = bootstrap(cosines, human)
        print(f"| {name} | {spearman(cosines, human):.3f} | {low:.2f} to {high:.2f} |", flush=True)

    table = np.stack([static_vector(loaded.model, loaded.tokenizer, word) for word in contexts.words])
    spaces = {"table": table}
    for layer in range(1, loaded.config.n_layers + 1):
        for at_word in (True, False):
            name = f"state {'at' if at_word else 'that predicts'} the word, block {layer}"
            read = averages.read_contexts(loaded.model, loaded.tokenizer, blocks, layer=layer, at_word=at_word)
            spaces[name] = read.means
    for name, vectors in variants(spaces, contexts):
        show(name, vectors)
    for name, vectors in skip_gram(text, contexts.words):
        show(name, vectors)


def variants(spaces: Mapping[str, np.ndarray], contexts: averages.Contexts) -> Iterator[tuple[str, np.ndarray]]:
    """Every way to make a static vector of a word, by name."""
    for name, vectors in spaces.items():
        space = measure(vectors[contexts.counts >= FEWEST])
        for correction in ("none", "center", "zscore", "abtt:1", "abtt:3", "abtt:8"):
            yield f"{name}, {correction}", correct(vectors, correction, space)
        for power in (0.5, 0.25, 0.0):
            yield f"{name}, singular values to the power {power:g}", averages.equalise(vectors, power)
    for rounds in (1, 2, 3):
        for window in (5, 10, 20):
            yield (
                f"neighbours, {rounds} x, {window} words",
                averages.average_vectors(contexts, rounds=rounds, window=window),
            )
    for power in (0.5, 0.0):
        yield f"neighbours, 2 x, 10 words, power {power:g}", averages.average_vectors(contexts, power=power)


def skip_gram(text: str, words: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """gensim's vectors of these words after 5 and 30 epochs."""
    from gensim.models import Word2Vec

    sentences = [word_pattern().findall(line) for line in text.splitlines()]
    for epochs in (5, 30):
        model = Word2Vec(sentences, sg=1, vector_size=100, window=5, min_count=5, epochs=epochs, workers=1, seed=1)
        yield (
            f"skip-gram, {epochs} epochs",
            np.stack([model.wv[word] if word in model.wv else np.zeros(100) for word in words]),
        )


def read_pairs(path: str) -> list[tuple[str, str, float]]:
    """word, word, score in lower case, one pair a line."""
    rows = (re.split(r"\t", line.strip()) for line in Path(path).read_text(encoding="utf-8").splitlines())
    return [(a.lower(), b.lower(), float(score)) for a, b, score in rows]


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def ranks(x: np.ndarray) -> np.ndarray:
    """Ranks (n,), equals sharing the mean of theirs."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + last - 1) / 2)[inverse]


def bootstrap(x: np.ndarray, y: np.ndarray, n: int = 2000) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    samples = [spearman(x[i], y[i]) for i in rng.integers(len(x), size=(n, len(x)))]
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()

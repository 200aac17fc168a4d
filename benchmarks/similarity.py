"""Which static vectors agree with human judgements of similarity? Every variant, and skip-gram on the same text.

    gptlite train TEXT.txt --time 10m -o RUN
    python benchmarks/similarity.py RUN TEXT.txt PAIRS.tsv

Spearman's rank correlation over the pairs whose words both stand at least 20 times in the text, with a 95 % interval
from 2,000 bootstrap samples of the pairs. The skip-gram vectors are gensim's: 100 dimensions, window 5.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from gptlite.checkpoint import runs
from gptlite.embedding import averaged
from gptlite.embedding.contextual import static_vector
from gptlite.embedding.similarity import correct, measure
from gptlite.embedding.word_evaluation import Pairs, evaluate_pairs, parse_questions
from gptlite.text.words import word_pattern

FEWEST = 20
BLOCK = 500_000  # characters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("text")
    parser.add_argument("pairs")
    parser.add_argument("--layers", type=int, nargs="*", help="blocks whose states are averaged besides the last one's")
    options = parser.parse_args()
    text = Path(options.text).read_text(encoding="utf-8")
    began = time.monotonic()
    loaded = runs.load(options.run)
    blocks = [text[i : i + BLOCK] for i in range(0, len(text), BLOCK)]
    contexts = averaged.read_contexts(loaded.model, loaded.tokenizer, blocks)  # what `average` stands on
    seconds = time.monotonic() - began
    asked = parse_questions(Path(options.pairs).read_bytes(), options.pairs)
    number = {word: i for i, word in enumerate(contexts.words) if contexts.counts[i] >= FEWEST}
    print(f"{datetime.date.today()}; reading the contexts took {seconds:.0f} s\n")
    print("| vectors | pairs | Spearman | 95 % |\n|---|---|---|---|")

    def show(name: str, vectors: np.ndarray) -> None:
        assert isinstance(asked, Pairs)
        found = evaluate_pairs(number, vectors, asked)
        assert found.spearman is not None and found.interval is not None
        print(
            f"| {name} | {len(found.scores)} | {found.spearman:.3f} | "
            f"{found.interval.low:.2f} to {found.interval.high:.2f} |",
            flush=True,
        )

    table = np.stack([static_vector(loaded.model, loaded.tokenizer, word) for word in contexts.words])
    spaces = {"table": table}
    last = loaded.config.n_layers
    for layer, at_word in [(last, True), *((layer, at) for layer in options.layers or () for at in (True, False))]:
        name = f"state {'at' if at_word else 'that predicts'} the word, block {layer}"
        read = averaged.read_contexts(loaded.model, loaded.tokenizer, blocks, layer=layer, at_word=at_word)
        spaces[name] = read.means
    spaces[f"state that predicts the word, block {last}"] = contexts.means
    for name, vectors in variants(spaces, contexts):
        show(name, vectors)
    for name, vectors in skip_gram(text, contexts.words):
        show(name, vectors)


def variants(spaces: Mapping[str, np.ndarray], contexts: averaged.Contexts) -> Iterator[tuple[str, np.ndarray]]:
    """Every way to make a static vector of a word, by name."""
    for name, vectors in spaces.items():
        space = measure(vectors[contexts.counts >= FEWEST])
        for correction in ("none", "center", "zscore", "abtt:1", "abtt:3", "abtt:8"):
            yield f"{name}, {correction}", correct(vectors, correction, space)
        for power in (0.5, 0.25, 0.0):
            yield f"{name}, singular values to the power {power:g}", averaged.equalise(vectors, power)
    for rounds in (1, 2, 3):
        for window in (5, 10, 20):
            yield (
                f"neighbours, {rounds} x, {window} words",
                averaged.average_vectors(contexts, rounds=rounds, window=window),
            )
    for power in (0.5, 0.0):
        yield f"neighbours, 2 x, 10 words, power {power:g}", averaged.average_vectors(contexts, power=power)


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


if __name__ == "__main__":
    main()

"""gptlite embed --versus word2vec: our token table beside Word2Vec, trained on the same text."""

from __future__ import annotations

import difflib
import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gptlite.cli.shared import console
from gptlite.cli.shared.corpora import training_text
from gptlite.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

METHODS = ("word2vec",)
MOST_WORDS = 20  # that are looked up at once
CORRECTION = "abtt"  # of our table, whose rows share a direction; Word2Vec's are compared as they are, as is usual


def show(
    method: str, words: Sequence[str], corpus_file: str | None, model: str | None, *, epochs: int, k: int, json: bool,
    messages: console.Messages,
) -> None:  # fmt: skip
    """Print the neighbours of each word by both methods, and the cosines of all pairs of the words."""
    words = list(dict.fromkeys(words))
    if method not in METHODS:
        raise UsageError(f"--versus must be {' or '.join(METHODS)}, not '{method}'.")
    if not words:
        raise UsageError("name the words to compare, such as: gptlite embed --versus word2vec -w king -w queen.")
    if len(words) > MOST_WORDS:
        raise UsageError(f"--versus compares at most {MOST_WORDS} words, not {len(words)}.")
    if epochs < 1:
        raise UsageError(f"--w2v-epochs must be at least 1, not {epochs}.")

    from gptlite.baselines import word2vec
    from gptlite.embedding import similarity, static

    word2vec.check_gensim()
    ours = static.read_table(model)
    seen = {word for word, count in ours.counts.items() if count >= word2vec.MIN_COUNT}
    started = time.monotonic()
    with training_text(ours.path, corpus_file, messages) as blocks:
        known, rows = word2vec.train_word2vec(blocks, epochs=epochs)
    seconds = time.monotonic() - started
    kept = [i for i, word in enumerate(known) if not seen or word in seen]  # both choose from the same words
    known, rows = [known[i] for i in kept], rows[kept]
    index = {word: i for i, word in enumerate(known)}
    for word in words:
        if word not in index:
            near = difflib.get_close_matches(word, known, n=6, cutoff=0.6)
            hint = f"; near it: {', '.join(near)}" if near else ""
            raise UsageError(f"'{word}' is not among the {len(known):,} words that stand 5 times in the text{hint}.")
    table = ours.vectors(known)
    table = similarity.correct(table, CORRECTION, similarity.measure(table))
    tables = {"gptlite": table, method: rows}
    neighbours = {
        word: {name: _neighbours(vectors, known, index[word], k) for name, vectors in tables.items()} for word in words
    }
    pairs = [
        {"words": [a, b], **{name: _cosine(vectors[index[a]], vectors[index[b]]) for name, vectors in tables.items()}}
        for a, b in itertools.combinations(words, 2)
    ]
    if json:
        facts = {"model": str(ours.path), "n_words": len(known), "epochs": epochs, "correct": CORRECTION}
        console.write_json({**facts, "neighbours": neighbours, "pairs": pairs})
        return
    messages.say(
        f"word2vec: skip-gram of {word2vec.DIM} dimensions, window {word2vec.WINDOW}, "
        f"{console.plural(epochs, 'epoch')} in {seconds:.0f} s; neighbours from {len(known):,} words"
    )
    _print(words, neighbours, pairs, method)


def _neighbours(vectors: np.ndarray, words: list[str], i: int, k: int) -> list[tuple[str, float]]:
    from gptlite.embedding.similarity import nearest

    found = nearest(vectors[i], vectors, k + 1)
    return [(words[j], round(cosine, 4)) for j, cosine in found if j != i][:k]


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    from gptlite.embedding.similarity import unit

    return round(float(unit(a) @ unit(b)), 4)


def _print(words: list[str], neighbours: dict[str, Any], pairs: list[dict[str, Any]], method: str) -> None:
    for word in words:
        ours, theirs = neighbours[word]["gptlite"], neighbours[word][method]
        rows = [
            [str(i), a, f"{x:.2f}", b, f"{y:.2f}"]
            for i, ((a, x), (b, y)) in enumerate(zip(ours, theirs, strict=True), 1)
        ]
        console.write(f"\nnearest to {word}\n")
        console.print_table(["", "gptlite", "", method, ""], rows, right=frozenset({0, 2, 4}))
        shared = [other for other, _ in ours if other in dict(theirs)]
        in_both = f"in both: {', '.join(shared)}" if shared else "no word is in both lists"
        console.write(f"{in_both}\n")
    if pairs:
        console.write("\n")
        rows = [[" – ".join(p["words"]), f"{p['gptlite']:.2f}", f"{p[method]:.2f}"] for p in pairs]
        console.print_table(["pair", "gptlite", method], rows, right=frozenset({1, 2}))
    console.write(
        "\ngptlite: the token table, without its mean and first directions. Cosines of the two do not compare, "
        "their order does.\n"
    )

"""Do contextual vectors tell the senses of a word apart, and in which layer? On real text, with senses that are known.

    python benchmarks/senses.py TRAIN.txt... --val VAL.txt --train "--time 10m" --csv FILE.csv

Pseudo-words (Schuetze 1998) are homonyms whose senses need no judge: two unrelated words of the text become one new
word wherever they stand, in what is trained on and in what is held out, so every occurrence is labelled by the word
that stood there. Pairs are drawn by chance among frequent words. Scored on held-out text, averaged over the words:

- auc       the chance that two uses of one sense are closer than two uses of different senses (a static vector: .500)
- centroid  nearest of the two senses' mean vectors, each use left out of its own mean
- majority  what always choosing the more frequent sense scores, the most that a static vector can reach

each for every layer, pool and correction, for the same shape with untrained weights, and for vectors that know both
sides of the word (`embed --context both`) and the parts that they are made of.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import random
import re
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from gptlite.checkpoint import runs
from gptlite.checkpoint.saved_step import read_embedding_statistics
from gptlite.embedding import contextual
from gptlite.embedding import statistics as calibration
from gptlite.embedding.both_sides import left_part
from gptlite.embedding.embedder import Embedder, statistics_of
from gptlite.embedding.layerwise import untrained_model
from gptlite.embedding.similarity import CORRECTIONS, correct, unit
from gptlite.text.words import Occurrence, find_word

WORD = re.compile(r"\b[a-z]{4,}\b")  # whole words: of "Spanish" no part
FEWEST, MOST = 12, 60  # uses of each sense in the held-out text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--val", required=True)
    parser.add_argument("--train", default="--time 10m", help="options of gptlite train")
    parser.add_argument("--words", type=int, default=40, help="pseudo-words")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", help="keep the run there, and score it without training if it is there already")
    parser.add_argument("--both-sides-only", action="store_true", help="leave out the rows of each layer and pool")
    parser.add_argument("--csv", help="where every combination is written")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        train = "\n".join(Path(name).read_text(encoding="utf-8") for name in options.texts)
        val = Path(options.val).read_text(encoding="utf-8")
        senses = choose_senses(train, val, options.words, random.Random(options.seed))
        texts = {"train": merge_words(train, senses), "val": merge_words(val, senses)}
        for name, text in texts.items():
            (Path(folder) / f"{name}.txt").write_text(text, encoding="utf-8")
        run = options.out or str(Path(folder) / "run")
        files = [str(Path(folder) / "train.txt"), "--val", str(Path(folder) / "val.txt"), "-o", run, "-q"]
        command = [sys.executable, "-m", "gptlite", "train", *files, *shlex.split(options.train)]
        if not (Path(run) / "run.json").exists():
            subprocess.run(command, check=True)
        places, labels = occurrences(val, senses)
        rows = [] if options.both_sides_only else list(score(run, places, labels, texts["val"]))
        rows += score_both_sides(run, places, labels)
        step = runs.find_model(run).name
    n_words = len(set(senses.values()))
    print(f"{datetime.date.today()}, {step}, {n_words} pseudo-words, {len(places):,} held-out uses, "
          f"seed {options.seed}\n")  # fmt: skip
    print("| weights | layer | pool | correction | auc | centroid | majority |\n|---|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(str(row[key]) for key in list(row)[:4])} | {row['auc']:.3f} | {row['centroid']:.3f} | "
              f"{row['majority']:.3f} |")  # fmt: skip
    if options.csv:
        with open(options.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def choose_senses(train: str, val: str, n: int, rng: random.Random) -> dict[str, str]:
    """Original word -> pseudo-word, for n pairs of words that are frequent enough in both texts."""
    in_train, in_val = (Counter(WORD.findall(text)) for text in (train, val))
    usable = sorted(w for w, count in in_val.items() if FEWEST <= count <= 4 * MOST and in_train[w] >= 60)
    if len(usable) < 2 * n:
        raise SystemExit(f"only {len(usable)} words are frequent enough for {n} pseudo-words; take fewer.")
    chosen = rng.sample(usable, 2 * n)
    pairs = zip(chosen[::2], chosen[1::2], strict=True)
    return {word: f"{a}{b}" for a, b in pairs for word in (a, b)}


def merge_words(text: str, senses: Mapping[str, str]) -> str:
    """The text with each word of a pair replaced by the pseudo-word of both."""
    return WORD.sub(lambda match: senses.get(match[0], match[0]), text)


def occurrences(val: str, senses: Mapping[str, str]) -> tuple[list[Occurrence], list[str]]:
    """Pseudo-words in the lines of the held-out text, and the word that stood at each place."""
    places: list[Occurrence] = []
    labels: list[str] = []
    seen: Counter[str] = Counter()
    for i, line in enumerate(val.splitlines()):
        originals = [match[0] for match in WORD.finditer(line) if match[0] in senses]
        merged = merge_words(line, senses)
        by_word: dict[str, list[Occurrence]] = {}
        for original in originals:
            word = senses[original]
            if word not in by_word:
                by_word[word] = find_word(merged, i, word)
            place = by_word[word].pop(0)
            seen[original] += 1
            if seen[original] <= MOST:
                places.append(place)
                labels.append(original)
    return places, labels


def score(run: str, places: list[Occurrence], labels: list[str], val: str) -> Iterator[dict[str, object]]:
    """One row for every combination, trained weights first."""
    loaded = runs.load(run)
    ids = np.array(loaded.tokenizer.encode(val[:100_000]))
    trained_statistics = read_embedding_statistics(loaded)
    assert trained_statistics is not None
    for weights, model in (("trained", loaded.model), ("untrained", untrained_model(loaded.config))):
        statistics = trained_statistics
        if weights == "untrained":
            statistics = calibration.measure_statistics(model, loaded.tokenizer, ids)
        for pool in contextual.POOLS:
            vectors = contextual.embed(model, loaded.tokenizer, places, pool=pool)
            for layer in range(loaded.config.n_layers + 1):
                space = {name: statistics[name][layer].numpy() for name in ("mean", "std", "components")}
                of_layer = np.stack([v.contextual[layer] for v in vectors])
                for correction in CORRECTIONS:
                    result = separation(correct(of_layer, correction, space), places, labels)
                    yield {"weights": weights, "layer": layer, "pool": pool, "correction": correction, **result}


def score_both_sides(run: str, places: list[Occurrence], labels: list[str]) -> Iterator[dict[str, object]]:
    """Rows for the vectors that know both sides, and for the bag of words and the left side that are parts of them."""
    loaded = runs.load(run)
    embedder = Embedder(loaded, statistics_of(loaded), context="both")
    joined = np.stack([v.at(embedder.layers) for v in embedder.embed(places)])
    dim = loaded.config.dim
    parts = {
        "both sides": joined, "bag of words": joined[:, 2 * dim :], "state at the word": left_part(joined, dim),
        "state that predicts it": joined[:, dim : 2 * dim],
    }  # fmt: skip
    for name, vectors in parts.items():
        result = separation(vectors, places, labels)
        yield {"weights": name, "layer": embedder.layers[0], "pool": "last", "correction": "zscore", **result}


def separation(vectors: np.ndarray, places: list[Occurrence], labels: list[str]) -> dict[str, float]:
    """Mean scores over the pseudo-words, of vectors (n, D) whose original words are `labels`."""
    vectors, names = unit(vectors), np.array([place.word for place in places])
    sense = np.array(labels)
    results = []
    for word in np.unique(names):
        here, of = vectors[names == word], sense[names == word]
        same = of[:, None] == of[None, :]
        above = np.triu(np.ones_like(same), 1).astype(bool)
        cosines = here @ here.T
        kinds = np.unique(of)
        counts = {kind: int((of == kind).sum()) for kind in kinds}
        if len(kinds) < 2 or min(counts.values()) < 2:
            continue
        sums = {kind: here[of == kind].sum(axis=0) for kind in kinds}
        right = 0
        for x, kind in zip(here, of, strict=True):
            means = {k: (sums[k] - x * (k == kind)) / (counts[k] - (k == kind)) for k in kinds}
            right += max(kinds, key=lambda k: float(unit(means[k]) @ x)) == kind
        auc = area_under_curve(cosines[same & above], cosines[~same & above])
        results.append((auc, right / len(here), max(counts.values()) / len(here)))
    return dict(zip(("auc", "centroid", "majority"), np.mean(results, axis=0).round(4).tolist(), strict=True))


def area_under_curve(high: np.ndarray, low: np.ndarray) -> float:
    """The chance that one of `high` is above one of `low`; ties count half (Mann & Whitney 1947)."""
    low = np.sort(low)
    below, upto = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    return float((below + upto).sum() / (2 * len(high) * len(low)))


if __name__ == "__main__":
    main()

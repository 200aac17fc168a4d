"""Do contextual vectors tell the senses of a word apart, and in which layer? On real text, with senses that are known.

    python benchmarks/senses.py TRAIN.txt... --val VAL.txt --train "--time 10m" --csv FILE.csv

Pseudo-words (Schuetze 1998) are homonyms whose senses need no judge: two unrelated words of the text become one new
word wherever they stand, in what is trained on and in what is held out, so every occurrence is labelled by the word
that stood there. Pairs are drawn by chance among frequent words. Scored on held-out text, averaged over the words:

- auc       the chance that two uses of one sense are closer than two uses of different senses (a static vector: .500)
- centroid  nearest of the two senses' mean vectors, each use left out of its own mean
- majority  what always choosing the more frequent sense scores, the most that a static vector can reach

each for every layer, pool and correction, for the same shape with untrained weights, and for vectors that know both
sides of the word (`embed --context both`) and the parts that they are made of. With `--count-senses`, also what
`concordance --senses` makes of them: the purity of two groups, and the number of senses that `auto` finds, of the
pseudo-words and of other words.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import random
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gptlite.checkpoint import runs
from gptlite.checkpoint.saved_step import read_embedding_statistics
from gptlite.embedding import contextual
from gptlite.embedding import senses as induce
from gptlite.embedding import statistics as calibration
from gptlite.embedding.embedder import Embedder, statistics_of
from gptlite.embedding.layerwise import untrained_model
from gptlite.embedding.pseudo_words import choose_senses, merge_words, occurrences, separation, usable_words
from gptlite.embedding.senses import centre_forms
from gptlite.embedding.similarity import CORRECTIONS, correct
from gptlite.text.words import Occurrence, find_word


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--val", required=True)
    parser.add_argument("--train", default="--time 10m", help="options of gptlite train")
    parser.add_argument("--words", type=int, default=40, help="pseudo-words")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", help="keep the run there, and score it without training if it is there already")
    parser.add_argument("--both-sides-only", action="store_true", help="leave out the rows of each layer and pool")
    parser.add_argument("--count-senses", action="store_true", help="how many senses the words are said to have, too")
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
        if options.count_senses:
            others = other_words(train, val, texts["val"], senses, random.Random(1000 + options.seed))
            count_senses(run, places, labels, others)
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
    sizes: dict[str, int] = embedder.meta["parts"]
    ends = np.cumsum(list(sizes.values()))
    parts = {"both sides": joined} | dict(zip(sizes, np.split(joined, ends[:-1], axis=1), strict=True))
    for name, vectors in parts.items():
        result = separation(vectors, places, labels)
        yield {"weights": name, "layer": embedder.layers[0], "pool": "last", "correction": "zscore", **result}


def other_words(train: str, val: str, merged: str, senses: dict[str, str], rng: random.Random) -> list[Occurrence]:
    """Up to 120 uses each of 60 other words that have at least 30 in the held-out text, drawn by chance."""
    usable = [word for word in usable_words(train, val) if word not in senses]
    rng.shuffle(usable)
    lines = list(enumerate(merged.splitlines()))
    places: list[Occurrence] = []
    n_words = 0
    for word in usable:
        found = [place for i, line in lines if word in line.casefold() for place in find_word(line, i, word)]
        if len(found) >= 30 and n_words < 60:
            places += found[:120]
            n_words += 1
    return places


def count_senses(run: str, places: list[Occurrence], labels: list[str], others: list[Occurrence]) -> None:
    """Print the purity of two groups of each pseudo-word, and how often `auto` finds two senses of these and one of
    other words."""
    loaded = runs.load(run)
    statistics = statistics_of(loaded)
    assert statistics is not None
    embedder = Embedder(loaded, statistics, context="both")
    same_word = statistics["around_same_word_quantiles"][embedder.layers[0]] if embedder.encoder else None
    counted: dict[bool, list[int]] = {True: [], False: []}
    purities: list[float] = []
    for is_merged, of_kind in ((True, places), (False, others)):
        names = [place.word.casefold() for place in of_kind]
        embedded = embedder.embed(of_kind)
        for name in dict.fromkeys(names):
            here = [i for i, other in enumerate(names) if other == name]
            vectors = np.stack([embedded[i].at(embedder.layers) for i in here])
            vectors = centre_forms(vectors, [embedded[i].tokens for i in here])
            counted[is_merged].append(induce.choose_senses(vectors, same_word=same_word).n_senses)
            if is_merged:
                groups = induce.induce_senses(vectors, 2).labels
                pairs = Counter((int(group), labels[i]) for group, i in zip(groups, here, strict=True))
                purities.append(
                    sum(max(n for (g, _), n in pairs.items() if g == group) for group in (0, 1)) / len(here)
                )
    for is_merged, n_senses in ((True, 2), (False, 1)):
        numbers = counted[is_merged]
        print(
            f"{len(numbers)} words of {n_senses}: found 1, 2, 3, 4, 5 senses of {np.bincount(numbers, minlength=6)[1:]}"
        )
    print(f"purity of two groups {np.mean(purities):.3f}, .85 or more for {sum(p >= 0.85 for p in purities)}\n")


if __name__ == "__main__":
    main()

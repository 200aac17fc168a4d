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
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gptlite.checkpoint import runs
from gptlite.checkpoint.saved_step import read_embedding_statistics
from gptlite.embedding import contextual
from gptlite.embedding import statistics as calibration
from gptlite.embedding.embedder import Embedder, statistics_of
from gptlite.embedding.layerwise import untrained_model
from gptlite.embedding.pseudo_words import choose_senses, merge_words, occurrences, separation
from gptlite.embedding.similarity import CORRECTIONS, correct
from gptlite.text.words import Occurrence


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


if __name__ == "__main__":
    main()

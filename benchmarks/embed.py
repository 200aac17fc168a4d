"""How fast words become vectors: gptlite beside transformers, the same model, words and threads, by turns in one process.

    python benchmarks/embed.py RUN TEXT [--sentences 10000] [--rounds 3]

transformers reads whole sentences in batches of 32, padded and masked, and keeps the last layer's states at the word's
tokens, as its feature extraction would. Tokens are those of the whole sentences for both. That both found the same
vectors is checked. Then the command itself: the wall time of comparing two sentences. Prints a dated Markdown table.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gptlite
from gptlite.embedding import PREFIX, embed
from gptlite.trained_model import TrainedModel
from gptlite.words import Occurrence, parts_of, word_at

BATCH = 32
TWO_SENTENCES = ("She sat on the bank of the river .", "He paid the money into the bank .")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run, or one of its steps")
    parser.add_argument("text", type=Path, help="a sentence a line")
    parser.add_argument("--sentences", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    model = gptlite.load(options.run)
    lines = [line.strip() for line in options.text.read_text(encoding="utf-8").splitlines()]
    texts = [line for line in lines if len(line) > 20][: options.sentences]
    places = some_words(texts)
    theirs = Theirs(model)
    n_tokens = sum(map(len, model.tokenizer.encode_batch(texts)))
    every = [o for i, text in enumerate(texts) for o in parts_of(text, i, model.tokenizer.encode_with_spans(text)[1])]
    n_layers = model.config.n_layers

    import transformers

    print(
        f"{datetime.date.today()}, {platform.machine()}, {torch.get_num_threads()} threads of {os.cpu_count()} "
        f"processors, torch {torch.__version__}, transformers {transformers.__version__}\n\n"
        f"{len(texts):,} sentences with {n_tokens:,} tokens; {model.config.n_params:,} parameters, {n_layers} layers, "
        f"context {model.config.context_length}; {options.rounds} rounds by turns, medians.\n\n"
        "| vectors | gptlite, tokens/s | transformers, tokens/s | ratio | goal | largest difference |\n"
        "|---|---|---|---|---|---|"
    )
    jobs = [
        ("one word a sentence, `--layer mid`", places, (n_layers + 1) // 2, 2.0),
        ("one word a sentence, `--layer last`", places, n_layers, 2.0),
        ("every token, `--layer last --tokens`", every, n_layers, 1.2),
    ]
    for name, wanted, top, goal in jobs:
        ours, reference, difference = by_turns(model, theirs, texts, wanted, top, options.rounds)
        shown = f"{difference:.0e}" if top == n_layers else "another layer"
        print(
            f"| {name} | {n_tokens / ours:,.0f} | {n_tokens / reference:,.0f} | {reference / ours:.2f} | {goal} | {shown} |",
            flush=True,
        )
    print("\n| two sentences compared, wall time | seconds | goal |\n|---|---|---|")
    command = [sys.executable, "-m", "gptlite", "embed", "-m", options.run, "-w", "bank", *TWO_SENTENCES]
    print(f"| `gptlite embed -w bank ...` | {wall(command):.2f} | 2.5 |")
    print(f"| of which importing torch | {wall([sys.executable, '-c', 'import torch']):.2f} | |")


def some_words(texts: list[str]) -> list[Occurrence]:
    """One word of each sentence, anywhere in it."""
    rng = random.Random(0)
    found = (word_at(text, i, rng.randrange(len(text.split()))) for i, text in enumerate(texts))
    return [place for place in found if place]


class Theirs:
    """The same model in transformers, as its feature extraction reads texts."""

    def __init__(self, model: TrainedModel) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.model = AutoModel.from_pretrained(model.path).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model.path)
        self.tokenizer.pad_token, self.tokenizer.padding_side = self.tokenizer.eos_token, "right"
        self.context = model.config.context_length

    @torch.inference_mode()
    def embed(self, texts: list[str], places: list[Occurrence]) -> list[np.ndarray]:
        """The last state at the last token of each word; None of a word beyond the context."""
        of_text: list[list[int]] = [[] for _ in texts]
        for i, place in enumerate(places):
            of_text[place.text_index].append(i)
        vectors: list[Any] = [None] * len(places)
        for start in range(0, len(texts), BATCH):
            batch = [PREFIX + text for text in texts[start : start + BATCH]]
            inputs = self.tokenizer(
                batch, padding=True, truncation=True, max_length=self.context,
                return_tensors="pt", return_offsets_mapping=True,
            )  # fmt: skip
            ends = inputs.pop("offset_mapping")[:, :, 1].numpy()
            states = self.model(**inputs).last_hidden_state.numpy()
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            for row in range(len(batch)):
                for i in of_text[start + row]:
                    at = int(np.searchsorted(ends[row, : lengths[row]], places[i].end + len(PREFIX), side="left"))
                    if at < lengths[row]:
                        vectors[i] = states[row, at]
        return vectors


def by_turns(
    model: TrainedModel, theirs: Theirs, texts: list[str], places: list[Occurrence], top: int, rounds: int
) -> tuple[float, float, float]:
    """Seconds of both, and the largest difference between their vectors, relative to the largest number."""
    ours = lambda: embed(model.model, model.tokenizer, places, top=top, n_expected=0)  # noqa: E731
    reference = lambda: theirs.embed(texts, places)  # noqa: E731
    times: dict[Callable[[], Any], list[float]] = {ours: [], reference: []}
    results: dict[Callable[[], Any], Any] = {}
    for turn in range(rounds):
        for job in (ours, reference) if turn % 2 else (reference, ours):
            began = time.perf_counter()
            results[job] = job()
            times[job].append(time.perf_counter() - began)
    pairs = [
        (v.contextual[-1], other)
        for v, other in zip(results[ours], results[reference], strict=True)
        if other is not None and not v.truncated and not v.partial
    ]
    difference = max(float(np.abs(a - b).max()) for a, b in pairs) / max(float(np.abs(b).max()) for _, b in pairs)
    return statistics.median(times[ours]), statistics.median(times[reference]), difference


def wall(command: list[str], times: int = 5) -> float:
    """Median seconds of a process from its start to its end."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()

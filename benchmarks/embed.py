"""How fast words become vectors: gptlite beside transformers, the same model, words and threads, by turns.

    python benchmarks/embed.py RUN TEXT [--sentences 10000] [--rounds 3]

transformers reads whole sentences in batches of 32, padded and masked, and keeps the last layer's states at the word's
last token, or all of them, as its feature extraction would. Tokens are those of the whole sentences for both; sentences
that the context does not hold are left out. That both found the same vectors is measured too. Then the command itself:
the wall time of comparing two sentences. Prints a dated Markdown table.
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

import numpy as np
import torch

import gptlite
from gptlite.embedding.contextual import PREFIX, embed
from gptlite.text.words import Occurrence, parts_of, word_at
from gptlite.trained_model import Model

BATCH = 32
TWO_SENTENCES = ("She sat on the bank of the river .", "He paid the money into the bank .")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run, or one of its steps")
    parser.add_argument("text", type=Path, help="a sentence a line")
    parser.add_argument("--sentences", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="count seconds of processors, where others use them too")
    options = parser.parse_args()

    clock = time.process_time if options.cpu else time.perf_counter
    model = gptlite.load(options.run)
    lines = [line.strip() for line in options.text.read_text(encoding="utf-8").splitlines()]
    room = model.config.context_length - len(model.tokenizer.encode(PREFIX))
    lengths = [len(ids) for ids in model.tokenizer.encode_batch(lines)]
    texts = [line for line, n in zip(lines, lengths, strict=True) if 4 < n <= room][: options.sentences]
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
        f"context {model.config.context_length}; {options.rounds} rounds by turns, medians"
        f"{', seconds of processors' if options.cpu else ''}.\n\n"
        "| vectors | gptlite, tokens/s | transformers, tokens/s | ratio | goal | largest difference |\n"
        "|---|---|---|---|---|---|"
    )
    jobs = [
        ("one word a sentence, `--layer mid`", places, (n_layers + 1) // 2, 2.0),
        ("one word a sentence, `--layer last`", places, n_layers, 2.0),
        ("every token, `--layer last --tokens`", every, n_layers, 1.2),
    ]
    for name, wanted, top, goal in jobs:
        ours, reference, difference = by_turns(model, theirs, texts, wanted, top, options.rounds, clock)
        rates = f"{n_tokens / ours:,.0f} | {n_tokens / reference:,.0f} | {reference / ours:.2f}"
        shown = "" if difference is None else f"{difference:.0e}"
        print(f"| {name} | {rates} | at least {goal} | {shown} |", flush=True)
    print("\n| two sentences compared, wall time | seconds | goal |\n|---|---|---|")
    command = [sys.executable, "-m", "gptlite", "embed", "-m", options.run, "-w", "bank", *TWO_SENTENCES]
    print(f"| `gptlite embed -w bank ...` | {wall(command):.2f} | 2.5 |")
    print(f"| of which importing torch | {wall([sys.executable, '-c', 'import torch']):.2f} | |")


def some_words(texts: list[str]) -> list[Occurrence]:
    """One word of each sentence, anywhere in it."""
    rng = random.Random(0)
    found = [word_at(text, i, rng.randrange(len(text.split()))) for i, text in enumerate(texts)]
    return [place for place in found if place]


class Theirs:
    """The same model in transformers, as its feature extraction reads texts."""

    def __init__(self, model: Model) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.model = AutoModel.from_pretrained(model.path).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model.path)
        self.tokenizer.pad_token, self.tokenizer.padding_side = self.tokenizer.eos_token, "right"

    @torch.inference_mode()
    def embed(self, texts: list[str], places: list[Occurrence] | None) -> list[np.ndarray]:
        """The last state (D,) at the last token of each word, one word a text; or those of all tokens (T, D)."""
        found: list[np.ndarray] = []
        for start in range(0, len(texts), BATCH):
            batch = [PREFIX + text for text in texts[start : start + BATCH]]
            inputs = self.tokenizer(
                batch, padding=True, return_tensors="pt", return_offsets_mapping=places is not None
            )  # fmt: skip
            ends = inputs.pop("offset_mapping")[:, :, 1].numpy() if places else None
            states = self.model(**inputs).last_hidden_state.numpy()
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            for row, length in enumerate(lengths):
                if places is None or ends is None:
                    found.append(states[row, 1:length])
                else:
                    end, row_ends = places[start + row].end + len(PREFIX), ends[row, :length]
                    reached = row_ends[
                        np.searchsorted(row_ends, end)
                    ]  # by several tokens, where they share a character
                    found.append(states[row, int(np.searchsorted(row_ends, reached, side="right")) - 1])
        return found


def by_turns(
    model: Model,
    theirs: Theirs,
    texts: list[str],
    places: list[Occurrence],
    top: int,
    rounds: int,
    clock: Callable[[], float],
) -> tuple[float, float, float | None]:
    """Seconds of both; and for the last layer of one word a text, how far the vectors are apart at most.

    That is relative to the largest number in them.
    """
    one_a_text = len(places) == len(texts)

    def ours() -> list[np.ndarray]:
        vectors = embed(model.model, model.tokenizer, places, layers=[top], n_expected=0)
        return [v.at(top) for v in vectors]

    def reference() -> list[np.ndarray]:
        return theirs.embed(texts, places if one_a_text else None)

    times: dict[Callable[[], list[np.ndarray]], list[float]] = {ours: [], reference: []}
    results: dict[Callable[[], list[np.ndarray]], list[np.ndarray]] = {}
    for turn in range(rounds):
        for job in (ours, reference) if turn % 2 else (reference, ours):
            began = clock()
            results[job] = job()
            times[job].append(clock() - began)
    difference = None
    if one_a_text and top == model.config.n_layers:
        a, b = np.stack(results[ours]), np.stack(results[reference])
        difference = float(np.abs(a - b).max() / np.abs(b).max())
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

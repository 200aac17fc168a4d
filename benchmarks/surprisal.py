"""Surprisals of sentences: gptlite beside minicons (Misra 2022), the same model on the same CPU, in one process.

    python benchmarks/surprisal.py checkpoints/corpus/best sentences.txt [--sentences 2000] [--rounds 3]

Needs `pip install minicons`. minicons scores tokens; gptlite scores tokens with entropy, rank and the probability of a
boundary at each place. Its batch size is swept and the best one counts. Both run by turns; the ratio is of medians.
The matrix products of the forward pass alone, on as many tokens and without padding, are timed beside them: no program
that computes in fp32 with this machine's matrix library is quicker than that.
Also compared: surprisals of tokens, and of words with minicons' `bow_correction`.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers

import gptlite
from gptlite.device import choose_hardware
from gptlite.evaluation.boundaries import WORD
from gptlite.evaluation.surprisals import Scorer, words_of

BATCH_SIZES = (1, 8, 32, 128)
ROWS = 512  # of a matrix product that is timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    from minicons import scorer as minicons

    lines = [line.strip() for line in options.text.read_text(encoding="utf-8").splitlines() if line.strip()]
    sentences = lines[: options.sentences]
    loaded = gptlite.load(options.model)
    ours = Scorer(loaded.model, loaded.tokenizer, choose_hardware("cpu", "fp32"))
    theirs = minicons.IncrementalLMScorer(
        transformers.AutoModelForCausalLM.from_pretrained(options.model),
        "cpu",
        # It puts the separator before a text as characters, which gptlite's tokenizers otherwise read as such.
        tokenizer=transformers.AutoTokenizer.from_pretrained(options.model, split_special_tokens=False),
    )

    def take(batch_size: int) -> list[list[tuple[str, float]]]:
        found = []
        for first in range(0, len(sentences), batch_size):
            batch = sentences[first : first + batch_size]
            found += theirs.token_score(batch, surprisal=True, base_two=True, bos_token=True)
        return found

    def timed(work: object, *arguments: object) -> float:
        began = time.perf_counter()
        work(*arguments)  # type: ignore[operator]
        return time.perf_counter() - began

    print(f"{len(sentences):,} sentences, {torch.get_num_threads()} threads, {loaded.config.n_params:,} parameters")
    ours.score(sentences[:50]), take(32)[:1]
    best = min(BATCH_SIZES, key=lambda size: timed(take, size))
    rounds = [(timed(ours.score, sentences), timed(take, best)) for _ in range(options.rounds)]
    mine, other = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    print(
        f"gptlite {len(sentences) / mine:,.0f} sentences/s, minicons {len(sentences) / other:,.0f} (batches of {best})"
    )
    print(f"ratio {other / mine:.2f}; by round: {', '.join(f'{b / a:.2f}' for a, b in rounds)}")

    products = matrix_products(loaded.model)
    n_tokens = sum(len(ids) + 1 for ids in loaded.tokenizer.encode_batch(sentences))
    alone = min(timed(lambda: products(n_tokens)) for _ in range(5))
    print(
        f"matrix products alone {len(sentences) / alone:,.0f} sentences/s, {other / alone:.2f} times minicons; "
        f"gptlite reaches {alone / mine:.0%} of that"
    )

    few = sentences[:100]
    scored = ours.score(few)
    tokens = theirs.token_score(few, surprisal=True, base_two=True, bos_token=True)
    off = max(
        abs(value - float(text.surprisal[i]))
        for text, row in zip(scored, tokens, strict=True)
        for i, (_, value) in enumerate(row[1:])
    )
    print(f"tokens of {len(few)} sentences differ by at most {off:.1e} bits")
    by_space = Scorer(loaded.model, loaded.tokenizer, choose_hardware("cpu", "fp32"), "whitespace")
    # minicons knows no other boundary than a token with a space, which leaves out line breaks and the end of a text.
    theirs.bow_subword_idx = np.flatnonzero(by_space.boundaries.masks[WORD]).tolist()
    words = theirs.word_score_tokenized(
        few, str.split, bow_correction=True, bos_token=True, surprisal=True, base_two=True
    )
    off = max(
        abs(value - unit.surprisal)
        for text, row in zip(by_space.score(few), words, strict=True)
        for unit, (_, value) in zip(words_of(text), row[-len(words_of(text)) :], strict=True)
    )
    print(f"words of {len(few)} sentences differ by at most {off:.1e} bits where the same tokens are boundaries")


def matrix_products(model: torch.nn.Module) -> Callable[[int], None]:
    """A function of n tokens: all products of the model's matrices with so many rows, by all threads."""
    matrices = [w.detach() for name, w in model.named_parameters() if w.ndim == 2 and "embed" not in name]
    if not any(name.startswith("head") for name, _ in model.named_parameters()):  # tied to the embedding
        matrices.append(next(w.detach() for name, w in model.named_parameters() if "embed" in name))
    rows = {w.shape[1]: torch.randn(ROWS, w.shape[1]) for w in matrices}

    def compute(n_tokens: int) -> None:
        for _ in range(round(n_tokens / ROWS)):
            for w in matrices:
                torch.mm(rows[w.shape[1]], w.T)

    return compute


if __name__ == "__main__":
    main()

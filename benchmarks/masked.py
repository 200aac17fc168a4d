"""What a model gains that reads both sides of a word: vectors of pseudo-words by a masked and by a causal model.

    python benchmarks/masked.py TRAIN.txt --val VAL.txt --steps 600 --seeds 1 2

Both have the same blocks, vocabulary, windows, optimizer and number of steps (gptlite/comparison/branch.py), and the
same learning rate; `--rates 0.01 0.02` trains a pair with each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from gptlite.comparison.branch import Budget, measure
from gptlite.comparison.networks import Shape
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import choose_hardware
from gptlite.text.tokenizer import Tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--val", required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.02])
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--vocab-size", type=int, default=1024)
    options = parser.parse_args()
    train, val = (Path(name).read_text(encoding="utf-8") for name in (options.text, options.val))
    tokenizer = Tokenizer.train([train], options.vocab_size)
    config = ModelConfig.preset(
        "qwen3", "tiny", tokenizer.vocab_size, n_layers=options.layers, dim=options.dim, n_heads=options.dim // 64,
        context_length=options.context,
    )  # fmt: skip
    hardware = choose_hardware("auto", "fp32", torch.get_num_threads(), compile="off")
    print("| seed | rate | vectors | centroid | auc |\n|---|---|---|---|---|")
    for seed in options.seeds:
        for rate in options.rates:
            shape = Shape(config, TrainConfig(steps=options.steps, batch_size=options.batch, lr=rate, init="random"))
            found, _ = measure(
                train, val, tokenizer, shape, hardware, Budget(1.0, options.steps), seed, lambda *_: None, "The "
            )
            senses = found["senses"]
            for row in senses["vectors"]:
                print(f"| {seed} | {rate:g} | {row['name']} | {row['centroid']:.3f} | {row['auc']:.3f} |", flush=True)
            print(f"majority {senses['majority']:.3f}, {senses['n_words']} words, {senses['n_uses']:,} uses; guessed "
                  f"{found['guessed']:.3f} after {found['seconds']:.0f} s (causal {found['causal_seconds']:.0f} s); "
                  f"sample {found['sample'][:60]!r}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

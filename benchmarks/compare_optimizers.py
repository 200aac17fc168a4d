"""Muon against AdamW on one text: the same model, batches and steps, one after the other; prints a dated table.

python benchmarks/compare_optimizers.py TEXT --steps 150
"""

from __future__ import annotations

import argparse
import datetime
import platform
import tempfile
from pathlib import Path

import torch

import gptlite


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--size", default="small")
    parser.add_argument("--val", default="10%")
    arguments = parser.parse_args()

    print(
        f"{datetime.date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(
        f"{Path(arguments.text).name}, size {arguments.size}, {arguments.steps} steps, last {arguments.val} held out\n"
    )
    print("| optimizer | bits per byte | tokens/s |\n|---|---|---|")
    for optimizer in ("adamw", "muon"):
        with tempfile.TemporaryDirectory() as folder:
            result = gptlite.train(
                arguments.text,
                out=Path(folder) / "run",
                val=arguments.val,
                size=arguments.size,
                steps=arguments.steps,
                optimizer=optimizer,
            )
        print(f"| {optimizer} | {result['val_bits_per_byte']:.3f} | {result['tokens_per_second']:,} |", flush=True)


if __name__ == "__main__":
    main()

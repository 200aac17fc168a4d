"""A small text with and without background text, at equal steps (or equal time), over several seeds.

    python benchmarks/background.py OWN.txt BACKGROUND.txt --val HELD-OUT.txt --kilobytes 100 --steps 300 --seeds 1 2

The first kilobytes of OWN are the text; HELD-OUT is scored and belongs to neither. Every run is a process of its own
with the same shape, vocabulary size, batch and context; the plan chooses the rest for each. With `--time` instead of
`--steps`, the plan chooses everything. `--shares` tries other shares of the own text than those of the plan: 0.3,0.8 is
30 % of each step as long as the learning rate does not fall, then rising to 80 %.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHAPE: dict[str, Any] = {
    "n_layers": 2, "dim": 64, "n_heads": 2, "context_length": 64, "batch_size": 16, "vocab_size": 512,
}  # fmt: skip


def run_one(arguments: dict[str, Any]) -> dict[str, Any]:
    """One run, in this process."""
    from gptlite.training import mixing
    from gptlite.training.pipeline import train

    if (shares := arguments.pop("shares")) is not None:
        chosen = tuple(round(1 - share, 3) for share in shares)
        mixing.background_shares = lambda *_: chosen
    result = train(**arguments)
    plan = json.loads((Path(arguments["out"]) / "run.json").read_text(encoding="utf-8"))["plan"]["train"]
    return {**result, "shares": [1 - plan["background_share"], 1 - plan["background_end"]]}


def measure(arguments: dict[str, Any]) -> dict[str, Any]:
    """One run, in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def read_shares(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(run_one(json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("own")
    parser.add_argument("background")
    parser.add_argument("--val", required=True, help="the file that is held out")
    parser.add_argument("--kilobytes", type=int, default=100, help="of the own text")
    parser.add_argument("--val-kilobytes", type=int, default=30, help="of the held-out text")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, default=300)
    budget.add_argument("--time")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shares", type=read_shares, nargs="*", default=[])
    options = parser.parse_args()
    size = {"time": options.time} if options.time else {"steps": options.steps, "eval_every": options.steps, **SHAPE}
    choices: list[tuple[bool, tuple[float, ...] | None]] = [(False, None), (True, None)]
    choices += [(True, shares) for shares in options.shares]
    print(f"{os.cpu_count()} processors; {options.time or f'{options.steps} steps'} each, seeds {options.seeds}\n")
    print("| background | own share, first and last | bits per byte | own text read | 5-gram |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        own, held_out = Path(folder) / "own.txt", Path(folder) / "held-out.txt"
        own.write_bytes(first_lines(options.own, options.kilobytes))
        held_out.write_bytes(first_lines(options.val, options.val_kilobytes))
        means: list[float] = []
        for mixed, shares in choices:
            text = {"inputs": [str(own)], "val": str(held_out), "background": options.background if mixed else None}
            how = {**text, **size, "threads": options.threads, "shares": shares}
            runs = [
                measure({**how, "seed": seed, "out": str(Path(folder) / f"{len(means)}-{seed}")})
                for seed in options.seeds
            ]
            bits = [run["val_bits_per_byte"] for run in runs]
            means.append(statistics.mean(bits))
            share = f"{runs[0]['shares'][0]:.2f}, {runs[0]['shares'][1]:.2f}" if mixed else ""
            gain = f", {1 - means[-1] / means[0]:.1%} fewer" if mixed else ""
            each = ", ".join(f"{b:.3f}" for b in bits)
            print(
                f"| {'yes' if mixed else 'no'} | {share} | {means[-1]:.3f} ({each}){gain} "
                f"| {runs[0]['epochs']:.1f} times | {runs[0]['baselines']['ngram_bits_per_byte']:.3f} |",
                flush=True,
            )


def first_lines(path: str, kilobytes: int) -> bytes:
    """Whole lines from the beginning of a file, at most `kilobytes` of them."""
    raw = Path(path).read_bytes()
    return raw if len(raw) <= 1000 * kilobytes else raw[: raw.rindex(b"\n", 0, 1000 * kilobytes) + 1]


if __name__ == "__main__":
    main()

"""The plan's own choice beside a small grid of choices made by hand, each in the same time; prints a dated table.

    python benchmarks/grid.py TRAIN.txt... --val VAL.txt --time 5m --shapes 4x128,4x192,6x256 --vocabularies 1024,4096

One run after the other, each a process of its own with the whole time; all are scored on all of the held-out text.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--val", required=True, help="the file that is held out")
    parser.add_argument("--time", default="5m")
    parser.add_argument("--shapes", default="4x128,4x192,6x256", help="layers x width")
    parser.add_argument("--vocabularies", default="1024,4096")
    options = parser.parse_args()

    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} processors, {options.time} each\n")
    print("| shape | vocabulary | steps | bits per byte |\n|---|---|---|---|")
    choices: list[list[str]] = [[]]
    for shape in options.shapes.split(","):
        layers, dim = shape.split("x")
        choices += [
            ["--layers", layers, "--dim", dim, "--vocab-size", vocabulary]
            for vocabulary in options.vocabularies.split(",")
        ]
    for choice in choices:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            time = ["--time", options.time, "--val", options.val]
            result = gptlite("train", *options.texts, *time, *choice, "-o", str(run), "-q", "--json")
            plan = json.loads((run / "run.json").read_text())["plan"]["model"]
            score = gptlite("eval", options.val, "-m", str(run), "-q", "--json")
        whose = "" if choice else " (the plan's choice)"
        print(
            f"| {plan['n_layers']} x {plan['dim']}{whose} | {plan['vocab_size']:,} | {result['step']:,} | "
            f"{score['bits_per_byte']:.3f} |",
            flush=True,
        )


def gptlite(*arguments: str) -> dict[str, Any]:
    """The JSON that a command prints."""
    command: Sequence[str] = [sys.executable, "-m", "gptlite", *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


if __name__ == "__main__":
    main()

"""What is left of the speed of training, and of its clock, beside busy processes? Prints a dated table.

    python benchmarks/busy.py TEXT --seconds 50 --busy 0,2,4 [-- --layers 4 --dim 128 ...]

Runs the command as its user would, beside so many processes that compute without pause. Options after "--" go to
`gptlite train`; speeds compare where they fix the shape. The fair share of a machine of P processors beside n
processes is P of P + n, as if each thread of the trainer were one of them.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import tempfile
from pathlib import Path

from clock import busy, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--seconds", type=float, default=50.0)
    parser.add_argument("--busy", default="0,2,4", help="numbers of busy processes; the first is compared with")
    own, _, more = " ".join(sys.argv[1:]).partition(" -- ")
    options = parser.parse_args(own.split())

    processors = os.cpu_count() or 1
    print(f"{datetime.date.today()}, {platform.machine()}, {processors} processors, train {more}\n")
    columns = ("busy", "steps", "tokens/s", "of the first row", "of the fair share", "took", "off by")
    print("| " + " | ".join((*columns, "bits per byte", "5-gram")) + " |\n" + 9 * "|---" + "|")
    first = None
    with tempfile.TemporaryDirectory() as folder:
        for n in map(int, options.busy.split(",")):
            place = Path(folder) / str(n)
            command = [sys.executable, "-m", "gptlite", "train", str(options.text), "--time", f"{options.seconds:g}s"]
            with busy(n):
                line = [*command, *more.split(), "--json", "-q", "-o", str(place / "run")]
                result, took, _ = run(line, Path(folder) / "cache")  # in which the first run leaves the step in C
            speed = float(str(result["tokens_per_second"]))
            first = first or speed
            fair = processors / (processors + n)
            baselines = result["baselines"]
            ngram = baselines["ngram_bits_per_byte"] if isinstance(baselines, dict) else float("nan")
            print(
                f"| {n} | {result['step']:,} | {speed:,.0f} | {speed / first:.0%} | {speed / first / fair:.0%} "
                f"| {took:.1f} s | {took - options.seconds:+.1f} s, {100 * (took / options.seconds - 1):+.1f} % "
                f"| {result['val_bits_per_byte']:.3f} | {ngram:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Does a run land when its time is over, and does the dry run tell the truth about memory? Prints a dated table.

    python benchmarks/clock.py TEXT --seconds 30 --sizes 20k,1M,6M,200M [--load]

Runs the command as its user would, on texts of each size made from the lines of TEXT: its beginning where the text is
longer, its lines in ever new order where it is shorter. `--load` keeps as many other processes busy as there are
processors.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import multiprocessing
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

UNITS = {"k": 1_000, "M": 1_000_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--sizes", default="20k,1M,6M,200M")
    parser.add_argument("--load", action="store_true")
    options = parser.parse_args()

    beside = f"beside {os.cpu_count()} busy processes" if options.load else "on a quiet machine"
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} processors, {beside}\n")
    print("| text | asked | took | off by | steps | dry run: memory | run: memory |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, busy(os.cpu_count() or 1 if options.load else 0):
        for size in options.sizes.split(","):
            path = Path(folder) / f"{size}.txt"
            write_text(options.text, path, int(float(size[:-1]) * UNITS[size[-1]]))
            print(row(path, options.seconds, Path(folder)), flush=True)
            path.unlink()


def row(path: Path, seconds: float, folder: Path) -> str:
    """One line of the table; each command has a cache of its own, so nothing is known beforehand."""
    command = [sys.executable, "-m", "gptlite", "train", str(path), "--time", f"{seconds:g}s", "--json", "-q"]
    planned, _, _ = run([*command, "--dry-run"], folder / f"cache-dry-{path.stem}")
    result, took, peak = run([*command, "-o", str(folder / path.stem)], folder / f"cache-{path.stem}")
    off = f"{took - seconds:+.1f} s, {100 * (took / seconds - 1):+.1f} %"
    memory = planned["expected"]["memory_bytes"]
    return (
        f"| {path.stem}B | {seconds:g} s | {took:.1f} s | {off} | {result['step']:,} | {memory / 1e6:,.0f} MB "
        f"({100 * (memory / peak - 1):+.0f} %) | {peak / 1e6:,.0f} MB |"
    )


def run(command: list[str], cache: Path) -> tuple[dict[str, object], float, int]:
    """What the command printed, the seconds of its whole process, and its peak memory in bytes."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "GPTLITE_CACHE": str(cache)})
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    took = time.monotonic() - began
    if status:
        raise SystemExit(f"{' '.join(command)} failed.")
    return json.loads(printed), took, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def write_text(source: Path, path: Path, n_bytes: int) -> None:
    """`n_bytes` of text from the lines of `source`."""
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    rng = random.Random(0)
    written = 0
    with open(path, "w", encoding="utf-8") as file:
        while written < n_bytes:
            for line in lines:
                written += len(line.encode())
                file.write(line)
                if written >= n_bytes:
                    break
            rng.shuffle(lines)


@contextlib.contextmanager
def busy(n: int) -> Iterator[None]:
    """Keep `n` processes computing."""
    processes = [multiprocessing.Process(target=spin, daemon=True) for _ in range(n)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def spin() -> None:
    while True:
        sum(range(10_000))


if __name__ == "__main__":
    main()

"""What a durable save costs: the time of `write_directory` against one plain write of the same bytes with fsync.

    python benchmarks/saving.py [--folder DIR] [--rounds N]

Both by turns, in one folder on one disk; the files have the proportions of a saved step. The ratio is that of the
medians; a row of JSON for each size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gptlite.storage.durable import write_directory

SMALL_FILES = {
    "config.json": 700, "generation_config.json": 130, "tokenizer_config.json": 300, "tokenizer.json": 500_000,
    "training_state/rng.safetensors": 5_200, "training_state/state.json": 1_000,
    "embedding/statistics.safetensors": 40_000,
}  # fmt: skip


def step_of(megabytes: float) -> dict[str, bytes]:
    """Files of a step: the optimizer remembers about twice as much as the model weighs."""
    large = max(0, int(megabytes * 1e6) - sum(SMALL_FILES.values()))
    sizes = {"model.safetensors": large // 3, "training_state/optimizer.safetensors": 2 * large // 3, **SMALL_FILES}
    return {name: os.urandom(size) for name, size in sizes.items()}


def write_plainly(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def seconds(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def compare(folder: Path, megabytes: float, rounds: int) -> dict[str, float]:
    files = step_of(megabytes)
    content = b"".join(files.values())
    plain, durable = [], []
    for i in range(rounds):
        one, other = folder / f"plain-{i}", folder / f"step-{i:09d}"
        turns = [(plain, partial(write_plainly, one, content)),
                 (durable, partial(write_directory, other, files, {"step": i}))]  # fmt: skip
        for times, action in turns if i % 2 else reversed(turns):
            times.append(seconds(action))
        one.unlink()
        shutil.rmtree(other)
        os.sync()  # neither pays for what the other left behind
    return {
        "megabytes": megabytes,
        "plain_ms": round(1000 * statistics.median(plain), 2),
        "durable_ms": round(1000 * statistics.median(durable), 2),
        "ratio": round(statistics.median(durable) / statistics.median(plain), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write; its disk is what is measured")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1, 10, 50, 200], help="megabytes of a step")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for megabytes in arguments.sizes:
            print(json.dumps(compare(Path(folder), megabytes, arguments.rounds)), flush=True)


if __name__ == "__main__":
    main()

"""A text added to a model later, with and without replay of the old one, beside a model of both at once.

    python benchmarks/replay.py TEXT --kilobytes 200 --steps 600 --seeds 1 2

The first kilobytes of TEXT are cut into two halves, and the last tenth of each half is held out. A model of the first
half has --first of the steps; it goes on with the second half for --share of them; the model of both at once has all.
Every run is a process of its own with the same shape and batch. `--first 1` gives each training of the user the same
time; with 0.5, each text is read as often before as in the comparison. `--replay` lists the shares to try, 0 for none.
`--rates` tries rates besides that of the plan, as parts of the rate of a new model, with a warm-up after a colon:
0.6 1:0.02.
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

SHAPE: dict[str, Any] = {"n_layers": 2, "dim": 64, "n_heads": 2, "vocab_size": 512}
WINDOWS: dict[str, Any] = {"context_length": 64, "batch_size": 16}
MOST_RISE, MOST_BEHIND, MOST_SHARE = 0.02, 0.03, 0.4


def run_one(arguments: dict[str, Any], held_out: list[str]) -> dict[str, Any]:
    """One run, in this process, and the bits per byte of its last step on the held-out texts."""
    import gptlite
    from gptlite.config import TrainConfig

    rate = arguments.pop("rate", None)
    result = gptlite.train(**arguments, lr=None if rate is None else rate * TrainConfig.lr)
    model = gptlite.load(f"{arguments['out']}/step-{result['step']:09d}")
    bits = [model.bits_per_byte(Path(name).read_text(encoding="utf-8")) for name in held_out]
    plan = json.loads((Path(arguments["out"]) / "run.json").read_text(encoding="utf-8"))["plan"]["train"]
    return {"bits": bits, "lr": plan["lr"], "warmup": plan["warmup"], "dropout": plan["dropout"]}


def measure(arguments: dict[str, Any], held_out: list[str]) -> dict[str, Any]:
    """One run, in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps([arguments, held_out])]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def write_halves(text: str, folder: Path) -> tuple[list[str], list[str]]:
    """Two files to train on and two that are held out."""
    train: list[str] = []
    held_out: list[str] = []
    middle = text.index("\n", len(text) // 2) + 1
    for i, half in enumerate((text[:middle], text[middle:])):
        cut = half.index("\n", len(half) - len(half) // 10) + 1
        for name, part, names in (("train", half[:cut], train), ("held-out", half[cut:], held_out)):
            (folder / f"{name}-{i + 1}.txt").write_text(part, encoding="utf-8")
            names.append(str(folder / f"{name}-{i + 1}.txt"))
    return train, held_out


def read_rate(text: str) -> dict[str, float]:
    rate, _, warmup = text.partition(":")
    return {"rate": float(rate), **({"warmup": float(warmup)} if warmup else {})}


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(run_one(*json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--kilobytes", type=int, default=200)
    parser.add_argument("--steps", type=int, default=600, help="of the model of both at once")
    parser.add_argument("--first", type=float, default=1.0, help="of those steps, for the model of the first half")
    parser.add_argument("--share", type=float, default=MOST_SHARE, help="of those steps, for the text that is added")
    parser.add_argument("--replay", type=float, nargs="+", default=[0.0, 0.3])
    parser.add_argument("--rates", type=read_rate, nargs="*", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    raw = Path(options.text).read_bytes()[: 1000 * options.kilobytes].decode(errors="ignore")
    steps = {
        "both": options.steps,
        "first": round(options.first * options.steps),
        "added": round(options.share * options.steps),
    }
    print(f"{os.cpu_count()} processors; {steps} steps, seeds {options.seeds}\n")
    print(
        "| run | steps | rate, warm-up, dropout | first half | second half | rise of the first | behind both at once |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        train, held_out = write_halves(raw, Path(folder))
        common = {**WINDOWS, "threads": options.threads, "eval_every": 10**6, "save_every": 10**6}

        def runs(name: str, **arguments: Any) -> list[dict[str, Any]]:
            """A run for each seed."""
            found: list[dict[str, Any]] = []
            for seed in options.seeds:
                start = {"init_from": f"{folder}/first-{seed}"} if name.startswith("added") else SHAPE
                out = f"{folder}/{name}-{seed}"
                found.append(measure({**common, **start, "out": out, "seed": seed, **arguments}, held_out))
            return found

        first = runs("first", inputs=train[:1], val=held_out[0], steps=steps["first"])
        both = runs("both", inputs=train, val=held_out[1], steps=steps["both"])
        print(row("first half", steps["first"], first))
        print(row("both at once", steps["both"], both, first), flush=True)
        for how in ({}, *options.rates):
            for replay in options.replay:
                name = f"added-{replay}-{how}"
                added = runs(
                    name, inputs=train[1:], val=held_out[1], steps=steps["added"], replay=replay or None, **how
                )
                shown = f"second half added, {f'replay {replay:.0%}' if replay else 'no replay'}"
                print(row(shown, steps["added"], added, first, both), flush=True)


def row(
    name: str, steps: int, runs: list[dict[str, Any]], first: list[dict[str, Any]] | None = None,
    both: list[dict[str, Any]] | None = None,
) -> str:  # fmt: skip
    """A row of the table: means over seeds, and each seed in parentheses."""

    def mean(values: list[float], sign: str = "") -> str:
        each = ", ".join(f"{value:{sign}.3f}" for value in values)
        return f"{statistics.mean(values):{sign}.3f}" + (f" ({each})" if len(values) > 1 else "")

    cells = [mean([run["bits"][half] for run in runs]) for half in (0, 1)]
    rise = mean([run["bits"][0] - was["bits"][0] for run, was in zip(runs, first, strict=True)], "+") if first else ""
    behind = mean([run["bits"][1] - at["bits"][1] for run, at in zip(runs, both, strict=True)], "+") if both else ""
    settings = ", ".join(f"{runs[0][name]:g}" for name in ("lr", "warmup", "dropout"))
    return " | ".join([f"| {name}", str(steps), settings, *cells, rise, f"{behind} |"])


if __name__ == "__main__":
    main()

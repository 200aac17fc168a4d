"""Does a longer run make a better model? Trains for each of some times, and draws bits per byte against minutes.

    python benchmarks/minutes.py TEXT --minutes 1,3,10,30 --seeds 1 --name gptlite -- --val 10%
    python benchmarks/minutes.py TEXT --minutes 3,15 --trainer RUN --rates 1e-3,2e-3 --decays 0,0.1 --dropouts 0,0.1
    python benchmarks/minutes.py --draw

Runs the command as its user would, one run after the other; what stands after `--` goes to `gptlite train`. Each result
is a line of results/minutes.jsonl as soon as it is there, and the picture, minutes.svg, has all lines of that file.
`--name` is the name of the curve. With `--trainer`, the Trainer of `transformers` trains a model of the shape and with
the vocabulary of RUN (`contenders.py`) for each of the settings; its curve is that of the best one at each time.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from train import ENVIRONMENT

HERE = Path(__file__).parent
RESULTS, PICTURE = HERE / "results/minutes.jsonl", HERE / "minutes.svg"
KEPT = (
    "val_bits_per_byte", "val_bytes", "held_out_bytes", "step", "best_step", "epochs", "n_parameters", "seconds",
    "processor_share",
)  # fmt: skip
TRAINER, SETTINGS = "Trainer of transformers", ("rate", "weight_decay", "dropout")
COLOURS = ("#64748B", "#0F766E", "#7C3AED", "#C2410C", "#A8A29E", "#1D4ED8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="?")
    parser.add_argument("--minutes", default="1,3,10,30")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--name", default="gptlite")
    parser.add_argument("--trainer", type=Path, metavar="RUN", help="measure the Trainer of transformers")
    parser.add_argument("--rates", default="2e-3", help="the Trainer's peak learning rates")
    parser.add_argument("--decays", default="0", help="the Trainer's weight decays")
    parser.add_argument("--dropouts", default="0", help="the Trainer's dropouts")
    parser.add_argument("--draw", action="store_true", help="draw what was measured before, and train nothing")
    parser.add_argument("options", nargs="*", help="of `gptlite train`, after --")
    asked = parser.parse_args()
    if not asked.draw:
        if asked.text is None:
            parser.error("name a text, or use --draw")
        for minutes in map(float, asked.minutes.split(",")):
            for seed in map(int, asked.seeds.split(",")):
                if asked.trainer is None:
                    keep(measure(asked.name, asked.text, minutes, seed, asked.options))
                    continue
                for settings in itertools.product(*(s.split(",") for s in (asked.rates, asked.decays, asked.dropouts))):
                    keep(measure_trainer(asked.trainer, asked.text, minutes, seed, settings))
    draw([json.loads(line) for line in RESULTS.read_text().splitlines()], PICTURE)


def measure(name: str, text: Path, minutes: float, seed: int, options: list[str]) -> dict[str, Any]:
    """One run, whose folder is deleted."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gptlite", "train", str(text), "--time", f"{60 * minutes:g}s"]
        command += ["--seed", str(seed), "--json", "-q", "-o", str(Path(folder) / "run"), *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        result = json.loads(done.stdout)
        plan = json.loads((Path(folder) / "run/run.json").read_text())["plan"]
    shape = {"members": plan["train"]["members"], "n_layers": plan["model"]["n_layers"], "dim": plan["model"]["dim"]}
    found = {key: result[key] for key in KEPT}
    when = {"date": str(datetime.date.today()), "machine": platform.machine()}
    return {"name": name, "text": text.name, "minutes": minutes, "seed": seed, **shape, **found, **when}


def measure_trainer(run: Path, text: Path, minutes: float, seed: int, settings: tuple[str, ...]) -> dict[str, Any]:
    """The Trainer of `transformers`, with a learning rate, a weight decay and a dropout."""
    rate, decay, dropout = settings
    command = [sys.executable, str(HERE / "contenders.py"), "trainer", "--text", str(text), "--run", str(run)]
    command += ["--seconds", f"{60 * minutes:g}", "--seed", str(seed), "--began", repr(time.time())]
    command += ["--rate", rate, "--weight-decay", decay, "--dropout", dropout]
    environment = {**ENVIRONMENT, **os.environ}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    kept = {"val_bits_per_byte": found["bits_per_byte"], "val_bytes": found["val_bytes"], "step": found["steps"]}
    kept |= {"n_parameters": found["parameters"], "seconds": found["seconds"]}
    chosen = {"rate": float(rate), "weight_decay": float(decay), "dropout": float(dropout)}
    when = {"date": str(datetime.date.today()), "machine": platform.machine()}
    return {"name": TRAINER, "text": text.name, "minutes": minutes, "seed": seed, **chosen, **kept, **when}


def keep(record: dict[str, Any]) -> None:
    with RESULTS.open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps(record), flush=True)


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """A panel for each text: the mean of each curve at its best settings, and a point for each run with them."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "gptlite", "font.family": "sans-serif"}
    texts, names = (list(dict.fromkeys(r[key] for r in records)) for key in ("text", "name"))
    figure = Figure(figsize=(7 * len(texts), 5), layout="constrained", facecolor="white")
    for axes, text in zip(figure.subplots(1, len(texts), squeeze=False)[0], texts, strict=True):
        for name, colour in zip(names, COLOURS, strict=False):
            runs = [r for r in records if (r["text"], r["name"]) == (text, name)]
            if not runs:
                continue
            times = sorted({r["minutes"] for r in runs})
            means = []
            for minutes in times:
                by_settings: dict[tuple[float | None, ...], list[float]] = {}
                for r in (r for r in runs if r["minutes"] == minutes):
                    by_settings.setdefault(tuple(map(r.get, SETTINGS)), []).append(r["val_bits_per_byte"])
                bits = min(by_settings.values(), key=fmean)
                means.append(fmean(bits))
                axes.plot([minutes] * len(bits), bits, "o", color=colour, markersize=4)
            axes.plot(times, means, color=colour, linewidth=2, label=name)
        axes.set_xscale("log")
        axes.set_xticks([1, 3, 10, 30, 60], ["1", "3", "10", "30", "60"])
        axes.set_xticks([], minor=True)
        axes.set_title(text, loc="left")
        axes.set_xlabel("minutes")
        axes.set_ylabel("bits per byte of the held-out text (lower is better)")
        axes.grid(color="#DDDDDD", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    lines = {line.get_label(): line for axes in figure.axes for line in axes.lines if line.get_label() in names}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()

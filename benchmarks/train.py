"""gptlite beside nanoGPT's CPU recipe and the Trainer of `transformers`: bits per byte at equal seconds, and speed.

    python benchmarks/train.py TEXT --val 10% --seconds 164

runs every contender (`contenders.py`) in a fresh process of its own, one after the other and seed after seed, on the
CPU. The Trainer runs at each rate of a sweep with the first seed; with the others at the one that did best on the
held-out text, which is more than a user could know. Written are the raw numbers, one line of JSON a process, a dated
table in Markdown, and a picture, whose lines show a part of the held-out text and their ends all of it. `--redraw FILE`
makes table and picture again from the numbers.

Needs `pip install '.[bench]'`. Whatever else runs on the machine meanwhile spoils the result.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NAMES = {"gptlite": "gptlite", "nanogpt": "nanoGPT's CPU recipe", "trainer": "transformers Trainer"}
NEEDED = {"gptlite": ["matplotlib"], "nanogpt": ["matplotlib"], "trainer": ["transformers", "accelerate", "matplotlib"]}
COLOURS = {"gptlite": "#0072B2", "nanogpt": "#D55E00", "trainer": "#009E73"}  # Okabe & Ito 2008: for all eyes
# The same for all: how waiting threads wait (what gptlite sets for itself), and nothing from the network.
ENVIRONMENT = {"GOMP_SPINCOUNT": "30000", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

Record = dict[str, Any]  # what one process measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", type=Path, help="a plain text file")
    parser.add_argument("--val", default="10%", help="the share of its end that is held out")
    parser.add_argument("--seconds", type=float, default=164.0, help="for each process")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--contenders", default=",".join(NAMES))
    parser.add_argument("--rates", default="5e-4,1e-3,2e-3", help="learning rates of the Trainer")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for train.svg and results/")
    parser.add_argument("--redraw", type=Path, metavar="FILE", help="numbers of an earlier run; measures nothing")
    options = parser.parse_args()
    asked = options.contenders.split(",")
    if unknown := [name for name in asked if name not in NAMES]:
        parser.error(f"unknown contender '{unknown[0]}': choose from {', '.join(NAMES)}.")
    if "trainer" in asked and "gptlite" not in asked:
        parser.error("the trainer takes its shape and vocabulary from gptlite's run: add gptlite to --contenders.")
    packages = ["matplotlib"] if options.redraw else dict.fromkeys(p for name in asked for p in NEEDED[name])
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        parser.error(f"not installed: {', '.join(missing)}; they come with: pip install '.[bench]'")

    results = options.redraw or options.out / "results" / f"train-{time.strftime('%Y-%m-%d-%H%M%S')}.jsonl"
    if options.redraw is None:
        if options.text is None or not options.text.is_file():
            parser.error("name a text file to train on.")
        results.parent.mkdir(parents=True, exist_ok=True)
        contenders = [name for name in NAMES if name in asked]  # gptlite first: the others need what it made
        measure(options, contenders, [float(rate) for rate in options.rates.split(",")], results)
    records = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    written = table(records)
    results.with_suffix(".md").write_text(written, encoding="utf-8")
    draw(records, options.out / "train.svg")
    print(written, end="")


# ------------------------------------------------------------------------------------------------------- measuring


def measure(options: argparse.Namespace, contenders: Sequence[str], rates: Sequence[float], results: Path) -> None:
    """Run everything; a process that is done adds a line to `results`, so what comes later can take nothing away."""
    setting = {"date": time.strftime("%Y-%m-%d"), "text": options.text.name, "bytes": options.text.stat().st_size}
    setting |= {"val": options.val, "seconds": options.seconds, "seeds": options.seeds}
    append(results, {"contender": "setting", **setting})
    runs = options.seeds * len(contenders) + (len(rates) - 1 if "trainer" in contenders else 0)
    say(f"{runs} trainings of {options.seconds:g} s each, about {runs * (options.seconds + 15) / 60:.0f} min")
    chosen = rates[0]
    for seed in range(1, options.seeds + 1):
        with tempfile.TemporaryDirectory() as folder:
            lane = Lane(options, seed, Path(folder), results, options.seconds)
            lane.run("machine")
            for name in contenders:
                if name != "trainer":
                    lane.run(name)
            if "trainer" not in contenders:
                continue
            if seed == 1:
                scores = {rate: lane.run("trainer", rate)["bits_per_byte"] for rate in rates}
                chosen = min(rates, key=lambda rate: scores[rate])
                if len(rates) > 1 and chosen in (min(rates), max(rates)):
                    say(f"the best rate, {chosen:g}, lies at the edge of the sweep: widen --rates")
            else:
                lane.run("trainer", chosen)
            lane.run("machine")
            lane.run("steps")


@dataclass
class Lane:
    """The processes of one seed, one after the other; `folder` holds gptlite's run until all are done."""

    options: argparse.Namespace
    seed: int
    folder: Path
    results: Path
    seconds: float

    def run(self, contender: str, rate: float | None = None) -> Record:
        """What one process of `contenders.py` measures; ends the benchmark with its last words when it fails."""
        facts: Record = {"contender": contender, "seed": self.seed} | ({} if rate is None else {"rate": rate})
        say(f"seed {self.seed} of {self.options.seeds}, {label(facts)}:", end=" ")
        command = [sys.executable, str(HERE / "contenders.py"), contender, "--text", str(self.options.text)]
        command += ["--val", self.options.val, "--seed", str(self.seed), "--run", str(self.folder / "run")]
        command += ["--seconds", f"{self.seconds:g}"] + ([] if rate is None else ["--rate", f"{rate:g}"])
        # A cache of its own: gptlite finds nothing that an earlier seed tokenized; the Trainer finds what gptlite did.
        environment = {**ENVIRONMENT, **os.environ, "GPTLITE_CACHE": str(self.folder / "cache")}
        began = ["--began", repr(time.time())]
        done = subprocess.run([*command, *began], env=environment, capture_output=True, text=True, encoding="utf-8")
        if done.returncode:
            sys.exit(f"failed\n{done.stderr[-2000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        append(self.results, {**facts, **found})
        if contender == "gptlite":  # what its command took beyond its seconds, the others get as well
            self.seconds = max(self.seconds, found["seconds"])
        say(f"{found['bits_per_byte']:.3f} bits per byte" if "bits_per_byte" in found else "done")
        return found


def label(facts: Record) -> str:
    rate = f", lr {facts['rate']:g}" if "rate" in facts else ""
    return NAMES.get(facts["contender"], facts["contender"]) + rate


def append(path: Path, line: Record) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------------- the table


def table(records: Sequence[Record]) -> str:
    """Everything measured, in Markdown: what each contender reached, then what gptlite promises."""
    setting, machine = of(records, "setting")[0], of(records, "machine")[0]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    seeds = f"{setting['seeds']} seeds, mean ± standard deviation" if setting["seeds"] > 1 else "one seed"
    lines = [
        f"### {setting['date']}, {machine['chip']}, {threads(machine)}, {versions}",
        "",
        f"{setting['text']} ({setting['bytes']:,} bytes), {setting['val']} held out, {setting['seconds']:g} s for each "
        f"process, {seeds}.",
        "",
        "| contender | parameters | bits per byte | steps | tokens/s | seconds | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, group in groups(records).items():
        cells = [name, f"{group[0]['parameters']:,}", spread([r["bits_per_byte"] for r in group], ".3f")]
        cells += [spread([r[key] for r in group], ",.0f") for key in ("steps", "tokens_per_second")]
        lines.append(row(*cells, spread([r["seconds"] for r in group], ".1f"), str(len(group))))
    notes = [f"All {of(records, *NAMES)[0]['val_bytes']:,} held-out bytes are scored."]
    if of(records, "nanogpt"):
        notes.append("The tokens of nanoGPT's recipe are characters.")
    if steps := of(records, "steps"):
        medians = [
            f"{1000 * statistics.mean(statistics.median(r['all_seconds'][side]) for r in steps):,.0f} ms in {side}"
            for side in steps[0]["all_seconds"]
        ]
        notes.append(f"By turns, a step of {steps[0]['tokens_per_step']:,} tokens took {', '.join(medians)}.")
    products = [r["matmul_per_second"] / 1e9 for r in of(records, "machine")]
    notes.append(f"fp32 matrix products: {spread(products, ',.0f')} billion operations a second.")
    return "\n".join([*lines, "", *promises(records), *notes]) + "\n"


def promises(records: Sequence[Record]) -> list[str]:
    """A table of what gptlite promises and what was measured; what one seed's processes found is compared first."""
    best = best_rate(records)
    below, of_step, of_run, ratio = [], [], [], []
    for seed in sorted({r["seed"] for r in records if "seed" in r}):
        found = {r["contender"]: r for r in records if r.get("seed") == seed and r.get("rate", best) == best}
        if "gptlite" not in found:
            continue
        own = found["gptlite"]
        fastest = max(r["matmul_per_second"] for r in of(records, "machine") if r["seed"] == seed)
        share = 6 * own["parameters"] / fastest  # of what the machine can do, for one token a second
        of_run.append(share * own["tokens_per_second"])
        if "trainer" in found:
            below.append(1 - own["bits_per_byte"] / found["trainer"]["bits_per_byte"])
        if "steps" in found:
            seconds = found["steps"]["seconds_per_step"]
            of_step.append(share * found["steps"]["tokens_per_step"] / seconds["gptlite"])
            ratio.append(seconds["transformers"] / seconds["gptlite"])
    rows: list[tuple[str, list[float], str, float | None]] = [
        ("bits per byte below those of the Trainer at its best rate", below, ".1%", 0.15),
        ("6 x parameters x tokens/s of gptlite's steps, of the rate of matrix products", of_step, ".0%", 0.60),
        ("the same over the whole run, its scores and saves included", of_run, ".0%", None),
        ("tokens/s of gptlite's steps over those of the same architecture in transformers", ratio, ".2f", 1.3),
    ]
    lines = [row("", "measured", "target", "reached"), "|---|---|---|---|"]
    for what, values, form, target in rows:
        if values and target is None:
            lines.append(row(what, spread(values, form), "", ""))
        elif values and target is not None:
            reached = "yes" if statistics.mean(values) >= target else "no"
            lines.append(row(what, spread(values, form), f"at least {target:{form}}", reached))
    return [*lines, ""] if len(lines) > 2 else []


def of(records: Sequence[Record], *contenders: str) -> list[Record]:
    return [r for r in records if r["contender"] in contenders]


def groups(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The seeds of each contender (and rate), by its label."""
    found: dict[str, list[Record]] = {}
    for r in of(records, *NAMES):
        found.setdefault(label(r), []).append(r)
    return found


def best_rate(records: Sequence[Record]) -> float | None:
    """The rate that the sweep of the first seed has chosen."""
    sweep = [r for r in of(records, "trainer") if r["seed"] == 1]
    return min(sweep, key=lambda r: r["bits_per_byte"])["rate"] if sweep else None


def spread(values: Sequence[float], form: str) -> str:
    """The mean of `values`, with their standard deviation where there are several."""
    mean = f"{statistics.mean(values):{form}}"
    return f"{mean} ± {statistics.stdev(values):{form}}" if len(values) > 1 else mean


def threads(machine: Record) -> str:
    return f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


# ----------------------------------------------------------------------------------------------------- the picture


def draw(records: Sequence[Record], path: Path) -> None:
    """Bits per byte over seconds: the mean of each contender and all between its lowest and its highest seed."""
    import matplotlib
    import numpy as np
    from matplotlib.figure import Figure

    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "gptlite", "font.family": "sans-serif"}
    setting, machine, best = of(records, "setting")[0], of(records, "machine")[0], best_rate(records)
    figure = Figure(figsize=(8, 5), layout="constrained", facecolor="white")
    axes = figure.subplots()
    for name, group in sorted(groups(records).items(), key=lambda item: -item[1][0]["bits_per_byte"]):
        contender, beside = group[0]["contender"], group[0].get("rate", best) != best
        curves = [np.array(r["curve"]).T for r in group]  # seconds, bits per byte
        seconds = np.linspace(max(c[0][0] for c in curves), min(c[0][-1] for c in curves), 80)
        seconds = np.union1d(seconds, curves[0][0]) if len(group) == 1 else seconds
        values = np.array([np.interp(seconds, *c) for c in curves])  # (seeds, points)
        style = {"linewidth": 1.0, "linestyle": ":"} if beside else {"linewidth": 2.2}
        mean = spread([r["bits_per_byte"] for r in group], ".3f")
        axes.plot(seconds, values.mean(0), color=COLOURS[contender], label=f"{name}: {mean}", **style)
        axes.fill_between(seconds, values.min(0), values.max(0), color=COLOURS[contender], alpha=0.2, linewidth=0)
        if not beside:
            axes.plot(seconds[-1], values.mean(0)[-1], "o", color=COLOURS[contender], markersize=5)
    seeds = f"{setting['seeds']} seeds: mean and range" if setting["seeds"] > 1 else "one seed"
    axes.set_title(
        f"{setting['text']}, {setting['seconds']:g} s on {machine['chip']}, {threads(machine)}; {seeds}", loc="left"
    )
    axes.set_xlabel("seconds since the process was started")
    axes.set_ylabel("bits per byte of the held-out text (lower is better)")
    axes.set_xlim(left=0)
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="bits per byte at the end", alignment="left", frameon=False)
    figure.text(1, 0, f"{setting['date']} ", ha="right", va="bottom", fontsize=7, color="#666666")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()

"""The results of a comparison as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gptlite.cli.compare import masked_table
from gptlite.cli.shared import console
from gptlite.cli.shared.numbers import count

SAMPLE_COLUMNS = 100


def show(found: Mapping[str, Any]) -> None:
    """All tables, on standard output."""
    contenders = found["contenders"]
    _scores(found, contenders)
    _reach(contenders)
    _speed(contenders)
    _copy(found, contenders)
    console.write(f"\nsamples after the prompt {found['prompt']!r}, drawn with the same random numbers\n")
    rows = [[c["title"], console.cut(console.one_line(c["sample"]), SAMPLE_COLUMNS)] for c in contenders]
    console.print_table(["", "sample"], rows)
    if masked := found.get("masked"):
        masked_table.show(masked)


def _scores(found: Mapping[str, Any], contenders: Sequence[Mapping[str, Any]]) -> None:
    console.write(
        f"{console.duration(found['seconds_each'])} of training for each network on {found['train_bytes']:,} bytes of "
        f"text; scored on {found['val_bytes']:,} bytes that were held out\n"
    )
    rows: list[list[str]] = []
    for c in contenders:
        interval = c["behind_best"]["bits_per_byte_interval"]
        behind = c["behind_best"]["bits_per_byte"]
        margin = f" ± {(interval[1] - interval[0]) / 2:.3f}" if interval else ""
        rows.append(
            [
                c["title"],
                f"{c['bits_per_byte']:.3f}",
                "best" if c["name"] == found["best"] else f"+{behind:.3f}{margin}",
                count(c["n_parameters"]) if c["n_parameters"] else "",
                f"{c['learning_rate']:g}" if c["learning_rate"] else "",
                count(c["n_tokens_seen"]),
                count(c["n_memory_numbers"]),
            ]
        )
    heads = ["", "bits/byte", "behind the best", "parameters", "learning rate", "tokens read", "numbers of memory"]
    console.print_table(heads, rows, right=frozenset(range(1, 7)))


def _reach(contenders: Sequence[Mapping[str, Any]]) -> None:
    parts = next((c["reach"] for c in contenders if c["reach"]), [])
    if not parts:
        return
    console.write("\nreach: bits per byte of a token by how many tokens before it are known\n")
    heads = ["", *(_span(part) for part in parts), "more help until"]
    rows = [
        [c["title"], *(f"{part['bits_per_byte']:.2f}" for part in c["reach"]), _until(c["reach"])] for c in contenders
    ]
    console.print_table(heads, rows, right=frozenset(range(1, len(heads))))


def _span(part: Mapping[str, Any]) -> str:
    return str(part["first"]) if part["first"] == part["last"] else f"{part['first']}-{part['last']}"


def _until(reach: Sequence[Mapping[str, Any]]) -> str:
    helping = [part["first"] for part in reach if part["helps"]]
    return str(max(helping)) if helping else ""


def _speed(contenders: Sequence[Mapping[str, Any]]) -> None:
    timed = [c for c in contenders if c["speed"]]
    console.write("\nspeed: training tokens/s by context, operations one after the other, and time per written token\n")
    contexts = [str(at["context_length"]) for at in timed[0]["speed"]] if timed else []
    rows = [
        [
            c["title"],
            *([f"{at['tokens_per_second']:,}" for at in c["speed"]] or [""] * len(contexts)),
            f"{c['speed'][-1]['n_sequential_operations']:,} of {contexts[-1]}" if c["speed"] else "",
            f"{1e3 * c['seconds_per_written_token']:.2f} ms",
        ]
        for c in contenders
    ]
    heads = ["", *contexts, "one after the other", "written token"]
    console.print_table(heads, rows, right=frozenset(range(1, len(heads))))


def _copy(found: Mapping[str, Any], contenders: Sequence[Mapping[str, Any]]) -> None:
    console.write(f"\ncopy test: names copied correctly, by distance in tokens (chance: {found['copy_chance']:.1%})\n")
    distances = [str(test["distance"]) for test in contenders[0]["copy"]]
    rows = [[c["title"], *(f"{test['right']:.0%}" for test in c["copy"])] for c in contenders]
    console.print_table(["", *distances], rows, right=frozenset(range(1, len(distances) + 1)))

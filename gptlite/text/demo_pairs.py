"""Made-up pairs with known answers, the text of `gptlite train --demo pairs`: numbers in words and digits, dates.

    two hundred forty-seven  ->  247             March 5, 1987  ->  1987-03-05
    247  ->  two hundred forty-seven             1987-03-05  ->  March 5, 1987

A number or date that is held out is held out in both directions.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
MOST_DIGITS, MOST_DIGITS_LONGER = 6, 9
FIRST_DAY, N_DAYS = datetime.date(1900, 1, 1), 73_000  # two centuries
N_NUMBERS, N_DATES, N_HELD_OUT, N_LONGER = 20_000, 10_000, 600, 200
NAMES = ("pairs.jsonl", "pairs-held-out.jsonl", "pairs-longer.jsonl")

# What suffices to learn it in two minutes on two cores.
SHAPE = {"n_layers": 4, "dim": 128, "n_heads": 2}
TRAINING = {"seconds": 120.0}
VOCABULARY = 384

Pair = tuple[str, str]


def in_words(number: int) -> str:
    """A number below 10^9 in English words."""
    for size, name in ((1_000_000, "million"), (1000, "thousand")):
        if number >= size:
            rest = f" {in_words(number % size)}" if number % size else ""
            return f"{in_words(number // size)} {name}{rest}"
    if number >= 100:
        rest = f" {in_words(number % 100)}" if number % 100 else ""
        return f"{ONES[number // 100]} hundred{rest}"
    if number < 20:
        return ONES[number]
    return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")


def of_number(number: int) -> list[Pair]:
    return [(in_words(number), str(number)), (str(number), in_words(number))]


def of_date(date: datetime.date) -> list[Pair]:
    words = f"{MONTHS[date.month - 1]} {date.day}, {date.year}"
    return [(words, date.isoformat()), (date.isoformat(), words)]


def make_pairs(seed: int = 0) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Pairs to train on, to hold out, and of numbers with more digits than any of these."""
    rng = random.Random(seed)
    numbers: set[int] = set()
    while len(numbers) < N_NUMBERS:
        digits = rng.randint(1, MOST_DIGITS)
        numbers.add(rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits))
    days = rng.sample(range(N_DAYS), N_DATES)
    items = [*map(of_number, sorted(numbers)), *(of_date(FIRST_DAY + datetime.timedelta(day)) for day in days)]
    rng.shuffle(items)
    longer = [of_number(rng.randrange(10**MOST_DIGITS, 10**MOST_DIGITS_LONGER)) for _ in range(N_LONGER)]
    train = [pair for item in items[N_HELD_OUT:] for pair in item]
    rng.shuffle(train)
    return train, [pair for item in items[:N_HELD_OUT] for pair in item], [pair for item in longer for pair in item]


def as_records(pairs: Iterable[Pair]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps({"prompt": prompt, "completion": answer}) + "\n" for prompt, answer in pairs)


def write_pairs(directory: Path) -> tuple[Path, Path, Path]:
    """The files with pairs to train on, to hold out, and longer ones."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / name for name in NAMES]
    for path, pairs in zip(paths, make_pairs(), strict=True):
        content = as_records(pairs)
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8", newline="\n")
    return paths[0], paths[1], paths[2]


def not_trained_on(info: Mapping[str, Any]) -> tuple[list[Pair], list[Pair]]:
    """The held-out pairs, and numbers with more digits; none for a run that was not trained on these pairs.

    - `info`: the run.json of the run.
    """
    if not any(Path(source["path"]).name == NAMES[0] for source in info.get("inputs", [])):
        return [], []
    train, held_out, longer = make_pairs()
    digest = hashlib.sha256(as_records(train).encode()).hexdigest()
    return (held_out, longer) if any(source["sha256"] == digest for source in info["inputs"]) else ([], [])

"""Where prompts come from: an argument, a file, standard input, or a file of many."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptlite.cli.shared import options, sources
from gptlite.errors import CorpusError, UsageError

LONGEST_PROMPT = 64 << 20  # bytes; of many prompts together, too


@dataclass(frozen=True)
class Prompt:
    """A text to continue, the seed of its samples where the file says one, and what else stands beside it there."""

    text: str
    seed: int | None = None
    columns: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def as_columns(self) -> dict[str, Any]:
        """ "columns" of a JSON object, where there are any."""
        return {"columns": dict(self.columns)} if self.columns else {}


def read_prompt(argument: str | None, option: str | None, file: str | None, encoding: str | None = None) -> str:
    """The one prompt of a command line; "" where none is given."""
    given = [source for source in (argument, option, file) if source is not None]
    if len(given) > 1:
        raise UsageError("give the prompt once: as an argument, with -p, or with -f.")
    if file is None and given[:1] != ["-"]:
        return options.check_text(given[0], "the prompt") if given else ""
    return sources.read_text("-" if file is None else file, "the prompt", LONGEST_PROMPT, encoding)


def read_prompts(name: str, encoding: str | None = None) -> list[Prompt]:
    """The prompts in a file, or in standard input for -: one a line, blank lines left out.

    A line of a file whose name ends in .jsonl is an object with "prompt" and perhaps "seed"; a .csv or .tsv file has
    columns of these names. Other keys and columns, such as an id, come along to JSON.
    Raises `CorpusError`, which says which line is wrong.
    """
    content = sources.read_text(name, "the prompts", LONGEST_PROMPT, encoding)
    if (kind := Path(name).suffix.lower()) in (".csv", ".tsv"):
        return _read_table(content, name, "\t" if kind == ".tsv" else ",")
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise CorpusError(f"{name} holds no prompts: it has only blank lines.")
    if name.lower().endswith(".jsonl"):
        return [_parse(line, f"line {number:,} of {name}") for number, line in numbered]
    return [Prompt(line) for _, line in numbered]


def _parse(line: str, where: str) -> Prompt:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where} is not JSON: {str(error)[:100]}.") from error
    if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
        raise CorpusError(f'{where} must be an object with a text as its "prompt".')
    return _make(value, where)


def _read_table(content: str, name: str, delimiter: str) -> list[Prompt]:
    """The rows of a .csv or .tsv file whose first line names the columns."""
    csv.field_size_limit(LONGEST_PROMPT)
    rows = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    if "prompt" not in (rows.fieldnames or ()):
        raise CorpusError(f'the first line of {name} names no column "prompt".')
    found: list[Prompt] = []
    try:
        for row in rows:
            where = f"line {rows.line_num:,} of {name}"
            if None in row or None in row.values():
                raise CorpusError(f"{where} has another number of columns than the first line.")
            seed = row.get("seed") or None
            if seed is not None and not re.fullmatch("[0-9]{1,19}", seed):
                raise CorpusError(f"the seed in {where} must be a whole number, not '{seed[:20]}'.")
            found.append(_make({**row, "seed": None if seed is None else int(seed)}, where))
    except csv.Error as error:
        raise CorpusError(f"the row that begins in line {rows.line_num + 1:,} of {name}: {error}.") from error
    if not found:
        raise CorpusError(f"{name} holds no prompts: it has only the names of columns.")
    return found


def _make(value: Mapping[str, Any], where: str) -> Prompt:
    prompt, seed = value["prompt"], value.get("seed")
    if seed is not None and not (type(seed) is int and 0 <= seed < 2**63):
        raise CorpusError(f'the "seed" in {where} must be a whole number from 0 to 2^63 - 1.')
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(f'the "prompt" in {where} holds half of a character.') from error
    return Prompt(prompt, seed, {key: x for key, x in value.items() if key not in ("prompt", "seed")})

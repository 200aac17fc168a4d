"""JSON and safetensors headers without their loopholes: one meaning, bounded numbers, no name twice.

Python's `json` lets NaN, 1e999, repeated keys and half of a surrogate pair pass; the safetensors library lets repeated
names, shapes of any rank and tensors without elements pass. What comes out of here has none of them.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, TypeGuard

from gptlite.errors import CheckpointError

LARGEST_HEADER = 1 << 20  # bytes; about 9,000 tensors
LARGEST_RANK = 4
LARGEST_DEPTH = 32
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


class Entry(NamedTuple):
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Table:
    """The tensors of a safetensors file by name, and at which byte of the file each begins.

    `head` is the bytes that say so, `size` what the file must have.
    """

    entries: Mapping[str, Entry]
    begins: Mapping[str, int]
    head: bytes
    size: int


def shown(value: object) -> str:
    """`repr`, cut so that a sentence about it stays one."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def parse_object(text: str, where: object) -> dict[str, Any]:
    """The JSON object that `text` is. Raises `CheckpointError`."""
    try:
        value = json.loads(
            text,
            object_pairs_hook=_without_repeats,
            parse_float=_finite_float,
            parse_constant=_no_constant,
        )
        _check_depth(value)
        if "\\u" in text:  # an escape may be half of a surrogate pair, which is no text
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not JSON as gptlite reads it: {str(error)[:200]}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} must hold a JSON object.")
    return value


def is_count(value: object, most: int = 2**63 - 1) -> bool:
    """Is it an integer from 0 to `most`? True and False are none."""
    return type(value) is int and 0 <= value <= most


def is_number(value: object) -> TypeGuard[int | float]:
    """Is it a number that a float can be, and finite? True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def header_length(first: bytes, size: int, where: object) -> int:
    """How long the header is that follows the `first` 8 bytes of a safetensors file of `size` bytes."""
    length = int.from_bytes(first[:8], "little")
    if len(first) < 8 or not 2 <= length <= size - 8:
        raise CheckpointError(f"{where} is not a safetensors file: it is too short for its header.")
    if length > LARGEST_HEADER:
        raise CheckpointError(f"{where} is not a safetensors file of a model: its header has {length:,} bytes.")
    return length


def header_bytes(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How long the header of a safetensors file of F32 tensors of these `shapes` is, within a few bytes."""
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, end]}
        at = end
    return len(json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()) + 8


def parse_table(head: bytes, size: int, where: object) -> Table:
    """The table in the `head` of a safetensors file of `size` bytes: its length, then JSON, then nothing.

    Each tensor begins where the one before it ends, and the last one ends with the file.
    """
    if head[8:9] != b"{":
        raise CheckpointError(f"{where} is not a safetensors file: its header does not begin with a brace.")
    try:
        text = head[8:].decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where} is not a safetensors file: its header is not UTF-8.") from error
    header = parse_object(text, f"the header of {where}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{where}: its metadata is not text.")
    places: list[tuple[int, int, str]] = []
    entries: dict[str, Entry] = {}
    for name, entry in header.items():
        begin, end, entries[name] = _entry(name, entry, where)
        places.append((begin, end, name))
    at = 0
    for begin, end, name in sorted(places):
        if begin != at:
            raise CheckpointError(f"{where}: tensor {shown(name)} begins at byte {begin:,} of the data, not at {at:,}.")
        at = end
    if len(head) + at != size:
        raise CheckpointError(f"{where}: its header speaks of {len(head) + at:,} bytes, the file has {size:,}.")
    return Table(entries, {name: len(head) + begin for begin, _, name in places}, head, size)


def check_entries(found: Mapping[str, Entry], expected: Mapping[str, Entry], where: object) -> None:
    """Raises `CheckpointError` that names the first tensors that differ."""
    wrong = [
        f"{shown(name)} is {_described(found.get(name))} instead of {_described(expected.get(name))}"
        for name in (*expected, *(name for name in found if name not in expected))
        if found.get(name) != expected.get(name)
    ]
    if wrong:
        more = f"; {len(wrong) - 3:,} more differ" if len(wrong) > 3 else ""
        raise CheckpointError(f"{where}: tensor {'; '.join(wrong[:3])}{more}.")


def _described(entry: Entry | None) -> str:
    return "absent" if entry is None else f"{entry.dtype} {shown(entry.shape)}"


def _entry(name: str, entry: Any, where: object) -> tuple[int, int, Entry]:
    """Where a tensor begins and ends, and what it is."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where}: tensor {shown(name)} lacks one of dtype, shape, data_offsets, or has more.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise CheckpointError(f"{where}: tensor {shown(name)} has the unknown dtype {shown(dtype)}.")
    if not isinstance(shape, list) or len(shape) > LARGEST_RANK or not all(is_count(n) and n for n in shape):
        raise CheckpointError(f"{where}: tensor {shown(name)} has the shape {shown(shape)}, which cannot be.")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(is_count(n) for n in offsets):
        raise CheckpointError(f"{where}: tensor {shown(name)} has the data_offsets {shown(offsets)}, which cannot be.")
    (begin, end), found = offsets, Entry(dtype, tuple(shape))
    if end - begin != found.n_bytes:
        raise CheckpointError(
            f"{where}: tensor {shown(name)} has {end - begin:,} bytes, too few or many for its shape."
        )
    return begin, end, found


def _check_depth(value: Any) -> None:
    """Raises `ValueError` where `LARGEST_DEPTH` or more lists and objects stand inside each other."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(LARGEST_DEPTH - 1):
        level = [
            item
            for outer in level
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, (dict, list)) and item
        ]
    if any(level):
        raise ValueError("its lists and objects are nested too deeply")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {shown(name)} stands in it twice")
        found[name] = value
    return found


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {shown(digits)} is too large")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")

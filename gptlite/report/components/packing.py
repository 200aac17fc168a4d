"""Arrays in one block of bytes, with numbers of 32, 16 or 8 bits, and what is left of them there.

The block: the length of the description (4 bytes, little-endian), the description as JSON, then the arrays, each at a
multiple of 4. `unpack.js` reads it. Numbers of 8 bits have a scale for each row, its largest value divided by 127;
they follow the scales.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

DTYPES = ("f32", "f16", "int8")
BYTES = {"f32": 4, "f16": 2, "int8": 1}  # of a number
INTEGERS = {np.dtype(np.uint32): "u32", np.dtype(np.uint8): "u8"}
EXACT = ("position.table",)  # matrices that keep at least 16 bits: they are added to everything
LARGEST_HALF = 65504.0


def kind_of(name: str, array: np.ndarray, dtype: str) -> str:
    """How an array is stored where matrices have numbers of `dtype`: vectors keep all their bits."""
    if array.dtype in INTEGERS:
        return INTEGERS[array.dtype]
    if array.ndim < 2 or dtype == "f32":
        return "f32"
    return "f16" if name.endswith(EXACT) else dtype


def pack(description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], dtype: str) -> bytes:
    """The block. Raises `OverflowError` for a number beyond the range of 16 bits."""
    listed, parts, n = [], [], 0
    for name, array in arrays.items():
        kind = kind_of(name, array, dtype)
        raw = _bytes(array, kind)
        listed.append({"name": name, "kind": kind, "shape": list(array.shape), "offset": n})
        parts.append(raw + b"\0" * (-len(raw) % 4))
        n += len(parts[-1])
    # The arrays begin after a description that names their offsets, so its length must not depend on these.
    room = len(json.dumps({**description, "arrays": listed})) + 16 * len(listed) + 8
    start = 4 + room + (-room % 4)
    for entry in listed:
        entry["offset"] += start
    header = json.dumps({**description, "arrays": listed}).encode().ljust(start - 4)
    return len(header).to_bytes(4, "little") + header + b"".join(parts)


def rounded(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """What is read from the block, as float32."""
    kind = kind_of(name, array, dtype)
    if kind == "f16":
        return _half(array).astype(np.float32)
    if kind == "int8":
        scales, numbers = _eight_bits(array)
        return numbers.astype(np.float32) * scales
    return array.astype(np.float32)


def _bytes(array: np.ndarray, kind: str) -> bytes:
    if kind == "f16":
        return _half(array).tobytes()
    if kind == "int8":
        scales, numbers = _eight_bits(array)
        return scales.tobytes() + numbers.tobytes()
    return array.astype({"f32": "<f4", "u32": "<u4", "u8": "u1"}[kind]).tobytes()


def _half(array: np.ndarray) -> np.ndarray:
    if np.abs(array).max(initial=0) > LARGEST_HALF:
        raise OverflowError("a weight is beyond the range of 16 bits")
    return array.astype("<f2")


def _eight_bits(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales (rows, 1) and whole numbers of -127 to 127."""
    scales = (np.abs(array).max(axis=1, keepdims=True) / 127).astype("<f4")
    return scales, np.rint(array / np.maximum(scales, np.float32(1e-30))).clip(-127, 127).astype(np.int8)

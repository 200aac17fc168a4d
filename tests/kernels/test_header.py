"""common.h is read as the compiler reads it, and what contradicts it is refused."""

from __future__ import annotations

import ctypes

import pytest

from gptlite.kernels.header import COMMON, Header

SMALL = """
/* struct nothing { int n; }; #define NOTHING 1 */
#define LANES 32 /* of a block */
struct pair {
    int64_t first, second; /* in order */
    const float *weights, *biases;
};
struct whole {
    struct pair left, right;
    const struct pair *others;
    float eps;
};
double mean(int n, const struct pair *pairs, struct pair by_value,
            const float *x);
void nothing(int n);
"""


def test_constants_structures_and_functions_are_found() -> None:
    header = Header(SMALL)
    assert header.constants == {"LANES": 32}
    pair, whole = header.structures["pair"], header.structures["whole"]
    assert list(header.structures) == ["pair", "whole"]
    assert [(name, kind) for name, kind in pair._fields_] == [
        ("first", ctypes.c_int64), ("second", ctypes.c_int64),
        ("weights", ctypes.c_void_p), ("biases", ctypes.c_void_p),
    ]  # fmt: skip
    assert [(name, kind) for name, kind in whole._fields_] == [
        ("left", pair), ("right", pair), ("others", ctypes.c_void_p), ("eps", ctypes.c_float),
    ]  # fmt: skip
    assert header.functions == {
        "mean": (ctypes.c_double, [ctypes.c_int, ctypes.POINTER(pair), pair, ctypes.c_void_p]),
        "nothing": (None, [ctypes.c_int]),
    }


def test_what_it_does_not_understand_is_an_error() -> None:
    with pytest.raises((ValueError, KeyError)):
        Header("struct odd {\n    char name[8];\n};\n")


def test_ours_declares_all_that_python_calls() -> None:
    assert {"norm", "linear", "layer", "model", "pass", "dropout", "heads"} == COMMON.structures.keys()
    assert {"forward", "attention_forward", "cross_entropy"} <= COMMON.functions.keys()

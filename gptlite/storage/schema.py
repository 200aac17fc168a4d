"""JSON values compared with types: the schema of a file is written once, as annotations, and checked when it is read.

A schema is a `TypedDict`, a dataclass, or any annotation made of `int`, `float`, `str`, `bool`, `None`, `Any`,
`list[X]`, `dict[str, X]`, unions of them, and `Annotated[X, Rule(...)]` for what a type cannot say. Of a `TypedDict`
only the keys that it calls required must be there, and further keys pass; of a dataclass those without a default must
be there, and every key must be a field. Integers are those of 64 bits, and True is none of them; a float may be written
as an integer.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gptlite.errors import CheckpointError
from gptlite.storage.validation import is_number, shown

NAMES = {int: "an integer", float: "a number", str: "a text", bool: "true or false", type(None): "null"}


@dataclass(frozen=True)
class Rule:
    """A condition on a value that has the right type, and what it asks for in words: "a sha256"."""

    holds: Callable[[Any], bool]
    words: str


def check(value: Any, kind: Any, where: object, name: str = "") -> None:
    """Raises `CheckpointError`, which names the file (`where`) and the field, unless `value` is of that `kind`."""
    if kind in NAMES:
        return _require(_is(value, kind), value, NAMES[kind], where, name)
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        check(value, parts[0], where, name)
        if not parts[1].holds(value):
            raise _wrong(value, parts[1].words, where, name)
    elif origin in (typing.Union, types.UnionType):
        _check_union(value, parts, where, name)
    elif origin is list:
        _require(isinstance(value, list), value, "a list", where, name)
        for i, item in enumerate(value):
            check(item, parts[0], where, f"{name}[{i}]")
    elif origin is dict:
        _require(isinstance(value, dict), value, "an object", where, name)
        for key, item in value.items():
            check(item, parts[1], where, _joined(name, key))
    elif kind is not Any:  # a TypedDict or a dataclass
        _check_fields(value, kind, where, name)


def check_fields(value: Mapping[str, Any], fields: Mapping[str, Any], where: object, name: str = "") -> None:
    """The same for those keys of an object that `fields` has a kind for."""
    for key, kind in fields.items():
        if key in value:
            check(value[key], kind, where, _joined(name, key))


def _check_union(value: Any, kinds: tuple[Any, ...], where: object, name: str) -> None:
    if value is None and type(None) in kinds:
        return
    others = [kind for kind in kinds if kind is not type(None)]
    if len(others) == 1:
        check(value, others[0], where, name)
    elif not any(_is(value, kind) for kind in others):
        raise _wrong(value, " or ".join(NAMES[kind] for kind in others), where, name)


def _check_fields(value: Any, kind: Any, where: object, name: str) -> None:
    _require(isinstance(value, dict), value, "an object", where, name)
    fields = _hints(kind)
    for key in _required(kind):
        if key not in value:
            raise CheckpointError(f"{where} does not say '{_joined(name, key)}'.")
    if not typing.is_typeddict(kind) and (unknown := sorted(value.keys() - fields.keys())):
        raise CheckpointError(f"{where}: '{_joined(name, unknown[0])}' is not known to this gptlite.")
    check_fields(value, fields, where, name)


@functools.cache
def _required(kind: Any) -> list[str]:
    """The fields that must be there, in order."""
    if typing.is_typeddict(kind):
        return [key for key in _hints(kind) if key in kind.__required_keys__]
    unset = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(kind) if f.default is unset and f.default_factory is unset]


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _is(value: Any, kind: Any) -> bool:
    if kind is float:
        return is_number(value)
    if kind is int:
        return type(value) is int and -(2**63) <= value < 2**63
    return isinstance(value, kind)


def _require(condition: bool, value: Any, words: str, where: object, name: str) -> None:
    if not condition:
        raise _wrong(value, words, where, name)


def _wrong(value: Any, words: str, where: object, name: str) -> CheckpointError:
    return CheckpointError(f"{where}: '{shown(name)[1:-1]}' is {shown(value)}, not {words}.")


def _joined(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key

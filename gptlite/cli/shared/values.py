# pyright: basic, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false
"""Values of options, taken as they are where nothing has to be found out about them.

Typer checks every value with pydantic, whose import takes longer than some commands do. Text needs no check, and of a
number it is soon seen that it is one; whatever is left, and so every error, is still typer's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, get_args, get_origin

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.models import ParameterInfo

WHOLE = re.compile(r"-?[0-9]{1,15}")
DECIMAL = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")


class Doubtful(Exception):
    """A value that typer has to look at."""


def take_plain(command: Any) -> Any:
    """The command, of typer, which from now on needs pydantic only for values that are not plainly what they should be.

    Should a typer to come have another way for values to go through, then that one is taken.
    """
    theirs = command.get_params

    def get_params(context: Any) -> list[Any]:
        parameters = theirs(context)
        for parameter in parameters:
            way = getattr(parameter, "get_runtime_param", None)
            if way and not isinstance(way, Coercion):
                parameter.get_runtime_param = Coercion(way)
        return parameters

    command.get_params = get_params
    for part in getattr(command, "commands", {}).values():
        take_plain(part)
    return command


class Coercion:
    """Makes a parameter of what was typed, or of a default; `theirs` is how typer gets at its own way to do that."""

    def __init__(self, theirs: Callable[[], Any]) -> None:
        self.theirs = theirs

    def __call__(self) -> Coercion:
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        try:
            return take(value, param.type_descriptor.annotation, param.type_descriptor.parameter_info)
        except (AttributeError, Doubtful):
            return self.theirs().coerce(value, param=param, ctx=ctx)


def take(value: Any, kind: Any, about: ParameterInfo) -> Any:
    """A value of the type `kind`. Raises `Doubtful` where that is not plain, and what the option's parser raises."""
    if get_origin(kind) is list and isinstance(value, list | tuple):
        return [take(item, get_args(kind)[0], about) for item in value]
    if get_origin(kind) is tuple and isinstance(value, list | tuple) and len(value) == len(get_args(kind)):
        return tuple(take(item, each, about) for item, each in zip(value, get_args(kind), strict=True))
    if about.parser is not None:
        return about.parser(value)
    if kind is str and isinstance(value, str):
        return value
    if kind in (int, float):
        return _take_number(value, kind, about)
    raise Doubtful


def _take_number(value: Any, kind: type[int] | type[float], about: ParameterInfo) -> int | float:
    if isinstance(value, str) and (WHOLE if kind is int else DECIMAL).fullmatch(value):
        value = kind(value)
    in_range = type(value) is kind and (about.min is None or value >= about.min)
    if not in_range or (about.max is not None and value > about.max) or about.clamp:
        raise Doubtful
    return value

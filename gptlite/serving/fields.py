"""The fields of a JSON body, each read with a type and limits; what is wrong is said in one sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

LARGEST_BIAS = 100.0


class BadRequest(Exception):
    """A request that is refused. `status`: of HTTP; `field`: which one is wrong; `code`: OpenAI's name for it."""

    def __init__(self, message: str, status: int = 400, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.field, self.code = message, status, field, code


def parse_body(body: bytes) -> dict[str, Any]:
    """The object that a body is. Raises `BadRequest`."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair is no text
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8.") from None
    except UnicodeEncodeError:
        raise BadRequest("the body holds half of a surrogate pair, which is no text.") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error.msg} at character {error.pos:,}.") from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise BadRequest(f"the body must be a JSON object, not {describe(value)}.")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def describe(value: Any) -> str:
    """What kind of JSON a value is; never the value itself, which may be text of a person."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names = {int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names[type(value)]


class Fields:
    """A JSON object that is read field by field; `null` is as good as absent. `finish` refuses what nobody has read."""

    def __init__(self, values: Mapping[str, Any], where: str = "") -> None:
        self.values, self.where = values, where
        self.read: set[str] = set()

    def get(self, name: str) -> Any:
        self.read.add(name)
        return self.values.get(name)

    def wrong(self, name: str, expected: str, value: Any, *, shown: bool = False) -> NoReturn:
        found = json.dumps(value) if shown else describe(value)
        raise BadRequest(f"{self.where}{name} must be {expected}, not {found}.", field=f"{self.where}{name}")

    def whole(self, name: str, default: Any, low: int, high: int) -> Any:
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            self.wrong(name, "a whole number", value)
        if not low <= value <= high:
            raise BadRequest(f"{self.where}{name} must be between {low:,} and {high:,}.", field=f"{self.where}{name}")
        return value

    def number(self, name: str, default: Any) -> Any:
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.wrong(name, "a number", value)
        if not math.isfinite(value) or abs(value) > 1e9:
            raise BadRequest(f"{self.where}{name} is too large a number.", field=f"{self.where}{name}")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            self.wrong(name, "true or false", value)
        return bool(value)

    def text(self, name: str, default: str | None = None) -> str | None:
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            self.wrong(name, "a string", value)
        return default if value is None else value

    def texts(self, name: str, most: int) -> tuple[str, ...]:
        """A string, or a list of them, none of them empty."""
        value = self.get(name)
        listed = [value] if isinstance(value, str) else value or []
        if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
            self.wrong(name, "a string or a list of strings", value)
        if len(listed) > most:
            raise BadRequest(f"{name} has {len(listed):,} strings; {most:,} are the most.", field=name)
        if "" in listed:
            raise BadRequest(f"{name} must not hold an empty string.", field=name)
        return tuple(listed)

    def biases(self, name: str, vocab_size: int) -> tuple[tuple[int, float], ...]:
        """An object of ids, as strings, and numbers from -100 to 100."""
        value = self.get(name)
        if value is None:
            return ()
        if not isinstance(value, dict):
            self.wrong(name, "an object of token ids and numbers", value)
        found: list[tuple[int, float]] = []
        for key, bias in value.items():
            if not (key.isascii() and key.isdecimal() and len(key) < 10 and int(key) < vocab_size):
                raise BadRequest(f"{name} has a key that is no token id; they end at {vocab_size - 1:,}.", field=name)
            if isinstance(bias, bool) or not isinstance(bias, int | float) or not abs(bias) <= LARGEST_BIAS:
                raise BadRequest(f"{name} must have numbers from -100 to 100.", field=name)
            found.append((int(key), float(bias)))
        return tuple(found)

    def only(self, name: str, allowed: Collection[Any], why: str) -> None:
        """A field that is understood, but can only have one of these values."""
        value = self.get(name)
        if value is not None and not any(value == each and type(value) is type(each) for each in allowed):
            raise BadRequest(f"{self.where}{name} is not supported: {why}.", field=f"{self.where}{name}")

    def ignore(self, *names: str) -> None:
        """Fields that label a request and say nothing about its answer."""
        self.read.update(names)

    def finish(self) -> None:
        unknown = sorted(set(self.values) - self.read)
        if unknown:
            name = unknown[0] if len(unknown[0]) <= 40 and unknown[0].isprintable() else "one of its names"
            raise BadRequest(f"{self.where or 'the request '}has a field that this server does not know: {name}.")

"""common.h as ctypes: its constants, its structures, and the argument types of its functions.

The header is the only place where these layouts are written; C includes it and Python reads it. That the compiler laid
the structures out as ctypes does is checked when a library is loaded (build.py).
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

HEADER = Path(__file__).with_name("common.h")

SCALARS: dict[str, Any] = {
    "int": ctypes.c_int, "int64_t": ctypes.c_int64, "uint32_t": ctypes.c_uint32, "float": ctypes.c_float,
    "double": ctypes.c_double,
}  # fmt: skip
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
CONSTANT = re.compile(r"^#define (\w+) +(\d+)", re.MULTILINE)
STRUCTURE = re.compile(r"^struct (\w+) \{(.*?)^\};", re.MULTILINE | re.DOTALL)
PROTOTYPE = re.compile(r"^(\w+) (\w+)\(([^)]*)\);", re.MULTILINE)
DECLARATION = re.compile(r"(?:const )?(struct \w+|\w+) (.+)")


class Header:
    """What a header declares.

    - `constants`: the numbers of #define.
    - `structures`: a `ctypes.Structure` for each struct, in the order of the file; their pointers are `c_void_p`.
    - `functions`: the result type (None for void) and the argument types of each prototype.
    """

    def __init__(self, text: str) -> None:
        text = COMMENT.sub("", text)
        self.constants = {name: int(value) for name, value in CONSTANT.findall(text)}
        self.structures: dict[str, type[ctypes.Structure]] = {}
        for name, body in STRUCTURE.findall(text):
            fields = [field for line in body.split(";") if line.strip() for field in self._fields(line)]
            self.structures[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
        self.functions: dict[str, tuple[Any, list[Any]]] = {}
        for result, name, arguments in PROTOTYPE.findall(text):
            types = [self._argument(argument) for argument in arguments.split(",")]
            self.functions[name] = (None if result == "void" else SCALARS[result], types)

    def _fields(self, declaration: str) -> list[tuple[str, Any]]:
        """Names and types of a declaration such as "const float *weight, *bias"."""
        match = DECLARATION.fullmatch(" ".join(declaration.split()))
        if match is None:
            raise ValueError(f"{HEADER.name}: cannot read the declaration {declaration.strip()!r}")
        kind, names = match.groups()
        return [(name.strip("* "), ctypes.c_void_p if "*" in name else self._scalar(kind)) for name in names.split(",")]

    def _argument(self, declaration: str) -> Any:
        """The type of an argument: a pointer to a structure takes nothing but that."""
        ((_, kind),) = self._fields(declaration)
        pointed = re.match(r"\s*(?:const )?struct (\w+) \*", declaration)
        return ctypes.POINTER(self.structures[pointed[1]]) if pointed else kind

    def _scalar(self, kind: str) -> Any:
        return self.structures[kind.removeprefix("struct ")] if kind.startswith("struct ") else SCALARS[kind]

    def declare(self, library: ctypes.CDLL) -> None:
        """Set argument and result types of all functions that `library` has; wrong arguments then raise an error."""
        for name, (result, arguments) in self.functions.items():
            if hasattr(library, name):
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments


COMMON = Header(HEADER.read_text(encoding="utf-8"))

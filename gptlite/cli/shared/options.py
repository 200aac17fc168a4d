"""Options that several commands share, the units that numbers may carry, and where texts come from."""

from __future__ import annotations

import contextlib
import os
import re
from typing import Annotated, Any, Literal

import typer

from gptlite.config import LARGEST_NUMBER
from gptlite.errors import UsageError

COUNT_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}

# Other tools' names for the same option, without the dashes; kept out of the help page.
ALIASES = {
    "activation-checkpointing": "recompute", "block-size": "context", "choices": "choice", "context-length": "context",
    "gradient-checkpointing": "recompute", "iters": "steps", "learning-rate": "lr",
    "length": "max-new-tokens", "max-iters": "steps", "max-seq-len": "context", "max-steps": "steps",
    "max-tokens": "max-new-tokens",
    "n-embd": "dim", "n-head": "heads", "n-layer": "layers", "out-dir": "out", "output": "out", "output-dir": "out",
    "precision": "dtype", "repeat-penalty": "repetition-penalty", "temp": "temperature", "typical": "typical-p",
}  # fmt: skip


def normalise(option: str) -> str:
    """Underscores for hyphens, and the names other tools use."""
    name = option.replace("_", "-")
    return ALIASES.get(name, name)


def parse_count(text: str | int) -> int:
    """A whole number, perhaps with k, M or G: 10k is 10,000."""
    match = re.fullmatch(r"(-?\d{1,18}(?:\.\d{1,9})?)([kmg]?)", str(text).strip().lower())
    if not match:
        raise typer.BadParameter(f"'{text}' is not a number such as 500, 10k or 2M")
    value = float(match[1]) * COUNT_UNITS[match[2]] if "." in match[1] else int(match[1]) * COUNT_UNITS[match[2]]
    if value != int(value):
        raise typer.BadParameter(f"'{text}' is not a whole number")
    return int(value)


def parse_count_or_auto(text: str | int) -> int:
    """A count above 0, or 0 for "auto"."""
    if str(text).lower() == "auto":
        return 0
    if not (count := parse_count(text)):
        raise typer.BadParameter("it must be auto or above zero")
    return count


def parse_bias(text: str, escapes: bool = False) -> tuple[str | int, float]:
    """A text or a token and its bias: the=+2.5 is a text and a number, #7=-1 an id and a number."""
    token, equals, value = read_text(text, "--logit-bias", escapes).rpartition("=")
    try:
        if not equals:
            raise ValueError
        bias = float(value)
    except ValueError:
        raise UsageError(f"--logit-bias needs a text and a number, such as the=-1.5 or #7=2, not '{text}'.") from None
    return (int(token[1:]) if re.fullmatch(r"#[0-9]{1,9}", token) else token), bias


def read_text(text: str, option: str, escapes: bool) -> str:
    """The text that an option names: as it stands, or with `escapes` after those are undone."""
    text = check_text(text, option)
    return unescape(text) if escapes else text


def unescape(text: str) -> str:
    r"""A text in which \n, \r and \t stand for a line break, a carriage return and a tab, and \\ for a backslash."""
    return re.sub(r"\\([nrt\\])", lambda m: {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}[m[1]], text)


def check_text(text: str, what: str) -> str:
    """The text that an argument spells in UTF-8, whatever the locale. Raises `UsageError` when it spells none."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError as error:  # Python keeps bytes that the locale does not know as surrogates
        with contextlib.suppress(UnicodeError):
            return os.fsencode(text).decode("utf-8")
        raise UsageError(f"{what} is not UTF-8: it holds the byte 0x{ord(text[error.start]) & 0xFF:02X}.") from error


def input_encoding(panel: str | None = None) -> Any:
    """--encoding of commands that read texts for a model, on a panel of the help page; None is the first panel."""
    return typer.Option(
        "--encoding", metavar="NAME", help="Of the files read, such as gb18030 or utf-16.", show_default=False,
        rich_help_panel=panel,
    )  # fmt: skip


# What several commands offer: one spelling and one meaning.
Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "fp32", "bf16"]
NEWEST = "$GPTLITE_MODEL, else the newest run"
ModelOption = Annotated[
    str | None,
    typer.Option("-m", "--model", metavar="DIR", help="A run, a step or a Hugging Face model.", show_default=NEWEST),
]
ModelArgument = Annotated[
    str | None, typer.Argument(metavar="DIR", help="A run, a step or a model directory.", show_default=NEWEST)
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where to compute.", rich_help_panel="Machine")]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Precision.", rich_help_panel="Machine")]
TrainDtypeOption = Annotated[
    Literal["auto", "fp32", "bf16", "int8"],
    typer.Option("--dtype", help="Of matrix products.", rich_help_panel="Machine"),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", help="CPU threads.", show_default="all cores", rich_help_panel="Machine"),
]
# Of text that is written.
TextsAtOnceOption = Annotated[
    int | None,
    typer.Option("--batch-size", metavar="N", min=1, max=LARGEST_NUMBER, help="Texts written side by side.",
                 show_default="up to 32", rich_help_panel="Machine"),
]  # fmt: skip
DecodeDtypeOption = Annotated[
    str,
    typer.Option("--dtype", metavar="NAME", help="fp32, or int8 on a CPU: twice as fast.", rich_help_panel="Machine"),
]
DecodeCompileOption = Annotated[
    str,
    typer.Option("--compile", metavar="auto|on|off", hidden=True, rich_help_panel="Machine",
                 help="auto, on or off: decode in machine code made on this computer."),
]  # fmt: skip
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
LossyOption = Annotated[
    bool, typer.Option("--lossy", help="Read bytes that are not UTF-8 as �, and keep NULs.", rich_help_panel="Data")
]
EncodingOption = Annotated[
    str | None,
    typer.Option(
        "--encoding",
        metavar="NAME",
        help="Of the text, such as gb18030 or utf-16.",
        show_default="utf-8",
        rich_help_panel="Data",
    ),
]
KeepLineEndsOption = Annotated[
    bool,
    typer.Option(
        "--keep-line-ends",
        help="Keep CRLF line ends instead of reading them as line feeds.",
        rich_help_panel="Data",
        hidden=True,
    ),
]
SeparatorOption = Annotated[
    str | None,
    typer.Option(
        "--separator",
        metavar="TEXT",
        help="What ends a document inside a file, such as '<|endoftext|>'.",
        show_default=False,
        rich_help_panel="Data",
    ),
]
AsTextOption = Annotated[
    bool,
    typer.Option(
        "--as-text", help="Learn markup, tables and JSON as they stand, without a notice.", rich_help_panel="Data"
    ),
]
TextFieldOption = Annotated[
    str | None,
    typer.Option("--text-field", metavar="NAME", help="Of records: the field that is the text.",
                 show_default="text", rich_help_panel="Data"),
]  # fmt: skip
PairsOption = Annotated[
    str | None,
    typer.Option("--pairs", metavar="A,B", help="Of records: prompt and answer.",
                 show_default="recognised", rich_help_panel="Data"),
]  # fmt: skip
GivenFieldsOption = Annotated[
    str | None,
    typer.Option("--given", metavar="A,B", help="Of records: fields that are conditions of the text.",
                 show_default=False, rich_help_panel="Data"),
]  # fmt: skip
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing on standard error.")]

# Of vectors of words in texts.
Pool = Literal["last", "mean", "first", "weighted"]
LayerOption = Annotated[
    str,
    typer.Option("--layer", metavar="L", help="last, mid, a number (0 is below the first block) or A-B for their mean.",
                 rich_help_panel="Which vector"),
]  # fmt: skip
PoolOption = Annotated[Pool, typer.Option("--pool", help="Of a word's tokens.", rich_help_panel="Which vector")]
CorrectOption = Annotated[
    str,
    typer.Option("--correct", metavar="NAME", help="Of cosines: zscore, center, abtt:K or none.",
                 rich_help_panel="Which vector"),
]  # fmt: skip

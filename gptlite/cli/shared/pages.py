"""What all pages of the command line share: how they become files, and --figures, their charts as files."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Annotated

import typer

from gptlite.cli.shared import console
from gptlite.errors import StorageError, UsageError, system_reason

if TYPE_CHECKING:
    from gptlite.report.page import Figure

FOLDERS = re.compile(r"""(?<![\w.~:/\\-])(?:[A-Za-z]:)?[/\\](?:[^\s/\\'"]+[/\\])+(?=[^\s/\\])""")

FiguresOption = Annotated[
    str | None,
    typer.Option(
        "--figures",
        metavar="DIR",
        help="Write each chart as SVG and as PNG into this folder.",
        rich_help_panel="Output",
    ),
]


def model_name(path: Path) -> str:
    """Of a model or a step: the last two parts of its path, and not whose directory it is in."""
    return "/".join(path.absolute().parts[-2:])


def without_folders(text: str) -> str:
    """A text in which the names of files that begin at the root of the file system have lost their folders."""
    return FOLDERS.sub("", text)


def shareable_command(words: Sequence[object]) -> str:
    """A command whose words, and values after an option's =, are the names of files without their folders where these
    begin at the root of the file system or at a home."""
    return shlex.join(_without_folder(str(word)) for word in words)


def _without_folder(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    if value.startswith("~") or PurePosixPath(value).is_absolute():
        name = PurePosixPath(value).name
    else:
        name = PureWindowsPath(value).name if PureWindowsPath(value).is_absolute() else value
    return option + equals + (name or value)


def write(path: Path, content: str) -> None:
    """Write a page or another text. Raises `StorageError`."""
    from gptlite.storage import durable

    with durable.replacing(path) as scratch:
        scratch.write_text(content, encoding="utf-8", errors="backslashreplace", newline="\n")


def check_figures(folder: str | None, *, force: bool) -> None:
    """Raises `UsageError`, before any work, where a folder has charts already that might be overwritten."""
    if folder is None or force:
        return
    there = sorted(path.name for path in Path(folder).glob("*") if path.suffix in (".svg", ".png"))
    if there:
        raise UsageError(
            f"--figures {folder}: there are charts already, such as {there[0]}; choose another folder, or overwrite "
            "them with --force."
        )


def write_figures(folder: Path, figures: Mapping[str, Figure], messages: console.Messages) -> None:
    """Draw `figures` into a folder, without a browser; it is made if it is missing. Raises `StorageError`."""
    from gptlite.report import page
    from gptlite.storage import durable

    try:
        durable.make_directory(folder)
    except OSError as error:
        raise StorageError(f"cannot make the folder {folder}: {system_reason(error)}.") from error
    for name, figure in figures.items():
        svg, png = page.draw(figure)
        for kind, content in (("svg", svg.encode()), ("png", png)):
            with durable.replacing(folder / f"{name}.{kind}") as scratch:
                scratch.write_bytes(content)
    messages.say(f"{', '.join(figures)} as .svg and .png in {folder}")

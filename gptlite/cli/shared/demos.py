"""The built-in texts of `--demo`: which one is meant, and where it is written to be read as any other file."""

from __future__ import annotations

from collections.abc import Sequence

from gptlite.errors import UsageError

HOMONYMS, PAIRS = "homonyms", "pairs"  # the texts besides Python's language reference


def check(demo: bool, files: Sequence[str]) -> None:
    """Raises `UsageError` where `--demo` stands beside files of the user's own."""
    if demo and list(files) not in ([], [HOMONYMS], [PAIRS]):
        raise UsageError(
            "--demo brings its own text; leave the files out, or name another one: --demo homonyms or --demo pairs."
        )


def inputs(files: Sequence[str], val: str | None) -> tuple[list[str], str | None]:
    """The file with the text, and what is held out: of pairs a file of its own, unless `val` names something."""
    from gptlite.paths import cache_directory
    from gptlite.text import demo, demo_pairs

    if PAIRS in files:
        train, held_out, _ = demo_pairs.write_pairs(cache_directory())
        return [str(train)], val or str(held_out)
    return [str(demo.demo_text(cache_directory(), HOMONYMS in files))], val

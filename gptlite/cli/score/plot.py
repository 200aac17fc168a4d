"""gptlite score --plot: surprisal along a text, or a few, as a chart."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from gptlite.cli.score.items import Item, Items
from gptlite.cli.shared import pages
from gptlite.errors import CorpusError

if TYPE_CHECKING:
    from gptlite.cli.score.table import Judge
    from gptlite.evaluation.surprisal_table import Layout
    from gptlite.evaluation.surprisals import ScoredText, Unit
    from gptlite.report.surprisal import Bars

FORMATS = {".svg": "svg", ".png": "png", ".html": "html", ".htm": "html"}


def write(path: Path, items: Items, judges: Sequence[Judge], layout: Layout, context: str) -> int:
    """Draw all texts into one file; how many they are. Raises `CorpusError` where they are too many, or too long."""
    from gptlite.cli.score.table import Before
    from gptlite.evaluation.surprisal_table import BASES
    from gptlite.report import page, surprisal
    from gptlite.storage import durable

    batch = list(islice(items, surprisal.MOST_TEXTS + 1))
    if not batch:
        raise CorpusError("the files have no text to score.")
    if len(batch) > surprisal.MOST_TEXTS:
        raise CorpusError(
            f"{batch[-1].where}: a plot shows up to {surprisal.MOST_TEXTS} texts; put the ones to be shown in a file "
            "of their own."
        )
    before = Before(context, judges).of(batch)
    scored = [judge.scorer.score([item.texts[0] for item in batch], before) for judge in judges]
    factor = BASES[layout.base][1]
    texts = [
        _bars(item, of_text, layout, factor) for item, of_text in zip(batch, zip(*scored, strict=True), strict=True)
    ]
    command = pages.shareable_command(["gptlite", *sys.argv[1:]])
    names = [judge.name for judge in judges]
    shown = surprisal.Surprisals(names, texts, BASES[layout.base][0], command)
    form = FORMATS[path.suffix.lower()]
    if form == "html":
        pages.write(path, surprisal.render(shown))
        return len(batch)
    svg, png = page.draw(surprisal.figure(shown))
    with durable.replacing(path) as scratch:
        scratch.write_bytes(svg.encode() if form == "svg" else png)
    return len(batch)


def _bars(item: Item, scored: Sequence[ScoredText], layout: Layout, factor: float) -> Bars:
    from gptlite.report import surprisal

    units = layout.units_of_all(scored, item.regions[0])
    if len(units[0]) > surprisal.MOST_BARS:
        raise CorpusError(
            f"{item.where}: a plot shows up to {surprisal.MOST_BARS} bars per text, and this text needs "
            f"{len(units[0]):,}; cut it into shorter texts."
        )
    values = [[unit.surprisal * factor for unit in each] for each in units]
    places = item.regions[0]
    if places == [(0, len(item.texts[0]))]:
        places = []  # a text without marks is one region, which needs no shade
    return surprisal.Bars(item.where, [unit.text for unit in units[0]], values, [_region(u, places) for u in units[0]])


def _region(unit: Unit, places: Sequence[tuple[int, int]]) -> int | None:
    """The number of the region, from 1, in which a unit's first letter stands."""
    first = unit.start + len(unit.text) - len(unit.text.lstrip())
    return next((i for i, (start, end) in enumerate(places, start=1) if start <= first < end), None)

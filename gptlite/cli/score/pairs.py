"""gptlite score --pairs: how often the good text of a minimal pair is the more probable one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gptlite.cli.score.items import Item, Items, in_batches
from gptlite.cli.score.writing import Rows, Sink
from gptlite.cli.shared import console
from gptlite.errors import CorpusError

if TYPE_CHECKING:
    from gptlite.cli.score.table import Judge
    from gptlite.evaluation.surprisal_table import Layout

COLUMNS = (("good", "bad"), ("sentence_good", "sentence_bad"))
GROUPS = ("linguistics_term", "phenomenon", "group")  # columns that accuracy is given by, where --by names none
PAIRS_AT_ONCE = 256


def run(
    items: Items, judges: Sequence[Judge], layout: Layout, region: int | None, by: str | None, rows: Rows, sink: Sink,
    messages: console.Messages, *, to_file: bool,
) -> None:  # fmt: skip
    """Score all pairs; write a row per pair to a file, and the accuracy of each model to standard output."""
    from gptlite.cli.score.table import counted
    from gptlite.evaluation import minimal_pairs

    groups: dict[str, list[list[float]]] = {}
    everything: list[list[float]] = [[] for _ in judges]
    number = 0
    with counted(items, "pair", messages, to_file=True) as progress:
        for batch in in_batches(items, PAIRS_AT_ONCE):
            measured = [_bits(judge, batch, layout, region) for judge in judges]
            group_of = _group_column(items, by)
            lines: list[dict[str, Any]] = []
            for i, item in enumerate(batch):
                line: dict[str, Any] = {**item.values, "pair": number + i}
                group = str(item.values.get(group_of)) if group_of else "all"
                into = groups.setdefault(group, [[] for _ in judges])
                for j, (judge, pairs) in enumerate(zip(judges, measured, strict=True)):
                    good, bad = pairs[i]
                    judgement = minimal_pairs.judge(good, bad)
                    into[j].append(judgement)
                    everything[j].append(judgement)
                    suffix = f".{judge.name}" if len(judges) > 1 else ""
                    line |= {f"good_bits{suffix}": good, f"bad_bits{suffix}": bad, f"correct{suffix}": judgement}
                lines.append(line)
            if to_file and number + len(batch) > sink.done:
                header = rows.header(list(lines[0])) if number == 0 else ""
                rows.columns = list(lines[0])
                sink.write(header + rows.lines(lines), len(batch))
            number += len(batch)
            progress.update(number + len(items.skipped))
    if not number:
        raise CorpusError("the files have no pairs to score.")
    _print(groups, everything, judges)


def _bits(judge: Judge, batch: Sequence[Item], layout: Layout, region: int | None) -> list[tuple[float, float]]:
    """Of each pair: the surprisal of the good text, or of its region, and that of the bad one, in bits."""
    from gptlite.evaluation.surprisals import regions_of, sentence_of

    scored = judge.scorer.score([text for item in batch for text in item.texts])
    values: list[float] = []
    for text, item, k in zip(scored, [i for i in batch for _ in i.texts], [0, 1] * len(batch), strict=True):
        if region is None:
            values.append(sentence_of(text, raw=layout.raw).surprisal)
            continue
        places = item.regions[k]
        if region > len(places):
            raise CorpusError(
                f"{item.where}: `region` is {region}, and the text has {console.plural(len(places), 'region')}."
            )
        value = regions_of(text, [places[region - 1]], raw=layout.raw)[0].surprisal
        if math.isnan(value):
            raise CorpusError(f"{item.where}: region {region} has no token of its own.")
        values.append(value)
    return list(zip(values[::2], values[1::2], strict=True))


def _group_column(items: Items, by: str | None) -> str | None:
    if by is None:
        return next((name for name in GROUPS if name in items.header), None)
    if by not in items.header:
        raise CorpusError(f"there is no column {by!r} for `by`; the columns are: {', '.join(items.header) or 'none'}.")
    return by


def _print(groups: dict[str, list[list[float]]], everything: list[list[float]], judges: Sequence[Judge]) -> None:
    from gptlite.evaluation.minimal_pairs import accuracy

    several = len(judges) > 1
    rows: list[list[str]] = []
    shown = {**(groups if len(groups) > 1 else {}), "all": everything}
    for group, judged in shown.items():
        for judge, values in zip(judges, judged, strict=True):
            found = accuracy(values)
            interval = f"{found.low:.3f} to {found.high:.3f}"
            row = [group, *([judge.name] if several else []), f"{found.share:.3f}", interval, f"{found.pairs:,}"]
            rows.append([*row, f"{found.ties:,}"])
    columns = ["group", *(["model"] if several else []), "accuracy", "95 % interval", "pairs", "ties"]
    n = len(columns)
    console.print_table(columns, rows, right=frozenset({n - 4, n - 3, n - 2, n - 1}))

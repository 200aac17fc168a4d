"""One page about a run: what was planned, what happened, and what came of it.

What it says in numbers and sentences is written here; `training.js` draws. Its numbers are those of `run.json` and
`metrics.jsonl`, and of the files of the best step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gptlite.report import page
from gptlite.report.page import visible

MOST_POINTS = 600  # of a curve; of more, some are left out
MOST_SAMPLES = 50
LONGEST_SAMPLE = 1000  # characters
SIZES = {"bits": (900, 340), "map": (620, 620)}  # of charts by themselves
SERIES = {"train_loss": "training", "val_loss": "held out"}


@dataclass(frozen=True)
class Writing:
    """What a step writes, and how much of it is copied: two tables whose first rows are heads, and a `verdict` on them.

    - `command` writes the `texts`, and the tables, again.
    """

    command: str
    texts: Sequence[str]
    verdict: str
    shares: Sequence[Sequence[str]] = ()
    passages: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Training:
    """What the page shows of a run.

    - `metrics`: the lines of `metrics.jsonl`, each with a "step"; `baselines`: bits per byte by name.
    - `expected`: bits per byte that the plan hoped for, or None.
    - `facts`: tables by title, each with rows of cells; the first row of one in `headed` is its head.
    - `samples`: (step, text) from the log; `writing`: what the best step writes now.
    - `words` with `places` (n, 2) on a map of the embedding table that shows `shares` (2,).
    """

    name: str
    headline: str
    metrics: Sequence[Mapping[str, Any]]
    baselines: Mapping[str, float]
    expected: float | None
    facts: Mapping[str, Sequence[Sequence[str]]]
    headed: frozenset[str] = frozenset()
    writing: Writing | None = None
    samples: Sequence[tuple[int, str]] = ()
    words: Sequence[str] = ()
    places: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    shares: Sequence[float] = (0.0, 0.0)
    command: str = ""


def render(shown: Training) -> str:
    """The page as HTML. Raises `UsageError` when the libraries that draw are not installed."""
    specs = _charts(shown)
    samples = [(step, visible(text[:LONGEST_SAMPLE])) for step, text in spread(shown.samples, MOST_SAMPLES)]
    return page.render(
        "training",
        {},
        specs,
        name=visible(shown.name),
        headline=visible(shown.headline),
        drawn=set(specs),
        facts={title: _visible_rows(rows) for title, rows in shown.facts.items()},
        headed=shown.headed,
        writing=shown.writing and _visible_writing(shown.writing),
        samples=samples,
        n_samples=len(shown.samples),
        n_words=len(shown.words),
        shares=[f"{share:.0%}" for share in shown.shares],
        command=visible(shown.command),
        n_lines=len(shown.metrics),
    )


def _visible_rows(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[visible(cell) for cell in row] for row in rows]


def _visible_writing(writing: Writing) -> Writing:
    return Writing(
        visible(writing.command),
        [visible(text) for text in writing.texts],
        visible(writing.verdict),
        _visible_rows(writing.shares),
        _visible_rows(writing.passages),
    )


def figures(shown: Training) -> dict[str, page.Figure]:
    """The charts of the page by themselves, by name."""
    return {name: page.Figure(spec, SIZES.get(name, (440, 220))) for name, spec in _charts(shown).items()}


def _charts(shown: Training) -> dict[str, dict[str, Any]]:
    """Those for which there are numbers."""
    lines = thinned(shown.metrics)
    specs = {
        "bits": _bits(lines, shown.baselines, shown.expected),
        "loss": _curves(lines, SERIES, "nats a token"),
        "lr": _curves(lines, {"lr": "learning rate"}, "learning rate"),
        "speed": _curves(lines, {"tokens_per_second": "tokens a second"}, "tokens a second", zero=True),
        "map": _map(shown) if len(shown.words) else None,
    }
    return {name: spec for name, spec in specs.items() if spec is not None}


def thinned(metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most `MOST_POINTS` lines, evenly spread, and of those with a score as many more."""
    scored = [line for line in metrics if "val_bits_per_byte" in line]
    kept = {id(line) for lines in (metrics, scored) for line in spread(lines, MOST_POINTS)}
    return [line for line in metrics if id(line) in kept]


def spread(items: Sequence[Any], n: int) -> list[Any]:
    """At most n of `items`, the first and the last among them."""
    if len(items) <= n:
        return list(items)
    return [items[round(i * (len(items) - 1) / (n - 1))] for i in range(n)]


# -- Charts


def _x() -> Any:
    import altair as alt

    return alt.X("step:Q", title="step", axis=alt.Axis(format=",.0f", tickMinStep=1, grid=False))


def _curves(
    lines: Sequence[Mapping[str, Any]], series: Mapping[str, str], title: str, *, zero: bool = False
) -> dict[str, Any] | None:
    """Each of `series` over the steps; None where no line has any of them."""
    import altair as alt

    values = [
        {"step": line["step"], "y": line[key], "of": name}
        for key, name in series.items()
        for line in lines
        if key in line
    ]
    if not values:
        return None
    names = [name for key, name in series.items() if any(key in line for line in lines)]
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=3) if len(names) > 1 else None
    base = alt.Chart(alt.InlineData(values=values)).encode(
        _x(),
        alt.Y("y:Q", title=title, scale=alt.Scale(zero=zero)),
        alt.Color("of:N", scale=alt.Scale(domain=names, range="ordinal"), legend=legend),
        tooltip=[alt.Tooltip("of:N", title="of"), alt.Tooltip("step:Q", format=","), alt.Tooltip("y:Q", title=title)],
    )
    return alt.layer(base.mark_line(strokeWidth=2), base.mark_point(size=14, filled=True, opacity=0.6)).to_dict()


def _bits(
    lines: Sequence[Mapping[str, Any]], baselines: Mapping[str, float], expected: float | None
) -> dict[str, Any] | None:
    """Bits per byte of the held-out text over the steps, among what it has to beat."""
    import altair as alt

    values = [
        {"step": line["step"], "bits": line["val_bits_per_byte"]} for line in lines if "val_bits_per_byte" in line
    ]
    if not values:
        return None
    rules = [{"name": name, "bits": bits} for name, bits in baselines.items()]
    if expected is not None:
        rules.append({"name": "the plan", "bits": expected})
    y = alt.Y("bits:Q", title="bits per byte", scale=alt.Scale(zero=False))
    tooltip = [alt.Tooltip("step:Q", format=","), alt.Tooltip("bits:Q", title="bits per byte", format=".4f")]
    base = alt.Chart(alt.InlineData(values=values)).encode(_x(), y, tooltip=tooltip)
    marks: list[Any] = [
        base.mark_line(strokeWidth=2.5, style="result"),
        base.mark_point(size=40, filled=True, style="result"),
    ]
    if rules:
        rule = alt.Chart(alt.InlineData(values=rules)).encode(
            y, tooltip=["name:N", alt.Tooltip("bits:Q", format=".4f")]
        )
        marks.append(rule.mark_rule(strokeDash=[4, 4], style="now"))
        marks.append(
            # On the left, where a curve that falls is far above them.
            rule.mark_text(align="left", baseline="bottom", dy=-2, dx=4, x=0, fontSize=11).encode(text="name:N")
        )
    return alt.layer(*marks).to_dict()


def _map(shown: Training) -> dict[str, Any]:
    """Words where their rows of the embedding table lie."""
    import altair as alt

    values = [
        {"word": visible(word), "x": round(float(x), 4), "y": round(float(y), 4)}
        for word, (x, y) in zip(shown.words, shown.places, strict=True)
    ]
    scale = alt.Scale(zero=False, nice=False, padding=24)
    axis = alt.Axis(labels=False, ticks=False, domain=False, grid=False, title=None)
    base = alt.Chart(alt.InlineData(values=values)).encode(
        alt.X("x:Q", scale=scale, axis=axis), alt.Y("y:Q", scale=scale, axis=axis), tooltip="word:N"
    )
    return alt.layer(
        base.mark_point(filled=True, size=14, opacity=0.5, style="result"),
        base.mark_text(dy=-6, fontSize=10, style="word").encode(text="word:N"),
    ).to_dict()

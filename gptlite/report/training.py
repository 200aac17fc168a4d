"""One page about a run: what was planned, what happened, and what came of it.

What it says in numbers and sentences is written here; `training.js` draws. Its numbers are those of `run.json` and
`metrics.jsonl`, and of the files of the best step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gptlite.report import emergence, labels, page
from gptlite.report.page import visible

MOST_POINTS = 600  # of a curve; of more, some are left out
MOST_SAMPLES = 50
LONGEST_SAMPLE = 1000  # characters
SIZES = {"bits": (900, 340), "map": (620, 620)}  # of charts by themselves
SERIES = {"train_loss": "training", "val_loss": "held out"}
AXES = {"step": "step", "elapsed": "seconds", "tokens": "tokens read"}  # fields of a line over which curves are drawn
LABEL_ROOM = 0.06  # of the height of a chart, for one label
MAP_SIZES = (620, 460, 320)  # pixels for which the labels of the map are placed
MAP_FONT, MAP_MARGIN = 10, 0.05  # pixels; of the width


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

    - `result`: the score in words, "" while there is none; `headline`: what else is to be said of it.
    - `metrics`: the lines of `metrics.jsonl`, each with a "step"; of step 0, where there is one, scores alone.
    - `baselines`: bits per byte by name.
    - `expected`: bits per byte that the plan hoped for, or None.
    - `facts`: tables by title, each with rows of cells; the first row of one in `headed` is its head.
    - `provenance`: the tables that are folded away, below the `command`.
    - `samples`: (step, text) from the log; `writing`: what the best step writes now.
    - `emergence`: how words came to be, as report/emergence.py has it.
    - `words` with `places` (n, 2) on a map of the embedding table that shows `shares` (2,).
    """

    name: str
    result: str
    headline: str
    metrics: Sequence[Mapping[str, Any]]
    baselines: Mapping[str, float]
    expected: float | None
    facts: Mapping[str, Sequence[Sequence[str]]]
    provenance: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict[str, Sequence[Sequence[str]]])
    headed: frozenset[str] = frozenset()
    writing: Writing | None = None
    samples: Sequence[tuple[int, str]] = ()
    words: Sequence[str] = ()
    places: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    shares: Sequence[float] = (0.0, 0.0)
    command: str = ""
    emergence: Mapping[str, Any] | None = None


def render(shown: Training) -> str:
    """The page as HTML. Raises `UsageError` when the libraries that draw are not installed."""
    specs = _charts(shown)
    axes = common_axes([shown.metrics])
    samples = [(step, visible(text[:LONGEST_SAMPLE])) for step, text in spread(shown.samples, MOST_SAMPLES)]
    return page.render(
        "training",
        {"axes": axes, "mapSizes": MAP_SIZES},
        specs,
        name=visible(shown.name),
        result=visible(shown.result),
        headline=visible(shown.headline),
        drawn=set(specs),
        axes=axes,
        facts={title: _visible_rows(rows) for title, rows in shown.facts.items()},
        provenance={title: _visible_rows(rows) for title, rows in shown.provenance.items()},
        headed=shown.headed,
        writing=shown.writing and _visible_writing(shown.writing),
        samples=samples,
        n_samples=len(shown.samples),
        n_words=len(shown.words),
        shares=[f"{share:.0%}" for share in shown.shares],
        command=visible(shown.command),
        n_lines=len(shown.metrics),
        emergences=[emergence.context(shown.emergence)] if shown.emergence else [],
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
        "loss": _curves(lines, SERIES, "nats per token"),
        "lr": _curves(lines, {"lr": "learning rate"}, "learning rate"),
        "speed": _curves(lines, {"tokens_per_second": "tokens per second"}, "tokens per second", zero=True),
        "map": _map(shown) if len(shown.words) else None,
    }
    if shown.emergence:
        losses = [(line["step"], line["train_loss"]) for line in lines if "train_loss" in line]
        specs |= emergence.charts(shown.emergence, losses)
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


def common_axes(runs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """Those of `AXES` that every line has; steps in any case."""
    return {key: name for key, name in AXES.items() if key == "step" or all(key in x for run in runs for x in run)}


def over(field: str = "step") -> Any:
    """The horizontal axis of curves. A page puts another field in its place: page.js."""
    import altair as alt

    return alt.X(f"{field}:Q", title=AXES[field], axis=alt.Axis(format="~s", tickMinStep=1, grid=False))


def places_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """Where a line of the log stands on each of the axes that it has."""
    return {key: line[key] for key in AXES if key in line}


def place_tips(values: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What a point of a curve says of its place when it is pointed at: what all of `values` have."""
    import altair as alt

    return [alt.Tooltip(f"{key}:Q", title=name, format=",.0f") for key, name in common_axes([values]).items()]


def _curves(
    lines: Sequence[Mapping[str, Any]], series: Mapping[str, str], title: str, *, zero: bool = False
) -> dict[str, Any] | None:
    """Each of `series` over the steps; None where no line has any of them."""
    import altair as alt

    values = [
        {**places_of(line), "y": line[key], "of": name} for key, name in series.items() for line in lines if key in line
    ]
    if not values:
        return None
    names = [name for key, name in series.items() if any(key in line for line in lines)]
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=3) if len(names) > 1 else None
    base = alt.Chart(alt.InlineData(values=values)).encode(
        over(),
        alt.Y("y:Q", title=title, scale=alt.Scale(zero=zero)),
        alt.Color("of:N", scale=alt.Scale(domain=names, range="ordinal"), legend=legend),
        tooltip=[alt.Tooltip("of:N", title="of"), *place_tips(values), alt.Tooltip("y:Q", title=title)],
    )
    return alt.layer(base.mark_line(strokeWidth=2), base.mark_point(size=14, filled=True, opacity=0.6)).to_dict()


def _bits(
    lines: Sequence[Mapping[str, Any]], baselines: Mapping[str, float], expected: float | None
) -> dict[str, Any] | None:
    """Bits per byte of the held-out text over the steps, among what it has to beat."""
    import altair as alt

    values = [{**places_of(line), "bits": line["val_bits_per_byte"]} for line in lines if "val_bits_per_byte" in line]
    if not values:
        return None
    rules = [*baselines.items(), *([] if expected is None else [("the plan", expected)])]
    scores = [value["bits"] for value in values]
    every = [*scores, *(bits for _, bits in rules)]
    extent = (max(every) - min(every)) or 1.0
    gap = LABEL_ROOM * extent
    # Labels stand at the right, above their lines and clear of the end of the curve.
    tail = scores[-max(1, len(scores) // 4) :]
    heights = labels.stack([bits for _, bits in rules], gap, [(min(tail) - gap / 4, max(tail) + gap / 4)])
    top = max([*every, *(y + gap for y in heights)])
    scale = alt.Scale(zero=False, nice=False, domain=[min(every) - gap / 2, top + gap / 2])
    y = alt.Y("bits:Q", title="bits per byte", scale=scale)
    tooltip = [*place_tips(values), alt.Tooltip("bits:Q", title="bits per byte", format=".4f")]
    base = alt.Chart(alt.InlineData(values=values)).encode(over(), y, tooltip=tooltip)
    marks: list[Any] = [
        base.mark_line(strokeWidth=2.5, style="result"),
        base.mark_point(size=40, filled=True, style="result"),
    ]
    if rules:
        data = [
            {"name": name, "bits": bits, "label": f"{name} {bits:.2f}", "at": at}
            for (name, bits), at in zip(rules, heights, strict=True)
        ]
        rule = alt.Chart(alt.InlineData(values=data)).encode(y, tooltip=["name:N", alt.Tooltip("bits:Q", format=".4f")])
        marks.append(rule.mark_rule(strokeDash=[4, 4], style="now"))
        named = alt.Chart(alt.InlineData(values=data)).encode(
            alt.Y("at:Q", scale=scale), text="label:N", x=alt.value("width")
        )
        text = {"align": "right", "baseline": "bottom", "dy": -2, "dx": -4, "fontSize": 11}
        marks += [named.mark_text(**text, style="halo"), named.mark_text(**text)]
    return alt.layer(*marks).to_dict()


def _map(shown: Training) -> dict[str, Any]:
    """Words where their rows of the embedding table lie; those for whose label there is room have one.

    Labels are placed for each of `MAP_SIZES`; the parameter `room` is the one that is shown.
    """
    import altair as alt

    words = [visible(word) for word in shown.words]
    low, high = shown.places.min(axis=0), shown.places.max(axis=0)
    extent = np.maximum(high - low, 1e-9)
    shares = MAP_MARGIN + (1 - 2 * MAP_MARGIN) * (shown.places - low) / extent  # from the left, and from below
    points = [
        {"word": word, "x": round(float(x), 4), "y": round(float(y), 4)}
        for word, (x, y) in zip(words, shares, strict=True)
    ]
    texts: list[dict[str, Any]] = []
    for size in MAP_SIZES:
        at = labels.place(words, np.stack([shares[:, 0], 1 - shares[:, 1]], axis=1) * size, size, MAP_FONT)
        texts += [
            {"word": word, "room": size, "x": round(place[0] / size, 4), "y": round(1 - place[1] / size, 4)}
            for word, place in zip(words, at, strict=True)
            if place is not None
        ]
    axis = alt.Axis(labels=False, ticks=False, domain=False, grid=False, title=None)
    scale = alt.Scale(domain=[0, 1], zero=False, nice=False)
    x, y = alt.X("x:Q", scale=scale, axis=axis), alt.Y("y:Q", scale=scale, axis=axis)
    room = alt.param(name="room", value=MAP_SIZES[0])
    dots = alt.Chart(alt.InlineData(values=points)).encode(x, y, tooltip="word:N")
    named = alt.Chart(alt.InlineData(values=texts)).encode(x, y, text="word:N").transform_filter("datum.room == room")
    return (
        alt.layer(
            dots.mark_point(filled=True, size=14, opacity=0.5, style="result"),
            named.mark_text(fontSize=MAP_FONT, style="word"),
        )
        .add_params(room)
        .to_dict()
    )

"""Several runs on one page: their curves over each other, what differs in their settings, and which was better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptlite.report import page
from gptlite.report.page import visible
from gptlite.report.training import common_axes, over, place_tips, places_of, thinned

CHARTS = {  # by name: the field of a line that is drawn, and the title of its axis
    "bits": ("val_bits_per_byte", "bits per byte"),
    "loss": ("train_loss", "nats per token"),
    "speed": ("tokens_per_second", "tokens per second"),
}


@dataclass(frozen=True)
class Runs:
    """What the page shows of several runs.

    - `metrics`: the lines of each run's `metrics.jsonl`, by the run's name; step 0 has scores alone.
    - `result`: the best and the worst in words, or ""; `verdict`: sentences.
    - `results`, `settings`: tables whose first rows are heads.
    """

    metrics: Mapping[str, Sequence[Mapping[str, Any]]]
    result: str
    verdict: Sequence[str]
    results: Sequence[Sequence[str]]
    settings: Sequence[Sequence[str]]


def render(shown: Runs) -> str:
    """The page as HTML. Raises `UsageError` when the libraries that draw are not installed."""
    specs = _charts(shown)
    axes = common_axes(list(shown.metrics.values()))
    return page.render(
        "runs",
        {"axes": axes},
        specs,
        drawn=set(specs),
        axes=axes,
        n_runs=len(shown.metrics),
        result=visible(shown.result),
        verdict=[visible(sentence) for sentence in shown.verdict],
        results=[[visible(cell) for cell in row] for row in shown.results],
        settings=[[visible(cell) for cell in row] for row in shown.settings],
    )


def figures(shown: Runs) -> dict[str, page.Figure]:
    """The charts of the page by themselves, by name; bits per byte over each axis that all runs have."""
    found = _charts(shown)
    for axis in common_axes(list(shown.metrics.values())):
        if axis != "step" and (spec := _chart(shown, *CHARTS["bits"], axis)) is not None:
            found[f"bits-{axis}"] = spec
    return {name: page.Figure(spec, (720, 320)) for name, spec in found.items()}


def _charts(shown: Runs) -> dict[str, dict[str, Any]]:
    """Those for which any run has numbers."""
    found = {name: _chart(shown, *facts) for name, facts in CHARTS.items()}
    return {name: spec for name, spec in found.items() if spec is not None}


def _chart(shown: Runs, key: str, title: str, axis: str = "step") -> dict[str, Any] | None:
    import altair as alt

    names = [visible(name) for name in shown.metrics]
    values = [
        {"run": visible(name), **places_of(line), "y": line[key]}
        for name, lines in shown.metrics.items()
        for line in thinned(lines)
        if key in line
    ]
    if not values:
        return None
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=3)
    base = alt.Chart(alt.InlineData(values=values)).encode(
        over(axis),
        alt.Y("y:Q", title=title, scale=alt.Scale(zero=False)),
        alt.Color("run:N", scale=alt.Scale(domain=names), sort=names, legend=legend),
        tooltip=[alt.Tooltip("run:N"), *place_tips(values), alt.Tooltip("y:Q", title=title, format=".4~f")],
    )
    return alt.layer(base.mark_line(strokeWidth=2), base.mark_point(size=14, filled=True, opacity=0.6)).to_dict()

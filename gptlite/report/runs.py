"""Several runs on one page: their curves over each other, what differs in their settings, and which was better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptlite.report import page
from gptlite.report.page import visible
from gptlite.report.training import thinned

CHARTS = {  # by name: the fields of a line that stand on both axes, and their titles
    "bits-steps": ("step", "val_bits_per_byte", "step", "bits per byte"),
    "bits-seconds": ("elapsed", "val_bits_per_byte", "seconds", "bits per byte"),
    "loss": ("step", "train_loss", "step", "nats per token"),
    "speed": ("step", "tokens_per_second", "step", "tokens per second"),
}


@dataclass(frozen=True)
class Runs:
    """What the page shows of several runs.

    - `metrics`: the lines of each run's `metrics.jsonl`, by the run's name.
    - `verdict`: sentences; `results`, `settings`: tables whose first rows are heads.
    """

    metrics: Mapping[str, Sequence[Mapping[str, Any]]]
    verdict: Sequence[str]
    results: Sequence[Sequence[str]]
    settings: Sequence[Sequence[str]]


def render(shown: Runs) -> str:
    """The page as HTML. Raises `UsageError` when the libraries that draw are not installed."""
    specs = _charts(shown)
    return page.render(
        "runs",
        {},
        specs,
        drawn=set(specs),
        n_runs=len(shown.metrics),
        verdict=[visible(sentence) for sentence in shown.verdict],
        results=[[visible(cell) for cell in row] for row in shown.results],
        settings=[[visible(cell) for cell in row] for row in shown.settings],
    )


def figures(shown: Runs) -> dict[str, page.Figure]:
    """The charts of the page by themselves, by name."""
    return {name: page.Figure(spec, (720, 320)) for name, spec in _charts(shown).items()}


def _charts(shown: Runs) -> dict[str, dict[str, Any]]:
    """Those for which any run has numbers."""
    found = {name: _chart(shown, *facts) for name, facts in CHARTS.items()}
    return {name: spec for name, spec in found.items() if spec is not None}


def _chart(shown: Runs, x: str, y: str, x_title: str, y_title: str) -> dict[str, Any] | None:
    import altair as alt

    names = [visible(name) for name in shown.metrics]
    values = [
        {"run": visible(name), "x": line[x], "y": line[y]}
        for name, lines in shown.metrics.items()
        for line in thinned(lines)
        if x in line and y in line
    ]
    if not values:
        return None
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=3)
    base = alt.Chart(alt.InlineData(values=values)).encode(
        alt.X("x:Q", title=x_title, axis=alt.Axis(format=",.0f", grid=False)),
        alt.Y("y:Q", title=y_title, scale=alt.Scale(zero=False)),
        alt.Color("run:N", scale=alt.Scale(domain=names), sort=names, legend=legend),
        tooltip=[
            alt.Tooltip("run:N"),
            alt.Tooltip("x:Q", title=x_title, format=","),
            alt.Tooltip("y:Q", title=y_title, format=".4~f"),
        ],
    )
    return alt.layer(base.mark_line(strokeWidth=2), base.mark_point(size=14, filled=True, opacity=0.6)).to_dict()

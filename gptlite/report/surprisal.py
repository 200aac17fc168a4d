"""Surprisal along texts as charts: a bar for each word, the word under it, regions shaded, models beside each other.

What is in a table of the page and in the charts is written here; `surprisal.js` draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gptlite.report import page
from gptlite.report.page import visible

MOST_TEXTS = 12
MOST_BARS = 150  # per text and model
LONGEST_WORD = 24  # characters under a bar
LONGEST_TITLE = 100
HEIGHT = 180
LEAST_WIDTH = 320
WIDTH_PER_WORD, WIDTH_PER_BAR = 30, 13


@dataclass(frozen=True)
class Bars:
    """One text of U units.

    - `words` (U,); `values` (M, U): the surprisal of each unit under each model, NaN where there is none.
    - `regions` (U,): the number of the region that each unit is in, None outside all.
    """

    title: str
    words: Sequence[str]
    values: Sequence[Sequence[float]]
    regions: Sequence[int | None]


@dataclass(frozen=True)
class Surprisals:
    """What a plot shows: `texts` under M `models`, in `measure` (bits, nats or dits). `command` writes it again."""

    models: Sequence[str]
    texts: Sequence[Bars]
    measure: str = "bits"
    command: str = ""


def render(shown: Surprisals) -> str:
    """The page as HTML. Raises `UsageError` when the libraries that draw are not installed."""
    page.check_libraries()
    return page.render(
        "surprisal",
        {"widths": {f"text{i}": _width(bars) for i, bars in enumerate(shown.texts)}, "height": HEIGHT},
        {f"text{i}": _chart(shown, bars).to_dict() for i, bars in enumerate(shown.texts)},
        texts=[_table(bars) for bars in shown.texts],
        models=[visible(name) for name in shown.models],
        measure=shown.measure,
        command=visible(shown.command),
    )


def figure(shown: Surprisals) -> page.Figure:
    """All texts below each other, as one chart by itself."""
    page.check_libraries()
    import altair as alt

    charts = [_chart(shown, bars, titled=True).properties(width=_width(bars), height=HEIGHT) for bars in shown.texts]
    whole = alt.vconcat(*charts, spacing=28).resolve_scale(xOffset="independent")  # bars as wide as each text has room
    return page.Figure(whole.to_dict(), None)


def _width(bars: Bars) -> int:
    return max(LEAST_WIDTH, len(bars.words) * max(WIDTH_PER_WORD, WIDTH_PER_BAR * len(bars.values)))


def _table(bars: Bars) -> dict[str, Any]:
    rows = [
        [visible(word), *("" if math.isnan(x[i]) else f"{x[i]:.2f}" for x in bars.values)]
        for i, word in enumerate(bars.words)
    ]
    return {"title": visible(bars.title), "rows": rows}


def _chart(shown: Surprisals, bars: Bars, *, titled: bool = False) -> Any:
    import altair as alt

    words = [_cut(visible(word).strip() or "␣", LONGEST_WORD) for word in bars.words]
    values = [
        {"position": i, "word": word, "model": visible(model), "surprisal": round(of_model[i], 4)}
        for model, of_model in zip(shown.models, bars.values, strict=True)
        for i, word in enumerate(words)
        if not math.isnan(of_model[i])
    ]
    places = [{"position": i, "word": word} for i, word in enumerate(words)]
    finite = [x for text in shown.texts for of_model in text.values for x in of_model if not math.isnan(x)]
    domain = [min(0.0, *finite), max(1.0, *finite)] if finite else [0.0, 1.0]  # one scale for all texts
    x = alt.X("position:O", axis=None, scale=alt.Scale(domain=[*range(len(words))], paddingInner=0, paddingOuter=0))
    y = alt.Y("surprisal:Q", title=f"surprisal ({shown.measure})", scale=alt.Scale(domain=domain, nice=True))
    models = [visible(name) for name in shown.models]
    several = len(models) > 1
    plain = alt.Chart(alt.InlineData(values=values))
    drawn = plain.mark_bar() if several else plain.mark_bar(style="surprisal")
    drawn = drawn.encode(
        x, y, alt.XOffset("model:N", sort=models, scale=alt.Scale(paddingOuter=0.2)),
        *[alt.Color("model:N", sort=models, legend=alt.Legend(title=None, orient="top"))] * several,
        [alt.Tooltip("word:N"), alt.Tooltip("model:N"), alt.Tooltip("surprisal:Q", format=".3f")],
    )  # fmt: skip
    under = alt.Chart(alt.InlineData(values=places)).mark_text(
        angle=315, align="right", baseline="middle", dx=-6, dy=4, fontSize=12, style="word"
    )
    layers = [drawn, under.encode(x, y=alt.value("height"), text="word:N")]
    shaded = [
        {"position": i, "strength": 1.0 if region % 2 else 0.4}
        for i, region in enumerate(bars.regions)
        if region is not None
    ]
    if shaded:
        strength = alt.Opacity("strength:Q", scale=None, legend=None)
        layers.insert(0, alt.Chart(alt.InlineData(values=shaded)).mark_rect(style="region").encode(x, strength))
    chart = alt.layer(*layers)
    title = alt.TitleParams(_cut(visible(bars.title), LONGEST_TITLE), anchor="start", fontSize=13)
    return chart.properties(title=title) if titled else chart


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"

"""One page that shows what context does to a word: its occurrences as a map, as similarities, and layer by layer.

What it says in numbers and sentences is written here; `occurrences.js` draws, and swaps one layer for another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gptlite.report import page
from gptlite.report.components.packing import pack
from gptlite.report.page import check_libraries, visible

if TYPE_CHECKING:
    import altair

MOST = 500  # occurrences; a similarity for each two of them in each layer is in the page
CONTEXT = 300  # characters of a sentence to both sides of the word
OPTION = 24  # characters on both sides of a word in a list to choose from
EXACT = 150_000  # cosines that are in the page with all their digits; of more, with three
NUMBERED = 40  # points that still have room for their number
ROWS = 50  # of a matrix, at most: a browser takes its time for each of their squares
WRITTEN = 12  # columns of a matrix whose cells still have room for a number
COLOURS = 8  # words that colours tell apart
SQUARE = (460, 460)  # a map or a matrix by itself
STOPS = (0, 25, 50, 75, 100)  # percentiles of the scale of colours


@dataclass(frozen=True)
class Occurrences:
    """What the page shows: n occurrences of words, with vectors of L + 1 layers.

    - `texts`: of each, the text before the word, the word, and the text after it.
    - `n_left`: tokens the model had seen before it; `expected`: what the model took for likely to come next.
    - `places` (L + 1, n, 2) on a map whose axes show `shares` (L + 1, 2) of the variance; `cosines` (L + 1, n, n).
    - `static_places` (n, 2), `static_cosines` (n, n): the same of the static vectors.
    - `scales` (L + 1, 2): mean and standard deviation of the cosines of "unrelated" pairs and of the "same_word" in two
      random places, and `quantiles` (L + 1, 101) of both; a kind that was not measured is missing.
    - `forms`, `tokens`, `prefixes` (n,): equal numbers for one word, for the same tokens, and for the same text up to
      the word, which makes the same vector. `unit`: "word" or "sentence".
    - `layer`: the one to show first; `correction`: what the cosines are called, such as "z-scored".
    - `notes`: what a reader should know, a sentence each; `facts`: what else the page says of its origin.
    """

    texts: Sequence[tuple[str, str, str]]
    n_left: Sequence[int]
    expected: Sequence[Sequence[str]]
    places: np.ndarray
    shares: np.ndarray
    cosines: np.ndarray
    static_places: np.ndarray
    static_cosines: np.ndarray
    scales: Mapping[str, np.ndarray]
    quantiles: Mapping[str, np.ndarray]
    forms: Sequence[int]
    tokens: Sequence[int]
    prefixes: Sequence[int]
    unit: str
    layer: int
    correction: str
    notes: Sequence[str]
    facts: Mapping[str, str]


def render(shown: Occurrences) -> str:
    """The page as HTML. Raises `UsageError` when the libraries that draw are not installed."""
    check_libraries()
    words = _words(shown)
    return page.render(
        "occurrences",
        _data(shown, words),
        _charts(shown),
        parts=("labels.json", "elements.js", "verdict.js", "unpack.js"),
        block=_block(shown),
        words=[visible(word) for word in words],
        notes=[visible(note) for note in shown.notes],
        rows=_rows(shown),
        facts={name: visible(fact) for name, fact in shown.facts.items()},
        shown=shown,
        together=_together(len(shown.texts)),
        name=_layer_name(shown.layer, len(shown.places) - 1),
        summary=_summary(shown, shown.layer),
    )


def figures(shown: Occurrences) -> dict[str, page.Figure]:
    """The charts of the page by themselves, by name, as the page has them when it is opened."""
    layer, charts = shown.layer, _charts(shown)
    axes = {f"axis{i}": name for i, name in enumerate(_axes(shown.shares[layer]), 1)}
    stops = {"stops": _stops(shown, layer)}
    contents: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "map": ({"points": _points(shown, shown.places[layer])}, axes),
        "static-map": ({"points": _points(shown, shown.static_places)}, {}),
        "matrix": ({"cells": _cells(shown, shown.cosines[layer])}, stops),
        "static-matrix": ({"cells": _cells(shown, shown.static_cosines)}, stops),
        "curve": ({"now": [{"layer": layer}]}, {}),
    }
    sizes = {"curve": (560, 320)}
    return {name: page.Figure(charts[name], sizes.get(name, SQUARE), *content) for name, content in contents.items()}


def _charts(shown: Occurrences) -> dict[str, dict[str, Any]]:
    words = _words(shown)
    return {
        "map": _map("circle", words, numbered=len(shown.texts) <= NUMBERED),
        "static-map": _map("diamond", words, numbered=False),
        "matrix": _matrix(len(shown.texts)),
        "static-matrix": _matrix(len(shown.texts)),
        "curve": _curve(shown),
    }


def _words(shown: Occurrences) -> list[str]:
    return list(dict.fromkeys(word for _, word, _ in shown.texts))


def _points(shown: Occurrences, places: np.ndarray) -> list[dict[str, Any]]:
    """Of a map: what `points` of the script gives."""
    return [
        {
            "x": x, "y": y, "number": i, "word": visible(word), "title": f"{i}",
            "sentence": visible(f"{left[-CONTEXT:]}{word}{right[:CONTEXT]}"),
        }
        for i, ((x, y), (left, word, right)) in enumerate(zip(_filling(places), shown.texts, strict=True), 1)
    ]  # fmt: skip


def _cells(shown: Occurrences, cosines: np.ndarray) -> list[dict[str, Any]]:
    """Of a matrix: what `cells` of the script gives, ordered as in the page when it is opened."""
    n, together = len(cosines), _together(len(cosines))
    order = np.argsort(shown.places[shown.layer][:, 0], kind="stable") if together > 1 else np.arange(n)
    groups = [order[i : i + together] for i in range(0, n, together)]
    others = np.where(np.eye(n, dtype=bool), np.nan, cosines)  # with itself an occurrence is not compared
    return [
        {
            "row": int(a[0]) + 1, "column": int(b[0]) + 1,
            "cosine": 1.0 if np.isnan(block := others[np.ix_(a, b)]).all() else round(float(np.nanmean(block)), 4),
        }
        for a in groups
        for b in groups
    ]  # fmt: skip


# -- Words


def _rows(shown: Occurrences) -> list[dict[str, Any]]:
    rows = []
    for i, (left, word, right) in enumerate(shown.texts):
        other, cosine = _nearest(shown.cosines[shown.layer], i)
        rows.append(
            {
                "left": visible(f"…{left[-CONTEXT:]}" if len(left) > CONTEXT else left),
                "word": visible(word),
                "right": visible(f"{right[:CONTEXT]}…" if len(right) > CONTEXT else right),
                "option": f"{i + 1}: "
                + visible(
                    f"{'…' * (len(left) > OPTION)}{left[-OPTION:]}{word}{right[:OPTION]}{'…' * (len(right) > OPTION)}"
                ),
                "n_left": shown.n_left[i],
                "expected": [visible(_token(token)) for token in shown.expected[i]],
                "nearest": f"{other + 1} ({_written(cosine)})" if other is not None else "",
            }
        )
    return rows


def _token(text: str) -> str:
    """A token as it can be read: the space it begins with as "_", and line breaks."""
    return text.replace(" ", "_").replace("\n", "⏎")


def _written(cosine: float) -> str:
    """Two decimals, with a true minus sign, and no sign before zero."""
    text = f"{cosine:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "−")


def _nearest(cosines: np.ndarray, i: int) -> tuple[int | None, float]:
    """Which other occurrence is most like occurrence i."""
    others = np.where(np.arange(len(cosines)) == i, -np.inf, cosines[i])
    best = int(others.argmax())
    return (best, float(others[best])) if len(cosines) > 1 else (None, 0.0)


def _layer_name(layer: int, n_layers: int) -> str:
    return f"block {layer} of {n_layers}" if layer else "below the first block"


def _summary(shown: Occurrences, layer: int) -> str:
    n = len(shown.texts)
    if n == 1:
        return "There is one occurrence, and nothing to compare it with."
    here, static = (x[np.triu_indices(n, 1)] for x in (shown.cosines[layer], shown.static_cosines))
    text = f"Two of these occurrences have a cosine of {_written(here.mean())} on average"
    text += f", from {_written(here.min())} to {_written(here.max())}. " if n > 2 else ". "
    scales = {
        kind: f"{_written(mean)} ± {_written(std)}"
        for kind, moments in shown.scales.items()
        for mean, std in [moments[layer]]
    }
    if "same_word" in scales:
        text += f"In this model one word in two random places has {scales['same_word']} "
        text += f"and two unrelated words have {scales['unrelated']}. "
    elif "unrelated" in scales:
        text += f"In this model two unrelated {shown.unit}s have {scales['unrelated']}. "
    return text + (
        "Their static vectors cannot be told apart: 1.00."
        if static.min() > 0.9999
        else f"Of their static vectors it is {_written(static.mean())}, the same in every layer."
    )


# -- Numbers


def _data(shown: Occurrences, words: Sequence[str]) -> dict[str, Any]:
    """What the script draws from: places that fill -1 to 1, cosines in hundredths."""
    layers = range(len(shown.places))
    return {
        "layer": shown.layer,
        "together": _together(len(shown.texts)),
        "names": [_layer_name(layer, layers[-1]) for layer in layers],
        "summaries": [_summary(shown, layer) for layer in layers],
        "words": [visible(word) for word in words],
        "word": [words.index(word) for _, word, _ in shown.texts],
        "places": [_filling(places) for places in shown.places],
        "axes": [_axes(shares) for shares in shown.shares],
        "staticPlaces": _filling(shown.static_places),
        "forms": list(shown.forms),
        "tokens": list(shown.tokens),
        "prefixes": list(shown.prefixes),
        "unit": shown.unit,
        "stops": [_stops(shown, layer) for layer in layers],
    }


def _axes(shares: np.ndarray) -> list[str]:
    return [f"axis {i}: {share:.0%} of variance" for i, share in enumerate(shares, 1)]


def _filling(places: np.ndarray) -> list[list[float]]:
    return (places / max(np.abs(places).max(), 1e-12)).round(3).tolist()


def _together(n: int) -> int:
    """How many neighbouring occurrences share a row of a matrix of `n`."""
    return -(-n // ROWS)


def _block(shown: Occurrences) -> bytes:
    """For occurrences.js: of each layer and, last, of the static vectors the cosines above the diagonal, row by row."""
    i, j = np.triu_indices(len(shown.texts), 1)
    cosines = np.concatenate([shown.cosines[:, i, j], shown.static_cosines[None, i, j]]).astype(np.float32)
    spreads = {kind: np.asarray(table, np.float32).ravel() for kind, table in shown.quantiles.items()}
    return pack({}, {"cosines": cosines, **spreads}, "f32" if cosines.size <= EXACT else "f16")


def _stops(shown: Occurrences, layer: int) -> list[float]:
    """Where the scale of colours has its colours: at quartiles of one word in random places, or evenly without them."""
    if "same_word" in shown.quantiles:
        stops = shown.quantiles["same_word"][layer][list(STOPS)].astype(np.float64)
    else:
        stops = np.linspace(min(0.0, float(shown.cosines[layer].min())), 1, len(STOPS))
    return (np.maximum.accumulate(stops) + 1e-4 * np.arange(len(STOPS))).round(4).tolist()  # each above the last


# -- Charts


def _map(shape: str, words: Sequence[str], *, numbered: bool) -> dict[str, Any]:
    """Points of the data set "points"."""
    import altair as alt

    picked = [alt.param(name=name, value=0) for name in ("one", "other", "hovered")]
    is_picked = "datum.number == one || datum.number == other || datum.number == hovered"
    scale = alt.Scale(domain=[-1.12, 1.12], nice=False)
    cross = alt.Axis(values=[0], labels=False, ticks=False, domain=False, title=None)
    base = alt.Chart(alt.NamedData("points")).encode(
        alt.X("x:Q", scale=scale, axis=cross), alt.Y("y:Q", scale=scale, axis=cross)
    )
    by_word = 1 < len(words) <= COLOURS
    plain = {} if by_word else {"style": shape}
    points = base.mark_point(shape=shape, filled=True, opacity=0.9, cursor="pointer", **plain).encode(
        size=alt.condition(is_picked, alt.value(320), alt.value(110)),
        tooltip=["title:N", "sentence:N"],
        description=alt.Description("sentence:N"),
    )
    if by_word:
        legend = alt.Legend(title=None, orient="top", symbolType=shape)
        domain = [visible(word) for word in words]
        points = points.encode(alt.Color("word:N", scale=alt.Scale(domain=domain), legend=legend))
    layers: list[altair.Chart] = [points]
    if numbered:
        layers.append(base.mark_text(align="left", dx=8, dy=-6).encode(text="number:Q"))
    corners: dict[str, dict[str, Any]] = {
        "axis1": {"x": "width", "align": "right", "y": "height", "baseline": "bottom"},
        "axis2": {"x": 0, "align": "left", "y": 0, "baseline": "top"},
    }
    for name, corner in corners.items():
        layers.append(
            alt.Chart(alt.InlineData(values=[{}])).mark_text(text=alt.ExprRef(name), style="axis-name", **corner)
        )
    names = [alt.param(name=name, value="") for name in corners]
    return alt.layer(*layers).add_params(*picked, *names).to_dict()


def _matrix(n: int) -> dict[str, Any]:
    """Cells of the data set "cells", in the order in which they come."""
    import altair as alt

    stops = alt.param(name="stops", value=[0, 0.25, 0.5, 0.75, 1])
    axis = alt.Axis(title=None, labels=n <= NUMBERED, ticks=False, domain=False, labelAngle=0, labelOverlap=True)
    base = alt.Chart(alt.NamedData("cells")).encode(
        alt.X("column:O", sort=None, axis=axis.copy()), alt.Y("row:O", sort=None, axis=axis.copy())
    )
    # The domain is never used, but Vega counts its values to tell how many colours there are to pass through.
    scale = alt.Scale(
        domain=[0, 0.25, 0.5, 0.75, 1], domainRaw=alt.ExprRef("stops"), clamp=True, range="ramp", interpolate="rgb"
    )
    cells = base.mark_rect(cursor="pointer").encode(alt.Color("cosine:Q", scale=scale, legend=None), tooltip="text:N")
    if n > WRITTEN:
        return cells.add_params(stops).to_dict()
    numbers = base.mark_text(style="on-cell").encode(text=alt.Text("cosine:Q", format=".2f"))
    return alt.layer(cells, numbers).add_params(stops).to_dict()


def _curve(shown: Occurrences) -> dict[str, Any]:
    """Mean cosines by layer: of these occurrences, and of words in random places as a measure of them."""
    import altair as alt

    n = len(shown.texts)
    above = np.triu_indices(n, 1)
    curves: dict[str, np.ndarray] = {}
    if n > 1:
        here = np.array([cosines[above].mean() for cosines in shown.cosines])
        curves["these occurrences"] = np.stack([here, np.full(len(here), np.nan)], axis=1)
        static = np.full(len(here), shown.static_cosines[above].mean())
        curves["their static vectors"] = np.stack([static, np.full(len(here), np.nan)], axis=1)
    for kind, name in (("same_word", "one word, random places"), ("unrelated", f"unrelated {shown.unit}s")):
        if kind in shown.scales:
            curves[name] = shown.scales[kind]
    values = [
        {"layer": layer, "cosine": round(float(mean), 4), "spread": round(float(np.nan_to_num(std)), 4), "of": name}
        for name, curve in curves.items()
        for layer, (mean, std) in enumerate(curve)
    ]
    names = list(curves)
    x = alt.X("layer:Q", title="blocks", axis=alt.Axis(values=list(range(len(shown.places))), format="d"))
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=3)
    of = alt.Color("of:N", scale=alt.Scale(domain=names, range="ordinal"), legend=legend)
    base = alt.Chart(alt.InlineData(values=values)).encode(x, of)
    band = (
        base.transform_calculate(low="datum.cosine - datum.spread", high="datum.cosine + datum.spread")
        .mark_area(opacity=0.16)
        .encode(alt.Y("low:Q", title="cosine"), alt.Y2("high:Q"))
    )
    dash = alt.StrokeDash("of:N", scale=alt.Scale(domain=names, range=[[1, 0], [6, 3], [1, 0], [2, 3]]), legend=legend)
    line = base.mark_line(point=alt.OverlayMarkDef(size=28), strokeWidth=2).encode(
        alt.Y("cosine:Q", title="cosine"),
        dash,
        tooltip=["of:N", alt.Tooltip("layer:Q", title="block"), alt.Tooltip("cosine:Q", format=".2f")],
    )
    now = alt.Chart(alt.NamedData("now")).mark_rule(style="now").encode(x)
    return alt.layer(now, band, line).to_dict()

"""One page that shows a text as a model reads it: surprisal, alternatives, layers, attention, one step opened up.

What it says in numbers and sentences is written here; `inspection.js` draws, and goes from token to token.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptlite.evaluation.surprisal import STEP_NAMES, step_of
from gptlite.report import page
from gptlite.report.page import visible

MOST = 1200  # tokens
MOST_WEIGHTS = 900_000  # of attention in the page, a byte each
LARGEST_MAP = 128  # tokens whose attention is shown
AT_ONCE = {"bits": 120, "lens": 24}  # tokens of a chart
LABEL = "datum.number + ' ' + datum.name"
NAMED = 24  # rows of a map that have room for all their names, on a phone too
STRONG = 8  # bits from which on the ground is darker than the text on it


@dataclass(frozen=True)
class Step:
    """One step of attention opened up: `title`; `lines` of (name, what happens, numbers); and a table.

    - `rows`: one a token, as many cells as `columns` has names; `own` is the number of the row that asks.
    - `conclusion`: what it takes from where.
    """

    title: str
    lines: Sequence[tuple[str, str, str]]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    weights: Sequence[float]
    own: int
    conclusion: str


@dataclass(frozen=True)
class Inspection:
    """What the page shows: a text of N tokens.

    - `pieces`: the text each token adds ("" where a character had begun before); `names`: how tokens are written.
    - `surprisal`, `entropy`, `rank` (N,); `top`: for each token the likeliest ones, with their probabilities.
    - `words`: text, first and last token (from 0, the last one excluded), bits.
    - `layer_names` of L + 1 layers, what each expected: `best` (L + 1 of N names), `best_p`, `layer_bits` (L + 1, N).
    - `weights` (L, H, T, T) of attention among the tokens `attended` (their names), the first of which is number
      `first`; 0 is the start of the text.
    - `chosen`: the number of the token to begin with, from 1, and `head` (layer, head), both from 1.
    """

    pieces: Sequence[str]
    names: Sequence[str]
    surprisal: np.ndarray
    entropy: np.ndarray
    rank: np.ndarray
    top: Sequence[Sequence[tuple[str, float]]]
    words: Sequence[tuple[str, int, int, float]]
    layer_names: Sequence[str]
    best: Sequence[Sequence[str]]
    best_p: np.ndarray
    layer_bits: np.ndarray
    weights: np.ndarray
    attended: Sequence[str]
    first: int
    chosen: int
    head: tuple[int, int]
    summary: str
    convention: str
    step: Step | None
    facts: Mapping[str, str]


def fitting(n_layers: int, n_heads: int, context: int) -> int:
    """How many tokens' attention has room in the page."""
    return max(2, min(LARGEST_MAP, context, int((2 * MOST_WEIGHTS / (n_layers * n_heads)) ** 0.5)))


def render(shown: Inspection) -> str:
    """The page as HTML. Raises `UsageError` when the libraries that draw are not installed."""
    tokens = _tokens(shown)
    return page.render(
        "inspection",
        {
            "tokens": tokens,
            "layers": list(shown.layer_names),
            "best": [[visible(name) for name in row] for row in shown.best],
            "bestP": np.round(shown.best_p, 4).tolist(),
            "layerBits": np.round(shown.layer_bits, 2).tolist(),
            "weights": [[_lower(head) for head in layer] for layer in shown.weights],
            "attended": [visible(name) for name in shown.attended],
            "first": shown.first,
            "stepNames": STEP_NAMES,
            "atOnce": AT_ONCE,
        },
        {"bits": _bits(), "lens": _lens(shown.layer_names), "map": _map(len(shown.attended))},
        tokens=tokens,
        words=[{"text": visible(text), "first": first, "last": last, "bits": bits}
               for text, first, last, bits in shown.words],
        step=shown.step and _visible_step(shown.step),
        step_names=STEP_NAMES,
        n_layers=len(shown.weights),
        n_heads=len(shown.weights[0]),
        shown=shown,
        title=visible("".join(shown.pieces).strip()[:60]),
        summary=visible(shown.summary),
        facts={name: visible(fact) for name, fact in shown.facts.items()},
    )  # fmt: skip


def figures(shown: Inspection) -> dict[str, page.Figure]:
    """The charts of the page by themselves, by name, as the page has them when it is opened."""
    tokens = _tokens(shown)
    some, few = (tokens[_stretch(shown, AT_ONCE[name])] for name in ("bits", "lens"))
    cells = [
        {
            "layer": layer, "number": token["number"], "name": token["name"], "best": visible(shown.best[i][at]),
            "p": float(shown.best_p[i, at]), "bits": float(shown.layer_bits[i, at]),
        }
        for i, layer in enumerate(shown.layer_names)
        for token in few
        for at in [int(token["number"]) - 1]
    ]  # fmt: skip
    layer, head = shown.head
    attended = [f"{shown.first + i} {visible(name)}" for i, name in enumerate(shown.attended)]
    weights = [
        {"of": of, "to": attended[s], "weight": float(shown.weights[layer - 1, head - 1, t, s])}
        for t, of in enumerate(attended)
        for s in range(t + 1)
    ]
    side = _width(len(attended))
    return {
        "surprisal": page.Figure(_bits(), (_width(len(some)), 280), {"tokens": some}, {"chosen": shown.chosen}),
        "lens": page.Figure(_lens(shown.layer_names), (max(320, 66 * len(few)), 26 * len(shown.layer_names)),
                            {"lens": cells}),
        f"attention-{layer}.{head}": page.Figure(_map(len(attended)), (side, side), {"cells": weights}),
    }  # fmt: skip


def _width(n: int) -> int:
    """Of a chart by itself in which n names stand side by side."""
    return min(1600, max(360, 30 * n))


def _stretch(shown: Inspection, room: int) -> slice:
    """The tokens around the chosen one that a chart has room for."""
    first = (shown.chosen - 1) // room * room
    return slice(first, first + room)


def _tokens(shown: Inspection) -> list[dict[str, Any]]:
    names = [visible(name) for name in shown.names]
    return [
        {
            "number": i + 1,
            "text": visible(piece),
            "name": name,
            "bits": round(float(shown.surprisal[i]), 3),
            "step": step_of(float(shown.surprisal[i])),
            "entropy": round(float(shown.entropy[i]), 3),
            "rank": int(shown.rank[i]),
            "top": [[visible(other), round(float(p), 5)] for other, p in shown.top[i]],
        }
        for i, (piece, name) in enumerate(zip(shown.pieces, names, strict=True))
    ]


def _lower(weights: np.ndarray) -> str:
    """The weights (T, T) up to the diagonal, row by row, a byte each from 0 to 1 (255), in base64."""
    lower = weights[np.tril_indices(len(weights))]
    return base64.b64encode((lower.clip(0, 1) * 255).round().astype(np.uint8)).decode()


def _visible_step(step: Step) -> dict[str, Any]:
    return {
        "title": visible(step.title),
        "lines": [[visible(part) for part in line] for line in step.lines],
        "columns": step.columns,
        "rows": [[visible(cell) for cell in row] for row in step.rows],
        "weights": step.weights,
        "own": step.own,
        "conclusion": visible(step.conclusion),
    }


# -- Charts


def _bits() -> dict[str, Any]:
    """Surprisal of each of the data set "tokens" as a bar, the entropy before it as a tick."""
    import altair as alt

    chosen = alt.param(name="chosen", value=0)
    x = alt.X(
        "label:N", sort=None, title=None, axis=alt.Axis(labelAngle=-60, labelOverlap=True, labelLimit=90, ticks=False)
    )
    base = alt.Chart(alt.NamedData("tokens")).transform_calculate(label=LABEL).encode(x)
    scale = alt.Scale(domain=[0, 1, 2, 3, 4], range="heatmap", type="ordinal")
    bars = base.mark_bar(style="surprise").encode(
        alt.Y("bits:Q", title="bits"),
        alt.Color("step:O", scale=scale, legend=None),
        strokeWidth=alt.condition("datum.number == chosen", alt.value(2), alt.value(0)),
        tooltip=[
            alt.Tooltip("label:N", title="token"),
            alt.Tooltip("bits:Q", title="surprisal", format=".2f"),
            alt.Tooltip("entropy:Q", title="entropy", format=".2f"),
            alt.Tooltip("rank:Q", title="rank", format=","),
        ],
    )
    ticks = base.mark_tick(thickness=2, style="entropy").encode(alt.Y("entropy:Q", title="bits"))
    return alt.layer(bars, ticks).add_params(chosen).to_dict()


def _lens(layer_names: Sequence[str]) -> dict[str, Any]:
    """Cells of the data set "lens": what each layer expected, coloured by the surprisal of what came."""
    import altair as alt

    came = "datum.best === datum.name ? '✓ ' + datum.best : datum.best"
    base = (
        alt.Chart(alt.NamedData("lens"))
        .transform_calculate(label=LABEL, shown=came)
        .encode(
            alt.X(
                "label:N", sort=None, title=None,
                axis=alt.Axis(labelAngle=-60, labelLimit=90, ticks=False, domain=False),
            ),
            alt.Y("layer:N", sort=list(reversed(layer_names)), title=None, axis=alt.Axis(ticks=False, domain=False)),
        )
    )  # fmt: skip
    scale = alt.Scale(domain=[0, 14], range="heatmap", clamp=True)
    cells = base.mark_rect().encode(
        alt.Color("bits:Q", scale=scale, legend=None),
        tooltip=[
            alt.Tooltip("label:N", title="what came"),
            alt.Tooltip("layer:N", title="after"),
            alt.Tooltip("best:N", title="expected"),
            alt.Tooltip("p:Q", title="probability", format=".1%"),
            alt.Tooltip("bits:Q", title="bits of what came", format=".2f"),
        ],
    )
    guesses = [
        base.transform_filter(test).mark_text(limit=60, fontSize=11, style=style).encode(text="shown:N")
        for test, style in ((f"datum.bits > {STRONG}", "on-strong"), (f"datum.bits <= {STRONG}", "on-pale"))
    ]
    return alt.layer(cells, *guesses).to_dict()


def _map(n: int) -> dict[str, Any]:
    """Cells of the data set "cells": how much each of n tokens (row) takes from each before it (column)."""
    import altair as alt

    # Slanting labels need less room than the boxes around them, by which Vega judges whether they overlap.
    closer: dict[str, Any] = {"labelSeparation": -30} if n <= NAMED else {}
    axes = [
        alt.Axis(labelOverlap=True, labelLimit=90, ticks=False, domain=False, labelAngle=a, **closer) for a in (-60, 0)
    ]
    scale = alt.Scale(domain=[0, 1], range="heatmap", type="sqrt")
    return (
        alt.Chart(alt.NamedData("cells"))
        .mark_rect()
        .encode(
            alt.X("to:N", sort=None, title="is asked", axis=axes[0]),
            alt.Y("of:N", sort=None, title="asks", axis=axes[1]),
            alt.Color("weight:Q", scale=scale, legend=None),
            tooltip=[
                alt.Tooltip("of:N", title="asks"),
                alt.Tooltip("to:N", title="is asked"),
                alt.Tooltip("weight:Q", title="weight", format=".1%"),
            ],
        )
        .to_dict()
    )

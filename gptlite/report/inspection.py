"""One page that shows a text as a model reads it: surprisal, alternatives, layers, attention, one step opened up.

It has the views of the page of a model (`components`), which there ask a model that runs; here they ask the numbers of
this text, which are in the page. `inspection.js` has what they ask, and two charts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptlite.evaluation.surprisal import STEP_NAMES, STEPS, step_of
from gptlite.report import components, page
from gptlite.report.components.packing import pack
from gptlite.report.page import visible

MOST = 1200  # tokens
MOST_WEIGHTS = 250_000  # of attention in the page, four bytes each, so that they are those of the terminal
MOST_VECTORS = 300_000  # numbers of queries, keys and values, two bytes each
MOST_EXPECTED = 100_000  # alternatives of all layers
LARGEST_MAP = 128  # tokens whose attention is shown
AT_ONCE = {"bits": 120, "lens": 24}  # tokens of a chart
LABEL = "datum.number + ' ' + datum.name"
NAMED = 24  # rows of a map that have room for all their names, on a phone too


@dataclass(frozen=True)
class Attention:
    """What the page shows of attention: that of T tokens, of which the first is number `first` (0: the start).

    - `weights` (L, H, T, T): how much each token (row) takes from each of them; what is missing to 1 went to tokens
      before the first.
    - `queries` (layers, H, T, C), `keys` and `values` (layers, K, T, C) of the layers `step_layers` (numbers from 0),
      which follow each other; `log_sums` (layers, H, T): a scaled score is this plus the logarithm of the weight.
    """

    first: int
    weights: np.ndarray
    step_layers: Sequence[int]
    queries: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    log_sums: np.ndarray


@dataclass(frozen=True)
class Inspection:
    """What the page shows: a text of N tokens.

    - `pieces`: the text each token adds ("" where a character had begun before).
    - `ids` (N,), and `separator`, the id of the start; `names`: how tokens are written, for all ids that are here.
    - `surprisal`, `entropy`, `rank` (N,); `top`, `top_p` (N, k): the likeliest ids and their probabilities.
    - `words`: text, first and last token (from 0, the last one excluded), bits.
    - `layer_bits` (L + 1, N); `layer_top`, `layer_top_p` (L + 1, N, k'): what each layer expected, were it the last.
    - `chosen`: the number of the token to begin with, from 1, and `head` (layer, head), both from 1.
    """

    pieces: Sequence[str]
    ids: np.ndarray
    separator: int
    names: Mapping[int, str]
    surprisal: np.ndarray
    entropy: np.ndarray
    rank: np.ndarray
    top: np.ndarray
    top_p: np.ndarray
    words: Sequence[tuple[str, int, int, float]]
    layer_bits: np.ndarray
    layer_top: np.ndarray
    layer_top_p: np.ndarray
    attention: Attention
    chosen: int
    head: tuple[int, int]
    summary: str
    convention: str
    facts: Mapping[str, str]

    @property
    def token_names(self) -> list[str]:
        return [visible(self.names[i]) for i in self.ids.tolist()]

    @property
    def layer_names(self) -> list[str]:
        return ["no layer", *(f"layer {i}" for i in range(1, len(self.layer_bits)))]

    @property
    def attended(self) -> list[str]:
        """The names of the tokens that have attention."""
        first, T = self.attention.first, self.attention.weights.shape[-1]
        return [visible(self.names[self.separator]), *self.token_names][first : first + T]


def fitting(n_layers: int, n_heads: int, context: int) -> int:
    """How many tokens' attention has room in the page."""
    return max(2, min(LARGEST_MAP, context, int((2 * MOST_WEIGHTS / (n_layers * n_heads)) ** 0.5)))


def step_layers(n_layers: int, numbers: int, layer: int) -> range:
    """Of which layers, from 0, the page has room for queries, keys and values, `numbers` each, around `layer`."""
    n = max(1, min(n_layers, MOST_VECTORS // numbers))
    first = max(0, min(layer - n // 2, n_layers - n))
    return range(first, first + n)


def alternatives(n_layers: int, n_tokens: int, top: int) -> int:
    """How many alternatives of each layer the page has room for, of the `top` that were looked for."""
    return max(1, min(top, MOST_EXPECTED // ((n_layers + 1) * n_tokens)))


def render(shown: Inspection) -> str:
    """The page as HTML. Raises `UsageError` when the libraries that draw are not installed."""
    tokens = _tokens(shown)
    first = shown.attention.first
    return page.render(
        "inspection",
        {
            "tokens": tokens,
            "names": {str(i): visible(name) for i, name in shown.names.items()},
            "chosen": shown.chosen, "head": shown.head, "first": first, "mapped": len(shown.attended),
            "stepLayers": list(shown.attention.step_layers), "nTop": shown.top.shape[-1],
            "nLayerTop": shown.layer_top.shape[-1], "model": _model(shown), "atOnce": AT_ONCE,
        },
        {"bits": _bits(), "map": _map(len(shown.attended))},
        parts=(*components.LOOK, "unpack.js"),
        block=pack({}, _arrays(shown), "f16"),
        tokens=tokens,
        words=[{"text": visible(text), "first": first, "last": last, "bits": bits}
               for text, first, last, bits in shown.words],
        top=[[(visible(shown.names[i]), p) for i, p in zip(ids, ps, strict=True)]
             for ids, ps in zip(shown.top[:, :3].tolist(), shown.top_p[:, :3].tolist(), strict=True)],
        step_names=STEP_NAMES,
        attended=(first, first + len(shown.attended) - 1) if len(shown.attended) <= len(tokens) else None,
        shown=shown,
        title=visible("".join(shown.pieces).strip()[:60]),
        summary=visible(shown.summary),
        facts={name: visible(fact) for name, fact in shown.facts.items()},
    )  # fmt: skip


def _model(shown: Inspection) -> dict[str, Any]:
    """What the components know of the model."""
    L, H = shown.attention.weights.shape[:2]
    K, _, C = shown.attention.keys.shape[1:]
    config = {"n_layers": L, "n_heads": H, "n_kv_heads": K, "head_dim": C}
    return {
        "config": config, "special": {"separator": shown.separator}, "steps": list(STEPS),
        "stepNames": list(STEP_NAMES),
    }  # fmt: skip


def _arrays(shown: Inspection) -> dict[str, np.ndarray]:
    """For inspection.js: vectors keep 32 bits, matrices have 16. What is of tokens begins with the start, for which
    there is 0."""

    def begun(values: np.ndarray, start: int = 0) -> np.ndarray:
        return np.concatenate([[start], values])

    def flat(values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values, np.float32).ravel()

    def whole(values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values, np.uint32).ravel()

    def rows(values: np.ndarray) -> np.ndarray:
        return values.reshape(-1, values.shape[-1]).clip(-65504, 65504).astype(np.float32)

    attention = shown.attention
    t, s = np.tril_indices(len(shown.attended))
    return {
        "ids": whole(begun(shown.ids, shown.separator)),
        "bits": flat(begun(shown.surprisal)), "entropy": flat(begun(shown.entropy)), "rank": whole(begun(shown.rank)),
        "top": whole(shown.top), "topP": flat(shown.top_p),
        "layerBits": flat(shown.layer_bits), "layerTop": whole(shown.layer_top), "layerTopP": flat(shown.layer_top_p),
        "maps": flat(attention.weights[..., t, s]),
        "queries": rows(attention.queries), "keys": rows(attention.keys), "values": rows(attention.values),
        "logSums": flat(attention.log_sums),
    }  # fmt: skip


def figures(shown: Inspection) -> dict[str, page.Figure]:
    """The charts of a text by themselves, by name, as the page has them when it is opened."""
    tokens = _tokens(shown)
    some, few = (tokens[_stretch(shown, AT_ONCE[name])] for name in ("bits", "lens"))
    cells = [
        {
            "layer": layer, "number": token["number"], "name": token["name"],
            "best": visible(shown.names[int(shown.layer_top[i, at, 0])]), "p": float(shown.layer_top_p[i, at, 0]),
            "bits": float(shown.layer_bits[i, at]), "step": step_of(float(shown.layer_bits[i, at])),
        }
        for i, layer in enumerate(shown.layer_names)
        for token in few
        for at in [int(token["number"]) - 1]
    ]  # fmt: skip
    layer, head = shown.head
    attended = [f"{shown.attention.first + i} {name}" for i, name in enumerate(shown.attended)]
    weights = [
        {"of": of, "to": attended[s], "row": shown.attention.first + t,
         "weight": float(shown.attention.weights[layer - 1, head - 1, t, s])}
        for t, of in enumerate(attended)
        for s in range(t + 1)
    ]  # fmt: skip
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
    return [
        {
            "number": i + 1,
            "text": visible(piece),
            "name": name,
            "bits": round(float(shown.surprisal[i]), 3),
            "step": step_of(float(shown.surprisal[i])),
            "entropy": round(float(shown.entropy[i]), 3),
            "rank": int(shown.rank[i]),
        }
        for i, (piece, name) in enumerate(zip(shown.pieces, shown.token_names, strict=True))
    ]


# -- Charts


def _steps() -> dict[str, Any]:
    """The scale of surprisal, in the five steps that it has everywhere, and its legend."""
    import altair as alt

    names = "[" + ", ".join(f"'{name}'" for name in STEP_NAMES) + "][datum.value]"
    legend = alt.Legend(title="bits", orient="top", labelExpr=names, symbolType="square", titleOrient="left", columns=5)
    return {"scale": alt.Scale(domain=[*range(len(STEP_NAMES))], range="heatmap", type="ordinal"), "legend": legend}


def _bits() -> dict[str, Any]:
    """Surprisal of each of the data set "tokens" as a bar, the entropy before it as a tick."""
    import altair as alt

    chosen = alt.param(name="chosen", value=0)
    x = alt.X(
        "label:N", sort=None, title=None, axis=alt.Axis(labelAngle=-60, labelOverlap=True, labelLimit=90, ticks=False)
    )
    base = alt.Chart(alt.NamedData("tokens")).transform_calculate(label=LABEL).encode(x)
    bars = base.mark_bar(style="step", cursor="pointer").encode(
        alt.Y("bits:Q", title="bits"),
        alt.Color("step:O", **_steps()),
        strokeWidth=alt.condition("datum.number == chosen", alt.value(2.5), alt.value(0.3)),
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
    cells = base.mark_rect().encode(
        alt.Color("step:O", **_steps()),
        tooltip=[
            alt.Tooltip("label:N", title="what came"),
            alt.Tooltip("layer:N", title="after"),
            alt.Tooltip("best:N", title="expected"),
            alt.Tooltip("p:Q", title="probability", format=".1%"),
            alt.Tooltip("bits:Q", title="bits of what came", format=".2f"),
        ],
    )
    guesses = base.mark_text(limit=60, fontSize=11, style="on-cell").encode(text="shown:N")
    return alt.layer(cells, guesses).to_dict()


def _map(n: int) -> dict[str, Any]:
    """Cells of the data set "cells": how much each of n tokens (row) takes from each before it (column)."""
    import altair as alt

    # Slanting labels need less room than the boxes around them, by which Vega judges whether they overlap.
    closer: dict[str, Any] = {"labelSeparation": -30} if n <= NAMED else {}
    axes = [
        alt.Axis(labelOverlap=True, labelLimit=90, ticks=False, domain=False, labelAngle=a, **closer) for a in (-60, 0)
    ]
    chosen = alt.param(name="chosen", value=-1)
    scale = alt.Scale(domain=[0, 1], range="diverging", type="sqrt", interpolate="rgb")
    shares = "format(datum.value, '.0%')"
    legend = alt.Legend(
        title="attention weight", titleOrient="left", orient="top", labelExpr=shares, values=[0, 0.1, 0.25, 0.5, 1],
        type="symbol", symbolType="square", columns=5,
    )  # fmt: skip
    return (
        alt.Chart(alt.NamedData("cells"))
        .mark_rect(style="chosen", cursor="pointer")
        .encode(
            alt.X("to:N", sort=None, title="is asked", axis=axes[0]),
            alt.Y("of:N", sort=None, title="asks", axis=axes[1]),
            alt.Color("weight:Q", scale=scale, legend=legend),
            strokeWidth=alt.condition("datum.row == chosen", alt.value(1), alt.value(0)),
            tooltip=[
                alt.Tooltip("of:N", title="asks"),
                alt.Tooltip("to:N", title="is asked"),
                alt.Tooltip("weight:Q", title="weight", format=".1%"),
            ],
        )
        .add_params(chosen)
        .to_dict()
    )

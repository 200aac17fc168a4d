"""One page about a comparison on pairs: exact answers, curves, and maps of what each model looks at in a prompt.

Its numbers are those of `gptlite compare --json`; what it says in words is in pair_comparison_text.py.
"""

from __future__ import annotations

from typing import Any

from gptlite.report import comparison_text, page
from gptlite.report import pair_comparison_text as text
from gptlite.report.comparison import Comparison, color, curves, rates
from gptlite.report.page import visible

LONGEST_TEXT = 160  # characters of a prompt or an answer
LONGEST_TOKEN = 14  # characters of a label


def render(shown: Comparison) -> str:
    """The page as HTML. Raises `UsageError` when the libraries that draw are not installed."""
    found, lang, labels = shown.found, shown.lang, _labels(shown.lang)
    specs = _charts(shown)
    return page.render(
        text.PAGE,
        {"maps": _shapes(shown), "bars": len(found["contenders"])},
        specs,
        styled_as="comparison",
        lang=lang,
        labels=labels,
        headline=labels["headline"].format(
            n=len(found["contenders"]),
            seconds=comparison_text.duration(found["seconds_each"], lang),
            bytes=f"{found['train_bytes']:,}",
            answers=f"{found['n_answers']:,}",
        ),
        drawn=set(specs),
        scores=_scores(shown),
        answers=_answers(shown),
        maps=[
            (f"map-{c['name']}", comparison_text.title(c, lang), labels["map_caption"].format(**c["attention"]))
            for c in found["contenders"]
            if c["attention"]
        ],
        rates=rates(shown),
        explanations=text.explain(found, lang) if shown.explained else {},
        hardware=visible(str(found["hardware"])),
    )


def figures(shown: Comparison) -> dict[str, page.Figure]:
    """The charts of the page by themselves, by name."""
    shapes = _shapes(shown)

    def size(name: str) -> tuple[int, int]:
        if (shape := shapes.get(name)) is None:
            bars = 60 + 46 * len(shown.found["contenders"])
            return {"seconds": (900, 360), "exact": (640, bars)}.get(name, (440, 280))
        return 130 + 34 * shape["columns"], 110 + 26 * shape["rows"]

    return {name: page.Figure(spec, size(name)) for name, spec in _charts(shown).items()}


def _labels(lang: str) -> dict[str, str]:
    return {**comparison_text.phrases(lang)["labels"], **comparison_text.phrases(lang, text.PAGE)["labels"]}


def _shapes(shown: Comparison) -> dict[str, dict[str, int]]:
    """How many rows and columns each map has."""
    return {
        f"map-{c['name']}": {"rows": len(c["attention"]["answer"]), "columns": len(c["attention"]["prompt"])}
        for c in shown.found["contenders"]
        if c["attention"]
    }


# -- Tables: the first row is the head


def _scores(shown: Comparison) -> list[list[str]]:
    found, lang, labels = shown.found, shown.lang, _labels(shown.lang)
    rows = [[labels[key] for key in ("model", "exact", "behind", "answer_bits", "parameters", "tokens")]]
    for c in found["contenders"]:
        fewer, interval = c["behind_best"]["exact_match"], c["behind_best"]["exact_match_interval"]
        error = f" ± {(interval[1] - interval[0]) / 2:.1%}" if interval else ""
        rows.append(
            [
                comparison_text.title(c, lang),
                f"{c['exact_match']:.1%}",
                labels["best"] if c["name"] == found["best"] else f"{'−' if fewer else ''}{fewer:.1%}{error}",
                f"{c['bits_per_byte']:.3f}",
                f"{c['n_parameters']:,}",
                f"{c['n_tokens_seen']:,}",
            ]
        )
    return rows


def _answers(shown: Comparison) -> list[list[str]]:
    contenders, labels = shown.found["contenders"], _labels(shown.lang)
    rows = [[labels["asked"], labels["known_answer"], *(comparison_text.title(c, shown.lang) for c in contenders)]]
    for i, first in enumerate(contenders[0]["answers"]):
        written = [
            "=" if answer["exact"] else _cut(answer["written"]) for answer in (c["answers"][i] for c in contenders)
        ]
        rows.append([_cut(first["prompt"]), _cut(first["expected"]), *written])
    return rows


def _cut(content: str) -> str:
    return visible(content if len(content) <= LONGEST_TEXT else f"{content[:LONGEST_TEXT]}…")


# -- Charts


def _charts(shown: Comparison) -> dict[str, dict[str, Any]]:
    maps = {
        f"map-{c['name']}": _map(c["attention"], _labels(shown.lang))
        for c in shown.found["contenders"]
        if c["attention"]
    }
    return {
        "exact": _exact(shown),
        "seconds": curves(shown, "seconds", "seconds"),
        "tokens": curves(shown, "n_tokens", "tokens"),
        **maps,
    }


def _exact(shown: Comparison) -> dict[str, Any]:
    """A bar for each contender, with the interval of its share."""
    import altair as alt

    labels = _labels(shown.lang)
    values = [
        {
            "model": comparison_text.title(c, shown.lang), "x": round(c["exact_match"], 4),
            "low": round(c["exact_match_interval"][0], 4), "high": round(c["exact_match_interval"][1], 4),
        }
        for c in shown.found["contenders"]
    ]  # fmt: skip
    base = alt.Chart(alt.InlineData(values=values)).encode(
        alt.Y("model:N", sort=None, title=None, axis=alt.Axis(domain=False, ticks=False, labelLimit=160))
    )
    x = alt.X("x:Q", title=labels["exact"], scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format=".0%"))
    tooltip = [alt.Tooltip("model:N", title=labels["model"]), alt.Tooltip("x:Q", title=labels["exact"], format=".1%")]
    bars = base.mark_bar(height=16).encode(x, color(shown).legend(None), tooltip=tooltip)
    rules = base.mark_rule().encode(alt.X("low:Q", title=labels["exact"]), alt.X2("high:Q"))
    return alt.layer(bars, rules).to_dict()


def _map(seen: dict[str, Any], labels: dict[str, str]) -> dict[str, Any]:
    """Cells: how much each token of the answer (row) takes from each token of the prompt (column)."""
    import altair as alt

    columns, rows = ([f"{i + 1} {_token(name)}" for i, name in enumerate(seen[part])] for part in ("prompt", "answer"))
    values = [
        {"from": column, "to": row, "weight": weight}
        for row, weights in zip(rows, seen["weights"], strict=True)
        for column, weight in zip(columns, weights, strict=True)
    ]
    look: dict[str, Any] = {"labelOverlap": True, "labelSeparation": -30, "labelLimit": 90, "ticks": False}
    axes = [alt.Axis(**look, domain=False, labelAngle=angle) for angle in (-60, 0)]
    return (
        alt.Chart(alt.InlineData(values=values))
        .mark_rect()
        .encode(
            alt.X("from:N", sort=None, title=labels["from"], axis=axes[0]),
            alt.Y("to:N", sort=None, title=labels["to"], axis=axes[1]),
            alt.Color("weight:Q", scale=alt.Scale(domain=[0, 1], range="heatmap", type="sqrt"), legend=None),
            tooltip=[
                alt.Tooltip("to:N", title=labels["to"]),
                alt.Tooltip("from:N", title=labels["from"]),
                alt.Tooltip("weight:Q", title=labels["weight"], format=".1%"),
            ],
        )
        .to_dict()
    )


def _token(name: str) -> str:
    """A token as it can be read: spaces as "_", line breaks as a sign."""
    return visible(name.replace(" ", "_").replace("\n", "⏎"))[:LONGEST_TOKEN]

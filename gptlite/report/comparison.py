"""One page about a comparison: curves, reach, speed, the copy test, samples, and a paragraph for each picture.

Its numbers are those of `gptlite compare --json`; what it says in words is in comparison_text.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gptlite.errors import UsageError
from gptlite.report import comparison_text as text
from gptlite.report import emergence, masked_branch, page
from gptlite.report.page import visible

SIZES = {"seconds": (900, 360)}  # of charts by themselves
LONGEST_SAMPLE = 1000  # characters


@dataclass(frozen=True)
class Comparison:
    """What the page shows: `found`, the object that `gptlite compare --json` prints, in the language `lang`.

    - `explained`: with a paragraph for each picture. Raises `UsageError` for another language than en and zh.
    """

    found: Mapping[str, Any]
    lang: str = "en"
    explained: bool = False

    def __post_init__(self) -> None:
        if self.lang not in text.LANGUAGES:
            raise UsageError(f"`lang` must be one of {', '.join(text.LANGUAGES)}, not '{self.lang}'.")


def render(shown: Comparison) -> str:
    """The page as HTML. Raises `UsageError` when the libraries that draw are not installed."""
    found, lang, labels = shown.found, shown.lang, text.phrases(shown.lang)["labels"]
    specs = _charts(shown)
    contenders = found["contenders"]
    key = "prompt" if found["prompt"] else "no_prompt"
    return page.render(
        "comparison",
        {},
        specs,
        lang=lang,
        labels=labels,
        headline=labels["headline"].format(
            n=len(contenders),
            seconds=text.duration(found["seconds_each"], lang),
            bytes=f"{found['train_bytes']:,}",
            val=f"{found['val_bytes']:,}",
        ),
        drawn=set(specs),
        scores=_scores(shown),
        rates=rates(shown),
        samples=[(text.title(c, lang), visible(c["sample"][:LONGEST_SAMPLE])) for c in contenders],
        prompt=visible(labels[key].format(prompt=found["prompt"])),
        copy_note=labels["copy_note"].format(
            seconds=text.duration(min(20.0, 0.2 * found["seconds_each"]), lang), names=round(1 / found["copy_chance"])
        ),
        explanations=text.explain(found, lang) if shown.explained else {},
        hardware=visible(str(found["hardware"])),
        branch=masked_branch.section(found, lang, shown.explained),
        emergences=[
            emergence.context(course, lang, _of(course), text.title(course, lang), explained=shown.explained)
            for course in found["emergence"]
        ],
    )


def _of(course: Mapping[str, Any]) -> str:
    """What the names of its charts end in."""
    return "_" + str(course["name"]).replace("-", "_")


def figures(shown: Comparison) -> dict[str, page.Figure]:
    """The charts of the page by themselves, by name."""
    return {name: page.Figure(spec, SIZES.get(name, (440, 280))) for name, spec in _charts(shown).items()}


# -- Tables: the first row is the head


def _scores(shown: Comparison) -> list[list[str]]:
    found, lang, labels = shown.found, shown.lang, text.phrases(shown.lang)["labels"]
    rows = [
        [labels[key] for key in ("model", "bits", "behind", "parameters", "tokens", "memory", "written", "sequential")]
    ]
    for c in found["contenders"]:
        behind = c["behind_best"]
        error = (
            f" ± {(behind['bits_per_byte_interval'][1] - behind['bits_per_byte_interval'][0]) / 2:.3f}"
            if behind["bits_per_byte_interval"]
            else ""
        )
        rows.append(
            [
                text.title(c, lang),
                f"{c['bits_per_byte']:.3f}",
                labels["best"] if c["name"] == found["best"] else f"+{behind['bits_per_byte']:.3f}{error}",
                f"{c['n_parameters']:,}" if c["n_parameters"] else "",
                f"{c['n_tokens_seen']:,}",
                f"{c['n_memory_numbers']:,}",
                f"{1e3 * c['seconds_per_written_token']:.2f}",
                f"{c['speed'][-1]['n_sequential_operations']:,} / {c['speed'][-1]['context_length']}"
                if c["speed"]
                else "",
            ]
        )
    return rows


def rates(shown: Comparison) -> list[list[str]]:
    labels = text.phrases(shown.lang)["labels"]
    rows = [[labels["model"], labels["rate"], labels["tried"]]]
    for c in shown.found["contenders"]:
        if c["learning_rate"] is None:
            continue
        tried = [
            f"{trial['learning_rate']:g} ({labels['diverged'] if bits is None else format(bits, '.3f')})"
            for trial in c["sweep"]
            for bits in [trial["bits_per_byte"]]
        ]
        rows.append([text.title(c, shown.lang), f"{c['learning_rate']:g}", ", ".join(tried)])
    return rows if len(rows) > 1 else []


# -- Charts


def _charts(shown: Comparison) -> dict[str, dict[str, Any]]:
    """Those for which there are numbers."""
    networks = [c for c in shown.found["contenders"] if c["kind"] != "ngram"]
    drawn = {
        "seconds": curves(shown, "seconds", "seconds") if shown.found["contenders"] else None,
        "tokens": curves(shown, "n_tokens", "tokens") if networks else None,
        "reach": _reach(shown) if any(len(c["reach"]) > 1 for c in shown.found["contenders"]) else None,
        "speed": _speed(shown) if any(c["speed"] for c in networks) else None,
        "copy": _copy(shown) if networks else None,
    }
    for course in shown.found["emergence"]:
        drawn |= emergence.charts(course, lang=shown.lang, of=_of(course))
    return {name: spec for name, spec in drawn.items() if spec is not None}


def color(shown: Comparison) -> Any:
    """Each contender has one colour on the whole page."""
    import altair as alt

    names = [text.title(c, shown.lang) for c in shown.found["contenders"]]
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=3)
    return alt.Color("model:N", scale=alt.Scale(domain=names), legend=legend, sort=names)


def curves(shown: Comparison, key: str, label: str) -> dict[str, Any]:
    """Bits per byte over seconds or tokens; models that count as broken lines, whose height is all that they have."""
    import altair as alt

    labels, contenders = text.phrases(shown.lang)["labels"], shown.found["contenders"]
    lines = [
        {"model": text.title(c, shown.lang), "x": point[key], "y": round(point["bits_per_byte"], 4)}
        for c in contenders
        if c["kind"] != "ngram"
        for point in c["curve"]
        if point["n_tokens"]  # before the first step, all networks know nothing, which would flatten the rest
    ]
    rules = [
        {"model": text.title(c, shown.lang), "y": round(c["bits_per_byte"], 4)}
        for c in contenders
        if c["kind"] == "ngram"
    ]
    y = alt.Y("y:Q", title=labels["bits"], scale=alt.Scale(zero=False))
    scale = alt.Scale(type="log") if key == "n_tokens" else alt.Scale()
    x = alt.X("x:Q", title=labels[label], scale=scale, axis=alt.Axis(format="~s", grid=False))
    tooltip = [
        alt.Tooltip("model:N", title=labels["model"]),
        alt.Tooltip("x:Q", title=labels[label], format=","),
        alt.Tooltip("y:Q", title=labels["bits"]),
    ]
    marks: list[Any] = []
    if lines:
        base = alt.Chart(alt.InlineData(values=lines)).encode(x, y, color(shown), tooltip=tooltip)
        marks += [base.mark_line(strokeWidth=2), base.mark_point(size=16, filled=True)]
    if rules:
        rule = alt.Chart(alt.InlineData(values=rules)).encode(y, color(shown), tooltip=[tooltip[0], tooltip[2]])
        marks.append(rule.mark_rule(strokeDash=[5, 4], strokeWidth=1.5))
    return alt.layer(*marks).to_dict()


def _reach(shown: Comparison) -> dict[str, Any]:
    import altair as alt

    labels = text.phrases(shown.lang)["labels"]
    values: list[dict[str, Any]] = []
    for c in shown.found["contenders"]:
        for part in c["reach"]:
            low, high = part["bits_per_byte_interval"] or (part["bits_per_byte"], part["bits_per_byte"])
            span = str(part["first"]) if part["first"] == part["last"] else f"{part['first']}–{part['last']}"
            values.append(
                {
                    "model": text.title(c, shown.lang), "x": part["first"], "span": span,
                    "y": round(part["bits_per_byte"], 4), "low": round(low, 4), "high": round(high, 4),
                }
            )  # fmt: skip
    scale = alt.Scale(type="log", base=2)
    x = alt.X("x:Q", title=labels["known"], scale=scale, axis=alt.Axis(format=",.0f", grid=False))
    title = labels["bits"]
    base = alt.Chart(alt.InlineData(values=values)).encode(x, color(shown))
    named = {"model:N": labels["model"], "span:N": labels["known"], "y:Q": title, "low:Q": "95 %", "high:Q": "95 %"}
    tooltip = [alt.Tooltip(field, title=name) for field, name in named.items()]
    y = alt.Y("y:Q", title=title, scale=alt.Scale(zero=False))
    band = base.mark_area(opacity=0.12).encode(
        alt.Y("low:Q", title=title, scale=alt.Scale(zero=False)), alt.Y2("high:Q")
    )
    line = base.mark_line(strokeWidth=2, point={"size": 18, "filled": True}).encode(y, tooltip=tooltip)
    return alt.layer(band, line).to_dict()


def _speed(shown: Comparison) -> dict[str, Any]:
    import altair as alt

    labels = text.phrases(shown.lang)["labels"]
    values = [
        {"model": text.title(c, shown.lang), "x": at["context_length"], "y": at["tokens_per_second"]}
        for c in shown.found["contenders"]
        for at in c["speed"]
    ]
    contexts = sorted({value["x"] for value in values})
    x = alt.X("x:Q", title=labels["context"], scale=alt.Scale(type="log", base=2),
              axis=alt.Axis(format=",.0f", values=contexts, grid=False))  # fmt: skip
    y = alt.Y("y:Q", title=labels["tps"], axis=alt.Axis(format="~s"))
    tooltip = [alt.Tooltip("model:N", title=labels["model"]), alt.Tooltip("x:Q", title=labels["context"]),
               alt.Tooltip("y:Q", title=labels["tps"], format=",")]  # fmt: skip
    base = alt.Chart(alt.InlineData(values=values)).encode(x, y, color(shown), tooltip=tooltip)
    return base.mark_line(strokeWidth=2, point={"size": 24, "filled": True}).to_dict()


def _copy(shown: Comparison) -> dict[str, Any]:
    import altair as alt

    labels = text.phrases(shown.lang)["labels"]
    values: list[dict[str, Any]] = [
        {
            "model": text.title(c, shown.lang), "x": test["distance"], "y": round(test["right"], 4),
            "low": round(test["interval"][0], 4), "high": round(test["interval"][1], 4),
        }
        for c in shown.found["contenders"]
        for test in c["copy"]
    ]  # fmt: skip
    distances = sorted({value["x"] for value in values})
    scale = alt.Scale(type="log", domain=[distances[0], distances[-1]], nice=False)
    x = alt.X("x:Q", title=labels["distance"], scale=scale,
              axis=alt.Axis(format=",.0f", values=distances, grid=False))  # fmt: skip
    y = alt.Y("y:Q", title=labels["right"], scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format=".0%"))
    tooltip = [alt.Tooltip("model:N", title=labels["model"]), alt.Tooltip("x:Q", title=labels["distance"]),
               alt.Tooltip("y:Q", title=labels["right"], format=".1%")]  # fmt: skip
    base = alt.Chart(alt.InlineData(values=values)).encode(x, color(shown))
    band = base.mark_area(opacity=0.12).encode(alt.Y("low:Q", title=labels["right"]), alt.Y2("high:Q"))
    line = base.mark_line(strokeWidth=2, point={"size": 24, "filled": True}).encode(y, tooltip=tooltip)
    chance = alt.Chart(alt.InlineData(values=[{"y": shown.found["copy_chance"]}])).encode(y)
    return alt.layer(band, line, chance.mark_rule(strokeDash=[4, 4], style="now")).to_dict()

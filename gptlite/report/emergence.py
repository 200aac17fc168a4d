"""How words came to be, as part of a page: two charts, a table for each word, and a paragraph that is true of them.

What is shown is the object of `gptlite words steps --json` from "init" on. The text is in emergence.en.json and
emergence.zh.json; `explain` makes claims of the numbers, each under the condition in which it is true.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from gptlite.report.page import visible

HERE = Path(__file__).parent
LONGEST_TOKEN = 12  # characters that are shown
MOST_ROWS = 9  # of a table: steps, the first and the last among them
CHARTS = ("emergence", "emergence_loss", "emergence_heads")  # the names of the charts
Course = Mapping[str, Any]


@cache
def phrases(lang: str) -> dict[str, dict[str, str]]:
    """The "labels" and "sentences" of a language, en or zh."""
    return json.loads((HERE / f"emergence.{lang}.json").read_text(encoding="utf-8"))


def context(
    course: Course, lang: str = "en", of: str = "", name: str = "", *, explained: bool = True
) -> dict[str, Any]:
    """What the template `emergence.html` needs, with a paragraph if it is `explained`.

    - `of`, `name`: where a page has several, what the names of the charts end in, and what people call it.
    """
    labels = phrases(lang)["labels"]
    return {
        "labels": labels,
        "ids": {chart: f"{chart}{of}" for chart in CHARTS},
        "name": visible(name),
        "explanation": visible(explain(course, lang)) if explained else "",
        "tables": [(visible(word["word"]), _rows(course, word, labels)) for word in course["words"]],
    }


def _rows(course: Course, word: Mapping[str, Any], labels: Mapping[str, str]) -> list[list[str]]:
    """The neighbours of a word at some steps; the first row is the head."""
    n = len(course["steps"])
    shown = sorted({round(i * (n - 1) / max(1, min(n, MOST_ROWS) - 1)) for i in range(min(n, MOST_ROWS))})
    rows = [[labels["step"], labels["loss"], labels["neighbours"]]]
    for i in shown:
        step = course["steps"][i]
        near = ", ".join(f"{visible(other['word'])} {other['cosine']:.2f}" for other in word["neighbours"][i])
        rows.append([f"{step['step']:,}", _loss(step), near])
    return rows


def _loss(step: Mapping[str, Any]) -> str:
    return "" if step["train_loss_nats"] is None else f"{step['train_loss_nats']:.2f}"


# -- Sentences


def explain(course: Course, lang: str = "en") -> str:
    """What the charts show, in sentences."""
    sentences = phrases(lang)["sentences"]
    return ("" if lang == "zh" else " ").join(sentences[key].format(**values) for key, values in _claims(course))


def _claims(course: Course) -> list[tuple[str, dict[str, str]]]:
    steps, words = course["steps"], course["words"]
    first = steps[0]["step"]
    claims: list[tuple[str, dict[str, str]]] = []
    if first == 0:
        claims.append((f"init_{course['init']}", {}))
    else:
        claims.append(("first_kept", {"step": f"{first:,}"}))
    shares = [sum(word["n_found"][i] for word in words) for i in range(len(steps))]
    total = shares[-1]
    if not total or len(steps) < 2:
        return claims
    there = {"n": str(shares[0]), "total": str(total), "step": f"{first:,}"}
    claims.append(("there_none" if not shares[0] else "there_some" if shares[0] < total else "there_all", there))
    half = _from_then_on(shares, total / 2)
    if half > 0:
        claims.append(("half", {"step": f"{steps[half]['step']:,}"}))
        claims += _loss_by(steps, half)
    cosines = [sum(word["cosines_to_last"][i] for word in words) / len(words) for i in (0, -1)]
    told = {"before": f"{cosines[0]:.2f}", "after": f"{cosines[1]:.2f}"}
    key = "same" if told["before"] == told["after"] else "closer" if cosines[1] > cosines[0] else "further"
    claims.append((key, told))
    return [*claims, *_head_claims(course)]


def _head_claims(course: Course) -> list[tuple[str, dict[str, str]]]:
    """Over how many tokens, if they counted alike, the head that changed most spreads its attention: 2^entropy."""
    kept = course.get("attention")
    if not kept or not kept["heads"]:
        return []
    head = kept["heads"][0]
    first, last = (_spread(weights) for weights in (head["weights"][0], head["weights"][-1]))
    values = {
        "head": f"{head['layer']}.{head['head']}", "n": str(len(kept["tokens"])), "before": f"{first:.1f}",
        "after": f"{last:.1f}", "step": f"{kept['steps'][0]:,}",
    }  # fmt: skip
    key = "same" if values["before"] == values["after"] else "narrower" if last < first else "wider"
    return [(f"head_{key}", values)]


def _spread(weights: Sequence[Sequence[float]]) -> float:
    """The mean over tokens but the first, which has no choice, of 2^entropy of its weights."""
    rows = [2 ** -sum(w * math.log2(w) for w in row if w > 0) for row in weights[1:]]
    return sum(rows) / max(1, len(rows))


def _from_then_on(shares: Sequence[int], least: float) -> int:
    """The first step from which on at least so many are there."""
    return max((i + 1 for i, share in enumerate(shares) if share < least), default=0)


def _loss_by(steps: Sequence[Mapping[str, Any]], at: int) -> list[tuple[str, dict[str, str]]]:
    """What the loss had come to by then, and comes to in the end."""
    measured = [step["train_loss_nats"] for step in steps if step["train_loss_nats"] is not None]
    then = steps[at]["train_loss_nats"]
    if then is None or len(measured) < 2 or at == len(steps) - 1:
        return []
    before, after = f"{measured[0]:.2f}", f"{measured[-1]:.2f}"
    values = {"before": before, "then": f"{then:.2f}", "after": after}
    return [("loss_fell" if measured[-1] < then < measured[0] else "loss", values)]


# -- Charts


def charts(
    course: Course, curve: Sequence[tuple[int, float]] = (), lang: str = "en", of: str = ""
) -> dict[str, dict[str, Any]]:
    """Cosines of each word to what is near it in the end, and the training loss beside them, both over the steps; and
    where they were kept, heads of attention on a sentence.

    - `of`: what the names of the charts end in, where a page has several of them.
    - `curve`: (step, nats per token) of the log, drawn with the losses of the kept steps.
    """
    if len(course["steps"]) < 2 or not course["words"]:
        return {}
    labels, steps = phrases(lang)["labels"], course["steps"]
    kept = [(step["step"], step["train_loss_nats"]) for step in steps if step["train_loss_nats"] is not None]
    losses = sorted({**dict(kept), **dict(curve)}.items())
    last = max(steps[-1]["step"], *(step for step, _ in losses)) if losses else steps[-1]["step"]
    drawn = {"emergence": _neighbours(course, labels, last)}
    if len(losses) > 1:
        drawn["emergence_loss"] = _losses(losses, labels, last)
    if course.get("attention"):
        drawn["emergence_heads"] = _heads(course["attention"], labels)
    return {f"{name}{of}": spec for name, spec in drawn.items()}


def _heads(kept: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """Squares of weights: a row of them for each head, a column for each step; in them, tokens ask and are asked."""
    import altair as alt

    tokens = [visible(token).strip()[:LONGEST_TOKEN] or "␣" for token in kept["tokens"]]
    size = len(tokens) + 1  # of a square, with room beside it
    values = [
        {
            "x": column * size + j, "x2": column * size + j + 1, "y": row * size + i, "y2": row * size + i + 1,
            "weight": weight, "asks": tokens[i], "asked": tokens[j], "at": f"{step:,}",
            "head": f"{head['layer']}.{head['head']}",
        }
        for row, head in enumerate(kept["heads"])
        for column, (step, weights) in enumerate(zip(kept["steps"], head["weights"], strict=True))
        for i, line in enumerate(weights)
        for j, weight in enumerate(line[: i + 1])
    ]  # fmt: skip
    names = [
        {"x": column * size + size / 2, "y": row * size - 0.2, "text": labels["head_at"].format(
            head=f"{head['layer']}.{head['head']}", step=f"{step:,}")}
        for row, head in enumerate(kept["heads"])
        for column, step in enumerate(kept["steps"])
    ]  # fmt: skip
    domain = ([-0.5, len(kept["steps"]) * size], [-1.5, len(kept["heads"]) * size])
    x, y = (
        channel(
            f"{name}:Q", scale=alt.Scale(domain=part, nice=False, zero=False, reverse=name == "y"),
            axis=alt.Axis(labels=False, ticks=False, domain=False, grid=False, title=None),
        )
        for (name, channel), part in zip((("x", alt.X), ("y", alt.Y)), domain, strict=True)
    )  # fmt: skip
    cells = alt.Chart(alt.InlineData(values=values)).encode(
        x, y, alt.X2("x2:Q"), alt.Y2("y2:Q"),
        alt.Color("weight:Q", scale=alt.Scale(domain=[0, 1], range="heatmap"), legend=None),
        tooltip=[
            alt.Tooltip("head:N", title=labels["head"]), alt.Tooltip("at:N", title=labels["step"]),
            alt.Tooltip("asks:N", title=labels["asks"]), alt.Tooltip("asked:N", title=labels["asked"]),
            alt.Tooltip("weight:Q", title=labels["weight"], format=".2f"),
        ],
    )  # fmt: skip
    text = alt.Chart(alt.InlineData(values=names)).mark_text(baseline="bottom", fontSize=10).encode(x, y, text="text:N")
    return alt.layer(cells.mark_rect(), text).to_dict()


def _x(labels: Mapping[str, str], last: int) -> Any:
    """Steps on a scale that shows the first few as wide as the last thousands. The page's switch does not change it."""
    import altair as alt

    ticks = [0, *(4**k for k in range(16) if 4**k <= last)]
    return alt.X(
        "at:Q", title=labels["step"], axis=alt.Axis(format=",", values=ticks, grid=False),
        scale=alt.Scale(type="symlog", constant=1, domain=[0, last], nice=False),
    )  # fmt: skip


def _neighbours(course: Course, labels: Mapping[str, str], last: int) -> dict[str, Any]:
    import altair as alt

    values = [
        {
            "word": visible(word["word"]),
            "at": step["step"],
            "cosine": round(word["cosines_to_last"][i], 4),
            "near": ", ".join(visible(other["word"]) for other in word["neighbours"][i]),
        }
        for word in course["words"]
        for i, step in enumerate(course["steps"])
    ]
    names = [visible(word["word"]) for word in course["words"]]
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=3)
    base = alt.Chart(alt.InlineData(values=values)).encode(
        _x(labels, last),
        alt.Y("cosine:Q", title=labels["cosine"], scale=alt.Scale(zero=True)),
        alt.Color("word:N", scale=alt.Scale(domain=names), sort=names, legend=legend),
        tooltip=[
            alt.Tooltip("word:N", title=labels["word"]), alt.Tooltip("at:Q", title=labels["step"], format=","),
            alt.Tooltip("cosine:Q", title=labels["cosine"]), alt.Tooltip("near:N", title=labels["neighbours"]),
        ],
    )  # fmt: skip
    return alt.layer(base.mark_line(strokeWidth=2), base.mark_point(size=24, filled=True)).to_dict()


def _losses(losses: Sequence[tuple[int, float]], labels: Mapping[str, str], last: int) -> dict[str, Any]:
    import altair as alt

    values = [{"at": step, "loss": round(loss, 4)} for step, loss in losses]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        _x(labels, last),
        alt.Y("loss:Q", title=labels["loss_title"], scale=alt.Scale(zero=False)),
        tooltip=[alt.Tooltip("at:Q", title=labels["step"], format=","), alt.Tooltip("loss:Q", title=labels["loss"])],
    )
    return base.mark_line(strokeWidth=2, style="result").to_dict()

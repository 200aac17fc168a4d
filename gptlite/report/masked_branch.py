"""The section of a comparison's page about the model that reads both sides: what it gains, costs and cannot do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gptlite.report.comparison_text import Claim, duration, in_words, phrases
from gptlite.report.page import visible

PAGE = "masked_branch"
LONGEST_SAMPLE = 400  # characters
NORMAL_95 = 1.96  # standard deviations on both sides that hold 95 % of a normal distribution


def section(found: Mapping[str, Any], lang: str, explained: bool) -> dict[str, Any] | None:
    """What masked_branch.html shows; None where the model took no part."""
    masked = found.get("masked")
    if not masked:
        return None
    labels, senses = phrases(lang, PAGE)["labels"], masked["senses"]
    return {
        "labels": labels,
        "rows": _rows(senses, labels) if senses else [],
        "note": labels["note"].format(
            words=senses["n_words"], uses=f"{senses['n_uses']:,}", majority=f"{senses['majority']:.1%}"
        )
        if senses
        else "",
        "sample": visible(masked["sample"][:LONGEST_SAMPLE]),
        "explained": explain(masked, lang) if explained else "",
    }


def _rows(senses: Mapping[str, Any], labels: Mapping[str, str]) -> list[list[str]]:
    rows = [[labels["vectors"], labels["centroid"], labels["auc"]]]
    return rows + [[labels[v["name"]], f"{v['centroid']:.1%}", f"{v['auc']:.1%}"] for v in senses["vectors"]]


def explain(masked: Mapping[str, Any], lang: str) -> str:
    """A paragraph whose sentences are all true of `masked`."""
    claims: list[Claim] = [
        ("guesses", {"seconds": duration(masked["seconds"], lang), "guessed": f"{masked['guessed']:.1%}"}),
        ("cost", {"steps": f"{masked['n_steps']:,}", "causal": f"{masked['n_causal_steps']:,}"}),
    ]
    if masked["senses"] is None:
        claims.append(("no_senses", {}))
    else:
        scores = {v["name"]: v["centroid"] for v in masked["senses"]["vectors"]}
        n = masked["senses"]["n_uses"]
        claims.append(_verdict(scores["masked"], "left", scores["left"], n))
        if "both" in scores:
            claims.append(_verdict(scores["masked"], "both", scores["both"], n))
    return in_words({"branch": [*claims, ("cannot_write", {})]}, lang, PAGE)["branch"]


def _verdict(masked: float, name: str, other: float, n: int) -> Claim:
    """Ahead, behind or level, where two shares of `n` uses differ by more than chance explains or not."""
    error = NORMAL_95 * math.sqrt((masked * (1 - masked) + other * (1 - other)) / n)
    words = {"masked": f"{masked:.1%}", name: f"{other:.1%}", "error": f"{error:.1%}"}
    if abs(masked - other) <= error:
        return f"level_{name}", words
    return f"{'ahead_of' if masked > other else 'behind'}_{name}", words

"""What the page of a comparison on pairs says in words: claims of the measured values, each under the condition that
makes it true. pair_comparison.en.json and pair_comparison.zh.json have a sentence for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from gptlite.report.comparison_text import SAME, Claim, in_words, title

PAGE = "pair_comparison"
SHARP = 0.5  # mean of the largest weights from which on a look counts as one at a single place


def explain(found: Mapping[str, Any], lang: str) -> dict[str, str]:
    """A paragraph for each picture, by its name, and one that concludes; every sentence is true of `found`."""
    paragraphs = {
        "exact": _exact(found, lang), "curves": _curves(found, lang), "attention": _attention(found, lang),
        "conclusion": _conclusion(found, lang),
    }  # fmt: skip
    return in_words(paragraphs, lang, PAGE)


def _exact(found: Mapping[str, Any], lang: str) -> list[Claim]:
    best = next(c for c in found["contenders"] if c["name"] == found["best"])
    if not best["exact_match"]:
        return [("none", {})]
    words = {"best": title(best, lang), "share": f"{best['exact_match']:.1%}", "n": f"{found['n_answers']:,}"}
    claims: list[Claim] = [("best", words)]
    others = sorted((c for c in found["contenders"] if c is not best), key=lambda c: -c["exact_match"])
    if others:
        fewer = others[0]["behind_best"]
        words = {"other": title(others[0], lang), "difference": _points(fewer["exact_match"], lang)}
        if fewer["exact_match_interval"] is None:
            claims.append(("unclear", words))
        else:
            low, high = fewer["exact_match_interval"]
            claims.append(("apart" if low > 0 else "level", {**words, "error": _points((high - low) / 2, lang)}))
    return claims


def _curves(found: Mapping[str, Any], lang: str) -> list[Claim]:
    ranked = sorted(found["contenders"], key=lambda c: c["bits_per_byte"])
    claims: list[Claim] = []
    if len(ranked) > 1:
        best, other = ranked[:2]
        words = {"best": title(best, lang), "bits": f"{best['bits_per_byte']:.3f}"}
        claims.append(("fewest", {**words, "other": title(other, lang), "more": f"{other['bits_per_byte']:.3f}"}))
    by_read = sorted(found["contenders"], key=lambda c: c["n_tokens_seen"])
    slow, fast = by_read[0], by_read[-1]
    if slow is not fast and slow["n_tokens_seen"]:
        words = {"n_slow": f"{slow['n_tokens_seen']:,}", "n_fast": f"{fast['n_tokens_seen']:,}"}
        ratio = fast["n_tokens_seen"] / slow["n_tokens_seen"]
        if ratio < 1 + SAME:
            claims.append(("equal_read", words))
        else:
            names = {"fast": title(fast, lang), "slow": title(slow, lang), "ratio": f"{ratio:.1f}"}
            claims.append(("more_read", {**words, **names}))
        if {"lstm-attention"} < {c["name"] for c in found["contenders"]}:
            claims.append(("one_by_one", {}))
    return claims


def _attention(found: Mapping[str, Any], lang: str) -> list[Claim]:
    claims: list[Claim] = []
    for c in found["contenders"]:
        seen = c["attention"]
        if not seen or not seen["weights"] or not seen["prompt"]:
            continue
        rows: Sequence[Sequence[float]] = seen["weights"]
        share = sum(map(max, rows)) / len(rows)
        words = {"name": title(c, lang), "share": f"{share:.0%}"}
        claims.append(("looks_sharply" if share >= SHARP else "looks_widely", words))
        if len(rows) > 1:
            places = [max(range(len(row)), key=row.__getitem__) for row in rows]
            moves = sum(one != two for one, two in pairwise(places))
            words = {"name": title(c, lang), "moves": str(moves), "steps": str(len(rows) - 1)}
            claims.append(("moves", words))
        if c["name"] == "gptlite":
            claims.append(("own_look", {"prompt": f"{sum(map(sum, rows)) / len(rows):.0%}"}))
    return claims


def _conclusion(found: Mapping[str, Any], lang: str) -> list[Claim]:
    """Whatever the numbers say, also where the encoder-decoder is the better one."""
    known = {c["name"]: c for c in found["contenders"]}
    own, other = known.get("gptlite"), known.get("encoder-decoder")
    if own is None or other is None:
        return [("not_both", {})]
    difference = own["exact_match"] - other["exact_match"]
    error = _error(own, other, found["best"])
    words = {"difference": _points(abs(difference), lang)}
    key = "decoder_level" if abs(difference) <= error else "decoder_ahead" if difference > 0 else "decoder_behind"
    return [(key, words), ("decoder_simple", {})]


def _error(own: Mapping[str, Any], other: Mapping[str, Any], best: str) -> float:
    """Half of the 95 % interval of the difference: from the same answers where one of the two is the best."""
    behind = (other if best == own["name"] else own)["behind_best"]["exact_match_interval"]
    if best in (own["name"], other["name"]):
        return (behind[1] - behind[0]) / 2 if behind else math.inf
    widths = [c["exact_match_interval"][1] - c["exact_match_interval"][0] for c in (own, other)]
    return math.hypot(*(width / 2 for width in widths))


def _points(share: float, lang: str) -> str:
    """A difference of shares: 0.123 as "12.3 %"."""
    return f"{100 * share:.1f}{'' if lang == 'zh' else ' '}%"

"""What the page of a comparison says in words, in English and in Chinese.

`explain` makes claims of the measured values, each with the condition under which it is true; comparison.en.json and
comparison.zh.json have a sentence for each claim. No sentence is shown for a claim that was not made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LANGUAGES = ("en", "zh")
Claim = tuple[str, dict[str, str]]  # the key of a sentence, and what stands in it
SAME = 0.1  # two speeds or numbers of tokens that differ by less than this share count as equal


@cache
def phrases(lang: str, page: str = "comparison") -> dict[str, dict[str, str]]:
    """The "labels" and "sentences" of a page in a language; of a comparison also the "titles" of contenders."""
    return json.loads((HERE / f"{page}.{lang}.json").read_text(encoding="utf-8"))


def title(contender: Mapping[str, Any], lang: str) -> str:
    return phrases(lang)["titles"].get(contender["name"], str(contender["title"]))


def duration(seconds: float, lang: str) -> str:
    """90 as "1.5 minutes"; below two minutes in seconds."""
    if seconds < 120:
        number = f"{seconds:.2g}" if seconds < 1 else f"{seconds:,.0f}"
        return f"{number} 秒" if lang == "zh" else f"{number} second{'' if number == '1' else 's'}"
    return f"{seconds / 60:.3g} 分钟" if lang == "zh" else f"{seconds / 60:.3g} minutes"


def explain(found: Mapping[str, Any], lang: str) -> dict[str, str]:
    """A paragraph for each picture, by its name, and one that concludes; every sentence is true of `found`."""
    paragraphs = {
        "curves": _curves(found, lang), "reach": _reach(found, lang), "speed": _speed(found, lang),
        "copy": _copy(found, lang), "conclusion": _conclusion(found, lang),
    }  # fmt: skip
    return in_words(paragraphs, lang)


def in_words(paragraphs: Mapping[str, Sequence[Claim]], lang: str, page: str = "comparison") -> dict[str, str]:
    """Claims as sentences, a paragraph for each name that has any."""
    sentences = phrases(lang, page)["sentences"]
    return {
        name: ("" if lang == "zh" else " ").join(sentences[key].format(**values) for key, values in claims)
        for name, claims in paragraphs.items()
        if claims
    }


def _by_name(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {c["name"]: c for c in found["contenders"]}


def _networks(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [c for c in found["contenders"] if c["kind"] != "ngram"]


def _curves(found: Mapping[str, Any], lang: str) -> list[Claim]:
    known, networks = _by_name(found), _networks(found)
    best = known[found["best"]]
    claims: list[Claim] = [("best", {"best": title(best, lang), "bits": f"{best['bits_per_byte']:.3f}"})]
    others = sorted((c for c in found["contenders"] if c is not best), key=lambda c: c["bits_per_byte"])
    if others:
        behind = others[0]["behind_best"]
        words = {"other": title(others[0], lang), "difference": f"{behind['bits_per_byte']:.3f}"}
        if behind["bits_per_byte_interval"] is None:
            claims.append(("unclear", words))
        else:
            low, high = behind["bits_per_byte_interval"]
            key = "apart" if low > 0 else "level"
            claims.append((key, {**words, "error": f"{(high - low) / 2:.3f}"}))
    if (gram := known.get("5-gram")) and networks:
        worse = [title(c, lang) for c in networks if c["bits_per_byte"] >= gram["bits_per_byte"]]
        bits = f"{gram['bits_per_byte']:.3f}"
        if worse:
            words = {"names": listed(worse, lang), "bits": bits, "seconds": duration(gram["seconds"], lang)}
            claims.append(("count_ahead", words))
        else:
            claims.append(("count_behind", {"bits": bits}))
    return [*claims, *_tokens(found, lang)]


def _tokens(found: Mapping[str, Any], lang: str) -> list[Claim]:
    """How many tokens the best Transformer and the best recurrent network read, and what they learned from each."""
    pair = _pair(found)
    if pair is None:
        return []
    recurrent, transformer = pair
    n_one, n_other = transformer["n_tokens_seen"], recurrent["n_tokens_seen"]
    fast, slow = (transformer, recurrent) if n_one >= n_other else (recurrent, transformer)
    most, fewest = max(n_one, n_other), min(n_one, n_other)
    if not fewest:
        return []
    one, other = title(transformer, lang), title(recurrent, lang)
    claims: list[Claim] = []
    if most < (1 + SAME) * fewest:
        claims.append(("equal_read", {"one": one, "other": other, "n_one": f"{n_one:,}", "n_other": f"{n_other:,}"}))
    else:
        words = {"fast": title(fast, lang), "slow": title(slow, lang), "n_fast": f"{most:,}", "n_slow": f"{fewest:,}"}
        claims.append(("more_read", {**words, "ratio": f"{most / fewest:.1f}"}))
    b_one, b_other = bits_at(transformer, fewest), bits_at(recurrent, fewest)
    if b_one is not None and b_other is not None and f"{b_one:.2f}" != f"{b_other:.2f}":
        key = "per_token_better" if b_one < b_other else "per_token_worse"
        words = {"one": one, "other": other, "n": f"{fewest:,}", "b_one": f"{b_one:.2f}", "b_other": f"{b_other:.2f}"}
        claims.append((key, words))
    return claims


def bits_at(contender: Mapping[str, Any], n_tokens: int) -> float | None:
    """Bits per byte when so many tokens were read, between two scores on a straight line; None outside the curve."""
    curve = contender["curve"]
    for one, two in pairwise(curve):
        if one["n_tokens"] <= n_tokens <= two["n_tokens"]:
            share = (n_tokens - one["n_tokens"]) / max(1, two["n_tokens"] - one["n_tokens"])
            return one["bits_per_byte"] + share * (two["bits_per_byte"] - one["bits_per_byte"])
    return None


def _pair(found: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """The best recurrent network and the best Transformer; None where one kind is missing."""
    best = [
        min((c for c in found["contenders"] if c["kind"] == kind), key=lambda c: c["bits_per_byte"], default=None)
        for kind in ("recurrent", "transformer")
    ]
    return None if best[0] is None or best[1] is None else (best[0], best[1])


def _reach(found: Mapping[str, Any], lang: str) -> list[Claim]:
    claims: list[Claim] = []
    gram = _by_name(found).get("5-gram")
    if gram and len(gram["reach"]) > 3:
        near, far = gram["reach"][2], gram["reach"][-1]
        words = {"near": f"{near['bits_per_byte']:.2f}", "far": f"{far['bits_per_byte']:.2f}"}
        claims.append(("gram_reach", {**words, "first": str(far["first"]), "last": str(far["last"])}))
    pair = _pair(found)
    for c in pair or _networks(found)[:2]:
        reach = c["reach"]
        helping = [i for i, part in enumerate(reach) if part["helps"]]
        if not helping:
            claims.append(("reach_none", {"name": title(c, lang)}))
        elif helping[-1] == len(reach) - 1:
            near, far = reach[-2], reach[-1]
            words = {"first_near": near["first"], "last_near": near["last"], "first": far["first"], "last": far["last"]}
            words = {key: str(value) for key, value in words.items()}
            bits = {"near": f"{near['bits_per_byte']:.2f}", "far": f"{far['bits_per_byte']:.2f}"}
            claims.append(("reach_far", {"name": title(c, lang), **words, **bits}))
        else:
            claims.append(("reach_until", {"name": title(c, lang), "until": str(reach[helping[-1]]["last"])}))
    return claims


def _speed(found: Mapping[str, Any], lang: str) -> list[Claim]:
    pair = _pair(found)
    claims: list[Claim] = []
    for c in pair or _networks(found)[:2]:
        if not c["speed"]:
            continue
        first, last = c["speed"][0], c["speed"][-1]
        a, b = first["tokens_per_second"], last["tokens_per_second"]
        words = {"name": title(c, lang), "a": f"{a:,}", "b": f"{b:,}"}
        words |= {"short": str(first["context_length"]), "long": str(last["context_length"])}
        if b < a / (1 + SAME):
            claims.append(("slower" if c["kind"] == "recurrent" else "slower_attention", words))
        else:
            claims.append(("faster" if b > a * (1 + SAME) else "as_fast", words))
    if pair and pair[0]["speed"] and pair[1]["speed"]:
        a, b = pair[1]["speed"][-1]["tokens_per_second"], pair[0]["speed"][-1]["tokens_per_second"]
        words = {"one": title(pair[1], lang), "other": title(pair[0], lang)}
        words |= {"long": str(pair[1]["speed"][-1]["context_length"]), "ratio": f"{max(a, b) / max(1, min(a, b)):.1f}"}
        claims.append(("parallel_faster" if a >= b else "parallel_slower", words))
    for c in pair or ():
        key = "state" if c["kind"] == "recurrent" else "cache"
        words = {"name": title(c, lang), "n": f"{c['n_memory_numbers']:,}", "context": str(found["context_length"])}
        claims.append((key, words))
    return claims


def _copy(found: Mapping[str, Any], lang: str) -> list[Claim]:
    claims: list[Claim] = []
    chance = found["copy_chance"]
    for c in _networks(found):
        far = c["copy"][-1]
        words = {"name": title(c, lang), "distance": str(far["distance"]), "right": f"{far['right']:.0%}"}
        if far["right"] >= 0.9:
            claims.append(("copies", words))
            continue
        forgets = far["interval"][0] <= chance
        claims.append(("forgets" if forgets else "partly", {**words, "chance": f"{chance:.0%}"}))
        near = c["copy"][0]
        if near["right"] >= 0.5 > far["right"]:
            words = {"near": str(near["distance"]), "near_right": f"{near['right']:.0%}"}
            claims.append(("forgot_between", words))
    return claims


def _conclusion(found: Mapping[str, Any], lang: str) -> list[Claim]:
    """Why not just an LSTM? Whatever the numbers say, also where it is the better one."""
    known = _by_name(found)
    lstm, own = known.get("lstm"), known.get("gptlite")
    if lstm is None or own is None:
        return [("no_lstm" if lstm is None else "no_gptlite", {})]
    difference = lstm["bits_per_byte"] - own["bits_per_byte"]
    words = {"difference": f"{abs(difference):.3f}"}
    # Of the scores' own intervals, the difference between two contenders that are not the best has none.
    behind = (lstm if found["best"] == "gptlite" else own)["behind_best"]
    paired = behind["bits_per_byte_interval"] if found["best"] in ("lstm", "gptlite") else None
    error = (paired[1] - paired[0]) / 2 if paired else _error(lstm, own)
    if abs(difference) <= error:
        claims: list[Claim] = [("lstm_level", words)]
    else:
        claims = [("lstm_loses" if difference > 0 else "lstm_wins", words)]
    one, two = lstm["copy"][-1]["right"], own["copy"][-1]["right"]
    memory = {"n": f"{lstm['n_memory_numbers']:,}", "lstm": f"{one:.0%}", "gptlite": f"{two:.0%}"}
    claims.append(("reason_memory" if one < two - 0.05 else "reason_memory_not", memory))
    if lstm["speed"] and own["speed"]:
        speeds = {c["name"]: f"{c['speed'][-1]['tokens_per_second']:,}" for c in (lstm, own)}
        claims.append(("reason_speed", speeds))
    return claims


def _error(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    intervals = [c["bits_per_byte_interval"] for c in (one, other)]
    return math.hypot(*((high - low) / 2 for low, high in intervals)) if all(intervals) else math.inf


def listed(names: Sequence[str], lang: str) -> str:
    """ "a, b and c"."""
    if lang == "zh":
        return "、".join(names)
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else "".join(names)

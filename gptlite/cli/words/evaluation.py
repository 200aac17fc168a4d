"""How well vectors agree with people: similarities of pairs, and analogies, with intervals and differences."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gptlite.cli.shared import console, sources
from gptlite.cli.words.spaces import decimals

if TYPE_CHECKING:
    from gptlite.embedding.static import WordVectors
    from gptlite.embedding.word_evaluation import Analogies, Difference, Interval, Pairs


def evaluate(
    spaces: Sequence[WordVectors], names: Sequence[str], json: bool, encoding: str | None = None
) -> dict[str, Any]:
    """What each file of questions, in `encoding`, says of the vectors. Returns what JSON says, or prints tables."""
    from gptlite.embedding import word_evaluation

    files: list[dict[str, Any]] = []
    for name in names:
        with sources.open_text(name, "pairs of words", encoding) as file:
            content = file.read(word_evaluation.LARGEST_FILE + 1)
        if len(content) <= word_evaluation.LARGEST_FILE:
            sources.decode(content, name)  # says which encoding it may be in
        questions = word_evaluation.parse_questions(content, name)
        if isinstance(questions, word_evaluation.Pairs):
            result, show = _evaluate_pairs(questions, spaces), _print_pairs
        else:
            result, show = _evaluate_analogies(questions, spaces), _print_analogies
        files.append({"file": name, **result})
        if not json:
            console.write("\n" if len(files) > 1 else "")
            show(files[-1])
    return {"files": files}


def _evaluate_pairs(pairs: Pairs, spaces: Sequence[WordVectors]) -> dict[str, Any]:
    from gptlite.embedding.word_evaluation import compare_pairs, evaluate_pairs

    rows: list[dict[str, Any]] = []
    corrected = [evaluate_pairs(space.index, space.directions, pairs) for space in spaces]
    for space, result in zip(spaces, corrected, strict=True):
        found = [(space.correction, result)]
        if space.correction != "none":
            found.append(("none", evaluate_pairs(space.index, space.vectors, pairs)))
        rows += [
            {
                "vectors": space.name,
                "correct": correction,
                "n_used": int(r.used.sum()),
                "unknown": round(1 - float(r.used.mean()), 4),
                "spearman": _rounded(r.spearman),
                "interval": _interval(r.interval),
            }
            for correction, r in found
        ]
    differences = [
        _difference(spaces[i], spaces[j], compare_pairs(corrected[i], corrected[j]))
        for i, j in itertools.combinations(range(len(spaces)), 2)
    ]
    return {"kind": "pairs", "n_questions": len(pairs.words), "results": rows, "differences": differences}


def _evaluate_analogies(analogies: Analogies, spaces: Sequence[WordVectors]) -> dict[str, Any]:
    import numpy as np

    from gptlite.embedding.word_evaluation import compare_analogies, evaluate_analogies

    sections = np.array(analogies.sections)
    rows: list[dict[str, Any]] = []
    for space in spaces:
        r = evaluate_analogies(space.index, space.directions, analogies)
        rows.append(
            {
                "vectors": space.name,
                "correct": space.correction,
                "n_used": int(r.used.sum()),
                "unknown": round(1 - float(r.used.mean()), 4),
                "accuracy": _rounded(r.accuracy),
                "interval": _interval(r.interval),
                "sections": {
                    name: {
                        "n_used": int(r.used[sections == name].sum()),
                        "n_right": int(r.right[sections == name].sum()),
                    }
                    for name in dict.fromkeys(analogies.sections)
                },
            }
        )
    differences: list[dict[str, Any]] = []
    for a, b in itertools.combinations(spaces, 2):  # with the same words to choose from
        shared = {word: i for i, word in enumerate(w for w in a.words if w in b.index)}
        first, second = (
            evaluate_analogies(shared, space.directions[[space.index[word] for word in shared]], analogies)
            for space in (a, b)
        )
        differences.append({**_difference(a, b, compare_analogies(first, second)), "n_words": len(shared)})
    n = len(analogies.questions)
    return {"kind": "analogies", "n_questions": n, "results": rows, "differences": differences}


def _difference(a: WordVectors, b: WordVectors, found: Difference) -> dict[str, Any]:
    return {
        "of": [a.name, b.name],
        "n_used": found.n,
        "difference": _rounded(found.difference),
        "interval": _interval(found.interval),
        "shown": found.is_shown,
    }


def _print_pairs(file: Mapping[str, Any]) -> None:
    console.write(f"{_source(file)}: {console.plural(file['n_questions'], 'pair')} of words that people compared\n")
    rows = [
        [
            r["vectors"], "raw" if r["correct"] == "none" else r["correct"], f"{r['n_used']:,}",
            f"{100 * r['unknown']:.0f} %", decimals(r["spearman"]), _between(r["interval"], decimals),
        ]
        for r in file["results"]
    ]  # fmt: skip
    head = ["vectors", "correction", "pairs used", "unknown", "Spearman", "95 % interval"]
    console.print_table(head, rows, right=frozenset({2, 3, 4}))
    for d in file["differences"]:
        _print_difference(d, "pairs that both know", decimals)


def _print_analogies(file: Mapping[str, Any]) -> None:
    names = list(file["results"][0]["sections"])
    n = file["n_questions"]
    console.write(f"{_source(file)}: {n:,} {'analogy' if n == 1 else 'analogies'}\n")
    rows = [
        [name, *(f"{r['sections'][name]['n_right']:,} of {r['sections'][name]['n_used']:,}" for r in file["results"])]
        for name in names
    ]
    for title, cells in (
        ("all", [f"{sum(s['n_right'] for s in r['sections'].values()):,} of {r['n_used']:,}" for r in file["results"]]),
        ("accuracy", [_percent(r["accuracy"]) for r in file["results"]]),
        ("95 % interval", [_between(r["interval"], _percent) for r in file["results"]]),
        ("unknown words", [_percent(r["unknown"]) for r in file["results"]]),
    ):
        rows.append([title, *cells])
    head = ["section", *(f"{r['vectors']}, {r['correct']}" for r in file["results"])]
    console.print_table(head, rows, right=frozenset(range(1, len(head))))
    for d in file["differences"]:
        _print_difference(d, f"analogies that both know, answered from {d['n_words']:,} words", _percent)


def _source(file: Mapping[str, Any]) -> str:
    return "standard input" if file["file"] == "-" else file["file"]


def _print_difference(d: Mapping[str, Any], what: str, shown: Any) -> None:
    first, second = d["of"]
    if d["difference"] is None:
        return console.write(f"{first} and {second} have too few questions in common to compare\n")
    if d["difference"] < 0:
        first, second = second, first
        d = {**d, "difference": -d["difference"], "interval": [-x for x in reversed(d["interval"] or ())]}
    verdict = f"{first} is better than {second}" if d["shown"] else f"{first} is not shown to be better than {second}"
    by = f"{shown(d['difference'])} ({_between(d['interval'], shown)})"
    console.write(f"{verdict}: by {by} on the {d['n_used']:,} {what}\n")


def _between(interval: Sequence[float] | None, shown: Any) -> str:
    return f"{shown(interval[0])} to {shown(interval[1])}" if interval else ""


def _percent(value: float | None) -> str:
    return "" if value is None else f"{round(100 * value, 1) + 0.0:.1f} %"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _interval(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [round(interval.low, 4), round(interval.high, 4)]

"""The comparison of word vectors as people see it: each word in its text, two matrices, a scale, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gptlite.cli.shared import console
from gptlite.text.words import UNSPACED

if TYPE_CHECKING:
    import numpy as np

    from gptlite.embedding.comparison import Embeddings, Pair
    from gptlite.embedding.contextual import WordVector

MAX_COLUMNS = 8  # of a matrix that is printed
MOST_PAIRS = 6  # that a verdict is given on
LEFT, RIGHT = 30, 18  # characters of a text that are shown to both sides of a word
GAP = 4  # columns between the matrices
RARE = 20  # times that a word should have been seen
BLIND = 1  # words to the left that are as good as none
# Cosines are coloured by their percentile, from cold to warm.
COLOURS = ((0, "bold blue"), (10, "cyan"), (30, ""), (70, "yellow"), (90, "bold red"))
CORRECTIONS = {"zscore": "z-scored", "center": "centred", "none": "raw"}
Line = list[tuple[str, str]]  # pieces of text with their styles


def print_comparison(e: Embeddings, correct: str, n_layers: int, context: str, counts: Mapping[str, int]) -> None:
    """The table of the words, and below it what their cosines say.

    - `counts`: how often words stand in the text that the model was trained on; empty where nobody knows.
    """
    echo = context == "echo"
    rows = [
        [str(i + 1), " ".join(_token(t) for t in v.tokens), _in_context(v), _has_seen(v, echo), _expected(v)]
        for i, v in enumerate(e.items)
    ]
    console.print_table(["#", "tokens", "context", "has seen", "model expects next"], rows, right=frozenset({0}))
    n = len(e)
    lines: list[Line] = []
    if n > 1:
        matrices = _matrices(e, correct, n_layers) if n <= MAX_COLUMNS else []
        lines += [[], *matrices, *_scale(e, correct), *_verdicts(e, correct)]
    if n > MAX_COLUMNS:
        lines.append([(f"{n} occurrences: too many for a matrix; write the vectors with -o FILE.", "")])
    lines += [[(f"{'note':6} {note}", "")] for note in notes(e, context, counts)]
    console.print_lines(lines)


def as_json(e: Embeddings, correct: str, context: str, counts: Mapping[str, int]) -> dict[str, Any]:
    """The same for programs; matrices (n, n), pairs numbered from 1 as in the table."""
    from gptlite.embedding.similarity import cosine_matrix

    percentile = e.percentile(correct)
    return {
        **e.meta,
        "layer": e.layers[0] if len(e.layers) == 1 else list(e.layers),
        "correct": correct,
        "scale": e.scale(correct),
        "items": [_item(v) for v in e.items],
        "contextual": _rounded(e.cosine(correct), 6),
        "raw": _rounded(e.cosine("none"), 6),
        "static": _rounded(cosine_matrix(e.static), 6),
        "percentile": None if percentile is None else _or_null(_rounded(percentile, 2)),
        "pairs": [_pair(pair) for pair in e.pairs(correct, MOST_PAIRS)],
        "notes": notes(e, context, counts),
    }


def _rounded(matrix: np.ndarray, digits: int) -> list[list[float]]:
    return matrix.astype("float64").round(digits).tolist()


def _or_null(matrix: list[list[float]]) -> list[list[float | None]]:
    """JSON has no NaN."""
    return [[None if x != x else x for x in row] for row in matrix]


def _item(v: WordVector) -> dict[str, Any]:
    return {
        "text_index": v.occurrence.text_index,
        "word": v.occurrence.word,
        "span": [v.occurrence.start, v.occurrence.end],
        "tokens": list(v.tokens),
        "partial": v.partial,
        "n_left": v.n_left,
        "words_left": v.words_left,
        "truncated": v.truncated,
        "expected": list(v.expected),
    }


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "pair": [pair.first + 1, pair.second + 1],
        "contextual": round(pair.cosine, 6),
        "raw": round(pair.raw, 6),
        "static": round(pair.static, 6),
        "percentile": None if pair.percentile is None else round(pair.percentile, 2),
        "among": "same_word" if pair.same_word else "unrelated",
        "same_prefix": pair.same_prefix,
        "same_tokens": pair.same_tokens,
        "verdict": pair.verdict,
    }


# -- The words


def _token(text: str) -> str:
    """A token as it can be read: the space it begins with as "_", line breaks as \\n."""
    return text.replace(" ", "_").encode("unicode_escape").decode() if text.isspace() else text.replace(" ", "_")


def _in_context(v: WordVector) -> str:
    """The word between bars, with some of the sentence around it."""
    place = v.occurrence
    left, right = place.text[: place.start], place.text[place.end :]
    left = f"…{left[-LEFT:]}" if len(left) > LEFT else left
    right = f"{right[:RIGHT]}…" if len(right) > RIGHT else right
    return f"{left}▐{place.word}▌{right}".replace("\n", " ")


def _has_seen(v: WordVector, echo: bool) -> str:
    if echo:
        return "the text"
    return f"{console.plural(v.words_left, 'word')}{' !' if v.words_left <= BLIND else ''}"


def _expected(v: WordVector) -> str:
    return "  ".join(_token(t) for t in v.expected)


# -- The matrices


def _matrices(e: Embeddings, correct: str, n_layers: int) -> list[Line]:
    """Contextual beside static, or above it where the terminal is too narrow."""
    from gptlite.embedding.similarity import cosine_matrix

    blocks = "-".join(str(layer) for layer in dict.fromkeys((e.layers[0], e.layers[-1])))
    mean = "blocks" if len(e.layers) > 1 else "block"
    pool = {"mean": "mean of the tokens", "weighted": "weighted mean"}.get(e.meta["pool"], f"{e.meta['pool']} token")
    name = CORRECTIONS.get(correct, correct)
    left = [
        [(f"CONTEXTUAL, {mean} {blocks}/{n_layers}, {pool}, {name} cosines", "bold")],
        *_matrix(e.cosine(correct), e.percentile(correct)),
    ]
    right = [[("STATIC, the word's row in the token table", "bold")], *_matrix(cosine_matrix(e.static), None)]
    width = max(sum(len(text) for text, _ in line) for line in left)
    if width + GAP + len(right[0][0][0]) > console.width():
        return [*left, [], *right, []]
    space = [width + GAP - sum(len(text) for text, _ in line) for line in left]
    return [*([*a, (" " * s, ""), *b] for a, s, b in zip(left, space, right, strict=True)), []]


def _matrix(cosines: np.ndarray, percentiles: np.ndarray | None) -> list[Line]:
    n = len(cosines)
    lines: list[Line] = [[("   " + "".join(f"{i + 1:6}" for i in range(n)), "dim")]]
    for i in range(n):
        line = [(f"{i + 1:3}", "dim")]
        for j in range(n):
            colour = _colour(percentiles[i, j]) if percentiles is not None and i != j else "dim"
            line.append((f"{cosines[i, j]:6.2f}", colour))
        lines.append(line)
    return lines


def _colour(percentile: float) -> str:
    return "dim" if percentile != percentile else [style for lowest, style in COLOURS if percentile >= lowest][-1]


# -- What follows from them


def _scale(e: Embeddings, correct: str) -> list[Line]:
    """What cosines are worth in this model, and what they would be without a correction."""
    scale, raw = e.scale(correct), e.scale("none")
    if scale is None or raw is None:
        return []
    (unrelated, same), name = (scale["unrelated"], scale["same_word"]), CORRECTIONS.get(correct, correct)
    text = (
        f"scale  unrelated words {unrelated[0]:.2f} ± {unrelated[1]:.2f}   "
        f"same word, random contexts {same[0]:.2f} ± {same[1]:.2f}"
    )
    if name != "raw":
        text += f"   (raw: {raw['unrelated'][0]:.2f} and {raw['same_word'][0]:.2f})"
    return [[(text, "")]]


def _verdicts(e: Embeddings, correct: str) -> list[Line]:
    """One line for each pair, and one on what static vectors make of them."""
    n = len(e)
    pairs = e.pairs(correct, MOST_PAIRS)
    lines: list[Line] = []
    if len(pairs) < n * (n - 1) // 2:
        lines.append([(f"Of {n * (n - 1) // 2:,} pairs, the {len(pairs)} furthest apart and closest:", "")])
    for pair in pairs:
        lines.append([(f"{f'{pair.first + 1}–{pair.second + 1}':6} ", "bold"), *_verdict(pair, correct)])
    same: dict[str, list[int]] = {}
    for i, v in enumerate(e.items):
        same.setdefault(v.occurrence.word, []).append(i)
    for items in same.values():
        if len(items) > 1:
            which = "them" if len(same) == 1 else _numbers(items)
            lines.append([(f"Static vectors cannot tell {which} apart: one word, one vector.", "")])
    return lines


def _verdict(pair: Pair, correct: str) -> Line:
    if pair.same_prefix:
        return [("the same vector: the texts are equal up to the word, and the model cannot see what follows.", "")]
    cosine = f"{pair.cosine:.2f}" + (f" (raw {pair.raw:.2f})" if correct != "none" else "")
    if pair.same_word and not pair.same_tokens:
        return [(f"{cosine}: one word in different tokens, for which there is no scale.", "")]
    if pair.percentile is None:
        return [(f"{cosine}.", "")]
    others = "same-word pairs" if pair.same_word else "pairs of unrelated words"
    share = min(99, round(max(pair.percentile, 100 - pair.percentile)))
    rank = f"is {'lower' if pair.percentile < 50 else 'higher'} than {share} % of {others}"
    return [(f"{cosine} {rank}: ", ""), (f"{pair.verdict}.", "bold")]


def notes(e: Embeddings, context: str, counts: Mapping[str, int]) -> list[str]:
    """What somebody who reads the table should know, a sentence each."""
    said: list[str] = []
    blind = [i for i, v in enumerate(e.items) if v.words_left <= BLIND] if context == "left" else []
    if blind:
        have = "have" if len(blind) > 1 else "has"
        said.append(
            f"the model reads left to right: {_numbers(blind)} {have} seen almost nothing yet; try --context echo."
        )
    truncated = [i for i, v in enumerate(e.items) if v.truncated]
    if truncated:
        said.append(f"{_numbers(truncated)}: the text before the word is longer than what the model reads at once.")
    partial = [i for i, v in enumerate(e.items) if v.partial]
    if partial:
        said.append(f"{_numbers(partial)}: a token reaches outside the word; its vector is of both.")
    for word in dict.fromkeys(v.occurrence.word.lower() for v in e.items):
        n = sum(counts.get(spelling, 0) for spelling in {word, word.capitalize(), word.upper()})
        if counts and n < RARE and word.isalpha() and not UNSPACED.search(word):
            often = f"only {n} times" if n else "once at most"
            said.append(f"{word} stands {often} in the text of the training: its vectors are little more than chance.")
    spellings: dict[str, list[str]] = {}
    for v in e.items:
        same = spellings.setdefault(v.occurrence.word.lower(), [])
        if v.occurrence.word not in same:
            same.append(v.occurrence.word)
    tokens: dict[str, dict[str, list[int]]] = {}
    for i, v in enumerate(e.items):
        spelled = " ".join(map(_token, v.tokens))
        tokens.setdefault(v.occurrence.word, {}).setdefault(spelled, []).append(i)
    for word, forms in tokens.items():
        if len(forms) > 1:
            listed = ", ".join(f"{spelled} ({_numbers(items)})" for spelled, items in forms.items())
            said.append(
                f"{word} is other tokens in other surroundings: {listed}; the scale is of the same token in two "
                "places, so these get no verdict."
            )
    for same in spellings.values():
        if len(same) > 1:
            said.append(f"{', '.join(same)}: each spelling has tokens, and so a static vector, of its own.")
    return said


def _numbers(items: list[int]) -> str:
    """#1, #2 and 7 more."""
    shown = ", ".join(f"#{i + 1}" for i in items[:MAX_COLUMNS])
    return shown if len(items) <= MAX_COLUMNS else f"{shown} and {len(items) - MAX_COLUMNS} more"

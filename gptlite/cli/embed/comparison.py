"""The comparison of word vectors as people see it: each word in its text, two matrices, a scale, and what follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gptlite.cli.shared import console
from gptlite.cli.shared.texts import Found
from gptlite.text.words import UNSPACED, word_starts

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
MOST_MISSING = 20  # texts without the word that are listed
CORRECTIONS = {"zscore": "z-scored", "center": "centred", "none": "raw"}
Line = list[tuple[str, str]]  # pieces of text with their styles


@dataclass(frozen=True)
class Comparison:
    """What is shown of n vectors.

    - `unit`: what they are vectors of, "word", "token" or "sentence"; `context`: "left", "echo" or "both", and
      `can_both`: does the model have what "both" takes?
    - `counts`: how often words stand in the text that the model was trained on; empty where that is not known.
    - `rows`: the words and, among them, the texts without one, which have a row but no vector.
    """

    e: Embeddings
    correct: str
    n_layers: int
    unit: str
    context: str
    can_both: bool
    counts: Mapping[str, int]
    rows: Sequence[Found]

    @cached_property
    def numbers(self) -> list[int]:
        """Of each vector the number of its row, from 1."""
        return [number for number, row in enumerate(self.rows, 1) if row.place]

    def print(self) -> None:
        """The table of the words, and below it what their cosines say."""
        self._print_table()
        n = len(self.e)
        lines: list[Line] = []
        if n > 1:
            matrices = self._matrices() if n <= MAX_COLUMNS else []
            lines += [[], *matrices, *self._scale(), *self._verdicts()]
        if n > MAX_COLUMNS:
            lines.append([(f"{n} occurrences: too many for a matrix; write the vectors with -o FILE.", "")])
        lines += [[(f"{'note':6} {note}", "")] for note in self.notes()]
        console.print_lines(lines)

    def as_json(self) -> dict[str, Any]:
        """The same for programs; rows and matrices (n, n) have null for a text without the word.

        Pairs name two of the items by their positions from 0.
        """
        from gptlite.embedding.similarity import cosine_matrix

        e, percentile = self.e, self.e.percentile(self.correct)
        return {
            **e.meta,
            "parts": e.meta.get("parts"),
            "layer": e.layers[0] if len(e.layers) == 1 else list(e.layers),
            "correct": self.correct,
            "scale": e.scale(self.correct),
            "items": self._items(),
            "contextual": self._spread(e.cosine(self.correct), 6),
            "raw": self._spread(e.cosine("none"), 6),
            "left": self._spread(e.left_cosine(), 6) if e.both_sides else None,
            "static": self._spread(cosine_matrix(e.static), 6),
            "percentile": None if percentile is None else self._spread(percentile, 2),
            "pairs": [self._pair(pair) for pair in e.pairs(self.correct, MOST_PAIRS)],
            "notes": self.notes(),
        }

    def _items(self) -> list[dict[str, Any]]:
        vectors = iter(self.e.items)
        return [
            {**{name: value for name, value in row.columns.items() if name not in FACTS}, **facts}
            for row in self.rows
            for facts in [
                _item(next(vectors)) if row.place else {"text_index": row.text_index, **dict.fromkeys(FACTS[1:])}
            ]
        ]

    def _spread(self, matrix: np.ndarray, digits: int) -> list[list[float | None]]:
        """A matrix (n, n) of the vectors as one of the rows, with None for NaN and for rows without a vector."""
        rounded = [[None if x != x else x for x in row] for row in matrix.astype("float64").round(digits).tolist()]
        place = {number - 1: i for i, number in enumerate(self.numbers)}
        r = range(len(self.rows))
        return [[rounded[place[i]][place[j]] if i in place and j in place else None for j in r] for i in r]

    def _pair(self, pair: Pair) -> dict[str, Any]:
        return {
            "pair": [self.numbers[pair.first] - 1, self.numbers[pair.second] - 1],
            "contextual": round(pair.cosine, 6),
            "raw": round(pair.raw, 6),
            "left": None if pair.left is None else round(pair.left, 6),
            "static": round(pair.static, 6),
            "percentile": None if pair.percentile is None else round(pair.percentile, 2),
            "among": "same_word" if pair.same_word else "unrelated",
            "same_prefix": pair.same_prefix,
            "same_tokens": pair.same_tokens,
            "verdict": pair.verdict,
        }

    # -- The words

    def _print_table(self) -> None:
        whole = self.unit == "sentence"
        vectors = iter(self.e.items)
        missing = [row for row in self.rows if not row.place]
        rows: list[list[str]] = []
        for number, row in enumerate(self.rows, 1):
            if row.place is None:
                if len(missing) <= MOST_MISSING:
                    rows.append(
                        [str(number), "–", f"without {row.word or 'a marked word'}" if not whole else "", "", ""]
                    )
                continue
            v = next(vectors)
            tokens = str(len(v.tokens)) if whole else " ".join(_token(t) for t in v.tokens)
            rows.append([str(number), tokens, _in_context(v), self._has_seen(v), _expected(v)])
        named = ["text", "length"] if whole else ["context", "has seen"]
        console.print_table(["#", "tokens", *named, "model expects next"], rows, right=frozenset({0}))

    def _has_seen(self, v: WordVector) -> str:
        """How much of the text a vector can know."""
        if self.unit == "sentence":
            return console.plural(len(word_starts(v.occurrence.word)), "word")
        if self.context in ("echo", "both"):
            return "the text"
        return f"{console.plural(v.words_left, 'word')}{' !' if v.words_left <= BLIND else ''}"

    # -- The matrices

    def _matrices(self) -> list[Line]:
        """Contextual and static; vectors of both sides above them, so that the model's own part can be told."""
        e = self.e
        blocks = "-".join(str(layer) for layer in dict.fromkeys((e.layers[0], e.layers[-1])))
        mean = "blocks" if len(e.layers) > 1 else "block"
        pool = {"mean": "mean of the tokens", "weighted": "weighted mean"}.get(
            e.meta["pool"], f"{e.meta['pool']} token"
        )
        name = CORRECTIONS.get(self.correct, self.correct)
        state = f"{mean} {blocks}/{self.n_layers}, {pool}, {name} cosines"
        left = [
            [(f"CONTEXTUAL, {state}", "bold")],
            *(
                self._matrix(e.left_cosine(), e.left_percentile())
                if e.both_sides
                else self._matrix(e.cosine(self.correct), e.percentile(self.correct))
            ),
        ]
        if e.both_sides:
            encoded = "context encoder" in e.meta["parts"]
            around = "the words around it, and a context encoder" if encoded else "and the words around it"
            both = [[(f"BOTH SIDES, states at and before the word, {around}", "bold")]]
            return [*both, *self._matrix(e.cosine(), e.percentile()), [], *self._left_and_static(left)]
        return self._left_and_static(left)

    def _left_and_static(self, left: list[Line]) -> list[Line]:
        """A matrix beside that of the static vectors, or above it where the terminal is too narrow."""
        from gptlite.embedding.similarity import cosine_matrix

        e = self.e
        of = "the mean of the tokens' rows" if self.unit == "sentence" else "the word's row in the token table"
        right = [[(f"STATIC, {of}", "bold")], *self._matrix(cosine_matrix(e.static), None)]
        width = max(sum(len(text) for text, _ in line) for line in left)
        if width + GAP + len(right[0][0][0]) > console.width():
            return [*left, [], *right, []]
        space = [width + GAP - sum(len(text) for text, _ in line) for line in left]
        return [*([*a, (" " * s, ""), *b] for a, s, b in zip(left, space, right, strict=True)), []]

    def _matrix(self, cosines: np.ndarray, percentiles: np.ndarray | None) -> list[Line]:
        lines: list[Line] = [[("   " + "".join(f"{number:6}" for number in self.numbers), "dim")]]
        for i, number in enumerate(self.numbers):
            line = [(f"{number:3}", "dim")]
            for j in range(len(cosines)):
                colour = _colour(percentiles[i, j]) if percentiles is not None and i != j else "dim"
                line.append((f"{cosines[i, j]:6.2f}", colour))
            lines.append(line)
        return lines

    # -- What follows from them

    def _scale(self) -> list[Line]:
        """What cosines are worth in this model, and what they would be without a correction."""
        both = self.e.both_sides
        scale, other = self.e.scale(self.correct), self.e.left_scale() if both else self.e.scale("none")
        if scale is None or other is None:
            return []
        name = "left side alone" if both else "raw"
        others = "sentences" if self.unit == "sentence" else "words"
        kinds = {"unrelated": f"unrelated {others}", "same_word": "same word, random contexts"}
        text = "scale  " + "   ".join(f"{kinds[k]} {mean:.2f} ± {dev:.2f}" for k, (mean, dev) in scale.items())
        if both or self.correct != "none":
            text += f"   ({name}: {console.listing([f'{mean:.2f}' for mean, _ in other.values()])})"
        return [[(text, "")]]

    def _verdicts(self) -> list[Line]:
        """One line for each pair, and one on what static vectors make of them."""
        n = len(self.e)
        pairs = self.e.pairs(self.correct, MOST_PAIRS)
        lines: list[Line] = []
        if len(pairs) < n * (n - 1) // 2:
            lines.append([(f"Of {n * (n - 1) // 2:,} pairs, the {len(pairs)} furthest apart and closest:", "")])
        for pair in pairs:
            between = f"{self.numbers[pair.first]}–{self.numbers[pair.second]}"
            lines.append([(f"{between:6} ", "bold"), *self._verdict(pair)])
        same: dict[str, list[int]] = {}
        for i, v in enumerate(self.e.items):
            same.setdefault(v.occurrence.word, []).append(i)
        for items in same.values() if self.unit != "sentence" else ():
            if len(items) > 1:
                which = "them" if len(same) == 1 else self._named(items)
                lines.append([(f"Static vectors cannot tell {which} apart: one word, one vector.", "")])
        return lines

    def _verdict(self, pair: Pair) -> Line:
        if pair.same_prefix:
            return [("the same vector: the texts are equal up to the word, and the model cannot see what follows.", "")]
        cosine = f"{pair.cosine:.2f}"
        if pair.left is not None:
            cosine += f" (left side alone {pair.left:.2f})"
        elif self.correct != "none":
            cosine += f" (raw {pair.raw:.2f})"
        if pair.same_word and not pair.same_tokens:
            return [(f"{cosine}: one word in different tokens, for which there is no scale.", "")]
        if pair.percentile is None:
            return [(f"{cosine}.", "")]
        unrelated = f"pairs of unrelated {'sentences' if self.unit == 'sentence' else 'words'}"
        others = "same-word pairs" if pair.same_word else unrelated
        share = min(99, round(max(pair.percentile, 100 - pair.percentile)))
        rank = f"is {'lower' if pair.percentile < 50 else 'higher'} than {share} % of {others}"
        return [(f"{cosine} {rank}: ", ""), (f"{pair.verdict}.", "bold")]

    def notes(self) -> list[str]:
        """What somebody who reads the table should know, a sentence each."""
        items, said = self.e.items, list[str]()
        if missing := [row for row in self.rows if not row.place]:
            said.append(f"{console.plural(len(missing), 'text')} of {len(self.rows):,} without what was looked for.")
        truncated = [i for i, v in enumerate(items) if v.truncated]
        if truncated:
            what = "the text" if self.unit == "sentence" else "the text before the word"
            said.append(f"{self._named(truncated)}: {what} is longer than what the model reads at once.")
        if self.unit == "sentence":
            if len(items) > 1 and self.e.scale(self.correct) is None and self.e.statistics is not None:
                said.append("no scale was measured for sentences; the cosines say which are more alike, not how much.")
            return said
        blind = [i for i, v in enumerate(items) if v.words_left <= BLIND] if self.context == "left" else []
        if blind:
            have = "have" if len(blind) > 1 else "has"
            instead = "; try --context both" if self.can_both else ""
            said.append(f"the model reads left to right: {self._named(blind)} {have} seen almost nothing yet{instead}.")
        partial = [i for i, v in enumerate(items) if v.partial]
        if partial:
            said.append(f"{self._named(partial)}: a token reaches outside the word; its vector is of both.")
        return [*said, *self._rare_words(), *self._other_tokens(), *self._spellings()]

    def _rare_words(self) -> list[str]:
        said: list[str] = []
        for word in dict.fromkeys(v.occurrence.word.lower() for v in self.e.items):
            n = sum(self.counts.get(spelling, 0) for spelling in {word, word.capitalize(), word.upper()})
            if self.counts and n < RARE and word.isalpha() and not UNSPACED.search(word):
                often = f"only {console.plural(n, 'time')}" if n else "once at most"
                said.append(f"{word} stands {often} in the training text: its vectors are little more than chance.")
        return said

    def _other_tokens(self) -> list[str]:
        tokens: dict[str, dict[str, list[int]]] = {}
        for i, v in enumerate(self.e.items):
            spelled = " ".join(map(_token, v.tokens))
            tokens.setdefault(v.occurrence.word, {}).setdefault(spelled, []).append(i)
        return [
            f"{word} is other tokens in other surroundings: "
            f"{', '.join(f'{spelled} ({self._named(items)})' for spelled, items in forms.items())}; "
            "the scale is of the same token in two places, so these get no verdict."
            for word, forms in tokens.items()
            if len(forms) > 1
        ]

    def _spellings(self) -> list[str]:
        spellings: dict[str, list[str]] = {}
        for v in self.e.items:
            same = spellings.setdefault(v.occurrence.word.lower(), [])
            if v.occurrence.word not in same:
                same.append(v.occurrence.word)
        return [
            f"{', '.join(same)}: each spelling has tokens, and so a static vector, of its own."
            for same in spellings.values()
            if len(same) > 1
        ]

    def _named(self, items: list[int]) -> str:
        """#1, #2 and 7 more."""
        shown = ", ".join(f"#{self.numbers[i]}" for i in items[:MAX_COLUMNS])
        return shown if len(items) <= MAX_COLUMNS else f"{shown} and {len(items) - MAX_COLUMNS} more"


FACTS = ("text_index", "word", "span", "tokens", "partial", "n_tokens_left", "n_words_left", "truncated", "expected")


def _item(v: WordVector) -> dict[str, Any]:
    facts = (
        v.occurrence.text_index, v.occurrence.word, [v.occurrence.start, v.occurrence.end], list(v.tokens), v.partial,
        v.n_left, v.words_left, v.truncated, list(v.expected),
    )  # fmt: skip
    return dict(zip(FACTS, facts, strict=True))


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


def _expected(v: WordVector) -> str:
    return "  ".join(_token(t) for t in v.expected)


def _colour(percentile: float) -> str:
    return "dim" if percentile != percentile else [style for lowest, style in COLOURS if percentile >= lowest][-1]

"""Questions about single words: the nearest ones, analogies, and the one that does not belong."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gptlite.cli.shared import console
from gptlite.cli.words.spaces import decimals
from gptlite.errors import UsageError

if TYPE_CHECKING:
    from gptlite.embedding.static import TokenTable, Word, WordVectors

MOST_COMPARED = 20  # words whose cosines are shown, each with each


def nearest(
    table: TokenTable, spaces: Sequence[WordVectors], words: Sequence[str], k: int, json: bool
) -> dict[str, Any]:
    """The `k` words most like each of the words; of several words also their cosines to each other.

    Returns what JSON says; otherwise prints tables.
    """
    found: list[dict[str, Any]] = []
    for i, word in enumerate(words):
        answers = _ask(spaces, [word], lambda space, word=word: space.nearest(word, k))
        if json:
            found.append({**_facts(table, spaces[0], word), "answers": _listed(spaces, answers, "neighbours")})
            continue
        seen = spaces[0].seen(word)
        console.write("\n" if i else "")
        console.write(f'nearest to "{word}"{"" if seen is None else f", seen {_times(seen)}"}\n')
        _print_ranking(spaces, answers)
        _print_shared(answers)
        _print_notes(table, spaces[0], [word], variants=True)
    pairs = _pairs(spaces, list(dict.fromkeys(words)))
    if pairs and not json:
        _print_pairs(spaces, pairs)
    return {"nearest": found, "pairs": pairs}


def analogy(
    table: TokenTable, spaces: Sequence[WordVectors], given: tuple[str, str, str], k: int, json: bool
) -> dict[str, Any]:
    """The `k` words nearest to a - b + c. Returns what JSON says; otherwise prints a table."""
    a, b, c = given
    answers = _ask(spaces, given, lambda space: space.analogy(a, b, c, k))
    if json:
        facts = [_facts(table, spaces[0], word) for word in given]
        return {"analogy": {"given": facts, "answers": _listed(spaces, answers, "neighbours")}}
    console.write(f'{a} - {b} + {c}: what is to "{c}" as "{a}" is to "{b}"?\n')
    _print_ranking(spaces, answers)
    _print_notes(table, spaces[0], given)
    return {}


def odd(table: TokenTable, spaces: Sequence[WordVectors], words: Sequence[str], json: bool) -> dict[str, Any]:
    """The words by how little they belong. Returns what JSON says; otherwise prints a table."""
    words = list(dict.fromkeys(words))
    if len(words) < 3:
        raise UsageError("name three or more different words, such as: gptlite words odd breakfast lunch dinner river")
    answers = _ask(spaces, words, lambda space: space.odd(words))
    if json:
        facts = [_facts(table, spaces[0], word) for word in words]
        return {"odd": {"given": facts, "answers": _listed(spaces, answers, "by_cosine_to_others")}}
    for space, ranking in zip(spaces, answers, strict=True):
        which = f" ({space.name})" if len(spaces) > 1 else ""
        console.write(f'"{ranking[0].word}" belongs least{which}\n' if ranking else f"no answer{which}\n")
    _print_ranking(spaces, answers, "mean cosine to the others")
    _print_notes(table, spaces[0], words)
    return {}


def _pairs(spaces: Sequence[WordVectors], words: Sequence[str]) -> list[dict[str, Any]]:
    """The cosine of each pair of the words in each of the spaces; none of too many words."""
    if len(words) > MOST_COMPARED:
        return []
    return [
        {
            "words": [a, b],
            "cosines": [
                round(float(space.direction(a) @ space.direction(b)), 6) if space.has(a) and space.has(b) else None
                for space in spaces
            ],
        }
        for a, b in itertools.combinations(words, 2)
    ]


def _print_pairs(spaces: Sequence[WordVectors], pairs: Sequence[dict[str, Any]]) -> None:
    console.write("\n")
    rows = [[" – ".join(pair["words"]), *map(decimals, pair["cosines"])] for pair in pairs]
    head = ["pair", *(space.name if len(spaces) > 1 else "cosine" for space in spaces)]
    console.print_table(head, rows, right=frozenset(range(1, len(head))))


def _print_shared(answers: Sequence[list[Word] | None]) -> None:
    """Of two rankings, the words that are in both."""
    if len(answers) != 2 or not (answers[0] and answers[1]):
        return
    others = {word.word for word in answers[1]}
    shared = [word.word for word in answers[0] if word.word in others]
    console.write(f"in both: {', '.join(shared)}\n" if shared else "no word is in both lists\n")


def _ask(
    spaces: Sequence[WordVectors], words: Sequence[str], question: Callable[[WordVectors], list[Word]]
) -> list[list[Word] | None]:
    """The answer of each of the vectors; None of those that lack one of the words."""
    return [question(space) if all(map(space.has, words)) else None for space in spaces]


def _print_ranking(spaces: Sequence[WordVectors], answers: Sequence[list[Word] | None], cosine: str = "cosine") -> None:
    """Rankings side by side."""
    head, right = ["#"], {0}
    for space in spaces:
        counted = bool(space.counts)
        right |= {len(head) + 1, len(head) + 2} if counted else {len(head) + 1}
        head += ["word" if len(spaces) == 1 else space.name, cosine, *(["seen"] if counted else [])]
    rows: list[list[str]] = []
    for i in range(max(len(ranking or ()) for ranking in answers)):
        row = [str(i + 1)]
        for space, ranking in zip(spaces, answers, strict=True):
            word = ranking[i] if ranking and i < len(ranking) else None
            cells = [word.word, decimals(word.cosine)] if word else ["", ""]
            row += cells + ([_number(word.seen) if word else ""] if space.counts else [])
        rows.append(row)
    console.print_table(head, rows, right=frozenset(right))
    for space, ranking in zip(spaces, answers, strict=True):
        if ranking is None:
            console.write(f"note   {space.name} lacks a word of the question.\n")


def _print_notes(table: TokenTable, space: WordVectors, words: Sequence[str], *, variants: bool = False) -> None:
    for word in words:
        for note in notes_of(table, space, word, variants=variants):
            console.write(f"note   {note}\n")


def notes_of(table: TokenTable, space: WordVectors, word: str, *, variants: bool = False) -> list[str]:
    """What should be known of the vector of a word."""
    if table.saved is not None:
        return _notes_of_words(table, space, word)
    notes: list[str] = []
    tokens, seen = table.tokens(word), space.seen(word)
    rare = seen is not None and word not in space.index
    if len(tokens) > 1:
        spelled = "  ".join(token.replace(" ", "_") for token in tokens)
        notes.append(
            f'"{word}"{f", seen {_times(seen)}," if rare else ""} is {len(tokens)} tokens: {spelled}; their mean tells '
            "more of its spelling than of its meaning"
        )
    elif rare:
        notes.append(f'"{word}" was seen {_times(seen)}, hardly often enough to learn from')
    if others := space.case_variants(word) if variants else []:
        listed = ", ".join(
            f'"{v.word}" ({f"seen {_times(v.seen)}, " if v.seen else ""}cosine {decimals(v.cosine)})' for v in others
        )
        notes.append(f"to the model {listed} {'is another word' if len(others) == 1 else 'are other words'}")
    return notes


def _notes_of_words(table: TokenTable, space: WordVectors, word: str) -> list[str]:
    """What should be known of the vector of a word that was made from the text."""
    from gptlite.embedding.static_words import StaticWords

    assert table.saved is not None
    known, seen = space.known(word), space.seen(word)
    kin = StaticWords(table.path, table.saved).kin(known)
    if kin:
        like = ", ".join(f'"{other}"' for other in kin)
        return [f'the text hardly has "{word}"; its vector is made from its pieces, as in {like}']
    if kin is None and known not in space.index:
        return [f'"{word}" was seen {_times(seen)}, hardly often enough to learn from']
    return []


def _times(seen: int | None) -> str:
    return console.plural(seen, "time") if seen else "at most once"


def _number(seen: int | None) -> str:
    return "" if seen is None else f"{seen:,}" if seen else "≤ 1"


def _facts(table: TokenTable, space: WordVectors, word: str) -> dict[str, Any]:
    return {
        "word": word,
        "n_seen": space.seen(word),
        "tokens": list(table.tokens(word)),
        "case_variants": [_row(variant) for variant in space.case_variants(word)],
    }


def _listed(spaces: Sequence[WordVectors], answers: Sequence[list[Word] | None], name: str) -> list[dict[str, Any]]:
    return [
        {"vectors": space.name, name: None if ranking is None else [_row(word) for word in ranking]}
        for space, ranking in zip(spaces, answers, strict=True)
    ]


def _row(word: Word) -> dict[str, Any]:
    return {"word": word.word, "cosine": round(word.cosine, 6), "n_seen": word.seen}

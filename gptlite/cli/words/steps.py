"""How neighbours and similarities of words came to be: tables of one row a step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gptlite.cli.shared import console
from gptlite.cli.words.neighbours import notes_of
from gptlite.cli.words.spaces import about, decimals
from gptlite.errors import UsageError

if TYPE_CHECKING:
    from gptlite.embedding.emergence import Emergence

CHOSEN = 4  # words, where none is named
PAIRS_ABREAST = 4  # in one table
BEFORE = {
    "bigrams": "made from counts of which token follows which",
    "random": "random numbers",
    "model": "the table of the model that training started from",
}


def write(model: str | None, words: Sequence[str], k: int, min_count: int | None, json: bool) -> dict[str, Any]:
    """The `k` nearest words of each word at each kept step, and the cosines of each pair.

    Where no word is named, frequent ones are chosen whose neighbours stand out. Returns what JSON says; otherwise
    prints tables.
    """
    # Matrices of this size gain nothing from threads, and to start them takes NumPy longer than to multiply.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from gptlite.embedding import emergence

    found = emergence.read(model, words, min_count)
    named = list(dict.fromkeys(words)) or found.clear_words(CHOSEN)
    if not named:
        raise UsageError("no word of the text stands out; name the words to ask about.")
    facts = {"vectors": [about(found.spaces[-1])], **found.to_dict(named, k)}
    if json:
        return {"model": str(found.table.path), "min_count": found.spaces[-1].least, **facts}
    pairs = [(a, b) for a, b in (pair["words"] for pair in facts["pairs"])]
    _print_head(found)
    for word in named:
        _print_word(found, word, k)
    for start in range(0, len(pairs), PAIRS_ABREAST):
        _print_pairs(found, pairs[start : start + PAIRS_ABREAST])
    console.write(f"\n{_caption(found)}\n")
    return {}


def _print_head(found: Emergence) -> None:
    first, last = found.steps[0], found.steps[-1]
    before = f"; before step 1 it was {BEFORE.get(found.init, found.init)}" if first == 0 else ""
    steps = f"{console.plural(len(found.steps), 'step')} from {first:,} to {last:,}"
    console.write(f"the model's own token table at {steps}{before}\n")


def _print_word(found: Emergence, word: str, k: int) -> None:
    space = found.spaces[-1]
    seen = space.seen(word)
    times = "" if seen is None else f", seen {console.plural(seen, 'time')}" if seen else ", seen at most once"
    console.write(f'\nnearest to "{word}"{times}\n')
    rows = [
        [
            f"{kept.step:,}", decimals(kept.train_loss), str(n),
            ", ".join(f"{other.word} {decimals(other.cosine)}" for other in nearest),
        ]
        for kept, n, nearest in zip(found.tables, found.found(word, k), found.neighbours(word, k), strict=True)
    ]  # fmt: skip
    console.print_table(["step", "loss", "of last", "nearest"], rows, right=frozenset({0, 1, 2}))
    for note in notes_of(found.table, space, word):
        console.write(f"note   {note}\n")


def _print_pairs(found: Emergence, pairs: Sequence[tuple[str, str]]) -> None:
    console.write("\n")
    columns = [found.similarity(a, b) for a, b in pairs]
    rows = [[f"{kept.step:,}", *(decimals(column[i]) for column in columns)] for i, kept in enumerate(found.tables)]
    head = ["step", *(f"{a} – {b}" for a, b in pairs)]
    console.print_table(head, rows, right=frozenset(range(len(head))))


def _caption(found: Emergence) -> str:
    """What was compared, and what a cosine is worth there."""
    space = found.spaces[-1]
    seen = f" seen at least {console.plural(space.least, 'time')}" if space.least else ""
    mean, deviation = (decimals(x) for x in space.unrelated)
    return (
        "loss   nats per token of training text; of last: how many of the neighbours of the last step are there\n"
        f"token table: answers from {console.plural(len(space.answers), 'word')} of one token{seen}; cosines after "
        f"{space.correction}, of two words at random {mean} ± {deviation} in the last step"
    )

"""How the static vectors of a run's words came to be: neighbours and similarities at each step whose table it kept.

These are the rows of the Transformer's own token table, which training changes. A word of several tokens has the mean
of their rows. (The vectors of whole words in `embedding/words.safetensors` are made from counts, and no step changes
them.) Words that answer are those of one token, as in `static.TokenTable`. Torch is never imported.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptlite.checkpoint import table_history
from gptlite.checkpoint.runs import Run, read_model
from gptlite.checkpoint.saved_step import read_tokenizer, read_words
from gptlite.checkpoint.table_history import KeptTable
from gptlite.embedding.static import FEWEST_ANSWERS, TokenTable, Word, WordVectors, spellings
from gptlite.errors import CheckpointError, UsageError, plural
from gptlite.storage.reader import Reader
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import UNSPACED

CANDIDATES = 500  # the most frequent words, from which `clear_words` chooses
CLEARNESS = 0.75  # of candidates: the share whose neighbours are less clear than those of a chosen word
CLEAR_NEIGHBOURS = 3  # that make a word's neighbours clear
MOST_COMPARED = 20  # words whose cosines are told, each with each
SHORTEST = 3  # letters of a chosen word, in scripts that have spaces


@dataclass(frozen=True)
class Emergence:
    """The words of a run at each kept step, oldest first.

    - `table`: the tokenizer and the counts of words; its rows are those of no step.
    - `tables`: step, loss and score of each; `spaces`: the vectors of the same words at these steps.
    - `init`: what the table was before the first step: "bigrams", "random" or "model" (taken from another one).
    """

    table: TokenTable
    tables: Sequence[KeptTable]
    spaces: Sequence[WordVectors]
    init: str

    @property
    def steps(self) -> list[int]:
        return [table.step for table in self.tables]

    def neighbours(self, word: str, k: int = 5) -> list[list[Word]]:
        """For each step the `k` words most like `word`, best first. Raises `UsageError` for one without a vector."""
        return [space.nearest(word, k) for space in self.spaces]

    def similarity(self, a: str, b: str) -> list[float]:
        """The cosine of two words at each step. Raises `UsageError` for a word without a vector."""
        return [space.similarity(a, b) for space in self.spaces]

    def found(self, word: str, k: int = 5) -> list[int]:
        """How many of the `k` nearest words of the last step are among the `k` nearest at each step."""
        lists = [{other.word for other in nearest} for nearest in self.neighbours(word, k)]
        return [len(names & lists[-1]) for names in lists]

    def to_last(self, word: str, k: int = 5) -> list[float]:
        """The mean cosine of a word, at each step, to the `k` words that are nearest to it in the last step."""
        last = [other.word for other in self.spaces[-1].nearest(word, k)]
        return [
            float(np.mean([space.similarity(word, other) for other in last])) if last else 0.0 for space in self.spaces
        ]

    def to_dict(self, words: Sequence[str], k: int = 5) -> dict[str, Any]:
        """What JSON and pages say of `words`: the keys of `gptlite words steps --json` from "init" on."""
        space = self.spaces[-1]
        pairs = list(itertools.combinations(words, 2)) if len(words) <= MOST_COMPARED else []
        return {
            "init": self.init,
            "n_neighbours": k,
            "steps": [
                {"step": kept.step, "train_loss_nats": kept.train_loss, "val_bits_per_byte": kept.val_bits_per_byte}
                for kept in self.tables
            ],
            "words": [
                {
                    "word": word,
                    "n_seen": space.seen(word),
                    "tokens": list(self.table.tokens(word)),
                    "n_found": self.found(word, k),
                    "cosines_to_last": [round(cosine, 6) for cosine in self.to_last(word, k)],
                    "neighbours": [
                        [{"word": other.word, "cosine": round(other.cosine, 6)} for other in nearest]
                        for nearest in self.neighbours(word, k)
                    ],
                }
                for word in words
            ],
            "pairs": [
                {"words": list(pair), "cosines": [round(cosine, 6) for cosine in self.similarity(*pair)]}
                for pair in pairs
            ],
        }

    def clear_words(self, n: int) -> list[str]:
        """Up to `n` frequent words whose neighbours stand out in the last step, none of them a neighbour of another.

        Of the `CANDIDATES` most frequent words, those in the upper quarter by the mean cosine to their nearest three,
        other forms of the same word in upper and lower case left out; the most frequent come first.
        """
        space = self.spaces[-1]
        names = [space.words[i] for i in space.answers]
        folded = [name.casefold() for name in names]
        forms = np.array(folded)
        rows = space.directions[space.answers]
        likely = [i for i, name in enumerate(names) if len(name) >= SHORTEST or UNSPACED.match(name)][:CANDIDATES]
        k = min(CLEAR_NEIGHBOURS, len(names) - 1)
        if not likely or k < 1:
            return names[:n]
        cosines = rows[likely] @ rows.T  # (candidates, answers)
        cosines[forms[likely][:, None] == forms[None, :]] = -1.0
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        clear = np.take_along_axis(cosines, order, axis=1).mean(axis=1)
        least = float(np.quantile(clear, CLEARNESS))
        chosen: list[str] = []
        taken: set[str] = set()
        for row, i in enumerate(likely):
            near = {folded[i], *(folded[j] for j in order[row])}
            if clear[row] >= least and not near & taken and len(chosen) < n:
                chosen.append(names[i])
                taken |= near
        return chosen


def read(model: str | Path | None = None, words: Sequence[str] = (), min_count: int | None = None) -> Emergence:
    """The run that `model` names, as `runs.find_model` does, with vectors of its frequent words and of `words`.

    - `min_count`, and which words answer: as in `static.TokenTable`.
    Raises `CheckpointError` where the run kept no token tables, and `UsageError` for words whose tokens were not kept.
    """
    place = read_model(model, _described)
    run = Run(place.path.parent)
    found = table_history.read(run.path) if run.is_run() else None
    if found is None:
        raise CheckpointError(
            f"{place.path} has no token tables of earlier steps: an older version trained it, it was made elsewhere, "
            "or it was taken out of its run; train a run to see how its words come to be."
        )
    train = run.read_info().get("plan", {}).get("train", {})
    return collect(place, *found, words=words, min_count=min_count, init=str(train.get("init", "random")))


def collect(
    table: TokenTable, tokens: np.ndarray, tables: Sequence[KeptTable], *, words: Sequence[str] = (),
    min_count: int | None = None, init: str = "random",
) -> Emergence:  # fmt: skip
    """What kept tables say of the frequent words of a `table`, and of `words` besides. Errors as for `read`.

    - `tokens` (n,): the ids whose rows were kept.
    """
    frequent, least = table.words(min_count)
    if not frequent:
        raise UsageError(f"no word was seen {plural(least, 'time')} in the text of {table.path}; lower `min_count`.")
    place = np.full(max(int(tokens.max()), table.tokenizer.vocab_size) + 1, -1)
    place[tokens] = np.arange(len(tokens))
    spelled = [place[ids] for ids in table.ids(frequent)]
    whole = [i for i, rows in enumerate(spelled) if (rows >= 0).all() and len(rows) == 1]
    if len(whole) < FEWEST_ANSWERS:
        whole = [i for i, rows in enumerate(spelled) if (rows >= 0).all()]
    answers = [frequent[i] for i in whole]
    known = set(answers)
    spelled_here = [next((form for form in spellings(word) if form in table.counts), word) for word in words]
    asked = [word for word in dict.fromkeys(spelled_here) if word not in known]
    rows = [spelled[i] for i in whole]
    for word, ids in zip(asked, table.ids(asked), strict=True):
        if (place[ids] < 0).any():
            raise UsageError(
                f"'{word}' is spelled with a token that is not among the {len(tokens):,} whose rows are kept on the "
                "way, those of the most frequent words; ask for another word."
            )
        rows.append(place[ids])
    spaces = [_space(kept, [*answers, *asked], rows, len(answers), table.counts, least) for kept in tables]
    return Emergence(table, tables, spaces, init)


def _space(
    kept: KeptTable, words: Sequence[str], rows: Sequence[np.ndarray], n_answers: int, counts: Mapping[str, int],
    least: int,
) -> WordVectors:  # fmt: skip
    lengths = np.array([len(row) for row in rows])
    sums = np.add.reduceat(kept.vectors[np.concatenate(rows)], np.cumsum(lengths) - lengths, axis=0)
    means = (sums / lengths[:, None]).astype(np.float32)
    return WordVectors("token table", words, means, answers=np.arange(n_answers), counts=counts, least=least)


def _described(path: Path) -> TokenTable:
    """A step without its rows."""
    with Reader(path) as reader:
        tokenizer: Tokenizer = read_tokenizer(reader)
        return TokenTable(path, np.zeros((0, 0), np.float32), tokenizer, dict(read_words(reader)))

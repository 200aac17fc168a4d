"""Which vectors a question goes to: the model's own static vectors, those in files, and Word2Vec's of the same text."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gptlite.cli.shared import console, sources
from gptlite.cli.shared.corpora import training_text
from gptlite.errors import UsageError

if TYPE_CHECKING:
    from gptlite.embedding.static import TokenTable, WordVectors

StaticFrom = Literal["words", "table", "average"]
Versus = Literal["word2vec"]


@dataclass(frozen=True)
class Source:
    """The options that all questions share; see the help page of `gptlite words nearest`."""

    model: str | None
    static_from: StaticFrom | None
    correct: str | None
    min_count: int | None
    corpus: str | None
    device: str
    threads: int | None
    quiet: bool
    files: Sequence[str] = ()
    versus: Versus | None = None
    epochs: int = 5
    lossy: bool = False
    encoding: str | None = None
    json: bool = False

    def modes(self) -> Iterator[str]:
        """The modes of `MODES` that these options mean."""
        yield f"--from {self.static_from or 'words'}"
        if self.versus:
            yield f"--versus {self.versus}"

    def read_table(self) -> TokenTable:
        """The word vectors of the model, or else its token table with its words and their counts."""
        if self.static_from != "average":
            # Matrices of this size gain nothing from threads, and to start them takes NumPy longer than to multiply.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from gptlite.embedding import static

        table = static.read_table(self.model, unless_words=self.static_from in (None, "words"))
        if self.static_from == "words" and table.saved is None:
            raise UsageError(f"{table.path} has no word vectors, which are made in training; ask --from table.")
        if self.static_from is None and table.saved is None:
            console.Messages(self.quiet).notice(
                "this model has no word vectors (an older version saved it, or another program, or its text has too "
                "few words), so the rows of its token table answer."
            )
        return table

    def own(self, table: TokenTable, correction: str | None = None) -> WordVectors:
        """The model's own vectors: those of its words, the rows of its table, or averages over places in a text."""
        if table.saved is not None:
            from gptlite.embedding.static_words import StaticWords

            return StaticWords(table.path, table.saved).word_vectors(self.min_count, self.correct or correction)
        if self.static_from == "average":
            return self._averages(table)
        return table.word_vectors(self.min_count, self.correct or correction)

    def read(self, table: TokenTable) -> list[WordVectors]:
        """The model's own vectors first; the correction of cosines is the same for all, unless none is named."""
        from gptlite.embedding.static import WordVectors
        from gptlite.embedding.word2vec_format import read_word2vec

        spaces = [self.own(table)]
        for name in self.files:
            with sources.open_text(name, "vectors") as file:
                vectors = read_word2vec(file, name, lossy=self.lossy)
            spaces.append(WordVectors(name, *vectors, correction=self.correct))
        if self.versus:
            spaces.append(self._word2vec(table, spaces[0]))
        return spaces

    def _averages(self, table: TokenTable) -> WordVectors:
        """Vectors of what the model expects around each word that the text has as often as the table's words."""
        from gptlite import device as machine
        from gptlite.checkpoint import saved_step
        from gptlite.embedding import averaged
        from gptlite.embedding.static import WordVectors

        messages = console.Messages(self.quiet)
        hardware = machine.choose_hardware(self.device, "fp32", self.threads)
        loaded = saved_step.load(table.path, hardware.device)
        least = max(1, table.words(self.min_count)[1])
        started = time.monotonic()
        with training_text(table.path, self.corpus, messages, encoding=self.encoding) as blocks:
            contexts = averaged.read_contexts(
                loaded.model, loaded.tokenizer, blocks, min_count=min(averaged.MIN_COUNT, least),
                progress=console.seldom(lambda n: messages.say(f"{n / 1e6:.1f} million characters read")),
            )  # fmt: skip
        vectors = averaged.average_vectors(contexts)
        messages.say(
            f"contexts of {console.plural(len(contexts.words), 'word')} averaged in {time.monotonic() - started:.0f} s"
        )
        counts = dict(zip(contexts.words, contexts.counts.tolist(), strict=True))
        kept = int((contexts.counts >= least).sum())  # the most frequent come first
        words, vectors = contexts.words[:kept], vectors[:kept]
        return WordVectors("average", words, vectors, correction=self.correct or "none", counts=counts, least=least)

    def _word2vec(self, table: TokenTable, own: WordVectors) -> WordVectors:
        """Skip-gram vectors of the same text, of those words that the model's own vectors have too."""
        from gptlite.baselines import word2vec
        from gptlite.embedding.static import WordVectors

        word2vec.check_gensim()
        messages = console.Messages(self.quiet)
        started = time.monotonic()
        with training_text(table.path, self.corpus, messages, encoding=self.encoding) as blocks:
            words, vectors = word2vec.train_word2vec(blocks, epochs=self.epochs)
        messages.say(
            f"word2vec: skip-gram of {word2vec.DIM} dimensions, window {word2vec.WINDOW}, "
            f"{console.plural(self.epochs, 'epoch', 'epochs')} in {time.monotonic() - started:.0f} s"
        )
        shared = [i for i, word in enumerate(words) if word in own.index]
        if not shared:
            raise UsageError("word2vec knows none of the words that the model's text has often; lower --min-count.")
        # Without a correction unless one is asked for, as is usual for Word2Vec.
        return WordVectors("word2vec", [words[i] for i in shared], vectors[shared], correction=self.correct or "none")


def about(space: WordVectors) -> dict[str, Any]:
    """What JSON says of one set of vectors."""
    return {
        "name": space.name,
        "n_words": len(space.words),
        "n_answers": len(space.answers),
        "dim": space.vectors.shape[1],
        "correct": space.correction,
        "unrelated": [round(x, 4) for x in space.unrelated],
    }


def print_captions(spaces: Sequence[WordVectors], *, chosen: bool) -> None:
    """What was compared, and what a cosine is worth there; `chosen` if answers were chosen among words."""
    least = spaces[0].least
    console.write("\n")
    for i, space in enumerate(spaces):
        n, n_answers = len(space.words), len(space.answers)
        seen = f" seen at least {console.plural(least, 'time')}" if least else ", all that are one token"
        which = f"{console.plural(n, 'word')}{seen if i == 0 else ''}"
        if chosen and n_answers < n:
            which += f", answers from the {n_answers:,} that are one token"
        correction = "raw cosines" if space.correction == "none" else f"cosines after {space.correction}"
        mean, deviation = (decimals(x) for x in space.unrelated)
        console.write(f"{space.name}: {which}; {correction}, of two words at random {mean} ± {deviation}\n")


def decimals(value: float | None) -> str:
    """A cosine or a correlation; never "-0.00"."""
    return "" if value is None else f"{round(value, 2) + 0.0:.2f}"

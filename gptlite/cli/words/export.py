"""Static vectors as a file for other programs, or as lines of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gptlite.cli.shared import console
from gptlite.cli.words.neighbours import notes_of
from gptlite.cli.words.spaces import Source
from gptlite.errors import UsageError


def write(source: Source, words: Sequence[str], out: str, *, normalize: bool, raw_cells: bool) -> None:
    """Write the vectors of `words`, or of all words, to `out`; "-" is a JSON object a line on standard output."""
    from gptlite.embedding import similarity, vector_files

    messages = console.Messages(source.quiet)
    table = source.read_table()
    everything = source.own(table, "none")
    chosen = words or everything.words
    if missing := [word for word in chosen if not everything.has(word)]:
        raise UsageError(f"{everything.name} has no vector for '{missing[0]}', which is too rare in the text.")
    spell = everything.spell or (lambda words: everything.vectors[[everything.index[word] for word in words]])
    raw = spell(chosen)
    vectors = similarity.correct(raw, everything.correction, everything.space)
    meta = {"model": str(table.path), "vectors": everything.name, "correct": everything.correction}
    if out == "-":
        vectors = similarity.unit(vectors) if normalize else vectors
        for word, vector in zip(chosen, vectors, strict=True):
            facts = {"word": word, "n_seen": everything.seen(word), "tokens": list(table.tokens(word))}
            console.write_json({**facts, **meta, "static": [float(str(x)) for x in vector]})
        return
    vector_files.save_table(Path(out), chosen, vectors, meta, normalize=normalize, raw_cells=raw_cells)
    kind = "raw" if everything.correction == "none" else everything.correction
    messages.say(f"{len(chosen):,} {kind} vectors of {vectors.shape[1]} numbers in {out}")
    for word in words:
        for note in notes_of(table, everything, word):
            messages.notice(note)

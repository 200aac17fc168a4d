"""The vectors of words in texts, for `gptlite embed`: compared on standard output, and written to files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlite.cli.embed import page
from gptlite.cli.embed.comparison import Comparison
from gptlite.cli.shared import console, outputs, pages, schemas
from gptlite.cli.shared.models import ModelReader
from gptlite.cli.shared.texts import Finder, Found, Texts, in_batches
from gptlite.errors import LimitError, UsageError

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.embedding.contextual import WordVector
    from gptlite.embedding.vector_files import Record
    from gptlite.text.words import Occurrence

MANY = 1000  # words that are still compared, each with each
EXPECTED = 4  # tokens that the model expects next, for each word of a comparison
PAGE = ".html"


@dataclass(frozen=True)
class Which:
    """Which of a word's vectors: the options of this name on the help page. `context` is "left", "echo", "both", or
    "auto": both sides where the model has what they take."""

    layer: str
    pool: str
    correct: str
    context: str
    prefix: str


@dataclass(frozen=True)
class Output:
    """Where the vectors go: a file, standard output ("-"), a page, figures, one JSON object, or a table for people."""

    out: str | None
    figures: str | None
    normalize: bool
    raw_cells: bool
    json: bool

    def __post_init__(self) -> None:
        if self.out == "-" and (self.json or self.figures is not None):
            other = "--json" if self.json else "--figures"
            why = "both write to standard output" if self.json else "one writes texts as they come, one needs all"
            raise UsageError(f"{other} and -o -: {why}; give one of them.")

    @property
    def file(self) -> Path | None:
        """A file of vectors."""
        return None if self.out in (None, "-") or self.page else Path(self.out or "")

    @property
    def page(self) -> Path | None:
        return Path(self.out) if self.out and Path(self.out).suffix.lower() == PAGE else None

    @property
    def drawn(self) -> bool:
        """Are there charts of them?"""
        return self.page is not None or self.figures is not None

    @property
    def compared(self) -> bool:
        """Are the words compared with each other, which needs all of them in memory?"""
        return self.json or self.drawn or self.out is None

    def as_they_come(self) -> bool:
        """Is each vector written as soon as it is known?"""
        from gptlite.embedding.vector_files import STREAMED

        return self.out == "-" or (not self.compared and self.file is not None and self.file.suffix.lower() in STREAMED)

    def check(self, which: Which, *, force: bool, inputs: Sequence[str], model: str | None) -> None:
        """Before any work. Raises `UsageError`, or `StorageError` where no file can be written."""
        if which.layer == "all" and self.compared:
            raise UsageError("--layer all is for files: give -o FILE.npz, or choose a layer to compare.")
        if self.out in (None, "-"):
            return
        from gptlite.embedding import vector_files

        outputs.format_of(self.out or "", dict.fromkeys((*vector_files.FORMATS, PAGE)))
        if self.file is not None:
            vector_files.check_format(self.file, None if which.layer == "all" else 0)
        for path in vector_files.files_of(self.file) if self.file else (self.out,):
            outputs.check(path, force=force, inputs=inputs, model=model)


def check_both_sides(output: Output, unit: str) -> None:
    """Before any work. Raises `UsageError` where vectors of both sides cannot be had."""
    if unit == "sentence":
        raise UsageError("--sentence reads the whole text already; leave out --context both.")
    if output.drawn:
        option = "--figures" if output.figures is not None else f"-o FILE{PAGE}"
        raise UsageError(f"{option} shows every layer, and --context both takes one; leave out one of them.")


def show(
    found: Finder, source: Texts, which: Which, output: Output, read: ModelReader, messages: console.Messages
) -> None:
    """Find the words, embed them, write and compare them as `which` and `output` say."""
    from gptlite.embedding import vector_files

    streamed, tokens = output.as_they_come(), found.unit == "token"
    # Before the model is read, so that a word that is missing is told at once; what a token is, only the model knows.
    rows = [] if streamed or tokens else _collect(found, output)
    loaded, statistics, counts = read.read(counted=output.compared)
    if tokens:
        found.spans_of = lambda text: loaded.tokenizer.encode_with_spans(text)[1]
        rows = [] if streamed else _collect(found, output)
    embedder = Embedder(loaded, statistics, which, output)
    vectors = embedder.embed([row.place for row in rows if row.place])
    records = embedder.records(found, source) if streamed else _joined(rows, vectors)
    if output.out == "-":
        for line in vector_files.json_objects(records, embedder.chosen, embedder.meta, normalize=output.normalize):
            console.write_json(line)
    elif output.file is not None:
        vector_files.save_records(
            output.file, records, embedder.chosen, embedder.meta,
            normalize=output.normalize, raw_cells=output.raw_cells,
        )  # fmt: skip
    _say_what_happened(found, source, embedder, messages)
    if output.drawn:
        from gptlite.report import occurrences

        shown = page.collect(_comparison(rows, vectors, embedder, counts, found.unit), loaded)
        if output.figures is not None:
            pages.write_figures(Path(output.figures), occurrences.figures(shown), messages)
        if output.page is not None:
            pages.write(output.page, occurrences.render(shown))
            messages.say(f"{console.plural(len(vectors), 'occurrence')} in {output.page}: open it in a browser")
    if output.json or output.out is None:
        _compare(rows, vectors, embedder, counts, found.unit, messages)


class Embedder:
    """Vectors of words by one model, and what files say of where they come from.

    `n_truncated` counts the words that stood further into a text than the model sees.
    """

    def __init__(self, loaded: Checkpoint, statistics: Mapping[str, Any] | None, which: Which, output: Output) -> None:
        from gptlite.embedding import embedder

        self.loaded, self.which, self.output = loaded, which, output
        self.statistics = None if statistics is None else {name: t.numpy() for name, t in statistics.items()}
        self.made = embedder.Embedder(
            loaded, self.statistics, layer=which.layer, pool=which.pool, context=which.context, prefix=which.prefix,
            n_expected=EXPECTED if output.compared else 0, keep="all" if output.drawn else "asked",
        )  # fmt: skip
        self.layers, self.meta = self.made.layers, self.made.meta
        # In files: one layer, the mean of several, or all of them.
        self.chosen = None if which.layer == "all" else self.layers[0] if len(self.layers) == 1 else self.layers

    @property
    def n_truncated(self) -> int:
        return self.made.n_truncated

    def embed(self, places: Sequence[Occurrence]) -> list[WordVector]:
        return self.made.embed(places)

    def records(self, found: Finder, source: Texts) -> Iterator[Record]:
        """Each word with its vector as the texts come, and each text that lacks it without one."""
        for batch in in_batches(found, source.must_wait):
            yield from _joined(batch, self.embed([row.place for row in batch if row.place]))


def _joined(rows: Sequence[Found], vectors: Sequence[WordVector]) -> list[Record]:
    from gptlite.embedding.vector_files import Record

    each = iter(vectors)
    return [Record(row.text_index, next(each) if row.place else None, row.columns, row.word) for row in rows]


def _collect(found: Finder, output: Output) -> list[Found]:
    """All words that were found. Raises `LimitError` when they are too many to compare."""
    rows = [row for row in found if not (row.is_blank and output.compared)]
    n = sum(row.place is not None for row in rows)
    if output.compared and n > MANY:
        raise LimitError(
            f"{n:,} words are too many to compare; take fewer with --limit, or write their vectors with "
            "-o FILE or -o -."
        )
    if output.drawn:
        page.check(n)
    return rows


def _say_what_happened(found: Finder, source: Texts, embedder: Embedder, messages: console.Messages) -> None:
    output, config = embedder.output, embedder.loaded.config
    if output.file is not None:
        from gptlite.embedding.vector_files import files_of

        names = " and ".join(str(path) for path in files_of(output.file))
        parts = embedder.meta.get("parts")
        kind = "vectors of length 1, each" if output.normalize else "vectors" if parts else "raw vectors"
        n_numbers = sum(parts.values()) if parts else config.dim
        messages.say(f"{found.n_words} {kind} of {n_numbers} numbers in {names}")
    if source.n_damaged:
        messages.notice(f"{console.plural(source.n_damaged, 'text')} held bytes that are not UTF-8, now � in them.")
    if embedder.n_truncated and not output.compared:
        messages.notice(
            f"{console.plural(embedder.n_truncated, 'word')} stood further into a text than the "
            f"{config.context_length} tokens that the model reads at once; the nearest ones to the left were read."
        )
    if n := found.n_empty + (0 if output.compared else found.n_blank):
        what = "what was looked for" if found.unit == "word" else "any"
        row = "null" if output.out == "-" or (output.file and output.file.suffix == ".jsonl") else "NaN"
        if found.skip_missing:
            then = "left out"
        elif output.out is not None and output.page is None:
            then = f"for {'it' if n == 1 else 'each'} there is a row of {row}"
        else:
            then = "left out of the comparison"
        messages.notice(f"{console.plural(n, 'text')} without {what}; {then}.")


def _compare(
    rows: Sequence[Found],
    vectors: Sequence[WordVector],
    embedder: Embedder,
    counts: Mapping[str, int],
    unit: str,
    messages: console.Messages,
) -> None:
    """Print the comparison, for people or as JSON."""
    comparison = _comparison(rows, vectors, embedder, counts, unit)
    if comparison.correct != embedder.which.correct:
        messages.notice(
            f"{embedder.loaded.path} holds no statistics for corrected cosines; raw ones are shown, which are all high."
        )
    if embedder.output.json:
        console.write_json(schemas.named("embed", comparison.as_json()))
    else:
        comparison.print()


def _comparison(
    rows: Sequence[Found],
    vectors: Sequence[WordVector],
    embedder: Embedder,
    counts: Mapping[str, int],
    unit: str,
) -> Comparison:
    """What is shown of vectors, with raw cosines of a model without statistics. Raises `UsageError`."""
    from gptlite.embedding import similarity
    from gptlite.embedding.comparison import Embeddings

    config, correct = embedder.loaded.config, embedder.which.correct
    similarity.parse_correction(correct, config.dim)
    if embedder.statistics is None:
        correct = "none"
    embeddings = Embeddings(vectors, embedder.layers, embedder.statistics, embedder.meta, unit)
    context, wish = embedder.made.context, embedder.which.context
    can_both = wish != "auto" or context == "both"
    return Comparison(embeddings, correct, config.n_layers, unit, context, can_both, counts, rows)

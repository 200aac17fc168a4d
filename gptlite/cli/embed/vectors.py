"""The vectors of words in texts, for `gptlite embed`: compared on standard output, and written to files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlite.cli.embed import page
from gptlite.cli.embed.comparison import as_json, print_comparison
from gptlite.cli.embed.texts import Finder, Texts, in_batches
from gptlite.cli.shared import console, pages
from gptlite.errors import LimitError, UsageError
from gptlite.text.words import Occurrence

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.embedding.contextual import WordVector

MANY = 1000  # words that are still compared, each with each
EXPECTED = 4  # tokens that the model expects next, for each word of a comparison


@dataclass(frozen=True)
class Which:
    """Which of a word's vectors: the options of this name on the help page."""

    layer: str
    pool: str
    correct: str
    context: str
    prefix: str


@dataclass(frozen=True)
class Output:
    """Where the vectors go: a file, standard output ("-"), a page, figures, one JSON object, or a table for people."""

    out: str | None
    html: str | None
    figures: str | None
    normalize: bool
    json: bool

    def __post_init__(self) -> None:
        if self.out == "-" and self.json:
            raise UsageError("--json and -o - both write to standard output; give one of them.")
        if self.out == "-" and self.drawn:
            option = "--figures" if self.html is None else "--html"
            raise UsageError(f"-o - writes vectors as texts come, and {option} needs all of them; give one of them.")
        if self.normalize and self.out is None:
            raise UsageError("--normalize is for the vectors that -o writes.")

    @property
    def file(self) -> Path | None:
        return None if self.out in (None, "-") else Path(self.out or "")

    @property
    def drawn(self) -> bool:
        """Are there charts of them?"""
        return self.html is not None or self.figures is not None

    @property
    def compared(self) -> bool:
        """Are the words compared with each other, which needs all of them in memory?"""
        return self.json or self.drawn or self.out is None

    def as_they_come(self) -> bool:
        """Is each vector written as soon as it is known?"""
        from gptlite.embedding.vector_files import STREAMED

        return self.out == "-" or (not self.compared and self.file is not None and self.file.suffix in STREAMED)


class ModelReader:
    """Call it for the model that -m names and what was measured about its cosines."""

    def __init__(self, model: str | None, device: str, threads: int | None) -> None:
        self.model, self.device, self.threads = model, device, threads

    def __call__(self) -> tuple[Checkpoint, dict[str, Any] | None]:
        loaded, statistics, _ = self.read(counted=False)
        return loaded, statistics

    def read(self, *, counted: bool) -> tuple[Checkpoint, dict[str, Any] | None, dict[str, int]]:
        """The same, and if they are `counted`, how often the model has seen which word."""
        from gptlite import device as machine
        from gptlite.checkpoint import runs, saved_step
        from gptlite.storage.reader import Reader

        hardware = machine.choose_hardware(self.device, "fp32", self.threads)

        def read(path: Path) -> tuple[Checkpoint, dict[str, Any] | None, dict[str, int]]:
            loaded = saved_step.load(path, hardware.device)
            counts: dict[str, int] = {}
            if counted:
                with Reader(path) as reader:
                    counts = dict(saved_step.read_words(reader))
            return loaded, saved_step.read_embedding_statistics(loaded), counts

        return runs.read_model(self.model, read)


def show(
    found: Finder, source: Texts, which: Which, output: Output, read: ModelReader, messages: console.Messages
) -> None:
    """Find the words, embed them, write and compare them as `which` and `output` say."""
    from gptlite.embedding import vector_files

    if output.file is not None:
        vector_files.check_format(output.file, None if which.layer == "all" else 0)
    if which.layer == "all" and output.compared:
        raise UsageError("--layer all is for files: give -o FILE.npz, or choose a layer to compare.")
    streamed, tokens = output.as_they_come(), found.unit == "token"
    # Before the model is read, so that a word that is missing is told at once; what a token is, only the model knows.
    places = [] if streamed or tokens else _collect(found, output)
    loaded, statistics, counts = read.read(counted=output.compared)
    if tokens:
        found.spans_of = lambda text: loaded.tokenizer.encode_with_spans(text)[1]
        places = [] if streamed else _collect(found, output)
    embedder = Embedder(loaded, statistics, which, output)
    vectors = embedder.embed(places)
    if output.out == "-":
        for line in vector_files.json_objects(
            embedder.records(found, source), embedder.chosen, embedder.meta, normalize=output.normalize
        ):
            console.write_json(line)
    elif output.file is not None:
        if streamed:
            records = embedder.records(found, source)
            vector_files.save_records(output.file, records, embedder.chosen, embedder.meta, normalize=output.normalize)
        else:
            vector_files.save_vectors(output.file, vectors, embedder.chosen, embedder.meta, normalize=output.normalize)
    _say_what_happened(found, source, embedder, streamed, messages)
    if output.drawn:
        from gptlite.report import occurrences

        shown = page.collect(vectors, loaded, statistics, embedder.layers[-1], which.correct, embedder.meta)
        if output.figures is not None:
            pages.write_figures(Path(output.figures), occurrences.figures(shown), messages)
        if output.html is not None:
            pages.write(Path(output.html), occurrences.render(shown))
            messages.say(f"{console.plural(len(vectors), 'occurrence')} in {output.html}: open it in a browser")
    if output.json or (output.out is None and output.html is None):
        _compare(vectors, embedder, counts, messages)


class Embedder:
    """Vectors of words by one model, and what files say of where they come from.

    `n_truncated` counts the words that stood further into a text than the model sees.
    """

    def __init__(self, loaded: Checkpoint, statistics: Mapping[str, Any] | None, which: Which, output: Output) -> None:
        from gptlite.embedding import contextual, vector_files

        self.loaded, self.which, self.output = loaded, which, output
        self.layers = contextual.resolve_layers(which.layer, loaded.config.n_layers)
        # In files: one layer, the mean of several, or all of them.
        self.chosen = None if which.layer == "all" else self.layers[0] if len(self.layers) == 1 else self.layers
        self.statistics = None if statistics is None else {name: t.numpy() for name, t in statistics.items()}
        token_counts = None if self.statistics is None else self.statistics["token_counts"]
        self.prefix = contextual.find_prefix(loaded.tokenizer, which.prefix, token_counts)
        self.meta = {
            "model": str(loaded.path),
            **vector_files.provenance(loaded.manifest),
            "pool": which.pool,
            "context": which.context,
            "prefix": contextual.prefix_text(loaded.tokenizer, self.prefix),
        }
        self.n_truncated = 0

    def embed(self, places: Sequence[Occurrence]) -> list[WordVector]:
        from gptlite.embedding import contextual

        vectors = contextual.embed(
            self.loaded.model,
            self.loaded.tokenizer,
            places,
            pool=self.which.pool,
            layers=None if self.output.drawn else self.layers,
            n_expected=EXPECTED if self.output.compared else 0,
            prefix=self.prefix,
            context=self.which.context,
        )
        self.n_truncated += sum(v.truncated for v in vectors)
        return vectors

    def records(self, found: Finder, source: Texts) -> Iterator[tuple[int, WordVector | None]]:
        """Number of the text and vector of each word, as the texts come; None for a text without one."""
        for batch in in_batches(found, source.must_wait):
            vectors = iter(self.embed([place for _, place in batch if place]))
            yield from ((i, next(vectors) if place else None) for i, place in batch)


def _collect(found: Finder, output: Output) -> list[Occurrence]:
    """All words that were found. Raises `LimitError` when they are too many to compare."""
    places = [place for _, place in found if place]
    if output.compared and len(places) > MANY:
        raise LimitError(
            f"{len(places):,} words are too many to compare; take fewer with --limit, or write their vectors with "
            "-o FILE or -o -."
        )
    if output.drawn:
        page.check(len(places))
    return places


def _say_what_happened(
    found: Finder, source: Texts, embedder: Embedder, streamed: bool, messages: console.Messages
) -> None:
    output, config = embedder.output, embedder.loaded.config
    if output.file is not None:
        from gptlite.embedding.vector_files import files_of

        names = " and ".join(str(path) for path in files_of(output.file))
        kind = "vectors of length 1, each" if output.normalize else "raw vectors"
        messages.say(f"{found.n_words} {kind} of {config.dim} numbers in {names}")
    if source.n_damaged:
        messages.notice(f"{console.plural(source.n_damaged, 'text')} held bytes that are not UTF-8, now � in them.")
    if embedder.n_truncated and not output.compared:
        messages.notice(
            f"{console.plural(embedder.n_truncated, 'word')} stood further into a text than the "
            f"{config.context_length} tokens that the model reads at once; the nearest ones to the left were read."
        )
    if streamed and found.n_empty and (output.file is None or output.file.suffix == ".jsonl"):
        messages.notice(f"{console.plural(found.n_empty, 'text')} held no word, and null stands for their vectors.")


def _compare(
    vectors: Sequence[WordVector], embedder: Embedder, counts: Mapping[str, int], messages: console.Messages
) -> None:
    """Print the comparison, for people or as JSON."""
    from gptlite.embedding import similarity
    from gptlite.embedding.comparison import Embeddings

    config, correct = embedder.loaded.config, embedder.which.correct
    similarity.parse_correction(correct, config.dim)
    if embedder.statistics is None and correct != "none":
        messages.notice(
            f"{embedder.loaded.path} holds no statistics for corrected cosines; raw ones are shown, which are all high."
        )
        correct = "none"
    embeddings = Embeddings(vectors, embedder.layers, embedder.statistics, embedder.meta)
    if embedder.output.json:
        console.write_json(as_json(embeddings, correct, embedder.which.context, counts))
    else:
        print_comparison(embeddings, correct, config.n_layers, embedder.which.context, counts)

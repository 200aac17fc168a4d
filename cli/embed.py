"""gptlite embed: one word in several sentences, its contextual vectors beside its static one."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from gptlite.cli import console, options, page
from gptlite.errors import CorpusError, LimitError, UsageError
from gptlite.words import Occurrence, find_word, parse_marked

if TYPE_CHECKING:
    import numpy as np

    from gptlite.checkpoint import Checkpoint
    from gptlite.embedding import WordVector

WHICH, OUTPUT = "Which vector", "Output"
MAX_COLUMNS = 8  # of a matrix that is printed
CONTEXT = 44  # characters of a sentence that are shown
MANY = 1000  # words that are still compared, each with each
LONGEST_LINE = 128 << 20  # bytes
EXAMPLE = 'give at least one text, such as: gptlite embed "on the river [bank] ." "into the [bank] ."'


def embed(
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT", help='Texts with the word in brackets: "on the \\[bank] of". - reads lines.',
            show_default="none",
        ),
    ] = None,
    word: Annotated[
        list[str] | None,
        typer.Option("-w", "--word", metavar="WORD", help="A word to find in unmarked texts; bank#2 is the second.",
                     show_default="none"),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("-f", "--file", metavar="FILE", help="More texts, one a line.", show_default="none"),
    ] = None,
    model: options.ModelOption = None,
    layer: Annotated[
        str,
        typer.Option("--layer", metavar="L", help="mid, last, or a number: 0 is below the first block.",
                     rich_help_panel=WHICH),
    ] = "last",
    pool: Annotated[
        str,
        typer.Option("--pool", metavar="NAME", help="Of a word's tokens: last, mean or first.", rich_help_panel=WHICH),
    ] = "last",
    correct: Annotated[
        str,
        typer.Option("--correct", metavar="NAME", help="Of printed cosines: zscore, center, abtt:K or none.",
                     rich_help_panel=WHICH),
    ] = "zscore",
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Read bytes that are not UTF-8 as �.", show_default="off")
    ] = False,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FILE",
                     help="Write raw vectors: .npz, .npy, .jsonl, .vec, .bin, .tsv or .csv; - is a JSON object a line.",
                     show_default="none", rich_help_panel=OUTPUT),
    ] = None,
    normalize: Annotated[
        bool,
        typer.Option("--normalize", help="Write vectors at length 1.", show_default="off", rich_help_panel=OUTPUT),
    ] = False,
    html: Annotated[
        str | None,
        typer.Option("--html", metavar="FILE", help="Write one page that shows map, similarities and layers.",
                     show_default="none", rich_help_panel=OUTPUT),
    ] = None,
    device: options.DeviceOption = "auto",
    threads: options.ThreadsOption = None,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:  # fmt: skip
    """Compare a word's vectors in context with its one static vector.

    [bold]gptlite embed "She sat on the river \\[bank] ." "He paid money into the \\[bank] ."[/bold]
    """
    messages = console.Messages(quiet)
    if out == "-" and json:
        raise UsageError("--json and -o - both write to standard output; give one of them.")
    if out == "-" and html is not None:
        raise UsageError("-o - writes vectors as texts come, and --html needs all of them; give one of them.")
    if normalize and out is None:
        raise UsageError("--normalize is for the vectors that -o writes.")
    source = Texts(texts or [], file, lossy)
    found = Finder(source, [options.check_text(w, "--word") for w in word or []])

    from gptlite import device as machine
    from gptlite import embedding, runs, similarity, vector_files

    if out not in (None, "-"):
        vector_files.check_format(Path(out))
    compared = json or html is not None or out is None
    as_they_come = out == "-" or (not compared and Path(out or "").suffix in vector_files.STREAMED)
    places = [] if as_they_come else [place for _, place in found if place]
    if len(places) > MANY and compared:
        raise LimitError(f"{len(places):,} words are too many to compare; write their vectors with -o FILE or -o -.")
    if html is not None:
        page.check(len(places))
    hardware = machine.choose_hardware(device, "fp32", threads)
    loaded, statistics = runs.read_model(model, lambda path: _read(path, hardware.device))
    n_layers = loaded.config.n_layers
    chosen = embedding.resolve_layer(layer, n_layers)
    meta = {
        "model": str(loaded.path),
        **vector_files.provenance(loaded.manifest),
        "pool": pool,
        "prefix": embedding.PREFIX,
        "context": "left",
    }

    def vectors_of(place: Occurrence) -> WordVector:
        return embedding.embed_word(loaded.model, loaded.tokenizer, place, pool=pool)

    if as_they_come:
        records = ((i, vectors_of(place) if place else None) for i, place in found)
        if out == "-":
            for line in vector_files.json_objects(records, chosen, meta, normalize=normalize):
                console.write_json(line)
        else:
            vector_files.save_records(Path(out or ""), records, chosen, meta, normalize=normalize)
    vectors = [vectors_of(place) for place in places]
    if vectors and out is not None:
        vector_files.save_vectors(Path(out), vectors, chosen, meta, normalize=normalize)
    if out not in (None, "-"):
        names = " and ".join(str(path) for path in vector_files.files_of(Path(out)))
        kind = "vectors of length 1, each" if normalize else "raw vectors"
        messages.say(f"{found.n_words} {kind} of {loaded.config.dim} numbers in {names}")
    if source.n_damaged:
        messages.notice(f"{console.plural(source.n_damaged, 'text')} held bytes that are not UTF-8, now � in them.")
    if html is not None:
        page.write(Path(html), vectors, loaded, statistics, chosen, correct, meta)
        messages.say(f"{console.plural(len(vectors), 'occurrence')} in {html}: open it in a browser")
    if as_they_come and found.n_empty and (out == "-" or Path(out or "").suffix == ".jsonl"):
        messages.notice(f"{console.plural(found.n_empty, 'text')} held no word, and null stands for their vectors.")
    if not vectors or not (json or (out is None and html is None)):
        return

    similarity.parse_correction(correct, loaded.config.dim)
    if statistics is None and correct != "none":
        messages.notice(
            f"{loaded.path} holds no statistics for corrected cosines; raw ones are shown, which are all high."
        )
        correct = "none"
    in_context = _stack(vectors, chosen)
    if statistics is not None:
        space = {name: statistics[name][chosen].numpy() for name in ("mean", "std", "components")}
        in_context = similarity.correct(in_context, correct, space)
    contextual = similarity.cosine_matrix(in_context)
    static = similarity.cosine_matrix(_static(vectors))
    scale = _scale(statistics, chosen, correct)
    if json:
        console.write_json(
            {
                **meta,
                "layer": chosen,
                "correct": correct,
                "scale": scale,
                "items": [
                    {
                        "text_index": v.occurrence.text_index,
                        "word": v.occurrence.word,
                        "span": [v.occurrence.start, v.occurrence.end],
                        "tokens": list(v.tokens),
                        "partial": v.partial,
                        "n_left": v.n_left,
                        "expected": list(v.expected),
                    }
                    for v in vectors
                ],
                "contextual": contextual.round(6).tolist(),
                "static": static.round(6).tolist(),
            }
        )
    else:
        _print(vectors, contextual, static, scale, chosen, n_layers, pool, correct)


def _read(path: Path, device: Any) -> tuple[Checkpoint, dict[str, Any] | None]:
    """The model and what was measured about its cosines."""
    from gptlite import checkpoint

    loaded = checkpoint.load(path, device)
    return loaded, checkpoint.read_embedding_statistics(loaded)


class Texts:
    """The texts that are arguments, then the lines of a file: one after the other, empty lines too.

    `n_damaged` counts those with bytes that are not UTF-8.
    """

    def __init__(self, arguments: list[str], file: str | None, lossy: bool) -> None:
        self.arguments = [options.check_text(text, "a text") for text in arguments]
        self.file, self.lossy, self.n_damaged = file, lossy, 0
        for i, text in enumerate(self.arguments):
            if not text.strip():
                raise UsageError(f"text {i + 1} is empty; {EXAMPLE}")
        if not arguments and file is None:
            raise UsageError(EXAMPLE)

    def __iter__(self) -> Iterator[str]:
        for text in self.arguments:
            if text == "-":
                yield from self._read("-")
            else:
                yield text
        if self.file is not None:
            yield from self._read(self.file)

    def _read(self, name: str) -> Iterator[str]:
        with options.open_text(name, "texts") as source:
            for i, line in enumerate(_lines(source)):
                yield self._decode(line, i)

    def _decode(self, line: bytes, i: int) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            if not self.lossy:
                raise CorpusError(
                    f"line {i + 1:,} of the texts is not UTF-8: {error.reason} at its byte {error.start:,}; "
                    "--lossy reads it all the same."
                ) from error
        self.n_damaged += 1
        return line.decode("utf-8", errors="replace")


def _lines(source: BinaryIO) -> Iterator[bytes]:
    """Lines as soon as they are there, without their ends and without a byte order mark."""
    first = True
    try:
        while line := source.readline(LONGEST_LINE + 1):
            if len(line) > LONGEST_LINE:
                raise LimitError(f"a line of the texts is longer than {LONGEST_LINE >> 20} MiB; break it up.")
            yield line.removeprefix(codecs.BOM_UTF8 if first else b"").removesuffix(b"\n").rstrip(b"\r")
            first = False
    except OSError as error:
        raise CorpusError(f"cannot read the texts: {error.strerror or error}.") from error


class Finder:
    """The words in one text after the other, each with the number of its text; None for a text without one.

    Raises `UsageError` at the end when no text had any.
    """

    def __init__(self, texts: Iterable[str], words: list[str]) -> None:
        self.texts, self.words = texts, words
        self.n_words = self.n_empty = 0

    def __iter__(self) -> Iterator[tuple[int, Occurrence | None]]:
        others: set[str] = set()  # some of the words that are there instead
        for i, text in enumerate(self.texts):
            if self.words:
                places = [place for word in self.words for place in find_word(text, i, word)]
            else:
                places = parse_marked(text, i)
            if not places:
                self.n_empty += 1
                yield i, None
            for place in places:
                self.n_words += 1
                yield i, place
            if not self.n_words and len(others) < 500:
                others.update(text[:10_000].split())
        if not self.n_words:
            raise self._nothing_found(others)

    def _nothing_found(self, others: set[str]) -> UsageError:
        if not others:
            return UsageError(EXAMPLE)
        if not self.words:
            return UsageError('mark the word with brackets, "the [bank] of", or name it with --word.')
        import difflib

        near = difflib.get_close_matches(self.words[0], sorted(others), n=8, cutoff=0.3) or sorted(others)[:8]
        return UsageError(f"the word '{self.words[0]}' is not in the texts; they have, for example: {', '.join(near)}.")


def _stack(vectors: list[WordVector], layer: int) -> np.ndarray:
    import numpy as np

    return np.stack([v.contextual[layer] for v in vectors])


def _static(vectors: list[WordVector]) -> np.ndarray:
    import numpy as np

    return np.stack([v.static for v in vectors])


def _scale(statistics: Any, layer: int, correct: str) -> dict[str, list[float]] | None:
    """Mean and standard deviation of cosines between unrelated words, and of the same word in random contexts."""
    from gptlite.similarity import CORRECTIONS

    if statistics is None:
        return None
    row = CORRECTIONS.index(correct.partition(":")[0])
    names = ("unrelated", "same_word")
    return {name: [round(x, 4) for x in statistics[name][layer][row].tolist()] for name in names}


def _print(
    vectors: list[WordVector], contextual: np.ndarray, static: np.ndarray, scale: dict[str, list[float]] | None,
    layer: int, n_layers: int, pool: str, correct: str,
) -> None:  # fmt: skip
    rows = [
        [
            str(i + 1), " ".join(_token(t) for t in v.tokens), _in_context(v),
            console.plural(v.n_left, "token"), "  ".join(_token(t) for t in v.expected),
        ]
        for i, v in enumerate(vectors)
    ]  # fmt: skip
    console.print_table(["#", "tokens", "context", "has seen", "model expects next"], rows, right=frozenset({0}))
    n = len(vectors)
    if 1 < n <= MAX_COLUMNS:
        head = ["", *(str(i + 1) for i in range(n)), "", "", *(str(i + 1) for i in range(n))]
        both = [
            [str(i + 1), *(f"{x:.2f}" for x in contextual[i]), "", str(i + 1), *(f"{x:.2f}" for x in static[i])]
            for i in range(n)
        ]
        correction = {"zscore": "z-scored", "none": "raw"}.get(correct, correct)
        console.write(f"\nleft: CONTEXTUAL, block {layer}/{n_layers}, {pool} token, {correction} cosines\n")
        console.write("right: STATIC, the word's row in the token table\n")
        console.print_table(head, both, right=frozenset(range(2 * n + 3)))
    elif n > MAX_COLUMNS:
        console.write(f"\n{n} occurrences: too many for a matrix; write the vectors with -o FILE.\n")
    if scale:
        unrelated, same = scale["unrelated"], scale["same_word"]
        console.write(
            f"\nscale  unrelated words {unrelated[0]:.2f} ± {unrelated[1]:.2f}   "
            f"same word, random contexts {same[0]:.2f} ± {same[1]:.2f}\n"
        )
    blind = [str(i + 1) for i, v in enumerate(vectors) if v.n_left <= 1]
    if blind:
        console.write(f"note   the model reads left to right: #{', #'.join(blind)} has seen almost nothing yet.\n")
    if any(v.partial for v in vectors):
        console.write("note   a token reaches outside the word; its vector is of both.\n")


def _token(text: str) -> str:
    """A token as it can be read: the space it begins with as "_", line breaks as \\n."""
    return text.replace(" ", "_").encode("unicode_escape").decode() if text.isspace() else text.replace(" ", "_")


def _in_context(v: WordVector) -> str:
    """The word between bars, with some of the sentence around it."""
    place = v.occurrence
    left, right = place.text[: place.start], place.text[place.end :]
    left = f"…{left[-CONTEXT // 2 :]}" if len(left) > CONTEXT // 2 else left
    right = f"{right[: CONTEXT // 4]}…" if len(right) > CONTEXT // 4 else right
    return f"{left}▐{place.word}▌{right}".replace("\n", " ")

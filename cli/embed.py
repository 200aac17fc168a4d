"""gptlite embed: one word in several sentences, its contextual vectors beside its static one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptlite.cli import concordance, console, lookups, options, page
from gptlite.cli import layers as layer_table
from gptlite.cli import versus as side_by_side
from gptlite.cli.comparison import as_json, print_comparison
from gptlite.cli.texts import Finder, Texts, in_batches
from gptlite.errors import LimitError, UsageError
from gptlite.words import Occurrence, parse_marked, parse_marks

if TYPE_CHECKING:
    from gptlite.checkpoint import Checkpoint
    from gptlite.embedding import WordVector

INPUT, WHICH, OUTPUT = "Input", "Which vector", "Output"
LOOK_UPS, CLOSER = "Look-ups, of static vectors", "A closer look, at words in texts"
MANY = 1000  # words that are still compared, each with each


def embed(
    call: typer.Context,
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
                     show_default="none", rich_help_panel=INPUT),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("-f", "--file", metavar="FILE",
                     help="More texts: one a line, or by name .jsonl, .csv or .tsv with a column text.",
                     show_default="none", rich_help_panel=INPUT),
    ] = None,
    mark: Annotated[
        str,
        typer.Option("--mark", metavar="A,B", help="What stands before and after a marked word.",
                     show_default="[,]", rich_help_panel=INPUT),
    ] = "[,]",
    tokens: Annotated[
        bool,
        typer.Option("--tokens", help="Every token of the texts.", show_default="off", rich_help_panel=INPUT),
    ] = False,
    sentence: Annotated[
        bool,
        typer.Option("--sentence", help="Each text as a whole: later tokens, which have seen more, weigh more.",
                     show_default="off", rich_help_panel=INPUT),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, help="Stop after N words.", show_default="none",
                     rich_help_panel=INPUT),
    ] = None,
    lossy: Annotated[
        bool,
        typer.Option("--lossy", help="Read bytes that are not UTF-8 as �.", show_default="off", rich_help_panel=INPUT),
    ] = False,
    model: options.ModelOption = None,
    layer: Annotated[
        str,
        typer.Option("--layer", metavar="L",
                     help="mid, last, a number (0 is below the first block), A-B for their mean; in files also all.",
                     rich_help_panel=WHICH),
    ] = "last",
    pool: Annotated[
        str | None,
        typer.Option("--pool", metavar="NAME", help="Of a word's tokens: last, mean, first or weighted.",
                     show_default="last; weighted with --sentence", rich_help_panel=WHICH),
    ] = None,
    correct: Annotated[
        str | None,
        typer.Option("--correct", metavar="NAME", help="Of printed cosines: zscore, center, abtt:K or none.",
                     show_default="zscore; abtt for look-ups", rich_help_panel=WHICH),
    ] = None,
    context: Annotated[
        str,
        typer.Option("--context", metavar="NAME",
                     help="What the model reads before the word: the text to its left, or echo: the whole text once.",
                     rich_help_panel=WHICH),
    ] = "left",
    prefix: Annotated[
        str,
        typer.Option("--prefix", metavar="TEXT",
                     help="Read before each text. auto: what separates documents if it is known, else a line break.",
                     rich_help_panel=WHICH),
    ] = "auto",
    static: Annotated[
        bool,
        typer.Option("--static", help="Write static vectors with -o: of the words given, or of all.",
                     show_default="off", rich_help_panel=LOOK_UPS),
    ] = False,
    nearest: Annotated[
        list[str] | None,
        typer.Option("--nearest", metavar="WORD", help="The words most like this one; may be repeated.",
                     show_default="none", rich_help_panel=LOOK_UPS),
    ] = None,
    analogy: Annotated[
        tuple[str, str, str] | None,
        typer.Option("--analogy", metavar="A B C", help="A - B + C: king man woman asks for queen.",
                     show_default="none", rich_help_panel=LOOK_UPS),
    ] = None,
    odd: Annotated[
        bool,
        typer.Option("--odd", help="Which of the words given does not belong?", show_default="off",
                     rich_help_panel=LOOK_UPS),
    ] = False,
    evaluate: Annotated[
        list[str] | None,
        typer.Option("--eval", metavar="FILE", help="Pairs with human scores, or analogies; may be repeated.",
                     show_default="none", rich_help_panel=LOOK_UPS),
    ] = None,
    static_from: Annotated[
        str,
        typer.Option("--static-from", metavar="NAME",
                     help="table: the token's row; average: what the model expects wherever the word stands in a text.",
                     rich_help_panel=LOOK_UPS),
    ] = "table",
    corpus: Annotated[
        str | None,
        typer.Option("--corpus", metavar="FILE", help="The text for --versus and --static-from average.",
                     show_default="what the run was trained on", rich_help_panel=LOOK_UPS),
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--vectors", metavar="FILE", help="Ask these word2vec text vectors too; may be repeated.",
                     show_default="none", rich_help_panel=LOOK_UPS),
    ] = None,
    k: Annotated[
        int,
        typer.Option("-k", "--neighbours", metavar="N", min=1, help="How many words to show.",
                     rich_help_panel=LOOK_UPS),
    ] = 10,
    min_count: Annotated[
        int | None,
        typer.Option("--min-count", metavar="N", min=1, help="Among words seen at least so often.",
                     show_default="20; less on a small text", rich_help_panel=LOOK_UPS),
    ] = None,
    kwic: Annotated[
        bool,
        typer.Option("--kwic", help="A concordance: all places of the word under each other.", show_default="off",
                     rich_help_panel=CLOSER),
    ] = False,
    senses: Annotated[
        int | None,
        typer.Option("--senses", metavar="K", help="--kwic in K groups by sense, if there are so many.",
                     show_default="off", rich_help_panel=CLOSER),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option("--sort", metavar="NAME", help="Of --kwic: text, or the words on the left or right, or sense.",
                     show_default="text, or sense", rich_help_panel=CLOSER),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option("--width", metavar="N", help="Columns of --kwic.", show_default="the terminal's",
                     rich_help_panel=CLOSER),
    ] = None,
    by_layer: Annotated[
        bool,
        typer.Option("--layers", help="What cosines say in each layer.", show_default="off", rich_help_panel=CLOSER),
    ] = False,
    untrained: Annotated[
        bool,
        typer.Option("--untrained", help="With --layers: also with random weights.", show_default="off",
                     rich_help_panel=CLOSER),
    ] = False,
    versus: Annotated[
        str | None,
        typer.Option("--versus", metavar="NAME", help="word2vec: its neighbours of the words beside ours.",
                     show_default="off", rich_help_panel=CLOSER),
    ] = None,
    w2v_epochs: Annotated[
        int, typer.Option("--w2v-epochs", metavar="N", help="How often Word2Vec reads it.", rich_help_panel=CLOSER)
    ] = 5,
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
    if lookup := lookups.asked(call):
        return lookups.answer(call, lookup)
    messages = console.Messages(quiet)
    correct = correct or "zscore"
    if out == "-" and json:
        raise UsageError("--json and -o - both write to standard output; give one of them.")
    if out == "-" and html is not None:
        raise UsageError("-o - writes vectors as texts come, and --html needs all of them; give one of them.")
    if normalize and out is None:
        raise UsageError("--normalize is for the vectors that -o writes.")
    if sum((tokens, sentence, bool(word))) > 1:
        raise UsageError("give only one of --word, --tokens and --sentence.")
    unit = "token" if tokens else "sentence" if sentence else "word"
    pool = pool or ("weighted" if sentence else "last")
    words = [options.check_text(w, "--word") for w in word or []]
    marks = parse_marks(options.check_text(mark, "--mark"))
    prefix = options.check_text(prefix, "--prefix")
    kwic = kwic or any(x is not None for x in (senses, sort, width))
    layer_table.check(untrained, by_layer)
    if sum((kwic, by_layer, versus is not None)) > 1:
        raise UsageError("give only one of --kwic, --layers and --versus.")

    def read() -> tuple[Checkpoint, dict[str, Any] | None]:
        from gptlite import device as machine
        from gptlite import runs

        hardware = machine.choose_hardware(device, "fp32", threads)
        return runs.read_model(model, lambda path: _read(path, hardware.device))

    if versus is not None:
        words += [place.word for i, text in enumerate(texts or []) for place in parse_marked(text, i, marks)]
        side_by_side.show(versus, words, corpus, read, epochs=w2v_epochs, k=k, json=json, messages=messages)
        return
    source = Texts(texts or [], file, lossy)
    found = Finder(source, words, mark=marks, unit=unit, limit=None if kwic else limit)
    if kwic:
        view = concordance.View(senses or 0, sort, limit, width)
        concordance.show(found, view, read, layer=layer, pool=pool, correct=correct, json=json, messages=messages)
        return
    if by_layer:
        layer_table.show(found, read, pool=pool, correct=correct, untrained=untrained, json=json)
        return

    from gptlite import device as machine
    from gptlite import embedding, runs, similarity, vector_files
    from gptlite.comparison import Embeddings

    if out not in (None, "-"):
        vector_files.check_format(Path(out), None if layer == "all" else 0)
    compared = json or html is not None or out is None
    if layer == "all" and compared:
        raise UsageError("--layer all is for files: give -o FILE.npz, or choose a layer to compare.")
    as_they_come = out == "-" or (not compared and Path(out or "").suffix in vector_files.STREAMED)
    # Before the model is read, so that a word that is missing is told at once; what a token is, only the model knows.
    places = [] if as_they_come or tokens else _to_compare(found, compared)
    if html is not None:
        page.check(len(places))
    hardware = machine.choose_hardware(device, "fp32", threads)
    loaded, statistics, counts = runs.read_model(
        model, lambda path: (*_read(path, hardware.device), _read_counts(path) if compared else {})
    )
    if tokens:
        found.spans_of = lambda text: loaded.tokenizer.encode_with_spans(text)[1]
        places = [] if as_they_come else _to_compare(found, compared)
        if html is not None:
            page.check(len(places))
    layers = embedding.resolve_layers(layer, loaded.config.n_layers)
    chosen = None if layer == "all" else layers[0] if len(layers) == 1 else layers
    measured = None if statistics is None else {name: tensor.numpy() for name, tensor in statistics.items()}
    ids = embedding.find_prefix(loaded.tokenizer, prefix, None if measured is None else measured["token_counts"])
    meta = {
        "model": str(loaded.path),
        **vector_files.provenance(loaded.manifest),
        "pool": pool,
        "context": context,
        "prefix": embedding.prefix_text(loaded.tokenizer, ids),
    }
    n_truncated = 0

    def vectors_of(places: list[Occurrence]) -> list[WordVector]:
        nonlocal n_truncated
        found = embedding.embed(
            loaded.model, loaded.tokenizer, places,
            pool=pool, layers=None if html else layers, n_expected=4 if compared else 0, prefix=ids, context=context,
        )  # fmt: skip
        n_truncated += sum(v.truncated for v in found)
        return found

    def records() -> Iterator[tuple[int, WordVector | None]]:
        for batch in in_batches(found, source.must_wait):
            vectors = iter(vectors_of([place for _, place in batch if place]))
            yield from ((i, next(vectors) if place else None) for i, place in batch)

    if out == "-":
        for line in vector_files.json_objects(records(), chosen, meta, normalize=normalize):
            console.write_json(line)
    elif out is not None and as_they_come:
        vector_files.save_records(Path(out), records(), chosen, meta, normalize=normalize)
    vectors = vectors_of(places)
    if vectors and out is not None:
        vector_files.save_vectors(Path(out), vectors, chosen, meta, normalize=normalize)
    if out not in (None, "-"):
        names = " and ".join(str(path) for path in vector_files.files_of(Path(out)))
        kind = "vectors of length 1, each" if normalize else "raw vectors"
        messages.say(f"{found.n_words} {kind} of {loaded.config.dim} numbers in {names}")
    if source.n_damaged:
        messages.notice(f"{console.plural(source.n_damaged, 'text')} held bytes that are not UTF-8, now � in them.")
    if n_truncated and not compared:
        messages.notice(
            f"{console.plural(n_truncated, 'word')} stood further into a text than the {loaded.config.context_length} "
            "tokens that the model reads at once; the nearest ones to the left were read."
        )
    if html is not None:
        page.write(Path(html), vectors, loaded, statistics, layers[-1], correct, meta)
        messages.say(f"{console.plural(len(vectors), 'occurrence')} in {html}: open it in a browser")
    if as_they_come and found.n_empty and (out == "-" or Path(out or "").suffix == ".jsonl"):
        messages.notice(f"{console.plural(found.n_empty, 'text')} held no word, and null stands for their vectors.")
    if not (json or (out is None and html is None)):
        return

    similarity.parse_correction(correct, loaded.config.dim)
    if measured is None and correct != "none":
        messages.notice(
            f"{loaded.path} holds no statistics for corrected cosines; raw ones are shown, which are all high."
        )
        correct = "none"
    e = Embeddings(vectors, layers, measured, meta)
    if json:
        console.write_json(as_json(e, correct, context, counts))
    else:
        print_comparison(e, correct, loaded.config.n_layers, context, counts)


def _to_compare(found: Finder, compared: bool) -> list[Occurrence]:
    """All words that were found. Raises `LimitError` when they are too many to compare."""
    places = [place for _, place in found if place]
    if compared and len(places) > MANY:
        raise LimitError(
            f"{len(places):,} words are too many to compare; take fewer with --limit, or write their vectors with "
            "-o FILE or -o -."
        )
    return places


def _read(path: Path, device: Any) -> tuple[Checkpoint, dict[str, Any] | None]:
    """The model and what was measured about its cosines."""
    from gptlite import checkpoint

    loaded = checkpoint.load(path, device)
    return loaded, checkpoint.read_embedding_statistics(loaded)


def _read_counts(path: Path) -> dict[str, int]:
    """How often the model has seen which word."""
    from gptlite.checkpoint import read_words
    from gptlite.reader import Reader

    with Reader(path) as reader:
        return dict(read_words(reader))

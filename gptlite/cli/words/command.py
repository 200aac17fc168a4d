"""gptlite words: questions to static vectors, one vector a word, answered without torch.

With `--from average` the model itself is loaded, and torch with it, to read a text.
"""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptlite.cli.shared import console, modes, options, outputs, schemas
from gptlite.cli.words.spaces import Source, StaticFrom, Versus, about, print_captions
from gptlite.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gptlite.embedding.static import TokenTable, WordVectors

app = typer.Typer(
    help="Static vectors, one a word: the nearest words, analogies, agreement with people.",
    rich_markup_mode="rich", pretty_exceptions_enable=False,
)  # fmt: skip

WHICH, OUTPUT = "Which vectors", "Output"
SHARED = {"model", "static_from", "correct", "min_count", "quiet"}
FROM_TEXT = {
    "--from words": set[str](),
    "--from table": set(),
    "--from average": {"corpus", "encoding", "device", "threads"},
}
ASKING = {**FROM_TEXT, "--versus word2vec": {"corpus", "encoding", "epochs"}}
QUESTION = SHARED | {"others", "lossy", "versus", "json"}
NEEDS = {"lossy": "others", "encoding": "corpus"}
MODES = {
    "nearest": modes.Modes(QUESTION | {"words", "k"}, ASKING, NEEDS),
    "analogy": modes.Modes(QUESTION | {"a", "b", "c", "k"}, ASKING, NEEDS),
    "odd": modes.Modes(QUESTION | {"words"}, ASKING, NEEDS),
    "evaluate": modes.Modes(QUESTION | {"files", "encoding"}, ASKING, {"lossy": "others"}),
    "steps": modes.Modes({"words", "k", "model", "min_count", "json"}),
    "export": modes.Modes(
        SHARED | {"words", "out", "normalize"},
        {**FROM_TEXT, "-o FILE": {"force"}, "-o FILE.csv or .tsv": {"raw_cells"}},
        {"encoding": "corpus"},
    ),
}

CountOption = Annotated[
    int, typer.Option("-n", "--neighbours", metavar="N", min=1, help="How many words to show.")
]  # fmt: skip
StaticFromOption = Annotated[
    StaticFrom | None,
    typer.Option("--from", help="Vectors of words made with the model, its token table, or the mean of what it "
                 "expects wherever a word stands in a text.", show_default="words", rich_help_panel=WHICH),
]  # fmt: skip
CorrectOption = Annotated[
    str | None,
    typer.Option("--correct", metavar="NAME", help="Of cosines: zscore, center, abtt:K or none.",
                 show_default="none; abtt for the token table", rich_help_panel=WHICH),
]  # fmt: skip
ExportCorrectOption = Annotated[
    str | None,
    typer.Option("--correct", metavar="NAME", help="Of the vectors: zscore, center, abtt:K or none.",
                 show_default="none", rich_help_panel=WHICH),
]  # fmt: skip
MinCountOption = Annotated[
    int | None,
    typer.Option("--min-count", metavar="N", min=1, help="Only words seen N times or more.",
                 show_default="20; less on a small text", rich_help_panel=WHICH),
]  # fmt: skip
CorpusOption = Annotated[
    str | None,
    typer.Option("--corpus", metavar="FILE", help="The text to read.", show_default="what the run was trained on",
                 rich_help_panel=WHICH),
]  # fmt: skip
EncodingOption = Annotated[str | None, options.input_encoding(WHICH)]
VectorsOption = Annotated[
    list[str] | None,
    typer.Option("--vectors", metavar="FILE", help="Ask these too: word2vec's text or .bin. Repeatable.",
                 rich_help_panel=WHICH),
]  # fmt: skip
LossyOption = Annotated[
    bool, typer.Option("--lossy", help="Read words in them that are not UTF-8 with �.", rich_help_panel=WHICH)
]
VersusOption = Annotated[
    Versus | None,
    typer.Option("--versus", help="Ask skip-gram vectors too, trained now on the same text.", rich_help_panel=WHICH),
]
EpochsOption = Annotated[
    int, typer.Option("--epochs", metavar="N", min=1, help="How often Word2Vec reads the text.", rich_help_panel=WHICH)
]
WordsArgument = Annotated[list[str], typer.Argument(metavar="WORD", help="The words to ask about.")]


def _source(
    model: options.ModelOption = None,
    static_from: StaticFromOption = None,
    correct: CorrectOption = None,
    min_count: MinCountOption = None,
    others: VectorsOption = None,
    lossy: LossyOption = False,
    versus: VersusOption = None,
    epochs: EpochsOption = 5,
    corpus: CorpusOption = None,
    encoding: EncodingOption = None,
    device: options.DeviceOption = "auto",
    threads: options.ThreadsOption = None,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> Source:
    """The options of all questions."""
    return Source(
        model, static_from, correct, min_count, corpus, device, threads, quiet, others or (), versus, epochs, lossy,
        encoding, json,
    )  # fmt: skip


def _question(answer: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function that takes a `Source`: it has the function's parameters and those of `_source`."""
    own, shared = (dict(inspect.signature(each, eval_str=True).parameters) for each in (answer, _source))
    del own["source"]

    @functools.wraps(answer)
    def command(call: typer.Context, **given: Any) -> None:
        source = _source(**{name: given.pop(name) for name in shared})
        MODES[answer.__name__].check(call, *source.modes())
        answer(source, **given)

    context = inspect.Parameter("call", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (own | shared).values()]
    # What typer makes options of.
    command.__signature__ = inspect.Signature([context, *parameters])  # pyright: ignore[reportAttributeAccessIssue]
    command.__annotations__ = {each.name: each.annotation for each in (context, *parameters)}
    return command


@app.command()
@_question
def nearest(
    source: Source,
    words: WordsArgument,
    k: CountOption = 10,
) -> None:
    """The words whose vectors are most like a word's; of several words also how alike they are.

    [bold]gptlite words nearest king queen[/bold]
    """
    words = _clean(words)
    table, spaces = _read(source)
    from gptlite.cli.words import neighbours

    _finish("nearest", source, table, spaces, neighbours.nearest(table, spaces, words, k, source.json), chosen=True)


@app.command()
@_question
def analogy(
    source: Source,
    a: Annotated[str, typer.Argument(metavar="A", help="A - B + C: king - man + woman asks for queen.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What A is without.")],
    c: Annotated[str, typer.Argument(metavar="C", help="What takes its place.")],
    k: CountOption = 10,
) -> None:
    """What is to C as A is to B: the words nearest to A - B + C.

    [bold]gptlite words analogy king man woman[/bold]
    """
    a, b, c = _clean([a, b, c])
    table, spaces = _read(source)
    from gptlite.cli.words import neighbours

    found = neighbours.analogy(table, spaces, (a, b, c), k, source.json)
    _finish("analogy", source, table, spaces, found, chosen=True)


@app.command()
@_question
def odd(
    source: Source,
    words: WordsArgument,
) -> None:
    """Which of three or more words does not belong: the one least like the others.

    [bold]gptlite words odd breakfast lunch dinner river[/bold]
    """
    words = _clean(words)
    table, spaces = _read(source)
    from gptlite.cli.words import neighbours

    _finish("odd", source, table, spaces, neighbours.odd(table, spaces, words, source.json))


@app.command()
@_question
def evaluate(
    source: Source,
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Pairs of words with people's scores, or analogies; - reads them."),
    ],
) -> None:
    """How well vectors agree with people, on pairs of words or analogies, with intervals.

    [bold]gptlite words evaluate wordsim353.tsv --versus word2vec[/bold]
    """
    table, spaces = _read(source)
    from gptlite.cli.words import evaluation

    found = evaluation.evaluate(spaces, files, source.json, source.encoding)
    _finish("evaluate", source, table, spaces, found)


@app.command()
def steps(
    call: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORD", help="The words to ask about.", show_default="frequent ones that stand out"),
    ] = None,
    k: CountOption = 5,
    model: options.ModelOption = None,
    min_count: MinCountOption = None,
    json: options.JsonOption = False,
) -> None:
    """How the neighbours of words came to be, from step 0 of training on: meaning over time.

    [bold]gptlite words steps king queen[/bold]

    These are the rows of the Transformer's token table, which a run keeps at up to 16 of its steps.
    """
    MODES["steps"].check(call)
    from gptlite.cli.words import steps as over_time

    facts = over_time.write(model, _clean(words or []), k, min_count, json)
    if json:
        console.write_json(schemas.named("words-steps", facts))


@app.command()
def export(
    call: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORD", help="The words to write.", show_default="all")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FILE", help="A .vec, .bin, .npz, .npy, .jsonl, .tsv or .csv file; - writes"
                     " a JSON object a line. Required.", rich_help_panel=OUTPUT),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Write vectors at length 1.", rich_help_panel=OUTPUT)
    ] = False,
    raw_cells: outputs.RawCellsOption = False,
    force: outputs.ForceOption = False,
    model: options.ModelOption = None,
    static_from: StaticFromOption = None,
    correct: ExportCorrectOption = None,
    min_count: MinCountOption = None,
    corpus: CorpusOption = None,
    encoding: EncodingOption = None,
    device: options.DeviceOption = "auto",
    threads: options.ThreadsOption = None,
    quiet: options.QuietOption = False,
) -> None:  # fmt: skip
    """Write static vectors for other programs, such as gensim.

    [bold]gptlite words export -o words.vec[/bold]
    """
    if out is None:
        raise UsageError("name the file to write, such as: gptlite words export -o words.vec")
    source = Source(model, static_from, correct, min_count, corpus, device, threads, quiet, encoding=encoding)
    kinds = [] if out == "-" else ["-o FILE"]
    kinds += ["-o FILE.csv or .tsv"] if outputs.is_table(out) else []
    MODES["export"].check(call, *source.modes(), *kinds)
    if out != "-":
        from gptlite.embedding.vector_files import FORMATS, files_of

        outputs.format_of(out, dict.fromkeys(FORMATS))
        for path in files_of(Path(out)):
            outputs.check(path, force=force, inputs=[corpus], model=model)
    from gptlite.cli.words import export as writing

    writing.write(source, _clean(words or []), out, normalize=normalize, raw_cells=raw_cells)


def _clean(words: Sequence[str]) -> list[str]:
    """Words without white space around them. Raises `UsageError` for an empty one."""
    words = [options.check_text(word, "a word").strip() for word in words]
    if not all(words):
        raise UsageError("a word is empty; name one that is not.")
    return words


def _read(source: Source) -> tuple[TokenTable, list[WordVectors]]:
    table = source.read_table()
    return table, source.read(table)


def _finish(
    name: str, source: Source, table: TokenTable, spaces: Sequence[WordVectors], result: dict[str, Any], *,
    chosen: bool = False,
) -> None:  # fmt: skip
    """Print the answer as JSON, or below the tables that are printed already what was compared."""
    if source.json:
        least = spaces[0].least
        vectors = [about(space) for space in spaces]
        facts = {"model": str(table.path), "min_count": least, "vectors": vectors, **result}
        console.write_json(schemas.named(f"words-{name}", facts))
    else:
        print_captions(spaces, chosen=chosen)

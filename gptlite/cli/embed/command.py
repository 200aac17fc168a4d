"""gptlite embed: one word in several sentences, its contextual vectors beside its static one."""

from __future__ import annotations

from typing import Annotated

import typer

from gptlite.cli.concordance import command
from gptlite.cli.embed import layerwise as layer_table
from gptlite.cli.embed import vectors
from gptlite.cli.embed.texts import Finder, Texts
from gptlite.cli.shared import console, options, pages
from gptlite.cli.words import lookups
from gptlite.cli.words import versus as side_by_side
from gptlite.errors import UsageError
from gptlite.text.words import parse_marked, parse_marks

INPUT, WHICH, OUTPUT = "Input", "Which vector", "Output"
LOOK_UPS, CLOSER = "Look-ups, of static vectors", "A closer look, at words in texts"


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
        typer.Option("--vectors", metavar="FILE", show_default="none",
                     help="Ask these vectors too, word2vec's text or .bin; may be repeated.", rich_help_panel=LOOK_UPS),
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
    figures: pages.FiguresOption = None,
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
    output = vectors.Output(out, html, figures, normalize=normalize, json=json)
    if sum((tokens, sentence, bool(word))) > 1:
        raise UsageError("give only one of --word, --tokens and --sentence.")
    unit = "token" if tokens else "sentence" if sentence else "word"
    which = vectors.Which(
        layer=layer,
        pool=pool or ("weighted" if sentence else "last"),
        correct=correct or "zscore",
        context=context,
        prefix=options.check_text(prefix, "--prefix"),
    )
    words = [options.check_text(w, "--word") for w in word or []]
    marks = parse_marks(options.check_text(mark, "--mark"))
    kwic = kwic or any(x is not None for x in (senses, sort, width))
    layer_table.check(untrained, by_layer)
    if sum((kwic, by_layer, versus is not None)) > 1:
        raise UsageError("give only one of --kwic, --layers and --versus.")
    read = vectors.ModelReader(model, device, threads)

    if versus is not None:
        words += [place.word for i, text in enumerate(texts or []) for place in parse_marked(text, i, marks)]
        side_by_side.show(versus, words, corpus, model, epochs=w2v_epochs, k=k, json=json, messages=messages)
        return
    source = Texts(texts or [], file, lossy)
    found = Finder(source, words, mark=marks, unit=unit, limit=None if kwic else limit)
    if kwic:
        view = command.View(senses or 0, sort, limit, width)
        command.show(
            found, view, read, layer=layer, pool=which.pool, correct=which.correct, json=json, messages=messages
        )
    elif by_layer:
        layer_table.show(found, read, pool=which.pool, correct=which.correct, untrained=untrained, json=json)
    else:
        vectors.show(found, source, which, output, read, messages)

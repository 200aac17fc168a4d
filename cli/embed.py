"""gptlite embed: one word in several sentences, its contextual vectors beside its static one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptlite.cli import console, options
from gptlite.errors import CorpusError, UsageError
from gptlite.words import Occurrence, find_word, parse_marked

if TYPE_CHECKING:
    import numpy as np

    from gptlite.embedding import WordVector

WHICH, OUTPUT = "Which vector", "Output"
MAX_COLUMNS = 8  # of a matrix that is printed
CONTEXT = 44  # characters of a sentence that are shown


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
        typer.Option("--correct", metavar="NAME", help="Of printed cosines: zscore or none.", rich_help_panel=WHICH),
    ] = "zscore",
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FILE", help="Write raw vectors: .npz, .jsonl or .vec.",
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
    if correct not in ("zscore", "none"):
        raise UsageError(f"--correct must be zscore or none, not '{correct}'.")
    lines = _read_texts(texts or [], file)

    from gptlite import checkpoint, embedding, runs, vector_files
    from gptlite import device as machine

    if out is not None:
        vector_files.check_format(Path(out))
    occurrences = _occurrences(lines, word or [])
    hardware = machine.choose_hardware(device, "fp32", threads)
    loaded = checkpoint.load(runs.find_model(model), hardware.device)
    n_layers = loaded.config.n_layers
    chosen = embedding.resolve_layer(layer, n_layers)
    vectors = embedding.embed(loaded.model, loaded.tokenizer, occurrences, pool=pool)

    statistics = checkpoint.read_embedding_statistics(loaded)
    if statistics is None and correct == "zscore":
        messages.notice(
            f"{loaded.path} holds no statistics for corrected cosines; raw ones are shown, which are all high."
        )
        correct = "none"
    in_context = _stack(vectors, chosen)
    if correct == "zscore" and statistics is not None:
        in_context = embedding.standardise(in_context, statistics, chosen)
    contextual = embedding.cosine_matrix(in_context)
    static = embedding.cosine_matrix(_static(vectors))
    scale = _scale(statistics, chosen, correct)
    meta = {"model": str(loaded.path), "pool": pool, "prefix": embedding.PREFIX}
    if out is not None:
        vector_files.save_vectors(Path(out), vectors, chosen, meta)
        messages.say(f"{len(vectors)} raw vectors of {len(vectors[0].static)} numbers in {out}")
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
    elif out is None:
        _print(vectors, contextual, static, scale, chosen, n_layers, pool, correct)


def _read_texts(texts: list[str], file: str | None) -> list[str]:
    lines: list[str] = []
    try:
        for text in texts:
            lines += sys.stdin.buffer.read().decode("utf-8").split("\n") if text == "-" else [text]
        if file is not None:
            lines += Path(file).read_bytes().decode("utf-8").split("\n")
    except OSError as error:
        raise CorpusError(f"cannot read {file}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"the texts are not UTF-8: {error.reason} at byte {error.start}.") from error
    lines = [line.rstrip("\r") for line in lines if line.strip()]
    if not lines:
        raise UsageError('give at least one text, such as: gptlite embed "on the river [bank] ." "into the [bank] ."')
    return lines


def _occurrences(lines: list[str], words: list[str]) -> list[Occurrence]:
    found: list[Occurrence] = []
    for i, line in enumerate(lines):
        if words:
            found += [place for w in words for place in find_word(line, i, w)]
        else:
            found += parse_marked(line, i)
    if not found and words:
        import difflib

        there = sorted({w for line in lines for w in line.split()})[:500]
        near = difflib.get_close_matches(words[0], there, n=8, cutoff=0.3) or there[:8]
        raise UsageError(f"the word '{words[0]}' is not in the texts; they have, for example: {', '.join(near)}.")
    if not found:
        raise UsageError('mark the word with brackets, "the [bank] of", or name it with --word.')
    return found


def _stack(vectors: list[WordVector], layer: int) -> np.ndarray:
    import numpy as np

    return np.stack([v.contextual[layer] for v in vectors])


def _static(vectors: list[WordVector]) -> np.ndarray:
    import numpy as np

    return np.stack([v.static for v in vectors])


def _scale(statistics: Any, layer: int, correct: str) -> dict[str, list[float]] | None:
    """Mean and standard deviation of cosines between unrelated words, and of the same word in random contexts."""
    if statistics is None:
        return None
    columns = slice(2, 4) if correct == "zscore" else slice(0, 2)
    names = ("unrelated", "same_word")
    return {name: [round(x, 4) for x in statistics[name][layer][columns].tolist()] for name in names}


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
        correction = "z-scored" if correct == "zscore" else "raw"
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

"""gptlite embed --by-layer: a word's cosines layer by layer, beside what cosines are worth there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gptlite.cli.shared import console, schemas
from gptlite.cli.shared.texts import Finder
from gptlite.errors import CheckpointError, LimitError

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.embedding.layerwise import Layer
    from gptlite.text.words import Occurrence

MANY = 1000  # places that are compared, each with each
HEAD = ["layer", "unrelated words", "same word anywhere", "told apart", "your places"]

Read = Callable[[], "tuple[Checkpoint, dict[str, Any] | None]"]


def show(found: Finder, read: Read, *, pool: str, correct: str, untrained: bool, json: bool) -> None:
    """Print a table of the layers, and with `untrained` the same for random weights of the same shape."""
    tokens = found.unit == "token"  # of which only the model knows where they are
    places = [] if tokens else _collect(found)

    import numpy as np

    from gptlite.checkpoint import saved_step
    from gptlite.embedding import contextual, layerwise, similarity
    from gptlite.storage import reader

    loaded, statistics = read()
    if tokens:
        found.spans_of = lambda text: loaded.tokenizer.encode_with_spans(text)[1]
        places = _collect(found)
    similarity.parse_correction(correct, loaded.config.dim)
    if statistics is None:
        raise CheckpointError(
            f"{loaded.path} holds no statistics of its layers; --by-layer needs a model that gptlite trained."
        )

    def described(model: Any, statistics: dict[str, Any]) -> list[Layer]:
        embedded = contextual.embed(model, loaded.tokenizer, places, pool=pool)
        return layerwise.describe_layers(np.stack([v.contextual for v in embedded]), statistics, correct)

    tables = {"trained": described(loaded.model, statistics)}
    if untrained:
        with reader.Reader(loaded.path, loaded.manifest) as files:
            words = saved_step.read_words(files)
        control = layerwise.untrained_model(loaded.config).to(next(loaded.model.parameters()).device)
        measured = layerwise.untrained_statistics(control, loaded.tokenizer, words, [p.text for p in places])
        tables["untrained"] = described(control, measured)
    if json:
        rows = {name: [_rounded(layer) for layer in table] for name, table in tables.items()}
        facts = {"model": str(loaded.path), "pool": pool, "correct": correct, "n_places": len(places), **rows}
        console.write_json(schemas.named("embed-by-layer", facts))
        return
    correction = {"zscore": "z-scored", "none": "raw"}.get(correct, correct)
    console.write(f"{correction} cosines, {pool} token, {console.plural(len(places), 'place')}\n")
    _print(tables["trained"])
    if untrained:
        console.write("\nthe same shape with random weights, which have learned nothing\n")
        _print(tables["untrained"])
    console.write(
        "\ntold apart: how often two places of one word are more alike than two unrelated words; 50 % is luck.\n"
    )
    if len(places) == 1:
        console.write("One place has nothing to be compared with; give more texts to see how alike they are.\n")


def _collect(found: Finder) -> list[Occurrence]:
    places = [item.place for item in found if item.place]
    if len(places) > MANY:
        raise LimitError(f"{len(places):,} words are too many to compare; {MANY:,} are the most.")
    return places


def _print(table: list[Layer]) -> None:
    rows = [
        [
            _name(layer.number, len(table) - 1), _pair(layer.unrelated), _pair(layer.same_word),
            f"{100 * layer.separation:.0f} %", _pair(layer.occurrences) if layer.occurrences else "",
        ]
        for layer in table
    ]  # fmt: skip
    console.print_table(HEAD, rows, right=frozenset(range(1, len(HEAD))))


def _name(number: int, last: int) -> str:
    return f"{number}  below the blocks" if number == 0 else f"{number}  last block" if number == last else f"{number}"


def _pair(moments: tuple[float, float]) -> str:
    return f"{moments[0]:.2f} ± {moments[1]:.2f}"


def _rounded(layer: Layer) -> dict[str, Any]:
    return {
        "layer" if name == "number" else name: [round(x, 4) for x in value] if isinstance(value, tuple)
        else round(value, 4) if isinstance(value, float)
        else value
        for name, value in dataclasses.asdict(layer).items()
    }  # fmt: skip

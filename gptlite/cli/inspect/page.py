"""gptlite inspect --format html: a reading as a page for a browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gptlite.cli.inspect import tables
from gptlite.cli.inspect.attention import explanation_lines, percent, step_cells, vector
from gptlite.cli.shared import pages
from gptlite.errors import LimitError

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.evaluation.inspection import Explanation, Reading, Word
    from gptlite.report.inspection import Inspection, Step

KEYS = 4  # numbers of keys and values that the page shows


def collect(
    loaded: Checkpoint,
    reading: Reading,
    words: Sequence[Word],
    explained: tuple[int, int] | None,
    token: int | None,
    head: tuple[int, int] = (1, 1),
) -> Inspection:
    """What the page of a `reading` shows, opened at a `token`, with one step of a head `explained`, else only its map.

    Raises `LimitError`.
    """
    from gptlite import __version__
    from gptlite.evaluation import inspection
    from gptlite.report import inspection as report

    config, n = loaded.config, len(reading.ids)
    if n > report.MOST:
        raise LimitError(
            f"{n:,} tokens are too many for a page of at most {report.MOST:,}; give a part of the text, or write it "
            "with -o FILE.tsv."
        )
    assert reading.lens is not None
    names = tables.Names(loaded.tokenizer)
    chosen = n if token is None else token
    room = report.fitting(config.n_layers, config.n_heads, config.context_length)
    window = inspection.window_of(reading, loaded.tokenizer, room, token)
    attended = inspection.attend(loaded.model, window)
    step = None
    if explained is not None:
        explanation = inspection.explain(loaded.model, window, *explained, chosen)
        step = _step(explanation, window[1], names, loaded)
    return report.Inspection(
        pieces=list(tables.pieces_of(reading)),
        names=[names(i) for i in reading.ids.tolist()],
        surprisal=reading.surprisal,
        entropy=reading.entropy,
        rank=reading.rank,
        top=[
            [(names(i), p) for i, p in zip(ids, ps, strict=True)]
            for ids, ps in zip(reading.top.tolist(), reading.top_p.tolist(), strict=True)
        ],
        words=[(w.text.translate(tables.SPACES), w.first, w.last, w.surprisal) for w in words],
        layer_names=["no block", *(f"block {i}" for i in range(1, config.n_layers + 1))],
        best=[[names(i) for i in row] for row in reading.lens.best.tolist()],
        best_p=reading.lens.best_p,
        layer_bits=reading.lens.surprisal,
        weights=attended.weights,
        attended=[names(i) for i in window[1]],
        first=attended.first,
        chosen=chosen,
        head=explained or head,
        summary=tables.summary(reading, words),
        convention=tables.CONVENTION,
        step=step,
        facts={
            "model": pages.model_name(loaded.path),
            "gptlite": __version__,
            "tokenizer sha256": loaded.tokenizer.digest,
        },
    )


def _step(e: Explanation, ids: Sequence[int], names: tables.Names, loaded: Checkpoint) -> Step:
    from gptlite.report.inspection import Step

    title, lines, conclusion = explanation_lines(e, ids, names, loaded.config)
    rows = []
    for i, token in enumerate(ids):
        shares = percent(float(e.weights[i]))
        cells = [vector(e.keys[i], KEYS), *step_cells(e, i), vector(e.values[i], KEYS), shares]
        rows.append([str(e.first + i), names(token), *cells])
    columns = ["#", "token", "key k", "q · k", "÷ √", "masked", "e^", "value v", "weight"]
    return Step(title, lines, columns, rows, e.weights.tolist(), e.position, conclusion)

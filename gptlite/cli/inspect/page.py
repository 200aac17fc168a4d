"""gptlite inspect -o FILE.html: a reading as a page for a browser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gptlite.cli.inspect import tables
from gptlite.cli.shared import pages
from gptlite.errors import LimitError

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.evaluation.inspection import Reading, Word
    from gptlite.report.inspection import Attention, Inspection


def collect(
    loaded: Checkpoint,
    reading: Reading,
    words: Sequence[Word],
    token: int,
    head: tuple[int, int] = (1, 1),
    *,
    is_asked: bool = False,
) -> Inspection:
    """What the page of a `reading` shows, opened at a `token` and a `head`; `is_asked`: was the token named?

    Raises `LimitError`.
    """
    from gptlite import __version__
    from gptlite.report import inspection as report

    n = len(reading.ids)
    if n > report.MOST:
        raise LimitError(
            f"{n:,} tokens are too many for a page of at most {report.MOST:,}; give a part of the text, or write it "
            "with -o FILE.tsv."
        )
    lens = reading.lens
    assert lens is not None
    names = tables.Names(loaded.tokenizer)
    separator = loaded.tokenizer.separator_id
    k = report.alternatives(loaded.config.n_layers, n, lens.top.shape[-1])
    layer_top = lens.top[..., :k]
    known = {separator, *reading.ids.tolist(), *reading.top.ravel().tolist(), *layer_top.ravel().tolist()}
    return report.Inspection(
        pieces=list(tables.pieces_of(reading)),
        ids=reading.ids,
        separator=separator,
        names={i: names(i) for i in sorted(known)},
        surprisal=reading.surprisal,
        entropy=reading.entropy,
        rank=reading.rank,
        top=reading.top,
        top_p=reading.top_p,
        words=[(w.text.translate(tables.SPACES), w.first, w.last, w.surprisal) for w in words],
        layer_bits=lens.surprisal,
        layer_top=layer_top,
        layer_top_p=lens.top_p[..., :k],
        attention=_attention(loaded, reading, token, head[0] - 1, is_asked=is_asked),
        chosen=token,
        head=head,
        summary=tables.summary(reading, words),
        convention=tables.CONVENTION,
        facts={
            "model": pages.model_name(loaded.path),
            "gptlite": __version__,
            "tokenizer sha256": loaded.tokenizer.digest,
        },
    )


def _attention(loaded: Checkpoint, reading: Reading, token: int, layer: int, *, is_asked: bool) -> Attention:
    """The attention of as many tokens as the page has room for, in the window that the command line looks at."""
    from gptlite.evaluation import inspection
    from gptlite.report import inspection as report

    config = loaded.config
    L, H, K, C = config.n_layers, config.n_heads, config.n_kv_heads, config.head_dim
    context = min(config.context_length, math.isqrt(inspection.LARGEST_MAPS // (L * H)))
    window = inspection.window_of(reading, loaded.tokenizer, context, token if is_asked else None)
    first, ids = window
    room = min(len(ids), report.fitting(L, H, context))
    begin = max(0, min(token - first - room // 2, len(ids) - room))
    shown = slice(begin, begin + room)
    layers = report.step_layers(L, room * (H + 2 * K) * C, layer)
    found = inspection.project(loaded.model, window, layers, shown)
    weights = inspection.attend(loaded.model, window).weights[..., shown, shown]
    return report.Attention(
        first + begin, weights, found.layers, found.queries, found.keys, found.values, found.log_sums
    )

"""gptlite embed -o FILE.html: occurrences of a word as a page for a browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gptlite.cli.shared import pages
from gptlite.errors import LimitError

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.embedding.contextual import WordVector
    from gptlite.report.occurrences import Occurrences

FACTS = ("gptlite", "model_sha256", "tokenizer_sha256", "pool", "context")


def check(n: int) -> None:
    """Raises `UsageError` or `LimitError`, before any work, when a page of `n` occurrences cannot be made."""
    from gptlite.report import occurrences

    occurrences.check_libraries()
    if n > occurrences.MOST:
        raise LimitError(f"{n:,} occurrences are too many for a page of at most {occurrences.MOST}; give fewer texts.")


def collect(
    vectors: Sequence[WordVector],
    loaded: Checkpoint,
    statistics: Mapping[str, Any] | None,
    layer: int,
    correct: str,
    meta: Mapping[str, Any],
) -> Occurrences:
    """What the page of `vectors` shows."""
    import numpy as np

    from gptlite.embedding import similarity
    from gptlite.report import occurrences

    contextual = np.stack([v.contextual for v in vectors], axis=1)  # (L + 1, n, D)
    static = np.stack([v.static for v in vectors])
    name, _ = similarity.parse_correction(correct if statistics else "none", loaded.config.dim)
    scale: dict[str, Any] = dict.fromkeys(("unrelated", "same_word", "quantiles"))
    if statistics is not None:
        space = {key: statistics[key].numpy() for key in ("mean", "std", "components")}
        contextual = np.stack(
            [
                similarity.correct(vectors, correct, {key: value[i] for key, value in space.items()})
                for i, vectors in enumerate(contextual)
            ]
        )
        row = similarity.CORRECTIONS.index(name)
        kept = {"unrelated": "unrelated", "same_word": "same_word", "quantiles": "same_word_quantiles"}
        scale = {key: statistics[kept[key]][: len(contextual), row].numpy() for key in kept}
    places, shares = similarity.principal_axes(contextual)
    return occurrences.Occurrences(
        texts=[
            (text[: place.start], place.word, text[place.end :])
            for place, text in ((v.occurrence, v.occurrence.text) for v in vectors)
        ],
        n_left=[v.n_left for v in vectors],
        expected=[v.expected for v in vectors],
        places=places,
        shares=shares,
        cosines=np.stack([similarity.cosine_matrix(layer) for layer in contextual]),
        static_places=similarity.principal_axes(static)[0],
        static_cosines=similarity.cosine_matrix(static),
        **scale,
        layer=layer,
        correction={"none": "raw", "zscore": "z-scored", "center": "centred"}.get(name, correct),
        facts={
            "model": pages.model_name(loaded.path),
            **{key.replace("_", " "): str(meta[key]) for key in FACTS if meta.get(key)},
        },
    )

"""gptlite embed -o FILE.html: occurrences of a word as a page for a browser."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gptlite.cli.shared import pages
from gptlite.errors import LimitError

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.cli.embed.comparison import Comparison
    from gptlite.report.occurrences import Occurrences

FACTS = ("gptlite", "model_sha256", "tokenizer_sha256", "pool", "context")


def check(n: int) -> None:
    """Raises `UsageError` or `LimitError`, before any work, when a page of `n` occurrences cannot be made."""
    from gptlite.report import occurrences

    occurrences.check_libraries()
    if n > occurrences.MOST:
        raise LimitError(f"{n:,} occurrences are too many for a page of at most {occurrences.MOST}; give fewer texts.")


def collect(compared: Comparison, loaded: Checkpoint) -> Occurrences:
    """What the page of a comparison shows: its vectors in every layer, and what it says of them."""
    import numpy as np

    from gptlite.embedding import similarity
    from gptlite.report import occurrences
    from gptlite.text.words import same_form

    e, n_layers = compared.e, compared.n_layers
    layers = [dataclasses.replace(e, layers=(layer,)) for layer in range(n_layers + 1)]
    contextual = np.stack([of_layer.corrected(compared.correct) for of_layer in layers])  # (L + 1, n, D)
    scales = [of_layer.scale(compared.correct) for of_layer in layers]
    quantiles = [of_layer.quantiles(compared.correct) for of_layer in layers]
    kinds = list(scales[0] or ())
    places, shares = similarity.principal_axes(contextual)
    name, _ = similarity.parse_correction(compared.correct, loaded.config.dim)
    words = [v.occurrence.word for v in e.items]
    forms = list(range(len(e))) if e.unit == "sentence" else [same_form(word) for word in words]
    return occurrences.Occurrences(
        texts=[(v.occurrence.text[: v.occurrence.start], v.occurrence.word, v.occurrence.text[v.occurrence.end :])
               for v in e.items],
        n_left=[v.n_left for v in e.items],
        expected=[v.expected for v in e.items],
        places=places,
        shares=shares,
        cosines=np.stack([similarity.cosine_matrix(layer) for layer in contextual]),
        static_places=similarity.principal_axes(e.static)[0],
        static_cosines=similarity.cosine_matrix(e.static),
        scales={kind: np.array([scale[kind] for scale in scales if scale]) for kind in kinds},
        quantiles={kind: np.stack([spread[kind] for spread in quantiles if spread]) for kind in kinds},
        forms=_numbered(forms),
        tokens=_numbered([v.tokens for v in e.items]),
        prefixes=_prefixes(compared),
        unit="sentence" if e.unit == "sentence" else "word",
        layer=e.layers[-1],
        correction={"none": "raw", "zscore": "z-scored", "center": "centred"}.get(name, compared.correct),
        notes=compared.notes(),
        facts={
            "model": pages.model_name(loaded.path),
            **{key.replace("_", " "): str(e.meta[key]) for key in FACTS if e.meta.get(key)},
        },
    )  # fmt: skip


def _numbered(names: list) -> list[int]:  # type: ignore[type-arg]
    """Of each name the place at which it came first."""
    first: dict[object, int] = {}
    return [first.setdefault(name, i) for i, name in enumerate(names)]


def _prefixes(compared: Comparison) -> list[int]:
    """Of each occurrence the first one with the same text up to the word."""
    e = compared.e
    found: list[int] = []
    for i in range(len(e)):
        found.append(next((j for j in range(i) if found[j] == j and e.same_prefix(i, j)), i))
    return found

"""Vectors of words by one model: which layers, what is read before each text, and where the vectors are from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptlite.checkpoint.saved_step import Checkpoint, read_embedding_statistics
from gptlite.embedding.comparison import Embeddings
from gptlite.embedding.contextual import WordVector, embed, find_prefix, prefix_text, resolve_layers
from gptlite.embedding.vector_files import provenance
from gptlite.text.words import Occurrence


def statistics_of(loaded: Checkpoint) -> dict[str, np.ndarray] | None:
    """What `statistics.measure_statistics` found when the step was saved, as arrays; None for models made elsewhere."""
    found = read_embedding_statistics(loaded)
    return None if found is None else {name: tensor.numpy() for name, tensor in found.items()}


class Embedder:
    """A model and the choices that hold for all texts that it embeds.

    - `layer`, `pool`, `context`, `n_expected`: see `resolve_layers` and `contextual.embed`; `prefix`: `find_prefix`.
    - `keep`: which layers `WordVector.contextual` has: those "asked" for, also those "below" them, or "all".
    - `layers`: the numbers of the layers, rising. `meta`: where the vectors are from, for files.
    - `n_truncated`: words so far whose text to the left did not fit into the model's context.
    Raises `UsageError` for unknown choices.
    """

    def __init__(
        self,
        loaded: Checkpoint,
        statistics: Mapping[str, np.ndarray] | None,
        *,
        layer: str = "last",
        pool: str = "last",
        context: str = "left",
        prefix: str = "auto",
        n_expected: int = 0,
        keep: str = "asked",
    ) -> None:
        self.loaded, self.statistics = loaded, statistics
        self.pool, self.context, self.n_expected = pool, context, n_expected
        self.layers = resolve_layers(layer, loaded.config.n_layers)
        self.top = self.layers[-1] if keep == "below" else None
        self.kept = self.layers if keep == "asked" else None
        counts = None if statistics is None else statistics["token_counts"]
        self.prefix = find_prefix(loaded.tokenizer, prefix, counts)
        self.meta: dict[str, Any] = {
            "model": str(loaded.path),
            **provenance(loaded.manifest),
            "pool": pool,
            "context": context,
            "prefix": prefix_text(loaded.tokenizer, self.prefix),
        }
        self.n_truncated = 0

    def embed(self, places: Sequence[Occurrence]) -> list[WordVector]:
        """The vectors of words, in their order. `WordVector.at(self.layers)` is the one (D,) that was asked for."""
        vectors = embed(
            self.loaded.model, self.loaded.tokenizer, places,
            pool=self.pool, top=self.top, layers=self.kept,
            n_expected=self.n_expected, prefix=self.prefix, context=self.context,
        )  # fmt: skip
        self.n_truncated += sum(v.truncated for v in vectors)
        return vectors

    def compare(self, vectors: Sequence[WordVector], unit: str = "word") -> Embeddings:
        """The vectors side by side; `unit` is what they are vectors of, "word", "token" or "sentence"."""
        return Embeddings(vectors, self.layers, self.statistics, self.meta, unit)

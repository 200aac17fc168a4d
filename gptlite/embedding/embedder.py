"""Vectors of words by one model: which layers, what is read before each text, and where the vectors are from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gptlite.checkpoint import context_encoder, word_vectors
from gptlite.checkpoint.saved_step import Checkpoint, read_embedding_statistics
from gptlite.embedding.both_sides import ContextBags, join
from gptlite.embedding.comparison import Embeddings
from gptlite.embedding.context_encoder import ContextEncoder
from gptlite.embedding.contextual import BEFORE, CONTEXTS, WordVector, embed, find_prefix, prefix_text, resolve_layers
from gptlite.embedding.known_uses import KnownUses
from gptlite.embedding.vector_files import provenance
from gptlite.errors import CheckpointError, UsageError
from gptlite.storage.reader import Reader
from gptlite.text.words import Occurrence

BOTH = "both"  # sides of the word, as what a vector has read
AUTO = "auto"  # both sides where the step has what they take, else the left


def statistics_of(loaded: Checkpoint) -> dict[str, np.ndarray] | None:
    """What `statistics.measure_statistics` found when the step was saved, as arrays; None for models made elsewhere."""
    found = read_embedding_statistics(loaded)
    return None if found is None else {name: tensor.numpy() for name, tensor in found.items()}


class Embedder:
    """A model and the choices that hold for all texts that it embeds.

    - `layer`, `pool`, `context`, `n_expected`: see `resolve_layers` and `contextual.embed`; `prefix`: `find_prefix`.
      With the `context` "both", a vector is what `both_sides.join` makes of one layer, (2 D + 2 W,) in place of (D,),
      or (2 D + 6 W,) of a step that has a context encoder.
      "auto" is "both" where the step has word vectors and statistics, else "left"; `context` then says which.
    - `keep`: which layers `WordVector.contextual` has: those "asked" for, also those "below" them, or "all".
    - `layers`: the numbers of the layers, rising. `meta`: where the vectors are from, for files.
    - `n_truncated`: words so far whose text to the left did not fit into the model's context.
    Raises `UsageError` for unknown choices, and `CheckpointError` for both sides of a model without word vectors.
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
        if context not in (*CONTEXTS, BOTH, AUTO):
            raise UsageError(f"`context` must be one of {', '.join((*CONTEXTS, BOTH))}, not '{context}'.")
        self.loaded, self.statistics = loaded, statistics
        self.bags = self._read_bags(layer, keep, needed=context == BOTH) if context in (BOTH, AUTO) else None
        self.encoder = None if self.bags is None else self._read_encoder(self.bags.dim)
        self.pool, self.n_expected = pool, n_expected
        self.context = context if context != AUTO else "left" if self.bags is None else BOTH
        self.layers = resolve_layers(layer, loaded.config.n_layers)
        self.top = self.layers[-1] if keep == "below" else None
        self.kept = self.layers if keep == "asked" else None
        counts = None if statistics is None else statistics["token_counts"]
        self.prefix = find_prefix(loaded.tokenizer, prefix, counts)
        self.meta: dict[str, Any] = {
            "model": str(loaded.path),
            **provenance(loaded.manifest),
            "pool": pool,
            "context": self.context,
            "prefix": prefix_text(loaded.tokenizer, self.prefix),
        }
        self.n_truncated = 0
        if self.bags is not None:
            dim = loaded.config.dim
            self.meta["parts"] = {"state at the word": dim, "state that predicts it": dim}
            self.meta["parts"] |= dict.fromkeys(("words", "passage"), self.bags.dim)
            if self.encoder is not None:
                self.meta["parts"] |= {"context encoder": self.bags.dim, "known uses": 3 * self.bags.dim}

    def embed(self, places: Sequence[Occurrence]) -> list[WordVector]:
        """The vectors of words, in their order. `WordVector.at(self.layers)` is the one (D,) that was asked for."""
        vectors = self._states(places, self.pool, self.kept, self.n_expected)
        if self.bags is not None and vectors:
            vectors = self._join(vectors, places)
        self.n_truncated += sum(v.truncated for v in vectors)
        return vectors

    def compare(self, vectors: Sequence[WordVector], unit: str = "word") -> Embeddings:
        """The vectors side by side; `unit` is what they are vectors of, "word", "token" or "sentence"."""
        return Embeddings(vectors, self.layers, self.statistics, self.meta, unit)

    def _states(
        self, places: Sequence[Occurrence], pool: str, layers: Sequence[int] | None, n_expected: int = 0
    ) -> list[WordVector]:
        return embed(
            self.loaded.model, self.loaded.tokenizer, places,
            pool=pool, top=self.top, layers=layers, n_expected=n_expected, prefix=self.prefix,
            context="left" if self.bags is not None else self.context,
        )  # fmt: skip

    def _join(self, vectors: Sequence[WordVector], places: Sequence[Occurrence]) -> list[WordVector]:
        """The same words with vectors that know both sides: their states, those before them, and their bags."""
        assert self.bags is not None and self.statistics is not None
        (layer,) = self.layers
        space = {name: self.statistics[name][layer] for name in ("mean", "std")}
        top, bags = self.loaded.config.n_layers, self.bags.vectors(places)
        before = self._states(places, BEFORE, (layer,) if self.encoder is None or layer == top else (layer, top))
        at, predicting = (np.stack([v.at(layer) for v in some]) for some in (vectors, before))
        encoded = None
        if self.encoder is not None:
            of_top = np.stack([v.at(top) for v in before])
            words = self.bags.numbers(place.word for place in places)
            encoded = self.encoder.vectors(self.loaded.tokenizer, places, self.prefix, of_top, bags, words)
        joined = join(at, predicting, bags, space, encoded)
        return [replace(v, contextual=j[None], layers=self.layers) for v, j in zip(vectors, joined, strict=True)]

    def _read_encoder(self, bag_dim: int) -> ContextEncoder | None:
        """The context encoder of the step; None where it has none."""
        found = context_encoder.read(self.loaded, bag_dim)
        return None if found is None else ContextEncoder(*found[:2], KnownUses(found[2]))

    def _read_bags(self, layer: str, keep: str, *, needed: bool) -> ContextBags | None:
        """The bags of the step's word vectors; None where it has none, which is an error if they are `needed`."""
        if len(resolve_layers(layer, self.loaded.config.n_layers)) > 1 or keep == "all":
            raise UsageError(f"`context` both takes one layer, not `layer` {layer}.")
        with Reader(self.loaded.path, self.loaded.manifest) as reader:
            words = word_vectors.read(reader)
        if words is not None and self.statistics is not None:
            return ContextBags(words)
        if needed:
            raise CheckpointError(
                f"{self.loaded.path} has no static vectors of words, which `context` both needs; a model that this "
                "version trains has them. `context` left needs none."
            )
        return None

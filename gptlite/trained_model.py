"""A trained model from Python: `gptlite.load("run")`, and what can be asked of it.

    model = gptlite.load("checkpoints/corpus")
    e = model.embed(["She sat on the river [bank] .", "He paid money into the [bank] ."])
    e.cosine()       # (2, 2): how alike the two are in context
    e.percentile()   # (2, 2): and where that stands among pairs of one word in two places of the model's own text

Arrays are NumPy's, float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from gptlite import tracing
from gptlite.checkpoint.runs import read_model
from gptlite.checkpoint.saved_step import Checkpoint, read_embedding_statistics
from gptlite.checkpoint.saved_step import load as read_checkpoint
from gptlite.embedding.comparison import Embeddings
from gptlite.embedding.contextual import embed, find_prefix, prefix_text, resolve_layers, static_vector
from gptlite.errors import LimitError, UsageError
from gptlite.text.words import Occurrence, find_word, parse_marked


class TrainedModel(Checkpoint):
    """A model that was read from a directory: `path`, `config`, `model`, `tokenizer`, `manifest`; and its vectors."""

    @cached_property
    def statistics(self) -> dict[str, np.ndarray] | None:
        """What `calibration` measured when the step was saved, as arrays; None for models made elsewhere."""
        found = read_embedding_statistics(self)
        return None if found is None else {name: tensor.numpy() for name, tensor in found.items()}

    def find_prefix(self, wish: str = "auto") -> list[int]:
        """The ids that are read before each text: see `embedding.find_prefix`."""
        counts = None if self.statistics is None else self.statistics["token_counts"]
        return find_prefix(self.tokenizer, wish, counts)

    def embed(
        self,
        texts: Sequence[str] | Sequence[Occurrence],
        word: str | None = None,
        *,
        layer: str = "last",
        pool: str = "last",
        context: str = "left",
        prefix: str = "auto",
        n_expected: int = 0,
    ) -> Embeddings:
        """The vectors of n words: those in [brackets] in the texts, or every `word` in them; (n, D) in `.vectors`.

        - `layer`: "mid", "last", a number, "A-B" for the mean of several, or "all": then `.vectors` is their mean too,
          and `.items[i].contextual` (L + 1, D) has them apart.
        - `pool`, `context`, `n_expected`: see `embedding.embed`; `prefix`: see `embedding.find_prefix`.
        Raises `UsageError` when the texts have no such word, and for options that make no sense.
        """
        layers = resolve_layers(layer, self.config.n_layers)
        places: list[Occurrence] = []
        for i, text in enumerate(texts):
            if isinstance(text, Occurrence):
                places.append(text)
            else:
                places += parse_marked(text, i) if word is None else find_word(text, i, word)
        if not places:
            what = "word in brackets" if word is None else f"word '{word}'"
            raise UsageError(f"the texts have no {what}; mark one as in 'on the [bank] .', or name it with word=.")
        ids = self.find_prefix(prefix)
        items = embed(
            self.model, self.tokenizer, places,
            pool=pool, top=layers[-1], n_expected=n_expected, prefix=ids, context=context,
        )  # fmt: skip
        meta = {"pool": pool, "context": context, "prefix": prefix_text(self.tokenizer, ids)}
        return Embeddings(items, layers, self.statistics, {"model": str(self.path), **meta})

    def static(self, word: str) -> np.ndarray:
        """The static vector (D,) of a word, or of several."""
        return static_vector(self.model, self.tokenizer, word)

    def hidden(self, text: str, layer: str = "all", prefix: str = "auto") -> tuple[np.ndarray, list[tuple[int, int]]]:
        """The hidden states of all T tokens of a text, (layers, T, D), and the characters (start, end) of each token.

        "all" layers are L + 1; "A-B" and single ones as in `embed`, but never averaged. Raises `LimitError` for a text
        that does not fit into the model's context.
        """
        ids, spans = self.tokenizer.encode_with_spans(text)
        before = self.find_prefix(prefix)
        if not ids:
            raise UsageError("the text is empty.")
        if len(before) + len(ids) > self.config.context_length:
            raise LimitError(
                f"the text has {len(ids):,} tokens, and the model's context has room for "
                f"{self.config.context_length - len(before):,}; give a shorter one."
            )
        device = next(self.model.parameters()).device
        tokens = torch.tensor([[*before, *ids]], device=device)
        states = tracing.hidden(self.model, tokens, resolve_layers(layer, self.config.n_layers))
        return states[:, 0, len(before) :].float().cpu().numpy(), spans


def load(model: str | Path | None = None, device: torch.device | str = "cpu") -> TrainedModel:
    """The model of a run (its best step), of a step, or of a Hugging Face directory; None is the newest run.

    Raises `CheckpointError` that names the file and what is wrong with it, `LimitError` where memory does not suffice.
    """
    return read_model(model, lambda path: with_vectors(read_checkpoint(path, device)))


def with_vectors(loaded: Checkpoint) -> TrainedModel:
    """The same model; its statistics are read now, because a trainer may delete the step."""
    model = TrainedModel(loaded.path, loaded.config, loaded.model, loaded.tokenizer, loaded.manifest)
    _ = model.statistics
    return model

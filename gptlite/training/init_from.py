"""What a new run takes from another model: weights and tokenizer (fine-tuning), or the tokenizer alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from gptlite.checkpoint import runs
from gptlite.checkpoint.saved_step import Checkpoint, weights_digest
from gptlite.config import ModelConfig
from gptlite.errors import UsageError
from gptlite.model import GPT
from gptlite.text.pairs import PairFormat
from gptlite.text.tokenizer import Tokenizer
from gptlite.training.pair_data import with_boundaries


@dataclass(frozen=True)
class InitFrom:
    """The model to start from and the tokenizer to use, None where they are new; `facts` of both are for run.json."""

    model: Checkpoint | None = None
    tokenizer: Tokenizer | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> ModelConfig | None:
        """The shape of the model, with room for the boundary tokens that the tokenizer may have been given."""
        if self.model is None:
            return None
        n = self.tokenizer.vocab_size if self.tokenizer else 0
        return replace(self.model.config, vocab_size=max(self.model.config.vocab_size, n))

    def for_pairs(self, pairs: PairFormat | None) -> InitFrom:
        """The same, with a tokenizer for pairs, or for plain text."""
        return self if self.tokenizer is None else replace(self, tokenizer=with_boundaries(self.tokenizer, pairs))


def load_init_from(
    init_from: str | Path | None, tokenizer: str | Path | None, vocab_size: int | None = None
) -> InitFrom:
    """Read the model and the tokenizer that a new run starts with.

    - `init_from`, `tokenizer`: a run, a step or a Hugging Face directory, or None.
    Raises `UsageError` where they contradict each other or `vocab_size`, and `CheckpointError`.
    """
    if init_from is None and tokenizer is None:
        return InitFrom()
    if vocab_size is not None:
        name = "tokenizer" if init_from is None else "init_from"
        raise UsageError(f"`{name}` brings its own vocabulary; leave `vocab_size` out.")
    facts: dict[str, Any] = {}
    wanted: Tokenizer | None = None
    if tokenizer is not None:
        where, wanted = runs.load_tokenizer(tokenizer)
        facts["tokenizer_from"] = {"path": str(where.absolute()), "sha256": wanted.digest}
    if init_from is None:
        return InitFrom(None, wanted, facts)
    base = runs.load(init_from)
    if wanted is not None and not wanted.is_like(base.tokenizer):
        raise UsageError(
            f"the tokenizer of {tokenizer} is not that of the model of `init_from`: it has "
            f"{wanted.vocab_size:,} tokens and the model's {base.tokenizer.vocab_size:,}, or others; leave "
            "`tokenizer` out."
        )
    facts["init_from"] = {
        "path": str(base.path.absolute()),
        "architecture": base.config.architecture,
        "n_parameters": base.config.n_params,
        "sha256": weights_digest(base.path),
    }
    return InitFrom(base, base.tokenizer, facts)


@torch.no_grad()
def copy_weights(model: GPT, source: GPT) -> None:
    """Give `model` the weights of `source`, which may have a longer context; its further positions are left out.

    Tokens that are new get the mean of the vectors of all others.
    """
    state = source.state_dict()
    for name, tensor in model.state_dict().items():
        found = state[name]
        if name == "transformer.position.table":
            found = found[: len(tensor)]
        if name.endswith(("embed.weight", "head.weight")) and len(found) < len(tensor):
            found = torch.cat([found, found.mean(0, keepdim=True).expand(len(tensor) - len(found), -1)])
        tensor.copy_(found)

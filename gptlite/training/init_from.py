"""What a new run takes from another model: weights and tokenizer (fine-tuning), or the tokenizer alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gptlite.checkpoint import runs
from gptlite.checkpoint.saved_step import Checkpoint, weights_digest
from gptlite.config import ModelConfig
from gptlite.errors import UsageError
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class InitFrom:
    """The model to start from and the tokenizer to use, None where they are new; `facts` of both are for run.json."""

    model: Checkpoint | None = None
    tokenizer: Tokenizer | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> ModelConfig | None:
        return self.model.config if self.model else None


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
    """Give `model` the weights of `source`, which may have a longer context; its further positions are left out."""
    state = source.state_dict()
    for name, tensor in model.state_dict().items():
        tensor.copy_(state[name][: len(tensor)] if name == "transformer.position.table" else state[name])

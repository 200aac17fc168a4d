"""Recurrent language models: a plain RNN (Elman 1990), a GRU (Cho et al. 2014) and an LSTM (Hochreiter & Schmidhuber
1997), by `torch.nn`.

They read one token after another and keep of the past what fits into a state of fixed size. As for a `GPT`, ids (B, T)
go in and logits (B, T, V) come out, so the same training step and the same scores serve both.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gptlite.errors import UsageError

KINDS: dict[str, type[nn.RNN] | type[nn.GRU] | type[nn.LSTM]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
GATES = {"rnn": 1, "gru": 3, "lstm": 4}  # matrices for the input, and as many for the state
WIDTH_STEP = 8  # widths are multiples of it, which matrix products like

State = Any  # the state of `torch.nn`: (layers, B, dim), or of an LSTM a pair of them


@dataclass(frozen=True)
class RecurrentConfig:
    """A recurrent model: `kind` rnn, gru or lstm, all layers as wide as the embeddings. Raises `UsageError`."""

    kind: str
    vocab_size: int
    dim: int
    n_layers: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"unknown kind of recurrent model '{self.kind}': choose from {', '.join(KINDS)}.")
        for name in ("vocab_size", "dim", "n_layers"):
            if getattr(self, name) < 1:
                raise UsageError(f"`{name}` must be at least 1, not {getattr(self, name)}.")

    @classmethod
    def of_size(cls, kind: str, vocab_size: int, n_params: int, n_layers: int = 1) -> RecurrentConfig:
        """The model of this kind whose number of parameters is nearest to `n_params`."""
        dim = WIDTH_STEP
        while cls(kind, vocab_size, dim + WIDTH_STEP, n_layers).n_params <= n_params:
            dim += WIDTH_STEP
        nearest = (cls(kind, vocab_size, width, n_layers) for width in (dim, dim + WIDTH_STEP))
        return min(nearest, key=lambda config: abs(config.n_params - n_params))

    @property
    def n_params(self) -> int:
        """Number of trained parameters: embeddings and head, and the matrices and biases of the layers."""
        layer = GATES[self.kind] * (2 * self.dim * self.dim + 2 * self.dim)
        return 2 * self.vocab_size * self.dim + self.vocab_size + self.n_layers * layer

    @property
    def state_size(self) -> int:
        """Numbers that are kept of the past, however long it is."""
        return self.n_layers * self.dim * (2 if self.kind == "lstm" else 1)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class Recurrent(nn.Module):
    """Embeddings, recurrent layers and a head: token ids (B, T) to logits (B, T, V), the scores of each next token.

    - `dropout`: share of activations before and after the layers, and between them, silenced while training.
    """

    def __init__(self, config: RecurrentConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.dim)
        between = dropout if config.n_layers > 1 else 0.0
        self.layers = KINDS[config.kind](config.dim, config.dim, config.n_layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(config.dim, config.vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.read(tokens)[0]

    def read(self, tokens: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Logits (B, T, V), and the state after the last token, with which the next ones are read."""
        hidden, state = self.layers(self.dropout(self.embed(tokens)), state)  # (B, T, D)
        return self.head(self.dropout(hidden)), state


@torch.no_grad()
def initialise(model: Recurrent, seed: int) -> None:
    """Set all weights, as a function of `seed` alone, with the distributions of `torch.nn`.

        embeddings           normal, 1
        layers and head      uniform, +-1/sqrt(dim), biases too

    Orthogonal state matrices, an open forget gate and small embeddings took more bits after as many steps
    (docs/lab/log.md).
    """
    generator = torch.Generator().manual_seed(seed)
    bound = model.config.dim**-0.5
    for name, parameter in model.named_parameters():
        if name.startswith("embed"):
            parameter.normal_(0, 1, generator=generator)
        else:
            parameter.uniform_(-bound, bound, generator=generator)

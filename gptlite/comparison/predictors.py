"""A finished contender as a function: the bits of tokens in windows, and scores of the next token while writing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlite.baselines.kneser_ney import KneserNey
from gptlite.baselines.recurrent import Recurrent
from gptlite.comparison.networks import Network
from gptlite.device import Hardware
from gptlite.evaluation.scoring import LARGEST_LOGITS
from gptlite.kv_cache import KVCache
from gptlite.model import GPT


class Predictor(Protocol):
    """What is measured of every contender."""

    def bits(self, windows: np.ndarray) -> np.ndarray:
        """-log2 p (N, T) of all tokens but the first in windows of ids (N, T + 1), each read from its beginning."""
        ...

    def scores(self, ids: np.ndarray) -> np.ndarray:
        """Scores (N, V) of the token after each of N texts of ids (N, T), as logits."""
        ...

    def begin(self, ids: Sequence[int]) -> np.ndarray:
        """Scores (V,) of the token after `ids`, as logits; a text begins."""
        ...

    def append(self, token: int) -> np.ndarray:
        """Scores (V,) of the token after one more; the context has room for it."""
        ...

    def memory(self, n_tokens: int) -> int:
        """Numbers that are kept of `n_tokens` of the past while writing."""
        ...


class Counts:
    """A 5-gram, or with order 1 a unigram, as a predictor."""

    def __init__(self, train_ids: np.ndarray, vocab_size: int, order: int) -> None:
        self.model, self.order = KneserNey(train_ids, vocab_size, order), order
        self.context: list[int] = []

    def bits(self, windows: np.ndarray) -> np.ndarray:
        if not len(windows):
            return np.zeros((0, max(0, windows.shape[1] - 1)))
        return np.stack([-np.log2(self.model.probabilities(window)[1:]) for window in windows])

    def scores(self, ids: np.ndarray) -> np.ndarray:
        return np.log([self.model.distribution(row.tolist()) for row in ids])

    def begin(self, ids: Sequence[int]) -> np.ndarray:
        self.context = list(ids)
        return np.log(self.model.distribution(self.context))

    def append(self, token: int) -> np.ndarray:
        self.context = [*self.context[-self.order :], token]
        return np.log(self.model.distribution(self.context))

    def memory(self, n_tokens: int) -> int:
        return min(n_tokens, self.order - 1)


class NetworkPredictor:
    """A recurrent network with its state, or a Transformer with its key-value cache."""

    def __init__(self, network: Network) -> None:
        self.model: nn.Module = network.model
        self.hardware: Hardware = network.hardware.for_reading()
        self.vocab_size = network.config.vocab_size
        self.past: object = None

    @torch.no_grad()
    def bits(self, windows: np.ndarray) -> np.ndarray:
        self.model.eval()
        length = windows.shape[1] - 1
        rows = max(1, LARGEST_LOGITS // max(1, self.vocab_size * length))
        found = [self._bits(windows[first : first + rows]) for first in range(0, len(windows), rows)]
        return np.concatenate(found) if found else np.zeros((0, max(0, length)))

    def _bits(self, windows: np.ndarray) -> np.ndarray:
        ids = torch.from_numpy(windows.astype(np.int64)).to(self.hardware.device)
        with self.hardware.autocast():
            logits: Tensor = self.model(ids[:, :-1])
        nats = F.cross_entropy(logits.float().transpose(1, 2), ids[:, 1:], reduction="none")
        return nats.double().cpu().numpy() / math.log(2)

    @torch.no_grad()
    def scores(self, ids: np.ndarray) -> np.ndarray:
        self.model.eval()
        rows = max(1, LARGEST_LOGITS // max(1, self.vocab_size * ids.shape[1]))
        parts = torch.from_numpy(ids.astype(np.int64)).split(rows)
        found = [self.model(part.to(self.hardware.device))[:, -1].float().cpu() for part in parts]
        return torch.cat(found).double().numpy()

    def begin(self, ids: Sequence[int]) -> np.ndarray:
        self.model.eval()
        self.past = KVCache(self.model.config, 1, device=self.hardware.device) if isinstance(self.model, GPT) else None
        return self._read(ids)

    def append(self, token: int) -> np.ndarray:
        return self._read([token])

    @torch.no_grad()
    def _read(self, ids: Sequence[int]) -> np.ndarray:
        tokens = torch.tensor([list(ids)], device=self.hardware.device)
        if isinstance(self.model, Recurrent):
            logits, self.past = self.model.read(tokens, self.past)
        else:
            logits = self.model(tokens, self.past)
        return logits[0, -1].float().cpu().double().numpy()

    def memory(self, n_tokens: int) -> int:
        if isinstance(self.model, Recurrent):
            return self.model.config.state_size
        assert isinstance(self.model, GPT)
        config = self.model.config
        return 2 * config.n_layers * config.n_kv_heads * config.head_dim * min(n_tokens, config.context_length)

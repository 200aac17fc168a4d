"""The key-value cache: what attention has already computed for the tokens before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gptlite.config import ModelConfig


class KVCache:
    """Keys and values of all layers, allocated once for `max_length` positions.

    The backbone reads `position` (tokens already stored) before a forward pass and advances it after; each attention
    layer stores its new keys and values with `update` and attends over everything up to the new end.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        max_length: int | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.max_length = max_length or config.context_length
        self.position = 0
        shape = (config.n_layers, batch_size, config.n_kv_heads, self.max_length, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)  # (layers, B, K, S, C)
        self.values = torch.zeros(shape, device=device, dtype=dtype)  # (layers, B, K, S, C)

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (B, K, T, C) at the current position; return all keys and values so far (B, K, S, C)."""
        end = self.position + k.shape[2]
        assert end <= self.max_length, f"cache of {self.max_length} positions cannot hold {end}"
        self.keys[layer, :, :, self.position : end] = k
        self.values[layer, :, :, self.position : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, n_tokens: int) -> None:
        self.position += n_tokens

    def copy_rows(self, one: KVCache) -> None:
        """Give every row what the only row of `one` holds."""
        end = self.position = one.position
        self.keys[:, :, :, :end] = one.keys[:, :, :, :end]
        self.values[:, :, :, :end] = one.values[:, :, :, :end]

    def keep(self, rows: Sequence[int]) -> None:
        """Hold no more than these rows, which ascend, from now on numbered from 0."""
        for to, row in enumerate(rows):
            if to != row:
                self.keys[:, to, :, : self.position] = self.keys[:, row, :, : self.position]
                self.values[:, to, :, : self.position] = self.values[:, row, :, : self.position]
        self.keys, self.values = self.keys[:, : len(rows)], self.values[:, : len(rows)]

    def reset(self) -> None:
        """Forget everything; the memory stays."""
        self.position = 0

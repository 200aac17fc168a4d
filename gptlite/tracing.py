"""Watch a model from outside: hidden states by forward hooks, attention recomputed from its projections.

`forward` knows nothing of this, so what is watched is exactly what runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gptlite.model import GPT, Attention, causal_mask


@dataclass
class Trace:
    """What one forward pass looked like inside, layers numbered as in `transformers`.

    - `hidden[0]` (B, T, D) enters block 1, `hidden[i]` leaves block i, and the last one has passed the final norm.
    - `attention[i]` (B, H, T, T): how much each query (row) of block i + 1 takes from each key (column).
    """

    hidden: list[Tensor] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    logits: Tensor | None = None


@torch.no_grad()
def trace(model: GPT, tokens: Tensor, *, attention: bool = False, head: bool = True) -> Trace:
    """Run `model` on tokens (B, T) and return what passed through it. `head=False` leaves out the logits."""
    seen = Trace()
    hooks: list[torch.utils.hooks.RemovableHandle] = []

    def before_block(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.hidden.append(arguments[0])

    def before_attention(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(module, Attention)
        seen.attention.append(attention_weights(module, arguments[0], arguments[1]))  # type: ignore[arg-type]

    for block in model.transformer.blocks:
        hooks.append(block.register_forward_pre_hook(before_block))
        if attention:
            hooks.append(block.attn.register_forward_pre_hook(before_attention))  # type: ignore[union-attr]
    try:
        last = model.transformer(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    seen.hidden.append(last)
    seen.logits = model.head(last) if head else None
    return seen


def attention_weights(attention: Attention, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
    """softmax(q k^T / sqrt(C) + mask), (B, H, T, T): the weights that the fused attention never shows."""
    q, k, _ = attention.project(x, rotation)
    k = k.repeat_interleave(attention.n_heads // attention.n_kv_heads, dim=1)
    scores = q @ k.transpose(-2, -1) / math.sqrt(attention.head_dim)
    T = x.shape[1]
    return scores.masked_fill(~causal_mask(T, T, x.device), -torch.inf).softmax(dim=-1)

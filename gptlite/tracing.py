"""Watch a model from outside: hidden states by forward hooks, attention recomputed from its projections.

`forward` knows nothing of this, so what is watched is exactly what runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

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


class _Enough(Exception):
    """Raised below the first block that nobody asked for."""


@torch.inference_mode()
def hidden(model: GPT, tokens: Tensor, layers: Sequence[int], at: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """The hidden states of some `layers` of `model` for tokens (B, T): (len(layers), B, T, D), in the order asked.

    Layers are numbered as in `Trace.hidden`, from 0 to L. Blocks above the highest of them are not computed, nor is the
    head. `at`: rows and columns (n,) of the positions that are wanted, in place of all of them: (len(layers), n, D).
    """
    n_layers, top = model.config.n_layers, max(layers)
    seen: dict[int, Tensor] = {}

    def before_block(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def keep(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            seen[layer] = arguments[0] if at is None else arguments[0][at]
            if layer == top:
                raise _Enough

        return keep

    blocks = list(model.transformer.blocks)
    hooks = [blocks[i].register_forward_pre_hook(before_block(i)) for i in sorted({*layers} - {n_layers})]
    try:
        last = model.transformer(tokens)
        seen[n_layers] = last if at is None else last[at]
    except _Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([seen[layer] for layer in layers])


@torch.inference_mode()
def attention_inputs(
    model: GPT, tokens: Tensor, layer: int
) -> tuple[Attention, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """The attention of block `layer` (from 0), and what it is given for tokens (B, T).

    That is: the residual stream (B, T, D) that enters the block; the input of attention (B, T, D), which a pre-norm
    block has normalised; and the rotation of queries and keys.
    """
    block = model.transformer.blocks[layer]
    seen: list[Any] = []

    def before_block(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        seen.append(arguments[0])

    def before_attention(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        seen.extend((arguments[0], arguments[1]))
        raise _Enough

    hooks = [
        block.register_forward_pre_hook(before_block),
        block.attn.register_forward_pre_hook(before_attention),  # type: ignore[union-attr]
    ]
    try:
        model.transformer(tokens)
    except _Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    residual, x, rotation = seen
    return block.attn, residual, x, rotation  # type: ignore[return-value]


def attention_weights(attention: Attention, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
    """softmax(q k^T / sqrt(C) + mask), (B, H, T, T): the weights that the fused attention never shows."""
    q, k, _ = attention.project(x, rotation)
    k = k.repeat_interleave(attention.n_heads // attention.n_kv_heads, dim=1)
    scores = q @ k.transpose(-2, -1) / math.sqrt(attention.head_dim)
    T = x.shape[1]
    return scores.masked_fill(~causal_mask(T, T, x.device), -torch.inf).softmax(dim=-1)

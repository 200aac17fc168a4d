"""Watch a model from outside: what enters and leaves each block, and attention recomputed from its projections.

`forward` knows nothing of this. The same blocks are called one by one on the same tensors, so what is watched is bit
for bit what runs (a test compares them). Nothing is attached to the model, so any number of threads may watch one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from gptlite.model import GPT, Attention, Block, Rotation, causal_mask


@dataclass
class Trace:
    """What one forward pass looked like inside, layers numbered as in `transformers`.

    - `hidden[0]` (B, T, D) enters block 1, `hidden[i]` leaves block i, and the last one has passed the final norm.
    - `attention[i]` (B, H, T, T): how much each query (row) of block i + 1 takes from each key (column).
    - `logits` (B, T, V), or None where the head was left out.
    """

    hidden: list[Tensor] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    logits: Tensor | None = None


@torch.no_grad()
def trace(model: GPT, tokens: Tensor, *, attention: bool = False, head: bool = True) -> Trace:
    """Run `model` on tokens (B, T) and return what passed through it. `head=False` leaves out the logits."""
    seen = Trace()
    for block, x, rotation in _blocks(model, tokens):
        seen.hidden.append(x)
        if attention and block is not None:
            seen.attention.append(attention_weights(block.attn, _attention_input(block, x), rotation))
    seen.logits = model.head(seen.hidden[-1]) if head else None
    return seen


@torch.inference_mode()
def hidden(model: GPT, tokens: Tensor, layers: Sequence[int], at: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """The hidden states of some `layers` of `model` for tokens (B, T): (len(layers), B, T, D), in the order asked.

    Layers are numbered as in `Trace.hidden`, from 0 to L. Blocks above the highest of them are not computed, nor is the
    head. `at`: rows and columns (n,) of the positions that are wanted, in place of all of them: (len(layers), n, D).
    """
    seen: dict[int, Tensor] = {}
    for layer, (_, x, _) in enumerate(_blocks(model, tokens)):
        if layer in layers:
            seen[layer] = x if at is None else x[at]
        if layer == max(layers):
            break
    return torch.stack([seen[layer] for layer in layers])


@torch.inference_mode()
def attention_inputs(model: GPT, tokens: Tensor, layer: int) -> tuple[Attention, Tensor, Tensor, Rotation | None]:
    """The attention of block `layer` (from 0), and what it is given for tokens (B, T).

    That is: the residual stream (B, T, D) that enters the block; the input of attention (B, T, D), which a pre-norm
    block has normalised; and the rotation of queries and keys.
    """
    for number, (block, x, rotation) in enumerate(_blocks(model, tokens)):
        if number == layer and block is not None:
            return block.attn, x, _attention_input(block, x), rotation
    raise IndexError(f"the model has no block {layer}")


def _blocks(model: GPT, tokens: Tensor) -> Iterator[tuple[Block | None, Tensor, Rotation | None]]:
    """Each block with what enters it (B, T, D), computed when the next is asked for; at the end None, with what has
    passed the final norm."""
    transformer = model.transformer
    x, rotation, mask = transformer.start(tokens)
    for block in transformer.blocks:
        yield cast(Block, block), x, rotation
        x = block(x, rotation, None, mask)
    yield None, transformer.norm(x), rotation


def _attention_input(block: Block, x: Tensor) -> Tensor:
    return block.attn_norm(x) if block.pre_norm else x


def attention_weights(attention: Attention, x: Tensor, rotation: Rotation | None) -> Tensor:
    """softmax(q k^T / sqrt(C) + mask), (B, H, T, T): the weights that the fused attention never shows."""
    q, k, _ = attention.project(x, rotation)
    k = k.repeat_interleave(attention.n_heads // attention.n_kv_heads, dim=1)
    scores = q @ k.transpose(-2, -1) / math.sqrt(attention.head_dim)
    T = x.shape[1]
    return scores.masked_fill(~causal_mask(T, T, x.device), -torch.inf).softmax(dim=-1)

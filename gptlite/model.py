"""A decoder-only Transformer, read from top to bottom: Norm, Position, Attention, MLP, Block, Transformer, GPT.

One decoder serves four architectures; `ModelConfig` makes five choices when it is built and none while it runs:

    norm            RMSNorm (Zhang & Sennrich 2019) or LayerNorm (Ba et al. 2016)
    norm_position   before each sub-layer (GPT-2 and later) or after it (the paper of 2017)
    position        rotary (Su et al. 2021), learned (GPT-2) or sinusoidal (Vaswani et al. 2017)
    activation      SwiGLU (Shazeer 2020), GELU (GPT-2) or ReLU (2017)
    qk_norm, bias   normalised queries and keys (Henry et al. 2020; Qwen3), biases in the projections

Dimensions:  B batch · T tokens · S tokens seen by attention (S >= T with a cache) · D dim · H heads ·
K key-value heads · C head_dim · F hidden_dim · V vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlite.config import ModelConfig, RopeScaling
from gptlite.errors import LimitError
from gptlite.kv_cache import KVCache

Rotation = tuple[Tensor, Tensor]  # cosines and sines, each (T, C)


def make_norm(config: ModelConfig, dim: int) -> nn.RMSNorm | nn.LayerNorm:
    """The norm of this configuration over vectors of length `dim`."""
    if config.norm == "rmsnorm":
        return RMSNorm(dim, eps=config.norm_eps)
    return nn.LayerNorm(dim, eps=config.norm_eps)


class RMSNorm(nn.RMSNorm):
    """x / rms(x), times a weight for each component, in the weights' fp32.

    Autocast leaves queries and keys in bf16, for which with other weights torch has no kernel of one pass, and warns.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class Position(nn.Module):
    """Tells the model where a token stands; attention alone sees a bag of tokens.

    Sinusoidal and learned positions are vectors added to the embeddings, once, at the bottom. Rotary positions turn
    every query and key by an angle that grows with its position, so that their product depends on the distance only.
    """

    cos: Tensor
    sin: Tensor
    table: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.rotary = config.position == "rope"
        if self.rotary:
            cos, sin = rotary_tables(config.context_length, config.head_dim, config.rope_theta, config.rope_scaling)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        elif config.position == "learned":
            self.table = nn.Parameter(torch.empty(config.context_length, config.dim))
        else:
            self.register_buffer("table", sinusoids(config.context_length, config.dim))

    def add_to(self, x: Tensor, start: int) -> Tensor:
        """x (B, T, D) plus the vectors of positions start, start + 1, ... (unchanged for rotary positions)."""
        return x if self.rotary else x + self.table[start : start + x.shape[1]]

    def rotation(self, start: int, length: int) -> Rotation | None:
        """Cosines and sines (T, C) for queries and keys, or None where positions were added."""
        return (self.cos[start : start + length], self.sin[start : start + length]) if self.rotary else None


def rotary_tables(length: int, head_dim: int, theta: float, scaling: RopeScaling | None = None) -> Rotation:
    """cos and sin (length, head_dim) of position x frequency; frequencies fall from 1 to about 1/theta."""
    frequencies = rotary_frequencies(head_dim, theta, scaling)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)  # (length, C/2)
    angles = torch.cat((angles, angles), dim=-1)
    if scaling is not None:
        return angles.cos() * scaling.attention, angles.sin() * scaling.attention
    return angles.cos(), angles.sin()


def rotary_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> Tensor:
    """Radians per position of each plane, (C/2,)."""
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    return frequencies if scaling is None else slow_down(frequencies, theta, scaling)


def slow_down(frequencies: Tensor, theta: float, scaling: RopeScaling) -> Tensor:
    """Frequencies (C/2,) for a longer context: low ones `factor` times lower, high ones kept, and between them a ramp.

    Linear lowers all. The ramp of llama3 is one over frequencies, that of yarn over the numbers of the components.
    """
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind == "llama3":
        turns = frequencies * scaling.original_context / (2 * math.pi)
        kept = ((turns - scaling.slow) / (scaling.fast - scaling.slow)).clamp(0, 1)
    else:
        n = len(frequencies)
        first, last = (
            n * math.log(scaling.original_context / (turns * 2 * math.pi)) / math.log(theta)  # which turns so often
            for turns in (scaling.fast, scaling.slow)
        )
        first, last = max(math.floor(first), 0), min(math.ceil(last), 2 * n - 1)
        kept = 1 - ((torch.arange(n) - first) / ((last - first) or 0.001)).clamp(0, 1)
    return frequencies * kept + frequencies / scaling.factor * (1 - kept)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn x (B, H, T, C): component i and component i + C/2 are the two coordinates of one plane."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def sinusoids(length: int, dim: int) -> Tensor:
    """The table (length, dim) of "Attention Is All You Need", section 3.5: sines at even, cosines at odd components."""
    frequencies = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * (-math.log(10_000.0) / dim))
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)  # (length, D/2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


class Attention(nn.Module):
    """Causal self-attention: each token asks (query) and takes from earlier tokens (values) whose keys answer.

    softmax(q k^T / sqrt(C) + mask) v, in H heads side by side; the mask hides the future (Vaswani et al. 2017).
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.dim, q_dim, bias=config.bias)
        self.k_proj = nn.Linear(config.dim, kv_dim, bias=config.bias)
        self.v_proj = nn.Linear(config.dim, kv_dim, bias=config.bias)
        self.o_proj = nn.Linear(q_dim, config.dim, bias=config.bias)
        self.q_norm = make_norm(config, config.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = make_norm(config, config.head_dim) if config.qk_norm else nn.Identity()

    def project(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, C), keys and values (B, K, T, C) of x (B, T, D), normalised and rotated."""
        B, T, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(B, T, self.n_heads, self.head_dim)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(B, T, self.n_kv_heads, self.head_dim)).transpose(1, 2)
        v = self.v_proj(x).view(B, T, self.n_kv_heads, self.head_dim).transpose(1, 2)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return q, k, v

    def forward(
        self, x: Tensor, rotation: Rotation | None, cache: KVCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """x (B, T, D) to (B, T, D). `mask` (T, S) is needed only where several tokens follow those of a cache."""
        B, T, _ = x.shape
        q, k, v = self.project(x, rotation)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        out = F.scaled_dot_product_attention(
            q, k, v,
            attn_mask=mask,
            is_causal=k.shape[2] == T > 1,  # a single token sees everything before it and needs no mask
            enable_gqa=self.n_kv_heads < self.n_heads,  # each key-value head serves a group of query heads
        )  # fmt: skip
        return self.o_proj(out.transpose(1, 2).reshape(B, T, -1))


def causal_mask(T: int, S: int, device: torch.device | None = None) -> Tensor:
    """(T, S) booleans: may query t, which stands at position S - T + t, look at key s?"""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


class MLP(nn.Module):
    """The feed-forward layer, for each token by itself: expand, activate, project back.

    SwiGLU multiplies the expansion by a second, gated one: down(silu(gate(x)) * up(x)).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.activation
        if config.activation == "swiglu":
            self.gate_proj = nn.Linear(config.dim, config.hidden_dim, bias=config.bias)
        self.up_proj = nn.Linear(config.dim, config.hidden_dim, bias=config.bias)
        self.down_proj = nn.Linear(config.hidden_dim, config.dim, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.activation == "swiglu":
            hidden = F.silu(self.gate_proj(x)) * self.up_proj(x)
        elif self.activation == "gelu":
            hidden = F.gelu(self.up_proj(x), approximate="tanh")
        else:
            hidden = F.relu(self.up_proj(x))
        return self.down_proj(hidden)


class Block(nn.Module):
    """Attention, then feed-forward; each adds what it found to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int, dropout: float) -> None:
        super().__init__()
        self.pre_norm = config.norm_position == "pre"
        self.attn_norm = make_norm(config, config.dim)
        self.attn = Attention(config, layer)
        self.mlp_norm = make_norm(config, config.dim)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, rotation: Rotation | None, cache: KVCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        if self.pre_norm:
            x = x + self.dropout(self.attn(self.attn_norm(x), rotation, cache, mask))
            return x + self.dropout(self.mlp(self.mlp_norm(x)))
        x = self.attn_norm(x + self.dropout(self.attn(x, rotation, cache, mask)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class Transformer(nn.Module):
    """The backbone: token ids (B, T) to hidden states (B, T, D).

    Raises `LimitError` for more than `context_length` tokens, those in the cache included.
    """

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.dim)
        self.context_length = config.context_length
        self.embed_scale = math.sqrt(config.dim) if config.scale_embeddings else 1.0
        self.position = Position(config)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(config, layer, dropout) for layer in range(config.n_layers))
        self.norm = make_norm(config, config.dim) if config.norm_position == "pre" else nn.Identity()

    def start(self, tokens: Tensor, cache: KVCache | None = None) -> tuple[Tensor, Rotation | None, Tensor | None]:
        """What enters the first block: the residual stream (B, T, D), the rotation, and a mask if one is needed."""
        T = tokens.shape[1]
        start = cache.position if cache is not None else 0
        if start + T > self.context_length:
            raise LimitError(
                f"{start + T:,} tokens are more than the model's context of {self.context_length:,}; "
                "give it the last ones only."
            )
        x = self.embed(tokens)  # (B, T, D)
        if self.embed_scale != 1.0:
            x = x * self.embed_scale
        x = self.dropout(self.position.add_to(x, start))
        mask = causal_mask(T, start + T, x.device) if start and T > 1 else None
        return x, self.position.rotation(start, T), mask

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        x, rotation, mask = self.start(tokens, cache)
        for block in self.blocks:
            x = block(x, rotation, cache, mask)
        if cache is not None:
            cache.advance(tokens.shape[1])
        return self.norm(x)


class GPT(nn.Module):
    """Backbone and head: token ids (B, T) to logits (B, T, V), the scores of each next token.

    T, with the tokens in the cache, is at most `config.context_length`; `LimitError` says so otherwise.
    - `dropout`: share of activations silenced while training; nothing in `eval()` mode.
    """

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config, dropout)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.transformer.embed.weight

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        return self.head(self.transformer(tokens, cache))


@torch.no_grad()
def initialise(model: GPT, seed: int) -> None:
    """Set every weight from `seed`:

    embeddings, learned positions    normal, std 0.02 (so the first loss is near ln V)
    q, k, v, gate, up                normal, std 1 / sqrt(fan in)
    attention out, feed-forward out  zero: each block starts as the identity (Zhang et al. 2019, "Fixup")
    head                             tied to the embeddings, else zero
    norms                            one
    biases                           zero
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        kind = name.split(".")[-2]
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" in kind:
            parameter.fill_(1.0)
        elif kind in ("o_proj", "down_proj", "head"):
            parameter.zero_()
        else:
            std = 0.02 if kind in ("embed", "position") else parameter.shape[1] ** -0.5
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))


@torch.no_grad()
def set_vectors(model: GPT, embed: Tensor, head: Tensor) -> None:
    """Give embeddings and head, which must not be tied, the values of `embed` (V, D) and `head` (V, D)."""
    model.transformer.embed.weight.copy_(embed)
    model.head.weight.copy_(head)

"""The compiled decoder: the weights of a model laid out for decoding.c, and the calls of it.

All layers of a token are one call, with the weights in the order in which C reads them. A small model then decodes
about as fast as memory delivers its weights, and a row gets the same bits alone and in a batch of any size. With int8
the matrices are rounded to 8 bits, with a scale for each output: a quarter of the bytes, for 0.0001 bits per byte
(benchmarks/README.md). Everything else stays fp32. The structures are those of kernels/common.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gptlite.kernels.build import is_parallel
from gptlite.kernels.diagonal import blocks_of, count_blocks
from gptlite.kernels.header import COMMON
from gptlite.kv_cache import KVCache
from gptlite.model import GPT, Block

LANES = COMMON.constants["LANES"]  # outputs of a matrix that lie side by side
MOST_TOKENS = 48  # of one pass; more would save no more of the time for reading the weights
Norm, Linear, Layer, Model, Pass = (COMMON.structures[n] for n in ("norm", "linear", "layer", "model", "pass"))


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`weight` (R, K) as whole numbers (R, K) from -127 to 127, int32, and a scale (R,) for each row."""
    scale = weight.abs().amax(dim=1).clamp_min(1e-30) / 127
    return (weight / scale[:, None]).round().to(torch.int32), scale


class Packed:
    """The weights of a model in `eval()` mode as decoding.c reads them. Changes of the model do not reach them.

    The matrices lie in one stretch of memory, in the order of their use.
    """

    @torch.inference_mode()
    def __init__(self, model: GPT, library: ctypes.CDLL, dtype: str = "fp32") -> None:
        self.model, self.config, self.library, self.dtype = model, model.config, library, dtype
        self.kept: list[Tensor] = []  # which the structure points to
        sizes = [(m.out_features + LANES) * m.in_features * 4 for m in model.modules() if isinstance(m, nn.Linear)]
        self.memory, self.used = _map_memory(sum(sizes)), 0
        c, transformer = model.config, model.transformer
        position, pre = transformer.position, c.norm_position == "pre"
        self.layers: Any = (Layer * c.n_layers)()
        before: nn.Module = nn.Identity()
        for layer, block in zip(self.layers, transformer.blocks, strict=True):
            assert isinstance(block, Block)
            attn, mlp = block.attn, block.mlp
            layer.first = self._norm(block.attn_norm if pre else before)  # post-norm: the norm of the last sub-layer
            layer.qkv = self._linear([attn.q_proj, attn.k_proj, attn.v_proj])
            layer.query, layer.key = self._norm(attn.q_norm), self._norm(attn.k_norm)
            layer.out = self._linear([attn.o_proj])
            layer.second = self._norm(block.mlp_norm if pre else block.attn_norm)
            layer.up = self._linear(*([[mlp.gate_proj]] if c.activation == "swiglu" else []), [mlp.up_proj])
            layer.down = self._linear([mlp.down_proj])
            before = block.mlp_norm
        self.structure: Any = Model(
            dim=c.dim, n_layers=c.n_layers, n_heads=c.n_heads, n_kv_heads=c.n_kv_heads, head_dim=c.head_dim,
            hidden_dim=c.hidden_dim, vocab_size=c.vocab_size,
            activation=("swiglu", "gelu", "relu").index(c.activation), adds_to_norm=not pre,
            eps=c.norm_eps, embed_scale=transformer.embed_scale, embed=self._keep(transformer.embed.weight),
            position_table=None if position.rotary else self._keep(position.table),
            cos=self._keep(position.cos) if position.rotary else None,
            sin=self._keep(position.sin) if position.rotary else None,
            layers=ctypes.addressof(self.layers), last=self._norm(transformer.norm if pre else before),
            head=self._linear([model.head]),
        )  # fmt: skip

    def _keep(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self.kept.append(tensor.detach().contiguous())
        return self.kept[-1].data_ptr()

    def _norm(self, norm: nn.Module) -> Any:
        if isinstance(norm, nn.RMSNorm | nn.LayerNorm):
            return Norm(self._keep(norm.weight), self._keep(getattr(norm, "bias", None)))
        return Norm()

    def _linear(self, *groups: list[nn.Linear]) -> Any:
        """Matrices with the same input as one: those of a group one after the other, blocks of groups alternating.

        Of matrices that are zero outside of blocks on their diagonal, only these are kept.
        """
        linears = [linear for group in groups for linear in group]
        n_parts = min(count_blocks(linear.weight) for linear in linears)
        if any(linear.out_features % (n_parts * LANES) for linear in linears):
            n_parts = 1
        packed = [
            pack(
                _joined([block for linear in group for block in blocks_of(linear.weight, n_parts)]),
                None if group[0].bias is None else _joined([linear.bias for linear in group]),
                self.dtype,
            )
            for group in groups
        ]
        first = packed[0][0]
        shape = (len(first), len(groups), *first.shape[1:])
        n = math.prod(shape)
        target = torch.frombuffer(self.memory, dtype=first.dtype, count=n, offset=self.used).view(shape)
        self.used += -(-4 * n // 64) * 64
        for turn, (weight, _, _) in enumerate(packed):
            target[:, turn] = weight
        scale, bias = (
            None if parts[0] is None else torch.stack([part for part in parts if part is not None], dim=1)
            for parts in ([p[1] for p in packed], [p[2] for p in packed])
        )
        n_in = linears[0].in_features // n_parts
        starts = None
        if n_parts > 1:
            parts = [torch.arange(n_parts).repeat_interleave(m.out_features // n_parts // LANES) for m in groups[0]]
            starts = (n_in * torch.cat(parts)).int().repeat_interleave(len(groups))
        return Linear(
            n_in, len(first) * len(groups), target.data_ptr(), self._keep(scale), self._keep(bias), self._keep(starts)
        )


def pack(weight: Tensor, bias: Tensor | None, dtype: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """A matrix (R, K) as decoding.c reads it, in N = R / LANES blocks, the last one padded with zeros.

    fp32: (N, K, LANES). int8: words (N, K, 8) of four bytes, and the scales (N, LANES). The bias: (N, LANES).
    """
    columns = weight.shape[1]
    if more := -len(weight) % LANES:
        weight = functional.pad(weight, (0, 0, 0, more))
        bias = bias if bias is None else functional.pad(bias, (0, more))
    bias = bias if bias is None else bias.view(-1, LANES)
    if dtype == "fp32":
        return weight.view(-1, LANES, columns).transpose(1, 2), None, bias
    numbers, scale = quantise(weight)
    numbers = (numbers & 0xFF).view(-1, 4, 8, columns)
    words = numbers[:, 0] | numbers[:, 1] << 8 | numbers[:, 2] << 16 | numbers[:, 3] << 24
    # C leaves each byte at the top of its word, which multiplies it by 2^24.
    return words.transpose(1, 2), (scale * 2.0**-24).view(-1, LANES), bias


def _joined(pieces: list[Tensor]) -> Tensor:
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


def _map_memory(n_bytes: int) -> mmap.mmap:
    """Zeroed memory, in large pages where the system has some: a few per cent faster to read."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, max(1, n_bytes))
    memory = mmap.mmap(-1, max(1, n_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class CompiledDecoder:
    """A `decoding.Decoder` that calls decoding.c for all rows at once."""

    def __init__(self, packed: Packed, n_rows: int) -> None:
        self.packed, self.n_rows = packed, n_rows
        c, blocks = packed.config, packed.layers[0]
        self.cache = KVCache(c, n_rows)
        # No more threads than the smallest matrix has blocks: one more would only be waited for.
        threads = min(torch.get_num_threads(), blocks.out.n_blocks) if is_parallel(packed.library) else 1
        self.n_at_once = n = max(n_rows, MOST_TOKENS)
        dim, hidden = (-(-width // LANES) * LANES for width in (c.dim, c.hidden_dim))
        self.buffers = {
            "x": torch.zeros(n, dim), "qkv": torch.zeros(n, blocks.qkv.n_blocks * LANES),
            "mixed": torch.zeros(n, c.n_heads * c.head_dim), "gated": torch.zeros(n, blocks.up.n_blocks * LANES),
            "hidden": torch.zeros(n, hidden), "normed": torch.zeros(threads, n, dim),
            "scores": torch.zeros(threads, c.context_length + 8),
            **{name: torch.zeros(n, dtype=torch.int32) for name in ("ids", "rows", "positions", "wanted")},
        }  # fmt: skip
        self.call: Any = Pass(n_threads=threads, **{name: buffer.data_ptr() for name, buffer in self.buffers.items()})
        self.each_row = torch.arange(n_rows, dtype=torch.int32)  # its row in the cache
        self.stepping = False  # do `rows` and `wanted` hold the values for a step?

    @property
    def position(self) -> int:
        return self.cache.position

    def prefill(self, tokens: Tensor) -> Tensor:
        self.cache.reset()
        if self.n_rows > 1 and bool((tokens == tokens[:1]).all()):  # they share a prompt, which is read once
            one = KVCache(self.packed.config, 1, tokens.shape[1])
            logits = self._read(tokens[:1], one, torch.zeros_like(self.each_row[:1]))
            self.cache.copy_rows(one)
            return logits.repeat(self.n_rows, 1)
        return self._read(tokens, self.cache, self.each_row)

    def _read(self, tokens: Tensor, cache: KVCache, each_row: Tensor) -> Tensor:
        """Tokens (B, T) from the beginning of an empty cache on, in its rows (B,); the logits (B, V) after the last."""
        n_rows, length = tokens.shape
        rows = each_row.repeat_interleave(length)
        positions = torch.arange(length, dtype=torch.int32).repeat(n_rows)
        ids, logits = tokens.flatten(), []
        for start in range(0, n_rows * length, self.n_at_once):
            chunk = slice(start, start + self.n_at_once)
            last = (positions[chunk] == length - 1).nonzero()[:, 0]
            logits.append(self.read(ids[chunk], rows[chunk], positions[chunk], last, cache))
        cache.advance(length)
        return torch.cat(logits)

    def read(
        self, ids: Tensor, rows: Tensor, positions: Tensor, wanted: Tensor, cache: KVCache | None = None
    ) -> Tensor:
        """Read ids (N,) in one pass, each in a row of the cache (N,) at a position (N,) that follows what the row has.

        - N is at most `n_at_once`. `wanted` (W,): the numbers of the ids whose logits (W, V) are returned, ascending.
        Each row may be at another position, which whoever calls this keeps count of.
        """
        for name, values in (("ids", ids), ("rows", rows), ("positions", positions)):
            self.buffers[name][: len(ids)] = values
        self.buffers["wanted"][: len(wanted)] = wanted
        self.stepping = False
        logits = torch.empty(len(wanted), self.packed.structure.head.n_blocks * LANES)
        self._forward(len(ids), logits, self.cache if cache is None else cache)
        return logits[:, : self.packed.config.vocab_size]

    def step(self, tokens: Tensor) -> Tensor:
        n, buffers = self.n_rows, self.buffers
        if not self.stepping:
            buffers["rows"][:n], buffers["wanted"][:n] = self.each_row, torch.arange(n)
            self.stepping = True
        buffers["ids"][:n] = tokens
        buffers["positions"].fill_(self.cache.position)
        logits = torch.empty(n, self.packed.structure.head.n_blocks * LANES)
        self._forward(n, logits, self.cache)
        self.cache.advance(1)
        return logits[:, : self.packed.config.vocab_size]

    def keep(self, rows: Sequence[int]) -> None:
        self.each_row, self.n_rows, self.stepping = self.each_row[list(rows)], len(rows), False  # the cache stays

    def _forward(self, n: int, logits: Tensor, cache: KVCache) -> None:
        """One pass over the first `n` ids of the buffers."""
        call = self.call
        call.n, call.n_wanted, call.n_rows, call.length = n, len(logits), cache.keys.shape[1], cache.max_length
        call.keys, call.values, call.logits = cache.keys.data_ptr(), cache.values.data_ptr(), logits.data_ptr()
        if self.packed.library.forward(ctypes.byref(self.packed.structure), ctypes.byref(call)):
            raise IndexError(f"an id or its position is not below {self.packed.config.vocab_size} or {call.length}")

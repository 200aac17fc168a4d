"""Decoding: read a prompt, then one token after another, each row of a batch by itself.

Two decoders do the same. The eager one calls the model as it is, on any device. The compiled one, for CPUs, hands all
layers of a token to decoding.c, with the weights packed in the order in which it reads them: a small model then decodes
about as fast as memory delivers its weights, and a row gets the same bits alone and in a batch of any size. With int8
the matrices are rounded to 8 bits, with a scale for each output: a quarter of the bytes, for 0.0001 bits per byte
(benchmarks/README.md). All else stays fp32.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from gptlite.device import COMPILE, available_memory
from gptlite.errors import StorageError, UsageError
from gptlite.kernels.build import Kernel, NoKernel
from gptlite.kv_cache import KVCache
from gptlite.model import GPT, Block
from gptlite.paths import cache_directory

DTYPES = ("fp32", "int8")
LANES = 32  # outputs of a matrix that lie side by side; so in decoding.c
MOST_TOKENS = 48  # of one pass: more share no more of the time that reading the weights takes
# When the compiled decoder is not there yet: seconds that a compiler needs, seconds that a token then saves in each
# layer, and how many texts of this length may have to make up for it.
BUILD_SECONDS, SAVED_SECONDS, TEXTS = 1.0, 0.0007, 2


class Decoder(Protocol):
    """Rows of tokens that are read and go on. `position` counts the tokens that each row has read."""

    @property
    def position(self) -> int: ...

    def prefill(self, tokens: Tensor) -> Tensor:
        """Read tokens (B, T) from the beginning; the logits (B, V) of what comes next."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token of each row, tokens (B,); the logits (B, V) of what comes next."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with no more than these rows, which ascend, from now on numbered from 0."""
        ...


@dataclass(frozen=True)
class Decoding:
    """How a model decodes, and why."""

    model: GPT
    packed: Packed | None = None
    reason: str = ""

    def start(self, n_rows: int) -> Decoder:
        """A decoder for `n_rows` rows with nothing read yet."""
        if self.packed is not None:
            return CompiledDecoder(self.packed, n_rows)
        return EagerDecoder(self.model, n_rows)

    def describe(self) -> str:
        dtype = self.packed.dtype if self.packed else "fp32"
        return f"{dtype}, {'compiled' if self.packed else 'not compiled'}: {self.reason}"


def choose_decoding(model: GPT, n_steps: int, *, dtype: str = "fp32", compile: str = "auto") -> Decoding:
    """Decide how to write about `n_steps` tokens a row. `auto` compiles when a few such texts make up for the time.

    Raises `UsageError` for an unknown choice, and for int8 where the compiled decoder is ruled out.
    """
    for name, value, allowed in (("dtype", dtype, DTYPES), ("compile", compile, COMPILE)):
        if value not in allowed:
            raise UsageError(f"--{name} must be one of {', '.join(allowed)}, not '{value}'.")
    if compile == "off":
        if dtype == "int8":
            raise UsageError("--dtype int8 is for compiled decoding; leave out --compile off.")
        return Decoding(model, reason="as asked")
    try:
        library, reason = _open_kernel(model, n_steps if compile == "auto" and dtype == "fp32" else None)
        return Decoding(model, Packed(model, library, dtype), reason)
    except NoKernel as error:
        return Decoding(model, reason=str(error))


def _open_kernel(model: GPT, n_steps: int | None) -> tuple[ctypes.CDLL, str]:
    """The library, and since when it is there. It is compiled when `n_steps` are worth it, or unknown."""
    weight = model.head.weight
    if weight.device.type != "cpu":
        raise NoKernel(f"{weight.device.type} decodes as it is")
    n_bytes = 4 * model.config.n_params
    if n_bytes > (available_memory(weight.device) or n_bytes):
        raise NoKernel(f"memory does not hold its weights twice ({n_bytes / 1e9:.1f} GB)")
    try:
        kernel = Kernel("decoding", cache_directory() / "kernels")
    except StorageError as error:
        raise NoKernel("there is no folder to keep a compiled decoder in") from error
    if kernel.built:
        return kernel.load(), "ready since an earlier run"
    if n_steps is not None and TEXTS * n_steps * model.config.n_layers * SAVED_SECONDS < BUILD_SECONDS:
        raise NoKernel("so short a text is written sooner than a decoder is compiled")
    began = time.perf_counter()
    kernel.build()
    return kernel.load(), f"{time.perf_counter() - began:.1f} s for a compiler, once on this machine"


# -- As it is


class EagerDecoder:
    """The model, called for each token, with a cache of keys and values."""

    def __init__(self, model: GPT, n_rows: int) -> None:
        self.model, self.device = model, model.head.weight.device
        self.cache = KVCache(model.config, n_rows, device=self.device)

    @property
    def position(self) -> int:
        return self.cache.position

    @torch.inference_mode()
    def prefill(self, tokens: Tensor) -> Tensor:
        self.cache.reset()
        return self._read(tokens)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        return self._read(tokens[:, None])

    def keep(self, rows: Sequence[int]) -> None:
        self.cache.keep(rows)

    def _read(self, tokens: Tensor) -> Tensor:
        return self.model.head(self.model.transformer(tokens.to(self.device), self.cache)[:, -1])


# -- Compiled


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`weight` (R, K) as whole numbers (R, K) from -127 to 127, int32, and a scale (R,) for each row."""
    scale = weight.abs().amax(dim=1).clamp_min(1e-30) / 127
    return (weight / scale[:, None]).round().to(torch.int32), scale


class _Norm(ctypes.Structure):
    _fields_ = [("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p)]


class _Linear(ctypes.Structure):
    _fields_ = [
        ("n_in", ctypes.c_int64), ("n_blocks", ctypes.c_int64),
        ("weight", ctypes.c_void_p), ("scale", ctypes.c_void_p), ("bias", ctypes.c_void_p),
    ]  # fmt: skip


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _Norm) for name in ("first", "second", "query", "key")),
        *((name, _Linear) for name in ("qkv", "out", "up", "down")),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim")),
        *((name, ctypes.c_int64) for name in ("vocab_size", "activation", "adds_to_norm")),
        ("eps", ctypes.c_float), ("embed_scale", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("embed", "positions", "cos", "sin")),
        ("layers", ctypes.POINTER(_Layer)), ("last", _Norm), ("head", _Linear),
    ]  # fmt: skip


class _Pass(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n", "n_wanted", "n_threads")),
        *((name, ctypes.c_void_p) for name in ("ids", "rows", "places", "wanted")),
        *((name, ctypes.c_int64) for name in ("n_rows", "length")),
        *((name, ctypes.c_void_p) for name in ("keys", "values", "x", "qkv", "mixed", "gated", "hidden")),
        *((name, ctypes.c_void_p) for name in ("normed", "scores", "logits")),
    ]


class Packed:
    """The weights of a model in `eval()` mode as decoding.c reads them; the model must not change any more.

    The matrices lie in one stretch of memory, in the order of their use.
    """

    @torch.inference_mode()
    def __init__(self, model: GPT, library: ctypes.CDLL, dtype: str = "fp32") -> None:
        self.model, self.config, self.library, self.dtype = model, model.config, library, dtype
        self.kept: list[Tensor] = []  # what the structure points to
        sizes = [(m.out_features + LANES) * m.in_features * 4 for m in model.modules() if isinstance(m, nn.Linear)]
        self.memory, self.used = _map_memory(sum(sizes)), 0
        c, transformer = model.config, model.transformer
        position, pre = transformer.position, c.norm_position == "pre"
        self.layers = (_Layer * c.n_layers)()
        before: nn.Module = nn.Identity()
        for layer, block in zip(self.layers, transformer.blocks, strict=True):
            assert isinstance(block, Block)
            attn, mlp = block.attn, block.mlp
            layer.first = self._norm(block.attn_norm if pre else before)  # after a sub-layer is before the next one
            layer.qkv = self._linear([attn.q_proj, attn.k_proj, attn.v_proj])
            layer.query, layer.key = self._norm(attn.q_norm), self._norm(attn.k_norm)
            layer.out = self._linear([attn.o_proj])
            layer.second = self._norm(block.mlp_norm if pre else block.attn_norm)
            layer.up = self._linear(*([[mlp.gate_proj]] if c.activation == "swiglu" else []), [mlp.up_proj])
            layer.down = self._linear([mlp.down_proj])
            before = block.mlp_norm
        self.structure = _Model(
            dim=c.dim, n_layers=c.n_layers, n_heads=c.n_heads, n_kv_heads=c.n_kv_heads, head_dim=c.head_dim,
            hidden_dim=c.hidden_dim, vocab_size=c.vocab_size,
            activation=("swiglu", "gelu", "relu").index(c.activation), adds_to_norm=not pre,
            eps=c.norm_eps, embed_scale=transformer.embed_scale, embed=self._keep(transformer.embed.weight),
            positions=None if position.rotary else self._keep(position.table),
            cos=self._keep(position.cos) if position.rotary else None,
            sin=self._keep(position.sin) if position.rotary else None,
            layers=self.layers, last=self._norm(transformer.norm if pre else before), head=self._linear([model.head]),
        )  # fmt: skip

    def _keep(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self.kept.append(tensor.detach().contiguous())
        return self.kept[-1].data_ptr()

    def _norm(self, norm: nn.Module) -> _Norm:
        if isinstance(norm, nn.RMSNorm | nn.LayerNorm):
            return _Norm(self._keep(norm.weight), self._keep(getattr(norm, "bias", None)))
        return _Norm()

    def _linear(self, *groups: list[nn.Linear]) -> _Linear:
        """Matrices of the same input as one: those of a group one after the other, blocks of groups by turns."""
        packed = [
            pack(
                _joined([linear.weight for linear in group]),
                None if group[0].bias is None else _joined([linear.bias for linear in group]),
                self.dtype,
            )
            for group in groups
        ]
        first = packed[0][0]
        shape = (len(first), len(groups), *first.shape[1:])
        n = math.prod(shape)
        place = torch.frombuffer(self.memory, dtype=first.dtype, count=n, offset=self.used).view(shape)
        self.used += -(-4 * n // 64) * 64
        for turn, (weight, _, _) in enumerate(packed):
            place[:, turn] = weight
        scale, bias = (
            None if parts[0] is None else torch.stack([part for part in parts if part is not None], dim=1)
            for parts in ([p[1] for p in packed], [p[2] for p in packed])
        )
        n_in = groups[0][0].in_features
        return _Linear(n_in, len(first) * len(groups), place.data_ptr(), self._keep(scale), self._keep(bias))


def pack(weight: Tensor, bias: Tensor | None, dtype: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """A matrix (R, K) as decoding.c reads it, in N = R / LANES blocks, the last one filled up with zeros.

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
    # The bytes are multiplied where they stand, at the top of a word: 2^24 times too much.
    return words.transpose(1, 2), (scale * 2.0**-24).view(-1, LANES), bias


def _joined(pieces: list[Tensor]) -> Tensor:
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


def _map_memory(n_bytes: int) -> mmap.mmap:
    """Zeros, in large pages where the system has some: reading them in a row is quicker by a few per cent."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, max(1, n_bytes))
    memory = mmap.mmap(-1, max(1, n_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class CompiledDecoder:
    """decoding.c, called for all rows at once."""

    def __init__(self, packed: Packed, n_rows: int) -> None:
        self.packed, self.n_rows = packed, n_rows
        c, blocks = packed.config, packed.layers[0]
        self.cache = KVCache(c, n_rows)
        # A thread more than the smallest matrix has blocks would only be waited for.
        threads = min(torch.get_num_threads(), blocks.out.n_blocks)
        self.n_at_once = n = max(n_rows, MOST_TOKENS)
        dim, hidden = (-(-width // LANES) * LANES for width in (c.dim, c.hidden_dim))
        self.buffers = {
            "x": torch.zeros(n, dim), "qkv": torch.zeros(n, blocks.qkv.n_blocks * LANES),
            "mixed": torch.zeros(n, c.n_heads * c.head_dim), "gated": torch.zeros(n, blocks.up.n_blocks * LANES),
            "hidden": torch.zeros(n, hidden), "normed": torch.zeros(threads, n, dim),
            "scores": torch.zeros(threads, c.context_length + 8),
            **{name: torch.zeros(n, dtype=torch.int32) for name in ("ids", "rows", "places", "wanted")},
        }  # fmt: skip
        self.call = _Pass(n_threads=threads, **{name: buffer.data_ptr() for name, buffer in self.buffers.items()})
        self.each_row = torch.arange(n_rows, dtype=torch.int32)  # where the cache has it
        self.stepping = False  # are `rows` and `wanted` those of a step?

    @property
    def position(self) -> int:
        return self.cache.position

    def prefill(self, tokens: Tensor) -> Tensor:
        self.cache.reset()
        if self.n_rows > 1 and bool((tokens == tokens[:1]).all()):  # one prompt for all: it is read once
            one = KVCache(self.packed.config, 1, tokens.shape[1])
            logits = self._read(tokens[:1], one, torch.zeros_like(self.each_row[:1]))
            self.cache.copy_rows(one)
            return logits.repeat(self.n_rows, 1)
        return self._read(tokens, self.cache, self.each_row)

    def _read(self, tokens: Tensor, cache: KVCache, each_row: Tensor) -> Tensor:
        """Tokens (B, T) from the beginning of an empty cache on, in its rows (B,); the logits (B, V) after the last."""
        (n_rows, length), buffers = tokens.shape, self.buffers
        rows = each_row.repeat_interleave(length)
        places = torch.arange(length, dtype=torch.int32).repeat(n_rows)
        logits, done = torch.empty(n_rows, self.packed.structure.head.n_blocks * LANES), 0
        self.stepping = False
        for start in range(0, n_rows * length, self.n_at_once):
            chunk = slice(start, start + self.n_at_once)
            last = (places[chunk] == length - 1).nonzero()[:, 0]
            n = len(places[chunk])
            for name, values in (("ids", tokens.flatten()), ("rows", rows), ("places", places)):
                buffers[name][:n] = values[chunk]
            buffers["wanted"][: len(last)] = last
            self._forward(n, logits[done : done + len(last)], cache)
            done += len(last)
        cache.advance(length)
        return logits[:, : self.packed.config.vocab_size]

    def step(self, tokens: Tensor) -> Tensor:
        n, buffers = self.n_rows, self.buffers
        if not self.stepping:
            buffers["rows"][:n], buffers["wanted"][:n] = self.each_row, torch.arange(n)
            self.stepping = True
        buffers["ids"][:n] = tokens
        buffers["places"].fill_(self.cache.position)
        logits = torch.empty(n, self.packed.structure.head.n_blocks * LANES)
        self._forward(n, logits, self.cache)
        self.cache.advance(1)
        return logits[:, : self.packed.config.vocab_size]

    def keep(self, rows: Sequence[int]) -> None:
        self.each_row, self.n_rows, self.stepping = self.each_row[list(rows)], len(rows), False  # their cache stays

    def _forward(self, n: int, logits: Tensor, cache: KVCache) -> None:
        """One pass over the first `n` ids of the buffers."""
        call = self.call
        call.n, call.n_wanted, call.n_rows, call.length = n, len(logits), cache.keys.shape[1], cache.max_length
        call.keys, call.values, call.logits = cache.keys.data_ptr(), cache.values.data_ptr(), logits.data_ptr()
        if self.packed.library.forward(ctypes.byref(self.packed.structure), ctypes.byref(call)):
            raise IndexError(f"an id or its position is not below {self.packed.config.vocab_size} or {call.length}")

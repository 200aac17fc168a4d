"""Decoding: read a prompt, then one token after another, each row of a batch by itself.

Two decoders compute the same. `EagerDecoder` calls the model as it is, on any device. `packed.CompiledDecoder`, for
CPUs, computes all layers of a token in one call of machine code. `choose_decoding` decides between them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gptlite.device import COMPILE, available_memory
from gptlite.errors import StorageError, UsageError
from gptlite.generation.packed import CompiledDecoder, Packed
from gptlite.kernels.build import Kernel, NoKernel
from gptlite.kernels.folder import code_directory
from gptlite.kv_cache import KVCache
from gptlite.model import GPT

DTYPES = ("fp32", "int8")
# Where the compiled decoder is not there yet: seconds that compiling takes, seconds that a token then saves in each
# layer, and how many texts of this length may have to make up for it.
BUILD_SECONDS, SAVED_SECONDS, TEXTS = 1.0, 0.0007, 2


class Decoder(Protocol):
    """Rows of tokens. `position` counts the tokens that each row has read."""

    @property
    def position(self) -> int: ...

    def prefill(self, tokens: Tensor) -> Tensor:
        """Read tokens (B, T) from the beginning; the logits (B, V) of what comes next."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token of each row, tokens (B,); the logits (B, V) of what comes next."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, which are in ascending order; they are numbered from 0 afterwards."""
        ...


@dataclass(frozen=True)
class Decoding:
    """How a model decodes, and why."""

    model: GPT
    packed: Packed | None = None
    reason: str = ""

    def start(self, n_rows: int) -> Decoder:
        """A decoder for `n_rows` rows that have read nothing yet."""
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
            raise UsageError(f"`{name}` must be one of {', '.join(allowed)}, not '{value}'.")
    if compile == "off":
        if dtype == "int8":
            raise UsageError("`dtype` int8 needs compiled decoding, which `compile` off rules out.")
        return Decoding(model, reason="as asked")
    try:
        library, reason = _open_kernel(model, n_steps, is_asked=compile == "on" or dtype == "int8")
        return Decoding(model, Packed(model, library, dtype), reason)
    except NoKernel as error:
        return Decoding(model, reason=str(error))


def _open_kernel(model: GPT, n_steps: int, *, is_asked: bool) -> tuple[ctypes.CDLL, str]:
    """The library, and how it came to be there. It is compiled when that is asked for, or `n_steps` are worth it."""
    weight = model.head.weight
    if weight.device.type != "cpu":
        raise NoKernel(f"{weight.device.type} decodes as it is")
    if model.training:
        raise NoKernel("the model is in training mode")
    n_bytes = 4 * model.config.n_params
    if n_bytes > (available_memory(weight.device) or n_bytes):
        raise NoKernel(f"memory does not hold its weights twice ({n_bytes / 1e9:.1f} GB)")
    try:
        kernel = Kernel("decoding", code_directory("kernels"))
    except StorageError as error:
        raise NoKernel("there is no folder to keep a compiled decoder in") from error
    is_short = TEXTS * n_steps * model.config.n_layers * SAVED_SECONDS < BUILD_SECONDS
    if is_short and not (is_asked or kernel.built or kernel.damaged):
        raise NoKernel("so short a text is written sooner than a decoder is compiled")
    library, seconds = kernel.open(retry=is_asked)
    if kernel.notice:
        return library, f"{kernel.notice.removesuffix('.')} in {seconds:.1f} s"
    return library, f"{seconds:.1f} s for a compiler, once on this machine" if seconds else "ready since an earlier run"


class EagerDecoder:
    """The model, called for each token, with a cache of keys and values."""

    def __init__(self, model: GPT, n_rows: int) -> None:
        self.model, self.device = model, model.head.weight.device
        self.cache = KVCache(model.config, n_rows, device=self.device)

    @property
    def position(self) -> int:
        return self.cache.position

    def prefill(self, tokens: Tensor) -> Tensor:
        self.cache.reset()
        return self.read_on(tokens)

    def step(self, tokens: Tensor) -> Tensor:
        return self.read_on(tokens[:, None])

    def keep(self, rows: Sequence[int]) -> None:
        self.cache.keep(rows)

    @torch.inference_mode()
    def read_on(self, tokens: Tensor) -> Tensor:
        """Read tokens (B, T) that follow what the rows have read; the logits (B, V) of what comes next."""
        return self.model.head(self.model.transformer(tokens.to(self.device), self.cache)[:, -1])

"""The forward pass of models like qwen3 and llama on a CPU, for texts that are read and not learned.

As in fused.py, there are only the functions of fused.c between torch's matrix products; here nothing is kept for a
backward pass. The results are those of model.py up to rounding. A call computes on one thread; `Workers` divide texts.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from gptlite.errors import StorageError
from gptlite.kernels.build import Kernel, NoKernel
from gptlite.kernels.diagonal import DiagonalProducts
from gptlite.kernels.folder import code_directory
from gptlite.kernels.fused import Dropout, FusedLoss, Heads, can_read
from gptlite.model import GPT, Block

NOTHING_DROPPED = Dropout(0.0, 0, 0)


class Forward(FusedLoss):
    """Hidden states of one model in evaluation mode, and what its predictions say."""

    def __init__(self, model: GPT, *, build: bool = True, dtype: torch.dtype = torch.float32) -> None:
        """- `build`: compile the library where it is not in the cache.
        - `dtype`: of matrix products, fp32 or int8; see `FusedLoss`. Weights that change later are not seen.

        Raises `NoKernel` where there is none, or where this model's pass is not written out in it.
        """
        weight = model.transformer.embed.weight
        is_usual = can_read(model.config) and isinstance(model.head, nn.Linear)
        if not is_usual or weight.device.type != "cpu" or weight.dtype != torch.float32:
            raise NoKernel("the forward pass of this model is not written in C")
        try:
            kernel = Kernel("fused", code_directory("kernels"))
        except StorageError as error:
            raise NoKernel("there is no folder to keep machine code in") from error
        library = kernel.open()[0] if build or kernel.damaged else kernel.load()
        super().__init__(library, threads=1, dtype=dtype)
        if dtype == torch.float32:
            self.products = DiagonalProducts(self._call)
        self.model = model
        self.blocks = [block for block in model.transformer.blocks if isinstance(block, Block)]
        self.matrices = [self.prepare(block) for block in self.blocks]

    @torch.inference_mode()
    def states(self, tokens: Tensor) -> Tensor:
        """The final hidden states (B, T, D) of tokens (B, T), as `model.transformer` gives them."""
        config, body = self.model.config, self.model.transformer
        cos, sin = (table.data_ptr() for table in (body.position.cos, body.position.sin))
        heads = Heads(tokens.numel(), tokens.shape[1], config.n_heads, config.head_dim, cos, sin, config.norm_eps)
        drops = itertools.repeat(NOTHING_DROPPED)
        x, y = body.embed.weight[tokens.flatten()], None
        for block, matrices in zip(self.blocks, self.matrices, strict=True):
            kept, y = self._forward(block, heads, x, y, drops, matrices)
            x = kept.second.x
        return self._add(body.norm, x, y, NOTHING_DROPPED)[1].view(*tokens.shape, -1)

    @torch.inference_mode()
    def next_token(self, states: Tensor, targets: Tensor, sets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the model expects after states (N, D), in nats, fp64.

        - `targets` (N,): the tokens that follow; `sets` (M, V): 1 for the tokens of a set, else 0.
        Surprisal (N,) of the targets, entropy (N,), rank (N,) of the targets, and surprisal (N, M) of each set.
        """
        logits = states @ self.model.head.weight.T
        n, m = len(states), len(sets)
        surprisal, entropy, of_sets = (torch.empty(n, k, dtype=torch.float64) for k in (1, 1, m))
        rank = torch.empty(n, dtype=torch.long)
        self._call("next_token", *logits.shape, logits, targets, m, sets, surprisal, entropy, rank, of_sets)
        return surprisal[:, 0], entropy[:, 0], rank, of_sets

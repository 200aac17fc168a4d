"""The loss of a training step and its gradients, written out for models like qwen3 and llama on a CPU.

`optimizer.mean_loss` leaves it to autograd to go back through the operators of model.py, each of which is a pass over
memory. Here the same sums are written out, forward and then backward. Between torch's matrix products there are only
the functions of fused.c, which do as much as possible in one pass. Names as in model.py; `d` before a name is the
gradient of the loss with respect to it. N rows are the B x T tokens of all windows.

Each sub-layer reads the norm of the residual stream x and adds y to it, so a norm is computed together with the sum
before it.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gptlite.config import ModelConfig, TrainConfig
from gptlite.kernels.build import is_parallel
from gptlite.kernels.header import COMMON
from gptlite.kernels.products import FloatProducts, Int8Products, Products
from gptlite.kernels.workers import Workers
from gptlite.model import GPT, Attention, Block
from gptlite.text.batches import count_targets, read_batch

embed_backward = torch.ops.aten.embedding_dense_backward
MOST_THREADS = COMMON.constants["MOST_THREADS"]
Dropout, Heads = COMMON.structures["dropout"], COMMON.structures["heads"]
MOST_SHARES = COMMON.constants["MOST_SHARES"]
Gradients = dict[Tensor, Tensor]  # of each parameter


@dataclass
class Matrices:
    """Those of a block, as its products read them."""

    qkv: Any  # of queries, keys and values, (3 H C, D)
    out: Any  # (D, H C)
    gate_up: Any  # (2 F, D)
    down: Any  # (D, F)


class Teacher(Protocol):
    """The probabilities that a student learns beside the text.

    - `weight`: of the teacher in the loss, 0 to 1; the rest is that of the text.
    """

    @property
    def weight(self) -> float: ...

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Of the tokens at `positions` (N,) of the stream: the likeliest ids (N, K), K at most `MOST_SHARES`, and their
        probabilities (N, K)."""
        ...


def can_compute(model: ModelConfig, train: TrainConfig) -> bool:
    """Is the training step of this model written out here?"""
    return can_read(model) and not train.recompute and train.shard == "none"


def can_read(model: ModelConfig) -> bool:
    """Is the forward pass of this model written out here?"""
    return (
        (model.norm, model.norm_position, model.position, model.activation) == ("rmsnorm", "pre", "rope", "swiglu")
        and not model.bias
        and not model.scale_embeddings
        and model.n_kv_heads == model.n_heads
    )


@dataclass
class Sum:
    """The stream x (N, D) after something was added with `drop`, and 1 / rms(x) (N,)."""

    x: Tensor
    inverse: Tensor
    drop: ctypes.Structure  # Dropout


@dataclass
class Kept:
    """What the backward pass through a block needs of the forward pass."""

    matrices: Matrices
    first: Sum  # before attention
    inputs: tuple[Any, Any, Any, Any]  # of the four matrices, as their products keep them
    qkv: Tensor  # (N, 3 H C)
    q: Tensor  # (N, H C), normalised and rotated, as is k
    k: Tensor
    inverse: Tensor  # (2, N, H) of the norms of queries and keys
    log_sums: Tensor  # (B, H, T) of its softmax
    second: Sum  # before the feed-forward layer
    gate_up: Any  # (N, 2 F)


class FusedLoss:
    """`optimizer.mean_loss`, called in the same way: the same value and gradients up to rounding, its own dropout.

    In bf16, matrix products read and write bf16; the stream, its gradient, attention and all sums are fp32. In int8,
    matrix products round what they multiply (products.py), and everything between them is fp32. A batch is
    divided into as many parts as there are `workers`, each of which takes its windows through the whole model.
    """

    def __init__(
        self, library: ctypes.CDLL, threads: int, dtype: torch.dtype = torch.float32, workers: Workers | None = None
    ) -> None:
        """- `library`: fused.c (build.py), made for this `dtype`; without OpenMP it computes with one thread.
        - `threads`: of the functions in C, where there is one worker; of several, each has one thread.
        - `dtype`: of matrix products; int8 stands for those of the blocks, and the head then computes in fp32, because
          the many small probabilities in its gradient would be rounded to nothing.
        """
        self.workers = workers or Workers()
        several = self.workers.parts == 1 and is_parallel(library)
        self.threads = min(threads, MOST_THREADS) if several else 1
        self.library = library
        self.dtype = torch.float32 if dtype == torch.int8 else dtype
        self.head_products = FloatProducts(self._call, self.dtype)
        in_int8 = dtype == torch.int8
        self.products: Products = Int8Products(self._call, self.threads) if in_int8 else self.head_products
        self.teacher: Teacher | None = None

    def with_teacher(self, teacher: Teacher | None) -> FusedLoss:
        """The loss with the gradient of `optimizer.distilled_loss`; its windows are (B, 2, T + 1) as they are there."""
        other = copy.copy(self)
        other.teacher = teacher
        return other

    def __call__(self, model: GPT, batch: Tensor) -> Tensor:
        """The mean loss on windows (B, T + 1), in nats per token."""
        return GivenGradients.apply(self, model, batch, *model.parameters())  # type: ignore[no-any-return]

    def compute(self, model: GPT, batch: Tensor) -> tuple[float, list[Tensor]]:
        """The mean loss on windows (B, T + 1), and the gradient of each parameter in the order of `parameters()`."""
        parts = batch.tensor_split(min(self.workers.parts, len(batch)))
        rate = model.transformer.dropout.p if model.training else 0.0
        # Random numbers are drawn here, in the order of the parts, whichever thread computes them.
        drops = [[_dropout(rate) for _ in range(2 * model.config.n_layers + 2)] for _ in parts]
        blocks = [block for block in model.transformer.blocks if isinstance(block, Block)]
        matrices = self.workers.map(self.prepare, blocks)
        done = self.workers.map(lambda i: self._compute(model, parts[i], iter(drops[i]), matrices), range(len(parts)))
        return mean_of_parts(done, [count_targets(part) for part in parts], self.workers)

    def _compute(
        self, model: GPT, batch: Tensor, drops: Iterator[Any], matrices: list[Matrices]
    ) -> tuple[float, list[Tensor]]:
        """`compute` for one part.

        - `drops`: what each call of dropout leaves out, in the order of the forward pass.
        - `matrices`: of each block.
        """
        config, body = model.config, model.transformer
        windows = batch if self.teacher is None else batch[:, 0]
        ids, targets = (part.flatten().contiguous() for part in read_batch(windows))
        rows = None if bool((targets >= 0).all()) else (targets >= 0).nonzero()[:, 0]  # that are learned
        length = windows.shape[1] - 1
        cos, sin = (table.data_ptr() for table in (body.position.cos, body.position.sin))
        heads = Heads(len(ids), length, config.n_heads, config.head_dim, cos, sin, config.norm_eps)

        x, y = body.embed.weight[ids], None
        drop = next(drops)
        self._drop(x, drop)
        blocks: list[tuple[Block, Kept]] = []
        for block, prepared in zip(body.blocks, matrices, strict=True):
            assert isinstance(block, Block)
            kept, y = self._forward(block, heads, x, y, drops, prepared)
            blocks.append((block, kept))
            x = kept.second.x
        last, normed = self._add(body.norm, x, y, next(drops))
        head = self.head_products.prepare(model.head.weight)
        read = normed if rows is None else normed[rows]
        logits = self.head_products.forward(read, head)  # (N, V)
        wanted = targets if rows is None else targets[rows]
        if self.teacher is None:
            loss = self._call("cross_entropy", *logits.shape, logits, wanted)
        else:
            positions = batch[:, 1, 1:].flatten()
            top, shares = self.teacher.at(positions if rows is None else positions[rows])
            with_teacher = (top.shape[1], top, shares, self.teacher.weight)
            loss = self._call("distilled_cross_entropy", *logits.shape, logits, wanted, *with_teacher)
        dlogits = logits  # it has replaced them

        grads: Gradients = {model.head.weight: self.head_products.gradient(dlogits, read)}
        dx, dnormed = torch.zeros_like(x), self.head_products.backward(dlogits, head)
        if rows is not None:
            dnormed = torch.zeros_like(normed).index_copy_(0, rows, dnormed)
        dy = self._add_backward(body.norm, last, dnormed, dx, grads)
        for i in reversed(range(len(blocks))):
            dy = self._backward(*blocks.pop(), heads, dy, dx, grads, is_first=i == 0)
        self._drop(dx, drop)
        dembed = embed_backward(dx, ids, config.vocab_size, -1, False)
        embed = body.embed.weight
        grads[embed] = grads[embed] + dembed if embed in grads else dembed  # a tied head is the same matrix
        return loss, [grads[parameter] for parameter in model.parameters()]

    def _forward(
        self,
        block: Block,
        heads: Any,
        x: Tensor,
        y: Tensor | None,
        drops: Iterator[Any],
        matrices: Matrices,
    ) -> tuple[Kept, Tensor]:
        """Through a block: what the backward pass needs, and what is to be added to the stream after it."""
        products = self.products
        first, normed = self._add(block.attn_norm, x, y, next(drops))
        read = products.read(normed)
        qkv = products.floats(products.forward(read, matrices.qkv))
        q, k = qkv.new_empty(2, heads.n, heads.n_heads * heads.size)
        inverse = x.new_empty(2, heads.n, heads.n_heads)
        self._call("heads_forward", heads, *_head_norms(block.attn), qkv, q, k, inverse)
        mixed, log_sums = torch.empty_like(q), x.new_empty(heads.n, heads.n_heads)
        self._call("attention_forward", heads, q, k, qkv, mixed, log_sums, self._workspace(heads, x))
        mixed_read = products.read(mixed)
        y = products.floats(products.forward(mixed_read, matrices.out))
        second, normed = self._add(block.mlp_norm, first.x, y, next(drops))
        second_read = products.read(normed)
        gate_up = products.forward(second_read, matrices.gate_up)
        hidden = products.swiglu(gate_up)
        y = products.floats(products.forward(hidden, matrices.down))
        inputs = (read, mixed_read, second_read, hidden)
        return Kept(matrices, first, inputs, qkv, q, k, inverse, log_sums, second, gate_up), y

    def prepare(self, block: Block) -> Matrices:
        """The matrices of a block; those that read the same input, as one."""
        attn, mlp, prepare = block.attn, block.mlp, self.products.prepare
        return Matrices(
            prepare(attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight),
            prepare(attn.o_proj.weight),
            prepare(mlp.gate_proj.weight, mlp.up_proj.weight),
            prepare(mlp.down_proj.weight),
        )

    def _backward(
        self, block: Block, kept: Kept, heads: Any, dy: Tensor | None, dx: Tensor, grads: Gradients, is_first: bool
    ) -> Tensor | None:
        """Back through a block: from the gradient of what it added to that of what was added before it, None if nothing
        was. The gradient dx of the stream goes on in place."""
        attn, mlp, matrices, products = block.attn, block.mlp, kept.matrices, self.products
        read, mixed, second_read, hidden = kept.inputs
        assert dy is not None
        dy_read = products.read(dy)
        grads[mlp.down_proj.weight] = products.gradient(dy_read, hidden)
        dgate_up = products.swiglu_backward(kept.gate_up, products.backward(dy_read, matrices.down))
        dw = products.gradient(dgate_up, second_read).chunk(2)
        grads |= zip((mlp.gate_proj.weight, mlp.up_proj.weight), dw, strict=True)
        dnormed = products.floats(products.backward(dgate_up, matrices.gate_up))
        dy = self._add_backward(block.mlp_norm, kept.second, dnormed, dx, grads)
        assert dy is not None
        dy_read = products.read(dy)
        grads[attn.o_proj.weight] = products.gradient(dy_read, mixed)
        dmixed = products.floats(products.backward(dy_read, matrices.out))
        dq, dk, dv = dmixed.new_empty(3, *dmixed.shape)
        scores = (kept.q, kept.k, kept.qkv, kept.log_sums)
        self._call("attention_backward", heads, *scores, dmixed, dq, dk, dv, self._workspace(heads, dx))
        dqkv = torch.empty_like(kept.qkv)
        norms = [weight for weight in _head_norms(attn) if weight is not None]
        dnorms = [torch.empty_like(weight) for weight in norms]
        workspace = dx.new_empty(self.threads, 3, heads.size)
        self._call(
            "heads_backward", heads, *_head_norms(attn), kept.qkv, kept.inverse, dq, dk, dv, dqkv,
            *(dnorms or (None, None)), workspace,
        )  # fmt: skip
        for weight, dweight in zip(norms, dnorms, strict=True):
            grads[weight] = dweight
        dqkv_read = products.read(dqkv)
        dw = products.gradient(dqkv_read, read).chunk(3)
        grads |= zip((attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight), dw, strict=True)
        dnormed = products.floats(products.backward(dqkv_read, matrices.qkv))
        return self._add_backward(block.attn_norm, kept.first, dnormed, dx, grads, added=not is_first)

    def _add(self, norm: nn.Module, x: Tensor, y: Tensor | None, drop: Any) -> tuple[Sum, Tensor]:
        """x + y with dropout, where there is a y, and the norm of it (N, D)."""
        out, normed = x if y is None else torch.empty_like(x), torch.empty_like(x, dtype=self.dtype)
        done = Sum(out, x.new_empty(len(x)), drop)
        self._call("add_and_norm", *x.shape, done.drop, norm.eps, norm.weight, x, y, done.x, normed, done.inverse)
        return done, normed

    def _add_backward(
        self, norm: nn.Module, done: Sum, dnormed: Tensor, dx: Tensor, grads: Gradients, added: bool = True
    ) -> Tensor | None:
        """Back through a norm and the sum before it: adds to dx, and returns dy where something was `added`."""
        dy = None
        if added:
            dy = torch.empty_like(dnormed) if done.drop.rate or dnormed.dtype != dx.dtype else dx
        weight = norm.weight
        assert isinstance(weight, Tensor)
        dweight, workspace = torch.empty_like(weight), dx.new_empty(self.threads, 2, dx.shape[1])
        self._call(
            "norm_backward", *dx.shape, done.drop, weight, done.x, done.inverse, dnormed, dx,
            dy if dy is not dx else None, dweight, workspace,
        )  # fmt: skip
        grads[weight] = dweight
        return dy

    def _workspace(self, heads: Any, x: Tensor) -> Tensor:
        """Floats in which attention works."""
        return x.new_empty(self._call("attention_workspace_size", heads.length, heads.size))

    def _drop(self, x: Tensor, drop: Any) -> None:
        if drop.rate:
            self._call("drop", x.numel(), drop, x)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of fused.c; a tensor is passed as the address of its numbers, None as NULL."""
        return getattr(self.library, name)(self.threads, *map(_address, arguments))


def mean_of_parts(
    done: list[tuple[float, list[Tensor]]], sizes: list[int], workers: Workers
) -> tuple[float, list[Tensor]]:
    """The mean loss and gradients of a batch whose parts, of so many targets each, have those in `done`."""
    if len(done) == 1:
        return done[0]
    shares = [size / sum(sizes) for size in sizes]
    grads = done[0][1]

    def add_up(some: slice) -> None:
        torch._foreach_mul_(grads[some], shares[0])  # type: ignore[attr-defined]
        for (_, more), share in zip(done[1:], shares[1:], strict=True):
            torch._foreach_add_(grads[some], more[some], alpha=share)  # type: ignore[attr-defined]

    workers.map(add_up, [slice(i, None, workers.parts) for i in range(min(workers.parts, len(grads)))])
    return sum(loss * share for (loss, _), share in zip(done, shares, strict=True)), grads


class GivenGradients(torch.autograd.Function):
    """For autograd, a loss with a method `compute` is one operator, whose gradients are computed with it."""

    @staticmethod
    def forward(ctx: Any, loss: Any, model: GPT, batch: Tensor, *parameters: Tensor) -> Tensor:
        value, ctx.grads = loss.compute(model, batch)
        return torch.tensor(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (dloss,), grads, ctx.grads = grad_outputs, ctx.grads, None
        if dloss.item() != 1:
            for grad in grads:
                grad.mul_(dloss.item())
        return None, None, None, *grads


def _dropout(rate: float) -> Any:
    """Dropout with a key drawn from torch's random numbers, so that their seed determines it too."""
    if not rate:
        return Dropout(0.0, 0, 0)
    return Dropout(rate, *torch.randint(1 << 32, (2,)).tolist())


def _head_norms(attn: Attention) -> tuple[Tensor | None, Tensor | None]:
    """The weights (C,) of the norms of queries and keys, where there are norms."""
    return getattr(attn.q_norm, "weight", None), getattr(attn.k_norm, "weight", None)


def _address(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        assert argument.is_contiguous()
        return argument.data_ptr()
    return argument

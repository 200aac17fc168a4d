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
from gptlite.kernels.workers import Workers
from gptlite.model import GPT, Attention, Block
from gptlite.text.batches import count_targets, read_batch

embed_backward = torch.ops.aten.embedding_dense_backward
MOST_THREADS = COMMON.constants["MOST_THREADS"]
Dropout, Heads = COMMON.structures["dropout"], COMMON.structures["heads"]
MOST_SHARES = COMMON.constants["MOST_SHARES"]
Gradients = dict[Tensor, Tensor]  # of each parameter
Joined = tuple[Tensor, Tensor]  # w_qkv (3 H C, D) and w_gate_up (2 F, D) of a block


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
    """The stream x (N, D) after something was added with `drop`, its norm, and 1 / rms(x) (N,)."""

    x: Tensor
    normed: Tensor
    inverse: Tensor
    drop: ctypes.Structure  # Dropout


@dataclass
class Kept:
    """What the backward pass through a block needs of the forward pass."""

    first: Sum  # before attention
    w_qkv: Tensor  # (3 H C, D)
    qkv: Tensor  # (N, 3 H C)
    q: Tensor  # (N, H C), normalised and rotated, as is k
    k: Tensor
    inverse: Tensor  # (2, N, H) of the norms of queries and keys
    mixed: Tensor  # (N, H C) what attention took from the values
    log_sums: Tensor  # (B, H, T) of its softmax
    second: Sum  # before the feed-forward layer
    w_gate_up: Tensor  # (2 F, D)
    gate_up: Tensor  # (N, 2 F)
    hidden: Tensor  # (N, F)


class FusedLoss:
    """`optimizer.mean_loss`, called in the same way: the same value and gradients up to rounding, its own dropout.

    In bf16, matrix products read and write bf16; the stream, its gradient, attention and all sums are fp32. A batch is
    divided into as many parts as there are `workers`, each of which takes its windows through the whole model.
    """

    def __init__(
        self, library: ctypes.CDLL, threads: int, dtype: torch.dtype = torch.float32, workers: Workers | None = None
    ) -> None:
        """- `library`: fused.c (build.py), made for this `dtype`; without OpenMP it computes with one thread.
        - `threads`: of the functions in C, where there is one worker; of several, each has one thread.
        """
        self.workers = workers or Workers()
        several = self.workers.parts == 1 and is_parallel(library)
        self.threads = min(threads, MOST_THREADS) if several else 1
        self.library, self.dtype = library, dtype
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
        done = self.workers.map(lambda i: self._compute(model, parts[i], iter(drops[i])), range(len(parts)))
        return mean_of_parts(done, [count_targets(part) for part in parts], self.workers)

    def _compute(self, model: GPT, batch: Tensor, drops: Iterator[Any]) -> tuple[float, list[Tensor]]:
        """`compute` for one part. `drops`: what each call of dropout leaves out, in the order of the forward pass."""
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
        for block in body.blocks:
            assert isinstance(block, Block)
            kept, y = self._forward(block, heads, x, y, drops)
            blocks.append((block, kept))
            x = kept.second.x
        last = self._add(body.norm, x, y, next(drops))
        head = self._cast(model.head.weight)
        normed = last.normed if rows is None else last.normed[rows]
        logits = normed @ head.T  # (N, V)
        wanted = targets if rows is None else targets[rows]
        if self.teacher is None:
            loss = self._call("cross_entropy", *logits.shape, logits, wanted)
        else:
            positions = batch[:, 1, 1:].flatten()
            top, shares = self.teacher.at(positions if rows is None else positions[rows])
            with_teacher = (top.shape[1], top, shares, self.teacher.weight)
            loss = self._call("distilled_cross_entropy", *logits.shape, logits, wanted, *with_teacher)
        dlogits = logits  # it has replaced them

        grads: Gradients = {model.head.weight: (dlogits.T @ normed).float()}
        dx, dnormed = torch.zeros_like(x), dlogits @ head
        if rows is not None:
            dnormed = torch.zeros_like(last.normed).index_copy_(0, rows, dnormed)
        dy = self._add_backward(body.norm, last, dnormed, dx, grads)
        for i in reversed(range(len(blocks))):
            dy = self._backward(*blocks.pop(), heads, dy, dx, grads, is_first=i == 0)
        self._drop(dx, drop)
        dembed = embed_backward(dx, ids, config.vocab_size, -1, False)
        embed = body.embed.weight
        grads[embed] = grads[embed] + dembed if embed in grads else dembed  # a tied head is the same matrix
        return loss, [grads[parameter] for parameter in model.parameters()]

    def _forward(
        self, block: Block, heads: Any, x: Tensor, y: Tensor | None, drops: Iterator[Any], joined: Joined | None = None
    ) -> tuple[Kept, Tensor]:
        """Through a block: what the backward pass needs, and what is to be added to the stream after it.

        - `joined`: the block's matrices, for whoever has joined them before.
        """
        attn, mlp = block.attn, block.mlp
        w_qkv, w_gate_up = joined or self.join(block)
        first = self._add(block.attn_norm, x, y, next(drops))
        qkv = first.normed @ w_qkv.T
        q, k = qkv.new_empty(2, heads.n, heads.n_heads * heads.size)
        inverse = x.new_empty(2, heads.n, heads.n_heads)
        self._call("heads_forward", heads, *_head_norms(attn), qkv, q, k, inverse)
        mixed, log_sums = torch.empty_like(q), x.new_empty(heads.n, heads.n_heads)
        self._call("attention_forward", heads, q, k, qkv, mixed, log_sums, self._workspace(heads, x))
        second = self._add(block.mlp_norm, first.x, mixed @ self._cast(attn.o_proj.weight).T, next(drops))
        gate_up = second.normed @ w_gate_up.T
        hidden = gate_up.new_empty(heads.n, len(w_gate_up) // 2)
        self._call("swiglu_forward", *hidden.shape, gate_up, hidden)
        kept = Kept(first, w_qkv, qkv, q, k, inverse, mixed, log_sums, second, w_gate_up, gate_up, hidden)
        return kept, hidden @ self._cast(mlp.down_proj.weight).T

    def join(self, block: Block) -> Joined:
        """The matrices that read the same input, as one: those of queries, keys and values, and of gate and up."""
        attn, mlp = block.attn, block.mlp
        w_qkv = torch.cat((attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight))
        return self._cast(w_qkv), self._cast(torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)))

    def _backward(
        self, block: Block, kept: Kept, heads: Any, dy: Tensor | None, dx: Tensor, grads: Gradients, is_first: bool
    ) -> Tensor | None:
        """Back through a block: from the gradient of what it added to that of what was added before it, None if nothing
        was. The gradient dx of the stream goes on in place."""
        attn, mlp = block.attn, block.mlp
        assert dy is not None
        grads[mlp.down_proj.weight] = (dy.T @ kept.hidden).float()
        dhidden = dy @ self._cast(mlp.down_proj.weight)
        dgate_up = kept.gate_up  # replaces it
        self._call("swiglu_backward", *dhidden.shape, dgate_up, dhidden)
        dgate, dup = (dgate_up.T @ kept.second.normed).float().chunk(2)
        grads |= {mlp.gate_proj.weight: dgate, mlp.up_proj.weight: dup}
        dy = self._add_backward(block.mlp_norm, kept.second, dgate_up @ kept.w_gate_up, dx, grads)
        assert dy is not None
        grads[attn.o_proj.weight] = (dy.T @ kept.mixed).float()
        dmixed = dy @ self._cast(attn.o_proj.weight)
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
        dw_q, dw_k, dw_v = (dqkv.T @ kept.first.normed).float().chunk(3)
        grads |= {attn.q_proj.weight: dw_q, attn.k_proj.weight: dw_k, attn.v_proj.weight: dw_v}
        return self._add_backward(block.attn_norm, kept.first, dqkv @ kept.w_qkv, dx, grads, added=not is_first)

    def _add(self, norm: nn.Module, x: Tensor, y: Tensor | None, drop: Any) -> Sum:
        """x + y with dropout, where there is a y, and the norm of it."""
        out, normed = x if y is None else torch.empty_like(x), torch.empty_like(x, dtype=self.dtype)
        done = Sum(out, normed, x.new_empty(len(x)), drop)
        self._call("add_and_norm", *x.shape, done.drop, norm.eps, norm.weight, x, y, done.x, done.normed, done.inverse)
        return done

    def _add_backward(
        self, norm: nn.Module, done: Sum, dnormed: Tensor, dx: Tensor, grads: Gradients, added: bool = True
    ) -> Tensor | None:
        """Back through a norm and the sum before it: adds to dx, and returns dy where something was `added`."""
        dy = None
        if added:
            dy = torch.empty_like(done.normed) if done.drop.rate or done.normed.dtype != dx.dtype else dx
        weight = norm.weight
        assert isinstance(weight, Tensor)
        dweight, workspace = torch.empty_like(weight), dx.new_empty(self.threads, dx.shape[1])
        self._call(
            "norm_backward", *dx.shape, done.drop, weight, done.x, done.inverse, dnormed, dx,
            dy if dy is not dx else None, dweight, workspace,
        )  # fmt: skip
        grads[weight] = dweight
        return dy

    def _cast(self, weight: Tensor) -> Tensor:
        """A matrix as products read it."""
        return weight.detach().to(self.dtype)

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

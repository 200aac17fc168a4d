"""Several models in one: trained independently of each other, and saved as one that is as wide as all of them.

Models that have learned a small text from different beginnings err in different places, and the mean of their logits is
better than any of them (a deep ensemble, Lakshminarayanan et al. 2017). N decoders of width D are one decoder of width
N D whose matrices are zero outside of N blocks on the diagonal, so the mean needs no program of its own:

    embeddings, head         side by side
    matrices of the blocks   on the diagonal; each head belongs to one member
    final norm               divided by N, so that the head adds up to a mean

Two things are not independent. An RMSNorm divides by the root mean square of all N D numbers instead of D; those of
the members differ by some percent, because they read the same text, which costs 0.001 bits per byte (docs/lab/log.md).
And norms of queries and keys have one weight for all heads of a layer, so the members share them while they learn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gptlite.config import ModelConfig, TrainConfig
from gptlite.errors import UsageError
from gptlite.kernels.diagonal import blocks_of
from gptlite.model import GPT

WIDTHS = ("dim", "n_heads", "n_kv_heads", "hidden_dim")  # of a model, that grow with its members
SHARED = ("q_norm", "k_norm")
FINAL_NORM = "transformer.norm.weight"


def check_members(model: ModelConfig, train: TrainConfig, processes: int) -> None:
    """Raises `UsageError` where a model of this shape cannot have members, or not in this run."""
    if train.members == 1:
        return
    if train.batch_size % (parts := train.members * train.accumulate):
        raise UsageError(
            f"`batch_size` ({train.batch_size}) must be a multiple of {parts}, so that `members` share it equally."
        )
    if train.init == "model":
        raise UsageError("`members` are for new models; leave it out with `init_from`.")
    if train.context_encoder:
        raise UsageError("`context_encoder` is for a single model; leave it or `members` out.")
    if not can_have_members(model):
        raise UsageError(f"`members` are for qwen3 and llama, not for {model.architecture}; leave it out.")
    if processes > 1:
        raise UsageError("`members` are for training in one process; leave it out.")


def can_have_members(model: ModelConfig) -> bool:
    """Is a model of this shape the same as several that are side by side?"""
    return (model.norm, model.norm_position, model.position) == ("rmsnorm", "pre", "rope")


def repeated(member: ModelConfig, n: int) -> ModelConfig:
    """The shape of `n` models side by side: n times as wide."""
    return dataclasses.replace(member, **{name: n * getattr(member, name) for name in WIDTHS})


def of_one_member(model: ModelConfig, train: TrainConfig) -> tuple[ModelConfig, TrainConfig]:
    """The shape of each member, of which `model` is so many side by side, and how it is trained: with its share of each
    batch."""
    n = train.members
    if n == 1:
        return model, train
    member = dataclasses.replace(model, **{name: getattr(model, name) // n for name in WIDTHS})
    return member, dataclasses.replace(train, batch_size=train.batch_size // n, members=1)


class Ensemble(nn.Module):
    """The members of a model while it is trained: `n` models, each with its own weights.

    - `config`: the shape of a member. `dropout`: see `GPT`.
    """

    def __init__(self, config: ModelConfig, n: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(GPT(config, dropout) for _ in range(n))
        first = dict(self.members[0].named_modules())
        for member in list(self.members)[1:]:
            for name, module in member.named_modules():
                if name.split(".")[-1] in SHARED and hasattr(module, "weight"):
                    module.weight = first[name].weight

    def __iter__(self) -> Iterator[GPT]:
        return iter(self.members)  # type: ignore[arg-type]

    @torch.no_grad()
    def fill(self, model: GPT) -> None:
        """Give the one model the weights of the members, and zeros everywhere else."""
        for parameter in model.parameters():
            parameter.zero_()
        self.copy_to(model)

    @torch.no_grad()
    def copy_to(self, model: GPT) -> None:
        """`fill` for a model whose other weights are zeros already."""
        for weight, part, scale in self._pairs(model):
            part.copy_(weight)
            if scale != 1:
                part.div_(scale)

    @torch.no_grad()
    def copy_from(self, model: GPT) -> None:
        """Undo `copy_to`, to the last bit."""
        for weight, part, scale in self._pairs(model):
            weight.copy_(part)
            if scale != 1:
                weight.mul_(scale)

    def _pairs(self, model: GPT) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Each weight of a member, the part of the one model's that belongs to it, and how many times it is larger."""
        n, whole = len(self.members), dict(model.named_parameters())
        for i, member in enumerate(self):
            for name, weight in member.named_parameters():
                yield weight, _part(name, whole[name], i, n), n if name == FINAL_NORM else 1


def models_and_windows(model: nn.Module, batch: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """Of a batch, the windows that each member of an ensemble learns from; a model that is not one has all of them."""
    if isinstance(model, Ensemble):
        return list(zip(model, batch.tensor_split(len(model.members)), strict=True))
    return [(model, batch)]


def _part(name: str, weight: Tensor, i: int, n: int) -> Tensor:
    """The part of a weight of the one model that belongs to member `i` of `n`: a view."""
    if name.split(".")[-2] in SHARED:
        return weight
    if weight.ndim == 1:
        return weight.chunk(n)[i]
    if ".blocks." not in name:  # embeddings and head: a row for each token
        return weight.chunk(n, dim=1)[i]
    return blocks_of(weight, n)[i]

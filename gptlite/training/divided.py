"""`optimizer.mean_loss` with the windows of a batch divided among threads, for steps that are not written in C."""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gptlite.device import Hardware
from gptlite.kernels.fused import GivenGradients, Teacher, mean_of_parts
from gptlite.kernels.workers import Workers
from gptlite.text.batches import count_targets
from gptlite.training.optimizer import Loss, distilled_loss, mean_loss


def plain_loss(hardware: Hardware, workers: Workers) -> Loss:
    """The mean loss by autograd, divided where there are several workers."""
    return DividedLoss(hardware, workers) if workers.parts > 1 else mean_loss


class DividedLoss:
    """Each part of a batch goes forward and backward in one thread, by autograd.

    Dropout draws from a generator for each part, whose seed is drawn from torch's random numbers, so that the result
    does not depend on which thread comes first.
    """

    def __init__(self, hardware: Hardware, workers: Workers) -> None:
        self.hardware, self.workers = hardware, workers
        self.copies: WeakKeyDictionary[nn.Module, list[nn.Module]] = WeakKeyDictionary()  # with its weights, by model
        self.teacher: Teacher | None = None

    def with_teacher(self, teacher: Teacher) -> DividedLoss:
        """The same for `optimizer.distilled_loss`."""
        other = DividedLoss(self.hardware, self.workers)
        other.teacher = teacher
        return other

    def __call__(self, model: nn.Module, batch: Tensor) -> Tensor:
        """The mean loss on windows (B, T + 1), in nats per token."""
        return GivenGradients.apply(self, model, batch, *model.parameters())  # type: ignore[no-any-return]

    def compute(self, model: nn.Module, batch: Tensor) -> tuple[float, list[Tensor]]:
        """The mean loss on windows (B, T + 1), and the gradient of each parameter in the order of `parameters()`."""
        if model not in self.copies:
            self.copies[model] = [_copy(model) for _ in range(self.workers.parts)]
        copies = self.copies[model]
        parts = batch.tensor_split(min(self.workers.parts, len(batch)))
        for each in copies[: len(parts)]:
            if model.training and (dropout := _dropout_of(each)):
                dropout.generator.manual_seed(int(torch.randint(1 << 62, ())))
        for each in copies:
            each.train(model.training)
        done = self.workers.map(lambda i: self._compute(copies[i], parts[i]), range(len(parts)))
        return mean_of_parts(done, [count_targets(part) for part in parts], self.workers)

    def _compute(self, model: nn.Module, part: Tensor) -> tuple[float, list[Tensor]]:
        with torch.enable_grad():
            with self.hardware.autocast():
                loss = mean_loss(model, part) if self.teacher is None else distilled_loss(model, part, self.teacher)
            return loss.item(), list(torch.autograd.grad(loss, list(model.parameters())))


class _Dropout(nn.Dropout):
    """Dropout with random numbers of its own."""

    def __init__(self, rate: float, generator: torch.Generator) -> None:
        super().__init__(rate)
        self.generator = generator

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and self.p):
            return input
        kept = torch.empty_like(input).bernoulli_(1 - self.p, generator=self.generator)
        return input * kept.div_(1 - self.p)


def _dropout_of(model: nn.Module) -> _Dropout | None:
    """One of the dropouts that silence anything; all of a copy share its generator."""
    return next((module for module in model.modules() if isinstance(module, _Dropout) and module.p), None)


def _copy(model: nn.Module) -> nn.Module:
    """Modules of their own with the same parameters and buffers, whose dropouts share one generator."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied, generator = copy.deepcopy(model, shared), torch.Generator()
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Dropout):
                setattr(parent, name, _Dropout(child.p, generator))
    return copied

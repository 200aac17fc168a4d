"""From logits to the next id: temperature, top-k, top-p, min-p, and one random number a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gptlite.config import SamplingConfig
from gptlite.errors import CheckpointError
from gptlite.randomness import derive

Sampler = Callable[[Tensor], Tensor]


def make_sampler(config: SamplingConfig, seeds: Sequence[int]) -> Sampler:
    """A function from logits (B, V) to ids (B,); row i draws from its own generator, seeded with `seeds[i]`.

    A row's draws depend on its seed and its own logits only, never on its neighbours in the batch. The function
    raises `CheckpointError` for logits that are not numbers: some weight is not one.
    """
    generators = [torch.Generator().manual_seed(seed & ((1 << 63) - 1)) for seed in seeds]

    def sample(logits: Tensor) -> Tensor:
        if not logits.amax(dim=-1).isfinite().all():  # nor is the largest, if any is not a number
            raise CheckpointError(
                "the model's predictions are not numbers, so its weights are damaged; use another step of the run."
            )
        if config.temperature == 0:
            return logits.argmax(dim=-1)
        probabilities = distribution(logits.cpu(), config)
        draws = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generators])
        return _inverse_cdf(probabilities, draws).to(logits.device)

    return sample


def sample_seeds(seed: int, n: int) -> list[int]:
    """The seeds of samples 0 to n - 1 of a request with `seed`."""
    return [derive(seed, i) for i in range(n)]


def distribution(logits: Tensor, config: SamplingConfig) -> Tensor:
    """Probabilities (B, V), float64, that are drawn from: temperature first, then top-k, top-p and min-p in turn.

    top-k keeps the k likeliest and all that are as likely as the last of them; top-p the fewest whose probabilities
    reach p, of equals those with lower ids (Holtzman et al. 2020); min-p those at least p times as likely as the
    likeliest (Nguyen et al. 2024). The likeliest always stays.
    """
    logits = logits.double()
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        threshold = logits.topk(config.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    probabilities = logits.softmax(dim=-1)
    if config.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(dim=-1) - ordered
        drop = torch.zeros_like(probabilities, dtype=torch.bool).scatter(-1, order, before >= config.top_p)
        probabilities = probabilities.masked_fill(drop, 0.0)
    if config.min_p > 0:
        threshold = config.min_p * probabilities.amax(dim=-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < threshold, 0.0)
    return probabilities / probabilities.sum(dim=-1, keepdim=True)


def _inverse_cdf(probabilities: Tensor, draws: Tensor) -> Tensor:
    """The id at which the cumulative probability passes each draw from [0, 1)."""
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[..., -1:]
    # Rounding must never reach the total itself: behind it there are only ids that were dropped.
    targets = torch.minimum(draws.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, targets, right=True).squeeze(-1)

"""A word seen from every layer of a model: what its cosines are worth there, and what they are without any training."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gptlite.config import ModelConfig
from gptlite.embedding.senses import same_above_different
from gptlite.embedding.similarity import CORRECTIONS, correct, cosine_matrix
from gptlite.embedding.statistics import STATISTICS_TOKENS, measure_statistics
from gptlite.model import GPT, initialise
from gptlite.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Layer:
    """One layer; pairs of numbers are mean and standard deviation of cosines.

    - `unrelated` words, and the `same_word` in random places of the text that the model was measured on.
    - `separation`: how often a pair of the same word has the larger cosine of the two; 0.5 where a layer cannot tell.
    - `occurrences`: all pairs of the vectors in question; None for one alone.
    """

    number: int
    unrelated: tuple[float, float]
    same_word: tuple[float, float]
    separation: float
    occurrences: tuple[float, float] | None


def describe_layers(vectors: np.ndarray, statistics: dict[str, torch.Tensor], correction: str) -> list[Layer]:
    """Every layer of `vectors` (n, L + 1, D), with what `statistics.measure_statistics` found in the same model."""
    row = CORRECTIONS.index(correction.partition(":")[0])
    described: list[Layer] = []
    for number in range(vectors.shape[1]):
        space = {name: statistics[name][number].numpy() for name in ("mean", "std", "components")}
        cosines = cosine_matrix(correct(vectors[:, number], correction, space))
        pairs = cosines[np.triu_indices(len(cosines), 1)]
        quantiles = [statistics[f"{name}_quantiles"][number, row].numpy() for name in ("same_word", "unrelated")]
        described.append(
            Layer(
                number,
                _pair(statistics["unrelated"][number, row]),
                _pair(statistics["same_word"][number, row]),
                same_above_different(np.concatenate(quantiles), np.repeat([True, False], [len(q) for q in quantiles])),
                (float(pairs.mean()), float(pairs.std())) if len(pairs) else None,
            )
        )
    return described


def untrained_model(config: ModelConfig, seed: int = 0) -> GPT:
    """A model of this shape with random weights in every matrix, the ones that training starts at zero included.

    With those at zero no block does anything and a word has one vector everywhere; it is a fairer question what mixing
    by chance makes of a context.
    """
    model = GPT(config)
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std = parameter.shape[1] ** -0.5
                parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
    return model.eval()


def untrained_statistics(
    model: GPT, tokenizer: Tokenizer, words: Sequence[tuple[str, int]], texts: Sequence[str]
) -> dict[str, Any]:
    """`measure_statistics` of a model that was never given a text: of the words it would have seen, in random order.

    - `words` with their counts; where a model knows none, the words of `texts` stand for them.
    """
    words = words or [(word, 1) for text in texts for word in text.split()]
    rng = random.Random(0)
    drawn = rng.choices([word for word, _ in words], [count for _, count in words], k=STATISTICS_TOKENS)
    return measure_statistics(model, tokenizer, np.array(tokenizer.encode(" ".join(drawn)), dtype=np.int64))


def _pair(moments: torch.Tensor) -> tuple[float, float]:
    mean, std = moments.tolist()
    return mean, std

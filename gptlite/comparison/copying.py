"""A test on made-up text: a name is given, other words follow, and the name is asked for.

    on is NAME   word word word ...   is ? -> NAME

Names and words are tokens of a small vocabulary and drawn at random, so nothing but the place where it was given tells
which name is right: chance is one in `N_NAMES`. The distance is the number of tokens from the name to the answer. Each
architecture learns the task anew with a small model of its kind; all of them get the same seconds.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gptlite.comparison.contenders import DISTANCES, N_NAMES
from gptlite.config import ModelConfig, TrainConfig

N_WORDS = 30
GIVEN, ASKED = N_NAMES + N_WORDS, N_NAMES + N_WORDS + 1  # what stands before the name, and before the answer
VOCABULARY = N_NAMES + N_WORDS + 2
NEAREST, FARTHEST = 4, 220  # distances that are trained on; from near to far within each step's draw
LONGEST_LEAD = 8  # words before the name
BATCH, TESTED = 32, 200  # examples of a step; examples of each distance that are tested
SHAPE = {"n_layers": 2, "dim": 64, "n_heads": 2, "context_length": FARTHEST + LONGEST_LEAD + 4}
RATES = {"rnn": 1e-3, "gru": 4e-3, "lstm": 4e-3, "transformer-2017": 2e-3, "gptlite": 0.02}


def shape() -> tuple[ModelConfig, TrainConfig]:
    """The model and the training of gptlite's own choice for this task; the others have as many parameters."""
    model = ModelConfig.preset("qwen3", "tiny", VOCABULARY, **SHAPE)
    return model, TrainConfig(seconds=1.0, batch_size=BATCH, lr=RATES["gptlite"], init="random", warmup=0.05)


def examples(n: int, distance: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n, T) that end where the name is asked for, and the names (n,) that are right."""
    lead = int(rng.integers(0, LONGEST_LEAD + 1))
    ids = rng.integers(N_NAMES, N_NAMES + N_WORDS, (n, lead + distance + 1))
    names = rng.integers(0, N_NAMES, n)
    ids[:, lead], ids[:, lead + 1], ids[:, -1] = GIVEN, names, ASKED
    return ids, names


def batch(step: int, seed: int) -> Tensor:
    """The windows (B, T + 1) of a step: all tokens are read, and the answer alone is learned.

    All have one distance, drawn so that near and far are equally frequent on a logarithmic scale.
    """
    rng = np.random.default_rng([seed, step])
    distance = round(NEAREST * (FARTHEST / NEAREST) ** rng.random())
    ids, names = examples(BATCH, distance, rng)
    return torch.from_numpy(np.concatenate([~ids, names[:, None]], axis=1))


def tests(seed: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """For each of `DISTANCES` the examples that it is tested with, which no training sees but by chance."""
    return {d: examples(TESTED, d, np.random.default_rng([seed, d, 1 << 40])) for d in DISTANCES}

"""How fast networks train at different contexts: timed in turn in one process, so other programs slow all alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from gptlite.comparison.contenders import CONTEXTS, Contender
from gptlite.comparison.fit import Tell
from gptlite.comparison.networks import Network, Shape
from gptlite.device import Hardware

TOKENS_PER_STEP = 2048  # as many windows as there are in them: the work is the same at each context
ROUNDS = 3  # of which the fastest counts: other programs slow steps down


def measure(contenders: Sequence[Contender], shape: Shape, hardware: Hardware, tell: Tell) -> dict[str, Any]:
    """For each network a list of training tokens per second by context, and the operations one after the other.

    A recurrent layer has one for each token, because each needs the state that the one before left. Attention has one
    for all of them.
    """
    found: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in contenders}
    for i, context in enumerate(CONTEXTS):
        tell("timing", i / len(CONTEXTS))
        at = shape.with_context(context, TOKENS_PER_STEP)
        networks = [
            Network(contender, at, hardware, contender.start_rate or at.train.lr, 0) for contender in contenders
        ]
        generator = torch.Generator().manual_seed(0)
        size = (at.train.batch_size, context + 1)
        batch = torch.randint(at.model.vocab_size, size, generator=generator)
        times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
        for _ in range(1 + ROUNDS):  # the first step of each makes what later ones use again
            for network in networks:
                began = time.perf_counter()
                network.step(batch, 0.5, 0.0)
                times[network.contender.name].append(time.perf_counter() - began)
        for contender in contenders:
            found[contender.name].append(
                {
                    "context_length": context,
                    "tokens_per_second": round(at.train.batch_size * context / min(times[contender.name][1:])),
                    "n_sequential_operations": context if contender.kind == "recurrent" else 1,
                }
            )
    return found

"""The contender `masked`: what a model gains that reads both sides of a word, what it costs, and what it cannot do.

Both it and a causal twin of the same shape learn the text with pseudo-words (`embedding.pseudo_words`) for the same
time, each by the same optimizer and by plain autograd. Then vectors of the pseudo-words are scored.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptlite.baselines.masked import Masked, embed, guess, masked_loss
from gptlite.comparison.fit import Tell
from gptlite.comparison.networks import Shape
from gptlite.device import Hardware
from gptlite.embedding import contextual, pseudo_words
from gptlite.embedding.both_sides import ContextBags, join
from gptlite.embedding.similarity import correct
from gptlite.embedding.statistics import measure_statistics
from gptlite.embedding.word_vectors import make_word_vectors
from gptlite.errors import NumericsError
from gptlite.model import GPT, initialise
from gptlite.text.tokenizer import Tokenizer
from gptlite.training import optimizer, pauses

MOST_WORDS, FEWEST_WORDS = 40, 5  # pseudo-words
MOST_USES = 20  # of each sense
GUESSED_WINDOWS = 64  # of held-out text, for the share of hidden tokens that are guessed
FILLED = 40  # tokens of what it writes


@dataclass(frozen=True)
class Budget:
    """How long a model is trained: for `seconds`, or where given for a number of `steps`."""

    seconds: float
    steps: int | None = None

    def progress(self, seconds: float, steps: int) -> float:
        return min(1.0, steps / self.steps if self.steps else seconds / self.seconds)


@dataclass(frozen=True)
class Trained:
    model: GPT
    seconds: float
    steps: int


def measure(
    train: str, val: str, tokenizer: Tokenizer, shape: Shape, hardware: Hardware, budget: Budget, seed: int, tell: Tell,
    prompt: str = "",
) -> tuple[dict[str, Any], Masked]:  # fmt: skip
    """Train both on `train`, score them on `val`: what the result of `masked` says, and the masked model.

    `senses` is None where too few words are frequent enough, and both then learn the text as it is.
    """
    n_words = min(MOST_WORDS, len(pseudo_words.usable_words(train, val)) // 2)
    senses = pseudo_words.choose_senses(train, val, n_words, random.Random(seed)) if n_words >= FEWEST_WORDS else {}
    ids, val_ids = (
        np.array([tokenizer.separator_id, *tokenizer.encode(pseudo_words.merge_words(text, senses))])
        for text in (train, val)
    )
    machine = dataclasses.replace(hardware, open=(), compile=False)
    generator = torch.Generator().manual_seed(seed)
    causal = _train(GPT(shape.model, shape.train.dropout), ids, shape, machine, budget, seed,
                    optimizer.mean_loss, _named(tell, "causal twin"))  # fmt: skip
    both = _train(Masked(shape.model, shape.train.dropout), ids, shape, machine, budget, seed,
                  lambda model, batch: masked_loss(_masked(model), batch[:, :-1], generator),
                  _named(tell, "training"))  # fmt: skip
    tell("measuring", 0.0)
    model = _masked(both.model)
    opening = [tokenizer.separator_id, *tokenizer.encode(prompt)]
    result: dict[str, Any] = {
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(both.seconds, 3),
        "n_steps": both.steps,
        "causal_seconds": round(causal.seconds, 3),
        "n_causal_steps": causal.steps,
        "n_tokens_seen": both.steps * shape.train.batch_size * shape.model.context_length,
        "guessed": _guessed(model, val_ids, shape),
        "sample": tokenizer.decode(model.fill(opening, FILLED)),
        "senses": None,
    }
    if senses:
        uses = pseudo_words.occurrences(val, senses, MOST_USES)
        result["senses"] = _senses(causal.model, model, tokenizer, ids, val_ids, uses)
    return result, model


def _masked(model: Any) -> Masked:
    assert isinstance(model, Masked)
    return model


def _named(tell: Tell, phase: str) -> Callable[[float], None]:
    return lambda fraction: tell(phase, fraction)


def _train(
    model: GPT, ids: np.ndarray, shape: Shape, hardware: Hardware, budget: Budget, seed: int,
    loss_of: Callable[[GPT, Tensor], Tensor], tell: Callable[[float], None],
) -> Trained:  # fmt: skip
    """Windows drawn by chance from `ids` (N,), the same ones for both models, until the budget is used up."""
    initialise(model, seed)
    model.to(hardware.device).train()
    train, context = shape.train, min(shape.model.context_length, len(ids) - 1)
    optimizers, rng = optimizer.make_optimizers(model, train), np.random.default_rng(seed)
    torch.manual_seed(seed)
    seconds, steps, last = 0.0, 0, 0.0
    while (progress := budget.progress(seconds, steps)) < 1:
        tell(progress)
        began = pauses.now()
        starts = rng.integers(0, len(ids) - context, train.batch_size)
        batch = torch.from_numpy(ids[starts[:, None] + np.arange(context + 1)].astype(np.int64))
        share = 1 / budget.steps if budget.steps else last / budget.seconds
        optimizer.set_learning_rate(optimizers, optimizer.learning_rate(progress, train, share))
        loss, norm = optimizer.training_step(model, optimizers, batch, hardware, train.clip, loss_of)
        if not np.isfinite(loss + norm):
            raise NumericsError("the model that reads both sides diverged: its loss is no number; try another `seed`.")
        last = max(1e-6, pauses.now() - began)
        seconds, steps = seconds + last, steps + 1
    return Trained(model.eval(), seconds, steps)


@torch.no_grad()
def _guessed(model: Masked, val_ids: np.ndarray, shape: Shape) -> float:
    """The share of hidden tokens of held-out text that the likeliest guess is right about."""
    context = min(shape.model.context_length, len(val_ids))
    starts = np.linspace(0, len(val_ids) - context, GUESSED_WINDOWS).astype(int)
    windows = torch.from_numpy(val_ids[starts[:, None] + np.arange(context)].astype(np.int64))
    generator, right, n = torch.Generator().manual_seed(0), 0, 0
    for part in windows.split(8):
        logits, targets = guess(model, part.to(model.head.weight.device), generator)
        right, n = right + int((logits.argmax(-1) == targets).sum()), n + len(targets)
    return right / n


def _senses(
    causal: GPT, both: Masked, tokenizer: Tokenizer, ids: np.ndarray, val_ids: np.ndarray, uses: tuple[Any, Any]
) -> dict[str, Any]:
    """How well each kind of vector tells the two words of a pseudo-word apart."""
    places, labels = uses
    top, prefix = causal.config.n_layers, tokenizer.encode(contextual.PREFIX)

    def states(pool: str) -> np.ndarray:
        found = contextual.embed(causal, tokenizer, places, pool=pool, layers=(top,), n_expected=0)
        return np.stack([vector.at(top) for vector in found])

    at, before, space = states("last"), states(contextual.BEFORE), _space(causal, tokenizer, val_ids)
    vectors = {"left": correct(at, "zscore", space)}
    seen, unseen = (embed(both, tokenizer, places, prefix, hidden=hidden) for hidden in (False, True))
    of_both = _space(both, tokenizer, val_ids)
    vectors["masked"] = correct(seen, "zscore", of_both)
    if words := make_word_vectors(tokenizer, ids):
        bags = ContextBags(words).vectors(places)
        vectors |= {"both": join(at, before, bags, space), "bag": bags[:, : bags.shape[1] // 2]}
        vectors["masked-both"] = join(seen, unseen, bags, of_both)
    found = {name: pseudo_words.separation(part, places, labels) for name, part in vectors.items()}
    order = ("left", "both", "bag", "masked", "masked-both")
    return {
        "n_words": len({place.word for place in places}),
        "n_uses": len(places),
        "majority": found["left"]["majority"],
        "vectors": [
            {"name": name, "centroid": found[name]["centroid"], "auc": found[name]["auc"]}
            for name in order
            if name in found
        ],
    }


def _space(model: GPT, tokenizer: Tokenizer, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Mean and standard deviation (D,) of the states after the last block, in held-out text."""
    measured = measure_statistics(model, tokenizer, ids)
    return {name: measured[name][-1].numpy() for name in ("mean", "std")}

"""Recipes for a text that is read many times, compared at equal steps; prints a row per recipe and seed.

    python benchmarks/small_text.py TEXT --train 60000 --held-out 40000 --steps 300 --seeds 1,2,3 \
        --recipe dropout=0.2 --recipe dropout=0.2,teacher=0.5

Each recipe trains the same shape on the first bytes of TEXT (or of TEXT from --skip on), and is scored on all of the
bytes after them, or of another file (--val). A recipe is a list of settings, of `TrainConfig` or of these:

- vocab=384: tokens in the vocabulary.
- shape=3x96: layers and width.
- split=0.1: each token of a window is divided into the two tokens that it was merged from with this probability, and
  its parts likewise (Provilkov et al. 2020, "BPE-Dropout"); split_until=0.8: in the first part of the steps.
- noise=0.05: the share of input tokens replaced by tokens drawn from the text (Xie et al. 2017).
- teacher=0.3: weight in the loss of a 5-gram that was counted on the other tenths of the text.
- chain=1: models trained before the last one, each with an equal share of the steps, as teachers.
- decay_embed: weight decay of embeddings and head.

Averages of the weights (EMA over the last 5, 10 and 20 % of the steps) are scored beside the weights of the last step.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptlite.baselines import ngram
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware, choose_hardware, keeping_freed_memory
from gptlite.evaluation.scoring import SlidingWindows, Window, score_model, spread
from gptlite.kernels.workers import Workers
from gptlite.model import GPT, initialise, set_vectors
from gptlite.text.batches import Batches
from gptlite.text.tokenizer import Tokenizer
from gptlite.training import bigram_init, compile, optimizer
from gptlite.training.soft_targets import SoftTargets, ngram_targets

AVERAGES = (0.05, 0.1, 0.2)  # of the steps that an EMA spans
LIKELIEST = 64
CONTEXT = 128  # tokens


@dataclass(frozen=True)
class Recipe:
    vocab: int = 384
    shape: str = "3x96"
    split: float = 0.0
    split_until: float = 1.0
    noise: float = 0.0
    teacher: float = 0.0
    chain: int = 0
    chain_weight: float = 0.5
    decay_embed: float = 0.0
    train: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def read(cls, text: str) -> Recipe:
        own, train = {}, {}
        for part in filter(None, text.replace("plain", "").split(",")):
            name, _, value = part.partition("=")
            fields = {f.name: type(f.default) for f in dataclasses.fields(cls)}
            if name in fields:
                own[name] = fields[name](value)
            else:
                train[name] = type(getattr(TrainConfig, name))(float(value))
        return cls(**own, train=tuple(train.items()))


class Memory(Batches):
    """`Batches` of ids in memory."""

    def __init__(self, ids: np.ndarray, context: int, batch_size: int, seed: int) -> None:
        self.ids, self.context, self.batch_size, self.seed = ids, context, batch_size, seed
        self.rank, self.world_size = 0, 1
        self.windows_per_epoch = len(ids) // context


def merges_of(tokenizer: Tokenizer) -> np.ndarray:
    """(V, 2): the two tokens that each was merged from, -1 for those that were not."""
    model = json.loads(tokenizer.to_json())["model"]
    ids, table = model["vocab"], np.full((tokenizer.vocab_size, 2), -1)
    for merge in model["merges"]:
        a, b = merge if isinstance(merge, list) else merge.split(" ")
        table[ids[a + b]] = ids[a], ids[b]
    return table


def divided(
    ids: np.ndarray, merges: np.ndarray, rate: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`ids` in which each token is divided with probability `rate`, and its parts again; and where whole ones stood.

    The place of a part is N + its id, for N tokens, where `with_parts` has the part itself.
    """
    n, places, fresh = len(ids), np.arange(len(ids)), np.ones(len(ids), dtype=bool)
    while fresh.any():
        cut = fresh & (merges[ids, 0] >= 0) & (rng.random(len(ids)) < rate)
        of = np.repeat(np.arange(len(ids)), 1 + cut)
        second = np.r_[False, of[1:] == of[:-1]]
        fresh = cut[of]
        ids = np.where(fresh, merges[ids[of], second.astype(int)], ids[of])
        places = np.where(fresh, n + ids, places[of])
    return ids, places


def with_parts(targets: SoftTargets, vocab: int) -> SoftTargets:
    """`targets` followed by a row for each token, in which it is certain."""
    ids = torch.zeros(vocab, targets.ids.shape[1], dtype=targets.ids.dtype)
    shares = torch.zeros(vocab, targets.ids.shape[1], dtype=targets.shares.dtype)
    # Tokens of a row must differ, so that each stands once in the gradient.
    ids[:] = (torch.arange(vocab)[:, None] + torch.arange(targets.ids.shape[1])) % vocab
    shares[:, 0] = 1
    return SoftTargets(torch.cat([targets.ids, ids]), torch.cat([targets.shares, shares]), targets.weight)


@torch.no_grad()
def model_teacher(models: list[GPT], ids: np.ndarray, context: int, weight: float) -> SoftTargets:
    size, k = len(ids), min(LIKELIEST, models[0].config.vocab_size)
    top, shares = torch.zeros(size, k, dtype=torch.int16), torch.zeros(size, k, dtype=torch.float16)
    half = context // 2  # the second half of each window is labelled
    for first in range(0, size, 16 * half):
        starts = np.arange(first, min(size, first + 16 * half), half) - half
        index = np.add.outer(starts, np.arange(context + 1)) % size
        windows = torch.from_numpy(ids[index].astype(np.int64))
        mean = sum(m.eval()(windows[:, :-1])[:, half:].float().softmax(-1) for m in models) / len(models)
        values, best = mean.flatten(0, 1).topk(k, 1)
        where = torch.from_numpy(index[:, half + 1 :].reshape(-1))
        top[where], shares[where] = best.to(torch.int16), values.half()
    return SoftTargets(top, shares, weight)


def train_model(
    recipe: Recipe, ids: np.ndarray, tokenizer: Tokenizer, steps: int, seed: int, loss: Any, workers: Any,
    hardware: Any, teacher: SoftTargets | None, look: Any,
) -> tuple[GPT, list[GPT]]:  # fmt: skip
    layers, dim = map(int, recipe.shape.split("x"))
    shape = ModelConfig.preset(
        "qwen3", "tiny", tokenizer.vocab_size, n_layers=layers, dim=dim, context_length=CONTEXT, tie_embeddings=False
    )
    config = TrainConfig(**{"steps": steps, "seed": seed, **dict(recipe.train)})
    torch.manual_seed(seed)
    model = GPT(shape, dropout=config.dropout)
    initialise(model, seed)
    set_vectors(model, *bigram_init.bigram_vectors(ids, shape.vocab_size, shape.dim, seed))
    optimizers = optimizer.make_optimizers(model, config, workers=workers)
    if recipe.decay_embed:
        others = optimizers[1].param_groups[0]
        vectors = [p for p in others["params"] if p.ndim == 2]
        optimizers[1].add_param_group({**others, "params": [], "weight_decay": recipe.decay_embed})
        others["params"] = [p for p in others["params"] if p.ndim != 2]
        optimizers[1].param_groups[1]["params"] = vectors
    merges, rng = merges_of(tokenizer), np.random.default_rng(seed)
    averages = [copy.deepcopy(model) for _ in AVERAGES]
    model.train()
    if teacher is not None:
        loss = loss.with_teacher(with_parts(teacher, shape.vocab_size))
    plain = Memory(ids, CONTEXT, config.batch_size, seed)
    position = 0
    for step in range(steps):
        rate = optimizer.learning_rate(step / steps, config, 1 / steps)
        optimizer.set_learning_rate(optimizers, rate)
        torch.manual_seed(1000 * seed + step)
        if recipe.split and step < recipe.split_until * steps:
            if step % max(1, round(plain.steps_per_epoch)) == 0:
                cut, places = divided(ids.astype(np.int64), merges, recipe.split, rng)
                stream = Memory(cut, CONTEXT, config.batch_size, seed + position)
                position += 1
                begin = step
            batch, where = stream.batch(step - begin), places[stream.places(step - begin)]
        else:
            batch, where = plain.batch(step), plain.places(step)
        if teacher is not None:
            batch = torch.stack([batch, torch.from_numpy(where)], 1)
        if recipe.noise:
            assert teacher is None
            batch = _noisy(batch, ids, recipe.noise, rng)
        optimizer.training_step(model, optimizers, batch, hardware, config.clip, loss, workers=workers)
        with torch.no_grad():
            for share, average in zip(AVERAGES, averages, strict=True):
                weight = max(1 / (step + 1), 2 / (share * steps))
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), min(1.0, weight))
        if (step + 1) % max(1, steps // 5) == 0:
            look(model)
    return model, averages


def _noisy(batch: Tensor, ids: np.ndarray, rate: float, rng: np.random.Generator) -> Tensor:
    """Replaced inputs, which are targets of no step either (`~id`)."""
    drawn = torch.from_numpy(ids[rng.integers(len(ids), size=tuple(batch.shape))].astype(np.int64))
    return torch.where(torch.from_numpy(rng.random(tuple(batch.shape)) < rate), ~drawn, batch)


class Texts:
    """Both texts as tokens of one vocabulary."""

    def __init__(self, train: str, val: str, vocab: int) -> None:
        self.tokenizer = Tokenizer.train([train], vocab)
        first = [self.tokenizer.separator_id]
        self.ids = np.array([*first, *self.tokenizer.encode(train)], dtype=np.uint16)
        self.val_ids = np.array([*first, *self.tokenizer.encode(val)], dtype=np.uint16)
        self.windows = SlidingWindows(len(self.val_ids), CONTEXT)
        spellings = np.array([len(spelling) for spelling in self.tokenizer.token_bytes])
        self.ngram = ngram.ngram_bits_per_byte(self.ids, self.val_ids, spellings)

    def score(self, model: GPT, windows: Sequence[Window], workers: Workers, hardware: Hardware) -> float:
        """Bits per byte of `model` on `windows` of the held-out text."""
        model.eval()
        parts = [windows[i * len(windows) // 2 : (i + 1) * len(windows) // 2] for i in range(2)]
        scores = workers.map(
            lambda part: score_model(model, self.tokenizer, self.val_ids, hardware, part),
            parts,
        )
        model.train()
        return float(sum(s.nats for s in scores) / np.log(2) / sum(s.bytes for s in scores))


def measure(name: str, texts: Texts, steps: int, seed: int, loss: Any, workers: Workers, hardware: Hardware) -> str:
    """The row of the recipe `name`."""
    began, recipe, curve = time.monotonic(), Recipe.read(name), list[float]()
    some, ids, vocab = spread(texts.windows, 128), texts.ids, texts.tokenizer.vocab_size

    def look(model: GPT) -> None:
        curve.append(texts.score(model, some, workers, hardware))

    teacher = ngram_targets(ids, vocab, recipe.teacher) if recipe.teacher else None
    models: list[GPT] = []
    of_one = steps // (recipe.chain + 1)
    for n in range(recipe.chain + 1):
        if models:
            teacher = model_teacher(models, ids, CONTEXT, recipe.chain_weight)
        model, averages = train_model(
            recipe, ids, texts.tokenizer, of_one, seed + 100 * n, loss, workers, hardware, teacher, look
        )
        models.append(model)
    everything = list(texts.windows)
    last, *means = [texts.score(m, everything, workers, hardware) for m in (models[-1], *averages)]
    numbers = " | ".join(" ".join(f"{bits:.3f}" for bits in row) for row in ([last], means, curve))
    epochs = of_one * TrainConfig.batch_size * CONTEXT / len(ids)
    return f"| {name} | {seed} | {numbers} | {epochs:.0f} | {texts.ngram:.3f} | {time.monotonic() - began:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--train", type=int, default=60_000)
    parser.add_argument("--held-out", type=int, default=40_000)
    parser.add_argument("--val")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--recipe", action="append", default=[])
    options = parser.parse_args()
    raw = Path(options.text).read_bytes()[options.skip :]
    val = Path(options.val).read_bytes() if options.val else raw[options.train :]
    train, held_out = (part.decode(errors="ignore") for part in (raw[: options.train], val[: options.held_out]))
    hardware = choose_hardware("cpu", "fp32", 2, "on")
    workers = compile.workers_for(hardware, TrainConfig())
    loss = compile.load_fused_loss(hardware, workers)
    print("| recipe | seed | bits per byte | averages | on the way | epochs | 5-gram | s |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.recipe or ["plain"]:
        texts = Texts(train, held_out, Recipe.read(name).vocab)
        for seed in map(int, options.seeds.split(",")):
            print(measure(name, texts, options.steps, seed, loss, workers, hardware), flush=True)


if __name__ == "__main__":
    with keeping_freed_memory():
        main()

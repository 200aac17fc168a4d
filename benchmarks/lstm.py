"""The LSTM of `gptlite compare` beside a `torch.nn.LSTM` loop tuned by hand, on the same text and tokens.

    python benchmarks/lstm.py TEXT --steps 300 --params 400000
    python benchmarks/lstm.py TEXT --seconds 60 --params 1000000 --vocab-size 1024

The loop by hand is what a careful user writes: the weights of torch, AdamW, a warm-up and a cosine, gradients clipped
at 1, and the state carried from each window to the next of the same stream. Both get the same number of parameters,
tokens per step and learning rates, and the same steps or seconds. Scores are bits per byte of the same held-out
windows. Equal steps need no quiet machine, equal seconds do; the seconds of processor time are printed beside them.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlite.baselines.recurrent import Recurrent, RecurrentConfig
from gptlite.comparison.contenders import CONTENDERS
from gptlite.comparison.measures import score_windows
from gptlite.comparison.networks import Network, Shape
from gptlite.comparison.predictors import NetworkPredictor
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import choose_hardware
from gptlite.evaluation.scoring import sliding_windows, spread
from gptlite.randomness import shuffled
from gptlite.text.tokenizer import Tokenizer

CONTEXT, BATCH = 128, 16


class ByHand(nn.Module):
    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, dim)
        self.lstm = nn.LSTM(dim, dim, batch_first=True)
        self.head = nn.Linear(dim, vocab_size)

    def forward(
        self, tokens: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, state = self.lstm(self.embed(tokens), state)
        return self.head(hidden), state


@dataclass
class Budget:
    """Steps or seconds of training, of which those of the steps alone count.

    - `steps`, `seconds`: how many there are; one of them is 0. `done`: steps that were taken.
    """

    steps: int
    seconds: float
    done: int = 0
    spent: float = 0.0

    def progress(self) -> float:
        return self.done / self.steps if self.steps else min(1.0, self.spent / self.seconds)

    def parts(self) -> Iterator[float]:
        """The progress before each step, as long as there is time."""
        while (progress := self.progress()) < 1.0:
            began = time.perf_counter()
            yield progress
            self.spent += time.perf_counter() - began
            self.done += 1


def by_hand(ids: np.ndarray, vocab_size: int, dim: int, rate: float, budget: Budget) -> nn.Module:
    torch.manual_seed(1)
    model = ByHand(vocab_size, dim)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    streams = torch.from_numpy(ids[: len(ids) // BATCH * BATCH].astype(np.int64)).view(BATCH, -1)
    state, at = None, 0
    for progress in budget.parts():
        if at + CONTEXT + 1 > streams.shape[1]:
            state, at = None, 0
        windows = streams[:, at : at + CONTEXT + 1]
        at += CONTEXT
        warm = min(1.0, 0.02 + progress / 0.02)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * (0.05 + 0.95 * (1 + math.cos(math.pi * progress)) / 2)
        logits, state = model(windows[:, :-1], state)
        state = (state[0].detach(), state[1].detach())
        loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


class Reading:
    """The model by hand as `score_windows` needs it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()

    @torch.no_grad()
    def bits(self, windows: np.ndarray) -> np.ndarray:
        ids = torch.from_numpy(windows.astype(np.int64))
        logits, _ = self.model(ids[:, :-1])
        return F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").numpy() / math.log(2)


def ours(ids: np.ndarray, shape: Shape, rate: float, budget: Budget) -> Network:
    network = Network(CONTENDERS["lstm"], shape, choose_hardware(), rate, 1)
    n = len(ids) // CONTEXT
    before = 0.0
    for progress in budget.parts():
        epoch, first = divmod(budget.done * BATCH, n - BATCH)
        starts = [shuffled(first + i, n - 1, epoch) * CONTEXT + (epoch * 37) % CONTEXT for i in range(BATCH)]
        index = np.minimum(np.add.outer(starts, np.arange(CONTEXT + 1)), len(ids) - 1)
        network.step(torch.from_numpy(ids[index].astype(np.int64)), progress, progress - before)
        before = progress
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=0.0, help="of training, in place of --steps")
    parser.add_argument("--params", type=int, default=400_000)
    parser.add_argument("--vocab-size", type=int, default=512)
    parser.add_argument("--rates", default="2e-3,4e-3,8e-3")
    arguments = parser.parse_args()

    text = Path(arguments.text).read_text(encoding="utf-8")
    cut = int(len(text) * 0.95)
    tokenizer = Tokenizer.train([text[:cut]], arguments.vocab_size)
    ids, val = (np.array(tokenizer.encode(part)) for part in (text[:cut], text[cut:]))
    vocab_size = tokenizer.vocab_size
    lengths = np.array(tokenizer.byte_lengths(vocab_size))
    windows = spread(sliding_windows(len(val), CONTEXT), 96)
    own = min(
        (ModelConfig.preset("qwen3", "tiny", vocab_size, dim=d, context_length=CONTEXT) for d in range(32, 321, 32)),
        key=lambda shape: abs(shape.n_params - arguments.params),
    )
    config = RecurrentConfig.of_size("lstm", vocab_size, own.n_params)
    shape = Shape(own, TrainConfig(steps=arguments.steps, batch_size=BATCH))
    amount = f"{arguments.seconds:g} seconds" if arguments.seconds else f"{arguments.steps} steps"
    print(f"{amount} of {BATCH} x {CONTEXT} tokens per step, vocabulary {vocab_size}\n")
    print("| | learning rate | parameters | steps | bits per byte | processor seconds |\n|---|---|---|---|---|---|")

    def budget() -> Budget:
        return Budget(0 if arguments.seconds else arguments.steps, arguments.seconds)

    def say(who: str, rate: float, n_params: int, spent: Budget, score: float, began: float) -> None:
        seconds = time.process_time() - began
        print(f"| {who} | {rate:g} | {n_params:,} | {spent.done:,} | {score:.3f} | {seconds:.0f} |", flush=True)

    for rate in map(float, arguments.rates.split(",")):
        began, time_of_hand = time.process_time(), budget()
        model = by_hand(ids, vocab_size, config.dim, rate, time_of_hand)
        score = score_windows(Reading(model), val, windows, lengths).bits_per_byte  # pyright: ignore[reportArgumentType]
        say("by hand", rate, sum(p.numel() for p in model.parameters()), time_of_hand, score, began)
        began, time_of_ours = time.process_time(), budget()
        network = ours(ids, shape, rate, time_of_ours)
        assert isinstance(network.model, Recurrent)
        score = score_windows(NetworkPredictor(network), val, windows, lengths).bits_per_byte
        say("compare", rate, network.n_params, time_of_ours, score, began)


if __name__ == "__main__":
    main()

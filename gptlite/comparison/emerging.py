"""How words and attention of a Transformer came to be in a comparison: kept while it trains, and read for any words.

In the directory of the contender are `embedding/table_history.safetensors`, its token table at steps of the training,
and `embedding/words.json`, the words of the text. Attention at some of these steps, on one sentence, is part of its
result.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch

from gptlite import tracing
from gptlite.checkpoint import saved_step, table_history
from gptlite.comparison.contenders import Contender
from gptlite.comparison.networks import Network
from gptlite.comparison.store import Store
from gptlite.embedding import emergence, statistics
from gptlite.embedding.static import TokenTable
from gptlite.model import GPT
from gptlite.storage.reader import Reader
from gptlite.text.tokenizer import Tokenizer
from gptlite.training.table_history import TableHistory

HISTORY = f"embedding/{table_history.NAME}"
CHOSEN = 4  # words, where none is named
SENTENCE = 10  # tokens whose attention is kept
SHOWN_HEADS, SHOWN_STEPS = 3, 5
RECENT = 10  # steps whose mean loss is told


class Watched:
    """A Transformer that is looked at while it trains.

    - `ids`: of the text that it learns from; `sentence`: of the tokens whose attention is kept.
    """

    def __init__(self, network: Network, tokenizer: Tokenizer, ids: np.ndarray, sentence: Sequence[int]) -> None:
        self.model, self.tokenizer = cast(GPT, network.model), tokenizer
        self.init = network.train.init
        self.words = statistics.count_words(tokenizer, ids)
        self.sentence = list(sentence)[:SENTENCE]
        self.history = TableHistory()
        self.losses: list[float] = []
        self.attention: dict[int, np.ndarray] = {}

    def look(self, step: int, loss: float | None, last: bool) -> None:
        """After `step` steps, the newest with this `loss`: keep what is due."""
        if loss is not None:
            self.losses = [*self.losses[1 - RECENT :], loss]
        if not self.history.due(step, last):
            return
        with torch.no_grad():
            table = self.model.transformer.embed.weight.float().cpu().numpy()
            if len(self.sentence) > 1:
                self.attention[step] = self._attention()
        mean = float(np.mean(self.losses)) if self.losses else None
        self.history.add(step, table.copy(), self.tokenizer, lambda: self.words, train_loss=mean, last=last)

    def _attention(self) -> np.ndarray:
        """(L, H, T, T): the weights of all heads on the sentence."""
        was_training = self.model.training
        self.model.eval()
        tokens = torch.tensor([self.sentence], device=next(self.model.parameters()).device)
        layers = []
        for layer in range(self.model.config.n_layers):
            attention, _, x, rotation = tracing.attention_inputs(self.model, tokens, layer)
            layers.append(tracing.attention_weights(attention, x, rotation)[0].float().cpu().numpy())
        self.model.train(was_training)
        return np.stack(layers)

    def files(self) -> dict[str, bytes]:
        """What `read` reads, by name."""
        assert self.history.tokens is not None
        words = json.dumps({"words": self.words}, ensure_ascii=False, separators=(",", ":")).encode()
        history = table_history.to_bytes(self.history.tokens, self.history.kept)
        return {HISTORY: history, saved_step.WORDS: words}

    def heads(self) -> dict[str, Any] | None:
        """The heads that changed most from the first step to the last, at some steps; None of too short a sentence."""
        steps = sorted(self.attention)
        if len(steps) < 2:
            return None
        n = min(SHOWN_STEPS, len(steps))
        steps = [steps[round(i * (len(steps) - 1) / (n - 1))] for i in range(n)]
        first, last = self.attention[steps[0]], self.attention[steps[-1]]
        changed = np.abs(last - first).mean(axis=(2, 3))  # (L, H)
        order = np.argsort(-changed, axis=None, kind="stable")[:SHOWN_HEADS]
        chosen = [(int(i) // changed.shape[1], int(i) % changed.shape[1]) for i in order]
        return {
            "tokens": [self.tokenizer.decode([i]) for i in self.sentence],
            "steps": steps,
            "heads": [
                {
                    "layer": layer + 1,
                    "head": head + 1,
                    "weights": [self.attention[step][layer, head].round(3).tolist() for step in steps],
                }
                for layer, head in chosen
            ],
        }


def read(store: Store, contenders: Sequence[Contender], words: Sequence[str] = ()) -> list[dict[str, Any]]:
    """For each Transformer what its tables say of `words`, or of frequent words of the last one that stand out.

    Those that an older version trained are left out. Raises `UsageError` for a word that has no vector.
    """
    found: list[tuple[Contender, emergence.Emergence, Any]] = []
    for contender in contenders:
        path, result = store.path / contender.name, store.result(contender)
        with Reader(path) as reader:
            if not reader.has(HISTORY):
                continue
            tokens, tables = table_history.read_from(reader, HISTORY)
            counts = dict(saved_step.read_words(reader))
        table = TokenTable(path, np.zeros((0, 0), np.float32), store.tokenizer(), counts)
        if counts:
            course = emergence.collect(table, tokens, tables, words=words, init=result.get("init", "random"))
            found.append((contender, course, result.get("heads")))
    chosen = list(dict.fromkeys(words)) or (found[-1][1].clear_words(CHOSEN) if found else [])
    return [
        {"name": contender.name, "title": contender.title, **course.to_dict(chosen), "attention": heads}
        for contender, course, heads in found
        if chosen
    ]

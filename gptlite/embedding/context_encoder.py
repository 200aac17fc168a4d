"""A context encoder: from all that stands around a word, left and right, a vector of which words could stand there.

It joins four views of a place, none of which has seen the word itself:

    left    the state of the model that predicts the word, one token before it
    right   the state of a backward model at the token after it: a `GPT` of the same shape that reads from right to left
    bags    the words near it on both sides, and those of the passage, each weighing the same (both_sides.py)

A network of one hidden layer has learned to predict the word from them (context2vec, Melamud et al. 2016; with two
language models as in ELMo, Peters et al. 2018), and what it compares with the words is the vector. So uses of a word
that could be replaced by the same words are near each other (Amrami & Goldberg 2018). The axes of the vectors are then
evened out, half of the way to equal variance within words. Of frequent words the encoder also knows what their uses in
the text were like (known_uses.py). Training makes it at its end (training/context_encoder.py), and it is saved beside a
step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gptlite.checkpoint import context_encoder
from gptlite.embedding.both_sides import use_vectors
from gptlite.embedding.contextual import LONGEST_STRETCH, PREFIX, Stretch, Window, compute, cover
from gptlite.embedding.known_uses import KnownUses
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import Occurrence
from gptlite.tracing import hidden

WINDOWS_AT_ONCE = 16


@dataclass(frozen=True)
class ContextEncoder:
    """The backward model, in `eval()` mode; the tensors of the network, float32 on the CPU, whose shapes are in
    checkpoint/context_encoder.py; and the uses of words."""

    backward: GPT
    network: Mapping[str, Tensor]
    uses: KnownUses

    def to_bytes(self) -> dict[str, bytes]:
        """Its files in a saved step, by name."""
        return context_encoder.to_bytes(self.backward, self.network, self.uses.saved)

    def vectors(
        self, tokenizer: Tokenizer, places: Sequence[Occurrence], ending: Sequence[int], before: np.ndarray,
        bags: np.ndarray, words: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """What `encode` gives for `places`, whose states before the word are `before` (n, D) of the last layer.

        - `ending`: ids that stand for the end of a text, those that the model reads before each text.
        """
        windows = windows_after(tokenizer, places, ending, self.backward.config.context_length)
        computed = compute(self.backward, tokenizer, windows, "last", (self.backward.config.n_layers,), 0)
        return self.encode(before, np.stack([states[0] for states, _ in computed]), bags, words)

    def encode(
        self, before: np.ndarray, after: np.ndarray, bags: np.ndarray, words: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The vectors (n, W) of words and what their known uses are like (n, 3 W), both float32.

        - `before`, `after` (n, D): the states around the words; `bags` (n, 2 W).
        - `words` (n,): their numbers among those of the step, -1 for others.
        """
        views = torch.from_numpy(np.concatenate([before, after, bags], axis=1).astype(np.float32))
        vectors = word_vectors(self.network, views).numpy()
        return vectors, self.uses.like(use_vectors(bags, vectors), words)


@torch.inference_mode()
def word_vectors(network: Mapping[str, Tensor], views: Tensor) -> Tensor:
    """The vectors (n, W), which the network compares with words, for views (n, 2 D + 2 W)."""
    return F.linear(hidden_layer(network, views), network["out"])


def hidden_layer(network: Mapping[str, Tensor], views: Tensor, dropout: float = 0.0) -> Tensor:
    """The hidden layer (n, H) for views (n, 2 D + 2 W), with `dropout` of what enters it."""
    x = F.dropout((views - network["mean"]) / network["std"], dropout)
    return F.gelu(F.linear(x, network["weight"], network["bias"]))


def windows_after(
    tokenizer: Tokenizer, places: Sequence[Occurrence], ending: Sequence[int], context: int
) -> list[Window]:
    """What a backward model reads for each word: the tokens after it, the last one first, up to the one next to it."""
    reach = min(LONGEST_STRETCH, max(8 * context, 4096))  # characters to both sides of a word
    end = list(ending) or tokenizer.encode(PREFIX)
    known: dict[str, tuple[Stretch, list[int]]] = {}
    windows: list[Window] = []
    for o in (place.trimmed() for place in places):
        short = len(o.text) <= 2 * reach
        found = known.get(o.text) if short else None
        if found is None:
            left, right = (0, len(o.text)) if short else (max(0, o.start - reach), min(len(o.text), o.end + reach))
            tokens = tokenizer.encode_with_spans(o.text[left:right])
            stretch = Stretch.make(o.text, left, right, tokens, [])
            found = stretch, [*(end if right == len(o.text) else []), *reversed(stretch.ids)]
            if short:
                known[o.text] = found
        stretch, ids = found
        covering, partial = cover(tokenizer, stretch, o)
        stop = len(ids) - covering[-1] - 1
        begin = max(0, stop - context)
        windows.append(Window(ids, begin, stop, [stop - 1 - begin], [], partial, 0, 0, begin > 0))
    return windows


def last_states(model: GPT, windows: np.ndarray, *, backward: bool = False) -> np.ndarray:
    """(n, T, D), float32: the states after the last block at the tokens of windows (n, T), at most 16 at once.

    - `backward`: the model reads from right to left, and a state has read its token and all to the right.
    """
    device, top = next(model.parameters()).device, [model.config.n_layers]
    read: list[Tensor] = []
    for part in torch.from_numpy(windows.astype(np.int64)).split(WINDOWS_AT_ONCE):
        ids = part.flip(1) if backward else part
        states = hidden(model, ids.to(device), top)[0].float().cpu()
        read.append(states.flip(1) if backward else states)
    return torch.cat(read).numpy()

"""What a model loses by weights of fewer bits, measured on texts that it writes itself."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gptlite.kv_cache import KVCache
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer

N_TEXTS, LONGEST_TEXT = 8, 255  # tokens


@torch.inference_mode()
def loss_of(model: GPT, weights: Mapping[str, Tensor], tokenizer: Tokenizer) -> float:
    """How many bits per byte more `model` needs with `weights` in place of its own.

    Both score the same texts, which the model itself generates with a fixed seed, so that no training text is needed.
    """
    other = GPT(model.config).eval()
    tied = {"head.weight": weights["transformer.embed.weight"]} if model.config.tie_embeddings else {}
    other.load_state_dict({**tied, **weights})
    tokens = _write(model, tokenizer.separator_id, min(model.config.context_length, LONGEST_TEXT + 1))  # (B, T)
    true = tokens[:, 1:, None]
    logp, others = (m(tokens[:, :-1]).log_softmax(-1).gather(-1, true).double().sum() for m in (model, other))
    lengths = torch.tensor(tokenizer.byte_lengths(model.config.vocab_size))
    return float(logp - others) / math.log(2) / max(1, int(lengths[tokens[:, 1:]].sum()))


def _write(model: GPT, start: int, length: int) -> Tensor:
    """Sampled texts (B, T) of T = `length` tokens that begin with `start`; the seed is fixed."""
    generator = torch.Generator().manual_seed(0)
    cache = KVCache(model.config, N_TEXTS)
    tokens = torch.full((N_TEXTS, 1), start)
    while tokens.shape[1] < length:
        logits = model(tokens[:, -1:], cache)[:, -1]
        tokens = torch.cat((tokens, torch.multinomial(logits.softmax(-1), 1, generator=generator)), dim=1)
    return tokens

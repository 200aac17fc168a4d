"""A model that reads both sides: what it sees, what is hidden from it, and that it learns to fill gaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gptlite.baselines.masked import Masked, corrupt, embed, masked_loss
from gptlite.config import ModelConfig
from gptlite.errors import UsageError
from gptlite.kv_cache import KVCache
from gptlite.model import initialise
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import find_word

V = 60


def made(vocab_size: int = V) -> Masked:
    config = ModelConfig.preset("qwen3", "tiny", vocab_size, n_layers=2, dim=32, n_heads=2, context_length=24)
    model = Masked(config)
    initialise(model, 0)
    with torch.no_grad():  # blocks begin as the identity, in which no token sees another
        for name, parameter in model.named_parameters():
            if "o_proj" in name:
                parameter.normal_(0, 0.2)
    return model.eval()


def test_every_place_sees_all_others() -> None:
    model, ids = made(), torch.randint(0, V, (1, 9))
    first, last = ids.clone(), ids.clone()
    first[0, 0], last[0, 8] = (ids[0, 0] + 1) % V, (ids[0, 8] + 1) % V
    logits = model(ids)
    assert logits.shape == (1, 9, V + 1)
    for changed in (first, last):
        assert all(not torch.allclose(logits[0, t], model(changed)[0, t]) for t in range(9))
    with pytest.raises(UsageError, match="`cache`"):
        model(ids, KVCache(model.config, 1, device=torch.device("cpu")))


def test_fifteen_percent_are_chosen_and_of_these_eighty_masked_and_ten_changed() -> None:
    tokens = torch.randint(0, V, (100, 400))
    read, chosen = corrupt(tokens, V, torch.Generator().manual_seed(0))
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert torch.equal(read[~chosen], tokens[~chosen])
    masked = read[chosen] == V
    assert masked.float().mean().item() == pytest.approx(0.8, abs=0.02)
    kept = read[chosen] == tokens[chosen]
    assert kept.float().mean().item() == pytest.approx(0.1 + 0.1 / V, abs=0.02)
    _, one = corrupt(tokens[:1, :1], V, torch.Generator().manual_seed(0))
    assert one.all(), "something is always to be guessed"


def test_gaps_between_equal_tokens_are_learned() -> None:
    """Each row repeats one token, so a gap is certain."""
    model, generator = made(), torch.Generator().manual_seed(1)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(60):
        tokens = torch.randint(0, V, (32, 1), generator=generator).expand(32, 12)
        optimizer.zero_grad()
        loss = masked_loss(model, tokens, generator)
        loss.backward()
        optimizer.step()
    assert loss.item() < 1
    model.eval()
    assert model.fill([7] * 10, 2) == [7, 7]


def test_the_vector_of_a_word_depends_on_both_sides_and_on_its_own_text_alone(tokenizer: Tokenizer) -> None:
    model = made(tokenizer.vocab_size)
    texts = ["the river bank is here", "the river bank was there", "a song bank is here", "the bank " + "of song " * 40]
    places = [place for i, text in enumerate(texts) for place in find_word(text, i, "bank")]
    prefix = tokenizer.encode("\n")
    together = embed(model, tokenizer, places, prefix)
    alone = np.concatenate([embed(model, tokenizer, [place], prefix) for place in places])
    assert together.shape == (4, 32) and np.allclose(together, alone, atol=1e-5)
    assert not np.allclose(together[0], together[1]) and not np.allclose(together[0], together[2])
    hidden = embed(model, tokenizer, places, prefix, hidden=True)
    other = embed(model, tokenizer, find_word("the river song is here", 0, "song"), prefix, hidden=True)
    n = [len(tokenizer.encode(f" {word}")) for word in ("bank", "song")]
    assert not np.allclose(hidden, together)
    assert n[0] != n[1] or np.allclose(hidden[0], other[0], atol=1e-5), "the word itself is not seen"

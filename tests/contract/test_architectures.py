"""The contract: what every architecture must do, however it is built inside."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import random_model, tiny_config
from torch import Tensor

from gptlite import model as model_module
from gptlite.checkpoint import saved_step
from gptlite.config import ARCHITECTURES, ModelConfig, TrainConfig
from gptlite.errors import LimitError
from gptlite.kv_cache import KVCache
from gptlite.model import GPT, Attention, initialise, make_norm, rotary_tables, rotate, sinusoids
from gptlite.text.tokenizer import Tokenizer
from gptlite.tracing import trace
from gptlite.training.optimizer import make_optimizers, set_learning_rate

SHARED = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 6}  # heads share keys, and 4 x 6 is not dim
CONFIGS = {
    **{architecture: tiny_config(architecture) for architecture in ARCHITECTURES},
    "qwen3-shared": tiny_config("qwen3", **SHARED),
    "llama-shared": tiny_config("llama", **SHARED),
    "qwen3-untied": tiny_config("qwen3", tie_embeddings=False),
    "llama-shared-untied": tiny_config("llama", **SHARED, tie_embeddings=False),
    "gpt2-untied": tiny_config("gpt2", tie_embeddings=False, hidden_dim=50),
    "qwen3-multi-query": tiny_config("qwen3", n_heads=4, n_kv_heads=1),
}
every_architecture = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def random_tokens(config: ModelConfig, rows: int = 2, length: int | None = None, seed: int = 0) -> Tensor:
    shape = (rows, length or config.context_length)
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.fixture
def every_warning() -> Iterator[None]:
    """Torch warns each time instead of the first time, and a warning fails a test."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


@every_architecture
def test_autocast_computes_nearly_the_same_without_a_warning(config: ModelConfig, every_warning: None) -> None:
    model, tokens = random_model(config), random_tokens(config)
    exact = model(tokens).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(tokens)
    rough.float().sum().backward()
    assert distance(rough.detach(), exact) < 0.05 * float(exact.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_norm_is_that_of_torch_in_the_precision_of_its_weights(dtype: torch.dtype) -> None:
    ours, theirs = make_norm(tiny_config("qwen3"), 32), torch.nn.RMSNorm(32, eps=1e-6)
    with torch.no_grad():
        ours.weight.normal_()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 32).to(dtype)
    assert torch.equal(ours(x), theirs(x.float()))


@every_architecture
@torch.no_grad()
def test_tokens_become_logits(config: ModelConfig) -> None:
    model = random_model(config)
    for rows, length in ((1, 1), (3, 7), (2, config.context_length)):
        logits = model(random_tokens(config, rows, length))
        assert logits.shape == (rows, length, config.vocab_size)
        assert logits.dtype == torch.float32
        assert torch.isfinite(logits).all()


@every_architecture
def test_parameters_are_counted_before_they_exist(config: ModelConfig) -> None:
    model = GPT(config)
    assert config.n_params == sum(p.numel() for p in model.parameters())
    assert (model.head.weight is model.transformer.embed.weight) == config.tie_embeddings


@every_architecture
@torch.no_grad()
def test_no_token_sees_the_future(config: ModelConfig) -> None:
    model = random_model(config)
    tokens = random_tokens(config)
    before = model(tokens)
    for t in (0, 1, 13, config.context_length - 1):
        changed = tokens.clone()
        changed[:, t] = (changed[:, t] + 1) % config.vocab_size
        after = model(changed)
        assert t == 0 or distance(after[:, :t], before[:, :t]) < 1e-6
        # And every later token does see the change.
        assert ((after - before)[:, t:].abs().amax(dim=-1) > 1e-5).all()


@every_architecture
@torch.no_grad()
def test_the_order_of_tokens_matters(config: ModelConfig) -> None:
    """In one layer, without positions, the last token would see an unordered bag."""
    model = random_model(dataclasses.replace(config, n_layers=1))
    tokens = random_tokens(config, length=8)
    swapped = tokens[:, [1, 0, 2, 3, 4, 5, 6, 7]]
    assert distance(model(tokens)[:, -1], model(swapped)[:, -1]) > 1e-4


def test_sinusoids_are_those_of_the_paper() -> None:
    table, dim = sinusoids(40, 12), 12
    for position in range(40):
        for i in range(dim // 2):
            angle = position / 10_000 ** (2 * i / dim)
            assert table[position, 2 * i] == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[position, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-5)


def test_rotation_keeps_lengths_and_knows_distances_only() -> None:
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))
    cos, sin = rotary_tables(50, 8, 100.0)
    at = [rotate(x.expand(1, 1, 50, 8), (cos, sin))[0, 0] for x in (q, k)]
    assert torch.equal(at[0][0], q.flatten())
    assert distance(at[0].norm(dim=-1), q.norm().expand(50)) < 1e-5
    products = at[0] @ at[1].T  # (50, 50)
    for shift in (1, 7, 30):
        diagonal = products.diagonal(shift)
        assert distance(diagonal, diagonal[:1].expand_as(diagonal)) < 1e-4
    assert distance(products[0], products[0, :1].expand(50)) > 0.1


@every_architecture
@torch.no_grad()
def test_rows_do_not_mix(config: ModelConfig) -> None:
    model = random_model(config)
    tokens = random_tokens(config, rows=3)
    together = model(tokens)
    for row in range(3):
        assert distance(model(tokens[row : row + 1])[0], together[row]) < 1e-5


@every_architecture
@pytest.mark.parametrize(
    "sizes", [[1] * 32, [8] * 4, [5, 1, 1, 9, 16], [31, 1]], ids=["one by one", "in chunks", "unevenly", "prompt first"]
)
@torch.no_grad()
def test_reading_in_pieces_equals_reading_at_once(config: ModelConfig, sizes: list[int]) -> None:
    model = random_model(config)
    tokens = random_tokens(config)
    cache = KVCache(config, batch_size=2)
    pieces = [model(piece, cache) for piece in tokens.split(sizes, dim=1)]
    assert distance(torch.cat(pieces, dim=1), model(tokens)) < 1e-5
    assert cache.position == config.context_length


@every_architecture
@torch.no_grad()
def test_more_tokens_than_the_context_are_refused(config: ModelConfig) -> None:
    """Those in the cache count too; with a context of 1 they were once taken for a batch."""
    for context in (1, 32):
        model = random_model(dataclasses.replace(config, context_length=context))
        cache = KVCache(model.config, 2, 100)
        with pytest.raises(LimitError, match=rf"{context + 4} tokens are more than the model's context of {context}"):
            model(random_tokens(config, length=context + 4))
        model(random_tokens(config, length=context), cache)
        with pytest.raises(LimitError, match=f"{context + 1} tokens"):
            model(random_tokens(config, length=1), cache)


@torch.no_grad()
def test_a_token_alone_needs_no_mask_and_several_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, made = random_model(CONFIGS["qwen3-shared"]), list[tuple[int, int]]()
    causal_mask = model_module.causal_mask
    monkeypatch.setattr(
        model_module, "causal_mask", lambda T, S, device=None: (made.append((T, S)), causal_mask(T, S, device))[1]
    )
    tokens, cache = random_tokens(model.config), KVCache(model.config, 2)
    for part in tokens.split([9, 1, 1, 4, 17], dim=1):
        model(part, cache)
    assert made == [(4, 15), (17, 32)]


@torch.no_grad()
def test_shared_keys_and_values_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention gets the cache itself, however many query heads read a head of it."""
    model, seen = random_model(CONFIGS["qwen3-multi-query"]), list[Tensor]()
    attention = F.scaled_dot_product_attention

    def looked_at(q: Tensor, k: Tensor, v: Tensor, **how: Any) -> Tensor:
        seen.extend((k, v))
        return attention(q, k, v, **how)

    monkeypatch.setattr(F, "scaled_dot_product_attention", looked_at)
    cache = KVCache(model.config, 2)
    model(random_tokens(model.config, length=9), cache)
    stores = {store.untyped_storage().data_ptr() for store in (cache.keys, cache.values)}
    assert {each.untyped_storage().data_ptr() for each in seen} == stores


@every_architecture
@torch.no_grad()
def test_the_first_loss_is_that_of_guessing(config: ModelConfig) -> None:
    model = GPT(config)
    initialise(model, 1)
    tokens = random_tokens(config, rows=8)
    loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(float(loss) - math.log(config.vocab_size)) < 0.2


@every_architecture
def test_initial_weights_follow_from_the_seed(config: ModelConfig) -> None:
    first, same, other = GPT(config), GPT(config), GPT(config)
    for model, seed in ((first, 3), (same, 3), (other, 4)):
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, math.nan)  # whatever was there must go
        initialise(model, seed)
    for (name, a), b in zip(first.named_parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert torch.isfinite(a).all(), name
    assert not torch.equal(first.transformer.embed.weight, other.transformer.embed.weight)


@every_architecture
def test_initial_weights_have_their_sizes(config: ModelConfig) -> None:
    model = GPT(dataclasses.replace(config, dim=128, n_heads=4, n_kv_heads=4, head_dim=32, hidden_dim=512))
    initialise(model, 0)
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        kind = name.split(".")[-2]
        if name.endswith(".bias") or kind in ("o_proj", "down_proj", "head"):
            assert not weight.any(), name
        elif "norm" in kind:
            assert (weight == 1).all(), name
        else:
            std = 0.02 if kind in ("embed", "position") else 128**-0.5
            assert float(weight.std()) == pytest.approx(std, rel=0.05), name
            assert abs(float(weight.mean())) < 0.1 * std, name


@every_architecture
def test_every_parameter_learns(config: ModelConfig) -> None:
    model = random_model(config)
    tokens = random_tokens(config)
    F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # What is added to all keys alike never changes a softmax.
        assert parameter.grad.abs().max() > (0 if name.endswith("k_proj.bias") else 1e-7), name


RATES = {"adamw": 5e-3, "muon": 0.02}


@pytest.mark.parametrize(
    ("config", "optimizer"),
    [  # in turn; the other of each is slow
        pytest.param(config, optimizer, marks=pytest.mark.slow if (i + j) % 2 else (), id=f"{optimizer}-{name}")
        for i, (name, config) in enumerate(CONFIGS.items())
        for j, optimizer in enumerate(RATES)
    ],
)
def test_one_batch_can_be_memorised(config: ModelConfig, optimizer: str) -> None:
    model = GPT(config)
    initialise(model, 1)
    train = TrainConfig(optimizer=optimizer, lr=RATES[optimizer], weight_decay=0.0)
    optimizers = make_optimizers(model, train)
    tokens = random_tokens(config, rows=2, length=17)
    for step in range(300):
        set_learning_rate(optimizers, train.lr * min(1.0, (step + 1) / 20))
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        if loss < 0.1:
            return
        model.zero_grad()
        loss.backward()
        for each in optimizers:
            each.step()
    pytest.fail(f"after 300 steps the loss is still {loss:.3f}")


@every_architecture
@torch.no_grad()
def test_dropout_is_for_training_only(config: ModelConfig) -> None:
    plain = random_model(config)
    model = GPT(config, dropout=0.3)
    model.load_state_dict(plain.state_dict())
    tokens = random_tokens(config)
    assert torch.equal(model.eval()(tokens), plain(tokens))
    model.train()
    assert distance(model(tokens), model(tokens)) > 1e-3


@every_architecture
@torch.no_grad()
def test_what_was_saved_computes_the_same_bits(config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size + 3, norm_eps=3e-5, rope_theta=5000.0)
    model = random_model(config)
    saved_step.save_step(tmp_path / "step", model, tokenizer, {})
    loaded = saved_step.load(tmp_path / "step")
    if config.position != "rope":  # what has no rotary positions saves no theta
        config = dataclasses.replace(config, rope_theta=ModelConfig.rope_theta)
    assert loaded.config == config
    assert loaded.tokenizer.digest == tokenizer.digest
    assert not loaded.model.training
    tokens = random_tokens(config)
    assert torch.equal(loaded.model(tokens), model(tokens))
    assert loaded.model.state_dict().keys() == model.state_dict().keys()
    assert (loaded.model.head.weight is loaded.model.transformer.embed.weight) == config.tie_embeddings


@every_architecture
@torch.no_grad()
def test_a_trace_is_what_ran(config: ModelConfig) -> None:
    model = random_model(config)
    tokens = random_tokens(config)
    expected = model(tokens)
    seen = trace(model, tokens, attention=True)
    assert seen.logits is not None
    assert torch.equal(seen.logits, expected)
    assert torch.equal(seen.hidden[-1], model.transformer(tokens))
    assert [h.shape for h in seen.hidden] == [(2, config.context_length, config.dim)] * (config.n_layers + 1)
    assert torch.equal(model(tokens), expected)  # no hook stayed behind
    short = trace(model, tokens, head=False)
    assert (short.logits, short.attention) == (None, [])
    assert all(torch.equal(a, b) for a, b in zip(short.hidden, seen.hidden, strict=True))


@every_architecture
@torch.no_grad()
def test_traced_states_are_what_blocks_make_of_them(config: ModelConfig) -> None:
    model = random_model(config)
    tokens = random_tokens(config)
    seen = trace(model, tokens)
    rotation = model.transformer.position.rotation(0, config.context_length)
    for i, block in enumerate(model.transformer.blocks):
        left = block(seen.hidden[i], rotation)
        assert torch.equal(left if i + 1 < config.n_layers else model.transformer.norm(left), seen.hidden[i + 1])


@every_architecture
@torch.no_grad()
def test_attention_shares_one_out_over_the_past(config: ModelConfig) -> None:
    T = config.context_length
    seen = trace(random_model(config), random_tokens(config), attention=True)
    assert [a.shape for a in seen.attention] == [(2, config.n_heads, T, T)] * config.n_layers
    for weights in seen.attention:
        assert (weights >= 0).all()
        assert distance(weights.sum(-1), torch.ones(2, config.n_heads, T)) < 1e-5
        assert not weights.triu(1).any()
        assert (weights.tril() > 0).sum() > weights.numel() * 0.4  # no other mask


@every_architecture
@torch.no_grad()
def test_attention_recomputed_is_the_attention_that_ran(config: ModelConfig) -> None:
    model = random_model(config)
    ran: list[tuple[Attention, Tensor, object, Tensor]] = []
    hooks = [
        block.attn.register_forward_hook(lambda m, inputs, out: ran.append((m, inputs[0], inputs[1], out)))
        for block in model.transformer.blocks
    ]
    seen = trace(model, random_tokens(config), attention=True)
    for hook in hooks:
        hook.remove()
    assert len(ran) == config.n_layers
    for (attention, x, rotation, fused), weights in zip(ran, seen.attention, strict=True):
        _, _, v = attention.project(x, rotation)  # type: ignore[arg-type]
        v = v.repeat_interleave(config.n_heads // config.n_kv_heads, dim=1)
        slow = attention.o_proj((weights @ v).transpose(1, 2).flatten(2))
        assert distance(slow, fused) < 1e-6 * max(1.0, float(fused.abs().max()))

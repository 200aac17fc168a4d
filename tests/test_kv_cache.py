"""The key-value cache: it keeps what it was given, in order, and never more than it has room for."""

from __future__ import annotations

import pytest
import torch
from conftest import random_model, tiny_config

from gptlite.kv_cache import KVCache

CONFIG = tiny_config("qwen3", n_heads=4, n_kv_heads=2, head_dim=6)


def test_room_is_made_for_every_layer_and_shared_head() -> None:
    cache = KVCache(CONFIG, batch_size=3, max_length=10)
    assert cache.keys.shape == cache.values.shape == (2, 3, 2, 10, 6)
    assert (cache.keys.dtype, cache.position, cache.max_length) == (torch.float32, 0, 10)


def test_the_context_length_is_the_default() -> None:
    assert KVCache(CONFIG, batch_size=1).max_length == CONFIG.context_length


def test_precision_and_device_are_as_asked() -> None:
    cache = KVCache(CONFIG, 1, 4, device="meta", dtype=torch.bfloat16)
    assert {t.dtype for t in (cache.keys, cache.values)} == {torch.bfloat16}
    assert {t.device.type for t in (cache.keys, cache.values)} == {"meta"}


def test_everything_so_far_comes_back_in_order() -> None:
    cache = KVCache(CONFIG, batch_size=2, max_length=7)
    k, v = torch.randn(2, 2, 2, 2, 7, 6).unbind()  # (layers, B, K, S, C) each
    for start, end in ((0, 3), (3, 4), (4, 7)):
        for layer in range(CONFIG.n_layers):
            keys, values = cache.update(layer, k[layer, :, :, start:end], v[layer, :, :, start:end])
            assert torch.equal(keys, k[layer, :, :, :end])
            assert torch.equal(values, v[layer, :, :, :end])
        assert cache.position == start  # the backbone advances once, after all layers
        cache.advance(end - start)
    assert cache.position == 7


def test_a_full_cache_refuses_more() -> None:
    cache = KVCache(CONFIG, batch_size=1, max_length=4)
    one = torch.zeros(1, 2, 1, 6)
    cache.advance(3)
    cache.update(0, one, one)
    cache.advance(1)
    with pytest.raises(AssertionError, match="cache of 4 positions cannot hold 5"):
        cache.update(0, one, one)


def test_after_a_reset_nothing_old_is_seen() -> None:
    model = random_model(CONFIG)
    first, second = torch.randint(300, (2, 2, 9), generator=torch.Generator().manual_seed(0)).unbind()
    used, fresh = KVCache(CONFIG, 2), KVCache(CONFIG, 2)
    memory = used.keys.data_ptr()
    with torch.no_grad():
        model(first, used)
        used.reset()
        assert used.position == 0
        for part in second.split(4, dim=1):
            assert torch.equal(model(part, used), model(part, fresh))
    assert used.keys.data_ptr() == memory
    assert used.position == fresh.position == 9

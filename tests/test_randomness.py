"""Randomness without state: the same arguments give the same numbers, and shuffles are permutations."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlite.randomness import derive, mix, shuffled

KEYS = st.integers(0, 2**64 - 1)


def test_mix_is_the_published_step() -> None:
    # The first outputs of SplitMix64 for seed 0 are mix(0), mix(gamma), mix(2 gamma), ... (Steele et al. 2014).
    gamma = 0x9E3779B97F4A7C15
    assert [mix(i * gamma) for i in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@given(st.integers(0, 2**70))
def test_mix_stays_within_64_bits(x: int) -> None:
    assert 0 <= mix(x) < 2**64


@given(KEYS, st.integers(0, 63))
def test_mix_depends_on_every_bit(x: int, bit: int) -> None:
    changed = bin(mix(x) ^ mix(x ^ (1 << bit))).count("1")
    assert 8 <= changed <= 56  # about half of 64


def test_mix_is_one_to_one() -> None:
    assert len({mix(x) for x in range(20_000)}) == 20_000


def test_derived_seeds_are_fixed_for_ever() -> None:
    """A run that is resumed after an upgrade must meet the same batches."""
    assert derive(1) == 1
    assert derive(1, 2) == mix(mix(1) + 2)
    assert derive(1, 2, 3) == derive(derive(1, 2), 3) == 0x970864D014D5E8EF
    assert [shuffled(i, 10, 7) for i in range(10)] == [2, 3, 8, 4, 1, 9, 6, 7, 0, 5]


def test_derived_seeds_differ_along_every_path() -> None:
    paths = [(seed, *path) for seed in range(20) for path in ((), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({derive(*path) for path in paths}) == len(paths)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 700), KEYS)
def test_shuffled_is_a_permutation(n: int, key: int) -> None:
    assert sorted(shuffled(i, n, key) for i in range(n)) == list(range(n))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 15, 16, 17, 255, 256, 257, 1023, 1024, 1025, 4096, 4097])
def test_shuffled_is_a_permutation_around_powers_of_two(n: int) -> None:
    assert {shuffled(i, n, 3) for i in range(n)} == set(range(n))


@settings(deadline=None, max_examples=100)
@given(st.data(), st.integers(1, 2**40), KEYS)
def test_shuffled_stays_in_range_for_large_n(data: st.DataObject, n: int, key: int) -> None:
    i, j = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    a, b = shuffled(i, n, key), shuffled(j, n, key)
    assert 0 <= a < n and 0 <= b < n
    assert (a == b) == (i == j)
    assert a == shuffled(i, n, key)


def test_each_key_shuffles_differently() -> None:
    n = 50
    orders = {tuple(shuffled(i, n, key) for i in range(n)) for key in range(40)}
    assert len(orders) == 40
    assert tuple(range(n)) not in orders


def test_every_place_is_equally_likely() -> None:
    n, keys = 7, 3500
    for i in range(n):
        counts = [0] * n
        for key in range(keys):
            counts[shuffled(i, n, mix(key))] += 1
        # 500 expected, standard deviation about 21.
        assert all(380 < count < 620 for count in counts), (i, counts)

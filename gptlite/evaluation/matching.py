"""The longest runs that some texts have in common with a long text that is read once, character for character.

The texts are indexed, and the long one passes by:

1. A rolling hash finds where the long text has a seed of the texts, 8 or 16 characters: at few of its places.
2. From there, all places at once are followed through the suffix array of the texts, a character at a time.
3. Where matches are long or many, as in text that repeats itself, the rest of each is found by binary search, in the
   suffix array and on the length, with polynomial hashes (Karp & Rabin 1987) instead of characters. A place that is
   followed by the same characters as another one is left out, and so is one between two others that make it certain.
4. What is known of one suffix holds for its neighbours as far as they agree with it.

So nothing is kept on disk, memory hardly grows with the long text, and time grows with the sum of the lengths, not with
their product. Of 100 MB, the check took 3 s and 96 MB; tokenizing took 35 s and 120 MB, and a suffix array of all of it
by libdivsufsort 13 s and 500 MB, text included, before anything is looked up (benchmarks/copies.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from gptlite.randomness import mix
from gptlite.text.corpus import Text

LONGEST_SEED = 16  # characters
DEEP = 256  # characters from which on matches are searched for by hashes
MOST_FOLLOWED = 1 << 19  # comparisons of a character in a block, before the same
STRIDE = 64  # of the places that are searched for first
BLOCK = 1 << 19  # characters of the long text looked at together
BUCKET_BITS = 22  # of the rolling hash
BOUNDARY = "\ud800"  # between documents: half a pair of surrogates, which no file holds
NO_CHARACTER = 0x110000  # the first of the codes that end the texts of an index
WEIGHTS = np.array([mix(i) for i in range(LONGEST_SEED)], dtype=np.uint64)
PRIMES = (2**31 - 1, 2**31 - 19)  # both products of two remainders and sums of 2^32 of them fit into 64 bits
BASES = (1_664_525_063, 1_103_515_289)  # below the primes, and otherwise arbitrary


def match_lengths(texts: Sequence[str], train: Text, seed: int) -> list[np.ndarray]:
    """For each text, and each of its characters: how long the longest run from there on is that stands in `train`.

    Exact where the run has at least `seed` characters (a power of two); shorter ones count as none, unless the text has
    no others: then its longest run is exact too, and every one that has more than half of its length.
    """
    found = match_seeds(texts, train, seed)
    while seed > 1 and (rest := [i for i, text in enumerate(texts) if text and found[i].max() < seed]):
        seed //= 2
        for i, better in zip(rest, match_seeds([texts[i] for i in rest], train, seed), strict=True):
            found[i] = better
    return found


def match_seeds(texts: Sequence[str], train: Text, seed: int) -> list[np.ndarray]:
    """`match_lengths` in one pass: of texts without a run of `seed` characters, nothing is found."""
    index = _Index(texts, seed)
    best = np.zeros(len(index.suffixes), dtype=np.int64)
    if len(index.seeds):
        for codes, n_starts in _stretches(train, max(seed, *map(len, texts))):
            ranks, lengths = index.follow(codes, n_starts)
            np.maximum.at(best, ranks, lengths)
    matches = index.spread(best)
    matches[matches < seed] = 0  # of these, only some were seen
    ends = np.cumsum([len(text) + 1 for text in texts])
    return [matches[end - len(text) - 1 : end - 1] for text, end in zip(texts, ends, strict=True)]


def _stretches(text: Text, reach: int) -> Iterator[tuple[np.ndarray, int]]:
    """Codes of a text, and how many of them have `reach` more behind them, or the end; each is such a one once."""
    held: list[str] = []
    size = 0
    for first, block in text.characters():
        held += [BOUNDARY, block] if first else [block]
        size += len(block) + 1
        if size >= BLOCK + 2 * reach:
            joined = "".join(held)
            yield _codes(joined), len(joined) - reach
            held, size = [joined[-reach:]], reach
    joined = "".join(held) + BOUNDARY
    yield _codes(joined), len(joined)


def _codes(text: str) -> np.ndarray:
    """The code points (N,) of a text."""
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)


class _Index:
    """Several texts of M characters, an end after each included, as a suffix array that begins at their seeds.

    - `codes` (M,): the texts, each with an end that no other text has.
    - `suffixes` (M,): where the suffixes begin, in the order of what they say; a place in it is a rank.
    - `common` (M - 1,): how many codes two neighbours agree in.
    - `seeds` (G, seed): the different seeds; ranks [low, high) of the suffixes that begin with each.
    - `reach`: characters of the longest text.
    """

    def __init__(self, texts: Sequence[str], seed: int) -> None:
        texts = [text.replace(BOUNDARY, "\udfff") for text in texts]  # neither stands in any training text
        ends = [np.array([NO_CHARACTER + i], dtype=np.uint32) for i in range(len(texts))]
        self.seed, self.reach = seed, max(map(len, texts), default=0)
        self.codes = np.concatenate([part for t, end in zip(texts, ends, strict=True) for part in (_codes(t), end)])
        self.suffixes, self.common = _sort_suffixes(self.codes)
        self._collect_seeds()

    def _collect_seeds(self) -> None:
        n_windows = max(0, len(self.codes) - self.seed + 1)
        low = np.flatnonzero(np.append(True, self.common < self.seed))
        high = np.append(low[1:], len(self.codes))
        ends = np.flatnonzero(self.codes >= NO_CHARACTER)
        first = self.suffixes[low]
        whole = ends[np.searchsorted(ends, first)] - first >= self.seed
        low, high, first = low[whole], high[whole], first[whole]
        windows = sliding_window_view(self.codes, self.seed) if n_windows else np.empty((0, self.seed), np.uint32)
        prints = _fingerprint(windows[first])
        order = np.argsort(prints)
        self.prints, self.low, self.high = prints[order], low[order], high[order]
        self.seeds = windows[first[order]]
        self.has_bucket = np.zeros(1 << BUCKET_BITS, dtype=bool)
        self.has_bucket[_buckets(self.codes, self.seed)[first]] = True

    def follow(self, codes: np.ndarray, n_starts: int) -> tuple[np.ndarray, np.ndarray]:
        """For places among the first `n_starts` of `codes`: a rank, and how many codes its suffix shares with them.

        Nothing, or less than all, is said of places whose match only goes on with that of the place before.
        """
        at = np.flatnonzero(self.has_bucket[_buckets(codes, self.seed)[:n_starts]])
        windows = sliding_window_view(codes, self.seed)[at] if len(at) else self.seeds[:0]
        group = np.minimum(np.searchsorted(self.prints, _fingerprint(windows)), len(self.prints) - 1)
        real = (self.seeds[group] == windows).all(axis=1)
        at, low, high = at[real], self.low[group[real]], self.high[group[real]]
        lengths = np.full(len(at), self.seed)
        active, depth, followed = np.arange(len(at)), self.seed, 0
        while len(active) and depth < DEEP and followed < MOST_FOLLOWED:
            followed += len(active)
            place, size = at[active], high[active] - low[active]
            wanted = codes[place + depth]
            lower = self._first_from(low[active], high[active], depth, wanted)
            upper = self._first_from(lower, high[active], depth, wanted + 1)
            longer = lower < upper
            # Where the suffixes that match here are all preceded by the match of the place before, they go on with it.
            implied = np.zeros(len(active), dtype=bool)
            implied[1:] = longer[:-1] & (place[1:] == place[:-1] + 1) & ((upper - lower)[:-1] == size[1:])
            depth += 1
            grown = active[longer]
            low[grown], high[grown], lengths[grown] = lower[longer], upper[longer], depth
            active = active[longer & ~implied]
        if len(active):
            search = _Search(self, codes)
            chosen = active[search.different(at[active], self.reach)]
            found, ranks, longest = search.longest(at[chosen], low[chosen], high[chosen], depth)
            low[chosen[found]], lengths[chosen[found]] = ranks, longest
        return low, lengths

    def _first_from(self, low: np.ndarray, high: np.ndarray, depth: int, wanted: np.ndarray) -> np.ndarray:
        """The first of the ranks [low, high) whose suffix has at least `wanted` at `depth`, else `high`; each (K,)."""
        low, high = low.copy(), high.copy()
        while len(open_ := np.flatnonzero(low < high)):
            middle = (low[open_] + high[open_]) // 2
            below = self.codes[self.suffixes[middle] + depth] < wanted[open_]
            low[open_[below]] = middle[below] + 1
            high[open_[~below]] = middle[~below]
        return low

    def spread(self, best: np.ndarray) -> np.ndarray:
        """The longest match (M,) of each place in the texts, from what was found at some ranks (M,)."""
        best = self._share_with_neighbours(best)
        matches = np.empty_like(best)
        matches[self.suffixes] = best
        places = np.arange(len(matches))
        matches = np.maximum.accumulate(matches + places) - places  # one character on, a match is one shorter
        best = self._share_with_neighbours(matches[self.suffixes])
        matches[self.suffixes] = best
        return matches

    def _share_with_neighbours(self, best: np.ndarray) -> np.ndarray:
        values, common = best.tolist(), self.common.tolist()
        for i in range(1, len(values)):
            values[i] = max(values[i], min(values[i - 1], common[i - 1]))
        for i in range(len(values) - 2, -1, -1):
            values[i] = max(values[i], min(values[i + 1], common[i]))
        return np.array(values, dtype=np.int64)


class _Search:
    """Looks for places of `codes` (N,) in the suffix array of an index, by hashes of stretches of both."""

    def __init__(self, index: _Index, codes: np.ndarray) -> None:
        self.index, self.codes = index, codes
        self.powers = _powers(max(len(codes), len(index.codes)) + 1)
        self.there = [_prefix_hashes(codes, *each) for each in zip(self.powers, PRIMES, strict=True)]
        self.here = [_prefix_hashes(index.codes, *each) for each in zip(self.powers, PRIMES, strict=True)]

    def different(self, places: np.ndarray, size: int) -> np.ndarray:
        """Which of `places` (K,) to keep so that each stretch of `size` codes that begins at one of them is kept."""
        ends = np.minimum(places + size, len(self.codes))
        key = np.zeros(len(places), dtype=np.uint64)
        for hashes, powers, prime in zip(self.there, self.powers, PRIMES, strict=True):
            window = _difference(hashes, places, ends, prime) * powers[len(self.codes) - places] % np.uint64(prime)
            key = (key << np.uint64(32)) | window
        return np.sort(np.unique(key, return_index=True)[1])

    def longest(
        self, places: np.ndarray, low: np.ndarray, high: np.ndarray, depth: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of `places` (K,), in order: indices of some, a rank for each, and how many codes its suffix shares with it.

        The suffixes of ranks [low, high) share `depth` codes with the place. Left out are places between two others
        whose matches differ by as much as their distance: a match cannot be longer than that of the next place and one,
        nor shorter than that of the place before less one, so those of them all end at the same character.
        """
        n = len(places)
        ranks, lengths = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        # Gaps between places that are searched for, of which each goes from one place to a later one.
        ends = np.flatnonzero(np.diff(places, append=-1) != 1)  # of stretches of places that follow each other
        marks = np.unique(np.concatenate([np.arange(0, n, STRIDE), ends, ends[:-1] + 1]))
        gaps = np.stack([marks[:-1], marks[1:]], axis=1)
        gaps = gaps[places[gaps[:, 1]] - places[gaps[:, 0]] == gaps[:, 1] - gaps[:, 0]]
        wanted, found = marks, [marks]
        while len(wanted):
            ranks[wanted], lengths[wanted] = self._longest(places[wanted], low[wanted], high[wanted], depth)
            first, last = gaps[:, 0], gaps[:, 1]
            gaps = gaps[(last - first > 1) & (lengths[first] - lengths[last] != last - first)]
            wanted = gaps.sum(axis=1) // 2
            found.append(wanted)
            gaps = np.concatenate([np.stack([gaps[:, 0], wanted], axis=1), np.stack([wanted, gaps[:, 1]], axis=1)])
        chosen = np.concatenate(found)
        return chosen, ranks[chosen], lengths[chosen]

    def _longest(
        self, places: np.ndarray, low: np.ndarray, high: np.ndarray, depth: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """For each of `places` (K,) the rank in [low, high) with the longest match, and its length."""
        low, high = low.copy(), high.copy()
        best_rank, best = low.copy(), np.full(len(places), depth)
        while len(open_ := np.flatnonzero(low < high)):
            middle = (low[open_] + high[open_]) // 2
            place, suffix = places[open_], self.index.suffixes[middle]
            length = self._common(place, suffix, depth)
            better = length > best[open_]
            best[open_[better]], best_rank[open_[better]] = length[better], middle[better]
            below = self.index.codes[suffix + length] < self.codes[place + length]
            low[open_[below]] = middle[below] + 1
            high[open_[~below]] = middle[~below]
        return best_rank, best

    def _common(self, places: np.ndarray, suffixes: np.ndarray, depth: int) -> np.ndarray:
        """How many codes `codes` has from each of `places` (K,) on in common with a suffix; at least `depth`."""
        lengths = np.full(len(places), depth)
        step = 1 << self.index.reach.bit_length()
        while step:
            there, here = places + lengths, suffixes + lengths
            room = np.flatnonzero((there + step < len(self.codes)) & (here + step < len(self.index.codes)))
            there, here = there[room], here[room]
            equal = np.ones(len(room), dtype=bool)
            for theirs, ours, powers, prime in zip(self.there, self.here, self.powers, PRIMES, strict=True):
                one = _difference(theirs, there, there + step, prime) * powers[here] % np.uint64(prime)
                equal &= one == _difference(ours, here, here + step, prime) * powers[there] % np.uint64(prime)
            lengths[room[equal]] += step
            step //= 2
        return lengths


def _powers(n: int) -> list[np.ndarray]:
    """[k][i]: the i-th power of a base, (n,), modulo each prime."""
    tables = []
    for base, prime in zip(BASES, PRIMES, strict=True):
        table = np.ones(1, dtype=np.uint64)
        while len(table) < n:  # what is there times the next power is as much again
            table = np.concatenate([table, table * np.uint64(pow(base, len(table), prime)) % np.uint64(prime)])
        tables.append(table[:n])
    return tables


def _prefix_hashes(codes: np.ndarray, powers: np.ndarray, prime: int) -> np.ndarray:
    """[i]: the sum of the first i codes (N,), each plus one and times its power, modulo the prime: (N + 1,)."""
    terms = (codes.astype(np.uint64) + np.uint64(1)) * powers[: len(codes)] % np.uint64(prime)
    return np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64) % np.uint64(prime)])


def _difference(hashes: np.ndarray, first: np.ndarray, last: np.ndarray, prime: int) -> np.ndarray:
    """The hash of codes [first, last), times the power of `first`."""
    return (hashes[last] + np.uint64(prime) - hashes[first]) % np.uint64(prime)


def _sort_suffixes(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The suffix array (M,) of codes whose last stands nowhere else, and how many codes neighbours share (M - 1,).

    By doubling (Manber & Myers 1993): the order of stretches of 2n codes follows from that of stretches of n.
    """
    levels = [np.unique(codes, return_inverse=True)[1]]  # [t][i]: the rank of the 2**t codes that begin at i
    while levels[-1].max() + 1 < len(codes):
        step = 1 << (len(levels) - 1)
        following = np.append(levels[-1][step:] + 1, np.zeros(step, dtype=np.int64))
        levels.append(np.unique(levels[-1] * (len(codes) + 1) + following, return_inverse=True)[1])
    suffixes = np.argsort(levels[-1])
    one, other = suffixes[:-1].copy(), suffixes[1:].copy()
    common = np.zeros(len(one), dtype=np.int64)
    for t in range(len(levels) - 2, -1, -1):
        equal = levels[t][one] == levels[t][other]
        for places in (one, other, common):
            places[equal] += 1 << t
    return suffixes, common


def _buckets(codes: np.ndarray, n: int) -> np.ndarray:
    """A hash of `BUCKET_BITS` bits of every n codes, n a power of two: (N - n + 1,), fast rather than good."""
    hashed, factor, step = codes, 0x9E3779B1, 1
    while step < n:
        hashed = hashed[:-step] * np.uint32(factor) + hashed[step:]
        factor, step = factor * factor & 0xFFFFFFFF, 2 * step
    return hashed * np.uint32(0x85EBCA6B) >> np.uint32(32 - BUCKET_BITS)


def _fingerprint(windows: np.ndarray) -> np.ndarray:
    """64 bits (K,) for each row of `windows` (K, n). Two of a million rows share theirs with a chance of 3e-8."""
    return windows.astype(np.uint64) @ WEIGHTS[: windows.shape[1]]

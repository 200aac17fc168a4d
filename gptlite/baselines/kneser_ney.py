"""N-grams with interpolated modified Kneser-Ney smoothing: exact, on arrays of token ids.

The method is that of Kneser & Ney (1995) with the three discounts of Chen & Goodman (1999), who found no better way of
counting. Every n-gram of the training stream has a number: its place in the sorted list of those of its length. A
longer one is identified by the number of all its tokens but the last, and its last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

ORDER = 5  # tokens in the longest n-gram: four of context, and the one predicted
LARGEST_TABLE = 1 << 24  # probabilities after single tokens that are kept: 64 MB


@dataclass(frozen=True)
class _Grams:
    """The n-grams of one length in the training stream.

    - `keys` (G,): number of the context times the size of the vocabulary, plus the last token; ascending.
    - `own` (G,): what the count of each leaves to it after the discount, as a share of all counts after its context.
    - `rest` (C,): the share after each context that shorter contexts distribute.
    """

    keys: np.ndarray
    own: np.ndarray
    rest: np.ndarray


class KneserNey:
    """p of a token after the up to `order` - 1 tokens before it, estimated on the stream `train_ids` (N,).

    After any context, the probabilities of all `vocab_size` tokens add up to one. The longest n-grams count
    occurrences; a shorter one counts the different tokens before it, where the start of the stream is one. Unigrams are
    interpolated with the uniform distribution. Takes about a second per million tokens.
    """

    def __init__(self, train_ids: np.ndarray, vocab_size: int, order: int = ORDER) -> None:
        self.vocab_size, self.order = vocab_size, order
        stream = np.asarray(train_ids, dtype=np.int64)
        keys, numbers = [np.zeros(1, dtype=np.int64)], [np.zeros(len(stream) + 1, dtype=np.int64)]
        for k in range(order):
            found, number = np.unique(numbers[-1][:-1] * vocab_size + stream[k:], return_inverse=True)
            keys.append(found)
            numbers.append(number)
        self._grams: list[_Grams] = []  # of one token, two tokens, ...
        places = np.arange(len(stream) - order + 1)  # where the n-grams that count begin
        for k in range(order, 0, -1):
            counts = np.bincount(numbers[k][places], minlength=len(keys[k]))
            self._grams.insert(0, self._share_out(keys[k], counts, len(keys[k - 1])))
            if len(stream) >= k - 1:
                place = np.zeros(len(keys[k]), dtype=np.int64)
                place[numbers[k][places]] = places  # one place of each, whichever
                places = np.append(place + 1, 0)

    def _share_out(self, keys: np.ndarray, counts: np.ndarray, n_contexts: int) -> _Grams:
        context = keys // self.vocab_size
        discount = _discounts(counts)[np.minimum(counts, 3)]
        total = np.bincount(context, counts, n_contexts)
        kept_back = np.bincount(context, discount, n_contexts)
        rest = np.where(total > 0, kept_back / np.maximum(total, 1), 1.0)
        return _Grams(keys, (counts - discount) / np.maximum(total[context], 1), rest)

    def probabilities(self, ids: np.ndarray) -> np.ndarray:
        """p (M,) of each token of the stream `ids` (M,). Tokens before the first one are unknown, not a start."""
        stream = np.asarray(ids, dtype=np.int64)
        numbers = self._number(stream)
        p, weight = np.zeros(len(stream)), np.ones(len(stream))  # weight: what longer n-grams left to shorter ones
        for k in range(min(self.order, len(stream)), 0, -1):
            grams, number, context = self._grams[k - 1], numbers[k], numbers[k - 1][:-1]  # (M - k + 1,)
            p[k - 1 :] += weight[k - 1 :] * _at(grams.own, number, 0.0)
            weight[k - 1 :] *= _at(grams.rest, context, 1.0)
        return p + weight / self.vocab_size

    def distribution(self, context: Sequence[int]) -> np.ndarray:
        """p (V,) of every token after `context`, of which the last `order` - 1 ids are looked at."""
        read = np.array(context[max(0, len(context) - self.order + 1) :], dtype=np.int64)
        p, weight = np.zeros(self.vocab_size), 1.0
        for k in range(len(read) + 1, 0, -1):
            grams, number = self._grams[k - 1], self._number(read[len(read) - k + 1 :])[k - 1][0]
            if number < 0:
                continue
            first, end = np.searchsorted(grams.keys, [number * self.vocab_size, (number + 1) * self.vocab_size])
            p[grams.keys[first:end] % self.vocab_size] += weight * grams.own[first:end]
            weight *= grams.rest[number]
        return p + weight / self.vocab_size

    def distributions(self, ids: np.ndarray) -> np.ndarray:
        """p (M, V) of every token at each place of the stream `ids` (M,), after the tokens before it there.

        After one token many others were seen, after several few. So the probabilities after one are computed once for
        each token, and those of the places are made of them and of the few.
        """
        stream = np.asarray(ids, dtype=np.int64)
        numbers = self._number(stream)
        weight = np.ones(len(stream), dtype=np.float32)  # what longer n-grams left to shorter ones
        few: list[tuple[np.ndarray, np.ndarray]] = []  # places in (M * V,), and what is added there
        for k in range(min(self.order, len(stream)), 2, -1):
            context, left = numbers[k - 1][:-1], weight[k - 1 :]
            row, token, own = self._seen_after(k, context)
            few.append(((row + k - 1) * self.vocab_size + token, left[row] * own))
            left *= _at(self._grams[k - 1].rest, context, 1.0).astype(np.float32)
        before = np.append(-1, numbers[min(1, len(stream))])[: len(stream)]  # -1: none, or one that was never seen
        if self._after_each is not None:
            rows = self._after_each.take(before, axis=0)
        else:
            known, which = np.unique(before, return_inverse=True)
            rows = self._after_one(known).take(which, axis=0)
        rows *= weight[:, None]
        flat = rows.reshape(-1)
        for places, values in few:
            flat[places] += values
        return rows

    @cached_property
    def _after_each(self) -> np.ndarray | None:
        """p (C + 1, V) after every single token, the last row after an unknown one; None where that is large."""
        n = len(self._grams[0].keys)
        return self._after_one(np.append(np.arange(n), -1)) if n * self.vocab_size <= LARGEST_TABLE else None

    def _after_one(self, contexts: np.ndarray) -> np.ndarray:
        """p (C, V) after one token, of which `contexts` (C,) has the number; -1 for one that was never seen."""
        rows = np.full((len(contexts), self.vocab_size), 1 / self.vocab_size, dtype=np.float32)
        for k, numbers in ((1, np.zeros(len(contexts), dtype=np.int64)), (2, contexts))[: self.order]:
            row, token, own = self._seen_after(k, numbers)
            rows *= _at(self._grams[k - 1].rest, numbers, 1.0).astype(np.float32)[:, None]
            rows[row, token] += own
        return rows

    def _seen_after(self, k: int, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The tokens that end a k-gram after `contexts` (C,): index of the context, token, share; (S,) each."""
        grams = self._grams[k - 1]
        first, end = (np.searchsorted(grams.keys, (contexts + i) * self.vocab_size) for i in (0, 1))
        many = np.where(contexts >= 0, end - first, 0)
        nth = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        found = np.repeat(first, many) + nth
        row = np.repeat(np.arange(len(contexts)), many)
        return row, grams.keys[found] % self.vocab_size, grams.own[found].astype(np.float32)

    def _number(self, stream: np.ndarray) -> list[np.ndarray]:
        """[k][i]: the number of the k-gram that begins at i of `stream`; -1 for one that was never seen."""
        numbers = [np.zeros(len(stream) + 1, dtype=np.int64)]
        for k in range(min(self.order, len(stream))):
            context, keys = numbers[-1][:-1], self._grams[k].keys
            wanted = context * self.vocab_size + stream[k:]
            place = np.searchsorted(keys, wanted)
            seen = (context >= 0) & (place < len(keys))
            seen[seen] = keys[place[seen]] == wanted[seen]
            numbers.append(np.where(seen, place, -1))
        return numbers


def _at(values: np.ndarray, numbers: np.ndarray, otherwise: float) -> np.ndarray:
    """values[numbers], and `otherwise` where the number is -1."""
    return np.append(values, otherwise)[numbers]


def _discounts(counts: np.ndarray) -> np.ndarray:
    """What n-grams seen 0, 1, 2, and 3 or more times give up: (4,), estimated from how many were seen how often."""
    n1, n2, n3, n4 = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].tolist()
    if n1 and n2 and n3 and n4:
        y = n1 / (n1 + 2 * n2)
        estimated = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        if estimated[1:].min() > 0:  # nothing given up would leave nothing for what was never seen
            return estimated
    return np.array([0, 0.5, 1, 1.5])  # the --discount_fallback of KenLM's lmplz (Heafield et al. 2013)

"""Pairs of prompts and answers as tokens: boundary tokens, which tokens are learned, and batches of whole pairs.

A record is written as

    <|endoftext|> <|system|> ... <|end|> <|user|> prompt <|end|> <|assistant|> answer <|end|>

without the spaces. The boundaries are tokens of their own, which no text is ever cut into, so everything about a stream
of pairs can be told from its ids: where a pair begins, and which tokens are an answer.

In a batch of windows, `~id` (a negative number) is a token that is read but not learned. A row holds one pair, so no
pair sees another; pairs of about the same length share a batch. Several pairs packed into each window with a
block-diagonal mask have the same loss and take longer (docs/lab/log.md).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gptlite.errors import CorpusError, UsageError
from gptlite.randomness import derive, shuffled
from gptlite.text.records import MARKS, Layout, header

if TYPE_CHECKING:
    from torch import Tensor

    from gptlite.text.corpus import Text
    from gptlite.text.token_files import TokenFile
    from gptlite.text.tokenizer import Tokenizer

ROLES = tuple(MARKS)
END = "<|end|>"
BOUNDARIES = (*(f"<|{role}|>" for role in ROLES), END)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
KINDS = ("pairs", "messages", "given")
LONGEST_CONTEXT, SHORTEST_CONTEXT = 1024, 64  # tokens, unless the user asks for another
BATCHES_SORTED = 16  # batches whose pairs are sorted by length together, at most; with more, batches differ too much
RECORDS_AT_ONCE = 2048  # that are tokenized together
ANSWER, ALL = "answer", "all"

Message = tuple[str, str]  # a role and what it says


@dataclass(frozen=True)
class PairFormat:
    """What a model was trained on: the kind of its records (`Layout.kind`) and the names of their conditions."""

    kind: str
    given: tuple[str, ...] = ()

    @classmethod
    def of(cls, layout: Layout) -> PairFormat:
        return cls(layout.kind, layout.given)

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> PairFormat | None:
        """What a `tokenizer_config.json` of ours says; None for other models."""
        ours = settings.get("gptlite")
        if not isinstance(ours, dict) or ours.get("kind") not in KINDS or settings.get("chat_template") != TEMPLATE:
            return None
        given = ours.get("given", [])
        if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
            return None
        return cls(ours["kind"], tuple(given))

    def settings(self) -> dict[str, Any]:
        """Entries of a `tokenizer_config.json`. Other programs must read boundaries in the template as such."""
        return {
            "chat_template": TEMPLATE,
            "split_special_tokens": False,
            "gptlite": {"kind": self.kind, "given": list(self.given)},
        }

    def prompt(self, text: str, conditions: Mapping[str, str] | None = None) -> tuple[list[Message], str]:
        """The messages before the answer to a prompt, and how the answer begins (with the prompt, where texts were
        learned with conditions).

        Raises `UsageError` for conditions that are not those of the training text.
        """
        conditions = dict(conditions or {})
        if unknown := [name for name in conditions if name not in self.given]:
            known = f"it knows {', '.join(self.given)}" if self.given else "it was trained without conditions"
            raise UsageError(f"`given`: the model knows no condition {unknown[0]!r}; {known}.")
        if conditions and (missing := [name for name in self.given if name not in conditions]):
            raise UsageError(f"`given`: the model was trained with {missing[0]!r} too; give it a value.")
        before = [("system", header({name: conditions[name] for name in self.given}))] if conditions else []
        return (before, text) if self.kind == "given" else ([*before, ("user", text)], "")


@dataclass(frozen=True)
class Boundaries:
    """The ids of the boundary tokens of a tokenizer."""

    separator: int
    end: int
    roles: tuple[int, ...]  # in the order of ROLES

    @property
    def answer(self) -> int:
        return self.roles[ROLES.index("assistant")]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Boundaries:
        ids = tokenizer.backend.get_vocab(with_added_tokens=True)
        *roles, end = (ids[name] for name in BOUNDARIES)
        return cls(tokenizer.separator_id, end, tuple(roles))


def has_boundaries(tokenizer: Tokenizer) -> bool:
    """Are the boundaries special tokens of this tokenizer?"""
    ids = [tokenizer.backend.token_to_id(name) for name in BOUNDARIES]
    return all(i is not None and not tokenizer.token_bytes[i] for i in ids)


def encode_messages(tokenizer: Tokenizer, messages: Sequence[Message], opened: str | None = None) -> list[int]:
    """The ids of whole messages; with `opened` those of an answer that begins so and goes on."""
    marks = Boundaries.of(tokenizer)
    texts = [text for _, text in messages] + ([] if opened is None else [opened])
    encoded = tokenizer.encode_batch(texts)
    return _joined(marks, [role for role, _ in messages], encoded, opened is not None)


def _joined(marks: Boundaries, roles: Sequence[str], encoded: Sequence[list[int]], opened: bool = False) -> list[int]:
    ids = [marks.separator]
    for role, content in zip(roles, encoded, strict=False):
        ids += [marks.roles[ROLES.index(role)], *content, marks.end]
    return [*ids, marks.answer, *encoded[-1]] if opened else ids


def encode_records(text: Text, tokenizer: Tokenizer) -> Iterator[list[int]]:
    """The ids of some thousand records after the other."""
    marks = Boundaries.of(tokenizer)
    waiting: list[list[Message]] = []

    def flush() -> list[int]:
        encoded = iter(tokenizer.encode_batch([content for record in waiting for _, content in record]))
        ids = [i for record in waiting for i in _joined(marks, [r for r, _ in record], [next(encoded) for _ in record])]
        waiting.clear()
        return ids

    for record in text.records():
        waiting.append(record)
        if len(waiting) == RECORDS_AT_ONCE:
            yield flush()
    if waiting:
        yield flush()


def starts_of(ids: np.ndarray, separator: int) -> np.ndarray:
    """Where each pair of a stream begins, and the end of the stream: (n + 1,)."""
    step = 1 << 22
    found = [np.flatnonzero(ids[i : i + step] == separator) + i for i in range(0, len(ids), step)]
    return np.concatenate([*found, [len(ids)]]).astype(np.int64)


def learned(ids: np.ndarray, marks: Boundaries) -> np.ndarray:
    """(..., T): which tokens of rows that each begin a record are answers, their ends included."""
    is_role = np.isin(ids, marks.roles)
    places = np.where(is_role, np.arange(ids.shape[-1]), 0)
    role = np.take_along_axis(ids, np.maximum.accumulate(places, axis=-1), axis=-1)  # whose words a token is among
    inside = (role == marks.answer) & (ids != marks.end)
    result = np.zeros(ids.shape, dtype=bool)
    result[..., 1:] = inside[..., :-1]
    return result


def choose_context(ids: np.ndarray, separator: int) -> tuple[int, float]:
    """A context with room for pairs twice as long as the longest, within reason; and the mean length of a pair."""
    lengths = np.diff(starts_of(ids, separator))
    longest = int(lengths.max())
    wanted = max(SHORTEST_CONTEXT, -(-2 * longest // 16) * 16)
    return min(wanted, LONGEST_CONTEXT), float(lengths.mean())


def n_longer(ids: np.ndarray, separator: int, context: int) -> tuple[int, int, int]:
    """How many pairs do not fit into a context, of how many, and the length of the longest in tokens."""
    lengths = np.diff(starts_of(ids, separator)) - 1
    return int((lengths > context).sum()), len(lengths), int(lengths.max(initial=0))


def answers_of(ids: np.ndarray, marks: Boundaries, context: int) -> np.ndarray:
    """Each answer of a stream that ends within `context` predicted tokens, in order, as a row of (N, 3).

    A row is the place of the first token of its record, of the mark after which the answer begins, and of its last
    token, the boundary.
    """
    ids = np.asarray(ids)
    starts, begun = starts_of(ids, marks.separator), np.flatnonzero(ids == marks.answer)
    ends = np.flatnonzero(ids == marks.end)
    firsts = starts[np.searchsorted(starts, begun, side="right") - 1]
    lasts = ends[np.searchsorted(ends, begun)]
    return np.stack([firsts, begun, lasts], axis=1)[lasts - firsts <= context]


class PairBatches:
    """Random access to batches of pairs, as `Batches` has it for text. Every pair comes once in an epoch.

    - `loss`: "answer" to learn the answers alone, "all" to learn prompts too.
    Raises `CorpusError` where no pair fits into the context.
    """

    def __init__(
        self, tokens: TokenFile, tokenizer: Tokenizer, *, context: int, batch_size: int, seed: int, loss: str = ANSWER
    ) -> None:
        self.ids, self.marks = tokens.ids(), Boundaries.of(tokenizer)
        self.context, self.batch_size, self.seed, self.loss = context, batch_size, seed, loss
        starts = starts_of(self.ids, self.marks.separator)
        lengths = np.diff(starts)
        fits = lengths <= context + 1
        self.starts, self.lengths = starts[:-1][fits], lengths[fits].astype(np.int32)
        if not len(self.starts):
            raise CorpusError(
                f"none of the {len(lengths):,} pairs fits into `context_length` {context:,}; the shortest needs "
                f"{int(lengths.min(initial=1)) - 1:,}."
            )
        # At most as many as an epoch has, or copies of a pair, which are equally long, would fill a batch.
        self.batches_sorted = max(1, min(BATCHES_SORTED, len(self.starts) // batch_size))

    @property
    def steps_per_epoch(self) -> float:
        return len(self.starts) / self.batch_size

    @property
    def tokens_per_step(self) -> int:
        """On average."""
        return round(self.batch_size * float(self.lengths.mean()))

    @property
    def streams(self) -> list[np.ndarray]:
        """The ids (N,) of each text that batches are taken from, as `Batches` has them."""
        return [self.ids]

    def epochs(self, tokens: int, drawn: list[int]) -> float:
        """How often the text was read after `tokens` tokens."""
        return tokens / max(1, len(self.ids))

    def draw(self, step: int, progress: float, tokens: int, drawn: list[int]) -> tuple[Tensor, list[int]]:
        """As `Batches.draw`; pairs are mixed with no other text."""
        return self.batch(step), drawn

    def batch(self, step: int) -> Tensor:
        """Rows (B, T + 1) of int64, T up to the context: ids, and `~id` for tokens that are not learned."""
        group, within = divmod(step, self.batches_sorted)
        rows = self._group(group)[shuffled(within, self.batches_sorted, derive(self.seed, group))]
        length = int(self.lengths[rows].max())
        places = np.arange(length)
        index = np.minimum(self.starts[rows][:, None] + places, len(self.ids) - 1)
        ids = self.ids[index].astype(np.int64)
        inside = places < self.lengths[rows][:, None]
        ids = np.where(inside, ids, self.marks.separator)
        counts = inside & (places > 0)
        if self.loss == ANSWER:
            counts &= learned(ids, self.marks)
        import torch  # the commands that read word vectors alone do without it

        return torch.from_numpy(np.where(counts, ids, ~ids))

    def _group(self, group: int) -> np.ndarray:
        """(batches_sorted, batch_size): the pairs of as many batches, sorted by length."""
        return _sorted_group(self, group)

    def pair(self, position: int) -> int:
        """Which pair comes at this position of all epochs."""
        epoch, within = divmod(position, len(self.starts))
        return shuffled(within, len(self.starts), derive(self.seed, epoch))


@functools.lru_cache(maxsize=4)
def _sorted_group(batches: PairBatches, group: int) -> np.ndarray:
    n = batches.batches_sorted * batches.batch_size
    chosen = np.array([batches.pair(position) for position in range(group * n, (group + 1) * n)])
    return chosen[np.argsort(batches.lengths[chosen], kind="stable")].reshape(batches.batches_sorted, -1)

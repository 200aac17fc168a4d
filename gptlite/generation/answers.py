"""What a model of pairs answers to prompts whose answers are known, and how good that is."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gptlite.config import SamplingConfig
from gptlite.errors import UsageError
from gptlite.generation.decoding import Decoding
from gptlite.generation.generate import Generation, generate_together
from gptlite.model import GPT
from gptlite.text.pairs import Message, encode_messages
from gptlite.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Answered:
    """A prompt, its known answer and the model's. `ended`: did the model end its answer itself?"""

    prompt: str
    expected: str
    written: str
    ended: bool

    @property
    def exact(self) -> bool:
        """Is it the known answer, but for white space around it?"""
        return self.written.strip() == self.expected.strip()


def answer(
    model: GPT, tokenizer: Tokenizer, records: Iterable[Sequence[Message]], decoding: Decoding | None = None
) -> Iterator[Answered]:
    """Greedy answers to the last prompt of each record, in order.

    - `records`: (role, content) of their messages, of which the last one is the known answer.
    Records whose prompt leaves no room for an answer are left out.
    """
    asked = (
        (encode_messages(tokenizer, record[:-1], opened=""), "\n".join(t for _, t in record[:-1]), record[-1][1])
        for record in records
    )
    yield from answer_ids(model, tokenizer, asked, model.config.context_length, decoding)


def answer_ids(
    model: GPT,
    tokenizer: Tokenizer,
    asked: Iterable[tuple[Sequence[int], str, str]],
    max_new_tokens: int,
    decoding: Decoding | None = None,
) -> Iterator[Answered]:
    """Greedy answers to prompts, each as ids and as text with its known answer; those without room are left out."""
    config = SamplingConfig(temperature=0.0, max_new_tokens=max_new_tokens, num_samples=1)
    known: list[tuple[str, str]] = []

    def begun() -> Iterator[Generation]:
        for ids, prompt, expected in asked:
            if len(ids) < model.config.context_length:
                known.append((prompt, expected))
                yield Generation(model, tokenizer, "", config, seed=0, prompt_ids=ids, decoding=decoding)

    for i, done in enumerate(generate_together(begun())):
        (sample,) = done.samples
        yield Answered(*known[i], sample.text, sample.finish_reason == "stop")


def exact_match(answers: Sequence[Answered]) -> float:
    """The share of answers that are the known ones."""
    return sum(each.exact for each in answers) / max(1, len(answers))


def metrics(answers: Sequence[Answered]) -> dict[str, float]:
    """Exact match and the share of answers that end themselves; chrF and BLEU (0 to 100) where sacrebleu is there.

    These are its chrF2 and its BLEU with the tokenizer 13a, which takes words to be separated by spaces.
    """
    found = {
        "exact_match": exact_match(answers),
        "ended": sum(each.ended for each in answers) / max(1, len(answers)),
    }
    if answers and has_sacrebleu():
        found |= {"chrf": _sacrebleu("CHRF", answers), "bleu": _sacrebleu("BLEU", answers)}
    return found


def has_sacrebleu() -> bool:
    return importlib.util.find_spec("sacrebleu") is not None


def worst(answers: Sequence[Answered], n: int) -> list[Answered]:
    """The n answers that share the fewest characters with the known ones."""
    if n < 0:
        raise UsageError(f"`show` must not be negative, not {n}.")
    return sorted((each for each in answers if not each.exact), key=_similarity)[:n]


def _similarity(each: Answered) -> float:
    import difflib

    return difflib.SequenceMatcher(None, each.written, each.expected, autojunk=False).ratio()


def _sacrebleu(name: str, answers: Sequence[Answered]) -> float:
    import sacrebleu.metrics  # pyright: ignore[reportMissingImports]

    metric: Any = getattr(sacrebleu.metrics, name)()
    return float(metric.corpus_score([a.written for a in answers], [[a.expected for a in answers]]).score)

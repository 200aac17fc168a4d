"""Answers of a model of pairs in `gptlite eval`: how many are right, and the worst ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gptlite.cli.shared import console
from gptlite.distribution import install_hint

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.generation.answers import Answered
    from gptlite.text.corpus import Text

NAMES = {"exact_match": "exact match", "ended": "answers that end themselves", "chrf": "chrF", "bleu": "BLEU"}


def of(loaded: Checkpoint, text: Text, messages: console.Messages) -> list[Answered]:
    """Greedy answers to all pairs of a text."""
    from gptlite.generation import answers
    from gptlite.generation.decoding import choose_decoding

    if not answers.has_sacrebleu():
        messages.say(f"chrF and BLEU need sacrebleu: {install_hint('evaluation')}", "dim")
    decoding = choose_decoding(loaded.model, loaded.config.context_length * 32)
    return list(answers.answer(loaded.model, loaded.tokenizer, text.records(), decoding))


def rows(answered: list[Answered]) -> list[list[str]]:
    """Rows of a table of measures and values."""
    from gptlite.generation import answers

    found = answers.metrics(answered)
    shown = {name: f"{100 * x:.2f} %" if name in ("exact_match", "ended") else f"{x:.2f}" for name, x in found.items()}
    return [["answers", f"{len(answered):,}"], *([NAMES[name], value] for name, value in shown.items())]


def as_json(answered: list[Answered], n: int) -> dict[str, Any]:
    from gptlite.generation import answers

    worst = [
        {"prompt": each.prompt, "expected": each.expected, "written": each.written}
        for each in answers.worst(answered, n)
    ]
    return {"answers": {"n": len(answered), **answers.metrics(answered), **({"worst": worst} if n else {})}}


def show(answered: list[Answered], n: int) -> None:
    """The n worst answers as a table."""
    from gptlite.generation import answers

    cells = [
        [console.one_line(part) for part in (each.prompt, each.expected, each.written)]
        for each in answers.worst(answered, n)
    ]
    console.print_table(["prompt", "expected", "written"], cells)

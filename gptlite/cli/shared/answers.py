"""Answers of a model of pairs in `gptlite eval` and after `train --demo pairs`: how many are right, and the worst."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlite.cli.shared import console
from gptlite.distribution import install_hint
from gptlite.text import demo_pairs

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.generation.answers import Answered
    from gptlite.text.corpus import Text

MOST, MOST_LONGER = 400, 100  # pairs that are answered at the end of a training: about 2 seconds
NAMES = {"exact_match": "exact match", "ended": "answers that end themselves", "chrf": "chrF", "bleu": "BLEU"}
LONGER = f"numbers of {demo_pairs.MOST_DIGITS + 1} to {demo_pairs.MOST_DIGITS_LONGER} digits"


def of(loaded: Checkpoint, text: Text, messages: console.Messages) -> list[Answered]:
    """Greedy answers to all pairs of a text."""
    from gptlite.generation import answers

    if not answers.has_sacrebleu():
        messages.say(f"chrF and BLEU need sacrebleu: {install_hint('evaluation')}", "dim")
    return _answer(loaded, text.records())


def of_longer(loaded: Checkpoint, info: Mapping[str, Any]) -> list[Answered]:
    """Of a run of `--demo pairs`, greedy answers to numbers longer than it was trained on; of other runs none.

    - `info`: its run.json.
    """
    _, longer = demo_pairs.not_trained_on(info)
    return _answer(loaded, _as_records(longer)) if longer else []


def after_demo(run: str) -> dict[str, Any]:
    """What `train --json` says of some answers of a run of `--demo pairs`; nothing of other runs."""
    from gptlite.checkpoint import runs

    held_out, longer = demo_pairs.not_trained_on(runs.Run(Path(run)).read_info())
    if not held_out:
        return {}
    loaded = runs.load(run)
    return as_json(_answer(loaded, _as_records(held_out[:MOST])), _answer(loaded, _as_records(longer[:MOST_LONGER])))


def sentence(found: Mapping[str, Any]) -> str:
    """`after_demo` in words."""
    own, longer = (f"{each['exact_match']:.1%} of {each['n']:,}" for each in (found, found["longer"]))
    return f"{own} held-out numbers and dates are exact, {longer} {LONGER}, which are longer than any in the text"


def _as_records(pairs: Sequence[demo_pairs.Pair]) -> Iterator[list[tuple[str, str]]]:
    return ([("user", prompt), ("assistant", answer)] for prompt, answer in pairs)


def _answer(loaded: Checkpoint, records: Iterable[Sequence[tuple[str, str]]]) -> list[Answered]:
    from gptlite.generation import answers
    from gptlite.generation.decoding import choose_decoding

    decoding = choose_decoding(loaded.model, loaded.config.context_length * 32)
    return list(answers.answer(loaded.model, loaded.tokenizer, records, decoding))


def rows(answered: list[Answered], longer: list[Answered]) -> list[list[str]]:
    """Rows of a table of measures and values; of `longer` numbers apart."""
    from gptlite.generation import answers

    found = answers.metrics(answered)
    shown = {name: f"{100 * x:.2f} %" if name in ("exact_match", "ended") else f"{x:.2f}" for name, x in found.items()}
    made = [["answers", f"{len(answered):,}"], *([NAMES[name], value] for name, value in shown.items())]
    if longer:
        made += [[f"exact match of {len(longer):,} {LONGER}", f"{100 * answers.exact_match(longer):.2f} %"]]
    return made


def as_json(answered: list[Answered], longer: list[Answered], n_worst: int = 0) -> dict[str, Any]:
    from gptlite.generation import answers

    worst = [
        {"prompt": each.prompt, "expected": each.expected, "written": each.written}
        for each in answers.worst(answered, n_worst)
    ]
    more: dict[str, Any] = {"worst": worst} if n_worst else {}
    if longer:
        more["longer"] = {"n": len(longer), **answers.metrics(longer)}
    return {"answers": {"n": len(answered), **answers.metrics(answered), **more}}


def show(answered: list[Answered], n: int) -> None:
    """The n worst answers as a table."""
    from gptlite.generation import answers

    cells = [
        [console.one_line(part) for part in (each.prompt, each.expected, each.written)]
        for each in answers.worst(answered, n)
    ]
    console.print_table(["prompt", "expected", "written"], cells)

"""The results of a comparison on pairs as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gptlite.cli.shared import console
from gptlite.cli.shared.numbers import count

CELL = 48  # columns of a prompt or an answer


def show(found: Mapping[str, Any]) -> None:
    """All tables, on standard output."""
    contenders = found["contenders"]
    _scores(found, contenders)
    _answers(contenders)
    for contender in contenders:
        if contender["attention"]:
            _attention(contender)


def _scores(found: Mapping[str, Any], contenders: Sequence[Mapping[str, Any]]) -> None:
    console.write(
        f"{console.duration(found['seconds_each'])} of training for each network on {found['train_bytes']:,} bytes of "
        f"pairs; greedy answers to {found['n_answers']:,} held-out prompts\n"
    )
    rows: list[list[str]] = []
    for c in contenders:
        fewer, interval = c["behind_best"]["exact_match"], c["behind_best"]["exact_match_interval"]
        margin = f" ± {(interval[1] - interval[0]) / 2:.1%}" if interval else ""
        rows.append(
            [
                c["title"],
                f"{c['exact_match']:.1%}",
                "best" if c["name"] == found["best"] else f"{'-' if fewer else ''}{fewer:.1%}{margin}",
                f"{c['bits_per_byte']:.3f}",
                count(c["n_parameters"]),
                f"{c['learning_rate']:g}",
                count(c["n_tokens_seen"]),
            ]
        )
    heads = ["", "exact answers", "behind the best", "bits/byte", "parameters", "learning rate", "tokens read"]
    console.print_table(heads, rows, right=frozenset(range(1, 7)))


def _answers(contenders: Sequence[Mapping[str, Any]]) -> None:
    console.write("\nthe first held-out prompts, and what is answered (= the known answer)\n")
    rows: list[list[str]] = []
    for i, first in enumerate(contenders[0]["answers"]):
        written = [
            "=" if c["answers"][i]["exact"] else console.cut(console.one_line(c["answers"][i]["written"]), CELL)
            for c in contenders
        ]
        known = [console.cut(console.one_line(first[name]), CELL) for name in ("prompt", "expected")]
        rows.append([*known, *written])
    console.print_table(["prompt", "known answer", *(c["title"] for c in contenders)], rows)


def _attention(contender: Mapping[str, Any]) -> None:
    """A row for each token of the answer: the tokens of the prompt that it takes most from."""
    seen = contender["attention"]
    console.write(
        f"\n{contender['title']}: what it takes from the prompt for each token of a known answer "
        f"(layer {seen['layer']} of {seen['n_layers']}, head {seen['head']} of {seen['n_heads']})\n"
    )
    rows: list[list[str]] = []
    for name, weights in zip(seen["answer"], seen["weights"], strict=True):
        order = sorted(range(len(weights)), key=lambda i: -weights[i])[:3]
        taken = [f"{_token(seen['prompt'][i])} {weights[i]:.0%}" for i in order]
        rows.append([_token(name), *taken, *[""] * (3 - len(taken))])
    console.print_table(["answer", "most from", "then", "then"], rows)


def _token(name: str) -> str:
    return console.one_line(name.replace(" ", "_")) or "_"

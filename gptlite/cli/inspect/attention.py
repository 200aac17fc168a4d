"""Attention in a terminal and in files: heat maps, the habits of heads, and one step opened up."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gptlite.cli.inspect.tables import Names, bar, percent
from gptlite.cli.shared import console

if TYPE_CHECKING:
    import numpy as np

    from gptlite.config import ModelConfig
    from gptlite.evaluation.inspection import Attended, Explanation, Habit

SHADES = ((0.02, " "), (0.1, "░"), (0.25, "▒"), (0.5, "▓"), (1.01, "█"))  # of weights below so much
HEAT = "color(166)"
MOST_ROWS = 60  # of a map
NAMED = 3  # keys
NUMBERS = 3  # of a vector that are written
INDENT = 10  # columns of what a step says, behind its name
WIDE = 116  # columns, with room for keys and values
SCALE = "░ 2 to 10 %   ▒ to 25 %   ▓ to 50 %   █ more"


# -- Maps


def print_map(attended: Attended, ids: Sequence[int], names: Names) -> None:
    """One head: a row for each token that asks, a column for each that is asked."""
    weights = attended.weights[0, 0]
    tokens = [names(i) for i in ids]
    cell = 1 + len(str(attended.first + len(ids) - 1))
    label = 2 + cell + max(map(len, tokens))
    begin = max(0, len(ids) - min(MOST_ROWS, (console.width() - label - 20) // cell))
    numbers = [attended.first + i for i in range(len(ids))]
    lines = [
        [(f"layer {attended.layer}, head {attended.head}", "bold"),
         (": each row is a token and shows how much it takes from those before it", "")],
        [],
        [(" " * label + "".join(f"{n:>{cell}}" for n in numbers[begin:]), "dim")],
    ]  # fmt: skip
    for i in range(begin, len(ids)):
        row = weights[i]
        cells = "".join(_shade(float(w)) * (cell - 1) + " " for w in row[begin : i + 1])
        best = int(row.argmax())
        name = tokens[i].ljust(label - cell - 2)
        rest = "   " + " " * (cell * (len(ids) - 1 - i)) + f"{tokens[best]} {percent(float(row[best]))}"
        lines.append([(f"{numbers[i]:>{cell}}", "dim"), (f" {name}  ", ""), (cells, HEAT), (rest, "dim")])
    lines += [[], [(f"{SCALE}; on the right: where each row looks most", "dim")]]
    if begin:
        lines.append([(f"The last {len(ids) - begin} of {len(ids)} tokens; --json or a page has all.", "dim")])
    console.print_lines(lines)


def _shade(weight: float) -> str:
    return next(shade for below, shade in SHADES if weight < below)


def print_habits(found: Sequence[Habit], attended: Attended, ids: Sequence[int], names: Names, token: int) -> None:
    """All heads: how their attention is spread over a text, and where they look from one token."""
    at = token - attended.first
    rows: list[list[console.Cell]] = []
    for habit in found:
        row = attended.weights[habit.layer - 1, habit.head - 1, at, : at + 1]
        best = [int(i) for i in (-row).argsort(kind="stable")[:NAMED]]
        looks = "  ".join(f"{names(ids[i])} {percent(float(row[i]))}" for i in best)
        shares = (habit.first, habit.previous, habit.itself, habit.rest)
        rows.append([f"{habit.layer}.{habit.head}", *map(percent, shares), looks])
    head = ["head", "first token", "the one before", "itself", "others", f"from {names(ids[at])} ({token})"]
    console.print_table(head, rows, right=frozenset({1, 2, 3, 4}))
    console.print_lines([[], [("Mean shares over the tokens of the text. A head that looks at the first token mostly "
                               "has nothing to say.", "dim")]])  # fmt: skip


def maps_as_json(attended: Attended) -> dict[str, Any]:
    """`weights[i][j][t][s]`: how much token t takes from token s, of head `head` + j of layer `layer` + i."""
    return {
        "first_position": attended.first, "layer": attended.layer, "head": attended.head,
        "weights": [[[[round(float(w), 6) for w in row[: t + 1]] for t, row in enumerate(head)] for head in layer]
                    for layer in attended.weights],
    }  # fmt: skip


# -- One step


def explanation_lines(
    e: Explanation, ids: Sequence[int], names: Names, config: ModelConfig
) -> tuple[str, list[tuple[str, str, str]], str]:
    """What is explained; its steps, each with a name, what happens and numbers that come of it; and what is taken."""
    C, D = len(e.query), len(e.x)
    token, number_of_token = names(ids[e.position]), e.first + e.position
    treated = {"normalised": config.qk_norm, "turned by its position": config.position == "rope"}
    and_then = " and ".join(name for name, used in treated.items() if used)
    title = (
        f"Layer {e.layer} of {config.n_layers}, head {e.head} of {config.n_heads}: what does {token} (token "
        f"{number_of_token}) take from the tokens up to it?"
    )
    query = f"q = W_q x: {D} numbers say what is known of {token}, {C} what it asks for"
    query += f"; {and_then}" if and_then else ""
    output = f"W_o z: {D} numbers of length {_length(e.update)}, which this head adds to what is known of {token},"
    steps = [
        ("Query", query, f"q = {vector(e.query, 6)}   length {_length(e.query)}"),
        ("Score", f"q · k: each token answers with a key, k = W_k x, of {C} numbers too", ""),
        ("Scale", f"÷ √{C} = {math.sqrt(C):.4g}, or the largest would take all", ""),
        ("Mask", f"−∞ for what comes after {token}: it is not read yet", ""),
        ("Softmax", "e to the power of each, divided by the sum of all: weights that add up to 1", ""),
        ("Sum", f"z = Σ weight · v: each token hands over its value, v = W_v x, of {C} numbers",
         f"z = {vector(e.output, 6)}   length {_length(e.output)}"),
        ("Output", f"{output} of length {_length(e.residual)}", ""),
    ]  # fmt: skip
    order = [int(i) for i in (-e.weights).argsort(kind="stable")[:NAMED] if e.weights[i] >= 0.01]
    takes = [f"{names(ids[i])} {percent(float(e.weights[i]))}" for i in order]
    return title, steps, f"{token} takes {console.listing(takes)}."


def print_explanation(e: Explanation, ids: Sequence[int], names: Names, config: ModelConfig) -> None:
    """Query, scores, scaling, mask, softmax and weighted sum, with the numbers of this model."""
    title, steps, conclusion = explanation_lines(e, ids, names, config)
    lines: list[list[tuple[str, str]]] = []
    for i, (name, what, numbers) in enumerate(steps, 1):
        first, *more = textwrap.wrap(what, max(30, console.width() - INDENT))
        lines.append([(f"{i} {name}".ljust(INDENT), "bold"), (first, "")])
        lines += [[(" " * INDENT + line, "")] for line in more]
        if numbers:
            lines.append([(" " * INDENT + numbers, HEAT)])
    console.print_lines([[(title, "bold")], [], *lines, []], wrap=True)
    _print_step_table(e, ids, names)
    console.print_lines([[], [(conclusion, "bold")]], wrap=True)


def _print_step_table(e: Explanation, ids: Sequence[int], names: Names) -> None:
    """A row a token; keys and values where there is room for them."""
    wide = console.width() >= WIDE
    rows: list[list[console.Cell]] = []
    for i, token in enumerate(ids):
        later = i > e.position
        style = "bold" if i == e.position else "dim" if later else ""
        cells = [*step_cells(e, i), "0" if later else f"{e.weights[i]:.3f}"]
        row: list[console.Cell] = [[(str(e.first + i), style)], [(names(token), style)]]
        row += [[(vector(e.keys[i]), "dim")]] * wide
        row += [[(cell, style)] for cell in cells]
        row.append([(bar(float(e.weights[i])), HEAT)])
        row += [[(vector(e.values[i]), "dim")]] * wide
        rows.append(row)
    total = [_large(sum(map(_power, e.masked))), f"{e.weights.sum():.3f}"]
    rows.append(["", "sum", *[""] * (3 + wide), *total, *[""] * (1 + wide)])
    head = ["#", "token", *["key k"] * wide, "2 q · k", "3 ÷ √", "4 mask", "5 e^", "weight", "", *["6 value v"] * wide]
    console.print_table(head, rows, right=frozenset({0, *range(2 + wide, 7 + wide)}))


def step_cells(e: Explanation, i: int) -> list[str]:
    """Of key i: its score, the same scaled, masked, and as a power of e."""
    later = i > e.position
    powers = "0" if later else _large(_power(e.masked[i]))
    return [number(e.scores[i]), number(e.scaled[i]), "−∞" if later else number(e.masked[i]), powers]


def _power(x: Any) -> float:
    return math.exp(min(700.0, float(x)))


def _large(x: float) -> str:
    return f"{x:,.0f}" if 1000 <= x < 1e6 else f"{x:.3g}"


def number(x: Any) -> str:
    return f"{float(x):.2f}".replace("-", "−")


def vector(v: np.ndarray, n: int = NUMBERS) -> str:
    return " ".join(f"{number(x):>5}" for x in v[:n]) + (" …" if len(v) > n else "")


def _length(v: np.ndarray) -> str:
    return f"{float((v.astype(float) ** 2).sum() ** 0.5):.2f}"


def explanation_as_json(e: Explanation, ids: Sequence[int], names: Names) -> dict[str, Any]:
    """Every number of the step; null stands for −∞."""

    def numbers(v: np.ndarray) -> list[Any]:
        return [round(float(x), 6) if math.isfinite(x) else None for x in v.tolist()]

    return {
        "layer": e.layer, "head": e.head, "key_head": e.key_head, "position": e.first + e.position,
        "x": numbers(e.x), "query": numbers(e.query),
        "keys": [
            {"position": e.first + i, "text": names(token), "key": numbers(e.keys[i]), "value": numbers(e.values[i])}
            for i, token in enumerate(ids)
        ],
        "scores": numbers(e.scores), "scaled": numbers(e.scaled), "masked": numbers(e.masked),
        "weights": numbers(e.weights), "output": numbers(e.output), "update": numbers(e.update),
        "residual": numbers(e.residual),
    }  # fmt: skip

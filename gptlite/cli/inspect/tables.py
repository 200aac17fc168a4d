"""A reading in a terminal and in files: the text in colours of surprisal, tokens, words and layers as tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gptlite.cli.shared import console
from gptlite.evaluation.surprisal import STEP_NAMES, step_of

if TYPE_CHECKING:
    from gptlite.evaluation.inspection import Reading, Word
    from gptlite.text.tokenizer import Tokenizer

MOST_ROWS = 200  # of a table for people; files have all
BAR = 12  # columns
SPACES = str.maketrans({" ": "_", "\n": "⏎", "\t": "⇥"})
EIGHTHS = " ▏▎▍▌▋▊▉█"
GUESS = 15  # columns of a layer's guess
CONVENTION = (
    "A word's bits are the sum of its tokens', the space before it included; a character of a script without spaces "
    "is a word."
)


class Names:
    """How tokens are written for people: spaces as "_", line breaks as "⏎", bytes that are no character as \\xe5."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, token: int) -> str:
        raw = self.tokenizer.token_bytes[token]
        if token == self.tokenizer.separator_id:
            return "(start)"
        try:
            return raw.decode().translate(SPACES)
        except UnicodeDecodeError:
            return "".join(f"\\x{byte:02x}" for byte in raw)


def step(bits: float) -> str:
    """The style of so many bits."""
    return console.STEPS[step_of(bits)]


def percent(p: float) -> str:
    return f"{100 * p:.0f} %" if p >= 0.0995 else f"{100 * p:.1f} %" if p >= 0.0005 else "0 %"


def bar(share: float, columns: int = BAR) -> str:
    """A share from 0 to 1 in blocks."""
    eighths = round(min(1.0, max(0.0, share)) * columns * 8)
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def pieces_of(reading: Reading) -> Iterator[str]:
    """The text in parts, one a token; the later tokens of a character have none."""
    at = 0
    for start, end in reading.spans:
        yield reading.text[max(at, start) : end]
        at = max(at, end)


# -- For people


def print_text(reading: Reading) -> None:
    """The text itself, each token in the colour of its bits, and what the colours mean."""
    pieces = zip(pieces_of(reading), map(step, reading.surprisal.tolist()), strict=True)
    lines: list[list[tuple[str, str]]] = [[]]
    for text, style in pieces:
        first, *more = text.split("\n")
        lines[-1].append((first, style))
        lines += [[(part, style)] for part in more]
    legend = [("surprisal in bits", "dim")]
    for name, style in zip(STEP_NAMES, console.STEPS, strict=True):
        legend += [("  ", ""), (f" {name} ", style)]
    console.print_lines([*lines, [], legend, []], wrap=True)


def summary(reading: Reading, words: Sequence[Word]) -> str:
    score = reading.score
    spoken = [word for word in words if word.kind == "word"]
    text = (
        f"{console.plural(score.tokens, 'token')}, {console.plural(len(spoken), 'word')}, "
        f"{console.plural(score.bytes, 'byte')}: {score.nats / math.log(2):,.1f} bits, "
        f"{score.bits_per_byte:.3f} bits per byte, perplexity per token {score.perplexity:,.1f}."
    )
    if spoken:
        hardest = max(spoken, key=lambda word: word.surprisal)
        text += f" Most surprising: {hardest.text} ({hardest.surprisal:.1f} bits)."
    return text


def print_tokens(reading: Reading, words: Sequence[Word], names: Names) -> None:
    bits = reading.surprisal.tolist()
    longest = max(10.0, *bits[:MOST_ROWS])
    of_word = {w.last - 1: f"{w.surprisal:.1f}" for w in words if w.last - w.first > 1}
    shown = range(min(MOST_ROWS, len(bits)))
    together = any(i in of_word for i in shown)
    tokens = [names(int(i)) for i in reading.ids[:MOST_ROWS]]
    room = console.width() - 46 - 6 * together - max(len(x) for x in tokens)
    rows: list[list[console.Cell]] = []
    for i in shown:
        row: list[console.Cell] = [
            str(i + 1), tokens[i], [(f"{bits[i]:.1f}", step(bits[i]))], [(bar(bits[i] / longest), "color(166)")],
        ]  # fmt: skip
        if together:
            row.append(of_word.get(i, ""))
        rows.append(
            [*row, f"{reading.entropy[i]:.1f}", f"{reading.rank[i]:,}", list(_alternatives(reading, i, names, room))]
        )
    head = ["#", "token", "bits", "", *["word"] * together, "entropy", "rank", "the model expected"]
    right = {0, 2, 4, 5, *([6] if together else [])}
    console.print_table(head, rows, right=frozenset(right))


def _alternatives(reading: Reading, i: int, names: Names, room: int) -> Iterator[tuple[str, str]]:
    """The likeliest tokens, as many as there is room for; the one that came stands out."""
    for n, (token, p) in enumerate(zip(reading.top[i].tolist(), reading.top_p[i].tolist(), strict=True)):
        text = f"{names(token)} {percent(p)}"
        room -= len(text) + 2
        if n and room < 0:
            return
        if n:
            yield "  ", ""
        yield text, "bold" if token == reading.ids[i] else ""


def print_words(words: Sequence[Word]) -> None:
    some = words[:MOST_ROWS]
    longest = max(10.0, *(word.surprisal for word in some))
    rows: list[list[console.Cell]] = [
        [
            str(i), word.text.translate(SPACES) if word.kind == "space" else word.text,
            [(f"{word.surprisal:.1f}", step(word.surprisal))], [(bar(word.surprisal / longest), "color(166)")],
            str(word.last - word.first), word.kind if word.kind != "word" else "",
        ]
        for i, word in enumerate(some, 1)
    ]  # fmt: skip
    console.print_table(["#", "word", "bits", "", "tokens", ""], rows, right=frozenset({0, 2, 4}))


def print_summary(reading: Reading, words: Sequence[Word], level: str) -> None:
    """What the tables add up to, and what they leave out."""
    n = len(reading.ids) if level == "token" else len(words)
    notes = [f"The first {MOST_ROWS} of {n:,} {level}s; --format tsv prints all."] if n > MOST_ROWS else []
    notes += [CONVENTION] if level == "word" else []
    console.print_lines([[], [(summary(reading, words), "")], *([(note, "dim")] for note in notes)], wrap=True)


def print_lens(reading: Reading, names: Names) -> None:
    """What each layer expected where each token came: a row a token, a column a layer."""
    assert reading.lens is not None
    tokens = [names(int(i)) for i in reading.ids[:MOST_ROWS]]
    n_layers = len(reading.lens.best) - 1
    fit = max(2, min(n_layers + 1, (console.width() - 8 - max(map(len, tokens))) // GUESS))
    layers = sorted({round(i * n_layers / (fit - 1)) for i in range(fit)})
    rows: list[list[console.Cell]] = []
    for i, token in enumerate(tokens):
        cells: list[console.Cell] = []
        for layer in layers:
            best, p = int(reading.lens.best[layer, i]), float(reading.lens.best_p[layer, i])
            came = best == reading.ids[i]
            cells.append([(f"{names(best)} {percent(p)}{' ✓' if came else ''}", "bold" if came else "")])
        rows.append([str(i + 1), token, *cells])
    titles = ["no block" if layer == 0 else f"block {layer}" for layer in layers]
    console.print_table(["#", "what came", *titles], rows, right=frozenset({0}))
    notes = ["Each column: the likeliest token if the model ended after that block (logit lens). ✓ is what came."]
    if fit <= n_layers:
        notes.append(f"{len(layers)} of {n_layers + 1} layers; --json prints all.")
    console.print_lines([[], *([(note, "dim")] for note in notes)], wrap=True)


# -- For programs


def as_json(reading: Reading, words: Sequence[Word], tokenizer: Tokenizer) -> dict[str, Any]:
    score = reading.score
    tokens: list[dict[str, Any]] = []
    for i, (token, (start, end)) in enumerate(zip(reading.ids.tolist(), reading.spans, strict=True)):
        tokens.append(
            {
                "text": tokenizer.decode([token]), "id": token, "start": start, "end": end,
                "surprisal_bits": _rounded(reading.surprisal[i]), "entropy_bits": _rounded(reading.entropy[i]),
                "rank": int(reading.rank[i]),
                "top": [
                    {"text": tokenizer.decode([other]), "id": other, "p": _rounded(p)}
                    for other, p in zip(reading.top[i].tolist(), reading.top_p[i].tolist(), strict=True)
                ],
            }
        )  # fmt: skip
        if reading.lens is not None:
            lens = reading.lens
            tokens[-1]["lens"] = [
                {
                    "layer": layer, "surprisal_bits": _rounded(lens.surprisal[layer, i]),
                    "rank": int(lens.rank[layer, i]),
                    "best": tokenizer.decode([int(lens.best[layer, i])]), "p": _rounded(lens.best_p[layer, i]),
                }
                for layer in range(len(lens.best))
            ]  # fmt: skip
    return {
        "text": reading.text,
        "surprisal_bits": _rounded(score.nats / math.log(2)),
        "n_bytes": score.bytes,
        "bits_per_byte": _rounded(score.bits_per_byte),
        "convention": CONVENTION,
        "tokens": tokens,
        "words": [
            {
                "text": w.text, "kind": w.kind, "start": w.start, "end": w.end, "token_span": [w.first, w.last],
                "surprisal_bits": _rounded(w.surprisal),
            }
            for w in words
        ],
    }  # fmt: skip


def token_table(reading: Reading, tokenizer: Tokenizer) -> Iterator[list[str]]:
    """A header, then a row a token."""
    k = reading.top.shape[1]
    alternatives = [f"{name}{i}" for i in range(1, k + 1) for name in ("top", "p")]
    layers = range(len(reading.lens.best)) if reading.lens else ()
    lens = [f"{name}_{layer}" for layer in layers for name in ("best", "best_p", "surprisal_bits")]
    yield ["number", "token", "id", "start", "end", "surprisal_bits", "entropy_bits", "rank", *alternatives, *lens]
    for i, (token, (start, end)) in enumerate(zip(reading.ids.tolist(), reading.spans, strict=True)):
        row = [str(i + 1), tokenizer.decode([token]), str(token), str(start), str(end)]
        row += [f"{reading.surprisal[i]:.6f}", f"{reading.entropy[i]:.6f}", str(reading.rank[i])]
        for other, p in zip(reading.top[i].tolist(), reading.top_p[i].tolist(), strict=True):
            row += [tokenizer.decode([other]), f"{p:.6f}"]
        if reading.lens is not None:
            for best, p, bits in zip(
                reading.lens.best[:, i], reading.lens.best_p[:, i], reading.lens.surprisal[:, i], strict=True
            ):
                row += [tokenizer.decode([int(best)]), f"{p:.6f}", f"{bits:.6f}"]
        yield row


def word_table(words: Sequence[Word]) -> Iterator[list[str]]:
    """A header, then a row a word."""
    yield ["number", "word", "kind", "start", "end", "n_tokens", "surprisal_bits"]
    for i, w in enumerate(words, 1):
        yield [str(i), w.text, w.kind, str(w.start), str(w.end), str(w.last - w.first), f"{w.surprisal:.6f}"]


def _rounded(number: Any) -> float:
    return round(float(number), 6)

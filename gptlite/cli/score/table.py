"""The table of `gptlite score`: every unit of every text, scored by one model or several."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlite.cli.score.items import Item, Items, in_batches
from gptlite.cli.score.writing import Rows, Sink
from gptlite.cli.shared import console
from gptlite.cli.shared.progress import CountedProgress
from gptlite.errors import CorpusError

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.device import Hardware
    from gptlite.evaluation.surprisal_table import Frequencies, Layout
    from gptlite.evaluation.surprisals import ScoredText, Scorer

TEXTS_AT_ONCE = 512
CHARACTERS_PER_TOKEN = 8  # of the texts before, that are kept for each token of the model's context


class Judge:
    """A model that scores texts, its name in the table, and the frequencies of the words it was trained on."""

    def __init__(self, loaded: Checkpoint, name: str, hardware: Hardware, split: str = "unicode") -> None:
        from gptlite.checkpoint.saved_step import read_words
        from gptlite.evaluation.surprisal_table import Frequencies
        from gptlite.evaluation.surprisals import Scorer
        from gptlite.storage.reader import Reader

        self.loaded, self.name = loaded, name
        self.scorer: Scorer = Scorer(loaded.model, loaded.tokenizer, hardware, split)
        with Reader(loaded.path, loaded.manifest) as reader:
            self.frequencies: Frequencies = Frequencies(read_words(reader))


def load_judges(models: Sequence[str] | None, hardware: Hardware, split: str = "unicode") -> Iterator[Judge]:
    """The models by the names of their folders; by their paths where two folders have the same name."""
    from gptlite.checkpoint import runs

    found = [runs.load(name, hardware.device) for name in models or [None]]
    paths = [Path(name) if name else each.path for name, each in zip(models or [None], found, strict=True)]
    short = [path.resolve().name if path.name in ("", ".", "..") else path.name for path in paths]
    for each, path, name in zip(found, paths, short, strict=True):
        yield Judge(each, name if short.count(name) == 1 else str(path), hardware, split)


def write_table(
    items: Items,
    judges: Sequence[Judge],
    layout: Layout,
    context: str,
    rows: Rows,
    sink: Sink,
    messages: console.Messages,
    *,
    to_file: bool,
) -> None:
    """Score all texts, in batches, and hand their rows to `sink`.

    - `context`: what is read before each text: "none", "previous" (the texts before it in its file), or a text.
    """
    number = 0
    reader = Before(context, judges)
    with counted(items, "text", messages, to_file=to_file) as progress:
        for batch in in_batches(items, TEXTS_AT_ONCE):
            before = reader.of(batch)
            first, number = number, number + len(batch)
            if number <= sink.done:  # written before the run was interrupted
                progress.skip(number + len(items.skipped))
                continue
            if first < sink.done:  # batches are always cut alike
                raise CorpusError("the texts are not those that the interrupted run read; start anew without --resume.")
            text = _text_of(batch, first, before, judges, layout, items, rows)
            sink.write(text, len(batch))
            progress.update(number + len(items.skipped))
    if number == 0:
        raise CorpusError("the files have no text to score.")


def counted(items: Items, noun: str, messages: console.Messages, *, to_file: bool) -> CountedProgress:
    """The progress of scoring `items`; without a bar where the rows themselves go to the terminal."""
    on_screen = not to_file and sys.stdout is not None and sys.stdout.isatty()
    return CountedProgress(messages, noun, items.count(), shares_terminal=on_screen)


class Before:
    """What is read before each text: "none", "previous" (the texts before it in its file), or a text."""

    def __init__(self, context: str, judges: Sequence[Judge]) -> None:
        self.context, self.previous, self.file = context, "", ""
        self.limit = CHARACTERS_PER_TOKEN * max(judge.loaded.config.context_length for judge in judges)

    def of(self, batch: Sequence[Item]) -> list[str]:
        """For each of the next texts, in their order."""
        found: list[str] = []
        for item in batch:
            previous = self.previous if item.file == self.file else ""
            self.file = item.file
            found.append(_spaced({"none": "", "previous": previous}.get(self.context, self.context), item.texts[0]))
            self.previous = f"{found[-1]}{item.texts[0]}"[-self.limit :] if self.context == "previous" else ""
        return found


def _spaced(before: str, text: str) -> str:
    """`before` with the space that separates it from `text`, unless its script has none."""
    from gptlite.text.words import UNSPACED

    if not before or before[-1].isspace() or UNSPACED.match(before[-1]) or UNSPACED.match(text):
        return before
    return f"{before} "


def _text_of(
    batch: Sequence[Item],
    first: int,
    before: Sequence[str],
    judges: Sequence[Judge],
    layout: Layout,
    items: Items,
    rows: Rows,
) -> str:
    scored: list[list[ScoredText]] = [judge.scorer.score([i.texts[0] for i in batch], before) for judge in judges]
    header = _header(items, layout)
    text = rows.header(list(header.values())) if first == 0 else ""
    rows.columns = list(header.values())
    for number, (item, together) in enumerate(zip(batch, zip(*scored, strict=True), strict=True), start=first):
        own: dict[tuple[str, str], Any] = {("given", name): value for name, value in item.values.items()}
        own |= {("score", "item"): number, ("score", "file"): item.file}
        found = layout.rows(together, judges[0].frequencies, item.regions[0])
        lines = [own | {("score", name): value for name, value in row.items()} for row in found]
        text += rows.lines([{header[key]: line[key] for key in header} for line in lines])
    return text


def _header(items: Items, layout: Layout) -> dict[tuple[str, str], str]:
    """The columns: those of the input, unchanged, then ours, renamed where the input has a column of that name."""
    ours = ["item", *(["file"] if len(items.files) > 1 else []), *layout.columns]
    given = {("given", name): name for name in items.header}
    return given | {("score", name): f"score_{name}" if name in items.header else name for name in ours}

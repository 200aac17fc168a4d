"""The text that a question about a whole corpus goes to: one that is named, else what the run was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gptlite.cli import console
from gptlite.errors import CorpusError, GptliteError, UsageError


@contextmanager
def training_text(step: Path, corpus_file: str | None, messages: console.Messages) -> Iterator[Iterator[str]]:
    """Blocks of the text to train on: of `corpus_file`, else of exactly what the run was trained on."""
    from gptlite import corpus, data, material, runs
    from gptlite.training import Watcher

    cache = data.cache_directory()
    if corpus_file is not None:
        with corpus.opened([corpus_file], cache, notice=messages.notice) as text:
            yield (block for _, block in text.blocks())
        return
    run = runs.Run(step.parent)
    info = run.read_info() if run.is_run() else {}
    files = info.get("arguments", ["-"])
    if "-" in files:
        raise UsageError(f"{step} does not say where its text is; name it with --corpus FILE.")
    watcher, lossy = Watcher(), info.get("lossy", False)
    with ExitStack() as stack:
        try:
            text = stack.enter_context(corpus.opened(files, cache, notice=messages.notice, lossy=lossy))
            inputs = material.hold_out(text, info["val"], watcher, lossy)
        except GptliteError as error:
            raise CorpusError(f"{str(error).rstrip('.')}; name the text with --corpus FILE.") from error
        train = material.shorten(inputs, info.get("text_limits"), watcher).train
        yield (block for _, block in train.blocks())

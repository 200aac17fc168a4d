"""The text that a question about a whole corpus goes to: one that is named, else what the run was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlite.cli.shared import console
from gptlite.errors import CheckpointError, CorpusError, UsageError

if TYPE_CHECKING:
    from gptlite.text.corpus import Text
    from gptlite.training.dataset import Inputs


@contextmanager
def training_text(
    step: Path,
    corpus_file: str | None,
    messages: console.Messages,
    *,
    remedy: str = "name the text with --corpus FILE",
    encoding: str | None = None,
) -> Iterator[Iterator[str]]:
    """Blocks of the text to train on: of `corpus_file`, else of exactly what the run was trained on.

    - `encoding`: of `corpus_file`; a run says itself how its text is read.
    - `remedy`: what an error says to do where that is not known, or not there.
    """
    from gptlite.paths import cache_directory
    from gptlite.text import corpus
    from gptlite.text.options import TextOptions

    if corpus_file is None:
        yield (block for _, block in texts_of_run(step, remedy).train.blocks())
        return
    reading = TextOptions(encoding=encoding)
    with corpus.opened([corpus_file], cache_directory(), notice=messages.notice, options=reading) as text:
        yield (block for _, block in text.blocks())


def held_out_text(run: str) -> Text:
    """All that a run held out, whatever part of it was scored. Raises `CorpusError` and `CheckpointError`."""
    from gptlite.training import dataset

    return dataset.reopen(info_of(run)).val


def info_of(run: str) -> Mapping[str, Any]:
    """The run.json of a run, or of the run that a step is of. Raises `CheckpointError`."""
    from gptlite.checkpoint import runs

    path = Path(run)
    found = runs.Run(path if runs.Run(path).is_run() else path.resolve().parent)
    if not found.is_run():
        raise CheckpointError(f"{run} is not a run, nor a step of one, so nothing is known of a held-out text.")
    return found.read_info()


def texts_of_run(
    step: Path, remedy: str = "name the text with --corpus FILE", *, with_background: bool = False
) -> Inputs:
    """What the run of this step was trained on, and what was held out.

    - `with_background`: background and replayed text count as trained on too.
    Raises `CorpusError`, `CheckpointError` or `UsageError`.
    """
    from gptlite.checkpoint import runs
    from gptlite.training import companions, dataset

    run = runs.Run(step.parent)
    if not run.is_run():
        raise UsageError(f"{step} does not say where its text is; {remedy}.")
    try:
        return (companions.reopen_all if with_background else dataset.reopen)(run.read_info())
    except (CorpusError, CheckpointError) as error:
        raise type(error)(f"{str(error).rstrip('.')}; {remedy}.") from error

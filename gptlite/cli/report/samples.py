"""What the best step of a run writes for its page, and how much of that stands in the text it was trained on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from gptlite.cli.shared import console, flags, memorisation, pages
from gptlite.config import SamplingConfig
from gptlite.errors import CorpusError, UsageError

if TYPE_CHECKING:
    from gptlite.checkpoint.runs import Run
    from gptlite.evaluation.memorisation import Report
    from gptlite.report.training import Writing

SEED = 1


def write(run: Run, n: int, messages: console.Messages) -> Writing | None:
    """So many samples, and the check for copies; where the text is gone, the reason why there is none.

    None when no step was saved, or no sample asked for. `Writing.command` does the same again.
    """
    from gptlite.checkpoint import saved_step
    from gptlite.generation import generate
    from gptlite.report.training import Writing

    best = run.best()
    if best is None or n == 0:
        return None
    loaded = saved_step.load(best.path)
    config = SamplingConfig(num_samples=n)
    texts = [sample.text for sample in generate.generate(loaded.model, loaded.tokenizer, "", config, seed=SEED)]
    model = pages.model_name(best.path) if best.path.is_absolute() else str(best.path)
    command = shlex.join(["gptlite", "generate", "-m", model, "-n", str(n), "--seed", str(SEED), "--check-copies"])
    try:
        found = memorisation.CopyCheck(best.path, None, messages).check(texts)
    except (CorpusError, UsageError) as error:  # the text has changed since, or is gone
        reason = flags.translate(str(error))
        for name in sorted(map(str, run.read_info().get("arguments", ())), key=len, reverse=True):
            reason = reason.replace(name, Path(name).name)  # a folder's name may have spaces
        return Writing(command, texts, f"What of this is copied cannot be said: {pages.without_folders(reason)}")
    return Writing(command, texts, memorisation.verdict(found), memorisation.table(found), _passages(found))


def _passages(found: Report) -> list[list[str]]:
    """The longest run of each text, and where it stands; a file's folder is nobody's business."""
    rows = [["", "characters", "stands in", "text"]]
    for i, text in enumerate(found.texts, 1):
        for run in text.runs[:1]:
            source = run.source
            place = f"{source.file.name}, line {source.line:,}, column {source.column:,}"
            places = f"{place}, the first of {source.count:,} places" if source.count > 1 else place
            rows.append([f"sample {i}", f"{run.end - run.start:,}", places, memorisation.shorten(run.text)])
    return rows

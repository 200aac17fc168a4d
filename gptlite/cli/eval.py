"""gptlite eval: how well a model predicts a text."""

from __future__ import annotations

import math
import time
from typing import Annotated

import typer

from gptlite.cli.shared import console, memorisation, options
from gptlite.errors import CheckpointError

MOST_CHECKED = 1 << 20  # bytes of a text in which copies are looked for


def evaluate(
    files: Annotated[
        list[str], typer.Argument(metavar="FILES", help="Text files, folders or patterns; - reads standard input.")
    ],
    model: options.ModelOption = None,
    lossy: options.LossyOption = False,
    encoding: options.EncodingOption = None,
    keep_line_ends: options.KeepLineEndsOption = False,
    separator: options.SeparatorOption = None,
    as_text: options.AsTextOption = False,
    check_copies: memorisation.CheckOption = False,
    corpus_file: memorisation.CorpusOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    threads: options.ThreadsOption = None,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Bits per byte and perplexity of a text.

    [bold]gptlite eval chapter.txt[/bold]
    """
    messages = console.Messages(quiet)
    from gptlite import device as machine
    from gptlite.checkpoint import runs
    from gptlite.evaluation import scoring
    from gptlite.paths import cache_directory
    from gptlite.text import corpus, token_files
    from gptlite.text.options import TextOptions

    reading = TextOptions(lossy, encoding, keep_line_ends, separator, as_text)
    hardware = machine.choose_hardware(device, dtype, threads)
    loaded = runs.load(model, hardware.device)
    copy_check = memorisation.open_check(check_copies, corpus_file, loaded.path, messages, json)
    with corpus.opened(files, cache_directory(), notice=messages.notice, smallest=1, options=reading) as text:
        tokens = token_files.tokenize(text, loaded.tokenizer)
        content = "".join(block for _, block in text.spread(MOST_CHECKED).blocks()) if check_copies else ""
    began = time.monotonic()
    result = scoring.score_model(loaded.model, loaded.tokenizer, tokens.ids(), hardware)
    seconds = time.monotonic() - began
    if not math.isfinite(result.loss):
        raise CheckpointError(
            f"the predictions of {loaded.path} are not numbers, so its weights are damaged; use another step."
        )
    messages.say(f"{loaded.path}", "dim")
    facts = {
        "model": str(loaded.path),
        "bits_per_byte": result.bits_per_byte,
        "perplexity": result.perplexity if math.isfinite(result.perplexity) else None,  # JSON has no infinity
        "loss": result.loss,
        "tokens": result.tokens,
        "bytes": result.bytes,
        "tokens_per_second": round(result.tokens / max(1e-9, seconds)),
    }
    if json:
        console.write_json(copy_check.add(facts, [content]))
        return
    rows = [
        ["bits per byte", f"{result.bits_per_byte:.4f}"],
        ["perplexity a token", f"{result.perplexity:.2f}"],
        ["loss (nats a token)", f"{result.loss:.4f}"],
        ["tokens", f"{result.tokens:,}"],
        ["bytes", f"{result.bytes:,}"],
    ]
    console.print_table(["measure", "value"], rows, right=frozenset({1}))
    copy_check.show([content])

"""gptlite eval: how well one model, or several, predict texts."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptlite.cli import attribution
from gptlite.cli.shared import answers, console, corpora, memorisation, modes, options, pages, schemas
from gptlite.errors import CheckpointError, LimitError, UsageError

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.device import Hardware
    from gptlite.text.corpus import Text

MOST_CHECKED = 1 << 20  # bytes of a text in which copies are looked for
READING = {"files", "lossy", "encoding", "keep_line_ends", "separator", "as_text", "text_field", "pairs", "given"}

MODES = modes.Modes(
    everywhere={"model", "device", "dtype", "threads", "json", "quiet"},
    only={
        "one model": {"show", "check_copies", "corpus_file", *READING},
        "several models": {"attribute", *READING},
        "--held-out": {"held_out", "show"},
    },
    needs={"corpus_file": "check_copies"},
)  # fmt: skip


def evaluate(
    call: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILES", help="Text files, folders or patterns; - reads standard input.", show_default="none"
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "-m", "--model", metavar="DIR", help="A run, a step or a Hugging Face model. Repeatable: several make a "
            "table of FILES and models.", show_default=options.NEWEST,
        ),
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(
            "--held-out", metavar="RUN", help="Instead of FILES, all text that RUN held out; by its best step where no "
            "model is named.", show_default="off",
        ),
    ] = None,
    attribute: Annotated[
        bool,
        typer.Option(
            "--attribute", help="Say which of the models each text resembles most, with an interval.",
        ),
    ] = False,
    lossy: options.LossyOption = False,
    encoding: options.EncodingOption = None,
    keep_line_ends: options.KeepLineEndsOption = False,
    separator: options.SeparatorOption = None,
    as_text: options.AsTextOption = False,
    text_field: options.TextFieldOption = None,
    pairs: options.PairsOption = None,
    given: options.GivenFieldsOption = None,
    show: Annotated[
        int, typer.Option("--show", metavar="N", min=0, help="Of pairs: show the N worst answers.", show_default="off")
    ] = 0,
    check_copies: memorisation.CheckOption = False,
    corpus_file: memorisation.CorpusOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    threads: options.ThreadsOption = None,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:  # fmt: skip
    """Bits per byte and perplexity of a text.

    [bold]gptlite eval chapter.txt[/bold]
    """
    several = len(model or []) > 1
    MODES.check(call, "--held-out" if held_out is not None else "several models" if several else "one model")
    if not files and held_out is None:
        raise UsageError("name the text to score, such as: gptlite eval chapter.txt (or --held-out RUN).")
    messages = console.Messages(quiet)
    from gptlite import device as machine
    from gptlite.checkpoint import runs
    from gptlite.paths import cache_directory
    from gptlite.text import corpus
    from gptlite.text.options import TextOptions

    reading = TextOptions(
        lossy, encoding, keep_line_ends, separator, as_text, text_field=text_field, pairs=pairs, given=given
    )
    hardware = machine.choose_hardware(device, dtype, threads)
    kept = None if held_out is None else corpora.held_out_text(held_out)
    with ExitStack() as held:

        def text_of(*names: str) -> Text:
            if kept is not None:
                return kept
            text = corpus.opened(list(names), cache_directory(), notice=messages.notice, smallest=1, options=reading)
            return held.enter_context(text)

        if held_out is not None:
            model, files = model or [held_out], [f"held out from {held_out}"]
        if model and several:
            loaded = (runs.load(name, hardware.device) for name in model)  # one after the other: memory may be scarce
            texts = {name: text_of(name) for name in dict.fromkeys(files or [])}
            if attribute:
                attribution.run(loaded, texts, hardware, json)
                return
            _print_matrix([score(each, texts, hardware) for each in loaded], [*texts], json)
            return
        one = runs.load(model[0] if model else None, hardware.device)
        copy_check = memorisation.open_check(check_copies, corpus_file, one.path, messages, json, encoding)
        text = text_of(*(files or []))
        content = "".join(block for _, block in text.spread(MOST_CHECKED).blocks()) if check_copies else ""
        (facts,) = score(one, {"": text}, hardware).values()
        answered = answers.of(one, text, messages) if one.tokenizer.pairs and text.layout else None
        longer = answers.of_longer(one, corpora.info_of(held_out)) if answered and held_out is not None else []
        if show and answered is None:
            raise UsageError("--show shows answers to pairs, and the model or the text has none.")
    messages.say(f"{one.path}", "dim")
    if json:
        more = answers.as_json(answered, longer, show) if answered else {}
        console.write_json(schemas.named("eval", copy_check.add({**facts, **more}, [content])))
        return
    _print_one(facts, answers.rows(answered, longer) if answered else [])
    if answered and show:
        answers.show(answered, show)
    copy_check.show([content])


def score(loaded: Checkpoint, texts: dict[str, Text], hardware: Hardware) -> dict[str, dict[str, Any]]:
    """What --json says of each of the texts. Raises `CheckpointError` where predictions are not numbers."""
    from gptlite.evaluation import scoring
    from gptlite.text import token_files

    scores: dict[str, dict[str, Any]] = {}
    for name, text in texts.items():
        tokens = token_files.tokenize(text, loaded.tokenizer)
        began = time.monotonic()
        scale = tokens.byte_scale(loaded.tokenizer.token_bytes)
        paired = loaded.tokenizer.pairs is not None and text.layout is not None
        context = loaded.config.context_length
        windows = scoring.AnswerWindows(tokens.ids(), loaded.tokenizer, context) if paired else None
        if paired and not windows:
            raise LimitError(f"no answer fits into the model's context of {context:,} tokens.")
        result = scoring.score_model(loaded.model, loaded.tokenizer, tokens.ids(), hardware, windows, byte_scale=scale)
        seconds = time.monotonic() - began
        if not math.isfinite(result.loss):
            raise CheckpointError(
                f"the predictions of {loaded.path} are not finite numbers, so its weights or its config are damaged; "
                "use another step."
            )
        scores[name] = {
            "model": str(loaded.path),
            "bits_per_byte": result.bits_per_byte,
            "perplexity": result.perplexity if math.isfinite(result.perplexity) else None,  # JSON has no infinity
            "loss_nats": result.loss,
            "n_tokens": result.tokens,
            "n_bytes": result.bytes,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(result.tokens / max(1e-9, seconds)),
        }
    return scores


def _print_one(facts: dict[str, Any], more: list[list[str]]) -> None:
    perplexity = "infinite" if facts["perplexity"] is None else f"{facts['perplexity']:,.2f}"
    rows = [
        ["bits per byte", f"{facts['bits_per_byte']:.4f}"],
        ["perplexity per token", perplexity],
        ["loss (nats per token)", f"{facts['loss_nats']:.4f}"],
        ["tokens", f"{facts['n_tokens']:,}"],
        ["bytes", f"{facts['n_bytes']:,}"],
        *more,
    ]
    console.print_table(["measure", "value"], rows, right=frozenset({1}))


def _print_matrix(scores: list[dict[str, dict[str, Any]]], names: list[str], json: bool) -> None:
    """Bits per byte: a row for each text, a column for each model, the best of a row in bold."""
    models = [next(iter(of_model.values()))["model"] for of_model in scores]
    bits = [[of_model[name]["bits_per_byte"] for of_model in scores] for name in names]
    if json:
        results = [{"file": name, **of_model[name]} for name in names for of_model in scores]
        facts = {"models": models, "files": names, "bits_per_byte": bits, "results": results}
        console.write_json(schemas.named("eval-matrix", facts))
        return
    rows: list[list[console.Cell]] = [
        [name, f"{scores[0][name]['n_bytes']:,}", *([(f"{x:.4f}", "bold" if x == min(row) else "")] for x in row)]
        for name, row in zip(names, bits, strict=True)
    ]
    head = ["bits per byte of", "bytes", *(pages.model_name(Path(model)) for model in models)]
    console.print_table(head, rows, right=frozenset(range(1, len(head))))

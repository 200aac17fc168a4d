"""gptlite generate: sample text from a model."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated

import typer

from gptlite.cli import console, options
from gptlite.config import SamplingConfig
from gptlite.errors import CorpusError, LimitError, UsageError

if TYPE_CHECKING:
    from gptlite.generation import Generation

SAMPLING, OUTPUT = "Sampling", "Output"
LONGEST_PROMPT = 64 << 20  # bytes


def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="What the text begins with; - reads standard input.", show_default="a new document"
        ),
    ] = None,
    prompt_option: Annotated[
        str | None, typer.Option("-p", "--prompt", metavar="TEXT", help="The same, as an option.", show_default="none")
    ] = None,
    prompt_file: Annotated[
        str | None,
        typer.Option("-f", "--prompt-file", metavar="FILE", help="The same, from a file.", show_default="none"),
    ] = None,
    model: options.ModelOption = None,
    num_samples: Annotated[
        int, typer.Option("-n", "--num-samples", metavar="N", help="How many samples.", rich_help_panel=SAMPLING)
    ] = SamplingConfig.num_samples,
    max_new_tokens: Annotated[
        int,
        typer.Option(
            "--max-new-tokens",
            metavar="N",
            parser=options.parse_count,
            help="Tokens to write.",
            rich_help_panel=SAMPLING,
        ),
    ] = SamplingConfig.max_new_tokens,
    temperature: Annotated[
        float,
        typer.Option(
            "-t",
            "--temperature",
            metavar="F",
            help="Higher is wilder; 0 always takes the likeliest.",
            rich_help_panel=SAMPLING,
        ),
    ] = SamplingConfig.temperature,
    top_k: Annotated[
        int,
        typer.Option(
            "-k",
            "--top-k",
            metavar="N",
            help="Keep the N likeliest and their equals; 0 is off.",
            rich_help_panel=SAMPLING,
        ),
    ] = SamplingConfig.top_k,
    top_p: Annotated[
        float,
        typer.Option(
            "--top-p", metavar="F", help="Keep the likeliest that reach F; 1 is off.", rich_help_panel=SAMPLING
        ),
    ] = SamplingConfig.top_p,
    min_p: Annotated[
        float,
        typer.Option(
            "--min-p", metavar="F", help="Keep those F times as likely as the best.", rich_help_panel=SAMPLING
        ),
    ] = SamplingConfig.min_p,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            "--stop",
            metavar="TEXT",
            help=r"Stop before this text; \n is a line break. Repeatable.",
            show_default="none",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="N", help="Same seed, same text.", show_default="random", rich_help_panel=SAMPLING
        ),
    ] = None,
    echo: Annotated[
        bool, typer.Option("--echo/--no-echo", help="Print the prompt before the text.", rich_help_panel=OUTPUT)
    ] = True,
    stream: Annotated[
        bool, typer.Option("--stream/--no-stream", help="Print the text as it is written.", rich_help_panel=OUTPUT)
    ] = True,
    device: options.DeviceOption = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            metavar="NAME",
            help="fp32, or int8 on a CPU: twice as quick, 0.0001 bits per byte worse.",
            rich_help_panel="Machine",
        ),
    ] = "fp32",
    compile: Annotated[
        str,
        typer.Option(
            "--compile",
            metavar="WHEN",
            help="auto, on or off: decode in machine code made on this computer.",
            rich_help_panel="Machine",
        ),
    ] = "auto",
    threads: options.ThreadsOption = None,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write text with a trained model.

    [bold]gptlite generate --prompt "Once upon a time"[/bold]
    """
    messages = console.Messages(quiet)
    config = SamplingConfig(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        max_new_tokens=max_new_tokens, num_samples=num_samples,
    )  # fmt: skip
    stops = [options.unescape(options.check_text(s, "--stop")) for s in stop or []]
    text = _read_prompt(prompt, prompt_option, prompt_file)
    if seed is None:
        seed = secrets.randbelow(2**31)

    from gptlite import decoding as decoders
    from gptlite import device as machine
    from gptlite import generation, runs

    hardware = machine.choose_hardware(device, "fp32", threads)
    loaded = runs.load(model, hardware.device)
    streamed = num_samples == 1 and stream and not json
    decoding = decoders.choose_decoding(loaded.model, max_new_tokens, dtype=dtype, compile=compile)
    work = generation.Generation(
        loaded.model, loaded.tokenizer, text, config, seed=seed, stop=stops, keep=not streamed, decoding=decoding
    )
    messages.say(f"{loaded.path} · seed {seed}", "dim")
    messages.say(decoding.describe(), "dim")
    context = loaded.config.context_length
    if len(work.prompt_ids) > context:
        messages.notice(f"the prompt has {len(work.prompt_ids):,} tokens; the model sees the last {context:,}.")
    if streamed:
        _stream(work, text if echo else "")
        return
    for _ in work:
        pass
    if json:
        console.write_json(_as_json(work, loaded, text, seed))
        return
    for i, sample in enumerate(work.samples):
        if num_samples > 1:
            messages.say(f"-- sample {i + 1} of {num_samples} --", "dim")
        console.write(f"{text if echo else ''}{sample.text}\n")


def _stream(work: Generation, prompt: str) -> None:
    """Write the text as it comes; an interrupted one keeps what is there and ends its line."""
    try:
        console.write(prompt)
        for chunk in work:
            console.write(chunk.text)
    except KeyboardInterrupt:
        console.write("\n")
        raise
    console.write("\n")


def _read_prompt(argument: str | None, option: str | None, file: str | None) -> str:
    given = [source for source in (argument, option, file) if source is not None]
    if len(given) > 1:
        raise UsageError("give the prompt once: as an argument, with -p, or with -f.")
    if file is None and given[:1] != ["-"]:
        return options.check_text(given[0], "the prompt") if given else ""
    name = "-" if file is None else file
    try:
        with options.open_text(name, "the prompt") as source:
            content = source.read(LONGEST_PROMPT + 1)
        if len(content) > LONGEST_PROMPT:
            raise LimitError(f"the prompt in {name} is longer than {LONGEST_PROMPT >> 20} MiB; give the end of it.")
        return content.decode("utf-8-sig")  # a mark at the beginning is no text
    except OSError as error:
        raise CorpusError(f"cannot read the prompt from {name}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"the prompt is not UTF-8: {error.reason} at byte {error.start:,}.") from error


def _as_json(work, loaded, prompt: str, seed: int) -> dict[str, object]:
    samples = [
        {
            "text": sample.text,
            "finish_reason": sample.finish_reason,
            "tokens": [{"id": token, "text": loaded.tokenizer.decode([token])} for token in sample.tokens],
        }
        for sample in work.samples
    ]
    new = sum(len(sample.tokens) for sample in work.samples)
    usage = {"prompt_tokens": len(work.prompt_ids), "completion_tokens": new}
    return {"model": str(loaded.path), "prompt": prompt, "seed": seed, "samples": samples, "usage": usage}

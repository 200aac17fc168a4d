"""gptlite generate: sample text from a model."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptlite.cli import console, options, samples
from gptlite.cli import interactive as by_turns
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
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="Write to FILE instead; a terminal still shows a text that streams. Between samples stands a line "
            f"{samples.DELIMITER}; FILE.jsonl gets an object a line for each.",
            show_default="standard output",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    logprobs: Annotated[
        int | None,
        typer.Option(
            "--logprobs",
            metavar="K",
            help="Below the text, how probable each token was to the model (before temperature and cuts), and the K "
            "likeliest. With --json they are each token's top, and logprob is in nats.",
            show_default="off",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    color: Annotated[
        str,
        typer.Option(
            "--color",
            metavar="NAME",
            help="surprise tints the text on a terminal by the bits that each token was worth; none does not.",
            rich_help_panel=OUTPUT,
        ),
    ] = samples.Form.color,
    interactive: Annotated[
        bool,
        typer.Option(
            "-i",
            "--interactive",
            help="Write by turns: what you type is joined to the text, and the model goes on; /help lists commands.",
            show_default="off",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    device: options.DeviceOption = "auto",
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
    form = samples.Form(echo, stream, json, logprobs, color, None if out in (None, "-") else Path(out))
    stops = [options.unescape(options.check_text(s, "--stop")) for s in stop or []]
    if interactive:
        by_turns.check(form, config, "-" in (prompt, prompt_option, prompt_file))
    text = _read_prompt(prompt, prompt_option, prompt_file)
    if seed is None:
        seed = secrets.randbelow(2**31)

    from gptlite import device as machine
    from gptlite import generation, runs

    hardware = machine.choose_hardware(device, "fp32", threads)
    loaded = runs.load(model, hardware.device)
    messages.say(f"{loaded.path} · seed {seed}", "dim")
    writer = samples.Writer(form, loaded, num_samples, messages)

    def begin(text: str, config: SamplingConfig, seed: int) -> Generation:
        return generation.Generation(
            loaded.model, loaded.tokenizer, text, config,
            seed=seed, stop=stops, keep=writer.keeps, logprobs=writer.recorded,
        )  # fmt: skip

    work = begin(text, config, seed)
    context = loaded.config.context_length
    if len(work.prompt_ids) > context:
        messages.notice(f"the prompt has {len(work.prompt_ids):,} tokens; the model sees the last {context:,}.")
    if interactive:
        by_turns.Session(begin, config, seed, writer, patient=sys.stdin.isatty()).run(by_turns.read_line, text)
        return
    writer.write(work, text, seed)
    writer.close()


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

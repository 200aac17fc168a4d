"""gptlite generate: sample text from a model."""

from __future__ import annotations

import dataclasses
import secrets
from typing import Annotated

import typer

from gptlite.cli.generate import interactive as by_turns
from gptlite.cli.generate import samples, work
from gptlite.cli.generate.prompts import Prompt, read_prompt, read_prompts
from gptlite.cli.shared import console, memorisation, modes, options, outputs, sources
from gptlite.config import LARGEST_NUMBER, SamplingConfig
from gptlite.errors import UsageError
from gptlite.generation.stopping import Stopping

SAMPLING, STOPPING, OUTPUT = "Sampling", "Stopping", "Output"
_ONE_PROMPT = {"prompt", "prompt_option", "prompt_file"}
_WRITING = {
    "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "no_repeat_ngram", "logit_bias", "ban", "seed", "sample", "max_new_tokens", "min_new_tokens",
    "stop", "stop_at", "out", "force", "logprobs", "color", "dtype", "compile", "given", "no_template",
}  # fmt: skip
_SAMPLES = _WRITING | {"num_samples", "stream", "check_copies", "corpus", "batch_size", "json"}
FROM_FILE = "a file or standard input"
MODES = modes.Modes(
    everywhere={"model", "device", "threads", "quiet", "echo", "escapes", "prompts", "choice", "interactive"},
    only={
        "a prompt": _ONE_PROMPT | _SAMPLES,
        "--prompts": _SAMPLES,
        "--choice": _ONE_PROMPT | {"per_token", "json"},
        "-i": _ONE_PROMPT | _WRITING,
        FROM_FILE: {"encoding"},
    },
    needs={"per_token": "choice", "corpus": "check_copies", "force": "out",
           "escapes": ("stop", "ban", "choice", "logit_bias")},
    exclusive=[("given", "no_template"), ("interactive", "choice"), ("interactive", "prompts"),
               ("prompt", "prompts"), ("prompt_option", "prompts"), ("prompt_file", "prompts")],
)  # fmt: skip


def generate(
    call: typer.Context,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="What the text begins with; - reads standard input.", hidden=True),
    ] = None,
    prompt_option: Annotated[
        str | None, typer.Option("-p", "--prompt", metavar="TEXT", help="PROMPT, as an option.", show_default=False)
    ] = None,
    prompt_file: Annotated[
        str | None,
        typer.Option("-f", "--prompt-file", metavar="FILE", help="PROMPT, from a file.", show_default=False),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="Continue each line of a text, or a table's column prompt.",
            show_default=False,
        ),
    ] = None,
    choice: Annotated[
        list[str] | None,
        typer.Option(
            "--choice",
            metavar="TEXT",
            help="Write the likeliest of these texts; repeatable.",
            show_default=False,
        ),
    ] = None,
    per_token: Annotated[
        bool, typer.Option("--per-token", help="Compare choices by their mean per token.", hidden=True)
    ] = False,
    model: options.ModelOption = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--given",
            metavar="NAME=VALUE",
            help="A condition that the model was trained with. Repeatable.",
            show_default=False,
        ),
    ] = None,
    no_template: Annotated[
        bool,
        typer.Option(
            "--no-template", help="Of a model of pairs: continue PROMPT as it stands.", show_default=False, hidden=True
        ),
    ] = False,
    num_samples: Annotated[
        int, typer.Option("-n", "--num-samples", metavar="N", help="How many samples.", rich_help_panel=SAMPLING)
    ] = SamplingConfig.num_samples,
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample",
            metavar="N",
            help="Write sample N alone.",
            show_default="all",
            hidden=True,
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    temperature: Annotated[
        float,
        typer.Option(
            "-t",
            "--temperature",
            metavar="F",
            help="Higher is more random; 0 takes the likeliest.",
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
            show_default=False,
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
    typical_p: Annotated[
        float,
        typer.Option(
            "--typical-p",
            metavar="F",
            help="Keep what is about as surprising as usual, up to F; 1 is off.",
            show_default=False,
            hidden=True,
            rich_help_panel=SAMPLING,
        ),
    ] = SamplingConfig.typical_p,
    repetition_penalty: Annotated[
        float,
        typer.Option(
            "--repetition-penalty",
            metavar="F",
            help="Make tokens that were used F times less likely; 1 is off.",
            show_default=False,
            rich_help_panel=SAMPLING,
        ),
    ] = SamplingConfig.repetition_penalty,
    presence_penalty: Annotated[
        float,
        typer.Option(
            "--presence-penalty",
            metavar="F",
            help="Take F from the logits of tokens that the text has; 0 is off.",
            show_default=False,
            hidden=True,
            rich_help_panel=SAMPLING,
        ),
    ] = SamplingConfig.presence_penalty,
    frequency_penalty: Annotated[
        float,
        typer.Option(
            "--frequency-penalty",
            metavar="F",
            help="Take F from the logits of tokens for each time that the text has them; 0 is off.",
            show_default=False,
            hidden=True,
            rich_help_panel=SAMPLING,
        ),
    ] = SamplingConfig.frequency_penalty,
    no_repeat_ngram: Annotated[
        int,
        typer.Option(
            "--no-repeat-ngram",
            metavar="N",
            help="No N tokens in a row twice, in prompt and text; 0 is off.",
            show_default=False,
            rich_help_panel=SAMPLING,
        ),
    ] = SamplingConfig.no_repeat_ngram,
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(
            "--logit-bias",
            metavar="TEXT=F",
            help="Add F to the logits of a word or other text, or of the token with an id, as #7=F. Repeatable.",
            show_default=False,
            hidden=True,
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    ban: Annotated[
        list[str] | None,
        typer.Option(
            "--ban",
            metavar="TEXT",
            help="Never write this text. Repeatable.",
            show_default=False,
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="N", help="Same seed, same text.", show_default="random", rich_help_panel=SAMPLING
        ),
    ] = None,
    max_new_tokens: Annotated[
        int,
        typer.Option(
            "--max-new-tokens",
            metavar="N",
            parser=options.parse_count,
            help="Tokens to write.",
            rich_help_panel=STOPPING,
        ),
    ] = SamplingConfig.max_new_tokens,
    min_new_tokens: Annotated[
        int,
        typer.Option(
            "--min-new-tokens",
            metavar="N",
            parser=options.parse_count,
            help="Tokens before which nothing ends the text; 0 is off.",
            show_default=False,
            hidden=True,
            rich_help_panel=STOPPING,
        ),
    ] = SamplingConfig.min_new_tokens,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            "--stop",
            metavar="TEXT",
            help="Stop before this text. Repeatable.",
            show_default=False,
            rich_help_panel=STOPPING,
        ),
    ] = None,
    escapes: Annotated[
        bool,
        typer.Option(
            "--escapes",
            help=r"Read \n, \r, \t and \\ in the texts of --stop, --ban, --choice and --logit-bias.",
            show_default=False,
            hidden=True,
            rich_help_panel=STOPPING,
        ),
    ] = False,
    stop_at: Annotated[
        str,
        typer.Option(
            "--stop-at",
            metavar="UNIT",
            help="First sentence, paragraph, line or document.",
            rich_help_panel=STOPPING,
        ),
    ] = "document",
    encoding: Annotated[str | None, options.input_encoding()] = None,
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
            help="Write to FILE instead; .jsonl gets an object each.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    logprobs: Annotated[
        int | None,
        typer.Option(
            "--logprobs",
            metavar="K",
            help="Show each token's probability, and the K likeliest.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    color: Annotated[
        str,
        typer.Option(
            "--color",
            metavar="NAME",
            help="surprise tints each token by its bits; none does not.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = samples.Form.color,
    force: outputs.ForceOption = False,
    interactive: Annotated[
        bool,
        typer.Option(
            "-i",
            "--interactive",
            help="Write by turns with the model; /help lists commands.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    check_copies: memorisation.CheckOption = False,
    corpus: memorisation.CorpusOption = None,
    batch_size: options.TextsAtOnceOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DecodeDtypeOption = "fp32",
    compile: options.DecodeCompileOption = "auto",
    threads: options.ThreadsOption = None,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write text that begins with PROMPT (- reads it from standard input).

    [bold]gptlite generate --prompt "Once upon a time"[/bold]
    """
    mode = "-i" if interactive else "--choice" if choice else "--prompts" if prompts is not None else "a prompt"
    reads = "-" in (prompt, prompt_option) or {prompt_file, prompts, corpus} != {None}
    MODES.check(call, mode, *[FROM_FILE] * reads)
    config = SamplingConfig(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical_p,
        repetition_penalty=repetition_penalty, presence_penalty=presence_penalty, frequency_penalty=frequency_penalty,
        no_repeat_ngram=no_repeat_ngram, bans=tuple(_texts(ban, "--ban", escapes)),
        logit_bias=tuple(options.parse_bias(text, escapes) for text in logit_bias or []),
        min_new_tokens=min_new_tokens, max_new_tokens=max_new_tokens, num_samples=num_samples,
    )  # fmt: skip
    form = samples.make_form(out, echo=echo, stream=stream, json=json, logprobs=logprobs, color=color)
    outputs.check(form.out, force=force, inputs=[prompt_file, prompts, corpus], model=model)
    stops, choices = _texts(stop, "--stop", escapes), _texts(choice, "--choice", escapes)
    Stopping(stops, stop_at)  # what is wrong with them is said now
    if interactive:
        by_turns.check(form, config, "-" in (prompt, prompt_option, prompt_file))
    ends = sources.LineEnds([model])
    if prompts is not None:
        requests = read_prompts(prompts, encoding)
    else:
        requests = [Prompt(read_prompt(prompt, prompt_option, prompt_file, encoding))]
    requests = [dataclasses.replace(each, text=ends.read(each.text)) for each in requests]
    choices = [ends.read(text) for text in choices]
    asked = work.Request(
        prompts=requests, config=config, form=form, numbers=_numbers(sample, num_samples), stops=stops,
        stop_at=stop_at, seed=secrets.randbelow(2**31) if seed is None else seed, check_copies=check_copies,
        corpus=corpus, encoding=encoding, batch_size=batch_size, model=model, device=device, dtype=dtype,
        compile=compile, threads=threads,
        given=_conditions(given), template=not no_template,
    )  # fmt: skip
    messages = console.Messages(quiet)
    ends.say(messages)
    if choices:
        work.choose(asked, choices, per_token, messages)
    elif interactive:
        work.take_turns(asked, messages)
    else:
        work.write(asked, messages)


def _conditions(given: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given or []:
        name, equals, value = options.check_text(text, "--given").partition("=")
        if not (equals and name.strip() and value.strip()):
            raise UsageError(f"--given needs a name and a value, such as author=Austen, not '{text}'.")
        found[name.strip()] = " ".join(value.split())
    return found


def _texts(given: list[str] | None, option: str, escapes: bool) -> list[str]:
    return [options.read_text(text, option, escapes) for text in given or []]


def _numbers(sample: int | None, num_samples: int) -> list[int]:
    """Which samples to write, from 0 on."""
    if sample is None:
        return list(range(num_samples))
    last = num_samples if num_samples > 1 else LARGEST_NUMBER
    if not 1 <= sample <= last:
        raise UsageError(f"--sample must be between 1 and {last}, not {sample}.")
    return [sample - 1]

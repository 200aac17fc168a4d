"""What `gptlite generate` does once its options are read: samples, turns, or the likeliest of several texts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gptlite.cli.generate import dialogue, interactive, samples
from gptlite.cli.generate.prompts import Prompt
from gptlite.cli.shared import console, memorisation, schemas
from gptlite.config import SamplingConfig
from gptlite.errors import UsageError

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.generation.decoding import Decoding
    from gptlite.generation.generate import Generation


@dataclass(frozen=True)
class Request:
    """The options of the command. `numbers`: which samples of each prompt are written, from 0 on."""

    prompts: Sequence[Prompt]
    config: SamplingConfig
    form: samples.Form
    numbers: Sequence[int]
    stops: Sequence[str]
    stop_at: str
    seed: int
    check_copies: bool
    corpus: str | None
    encoding: str | None
    batch_size: int | None
    model: str | None
    device: str
    dtype: str
    compile: str
    threads: int | None
    given: Mapping[str, str] = field(default_factory=dict[str, str])
    template: bool = True


class Work:
    """A loaded model that writes what a request asks for."""

    def __init__(self, request: Request, messages: console.Messages) -> None:
        from gptlite.generation import decoding

        self.request, self.messages = request, messages
        self.loaded = load(request)
        self.pairs = self.loaded.tokenizer.pairs if request.template else None
        if request.given and self.pairs is None:
            raise UsageError(f"--given: {self.loaded.path} was trained without conditions.")
        if not request.template and self.loaded.tokenizer.pairs is None:
            raise UsageError(f"--no-template: {self.loaded.path} is a model of plain text and has no template.")
        which = f" · sample {request.numbers[0] + 1}" if request.numbers != [*range(request.config.num_samples)] else ""
        messages.say(f"{self.loaded.path} · seed {request.seed}{which}", "dim")
        tokens = request.config.max_new_tokens
        self.decoding: Decoding = decoding.choose_decoding(
            self.loaded.model, tokens, dtype=request.dtype, compile=request.compile
        )
        if self.decoding.packed or request.dtype == "int8" or request.compile == "on":  # else it is as everywhere
            messages.say(self.decoding.describe(), "dim")
        copies = memorisation.open_check(
            request.check_copies, request.corpus, self.loaded.path, messages, request.form.json, request.encoding
        )
        form = replace(request.form, echo=request.form.echo and not self.answers)
        self.writer = samples.Writer(
            form, self.loaded, messages, copies, n_samples=len(request.numbers),
            n_prompts=len(request.prompts), columns=[prompt.columns for prompt in request.prompts],
        )  # fmt: skip

    @property
    def answers(self) -> bool:
        """Does the model answer prompts, instead of continuing them?"""
        return self.pairs is not None and self.pairs.kind != "given"

    def begin(self, text: str, config: SamplingConfig, seed: int, stop_at: str) -> Generation:
        """Begin to continue a text, or to answer it."""
        from gptlite.generation import generate
        from gptlite.text.pairs import encode_messages

        if self.pairs is None:
            ids = generate.plain_prompt(self.loaded.tokenizer, text)
        else:
            ids = encode_messages(self.loaded.tokenizer, *self.pairs.prompt(text, self.request.given))
        return self._begin(text, ids, config, seed, stop_at)

    def reply(self, messages: Sequence[tuple[str, str]], config: SamplingConfig, seed: int, stop_at: str) -> Generation:
        """Begin to answer the last of the messages of a dialogue."""
        from gptlite.text.pairs import encode_messages

        first = self.pairs.prompt("", self.request.given)[0][:-1] if self.pairs else []
        ids = encode_messages(self.loaded.tokenizer, [*first, *messages], opened="")
        return self._begin(messages[-1][1], ids, config, seed, stop_at)

    def _begin(self, text: str, ids: list[int], config: SamplingConfig, seed: int, stop_at: str) -> Generation:
        from gptlite.generation import generate

        request = self.request
        return generate.Generation(
            self.loaded.model, self.loaded.tokenizer, text, config, seed=seed, numbers=request.numbers,
            stop=request.stops, stop_at=stop_at, keep=self.writer.keeps, batch_size=request.batch_size,
            logprobs=self.writer.recorded, decoding=self.decoding, prompt_ids=ids,
        )  # fmt: skip

    def begin_prompt(self, prompt: Prompt) -> Generation:
        """Begin to continue one of the prompts, and say so where it is longer than what the model reads."""
        request = self.request
        seed = request.seed if prompt.seed is None else prompt.seed
        begun = self.begin(prompt.text, request.config, seed, request.stop_at)
        if (n := len(begun.prompt_ids)) > (context := self.loaded.config.context_length):
            which = "the prompt" if len(request.prompts) == 1 else f"the prompt '{prompt.text[:30]}…'"
            self.messages.notice(f"{which} has {n:,} tokens; the model sees the last {context:,}.")
        return begun


def load(request: Request) -> Checkpoint:
    from gptlite import device
    from gptlite.checkpoint import runs

    hardware = device.choose_hardware(request.device, "fp32", request.threads)
    return runs.load(request.model, hardware.device)


def write(request: Request, messages: console.Messages) -> None:
    """Samples of each prompt."""
    from gptlite.generation import generate

    work = Work(request, messages)
    begun = map(work.begin_prompt, request.prompts)
    for each in begun if work.writer.streams else generate.generate_together(begun, request.batch_size):
        work.writer.write(each)
    work.writer.close()


def take_turns(request: Request, messages: console.Messages) -> None:
    """A person and the model write by turns."""
    work = Work(request, messages)
    talks = work.pairs is not None and work.pairs.kind == "messages"
    session = (dialogue.Dialogue if talks else interactive.Session)(
        work.reply if talks else work.begin, request.config, request.seed, work.writer, stop_at=request.stop_at,
        patient=sys.stdin.isatty(),
    )  # fmt: skip
    first = request.prompts[0]
    session.run(interactive.read_line, first.text if talks else work.begin_prompt(first).prompt)


def choose(request: Request, choices: Sequence[str], per_token: bool, messages: console.Messages) -> None:
    """After each prompt the likeliest of `choices`, and how likely each is."""
    from gptlite.generation.multiple_choice import score_choices

    loaded = load(request)
    messages.say(str(loaded.path), "dim")
    for prompt in request.prompts:
        scored = score_choices(loaded.model, loaded.tokenizer, prompt.text, list(choices))
        scored.sort(key=lambda choice: -(choice.logprob_per_token if per_token else choice.logprob))
        if request.form.json:
            listed = [
                {
                    "text": c.text, "logprob_nats": c.logprob, "logprob_nats_per_token": c.logprob_per_token,
                    "token_ids": c.tokens,
                }
                for c in scored
            ]  # fmt: skip
            facts = {"model": str(loaded.path), "prompt": prompt.text, **prompt.as_columns(), "choices": listed}
            console.write_json(schemas.named("choice", facts))
            continue
        for choice in scored:
            per = f"{choice.logprob_per_token:.2f} per token, {console.plural(len(choice.tokens), 'token')}"
            messages.say(f"log-probability {choice.logprob:8.2f}, {per}: {choice.text}", "dim")
        console.write(f"{prompt.text if request.form.echo else ''}{scored[0].text}\n")

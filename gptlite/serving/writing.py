"""From what a request asks for to texts that are written, and from these to pieces that are sent."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from gptlite.errors import GptliteError, as_fields
from gptlite.generation.constraints import Constraints
from gptlite.generation.continuous import Text, begin_text
from gptlite.generation.generate import tokenize_prompt
from gptlite.generation.logprobs import Alternative, count_spelling, logprobs_of
from gptlite.generation.stopping import Stopping
from gptlite.model import GPT
from gptlite.randomness import derive
from gptlite.serving.engine import State
from gptlite.serving.fields import BadRequest
from gptlite.serving.requests import Ids, WritingRequest
from gptlite.text.pairs import encode_messages
from gptlite.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenInfo:
    """A token, its log-probability (nats; None for the first of a text) and the likeliest ones in its place.

    `offset`: how many characters stand before it.
    """

    id: int
    logprob: float | None
    top: Sequence[Alternative]
    offset: int


@dataclass(frozen=True)
class Piece:
    """A part of a text, with its tokens where they were asked for; `finish_reason` where it is the last."""

    index: int
    text: str
    tokens: Sequence[TokenInfo] = ()
    finish_reason: str | None = None


@dataclass(frozen=True)
class Opening:
    """A prompt: its ids, and with `echo` how it reads and what the model thought of its tokens."""

    ids: list[int]
    text: str = ""
    tokens: Sequence[TokenInfo] = ()


@dataclass
class Begun:
    """What a request begins: a text for each sample of each prompt, in this order, and the seed of them all."""

    asked: WritingRequest
    seed: int
    openings: list[Opening]
    texts: list[Text] = field(default_factory=list[Text])

    @property
    def n_prompt_tokens(self) -> int:
        return sum(len(opening.ids) for opening in self.openings)


def begin(asked: WritingRequest, model: GPT, tokenizer: Tokenizer) -> Begun:
    """Tokenize the prompts and make ready to write. Raises `BadRequest`."""
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    try:
        constraints = Constraints(asked.config, tokenizer)
    except GptliteError as error:
        raise BadRequest(as_fields(error)) from None
    begun = Begun(asked, seed, _openings(asked, model, tokenizer))
    for opening in begun.openings:
        for number in range(asked.config.num_samples):
            stopping = Stopping(asked.stop, asked.stop_at)
            begun.texts.append(
                begin_text(
                    opening.ids, derive(seed, number), tokenizer, asked.config, constraints, stopping, asked.logprobs
                )
            )
    return begun


def _openings(asked: WritingRequest, model: GPT, tokenizer: Tokenizer) -> list[Opening]:
    if asked.messages:
        return [Opening(_conversation(asked, model, tokenizer))]
    openings = [
        Opening(tokenize_prompt(tokenizer, prompt) if isinstance(prompt, str) else list(prompt))
        for prompt in asked.prompts
    ]
    if not asked.echo:
        return openings
    return [
        _echoed(prompt, opening.ids, model, tokenizer, asked.logprobs)
        for prompt, opening in zip(asked.prompts, openings, strict=True)
    ]


def _conversation(asked: WritingRequest, model: GPT, tokenizer: Tokenizer) -> list[int]:
    if tokenizer.pairs is None or tokenizer.pairs.kind == "given":
        raise BadRequest(
            "this model was not trained on questions and answers, so it has no chat template; use /v1/completions.",
            field="messages", code="unsupported_model",
        )  # fmt: skip
    ids = encode_messages(tokenizer, asked.messages, opened="")
    if len(ids) >= (context := model.config.context_length):
        raise BadRequest(
            f"the messages have {len(ids):,} tokens, and the model reads {context:,} with its answer; leave out the "
            "oldest.",
            field="messages", code="context_length_exceeded",
        )  # fmt: skip
    return ids


def _echoed(prompt: str | Ids, ids: list[int], model: GPT, tokenizer: Tokenizer, k: int | None) -> Opening:
    text = prompt if isinstance(prompt, str) else tokenizer.decode(ids)
    if k is None:
        return Opening(ids, text)
    if tokenizer.pairs is not None:
        raise BadRequest("echo with logprobs is for models of plain text, and this one answers prompts.", field="echo")
    own = ids if not isinstance(prompt, str) else tokenizer.encode(tokenizer.begin(prompt))
    if len(ids) > (context := model.config.context_length):
        raise BadRequest(
            f"echo with logprobs reads the prompt at once, and it has {len(ids):,} tokens; {context:,} are the most.",
            field="prompt", code="context_length_exceeded",
        )  # fmt: skip
    return Opening(ids, text, _read_prompt(model, tokenizer, ids, len(own), k))


@torch.inference_mode()
def _read_prompt(model: GPT, tokenizer: Tokenizer, ids: list[int], n_own: int, k: int) -> list[TokenInfo]:
    """What the model thought of the last `n_own` tokens of a prompt."""
    if not n_own:
        return []
    logits = model(torch.tensor([ids], device=model.head.weight.device))[0]
    chosen, top = logprobs_of(logits[:-1], torch.tensor(ids[1:], dtype=torch.long), k)
    known: list[tuple[float | None, list[Alternative]]] = [(None, []), *zip(chosen, top, strict=True)]
    decoder, offset, found = tokenizer.stream(), 0, list[TokenInfo]()
    for token, (logprob, alternatives) in zip(ids[-n_own:], known[-n_own:], strict=True):
        found.append(TokenInfo(token, logprob, alternatives, offset))
        offset += len(decoder.push(token))
    return found


class Progress:
    """How much of one text was taken: call `take` for what is new."""

    def __init__(self, index: int, text: Text, opening: Opening, tokenizer: Tokenizer, echo: bool) -> None:
        self.index, self.text, self.tokenizer = index, text, tokenizer
        self.before = opening if echo else None  # comes first
        self.offset = len(opening.text) if echo else 0
        self.n_characters = self.n_tokens = self.n_spelled = 0
        self.decoder = tokenizer.stream()
        self.ended = False

    def take(self, state: State) -> Piece | None:
        """What has come since the last call; None where that is nothing."""
        if self.ended:
            return None
        text, tokens = state.text[self.n_characters :], list[TokenInfo]()
        self.n_characters = len(state.text)
        if self.text.logprobs is not None:
            tokens = self._take_tokens(state)
        self.ended = state.finish_reason is not None
        if self.before is not None:
            text, tokens = self.before.text + text, [*self.before.tokens, *tokens]
            self.before = None
        if not (text or tokens or self.ended):
            return None
        return Piece(self.index, text, tokens, state.finish_reason)

    def take_last(self, states: Sequence[State]) -> Piece:
        """All of a text that has ended."""
        piece = self.take(states[self.index])
        assert piece is not None and piece.finish_reason
        return piece

    def _take_tokens(self, state: State) -> list[TokenInfo]:
        """The tokens that spell what has come; a stop string, and what follows it, is left out."""
        sample, taken = self.text.row.sample, list[TokenInfo]()
        end = state.n_tokens
        if state.finish_reason:
            end = count_spelling(self.tokenizer, sample.tokens[:end], state.text)
        while self.n_tokens < end and (self.n_spelled < len(state.text) or state.finish_reason):
            i = self.n_tokens
            taken.append(TokenInfo(sample.tokens[i], sample.logprobs[i], sample.top[i], self.offset + self.n_spelled))
            self.n_spelled += len(self.decoder.push(sample.tokens[i]))
            self.n_tokens += 1
        return taken

"""What clients ask for: the bodies of OpenAI's protocol, checked and read into plain values.

Fields that would do nothing are refused, except labels such as `user`. Settings have the defaults of
`gptlite generate`; its names for what OpenAI's protocol lacks (`top_k`, `min_p`, `stop_at`, ...) are fields too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gptlite.config import SamplingConfig
from gptlite.errors import GptliteError, as_fields
from gptlite.generation.stopping import Stopping
from gptlite.serving.fields import BadRequest, Fields, describe
from gptlite.serving.limits import Limits
from gptlite.text.pairs import Message

LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier")
LARGEST_SEED = 2**63 - 1
MOST_ALTERNATIVES = 20
MOST_STOPS = 16
MOST_BANS = 64
MOST_MESSAGES = 1024
DEFAULTS = SamplingConfig
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

Ids = tuple[int, ...]


@dataclass(frozen=True)
class WritingRequest:
    """Texts to write: `config.num_samples` for each of `prompts` (texts or ids), or for a conversation (`messages`).

    - `logprobs`: how many alternatives to each token are wanted; None: no log-probabilities at all.
    - `return_token_ids`: whether the ids of the tokens are wanted beside their names.
    - `include_usage`: whether a stream ends with the numbers of tokens.
    """

    config: SamplingConfig
    prompts: tuple[str | Ids, ...] = ()
    messages: tuple[Message, ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_at: str = "document"
    stream: bool = False
    include_usage: bool = False
    echo: bool = False
    logprobs: int | None = None
    return_token_ids: bool = False


@dataclass(frozen=True)
class EmbeddingRequest:
    """Texts, or the ids of texts, that are to become vectors. `base64`: as bytes of floats instead of numbers."""

    inputs: tuple[str | Ids, ...]
    base64: bool = False


@dataclass(frozen=True)
class Served:
    """What a request must fit: the name of the model, its vocabulary, the width of its vectors, and the limits."""

    name: str
    vocab_size: int
    dim: int
    limits: Limits


def completion_request(body: dict[str, Any], served: Served) -> WritingRequest:
    """The body of /v1/completions. Raises `BadRequest`."""
    fields = Fields(body)
    _check_model(fields, served)
    prompts = _inputs(fields, "prompt", served) if fields.get("prompt") is not None else ("",)
    stream, include_usage = _streaming(fields)
    echo = fields.flag("echo")
    logprobs = fields.whole("logprobs", None, 0, MOST_ALTERNATIVES)
    return_token_ids = fields.flag("return_token_ids")
    if return_token_ids and logprobs is None:
        raise BadRequest("return_token_ids does nothing without logprobs.", field="return_token_ids")
    config = _sampling(fields, served, ("max_tokens",), least_tokens=0 if echo else 1)
    fields.only("best_of", (config.num_samples,), "every text that is written is returned, as many as n says")
    fields.only("suffix", ("",), "the model reads from left to right only")
    _check_number(len(prompts) * config.num_samples, served.limits)
    made = WritingRequest(
        config, prompts=prompts, stream=stream, include_usage=include_usage, echo=echo, logprobs=logprobs,
        return_token_ids=return_token_ids, **_ending(fields),
    )  # fmt: skip
    fields.finish()
    return made


def chat_request(body: dict[str, Any], served: Served) -> WritingRequest:
    """The body of /v1/chat/completions. Raises `BadRequest`."""
    fields = Fields(body)
    _check_model(fields, served)
    messages = _messages(fields)
    stream, include_usage = _streaming(fields)
    wants, top = fields.flag("logprobs"), fields.whole("top_logprobs", None, 0, MOST_ALTERNATIVES)
    if top is not None and not wants:
        raise BadRequest("top_logprobs does nothing unless logprobs is true.", field="top_logprobs")
    config = _sampling(fields, served, ("max_tokens", "max_completion_tokens"))
    fields.only("response_format", ({"type": "text"},), "the model writes plain text")
    for name in ("tools", "functions"):
        fields.only(name, ([],), "the model calls none")
    fields.only("tool_choice", ("none", "auto"), "there are no tools")
    _check_number(config.num_samples, served.limits)
    made = WritingRequest(
        config, messages=messages, stream=stream, include_usage=include_usage,
        logprobs=(top or 0) if wants else None, **_ending(fields),
    )  # fmt: skip
    fields.finish()
    return made


def embedding_request(body: dict[str, Any], served: Served) -> EmbeddingRequest:
    """The body of /v1/embeddings. Raises `BadRequest`."""
    fields = Fields(body)
    _check_model(fields, served)
    inputs = _inputs(fields, "input", served)
    if any(not value or (isinstance(value, str) and not value.strip()) for value in inputs):
        raise BadRequest("input must not hold an empty text.", field="input")
    _check_number(len(inputs), served.limits)
    fields.only("dimensions", (served.dim,), f"the vectors of this model have {served.dim} numbers")
    encoding = fields.text("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise BadRequest("encoding_format must be float or base64.", field="encoding_format")
    fields.ignore(*LABELS)
    fields.finish()
    return EmbeddingRequest(inputs, encoding == "base64")


def _check_model(fields: Fields, served: Served) -> None:
    name = fields.text("model")
    if name not in (None, served.name):
        raise BadRequest(
            f"this server has one model, {served.name}; name that one, or none.",
            status=404, field="model", code="model_not_found",
        )  # fmt: skip


def _inputs(fields: Fields, name: str, served: Served) -> tuple[str | Ids, ...]:
    """A string, a list of strings, a list of ids, or a list of lists of ids; at least one."""
    value = fields.get(name)
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        fields.wrong(name, "a string, a list of strings, or lists of token ids, and not empty", value)
    if isinstance(value[0], int):
        value = [value]
    return tuple(each if isinstance(each, str) else _ids(name, each, served.vocab_size) for each in value)


def _ids(name: str, value: Any, vocab_size: int) -> Ids:
    if not isinstance(value, list) or not value:
        raise BadRequest(f"{name} must hold strings or lists of token ids, not {describe(value)}.", field=name)
    for i in value:
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < vocab_size:
            raise BadRequest(f"{name} has a token id that is none; they go from 0 to {vocab_size - 1:,}.", field=name)
    return tuple(value)


def _messages(fields: Fields) -> tuple[Message, ...]:
    value = fields.get("messages")
    if not isinstance(value, list) or not value:
        fields.wrong("messages", "a list of messages", value)
    if len(value) > MOST_MESSAGES:
        raise BadRequest(f"messages are {len(value):,}; {MOST_MESSAGES:,} are the most.", field="messages")
    messages = tuple(_message(each, f"messages[{i}].") for i, each in enumerate(value))
    if messages[-1][0] != "user":
        raise BadRequest("the last of the messages must be the user's, which the model answers.", field="messages")
    return messages


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise BadRequest(f"{where[:-1]} must be an object, not {describe(value)}.", field="messages")
    fields = Fields(value, where)
    role = fields.text("role")
    if role not in ROLES:
        raise BadRequest(f"{where}role must be one of {', '.join(ROLES)}.", field=f"{where}role")
    content = fields.get("content")
    if isinstance(content, list):
        content = "".join(_part(part, where) for part in content)
    if not isinstance(content, str):
        fields.wrong("content", "a string, or a list of parts that are text", content)
    fields.ignore("name")
    for name in ("refusal", "audio", "tool_calls", "function_call", "annotations"):
        fields.only(name, ([],), "the model reads text only")
    fields.finish()
    return ROLES[role], content


def _part(value: Any, where: str) -> str:
    text = value.get("text") if isinstance(value, dict) and value.get("type") == "text" else None
    if not isinstance(text, str) or set(value) != {"type", "text"}:
        raise BadRequest(f"{where}content has a part that is no text, and the model reads text only.", field="messages")
    return text


def _sampling(fields: Fields, served: Served, lengths: tuple[str, ...], least_tokens: int = 1) -> SamplingConfig:
    most = served.limits.max_new_tokens
    given = [fields.whole(name, None, least_tokens, most) for name in lengths]
    max_new_tokens = next((n for n in given if n is not None), min(DEFAULTS.max_new_tokens, most))
    numbers = (
        "temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    )  # fmt: skip
    return _valid(
        lambda: SamplingConfig(
            **{name: fields.number(name, getattr(DEFAULTS, name)) for name in numbers},
            top_k=fields.whole("top_k", DEFAULTS.top_k, 0, 10**9),
            no_repeat_ngram=fields.whole("no_repeat_ngram", DEFAULTS.no_repeat_ngram, 0, 10**9),
            logit_bias=fields.biases("logit_bias", served.vocab_size),
            bans=fields.texts("bans", MOST_BANS),
            min_new_tokens=fields.whole("min_tokens", DEFAULTS.min_new_tokens, 0, max_new_tokens),
            max_new_tokens=max_new_tokens,
            num_samples=fields.whole("n", DEFAULTS.num_samples, 1, served.limits.max_texts),
        )
    )


def _streaming(fields: Fields) -> tuple[bool, bool]:
    stream, options = fields.flag("stream"), fields.get("stream_options")
    if options is None:
        return stream, False
    if not isinstance(options, dict):
        fields.wrong("stream_options", "an object", options)
    if not stream:
        raise BadRequest("stream_options does nothing unless stream is true.", field="stream_options")
    inner = Fields(options, "stream_options.")
    include_usage = inner.flag("include_usage")
    inner.ignore("include_obfuscation")
    inner.finish()
    return stream, include_usage


def _ending(fields: Fields) -> dict[str, Any]:
    """Where texts end, and the seed; and the labels."""
    stop, stop_at = fields.texts("stop", MOST_STOPS), fields.text("stop_at", "document")
    _valid(lambda: Stopping(stop, stop_at or ""))
    fields.ignore(*LABELS)
    fields.only("store", (False,), "nothing is stored")
    return {"stop": stop, "stop_at": stop_at, "seed": fields.whole("seed", None, 0, LARGEST_SEED)}


def _check_number(n: int, limits: Limits) -> None:
    if n > limits.max_texts:
        raise BadRequest(f"the request is for {n:,} texts; {limits.max_texts:,} are the most.")


def _valid(make: Callable[[], Any]) -> Any:
    """What the library makes of settings, its refusal being one of the request."""
    try:
        return make()
    except GptliteError as error:
        raise BadRequest(as_fields(error)) from None

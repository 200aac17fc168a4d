"""A server and its clients: texts are those that `generate` writes, in any company, whatever the clients do."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from support.pages import Elements
from support.serving import Answered, Running, running, tiny_model

from gptlite.errors import CheckpointError
from gptlite.serving.limits import Limits
from gptlite.serving.views import Views
from gptlite.text.tokenizer import Tokenizer
from gptlite.trained_model import Model

PROMPT = "Ada finds the river"
LONG = {"max_tokens": 4000, "min_tokens": 4000}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Model:
    return tiny_model(tmp_path_factory.mktemp("tiny"), tokenizer)


@pytest.fixture(scope="module")
def server(model: Model) -> Iterator[Running]:
    with running(model) as started:
        yield started


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Model:
    return tiny_model(tmp_path_factory.mktemp("chat"), tokenizer, "messages")


@pytest.fixture(scope="module")
def chat_server(chat_model: Model) -> Iterator[Running]:
    with running(chat_model) as started:
        yield started


def refused(answer: Answered, status: int, said: str) -> None:
    assert answer.status == status, answer.body
    error = answer.json["error"]
    assert said in error["message"] and error["message"].endswith("."), error
    assert set(error) == {"message", "type", "param", "code"}


# -- Texts


def test_a_text_is_the_one_that_generate_writes(server: Running, model: Model) -> None:
    answer = server.complete(PROMPT, seed=3, n=2, max_tokens=20)
    known = model.generate(PROMPT, 2, seed=3, max_new_tokens=20)
    assert answer.status == 200 and answer.json["object"] == "text_completion" and answer.json["seed"] == 3
    assert [(c["index"], c["text"], c["finish_reason"]) for c in answer.json["choices"]] == [
        (i, sample.text, sample.finish_reason) for i, sample in enumerate(known)
    ]
    n = [len(model.tokenizer.encode(PROMPT)), sum(len(sample.tokens) for sample in known)]
    assert answer.json["usage"] == {"prompt_tokens": n[0], "completion_tokens": n[1], "total_tokens": sum(n)}


def test_without_a_seed_one_is_drawn_and_said(server: Running) -> None:
    first = server.complete(PROMPT, max_tokens=8).json
    again = server.complete(PROMPT, max_tokens=8, seed=first["seed"]).json
    assert first["choices"] == again["choices"]


def test_settings_are_those_of_generate(server: Running, model: Model) -> None:
    answer = server.complete(
        [PROMPT, "Bela"], seed=5, max_tokens=12, temperature=1.2, top_p=1, min_p=0, top_k=40, repetition_penalty=1.1,
        frequency_penalty=0.5, logit_bias={"70": 4, "71": -100}, bans=["bank"], stop=["q", "zz"], min_tokens=3,
    )  # fmt: skip
    settings: dict[str, Any] = {
        "seed": 5, "max_new_tokens": 12, "temperature": 1.2, "top_p": 1, "min_p": 0, "top_k": 40,
        "repetition_penalty": 1.1, "frequency_penalty": 0.5, "logit_bias": {70: 4, 71: -100}, "bans": ["bank"],
        "stop": ["q", "zz"], "min_new_tokens": 3,
    }  # fmt: skip
    known = [model.generate(prompt, **settings)[0] for prompt in (PROMPT, "Bela")]
    assert [(c["text"], c["finish_reason"]) for c in answer.json["choices"]] == [
        (s.text, s.finish_reason) for s in known
    ]


def test_a_prompt_may_be_ids(server: Running, model: Model) -> None:
    ids = model.tokenizer.encode(PROMPT)
    by_ids = server.complete(ids, seed=1, max_tokens=10, echo=True).json["choices"]
    both = server.complete([ids, ids], seed=1, max_tokens=10, echo=True).json["choices"]
    assert by_ids[0]["text"] == PROMPT + model.generate(PROMPT, seed=1, max_new_tokens=10)[0].text
    assert [choice["text"] for choice in both] == [by_ids[0]["text"]] * 2


def test_a_stream_has_the_same_text(server: Running) -> None:
    asked = {"seed": 7, "n": 2, "max_tokens": 40, "stop": ["y"], "logprobs": 2, "echo": True}
    whole = server.complete(PROMPT, **asked).json
    stream = server.complete(PROMPT, **asked, stream=True, stream_options={"include_usage": True})
    assert stream.headers["content-type"].startswith("text/event-stream")
    *events, last = stream.events
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert all(event["usage"] is None and event["id"] == last["id"] for event in events)
    for choice in whole["choices"]:
        pieces = [c for event in events for c in event["choices"] if c["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        assert [piece["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + [choice["finish_reason"]]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            parts = [x for piece in pieces for x in piece["logprobs"][name]]
            assert parts == choice["logprobs"][name]


def test_a_stream_comes_while_it_is_written(server: Running) -> None:
    with contextlib.closing(server.connect()) as connection:
        body = json.dumps({"prompt": PROMPT, "stream": True, **LONG})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        first = answer.readline()
        assert first.startswith(b"data: {") and server.service.engine.n_waiting == 1
    server.wait_until(lambda: server.service.engine.n_waiting == 0)


def test_log_probabilities(server: Running, model: Model) -> None:
    (known,) = model.generate("", seed=2, max_new_tokens=15, temperature=1.5, top_p=1, min_p=0, logprobs=3)
    (choice,) = server.complete(
        "", seed=2, max_tokens=15, temperature=1.5, top_p=1, min_p=0, logprobs=3
    ).json["choices"]  # fmt: skip
    found = choice["logprobs"]
    assert found["token_logprobs"] == pytest.approx(known.logprobs, abs=1e-4)
    for i, (token, top) in enumerate(zip(known.tokens, known.top, strict=True)):
        spelled = model.tokenizer.token_bytes[token]
        with contextlib.suppress(UnicodeDecodeError):
            assert found["tokens"][i] == spelled.decode()
            offset = found["text_offset"][i]  # where bytes before it have waited for their end, U+FFFD comes first
            assert choice["text"][offset:].lstrip("\ufffd").startswith(spelled.decode())
        assert len(found["top_logprobs"][i]) in (len(top), len(top) + 1)
        assert found["tokens"][i] in found["top_logprobs"][i]
    assert any(token.startswith("bytes:\\x") for token in found["tokens"])
    assert server.complete("", max_tokens=2, logprobs=0).json["choices"][0]["logprobs"]["top_logprobs"] is None


def test_echo_scores_a_prompt(server: Running, model: Model) -> None:
    """As harnesses for evaluation ask for it."""
    (choice,) = server.complete(PROMPT, max_tokens=0, echo=True, logprobs=1).json["choices"]
    assert (choice["text"], choice["finish_reason"]) == (PROMPT, "length")
    found = choice["logprobs"]
    assert "".join(found["tokens"]) == PROMPT and found["token_logprobs"][0] is None
    ids = model.tokenizer.encode(PROMPT)
    import torch

    with torch.inference_mode():
        known = model.model(torch.tensor([ids]))[0, :-1].log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])
    assert found["token_logprobs"][1:] == pytest.approx(known[:, 0].tolist(), abs=1e-4)
    refused(server.complete("x " * 200, max_tokens=0, echo=True, logprobs=1), 400, "32 are the most")


# -- Answers


def test_a_conversation_is_answered(chat_server: Running, chat_model: Model) -> None:
    messages = [
        {"role": "system", "content": "calm"},
        {"role": "user", "content": [{"type": "text", "text": "Ada "}, {"type": "text", "text": "finds"}]},
    ]
    asked = {"messages": messages, "seed": 4, "max_completion_tokens": 9, "logprobs": True, "top_logprobs": 2}
    answer = chat_server.ask("/v1/chat/completions", asked).json
    (choice,) = answer["choices"]
    from gptlite.config import SamplingConfig
    from gptlite.generation.generate import Generation
    from gptlite.text.pairs import encode_messages

    ids = encode_messages(chat_model.tokenizer, [("system", "calm"), ("user", "Ada finds")], opened="")
    known = Generation(
        chat_model.model, chat_model.tokenizer, "", SamplingConfig(max_new_tokens=9), seed=4, prompt_ids=ids
    )
    list(known)
    assert choice["message"] == {"role": "assistant", "content": known.samples[0].text, "refusal": None}
    assert answer["object"] == "chat.completion" and answer["usage"]["prompt_tokens"] == len(ids)
    listed = choice["logprobs"]["content"]
    assert [entry["bytes"] for entry in listed] == [
        list(chat_model.tokenizer.token_bytes[token]) for token in known.samples[0].tokens
    ]
    assert all(len(entry["top_logprobs"]) == 2 for entry in listed)
    events = chat_server.ask("/v1/chat/completions", {**asked, "stream": True}).events
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == known.samples[0].text
    assert events[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]


def test_a_prompt_is_answered_by_a_model_of_pairs(chat_server: Running, chat_model: Model) -> None:
    answer = chat_server.complete("Ada finds", seed=4, max_tokens=9).json
    assert answer["choices"][0]["text"] == chat_model.generate("Ada finds", seed=4, max_new_tokens=9)[0].text


def test_a_conversation_that_is_too_long_is_refused(chat_server: Running) -> None:
    messages = [{"role": "user", "content": "Ada finds the river . " * 30}]
    answer = chat_server.ask("/v1/chat/completions", {"messages": messages})
    refused(answer, 400, "the model reads 32")
    assert answer.json["error"]["code"] == "context_length_exceeded"


def test_a_model_of_plain_text_has_no_conversations(server: Running) -> None:
    answer = server.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
    refused(answer, 400, "use /v1/completions")


# -- Vectors, models, health, the page


def test_vectors_are_those_of_sentences(server: Running, model: Model) -> None:
    texts = [PROMPT, "Bela opens the window", "Chidi"]
    answer = server.ask("/v1/embeddings", {"input": texts}).json
    vectors = np.array([entry["embedding"] for entry in answer["data"]])
    known = model.embed(texts, sentence=True)
    assert vectors.shape == (3, model.config.dim)
    assert vectors @ vectors.T == pytest.approx(known.cosine("none"), abs=1e-5)  # random weights have no statistics
    n = sum(len(model.tokenizer.encode(text)) for text in texts)
    assert answer["usage"] == {"prompt_tokens": n, "total_tokens": n}
    packed = server.ask("/v1/embeddings", {"input": texts[0], "encoding_format": "base64"}).json["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f4") == pytest.approx(vectors[0], abs=1e-6)
    ids = server.ask("/v1/embeddings", {"input": model.tokenizer.encode(PROMPT)}).json["data"][0]["embedding"]
    assert ids == pytest.approx(vectors[0].tolist(), abs=1e-6)
    refused(server.ask("/v1/embeddings", {"input": ["x", "y " * 100]}), 400, "the model reads 3")


def test_the_model_is_listed_and_the_health_is_told(server: Running) -> None:
    name = server.service.served.name
    assert [entry["id"] for entry in server.ask("/v1/models").json["data"]] == [name]
    assert server.ask(f"/v1/models/{name}").json["owned_by"] == "gptlite"
    assert server.complete("", model=name, max_tokens=1).status == 200
    assert server.ask("/health").json == {"status": "ok", "texts": 0, "rows": 32}


def test_the_page_loads_nothing_from_elsewhere(server: Running) -> None:
    answer = server.ask("/")
    policy = answer.headers["content-security-policy"]
    assert answer.status == 200 and policy.startswith("default-src 'none'") and "unsafe" not in policy
    sources = [part for part in policy.split("; ") if "self" in part]
    assert sources == ["connect-src 'self'"], "scripts and styles stand in the page"
    parsed = Elements(answer.body.decode())
    assert {link["href"] for link in parsed.all("link")} == {"data:,"}
    assert not {name for _, attributes in parsed.elements for name in attributes} & {"src", "action", "style"}


MALFORMED_VIEWS: list[tuple[str, Any, str]] = [
    ("bits", {}, "ids must be a list of 1 to 32"),
    ("bits", {"ids": []}, "ids must be a list"),
    ("bits", {"ids": "1"}, "ids must be a list"),
    ("bits", {"ids": [1] * 33}, "ids must be a list of 1 to 32"),
    ("bits", {"ids": [1, "a"]}, "ids has one that is none"),
    ("bits", {"ids": [-1]}, "ids has one that is none"),
    ("bits", {"ids": [10**9]}, "ids has one that is none"),
    ("bits", {"ids": [1], "more": 1}, "does not know: more"),
    ("logits", {"ids": [1], "at": 1}, "at must be between 0 and 0"),
    ("lens", {"ids": [1]}, "ids must be two at least"),
    ("lens", {"ids": [1, 2], "id": 1}, "does not know: id"),
    ("expected", {"ids": [1], "n": 0}, "n must be between"),
    ("expected", {"ids": [1], "layer": 9}, "layer must be between"),
    ("step", {"ids": [1], "head": 9}, "head must be between"),
    ("encode", {"text": 3}, "text must be a string"),
    ("space", {"layer": -1}, "layer must be between"),
    ("nearest", {"ids": [1], "n": 1000}, "n must be between"),
]


@pytest.mark.parametrize(("call", "body", "said"), MALFORMED_VIEWS)
def test_the_page_may_not_ask_for_what_makes_no_sense(server: Running, call: str, body: Any, said: str) -> None:
    refused(server.ask(f"/page/{call}", body), 400, said)
    assert server.reports == []


def test_a_prompt_begins_as_generate_begins_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a tokenizer with a space before the first word would have it."""
    monkeypatch.setattr(Tokenizer, "begin", lambda self, text: f" {text}")
    views = Views(model, "a model", Limits())
    prompt = views.answer("encode", {"text": "Ada", "begins": True})
    assert prompt["ids"] == model.tokenizer.encode(" Ada") != views.answer("encode", {"text": "Ada"})["ids"]


def test_hidden_states_are_kept_of_few_texts(model: Model) -> None:
    views = Views(model, "a model", Limits())
    first = views.answer("logits", {"ids": [1, 2, 3]})
    for i in range(9):
        views.answer("logits", {"ids": [i, 2, 3]})
    assert len(views.kept) == 4
    assert views.answer("logits", {"ids": [1, 2, 3]}) == first


def test_ids_of_tokens_are_told_where_they_are_asked_for(server: Running, model: Model) -> None:
    (known,) = model.generate(PROMPT, seed=3, max_new_tokens=20)
    asked = {"seed": 3, "max_tokens": 20, "logprobs": 0, "return_token_ids": True}
    assert server.complete(PROMPT, **asked).json["choices"][0]["token_ids"] == known.tokens
    events = server.complete(PROMPT, **asked, stream=True).events
    assert [i for event in events for i in event["choices"][0]["token_ids"]] == known.tokens
    refused(server.complete(PROMPT, return_token_ids=True), 400, "does nothing without logprobs")


# -- Refusals

MALFORMED: list[tuple[Any, int, str]] = [
    (b"", 400, "not JSON"),
    (b"{", 400, "not JSON"),
    (b"nonsense", 400, "not JSON"),
    (b"\xff\xfe{}", 400, "not UTF-8"),
    (b"[" * 100_000, 400, "nested too deeply"),
    (b'{"prompt": "\\ud800"}', 400, "surrogate"),
    (b'{"prompt": "a", "temperature": NaN}', 400, "NaN is no number"),
    (b'{"prompt": "a", "temperature": 1e999}', 400, "too large"),
    (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", 400, "not JSON"),
    ([], 400, "must be a JSON object, not a list"),
    ("text", 400, "not a string"),
    (7, 400, "not a number"),
    (True, 400, "not true"),
    ({"prompt": 3}, 400, "prompt must be a string"),
    ({"prompt": {}}, 400, "prompt must be a string"),
    ({"prompt": []}, 400, "prompt must be a string"),
    ({"prompt": [[]]}, 400, "lists of token ids, not a list"),
    ({"prompt": [1, "a"]}, 400, "token id that is none"),
    ({"prompt": ["a", None]}, 400, "not null"),
    ({"prompt": [-1]}, 400, "token id that is none"),
    ({"prompt": [10**9]}, 400, "token id that is none"),
    ({"prompt": [1.5]}, 400, "not a number"),
    ({"prompt": [True]}, 400, "token id that is none"),
    ({"prompt": ["a"] * 200}, 400, "200 texts; 128 are the most"),
    ({"prompt": ["a"] * 64, "n": 3}, 400, "192 texts"),
    ({"model": "gpt-4"}, 404, "this server has one model"),
    ({"model": 4}, 400, "model must be a string"),
    ({"max_tokens": 0}, 400, "max_tokens must be between 1 and 4,096"),
    ({"max_tokens": 5000}, 400, "max_tokens must be between"),
    ({"max_tokens": "10"}, 400, "max_tokens must be a whole number, not a string"),
    ({"max_tokens": 1.5}, 400, "max_tokens must be a whole number"),
    ({"max_tokens": True}, 400, "max_tokens must be a whole number, not true"),
    ({"min_tokens": 500}, 400, "min_tokens must be between"),
    ({"temperature": -1}, 400, "temperature must be zero or above"),
    ({"temperature": "hot"}, 400, "temperature must be a number"),
    ({"top_p": 0}, 400, "top_p must be above 0"),
    ({"top_p": 1.5}, 400, "top_p must be above 0"),
    ({"top_k": -1}, 400, "top_k must be between"),
    ({"min_p": 2}, 400, "min_p must be between"),
    ({"typical_p": 0}, 400, "typical_p must be"),
    ({"repetition_penalty": 0}, 400, "repetition_penalty must be"),
    ({"presence_penalty": 10**6}, 400, "presence_penalty must be"),
    ({"no_repeat_ngram": 10**6}, 400, "no_repeat_ngram must be"),
    ({"n": 0}, 400, "n must be between"),
    ({"n": 1000}, 400, "n must be between"),
    ({"best_of": 5}, 400, "best_of is not supported"),
    ({"suffix": "end"}, 400, "suffix is not supported"),
    ({"stop": 5}, 400, "stop must be a string or a list"),
    ({"stop": ""}, 400, "") ,
    ({"stop": ["a", ""]}, 400, "stop must not hold an empty string"),
    ({"stop": ["a"] * 20}, 400, "stop has 20 strings"),
    ({"stop": [1]}, 400, "stop must be"),
    ({"stop_at": "chapter"}, 400, "stop_at must be one of"),
    ({"seed": -1}, 400, "seed must be between"),
    ({"seed": "x"}, 400, "seed must be a whole number"),
    ({"logprobs": 50}, 400, "logprobs must be between 0 and 20"),
    ({"logprobs": True}, 400, "logprobs must be a whole number"),
    ({"echo": "yes"}, 400, "echo must be true or false"),
    ({"stream": 1}, 400, "stream must be true or false"),
    ({"stream_options": {}}, 400, "does nothing unless stream"),
    ({"stream": True, "stream_options": []}, 400, "stream_options must be an object"),
    ({"stream": True, "stream_options": {"x": 1}}, 400, "stream_options.has" ),
    ({"logit_bias": []}, 400, "logit_bias must be an object"),
    ({"logit_bias": {"the": 1}}, 400, "no token id"),
    ({"logit_bias": {"99999": 1}}, 400, "no token id"),
    ({"logit_bias": {"5": 1000}}, 400, "from -100 to 100"),
    ({"logit_bias": {"5": "x"}}, 400, "from -100 to 100"),
    ({"bans": [""]}, 400, "bans must not hold"),
    ({"bans": ["\ufffd"]}, 400, "cannot be banned"),
    ({"store": True}, 400, "store is not supported"),
    ({"frobnicate": 1}, 400, "does not know: frobnicate"),
]  # fmt: skip
MALFORMED_CHATS: list[tuple[Any, int, str]] = [
    ({}, 400, "messages must be a list of messages, not null"),
    ({"messages": []}, 400, "messages must be a list"),
    ({"messages": "hello"}, 400, "messages must be a list of messages, not a string"),
    ({"messages": ["hello"]}, 400, "messages[0] must be an object"),
    ({"messages": [{"role": "user"}]}, 400, "messages[0].content must be a string"),
    ({"messages": [{"role": "pirate", "content": "a"}]}, 400, "messages[0].role must be one of"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "must be the user's"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "a part that is no text"),
    ({"messages": [{"role": "user", "content": "a", "tool_calls": [1]}]}, 400, "the model reads text only"),
    ({"messages": [{"role": "user", "content": "a"}], "tools": [{}]}, 400, "the model calls none"),
    ({"messages": [{"role": "user", "content": "a"}], "top_logprobs": 2}, 400, "unless logprobs is true"),
    ({"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_object"}}, 400, "plain text"),
    ({"messages": [{"role": "user", "content": "a"}] * 2000}, 400, "1,024 are the most"),
]
MALFORMED_INPUTS: list[tuple[Any, int, str]] = [
    ({}, 400, "input must be a string"),
    ({"input": ""}, 400, "empty text"),
    ({"input": ["a", " "]}, 400, "empty text"),
    ({"input": "a", "dimensions": 7}, 400, "vectors of this model have 32 numbers"),
    ({"input": "a", "encoding_format": "hex"}, 400, "float or base64"),
    ({"input": ["a"] * 200}, 400, "128 are the most"),
]


def test_malformed_bodies_are_refused_with_a_sentence(server: Running, chat_server: Running) -> None:
    assert len(MALFORMED) + len(MALFORMED_CHATS) + len(MALFORMED_INPUTS) > 80
    for where, path, cases in (
        (server, "/v1/completions", MALFORMED),
        (chat_server, "/v1/chat/completions", MALFORMED_CHATS),
        (server, "/v1/embeddings", MALFORMED_INPUTS),
    ):
        for body, status, said in cases:
            refused(where.ask(path, body), status, said)
    assert server.reports == chat_server.reports == []


def test_bodies_of_the_wrong_kind_or_size_are_refused(model: Model) -> None:
    with running(model, limits=Limits(max_body=1000)) as small:
        refused(small.ask("/v1/completions", b"{}", {"Content-Type": "text/plain"}), 415, "application/json")
        refused(small.ask("/v1/completions", b"{}", {"Content-Encoding": "gzip"}), 415, "compressed")
        refused(small.complete("a" * 2000), 413, "1,000 bytes")
        with contextlib.closing(small.connect()) as connection:  # in chunks, without a length
            connection.request(
                "POST", "/v1/completions", iter([b"x" * 600, b"x" * 600]), {"Content-Type": "application/json"}
            )
            assert connection.getresponse().status == 413
        refused(small.ask("/v1/completions"), 405, "method")
        refused(small.ask("/v1/nothing"), 404, "nothing at this path")
        refused(small.ask("/%00/../x"), 404, "nothing at this path")
        small.wait_until(lambda: {entry.path for entry in small.log} == {"/v1/completions", "(other)"})


def test_only_this_machine_is_answered_without_a_key(server: Running) -> None:
    """A page of another site that leads its own name here is refused."""
    for name in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::2]:80", ""):
        refused(server.ask("/v1/models", headers={"Host": name}), 403, "names of this machine only")
    for name in ("localhost:1", "127.0.0.1", "[::1]:80", "LOCALHOST"):
        assert server.ask("/v1/models", headers={"Host": name}).status == 200


def test_a_key_is_asked_for(model: Model) -> None:
    with running(model, api_key="secret-1") as locked:
        for headers in ({}, {"Authorization": "Bearer secret-2"}, {"Authorization": "secret-1"}, {"Authorization": ""}):
            answer = locked.ask("/v1/models", headers=headers)
            refused(answer, 401, "Authorization: Bearer KEY")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert locked.ask("/v1/models", headers={"Authorization": "bearer secret-1", "Host": "any"}).status == 200
        assert locked.ask("/health").status == locked.ask("/").status == 200
        refused(locked.ask("/anything/else"), 401, "key")


# -- Many at once


def test_texts_of_many_clients_are_those_written_alone(server: Running, model: Model) -> None:
    prompts = ["", "Ada", PROMPT, "Bela paints the song . " * 6]

    def ask(i: int) -> Answered:
        return server.complete(
            prompts[i % 4], seed=i, max_tokens=5 + i, temperature=0.6 + i % 3 / 2, stream=i % 5 == 0
        )  # fmt: skip

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, range(30)))
    for i, answer in enumerate(answers):
        (known,) = model.generate(prompts[i % 4], seed=i, max_new_tokens=5 + i, temperature=0.6 + i % 3 / 2)
        events = answer.events if i % 5 == 0 else [answer.json]
        assert "".join(event["choices"][0]["text"] for event in events) == known.text, i
    assert server.service.engine.n_waiting == 0


def open_stream(server: Running, **settings: Any) -> socket.socket:
    """A client that has asked for a stream and reads nothing."""
    body = json.dumps({"prompt": PROMPT, "stream": True, **settings}).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.connect(("127.0.0.1", server.port))
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


def test_a_slow_reader_holds_nobody_up(model: Model) -> None:
    """Buffers are small, so that the server cannot get rid of the answers."""
    settings = {"max_tokens": 250, "min_tokens": 250, "logprobs": 20}
    with contextlib.ExitStack() as stack:
        two_rows = stack.enter_context(running(model, n_rows=2, send_buffer=2048))
        clients = [stack.enter_context(open_stream(two_rows, **settings, seed=i)) for i in range(3)]
        two_rows.wait_until(lambda: two_rows.service.engine.n_ended == 3)
        assert two_rows.complete(PROMPT, max_tokens=5, min_tokens=5).status == 200
        two_rows.wait_until(lambda: len(two_rows.log) > 0)
        assert {entry.n_tokens for entry in two_rows.log} == {5}  # the others are not through
        for i, client in enumerate(clients):
            client.settimeout(60)
            answer = b""
            while b"[DONE]" not in answer:
                answer += client.recv(1 << 16)
            client.close()
            (known,) = model.generate(PROMPT, seed=i, max_new_tokens=250, min_new_tokens=250)
            events = [json.loads(part[5:]) for part in answer.decode().splitlines() if part.startswith('data: {"')]
            assert "".join(event["choices"][0]["text"] for event in events) == known.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_work(model: Model, stream: bool) -> None:
    with running(model, n_rows=1) as one_row:
        client = open_stream(one_row, n=3, **{**LONG, "stream": stream})
        one_row.wait_until(lambda: one_row.service.engine.n_waiting == 3)
        client.close()
        one_row.wait_until(lambda: one_row.service.engine.n_waiting == 0)
        assert one_row.complete(PROMPT, max_tokens=1).status == 200
        assert not one_row.reports


def test_too_many_texts_are_refused_at_once(model: Model) -> None:
    with running(model, limits=Limits(max_waiting=3), n_rows=1) as busy:
        client = open_stream(busy, n=3, **LONG)
        busy.wait_until(lambda: busy.service.engine.n_waiting == 3)
        answer = busy.complete(PROMPT, max_tokens=1)
        refused(answer, 503, "try again later")
        assert answer.headers["retry-after"] == "1" and answer.json["error"]["code"] == "overloaded"
        client.close()


@pytest.mark.parametrize("stream", [False, True])
def test_the_time_limit_ends_a_request(model: Model, stream: bool) -> None:
    with running(model, limits=Limits(timeout=0.3)) as hasty:
        answer = hasty.complete(PROMPT, **LONG, n=20, stream=stream)
        assert answer.status == (200 if stream else 503)
        assert "within 0.3 s, the time limit." in answer.body.decode()
        hasty.wait_until(lambda: hasty.service.engine.n_waiting == 0)


def test_many_texts_of_one_request_take_turns_with_others(model: Model) -> None:
    with running(model, n_rows=1) as one_row:
        client = open_stream(one_row, n=20, max_tokens=200, min_tokens=200)
        one_row.wait_until(lambda: one_row.service.engine.n_waiting > 0)
        assert one_row.complete(PROMPT, max_tokens=5).status == 200
        assert one_row.service.engine.n_waiting > 10
        client.close()


# -- Errors


@pytest.mark.parametrize(
    ("error", "said"),
    [(RuntimeError("secret text of a person"), "the server failed"), (CheckpointError("damaged."), "damaged.")],
)
def test_a_failure_is_told_without_what_it_quotes(
    model: Model, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    with running(model) as broken:

        def fail(*_: Any) -> Any:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(broken.service.side_by_side, "advance", fail)
            refused(broken.complete(PROMPT), 500, said)
            streamed = broken.complete(PROMPT, stream=True)
            assert said in streamed.body.decode() and b"[DONE]" not in streamed.body
        assert broken.complete(PROMPT, max_tokens=1).status == 200
        assert broken.reports and "secret" not in "".join(broken.reports)
        assert type(error).__name__ in broken.reports[0] and "engine.py" in broken.reports[0]


def test_the_log_has_numbers_and_no_text(server: Running) -> None:
    before = len(server.log)
    server.ask("/v1/completions?prompt=secret", {"prompt": "secret words", "max_tokens": 4, "min_tokens": 4})
    server.wait_until(lambda: any(entry.n_tokens == 4 for entry in server.log[before:]))
    entry = server.log[-1]
    assert (entry.method, entry.path, entry.status) == ("POST", "/v1/completions", 200)
    assert entry.n_tokens == 4 and entry.n_prompt_tokens > 0 and math.isfinite(entry.seconds)
    assert "secret" not in str(entry)


def test_requests_that_have_begun_are_finished_when_the_server_stops(model: Model) -> None:
    answers: list[Answered] = []
    with running(model, n_rows=1) as ending:
        asking = threading.Thread(
            target=lambda: answers.append(ending.complete(PROMPT, max_tokens=300, min_tokens=300, seed=1))
        )
        asking.start()
        ending.wait_until(lambda: ending.service.engine.n_waiting == 1)
        time.sleep(0.05)
    asking.join()
    (known,) = model.generate(PROMPT, seed=1, max_new_tokens=300, min_new_tokens=300)
    assert answers[0].json["choices"][0]["text"] == known.text

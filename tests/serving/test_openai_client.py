"""OpenAI's own client for Python understands the server: an optional test, skipped where it is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.serving import Running, running, tiny_model

from gptlite.text.tokenizer import Tokenizer

pytestmark = pytest.mark.skipif(importlib.util.find_spec("openai") is None, reason="openai is not installed")
PROMPT = "Ada finds the river"


@pytest.fixture(scope="module", params=[None, "messages"], ids=["plain", "chat"])
def server(request: Any, tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Iterator[Running]:
    loaded = tiny_model(tmp_path_factory.mktemp("model"), tokenizer, request.param)
    with running(loaded, api_key="key") as started:
        yield started


@pytest.fixture(scope="module")
def openai() -> Any:
    """The library, which takes a second to load."""
    return importlib.import_module("openai")


@pytest.fixture
def client(server: Running, openai: Any) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="key", max_retries=0) as made:
        yield made


def test_texts_streams_stops_and_vectors(server: Running, client: Any, openai: Any) -> None:
    loaded = server.service.loaded
    (model,) = client.models.list().data
    (known,) = loaded.generate(PROMPT, seed=1, max_new_tokens=40)
    asked = {"model": model.id, "prompt": PROMPT, "seed": 1, "max_tokens": 40}
    assert client.completions.create(**asked, logprobs=2).choices[0].text == known.text
    assert "".join(part.choices[0].text for part in client.completions.create(**asked, stream=True)) == known.text
    stop = known.text[10:12]
    stopped = client.completions.create(**asked, stop=stop).choices[0]
    assert (stopped.text, stopped.finish_reason) == (known.text[: known.text.index(stop)], "stop")
    made = client.embeddings.create(model=model.id, input=[PROMPT, "Bela"])
    vectors = np.array([entry.embedding for entry in made.data])
    assert vectors @ vectors.T == pytest.approx(loaded.embed([PROMPT, "Bela"], sentence=True).cosine("none"), abs=1e-5)
    with pytest.raises(openai.NotFoundError, match="this server has one model"):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.BadRequestError, match="suffix is not supported"):
        client.completions.create(**asked, suffix="x")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_conversations(server: Running, client: Any, openai: Any) -> None:
    asked = {"model": server.service.served.name, "messages": [{"role": "user", "content": PROMPT}], "seed": 1}
    if server.service.loaded.tokenizer.pairs is None:
        with pytest.raises(openai.BadRequestError, match="no chat template"):
            client.chat.completions.create(**asked)
        return
    (known,) = server.service.loaded.generate(PROMPT, seed=1, max_new_tokens=15)
    (choice,) = client.chat.completions.create(**asked, max_tokens=15, logprobs=True, top_logprobs=1).choices
    assert choice.message.content == known.text and choice.logprobs is not None
    stream = client.chat.completions.create(**asked, max_tokens=15, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in stream) == known.text

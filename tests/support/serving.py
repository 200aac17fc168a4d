"""A server in this process, on a port of its own, and a client that is nothing but HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conftest import VOCABULARY, random_model, tiny_config

from gptlite.generation.decoding import Decoding
from gptlite.serving import server
from gptlite.serving.app import Service
from gptlite.serving.guard import LogEntry
from gptlite.serving.limits import Limits
from gptlite.text.pairs import BOUNDARIES, PairFormat
from gptlite.text.tokenizer import Tokenizer
from gptlite.trained_model import Model

JSON = {"Content-Type": "application/json"}


def tiny_model(folder: Path, tokenizer: Tokenizer, kind: str | None = None) -> Model:
    """A model with random weights, as if it had been read from `folder`; of pairs, where a kind of them is named."""
    if kind is not None:
        tokenizer = tokenizer.with_special(BOUNDARIES).for_pairs(PairFormat(kind))
    model = random_model(tiny_config("qwen3", vocab_size=VOCABULARY))
    return Model(folder, model.config, model, tokenizer, {})


@dataclass
class Answered:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """What a stream has sent, without the mark of its end, which must be there."""
        *events, last, rest = self.body.decode().split("\n\n")
        assert (last, rest) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]


@dataclass
class Running:
    """A server that runs."""

    service: Service
    port: int
    log: list[LogEntry] = field(default_factory=list[LogEntry])
    reports: list[str] = field(default_factory=list[str])

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def ask(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, method: str | None = None
    ) -> Answered:
        """Send a request; a body that is no bytes is sent as JSON."""
        with contextlib.closing(self.connect()) as connection:
            sent = body if isinstance(body, bytes) or body is None else json.dumps(body)
            connection.request(method or ("GET" if body is None else "POST"), path, sent, {**JSON, **(headers or {})})
            answer = connection.getresponse()
            return Answered(answer.status, answer.headers, answer.read())

    def complete(self, prompt: Any, **settings: Any) -> Answered:
        return self.ask("/v1/completions", {"prompt": prompt, **settings})

    def wait_until(self, condition: Any, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "not in time"
            time.sleep(0.01)


@contextlib.contextmanager
def running(
    loaded: Model, decoding: Decoding | None = None, limits: Limits | None = None, send_buffer: int = 0, **options: Any
) -> Iterator[Running]:
    """A server of a model until the block ends."""
    log: list[LogEntry] = []
    reports: list[str] = []
    limits = limits or Limits()
    service = Service(
        loaded, decoding or Decoding(loaded.model), limits, log=log.append, report=reports.append, **options
    )
    stop = threading.Event()
    with server.open_socket("127.0.0.1", 0) as listening:
        if send_buffer:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        thread = threading.Thread(target=server.run, args=(service.app, listening, limits, stop.is_set))
        thread.start()
        try:
            yield Running(service, listening.getsockname()[1], log, reports)
        finally:
            stop.set()
            thread.join(60)
            assert not thread.is_alive() and not service.engine.thread.is_alive()

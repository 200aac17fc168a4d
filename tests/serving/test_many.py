"""Crowds: a thousand clients at once, and ten thousand requests in memory that does not grow; fast ones are smaller."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
from collections.abc import Iterator

import psutil
import pytest
from support.serving import Running, running, tiny_model

from gptlite.generation.continuous import Text
from gptlite.generation.decoding import choose_decoding
from gptlite.serving.engine import Job
from gptlite.text.tokenizer import Tokenizer

MOST_GROWTH = 16 << 20  # bytes over 9,000 requests, after 1,000 that fill what is kept


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Iterator[Running]:
    model = tiny_model(tmp_path_factory.mktemp("tiny"), tokenizer)
    compiled = "on" if shutil.which("cc") else "off"
    with running(model, choose_decoding(model.model, 10_000, compile=compiled)) as started:
        yield started


async def ask(port: int, seed: int, n_tokens: int, gate: asyncio.Event) -> str:
    """The text of one request on a connection of its own, which waits at the gate."""
    body = json.dumps({"prompt": f"Ada {seed % 7}", "seed": seed, "max_tokens": n_tokens}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await gate.wait()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:200]
    return json.loads(answer.partition(b"\r\n\r\n")[2])["choices"][0]["text"]


@pytest.mark.parametrize("n", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_of_many_clients_none_is_lost_or_gets_the_text_of_another(server: Running, n: int) -> None:
    async def crowd() -> list[str]:
        gate = asyncio.Event()
        waiting = [asyncio.ensure_future(ask(server.port, i, 5 + i % 20, gate)) for i in range(n)]
        await asyncio.sleep(0.1)
        gate.set()
        return await asyncio.gather(*waiting)

    texts = asyncio.run(crowd())
    for i, text in enumerate(texts):
        (known,) = server.service.loaded.generate(f"Ada {i % 7}", seed=i, max_new_tokens=5 + i % 20)
        assert text == known.text, i


async def some(server: Running, first: int, n: int) -> None:
    gate = asyncio.Event()
    gate.set()
    for start in range(first, first + n, 50):
        await asyncio.gather(*(ask(server.port, i, 4, gate) for i in range(start, start + 50)))


def test_nothing_is_left_of_a_request(server: Running) -> None:
    """Fewer objects than requests: what grows with each of them would show."""

    def count() -> int:
        server.log.clear()
        gc.collect()
        return len(gc.get_objects())

    def texts() -> int:
        return sum(type(x) in (Job, Text) for x in gc.get_objects())

    others = texts()  # of servers of other tests
    asyncio.run(some(server, 0, 100))
    before = count()
    asyncio.run(some(server, 100, 200))
    server.wait_until(lambda: count() - before < 200, 10)
    server.wait_until(lambda: texts() <= others, 10)


@pytest.mark.slow
def test_ten_thousand_requests_take_no_more_memory(server: Running) -> None:
    process = psutil.Process()
    asyncio.run(some(server, 0, 1000))
    server.log.clear()
    before = process.memory_info().rss
    for start in range(1000, 10_000, 1000):
        asyncio.run(some(server, start, 1000))
        server.log.clear()
    assert process.memory_info().rss - before < MOST_GROWTH

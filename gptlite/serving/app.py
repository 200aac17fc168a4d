"""The routes: from a request over HTTP to the engine and back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gptlite.checkpoint.runs import STEP_NAME
from gptlite.embedding.similarity import unit
from gptlite.errors import GptliteError, as_fields
from gptlite.generation.continuous import SideBySide
from gptlite.generation.decoding import Decoding
from gptlite.generation.generate import rows_at_once
from gptlite.report.live import page
from gptlite.serving import answers, requests
from gptlite.serving.answers import Answer
from gptlite.serving.engine import Busy, Engine, Job, wake_all
from gptlite.serving.fields import BadRequest, parse_body
from gptlite.serving.guard import Guard, LogEntry, count_tokens, describe_error, refuse
from gptlite.serving.limits import Limits
from gptlite.serving.views import Views
from gptlite.serving.writing import Begun, Progress, begin
from gptlite.trained_model import Model

SHORT = 10_000  # characters or ids of a prompt that are tokenized without a thread
EMBEDDED_AT_ONCE = 16  # texts, between which it is seen whether the client has left


def name_of(loaded: Model) -> str:
    """What clients call a model: the name of its run, or of its directory."""
    path = loaded.path
    return path.parent.name if STEP_NAME.fullmatch(path.name) else path.name


class Service:
    """A model, the engine that writes with it, and the routes that lead there.

    - `decoding`: how it writes; `n_rows`: how many texts at once, None for as many as memory allows, at most 32.
    - `log`, `report`: see `Guard`. `api_key`: what clients must send; None lets this machine alone ask.
    """

    def __init__(
        self,
        loaded: Model,
        decoding: Decoding,
        limits: Limits,
        *,
        api_key: str | None = None,
        n_rows: int | None = None,
        log: Callable[[LogEntry], None] = lambda entry: None,
        report: Callable[[str], None] = lambda error: None,
    ) -> None:
        self.loaded, self.limits, self.report = loaded, limits, report
        self.n_rows = n_rows or rows_at_once(loaded.config)
        self.served = requests.Served(name_of(loaded), loaded.tokenizer.vocab_size, loaded.config.dim, limits)
        self.created = int(time.time())
        self.views = Views(loaded, self.served.name, limits)
        self.side_by_side = SideBySide(decoding, self.n_rows)
        self.engine = self._make_engine(lambda jobs: None)
        self.app = Guard(self._make_app(), api_key, limits.timeout, log, report)

    def _make_engine(self, tell: Callable[[list[Job]], None]) -> Engine:
        return Engine(self.side_by_side, self.limits.max_waiting, tell, lambda e: self.report(describe_error(e)))

    def _make_app(self) -> Starlette:
        routes = [
            Route("/", self.show_page),
            *(Route(f"/page/{call}", partial(self.view, call), methods=["POST"]) for call in self.views.calls),
            Route("/health", self.health),
            Route("/v1/models", self.list_models),
            Route("/v1/models/{name:path}", self.show_model),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/embeddings", self.embed, methods=["POST"]),
        ]
        handlers: Any = {
            BadRequest: _refuse_request, Busy: _refuse_busy, HTTPException: _refuse_route,
            ClientDisconnect: _drop, Exception: _fail,
        }  # fmt: skip
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self._live)

    @contextlib.asynccontextmanager
    async def _live(self, app: Starlette) -> AsyncIterator[None]:
        """While the server runs, the engine does, and tells this loop what it has written."""
        loop = asyncio.get_running_loop()
        self.reading = anyio.CapacityLimiter(1)  # one text at a time, since each takes all processors

        def tell(jobs: list[Job]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(wake_all, jobs)

        self.engine = self._make_engine(tell)
        self.engine.start()
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(self.engine.close)

    # -- Routes

    async def show_page(self, request: Request) -> Response:
        content, policy = page.served()
        return HTMLResponse(content, headers={"content-security-policy": f"{policy}; frame-ancestors 'none'"})

    async def view(self, call: str, request: Request) -> Response:
        """What the page asks of the model."""
        body = await self._read(request)
        return JSONResponse(await anyio.to_thread.run_sync(self.views.answer, call, body, limiter=self.reading))

    async def health(self, request: Request) -> Response:
        works = self.engine.thread.is_alive()
        facts = {"status": "ok" if works else "failed", "texts": self.engine.n_waiting, "rows": self.n_rows}
        return JSONResponse(facts, 200 if works else 503)

    async def list_models(self, request: Request) -> Response:
        return JSONResponse(answers.models(self.served.name, self.created))

    async def show_model(self, request: Request) -> Response:
        if request.path_params["name"] != self.served.name:
            raise BadRequest(f"this server has one model, {self.served.name}.", 404, "model", "model_not_found")
        return JSONResponse(answers.model(self.served.name, self.created))

    async def complete(self, request: Request) -> Response:
        return await self._write(request, requests.completion_request, chat=False)

    async def chat(self, request: Request) -> Response:
        return await self._write(request, requests.chat_request, chat=True)

    async def embed(self, request: Request) -> Response:
        deadline = time.monotonic() + self.limits.timeout
        asked = requests.embedding_request(await self._read(request), self.served)
        tokenizer = self.loaded.tokenizer
        texts = [each if isinstance(each, str) else tokenizer.decode(each) for each in asked.inputs]
        vectors: list[np.ndarray] = []
        n_tokens = 0
        for start in range(0, len(texts), EMBEDDED_AT_ONCE):
            if await request.is_disconnected():
                raise ClientDisconnect
            if time.monotonic() > deadline:
                raise self._too_late()
            some = texts[start : start + EMBEDDED_AT_ONCE]
            made, n = await anyio.to_thread.run_sync(self._vectors, some, limiter=self.reading)
            vectors.append(made)
            n_tokens += n
        count_tokens(request.scope, n_tokens, 0)
        return JSONResponse(answers.embeddings(self.served.name, np.concatenate(vectors), asked.base64, n_tokens))

    def _vectors(self, texts: list[str]) -> tuple[np.ndarray, int]:
        """Vectors (n, D) of length 1 whose products are the cosines of `gptlite embed --sentence`, and all tokens."""
        context = self.loaded.config.context_length - len(self.loaded.find_prefix())
        n_tokens = [len(ids) for ids in self.loaded.tokenizer.encode_batch(texts)]
        if max(n_tokens) > context:
            raise BadRequest(
                f"input has a text of {max(n_tokens):,} tokens; the model reads {context:,}.",
                field="input", code="context_length_exceeded",
            )  # fmt: skip
        made = self.loaded.embed(texts, sentence=True)
        return unit(made.corrected("none" if made.statistics is None else "zscore")), sum(n_tokens)

    # -- Writing

    async def _read(self, request: Request) -> dict[str, Any]:
        """The JSON of a request. Raises `BadRequest`."""
        most, headers = self.limits.max_body, request.headers
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise BadRequest("the Content-Type must be application/json.", 415)
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise BadRequest("the body must not be compressed.", 415)
        too_large = BadRequest(f"the body is larger than {most:,} bytes, which are the most.", 413)
        if int(headers.get("content-length", 0)) > most:
            raise too_large
        body = bytearray()
        try:
            with anyio.fail_after(self.limits.timeout):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise too_large
        except TimeoutError:
            raise BadRequest("the body did not come within the time limit.", 408) from None
        return parse_body(bytes(body))

    async def _write(
        self, request: Request, read: Callable[[dict[str, Any], requests.Served], requests.WritingRequest], chat: bool
    ) -> Response:
        deadline = time.monotonic() + self.limits.timeout
        asked = read(await self._read(request), self.served)
        begun = await self._begin(asked)
        changed = asyncio.Event()
        job = Job(begun.texts, changed.set, streams=asked.stream)
        answer = Answer(
            self.served.name, begun.seed, self.loaded.tokenizer, chat, asked.logprobs,
            include_usage=asked.include_usage, return_token_ids=asked.return_token_ids,
        )  # fmt: skip
        self.engine.submit(job)
        count_tokens(request.scope, begun.n_prompt_tokens, 0)
        if asked.stream:
            events = self._stream(request, begun, job, answer, changed, deadline)
            return _EventStream(events, lambda: self.engine.cancel(job))
        try:
            await self._wait(request, job, changed, deadline)
        finally:
            self.engine.cancel(job)  # does nothing to one that has ended
        pieces = [each.take_last(job.states) for each in _progress(begun, self.loaded.tokenizer)]
        return JSONResponse(answer.whole(pieces, self._usage(request, begun, job)))

    async def _begin(self, asked: requests.WritingRequest) -> Begun:
        work = partial(begin, asked, self.loaded.model, self.loaded.tokenizer)
        size = sum(map(len, asked.prompts)) + sum(len(text) for _, text in asked.messages)
        if asked.echo and asked.logprobs is not None:
            return await anyio.to_thread.run_sync(work, limiter=self.reading)
        return work() if size <= SHORT else await anyio.to_thread.run_sync(work)

    async def _wait(self, request: Request, job: Job, changed: asyncio.Event, deadline: float) -> None:
        """Until a job has ended. Raises `ClientDisconnect` where the client has left before, and its error."""
        left = asyncio.ensure_future(_departure(request))
        try:
            while not job.finished:
                waiting = asyncio.ensure_future(changed.wait())
                try:
                    seconds = deadline - time.monotonic()
                    done, _ = await asyncio.wait({left, waiting}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
                if left in done:
                    raise ClientDisconnect
                if not done:
                    raise self._too_late()
                changed.clear()
        finally:
            left.cancel()
        if job.error is not None:
            raise job.error

    async def _stream(
        self, request: Request, begun: Begun, job: Job, answer: Answer, changed: asyncio.Event, deadline: float
    ) -> AsyncIterator[bytes]:
        """Server-sent events. What came while the client was reading becomes one event of each text."""
        progress = _progress(begun, self.loaded.tokenizer)
        if events := answer.first(len(progress)):
            yield b"".join(events)
        while True:
            changed.clear()
            is_last, error = job.finished, job.error
            if error is not None:
                yield answers.event(answers.error_object(_say(error), 500))
                return
            if pieces := [piece for each in progress if (piece := each.take(job.states[each.index]))]:
                yield b"".join(answer.pieces(pieces))
            if is_last:
                break
            try:
                await asyncio.wait_for(changed.wait(), deadline - time.monotonic())
            except (TimeoutError, asyncio.TimeoutError):  # one and the same from Python 3.11 on
                late = self._too_late()
                yield answers.event(answers.error_object(late.message, late.status))
                return
        yield b"".join(answer.last(self._usage(request, begun, job)))

    def _usage(self, request: Request, begun: Begun, job: Job) -> dict[str, int]:
        n_written = sum(state.n_tokens for state in job.states)
        count_tokens(request.scope, begun.n_prompt_tokens, n_written)
        return answers.usage(begun.n_prompt_tokens, n_written)

    def _too_late(self) -> BadRequest:
        return BadRequest(f"the answer was not ready within {self.limits.timeout:g} s, the time limit.", 503)


class _EventStream(StreamingResponse):
    """A stream that says when nobody reads it any more, whichever way it ended."""

    def __init__(self, events: AsyncIterator[bytes], closed: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self.closed = closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.closed()


def _progress(begun: Begun, tokenizer: Any) -> list[Progress]:
    n = begun.asked.config.num_samples
    return [
        Progress(i, text, begun.openings[i // n], tokenizer, begun.asked.echo) for i, text in enumerate(begun.texts)
    ]


async def _departure(request: Request) -> None:
    """Returns when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _say(error: Exception) -> str:
    """What a client is told of an error in the engine."""
    return as_fields(error) if isinstance(error, GptliteError) else "the server failed; its log says where."


async def _refuse_request(request: Request, error: BadRequest) -> Response:
    headers = {"retry-after": "1"} if error.status == 503 else None
    return refuse(error.message, error.status, error.field, error.code, headers)


async def _refuse_busy(request: Request, error: Busy) -> Response:
    return refuse(str(error), 503, code="overloaded", headers={"retry-after": "1"})


async def _refuse_route(request: Request, error: HTTPException) -> Response:
    said = {404: "there is nothing at this path.", 405: "this path does not take this method."}
    return refuse(said.get(error.status_code, error.detail), error.status_code, headers=dict(error.headers or {}))


async def _drop(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=499)  # for the log alone: nobody reads it


async def _fail(request: Request, error: Exception) -> Response:
    return refuse(_say(error), 500)

"""What stands before every route: who may ask, the headers of every answer, errors, the time limit, and the log.

The log has a request's method, path, status, time and numbers of tokens. It never has what was asked or answered: not
even an error's message, which may quote it.
"""

from __future__ import annotations

import hashlib
import hmac
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gptlite.serving.answers import error_object
from gptlite.serving.limits import is_loopback

OPEN_PATHS = frozenset({"/", "/health"})  # have nothing of the model in them
VIEWS = "/page/"  # what the page asks, many times for each thing that is seen: in the log where it is refused
PATHS = OPEN_PATHS | {"/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/embeddings"}
GRACE = 30.0  # seconds after the time limit in which an answer may still be sent
HEADERS = {
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class LogEntry:
    """What the log says of a request. `path`: "(other)" where there is no such route; `status`: 499 where the client
    left before the answer began."""

    method: str
    path: str
    status: int
    seconds: float
    n_prompt_tokens: int = 0
    n_tokens: int = 0


class Guard:
    """The application with all this around it.

    - `api_key`: what clients must send as "Authorization: Bearer ..."; without one only this machine is answered, and
      only under names of this machine, so that no page of another site can reach the model by a name of its own.
    - `seconds`: the time limit. `log`: gets an entry for each request; `report`: where a bug is, without text.
    """

    def __init__(
        self,
        app: ASGIApp,
        api_key: str | None,
        seconds: float,
        log: Callable[[LogEntry], None],
        report: Callable[[str], None],
    ) -> None:
        self.app, self.seconds, self.log, self.report = app, seconds, log, report
        self.key = None if api_key is None else _digest(api_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            await self.app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.monotonic(), 499
        counts: dict[str, int] = {}
        scope["gptlite"] = counts

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            with anyio.fail_after(self.seconds + GRACE):
                refusal = self._refuse(scope)
                await (refusal or self.app)(scope, receive, send_guarded)
        except (ClientDisconnect, TimeoutError):
            pass  # the connection is closed without the rest of the answer
        except Exception as error:  # the client has been told; a bug keeps its traceback
            self.report(describe_error(error))
        finally:
            path = scope["path"] if scope["path"] in PATHS else "(other)"
            path = "/page" if scope["path"].startswith(VIEWS) else path
            method = scope["method"] if scope["method"] in ("GET", "POST") else "(other)"
            if path != "/page" or status >= 400:
                self.log(LogEntry(method, path, status, time.monotonic() - began, **counts))

    def _refuse(self, scope: Scope) -> JSONResponse | None:
        """The answer to those who may not ask."""
        headers = Headers(scope=scope)
        if self.key is None:
            if not is_loopback(_host_name(headers.get("host", ""))):
                return refuse("this server answers under the names of this machine only, such as 127.0.0.1.", 403)
            return None
        if scope["path"] in OPEN_PATHS:
            return None
        kind, _, key = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(_digest(key.strip()), self.key):
            return None
        return refuse(
            "send the key of this server as 'Authorization: Bearer KEY'.", 401, code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )  # fmt: skip


def refuse(
    message: str,
    status: int,
    field: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """An answer that is an error."""
    return JSONResponse(error_object(message, status, field, code), status, headers)


def describe_error(error: BaseException) -> str:
    """Where an error came from: its kind and the lines of the program, without its message."""
    return "".join(traceback.format_tb(error.__traceback__)) + type(error).__name__


def count_tokens(scope: Any, n_prompt: int, n_written: int) -> None:
    """Note for the log how many tokens a request had."""
    scope["gptlite"].update(n_prompt_tokens=n_prompt, n_tokens=n_written)


def _digest(key: str) -> bytes:
    """Of one length for all keys, so that comparing two of them takes the same time whatever they are."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _host_name(host: str) -> str:
    """The name in a Host header, without the port."""
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0].lower()

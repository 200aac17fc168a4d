"""The server: a socket, and uvicorn that serves an application on it until it is asked to stop."""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Callable, Iterator

import uvicorn

from gptlite.errors import UsageError, system_reason
from gptlite.serving.guard import GRACE, Guard
from gptlite.serving.limits import Limits
from gptlite.system import allow_open_files

SPARE_CONNECTIONS = 256  # beside one for each text that may wait
SPARE_FILES = 256
BACKLOG = 2048  # connections that the system accepts before the server does


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0 is any free one. Raises `UsageError` where that is not possible."""
    if not 0 <= port <= 65535:
        raise UsageError(f"`port` must be between 0 (any free one) and 65535, not {port}.")
    try:
        family, *_, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"`host` {host} is no address of this machine.") from error
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError as error:
        made.close()
        reason = system_reason(error)
        raise UsageError(
            f"cannot listen at port {port} of {host}: {reason}; choose another `port`, or 0 for any free one."
        ) from error
    return made


def address_of(listening: socket.socket) -> str:
    """The URL at which a socket is reached."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """Leaves signals to the command, and asks it ten times a second whether to stop."""

    def __init__(self, config: uvicorn.Config, is_stopped: Callable[[], bool]) -> None:
        super().__init__(config)
        self.is_stopped = is_stopped

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.is_stopped()


def run(app: Guard, listening: socket.socket, limits: Limits, is_stopped: Callable[[], bool]) -> None:
    """Serve until `is_stopped`, then take no more requests, and finish those that have begun, within the time limit."""
    most = limits.max_waiting + SPARE_CONNECTIONS
    allow_open_files(most + SPARE_FILES)
    config = uvicorn.Config(
        app, log_config=None, log_level="critical", access_log=False, server_header=False, lifespan="on", ws="none",
        loop="asyncio", http="h11", limit_concurrency=most, backlog=BACKLOG,
        timeout_graceful_shutdown=math.ceil(limits.timeout + GRACE),
    )  # fmt: skip
    _Server(config, is_stopped).run(sockets=[listening])

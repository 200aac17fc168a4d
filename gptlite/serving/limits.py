"""What a server lets one request, and all of them together, take up."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass

from gptlite.errors import UsageError

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8080


@dataclass(frozen=True)
class Limits:
    """Raises `UsageError` for what makes no sense.

    - `max_body`: bytes of a request. `max_new_tokens`: tokens of a text.
    - `max_waiting`: texts that are asked for and not finished, of all requests together.
    - `timeout`: seconds from the first byte of a request to its answer, or to the last piece of it.
    - `max_texts`: prompts times samples, or texts to embed, of one request.
    """

    max_body: int = 1_000_000
    max_new_tokens: int = 4096
    max_waiting: int = 2048
    timeout: float = 300.0
    max_texts: int = 128

    def __post_init__(self) -> None:
        for name in ("max_body", "max_new_tokens", "max_waiting", "timeout", "max_texts"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"`{name}` must be a number above zero, not {getattr(self, name)}.")


def is_loopback(host: str) -> bool:
    """Does only this machine reach the address? Names other than localhost count as reachable from elsewhere."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_access(host: str, api_key: str | None) -> None:
    """Raises `UsageError` for an address that others reach without a key, and for a key that no header can carry."""
    if api_key is None and not is_loopback(host):
        raise UsageError(
            f"`host` {host} lets other machines in, so it needs `api_key`, a secret that clients send; 127.0.0.1 needs "
            "none."
        )
    if api_key is not None and not (api_key and all("!" <= character <= "~" for character in api_key)):
        raise UsageError("`api_key` must be printable ASCII characters without spaces, and at least one.")

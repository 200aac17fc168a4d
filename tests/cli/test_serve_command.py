"""The command `gptlite serve`: who is let in, how it ends, and what it says and does not say."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from support.processes import COMMAND

from gptlite.distribution import install_hint
from gptlite.serving import server
from gptlite.serving.limits import is_loopback


def test_others_are_let_in_only_with_a_key(gptlite: Command) -> None:
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.org"):
        outcome = gptlite("serve", "--host", host)
        assert outcome.code == 2 and f"--host {host}" in outcome.err and "--api-key" in outcome.err
    for key in ("", "two words", "né"):
        outcome = gptlite("serve", "--api-key", key, "-m", "gone")
        assert outcome.code == 2 and "--api-key" in outcome.err
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost")))


def test_limits_that_make_no_sense_are_refused(gptlite: Command) -> None:
    for option in ("--max-new-tokens", "--max-texts", "--max-waiting", "--max-body", "--timeout"):
        outcome = gptlite("serve", option, 0)
        assert outcome.code == 2 and f"{option} must be a number above zero" in outcome.err
    assert "--timeout must be" in gptlite("serve", "--timeout", "inf").err


def test_a_port_that_is_taken_is_named(gptlite: Command, trained_run: Path) -> None:
    with server.open_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        outcome = gptlite("serve", "-m", trained_run, "--port", port)
    assert outcome.code == 2 and f"port {port}" in outcome.err and "--port" in outcome.err
    outcome = gptlite("serve", "-m", trained_run, "--port", 70000)
    assert outcome.code == 2 and "--port must be between" in outcome.err


def test_what_is_missing_is_named(gptlite: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    outcome = gptlite("serve")
    assert outcome.code == 2 and install_hint("serve") in outcome.err


class Started:
    """A server in a process of its own."""

    def __init__(self, run: Path, *options: object, **environment: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "serve", "-m", str(run), "--port", "0", "--compile", "off", *map(str, options)],
            stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
        )  # fmt: skip
        assert self.process.stderr is not None
        self.said: list[str] = []
        while not (found := re.search(r"at (http://\S+) for", self.said[-1] if self.said else "")):
            line = self.process.stderr.readline()
            assert line, self.said
            self.said.append(line)
        self.address = found[1]
        self.reader = threading.Thread(target=lambda: self.said.extend(self.process.stderr or ()))
        self.reader.start()

    def open(self, path: str, body: Any = None, key: str = "") -> Any:
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        data = None if body is None else json.dumps(body).encode()
        return urllib.request.urlopen(urllib.request.Request(self.address + path, data, headers), timeout=60)

    def end(self) -> tuple[int, str]:
        code = self.process.wait(60)
        self.reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code, "".join(self.said)


@pytest.fixture
def started(trained_run: Path) -> Iterator[Started]:
    made = Started(trained_run, GPTLITE_API_KEY="secret-key")
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.end()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_ctrl_c_finishes_what_was_begun(started: Started) -> None:
    """The key comes from the environment, and what was asked and answered is nowhere in the log."""
    asked = {"prompt": "Ada secretly", "max_tokens": 400, "min_tokens": 400, "stream": True, "seed": 1}
    with pytest.raises(urllib.error.HTTPError, match="401") as refusal:
        started.open("/v1/models")
    refusal.value.close()
    with started.open("/v1/completions", asked, key="secret-key") as answer:
        events = [answer.readline()]
        started.process.send_signal(signal.SIGINT)
        events += list(answer)
    assert events[-2] == b"data: [DONE]\n"
    parts = [json.loads(line[6:]) for line in events if line.startswith(b"data: {")]
    text = "".join(part["choices"][0]["text"] for part in parts)
    code, said = started.end()
    assert "one text at a time" in said, "without machine code"
    assert code == 130 and "finishing the requests" in said and "Traceback" not in said
    assert re.search(r"POST /v1/completions 200 · \d+\.\d\d s · \d+ \+ 400 tokens", said), said
    assert "secret" not in said and not any(word in said for word in text.split() if len(word) > 4)

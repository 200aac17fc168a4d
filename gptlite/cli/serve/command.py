"""gptlite serve: a model behind an address that speaks OpenAI's protocol, with a page to try it."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptlite.cli import process
from gptlite.cli.shared import console, modes, options
from gptlite.config import LARGEST_NUMBER
from gptlite.distribution import install_hint
from gptlite.errors import Interrupted, UsageError
from gptlite.serving.limits import DEFAULT_HOST, DEFAULT_PORT, Limits, check_access

if TYPE_CHECKING:
    from gptlite.serving.guard import LogEntry

ACCESS, LIMITS = "Access", "Limits"
KEY_VARIABLE = "GPTLITE_API_KEY"
ONE_BY_ONE = (
    "without machine code the model is called for one text at a time: many clients together get the speed of one. A C "
    "compiler and --device cpu change that."
)
FINISHING = "finishing the requests that have begun; Ctrl-C again ends at once."
MODES = modes.Modes(
    everywhere={
        "model", "host", "port", "api_key", "max_new_tokens", "max_texts", "max_waiting", "max_body", "timeout",
        "batch_size", "device", "dtype", "compile", "threads", "quiet",
    },
)  # fmt: skip


def _limit(name: str, what: str, metavar: str = "N") -> Any:
    """An option that is a limit."""
    return typer.Option(name, metavar=metavar, parser=options.parse_count, help=what, rich_help_panel=LIMITS)


def serve(
    call: typer.Context,
    model: options.ModelOption = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.", rich_help_panel=ACCESS)
    ] = DEFAULT_HOST,
    port: Annotated[
        int, typer.Option("--port", metavar="N", help="0 is any free one.", rich_help_panel=ACCESS)
    ] = DEFAULT_PORT,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            envvar=KEY_VARIABLE,
            show_envvar=False,
            help="What clients must send.",
            show_default=f"${KEY_VARIABLE}",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    max_new_tokens: Annotated[int, _limit("--max-new-tokens", "Of a text, at most.")] = Limits.max_new_tokens,
    max_texts: Annotated[int, _limit("--max-texts", "Texts that one request may ask for.")] = Limits.max_texts,
    max_waiting: Annotated[int, _limit("--max-waiting", "Unfinished texts of all requests.")] = Limits.max_waiting,
    max_body: Annotated[int, _limit("--max-body", "Of a request.", metavar="BYTES")] = Limits.max_body,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="For a request.", rich_help_panel=LIMITS)
    ] = Limits.timeout,
    batch_size: options.TextsAtOnceOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DecodeDtypeOption = "fp32",
    compile: options.DecodeCompileOption = "auto",
    threads: options.ThreadsOption = None,
    quiet: options.QuietOption = False,
) -> None:
    """Answer programs that speak OpenAI's protocol, and show the page of the model. Ctrl-C ends it.

    [bold]gptlite serve --port 8080[/bold]
    """
    MODES.check(call)
    limits = Limits(
        max_body=max_body, max_new_tokens=max_new_tokens, max_waiting=max_waiting, timeout=timeout,
        max_texts=max_texts,
    )  # fmt: skip
    check_access(host, api_key)
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise UsageError(f"gptlite serve needs starlette and uvicorn: {install_hint('serve')}")
    import gptlite
    from gptlite import device as machine
    from gptlite.generation import decoding
    from gptlite.serving import app, server

    messages = console.Messages(quiet)
    hardware = machine.choose_hardware(device, "fp32", threads)
    loaded = gptlite.load(model, hardware.device.type)
    chosen = decoding.choose_decoding(loaded.model, LARGEST_NUMBER, dtype=dtype, compile=compile)
    messages.say(f"{loaded.path} · {chosen.describe()}", "dim")
    if chosen.packed is None:
        messages.say(ONE_BY_ONE, "dim")
    service = app.Service(
        loaded, chosen, limits, api_key=api_key, n_rows=batch_size,
        log=lambda entry: messages.say(describe(entry), "dim"), report=messages.show,
    )  # fmt: skip
    with server.open_socket(host, port) as listening, process.stoppable(lambda: messages.say(FINISHING)) as stop:
        address = server.address_of(listening)
        messages.say(f"{service.served.name} at {address} for people, {address}/v1 for programs; Ctrl-C ends it")
        stop()  # from here on a signal is a wish
        server.run(service.app, listening, limits, lambda: stop() is not None)
    if stop.signal is not None:
        messages.say("ended; the requests that had begun were finished.", "dim")
        raise Interrupted("", stop.signal)


def describe(entry: LogEntry) -> str:
    """A line of the log: nothing of what was asked or answered."""
    tokens = (
        f" · {entry.n_prompt_tokens:,} + {console.plural(entry.n_tokens, 'token')}" if entry.n_prompt_tokens else ""
    )
    return f"{entry.method} {entry.path} {entry.status} · {entry.seconds:.2f} s{tokens}"

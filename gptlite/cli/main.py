"""The app, its commands, and the one place where errors become a sentence and an exit code."""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
from typing import Annotated, Any

import typer

from gptlite import __version__, system
from gptlite.cli import process
from gptlite.cli.shared import console, flags, options, parsing
from gptlite.errors import GptliteError, LimitError, StorageError, is_out_of_memory, system_reason
from gptlite.text import background

# Each command: its module in this package, the function in it or the app of a group, and its panel on the help page.
USE, WORDS, TEXTS, RUNS = "Make a model and use it", "Words", "Texts", "Runs, and other programs"
COMMANDS = {
    "train": ("train.command", "train", USE),
    "generate": ("generate.command", "generate", USE),
    "embed": ("embed.command", "embed", USE),
    "words": ("words.command", "app", WORDS),
    "concordance": ("concordance.command", "concordance", WORDS),
    "inspect": ("inspect.command", "inspect", TEXTS),
    "score": ("score.command", "score", TEXTS),
    "eval": ("eval", "evaluate", TEXTS),
    "compare": ("compare.command", "compare", TEXTS),
    "report": ("report.command", "report", RUNS),
    "info": ("info", "info", RUNS),
    "runs": ("runs", "runs", RUNS),
    "check": ("check", "check", RUNS),
    "export": ("export.command", "export", RUNS),
    "serve": ("serve.command", "serve", RUNS),
}


VERSION = ("-V", "--version")


def build_app(*commands: str) -> typer.Typer:
    """The app with these commands only: importing one and reading its options takes longer than some answers do."""
    app = typer.Typer(
        name="gptlite",
        help="Turn your own text files into a small GPT, sample from it, and see what attention does to words.",
        context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": options.normalise},
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    app.callback()(callback)
    for name in commands:
        module, attribute, panel = COMMANDS[name]
        command = getattr(importlib.import_module(f"gptlite.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(command)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        console.write(f"gptlite {__version__}\n")
        raise typer.Exit()


def callback(
    version: Annotated[
        bool,
        typer.Option(
            *VERSION,
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: one sentence and the documented code for errors, a traceback only for bugs."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Threads that wait spin only briefly before they sleep: as quick as the default on a quiet machine, and beside
    # another load they do not for long steal the very core that the thread they wait for needs.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    for name in ("COLUMNS", "LINES", "TERMINAL_WIDTH"):  # rich and typer fall over numbers that are none
        if not re.fullmatch("[1-9][0-9]{0,3}", os.environ.get(name, "80")):
            del os.environ[name]
    if arguments[:1] != ["train"]:  # a training goes on
        system.end_with_reader()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    code = run(arguments or ["--help"])
    if background.left_behind():
        process.leave(code)
    sys.exit(code)


def find_command(name: str) -> Any:
    """The command of that name with its parameters; None where there is none."""
    return typer.main.get_command(build_app(name)).commands[name] if name in COMMANDS else None  # pyright: ignore


def run(arguments: list[str]) -> int:
    """The exit code of one command."""
    arguments = parsing.asked_for_help(arguments)
    flags.use(find_command, arguments)
    try:
        called = arguments[:1] if arguments[0] in COMMANDS else () if arguments[0] in VERSION else COMMANDS
        app = typer.main.get_command(build_app(*called))
        command = parsing.refuse_empty(parsing.show_plainly(app, called))
        parsing.check_values(command, arguments)
        code = command(arguments, standalone_mode=False, prog_name="gptlite")
        if code == 130:  # what typer makes of Ctrl-C
            console.error("interrupted.")
        if sys.stdout is not None:
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except GptliteError as error:
        if str(error):  # else another process says it
            console.error(str(error))
        return error.exit_code
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        help_for = context.command_path if context else "gptlite"
        console.error(parsing.sentence(parsing.message(error), f"{help_for} --help"))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort, process.Ended) as error:
        if isinstance(error.__cause__, EOFError):  # to typer the end of an answer, but no command asks anything
            raise error.__cause__ from None
        console.error("interrupted.")
        return error.code if isinstance(error, process.Ended) else 130
    except (BrokenPipeError, SystemExit) as error:
        # The reader of a pipe has left, which typer and rich turn into SystemExit: end as other programs do, without a
        # word. Completion in a shell exits too.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + system.CLOSED_PIPE
    except OSError as error:  # what no function foresaw: a name that is too long, a disk that is gone
        console.error(f"{error.filename or 'the system'}: {system_reason(error)}.")
        return StorageError.exit_code
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        console.error("memory ran out; close other programs, or ask for a smaller --batch-size, --context or --size.")
        return LimitError.exit_code

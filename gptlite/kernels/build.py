"""decoding.c and fused.c as machine code: compiled once for this compiler and processor, kept in the cache, loaded.

They are plain C that knows neither Python nor torch, so a compiler is done with them in a second, and one library
serves all models. Where there is no compiler, `NoKernel` says so in words and all goes on without.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from gptlite.errors import StorageError
from gptlite.storage.durable import replacing

SOURCES = Path(__file__).parent
FLAGS = ("-std=gnu11", "-O3", "-shared", "-fPIC")
# What a compiler may not know; the first that it takes is used. Without OpenMP there is one thread.
CHOICES = (("-march=native", "-fopenmp"), ("-march=native",), ("-fopenmp",), ())
NUL = b"\0"
PATIENCE = 300.0  # seconds; on a busy machine all takes long


class NoKernel(Exception):
    """There is no machine code; the message says why, as the end of a sentence."""


class Kernel:
    """The place of the library for this machine: `built` or not, to be built and loaded."""

    def __init__(self, name: str, directory: Path, *definitions: str) -> None:
        """Asks the compiler what it is and what processor it sees. Raises `NoKernel` where there is none.

        - `name`: of the source, "decoding" or "fused"; `definitions`: what the preprocessor is told, such as "BF16".
        """
        if sys.platform == "win32":
            raise NoKernel("it is not done on Windows")
        compiler = os.environ.get("CC") or "cc"
        try:
            command = shlex.split(compiler)
        except ValueError:  # a quotation mark that is not closed
            command = []
        if not command or shutil.which(command[0]) is None:
            raise NoKernel(f"no C compiler ({compiler}) was found")
        self.command, self.directory = command, directory.absolute()  # a library is known by its name
        self.source, self.definitions = SOURCES / f"{name}.c", [f"-D{definition}" for definition in definitions]
        # All that a compiler defines by itself: its version, and each set of instructions of the processor.
        facts = self._run("-march=native", "-dM", "-E", "-x", "c", os.devnull)
        facts = facts if facts is not None else self._run("-dM", "-E", "-x", "c", os.devnull)
        if facts is None:
            raise NoKernel(f"{command[0]} does not work as a C compiler")
        try:
            source = self.source.read_bytes()
        except OSError as error:
            raise NoKernel(f"{name}.c is missing beside the program") from error
        asked = repr((command, FLAGS, CHOICES, self.definitions)).encode()
        self.path = self.directory / f"{name}-{hashlib.sha256(NUL.join((source, facts, asked))).hexdigest()[:32]}.so"

    @property
    def built(self) -> bool:
        return _is_ours(self.path) and _is_ours(self.directory)

    def build(self) -> None:
        """Compile, in about a second. Raises `NoKernel`."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not _is_ours(self.directory):
                raise NoKernel(f"others may write to {self.directory}")
            with replacing(self.path) as made:
                if not any(self._compile(choice, made) for choice in CHOICES):
                    raise NoKernel(f"{self.command[0]} could not compile it")
                made.chmod(0o700)
        except (OSError, StorageError) as error:
            raise NoKernel(f"{self.directory} cannot be written") from error

    def load(self) -> ctypes.CDLL:
        """Raises `NoKernel`."""
        try:
            return ctypes.CDLL(str(self.path))
        except OSError as error:
            raise NoKernel(f"{self.path} cannot be loaded") from error

    def _compile(self, choice: tuple[str, ...], made: Path) -> bool:
        return self._run(*FLAGS, *choice, *self.definitions, str(self.source), "-o", str(made), "-lm") is not None

    def _run(self, *arguments: str) -> bytes | None:
        """What the compiler prints, or None when it fails."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                [*self.command, *arguments], capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE
            )
            if done.returncode == 0:
                return done.stdout
        return None


def _is_ours(path: Path) -> bool:
    """Code is run only from files and folders that nobody else can write to."""
    try:
        facts = path.stat()
    except OSError:
        return False
    return facts.st_uid == os.geteuid() and not facts.st_mode & 0o022

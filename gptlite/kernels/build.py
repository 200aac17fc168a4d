"""decoding.c and fused.c as machine code: compiled once for this compiler and processor, kept in the cache, loaded.

They are plain C that knows neither Python nor torch, so compiling takes a second or two, and one library serves all
models. Where there is no compiler, `NoKernel` says why and everything works without.

The name of a library in the cache is NAME-KEY-DIGEST.so, or NAME-KEY-DIGEST.serial.so where the compiler has no OpenMP.
KEY stands for the sources, the compiler and the processor. DIGEST is the SHA-256 of the file, checked before it is
loaded; what is loaded are the bytes that were checked, from memory where the system allows it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import secrets
import shlex
import shutil
import stat
import subprocess
import time
from pathlib import Path

from gptlite import system
from gptlite.kernels.folder import CAN_CHECK, Untrusted, opened
from gptlite.kernels.header import COMMON

SOURCES = Path(__file__).parent
FLAGS = ("-std=gnu11", "-O3", "-shared", "-fPIC")
# Options that not every compiler has; the first row that it accepts is used. Without OpenMP there is one thread.
CHOICES = (("-march=native", "-fopenmp"), ("-march=native",), ("-fopenmp",), ())
NUL = b"\0"
TIME_LIMIT = 20.0  # seconds for a build, with all its attempts
FORGET_AFTER = 3600.0  # seconds after which a failed build is tried again
STALE_AFTER = 600.0  # seconds after which the file of an unfinished build is deleted
LARGEST = 16 << 20  # bytes of a library; ours have 0.1 MB
CAREFULLY = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC"))

_loaded: dict[str, ctypes.CDLL] = {}  # by digest
_notices: list[str] = []


class NoKernel(Exception):
    """There is no machine code; the message says why, as the end of a sentence."""


class NoCompiler(NoKernel):
    """This computer has no C compiler."""


class Kernel:
    """The library of one source for this machine.

    - `path`: where it is in the cache, None where it is not there.
    - `notice`: a sentence for the user when a damaged library was found and compiled again, else None.
    """

    def __init__(self, name: str, directory: Path, *definitions: str) -> None:
        """Looks for a compiler, but does not run it. Raises `NoKernel` where there is none.

        - `name`: of the source, "decoding" or "fused"; `definitions`: preprocessor macros, such as "BF16".
        """
        if not CAN_CHECK:  # Windows
            raise NoKernel("machine code is not made on this system")
        compiler = os.environ.get("CC") or "cc"
        try:
            self.command = shlex.split(compiler)
        except ValueError:  # a quotation mark that is not closed
            self.command = []
        program = shutil.which(self.command[0]) if self.command else None
        if program is None:
            raise NoCompiler(f"no C compiler ({compiler}) was found")
        self.directory, self.source = directory.absolute(), SOURCES / f"{name}.c"
        self.definitions = [f"-D{definition}" for definition in definitions]
        try:
            sources = NUL.join(path.read_bytes() for path in (self.source, *sorted(SOURCES.glob("*.h"))))
            facts = Path(program).stat()
        except OSError as error:
            raise NoKernel(f"{name}.c is missing from the installation") from error
        self.abi = f"abi_{hashlib.sha256(sources).hexdigest()[:32]}"
        version = (os.path.realpath(program), facts.st_size, facts.st_mtime_ns)
        asked = repr((self.command, version, _processor(), FLAGS, CHOICES, self.definitions))
        key = hashlib.sha256(NUL.join((sources, asked.encode()))).hexdigest()[:32]
        self.stem = f"{name}-{key}"
        self.notice: str | None = None
        self.path = self._find()[0]

    @property
    def built(self) -> bool:
        """Is there an undamaged library in the cache?"""
        self.path = self._find()[0]
        return self.path is not None

    @property
    def damaged(self) -> bool:
        """Is there a library in the cache, but a damaged one, or one that others may write to?"""
        path, _, damaged = self._find()
        return path is None and damaged

    @property
    def parallel(self) -> bool | None:
        """Does it compute with several threads? None before it is built, when nobody knows."""
        return None if self.path is None else not self.path.name.endswith(".serial.so")

    def open(self, *, retry: bool = False) -> tuple[ctypes.CDLL, float]:
        """Load the library, after building it where it is missing or damaged; and the seconds that building took.

        `retry` builds even if that has failed within the last hour. Raises `NoKernel`.
        """
        began, damaged = time.perf_counter(), self.damaged
        try:
            return self.load(), 0.0
        except NoKernel:
            damaged = damaged or self.path is not None  # undamaged, but made from other sources
        self.build(retry=retry)
        if damaged:
            self.notice = f"a compiled library in {self.directory} was damaged and has been compiled again."
            _notices.append(self.notice)
        return self.load(), time.perf_counter() - began

    def build(self, *, retry: bool = False) -> None:
        """Compile, in a second or two, in place of what is there. Raises `NoKernel`."""
        failed = f"failed-{self.stem}"
        try:
            with opened(self.directory, make=True) as folder:
                _sweep(folder)
                if not retry and (reason := _recall(folder, failed)):
                    raise NoKernel(reason)
                scratch = self.directory / f".tmp-{secrets.token_hex(8)}.so"
                try:
                    self._compile(scratch)
                    scratch.chmod(0o700)
                    content = scratch.read_bytes()
                    kind = "" if is_parallel(self._open_library(content)) else ".serial"
                    for name in self._names(folder):
                        os.unlink(name, dir_fd=folder)
                    name = f"{self.stem}-{hashlib.sha256(content).hexdigest()}{kind}.so"
                    os.rename(scratch.name, name, src_dir_fd=folder, dst_dir_fd=folder)
                except NoKernel as error:
                    _remember(folder, failed, str(error))
                    raise
                finally:
                    with contextlib.suppress(OSError):
                        os.unlink(scratch.name, dir_fd=folder)
                with contextlib.suppress(OSError):
                    os.unlink(failed, dir_fd=folder)
        except Untrusted as error:
            raise NoKernel(str(error)) from error
        except OSError as error:
            raise NoKernel(f"{self.directory} cannot be written") from error
        self.path = self.directory / name

    def load(self) -> ctypes.CDLL:
        """Raises `NoKernel` where there is no library, or one that is damaged or of another version."""
        self.path, content, _ = self._find()
        if self.path is None:
            raise NoKernel(f"{self.directory} has no undamaged {self.source.stem} library")
        return self._open_library(content)

    def _open_library(self, content: bytes) -> ctypes.CDLL:
        """The library in these bytes, its functions declared. Raises `NoKernel` where that is none of these sources."""
        digest = hashlib.sha256(content).hexdigest()
        if digest not in _loaded:
            try:
                library = _load(content, self.directory)
                self._check_abi(library)
            except (OSError, ValueError) as error:
                raise NoKernel(f"the {self.source.stem} library in {self.directory} cannot be loaded") from error
            COMMON.declare(library)
            _loaded[digest] = library
        return _loaded[digest]

    def _find(self) -> tuple[Path | None, bytes, bool]:
        """Where an undamaged library is, what is in it, and whether there are damaged ones."""
        damaged = False
        with contextlib.suppress(OSError), opened(self.directory) as folder:
            for name in self._names(folder):
                content = _read(folder, name)
                digest = name.removeprefix(f"{self.stem}-").split(".")[0]
                if content is not None and hashlib.sha256(content).hexdigest() == digest:
                    return self.directory / name, content, damaged
                damaged = True
        return None, b"", damaged

    def _names(self, folder: int) -> list[str]:
        return sorted(n for n in os.listdir(folder) if n.startswith(f"{self.stem}-") and n.endswith(".so"))

    def _compile(self, made: Path) -> None:
        """Compile into the file `made`. Raises `NoKernel`."""
        end = time.monotonic() + TIME_LIMIT
        for choice in CHOICES:
            arguments = (*FLAGS, *choice, *self.definitions, f"-DABI={self.abi}", str(self.source), "-o", str(made))
            if _succeeds([*self.command, *arguments, "-lm"], end) and made.exists():
                return
            if time.monotonic() >= end:
                raise NoKernel(f"{self.command[0]} was not done after {TIME_LIMIT:.0f} s")
        raise NoKernel(f"{self.command[0]} could not compile it")

    def _check_abi(self, library: ctypes.CDLL) -> None:
        """Raises `ValueError` unless the library was made from these sources, with the structures that Python has."""
        sizes = [ctypes.sizeof(structure) for structure in COMMON.structures.values()]
        abi = (ctypes.c_char * (len(self.abi) + 1)).in_dll(library, "kernel_abi").value.decode(errors="replace")
        theirs = [*(ctypes.c_int64 * len(sizes)).in_dll(library, "kernel_sizes")]
        if (abi, theirs) != (self.abi, sizes):
            raise ValueError(f"made for {abi} {theirs}, not for {self.abi} {sizes}")


def take_notices() -> list[str]:
    """The notices of all kernels since the last call, for whoever talks to the user."""
    taken = [*_notices]
    _notices.clear()
    return taken


def is_parallel(library: ctypes.CDLL) -> bool:
    """Was it compiled with OpenMP, so that it computes with as many threads as it is told?"""
    return bool(ctypes.c_int64.in_dll(library, "kernel_is_parallel").value)


def _processor() -> str:
    """What decides which instructions -march=native stands for; the computer's name where the system does not say."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
        names = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU ", "Features", "isa", "uarch")
        if facts := [line for line in lines if line.startswith(names) and not line.startswith("CPU revision")]:
            return "\n".join(facts)
    return repr((platform.machine(), platform.node()))


def _succeeds(command: list[str], end: float) -> bool:
    """Does the command exit with 0 before `end`? Then, or when this program is interrupted, its children are ended."""
    with contextlib.suppress(OSError):
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            **system.own_group(),
        )  # fmt: skip
        try:
            return process.wait(max(0.0, end - time.monotonic())) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            system.end_group(process)
    return False


def _read(folder: int, name: str) -> bytes | None:
    """What a file of ours that nobody else may write holds; None for any other."""
    try:
        descriptor = os.open(name, os.O_RDONLY | CAREFULLY, dir_fd=folder)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        is_ours = facts.st_uid == os.geteuid() and not facts.st_mode & 0o022 and stat.S_ISREG(facts.st_mode)
        return file.read() if is_ours and facts.st_size <= LARGEST else None


def _load(content: bytes, directory: Path) -> ctypes.CDLL:
    """A library from these very bytes: a change of the file, or its end, can no longer reach them.

    Raises `OSError` where that is none, or none for this processor.
    """
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):  # a system that runs nothing from memory
            descriptor = os.memfd_create("gptlite-kernel")
            with open(descriptor, "wb", closefd=False) as file:
                file.write(content)
            if (name := system.name_of(descriptor)) is not None:
                # It stays open: the loader takes a path that it has seen for the same library.
                return ctypes.CDLL(name)
            os.close(descriptor)
    scratch = directory / f".tmp-{secrets.token_hex(8)}.so"  # in a folder that `opened` has checked
    try:
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | CAREFULLY, 0o700), "wb") as file:
            file.write(content)
        return ctypes.CDLL(str(scratch))
    finally:
        scratch.unlink(missing_ok=True)


def _sweep(folder: int) -> None:
    """Delete what unfinished builds have left, and failures that no longer count."""
    ages = {".tmp-": STALE_AFTER, "failed-": FORGET_AFTER}
    for name in os.listdir(folder):
        for start, age in ages.items():
            with contextlib.suppress(OSError):
                if name.startswith(start) and _age(folder, name) > age:
                    os.unlink(name, dir_fd=folder)


def _age(folder: int, name: str) -> float:
    return abs(time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime)


def _recall(folder: int, name: str) -> str | None:
    """Why a build has failed within the last hour, None if none has."""
    with contextlib.suppress(OSError):
        if (content := _read(folder, name)) is not None and _age(folder, name) < FORGET_AFTER:
            return content[:1000].decode(errors="replace")
    return None


def _remember(folder: int, name: str, reason: str) -> None:
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | CAREFULLY
        with open(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
            file.write(f"{reason} (tried {time.strftime('%H:%M')})".encode())

"""The only file that chooses device, precision, threads and compilation, and says why in words."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from gptlite.errors import UsageError, plural

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "fp32", "bf16", "int8")
COMPILE = ("auto", "on", "off")
# M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX of glibc's malloc.h: while memory is kept, and later. Tensors above
# 32 MB are still given back: one of 64 MB that was kept made the heap grow to 600 MB.
# The later thresholds are those that glibc arrives at by itself when large tensors are freed.
MALLOC_OPTIONS = {-1: (2**31 - 1, 64 << 20), -3: (32 << 20, 32 << 20), -8: (1, 0)}
multiply_int8 = torch.ops.aten._int_mm  # int8 (R, K), int8 (K, C) to int32 (R, C)
MOST_THREADS = 1024  # libraries of threads end the process when the system grants no more


@dataclass(frozen=True)
class Hardware:
    """Where and how to compute. Weights are always fp32; `autocast` computes matrix products in bf16.

    `int8` is for training steps in C, whose matrix products then multiply 8-bit integers (kernels/products.py).
    """

    device: torch.device
    bf16: bool
    threads: int
    compile: bool
    reason: str
    processes: int = 1  # that train together, each on a device of its own or with threads of its own
    fused: bool = False  # compiled steps are those of kernels/fused.c, not torch's
    int8: bool = False
    most_threads: int = 0  # of which a run begins with fewer because of other programs, but may use them later
    # Of "dtype", "compile" and "threads", what nobody asked for: the plan of a training decides it.
    open: tuple[str, ...] = ()

    def autocast(self) -> AbstractContextManager[object]:
        """A context in which matrix products run in bf16, or one that does nothing."""
        if self.bf16:
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def rough_products(self) -> AbstractContextManager[object]:
        """A context in which fp32 products round to TF32 where a GPU takes steps in bf16, or one that does nothing."""
        return _tf32() if self.bf16 and self.device.type == "cuda" else contextlib.nullcontext()

    @property
    def dtype(self) -> str:
        """The type of number that matrix products multiply, as `choose_hardware` calls it."""
        return "bf16" if self.bf16 else "int8" if self.int8 else "fp32"

    def for_reading(self) -> Hardware:
        """The same for scoring texts: on CPUs in fp32, so that a model's figures are the same on all of them."""
        return replace(self, bf16=self.bf16 and self.device.type != "cpu", int8=False)

    def choices(self) -> dict[str, Any]:
        """What the bits of a result depend on, as the arguments of `choose_hardware` that ask for it."""
        return {
            "device": self.device.type,
            "dtype": self.dtype,
            "threads": self.threads,
            "compile": "on" if self.compile else "off",
            **({"processes": self.processes} if self.processes > 1 else {}),
        }

    def describe(self) -> str:
        threads = plural(self.threads, "thread") if self.device.type == "cpu" else ""
        processes = f"{self.processes} processes" if self.processes > 1 else ""
        workers = ", " + " of ".join(filter(None, (processes, threads))) if processes or threads else ""
        compiled = ", compiled" if self.compile else ""
        return f"{self.device.type}, {self.dtype}{workers}{compiled}: {self.reason}"


def choose_hardware(
    device: str = "auto", dtype: str = "auto", threads: int | None = None, compile: str = "auto"
) -> Hardware:
    """Decide once per command. cuda before mps before cpu; bf16 only where the chip multiplies it in hardware.

    On CPUs without such instructions a bf16 product is emulated and more than a hundred times slower than fp32. On
    CPUs, bf16 and products of 8-bit integers serve training alone, and its plan chooses among them
    (`training.machine.decide`); whatever else is computed there, is in fp32.
    Raises `UsageError` when a device is asked for that this machine does not have, or int8 where it does not help.
    """
    for name, value, allowed in (("device", device, DEVICES), ("dtype", dtype, DTYPES), ("compile", compile, COMPILE)):
        if value not in allowed:
            raise UsageError(f"`{name}` must be one of {', '.join(allowed)}, not '{value}'.")
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise UsageError(f"`threads` must be between 1 and {MOST_THREADS:,}, not {threads}.")
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        chosen = next(name for name in ("cuda", "mps", "cpu") if available[name])
        reason = "the fastest device found" if chosen != "cpu" else "no GPU found"
    elif available[device]:
        chosen, reason = device, "as asked"
    else:
        raise UsageError(f"this machine offers no '{device}' device to torch; use `device='auto'` or `device='cpu'`.")
    in_hardware = bf16_in_hardware(chosen)
    if dtype == "int8" and not (chosen == "cpu" and int8_in_hardware()):
        what = "this processor has no fast products of 8-bit integers" if chosen == "cpu" else "int8 is for CPUs"
        raise UsageError(f"{what}; use `dtype='auto'` or `dtype='fp32'`.")
    if dtype == "bf16" and not in_hardware:
        reason += "; bf16 is emulated here and very slow"
    bf16 = in_hardware and chosen != "cpu" if dtype == "auto" else dtype == "bf16"
    undecided = {
        "dtype": dtype == "auto" and chosen == "cpu" and (in_hardware or int8_in_hardware()),
        "compile": compile == "auto",
        "threads": threads is None and chosen == "cpu",
    }
    if threads is not None:
        torch.set_num_threads(threads)
    return Hardware(
        device=torch.device(chosen),
        bf16=bf16,
        threads=torch.get_num_threads(),
        compile=compile == "on",
        reason=reason,
        int8=dtype == "int8",
        open=tuple(name for name, is_open in undecided.items() if is_open),
    )


def use_threads(hardware: Hardware, threads: int) -> Hardware:
    """`hardware` with so many threads, which are set."""
    torch.set_num_threads(threads)
    return replace(hardware, threads=threads, most_threads=max(hardware.most_threads, hardware.threads))


def count_gpus() -> int:
    """GPUs of this machine on which several processes can train together."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def available_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on `device`; None where that is not known.

    For a CPU, what is available on the host, or less where a container or another control group sets a limit.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [amount for amount in (_host_memory(), _cgroup_memory()) if amount is not None]
    return min(free, default=None)


def _host_memory() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            facts = dict(line.split(":", 1) for line in file)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        return psutil.virtual_memory().available


def _cgroup_memory(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes left of the tightest memory limit of this process's control groups (version 1 or 2); None without one.

    Cached files that the kernel would drop first (`inactive_file`) do not count as used.
    """
    try:
        lines = [line.split(":", 2) for line in proc.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return None
    left: list[int] = []
    for parts in lines:
        if len(parts) != 3 or not (parts[1] == "" or "memory" in parts[1].split(",")):
            continue
        base, limit, usage = root, "memory.max", "memory.current"
        if parts[1]:
            base, limit, usage = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        group = base / parts[2].strip("/")
        # In a container the path may be the host's, which does not exist here; the limit is then at the base.
        for folder in (group, *group.parents):
            left += _left_in(folder, limit, usage)
            if folder == base:
                break
    return min(left, default=None)


def _left_in(folder: Path, limit: str, usage: str) -> list[int]:
    """Bytes left in one control group, as a list that is empty where it sets no limit."""
    try:
        most, used = int((folder / limit).read_text("ascii")), int((folder / usage).read_text("ascii"))
        facts = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
        cached = int(facts.get("total_inactive_file", facts.get("inactive_file", 0)))
    except (OSError, ValueError):  # version 2 says "max" where there is no limit
        return []
    return [max(0, most - max(0, used - cached))]


@contextlib.contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """While this is open, memory of tensors up to 32 MB stays with the process when freed, where glibc allocates it.

    A training step allocates and frees the same large tensors again and again. By default glibc returns them to the
    system, and on their first use each of their pages is zeroed anew, which takes 5 to 15 % of a step
    (docs/lab/log.md). One arena serves all threads, because the heaps of the others hold at most 64 MB. See mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    for option, (kept, _) in MALLOC_OPTIONS.items():
        libc.mallopt(option, kept)
    try:
        yield
    finally:
        for option, (_, later) in MALLOC_OPTIONS.items():
            libc.mallopt(option, later)
        libc.malloc_trim(0)


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    """Products of numbers with 10 bits after the point, summed in fp32."""
    matmul = torch.backends.cuda.matmul
    # From 2.9 on, torch warns of the older name; the newer one leaves no trace where its value is given back.
    name, rough = ("fp32_precision", "tf32") if hasattr(matmul, "fp32_precision") else ("allow_tf32", True)
    before = getattr(matmul, name)
    setattr(matmul, name, rough)
    try:
        yield
    finally:
        setattr(matmul, name, before)


def has_tiles() -> bool:
    """Has the CPU tiles (AMX)? Then bf16 products are so much quicker that all else around them may be slower."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def bf16_in_hardware(device: str) -> bool:
    """Does the chip multiply bf16?"""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device == "cpu":
        return has_tiles() or bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    return False


@functools.cache
def int8_in_hardware() -> bool:
    """Has the CPU instructions that multiply 8-bit integers (VNNI), and does torch use them with exact sums?

    Older processors add up products of two such integers in 16 bits, where the largest ones overflow. No clock decides:
    the answer is the same beside other programs.
    """
    if not getattr(torch.cpu, "_is_vnni_supported", lambda: False)():
        return False
    integers = torch.full((256, 256), 127, dtype=torch.int8)
    try:
        return bool((multiply_int8(integers, -integers) == -256 * 127**2).all())
    except RuntimeError:  # a torch that multiplies them on GPUs only
        return False

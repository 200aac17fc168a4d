"""The C files on ARM: compiled for aarch64 and run by qemu, every function gives the numbers that it gives here.

On Debian: apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user. The other tests of this folder compare
the functions with torch on the processor that runs them.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gptlite.kernels import build

PROGRAM = Path(__file__).with_name("every_function.c")
ARM, QEMU = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
FLAGS = [*(flag for flag in build.FLAGS if flag not in ("-shared", "-fPIC")), "-fopenmp"]
HERE = shutil.which("cc")

pytestmark = [
    pytest.mark.skipif(HERE is None, reason="there is no C compiler"),
    pytest.mark.skipif(platform.machine() == "aarch64", reason="this is ARM, where the other tests of this folder run"),
    pytest.mark.skipif(ARM is None or QEMU is None, reason="gcc-aarch64-linux-gnu or qemu-user is not installed"),
]


def printed(compiler: str, folder: Path, definitions: list[str], *runner: str) -> tuple[list[str], list[float]]:
    """The names and the numbers that the program prints when it is compiled by `compiler` and started by `runner`."""
    made = folder / Path(compiler).name
    options = [*FLAGS, "-static", "-save-temps=obj", *definitions, f"-I{build.SOURCES}"]
    command = [compiler, *options, str(PROGRAM), "-o", str(made), "-lm"]
    subprocess.run(command, check=True, capture_output=True)
    lines = subprocess.run([*runner, made], check=True, capture_output=True, text=True).stdout.splitlines()
    parts = [line.split() for line in lines]
    return [name for name, _ in parts], [float(value) for _, value in parts]


@pytest.mark.parametrize(
    ("definitions", "tolerance"),
    [([], 1e-5), pytest.param(["-DBF16"], 2.0**-7, marks=pytest.mark.slow), (["-DDECODING"], 1e-5)],
    ids=["fused, fp32", "fused, bf16", "decoding"],
)
def test_every_function_gives_the_same_numbers_on_arm(tmp_path: Path, definitions: list[str], tolerance: float) -> None:
    """Up to rounding: sums of four numbers at a time are added in another order than sums of eight.

    The portable vector types become NEON: multiplications of four floats at a time.
    """
    assert HERE is not None and ARM is not None and QEMU is not None
    names, ours = printed(HERE, tmp_path, definitions)
    their_names, theirs = printed(ARM, tmp_path, definitions, QEMU)
    assert names == their_names and len(names) > 300
    for name, a, b in zip(names, ours, theirs, strict=True):
        assert abs(a - b) <= tolerance * max(1.0, abs(a)), f"{name}: {a} here, {b} on ARM"
    (assembly,) = tmp_path.glob(f"{Path(ARM).name}*.s")
    assert len(re.findall(r"\bfmla\s+v\d+\.4s", assembly.read_text(encoding="utf-8"))) > 20


def test_the_program_calls_every_function() -> None:
    source, header = PROGRAM.read_text(encoding="utf-8"), (build.SOURCES / "common.h").read_text(encoding="utf-8")
    functions = re.findall(r"^(?:void|int|int64_t|double) (\w+)\(", header, re.MULTILINE)
    assert len(functions) > 12
    assert [name for name in functions if f"{name}(" not in source] == []

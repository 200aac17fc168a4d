"""The machine code of decoding.c and fused.c: built once, kept, run only when nobody else can have written it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from gptlite.kernels import build
from gptlite.kernels.build import Kernel, NoKernel

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-O0"))


def compiler(text: str) -> str:
    """A compiler of our own, for $CC."""
    path = Path("compiler")
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path.absolute())


def test_it_is_compiled_once_and_found_again() -> None:
    first = Kernel("decoding", Path("kernels"))
    assert not first.built
    first.build()
    again = Kernel("decoding", Path("kernels"))
    assert again.built and again.path == first.path
    assert again.load().forward
    assert [path.name for path in Path("kernels").iterdir()] == [first.path.name], "nothing is left lying about"


def test_another_source_compiler_or_processor_is_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {Kernel("decoding", Path("kernels")).path}
    paths.add(Kernel("decoding", Path("kernels"), "BF16").path)
    Path("decoding.c").write_text("int forward(void) { return 0; }")
    with monkeypatch.context() as patch:
        patch.setattr(build, "SOURCES", Path())
        paths.add(Kernel("decoding", Path("kernels")).path)
    monkeypatch.setenv("CC", compiler("echo '#define __another__ 1'"))
    paths.add(Kernel("decoding", Path("kernels")).path)
    monkeypatch.setenv("CC", compiler("echo '#define __yet_another__ 1'"))
    paths.add(Kernel("decoding", Path("kernels")).path)
    assert len(paths) == 5


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no-such-compiler", r"no C compiler \(no-such-compiler\) was found"),
        (" ", "no C compiler"),
        ("cc 'x", "no C compiler"),
        ("false", "false does not work as a C compiler"),
    ],
)
def test_without_a_compiler_it_says_so(value: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", value)
    with pytest.raises(NoKernel, match=reason):
        Kernel("decoding", Path("kernels"))


def test_a_compiler_that_knows_neither_this_processor_nor_threads_is_good_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = compiler('case "$*" in *native*|*openmp*) exit 1;; esac\nexec cc "$@"')
    monkeypatch.setenv("CC", old)
    made = Kernel("decoding", Path("kernels"))
    made.build()
    assert made.load().forward


def test_a_compiler_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", compiler('case "$*" in *shared*) exit 1;; esac\nexec cc "$@"'))
    made = Kernel("decoding", Path("kernels"))
    with pytest.raises(NoKernel, match="could not compile it"):
        made.build()
    assert not made.built and not list(Path("kernels").iterdir())


def test_code_that_others_may_write_is_not_run() -> None:
    made = Kernel("decoding", Path("kernels"))
    made.build()
    made.path.chmod(0o722)
    assert not made.built
    made.build()
    assert made.built
    Path("kernels").chmod(0o777)
    assert not made.built
    with pytest.raises(NoKernel, match="others may write"):
        made.build()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_cannot_be_written_is_no_error_of_ours() -> None:
    Path("kernels").mkdir(mode=0o500)
    with pytest.raises(NoKernel, match="cannot be written"):
        Kernel("decoding", Path("kernels")).build()


def test_a_file_where_the_folder_should_be_is_no_error_of_ours() -> None:
    Path("kernels").write_text("")
    with pytest.raises(NoKernel, match="cannot be written"):
        Kernel("decoding", Path("kernels")).build()


def test_what_is_no_library_is_not_loaded() -> None:
    made = Kernel("decoding", Path("kernels"))
    made.build()
    made.path.write_bytes(b"not a library")
    with pytest.raises(NoKernel, match="cannot be loaded"):
        made.load()

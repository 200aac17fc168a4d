"""The machine code of decoding.c and fused.c: built once, checked before it is loaded, never waited for too long."""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptlite.kernels import build
from gptlite.kernels.build import Kernel, NoKernel, is_parallel
from gptlite.kernels.header import COMMON

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
FOLDER = Path("kernels")


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-O0"))
    monkeypatch.setattr(build, "_loaded", {})


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the library of decoding.c, to be copied."""
    folder = tmp_path_factory.mktemp("compiled") / "kernels"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "FLAGS", (*build.FLAGS, "-O0"))
        Kernel("decoding", folder).build()
    return folder


@pytest.fixture
def kernel(compiled: Path) -> Kernel:
    FOLDER.mkdir(mode=0o700)
    for path in compiled.iterdir():
        shutil.copy(path, FOLDER)
    kernel = Kernel("decoding", FOLDER)
    assert kernel.built
    return kernel


def path_of(kernel: Kernel) -> Path:
    assert kernel.path is not None
    return kernel.path


def compiler(text: str) -> str:
    """A compiler of our own, for $CC."""
    path = Path("compiler")
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path.absolute())


def test_it_is_compiled_once_and_found_again() -> None:
    first = Kernel("decoding", FOLDER)
    assert not first.built and not first.damaged and first.parallel is None
    first.open()
    again = Kernel("decoding", FOLDER)
    assert again.built and again.path == first.path and again.parallel
    library, seconds = again.open()
    assert library.forward and seconds == 0 and again.notice is None
    assert [path.name for path in FOLDER.iterdir()] == [path_of(first).name], "nothing is left lying about"


def test_another_source_header_compiler_or_processor_is_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    stems = {Kernel("decoding", FOLDER).stem, Kernel("decoding", FOLDER, "BF16").stem}
    Path("decoding.c").write_text("int forward(void) { return 0; }")
    with monkeypatch.context() as patch:
        patch.setattr(build, "SOURCES", Path())
        stems.add(Kernel("decoding", FOLDER).stem)
        Path("common.h").write_text("/* */")
        stems.add(Kernel("decoding", FOLDER).stem)
    with monkeypatch.context() as patch:
        patch.setattr(build, "_processor", lambda: "another")
        stems.add(Kernel("decoding", FOLDER).stem)
    for text in ("exec cc", "exec cc -O0"):
        monkeypatch.setenv("CC", compiler(text))
        stems.add(Kernel("decoding", FOLDER).stem)
    assert len(stems) == 7


@pytest.mark.parametrize(
    ("value", "reason"),
    [("no-such-compiler", r"no C compiler \(no-such-compiler\) was found"), (" ", "no C compiler"), ("cc 'x", "no C")],
)
def test_without_a_compiler_it_says_so(value: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", value)
    with pytest.raises(NoKernel, match=reason):
        Kernel("decoding", FOLDER)


# -- Threads


def test_a_compiler_that_knows_neither_this_processor_nor_threads_is_good_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CC", compiler('case "$*" in *native*|*openmp*) exit 1;; esac\nexec cc "$@"'))
    made = Kernel("decoding", FOLDER)
    library, _ = made.open()
    assert library.forward and not is_parallel(library) and made.parallel is False
    assert Kernel("decoding", FOLDER).parallel is False, "known without loading it"


def test_a_compiler_that_ignores_the_option_has_no_threads_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", compiler('for a; do shift; [ "$a" = -fopenmp ] || set -- "$@" "$a"; done\nexec cc "$@"'))
    made = Kernel("decoding", FOLDER)
    library, _ = made.open()
    assert made.parallel is False and not is_parallel(library)


def test_openmp_is_seen_in_the_library(kernel: Kernel) -> None:
    assert kernel.parallel and is_parallel(kernel.load())


# -- Compilers that fail


def test_a_compiler_that_fails_leaves_nothing_but_the_memory_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", compiler('echo >> calls\ncase "$*" in *shared*) exit 1;; esac\nexec cc "$@"'))
    made = Kernel("decoding", FOLDER)
    for _ in range(2):
        with pytest.raises(NoKernel, match="could not compile it"):
            made.open()
    assert not made.built and [path.name for path in FOLDER.iterdir()] == [f"failed-{made.stem}"]
    assert Path("calls").read_text().count("\n") == len(build.CHOICES), "it is not asked again for a while"
    with pytest.raises(NoKernel, match="could not compile it"):
        made.open(retry=True)
    assert Path("calls").read_text().count("\n") == 2 * len(build.CHOICES)
    long_ago = time.time() - build.FORGET_AFTER - 1
    os.utime(FOLDER / f"failed-{made.stem}", (long_ago, long_ago))
    with pytest.raises(NoKernel, match="could not compile it"):
        made.open()
    assert Path("calls").read_text().count("\n") == 3 * len(build.CHOICES)


def test_after_a_success_no_failure_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", compiler('[ -e works ] || exit 1\nexec cc "$@"'))
    made = Kernel("decoding", FOLDER)
    with pytest.raises(NoKernel):
        made.build()
    Path("works").touch()
    made.build(retry=True)
    assert [path.suffix for path in FOLDER.iterdir()] == [".so"]


@pytest.mark.row("P28")
def test_a_compiler_that_hangs_is_given_up_with_all_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "TIME_LIMIT", 0.5)
    monkeypatch.setenv("CC", compiler("sleep 100 &\necho $! > child\nwait"))
    made = Kernel("decoding", FOLDER)
    began = time.monotonic()
    with pytest.raises(NoKernel, match="compiler was not done after 0 s"):
        made.open()
    assert time.monotonic() - began < 5, "one attempt, not one for each choice of options"
    child = Path("/proc", Path("child").read_text().strip(), "stat")
    for _ in range(50):
        if not child.exists() or child.read_text().split()[2] == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail("its child is still there")
    began = time.monotonic()
    with pytest.raises(NoKernel, match="was not done"):
        Kernel("decoding", FOLDER).open()
    assert time.monotonic() - began < 0.4, "that is remembered"


def test_a_compiler_that_makes_no_library_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", compiler('for a; do last=$out; out=$a; [ "$last" = -o ] && echo no > "$a"; done; exit 0'))
    made = Kernel("decoding", FOLDER)
    with pytest.raises(NoKernel, match="cannot be loaded"):
        made.open()
    assert [path.name for path in FOLDER.iterdir()] == [f"failed-{made.stem}"]


def test_what_unfinished_builds_left_is_swept(kernel: Kernel) -> None:
    old, new = FOLDER / ".tmp-old.so", FOLDER / ".tmp-new.so"
    for path in (old, new):
        path.touch()
    long_ago = time.time() - build.STALE_AFTER - 1
    os.utime(old, (long_ago, long_ago))
    kernel.build()
    assert not old.exists() and new.exists(), "the second may be that of a build that runs now"


# -- Who may write


@pytest.mark.row("S19")
def test_code_that_others_may_write_is_not_run(kernel: Kernel) -> None:
    path_of(kernel).chmod(0o722)
    assert not kernel.built and kernel.damaged
    kernel.build()
    assert kernel.built
    for folder in (FOLDER, FOLDER.absolute().parent):
        before = folder.stat().st_mode
        folder.chmod(0o777)
        assert not Kernel("decoding", FOLDER).built
        with pytest.raises(NoKernel, match=f"others may write to {folder.absolute()}"):
            kernel.open()
        folder.chmod(before)
    assert kernel.built


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root gives files away")
def test_code_of_another_owner_is_not_run(kernel: Kernel) -> None:
    os.chown(path_of(kernel), 12345, -1)
    assert not kernel.built
    kernel.build()
    os.chown(FOLDER, 12345, -1)
    assert not kernel.built
    with pytest.raises(NoKernel, match="others may write"):
        kernel.open()


@pytest.mark.row("S19")
def test_code_of_another_owner_is_not_run_whoever_we_are(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fstat

    def of_another(descriptor: int) -> os.stat_result:
        facts = real(descriptor)
        return facts if not os.path.isfile(f"/proc/self/fd/{descriptor}") else _with_owner(facts, 12345)

    monkeypatch.setattr(os, "fstat", of_another)
    assert not kernel.built
    with pytest.raises(NoKernel):
        kernel.load()


def _with_owner(facts: os.stat_result, owner: int) -> os.stat_result:
    return os.stat_result([*facts[:4], owner, *facts[5:]])


def test_a_link_is_no_library(kernel: Kernel) -> None:
    path = path_of(kernel)
    path.rename("elsewhere.so")
    path.symlink_to(Path("elsewhere.so").absolute())
    assert not kernel.built


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_cannot_be_written_is_no_error_of_ours() -> None:
    FOLDER.mkdir(mode=0o500)
    with pytest.raises(NoKernel, match="cannot be written"):
        Kernel("decoding", FOLDER).build()


def test_a_file_where_the_folder_should_be_is_no_error_of_ours() -> None:
    FOLDER.write_text("")
    with pytest.raises(NoKernel, match="cannot be written"):
        Kernel("decoding", FOLDER).build()


# -- Damage


def damage(path: Path, rng: random.Random, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "bit":
        place = rng.randrange(len(content))
        content[place] ^= 1 << rng.randrange(8)
    else:
        del content[rng.randrange(len(content)) :]
    path.write_bytes(content)


@pytest.mark.row("S18")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["bit", "truncation"])
def test_a_damaged_library_is_compiled_again_once_with_a_notice(kernel: Kernel, kind: str, seed: int) -> None:
    before = path_of(kernel)
    damage(before, random.Random(seed), kind)
    assert not kernel.built and kernel.damaged
    with pytest.raises(NoKernel, match="has no undamaged decoding library"):
        kernel.load()
    library, seconds = kernel.open()
    assert library.forward and seconds > 0
    assert kernel.notice == f"a compiled library in {FOLDER.absolute()} was damaged and has been compiled again."
    again = Kernel("decoding", FOLDER)
    assert again.open()[1] == 0 and again.notice is None
    assert list(FOLDER.iterdir()) == [FOLDER / before.name]


@pytest.mark.row("S18")
@pytest.mark.slow
def test_no_bit_flip_and_no_truncation_is_loaded(kernel: Kernel) -> None:
    rng, path = random.Random(0), path_of(kernel)
    content = path.read_bytes()
    for kind in ["bit"] * 200 + ["truncation"] * 20:
        damage(path, rng, kind)
        assert path.read_bytes() != content and not kernel.built and kernel.damaged
        path.write_bytes(content)
    assert kernel.built


@pytest.mark.row("S18")
def test_what_is_loaded_does_not_change_with_the_file(kernel: Kernel) -> None:
    """A library that is mapped from its file ends the process when the file is truncated."""
    code = (
        "from pathlib import Path; from gptlite.kernels import build, header; build.FLAGS = (*build.FLAGS, '-O0')\n"
        "import ctypes; kernel = build.Kernel('decoding', Path('kernels')); library = kernel.load()\n"
        "open(kernel.path, 'r+b').truncate(0)\n"
        "model, call = (header.COMMON.structures[name]() for name in ('model', 'pass'))\n"
        "call.n, call.length, call.ids = 1, 1, ctypes.addressof(ctypes.c_int32(-1))\n"
        "assert library.forward(ctypes.byref(model), ctypes.byref(call)) == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_memory_files_a_copy_is_loaded(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert kernel.load().forward
    assert list(FOLDER.iterdir()) == [FOLDER / path_of(kernel).name]


def test_two_libraries_are_told_apart(kernel: Kernel) -> None:
    """The loader takes a path that it has seen before for the same library."""
    other = Kernel("fused", FOLDER)
    other.build()
    assert kernel.load().forward and other.load().cross_entropy
    assert not hasattr(other.load(), "forward") and kernel.load() is kernel.load()


# -- Libraries of others, and arguments


@pytest.mark.parametrize(
    "source",
    ["int forward(void) { return 0; }", 'const char kernel_abi[] = "abi_0123456789abcdef0123456789abcdef";'],
    ids=["without an ABI", "with another ABI"],
)
def test_a_foreign_library_is_compiled_again(kernel: Kernel, source: str) -> None:
    """Even where its name and its digest are right."""
    Path("foreign.c").write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", "foreign.c", "-o", "foreign.so"], check=True)
    path_of(kernel).unlink()
    digest = hashlib.sha256(Path("foreign.so").read_bytes()).hexdigest()
    shutil.copy("foreign.so", FOLDER / f"{kernel.stem}-{digest}.so")
    assert kernel.built
    with pytest.raises(NoKernel, match="cannot be loaded"):
        kernel.load()
    library, _ = kernel.open()
    assert library.kernel_sizes and kernel.notice
    assert len(list(FOLDER.iterdir())) == 1


def test_structures_of_other_sizes_are_refused(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    longer = type("pass", (ctypes.Structure,), {"_fields_": [("n", ctypes.c_int64)]})
    monkeypatch.setitem(COMMON.structures, "pass", longer)
    with pytest.raises(NoKernel, match="cannot be loaded"):
        kernel.load()


def test_wrong_arguments_are_an_error_not_a_crash(kernel: Kernel) -> None:
    library = kernel.load()
    assert library.forward.restype is ctypes.c_int
    for wrong in ((1.5, None), ("text", None), (None,)):
        with pytest.raises((ctypes.ArgumentError, TypeError)):
            library.forward(*wrong)


def test_no_source_puts_arrays_of_variable_length_on_the_stack() -> None:
    for name in ("decoding.c", "fused.c"):
        command = ["cc", "-std=gnu11", "-fsyntax-only", "-fopenmp", "-Werror=vla", str(build.SOURCES / name)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)

"""Disks that are full, read-only, late to say so, or open to others: saving fails cleanly or not at all."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, make_text
from reliability.faults import REPEATED_BY_PYTHON, Call, count_calls, watched
from reliability.tiny import NEVER, Notices, Session, TinyTrainer

from gptlite.checkpoint import saved_step
from gptlite.checkpoint.runs import LEFTOVER, Run, claim_run
from gptlite.cli.process import stoppable
from gptlite.embedding import statistics as calibration
from gptlite.errors import CheckpointError, Interrupted, RunInUseError, StorageError, UsageError
from gptlite.storage import durable
from gptlite.storage.durable import write_directory
from gptlite.storage.reader import read_manifest

SAVED, NOW = (7, 8), 9  # the steps that are on disk, and the one that is being saved
SMALL: Any = "--layers 1 --dim 8 --heads 1 --context 16 --vocab-size 270 --batch-size 2 --threads 1 --val 20%"
SMALL = (*SMALL.split(), "--eval-every", "100")


class Disk:
    """A run with two saved steps, and a session that is about to save the third."""

    def __init__(self, folder: Path) -> None:
        self.trainer, self.template, self.run = TinyTrainer(folder), Run(folder / "template"), Run(folder / "run")
        self.watcher = Notices()
        with self.template.lock(), pytest.raises(Interrupted):
            session = self.trainer.session(self.template, NEVER)
            session.change(should_stop=lambda: signal.SIGTERM if session.state.step == SAVED[-1] else None)
            session.fit()
        self.session = self.trainer.session(self.template, NEVER, watcher=self.watcher)
        self.session.move_to(self.run)
        self.session.take_step()

    def begin(self) -> None:
        """As it was before the save."""
        shutil.rmtree(self.run.path, ignore_errors=True)
        shutil.copytree(self.template.path, self.run.path, symlinks=True)
        self.watcher.__init__()
        self.session.state.step, self.session.setup.log.active = NOW, True

    def save(self, watch: Callable[..., Any]) -> StorageError | None:
        """Save under the eyes of `watch`; the error, if there is one."""
        with watched(watch):
            try:
                self.session.save()
            except StorageError as error:
                return error
        return None

    def check(self, failed: bool, swept: bool = True) -> None:
        """Older steps are as they were; the new one is there if and only if that was announced, or is whole."""
        assert self.watcher.saves == ([] if failed else [NOW])
        kept = [step.name for step in self.run.step_directories()]
        assert self.run.step_path(SAVED[-1]).name in kept
        for step in self.run.step_directories():
            saved_step.verify(step)
            if (self.template.path / step.name).exists():
                assert read_manifest(step) == read_manifest(self.template.path / step.name)
        if not failed:
            assert kept[-1] == self.run.step_path(NOW).name
        if swept:
            assert not [p.name for p in self.run.path.glob(".tmp-*")]
        with self.run.lock():
            assert not list(self.run.path.glob(".t*")), "whatever is left is swept away by the next trainer"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    disk = Disk(tmp_path_factory.mktemp("disk"))
    session = disk.session
    statistics = calibration.measure_statistics(session.model, session.setup.tokenizer, session.setup.val_ids)
    with pytest.MonkeyPatch.context() as patch:  # it takes as long as all the rest, and has nothing to do with disks
        patch.setattr(calibration, "measure_statistics", lambda *_, **__: statistics)
        yield disk


class Fault:
    """Fails the k-th call, or all from the k-th on; counts what is forced to disk."""

    def __init__(self, k: int, number: int, lasting: bool = False) -> None:
        self.k, self.number, self.lasting, self.n, self.failed = k, number, lasting, 0, ""
        self.paths: dict[int, str] = {}
        self.flushed: Counter[str] = Counter()

    def __call__(self, name: str, call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        n, self.n = self.n, self.n + 1
        if name == "fsync":
            self.flushed[self.paths[arguments[0]]] += 1
        if n == self.k or (self.lasting and n > self.k):
            self.failed = self.failed or name
            if name == "close":  # closed all the same
                call(*arguments)
            raise OSError(self.number, os.strerror(self.number))
        answer = call(*arguments, **options)
        if name == "open":
            self.paths[answer] = str(arguments[0])
        return answer


# -- Every call of one save


def calls_of_a_save(disk: Disk) -> list[str]:
    disk.begin()
    return count_calls(lambda: disk.session.save())


EVERY = [12, pytest.param(1, marks=pytest.mark.slow)]


@pytest.mark.row("D01", "D02", "D03", "D04", "D08", "D12", "D13")
@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize(
    ("kind", "lasting"),
    [("ENOSPC", False), ("EIO", False), ("ENOSPC", True), ("EROFS", True), ("EDQUOT", False), ("EFBIG", False)],
)
def test_a_fault_in_any_call_of_a_save_costs_at_most_that_save(
    disk: Disk, kind: str, lasting: bool, every: int
) -> None:
    n, met = len(calls_of_a_save(disk)), Counter[str]()
    for k in range(sum(map(ord, kind)) % every, n, every):
        disk.begin()
        fault = Fault(k, getattr(errno, kind), lasting)
        error = disk.save(fault)
        met[fault.failed] += 1
        disk.check(failed=error is not None, swept=not lasting)
        if error is not None:
            assert os.strerror(getattr(errno, kind)) in str(error) and "earlier steps are intact" in str(error)
        files = {path: count for path, count in fault.flushed.items() if not Path(path).is_dir()}
        assert set(files.values()) <= {1}, "no file is forced to disk a second time"
        disk.session.state.step = NOW + 1
        disk.session.save()  # the disk is well again
        assert disk.run.step_to_resume() == disk.run.step_path(NOW + 1)
    if every == 1:
        assert set(met) >= {"open", "write", "fsync", "close", "mkdir", "rename", "symlink", "replace", "unlink"}


@pytest.mark.row("D11")
@pytest.mark.parametrize("every", EVERY)
def test_an_interrupted_call_is_made_again(disk: Disk, every: int) -> None:
    """Those that Python itself repeats never look interrupted; after the save a prune may be left to the next one."""
    names = calls_of_a_save(disk)
    for k in [k for k, name in enumerate(names) if name not in REPEATED_BY_PYTHON][::every]:
        disk.begin()
        assert disk.save(Fault(k, errno.EINTR)) is None
        disk.check(failed=False)


@pytest.mark.row("P07")
@pytest.mark.parametrize("every", EVERY)
def test_ctrl_c_in_any_call_of_a_save_is_a_wish_that_waits(disk: Disk, every: int) -> None:
    for k in range(0, len(calls_of_a_save(disk)), every):
        disk.begin()
        left = [k]

        def interrupt(
            name: str, call: Call, arguments: tuple[Any, ...], options: dict[str, Any], left: list[int] = left
        ) -> Any:
            left[0] -= 1
            if left[0] == -1:
                os.kill(os.getpid(), signal.SIGINT)
            return call(*arguments, **options)

        with stoppable() as should_stop:
            should_stop()
            assert disk.save(interrupt) is None
            assert should_stop() == signal.SIGINT
        disk.check(failed=False)


@pytest.mark.row("D10")
@pytest.mark.parametrize("share", [0.5, 0.0])
def test_short_writes_are_continued(disk: Disk, share: float) -> None:
    def stingy(name: str, call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if name == "write":
            descriptor, content = arguments
            return call(descriptor, content[: max(1 + 500 * (share == 0), int(share * len(content)))])
        return call(*arguments, **options)

    disk.begin()
    assert disk.save(stingy) is None
    disk.check(failed=False)


@pytest.mark.row("D08")
@pytest.mark.parametrize("kind", ["EXDEV", "EACCES", "ENOTEMPTY", "EIO", "ENOSYS"])
def test_a_failing_rename_leaves_the_older_steps(disk: Disk, kind: str) -> None:
    disk.begin()
    first = calls_of_a_save(disk).index("rename")
    disk.begin()
    error = disk.save(Fault(first, getattr(errno, kind)))
    assert error is not None and "earlier steps are intact" in str(error)
    disk.check(failed=True)


@contextmanager
def limit(which: int, soft: int) -> Iterator[None]:
    before = resource.getrlimit(which)
    resource.setrlimit(which, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


@pytest.mark.row("D04")
def test_a_limit_on_file_sizes_is_an_error_like_any_other(disk: Disk) -> None:
    disk.begin()
    with limit(resource.RLIMIT_FSIZE, 10_000), pytest.raises(StorageError, match="File too large"):
        disk.session.save()
    disk.check(failed=True)


@pytest.mark.row("D15")
def test_no_free_descriptor_is_an_error_like_any_other(disk: Disk) -> None:
    disk.begin()
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    with limit(resource.RLIMIT_NOFILE, free), pytest.raises(StorageError, match="Too many open files"):
        disk.session.save()
    disk.check(failed=True, swept=False)  # to look into a directory takes a descriptor too


# -- A whole run


def fit_tiny(disk: Disk, run: Run, steps: int = 12, **settings: Any) -> tuple[Session, Notices]:
    watcher = Notices()
    with run.lock():
        session = disk.trainer.session(run, steps, watcher=watcher, **settings)
        session.fit()
    return session, watcher


def failing_on(part: str, number: int, calls: tuple[str, ...] = ("open", "mkdir", "rename")) -> Callable[..., Any]:
    def watch(name: str, call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if name in calls and part in str(arguments[0]):
            raise OSError(number, os.strerror(number))
        return call(*arguments, **options)

    return watch


@pytest.mark.row("D07")
def test_a_disk_that_becomes_read_only_ends_the_run_only_at_its_end(disk: Disk, tmp_path: Path) -> None:
    run, left = Run(tmp_path / "run"), [120]

    def becoming(name: str, call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        left[0] -= 1
        writes = name not in ("open", "close", "fsync") or (name == "open" and arguments[1] & os.O_CREAT)
        if left[0] < 0 and writes:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return call(*arguments, **options)

    watcher = Notices()
    with run.lock():
        session = disk.trainer.session(run, 12, save_every=2, watcher=watcher)
        with watched(becoming), pytest.raises(StorageError, match="Read-only"):
            session.fit()
    assert session.state.step == 12, "training itself went on to the end"
    assert watcher.saves and 12 not in watcher.saves
    assert run.step_to_resume() == run.step_path(watcher.saves[-1])
    assert sum("each later save tries again" in notice for notice in watcher.notices) == 1, "told once, tried each time"


@pytest.mark.row("D14")
@pytest.mark.parametrize("calls", [("open",), ("write",)], ids=str)
def test_a_log_that_cannot_be_written_is_switched_off(
    disk: Disk, tmp_path: Path, calls: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_tiny(disk, Run(tmp_path / "well"), 24, save_every=NEVER)
    if calls == ("open",):
        with watched(failing_on("metrics.jsonl", errno.EIO)):
            _, watcher = fit_tiny(disk, Run(tmp_path / "run"), 24, save_every=NEVER)
    else:
        full = lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))  # noqa: E731
        monkeypatch.setattr(durable, "append", full)
        _, watcher = fit_tiny(disk, Run(tmp_path / "run"), 24, save_every=NEVER)
    assert [n for n in watcher.notices if "without its log" in n] == watcher.notices and len(watcher.notices) == 1
    names = ("model.safetensors", "training_state/optimizer.safetensors", "training_state/rng.safetensors")
    for name in names:
        step = f"step-{24:09d}/{name}"
        assert (tmp_path / "run" / step).read_bytes() == (tmp_path / "well" / step).read_bytes()


@pytest.mark.row("D17")
@pytest.mark.parametrize("save_every", [3, 4])
def test_a_run_directory_that_is_gone_is_not_made_again(disk: Disk, tmp_path: Path, save_every: int) -> None:
    run, watcher = Run(tmp_path / "run"), Notices()
    with run.lock():
        session = disk.trainer.session(run, NEVER, save_every, watcher=watcher)
        session.change(should_stop=lambda: shutil.rmtree(run.path) if session.state.step == 5 else None)
        with pytest.raises(StorageError, match="was deleted or replaced while it was trained in"):
            session.fit()
    assert session.state.step == (6 if save_every == 3 else 8), "the next save"
    assert not run.path.exists()


@pytest.mark.row("D19")
@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_all_files_of_a_run_have_the_modes_that_the_umask_leaves(disk: Disk, tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        run = Run(tmp_path / "made" / "run")
        fit_tiny(disk, run, 1)
        run.write_info({})
    finally:
        os.umask(before)
    found = [path for path in (tmp_path / "made").rglob("*") if not path.is_symlink()]
    assert {"LOCK", "metrics.jsonl", "run.json", "model.safetensors"} <= {path.name for path in found}
    for path in found:
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~mask, path


@pytest.mark.row("D21")
def test_a_copy_made_while_training_can_be_resumed(disk: Disk, tmp_path: Path) -> None:
    """Unless it took so long that all it was to copy was pruned, of which cp complains; then there is nothing wrong."""
    run, copies, done = Run(tmp_path / "run"), list[tuple[Run, bool]](), threading.Event()

    def copy() -> None:
        while not done.is_set():
            made = tmp_path / f"copy-{len(copies)}"
            cp = subprocess.run(["cp", "-r", run.path, made], stderr=subprocess.DEVNULL, check=False)
            copies.append((Run(made), cp.returncode == 0))
            time.sleep(0.02)

    fit_tiny(disk, run, 3)
    copier = threading.Thread(target=copy)
    copier.start()
    with run.lock():
        session = disk.trainer.session(run, 30)
        session.change(should_stop=lambda: time.sleep(0.02))
        session.fit()
    done.set()
    copier.join()
    assert sum(complete for _, complete in copies) > 3
    for made, complete in copies:
        try:
            saved_step.load(made.step_to_resume())
        except CheckpointError as error:
            assert not complete and ("none of" in str(error) or "no step" in str(error))


@pytest.mark.row("D22")
@pytest.mark.parametrize("name", [b"two  spaces, caf\xe9", "\n[bold] été 🙂".encode(), b"-o"], ids=repr)
def test_odd_names_of_runs_work(gptlite: Command, corpus_file: Path, name: bytes) -> None:
    out = Path("odd") / os.fsdecode(name)
    assert gptlite("train", "corpus.txt", "-o", out, "-q", "--steps", "2", *SMALL).code == 0
    assert gptlite("train", "-o", out, "--resume", "-q", "--steps", "3").code == 0
    assert Run(out).read_info()["result"]["run"] == str(out).replace("\udce9", "\\udce9")


@pytest.mark.row("D22")
@pytest.mark.parametrize("out", ["a" * 300, "/".join(["a" * 200] * 30)], ids=["name", "path"])
def test_names_too_long_for_the_system_are_a_storage_error(gptlite: Command, corpus_file: Path, out: str) -> None:
    outcome = gptlite("train", "corpus.txt", "-o", out, "-q", "--steps", "2", *SMALL)
    assert outcome.code == 5 and "too long" in outcome.err and len(outcome.err.splitlines()) < 20


# -- Before the first step


def refused(gptlite: Command, *arguments: str) -> str:
    """What is said when a run cannot be saved, before it has made a step."""
    outcome = gptlite("train", "corpus.txt", "-o", "runs/run", "--steps", "2", *SMALL, *arguments)
    assert (outcome.code, outcome.out) == (5, "")
    left = [path.name for path in Path("runs").rglob("*")] if Path("runs").exists() else []
    assert set(left) <= {"run", "LOCK"}
    return outcome.err


@pytest.mark.row("D05")
def test_a_disk_without_room_for_two_steps_is_refused(
    gptlite: Command, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    assert "1 MB free, but two saved steps need" in refused(gptlite)


@pytest.mark.row("D06", "D09")
@pytest.mark.parametrize(
    ("calls", "kind"),
    [
        (("mkdir",), "EROFS"),
        (("open",), "EROFS"),
        (("open",), "EACCES"),
        (("rename",), "ENOSYS"),
        (("rename",), "EXDEV"),
        (("fsync",), "EINVAL"),
        (("unlink",), "EPERM"),
        (("posix_fallocate",), "ENOSPC"),
    ],
    ids=str,
)
def test_a_place_where_saving_cannot_work_is_refused(
    gptlite: Command, corpus_file: Path, calls: tuple[str, ...], kind: str
) -> None:
    def unfit(name: str, call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        handle = arguments[0] if isinstance(arguments[0], int) else options.get("dir_fd")
        where = arguments[0] if handle is None else os.readlink(f"/proc/self/fd/{handle}")
        if name in calls and "runs" in str(where) and (name != "open" or arguments[1] & os.O_CREAT):
            raise OSError(getattr(errno, kind), os.strerror(getattr(errno, kind)))
        return call(*arguments, **options)

    with watched(unfit):
        if calls == ("unlink",):  # which cannot be cleaned up either
            outcome = gptlite("train", "corpus.txt", "-o", "runs/run", "--steps", "2", *SMALL)
            assert outcome.code == 5 and "nothing can be saved" in outcome.err
        else:
            assert os.strerror(getattr(errno, kind)) in " ".join(refused(gptlite).split())


def in_a_mount(options: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run shell `command` with a file system of its own at ./mount, made with `options`."""
    script = f"mkdir -p mount && mount -t tmpfs -o {options} none mount && {command}"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-Urm", "true"], check=False).returncode:
        pytest.skip("unshare -Urm is missing or not permitted")
    return subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.row("D01", "D03", "D05", "D06")
@pytest.mark.parametrize(
    ("options", "before", "message"),
    [
        ("size=1m", "", "MB free, but two saved steps need"),
        ("size=8m,nr_inodes=8", "", "No space left on device"),
        ("size=8m", "mount -o remount,ro mount && ", "Read-only file system"),
    ],
)
def test_a_real_file_system_without_room_is_refused(corpus_file: Path, options: str, before: str, message: str) -> None:
    train = " ".join(
        [sys.executable, "-m", "gptlite", "train", "corpus.txt", "-o", "mount/run", "--steps", "2", *SMALL]
    )
    done = in_a_mount(options, f"{before}{train}; code=$?; find mount/run -name 'step*' 2>/dev/null; exit $code")
    assert (done.returncode, done.stdout) == (5, "")
    assert message in " ".join(done.stderr.split()) and "Traceback" not in done.stderr


# -- Which step is resumed


def damage(step: Path, name: str = "model.safetensors") -> None:
    content = bytearray((step / name).read_bytes())
    content[len(content) // 2] ^= 1
    (step / name).write_bytes(content)


@pytest.mark.row("K38")
@pytest.mark.parametrize("name", ["model.safetensors", "training_state/optimizer.safetensors", "MANIFEST.json"])
def test_a_damaged_step_is_set_aside_and_an_older_one_resumed(disk: Disk, tmp_path: Path, name: str) -> None:
    run = Run(tmp_path / "run")
    fit_tiny(disk, run, 8, save_every=4, keep=5)
    reference = read_manifest(run.step_path(8))["files"]
    damage(run.step_path(8), name)
    damaged = (run.step_path(8) / name).read_bytes()
    _, watcher = fit_tiny(disk, run, 8, save_every=4, keep=5)
    (notice,) = watcher.notices
    assert "set aside" in notice and "goes on from step-000000004" in notice
    (aside,) = run.path.glob(".bad-*")
    assert (aside / name).read_bytes() == damaged, "damaged files are kept, for whoever wants to look"
    again = read_manifest(run.step_path(8))["files"]
    assert again["model.safetensors"] == reference["model.safetensors"]
    assert [step.number for step in run.steps()] == [4, 8]


@pytest.mark.row("K38")
def test_a_damaged_directory_in_the_way_of_a_save_is_set_aside(disk: Disk) -> None:
    disk.begin()
    shutil.copytree(disk.run.step_path(8), disk.run.step_path(NOW))
    damage(disk.run.step_path(NOW))
    disk.session.save()
    assert len(list(disk.run.path.glob(f".bad-step-{NOW:09d}-*"))) == 1
    saved_step.verify(disk.run.step_path(NOW))


def test_the_same_step_is_saved_once_and_another_one_never_over_it(tmp_path: Path) -> None:
    step, files = tmp_path / "step-000000001", {"config.json": b"1", "training_state/state.json": b"2"}
    write_directory(step, files, {"step": 1}, saved_step.is_intact)
    inode = step.stat().st_ino
    write_directory(step, files, {"step": 1}, saved_step.is_intact)
    with pytest.raises(CheckpointError, match="there already and differs"):
        write_directory(step, {**files, "config.json": b"3"}, {"step": 1}, saved_step.is_intact)
    assert step.stat().st_ino == inode and os.listdir(tmp_path) == [step.name]
    assert (step / "config.json").read_bytes() == b"1"


@pytest.mark.row("K39")
@pytest.mark.parametrize("name", ["model.safetensors", "MANIFEST.json"])
def test_a_run_of_damaged_steps_is_never_begun_again(gptlite: Command, corpus_file: Path, name: str) -> None:
    line = ("train", "corpus.txt", "-o", "run", "-q", "--steps", "4", "--save-every", "2", *SMALL)
    assert gptlite(*line).code == 0
    for step in Run(Path("run")).step_directories():
        damage(step, name)
    before = sorted(os.listdir("run"))
    assert gptlite("train", "--resume", "-o", "run", "--steps", "6").code == 4
    assert gptlite(*line).code == 2
    assert sorted(os.listdir("run")) == before


# -- What others may have put there


@pytest.mark.row("S10")
@pytest.mark.parametrize("name", ["LOCK", "metrics.jsonl"])
def test_a_planted_link_is_never_written_through(disk: Disk, tmp_path: Path, name: str) -> None:
    victim, run = tmp_path / "victim", Run(tmp_path / "run")
    victim.write_text("precious")
    run.path.mkdir()
    (run.path / name).symlink_to(victim)
    if name == "LOCK":
        with pytest.raises(StorageError), run.lock():
            pass
    else:
        _, watcher = fit_tiny(disk, run)
        assert any("without its log" in notice for notice in watcher.notices)
    assert victim.read_text() == "precious"


@pytest.mark.row("S10")
def test_a_link_in_the_place_of_a_step_is_set_aside(disk: Disk, tmp_path: Path) -> None:
    disk.begin()
    (tmp_path / "victim").mkdir()
    disk.run.step_path(NOW).symlink_to(tmp_path / "victim")
    disk.session.save()
    saved_step.verify(disk.run.step_path(NOW))
    assert not os.listdir(tmp_path / "victim")


@pytest.mark.row("S10")
def test_names_on_the_way_cannot_be_foreseen(disk: Disk) -> None:
    names = []

    def noted(name: str, call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        names.extend([Path(arguments[0]).name] if name == "mkdir" else [])
        return call(*arguments, **options)

    for _ in range(2):
        disk.begin()
        assert disk.save(noted) is None
    scratch = [name for name in names if name.startswith(".tmp-")]
    assert len(set(scratch)) == 2 and all(LEFTOVER.fullmatch(name) and len(name) > 32 for name in scratch)


@pytest.mark.row("D20", "S15")
def test_sweeping_and_pruning_stay_in_the_run(disk: Disk, tmp_path: Path) -> None:
    run, victim = Run(tmp_path / "run"), tmp_path / "victim"
    fit_tiny(disk, run, 3, keep=3)
    (victim / "folder").mkdir(parents=True)
    (victim / "file").write_text("precious")
    for step in run.step_directories():
        (step / "out").symlink_to(victim)
        (step / "embedding" / "file").symlink_to(victim / "file")
    junk = {".tmp-step-000000004-0123456789abcdef": True, ".trash-step-000000001-0123456789abcdef": True,
            ".tmp-mine": False, ".trash-step-1-00": False, "tmp-step-000000004-00": False}  # fmt: skip
    for name in junk:
        (run.path / name).mkdir()
        (run.path / name / "link").symlink_to(victim)
    (run.path / ".tmp-step-000000005-0123456789abcdef").symlink_to(victim)
    with run.lock():
        run.prune(1)
    assert [step.number for step in run.steps()] == [3]
    assert (victim / "file").read_text() == "precious" and (victim / "folder").is_dir()
    left = {path.name for path in run.path.iterdir()}
    assert left >= {name for name, ours in junk.items() if not ours}
    assert not left & {name for name, ours in junk.items() if ours}


@pytest.mark.row("S16", "D16")
@pytest.mark.parametrize("out", ["/", "~", "~/run", "..", "../..", "/dev/null", "corpus.txt", "folder", "folder/.."])
def test_places_that_are_none_for_a_run_are_refused(
    gptlite: Command, corpus_file: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("folder/sub").mkdir(parents=True)
    Path("folder/notes.txt").write_text("mine")
    before = sorted(Path().rglob("*"))
    outcome = gptlite("train", "corpus.txt", "-o", out, "--steps", "1", *SMALL)
    assert (outcome.code, outcome.out) == (2, "")
    assert "-o" in outcome.err
    if out == "folder":
        assert "notes.txt" in outcome.err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.row("S16")
def test_an_empty_home_is_no_place_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(UsageError, match="no place"):
        claim_run(tmp_path / "home")


# -- Two trainers

RACE = """
import os, sys
from pathlib import Path
from gptlite.errors import RunInUseError
from gptlite.checkpoint.runs import Run
start, started = os.pipe()
end, ended = os.pipe()
for _ in range(50):
    if os.fork() == 0:
        os.close(started)
        os.close(ended)
        os.read(start, 1)  # until the parent closes it
        try:
            with Run(Path(sys.argv[1])).lock():
                os.read(end, 1)
        except RunInUseError:
            os._exit(7)
        os._exit(0)
os.close(started)
codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(49)]
os.close(ended)
print([*codes, os.waitstatus_to_exitcode(os.wait()[1])])
"""


@pytest.mark.row("P12")
def test_of_fifty_trainers_one_gets_the_run(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", RACE, str(tmp_path / "a" / "run")], capture_output=True, text=True)
    assert json.loads(done.stdout) == [*[7] * 49, 0], done.stderr


@pytest.mark.row("P12")
@pytest.mark.parametrize("more", [("--resume",), ()], ids=["resume", "new"])
def test_a_run_in_use_is_refused_at_once_with_its_owner(
    gptlite: Command, corpus_file: Path, more: tuple[str, ...]
) -> None:
    if more:
        assert gptlite("train", "corpus.txt", "-o", "run", "-q", "--steps", "1", *SMALL).code == 0
    Path("large.txt").write_text(make_text(200_000))
    with Run(Path("run")).lock():
        before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
        began = time.monotonic()
        outcome = gptlite("train", "large.txt", "-o", "run", *more)
        assert time.monotonic() - began < 1
        assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")} == before
    assert outcome.code == 7 and f"(process {os.getpid()} since 20" in " ".join(outcome.err.split())


def test_a_run_that_was_completed_meanwhile_is_not_overwritten(
    gptlite: Command, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look at the directory and the lock another process may come and go."""
    from gptlite.training import prepare

    hold_out = prepare.hold_out

    def slowly(*arguments: Any) -> Any:
        Run(Path("run")).path.mkdir()
        Run(Path("run")).write_info({})
        write_directory(Run(Path("run")).step_path(1), {"config.json": b"1"}, {"step": 1})
        return hold_out(*arguments)

    monkeypatch.setattr(prepare, "hold_out", slowly)
    outcome = gptlite("train", "corpus.txt", "-o", "run", "--steps", "2", *SMALL)
    assert outcome.code == 2 and "--resume" in outcome.err
    saved_step.verify(Run(Path("run")).step_path(1))


def test_the_error_of_a_lock_names_nobody_that_the_file_does_not_name(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.lock():
        (run.path / "LOCK").write_text("\x1b[31mprocess 1; rm -rf")
        with pytest.raises(RunInUseError) as caught, run.lock():
            pass
    assert "\x1b" not in str(caught.value) and "rm" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.row("P21")
def test_nothing_outlives_a_killed_trainer(corpus_file: Path) -> None:
    command = [sys.executable, "-m", "gptlite", "train", "corpus.txt", "-o", "run", "--steps", "20k"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    while not Path("run/metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)

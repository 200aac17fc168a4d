"""A run directory that is deleted, moved or replaced while it is trained in: nothing lands in another run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from reliability.tiny import NEVER, Notices, TinyTrainer

from gptlite.checkpoint import saved_step
from gptlite.checkpoint.run_lock import RunLostError
from gptlite.checkpoint.runs import Run
from gptlite.errors import RunInUseError

row = pytest.mark.row
AT = 5  # the step after which the directory is taken away


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> TinyTrainer:
    return TinyTrainer(tmp_path_factory.mktemp("tiny"))


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def train_until_lost(trainer: TinyTrainer, run: Run, take_away: Callable[[], object], save_every: int = 3) -> Notices:
    """Train, with what happens to the directory after step `AT`; the trainer ends with a sentence and exit code 5."""
    watcher = Notices()
    with run.lock():
        training = trainer.session(run, NEVER, save_every, watcher=watcher)
        training.change(should_stop=lambda: take_away() and None if training.state.step == AT else None)
        with pytest.raises(RunLostError) as caught:
            training.fit()
    assert caught.value.exit_code == 5 and "\n" not in str(caught.value)
    assert training.state.step <= 2 * AT, "at the next line of the log or save"
    watcher.notices.append(str(caught.value))
    return watcher


@row("D23")
@pytest.mark.parametrize("save_every", [3, NEVER])
@pytest.mark.parametrize("moved", [False, True])
def test_a_run_in_the_place_of_another_is_left_alone(
    trainer: TinyTrainer, tmp_path: Path, moved: bool, save_every: int
) -> None:
    """A trains in `run`, which is deleted or moved; B begins there, and has steps of the same numbers."""
    run, other = Run(tmp_path / "run"), Run(tmp_path / "other")
    with other.lock():
        trainer.session(other, 9, 3).fit()
    before = tree(other.path)

    def replace() -> None:
        if moved:
            run.path.rename(tmp_path / "away")
        else:
            shutil.rmtree(run.path)
        other.path.rename(run.path)

    told = train_until_lost(trainer, run, replace, save_every)
    assert tree(run.path) == before
    if not moved:
        assert "deleted or replaced" in told.notices[-1]
        return
    assert f"moved to {tmp_path / 'away'}" in told.notices[-1], "and what was trained since the last save is there"
    steps = Run(tmp_path / "away").steps()
    assert steps[-1].number == (6 if save_every == 3 else 10)
    for step in steps:
        saved_step.verify(step.path)


@row("D23")
def test_a_run_that_is_moved_can_be_resumed_where_it_is(trainer: TinyTrainer, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    told = train_until_lost(trainer, run, lambda: run.path.rename(tmp_path / "new"))
    assert "step 6 is saved there" in told.notices[-1] and not run.path.exists()
    run = Run(tmp_path / "new")
    with run.lock():
        trainer.session(run, 8).fit()
    assert [step.number for step in run.steps()][-1] == 8


@row("D23")
def test_without_its_lock_a_trainer_writes_no_more(trainer: TinyTrainer, tmp_path: Path) -> None:
    """Whoever deletes LOCK lets another trainer in."""
    run = Run(tmp_path / "run")
    told = train_until_lost(trainer, run, (run.path / "LOCK").unlink)
    assert "LOCK was deleted or replaced" in told.notices[-1]
    assert [step.number for step in run.steps()] == [3]


@row("P12")
def test_a_lock_is_taken_in_the_directory_that_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the opening of the directory and its locking it may be replaced."""
    from gptlite.checkpoint import run_lock

    run, take, times = Run(tmp_path / "run"), run_lock.RunLock._take, []

    def slowly(lock: run_lock.RunLock) -> None:
        times.append(1)
        if len(times) == 1:
            shutil.rmtree(run.path)
            run.path.mkdir()
        take(lock)

    monkeypatch.setattr(run_lock.RunLock, "_take", slowly)
    with run.lock():
        assert len(times) == 2 and (run.path / "LOCK").exists()
        with pytest.raises(RunInUseError), Run(run.path).lock():
            pass

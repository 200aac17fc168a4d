"""Run directories: names, steps, best and latest, pruning, the lock, and how -m finds a model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import random_model, tiny_config

from gptlite.checkpoint import runs
from gptlite.checkpoint.runs import Run, claim_run, find_model, new_run, newest_run, run_name
from gptlite.checkpoint.saved_step import save_step
from gptlite.errors import CheckpointError, RunInUseError, StorageError, UsageError
from gptlite.storage.durable import write_directory
from gptlite.text.tokenizer import Tokenizer


def add_step(run: Run, number: int, score: float | None = None) -> Path:
    """A complete step with one file."""
    run.path.mkdir(parents=True, exist_ok=True)
    path = run.step_path(number)
    write_directory(path, {"config.json": b"{}"}, {"step": number, "val_bits_per_byte": score})
    return path


def begin(path: Path) -> Run:
    """A run that was started but never completed a step."""
    path.mkdir(parents=True)
    run = Run(path)
    run.write_info({"format": 1})
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return begin(tmp_path / "checkpoints" / "corpus")


# -- Names


@pytest.mark.parametrize(
    ("first", "name"),
    [
        ("corpus.txt", "corpus"),
        ("data/my corpus.txt", "my-corpus"),
        ("a.tar.txt", "a.tar"),
        ("-", "stdin"),
        ("books/", "books"),
        ("*.txt", "run"),
        ("war_and_peace-2.txt", "war_and_peace-2"),
        ("红楼梦.txt", "红楼梦"),
        ("…", "run"),
        ("/", "run"),
        ("a/../../b\n$(rm).txt", "b-rm"),
        ("-rf.txt", "rf"),
        (".hidden", "hidden"),
    ],
)
def test_a_run_is_named_after_its_first_text(first: str, name: str) -> None:
    assert run_name([first, "second.txt"]) == name


def test_a_folder_that_is_here_gives_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "poems").mkdir()
    monkeypatch.chdir(tmp_path / "poems")
    assert run_name(["."]) == "poems"


@pytest.mark.parametrize("first", ["../..", "a/b", "x/../..", "\\", "..\\..", "a:b", "🙂", "\t", "--", "..."])
def test_a_name_is_one_plain_folder_name(first: str) -> None:
    name = run_name([first])
    assert name == Path(name).name
    assert name not in ("", ".", "..")
    assert name[0] not in "-."


def test_runs_are_numbered(tmp_path: Path) -> None:
    parent = tmp_path / "checkpoints"
    for expected in ("corpus", "corpus-2", "corpus-3"):
        with new_run("corpus", parent) as found:
            assert found.path == parent / expected
        add_step(found, 1)


def test_a_run_without_a_step_is_used_again(run: Run) -> None:
    with new_run("corpus", run.path.parent) as found:
        assert found.path == run.path


@pytest.mark.parametrize("name", ["notes.txt", "step-000000001", ".tmp-mine"])
def test_whatever_else_lies_there_is_left_alone(run: Run, name: str) -> None:
    (run.path / name).write_text("mine")
    with new_run("corpus", run.path.parent) as found:
        assert found.path.name == "corpus-2"


def test_an_empty_folder_is_not_taken_by_a_new_run(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    with new_run("corpus", tmp_path) as found:
        assert found.path.name == "corpus-2"


def test_the_newest_of_several_runs_is_found(tmp_path: Path) -> None:
    for i, name in enumerate(("corpus", "corpus-3", "corpus-2", "corpus-x", "corpus2", "other")):
        begin(tmp_path / name)
        os.utime(tmp_path / name, (i, i))
    (tmp_path / "corpus-4").mkdir()  # not a run
    found = newest_run("corpus", tmp_path)
    assert found is not None and found.path.name == "corpus-2"


@pytest.mark.parametrize("name", ["nothing", "corp", "corpus.*"])
def test_no_run_of_that_name_is_none(run: Run, name: str) -> None:
    assert newest_run(name, run.path.parent) is None


def test_no_folder_of_runs_is_none(tmp_path: Path) -> None:
    assert newest_run("corpus", tmp_path / "gone") is None


# -- A path that the user chose


@pytest.mark.parametrize("what", ["new", "deep/er/new", "empty", "begun"])
def test_a_free_path_is_accepted(tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "empty":
        path.mkdir()
    elif what == "begun":
        begin(path).log({"step": 10})
    assert claim_run(path).path == path


@pytest.mark.row("D16")
def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        claim_run(tmp_path / "notes")


@pytest.mark.row("D16")
@pytest.mark.parametrize("inside", ["notes.txt", ".hidden", "model.safetensors"])
def test_a_folder_with_other_things_is_refused(tmp_path: Path, inside: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / inside).write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        claim_run(tmp_path / "folder")


def test_a_run_with_steps_is_refused(run: Run) -> None:
    add_step(run, 1)
    with pytest.raises(UsageError, match="`resume=True`"):
        claim_run(run.path)


# -- Steps


def test_steps_come_in_the_order_of_their_numbers(run: Run) -> None:
    for number in (30, 4, 200, 1_234_567_890_123):
        add_step(run, number)
    assert [step.number for step in run.steps()] == [4, 30, 200, 1_234_567_890_123]


def test_junk_is_no_step(run: Run) -> None:
    good = add_step(run, 5, 2.0)
    for name in ("step-5", "step-00000000x", "step-000000006.bak", "xstep-000000006", "best", "000000006"):
        (run.path / name).mkdir()
        (run.path / name / "MANIFEST.json").write_bytes((good / "MANIFEST.json").read_bytes())
    (run.path / "step-000000007").write_text("a file")
    (run.path / "step-000000008").symlink_to(good)
    (run.path / "step-000000009").mkdir()
    assert [step.path for step in run.steps()] == [good]


@pytest.mark.parametrize("manifest", ["", "{", "[]", '{"format": 2, "files": {}}', '{"format": 1}', "[" * 9999])
def test_a_step_without_a_readable_manifest_is_none(run: Run, manifest: str) -> None:
    (add_step(run, 5) / "MANIFEST.json").write_text(manifest)
    assert run.steps() == []


@pytest.mark.parametrize("path", ["gone", "file"])
def test_no_folder_has_no_steps(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("x")
    run = Run(tmp_path / path)
    assert (run.steps(), run.latest(), run.best(), run.is_run()) == ([], None, None, False)


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ({1: 3.0, 2: 2.0, 3: 2.5}, 2),
        ({1: 3.0, 2: None, 3: None}, 1),
        ({1: None, 2: None}, 2),
        ({1: 2.0, 2: 2.0}, 2),
        ({1: 2.0, 2: 3.0, 3: None}, 1),
    ],
)
def test_the_best_step_has_the_lowest_score(run: Run, scores: dict[int, float | None], best: int) -> None:
    for number, score in scores.items():
        add_step(run, number, score)
    found, latest = run.best(), run.latest()
    assert found is not None and found.number == best
    assert latest is not None and latest.number == max(scores)


@pytest.mark.row("D18", "K37")
def test_links_and_times_decide_nothing(run: Run) -> None:
    paths = {number: add_step(run, number, score) for number, score in ((1, 3.0), (2, 1.0), (3, 2.0))}
    (run.path / "best").symlink_to("step-000000001")
    (run.path / "latest").symlink_to("step-000000001")
    os.utime(paths[1], (2e9, 2e9))
    best, latest = run.best(), run.latest()
    assert best is not None and best.number == 2
    assert latest is not None and latest.number == 3


def test_links_point_at_best_and_latest(run: Run) -> None:
    run.link()
    assert not (run.path / "best").is_symlink()
    for number, score in ((1, 2.0), (2, 1.0), (3, 1.5)):
        add_step(run, number, score)
        run.link()
    assert os.readlink(run.path / "best") == "step-000000002"
    assert os.readlink(run.path / "latest") == "step-000000003"
    assert not list(run.path.glob(".tmp-*"))


@pytest.mark.parametrize(
    ("keep", "left"), [(1, [2, 5]), (2, [2, 4, 5]), (4, [2, 3, 4, 5]), (5, [1, 2, 3, 4, 5]), (9, [1, 2, 3, 4, 5])]
)
def test_the_newest_and_the_best_are_kept(run: Run, keep: int, left: list[int]) -> None:
    for number, score in ((1, 3.0), (2, 1.0), (3, 1.5), (4, 1.6), (5, 1.7)):
        add_step(run, number, score)
    run.prune(keep)
    assert [step.number for step in run.steps()] == left
    assert not list(run.path.glob(".trash-*"))


def test_pruning_touches_steps_only(run: Run) -> None:
    for number in (1, 2, 3):
        add_step(run, number, float(number))
    (run.path / "step-000000000").mkdir()  # half-written: no manifest
    (run.path / "notes").mkdir()
    run.prune(1)
    assert {p.name for p in run.path.iterdir()} >= {"notes", "run.json", "step-000000000", "step-000000003"}


def test_what_is_logged_are_lines(run: Run) -> None:
    run.log({"step": 1, "note": "a\nb"})
    run.log({"step": 2})
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


# -- The lock

HOLD = """
import sys, time
from pathlib import Path
from gptlite.checkpoint.runs import Run
with Run(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.row("P12", "P13")
def test_a_second_process_is_refused_until_the_first_is_killed(run: Run) -> None:
    with holder(run.path) as process:
        with pytest.raises(RunInUseError, match="another process trains in"), run.lock():
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with run.lock():
            pass


def test_the_lock_is_let_go_after_an_error(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), run.lock():
        _ = 1 / 0
    with run.lock():
        pass


def test_a_second_lock_in_one_process_is_refused(run: Run) -> None:
    with run.lock(), pytest.raises(RunInUseError), run.lock():
        pass


def test_the_lock_makes_the_folder(tmp_path: Path) -> None:
    with Run(tmp_path / "a" / "b").lock():
        assert (tmp_path / "a" / "b" / "LOCK").is_file()


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot write to"), Run(tmp_path / "file" / "run").lock():
        pass


@pytest.mark.row("D20")
def test_what_a_crash_left_is_swept_away_with_the_lock(run: Run) -> None:
    kept = add_step(run, 1)
    for name in (".tmp-step-000000002-99", ".trash-step-000000000"):
        (run.path / name).mkdir()
        (run.path / name / "model.safetensors").write_bytes(b"half")
    (run.path / ".tmp-run.json-99").write_text("{")
    (run.path / ".tmp-best-99").symlink_to(kept.name)
    with run.lock():
        assert {p.name for p in run.path.iterdir()} == {"LOCK", "run.json", kept.name}
    assert (kept / "config.json").is_file()


def test_a_refused_lock_sweeps_nothing(run: Run) -> None:
    with run.lock():
        (run.path / ".tmp-step-000000002-99").mkdir()
        with pytest.raises(RunInUseError), run.lock():
            pass
        assert (run.path / ".tmp-step-000000002-99").is_dir()


# -- How -m finds a model


def test_a_run_means_its_best_step(run: Run) -> None:
    best = add_step(run, 1, 1.0)
    add_step(run, 2, 2.0)
    assert find_model(str(run.path)) == best


def test_a_step_means_itself(run: Run) -> None:
    add_step(run, 1, 1.0)
    newer = add_step(run, 2, 2.0)
    assert find_model(str(newer)) == newer.resolve()


def test_a_link_means_the_step_it_points_at(run: Run) -> None:
    best = add_step(run, 1, 1.0)
    add_step(run, 2, 2.0)
    run.link()
    assert find_model(str(run.path / "best")) == best.resolve()


def test_a_hugging_face_directory_means_itself(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_step(
        tmp_path / "hub", random_model(tiny_config("llama", vocab_size=tokenizer.vocab_size)), tokenizer, {"step": 0}
    )
    (tmp_path / "hub" / "MANIFEST.json").unlink()
    assert find_model(str(tmp_path / "hub")) == (tmp_path / "hub").resolve()


def test_the_environment_names_a_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    step = add_step(run, 1, 1.0)
    other = add_step(begin(run.path.parent / "other"), 9)
    monkeypatch.setenv("GPTLITE_MODEL", str(run.path))
    assert find_model() == step
    assert find_model(str(other)) == other.resolve()


@pytest.mark.parametrize("nothing", [None, ""])
def test_no_name_means_the_newest_run(run: Run, nothing: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTLITE_MODEL", "")
    older, newer = add_step(run, 1, 1.0), add_step(begin(run.path.parent / "newer"), 1, 2.0)
    begin(run.path.parent / "never-completed")
    (run.path.parent / "README.md").write_text("not a run")
    os.utime(older, (1e9, 1e9))
    os.utime(newer, (2e9, 2e9))
    assert find_model(nothing) == Path("checkpoints/newer/step-000000001")


def test_no_model_at_all_says_how_to_make_one() -> None:
    with pytest.raises(CheckpointError, match=r"gptlite\.train\('FILE'\)"):
        find_model()


@pytest.mark.row("K01")
def test_a_wrong_name_lists_the_runs_beside_it(run: Run) -> None:
    begin(run.path.parent / "poems")
    with pytest.raises(CheckpointError, match=r"no model at .*corpu.* Runs beside it: corpus, poems"):
        find_model(str(run.path.parent / "corpu"))


def test_a_run_without_a_step_is_told_apart(run: Run) -> None:
    with pytest.raises(CheckpointError, match="no completed step yet"):
        find_model(str(run.path))


@pytest.mark.row("K01")
@pytest.mark.parametrize("argument", ["nowhere", "/nowhere/at/all", "corpus.txt", "empty", "\x7f"])
def test_what_is_no_model_is_a_checkpoint_error(tmp_path: Path, argument: str) -> None:
    (tmp_path / "corpus.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no model at"):
        find_model(argument)


def test_runs_live_in_checkpoints() -> None:
    assert Path("checkpoints") == runs.DEFAULT_PARENT
    with new_run("corpus") as found:
        assert found.path == Path("checkpoints/corpus")


def test_fields_of_older_versions_are_read_under_todays_names(run: Run) -> None:
    numbers = dict.fromkeys(("step", "best_step", "n_parameters", "vocab_size", "n_tokens_seen", "val_bytes"), 3)
    reals = dict.fromkeys(
        ("tokens_per_second", "seconds", "train_loss_nats", "val_loss_nats", "val_bits_per_byte"), 1.5
    )
    result = {"run": "run", **numbers, **reals}
    measured = {"ngram_bits_per_byte": 2.0, "xz_bits_per_byte": 2.5, "unigram_bits_per_byte": 4.0}
    former = {"yardsticks": "baselines", "params": "n_parameters", "tokens_seen": "n_tokens_seen"}
    former |= {name: f"{name}_nats" for name in ("train_loss", "val_loss")}
    former |= {name: f"{name}_bits_per_byte" for name in ("ngram", "xz", "unigram")}

    def aged(value: dict[str, object]) -> dict[str, object]:
        names = {now: before for before, now in former.items()}
        return {names.get(n, n): aged(x) if isinstance(x, dict) else x for n, x in value.items()}

    info = {"baselines": measured, "expected": {"memory_bytes": 5.0}, "result": {**result, "baselines": measured}}
    counts: dict[str, object] = {"n_parameters": 7, "n_train_tokens": 8, "n_val_tokens": 9}
    counts["text_limits_bytes"] = [5, 6]
    old = {
        **aged(info),
        "text_limits": [5, 6],
        "parameters": 7,
        "train_tokens": 8,
        "val_tokens": 9,
        "expected": {"memory": 5.0},
    }
    run.write_info(old)
    assert run.read_info() == {**info, **counts}

"""A comparison from text to results: what is kept, what is resumed, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import make_text
from safetensors.torch import load_file
from support.comparisons import in_this_process

from gptlite.comparison import run
from gptlite.comparison.collect import collect
from gptlite.comparison.contenders import choose_contenders
from gptlite.comparison.run import compare
from gptlite.comparison.store import Store, new_store, old_store
from gptlite.errors import (
    CheckpointError,
    CorpusError,
    Interrupted,
    ProcessError,
    RunInUseError,
    StorageError,
    UsageError,
)

FOUR = ["unigram", "5-gram", "lstm", "gptlite"]


@pytest.fixture
def copied(comparison_of_four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A comparison that a test may change."""
    monkeypatch.setenv("GPTLITE_CACHE", str(comparison_of_four.parent / "cache"))
    return Path(shutil.copytree(comparison_of_four, tmp_path / "copied"))


def found(directory: Path) -> dict:
    store = Store(directory)
    return collect(store, choose_contenders(FOUR), store.read_info())


def test_all_contenders_have_all_results(comparison_of_four: Path) -> None:
    results = {c["name"]: c for c in found(comparison_of_four)["contenders"]}
    assert list(results) == FOUR
    assert results["5-gram"]["bits_per_byte"] < results["unigram"]["bits_per_byte"]
    assert all(0 < c["bits_per_byte"] < 9 for c in results.values())
    lstm, own = results["lstm"], results["gptlite"]
    assert lstm["n_parameters"] == pytest.approx(own["n_parameters"], rel=0.1)
    assert lstm["learning_rate"] < max(trial["learning_rate"] for trial in lstm["sweep"]) and not own["sweep"]
    assert [at["context_length"] for at in lstm["speed"]] == [32, 128, 512]
    assert [at["n_sequential_operations"] for at in lstm["speed"]] == [32, 128, 512]
    assert [at["n_sequential_operations"] for at in own["speed"]] == [1, 1, 1]
    assert all(1.0 <= c["seconds"] < 10 for c in (lstm, own)), "the last step may end later"
    assert lstm["curve"][0]["n_tokens"] == 0 and lstm["curve"][-1]["n_tokens"] == lstm["n_tokens_seen"]
    assert [test["distance"] for test in own["copy"]] == [10, 50, 200]
    assert results["unigram"]["reach"] and own["reach"][0]["first"] == 1


def test_networks_are_kept_as_safetensors(comparison_of_four: Path) -> None:
    weights = load_file(comparison_of_four / "lstm" / "model.safetensors")
    n_parameters = found(comparison_of_four)["contenders"][2]["n_parameters"]
    assert sum(tensor.numel() for tensor in weights.values()) == n_parameters


def test_the_same_windows_and_the_best_at_nothing(comparison_of_four: Path) -> None:
    results = found(comparison_of_four)
    for each in results["contenders"]:
        behind = each["behind_best"]["bits_per_byte"]
        best = min(c["bits_per_byte"] for c in results["contenders"])
        assert behind == pytest.approx(each["bits_per_byte"] - best, abs=1e-3)


def test_resume_keeps_what_is_finished_and_does_the_rest(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copied / "unigram")
    before = (copied / "lstm" / "result.json").stat().st_mtime_ns
    in_this_process(monkeypatch)
    done: list[str] = []
    kept = run._work
    monkeypatch.setattr(run, "_work", lambda task, *rest: (done.append(task.name), kept(task, *rest)))
    results = compare(directory=copied, resume=True)
    assert done == ["unigram"] and [c["name"] for c in results["contenders"]] == FOUR
    assert (copied / "lstm" / "result.json").stat().st_mtime_ns == before
    assert compare(directory=copied, resume=True, contenders="lstm") == results, "nothing is left to do"


def test_what_differs_from_the_beginning_is_refused(copied: Path) -> None:
    for name, value in (("time", "9s"), ("seed", 5), ("prompt", "Bela")):
        with pytest.raises(UsageError, match=f"`{name}` is .* begun with"):
            compare(directory=copied, resume=True, **{name: value})
    Path("other.txt").write_text(make_text(150, seed=3))
    with pytest.raises(CorpusError, match="not the one that"):
        compare("other.txt", directory=copied, resume=True)


def test_damage_is_told(copied: Path) -> None:
    path = copied / "lstm" / "result.json"
    path.write_text(path.read_text().replace("1", "2"))
    with pytest.raises(CheckpointError, match="lstm"):
        found(copied)
    (copied / "comparison.json").unlink()
    with pytest.raises(CheckpointError, match="holds no comparison"):
        compare(directory=copied, resume=True)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({}, UsageError, "`inputs` must name the text"),
        ({"inputs": "-"}, UsageError, "name a file, not -"),
        ({"inputs": "corpus.txt", "time": "0.1s"}, UsageError, "`time` must be at least 1s"),
        ({"inputs": "corpus.txt", "contenders": "elman"}, UsageError, "choose from unigram"),
        ({"inputs": "gone.txt"}, CorpusError, "gone.txt"),
        ({"inputs": "corpus.txt", "device": "mps"}, UsageError, "no 'mps' device"),
        ({"resume": True}, UsageError, "no comparison to go on with"),
        ({"inputs": "corpus.txt", "directory": "corpus.txt"}, UsageError, "not an empty folder"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(
    corpus_file: Path, arguments: dict, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        compare(**arguments)
    assert not Path("comparisons").exists()


def test_directories_get_numbers_and_the_newest_is_resumed() -> None:
    assert new_store(None, ["a/corpus.txt"]).path == Path("comparisons/corpus")
    for i, name in enumerate(("corpus", "corpus-2", "other")):
        folder = Path("comparisons") / name
        folder.mkdir(parents=True)
        (folder / "comparison.json").write_text("{}")
        os.utime(folder / "comparison.json", (i, i))
    assert new_store(None, ["corpus.txt"]).path == Path("comparisons/corpus-3")
    assert old_store(None, ["corpus.txt"]).path == Path("comparisons/corpus-2")
    assert old_store(None, []).path == Path("comparisons/other")
    with pytest.raises(UsageError, match=r"a comparison is there already.*resume=True"):
        new_store("comparisons/other", [])


def test_one_process_at_a_time(copied: Path) -> None:
    with Store(copied).lock(), pytest.raises(RunInUseError, match="another process"), Store(copied).lock():
        pass


# -- Processes that are told what to say


def pretend(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let each contender's process run this program."""
    real = subprocess.Popen
    monkeypatch.setattr(run.subprocess, "Popen", lambda _, **more: real([sys.executable, "-c", code], **more))


def again(directory: Path) -> None:
    shutil.rmtree(directory / "unigram")
    compare(directory=directory, resume=True)


def test_an_error_of_a_contender_is_the_error_of_the_command(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = json.dumps({"error": "cannot save it: No space left on device.", "kind": "StorageError"})
    pretend(monkeypatch, f"print({facts!r}); raise SystemExit(5)")
    with pytest.raises(StorageError, match="No space left"):
        again(copied)


def test_a_contender_that_is_killed_says_how_to_go_on(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ProcessError, match=r"process of unigram was ended by signal 9.*kept"):
        again(copied)


def test_a_signal_ends_the_contender_and_keeps_the_others(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "import time; time.sleep(60)")
    shutil.rmtree(copied / "unigram")
    began = time.monotonic()
    asked = iter([None, None])
    with pytest.raises(Interrupted, match="3 of 4 contenders are finished and kept") as stopped:
        compare(directory=copied, resume=True, should_stop=lambda: next(asked, signal.SIGINT))
    assert stopped.value.exit_code == 130 and time.monotonic() - began < 30
    assert {c.name for c in Store(copied).finished()} == set(FOUR) - {"unigram"}


@pytest.mark.slow
def test_a_real_process_and_every_kind_of_contender(corpus_file: Path) -> None:
    results = compare(corpus_file, time="1s", val="20%")
    assert results["contenders"] and [c["name"] for c in results["contenders"]] == [
        c.name for c in choose_contenders(None)
    ]

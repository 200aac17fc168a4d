"""The files of a run, as anyone may have left them: every field replaced or missing, pipes, devices, other names."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from conftest import Command, make_text
from support.forging import seal

from gptlite.checkpoint import run_info, runs, saved_step
from gptlite.checkpoint.runs import Run
from gptlite.config import ModelConfig
from gptlite.embedding import statistics
from gptlite.errors import CheckpointError, Interrupted, LimitError, StorageError
from gptlite.storage import durable
from gptlite.text.tokenizer import Tokenizer
from gptlite.training import held_out, loop
from gptlite.training.pipeline import train
from gptlite.training.state import State

row = pytest.mark.row
SHAPE: dict[str, Any] = {
    "n_layers": 1, "dim": 8, "n_heads": 1, "context_length": 16, "vocab_size": 270, "batch_size": 2, "threads": 1,
    "eval_every": 1, "save_every": 100,
}  # fmt: skip
GONE = object()
VALUES = (None, 5, [], {}, "x", GONE)
COMMANDS = (
    ("info", "run"),
    ("check", "run"),
    ("report", "run", "-o", "page.html", "-n", "1", "--force"),
    ("generate", "-m", "run", "--prompt", "the", "--max-tokens", "3", "--seed", "1", "--check-copies"),
    ("train", "--resume", "-o", "run", "-q"),
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a text, its cache, a run that was stopped after two of three steps, and one that was not."""
    folder = tmp_path_factory.mktemp("template")
    (folder / "corpus.txt").write_text(make_text(120))
    asked = iter((None, signal.SIGINT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTLITE_CACHE", str(folder / "cache"))
        with pytest.raises(Interrupted):
            train(str(folder / "corpus.txt"), out=folder / "run", steps=3, should_stop=lambda: next(asked), **SHAPE)
        train(str(folder / "corpus.txt"), out=folder / "complete", steps=3, **SHAPE)
    yield folder


@pytest.fixture
def fresh(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Lay out `run` and its cache anew, as a copy of one of the template's."""

    def lay_out(name: str = "run") -> Path:
        for folder in ("run", "cache"):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
        shutil.copytree(template / name, tmp_path / "run", symlinks=True)
        shutil.copytree(template / "cache", tmp_path / "cache")
        return tmp_path / "run"

    return lay_out


def changes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Each field of a JSON value, and of a list its first item, with each of `VALUES` in its place."""
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1]
    for key, inner in items:
        for new in VALUES:
            yield (*path, key), new
        if isinstance(inner, dict | list):
            yield from changes(inner, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value


def judge(gptlite: Command, lay_out: Callable[[], object], what: object) -> set[int]:
    """Every command ends soon, well or with one sentence about the checkpoint."""
    codes = set()
    for command in COMMANDS:
        lay_out()
        began = time.monotonic()
        outcome = gptlite(*command)
        assert outcome.code in (0, 4, 8), (what, command, outcome)
        assert "Traceback" not in outcome.err and time.monotonic() - began < 10, (what, command, outcome.err)
        codes.add(outcome.code)
    return codes


EVERY = [143, pytest.param(1, marks=pytest.mark.slow)]


@row("K44")
@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("name", ["run", "complete"])
def test_every_field_of_run_json(gptlite: Command, fresh: Callable[..., Path], name: str, every: int) -> None:
    """What is refused when it is read is refused by every command, so one of them shows it."""
    info = json.loads((fresh(name) / "run.json").read_text())
    accepted = refused = 0
    for path, new in changes(info):

        def lay_out(path: tuple[Any, ...] = path, new: Any = new) -> None:
            (fresh(name) / "run.json").write_text(json.dumps(changed(info, path, new)))

        Path("run/run.json").write_text(json.dumps(changed(info, path, new)))
        try:
            Run(Path("run")).read_info()
        except CheckpointError as error:
            assert "run.json" in str(error) and "\n" not in str(error) and len(str(error)) < 500
            refused += 1
            if refused % (3 * every) == 1:
                assert gptlite("info", "run").code == gptlite("train", "--resume", "-o", "run").code == 4
            continue
        accepted += 1
        if accepted % every == 0:
            judge(gptlite, lay_out, (path, new))
    assert refused > 2 * accepted > 60


@row("K44")
@pytest.mark.parametrize(
    ("path", "new"),
    [(("plan", "train"), {}), (("arguments",), []), (("inputs",), [])],
    ids=str,
)
def test_what_would_be_read_as_a_default_is_refused(
    gptlite: Command, fresh: Callable[..., Path], path: tuple[str, ...], new: object
) -> None:
    """A plan without a budget trained for minutes by the default one."""
    file = fresh() / "run.json"
    file.write_text(json.dumps(changed(json.loads(file.read_text()), path, new)))
    for command in COMMANDS:
        outcome = gptlite(*command)
        assert outcome.code == 4 and "run.json" in outcome.err, (command, outcome)


@row("K44")
@pytest.mark.parametrize(
    ("path", "new"), [(("split",), None), (("reading", "separator"), "x"), (("text", "val", "bytes"), 5)], ids=str
)
def test_parts_of_the_text_that_do_not_fit_it_are_no_fault_of_the_text(
    gptlite: Command, fresh: Callable[..., Path], path: tuple[str, ...], new: object
) -> None:
    file = fresh() / "run.json"
    file.write_text(json.dumps(changed(json.loads(file.read_text()), path, new)))
    for command in COMMANDS[3:]:
        outcome = gptlite(*command)
        assert outcome.code in (0, 4), (command, outcome)


@row("K44")
@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("name", ["training_state/state.json", "MANIFEST.json"])
def test_every_field_of_a_step(gptlite: Command, fresh: Callable[..., Path], name: str, every: int) -> None:
    """With digests that fit, as a stranger would make them."""
    step = Run(fresh()).step_directories()[-1].name
    content = json.loads(Path("run", step, name).read_text())
    for path, new in list(changes(content))[::every]:

        def lay_out(path: tuple[Any, ...] = path, new: Any = new) -> None:
            fresh()
            Path("run", step, name).write_text(json.dumps(changed(content, path, new)))
            if name != "MANIFEST.json":
                seal(Path("run", step))

        judge(gptlite, lay_out, (path, new))


@row("K44")
@pytest.mark.parametrize("every", EVERY)
def test_every_field_of_the_facts_of_tokens(gptlite: Command, fresh: Callable[..., Path], every: int) -> None:
    fresh()
    entries = [path.relative_to("cache") for path in Path("cache").glob("tokens-*/facts.json")]
    content = json.loads(Path("cache", entries[0]).read_text())
    for path, new in list(changes(content))[::every]:
        fresh()
        for entry in entries:
            Path("cache", entry).write_text(json.dumps(changed(content, path, new)))
        assert gptlite(*COMMANDS[-1]).code == 0, (path, new)


# -- What gptlite writes, gptlite reads

MANY = 8000


def test_every_field_of_a_result_has_a_type(template: Path) -> None:
    """Or a damaged one is a traceback in whatever shows it."""
    result = Run(template / "complete").read_info()["result"]
    assert set(result) <= set(get_type_hints(run_info.Result))


@row("C41")
@pytest.mark.slow
def test_a_run_on_thousands_of_files_is_resumed(gptlite: Command) -> None:
    Path("texts").mkdir()
    for i in range(MANY):
        Path("texts", f"{'long ' * 12}{i}.txt").write_text(f"{i} {make_text(1, seed=i)}")  # no two alike
    shape = ("--layers", "1", "--dim", "8", "--heads", "1", "--context", "16", "--vocab-size", "270", "--keep", "9")
    assert gptlite("train", "texts", "-o", "run", "-q", "--steps", "2", *shape).code == 0
    for command in COMMANDS[:-1]:
        assert gptlite(*command).code == 0, command
    assert gptlite("train", "--resume", "-o", "run", "-q", "--steps", "3").code == 0
    assert len(Run(Path("run")).read_info()["inputs"]) == MANY


def long_info(template: Path) -> dict[str, Any]:
    """`run.json` with the longest of everything, at its bound or far beyond what fits into it."""
    info: dict[str, Any] = dict(Run(template / "complete").read_info())
    (source,) = info["inputs"]
    path = "/" + "\x01" * 200  # which JSON makes six times as long
    info["inputs"] += [{**source, "path": f"{path}{i}"} for i in range(2000)]
    info["arguments"] += [f"{path}{i}" for i in range(2000)]
    info["command"] = ["gptlite", "train", *(f"{i}.txt" for i in range(20_000))]
    info["resumed_at"] = list(range(10_000))
    info["changes"] = [{"step": step, "plan": {"steps": [step, step + 1]}} for step in range(2000)]
    info["plan"]["train"]["sample_prompt"] = "\x01" * 500_000
    return info


@row("C41")
def test_the_longest_lists_are_written_and_read(gptlite: Command, fresh: Callable[..., Path], template: Path) -> None:
    run, info = Run(fresh("complete")), long_info(template)
    run.write_info(info)
    (lists,) = run.path.glob("lists-*.jsonl")
    assert (run.path / "run.json").stat().st_size <= run_info.LARGEST < lists.stat().st_size
    assert run.read_info() == info
    for command in COMMANDS[:3]:
        outcome = gptlite(*command)
        assert outcome.code == 0, (command, outcome.err)
    run.write_info({**info, "arguments": [str(template / "corpus.txt")]})  # the others are not there to be read
    for command in COMMANDS[3:]:
        outcome = gptlite(*command)
        assert outcome.code == 0, (command, outcome.err)
    assert len(list(run.path.glob("lists-*.jsonl"))) == 1, "one that nothing speaks of is deleted"
    with open(next(run.path.glob("lists-*.jsonl")), "r+b") as file:
        file.write(b'{"inpuTs"')
    assert gptlite("info", "run").code == gptlite("check", "run").code == gptlite(*COMMANDS[-1]).code == 4


@row("C41")
def test_what_would_not_be_read_back_is_not_written(
    fresh: Callable[..., Path], template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(fresh("complete"))
    before, info = (run.path / "run.json").read_bytes(), long_info(template)
    monkeypatch.setattr(run_info, "LARGEST_LISTS", 1 << 20)
    with pytest.raises(LimitError, match="join some of the files"):
        run.write_info(info)
    info["plan"]["train"]["sample_prompt"] *= 2
    with pytest.raises(LimitError, match="`sample_prompt`"):
        run.write_info(info)
    assert (run.path / "run.json").read_bytes() == before


@row("C41")
def test_a_long_patience_makes_no_long_history(template: Path) -> None:
    state = State(step=1)
    for step in range(1, 3000):
        state.step = step
        held_out.remember(state, 2.0 if step > 1 else 1.0, held_out.MOST_SCORES)
    assert state.scores_since_best == 2998 and len(state.history) == held_out.MOST_SCORES + 1
    state.losses = [1.2345678901234567] * loop.LOG_EVERY
    largest = saved_step.largest("training_state/state.json")
    assert len(durable.json_bytes(dataclasses.asdict(state))) < largest / 4


@row("C41")
@pytest.mark.parametrize(
    ("shape", "message"), [({"n_layers": 1500}, "fewer `n_layers`"), ({"context_length": 1 << 24}, "too long")]
)
def test_a_model_that_no_file_can_hold_is_refused_before_training(
    tokenizer: Tokenizer, shape: dict[str, int], message: str
) -> None:
    """Also where only the optimizer's file has too many tensors."""
    config = ModelConfig.preset("qwen3", "tiny", **{"vocab_size": 320, "dim": 4, "n_heads": 1, **shape})
    with pytest.raises(LimitError, match=message):
        saved_step.check_limits(tokenizer, config, {})
    fine = ModelConfig.preset("qwen3", "tiny", vocab_size=320, dim=4, n_heads=1)
    saved_step.check_limits(tokenizer, fine, {})
    with pytest.raises(LimitError, match="fewer `n_layers`"):
        saved_step.check_limits(tokenizer, fine, {f"exp_avg.transformer.{i}.weight": (4, 4) for i in range(20_000)})


@row("C41")
def test_the_words_and_the_log_have_one_bound(fresh: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    words = [("\U0001d56b" * statistics.LONGEST_WORD, 2**62)] * statistics.MOST_WORDS
    content = json.dumps({"words": words}, ensure_ascii=False, separators=(",", ":")).encode()
    assert len(content) < saved_step.largest(saved_step.WORDS)
    run = Run(fresh("complete"))
    size = (run.path / "metrics.jsonl").stat().st_size
    monkeypatch.setattr(runs, "LARGEST_LOG", size + 20)
    run.log({"step": 9})
    with pytest.raises(StorageError, match="which are the most that are read"):
        run.log({"step": 10, "train_loss": 1.0})
    assert run.read_log()[-1] == {"step": 9}


@row("K28")
@pytest.mark.parametrize(
    "left_out",
    [
        ("format", "machine", "token_digests", "lossy", "text_limits_bytes", "expected", "baselines",
         "vocab_size_asked", "gptlite"),  # as the first version wrote it
        ("format", "machine", "token_digests", "lossy"),
        (),
    ],
    ids=["first", "second", "third"],
)  # fmt: skip
def test_runs_of_earlier_versions_are_read(gptlite: Command, fresh: Callable[..., Path], left_out: tuple[str]) -> None:
    """Also with the state of that time."""
    step = Run(fresh()).step_directories()[-1]
    info = json.loads(Path("run/run.json").read_text())
    old = {name: value for name, value in info.items() if name not in left_out}
    if left_out:
        for name in ("accumulate", "recompute", "shard", "log"):
            del old["plan"]["train"][name]
        old["plan"].pop("given")
        state = json.loads((step / "training_state/state.json").read_text())
        del state["scores_since_best"]
        (step / "training_state/state.json").write_text(json.dumps(state))
        seal(step)
    Path("run/run.json").write_text(json.dumps(old))
    for command in COMMANDS:
        outcome = gptlite(*command)
        assert outcome.code == 0 or "does not say 'gptlite'" in outcome.err, (command, outcome.err)
    assert "result" in Run(Path("run")).read_info()


# -- Pipes, devices and other names


@row("K24")
@pytest.mark.parametrize("kind", ["pipe", "zeros", "loop", "folder", "large"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "run.json"])
def test_what_is_no_plain_file_is_refused(gptlite: Command, fresh: Callable[..., Path], name: str, kind: str) -> None:
    place = fresh() / name
    place.unlink()
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "large":
        with open(place, "wb") as file:
            file.truncate(1 << 40)
    else:
        place.symlink_to("/dev/zero" if kind == "zeros" else name)
    for command in (("report", "run", "-n", "0"), ("check", "run"), COMMANDS[-1]):
        began = time.monotonic()
        outcome = gptlite(*command)
        assert outcome.code == 4 and time.monotonic() - began < 5, (command, outcome.err)


@row("S10")
@pytest.mark.parametrize("kind", ["hard link", "link", "pipe", "folder"])
def test_a_lock_is_no_way_to_another_file(gptlite: Command, fresh: Callable[..., Path], kind: str) -> None:
    lock = fresh() / "LOCK"
    lock.unlink()
    Path("victim").write_text("precious")
    if kind == "hard link":
        lock.hardlink_to("victim")
    elif kind == "link":
        lock.symlink_to(Path("victim").absolute())
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    outcome = gptlite(*COMMANDS[-1])
    assert outcome.code == 5 and "cannot" in outcome.err
    assert Path("victim").read_text() == "precious"


@row("S10")
def test_a_log_that_has_another_name_is_replaced_by_a_copy(gptlite: Command, fresh: Callable[..., Path]) -> None:
    """As in a copy that `cp -al` made: the other copy is never written to."""
    log = fresh() / "metrics.jsonl"
    before = log.read_bytes()
    Path("backup").hardlink_to(log)
    assert gptlite(*COMMANDS[-1]).code == 0
    assert Path("backup").read_bytes() == before != log.read_bytes()


@row("D20")
def test_leftovers_of_every_file_are_removed(fresh: Callable[..., Path]) -> None:
    run = Run(fresh())
    names = ("run.json", "metrics.jsonl", f"lists-{'0' * 16}.jsonl", "best", "latest", "trial", "step-000000002")
    for kind in ("tmp", "trash"):
        for name in names:
            (run.path / f".{kind}-{name}-0123456789abcdef").write_text("half")
    with run.lock():
        assert not list(run.path.glob(".t*"))

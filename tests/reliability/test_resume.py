"""A run that is stopped anywhere and resumed ends with the same bytes as one that nobody stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TRAIN_TINY, Command, make_text

from gptlite.checkpoint.runs import Run
from gptlite.config import TrainConfig
from gptlite.device import choose_hardware
from gptlite.errors import CheckpointError, Interrupted, RunInUseError, UsageError
from gptlite.training import held_out, loop, monitor
from gptlite.training import optimizer as optim
from gptlite.training.pipeline import train
from gptlite.training.state import State
from gptlite.training.watcher import Watcher

STEPS = 50
SETTINGS: dict[str, Any] = {
    "n_layers": 1, "dim": 16, "n_heads": 1, "context_length": 16, "vocab_size": 280, "batch_size": 4, "accumulate": 2,
    "dropout": 0.1, "warmup": 0.2, "eval_every": 7, "save_every": 1000, "threads": 1,
}  # fmt: skip
FEW: dict[str, Any] = {**SETTINGS, "steps": 6, "eval_every": 1000}
MEASURED = {"elapsed", "tokens_per_second"}  # by the clock on the wall


class Notices(Watcher):
    """Remembers what it was told in words."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def notice(self, text: str) -> None:
        self.told.append(text)


def stop_after(steps: int) -> Callable[[], int | None]:
    """A wish to stop after so many steps."""
    asked = iter(range(1, steps))
    return lambda: 2 if next(asked, None) is None else None


def digests(run: Path | str, step: int = STEPS) -> dict[str, str]:
    """sha256 of the files of a step that resuming must not change."""
    folder = Run(Path(run)).step_path(step)
    names = ("model.safetensors", "training_state/optimizer.safetensors", "training_state/rng.safetensors")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def log_of(run: Path | str) -> list[dict[str, Any]]:
    lines = (Path(run) / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in MEASURED} for line in lines]


def info(run: Path | str) -> dict[str, Any]:
    return json.loads((Path(run) / "run.json").read_text())


def tree(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "LOCK")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of 50 steps that nobody interrupted; the text is beside it."""
    folder = tmp_path_factory.mktemp("straight")
    (folder / "corpus.txt").write_text(make_text(200))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTLITE_CACHE", str(folder / "cache"))
        train(str(folder / "corpus.txt"), out=folder / "run", steps=STEPS, **SETTINGS)
        yield folder / "run"


def assert_same_end(run: str, straight: Path) -> None:
    assert digests(run) == digests(straight)
    assert log_of(run) == log_of(straight)
    assert info(run)["result"]["val_loss_nats"] == info(straight)["result"]["val_loss_nats"]


@pytest.fixture
def corpus(straight: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The text of the uninterrupted run, tokenized already."""
    monkeypatch.setenv("GPTLITE_CACHE", str(straight.parent / "cache"))
    return str(straight.parent / "corpus.txt")


# -- The same bytes

SOME = (1, 23, 49)


@pytest.mark.row("R01")
@pytest.mark.parametrize("k", [k if k in SOME else pytest.param(k, marks=pytest.mark.slow) for k in range(1, STEPS)])
def test_stopped_at_any_step_and_resumed(corpus: str, straight: Path, k: int) -> None:
    with pytest.raises(Interrupted):
        train(corpus, out="run", steps=STEPS, should_stop=stop_after(k), **SETTINGS)
    train([], out="run", resume=True)
    assert_same_end("run", straight)


@pytest.mark.row("R02")
@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_stopped_again_and_again(corpus: str, straight: Path, every: int) -> None:
    again: dict[str, Any] = {"steps": STEPS, **SETTINGS}
    for _ in range(every, STEPS, every):
        with pytest.raises(Interrupted):
            train(corpus, out="run", should_stop=stop_after(every), **again)
        again = {"resume": True}
    train(corpus, out="run", **again)
    assert_same_end("run", straight)


@pytest.mark.row("R01", "R06")
@pytest.mark.parametrize("part", [0, 1], ids=["first part", "second part"])
def test_killed_within_a_step(corpus: str, straight: Path, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither half a batch nor what the log says of the steps after the last save is there afterwards."""
    calls = iter(range(2 * STEPS))

    def cross_entropy(*arguments: torch.Tensor) -> torch.Tensor:
        if next(calls) == 2 * 15 + part:
            raise SystemExit("killed in step 16")
        return torch.nn.functional.cross_entropy(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(optim, "F", SimpleNamespace(cross_entropy=cross_entropy))
        with pytest.raises(SystemExit):
            train(corpus, out="run", steps=STEPS, **{**SETTINGS, "save_every": 6})
    assert Run(Path("run")).steps()[-1].number == 12
    assert log_of("run")[-1]["step"] == 14
    train([], out="run", resume=True)
    assert_same_end("run", straight)


@pytest.mark.row("R01")
@pytest.mark.parametrize("torn", [b'{"step": 13, "el', b"\x00" * 40 + b"\n[]\n"], ids=str)
def test_a_log_that_a_crash_left_torn_is_mended(corpus: str, straight: Path, torn: bytes) -> None:
    with pytest.raises(Interrupted):
        train(corpus, out="run", steps=STEPS, should_stop=stop_after(10), **SETTINGS)
    with open("run/metrics.jsonl", "ab") as file:
        file.write(torn)
    train([], out="run", resume=True)
    assert log_of("run") == log_of(straight)


@pytest.mark.row("R07")
def test_logging_and_terminals_change_no_weights(
    gptlite: Command, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name, colour, log_every in (("plain", "", 10), ("live", "1", 1), ("quiet", "", 1000)):
        monkeypatch.setenv("FORCE_COLOR", colour)  # which makes a terminal of whatever listens
        monkeypatch.setattr(loop, "LOG_EVERY", log_every)
        more = ("-q",) if name == "quiet" else ()
        assert (
            gptlite("train", corpus_file, "-o", name, *TRAIN_TINY, "--steps", "5", "--batch-size", "4", *more).code == 0
        )
        found.append(digests(name, 5))
    assert found[0] == found[1] == found[2]


@pytest.mark.row("R18")
def test_place_and_time_leave_no_trace(corpus: str, straight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("elsewhere").mkdir()
    shutil.copy(corpus, "elsewhere/copy.txt")
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Pacific/Auckland")
        time.tzset()
        patch.setattr(time, "strftime", lambda *_: "2001-01-01T00:00:00Z")
        patch.chdir("elsewhere")
        train("copy.txt", out="run", steps=STEPS, **SETTINGS)
    time.tzset()
    here, there = (tree(Run(run).step_path(STEPS)) for run in (straight, Path("elsewhere/run")))
    by_the_clock = {"training_state/state.json", "MANIFEST.json"}
    assert here.keys() == there.keys()
    assert {name for name in here if here[name] != there[name]} <= by_the_clock


@pytest.mark.row("R01")
def test_a_run_that_stopped_early_stays_stopped(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when nothing but the final score is left to do; more steps are another wish."""
    settings = {**SETTINGS, "steps": STEPS, "eval_every": 5, "patience": 1}
    monkeypatch.setattr(monitor, "stops_early", lambda state, setup: state.step == 15)
    with pytest.raises(Interrupted, match="before the final score; step 15"):
        train(corpus, out="run", should_stop=stop_after(15), **settings)
    with pytest.raises(Interrupted, match="before the final score; step 15"):
        train([], out="run", resume=True, should_stop=lambda: 2)
    assert train([], out="run", resume=True)["step"] == 15
    assert train([], out="run", resume=True, steps=STEPS + 1)["step"] == STEPS + 1


# -- What may differ, and what is said of it


@pytest.mark.row("R04")
def test_a_complete_run_has_nothing_to_do(gptlite: Command, straight: Path) -> None:
    shutil.copytree(straight, "run", symlinks=True)
    before = tree(Path("run"))
    outcome = gptlite("train", "--resume", "-o", "run", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out) == {"schema": "gptlite.train/1", **info(straight)["result"]}
    assert "nothing to do" in outcome.err
    assert tree(Path("run")) == before


def test_a_run_that_goes_on_is_not_complete(corpus: str, straight: Path) -> None:
    """Also where its run.json had a result already."""
    shutil.copytree(straight, "run", symlinks=True)
    with pytest.raises(Interrupted):
        train([], out="run", resume=True, steps=STEPS + 4, should_stop=stop_after(1))
    assert train([], out="run", resume=True)["step"] == STEPS + 4


@pytest.mark.row("R05", "R11")
def test_what_changes_is_told_and_written_down(corpus: str, straight: Path) -> None:
    shutil.copytree(straight, "run", symlinks=True)
    notices = Notices()
    train([], out="run", resume=True, steps=STEPS + 2, accumulate=4, eval_every=1000, watcher=notices)
    (change,) = info("run")["changes"]
    assert change == {"step": STEPS, "plan": {"steps": [50, 52], "accumulate": [2, 4], "eval_every": [7, 1000]}}
    assert any("budget" in told and "not that of a run with this budget" in told for told in notices.told)
    assert any("last bits will differ" in told for told in notices.told)
    assert info(straight).get("changes") is None


@pytest.mark.row("R10", "R11")
@pytest.mark.parametrize(
    ("name", "old", "new"), [("lr", 0.02, 0.5), ("batch_size", 4, 8), ("n_layers", 1, 2), ("seed", 1, 7)]
)
def test_a_setting_that_makes_another_run_is_refused_with_both_values(
    straight: Path, name: str, old: object, new: Any
) -> None:
    before = tree(straight)
    with pytest.raises(UsageError, match=rf"`{name}` is {new}, and the run was started with {old};"):
        train([], out=straight, resume=True, **{name: new})
    assert tree(straight) == before


@pytest.mark.row("R09")
def test_texts_that_were_moved_and_renamed_are_the_same_texts(tmp_path: Path) -> None:
    texts = {"a.txt": make_text(60), "b.txt": make_text(60, seed=1), "c.txt": make_text(60, seed=2)}
    for name, text in texts.items():
        Path(name).write_text(text)
    train(sorted(texts), out="straight", **FEW)
    with pytest.raises(Interrupted):
        train(["c.txt", "a.txt", "b.txt"], out="run", should_stop=stop_after(3), **FEW)
    Path("elsewhere").mkdir()
    for old, new in (("a.txt", "3.txt"), ("b.txt", "1.txt"), ("c.txt", "2.txt")):
        Path(old).rename(Path("elsewhere", new))
    train(["elsewhere/1.txt", "elsewhere/2.txt", "elsewhere/3.txt"], out="run", resume=True)
    assert digests("run", 6) == digests("straight", 6)


@pytest.mark.row("R08")
@pytest.mark.parametrize("place", [0, -3], ids=["trained on", "held out"])
def test_one_other_byte_is_another_text(corpus: str, straight: Path, place: int) -> None:
    content = bytearray(Path(corpus).read_bytes())
    content[place] ^= 1
    Path("other.txt").write_bytes(content)
    facts, before = info(straight)["text"]["train"], tree(straight)
    fingerprint = f"then {facts['bytes']:,} bytes with sha256 {facts['sha256'][:16]}, now"
    with pytest.raises(CheckpointError, match=f"not the one.*{fingerprint}") as e:
        train("other.txt", out=straight, resume=True, steps=60)
    assert e.value.exit_code == 4
    assert tree(straight) == before


@pytest.mark.row("R12")
@pytest.mark.parametrize(("asked", "used", "told"), [(None, 1, False), (1, 1, False), (2, 2, True)], ids=str)
def test_threads_are_those_of_before_unless_asked_for(
    corpus: str, asked: int | None, used: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        train(corpus, out="run", should_stop=stop_after(2), **FEW)
    torch.set_num_threads(2)  # as another process would find it
    seen = []
    monkeypatch.setattr("gptlite.training.pipeline.fit", lambda *parts: seen.append(parts[-1].hardware.threads))
    notices = Notices()
    train([], out="run", resume=True, threads=asked, watcher=notices)
    torch.set_num_threads(1)
    assert seen == [used]
    assert any("threads 2, not 1" in notice for notice in notices.told) is told


@pytest.mark.row("R13")
def test_another_device_is_told(corpus: str, straight: Path) -> None:
    """A machine without the device that the run was begun on takes what it has."""
    shutil.copytree(straight, "run", symlinks=True)
    stored = info("run")
    stored["machine"] |= {"device": "mps", "dtype": "bf16"}
    Path("run/run.json").write_text(json.dumps(stored))
    notices = Notices()
    assert train([], out="run", resume=True, steps=STEPS + 1, threads=1, watcher=notices)["step"] == STEPS + 1
    assert any("device cpu, not mps" in notice for notice in notices.told)


@pytest.mark.row("R13")
def test_a_processor_without_bf16_goes_on_in_fp32(corpus: str, straight: Path) -> None:
    shutil.copytree(straight, "run", symlinks=True)
    stored = info("run")
    stored["machine"] |= {"dtype": "bf16"}
    Path("run/run.json").write_text(json.dumps(stored))
    notices = Notices()
    assert train([], out="run", resume=True, steps=STEPS + 1, threads=1, watcher=notices)["step"] == STEPS + 1
    assert any("dtype fp32, not bf16" in notice for notice in notices.told)


@pytest.mark.row("R15", "R16")
def test_an_older_step_is_resumed_in_a_copy(corpus: str, tmp_path: Path) -> None:
    train(corpus, out="run", **{**FEW, "save_every": 2, "keep": 9})
    before = tree(Path("run"))
    shutil.copytree("run", "copy", symlinks=True)
    for step in (4, 6):
        shutil.rmtree(f"copy/step-{step:09d}")
    train([], out="copy", resume=True, steps=7)
    assert tree(Path("run")) == before, "newer steps are another folder's"
    assert [step.number for step in Run(Path("copy")).steps()] == [2, 4, 6, 7]


@pytest.mark.row("R15")
def test_a_step_is_not_resumed_in_place(corpus: str) -> None:
    train(corpus, out="run", **{**FEW, "save_every": 2, "keep": 9})
    before = tree(Path("run"))
    with pytest.raises(CheckpointError, match="no run at"):
        train([], out="run/step-000000002", resume=True)
    assert tree(Path("run")) == before


@pytest.mark.row("R17")
def test_other_tokens_of_the_same_text_are_refused(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a tokenizers library that cuts text in another way would make them."""
    from gptlite.text.tokenizer import Tokenizer

    with pytest.raises(Interrupted):
        train(corpus, out="run", should_stop=stop_after(2), **FEW)
    monkeypatch.setenv("GPTLITE_CACHE", str(Path("cache").absolute()))
    monkeypatch.setattr(Tokenizer, "encode_batch", lambda self, texts: [list(text.encode()) for text in texts])
    with pytest.raises(CheckpointError, match=r"not those.*tokenizers library it was begun with \(\d"):
        train([], out="run", resume=True)


def test_two_that_begin_at_once_get_a_run_each(corpus: str) -> None:
    run = Run(Path("checkpoints/corpus"))
    with run.lock():
        run.write_info({"begun": "by another process, which has saved no step yet"})
        assert train(corpus, **FEW)["run"] == "checkpoints/corpus-2"
    with run.lock(), pytest.raises(RunInUseError):
        train(corpus, out=run.path, **FEW)


# -- Parts of batches


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("parts", [2, 3, 6])
def test_parts_add_up_to_the_whole_batch(optimizer: str, parts: int) -> None:
    from conftest import random_model, tiny_config

    batch = torch.randint(300, (6, 33), generator=torch.Generator().manual_seed(0))
    found = []
    for accumulate in (1, parts):
        model = random_model(tiny_config("qwen3"))
        optimizers = optim.make_optimizers(model, TrainConfig(optimizer=optimizer, lr=1e-3))
        loss, norm = optim.training_step(
            model, optimizers, batch, choose_hardware("cpu", "fp32"), 1.0, accumulate=accumulate
        )
        found.append((loss, norm, [p.grad for p in model.parameters()], list(model.parameters())))
    (loss, norm, gradients, weights), (loss_in_parts, norm_in_parts, gradients_in_parts, weights_in_parts) = found
    assert loss_in_parts == pytest.approx(loss, rel=1e-6) and norm_in_parts == pytest.approx(norm, rel=1e-5)
    for whole, in_parts in zip(gradients + weights, gradients_in_parts + weights_in_parts, strict=True):
        torch.testing.assert_close(in_parts, whole, rtol=1e-3, atol=1e-5)


def test_parts_are_what_passes_through_the_model(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    monkeypatch.setattr(
        optim, "F", SimpleNamespace(cross_entropy=lambda logits, targets: seen.add(len(targets)) or 1 / 0)
    )
    with pytest.raises(ZeroDivisionError):
        train(corpus, out="run", **FEW)
    assert seen == {FEW["batch_size"] * FEW["context_length"] // FEW["accumulate"]}


def test_parts_must_be_equal(gptlite: Command, corpus_file: Path) -> None:
    outcome = gptlite("train", corpus_file, "--batch-size", "8", "--accumulate", "3")
    assert outcome.code == 2
    assert "--accumulate (3) must divide --batch-size (8)" in outcome.err


def test_a_batch_size_that_is_chosen_fits_the_parts(gptlite: Command, corpus_file: Path) -> None:
    preview = json.loads(gptlite("train", corpus_file, "--accumulate", "7", "--steps", "9", "--dry-run", "--json").out)
    assert preview["plan"]["train"]["batch_size"] % 7 == 0


def test_parts_need_less_memory() -> None:
    from gptlite.config import ModelConfig
    from gptlite.errors import LimitError
    from gptlite.training.memory import check_memory

    model = ModelConfig.preset("qwen3", "large", 8192)
    whole, in_parts = (TrainConfig(batch_size=16, accumulate=n) for n in (1, 16))
    with pytest.raises(LimitError, match="`accumulate=2`"):
        check_memory(model, whole, 8 << 30)
    check_memory(model, in_parts, 8 << 30)


# -- What must not grow


@pytest.mark.row("N13")
@pytest.mark.parametrize("scores", [3_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_score_after_every_step_takes_no_more_room_than_some(scores: int) -> None:
    """All that a run remembers is read again from a file of bounded size."""
    state = State()
    for step in range(1, scores + 1):
        state.step = step
        held_out.remember(state, 1.0 if step == 9 else 2.0 + 1 / step, held_out.MOST_SCORES)
    assert len(state.history) == held_out.MOST_SCORES + 1
    assert min(state.history, key=lambda step: state.history[step]) == 9
    assert max(state.history) == scores
    assert len(json.dumps(state.history)) < 1 << 16


@pytest.mark.row("N13")
def test_a_long_run_keeps_no_list_of_what_it_logged(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "train_step", lambda *_: 1.5)
    monkeypatch.setattr(held_out, "MOST_SCORES", 10)
    sizes = []

    class Weigh(Watcher):
        def saved(self, step: int, path: Path) -> None:
            sizes.append(len((path / "training_state/state.json").read_bytes()))

    scored = {"eval_every": 2, "save_every": 50}
    train(corpus, out="run", watcher=Weigh(), **{**FEW, "steps": 150, **scored})
    assert len(log_of("run")) == 75
    assert max(sizes) < 1.1 * sizes[0]


def test_the_process_that_resumes_finds_its_folder_whatever_it_is_called(corpus: str) -> None:
    with pytest.raises(Interrupted, match=r"continue with: `gptlite\.train\(resume=True, out='my run'\)`"):
        train(corpus, out="my run", should_stop=stop_after(1), **FEW)
    assert os.listdir("my run")

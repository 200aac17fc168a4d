"""Background text in whole runs: exact resumes, copies of held-out text removed, and texts that changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, make_text

from gptlite.checkpoint.runs import Run
from gptlite.errors import CheckpointError, CorpusError, Interrupted, UsageError
from gptlite.training import companions
from gptlite.training.dataset import reopen
from gptlite.training.pipeline import train
from gptlite.training.watcher import Watcher

TINY: dict[str, Any] = {
    "n_layers": 1, "dim": 16, "n_heads": 2, "context_length": 32, "vocab_size": 320, "batch_size": 4, "threads": 1,
}  # fmt: skip
SELDOM = {"eval_every": 1000, "save_every": 1000}
STEPS = 12


class Notices(Watcher):
    def __init__(self) -> None:
        self.said: list[str] = []

    def notice(self, text: str) -> None:
        self.said.append(text)


def stop_after(n: int) -> Any:
    calls = iter(range(1, n + 1))
    return lambda: 2 if next(calls, n) >= n else None


def weights(run: str) -> list[bytes]:
    step = Run(Path(run)).step_path(STEPS)
    return [(step / name).read_bytes() for name in ("model.safetensors", "training_state/optimizer.safetensors")]


def info(run: str) -> dict[str, Any]:
    return json.loads((Path(run) / "run.json").read_text())


def write(name: str, seed: int, n_lines: int = 200) -> str:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(make_text(n_lines, seed), encoding="utf-8")
    return name


@pytest.fixture
def own() -> str:
    return write("own.txt", 1, 100)


@pytest.fixture
def background() -> str:
    return write("other.txt", 2, 400)


def train_stopped(stops: Sequence[int], *inputs: str, **settings: Any) -> None:
    """Train `run`, stopped after some steps, as often as `stops` says, and then to its end."""
    for i, stop in enumerate(stops):
        with pytest.raises(Interrupted):
            if i == 0:
                train(inputs, out="run", steps=STEPS, should_stop=stop_after(stop), **settings)
            else:
                train(out="run", resume=True, threads=1, should_stop=stop_after(stop))
    train(out="run", resume=True, threads=1)


def test_a_resumed_run_with_background_ends_with_the_same_bits(own: str, background: str) -> None:
    train(own, out="straight", background=background, steps=STEPS, dropout=0.2, **TINY, **SELDOM)
    train_stopped((3, 4), own, background=background, dropout=0.2, **TINY, **SELDOM)
    assert weights("run") == weights("straight")


def test_a_run_names_its_background_and_learns_from_it(own: str, background: str) -> None:
    result = train(own, out="run", background=[background], steps=2, **TINY)
    found, plan = info("run"), info("run")["plan"]
    size = Path(background).stat().st_size
    assert found["background"]["bytes"] == size - found["background"]["removed_bytes"]
    assert found["background_inputs"][0]["path"] == str(Path(background).absolute())
    assert [source["path"] for source in found["inputs"]] == [str(Path(own).absolute())]
    assert 0 < plan["train"]["background_end"] <= plan["train"]["background_share"]
    assert any("from the background" in reason for reason in plan["reasons"])
    held_out = 0.05 * Path(own).stat().st_size
    assert result["held_out_bytes"] == pytest.approx(held_out, rel=0.5)  # of the own text alone
    both = companions.reopen_all(found)
    assert both.train.n_bytes == reopen(found).train.n_bytes + size


def test_passages_of_the_held_out_text_are_left_out_of_the_background(own: str, background: str) -> None:
    content = Path(own).read_text()
    tail = "".join(content.splitlines(keepends=True)[-12:])
    original = Path(background).read_text()
    Path(background).write_text(original + tail.upper().replace(" .", "!") + original)
    log = Notices()
    train(own, out="run", background=background, val="10%", steps=1, watcher=log, **TINY)
    (notice,) = [said for said in log.said if said.startswith("removed ")]
    assert "from the text for `background` that the held-out text has too" in notice
    held_out = info("run")["text"]["val"]["bytes"]
    assert info("run")["background"]["removed_bytes"] >= 0.8 * held_out


def test_files_of_the_text_itself_are_left_out_of_the_background(own: str, background: str) -> None:
    log = Notices()
    train(own, out="run", background=[own, background], steps=1, watcher=log, **TINY)
    assert "left 1 file out of the background that the text itself has too." in log.said
    assert [source["path"] for source in info("run")["background_inputs"]] == [str(Path(background).absolute())]
    with pytest.raises(CorpusError, match="no other text than the text to train on"):
        train(own, out="other", background=own, steps=1, **TINY)


def test_a_background_that_changed_is_not_resumed(own: str, background: str) -> None:
    with pytest.raises(Interrupted):
        train(own, out="run", background=background, steps=STEPS, should_stop=stop_after(2), **TINY, **SELDOM)
    before = Path(background).read_bytes()
    Path(background).write_bytes(before + b"Ada opens the letter .\n" * 20)
    with pytest.raises(CheckpointError, match="the text for `background` is not the one that the run was begun with"):
        train(out="run", resume=True, threads=1)
    with pytest.raises(CorpusError, match=r"other\.txt is not what it was when the model was trained"):
        companions.reopen_all(info("run"))
    Path("moved.txt").write_bytes(before)
    Path(background).unlink()
    assert train(out="run", background="moved.txt", resume=True, threads=1)["step"] == STEPS


def test_a_run_without_background_is_not_resumed_with_one(own: str, background: str) -> None:
    train(own, out="run", steps=1, **TINY)
    with pytest.raises(UsageError, match="`background` was not given when the run was started"):
        train(out="run", background=background, resume=True, steps=2, threads=1)


def test_background_does_not_go_with_pairs(background: str) -> None:
    rows = "".join(f"what is {i},it is {i}\n" for i in range(200))
    Path("faq.csv").write_text(f"question,answer\n{rows}")
    with pytest.raises(UsageError, match="`background` does not go with pairs"):
        train("faq.csv", out="run", background=background, pairs="question,answer", steps=1, **TINY)


def test_standard_input_is_one_text_only(gptlite: Command) -> None:
    outcome = gptlite("train", "-", "--background", "-", "--steps", "1", stdin=make_text().encode())
    assert outcome.code == 2
    assert "standard input (-) can be the text or the --background, not both" in outcome.err


def test_the_dry_run_shows_the_background(gptlite: Command, own: str, background: str) -> None:
    shape = ("--layers", "1", "--dim", "16", "--heads", "2", "--context", "32", "--vocab-size", "320")
    shown = gptlite("train", own, "--background", background, "--dry-run", "--steps", "4", *shape).out
    assert "background" in shown
    assert "of each step from the background" in " ".join(shown.replace("│", " ").split())

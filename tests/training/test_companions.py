"""Background text and replay in whole runs: exact resumes, copies of held-out text removed, and texts that changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
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
GO_ON = {"batch_size": 4, "threads": 1, **SELDOM}
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


# -- Background


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


# -- Replay


@pytest.fixture
def earlier(background: str) -> str:
    """A run on the text of `background`."""
    train(background, out="earlier", steps=2, **TINY)
    return "earlier"


def test_a_resumed_run_with_replay_ends_with_the_same_bits(own: str, earlier: str) -> None:
    settings = {"init_from": earlier, "replay": "40%", **GO_ON}
    train(own, out="straight", steps=STEPS, **settings)
    train_stopped((5,), own, **settings)
    assert weights("run") == weights("straight")
    assert info("run")["replay"]["path"] == str(Path(earlier).absolute())
    assert info("run")["replay"]["bytes"] <= info(earlier)["text"]["train"]["bytes"]


def test_replay_and_background_go_together(own: str, earlier: str) -> None:
    more = write("more.txt", 3)
    train(own, out="run", init_from=earlier, replay=0.5, background=more, steps=2, **GO_ON)
    assert {"background", "replay"} <= info("run").keys()
    assert companions.reopen_all(info("run")).train.n_bytes > reopen(info("run")).train.n_bytes


def test_what_a_run_replayed_is_replayed_again(own: str, earlier: str) -> None:
    train(own, out="second", init_from=earlier, replay=0.5, steps=1, **GO_ON)
    train(write("third.txt", 6), out="third", init_from="second", replay=0.5, steps=1, **GO_ON)
    both = info(earlier)["text"]["train"]["bytes"] + info("second")["text"]["train"]["bytes"]
    replayed = info("third")["replay"]
    assert replayed["bytes"] + replayed["removed_bytes"] == both


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.unlink(), "No such file or directory"),
        (lambda path: path.write_text(make_text(300, 9)), "is not what it was when the model was trained"),
    ],
    ids=["gone", "changed"],
)
def test_a_text_that_is_gone_or_has_changed_is_not_replayed(
    own: str, earlier: str, background: str, change: Callable[[Path], Any], said: str
) -> None:
    change(Path(background))
    with pytest.raises(CorpusError, match=rf"cannot be replayed: .*{said}.*; put it back, or leave `replay` out"):
        train(own, out="run", init_from=earlier, replay=0.3, steps=1, **GO_ON)
    assert not Path("run").exists()


def test_a_replayed_text_that_has_changed_is_noticed_when_the_run_is_resumed(
    own: str, earlier: str, background: str
) -> None:
    settings = {"init_from": earlier, "replay": "40%", **GO_ON}
    with pytest.raises(Interrupted):
        train(own, out="run", steps=STEPS, should_stop=stop_after(3), **settings)
    before = Path(background).read_bytes()
    Path(background).write_bytes(before[:-100])
    with pytest.raises(CorpusError, match="cannot be replayed"):
        train(out="run", resume=True, threads=1)
    Path(background).write_bytes(before)
    with pytest.raises(UsageError, match=r"`replay` is 0\.2, and the run was started with 0\.4"):
        train(out="run", resume=True, replay="20%", threads=1)
    assert train(out="run", resume=True, replay="40%", threads=1)["step"] == STEPS
    Path(earlier).rename("moved")
    with pytest.raises(CorpusError, match="earlier, the run whose text was replayed, is gone"):
        companions.reopen_all(info("run"))


def test_text_that_is_given_again_is_not_replayed_too(own: str, earlier: str, background: str) -> None:
    with pytest.raises(CorpusError, match=r"all text of .*earlier is among the text to train on"):
        train([own, background], out="run", init_from=earlier, replay=0.3, steps=1, **GO_ON)


def test_passages_of_the_held_out_text_are_left_out_of_the_replayed_text(
    own: str, earlier: str, background: str
) -> None:
    Path("held-out.txt").write_text("".join(Path(background).read_text().splitlines(keepends=True)[50:62]))
    log = Notices()
    train(own, out="run", init_from=earlier, replay=0.3, val="held-out.txt", steps=1, watcher=log, **GO_ON)
    assert any("from the text for `replay` that the held-out text has too" in said for said in log.said)
    assert info("run")["replay"]["removed_bytes"] >= Path("held-out.txt").stat().st_size


def test_replay_does_not_go_with_pairs(own: str) -> None:
    rows = "".join(f"what is {i},it is {i}\n" for i in range(200))
    Path("faq.csv").write_text(f"question,answer\n{rows}")
    train("faq.csv", out="pairs", pairs="question,answer", steps=1, **TINY)
    with pytest.raises(UsageError, match=r"`replay` does not go with pairs and conversations, which .*pairs is of"):
        train(own, out="run", init_from="pairs", replay=0.3, steps=1, **GO_ON)


def test_only_runs_are_replayed(own: str, earlier: str) -> None:
    step = Run(Path(earlier)).step_path(2)
    step.rename("model")
    with pytest.raises(UsageError, match="is not a run of gptlite, so its text is not known"):
        train(own, out="run", init_from="model", replay=0.3, steps=1, **GO_ON)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--replay", "30%"), "--replay does nothing without --init-from"),
        (("--replay", "x", "--init-from", "gone"), "--replay needs a share of the windows such as 30%"),
        (("--replay", "99%", "--init-from", "gone"), "--replay is 99%, but a share must be more than 0%"),
    ],
)
def test_a_replay_that_cannot_be_is_refused(gptlite: Command, own: str, words: tuple[str, ...], said: str) -> None:
    outcome = gptlite("train", own, "--steps", "1", *words)
    assert outcome.code == 2
    assert said in outcome.err


def test_commands_know_the_replayed_text(gptlite: Command, own: str, earlier: str, background: str) -> None:
    line = ("train", own, "--init-from", earlier, "--replay", "30%", "--batch-size", "4", "--steps", "1")
    shown = gptlite(*line, "--dry-run")
    assert shown.code == 0 and "replay" in shown.out
    outcome = gptlite(*line, "-o", "run", "-q")
    assert outcome.code == 0, outcome.err
    assert f"text of {Path(earlier).absolute()}" in "".join(gptlite("info", "run").out.split("\n"))
    assert gptlite("report", "run", "-o", "page.html", "-n", "0").code == 0
    assert info("run")["replay"]["sha256"] in Path("page.html").read_text()
    copied = Path(background).read_text()[:400]
    Path("seen.txt").write_text(copied)
    found = json.loads(gptlite("eval", "seen.txt", "-m", "run", "--check-copies", "--json").out)
    assert found["copies"]["longest_characters"] >= len(copied) - 2
    refused = gptlite("embed", "Ada [finds] it", "-m", "run", "-o", background, "--force")
    assert refused.code == 2, refused
    assert Path(background).read_text().startswith(copied)

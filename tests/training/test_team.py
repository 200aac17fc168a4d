"""Several processes train as one does: the same losses, the same files, one voice, and an end when one of them dies."""

from __future__ import annotations

import functools
import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, make_text, tiny_config
from support.teams import SHAPE, TINY, WAYS, loss_curve, losses, metrics, started, train, wait_for_step

from gptlite.checkpoint.runs import Run, load
from gptlite.config import TrainConfig
from gptlite.device import Hardware, choose_hardware
from gptlite.errors import UsageError
from gptlite.model import GPT, initialise
from gptlite.text.batches import Batches
from gptlite.training import optimizer as optim
from gptlite.training import plan as planning
from gptlite.training import team
from gptlite.training.team import ALONE

SAME = 1e-4  # nats a token: sums of float32 in another order
WILD = ("--arch", "gpt2", "--optimizer", "adamw", "--warmup", "0", "--clip", "1e30")  # no norm holds these weights


def assert_same_curve(run: Path, other: Path) -> None:
    ours, theirs = metrics(run), metrics(other)
    assert ours.keys() == theirs.keys() and len(ours) >= 5
    for step, line in ours.items():
        for name in ("train_loss", "val_loss"):
            if name in line:
                assert line[name] == pytest.approx(theirs[step][name], abs=SAME), (step, name)


# The same losses

Curves = dict[str, list[float]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], Curves]:
    """The losses of so many processes in so many steps, by way of sharing the work."""
    return functools.cache(lambda n, steps: losses(n, steps, tmp_path_factory.mktemp("team")))


# In one pair of processes, which takes a while to start; four of them share six windows unequally.
SIZES = [(2, 16), pytest.param(2, 50, marks=pytest.mark.slow), pytest.param(4, 50, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("shard", "optimizer"), WAYS)
@pytest.mark.parametrize(("n", "steps"), SIZES)
def test_several_processes_follow_the_loss_curve_of_one(
    shared: Callable[[int, int], Curves], n: int, steps: int, shard: str, optimizer: str
) -> None:
    alone = loss_curve(ALONE, "none", optimizer, steps)
    assert len(alone) == steps and alone[-1] < alone[0] - 0.5, "it learns"
    assert shared(n, steps)[f"{shard} {optimizer}"] == pytest.approx(alone, abs=SAME)


# The command, and what it leaves on disk


@pytest.mark.slow
def test_a_run_of_two_processes_is_that_of_one_and_goes_on_alone(
    gptlite: Command, corpus_file: Path, tmp_path: Path
) -> None:
    line = ("corpus.txt", *TINY, "--steps", "50", "--eval-every", "25", "--save-every", "25", "--json")
    with started(2, train(*line, "-o", "two"), tmp_path) as processes:
        first, second = processes.wait()
    assert first.code == 0, first.err
    assert "2 processes of 1 thread" in first.err and json.loads(first.out)["step"] == 50
    assert (second.code, second.out, second.err) == (0, "", ""), "one speaks for all"
    assert gptlite("train", *line, "-o", "one").code == 0
    assert_same_curve(Path("two"), Path("one"))
    assert sorted(p.name for p in Path("two/best").iterdir()) == sorted(p.name for p in Path("one/best").iterdir())

    assert gptlite("check", "two").code == 0
    resumed = gptlite("train", "--resume", "-o", "two", "--steps", "60", "--json")
    assert resumed.code == 0 and json.loads(resumed.out)["step"] == 60
    assert "unlike before: processes 1, not 2" in resumed.err


def test_a_model_that_two_processes_share_is_scored_calibrated_and_saved(corpus_file: Path, tmp_path: Path) -> None:
    line = ("corpus.txt", *TINY, "--steps", "3", "--json", "--calibration", "1.25")
    logits = []
    for shard in ("none", "fsdp"):
        with started(2, train(*line, "-o", shard, "--shard", shard), tmp_path) as processes:
            assert [process.code for process in processes.wait()] == [0, 0], processes.all[0].err
        loaded = load(tmp_path / shard / "step-000000003")
        with torch.no_grad():
            logits.append(loaded.model(torch.tensor([loaded.tokenizer.encode("the king and the")])))
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize(("shard", "optimizer"), WAYS)
def test_a_run_saved_by_two_goes_on_with_one_or_four_as_if_nothing_happened(
    gptlite: Command, corpus_file: Path, tmp_path: Path, shard: str, optimizer: str, n: int
) -> None:
    """It was interrupted by SIGTERM to both, as torchrun does it; a smaller budget would be another schedule."""
    line = ("corpus.txt", *TINY, "--steps", "60", "--eval-every", "10", "--save-every", "30", "--optimizer", optimizer)
    assert gptlite("train", *line, "-o", "straight").code == 0
    with started(2, train(*line, "-o", "run", "--shard", shard), tmp_path) as processes:
        wait_for_step(tmp_path / "run", 1, log=True)
        for process in processes.all:
            process.popen.send_signal(signal.SIGTERM)
        first, second = processes.wait()
    assert (first.code, second.code) == (143, 0), (first.err, second.err)
    assert re.search(r"stopped after step \d+, which is saved; continue with: .* --gpus 2", first.err)
    with started(n, train("--resume", "-o", "run"), tmp_path) as processes:
        assert [process.code for process in processes.wait()] == [0] * n, processes.all[0].err
    assert_same_curve(tmp_path / "run", tmp_path / "straight")


# Ends


@pytest.mark.parametrize("killed", [1, pytest.param(0, marks=pytest.mark.slow)], ids=["the other one", "the first one"])
def test_the_death_of_a_process_ends_the_others_and_the_run_goes_on(
    gptlite: Command, corpus_file: Path, tmp_path: Path, killed: int
) -> None:
    line = ("corpus.txt", *TINY, "--steps", "100k", "--eval-every", "20", "--save-every", "20", "-o", "run")
    with started(2, train(*line), tmp_path) as processes:
        wait_for_step(tmp_path / "run", 20)
        processes.all[killed].kill()
        began = time.monotonic()
        survivor = processes.wait(60)[1 - killed]
    assert survivor.code == 9 and time.monotonic() - began < 60
    message = r"gptlite: error: another of the 2 processes .* after step \d+; step (\d+) is saved; continue with: "
    assert len(survivor.err.splitlines()) <= 8, survivor.err
    assert (said := re.search(message, survivor.err)), survivor.err
    latest = Run(Path("run")).latest()
    assert latest is not None and latest.number >= int(said[1])
    outcome = gptlite("train", "--resume", "-o", "run", "--steps", latest.number + 2, "--json")
    assert outcome.code == 0 and json.loads(outcome.out)["step"] == latest.number + 2


@pytest.mark.slow
def test_what_one_process_finds_wrong_is_said_once(corpus_file: Path, tmp_path: Path) -> None:
    with started(2, train("gone.txt", *TINY, "--steps", "2"), tmp_path) as processes:
        first, second = processes.wait()
    assert first.code == 3 and first.err.count("error") == 1
    assert (second.code, second.err) == (0, "")


@pytest.mark.slow
def test_numbers_that_diverge_are_said_once(corpus_file: Path, tmp_path: Path) -> None:
    line = train("corpus.txt", *TINY, "--steps", "90", "--lr", "1000", "--weight-decay", "0", *WILD)
    with started(2, line, tmp_path) as processes:
        first, second = processes.wait()
    assert first.code == 6 and "diverged" in first.err
    assert (second.code, second.err) == (0, "")


# Shares


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_every_window_of_a_batch_is_somebodys(n: int, corpus_file: Path) -> None:
    from gptlite.text import token_files
    from gptlite.text.corpus import open_text
    from gptlite.text.tokenizer import Tokenizer

    tokens = token_files.tokenize(open_text(["corpus.txt"]), Tokenizer.train([make_text()], 300))
    shared: dict[str, Any] = {"context": 16, "batch_size": 6, "seed": 3}
    shares = [Batches(tokens, **shared, rank=rank, world_size=n).batch(5) for rank in range(n)]
    assert torch.equal(torch.cat(shares), Batches(tokens, **shared).batch(5))
    assert max(map(len, shares)) == TrainConfig(batch_size=6).share(n).batch_size


def test_a_window_for_each_process_and_part(monkeypatch: pytest.MonkeyPatch) -> None:
    team.check_shares(batch_size=8, accumulate=2, n=4)
    with pytest.raises(UsageError, match="use `batch_size=16` or more"):
        team.check_shares(batch_size=8, accumulate=4, n=4)
    plan = planning.Plan(tiny_config("qwen3"), TrainConfig(batch_size=4), ())
    served = planning.one_window_each(plan, 8)
    assert served.train.batch_size == 8 and "a window for each process" in served.reasons[0].sentence()
    assert planning.one_window_each(planning.Plan(plan.model, plan.train, (), ("batch_size",)), 8).train.batch_size == 4


# Activation checkpointing


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_recomputed_blocks_have_the_same_gradients(dropout: float) -> None:
    gradients = []
    for recompute in (False, True):
        model = GPT(tiny_config("qwen3"), dropout=dropout)
        initialise(model, seed=1)
        torch.manual_seed(5)
        if recompute:
            optim.recompute_blocks(model)
        batch = torch.randint(300, (4, 33), generator=torch.Generator().manual_seed(2))
        optim.mean_loss(model.train(), batch).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        assert set(model.state_dict()) == set(GPT(tiny_config("qwen3")).state_dict()), "no name changes"
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_recomputed_blocks_keep_little_for_the_backward_pass() -> None:
    kept = []
    for recompute in (False, True):
        model = GPT(tiny_config("qwen3", n_layers=6))
        initialise(model, seed=1)
        if recompute:
            optim.recompute_blocks(model)
        saved: list[int] = []

        def remember(tensor: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
            optim.mean_loss(model.train(), torch.zeros(2, 33, dtype=torch.long))
        kept.append(sum(saved))
    assert kept[1] < kept[0] / 3


def test_recompute_is_an_option(gptlite: Command, corpus_file: Path) -> None:
    line = ("train", "corpus.txt", *SHAPE, "--steps", "3", "-q")
    assert gptlite(*line, "-o", "plain").code == 0
    assert gptlite(*line, "-o", "again", "--gradient-checkpointing").code == 0
    first, second = (Run(Path(name)).step_path(3) / "model.safetensors" for name in ("plain", "again"))
    assert first.read_bytes() == second.read_bytes()
    assert json.loads(Path("again/run.json").read_text())["plan"]["train"]["recompute"] is True


# What is said of several processes


def test_hardware_names_the_processes() -> None:
    one = choose_hardware("cpu", "fp32", 1, "off")
    both = Hardware(one.device, False, 1, False, "as asked", processes=2)
    assert both.describe() == "cpu, fp32, 2 processes of 1 thread: as asked"
    assert both.choices() == {**one.choices(), "processes": 2}
    assert Hardware(torch.device("cuda"), True, 1, True, "x", 8).describe() == "cuda, bf16, 8 processes, compiled: x"

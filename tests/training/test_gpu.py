"""On a GPU everything is as on a CPU, up to rounding: training, its files in both directions, processes, memory, words.

Skipped where torch finds no CUDA device. The tolerances are stated beside what they are for.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, make_text, random_model, tiny_config
from support.teams import COMMAND, WAYS, loss_curve, losses
from training.test_team import metrics

from gptlite.checkpoint.runs import Run
from gptlite.config import TrainConfig
from gptlite.device import choose_hardware
from gptlite.generation.decoding import EagerDecoder
from gptlite.model import GPT, initialise
from gptlite.training import compile, estimate, pipeline, resume_proof
from gptlite.training import optimizer as optim
from gptlite.training import team as distributed
from gptlite.training.speed import measure_speed
from gptlite.training.team import ALONE, Team

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
]

SAME = 2e-3  # nats a token: float32 on another device, whose sums are in another order, after 60 steps
SAME_IN_BF16 = 0.05  # nats a token: products of numbers with 8 bits, after 60 steps
SHAPE = ("--layers", "2", "--dim", "64", "--heads", "2", "--context", "32", "--vocab-size", "320", "--batch-size", "8")
LINE = ("train", "corpus.txt", *SHAPE, "--steps", "60", "--eval-every", "20", "--dropout", "0")
PLAIN = ("--compile", "off")


def train(gptlite: Command, out: str, *more: object) -> dict[str, Any]:
    """A run and what it prints. Nothing may be said of failures that training survives, such as no sample."""
    outcome = gptlite(*LINE, "-o", out, "--json", *more)
    assert outcome.code == 0, outcome.err
    assert "no sample" not in outcome.err and "failed" not in outcome.err, outcome.err
    return json.loads(outcome.out)


def assert_same_curve(run: str, other: str, tolerance: float) -> None:
    ours, theirs = metrics(Path(run)), metrics(Path(other))
    assert ours.keys() == theirs.keys() and len(ours) >= 5
    apart = {
        (step, name): abs(line[name] - theirs[step][name])
        for step, line in ours.items()
        for name in ("train_loss", "val_loss")
        if name in line
    }
    assert max(apart.values()) < tolerance, apart


# Training


def test_bf16_on_a_gpu_is_the_default_and_learns(gptlite: Command, corpus_file: Path) -> None:
    outcome = gptlite(*LINE, "-o", "run", "--json")
    assert outcome.code == 0, outcome.err
    assert "cuda, bf16" in outcome.err
    curve = [line["train_loss"] for line in metrics(Path("run")).values()]
    assert curve[-1] < 0.8 * curve[0]
    machine = json.loads(Path("run/run.json").read_text())["machine"]
    assert (machine["device"], machine["dtype"]) == ("cuda", "bf16")


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_losses_are_those_of_the_cpu(gptlite: Command, corpus_file: Path, optimizer: str) -> None:
    train(gptlite, "cpu", "--device", "cpu", "--optimizer", optimizer)
    train(gptlite, "fp32", "--dtype", "fp32", "--optimizer", optimizer, *PLAIN)
    train(gptlite, "bf16", "--optimizer", optimizer, *PLAIN)
    assert_same_curve("fp32", "cpu", SAME)
    assert_same_curve("bf16", "cpu", SAME_IN_BF16)


@pytest.mark.parametrize("how", [("--recompute",), ("--accumulate", "2"), ("--compile", "on")], ids=" ".join)
def test_ways_to_save_memory_or_time_change_nothing_else(
    gptlite: Command, corpus_file: Path, how: tuple[str, ...]
) -> None:
    train(gptlite, "plain", "--dtype", "fp32", *PLAIN)
    train(gptlite, "so", "--dtype", "fp32", *(PLAIN if how[0] != "--compile" else ()), *how)
    assert_same_curve("so", "plain", SAME)
    info = json.loads(Path("so/run.json").read_text())
    assert info["machine"]["compile"] == ("on" if how[0] == "--compile" else "off")


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "transformer-2017"])
def test_all_architectures_train(gptlite: Command, corpus_file: Path, architecture: str) -> None:
    train(gptlite, "run", "--arch", architecture, *PLAIN)
    curve = [line["train_loss"] for line in metrics(Path("run")).values()]
    assert curve[-1] < curve[0]


def test_a_measured_speed_and_a_plan_with_a_stopwatch() -> None:
    speed = measure_speed(tiny_config("qwen3"), TrainConfig(batch_size=4), choose_hardware(compile="off"), 0.2)
    assert 0 < speed.seconds_per_step < 5


def test_dropout_and_samples_leave_random_numbers_that_a_resumed_run_meets_again(tmp_path: Path) -> None:
    """The proof of `gptlite check --resume-proof`, which trains where training is quickest."""
    assert resume_proof.prove_resume(tmp_path).equal


# There and back


@pytest.fixture(scope="module")
def gpu_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on the GPU."""
    folder = tmp_path_factory.mktemp("gpu")
    text = folder / "corpus.txt"
    text.write_text(make_text(), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTLITE_CACHE", str(folder / "cache"))
        settings: dict[str, Any] = {"n_layers": 2, "dim": 64, "n_heads": 2, "context_length": 32, "steps": 60}
        pipeline.train(str(text), out=folder / "run", vocab_size=320, compile="off", device="cuda", **settings)
    return folder / "run"


@pytest.fixture(params=["trained on the gpu", "trained on the cpu"])
def run(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue("gpu_run" if request.param == "trained on the gpu" else "trained_run")


def both(gptlite: Command, *arguments: object) -> tuple[str, str]:
    """What a command writes on the CPU, and what on the GPU."""
    written = []
    for device in ("cpu", "cuda"):
        outcome = gptlite(*arguments, "--device", device)
        assert outcome.code == 0, outcome.err
        written.append(outcome.out)
    return written[0], written[1]


@pytest.mark.parametrize(
    "how", [("--temperature", "0"), ("--seed", "3", "--num-samples", "3")], ids=["greedy", "drawn"]
)
def test_a_model_writes_the_same_text(gptlite: Command, run: Path, how: tuple[str, ...]) -> None:
    on_cpu, on_gpu = both(gptlite, "generate", "-m", run, "--prompt", "Ada finds", "--max-new-tokens", "60", *how)
    assert len(on_cpu) > 60 and on_gpu == on_cpu


def test_a_model_scores_a_text_the_same(gptlite: Command, run: Path, corpus_file: Path) -> None:
    on_cpu, on_gpu = both(gptlite, "eval", "corpus.txt", "-m", run, "--json", "--dtype", "fp32")
    exact = json.loads(on_cpu)["bits_per_byte"]
    assert json.loads(on_gpu)["bits_per_byte"] == pytest.approx(exact, abs=1e-4)
    in_bf16 = gptlite("eval", "corpus.txt", "-m", run, "--json", "--device", "cuda")
    assert json.loads(in_bf16.out)["bits_per_byte"] == pytest.approx(exact, abs=0.01)


def test_a_model_has_the_same_vectors(gptlite: Command, run: Path) -> None:
    on_cpu, on_gpu = (
        json.loads(written)["contextual"][0]
        for written in both(gptlite, "embed", "-m", run, "the [river] opens", "a [garden] follows", "--json")
    )
    assert len(on_cpu) == 2 and on_gpu == pytest.approx(on_cpu, abs=1e-2)


def test_a_model_is_surprised_by_the_same(gptlite: Command, run: Path) -> None:
    on_cpu, on_gpu = (
        json.loads(written)
        for written in both(gptlite, "inspect", "Ada finds the river", "-m", run, "--json", "--dtype", "fp32")
    )
    assert numbers(on_gpu) == pytest.approx(numbers(on_cpu), abs=1e-2)


def numbers(facts: Any) -> list[float]:
    """All numbers of some JSON, in order."""
    if isinstance(facts, dict):
        facts = list(facts.values())
    if isinstance(facts, list):
        return [number for fact in facts for number in numbers(fact)]
    return [float(facts)] if isinstance(facts, int | float) and not isinstance(facts, bool) else []


@pytest.mark.parametrize(("first", "then"), [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")])
def test_a_run_goes_on_elsewhere(
    gptlite: Command, corpus_file: Path, monkeypatch: pytest.MonkeyPatch, first: str, then: str
) -> None:
    train(gptlite, "straight", "--device", first, "--dtype", "fp32", *PLAIN)
    started = {"device": first, "dtype": "fp32", "compile": "off", "out": "run"}
    with contextlib.suppress(resume_proof._PowerCut):
        pipeline.train(
            "corpus.txt", watcher=resume_proof._PowerCut.After(35), n_layers=2, dim=64, n_heads=2, context_length=32,
            vocab_size=320, batch_size=8, steps=60, eval_every=20, save_every=20, dropout=0.0, **started,
        )  # fmt: skip
    outcome = gptlite("train", "--resume", "-o", "run", "--device", then)
    assert outcome.code == 0, outcome.err
    assert (f"device {then}, not {first}" in outcome.err) == (first != then)
    assert_same_curve("run", "straight", SAME)
    assert gptlite("check", "run").code == 0


def test_keys_and_values_are_kept_on_the_gpu_as_they_are_computed_on_the_cpu() -> None:
    for architecture in ("qwen3", "gpt2"):
        model = random_model(tiny_config(architecture))
        tokens = torch.randint(300, (2, 20), generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            whole = model(tokens)
        decoder = EagerDecoder(model.to("cuda"), 2)
        read = [decoder.prefill(tokens[:, :12])] + [decoder.step(tokens[:, i]) for i in range(12, 20)]
        assert torch.stack(read, dim=1).cpu() == pytest.approx(whole[:, 11:].numpy(), abs=1e-3)


# Optimizers


@pytest.mark.parametrize("shape", [(4, 96, 32), (4, 32, 96)])
def test_matrices_are_orthogonalised_as_on_the_cpu(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    here, there = optim.orthogonalise(matrices), optim.orthogonalise(matrices.to("cuda")).cpu()
    singular = torch.linalg.svdvals(there)
    assert singular.min() > 0.7 and singular.max() < 1.3
    assert (here - there).norm() / here.norm() < 0.05


def test_muon_rounds_where_steps_are_in_bf16_and_nowhere_else() -> None:
    matrices = torch.randn(4, 256, 256, generator=torch.Generator().manual_seed(0)).to("cuda")
    exact = optim.orthogonalise(matrices)
    with choose_hardware("cuda", "bf16").rough_products():
        rough = optim.orthogonalise(matrices)
    assert 1e-5 < (rough - exact).norm() / exact.norm() < 0.01
    with choose_hardware("cuda", "fp32").rough_products():
        assert torch.equal(optim.orthogonalise(matrices), exact)


# Processes


@pytest.fixture
def team_of_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    """One process that exchanges gradients with itself, by NCCL: the command trains alone instead."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    team = distributed._meet(1)
    yield team
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("default")  # of torch's own use of its older names
def test_replicas_and_shards_learn_through_nccl(team_of_one: Team) -> None:
    for shard, optimizer in WAYS:
        alone = loss_curve(ALONE, "none", optimizer, 16)
        assert loss_curve(team_of_one, shard, optimizer, 16, "cuda") == pytest.approx(alone, abs=SAME), shard
        in_bf16 = loss_curve(team_of_one, shard, optimizer, 16, "cuda", "bf16")
        assert in_bf16 == pytest.approx(alone, abs=SAME_IN_BF16), shard


def test_two_processes_share_one_gpu_through_gloo(tmp_path: Path) -> None:
    """NCCL wants a GPU for each process, so the exchange goes over the CPU here; the command asks for a GPU each."""
    alone = {f"{shard} {optimizer}": loss_curve(ALONE, "none", optimizer, 16) for shard, optimizer in WAYS}
    shared = losses(2, 16, tmp_path, "cuda")
    for way, curve in alone.items():
        assert shared[way] == pytest.approx(curve, abs=SAME), way


@pytest.mark.parametrize("launcher", ["--gpus auto", "torchrun"])
def test_one_gpu_is_one_process_whoever_starts_it(corpus_file: Path, tmp_path: Path, launcher: str) -> None:
    line = (*LINE, "-o", "run", "--json", *PLAIN)
    if launcher == "torchrun":
        command: tuple[str, ...] = (
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "1",
            "-m",
            "gptlite",
        )
    else:
        command, line = COMMAND, (*line, "--gpus", "auto")
    ended = subprocess.run((*command, *line), cwd=tmp_path, capture_output=True, text=True, timeout=150)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["step"] == 60 and "cuda, bf16" in ended.stderr


def test_more_processes_than_gpus_are_refused(gptlite: Command, corpus_file: Path) -> None:
    n = torch.cuda.device_count()
    outcome = gptlite("train", "corpus.txt", "--gpus", n + 1)
    assert outcome.code == 2 and f"more than this machine has: {n} GPU" in outcome.err


# Memory


def test_a_batch_that_cannot_fit_is_refused_before_the_first_step(gptlite: Command, corpus_file: Path) -> None:
    outcome = gptlite("train", "corpus.txt", *SHAPE, "--steps", "2", "--batch-size", 10**8)
    assert outcome.code == 8, outcome.err
    assert "training would need about" in outcome.err and "use --accumulate" in outcome.err


def test_memory_that_runs_out_is_a_sentence(
    gptlite: Command, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "available_memory", lambda _: None)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.5e9 / torch.cuda.mem_get_info()[1])
    try:
        outcome = gptlite("train", "corpus.txt", *SHAPE, "--steps", "2", "--batch-size", "50000", "-o", "run", *PLAIN)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert outcome.code == 8, outcome.err
    assert "memory ran out at step 1" in outcome.err and "use --accumulate" in outcome.err
    assert "Traceback" not in outcome.err and not Run(Path("run")).latest()


# Compiling


def test_a_compiled_step_has_the_loss_and_the_gradients_of_a_plain_one() -> None:
    hardware, config = choose_hardware("cuda", "fp32"), TrainConfig(batch_size=4)
    model = GPT(tiny_config("qwen3"))
    initialise(model, seed=1)
    model.to("cuda").train()
    batch = torch.randint(300, (4, 33), generator=torch.Generator().manual_seed(2)).to("cuda")
    compiled = compile.compile_with_torch(model, config, hardware)
    found = []
    for loss_of in (optim.mean_loss, compiled):
        model.zero_grad(set_to_none=True)
        loss = loss_of(model, batch)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for plain, other in zip(*found, strict=True):
        assert torch.allclose(plain, other, atol=1e-4)

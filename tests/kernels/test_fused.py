"""The step that is written out: loss and gradients as by autograd, the same bits again, dropout that is dropout."""

from __future__ import annotations

import ctypes
import dataclasses
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TRAIN_TINY, Command, random_model, tiny_config
from support.gradients import gradients, windows
from torch import Tensor

from gptlite import device
from gptlite.checkpoint.runs import Run
from gptlite.config import ARCHITECTURES, ModelConfig, TrainConfig
from gptlite.device import choose_hardware
from gptlite.errors import Interrupted
from gptlite.kernels import fused
from gptlite.kernels.build import Kernel
from gptlite.kernels.fused import FusedLoss
from gptlite.kernels.workers import Workers
from gptlite.model import GPT, initialise
from gptlite.training import compile, machine, optimizer
from gptlite.training.pipeline import train
from gptlite.training.soft_targets import SoftTargets

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
CAN = [name for name in ARCHITECTURES if fused.can_compute(tiny_config(name), TrainConfig())]


def assert_alike(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        furthest = (ours[name] - theirs[name]).abs().max()
        assert furthest <= tolerance * theirs[name].abs().max() + 1e-6, name  # some gradients are zero but for rounding


def test_it_is_for_models_like_qwen3_and_llama() -> None:
    assert CAN == ["qwen3", "llama"]
    assert not fused.can_compute(tiny_config("qwen3", n_kv_heads=1), TrainConfig())
    assert not fused.can_compute(tiny_config("qwen3"), TrainConfig(recompute=True))
    assert not fused.can_compute(tiny_config("qwen3"), TrainConfig(shard="fsdp"))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", CAN)
def test_loss_and_gradients_are_those_of_autograd(
    library: ctypes.CDLL, architecture: str, tied: bool, threads: int
) -> None:
    config = dataclasses.replace(tiny_config(architecture), tie_embeddings=tied)
    model = random_model(config).train()
    batch = windows(config)
    assert_alike(gradients(FusedLoss(library, threads), model, batch), gradients(optimizer.mean_loss, model, batch))


@pytest.mark.parametrize(
    ("shape", "length", "n"),
    [
        ({"dim": 24, "n_heads": 4, "hidden_dim": 40}, 7, 1),
        ({"dim": 30, "n_heads": 3, "hidden_dim": 17}, 1, 2),
        ({"dim": 64, "n_heads": 1, "hidden_dim": 96}, 32, 3),
        ({"dim": 32, "n_heads": 2, "head_dim": 24}, 25, 3),  # heads wider than the stream
        ({"dim": 32, "n_heads": 2, "context_length": 96}, 96, 2),  # more queries than are taken at a time
    ],
    ids=str,
)
def test_odd_shapes(library: ctypes.CDLL, shape: dict[str, int], length: int, n: int) -> None:
    config = tiny_config("qwen3", vocab_size=301, **shape)
    model = random_model(config).train()
    batch = windows(config, n, length)
    assert_alike(gradients(FusedLoss(library, 2), model, batch), gradients(optimizer.mean_loss, model, batch))


@pytest.mark.parametrize("k", [1, 20, 64])
@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_soft_targets_have_the_gradient_of_autograd(library: ctypes.CDLL, k: int, weight: float) -> None:
    """Also where the token of the text is among the likeliest ones, or these leave next to nothing to the others."""
    model = random_model(tiny_config("qwen3")).train()
    ids = windows(model.config)
    generator = torch.Generator().manual_seed(2)
    logits = 4 * torch.randn(200, model.config.vocab_size, generator=generator)
    shares, likeliest = logits.softmax(-1).topk(min(k, model.config.vocab_size), 1)
    targets = SoftTargets(likeliest.to(torch.int16), shares.half(), weight)
    batch = torch.stack([ids, torch.randint(200, ids.shape, generator=generator)], 1)
    batch[0, 0, 1:] = likeliest[batch[0, 1, 1:], 0]
    ours = gradients(FusedLoss(library, 2).with_teacher(targets), model, batch)
    theirs = gradients(partial(optimizer.distilled_loss, teacher=targets), model, batch)
    assert_alike(ours, theirs, 1e-4)


@pytest.fixture(scope="module")
def library_bf16(kernels: Path) -> ctypes.CDLL:
    kernel = Kernel("fused", kernels / "kernels", "BF16")
    kernel.build()
    return kernel.load()


@pytest.mark.parametrize("architecture", CAN)
def test_bf16_is_as_near_as_its_eight_bits_allow(library_bf16: ctypes.CDLL, architecture: str) -> None:
    """Also with a head whose gradients are far apart; the aim is fp32, not what autocast rounds to."""
    model = random_model(tiny_config(architecture)).train()
    batch = windows(model.config)
    ours = gradients(FusedLoss(library_bf16, 2, torch.bfloat16), model, batch)
    exact = gradients(optimizer.mean_loss, model, batch)
    assert ours["loss"] == pytest.approx(exact["loss"].item(), rel=2e-3)
    for name in exact:
        assert ours[name].dtype == torch.float32
        assert (ours[name] - exact[name]).norm() <= 0.05 * exact[name].norm() + 1e-6, name


def test_bf16_learns_as_fp32_does(library_bf16: ctypes.CDLL) -> None:
    config, train = tiny_config("qwen3"), TrainConfig(lr=0.02)
    ends = []
    for loss_of in (FusedLoss(library_bf16, 2, torch.bfloat16), optimizer.mean_loss):
        torch.manual_seed(0)
        model = GPT(config, dropout=0.1)
        initialise(model, 0)
        optimizers, batch = optimizer.make_optimizers(model.train(), train), windows(config)
        losses = [
            optimizer.training_step(model, optimizers, batch, choose_hardware("cpu"), 1.0, loss_of)[0]
            for _ in range(40)
        ]
        ends.append(losses[-1])
        assert losses[-1] < losses[0] - 1
    assert ends[0] == pytest.approx(ends[1], abs=0.2), "each has dropped out something else"


def test_extreme_logits_give_no_infinities(library: ctypes.CDLL) -> None:
    config = dataclasses.replace(tiny_config("qwen3"), tie_embeddings=False)
    model = random_model(config).train()
    with torch.no_grad():
        model.head.weight.mul_(1000)
    batch = windows(config)
    ours, theirs = gradients(FusedLoss(library, 2), model, batch), gradients(optimizer.mean_loss, model, batch)
    assert theirs["loss"] > 100
    assert_alike(ours, theirs, tolerance=1e-4)


def test_what_is_not_a_number_is_passed_on(library: ctypes.CDLL) -> None:
    model = random_model(tiny_config("qwen3")).train()
    with torch.no_grad():
        model.transformer.norm.weight[0] = float("nan")
    assert not gradients(FusedLoss(library, 2), model, windows(model.config))["loss"].isfinite()


def test_the_same_step_gives_the_same_bits(library: ctypes.CDLL) -> None:
    model = random_model(tiny_config("qwen3")).train()
    first, second = (gradients(FusedLoss(library, 2), model, windows(model.config)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_a_batch_that_threads_divide_has_the_gradients_of_the_whole(library: ctypes.CDLL, n: int) -> None:
    model = random_model(tiny_config("qwen3")).train()
    batch = windows(model.config, n)
    divided = FusedLoss(library, 3, workers=Workers(3))
    assert_alike(gradients(divided, model, batch), gradients(optimizer.mean_loss, model, batch))


def test_the_bits_do_not_depend_on_how_many_threads_divide_a_step(library: ctypes.CDLL) -> None:
    """With dropout, through all optimizers, and where the number changes on the way."""
    ends: list[dict[str, Tensor]] = []
    for active in ([3] * 4, [1] * 4, [2, 3, 1, 2]):
        torch.manual_seed(0)
        model = GPT(tiny_config("qwen3"), dropout=0.2)
        initialise(model, 0)
        workers = Workers(3)
        optimizers = optimizer.make_optimizers(model.train(), TrainConfig(lr=0.02), workers=workers)
        loss_of = FusedLoss(library, 3, workers=workers)
        for workers.active in active:
            optimizer.training_step(
                model, optimizers, windows(model.config), choose_hardware("cpu"), 1.0, loss_of, workers=workers
            )
        ends.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert all(torch.equal(ends[0][name], end[name]) for end in ends[1:] for name in end)


def test_parts_of_a_batch_add_up(library: ctypes.CDLL) -> None:
    model, whole = random_model(tiny_config("qwen3")).train(), windows(tiny_config("qwen3"), 6)
    loss_of, train = FusedLoss(library, 2), TrainConfig()
    results = []
    for accumulate in (1, 3):
        optimizers = optimizer.make_optimizers(model, train)
        optimizer.set_learning_rate(optimizers, 0.0)
        optimizer.training_step(model, optimizers, whole, choose_hardware("cpu"), 1e9, loss_of, accumulate)
        results.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert_alike(*results)


def test_dropout_is_decided_by_torchs_seed_and_its_gradient_is_that_of_the_loss(library: ctypes.CDLL) -> None:
    config = tiny_config("qwen3")
    model = GPT(config, dropout=0.3)
    model.load_state_dict(random_model(config).state_dict())
    model.train()
    loss_of, batch = FusedLoss(library, 2), windows(config)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        with torch.no_grad():
            return loss_of(model, batch).item()

    assert loss(1) == loss(1) != loss(2)
    torch.manual_seed(1)
    grads = gradients(loss_of, model, batch)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator) * parameter.abs().mean()
        step = 1e-2
        with torch.no_grad():
            parameter.add_(direction, alpha=step)
            more = loss(1)
            parameter.sub_(direction, alpha=2 * step)
            less = loss(1)
            parameter.add_(direction, alpha=step)
        expected = (grads[name] * direction).sum().item()
        assert (more - less) / (2 * step) == pytest.approx(expected, rel=0.02, abs=2e-4), name
    model.eval()
    assert loss(1) == loss(2) == pytest.approx(optimizer.mean_loss(model, batch).item(), rel=1e-6)


def test_as_many_are_dropped_as_asked_and_the_rest_grows(library: ctypes.CDLL) -> None:
    ones = torch.ones(1 << 16)
    loss_of = FusedLoss(library, 2)
    torch.manual_seed(0)
    loss_of._drop(ones, fused._dropout(0.2))
    assert (ones == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert ones.unique().tolist() == pytest.approx([0.0, 1.25])
    again = torch.ones(1 << 16)
    loss_of._drop(again, fused._dropout(0.2))
    both = ((ones == 0) & (again == 0)).float().mean().item()
    assert both == pytest.approx(0.04, abs=0.005), "two calls know nothing of each other"
    pairs = ((ones[1:] == 0) & (ones[:-1] == 0)).float().mean().item()
    assert pairs == pytest.approx(0.04, abs=0.005), "nor do neighbours"


def test_a_run_takes_its_steps_in_machine_code_and_goes_on_from_them(cached: None, corpus_file: Path) -> None:
    """Interrupted or not, with dropout: the same bytes."""
    settings: dict[str, Any] = {
        "n_layers": 2, "dim": 32, "n_heads": 2, "context_length": 32, "vocab_size": 300, "dropout": 0.1, "steps": 8,
        "batch_size": 4, "eval_every": 1000, "save_every": 1000,
    }  # fmt: skip
    asked = iter(range(2))
    train(str(corpus_file), out="whole", compile="on", **settings)
    with pytest.raises(Interrupted):
        train(
            str(corpus_file), out="parts", compile="on", should_stop=lambda: 2 if next(asked, None) is None else None,
            **settings,
        )  # fmt: skip
    assert Run(Path("parts")).read_info()["machine"]["compile"] == "on"
    train([], out="parts", resume=True)
    train(str(corpus_file), out="plain", compile="off", **settings)
    weights = {run: Path(run, "latest", "model.safetensors").read_bytes() for run in ("whole", "parts", "plain")}
    assert weights["whole"] == weights["parts"] != weights["plain"]


@pytest.mark.row("S18")
@pytest.mark.parametrize("kind", ["bit", pytest.param("truncation", marks=pytest.mark.slow)])
def test_a_damaged_library_is_compiled_again_and_the_result_is_the_same(
    cached: None, corpus_file: Path, gptlite: Command, kind: str
) -> None:
    line = ("train", corpus_file, *TRAIN_TINY, "--steps", "5", "--batch-size", "4", "--compile", "on")
    assert "damaged" not in gptlite(*line, "-o", "whole").err
    for library in Path("cache/kernels").glob("fused-*.so"):  # the one of this run, and those of tests before
        content = bytearray(library.read_bytes())
        content[len(content) // 2] ^= 1
        library.write_bytes(content if kind == "bit" else content[:5000])
    outcome = gptlite(*line, "-o", "again")
    assert outcome.code == 0 and outcome.err.count("was damaged and has been compiled again") == 1
    assert "damaged" not in gptlite(*line, "-o", "third").err
    weights = {Path(run, "latest", "model.safetensors").read_bytes() for run in ("whole", "again", "third")}
    assert len(weights) == 1


def test_it_pays_where_the_run_is_longer_than_the_compiler_needs() -> None:
    hardware, model = choose_hardware("cpu", threads=1), ModelConfig.preset("qwen3", "small", 1024)
    for seconds, steps, expected in [(5.0, 0, False), (60.0, 0, True), (None, 3, False), (None, 1000, True)]:
        assert machine.decide(hardware, seconds, steps, model, TrainConfig()).compile is expected
    other = ModelConfig.preset("gpt2", "small", 1024)
    assert not machine.decide(hardware, 60.0, 0, other, TrainConfig()).compile


@pytest.mark.parametrize("supported", [False, True])
def test_it_is_in_bf16_where_that_is_in_hardware(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported, raising=False)
    for module in (device, machine):
        monkeypatch.setattr(module, "int8_in_hardware", lambda: False)
    model, train = ModelConfig.preset("qwen3", "small", 1024), TrainConfig(seconds=60.0)
    hardware = choose_hardware("cpu")
    assert not hardware.bf16, "what is not a training stays in fp32"
    decided = machine.decide(hardware, 60.0, 0, model, train)
    assert (decided.compile, decided.bf16) == (True, supported)
    assert not decided.for_reading().bf16
    assert not machine.decide(hardware, 1.0, 0, model, train).bf16, "where steps are not written out it is not worth it"
    assert not machine.decide(choose_hardware("cpu", "fp32"), 60.0, 0, model, train).bf16
    assert not machine.decide(choose_hardware("cpu", compile="off"), 60.0, 0, model, train).bf16


def test_without_a_compiler_steps_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    hardware, model = choose_hardware("cpu"), ModelConfig()
    assert not machine.decide(hardware, 60.0, 0, model, TrainConfig()).compile
    assert compile.fused_loss(model, TrainConfig(), hardware) is None
    monkeypatch.setenv("CC", "false")
    assert compile.fused_loss(model, TrainConfig(), hardware) is None


def test_machine_code_that_cannot_be_made_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptlite.kernels.build.FLAGS", ("--no-such-flag",))
    assert compile.fused_loss(ModelConfig(), TrainConfig(), choose_hardware("cpu")) is None

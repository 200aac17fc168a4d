"""The context encoder that a run makes at its end: nothing else changes, and what cannot be made is said."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Command, make_text, random_model, tiny_config
from safetensors.torch import load_file

import gptlite
from gptlite.checkpoint import context_encoder as files
from gptlite.checkpoint import runs
from gptlite.checkpoint.runs import Run
from gptlite.config import ModelConfig, TrainConfig
from gptlite.embedding import statistics
from gptlite.embedding.both_sides import WITH_ENCODER, WITHOUT_ENCODER
from gptlite.embedding.both_sides_scale import measure_scale
from gptlite.embedding.context_encoder import last_states, word_vectors
from gptlite.embedding.senses import SEVERAL
from gptlite.errors import CheckpointError, Interrupted, UsageError
from gptlite.kernels.workers import Workers
from gptlite.storage.reader import Reader
from gptlite.training import context_encoder, pauses
from gptlite.training.clock import Clock
from gptlite.training.context_encoder import GROUPING, PREDICTING, READING, Effort
from gptlite.training.pipeline import train
from gptlite.training.state import State
from gptlite.training.watcher import Watcher

TINY: dict[str, Any] = {
    "n_layers": 1, "dim": 16, "n_heads": 2, "context_length": 32, "vocab_size": 320, "batch_size": 4, "threads": 1,
    "eval_every": 1000, "save_every": 6, "compile": "off", "steps": 12,
}  # fmt: skip
ENCODED = (files.BACKWARD, files.NETWORK, files.USES)


class Notices(Watcher):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.phases: list[str] = []

    def notice(self, text: str) -> None:
        self.said.append(text)

    def phase(self, name: str, fraction: float) -> None:
        self.phases.append(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of 12 steps, `with` an encoder and `without`."""
    folder = tmp_path_factory.mktemp("encoded")
    text = folder / "text.txt"
    text.write_text(make_text(400), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTLITE_CACHE", str(folder / "cache"))
        train(text, out=folder / "with", context_encoder="15%", **TINY)
        train(text, out=folder / "without", **TINY)
    return folder


def step_files(run: Path, step: int) -> dict[str, bytes]:
    directory = Run(run).step_path(step)
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def test_the_last_step_has_it_and_the_model_is_the_same_as_without(folder: Path) -> None:
    ours, other = (step_files(folder / name, 12) for name in ("with", "without"))
    assert ours.keys() - other.keys() == set(ENCODED)
    assert not set(ENCODED) & step_files(folder / "with", 6).keys()
    for name in ("model.safetensors", "training_state/optimizer.safetensors", "training_state/rng.safetensors"):
        assert ours[name] == other[name]


def test_vectors_of_both_sides_have_its_part_and_those_of_the_left_none(folder: Path) -> None:
    ours, other = (gptlite.load(folder / name) for name in ("with", "without"))
    texts = ["Ada saw a [dog] .", "the [dog] ran home"]
    both, plain = (model.embed(texts, context="both") for model in (ours, other))
    size, dim = plain.meta["parts"]["words"], TINY["dim"]
    assert both.meta["parts"] == {**plain.meta["parts"], "context encoder": size, "known uses": 3 * size}
    assert both.vectors.shape[1] == plain.vectors.shape[1] + 4 * size
    smaller = np.sqrt(WITH_ENCODER[0] / WITHOUT_ENCODER[0])
    assert np.allclose(both.vectors[:, : 2 * dim], plain.vectors[:, : 2 * dim] * smaller, atol=1e-6)
    ends = np.cumsum(list(both.meta["parts"].values()))[:-1]
    for part, weight in zip(np.split(both.vectors, ends, axis=1), WITH_ENCODER, strict=True):
        assert np.allclose(np.linalg.norm(part, axis=1), np.sqrt(weight), atol=1e-5)
    assert np.array_equal(*(model.embed(texts).vectors for model in (ours, other)))
    assert both.left_cosine()[0, 1] == pytest.approx(plain.left_cosine()[0, 1], abs=1e-5)
    if (scale := plain.scale()) is not None:
        assert both.scale() is not None and both.scale() != scale


def test_a_table_says_what_its_vectors_have_read(folder: Path, gptlite: Command) -> None:
    for name, said in (("with", "the words around it, and a context encoder"), ("without", "and the words around it")):
        outcome = gptlite("embed", "the [dog] ran", "a [dog] sat", "-m", folder / name)
        assert f"BOTH SIDES, states at and before the word, {said}\n" in outcome.out, outcome.err


def test_its_part_is_of_both_sides(folder: Path) -> None:
    texts = ["the [dog] ran home", "the [dog] ran home", "the [dog] ran away", "a [dog] ran home"]
    made = gptlite.load(folder / "with").embed(texts, context="both")
    sizes = made.meta["parts"]
    vectors = made.vectors[:, -sizes["context encoder"] - sizes["known uses"] : -sizes["known uses"]]
    itself, same, right, left = vectors[0] @ vectors.T / WITH_ENCODER[-2]
    assert itself == pytest.approx(1, abs=1e-5) and same == pytest.approx(1, abs=1e-5)
    assert right < 1 - 1e-4 and left < 1 - 1e-4


def test_any_layer_can_be_joined_with_it(folder: Path) -> None:
    model = gptlite.load(folder / "with")
    last, first = (model.embed(["the [dog] ran"], context="both", layer=layer).vectors for layer in ("last", "0"))
    begin = 2 * TINY["dim"]
    assert np.allclose(last[:, begin:], first[:, begin:], atol=1e-5) and not np.allclose(last, first, atol=1e-3)


def test_a_concordance_says_how_much_alike_the_places_are(folder: Path, gptlite: Command) -> None:
    asked = ("concordance", "the", folder / "text.txt", "-m", folder / "with", "--json")
    for senses in ("auto", 2):
        outcome = gptlite(*asked, "--senses", senses)
        assert outcome.code == 0, outcome.err
        found = json.loads(outcome.out)
        assert 0 <= found["likeness"] <= 1 and found["clear"] == (found["likeness"] < SEVERAL)
    assert f"likeness {found['likeness']:.2f} (below" in gptlite(*asked[:-1], "--senses", 2).out
    assert "likeness" not in json.loads(gptlite(*asked, "--senses", 2, "--layer", 1).out), "of the left side"


def test_a_resumed_run_makes_the_same(folder: Path, tmp_path: Path) -> None:
    calls = iter(range(1, 100))
    with pytest.raises(Interrupted):
        train(
            folder / "text.txt", out=tmp_path / "run", context_encoder="15%",
            should_stop=lambda: 2 if next(calls) >= 5 else None, **TINY,
        )  # fmt: skip
    train([], out=tmp_path / "run", resume=True)
    resumed, whole = (step_files(run, 12) for run in (tmp_path / "run", folder / "with"))
    for name in ("model.safetensors", "training_state/optimizer.safetensors", *ENCODED):
        assert resumed[name] == whole[name]


def test_a_run_goes_on_after_it_as_without_it(folder: Path, tmp_path: Path) -> None:
    for name in ("with", "without"):
        shutil.copytree(folder / name, tmp_path / name, symlinks=True)
        train([], out=tmp_path / name, resume=True, steps=15)
    ours, other = (step_files(tmp_path / name, 15) for name in ("with", "without"))
    assert ours.keys() - other.keys() == set(ENCODED) and ours["model.safetensors"] == other["model.safetensors"]


def test_a_signal_while_it_is_made_leaves_the_step_without_it(folder: Path, tmp_path: Path) -> None:
    watcher = Notices()
    with pytest.raises(Interrupted, match="step 12, the last, is saved"):
        train(
            folder / "text.txt", out=tmp_path / "run", context_encoder="15%", watcher=watcher,
            should_stop=lambda: 2 if any("around words" in phase for phase in watcher.phases) else None, **TINY,
        )  # fmt: skip
    assert any("context encoder was not finished" in text for text in watcher.said)
    written, whole = step_files(tmp_path / "run", 12), step_files(folder / "without", 12)
    assert written.keys() == whole.keys() and written["model.safetensors"] == whole["model.safetensors"]


def test_numbers_that_are_not_finite_end_it_with_a_notice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = context_encoder.optimizer.training_step
    monkeypatch.setattr(context_encoder, "FEWEST_EXAMPLES", 10**9)
    watcher = Notices()
    train(folder / "text.txt", out=tmp_path / "few", context_encoder="10%", watcher=watcher, **TINY)
    assert any("no context encoder: only" in text and "frequent words" in text for text in watcher.said)

    def diverging(model: Any, *arguments: Any, **keywords: Any) -> tuple[float, float]:
        loss, norm = step(model, *arguments, **keywords)
        return (float("nan") if "workers" in keywords and len(arguments) == 6 else loss), norm

    monkeypatch.setattr(context_encoder.optimizer, "training_step", diverging)
    train(folder / "text.txt", out=tmp_path / "nan", context_encoder="10%", watcher=watcher, **TINY)
    assert any("the backward model diverged" in text for text in watcher.said)
    for name in ("few", "nan"):
        assert Run(tmp_path / name).read_info()["result"] and not set(ENCODED) & step_files(tmp_path / name, 12).keys()


def test_no_failure_costs_the_last_step(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("out of everything")

    monkeypatch.setattr(context_encoder, "_read", fail)
    watcher = Notices()
    train(folder / "text.txt", out=tmp_path / "run", context_encoder="10%", watcher=watcher, **TINY)
    assert any("context encoder failed" in text and "out of everything" in text for text in watcher.said)
    assert "result" in Run(tmp_path / "run").read_info()


def test_its_time_is_taken_from_the_loop() -> None:
    clock = Clock(100.0, 0, 2, started=0.0)
    state = State(loop_started=0.0, save_seconds=2.0)
    without = clock.progress(state)
    state.encoder_seconds = 10.0
    assert state.reserve == 12.0 and clock.progress(state) == pytest.approx(without * 98 / 88, rel=1e-3)


def test_without_time_there_is_none() -> None:
    watcher = Notices()
    plan: Any = SimpleNamespace(train=TrainConfig(context_encoder=0.1))
    clock = Clock(100.0, 0, 2, started=-95.0 + pauses.now())
    setup: Any = SimpleNamespace(plan=plan, clock=clock, watcher=watcher)
    state = State(step=1, save_seconds=4.0, encoder_seconds=10.0)
    assert context_encoder.make_context_encoder(None, state, setup) is None  # pyright: ignore[reportArgumentType]
    assert watcher.said == ["no time is left for the context encoder, so there is none; a longer `time` helps."]


def test_each_phase_ends_when_its_part_of_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(Clock, "elapsed", lambda self: now)
    setup: Any = SimpleNamespace(watcher=Watcher(), should_stop=lambda: None)
    effort = Effort(Clock(100.0, 0, 2, started=0.0), 0.0, 10.0, 3)
    ends: list[float] = []
    for begin, end in ((0.0, READING), (READING, PREDICTING), (PREDICTING, GROUPING), (GROUPING, 1.0)):
        shown = []
        for _, progress in effort.ticks(begin, end, 5, setup):
            shown.append(progress)
            now += 0.5
        ends.append(now)
        assert shown[0] == 0 and sorted(shown) == shown and shown[-1] < 1
    assert ends == pytest.approx([2.2, 6.2, 9.4, 10.0], abs=0.5)
    counted = Effort(Clock(None, 100, 2, started=0.0), 0.0, 0.0, 3)
    assert [i for i, _ in counted.ticks(0.0, READING, 5, setup)] == [0, 1, 2, 3, 4]


def test_a_phase_after_one_that_ended_early_has_its_time_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1.0  # of ten seconds, though the phase before had until 6.2
    monkeypatch.setattr(Clock, "elapsed", lambda self: now)
    setup: Any = SimpleNamespace(watcher=Watcher(), should_stop=lambda: None)
    shown = []
    for _, progress in Effort(Clock(100.0, 0, 2, started=0.0), 0.0, 10.0, 3).ticks(PREDICTING, GROUPING, 5, setup):
        shown.append(progress)
        now += 0.5
    assert shown[0] == 0 and shown == sorted(shown) and shown[2] == pytest.approx(2 * 0.5 / 8.4), "rates follow it"
    assert now == pytest.approx(9.4, abs=0.5)


def test_whitening_evens_out_the_axes_along_which_uses_of_one_word_differ() -> None:
    generator = torch.Generator().manual_seed(1)
    targets = torch.arange(20).repeat_interleave(40)
    of_word = torch.randn(20, 6, generator=generator)[targets]
    noise = torch.randn(len(targets), 6, generator=generator) * torch.tensor([0.1, 0.1, 0.1, 0.1, 0.1, 2.0])
    network = {"mean": torch.zeros(6), "std": torch.ones(6), "weight": torch.eye(6), "bias": torch.zeros(6) + 9}
    network["out"] = torch.eye(6)  # so that vectors are views, each with the same constant
    views = of_word + noise

    def spread(out: torch.Tensor) -> torch.Tensor:
        vectors = F.normalize(word_vectors({**network, "out": out}, views), dim=1).view(20, 40, 6)
        return torch.linalg.eigvalsh((vectors - vectors.mean(1, keepdim=True)).flatten(0, 1).T.cov())

    before, after = spread(network["out"]), spread(context_encoder._whitened(network, views, targets, 0))
    assert after[-1] / after.median() < 0.6 * before[-1] / before.median()
    few = context_encoder._whitened(network, views[:3], targets[:3], 0)
    assert torch.equal(few, network["out"]), "no word has enough uses"


def test_the_saved_network_is_the_whitened_one(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_encoder, "_whitened", lambda network, *_: torch.full_like(network["out"], 7.0))
    train(folder / "text.txt", out=tmp_path / "run", context_encoder="15%", **TINY)
    assert (load_file(Run(tmp_path / "run").step_path(12) / files.NETWORK)["out"] == 7).all()


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ("16%", "at most 15% of the run, not 16%"),
        ("0%", "more than 0%"),
        ("much", "needs a share such as 10%"),
        (0.7, "at most 15%"),
    ],
)
def test_shares_that_make_no_sense_are_refused(folder: Path, tmp_path: Path, share: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train(folder / "text.txt", out=tmp_path / "run", context_encoder=share, **TINY)
    assert not (tmp_path / "run").exists()


def test_the_network_takes_its_part_of_a_run_that_is_counted_in_steps() -> None:
    learned = {"weight": torch.zeros(512, 456), "out": torch.zeros(100, 512), "words": torch.zeros(4000, 100)}

    def per_step(dim: int, n_layers: int) -> float:
        model = ModelConfig.preset("qwen3", "tiny", 2048, dim=dim, n_layers=n_layers, n_heads=2, context_length=128)
        plan = SimpleNamespace(model=model, train=TrainConfig(batch_size=16))
        setup: Any = SimpleNamespace(plan=plan)
        return context_encoder.network_steps_per_step(learned, setup)

    assert 2 < per_step(128, 4) < 10 and per_step(128, 8) > 1.5 * per_step(128, 4) and per_step(32, 2) < 1


def test_several_processes_are_refused() -> None:
    context_encoder.check(0.0, 4)
    context_encoder.check(0.1, 1)
    with pytest.raises(UsageError, match="`context_encoder` is for training in one process"):
        context_encoder.check(0.1, 2)


def test_files_that_do_not_fit_the_model_are_refused(folder: Path) -> None:
    loaded = runs.load(folder / "with")
    assert files.read(runs.load(folder / "without"), 100) is None
    with pytest.raises(CheckpointError, match=r"context_encoder\.safetensors"):
        files.read(loaded, 1)


def test_an_encoder_of_an_older_version_is_refused_and_the_left_side_is_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files.to_bytes
    monkeypatch.setattr(
        files, "to_bytes", lambda *parts: {name: data for name, data in write(*parts).items() if name != files.USES}
    )
    train(folder / "text.txt", out=tmp_path / "run", context_encoder="15%", **TINY)
    model = gptlite.load(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"context encoder of an older version.*`context` left"):
        model.embed(["the [dog] ran"], context="both")
    assert model.embed(["the [dog] ran"], context="left").vectors.shape == (1, TINY["dim"])


def test_a_step_with_the_scale_of_older_vectors_is_read_without_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def older(*arguments: Any) -> dict[str, np.ndarray]:
        found = measure_scale(*arguments) or {f"around_{kind}": np.ones((2, 30)) for kind in ("unrelated", "same_word")}
        return {name.replace("around_", "both_"): cosines for name, cosines in found.items()}

    monkeypatch.setattr(statistics, "measure_scale", older)
    train(folder / "text.txt", out=tmp_path / "run", **TINY)
    embeddings = gptlite.load(tmp_path / "run").embed(["the [dog] ran"], context="both")
    assert embeddings.statistics is not None and "both_unrelated" in embeddings.statistics
    assert embeddings.scale() is None


@pytest.mark.parametrize("damage", ["order", "end"])
def test_uses_that_belong_to_no_word_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    loaded = runs.load(folder / "with")
    tensors = Reader.tensors

    def damaged(self: Reader, name: str, expected: Any) -> dict[str, torch.Tensor]:
        found = tensors(self, name, expected)
        if name == files.USES:
            found["ends"] = found["ends"].flip(0) if damage == "order" else found["ends"] - 1
        return found

    found = files.read(loaded, 22)
    assert found is not None and len(found[2].centres) == found[2].ends[-1] > 2
    monkeypatch.setattr(Reader, "tensors", damaged)
    with pytest.raises(CheckpointError, match=r"uses\.safetensors does not say which word"):
        files.read(loaded, 22)


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_pass_in_c_reads_as_the_model_does() -> None:
    model = random_model(tiny_config("qwen3")).eval()
    windows = np.random.default_rng(0).integers(0, 50, (5, 16))
    hardware = SimpleNamespace(fused=True, int8=False)
    setup: Any = SimpleNamespace(hardware=hardware, workers=Workers(2))
    read = context_encoder._states_of(model, setup)
    assert np.allclose(read(windows), last_states(model, windows), atol=1e-4)
    assert not isinstance(read, partial)
    hardware.fused = False
    assert isinstance(context_encoder._states_of(model, setup), partial)


def test_the_run_says_so(folder: Path) -> None:
    info = json.loads((folder / "with" / "run.json").read_text())
    assert info["plan"]["train"]["context_encoder"] == 0.15

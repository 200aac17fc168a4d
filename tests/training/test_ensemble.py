"""Ensembles: one model out of several, trained apart, and runs with them that resume exactly."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_text
from support.ensembles import random_ensemble, shape, whole
from support.power_cuts import Cut, CutAfter, digests

import gptlite
from gptlite.checkpoint import saved_step
from gptlite.checkpoint.runs import Run
from gptlite.config import MEMBERS, ModelConfig, TrainConfig
from gptlite.device import choose_hardware
from gptlite.errors import UsageError
from gptlite.generation import generate
from gptlite.model import GPT
from gptlite.training import held_out, pipeline, table_history
from gptlite.training.ensemble import Ensemble, models_and_windows, of_one_member, repeated
from gptlite.training.memory import saved_bytes, training_memory
from gptlite.training.optimizer import make_optimizers, mean_loss, training_step

SMALL: dict[str, Any] = {
    "n_layers": 1, "dim": 16, "n_heads": 1, "context_length": 16, "vocab_size": 300, "batch_size": 4, "threads": 1,
    "dropout": 0.1, "eval_every": 4, "save_every": 3, "steps": 8, "compile": "off", "members": 2,
}  # fmt: skip


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(make_text(1500), encoding="utf-8")
    return "text.txt"


# -- One model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("n", MEMBERS[1:])
def test_members_that_are_alike_are_the_model_that_they_make(n: int, tied: bool) -> None:
    ensemble = random_ensemble(shape(tie_embeddings=tied), n, alike=True)
    ids = torch.randint(50, (3, 8))
    torch.testing.assert_close(whole(ensemble)(ids), next(iter(ensemble))(ids), atol=1e-4, rtol=1e-4)


def test_logits_are_the_mean_of_the_members_where_their_norms_divide_by_the_same() -> None:
    """With blocks that add nothing and embeddings of one length, nothing but the head tells the members apart."""
    ensemble = random_ensemble(shape(), 4)
    with torch.no_grad():
        for member in ensemble:
            for name, parameter in member.named_parameters():
                if "o_proj" in name or "down_proj" in name:
                    parameter.zero_()
            table = member.transformer.embed.weight
            table.div_(table.norm(dim=1, keepdim=True))
    ids = torch.randint(50, (3, 8))
    mean = torch.stack([member(ids) for member in ensemble]).mean(0)
    torch.testing.assert_close(whole(ensemble)(ids), mean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_members_come_back_to_the_last_bit(tied: bool) -> None:
    ensemble = random_ensemble(shape(tie_embeddings=tied), 4)
    model, back = whole(ensemble), Ensemble(ensemble.config, 4)
    back.copy_from(model)
    for (name, mine), (_, theirs) in zip(ensemble.named_parameters(), back.named_parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    n_zeros = sum(int((p == 0).sum()) for name, p in model.named_parameters() if p.ndim == 2 and ".blocks." in name)
    n_all = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and ".blocks." in name)
    assert n_zeros == n_all * 3 // 4


def test_a_model_of_members_is_as_wide_as_all_of_them() -> None:
    one = shape()
    wide = repeated(one, 4)
    assert (wide.dim, wide.n_heads, wide.n_kv_heads, wide.head_dim) == (64, 8, 4, one.head_dim)
    assert of_one_member(wide, TrainConfig(members=4))[0] == one


# -- A step


def test_each_member_learns_from_its_own_windows() -> None:
    ensemble, batch = random_ensemble(shape(), 2), torch.randint(50, (6, 9))
    hardware = choose_hardware("cpu", "fp32", 1, "off")
    loss, _ = training_step(ensemble, [], batch, hardware, 1e9, accumulate=3)
    grads = [[p.grad.clone() for p in member.parameters()] for member in ensemble]
    first, second = ensemble
    losses = []
    for member, own, windows in ((first, grads[0], batch[[0, 2, 4]]), (second, grads[1], batch[[1, 3, 5]])):
        ensemble.zero_grad()
        alone = mean_loss(member, windows)
        alone.backward()
        losses.append(alone.item())
        for (name, parameter), grad in zip(member.named_parameters(), own, strict=True):
            if "q_norm" not in name and "k_norm" not in name:
                torch.testing.assert_close(parameter.grad / 2, grad)
    assert loss == pytest.approx(sum(losses) / 2)


def test_norms_of_queries_and_keys_are_shared() -> None:
    ensemble = Ensemble(shape(), 2)
    one, other = (dict(member.named_parameters()) for member in ensemble)
    assert [name for name in one if one[name] is other[name]] == [
        f"transformer.blocks.{i}.attn.{which}_norm.weight" for i in range(2) for which in "qk"
    ]
    names = [p for o in make_optimizers(ensemble, TrainConfig(members=2)) for g in o.param_groups for p in g["params"]]
    assert len({id(p) for p in names}) == len(names) == len(list(ensemble.parameters()))


def test_a_single_model_has_the_whole_batch() -> None:
    model, batch = GPT(shape()), torch.zeros(4, 9, dtype=torch.long)
    assert models_and_windows(model, batch) == [(model, batch)]
    assert [len(part) for _, part in models_and_windows(Ensemble(shape(), 2), batch)] == [2, 2]


# -- Runs


@pytest.mark.parametrize("how", [{}, {"threads": 2}, {"compile": "on"}, {"ngram_weight": 0.5}])
def test_a_run_that_was_cut_ends_with_the_same_bits(text: str, how: dict[str, Any]) -> None:
    asked = {**SMALL, **how}
    facts = gptlite.train(text, out="straight", **asked)
    with pytest.raises(Cut):
        gptlite.train(text, out="cut", watcher=CutAfter(4), **asked)
    gptlite.train(text, out="cut", resume=True, dim=16, threads=asked["threads"])
    assert digests("cut", 8) == digests("straight", 8)
    assert json.loads(Path("cut/run.json").read_text())["plan"]["train"]["members"] == 2
    saved = saved_step.load(Run(Path("straight")).step_path(8)).model
    assert facts["n_parameters"] == saved.config.n_params and saved.config.dim == 32
    up = saved.transformer.blocks[0].mlp.up_proj.weight
    assert up[: len(up) // 2, 16:].count_nonzero() == 0 < up[: len(up) // 2, :16].count_nonzero()
    assert not torch.equal(up[: len(up) // 2, :16], up[len(up) // 2 :, 16:])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"members": 3}, "must be 1, 2, 4 or 8, not 3"),
        ({"members": 0}, "must be 1, 2, 4 or 8, not 0"),
        ({"batch_size": 5}, "must be a multiple of 2"),
        ({"batch_size": 6, "accumulate": 2}, "must be a multiple of 4"),
        ({"architecture": "gpt2"}, "are for qwen3 and llama, not for gpt2"),
        ({"context_encoder": "10%"}, "is for a single model"),
    ],
)
def test_what_cannot_be_is_refused(text: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        gptlite.train(text, out="run", **{**SMALL, **change})
    assert not Path("run").exists()


def test_the_one_model_has_the_weights_of_the_members_whenever_it_is_looked_at(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For scores, samples, tables of tokens and saves; in between, members are trained without it."""
    seen: list[str] = []

    def looks(module: Any, name: str, at: int) -> None:
        real = getattr(module, name)

        def checked(*arguments: Any, **named: Any) -> Any:
            ensemble, model = ensembles[-1], arguments[at]
            for weight, part, scale in ensemble._pairs(model):
                torch.testing.assert_close(part * scale, weight)
            seen.append(name)
            return real(*arguments, **named)

        monkeypatch.setattr(module, name, checked)

    ensembles: list[Ensemble] = []
    make = pipeline._make_ensemble
    monkeypatch.setattr(pipeline, "_make_ensemble", lambda *a: ensembles.append(make(*a)) or ensembles[-1])
    looks(held_out, "score_on_the_way", 0)
    looks(generate, "generate", 0)
    looks(saved_step, "save_step", 1)
    copies = []
    real_copy = Ensemble.copy_to
    monkeypatch.setattr(Ensemble, "copy_to", lambda *a: copies.append(1) or real_copy(*a))
    tables: dict[int, np.ndarray] = {}  # by step
    real_add = table_history.TableHistory.add

    def add(history: table_history.TableHistory, step: int, table: np.ndarray, *more: Any, **named: Any) -> None:
        tables.setdefault(step, table.copy())
        real_add(history, step, table, *more, **named)

    monkeypatch.setattr(table_history.TableHistory, "add", add)
    gptlite.train(text, out="run", **{**SMALL, "steps": 40, "sample_every": 9, "eval_every": 20, "save_every": 30})
    assert set(seen) == {"score_on_the_way", "generate", "save_step"}
    assert len(copies) < 30 and len(tables) > 4
    assert all((a != b).any() for a, b in itertools.pairwise(tables.values()))


def test_a_trained_model_has_no_members(text: str) -> None:
    gptlite.train(text, out="first", **SMALL)
    with pytest.raises(UsageError, match="for new models"):
        gptlite.train(text, out="second", init_from="first", steps=2, members=2)
    gptlite.train(text, out="second", init_from="first", steps=2)


def test_pairs_have_no_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"prompt": f"{i} and {i}", "completion": str(2 * i)}) for i in range(400)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UsageError, match="`members` is for plain text"):
        gptlite.train("pairs.jsonl", out="run", steps=2, members=2, vocab_size=300)


def test_memory_counts_the_members_and_what_they_make() -> None:
    one = ModelConfig.preset("qwen3", "tiny", 1024, tie_embeddings=False)
    alone = training_memory(one, TrainConfig(batch_size=16))
    four = training_memory(repeated(one, 4), TrainConfig(batch_size=64, members=4))
    weights = 4 * (3 * 4 * one.n_params + repeated(one, 4).n_params)
    assert four == pytest.approx(alone + weights, rel=0.01)


@pytest.mark.parametrize("members", [1, 4])
def test_what_a_saved_step_takes_on_disk_is_known_before(text: str, members: int) -> None:
    """With two moments of each weight that is trained; those of a model's zeros would be twice as much again."""
    settings = {**SMALL, "dim": 128, "n_heads": 2, "members": members, "steps": 1, "optimizer": "adamw"}
    gptlite.train(text, out="run", **settings)
    plan = json.loads(Path("run/run.json").read_text())["plan"]
    planned = saved_bytes(ModelConfig(**plan["model"]), TrainConfig(**plan["train"]))
    written = sum(path.stat().st_size for path in Run(Path("run")).step_path(1).rglob("*") if path.is_file())
    assert 0.5 * planned < written <= planned

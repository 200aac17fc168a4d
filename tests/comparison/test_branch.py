"""The contender that reads both sides: its senses beside those of a causal twin, and what it does not take part in."""

from __future__ import annotations

import random
from pathlib import Path

from gptlite.comparison import branch
from gptlite.comparison.collect import collect
from gptlite.comparison.contenders import CONTENDERS, Protocol, choose_contenders, expected_seconds
from gptlite.comparison.networks import Shape
from gptlite.comparison.store import Store
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import choose_hardware
from gptlite.text.tokenizer import Tokenizer

WORDS = [f"{a}{b}" for a in ("mel", "kor", "tav") for b in ("oma", "ilu", "ern", "ash")]


def made(n_lines: int, seed: int) -> str:
    rng = random.Random(seed)
    return "".join(f"the {rng.choice(WORDS)} and a {rng.choice(WORDS)} by it\n" for _ in range(n_lines))


def test_both_models_take_equal_steps_and_their_vectors_are_scored() -> None:
    train, val = made(700, 0), made(150, 1)
    tokenizer = Tokenizer.train([train], 300)
    config = ModelConfig.preset("qwen3", "tiny", tokenizer.vocab_size, n_layers=1, dim=32, n_heads=2, context_length=32)
    shape = Shape(config, TrainConfig(steps=4, batch_size=4, init="random"))
    hardware, told = choose_hardware("cpu", "fp32", 1, compile="off"), list[str]()
    result, model = branch.measure(
        train,
        val,
        tokenizer,
        shape,
        hardware,
        branch.Budget(1.0, steps=4),
        1,
        lambda phase, _: told.append(phase),
        "the",
    )
    assert result["n_steps"] == result["n_causal_steps"] == 4 and {"causal twin", "training"} <= set(told)
    assert 0 <= result["guessed"] <= 1 and result["n_parameters"] == sum(p.numel() for p in model.parameters())
    senses = result["senses"]
    assert senses["n_words"] == 6 and [v["name"] for v in senses["vectors"]] == [
        "left", "both", "bag", "masked", "masked-both",
    ]  # fmt: skip
    assert all(0 <= v["auc"] <= 1 and 0 <= v["centroid"] <= 1 for v in senses["vectors"])
    plain, _ = branch.measure(
        train, "the end\n" * 20, tokenizer, shape, hardware, branch.Budget(1.0, steps=1), 1, lambda *_: None
    )
    assert plain["senses"] is None


def test_it_takes_part_by_name_alone_and_never_alone() -> None:
    assert "masked" not in [c.name for c in choose_contenders(None)]
    assert [c.name for c in choose_contenders("masked")] == ["masked", "gptlite"]
    assert [c.name for c in choose_contenders("masked,unigram")] == ["unigram", "masked"]
    protocol = Protocol(60.0, 1, "", {}, {}, {}, 1.0)
    assert expected_seconds([CONTENDERS["masked"]], protocol) == 180


def test_beside_a_finished_comparison(comparison_with_masked: Path) -> None:
    store = Store(comparison_with_masked)
    info = store.read_info()
    found = collect(store, store.finished(), info)
    assert [c["name"] for c in found["contenders"]] == ["unigram", "5-gram", "lstm", "gptlite"]
    assert found["masked"]["n_steps"] > 0 and found["masked"]["senses"]["n_words"] >= 5
    assert (comparison_with_masked / "masked" / "model.safetensors").is_file()

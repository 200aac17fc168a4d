"""A comparison as `gptlite compare --json` prints it, without training anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

KINDS = {"unigram": "ngram", "5-gram": "ngram", "rnn": "recurrent", "lstm": "recurrent"}
TITLES = {"5-gram": "5-gram (Kneser-Ney)", "rnn": "RNN", "lstm": "LSTM", "transformer-2017": "Transformer of 2017"}
BITS = {"unigram": 4.0, "5-gram": 2.4, "rnn": 2.5, "lstm": 2.3, "transformer-2017": 2.2, "gptlite": 2.0}
COPIED = {"unigram": (0.03, 0.03), "5-gram": (0.03, 0.03), "rnn": (0.9, 0.03), "lstm": (0.99, 0.4)}


def contender(
    name: str, bits: float, best: float, *, sure: float, tokens: int, speed: tuple[int, int]
) -> dict[str, Any]:
    kind = KINDS.get(name, "transformer")
    copied = COPIED.get(name, (1.0, 0.99))
    curve = [{"seconds": 1.0, "n_tokens": tokens, "bits_per_byte": bits}]
    if kind != "ngram":
        curve = [
            {"seconds": 60.0 * i, "n_tokens": tokens * i // 2, "bits_per_byte": 8 - (8 - bits) * i / 2}
            for i in range(3)
        ]
    parts = ((1, 1, 4.0), (2, 3, 3.0), (4, 7, bits + 0.3), (8, 15, bits + 0.2), (16, 31, bits))
    reach = [
        {
            "first": a,
            "last": b,
            "bits_per_byte": at,
            "bits_per_byte_interval": [at - 0.02, at + 0.02],
            "helps": a > 1 and kind != "ngram",
        }
        for a, b, at in parts
    ]
    return {
        "name": name, "title": TITLES.get(name, name), "kind": kind, "n_parameters": 0 if kind == "ngram" else 500_000,
        "seconds": 120.0, "n_steps": 100, "n_tokens_seen": tokens, "bits_per_byte": bits,
        "learning_rate": None if kind == "ngram" else 0.004, "bits_per_byte_interval": [bits - 0.05, bits + 0.05],
        "sweep": [{"learning_rate": 0.004, "bits_per_byte": bits + 1}, {"learning_rate": 0.008, "bits_per_byte": None}]
        if name in ("rnn", "lstm") else [],
        "curve": curve, "reach": reach, "n_memory_numbers": 400 if kind == "recurrent" else 131_072,
        "seconds_per_written_token": 0.002, "sample": "To be\x1b[31m <b>",
        "copy": [
            {"distance": d, "right": r, "interval": [r - 0.02, r + 0.02]}
            for d, r in zip((10, 200), copied, strict=True)
        ],
        "behind_best": {
            "bits_per_byte": bits - best,
            "bits_per_byte_interval": [bits - best - sure, bits - best + sure],
        },
        "speed": [] if kind == "ngram" else [
            {"context_length": c, "tokens_per_second": s, "n_sequential_operations": c if kind == "recurrent" else 1}
            for c, s in zip((32, 512), speed, strict=True)
        ],
    }  # fmt: skip


def made(
    bits: Mapping[str, float] | None = None,
    *,
    sure: float = 0.01,
    tokens: Mapping[str, int] | None = None,
    speed: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, Any]:
    """A comparison of the contenders in `bits`; `sure`: half of the interval of each difference to the best one."""
    bits, tokens, speed = {**BITS} if bits is None else bits, tokens or {}, speed or {}
    best = min(bits, key=lambda name: bits[name])
    listed = [
        contender(
            name, at, bits[best], sure=0.0 if name == best else sure, tokens=tokens.get(name, 1_000_000),
            speed=speed.get(name, (20_000, 5_000) if name in ("rnn", "lstm") else (20_000, 19_000)),
        )
        for name, at in bits.items()
    ]  # fmt: skip
    return {
        "directory": "comparisons/corpus", "on": "text", "seconds_each": 120.0, "seed": 1, "prompt": "To be",
        "hardware": "cpu",
        "train_bytes": 1_000_000, "val_bytes": 50_000, "n_train_tokens": 400_000, "vocab_size": 1024,
        "context_length": 128, "batch_size": 16, "copy_chance": 1 / 32, "best": best, "contenders": listed,
        "emergence": [course(name) for name in bits if name in ("transformer-2017", "gptlite")],
    }  # fmt: skip


def course(name: str) -> dict[str, Any]:
    """How two words came to be in a Transformer."""
    steps = (0, 1, 2, 4, 8)
    near = [{"word": "lord", "cosine": 0.5}, {"word": "<b>", "cosine": 0.4}]
    return {
        "name": name, "title": TITLES.get(name, name), "init": "bigrams" if name == "gptlite" else "random",
        "n_neighbours": 2, "pairs": [{"words": ["king", "国"], "cosines": [0.1 * i for i in range(5)]}],
        "steps": [
            {"step": step, "train_loss_nats": 7.0 - i if i else None, "val_bits_per_byte": None}
            for i, step in enumerate(steps)
        ],
        "words": [
            {
                "word": word, "n_seen": 9, "tokens": [f" {word}"], "n_found": [0, 0, 1, 2, 2],
                "cosines_to_last": [0.1, 0.1, 0.3, 0.4, 0.45], "neighbours": [near] * 5,
            }
            for word in ("king", "国")
        ],
        "attention": {
            "tokens": ["To", " be", "\x1b"], "steps": [0, 8],
            "heads": [
                {"layer": 1, "head": 2, "weights": [[[1, 0, 0], [0.5, 0.5, 0], [0.3, 0.3, 0.4]], [[1, 0, 0]] * 3]},
            ],
        },
    }  # fmt: skip


EXACT = {"lstm-attention": 0.5, "encoder-decoder": 0.7, "gptlite": 0.9}


def made_of_pairs(
    exact: Mapping[str, float] | None = None, *, sure: float = 0.02, sharp: float = 0.8
) -> dict[str, Any]:
    """A comparison on pairs; `sure`: half of the interval of each difference; `sharp`: the largest weight of a row."""
    exact = {**EXACT} if exact is None else exact
    titles = {"lstm-attention": "LSTM with attention", "encoder-decoder": "encoder-decoder of 2017"}
    keys = ("n_parameters", "seconds", "n_steps", "n_tokens_seen", "learning_rate", "sweep", "bits_per_byte",
            "bits_per_byte_interval", "curve")  # fmt: skip
    best, rest = max(exact, key=lambda name: exact[name]), (1 - sharp) / 2
    listed: list[dict[str, Any]] = []
    for i, (name, share) in enumerate(exact.items()):
        like = contender("lstm", 2 - share, 1.0, sure=sure, tokens=1_000_000 * (i + 1), speed=(1, 1))
        behind = exact[best] - share
        listed.append(
            {
                "name": name, "title": titles.get(name, name),
                "kind": "transformer" if name == "gptlite" else "encoder-decoder",
                **{key: like[key] for key in keys},
                "exact_match": share, "exact_match_interval": [max(0.0, share - 0.05), min(1.0, share + 0.05)],
                "behind_best": {"exact_match": behind, "exact_match_interval": [behind - sure, behind + sure]},
                "answers": [{"prompt": "To be\x1b[31m <b>", "expected": "2 <i>", "written": "3", "exact": False}] * 2,
                "attention": {
                    "layer": 2, "n_layers": 3, "head": 1, "n_heads": 4, "prompt": ["a", " b", "<u>"],
                    "answer": ["x", "y", "<|end|>"],
                    "weights": [[sharp, rest, rest], [rest, sharp, rest], [rest, sharp, rest]],
                },
            }
        )  # fmt: skip
    found = {key: value for key, value in made().items() if key not in ("copy_chance", "emergence")}
    return {**found, "on": "pairs", "prompt": "", "n_answers": 200, "best": best, "contenders": listed}


def made_masked(left: float = 0.8, both: float = 0.9, masked: float = 0.85) -> dict[str, Any]:
    """The result of the model that reads both sides, with these shares of uses nearer to their own mean."""
    scores = {"left": left, "both": both, "bag": 0.7, "masked": masked, "masked-both": 0.9}
    vectors = [{"name": name, "centroid": share, "auc": share - 0.1} for name, share in scores.items()]
    return {
        "n_parameters": 500_000, "seconds": 120.0, "causal_seconds": 120.0, "n_steps": 300, "n_causal_steps": 400,
        "n_tokens_seen": 300_000, "guessed": 0.31, "sample": "of of <b>of",
        "senses": {"n_words": 40, "n_uses": 1500, "majority": 0.6, "vectors": vectors},
    }  # fmt: skip


def in_this_process(patch: pytest.MonkeyPatch) -> None:
    """Let contenders work here instead of in processes of their own, which take seconds to start."""
    from gptlite.comparison import run, worker

    patch.setattr(run, "_work", lambda task, *_: worker.run(task))
    patch.setattr(worker, "tell", lambda *_: None)

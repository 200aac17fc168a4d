"""The results of a comparison as one object: what `gptlite compare --json` prints and the page shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptlite.comparison import copying, emerging
from gptlite.comparison.contenders import MASKED, Contender, Protocol
from gptlite.comparison.measures import NORMAL_95
from gptlite.comparison.store import Store
from gptlite.errors import CheckpointError

MEASURED = (
    "n_parameters", "seconds", "n_steps", "n_tokens_seen", "learning_rate", "sweep", "bits_per_byte",
    "bits_per_byte_interval", "curve",
)  # fmt: skip
OF_MASKED = (
    "n_parameters", "seconds", "n_steps", "causal_seconds", "n_causal_steps", "n_tokens_seen", "guessed",
    "sample", "senses",
)  # fmt: skip
ON_TEXT = ("reach", "n_memory_numbers", "seconds_per_written_token", "copy", "sample")


def collect(
    store: Store, contenders: Sequence[Contender], info: Mapping[str, Any], words: Sequence[str] = ()
) -> dict[str, Any]:
    """The results of `contenders`, which are finished; `words`: whose neighbours are followed over the steps.

    Raises `CheckpointError` where a result is damaged, and `UsageError` for a word that has no vector.
    """
    protocol, facts = Protocol(**info["protocol"]), info["facts"]
    results = {contender.name: store.result(contender) for contender in contenders}
    try:
        found = _on_pairs(contenders, results) if protocol.pairs else _on_text(store, contenders, results)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"a result in {store.path} lacks {error}; delete its folder and resume.") from error
    if not protocol.pairs:
        found["emergence"] = emerging.read(store, contenders, words)
    return {
        "directory": str(store.path),
        "on": protocol.on,
        "seconds_each": protocol.seconds,
        "seed": protocol.seed,
        "prompt": protocol.prompt,
        "hardware": facts["hardware"],
        "train_bytes": facts["train_bytes"],
        "val_bytes": facts["val_bytes"],
        "n_train_tokens": facts["n_train_tokens"],
        "vocab_size": protocol.model["vocab_size"],
        "context_length": protocol.model["context_length"],
        "batch_size": protocol.train["batch_size"],
        **found,
    }


def _on_text(store: Store, contenders: Sequence[Contender], results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    results, masked = dict(results), results.get(MASKED)
    contenders = [contender for contender in contenders if contender.name != MASKED]
    results.pop(MASKED, None)
    networks = [contender for contender in contenders if contender.kind != "ngram"]
    speeds = (store.speeds(networks) or {}) if networks else {}
    best = min(results, key=lambda name: results[name]["bits_per_byte"])
    listed = [
        {
            **_shown(c, results[c.name], ON_TEXT),
            "behind_best": difference(results[c.name]["windows"], results[best]["windows"]),
            "speed": list(speeds.get(c.name, [])),
        }
        for c in contenders
    ]
    beside = {"masked": {key: masked[key] for key in OF_MASKED}} if masked else {}
    return {"copy_chance": 1 / copying.N_NAMES, "best": best, "contenders": listed, **beside}


def _on_pairs(contenders: Sequence[Contender], results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The best one writes most answers exactly; of several such ones, it needs the fewest bits for known answers."""

    def order(name: str) -> tuple[float, float]:
        return -results[name]["exact"]["share"], results[name]["bits_per_byte"]

    best = min(results, key=order)
    listed = [
        {
            **_shown(c, results[c.name], ("answers", "attention")),
            "exact_match": results[c.name]["exact"]["share"],
            "exact_match_interval": results[c.name]["exact"]["interval"],
            "behind_best": _fewer(results[c.name]["exact"]["right"], results[best]["exact"]["right"]),
        }
        for c in contenders
    ]
    return {"n_answers": len(results[best]["exact"]["right"]), "best": best, "contenders": listed}


def _shown(contender: Contender, result: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {
        "name": contender.name,
        "title": contender.title,
        "kind": contender.kind,
        **{key: result[key] for key in (*MEASURED, *keys)},
    }


def _fewer(one: Sequence[int], best: Sequence[int]) -> dict[str, Any]:
    """How many fewer of the same answers are exact, as a share, with its 95 % interval."""
    ones = [1.0] * len(one)
    found = difference({"bits": best, "bytes": ones}, {"bits": one, "bytes": ones})
    return {"exact_match": found["bits_per_byte"], "exact_match_interval": found["bits_per_byte_interval"]}


def difference(one: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Bits per byte of `one` less those of `other` on the same windows, with its 95 % interval.

    Each is {"bits": ..., "bytes": ...}, a number for each window. What is hard for one is hard for the other, so the
    interval of the difference is much narrower than those of the scores.
    """
    sizes = np.array(one["bytes"])
    differences = np.array(one["bits"]) - np.array(other["bits"])
    total, n = float(sizes.sum()), len(sizes)
    if not total:
        return {"bits_per_byte": 0.0, "bits_per_byte_interval": None}
    mean = float(differences.sum()) / total
    if n < 5:
        return {"bits_per_byte": mean, "bits_per_byte_interval": None}
    error = NORMAL_95 * math.sqrt(n / (n - 1) * float(((differences - mean * sizes) ** 2).sum())) / total
    return {"bits_per_byte": mean, "bits_per_byte_interval": [mean - error, mean + error]}

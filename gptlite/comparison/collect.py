"""The results of a comparison as one object: what `gptlite compare --json` prints and the page shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptlite.comparison import copying
from gptlite.comparison.contenders import Contender
from gptlite.comparison.measures import NORMAL_95
from gptlite.comparison.store import Store
from gptlite.errors import CheckpointError

KEPT = (
    "n_parameters", "seconds", "n_steps", "n_tokens_seen", "learning_rate", "sweep", "bits_per_byte",
    "bits_per_byte_interval", "curve", "reach", "n_memory_numbers", "seconds_per_written_token", "copy", "sample",
)  # fmt: skip


def collect(store: Store, contenders: Sequence[Contender], info: Mapping[str, Any]) -> dict[str, Any]:
    """The results of `contenders`, which are finished. Raises `CheckpointError` where one is damaged."""
    protocol, facts = info["protocol"], info["facts"]
    networks = [contender for contender in contenders if contender.kind != "ngram"]
    speeds = (store.speeds(networks) or {}) if networks else {}
    results = {contender.name: store.result(contender) for contender in contenders}
    try:
        best = min(results, key=lambda name: results[name]["bits_per_byte"])
        listed = [_shown(c, results[c.name], results[best], speeds.get(c.name, [])) for c in contenders]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"a result in {store.path} lacks {error}; delete its folder and resume.") from error
    return {
        "directory": str(store.path),
        "seconds_each": protocol["seconds"],
        "seed": protocol["seed"],
        "prompt": protocol["prompt"],
        "hardware": facts["hardware"],
        "train_bytes": facts["train_bytes"],
        "val_bytes": facts["val_bytes"],
        "n_train_tokens": facts["n_train_tokens"],
        "vocab_size": protocol["model"]["vocab_size"],
        "context_length": protocol["model"]["context_length"],
        "batch_size": protocol["train"]["batch_size"],
        "copy_chance": 1 / copying.N_NAMES,
        "best": best,
        "contenders": listed,
    }


def _shown(
    contender: Contender, result: Mapping[str, Any], best: Mapping[str, Any], speeds: Sequence[Any]
) -> dict[str, Any]:
    return {
        "name": contender.name,
        "title": contender.title,
        "kind": contender.kind,
        **{key: result[key] for key in KEPT},
        "behind_best": difference(result["windows"], best["windows"]),
        "speed": list(speeds),
    }


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

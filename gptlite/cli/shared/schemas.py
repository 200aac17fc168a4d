"""The JSON objects of commands: each says with "schema" what it is; docs/reference/json.md explains the keys.

A schema's number grows when a key goes away or changes its meaning; new keys leave it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VERSIONS = {
    "check": 1, "choice": 1, "compare": 1, "concordance": 1, "embed": 1, "embed-by-layer": 1, "eval": 1,
    "eval-attribution": 1,
    "eval-matrix": 1, "export": 1, "generate": 1, "info": 1, "inspect": 1, "report": 1,
    "report-runs": 1, "runs": 1, "sample": 1,
    "train": 1, "train-plan": 1, "words-analogy": 1, "words-evaluate": 1, "words-nearest": 1, "words-odd": 1,
    "words-steps": 1,
}  # fmt: skip


def named(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """`facts` as the object `name`: "schema" comes first."""
    return {"schema": f"gptlite.{name}/{VERSIONS[name]}", **facts}

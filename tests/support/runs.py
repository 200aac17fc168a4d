"""Runs that look as if they had been trained with other settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any


def copied_run(run: Path, name: str, *, bits: float = 0.0, **settings: Any) -> Path:
    """A copy of a run in the current folder, as if it had been trained with other settings and scored `bits` more."""
    shutil.copytree(run, name, symlinks=True)
    path = Path(name) / "run.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    info["plan"]["train"].update(settings)
    info["result"]["val_bits_per_byte"] += bits
    path.write_text(json.dumps(info), encoding="utf-8")
    return Path(name)

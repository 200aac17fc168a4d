"""What the pages of a model, of a text and of word vectors have in common: scripts, styles, labels, pieces of HTML.

`elements.js` makes labels, tokens and bars; `look.js` and `step.js` show tokens, attention, heads and layers, which
they ask `remote` for: a model that runs beside the page, or numbers that were computed before; `verdict.js` says what
a cosine is worth. `labels.json` has each label in English and Chinese.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent


def labels() -> dict[str, list[str]]:
    """Each label in English and in Chinese, with {0}, {1}, ... for values."""
    return json.loads((HERE / "labels.json").read_text(encoding="utf-8"))


def read(*names: str) -> str:
    """Files of this folder, one after the other; the labels as a constant of a script."""
    return "\n".join(
        f"const LABELS = {json.dumps(labels(), ensure_ascii=False)};"
        if name == "labels.json"
        else (HERE / name).read_text(encoding="utf-8")
        for name in names
    )


LOOK: Sequence[str] = ("labels.json", "elements.js", "look.js", "step.js")

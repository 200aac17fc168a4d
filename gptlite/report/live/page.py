"""The page of a model: it writes, shows what it does inside, and compares words, without a network.

The page is `live.html` with the components and the scripts and styles of this folder in it. What it knows of the
model, vocabulary included, is packed, compressed and written in base64, so that none of it is read as HTML; it is
shown as text.
`tokenizer.js`, `engine.js` and `worker.js` run in a worker, the others in the page. The page of a server (`served`) is
the same without a model: `served.js` asks the server in place of the worker.
"""

from __future__ import annotations

import base64
import gzip
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from gptlite.evaluation.surprisal import STEP_NAMES, STEPS
from gptlite.report import components
from gptlite.report.components.packing import DTYPES, pack
from gptlite.report.page import UNSEEN, hash_source, styles

HERE = Path(__file__).parent
LARGEST_AUTO = 4_000_000  # bytes of a page with numbers of 16 bits, where nobody says how many there should be
IN_WORKER = ("tokenizer.js", "engine.js", "worker.js")  # and unpack.js of the components
IN_PAGE = ("sampling.js", "write.js", "read.js", "words.js")  # after app.js and the components
LOCAL, SERVED = "local.js", "served.js"  # what stands for the model in the page


@dataclass(frozen=True)
class LiveModel:
    """What the page is made of.

    - `name`: of the model; `facts`: what else is known of it, as texts.
    - `config`: the fields of `ModelConfig`; `weights`: float32, by the names of the state dict, the head left out where
      it is the embeddings. `frequencies` (C / 2,) of rotary positions.
    - `tokenizer`: `text.tokenizer_parts.Parts` as a dict: `tokens`, `merges` (n, 3), and the rest for `Tokenizer` in
      tokenizer.js.
    - `special`: ids by name: `opening` (several) before each text, `separator`, `ends` (several), and `prefix`
      (several) before a text whose words are compared.
    - `space`: of the hidden states of each layer `mean`, `std` (L + 1, D), and the quantiles of cosines (L + 1, 101)
      of `same_word` and `unrelated` pairs; None where they were not measured.
    - `prompt`: the text that writing begins with.
    - `words`: those among which neighbours are looked for. `sampling`: the settings that writing begins with.
    """

    name: str
    config: Mapping[str, Any]
    weights: Mapping[str, np.ndarray]
    frequencies: np.ndarray | None
    tokenizer: Mapping[str, Any]
    special: Mapping[str, Any]
    space: Mapping[str, np.ndarray] | None
    prompt: str
    words: Sequence[str]
    sampling: Mapping[str, float]
    facts: Mapping[str, str]


def render(shown: LiveModel, dtype: str = "auto") -> tuple[str, str]:
    """The page as HTML, and the numbers that it has: "f32", "f16" or "int8" (8 bits, a scale for each row).

    "auto" takes f16 where the page has at most 4 MB then, else int8. Raises `OverflowError` for weights beyond f16.
    """
    if dtype != "auto":
        return _render(shown, dtype), dtype
    n_weights = sum(array.size for array in shown.weights.values())
    if 2 * n_weights * 4 / 3 < 1.2 * LARGEST_AUTO:
        page = _render(shown, "f16")
        if len(page.encode()) <= LARGEST_AUTO:
            return page, "f16"
    return _render(shown, "int8"), "int8"


def _render(shown: LiveModel, dtype: str) -> str:
    assert dtype in DTYPES
    block = gzip.compress(pack(_description(shown, dtype), _arrays(shown), dtype), compresslevel=9, mtime=0)
    worker = components.read("unpack.js") + _joined(IN_WORKER)
    title = html.escape(UNSEEN.sub("�", shown.name))
    filled = {"title": title, "worker": worker, "model": base64.b64encode(block).decode(), "icon": ""}
    return _filled(LOCAL, ("worker-src blob:",), filled)[0]


def served() -> tuple[str, str]:
    """The page of a server, which has nothing of the model in it, and its content security policy."""
    icon = '<link rel="icon" href="data:,">\n'  # or browsers ask for one
    filled = {"title": "gptlite", "worker": "", "model": "", "icon": icon}
    return _filled(SERVED, ("connect-src 'self'", "img-src data:"), filled)


def _filled(engine: str, sources: Sequence[str], filled: Mapping[str, str]) -> tuple[str, str]:
    """The page with the script that stands for the model, and the policy, which allows these `sources` besides."""
    parts = (_joined(["app.js"]), components.read(*components.LOOK, "verdict.js"), _joined((*IN_PAGE, engine)))
    script, style = "\n".join(parts), styles("components/components", "live/live")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {hash_source(script)}",
            f"style-src {hash_source(style)}",
            *sources,
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    pieces = {name: components.read(f"{name}.html") for name in ("settings", "look", "cosines")}
    template = Template((HERE / "live.html").read_text(encoding="utf-8"))
    return template.substitute(filled, **pieces, policy=policy, style=style, script=script), policy


def _joined(names: Sequence[str]) -> str:
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)


def _description(shown: LiveModel, dtype: str) -> dict[str, Any]:
    spelled = {name: value for name, value in shown.tokenizer.items() if name not in ("tokens", "merges")}
    return {
        "name": shown.name, "config": dict(shown.config), "tokenizer": spelled, "special": dict(shown.special),
        "prompt": shown.prompt, "words": list(shown.words), "sampling": dict(shown.sampling),
        "facts": dict(shown.facts), "dtype": dtype,
        "nParams": sum(array.size for array in shown.weights.values()),
        "steps": list(STEPS), "stepNames": list(STEP_NAMES),
    }  # fmt: skip


def _arrays(shown: LiveModel) -> dict[str, np.ndarray]:
    tokens = shown.tokenizer["tokens"]
    arrays: dict[str, np.ndarray] = {name: np.asarray(array, np.float32) for name, array in shown.weights.items()}
    if shown.frequencies is not None:
        arrays["frequencies"] = np.asarray(shown.frequencies, np.float32)
    for name, array in (shown.space or {}).items():
        arrays[name] = np.asarray(array, np.float32).ravel()
    arrays["tokens"] = np.frombuffer(b"".join(tokens), np.uint8)
    arrays["ends"] = np.cumsum([len(token) for token in tokens]).astype(np.uint32)
    arrays["merges"] = np.asarray(shown.tokenizer["merges"], np.uint32).ravel()
    return arrays

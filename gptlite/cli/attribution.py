"""gptlite eval --attribute: which of several models each text resembles most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlite.cli.shared import console, pages, schemas
from gptlite.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np

    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.device import Hardware
    from gptlite.evaluation.attribution import Attribution
    from gptlite.text.corpus import Text


def run(models: Iterable[Checkpoint], texts: Mapping[str, Text], hardware: Hardware, json: bool) -> None:
    """Score all texts with each model, one model after the other, and print what each text resembles."""
    import numpy as np

    from gptlite.evaluation import attribution

    names: list[str] = []
    bits: dict[str, list[np.ndarray]] = {name: [] for name in texts}
    n_bytes: dict[str, int] = {}
    for loaded in models:
        names.append(str(loaded.path))
        for name, text in texts.items():
            found, size = _block_bits(loaded, text, hardware, n_bytes.get(name))
            bits[name].append(found)
            n_bytes.setdefault(name, size)
    results = {name: attribution.attribute(np.stack(of_text), n_bytes[name]) for name, of_text in bits.items()}
    if json:
        listed = [_facts(name, result, names, n_bytes[name]) for name, result in results.items()]
        facts = {"models": names, "n_resamples": attribution.RESAMPLES, "results": listed}
        console.write_json(schemas.named("eval-attribution", facts))
        return
    _print(results, names, n_bytes)


def _block_bits(loaded: Checkpoint, text: Text, hardware: Hardware, n_bytes: int | None) -> tuple[np.ndarray, int]:
    """The bits of each block of a text, and its bytes, which the first model that reads it counts."""
    import numpy as np

    from gptlite.evaluation import attribution, scoring
    from gptlite.text import token_files

    tokens = token_files.tokenize(text, loaded.tokenizer)
    found, sizes = scoring.score_tokens(loaded.model, loaded.tokenizer, tokens.ids(), hardware)
    if not np.isfinite(found).all():
        raise CheckpointError(
            f"the predictions of {loaded.path} are not finite numbers, so its weights or its config are damaged; "
            "use another step."
        )
    n_bytes = n_bytes or max(1, round(int(sizes.sum()) * tokens.byte_scale(loaded.tokenizer.token_bytes)))
    return attribution.block_bits(found, sizes, attribution.count_blocks(n_bytes)), n_bytes


def _facts(name: str, result: Attribution, models: list[str], n_bytes: int) -> dict[str, Any]:
    return {
        "file": name, "n_bytes": n_bytes, "n_blocks": result.n_blocks, "bits_per_byte": list(result.bits_per_byte),
        "best": models[result.best], "second": models[result.second],
        "share_best": None if result.share_best is None else list(result.share_best),
        "difference_bits_per_byte": result.difference,
        "difference_bits_per_byte_interval": None if result.low is None else [result.low, result.high],
    }  # fmt: skip


def _print(results: Mapping[str, Attribution], models: list[str], n_bytes: Mapping[str, int]) -> None:
    short = [pages.model_name(Path(model)) for model in models]
    rows: list[list[console.Cell]] = []
    for name, result in results.items():
        share, interval = "", "too short"
        if result.share_best is not None and result.low is not None and result.high is not None:
            share = f"{100 * result.share_best[result.best]:.1f} %"
            interval = f"{result.low:+.4f} to {result.high:+.4f}"
        best = f"{result.bits_per_byte[result.best]:.4f}"
        rows.append(
            [name, f"{n_bytes[name]:,}", short[result.best], best, share, short[result.second],
             f"{result.difference:+.4f}", interval]
        )  # fmt: skip
    head = ["text", "bytes", "resembles", "bits per byte", "best in", "then", "difference", "95 % interval"]
    console.print_table(head, rows, right=frozenset({1, 3, 4, 6, 7}))

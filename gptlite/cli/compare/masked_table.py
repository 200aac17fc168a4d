"""What the model that reads both sides can do and cannot, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptlite.cli.shared import console

SAMPLE_COLUMNS = 100
VECTORS = {
    "left": "causal, left of the word",
    "both": "causal, both sides (`embed --context both`)",
    "bag": "bag of the words around alone",
    "masked": "masked, state at the word",
    "masked-both": "masked, with the word hidden too, and the bag",
}


def show(masked: Mapping[str, Any]) -> None:
    console.write(
        f"\nthe other branch: a model that reads both sides guesses {masked['guessed']:.1%} of hidden tokens after "
        f"{console.duration(masked['seconds'])}, {masked['n_steps']:,} steps; a causal twin took "
        f"{masked['n_causal_steps']:,}"
    )
    sample = console.cut(console.one_line(masked["sample"]), SAMPLE_COLUMNS)
    console.write(f"it cannot write: asked for one token after the other at the end, it fills in {sample!r}")
    if (senses := masked["senses"]) is None:
        console.write("too few words of this text are frequent enough to measure how well it tells senses apart")
        return
    console.write(
        f"\nsenses: {senses['n_words']} pairs of words made one each, {senses['n_uses']:,} held-out uses; the more "
        f"frequent word is right in {senses['majority']:.1%}\n"
    )
    rows = [[VECTORS[v["name"]], f"{v['centroid']:.3f}", f"{v['auc']:.3f}"] for v in senses["vectors"]]
    console.print_table(["vectors", "nearer mean", "AUC"], rows, right=frozenset({1, 2}))

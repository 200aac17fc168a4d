"""The 5-gram of gptlite beside KenLM's (Heafield et al. 2013) on the same tokens: perplexity, which should be equal.

    python benchmarks/kenlm.py TEXT --bin kenlm/build/bin [--vocab-size 1024]

`lmplz` and `query` are built from KenLM's sources. Both read the ids of gptlite's tokenizer as words. The training text
is one line, so that no n-gram ends at a sentence, and so is the held-out text. KenLM counts a beginning and an end of
the line and a word for what was never seen; the first 4 tokens and the end are left out of both perplexities.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from gptlite.baselines.kneser_ney import ORDER, KneserNey
from gptlite.text.tokenizer import Tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--bin", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, default=1024)
    options = parser.parse_args()
    text = options.text.read_text(encoding="utf-8")
    cut = len(text) * 9 // 10
    tokenizer = Tokenizer.train([text[:cut]], options.vocab_size)
    train, held_out = (np.array(tokenizer.encode(part)) for part in (text[:cut], text[cut:]))

    ours = np.log(KneserNey(train, tokenizer.vocab_size).probabilities(held_out))[ORDER - 1 :]
    theirs, unseen = by_kenlm(train, held_out, options.bin)
    theirs = theirs[ORDER - 1 :]
    print(f"{len(train):,} tokens, {len(held_out):,} held out, {unseen} of them never seen")
    for name, values in (("gptlite", ours), ("KenLM", theirs)):
        print(f"{name}: perplexity {math.exp(-values.mean()):.4f}, {-values.mean() / math.log(2):.5f} bits per token")
    ratio = math.exp(theirs.mean() - ours.mean())
    print(f"ratio of perplexities {ratio:.5f}; tokens differ by at most {np.abs(ours - theirs).max():.2e} nats")


def by_kenlm(train: np.ndarray, held_out: np.ndarray, programs: Path) -> tuple[np.ndarray, int]:
    """log p (nats) of each held-out token, and how many KenLM does not know."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model.arpa")
        command = [programs / "lmplz", "-o", str(ORDER), "--arpa", model, "--discount_fallback", "-S", "500M"]
        subprocess.run(command, input=line_of(train), text=True, check=True, capture_output=True)
        command = [programs / "query", model]
        ended = subprocess.run(command, input=line_of(held_out), text=True, check=True, capture_output=True)
    found = re.findall(r"(\S+)=(\d+) (\d+) (-?[\d.eE+-]+)", ended.stdout)
    tokens = [(float(logp), index == "0") for word, index, _, logp in found if word != "</s>"]
    assert len(tokens) == len(held_out)
    return np.array([logp for logp, _ in tokens]) * math.log(10), sum(unknown for _, unknown in tokens)


def line_of(ids: np.ndarray) -> str:
    return " ".join(f"t{i}" for i in ids) + "\n"


if __name__ == "__main__":
    main()

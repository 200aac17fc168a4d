"""Does a resumed run lose nothing? A tiny run is interrupted, resumed, and compared with one that ran through."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

from gptlite import randomness
from gptlite.checkpoint.runs import Run
from gptlite.training import pipeline
from gptlite.training.watcher import Progress, Watcher

# A tiny training with all that could make a resumed one differ: dropout, warm-up, parts of batches, scores and samples.
PROOF_STEPS, PROOF_CUT, PROOF_SAVES = 30, 17, 10
PROOF_SETTINGS = {
    "n_layers": 2, "dim": 32, "n_heads": 2, "context_length": 32, "vocab_size": 300, "batch_size": 4, "accumulate": 2,
    "dropout": 0.1, "warmup": 0.2, "steps": PROOF_STEPS, "eval_every": 5, "save_every": PROOF_SAVES, "sample_every": 7,
}  # fmt: skip
PROOF_WORDS = ("river", "letter", "garden", "clock", "winter", "window", "carries", "counts", "every", "old", "silent")
PROVED = ("model.safetensors", "training_state/optimizer.safetensors")


@dataclass(frozen=True)
class ResumeProof:
    """sha256 of the files of the last step, by name: of a run that nobody interrupted, and of one that was."""

    straight: dict[str, str]
    resumed: dict[str, str]

    @property
    def equal(self) -> bool:
        return self.straight == self.resumed


def prove_resume(folder: Path) -> ResumeProof:
    """Train a tiny model twice in `folder`, the second time with the plug pulled between two saves; then resume it."""
    text = folder / "text.txt"
    text.write_text(proof_text(), encoding="utf-8")
    straight, cut = folder / "straight", folder / "cut"
    pipeline.train(str(text), out=straight, **PROOF_SETTINGS)
    with contextlib.suppress(_PowerCut):
        pipeline.train(str(text), out=cut, watcher=_PowerCut.After(PROOF_CUT), **PROOF_SETTINGS)
    pipeline.train(str(text), out=cut, resume=True)
    return ResumeProof(*(_digests(Run(path).step_path(PROOF_STEPS)) for path in (straight, cut)))


def proof_text() -> str:
    """Lines of words in an order without a rule: always the same ones."""
    draws = (randomness.mix(i) % len(PROOF_WORDS) for i in range(4000))
    words = [PROOF_WORDS[i] for i in draws]
    return "".join(" ".join(words[i : i + 8]) + ".\n" for i in range(0, len(words), 8))


class _PowerCut(Exception):
    """Ends a training between two saves, so that all since the last one is lost."""

    class After(Watcher):
        def __init__(self, step: int) -> None:
            self.step = step

        def stepped(self, progress: Progress) -> None:
            if progress.step == self.step:
                raise _PowerCut


def _digests(step: Path) -> dict[str, str]:
    return {name: hashlib.sha256((step / name).read_bytes()).hexdigest() for name in PROVED}

"""The proof that resuming loses nothing, in fewer steps."""

from __future__ import annotations

import pytest

from gptlite.training import resume_proof

STEPS, CUT, SAVES = 6, 4, 3


def shorten_proof(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resume_proof, "PROOF_STEPS", STEPS)
    patch.setattr(resume_proof, "PROOF_CUT", CUT)
    short = {"steps": STEPS, "save_every": SAVES, "eval_every": SAVES, "sample_every": CUT}
    patch.setattr(resume_proof, "PROOF_SETTINGS", resume_proof.PROOF_SETTINGS | short)

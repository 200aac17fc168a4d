"""Given texts instead of free ones: which of them would the model write?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gptlite.errors import CheckpointError, LimitError, UsageError
from gptlite.generation.generate import tokenize_prompt
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Choice:
    """A text that may come next, its ids, and the natural logarithm of the probability that they do."""

    text: str
    tokens: list[int]
    logprob: float

    @property
    def logprob_per_token(self) -> float:
        return self.logprob / len(self.tokens)


@torch.inference_mode()
def score_choices(model: GPT, tokenizer: Tokenizer, prompt: str, choices: Sequence[str]) -> list[Choice]:
    """Each choice after the prompt, with its log-probability under the model as it is: no temperature, no filters.

    What follows a choice does not count, so of two choices of which one begins the other, the shorter is likelier.
    Raises `UsageError` for an empty choice, `LimitError` for one that is longer than what the model sees, and
    `CheckpointError` for a model whose predictions are not numbers.
    """
    before, context = tokenize_prompt(tokenizer, prompt), model.config.context_length
    device = next(model.parameters()).device
    scored = []
    for choice in choices:
        ids = tokenizer.encode(choice)
        if not ids:
            raise UsageError("`choices` needs texts: an empty one is as likely as can be.")
        if len(ids) > context:
            raise LimitError(f"a choice of {len(ids):,} tokens is longer than the {context:,} that the model sees.")
        read = torch.tensor([(before + ids)[-context - 1 : -1]], device=device)
        logits = model.head(model.transformer(read)[0, -len(ids) :])
        of_ids = logits.cpu().double().log_softmax(dim=-1).gather(-1, torch.tensor(ids)[:, None])
        if not of_ids.isfinite().all():
            raise CheckpointError("the model's predictions are not numbers; use another step of the run.")
        scored.append(Choice(choice, ids, float(of_ids.sum())))
    return scored

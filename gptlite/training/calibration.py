"""Calibration at the end of training: one temperature for all logits of the last step.

A model that has read its text several times is surer than it should be: on text that it has not seen, its logits are
best divided by a temperature a little above 1 (temperature scaling; Guo et al. 2017, "On Calibration of Modern Neural
Networks"). The order of the tokens stays the same, and so does every greedy text. The final norm takes the temperature,
so the saved model is a stock one. Which temperature follows from the number of passes (`scaling_law`): held-out text
must not reach the weights, and text that was set aside for measuring it would be missed (docs/lab/log.md).
"""

from __future__ import annotations

import torch

from gptlite.config import ModelConfig, TrainConfig
from gptlite.errors import UsageError
from gptlite.model import GPT
from gptlite.training.ensemble import Ensemble


def can_calibrate(model: ModelConfig) -> bool:
    """Has a model of this shape a final norm?"""
    return model.norm_position == "pre"


def check_calibration(model: ModelConfig, train: TrainConfig) -> None:
    """Raises `UsageError` where a model of this shape cannot be calibrated."""
    if train.calibration != 1 and not can_calibrate(model):
        raise UsageError(f"`calibration` needs a final norm, which {model.architecture} does not have; leave it out.")


@torch.no_grad()
def calibrate(model: GPT | Ensemble, temperature: float) -> None:
    """Divide the logits of `model`, or of the members of an ensemble, by `temperature`."""
    if temperature == 1:
        return
    for member in model if isinstance(model, Ensemble) else [model]:
        for parameter in member.transformer.norm.parameters():
            parameter.div_(temperature)

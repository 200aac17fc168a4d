"""Why a plan has the values that it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gptlite.errors import plural


@dataclass(frozen=True)
class Reason:
    """Why the plan set a value: `about` says which value, `facts` what decided. `sentence` puts it into words."""

    about: Literal[
        "shape", "context_length", "batch_size", "processes", "dropout", "ngram_weight", "most_epochs",
        "speed", "background", "replay", "calibration", "recorded",
    ]  # fmt: skip
    facts: Mapping[str, Any]

    def sentence(self) -> str:
        """The reason for a person; one read from `run.json` has been a sentence since it was written there."""
        f = self.facts
        match self.about:
            case "shape":
                budget = "this budget" if f["seconds"] is None else f"{f['seconds']:.0f} s"
                how = f"{plural(f['timed'], 'shape')} timed here" if f["timed"] else "by rule of thumb"
                shape = f"{plural(f['n_layers'], 'layer')} of width {f['dim']}"
                if f["members"] > 1:
                    shape = f"{f['members']} models of {shape}, saved as one that predicts their mean"
                return f"{shape}, for {plural(f['n_tokens'], 'token')} of text and {budget} on {f['device']}; {how}"
            case "context_length":
                most = f"{f['longest']:,} tokens (`context_length` for more)"
                return f"context {f['context_length']:,}, though the model could see {most}"
            case "batch_size":
                few = f"there is time for only about {plural(round(f['steps']), 'step')} of {f['usual']}"
                return f"batches of {f['batch_size']}, because {few}"
            case "processes":
                return f"batches of {f['batch_size']}, a window for each process"
            case "dropout" | "ngram_weight":
                times = f"about {plural(round(f['epochs']), 'time')}"
                soft = f"a 5-gram's soft targets with weight {f.get('weight', 0):g}"
                what = soft if self.about == "ngram_weight" else f"dropout {f['dropout']:g}"
                return f"{what}, because the text will be read {times}"
            case "most_epochs":
                times = plural(round(f["epochs"]), "time")
                why = "several models then begin to learn so short a text by heart"
                return f"the end after each model has read the text {times}, though time is left, because {why}"
            case "speed":
                times = f"{f['ratio']:.1f} times faster" if f["ratio"] > 1 else f"{1 / f['ratio']:.1f} times slower"
                return f"planned again for the last {f['seconds']:.0f} s: steps are {times} than when they were timed"
            case "background":
                return f"{f['first']:.0%} of each step from the background, and {f['last']:.0%} at the end of the run"
            case "replay":
                rate = f"rate {f['lr']:g}, {f['share']:.0%} of that of a new model"
                return f"{rate}, because {f['replay']:.0%} of each step is text that it was trained on before"
            case "calibration":
                times = plural(round(f["epochs"]), "time")
                why = f"a model that has read a text {times} is too sure"
                return f"logits divided by {f['temperature']:g} at the end, because {why}"
            case "recorded":
                return f["sentence"]


def recorded(sentence: str) -> Reason:
    """A reason as `run.json` has it."""
    return Reason("recorded", {"sentence": sentence})

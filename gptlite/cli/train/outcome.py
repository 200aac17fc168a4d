"""What `gptlite train` shows: the plan as a table, and the last lines of a run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from gptlite.cli.shared import answers, console

BUSY = 0.7  # share of the time in which threads had a processor; with less, other programs are the reason
MANY_EPOCHS = 8  # passes through a text, after which more of them help less than more text


def outcome(result: dict[str, Any]) -> Iterator[str]:
    """What a run came to, in lines: its score, the baselines on the same bytes, and what would help."""
    score, interval = f"{result['val_bits_per_byte']:.3f}", result.get("val_bits_per_byte_interval")
    step, run = f"(step {result['best_step']:,})", shlex.quote(result["run"])
    done = f"done in {console.duration(result['seconds'])}: "
    if result["val_bytes"] < result.get("held_out_bytes", 0):
        margin = f" ({interval[0]:.3f} to {interval[1]:.3f} for all of it)" if interval else ""
        yield (
            f"{done}{score} bits per byte{margin} on {result['val_bytes']:,} of {result['held_out_bytes']:,} bytes of "
            f"held-out text {step}; all of it: gptlite eval --held-out {run}"
        )
    else:
        yield f"{done}{score} bits per byte on {result['val_bytes']:,} bytes of held-out text {step}"
    if (found := result.get("answers")) is not None:
        yield f"{answers.sentence(found)}; more of it: gptlite eval --held-out {run} --show 10"
    elif (matched := result.get("val_exact_match")) is not None:
        yield f"{matched:.0%} of some held-out answers are exact; all of them: gptlite eval --held-out {run} --show 10"
    if (alone := result.get("own_text_bits_per_byte")) is not None:
        yield f"without the background: about {alone:.2f} bits per byte (estimated)"
    others = result.get("baselines")
    if not others:
        return
    yield f"for comparison, on the same bytes: {baselines(others)}"
    if not others["ngram_bits_per_byte"] > result["val_bits_per_byte"]:
        yield f"This model does not beat the 5-gram, which only counts tokens. {_what_would_help(result)}"


def _what_would_help(result: dict[str, Any]) -> str:
    members = result.get("members", 1)
    epochs = result.get("epochs", 0.0) / members
    who = "It read" if members == 1 else f"Each of its {members} models read"
    read = f"{who} its text {epochs:,.1f} times" if epochs >= 1 else f"{who} {epochs:.0%} of its text"
    share = result.get("processor_share")
    if epochs < MANY_EPOCHS and share is not None and share < BUSY:
        return (
            f"{read}, while other programs kept the processors busy (its threads had one for {share:.0%} of the time): "
            "a quieter machine or more time (--time) would help most."
        )
    if epochs < MANY_EPOCHS:
        return f"{read}: more time (--time) would help most."
    if result["best_step"] < result["step"]:
        return f"{read}, and was best at step {result['best_step']:,}: more text, or --dropout, would help most."
    return f"{read}: more text would help most, or a trained model to start from (--init-from)."


def baselines(measured: dict[str, Any]) -> str:
    """What counting and compressing make of the same held-out text."""
    ngram, xz, unigram = (measured[f"{method}_bits_per_byte"] for method in ("ngram", "xz", "unigram"))
    return f"5-gram {ngram:.3f}, xz {xz:.3f}, unigram {unigram:.3f} bits per byte"


def show_plan(preview: dict[str, Any]) -> None:
    """The plan as a table: what, how much, and whose choice."""
    model, training, expected = preview["plan"]["model"], preview["plan"]["train"], preview["expected"]
    given = set(preview["plan"]["given"])

    def whose(*names: str) -> str:
        return "yours" if given & set(names) else "the plan's"

    if training["seconds"] is not None:
        budget, how_long = console.duration(training["seconds"]), whose("seconds")
        if expected["seconds"] < training["seconds"] and training["most_epochs"]:
            budget += f", ending at {console.passes(training['most_epochs'], training['members'])}"
    else:
        budget, how_long = console.plural(round(expected["steps"]), "step"), whose("steps", "epochs")
    bytes_per_token = preview["train_bytes"] / preview["n_train_tokens"]
    by_size = ("size", "n_layers", "dim", "n_heads")
    rows = [
        ["text", f"{preview['train_bytes']:,} bytes, {preview['n_train_tokens']:,} tokens", "yours"],
        *([name, _beside(preview[name]), "yours"] for name in ("background", "replay") if name in preview),
        ["held out", f"{preview['val_bytes']:,} bytes", ""],
        ["vocabulary", f"{model['vocab_size']:,} tokens of {bytes_per_token:.2f} bytes", ""],
        ["architecture", model["architecture"], ""],
        ["shape", _shape(model), whose(*by_size)],
        *([["members", f"{n} models side by side", whose("members")]] if (n := training["members"]) > 1 else []),
        ["parameters", f"{preview['n_parameters']:,}", ""],
        ["context", console.plural(model["context_length"], "token"), whose("context_length")],
        ["batch", console.plural(training["batch_size"], "window"), whose("batch_size")],
        ["optimizer", f"{training['optimizer']}, rate {training['lr']:g}", whose("optimizer", "lr")],
        ["dropout", f"{training['dropout']:g}", whose("dropout")],
        ["5-gram's weight", f"{training['ngram_weight']:g} of the loss", whose("ngram_weight")],
        *(
            [["calibration", f"logits divided by {t:g}", whose("calibration")]]
            if (t := training["calibration"]) != 1
            else []
        ),
        ["budget", budget, how_long],
        *([["context encoder", f"{share:.0%} of it", "yours"]] if (share := training["context_encoder"]) else []),
        ["", "", ""],
        ["speed", f"{expected['tokens_per_second']:,.0f} tokens/s, on {preview['hardware']}", ""],
        ["steps", f"about {expected['steps']:,.0f}, {console.passes(expected['epochs'], training['members'])}", ""],
        ["time", console.duration(expected["seconds"]), ""],
        ["memory", f"{expected['memory_bytes'] / 1e9:.2f} GB", ""],
    ]
    if expected["bits_per_byte"] is None:
        rows.append(["result", "unknown: it can be estimated for new models and runs of a million tokens or more", ""])
    else:
        rows.append(["result", f"about {expected['bits_per_byte']:.2f} bits per byte", ""])
    if (alone := expected.get("own_text_bits_per_byte")) is not None:
        rows.append(["without the background", f"about {alone:.2f} bits per byte", ""])
    rows.append(["for comparison", baselines(preview["baselines"]), ""])
    rows += [["because", reason, ""] for reason in preview["plan"]["reasons"]]
    console.print_table(["", "plan", "chosen by"], rows)


def _beside(text: dict[str, Any]) -> str:
    """The size of a background or of replayed text, and what was left out of it."""
    size = f"{text['bytes']:,} bytes, {text['n_tokens']:,} tokens"
    removed = text["removed_bytes"]
    return f"{size}, without {removed:,} bytes that the held-out text has too" if removed else size


def _shape(model: dict[str, Any]) -> str:
    layers, heads = console.plural(model["n_layers"], "layer"), console.plural(model["n_heads"], "head")
    return f"{layers}, width {model['dim']}, {heads}"

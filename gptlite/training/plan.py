"""From a text, a machine and a budget to a model and a way to train it.

Candidates are a ladder of shapes, each half as large again as the one below. A scaling law says how many bits per byte
each would reach with the tokens that it can read in time, and how fast it reads is measured on this machine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gptlite.config import ARCHITECTURES, SIZES, ModelConfig, TrainConfig
from gptlite.device import Hardware
from gptlite.errors import LimitError, UsageError
from gptlite.text.tokenizer import LARGEST_VOCABULARY
from gptlite.training.speed import Speed, guess_speed

TOKENS_PER_STEP = {"cpu": 2048, "gpu": 16384}
MILESTONES = 10  # evaluations and saves in a run, unless --eval-every or --save-every say otherwise
QUICK_WINDOWS = 96  # windows of held-out text scored at a milestone, at most
FINAL_WINDOWS = 4096  # at most, at the end; `gptlite eval` scores everything
READING_RATE = 5e4  # bytes of text a second
SHORTEST_LIMIT = 1 << 22  # bytes
OVERHEAD_SHARE = 0.1  # of a time budget: start, vocabulary, scores, saves

# Layers and width, by number of parameters.
LADDER = (
    (2, 64), (3, 96), (4, 128), (6, 128), (4, 192), (6, 192), (4, 256), (6, 256), (6, 320), (6, 384), (8, 512),
    (12, 640), (12, 768),
)  # fmt: skip
LARGEST_ON_CPU = (6, 384)

# Going on from a trained model: its rates are a share of those of a new one, and they rise for longer, because the
# optimizer does not know the model yet.
GENTLY, LONGER_WARMUP = 0.1, 0.1
LONGEST_WINDOW = 1024  # tokens, unless --context asks for more
SHAPE_FLAGS = {"n_layers": "--layers", "n_heads": "--heads", "dim": "--dim"}

# How soon a model knows its text by heart: readings of the text x (hidden parameters for each token of it) ^ 0.35, and
# the dropout that is best up to there (docs/log.md).
WEAR_EXPONENT, DROPOUT = 0.35, ((7.7, 0.0), (23.0, 0.1), (35.0, 0.2), (math.inf, 0.3))
FEWEST_STEPS, SMALLEST_BATCH = 100, 4  # fewer steps are worth having smaller batches for
MOST_PARTS = 1 << 16  # of a batch, that are looked at
NARROWEST_FOR_BIGRAMS = 8  # components of a vector

Measure = Callable[[ModelConfig, TrainConfig], Speed | None]  # None when there is no time left to measure


@dataclass(frozen=True)
class Facts:
    """What a plan rests on: the training text, the vocabulary and the machine."""

    n_bytes: int
    n_tokens: int
    vocab_size: int
    hardware: Hardware
    memory: int | None = None  # bytes that are free, if known
    val_tokens: int = 0


@dataclass(frozen=True)
class Expected:
    """What a plan leads to, as far as one can tell before."""

    tokens_per_second: float  # of training steps
    steps: float
    epochs: float
    seconds: float  # of training, scoring and saving
    memory: int  # bytes that training takes, besides what the program has already
    bits_per_byte: float | None  # None without a yardstick of how hard the text is


@dataclass(frozen=True)
class Plan:
    """The choices, a sentence for some that were not the user's, and the names of those that were (`given`)."""

    model: ModelConfig
    train: TrainConfig
    reasons: tuple[str, ...]
    given: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.to_dict(),
            "train": self.train.to_dict(),
            "reasons": list(self.reasons),
            "given": list(self.given),
        }


def choose_vocab_size(n_bytes: int) -> int:
    """About the square root of the text's size, as a power of two: 1,024 for 1 MB, 8,192 for 100 MB.

    More tokens make the text shorter but leave fewer examples of each; one token in a thousand or so must be seen
    hundreds of times before its vector means anything.
    """
    size = 2 ** round(math.log2(math.sqrt(max(1, n_bytes))))
    return min(max(size, 384), 32_768, LARGEST_VOCABULARY)


def text_limits(seconds: float | None, hardware: Hardware) -> tuple[int, int] | None:
    """Bytes of training text and of held-out text that `seconds` could ever use; None where there is no such limit.

    A processor reads at most some 50 kB a second while it learns, so tokenizing more would be time lost.
    """
    if seconds is None or hardware.device.type != "cpu":
        return None
    return max(SHORTEST_LIMIT, int(READING_RATE * seconds)), max(SHORTEST_LIMIT // 4, int(READING_RATE * seconds / 8))


def make_plan(
    facts: Facts,
    *,
    architecture: str | None = None,
    size: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    measure: Measure | None = None,
    base: ModelConfig | None = None,
) -> Plan:
    """Choose model and training for `facts`; `overrides` (fields of the two configurations) are taken as they are.

    Where the run goes on from a trained model of shape `base`, only how to train is left to choose. With a time budget
    and `measure`, candidates are timed on this machine; a plan for a number of steps is the same everywhere.
    Raises `UsageError` for an unknown size, architecture or field.
    """
    if base is not None and (architecture or size):
        flag = "--arch" if architecture else "--size"
        raise UsageError(f"the model of --init-from has its own shape; leave {flag} out.")
    architecture, size = architecture or ModelConfig.architecture, size or "auto"
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    for name in ("architecture", "vocab_size"):
        if name in given:
            raise UsageError(f"{name} is an argument of its own.")
    shape = {name: given[name] for name in given if name in _names(ModelConfig)}
    training = {name: given[name] for name in given if name not in shape}
    unknown = set(training) - _names(TrainConfig)
    if unknown:
        raise UsageError(f"unknown setting '{sorted(unknown)[0]}'.")
    if size != "auto" and size not in SIZES:
        raise UsageError(f"unknown size '{size}': choose from auto, {', '.join(SIZES)}.")
    if any(name in training for name in ("steps", "epochs")):
        training.setdefault("seconds", None)
    asked = tuple(sorted({*given, *(("size",) if size != "auto" else ())}))

    def timed(plan: Plan) -> Plan:
        """The plan, with batches and dropout that suit its speed here."""
        worth_it = measure is not None and plan.train.seconds is not None and _fits(facts, plan)
        return _suit_speed(facts, plan, measure(plan.model, plan.train) if measure and worth_it else None)

    if base is not None:
        return timed(_go_on(facts, base, shape, training, asked))

    def complete(layers_and_dim: tuple[int, int] | None) -> Plan:
        values: dict[str, Any] = {}
        if layers_and_dim is not None:
            n_layers, dim = layers_and_dim
            values = {"n_layers": n_layers, "dim": dim, "context_length": 128 if dim < 320 else 256}
        base = "small" if size == "auto" else size
        values.setdefault("context_length", SIZES[base]["context_length"])
        values["context_length"] = min(values["context_length"], _longest_context(facts))
        return _complete(facts, architecture, base, values | shape, training, asked)

    if size != "auto" or {"n_layers", "dim"} <= shape.keys():
        return timed(complete(None))
    rungs = LADDER if _on_gpu(facts) else LADDER[: LADDER.index(LARGEST_ON_CPU) + 1]
    plans: list[Plan] = []
    refusals: list[UsageError] = []
    for rung in rungs:
        try:
            plans.append(complete(rung))
        except UsageError as error:  # a number of heads that was asked for does not divide every width
            refusals.append(error)
    if not plans:
        raise refusals[0]
    fitting = [p for p in plans if _fits(facts, p)]
    return _best(facts, fitting or plans[:1], measure if fitting else None)


def expect(facts: Facts, plan: Plan, speed: Speed | None = None, ngram_bits: float | None = None) -> Expected:
    """What training as planned leads to, at the measured speed or a rough guess of it.

    - `ngram_bits`: bits per byte of a 5-gram on the held-out text, which tells how hard the text is.
    """
    config, context = plan.train, plan.model.context_length
    rate = speed.tokens_per_second if speed else guess_speed(plan.model, facts.hardware)
    per_step = config.batch_size * context
    if config.seconds is not None:
        seconds = config.seconds
        steps = (1 - OVERHEAD_SHARE) * seconds * rate / per_step
    else:
        steps = config.steps or max(1, round((config.epochs or 0) * facts.n_tokens / per_step))
        # A window is scored by a forward pass, about a third of a step, and moves on by half a context.
        windows = min(FINAL_WINDOWS, 2 * facts.val_tokens // context) + (MILESTONES + 1) * QUICK_WINDOWS
        saves = (MILESTONES + 1) * save_seconds(plan.model)
        seconds = steps * per_step / rate + windows * context / (3 * rate) + saves
    tokens = steps * per_step
    bits = None if ngram_bits is None else ngram_bits * predicted_bits(plan.model, tokens, facts) / NGRAM_LEVEL
    memory = training_memory(plan.model, config, facts.hardware)
    return Expected(rate, steps, tokens / facts.n_tokens, seconds, memory, bits)


def save_seconds(model: ModelConfig) -> float:
    """A guess at the time of a save: weights and two moments at 100 MB/s, and a little."""
    return 0.5 + model.n_params * 12 / 100e6


def step_size(model: ModelConfig) -> int:
    """Bytes that a saved step takes at most: weights and two moments, and a little."""
    return model.n_params * 12 + (1 << 20)


# The law of Hoffmann et al. (2022) with repeated tokens counting less and less (Muennighoff et al. 2023). Fitted by
# hand to runs of 1 to 15 minutes on two texts (docs/log.md); a text is harder as its 5-gram needs more bits.
FLOOR, PARAMETER_TERM, TOKEN_TERM, EXPONENT = 1.52, 0.15, 0.40, 0.35  # parameters and tokens in millions
NGRAM_LEVEL = 2.204  # bits per byte of the 5-gram on that text
REUSE = 3.0  # how many more readings of a text are worth at most
ROOM, EXCESS_TERM = 6.0, 0.4  # parameters for each token of text beyond which a model learns the text by heart


def predicted_bits(model: ModelConfig, tokens: float, facts: Facts) -> float:
    """Bits per byte on held-out text after `tokens` tokens, on the scale of the text that the law was fitted to."""
    unique = min(tokens, facts.n_tokens)
    worth = unique * (1 + REUSE * (1 - math.exp(-(tokens / unique - 1) / REUSE)))
    # The vocabulary changes what a token is; count as if there were 2.5 bytes in each.
    worth *= facts.n_bytes / facts.n_tokens / 2.5
    hidden = hidden_params(model)
    bits = FLOOR + PARAMETER_TERM * (1e6 / hidden) ** EXPONENT + TOKEN_TERM * (1e6 / max(1.0, worth)) ** EXPONENT
    return bits + EXCESS_TERM * max(0.0, math.log(hidden / (ROOM * facts.n_tokens)))


def hidden_params(model: ModelConfig) -> int:
    """Parameters besides embeddings and head."""
    return model.n_params - model.vocab_size * model.dim * (1 if model.tie_embeddings else 2)


def _best(facts: Facts, plans: list[Plan], measure: Measure | None) -> Plan:
    """Of plans from small to large models, the one with the fewest predicted bits; its neighbours are measured too."""
    speeds: dict[int, Speed] = {}

    def bits(i: int) -> float:
        expected = expect(facts, plans[i], speeds.get(i))
        return predicted_bits(plans[i].model, expected.epochs * facts.n_tokens, facts)

    best = min(range(len(plans)), key=bits)
    timing = measure is not None and plans[best].train.seconds is not None
    while timing and (untimed := [i for i in (best, best - 1, best + 1) if 0 <= i < len(plans) and i not in speeds]):
        assert measure is not None
        speed = measure(plans[untimed[0]].model, plans[untimed[0]].train)
        if speed is None:  # no time left
            break
        speeds[untimed[0]] = speed
        best = min(speeds, key=bits)
    chosen = plans[best]
    seconds = chosen.train.seconds
    budget = f"{seconds:.0f} s" if seconds else "this budget"
    how = f"{len(speeds)} shapes timed here" if speeds else "by rule of thumb"
    reason = (
        f"{chosen.model.n_layers} layers of width {chosen.model.dim}, for {facts.n_tokens:,} tokens of text and "
        f"{budget} on {facts.hardware.device.type}; {how}"
    )
    return _suit_speed(facts, dataclasses.replace(chosen, reasons=(reason, *chosen.reasons)), speeds.get(best))


def _suit_speed(facts: Facts, plan: Plan, speed: Speed | None) -> Plan:
    """At the measured `speed`: smaller batches where the time allows few steps, dropout where it allows many."""
    if speed is None or plan.train.seconds is None:
        return plan
    steps, batch_size, reasons = expect(facts, plan, speed).steps, plan.train.batch_size, plan.reasons
    if steps < FEWEST_STEPS and "batch_size" not in plan.given:
        few = f"there is time for about {steps:,.0f} steps of {batch_size} only"
        batch_size = _whole_parts(max(SMALLEST_BATCH, int(batch_size * steps / FEWEST_STEPS)), plan.train.accumulate)
        reasons = (*reasons, f"batches of {batch_size}, because {few}")
    train = dataclasses.replace(plan.train, batch_size=batch_size)
    epochs = expect(facts, plan, speed).epochs
    return _suit_epochs(facts, dataclasses.replace(plan, train=train, reasons=reasons), epochs)


def _suit_epochs(facts: Facts, plan: Plan, epochs: float) -> Plan:
    """Dropout for a text that is read so many times: the larger the model, the sooner it knows the text by heart."""
    if "dropout" in plan.given:
        return plan
    wear = epochs * (hidden_params(plan.model) / facts.n_tokens) ** WEAR_EXPONENT
    dropout = next(rate for most, rate in DROPOUT if wear <= most)
    reasons = tuple(reason for reason in plan.reasons if not reason.startswith("dropout"))
    if dropout:
        reasons = (*reasons, f"dropout {dropout:g}, because the text will be read about {epochs:.0f} times")
    return dataclasses.replace(plan, train=dataclasses.replace(plan.train, dropout=dropout), reasons=reasons)


def _complete(
    facts: Facts,
    architecture: str,
    size: str,
    shape: Mapping[str, Any],
    given: Mapping[str, Any],
    asked: tuple[str, ...],
) -> Plan:
    """The plan for one shape: everything that was not given follows from it."""
    chosen: dict[str, Any] = {}
    if given.get("init") == "model":
        raise UsageError("to begin with a trained model, name it with --init-from.")
    pre_norm = ARCHITECTURES.get(architecture, {}).get("norm_position") == "pre"
    tied = shape.get("tie_embeddings", not pre_norm)
    wide_enough = (shape.get("dim") or SIZES[size]["dim"]) >= NARROWEST_FOR_BIGRAMS
    if given.get("init", "bigrams" if pre_norm and not tied and wide_enough else "random") == "random":
        chosen["init"] = "random"
    else:
        if shape.get("tie_embeddings"):
            raise UsageError("to start from bigrams, embeddings and head must not be tied; use init random.")
        shape = {"tie_embeddings": False, **shape}
    return _add_training(facts, ModelConfig.preset(architecture, size, facts.vocab_size, **shape), chosen, given, asked)


def _go_on(
    facts: Facts, base: ModelConfig, shape: Mapping[str, Any], given: Mapping[str, Any], asked: tuple[str, ...]
) -> Plan:
    """The plan for a model that is trained already: windows as long as it sees, within reason, and gentle rates."""
    if others := [SHAPE_FLAGS.get(name, name) for name in shape if name != "context_length"]:
        raise UsageError(f"the model of --init-from has its own shape; leave {others[0]} out.")
    if given.get("init", "model") != "model":
        raise UsageError(f"--init {given['init']} is for a new model; leave it out with --init-from.")
    longest = base.context_length
    context = shape.get("context_length", min(longest, LONGEST_WINDOW, _longest_context(facts)))
    if context > longest:
        raise UsageError(f"--context {context:,}: the model of --init-from sees at most {longest:,} tokens.")
    model = dataclasses.replace(base, context_length=context)
    reasons: tuple[str, ...] = ()
    if context < longest and "context_length" not in shape:
        reasons = (f"context {context:,}, though the model could see {longest:,} tokens (--context for more)",)
    return _add_training(facts, model, {"init": "model"}, given, asked, reasons)


def _add_training(
    facts: Facts,
    model: ModelConfig,
    chosen: dict[str, Any],
    given: Mapping[str, Any],
    asked: tuple[str, ...],
    reasons: tuple[str, ...] = (),
) -> Plan:
    """The plan for a model: how to train it, as far as that is not `chosen` or `given`."""
    tokens = TOKENS_PER_STEP["gpu" if _on_gpu(facts) else "cpu"]
    chosen["batch_size"] = _whole_parts(max(SMALLEST_BATCH, tokens // model.context_length), given.get("accumulate", 1))
    # Under AdamW wider models want smaller steps (Yang et al. 2022); so does the norm after each sub-layer.
    if given.get("optimizer") == "adamw":
        chosen["lr"] = round(3e-3 * 192 / model.dim, 5)
    if model.norm_position == "post":
        chosen["lr"] = round(0.35 * chosen.get("lr", TrainConfig.lr), 5)
        chosen["warmup"] = 0.1
    if chosen.get("init") == "model":
        chosen["lr"] = round(GENTLY * chosen.get("lr", TrainConfig.lr), 6)
        chosen["warmup"] = LONGER_WARMUP
    plan = Plan(model, TrainConfig(**{**chosen, **given}), reasons, asked)
    return _suit_epochs(facts, plan, expect(facts, plan).epochs)


def _whole_parts(batch_size: int, accumulate: int) -> int:
    """The next batch size that `accumulate` divides."""
    return -(-batch_size // accumulate) * accumulate if accumulate > 0 else batch_size


def training_memory(model: ModelConfig, train: TrainConfig, hardware: Hardware | None = None) -> int:
    """Bytes that each process needs, roughly: weights, gradients, two moments, and what the backward pass keeps.

    - `hardware`: one process in fp32, where None.

    Kept a token: the logits three times over, and in each block some vectors of `dim` and of `hidden_dim`, counted from
    the peak memory of real steps; attention keeps no scores. With `recompute` all blocks but one keep one vector.
    With bf16 on a GPU blocks keep half at most; that vector and the logits are fp32. Measured for 16 windows of
    1,024 tokens: gpt2 of 124M parameters 17.4 GB (8.8 compiled), and 19.7 by this; qwen3 of 110M 17.3 (8.5), and 20.9.
    """
    processes = hardware.processes if hardware else 1
    kept = 0.5 if hardware and hardware.bf16 and hardware.device.type == "cuda" else 1.0
    wide, inner = (26, 6) if model.activation == "swiglu" else (18, 2)
    block, blocks = kept * (wide * model.dim + inner * model.hidden_dim), model.n_layers
    per_token = 3 * model.vocab_size + (block + blocks * model.dim if train.recompute else blocks * block)
    held = 4 * model.n_params // (processes if train.shard == "fsdp" else 1)
    return round(4 * (held + train.share(processes).windows_at_once * model.context_length * per_token))


def _fits(facts: Facts, plan: Plan) -> bool:
    return facts.memory is None or training_memory(plan.model, plan.train, facts.hardware) <= facts.memory


def check_memory(plan: Plan, available: int | None, hardware: Hardware | None = None) -> None:
    """Raises `LimitError` when training would need more than `available` bytes in a process."""
    needed = training_memory(plan.model, plan.train, hardware)
    if available is not None and needed > available:
        raise LimitError(
            f"training would need about {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are free; "
            f"{less_memory(plan)}."
        )


def less_memory(plan: Plan) -> str:
    """What to ask for where memory is short, as a command."""
    train = plan.train
    if (more := more_parts(train)) is not None:
        return f"use --accumulate {more}, a smaller --batch-size than {train.batch_size}, a smaller --context or --size"
    if not train.recompute:
        return f"use --recompute, a smaller --context than {plan.model.context_length} or a smaller --size"
    return f"use a smaller --context than {plan.model.context_length} or a smaller --size"


def serve(plan: Plan, processes: int) -> Plan:
    """`plan` with batches of which each process gets a window for each part; those that were asked for stay."""
    fewest = processes * plan.train.accumulate
    if plan.train.batch_size >= fewest or "batch_size" in plan.given:
        return plan
    reason = f"batches of {fewest}, a window for each process"
    train = dataclasses.replace(plan.train, batch_size=fewest)
    return dataclasses.replace(plan, train=train, reasons=(*plan.reasons, reason))


def more_parts(train: TrainConfig) -> int | None:
    """The next larger number of equal parts for a batch; None where each part is one window."""
    later = range(train.accumulate + 1, min(train.batch_size, MOST_PARTS) + 1)
    return next((parts for parts in later if train.batch_size % parts == 0), None)


def check_request(
    hardware: Hardware,
    architecture: str | None,
    size: str | None,
    overrides: Mapping[str, Any],
    base: ModelConfig | None = None,
) -> None:
    """Raises `UsageError` at once for settings that no text could make possible."""
    some_text = Facts(n_bytes=1 << 20, n_tokens=1 << 19, vocab_size=1024, hardware=hardware)
    make_plan(some_text, architecture=architecture, size=size, overrides=overrides, base=base)


def _longest_context(facts: Facts) -> int:
    """A context that the text fills at least four times."""
    return 2 ** int(math.log2(max(16, facts.n_tokens // 4)))


def _on_gpu(facts: Facts) -> bool:
    return facts.hardware.device.type != "cpu"


def _names(config: type) -> set[str]:
    return {f.name for f in dataclasses.fields(config)}

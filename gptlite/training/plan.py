"""From a text, a machine and a budget to a model and a way to train it.

Candidates are a ladder of shapes, each larger than the one below. The scaling law says how many bits per
byte each would reach with the tokens that it can read in time, and how fast it reads is measured on this machine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gptlite.config import ARCHITECTURES, MEMBERS, SIZES, ModelConfig, TrainConfig
from gptlite.device import Hardware
from gptlite.errors import UsageError
from gptlite.text.tokenizer import LARGEST_VOCABULARY
from gptlite.training import scaling_law
from gptlite.training.calibration import can_calibrate, check_calibration
from gptlite.training.ensemble import WIDTHS, can_have_members, check_members, repeated
from gptlite.training.memory import save_seconds, training_memory
from gptlite.training.planned import Expected, Facts, Plan
from gptlite.training.reason import Reason
from gptlite.training.speed import Speed, guess_speed

TOKENS_PER_STEP = {"cpu": 2048, "gpu": 16384}
SCORES, SAVES = 10, 10  # in a run, unless `eval_every` or `save_every` say otherwise
QUICK_WINDOWS = 96  # windows of held-out text that a score on the way is made of, at most
FINAL_WINDOWS = 4096  # at most, at the end; `gptlite eval` scores everything
READING_RATE = 5e4  # bytes of text per second
SHORTEST_LIMIT = 1 << 22  # bytes
OVERHEAD_SHARE = 0.1  # of a time budget: start, vocabulary, scores, saves

# Layers and width, by number of parameters.
LADDER = (
    (2, 64), (3, 96), (4, 128), (4, 192), (6, 192), (4, 256), (6, 256), (6, 320), (6, 384), (8, 512),
    (12, 640), (12, 768),
)  # fmt: skip
LARGEST_ON_CPU = (6, 384)
WIDE = 320

# A model that is trained already takes a share of the learning rate of a new one, which rises for longer, because the
# optimizer does not know the model yet. Where old text is replayed, a larger share learns more of the new text and
# forgets no more of the old (docs/lab/log.md).
CONTINUED_RATE, REPLAYED_RATE, LONGER_WARMUP = 0.1, 0.6, 0.1
LONGEST_WINDOW = 1024  # tokens, unless `context_length` asks for more

SMALL_TEXT = 1 << 20  # tokens: a larger one takes long to count, and more memory than a model
WIDEST_ENSEMBLE = 1024  # of all members together, unless more are asked for: what is saved grows with the square
# The context of a small model, by how often the text is read: a longer one takes more time per token, and predicts
# better (docs/lab/log.md). Of a text of fewer tokens than `scaling_law.LONG_TEXT`, 256 predicted no better than 128.
CONTEXTS = ((2.0, 128), (6.0, 256), (math.inf, 512))
FEWEST_STEPS, SMALLEST_BATCH = 100, 4  # smaller batches pay where there is time for fewer steps
SUITED = ("dropout", "ngram_weight", "calibration")  # what follows from how often the text is read
NARROWEST_FOR_BIGRAMS = 8  # components of a vector

Measure = Callable[[ModelConfig, TrainConfig], Speed | None]  # None when there is no time left to measure


@dataclass(frozen=True)
class Request:
    """What is asked of a plan: fields of the two configurations, those that were given and no others."""

    architecture: str
    size: str
    shape: dict[str, Any]  # of the ModelConfig
    training: dict[str, Any]  # of the TrainConfig
    asked: tuple[str, ...]  # names, for `Plan.given`

    @property
    def fixes_shape(self) -> bool:
        return self.size != "auto" or {"n_layers", "dim"} <= self.shape.keys()


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

    Where the run starts from a trained model of shape `base`, only how to train is left to choose. With a time budget
    and `measure`, candidates are timed on this machine; a plan for a number of steps is the same everywhere.
    Raises `UsageError` for an unknown size, architecture or field.
    """
    request = read_request(architecture, size, overrides or {}, base)
    if base is None and not request.fixes_shape:
        return _search(facts, request, measure)
    plan = _plan_for(facts, request) if base is None else _plan_from_model(facts, request, base)
    timed = measure is not None and plan.train.seconds is not None and _fits(facts, plan)
    return _suit_speed(facts, plan, measure(plan.model, plan.train) if measure and timed else None)


def read_request(
    architecture: str | None, size: str | None, overrides: Mapping[str, Any], base: ModelConfig | None
) -> Request:
    """The request with its defaults; fields that are None count as not given. Raises `UsageError` as `make_plan`."""
    if base is not None and (architecture or size):
        name = "architecture" if architecture else "size"
        raise UsageError(f"the model of `init_from` has its own shape; leave `{name}` out.")
    given = {name: value for name, value in overrides.items() if value is not None}
    for name in ("architecture", "vocab_size"):
        if name in given:
            raise UsageError(f"`{name}` is an argument of its own.")
    shape = {name: given[name] for name in given if name in _fields(ModelConfig)}
    training = {name: given[name] for name in given if name not in shape}
    if unknown := sorted(set(training) - _fields(TrainConfig)):
        raise UsageError(f"unknown setting '{unknown[0]}'.")
    if training.get("members", 1) not in MEMBERS:  # which `TrainConfig` says too, but not before shapes are multiplied
        raise UsageError(f"`members` must be 1, 2, 4 or 8, not {training['members']}.")
    size = size or "auto"
    if size != "auto" and size not in SIZES:
        raise UsageError(f"unknown size '{size}': choose from auto, {', '.join(SIZES)}.")
    if "steps" in training or "epochs" in training:
        training.setdefault("seconds", None)
    asked = tuple(sorted({*given, *(("size",) if size != "auto" else ())}))
    return Request(architecture or ModelConfig.architecture, size, shape, training, asked)


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


def expect(facts: Facts, plan: Plan, speed: Speed | None = None, ngram_bits: float | None = None) -> Expected:
    """What training as planned leads to, at the measured speed or a rough guess of it.

    - `ngram_bits`: bits per byte of a 5-gram on the held-out text, which tells how hard the text is.
    The result is None for runs that read fewer tokens than those which the scaling law was fitted to.
    """
    config, context = plan.train, plan.model.context_length
    rate = speed.tokens_per_second if speed else guess_speed(plan.member, facts.hardware)
    per_step = config.batch_size * (facts.row_tokens or context)
    steps: float = config.total_steps(facts.n_tokens / per_step) or math.inf
    # A window is scored by a forward pass, about a third of a step, and moves on by half a context.
    windows = min(FINAL_WINDOWS, 2 * facts.val_tokens // context) + (SCORES + 1) * QUICK_WINDOWS
    saves = (SAVES + 1) * save_seconds(plan.model, config)
    scoring = config.members * windows * context / (3 * rate)  # by all members for each window
    seconds = (1 + config.context_encoder) * steps * per_step / rate + scoring + saves
    if config.seconds is not None:
        seconds = min(seconds, config.seconds)
        steps = min(steps, (1 - OVERHEAD_SHARE - config.context_encoder) * config.seconds * rate / per_step)
    tokens = steps * per_step
    bits = None
    if ngram_bits is not None and tokens >= scaling_law.FEWEST_TOKENS:
        bits = scaling_law.scaled_by_ngram(_law(facts, plan, tokens), ngram_bits, facts.n_bytes)
    memory = training_memory(plan.model, config, facts.hardware)
    epochs = min(tokens / facts.n_tokens, config.most_epochs or math.inf)  # of steps, whole ones may be a little more
    return Expected(rate, steps, epochs, seconds, memory, bits)


def predicted(facts: Facts, plan: Plan, speed: Speed | None) -> float:
    """Bits per byte, on the scale of the scaling law, that `plan` leads to at the measured `speed` or a guess."""
    return _law(facts, plan, expect(facts, plan, speed).epochs * facts.n_tokens)


def one_window_each(plan: Plan, processes: int) -> Plan:
    """`plan` with batches of which each process gets a window for each part; a size that was asked for stays."""
    fewest = processes * plan.train.accumulate
    if plan.train.batch_size >= fewest or "batch_size" in plan.given:
        return plan
    return plan.with_train(Reason("processes", {"batch_size": fewest}), batch_size=fewest)


# -- Choosing a shape


def _search(facts: Facts, request: Request, measure: Measure | None) -> Plan:
    """The best of the shapes that the request allows and that fit into memory."""
    plans: list[Plan] = []
    refusals: list[UsageError] = []
    for rung in LADDER if _on_gpu(facts) else LADDER[: LADDER.index(LARGEST_ON_CPU) + 1]:
        try:
            plans.append(_plan_for(facts, request, rung))
        except UsageError as error:  # a number of heads that was asked for does not divide every width
            refusals.append(error)
    if not plans:
        raise refusals[0]
    fitting = [plan for plan in plans if _fits(facts, plan)]
    return _best(facts, fitting or plans[:1], measure if fitting else None)


def _best(facts: Facts, plans: list[Plan], measure: Measure | None) -> Plan:
    """Of plans from small to large models, the one with the fewest predicted bits; its neighbours are measured too."""
    speeds: dict[int, Speed] = {}

    def bits(i: int) -> float:
        return predicted(facts, _best_members(facts, plans[i], speeds.get(i)), speeds.get(i))

    best = min(range(len(plans)), key=bits)
    timing = measure is not None and plans[best].train.seconds is not None
    while timing and (untimed := [i for i in (best, best - 1, best + 1) if 0 <= i < len(plans) and i not in speeds]):
        assert measure is not None
        speed = measure(plans[untimed[0]].model, plans[untimed[0]].train)
        if speed is None:  # no time left
            break
        speeds[untimed[0]] = speed
        best = min(speeds, key=bits)
    chosen = _best_members(facts, plans[best], speeds.get(best))
    reason = Reason(
        "shape",
        {
            "members": chosen.train.members,
            "n_layers": chosen.model.n_layers,
            "dim": chosen.member.dim,
            "n_tokens": facts.n_tokens,
            "seconds": chosen.train.seconds,
            "device": facts.hardware.device.type,
            "timed": len(speeds),
        },
    )
    return _suit_speed(facts, dataclasses.replace(chosen, reasons=(reason, *chosen.reasons)), speeds.get(best))


def _best_members(facts: Facts, plan: Plan, speed: Speed | None) -> Plan:
    """`plan` with as many members as lead to the fewest predicted bits, where they were measured: small texts that are
    plain, a time budget, a CPU."""
    config = plan.train
    free = not {"members", "batch_size", "context_encoder", "n_layers", *WIDTHS} & set(plan.given)
    small = facts.n_tokens <= SMALL_TEXT and _is_plain_on_cpu(facts)
    can = can_have_members(plan.model) and facts.hardware.processes == 1
    if not (free and small and can) or config.seconds is None:
        return plan
    several = [plan.with_members(n) for n in MEMBERS[1:] if n * plan.model.dim <= WIDEST_ENSEMBLE]
    plans = [plan, *(each for each in several if _fits(facts, each))]
    suited = [_before_memorising(facts, each, speed) for each in plans]
    return min(suited, key=lambda each: predicted(facts, each, speed))


def _before_memorising(facts: Facts, plan: Plan, speed: Speed | None) -> Plan:
    """`plan` with what suits how often the text is read; several models stop before their mean becomes worse."""
    members, epochs = plan.train.members, expect(facts, plan, speed).epochs
    each = scaling_law.most_epochs(plan.member, facts.n_tokens)
    if members > 1 and each < math.inf:
        reason = Reason("most_epochs", {"epochs": each}) if epochs > members * each else None
        plan = plan.with_train(reason, most_epochs=members * each)
        epochs = min(epochs, members * each)
    return _suit_epochs(facts, plan, epochs)


def _plan_for(facts: Facts, request: Request, layers_and_dim: tuple[int, int] | None = None) -> Plan:
    """The plan for a new model of one shape, that of the size where none is named; the rest follows from it."""
    if request.training.get("init") == "model":
        raise UsageError("to start from a trained model, name it with `init_from`.")
    size = "small" if request.size == "auto" else request.size
    shape: dict[str, Any] = {"context_length": SIZES[size]["context_length"]}
    if layers_and_dim is not None:
        n_layers, dim = layers_and_dim
        shape = {"n_layers": n_layers, "dim": dim, "context_length": 128 if dim < WIDE else 256}
    shape["context_length"] = min(shape["context_length"], longest_context(facts.n_tokens))
    shape |= request.shape
    init = request.training.get("init") or _usual_init(request, shape.get("dim") or SIZES[size]["dim"])
    if init == "bigrams" and shape.setdefault("tie_embeddings", False):
        raise UsageError("to start from bigrams, embeddings and head must not be tied; use `init='random'`.")
    model = ModelConfig.preset(request.architecture, size, facts.vocab_size, **shape)
    plan = _add_training(facts, request, repeated(model, request.training.get("members", 1)), init)
    suits = layers_and_dim is not None and "context_length" not in request.shape
    if suits and model.dim < WIDE and scaling_law.LONG_TEXT <= facts.n_tokens <= SMALL_TEXT and _is_plain_on_cpu(facts):
        epochs = expect(facts, plan).epochs
        context = next(context for most, context in CONTEXTS if epochs < most)
        if context != model.context_length:
            longer = dataclasses.replace(plan.model, context_length=context)
            return _add_training(facts, request, longer, init)
    return plan


def _usual_init(request: Request, dim: int) -> str:
    """Vectors start from bigrams where blocks start as the identity and the head is not the embedding."""
    pre_norm = ARCHITECTURES.get(request.architecture, {}).get("norm_position") == "pre"
    tied = request.shape.get("tie_embeddings", not pre_norm)
    return "bigrams" if pre_norm and not tied and dim >= NARROWEST_FOR_BIGRAMS else "random"


def can_start_from_bigrams(model: ModelConfig) -> bool:
    """Is it a shape whose vectors can start from bigrams?"""
    return model.norm_position == "pre" and not model.tie_embeddings and model.dim >= NARROWEST_FOR_BIGRAMS


def _plan_from_model(facts: Facts, request: Request, base: ModelConfig) -> Plan:
    """The plan for a model that is trained already: windows as long as it sees, within reason, and small rates."""
    if others := [name for name in request.shape if name != "context_length"]:
        raise UsageError(f"the model of `init_from` has its own shape; leave `{others[0]}` out.")
    init = request.training.get("init", "model")
    if init != "model":
        raise UsageError(f"`init='{init}'` is for a new model; leave it out with `init_from`.")
    longest = base.context_length
    context = request.shape.get("context_length", min(longest, LONGEST_WINDOW, longest_context(facts.n_tokens)))
    if context > longest:
        raise UsageError(f"`context_length={context}`: the model of `init_from` sees at most {longest:,} tokens.")
    plan = _add_training(facts, request, dataclasses.replace(base, context_length=context), "model")
    if context < longest and "context_length" not in request.shape:
        reason = Reason("context_length", {"context_length": context, "longest": longest})
        plan = dataclasses.replace(plan, reasons=(reason, *plan.reasons))
    return plan


# -- Choosing how to train


def _add_training(facts: Facts, request: Request, model: ModelConfig, init: str) -> Plan:
    """The plan for a model: how to train it, as far as the request leaves that open."""
    given = request.training
    tokens = TOKENS_PER_STEP["gpu" if _on_gpu(facts) else "cpu"]
    members = given.get("members", 1)
    batch_size = _whole_parts(max(SMALLEST_BATCH, tokens // model.context_length), given.get("accumulate", 1)) * members
    reasons: tuple[Reason, ...] = ()
    lr = _new_rate(model, members, given.get("optimizer", TrainConfig.optimizer))
    chosen: dict[str, Any] = {"init": init, "batch_size": batch_size, "lr": lr}
    if model.norm_position == "post":
        chosen["warmup"] = 0.1
    if init == "model":
        replay = given.get("replay", 0.0)
        chosen["lr"] = round((REPLAYED_RATE if replay else CONTINUED_RATE) * lr, 6)
        chosen["warmup"] = LONGER_WARMUP
        if replay and "lr" not in given:
            reasons = (Reason("replay", {"lr": chosen["lr"], "share": REPLAYED_RATE, "replay": replay}),)
    plan = Plan(model, TrainConfig(**{**chosen, **given}), reasons, request.asked)
    check_members(plan.model, plan.train, facts.hardware.processes)
    check_calibration(plan.model, plan.train)
    return _suit_epochs(facts, plan, expect(facts, plan).epochs)


def _new_rate(model: ModelConfig, members: int, optimizer: str) -> float:
    """The learning rate of a new model.

    Under AdamW wider models want smaller steps (Yang et al. 2022); so does the norm after each sub-layer.
    """
    rate = round(3e-3 * 192 * members / model.dim, 5) if optimizer == "adamw" else TrainConfig.lr
    return round(0.35 * rate, 5) if model.norm_position == "post" else rate


def _suit_speed(facts: Facts, plan: Plan, speed: Speed | None) -> Plan:
    """At the measured `speed`: smaller batches where the time allows few steps, dropout where it allows many."""
    if speed is None or plan.train.seconds is None:
        return plan
    steps, usual = expect(facts, plan, speed).steps, plan.train.batch_size
    members = plan.train.members
    if steps < FEWEST_STEPS and "batch_size" not in plan.given:
        of_one = max(SMALLEST_BATCH, int(usual * steps / FEWEST_STEPS) // members)
        fewer = members * _whole_parts(of_one, plan.train.accumulate)
        reason = Reason("batch_size", {"batch_size": fewer, "steps": steps, "usual": usual})
        plan = plan.with_train(reason, batch_size=fewer)
    return _suit_epochs(facts, plan, expect(facts, plan, speed).epochs)


def _suit_epochs(facts: Facts, plan: Plan, epochs: float) -> Plan:
    """Soft targets and dropout for a text that is read `epochs` times, instead of what an earlier guess led to."""
    epochs /= plan.train.members  # each reads windows of its own
    others = tuple(reason for reason in plan.reasons if reason.about not in SUITED)
    plan = dataclasses.replace(plan, reasons=others)
    if "ngram_weight" not in plan.given:
        small = facts.n_tokens <= SMALL_TEXT and not (facts.mixed or _on_gpu(facts))  # as was measured
        weight = 0.0
        if small and plan.train.init != "model":
            n, vocabulary = facts.n_tokens, plan.model.vocab_size
            weight = scaling_law.best_ngram_weight(epochs, n, vocabulary, plan.train.seconds)
        reason = Reason("ngram_weight", {"weight": weight, "epochs": epochs}) if weight else None
        plan = plan.with_train(reason, ngram_weight=weight)
    if "dropout" not in plan.given:
        members, soft_targets = plan.train.members, plan.train.ngram_weight > 0
        dropout = scaling_law.best_dropout(plan.member, epochs, facts.n_tokens, members, soft_targets)
        reason = Reason("dropout", {"dropout": dropout, "epochs": epochs}) if dropout else None
        plan = plan.with_train(reason, dropout=dropout)
    if "calibration" not in plan.given:
        temperature = 1.0
        if can_calibrate(plan.model):
            temperature = scaling_law.best_temperature(epochs, facts.n_tokens, plan.train.ngram_weight > 0)
        reason = Reason("calibration", {"temperature": temperature, "epochs": epochs}) if temperature != 1 else None
        plan = plan.with_train(reason, calibration=temperature)
    return plan


def _whole_parts(batch_size: int, accumulate: int) -> int:
    """The next batch size that `accumulate` divides."""
    return -(-batch_size // accumulate) * accumulate if accumulate > 0 else batch_size


def _law(facts: Facts, plan: Plan, tokens: float) -> float:
    members, soft_targets = plan.train.members, plan.train.ngram_weight > 0
    tokens /= members  # that each reads
    bits = scaling_law.predicted_bits(plan.member, tokens, facts.n_tokens, facts.n_bytes, soft_targets)
    bits -= scaling_law.members_gain(members, tokens / facts.n_tokens, facts.n_tokens, soft_targets)
    bits -= scaling_law.TEMPERATURE_GAIN if plan.train.calibration == scaling_law.TEMPERATURE else 0.0
    return bits - (scaling_law.ngram_gain(facts.n_tokens) if soft_targets else 0.0)


def _fits(facts: Facts, plan: Plan) -> bool:
    return facts.memory is None or training_memory(plan.model, plan.train, facts.hardware) <= facts.memory


def longest_context(n_tokens: int) -> int:
    """A context that a text of `n_tokens` fills at least four times."""
    return 2 ** int(math.log2(max(16, n_tokens // 4)))


def _is_plain_on_cpu(facts: Facts) -> bool:
    """Is it what members and longer contexts were measured on: one running text, on a CPU?"""
    return not (_on_gpu(facts) or facts.mixed or facts.row_tokens)


def _on_gpu(facts: Facts) -> bool:
    return facts.hardware.device.type != "cpu"


def _fields(config: type) -> set[str]:
    return {field.name for field in dataclasses.fields(config)}

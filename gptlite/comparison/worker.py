"""One contender in a process of its own: `python -m gptlite.comparison.worker`, with its task on standard input.

It trains, measures, and saves its directory with one rename; then it ends. On standard output it writes lines of JSON:
`{"phase": ..., "fraction": ...}` as it goes on, or `{"error": ..., "kind": ...}` where it cannot.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save
from torch import Tensor

from gptlite.comparison import answering, branch, copying, measures, speed
from gptlite.comparison.contenders import CONTENDERS, GPTLITE, Contender, Protocol
from gptlite.comparison.emerging import Watched
from gptlite.comparison.fit import MOST_TRIALS, Fitted, Trial, best_rate, fit, sweep
from gptlite.comparison.networks import Network, Shape
from gptlite.comparison.predictors import Counts, NetworkPredictor, Predictor
from gptlite.comparison.store import RESULT, SPEED
from gptlite.device import Hardware, choose_hardware, keeping_freed_memory
from gptlite.errors import GptliteError, NumericsError
from gptlite.evaluation.scoring import sliding_windows, spread
from gptlite.kernels.folder import use_private_inductor_cache
from gptlite.storage import durable
from gptlite.text.batches import Batches
from gptlite.text.pairs import Boundaries, PairBatches, PairFormat
from gptlite.text.token_files import TokenFile
from gptlite.text.tokenizer import Tokenizer
from gptlite.training import launch, pauses
from gptlite.training.soft_targets import SoftTargets, ngram_targets, with_places

WEIGHTS = "model.safetensors"
# Windows of held-out text on the way, more where there is more time; the same ones for all contenders. And at the end.
FEWEST_QUICK, MOST_QUICK, QUICK_PER_SECOND, FINAL_WINDOWS = 8, 64, 0.5, 1024
SPEED_TASK = "speed"  # the name of the task that times all networks together


@dataclass(frozen=True)
class Task:
    """What a worker is told.

    - `name`: of a contender, or `SPEED_TASK`, which times those of `names`.
    """

    directory: str
    name: str
    names: tuple[str, ...]
    protocol: Mapping[str, Any]
    tokenizer: str
    tokens: Mapping[str, Any]
    val_tokens: Mapping[str, Any]


@dataclass(frozen=True)
class Data:
    """The text of a comparison as a worker sees it."""

    tokens: TokenFile
    train_ids: np.ndarray
    val_ids: np.ndarray
    tokenizer: Tokenizer
    token_bytes: np.ndarray  # (V,) of the text that each id spells

    @classmethod
    def of(cls, task: Task, protocol: Protocol) -> Data:
        tokens, val_tokens = (TokenFile(**{**t, "path": Path(t["path"])}) for t in (task.tokens, task.val_tokens))
        tokenizer = Tokenizer.from_json(task.tokenizer)
        if protocol.pairs:
            tokenizer = tokenizer.for_pairs(PairFormat(protocol.pairs["kind"], tuple(protocol.pairs["given"])))
        lengths = np.array(tokenizer.byte_lengths(protocol.model["vocab_size"])) * protocol.byte_scale
        return cls(tokens, tokens.ids(), np.asarray(val_tokens.ids()), tokenizer, lengths)


def main() -> int:
    task = Task(**json.loads(sys.stdin.read()))
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    launch.end_with_launcher()
    use_private_inductor_cache()
    try:
        with pauses.noticing_pauses(), keeping_freed_memory():
            run(task)
    except GptliteError as error:
        _say({"error": str(error), "kind": type(error).__name__})
        return error.exit_code
    return 0


def _say(facts: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


_told = 0.0


def tell(phase: str, fraction: float) -> None:
    """Progress, a few times a second at most."""
    global _told
    if time.monotonic() - _told > 0.3 or fraction == 0.0:
        _told = time.monotonic()
        _say({"phase": phase, "fraction": fraction})


def run(task: Task) -> None:
    """Do the task, and save what came of it in the directory of the comparison. Raises the errors of `errors`."""
    protocol = Protocol(**task.protocol)
    machine = {name: protocol.machine[name] for name in ("device", "dtype", "threads")}
    hardware = choose_hardware(**machine, compile="auto")
    shape, directory = Shape.of(protocol), Path(task.directory)
    if task.name == SPEED_TASK:
        found = speed.measure([CONTENDERS[name] for name in task.names], shape, hardware, tell)
        durable.replace_file(directory / SPEED, durable.json_bytes({"names": list(task.names), "speeds": found}))
        return
    contender, data = CONTENDERS[task.name], Data.of(task, protocol)
    if contender.kind == "ngram":
        result, weights = _count(contender, protocol, shape, data), {}
    elif contender.kind == "masked":
        text, val = (data.tokenizer.decode(ids.tolist()) for ids in (data.train_ids, data.val_ids))
        budget = branch.Budget(protocol.seconds)
        result, model = branch.measure(
            text, val, data.tokenizer, shape, hardware, budget, protocol.seed, tell, protocol.prompt
        )
        weights = _saved(model.state_dict())
    else:
        result, weights = _train(contender, protocol, shape, data, hardware)
    files = {RESULT: durable.json_bytes(result), **weights}
    durable.write_directory(directory / contender.name, files, {"contender": contender.name})


def _count(contender: Contender, protocol: Protocol, shape: Shape, data: Data) -> dict[str, Any]:
    """An n-gram: counted in one pass, so it has one point instead of a curve, and nothing to learn copying with."""
    tell("counting", 0.0)
    order = 1 if contender.name == "unigram" else 5
    began = pauses.now()
    predictor = Counts(data.train_ids, shape.model.vocab_size, order)
    seconds = pauses.now() - began
    fitted = Fitted(steps=1, tokens=len(data.train_ids), seconds=seconds)
    measured = _measure(predictor, protocol, shape, data)
    point = {"seconds": round(seconds, 3), "n_tokens": fitted.tokens, "bits_per_byte": measured["bits_per_byte"]}
    made_up = Counts(_made_up_text(protocol.seed), copying.VOCABULARY, order)
    return {
        **_facts(contender, 0, fitted, None, ()),
        **measured,
        "curve": [point],
        "copy": measures.test_copying(made_up, protocol.seed),
    }


def _made_up_text(seed: int) -> np.ndarray:
    """Examples of the copy test one after another, for models that count."""
    parts = []
    for step in range(40):
        windows = copying.batch(step, seed).numpy()
        parts.append(np.where(windows < 0, ~windows, windows).ravel())
    return np.concatenate(parts)


@dataclass(frozen=True)
class _Work:
    """What training and measuring need of the text: running text, or pairs."""

    batch: Callable[[int, SoftTargets | None], Tensor]  # of a step; with places where there are soft targets
    score: Callable[[Network], float]  # bits per byte on the way
    measure: Callable[[Network], dict[str, Any]]  # in the end


def _on_text(contender: Contender, protocol: Protocol, shape: Shape, data: Data, hardware: Hardware) -> _Work:
    batches = Batches(
        data.tokens,
        context=shape.model.context_length,
        batch_size=shape.train.batch_size,
        seed=protocol.seed,
    )
    windows = sliding_windows(len(data.val_ids), shape.model.context_length)
    quick = spread(windows, _n_quick(protocol))

    def score(network: Network) -> float:
        return measures.score_windows(NetworkPredictor(network), data.val_ids, quick, data.token_bytes).bits_per_byte

    def measure(network: Network) -> dict[str, Any]:
        measured = _measure(NetworkPredictor(network), protocol, shape, data)
        return {**measured, "copy": _learn_to_copy(contender, protocol, hardware)}

    return _Work(lambda step, targets: with_places(batches.batch(step), step, batches, targets), score, measure)


def _on_pairs(protocol: Protocol, shape: Shape, data: Data) -> _Work:
    context, begin = shape.model.context_length, shape.begin
    assert begin is not None
    batches = PairBatches(
        data.tokens, data.tokenizer, context=context, batch_size=shape.train.batch_size, seed=protocol.seed
    )
    held_out = answering.held_out_pairs(data.val_ids, Boundaries.of(data.tokenizer), context)
    quick = spread(held_out, 4 * _n_quick(protocol))  # pairs are short
    return _Work(
        lambda step, _: answering.last_answer_alone(batches.batch(step), begin),
        lambda network: answering.score_answers(network, quick, data.token_bytes).bits_per_byte,
        lambda network: answering.measure(network, data.tokenizer, data.val_ids, data.token_bytes, context),
    )


def _n_quick(protocol: Protocol) -> int:
    return max(FEWEST_QUICK, min(MOST_QUICK, int(QUICK_PER_SECOND * protocol.seconds)))


def _train(
    contender: Contender, protocol: Protocol, shape: Shape, data: Data, hardware: Hardware
) -> tuple[dict[str, Any], dict[str, bytes]]:
    if protocol.pairs:
        shape = dataclasses.replace(shape, begin=Boundaries.of(data.tokenizer).answer)
        work = _on_pairs(protocol, shape, data)
    else:
        work = _on_text(contender, protocol, shape, data, hardware)

    trials: list[Trial] = []
    each = protocol.sweep_seconds / MOST_TRIALS
    if contender.start_rate:

        def try_rate(rate: float) -> float:
            network = Network(contender, shape, hardware, rate, protocol.seed)
            score = partial(work.score, network)
            return fit(
                network, lambda step: work.batch(step, None), each, score, lambda *_: None, scored_at=(1.0,)
            ).best

        trials = sweep(try_rate, contender.start_rate, tell, contender.highest_rate)
    # A short run of the Transformer of 2017 is mostly warm-up, and wants no higher rate than a long one.
    share = each / protocol.seconds if contender.is_recurrent else 1.0
    rate = best_rate(trials, share) if trials else shape.train.lr
    network = Network(contender, shape, hardware, rate, protocol.seed)
    began = pauses.now()
    network.start_from_counts(data.train_ids)
    targets = _soft_targets(contender, shape, data)
    network.learn_from(targets)
    begun = pauses.now() - began
    watched = _watched(contender, network, protocol, data)
    look = watched.look if watched else lambda *_: None
    fitted = fit(
        network, lambda step: work.batch(step, targets), protocol.seconds, partial(work.score, network), tell,
        begun=begun, look=look,
    )  # fmt: skip
    if fitted.diverged:
        raise NumericsError(
            f"the {contender.title} diverged at the learning rate {rate:g}: its loss is no number; try another `seed`."
        )
    tell("measuring", 0.0)
    result = {
        **_facts(contender, network.n_params, fitted, rate, trials),
        **work.measure(network),
        "curve": [
            {"seconds": p.seconds, "n_tokens": p.tokens, "bits_per_byte": p.bits_per_byte} for p in fitted.points
        ],
    }
    weights = _saved(network.weights())
    if watched is None:
        return result, weights
    return {**result, "init": watched.init, "heads": watched.heads()}, {**weights, **watched.files()}


def _soft_targets(contender: Contender, shape: Shape, data: Data) -> SoftTargets | None:
    """Those of gptlite's plan, where it has them; counting them is a part of its time."""
    weight = shape.train.ngram_weight
    if contender.name != GPTLITE or not weight:
        return None
    return ngram_targets(data.train_ids, shape.model.vocab_size, weight, partial(tell, "counting n-grams"))


def _saved(weights: Mapping[str, Tensor]) -> dict[str, bytes]:
    return {WEIGHTS: save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()})}


def _watched(contender: Contender, network: Network, protocol: Protocol, data: Data) -> Watched | None:
    """What looks at a Transformer on running text while it trains; its sentence is the prompt, or held-out text."""
    if contender.kind != "transformer" or protocol.pairs:
        return None
    prompt = data.tokenizer.encode(protocol.prompt)
    sentence = (
        prompt if len(prompt) > 2 else [i for i in data.val_ids[:64].tolist() if i != data.tokenizer.separator_id]
    )
    return Watched(network, data.tokenizer, data.train_ids, sentence)


def _facts(
    contender: Contender, n_params: int, fitted: Fitted, rate: float | None, trials: list[Trial] | tuple[()]
) -> dict[str, Any]:
    return {
        "name": contender.name,
        "n_parameters": n_params,
        "seconds": round(fitted.seconds, 3),
        "n_steps": fitted.steps,
        "n_tokens_seen": fitted.tokens,
        "learning_rate": rate,
        "sweep": [
            {
                "learning_rate": t.learning_rate,
                "bits_per_byte": t.bits_per_byte if math.isfinite(t.bits_per_byte) else None,
            }
            for t in trials
        ],
    }


def _measure(predictor: Predictor, protocol: Protocol, shape: Shape, data: Data) -> dict[str, Any]:
    context, vocab_size = shape.model.context_length, data.tokenizer.vocab_size
    windows = spread(sliding_windows(len(data.val_ids), context), FINAL_WINDOWS)
    scored = measures.score_windows(predictor, data.val_ids, windows, data.token_bytes)
    interval = scored.interval()
    prompt = [data.tokenizer.separator_id, *data.tokenizer.encode(protocol.prompt)][-(context // 2) :]
    written = measures.write(predictor, prompt, protocol.seed, vocab_size, context)
    return {
        "bits_per_byte": scored.bits_per_byte,
        "bits_per_byte_interval": interval and list(interval),
        "val_bytes": round(float(scored.bytes.sum())),
        "windows": {"bits": scored.bits.round(3).tolist(), "bytes": scored.bytes.round(3).tolist()},
        "reach": measures.measure_reach(predictor, data.val_ids, context, data.token_bytes),
        "n_memory_numbers": predictor.memory(context),
        "seconds_per_written_token": measures.seconds_per_token(predictor, data.train_ids[:context].tolist(), context),
        "sample": data.tokenizer.decode(written),
    }


def _learn_to_copy(contender: Contender, protocol: Protocol, hardware: Hardware) -> list[dict[str, Any]]:
    """A small model of this kind learns the copy test for its seconds, and is tested."""
    model, train = copying.shape()
    shape = Shape(model, dataclasses.replace(train, seconds=protocol.copy_seconds))
    network = Network(contender, shape, hardware, copying.RATES[contender.name], protocol.seed)

    def told(_: str, fraction: float) -> None:
        tell("learning to copy", fraction)

    fit(network, lambda step: copying.batch(step, protocol.seed), protocol.copy_seconds, None, told)
    return measures.test_copying(NetworkPredictor(network), protocol.seed)


if __name__ == "__main__":
    sys.exit(main())

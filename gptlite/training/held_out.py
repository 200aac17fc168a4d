"""Scores on held-out text during and after training: how much of it is scored, when, and on which step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gptlite.baselines import ngram
from gptlite.checkpoint import saved_step
from gptlite.embedding.statistics import STATISTICS_TOKENS
from gptlite.errors import Interrupted
from gptlite.evaluation.scoring import Score, Window, score_model, spread
from gptlite.generation import answers
from gptlite.generation.decoding import choose_decoding
from gptlite.kernels.diagonal import without_zeros
from gptlite.model import GPT
from gptlite.training.clock import Clock
from gptlite.training.estimate import baseline_effort
from gptlite.training.failures import diverged, how_to_resume
from gptlite.training.memory import save_seconds
from gptlite.training.plan import FINAL_WINDOWS, QUICK_WINDOWS, SCORES
from gptlite.training.setup import Setup
from gptlite.training.state import ANSWERED, State
from gptlite.training.team import Team

EVALUATION_SHARE = 0.025  # of a time budget, for the score at the end; as much again for all those before
FIRST_WINDOWS = 32  # that the untrained model is scored on
FEWEST_QUICK_WINDOWS = 8  # of a score on the way
FEWEST_ANSWERED, ANSWERING_SHARE = 4, 0.01  # held-out pairs with each score; of a time budget, for all of them
# Parts that a confidence interval is made from; Student's t at 97.5 %, 19 degrees of freedom.
BLOCKS, T_VALUE = 20, 2.093
MOST_SCORES = 1000  # that are remembered besides the best one; a run may be scored after every step


def first_look(model: GPT, state: State, team: Team, setup: Setup) -> None:
    """Score the untrained model, which shows how long scoring takes, and see how much of it the budget can afford."""
    windows, clock = setup.windows, setup.clock
    evaluate(model, windows[:8], state, team, setup)  # the first pass of all is slower
    state.seconds_per_window = 0.0
    before = evaluate(model, spread(windows, FIRST_WINDOWS), state, team, setup)
    state.untrained_loss, state.untrained_bits_per_byte = before.loss, before.bits_per_byte
    if setup.plan.train.init == "model":
        setup.watcher.notice(f"before training, the held-out text takes {before.bits_per_byte:.3f} bits per byte.")
    reading = STATISTICS_TOKENS / setup.plan.model.context_length * state.seconds_per_window
    state.save_seconds = save_seconds(setup.plan.model, setup.plan.train) + reading
    state.scores, state.quick_windows = SCORES, min(len(windows), QUICK_WINDOWS)
    state.final_windows = min(len(windows), FINAL_WINDOWS)
    if clock.seconds is not None:
        affordable = int(EVALUATION_SHARE * clock.seconds / max(1e-9, state.seconds_per_window))
        state.scores = _how_often(clock, affordable // FEWEST_QUICK_WINDOWS)
        state.quick_windows = min(state.quick_windows, max(FEWEST_QUICK_WINDOWS, affordable // state.scores))
        state.final_windows = min(state.final_windows, max(state.quick_windows, affordable))
        if setup.baselines and (
            state.final_windows < len(windows) or (setup.baselines.get("val_bytes") or 0) < setup.held_out_bytes
        ):
            state.baseline_seconds = setup.baselines.get("seconds") or 0.0
        state.encoder_seconds = setup.plan.train.context_encoder * clock.seconds
    if setup.tokenizer.pairs:
        state.answered = affordable_answers(model, state, team, setup)
    state.loop_started = clock.elapsed()
    agreed = team.first(state.scores, state.quick_windows, state.final_windows)
    state.scores, state.quick_windows, state.final_windows = map(int, agreed)


def go_on(state: State, setup: Setup) -> None:
    """How often a run is scored that is resumed, perhaps with another budget, and what its end takes."""
    clock, state.scores = setup.clock, SCORES
    if clock.seconds is not None:
        state.encoder_seconds = setup.plan.train.context_encoder * clock.seconds
        affordable = int(EVALUATION_SHARE * clock.seconds / max(1e-9, state.seconds_per_window))
        state.scores = _how_often(clock, affordable // max(1, state.quick_windows))


def _how_often(clock: Clock, affordable: int) -> int:
    """Scores on the way, where so many can be afforded: each save has one."""
    return clock.saves * max(1, math.ceil(min(SCORES, affordable) / clock.saves))


def score_on_the_way(model: GPT, state: State, team: Team, setup: Setup) -> dict[str, float]:
    """Score the step on part of the held-out text and remember the score; returns the fields for the log."""
    result = evaluate(model, quick_windows(state, setup), state, team, setup)
    remember(state, result.bits_per_byte, MOST_SCORES)
    matched = exact_match(model, state.answered, team, setup)
    state.exact_match = matched.get("val_exact_match")
    return {"val_loss": result.loss, "val_bits_per_byte": result.bits_per_byte, **matched}


def affordable_answers(model: GPT, state: State, team: Team, setup: Setup) -> int:
    """How many held-out pairs are answered with each score, so that all of it stays within `ANSWERING_SHARE`.

    Measured with the untrained model, which rarely ends an answer: a trained one takes less time. A step is taken to
    last as long as three forward passes.
    """
    clock, n = setup.clock, FEWEST_ANSWERED
    began = clock.elapsed()
    exact_match(model, n, team, setup)
    per_pair = (clock.elapsed() - began) / n
    step = 3 * setup.plan.train.batch_size * state.seconds_per_window
    share = ANSWERING_SHARE * (clock.seconds or clock.total_steps * step) / max(1, state.scores)
    return max(n, min(state.answered, int(share / max(1e-9, per_pair))))


def exact_match(model: GPT, n: int, team: Team, setup: Setup) -> dict[str, float]:
    """Of a model of pairs, the share of n held-out answers that it writes exactly, for the log."""
    if not (setup.tokenizer.pairs and team.leads):
        return {}
    was_training, ids = model.training, setup.val_ids
    model.eval()
    chosen = spread(setup.windows, n)
    asked: list[tuple[list[int], str, str]] = []
    for window in chosen:
        end = window.start + window.length + 1
        begin = end - window.scored
        expected = setup.tokenizer.decode(ids[begin:end].tolist())
        asked.append((ids[window.start : begin].tolist(), "", expected))
    longest = max((window.scored for window in chosen), default=1)
    decoding = choose_decoding(model, 1, compile="off")
    found = list(answers.answer_ids(model, setup.tokenizer, asked, longest, decoding))
    model.train(was_training)
    return {"val_exact_match": answers.exact_match(found)}


def quick_windows(state: State, setup: Setup) -> list[Window]:
    """The windows that a score on the way is made of, spread over all held-out text."""
    return spread(setup.windows, state.quick_windows)


def remember(state: State, bits_per_byte: float, most: int) -> None:
    """Keep the score of this step, the best one, and of all others the `most` newest."""
    better = not state.history or bits_per_byte < min(state.history.values())
    state.scores_since_best = 0 if better else state.scores_since_best + 1
    state.history[state.step] = bits_per_byte
    if len(state.history) > most + 1:
        best = min(state.history, key=lambda step: state.history[step])
        del state.history[next(step for step in state.history if step != best)]


def evaluate(
    model: GPT,
    windows: Sequence[Window],
    state: State,
    team: Team,
    setup: Setup,
    between: Callable[[], object] = lambda: None,
) -> Score:
    """Score `windows` of the held-out text with the model as it is, and note in `state` how long a window takes.

    - `between`: called before every forward pass; what it raises ends the scoring.
    Raises `NumericsError` when the loss is not finite.
    """
    result = _score(model, windows, state, team, setup, between)
    setup.watcher.evaluated(state.step, result)
    return result


def _score(
    model: GPT, windows: Sequence[Window], state: State, team: Team, setup: Setup, between: Callable[[], object]
) -> Score:
    began = setup.clock.elapsed()
    share = team.share(windows, lambda window: replace(window, scored=0))
    hardware, n = setup.hardware.for_reading(), max(1, min(setup.workers.parts, len(share)))
    parts = [share[i * len(share) // n : (i + 1) * len(share) // n] for i in range(n)]
    was_training = model.training
    model.eval()  # before threads share it
    with without_zeros(model):
        scores = setup.workers.map(
            lambda part: score_model(model, setup.tokenizer, setup.val_ids, hardware, part, between=between), parts
        )
    model.train(was_training)
    own = (sum(s.nats for s in scores), sum(s.tokens for s in scores), sum(s.bytes for s in scores))
    nats, tokens, n_bytes = team.sums(*own)
    result = Score(nats, int(tokens), round(n_bytes * setup.byte_scale))
    taken = setup.clock.elapsed() - began
    state.seconds_per_window = max(state.seconds_per_window, taken / len(windows))
    if not math.isfinite(result.nats):
        raise diverged(setup, f"step {state.step}: the held-out loss is {result.loss:.3g}")
    return result


def evaluate_part(
    model: GPT, windows: Sequence[Window], state: State, team: Team, setup: Setup, between: Callable[[], object]
) -> tuple[Score, tuple[float, float] | None]:
    """Score `windows`, and the 95 % confidence interval, in bits per byte, of the score of all held-out text.

    The interval comes from how the scores of `BLOCKS` parts of the windows differ (a ratio of two sums); it is None
    where all of the text is scored, or too little for an interval.
    """
    n, blocks = len(windows), min(BLOCKS, len(windows))
    if n == len(setup.windows) or blocks < BLOCKS:
        return evaluate(model, windows, state, team, setup, between), None
    parts = [windows[i * n // blocks : (i + 1) * n // blocks] for i in range(blocks)]
    scores = [_score(model, part, state, team, setup, between) for part in parts]
    total = Score(sum(s.nats for s in scores), sum(s.tokens for s in scores), sum(s.bytes for s in scores))
    setup.watcher.evaluated(state.step, total)
    per_byte, unseen = total.nats / total.bytes, 1 - n / len(setup.windows)
    squares = sum((score.nats - per_byte * score.bytes) ** 2 for score in scores)
    error = math.sqrt(unseen * blocks / (blocks - 1) * squares) / total.bytes / math.log(2)
    return total, (total.bits_per_byte - T_VALUE * error, total.bits_per_byte + T_VALUE * error)


def same_bytes(result: Score, windows: Sequence[Window], setup: Setup) -> Mapping[str, Any] | None:
    """The baselines on the bytes that `result` was scored on, in `windows`; as before where they are the same."""
    before = setup.baselines
    if before is None or before.get("val_bytes") == result.bytes or not result.bytes:
        return before
    effort = baseline_effort(setup.plan.train.seconds)
    spellings = setup.tokenizer.token_bytes
    scale = setup.byte_scale
    return ngram.measure_windows(setup.all_ids, setup.val_ids, windows, spellings, effort, scale).to_dict()


def finish(model: GPT, state: State, team: Team, setup: Setup) -> dict[str, Any]:
    """Score the best step on as much of the held-out text as the budget allows; returns the facts of the run.

    Everything is saved by now, so a signal ends it between two forward passes, with `Interrupted`.
    """

    def stop_if_asked() -> None:
        if team.leads and (signal := setup.should_stop()):
            raise Interrupted(
                f"stopped before the final score; step {state.step}, the last, is saved; {how_to_resume(setup.run)}",
                signal,
            )

    if team.leads:
        setup.run.check_place()
    best = setup.run.best() if team.leads else None
    best_step = int(team.first(best.number if best else 0)[0])
    if best_step != state.step:
        tensors = saved_step.load(best.path, setup.hardware.device).model.state_dict() if best else None
        team.load(model, tensors)
    affordable, clock = state.final_windows, setup.clock
    if clock.seconds is not None:  # the machine may be slower now than it was
        left = clock.seconds - clock.elapsed()
        quick = len(quick_windows(state, setup))
        affordable = min(affordable, max(quick, int(left / max(1e-9, state.seconds_per_window))))
    (affordable,) = team.first(affordable)
    windows = spread(setup.windows, int(affordable))
    result, interval = evaluate_part(model, windows, state, team, setup, stop_if_asked)
    baselines = same_bytes(result, windows, setup) if team.leads else None
    elapsed, share = clock.elapsed(), setup.threads.share
    on_cpu = setup.hardware.device.type == "cpu"
    matched = exact_match(model, ANSWERED, team, setup)
    return {
        **matched,
        "run": str(setup.run.path),
        "step": state.step,
        "best_step": best_step,
        "n_parameters": setup.plan.model.n_params,
        "vocab_size": setup.plan.model.vocab_size,
        "n_tokens_seen": state.tokens,
        "tokens_per_second": round(state.tokens / max(1e-9, elapsed - state.loop_started)),
        "seconds": round(elapsed, 2),
        "train_loss_nats": state.train_loss,
        "val_loss_nats": result.loss,
        "val_bits_per_byte": result.bits_per_byte,
        "val_bits_per_byte_interval": interval and list(interval),
        "val_bytes": result.bytes,
        "held_out_bytes": setup.held_out_bytes,
        "processor_share": round(share, 3) if on_cpu and share is not None else None,
        "epochs": round(setup.batches.epochs(state.tokens, state.drawn), 3),
        "members": setup.plan.train.members,
        "baselines": baselines,
    }

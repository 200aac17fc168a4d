"""What the losses of a run say about it: overfitting, a training loss that climbs, and divergence."""

from __future__ import annotations

import math

from gptlite.errors import plural
from gptlite.training.failures import diverged
from gptlite.training.setup import Setup
from gptlite.training.state import State

HOPELESS, HOPELESS_STEPS = 1.0, 50  # nats per token above those of guessing, and for how many steps in a row
WORSE = 1.01  # times the best score: a difference that is not due to chance
OVERFITTING_EPOCHS = 2.0  # passes through the text before worse scores are called overfitting
RISE = 1.0  # nats per token that the training loss rises before anyone is told


def stops_early(state: State, setup: Setup) -> bool:
    """After a score: warn, once, when scores get worse; True when they did for `patience` scores in a row."""
    history, patience = state.history, setup.plan.train.patience
    best_step = min(history, key=lambda step: history[step])
    best, now = history[best_step], history[max(history)]
    scores_since = max(state.scores_since_best, sum(step > best_step for step in history))
    if scores_since >= 2 and now > WORSE * best:
        _warn_of_scores(best_step, best, now, state, setup)
    if patience and scores_since >= patience:
        setup.watcher.notice(
            f"stopped early: no better score since step {best_step:,}, {plural(scores_since, 'score')} ago."
        )
        return True
    return False


def _warn_of_scores(best_step: int, best: float, now: float, state: State, setup: Setup) -> None:
    """Say once that scores get worse, and why: overfitting only where the text was read often enough for that."""
    members = setup.plan.train.members
    epochs = setup.batches.epochs(state.tokens, state.drawn) / members
    by_whom = "" if members == 1 else f" by each of the {members} models"
    text = f"held-out text was predicted best at step {best_step:,} ({best:.3f} bits per byte, now {now:.3f})"
    if epochs >= OVERFITTING_EPOCHS and not state.warned_of_overfitting:
        state.warned_of_overfitting = True
        setup.watcher.notice(
            f"{text}, and the training text was read {epochs:,.1f} times{by_whom}: the model is overfitting. That step "
            "is kept; more text or more `dropout` would help more than more time, and `patience=2` stops by itself."
        )
    elif epochs < OVERFITTING_EPOCHS and not state.warned_of_variation:
        state.warned_of_variation = True
        setup.watcher.notice(
            f"{text}. That step is kept. The training text was read {epochs:,.2f} times{by_whom} so far, so this is no "
            "overfitting: the score still varies, less so as the learning rate falls."
        )


def watch_loss(state: State, setup: Setup) -> None:
    """Warn, once, when the training loss climbs, the first sign of divergence.

    Raises `NumericsError` when it stays so high that guessing among all tokens would be better: a learning rate that
    only falls does not bring such a run back.
    """
    assert state.train_loss is not None
    guessing = math.log(setup.plan.model.vocab_size)
    hopeless = state.train_loss > guessing + HOPELESS
    state.hopeless_steps = state.hopeless_steps + len(state.losses) if hopeless else 0
    if state.hopeless_steps >= HOPELESS_STEPS:
        raise diverged(setup, f"step {state.step}: its loss is {state.train_loss:.3g}, that of guessing {guessing:.3g}")
    lowest = state.train_loss if state.lowest_train_loss is None else state.lowest_train_loss
    if state.train_loss > lowest + RISE and not state.warned_of_rise:
        state.warned_of_rise = True
        setup.watcher.notice(
            f"the training loss rose from {lowest:.2f} to {state.train_loss:.2f} by step {state.step:,}; if it does "
            f"not fall again, start a new run with a smaller `lr` than {setup.plan.train.lr:g}."
        )
    state.lowest_train_loss = min(lowest, state.train_loss)

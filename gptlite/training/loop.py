"""The training loop, in the order things happen: step, watch, evaluate, sample, log, save.

`fit` and what it calls work on the model and its optimizers, the `State` that is saved with every step, the `Team` of
processes, and a `Setup` that does not change. The learning rate follows progress, the fraction of the budget that is
used, so the schedule ends at zero however fast the machine is. Evaluating, sampling and saving draw no random numbers
that training draws.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, optim

from gptlite.checkpoint.run_lock import RunLostError
from gptlite.config import SamplingConfig
from gptlite.errors import Interrupted
from gptlite.generation import generate
from gptlite.model import GPT
from gptlite.training import held_out, monitor, optimizer, pauses, saving, soft_targets
from gptlite.training.calibration import calibrate
from gptlite.training.context_encoder import make_context_encoder
from gptlite.training.failures import diverged, how_to_resume
from gptlite.training.setup import Setup
from gptlite.training.state import State
from gptlite.training.team import Team
from gptlite.training.watcher import Progress

LOG_EVERY = 10  # steps
LONGEST_SAMPLE = 100  # tokens
SHORTEST_PAUSE = 1.0  # seconds that the process was stopped before anyone is told


def fit(model: GPT, optimizers: list[optim.Optimizer], state: State, team: Team, setup: Setup) -> None:
    """Take optimizer steps until the budget is used; evaluate, sample and save on the way.

    Raises `Replanned` when training is to begin again with another plan, `NumericsError` when it diverges,
    `StorageError` when the last step cannot be saved, and `Interrupted` when `setup.should_stop` asked for the end and
    the step is saved.
    """
    config, clock, watcher = setup.plan.train, setup.clock, setup.watcher
    if state.step == 0:
        held_out.first_look(model, state, team, setup)
        saving.keep_table(model, state, team, setup, scored=False)
    else:
        held_out.go_on(state, setup)
    if team.leads:
        _ = setup.words, setup.word_vectors  # made now, so that no save takes longer than the others
    began, first_step, paused, saved = clock.elapsed(), state.step, 0.0, False
    model.train()
    (progress,) = team.first(clock.progress(state))
    if progress >= 1 and state.step == 0:  # one step at least, or there is nothing to save
        watcher.notice("the time was over before training began, so it takes a single step; a longer `time` helps.")
        progress = 0.0
    while progress < 1 and not state.enough:
        lr = take_step(model, optimizers, progress, state, team, setup)
        before, progress = progress, clock.progress(state)
        seconds_per_step = (clock.elapsed() - began) / (state.step - first_step)
        if setup.replanner is not None and not saved:
            setup.replanner.look(progress, state.step, clock.elapsed(), setup.threads.seconds_per_step)
        last = clock.over(state, seconds_per_step)
        told = _progress(state, setup, progress, last, lr, seconds_per_step)
        watcher.stepped(told)
        paused = _tell_pause(paused, state, setup)
        progress, last, signal = team.agree(progress, last, setup.should_stop())
        saving_due = _due(config.save_every, state.step, before, progress, clock.saves)
        scores: dict[str, float] = {}
        if last:
            calibrate(setup.ensemble or model, config.calibration)
        if last or _due(config.eval_every, state.step, before, progress, state.scores):
            scores = held_out.score_on_the_way(setup.collect(model), state, team, setup)
            state.enough = monitor.stops_early(state, setup)
            last = last or state.enough
        saving.keep_table(model, state, team, setup, scored=bool(scores))
        sample_due = config.sample_every and state.step % config.sample_every == 0
        sample = show_sample(model, state, team, setup) if sample_due else {}
        if scores or sample or state.step % LOG_EVERY == 0:
            line = _line(told, state, clock.elapsed()) | scores | sample
            _write_log(line, model, optimizers, state, team, setup)
            monitor.watch_loss(state, setup)
            state.losses = []
        if last or signal or saving_due:
            encoder = make_context_encoder(model, state, setup) if last else None
            saving.save(model, optimizers, state, team, setup, final=bool(last or signal), encoder=encoder)
            saved = True
        if signal and not last:
            raise Interrupted(f"stopped after step {state.step}, which is saved; {how_to_resume(setup.run)}", signal)
        if last:
            break


def take_step(
    model: GPT, optimizers: list[optim.Optimizer], progress: float, state: State, team: Team, setup: Setup
) -> float:
    """One optimizer step at `progress` of the run; returns its learning rate."""
    config = setup.plan.train
    step_share = setup.clock.step_share(progress, state, config.batch_size)
    if state.step == 0:  # from here on it follows from the progress, which all processes have agreed on
        (step_share,) = team.first(step_share)
    lr = optimizer.learning_rate(progress, config, step_share)
    optimizer.set_learning_rate(optimizers, lr)
    if setup.targets is not None:
        setup.targets.weight = soft_targets.weight_at(progress, config, len(setup.targets.ids))
    team.seed(config.seed, state.step)
    batch, state.drawn = setup.batches.draw(state.step, progress, state.tokens, state.drawn)
    batch = soft_targets.with_places(batch, state.step, setup.batches, setup.targets)
    with setup.threads.timed():
        state.losses.append(train_step(model, optimizers, batch, state, team, setup))
    state.threads = setup.threads.now if setup.threads.free else 0
    state.step += 1
    state.tokens += setup.batches.tokens_per_step
    state.train_loss = sum(state.losses) / len(state.losses)
    return lr


def train_step(
    model: GPT, optimizers: list[optim.Optimizer], batch: Tensor, state: State, team: Team, setup: Setup
) -> float:
    """Update the weights with the windows `batch` (B, T + 1); returns the mean loss in nats per token.

    Raises `NumericsError`, before the weights are touched, when the loss or its gradient is not finite.
    """
    config = setup.plan.train
    loss, norm = optimizer.training_step(
        setup.ensemble or model,
        optimizers,
        batch,
        setup.hardware,
        config.clip,
        setup.loss_of,
        config.accumulate,
        team,
        config.batch_size / team.size,
        setup.workers,
    )
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise diverged(setup, f"step {state.step + 1}: loss {loss:.3g}, gradient norm {norm:.3g}")
    return loss


def show_sample(model: GPT, state: State, team: Team, setup: Setup) -> dict[str, str]:
    """Generate a sample for the watcher and the log; a failure is a notice."""
    whole = saving.whole_model(setup.collect(model), team, setup)
    if not team.leads:
        return {}
    whole.eval()
    config = SamplingConfig(max_new_tokens=min(LONGEST_SAMPLE, setup.plan.model.context_length))
    prompt = setup.plan.train.sample_prompt
    logged: dict[str, str] = {}
    try:
        sample = generate.generate(whole, setup.tokenizer, prompt, config, seed=state.step, compile="off")[0]
    except Exception as error:
        setup.watcher.notice(f"no sample at step {state.step:,}, and training goes on: {error!r}.")
    else:
        logged = {"sample": prompt + sample.text}
        setup.watcher.sampled(state.step, logged["sample"])
    model.train()
    return logged


def _progress(state: State, setup: Setup, progress: float, last: bool, lr: float, seconds_per_step: float) -> Progress:
    assert state.train_loss is not None
    return Progress(
        step=state.step,
        fraction=1.0 if last else min(1.0, progress),
        train_loss=state.train_loss,
        lr=lr,
        tokens=state.tokens,
        tokens_per_second=setup.batches.tokens_per_step / seconds_per_step,
        elapsed=setup.clock.elapsed(),
        remaining=setup.clock.remaining(state, seconds_per_step),
        val_bits_per_byte=state.history[max(state.history)] if state.history else None,
        val_exact_match=state.exact_match,
    )


def _line(told: Progress, state: State, elapsed: float) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    return {
        "step": state.step,
        "elapsed": round(elapsed, 3),
        "tokens": state.tokens,
        "lr": told.lr,
        "train_loss": state.train_loss,
        "tokens_per_second": round(told.tokens_per_second),
    }


def _write_log(
    line: dict[str, Any], model: GPT, optimizers: list[optim.Optimizer], state: State, team: Team, setup: Setup
) -> None:
    """Append to the log; where the run directory was moved, save there before the error is raised."""
    try:
        setup.log.write(line)
    except RunLostError:
        if team.size == 1:
            saving.save(model, optimizers, state, team, setup, final=True)  # raises too
        raise


def _tell_pause(before: float, state: State, setup: Setup) -> float:
    """Say that the process was stopped for a while, where it was; returns the seconds of all pauses so far."""
    paused = pauses.paused()
    if setup.clock.seconds is not None and paused - before >= SHORTEST_PAUSE:
        setup.watcher.notice(
            f"the process was stopped for {paused - before:,.0f} s around step {state.step:,} (a computer asleep, or a "
            "suspended job); this time does not count towards the budget."
        )
        return paused
    return before


def _due(every: int | None, step: int, before: float, progress: float, times: int) -> bool:
    """Is it time, at every so many steps, or else when one of so many equal parts of the budget is used?"""
    return int(progress * times) > int(before * times) if every is None else step % every == 0

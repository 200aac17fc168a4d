"""The training loop, in the order things happen: step, watch, evaluate, sample, save.

The learning rate follows progress, the share of the budget that is used, so the schedule lands whatever the machine
does. Nothing that is watched (evaluation, samples, saving) touches the random numbers that training draws.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptlite.checkpoint import saved_step
from gptlite.checkpoint.run_lock import RunLostError
from gptlite.checkpoint.runs import EVENTS, Run
from gptlite.config import SamplingConfig, TrainConfig
from gptlite.device import Hardware
from gptlite.embedding import statistics as calibration
from gptlite.errors import GptliteError, Interrupted, LimitError, NumericsError, ProcessError, StorageError
from gptlite.evaluation.scoring import Score, Window, score_model, sliding_windows, spread
from gptlite.generation import generate
from gptlite.model import GPT
from gptlite.text.batches import Batches
from gptlite.text.tokenizer import Tokenizer
from gptlite.training import launch, optimizer
from gptlite.training.memory import less_memory, more_parts, save_seconds, training_memory
from gptlite.training.plan import FINAL_WINDOWS, MILESTONES, QUICK_WINDOWS, Plan
from gptlite.training.state import State, write_training_state
from gptlite.training.team import ALONE, Team
from gptlite.training.tensorboard import EventLog

LOG_EVERY = 10  # steps
ENOUGH_TOKENS = 512  # of held-out text for the statistics of its hidden states; else training text serves
EVALUATION_SHARE = 0.025  # of a time budget, for the score at the end; as much again for all those before
FEWEST_QUICK_WINDOWS = 16
LEAVING_SECONDS = 0.3  # that a process takes before its clock starts and to end
MILESTONE_SECONDS = 30.0  # a short run has fewer milestones
MOST_SCORES = 1000  # that are remembered besides the best one; a run may be scored after every step
HOPELESS, HOPELESS_STEPS = 1.0, 50  # nats a token above those of guessing, and for how many steps in a row
WORSE = 1.01  # times the best score: a held-out text that got harder, and not by chance
RISE = 1.0  # nats a token that the training loss rises before anyone is told


@dataclass(frozen=True)
class Progress:
    """Where the run stands after a step; `remaining` seconds are what is left of the budget, or an estimate."""

    step: int
    fraction: float
    train_loss: float
    lr: float
    tokens: int
    tokens_per_second: float
    elapsed: float
    remaining: float
    val_bits_per_byte: float | None


class Watcher:
    """Told what happens; this one does nothing. The command line's shows it."""

    def notice(self, text: str) -> None:
        """Something a person should know, in a sentence."""

    def phase(self, name: str, fraction: float) -> None:
        """Preparation: which part, and how much of it is done."""

    def planned(self, plan: Plan, run: Path, hardware: Hardware) -> None:
        """Everything is chosen; training begins."""

    def stepped(self, progress: Progress) -> None:
        """One optimizer step is done."""

    def evaluated(self, step: int, result: Score) -> None:
        """The held-out text was scored."""

    def sampled(self, step: int, text: str) -> None:
        """A sample was drawn."""

    def saved(self, step: int, path: Path) -> None:
        """A step is on disk."""


class Clock:
    """Progress from 0 to 1 through the budget of a `TrainConfig`, and how much of it is left."""

    def __init__(
        self, config: TrainConfig, steps_per_epoch: float, started: float, elapsed_before: float = 0.0
    ) -> None:
        self.seconds = config.seconds
        if self.seconds is not None:
            self.seconds -= min(LEAVING_SECONDS, 0.02 * self.seconds)
        self.total_steps = config.steps or 0
        if config.epochs is not None:
            self.total_steps = max(1, round(config.epochs * steps_per_epoch))
        self.started, self.elapsed_before = started, elapsed_before
        self.milestones = MILESTONES
        if self.seconds is not None:
            self.milestones = min(MILESTONES, max(2, int(self.seconds / MILESTONE_SECONDS)))

    def elapsed(self) -> float:
        """Seconds since the command began, those before a resume included."""
        return self.elapsed_before + time.monotonic() - self.started

    def progress(self, state: State) -> float:
        """The share of the loop's budget that is used: of its steps, or of its time."""
        if self.seconds is None:
            return state.step / self.total_steps
        end = self.seconds - state.reserve
        return (self.elapsed() - state.loop_started) / max(1e-9, end - state.loop_started)

    def over(self, state: State, seconds_per_step: float) -> bool:
        """Is the loop's budget used, or so nearly that another step would end further from it than this one?"""
        progress = self.progress(state)
        if self.seconds is None or progress >= 1:
            return progress >= 1
        loop = self.seconds - state.reserve - state.loop_started
        return (1 - progress) * loop < seconds_per_step / 2

    def remaining(self, state: State, seconds_per_step: float) -> float:
        if self.seconds is not None:
            return max(0.0, self.seconds - self.elapsed())
        return max(0, self.total_steps - state.step) * seconds_per_step + state.reserve


@dataclass
class Session:
    """Everything one run of `fit` works with."""

    run: Run
    plan: Plan
    hardware: Hardware
    model: GPT
    tokenizer: Tokenizer
    optimizers: list[torch.optim.Optimizer]
    batches: Batches
    val_ids: np.ndarray
    clock: Clock
    state: State
    watcher: Watcher
    should_stop: Callable[[], int | None]
    loss_of: optimizer.Loss = optimizer.mean_loss
    logging: bool = True  # until the log cannot be written
    save_failed: bool = False  # the last save, which was told then
    events: EventLog | None = None  # the same for TensorBoard, where it was asked for
    team: Team = ALONE  # the processes that train together; the first one writes

    def __post_init__(self) -> None:
        self.windows = sliding_windows(len(self.val_ids), self.plan.model.context_length)

    @cached_property
    def token_counts(self) -> Tensor:
        """(V,): how often each token stands in the text that is trained on."""
        return calibration.count_tokens(self.batches.ids, self.plan.model.vocab_size)

    @cached_property
    def words(self) -> list[tuple[str, int]]:
        """The words of the text that is trained on, and how often each occurs."""
        return calibration.count_words(self.tokenizer, self.batches.ids)

    @property
    def quick_windows(self) -> list[Window]:
        """What is scored at a milestone."""
        return spread(self.windows, self.state.quick_windows)


def fit(s: Session) -> None:
    """Take optimizer steps until the budget is used; evaluate, sample and save on the way."""
    config, state, clock = s.plan.train, s.state, s.clock
    tokens_per_step = config.batch_size * s.plan.model.context_length
    if state.step == 0:
        first_look(s)
    if s.team.leads:
        _ = s.words  # counted now, so that no save takes longer than the others
    loop_began, first_step = time.monotonic(), state.step
    s.model.train()
    (progress,) = s.team.first(clock.progress(state))
    if progress >= 1 and state.step == 0:  # one step at least, or there is nothing to save
        s.watcher.notice("the time was over before training began, so one step is all; give it more with --time.")
        progress = 0.0
    while progress < 1 and not state.enough:
        lr = optimizer.learning_rate(progress, config)
        optimizer.set_learning_rate(s.optimizers, lr)
        s.team.seed(config.seed, state.step)
        state.losses.append(train_step(s, s.batches.batch(state.step)))
        state.step += 1
        state.tokens += tokens_per_step
        state.train_loss = sum(state.losses) / len(state.losses)

        milestones = int(progress * clock.milestones)
        progress = clock.progress(state)
        seconds_per_step = (time.monotonic() - loop_began) / (state.step - first_step)
        last = clock.over(state, seconds_per_step)
        tokens_per_second = tokens_per_step / seconds_per_step
        s.watcher.stepped(
            Progress(
                step=state.step,
                fraction=1.0 if last else min(1.0, progress),
                train_loss=state.train_loss,
                lr=lr,
                tokens=state.tokens,
                tokens_per_second=tokens_per_second,
                elapsed=clock.elapsed(),
                remaining=clock.remaining(state, seconds_per_step),
                val_bits_per_byte=state.history[max(state.history)] if state.history else None,
            )
        )
        progress, last, signal = s.team.agree(progress, last, s.should_stop())
        milestone = int(progress * clock.milestones) > milestones
        scores: dict[str, float] = {}
        if last or _due(config.eval_every, state.step, milestone):
            result = evaluate(s, s.quick_windows)
            remember(state, result.bits_per_byte, max(MOST_SCORES, config.patience))
            scores = {"val_loss": result.loss, "val_bits_per_byte": result.bits_per_byte}
            state.enough = learned_enough(s)
            last = last or state.enough
        sample: dict[str, str] = {}
        if config.sample_every and state.step % config.sample_every == 0:
            sample = show_sample(s)
        if scores or sample or state.step % LOG_EVERY == 0:
            log(
                s,
                {
                    "step": state.step,
                    "elapsed": round(clock.elapsed(), 3),
                    "tokens": state.tokens,
                    "lr": lr,
                    "train_loss": state.train_loss,
                    "tokens_per_second": round(tokens_per_second),
                    **scores,
                    **sample,
                },
            )
            watch_loss(s)
            state.losses = []
        if last or signal or _due(config.save_every, state.step, milestone):
            save(s, final=bool(last or signal))
        if signal and not last:
            raise Interrupted(f"stopped after step {state.step}, which is saved; {go_on(s.run)}", signal)
        if last:
            break


def first_look(s: Session) -> None:
    """Score the untrained model, which shows how long scoring takes, and see how much of it the budget can afford."""
    state = s.state
    evaluate(s, s.windows[:8])  # the first pass of all is slower
    state.seconds_per_window = 0.0
    before = evaluate(s, spread(s.windows, 2 * FEWEST_QUICK_WINDOWS))
    if s.plan.train.init == "model":
        s.watcher.notice(f"before training, the held-out text takes {before.bits_per_byte:.3f} bits per byte.")
    reading = calibration.STATISTICS_TOKENS / s.plan.model.context_length * state.seconds_per_window
    state.save_seconds = save_seconds(s.plan.model) + reading
    state.quick_windows = min(len(s.windows), QUICK_WINDOWS)
    state.final_windows = min(len(s.windows), FINAL_WINDOWS)
    if s.clock.seconds is not None:
        affordable = int(EVALUATION_SHARE * s.clock.seconds / max(1e-9, state.seconds_per_window))
        state.quick_windows = min(state.quick_windows, max(FEWEST_QUICK_WINDOWS, affordable // s.clock.milestones))
        state.final_windows = min(state.final_windows, max(state.quick_windows, affordable))
    state.loop_started = s.clock.elapsed()
    state.quick_windows, state.final_windows = map(int, s.team.first(state.quick_windows, state.final_windows))


def go_on(run: Run, *more: str) -> str:
    """The command that resumes, to be pasted into a shell."""
    together, started_as = launch.processes(), ""
    if together > 1 and together == launch.processes_here():
        more = (*more, "--gpus", str(together))
    elif together > 1:
        started_as = ", started as before on all machines"
    return f"continue with: {shlex.join(('gptlite', 'train', '--resume', '-o', str(run.path), *more))}{started_as}"


def remember(state: State, bits_per_byte: float, most: int) -> None:
    """Keep the score of this step, the best one, and of all others the `most` newest."""
    state.history[state.step] = bits_per_byte
    if len(state.history) > most + 1:
        best = min(state.history, key=lambda step: state.history[step])
        del state.history[next(step for step in state.history if step != best)]


def learned_enough(s: Session) -> bool:
    """After a score: warn, once, when the held-out text gets harder; true when that went on for `patience` scores."""
    history, config = s.state.history, s.plan.train
    best_step = min(history, key=lambda step: history[step])
    best, now = history[best_step], history[max(history)]
    scores_since = sum(step > best_step for step in history)
    if scores_since >= 2 and now > WORSE * best and not s.state.warned_of_heart:
        s.state.warned_of_heart = True
        s.watcher.notice(
            f"held-out text was predicted best at step {best_step:,} ({best:.3f} bits per byte, now {now:.3f}): the "
            "model begins to learn its text by heart. That step is kept; more text or --dropout would help more than "
            "more time, and --patience 2 stops by itself."
        )
    if config.patience and scores_since >= config.patience:
        s.watcher.notice(f"stopped early: no better score since step {best_step:,}, {scores_since} scores ago.")
        return True
    return False


def watch_loss(s: Session) -> None:
    """Warn, once, when the training loss climbs: the first sign of divergence. Raises `NumericsError` at the last.

    That is a loss which stays so high that guessing among all tokens would be better: no rate of a schedule that only
    falls brings such a run back to where it was.
    """
    state = s.state
    assert state.train_loss is not None
    guessing = math.log(s.plan.model.vocab_size)
    hopeless = state.train_loss > guessing + HOPELESS
    state.hopeless_steps = state.hopeless_steps + len(state.losses) if hopeless else 0
    if state.hopeless_steps >= HOPELESS_STEPS:
        raise _diverged(s, f"step {state.step}: its loss is {state.train_loss:.3g}, that of guessing {guessing:.3g}")
    lowest = state.train_loss if state.lowest_train_loss is None else state.lowest_train_loss
    if state.train_loss > lowest + RISE and not state.warned_of_rise:
        state.warned_of_rise = True
        s.watcher.notice(
            f"the training loss rose from {lowest:.2f} to {state.train_loss:.2f} by step "
            f"{state.step:,}; if it does not fall again, start anew with a smaller --lr than {s.plan.train.lr:g}."
        )
    state.lowest_train_loss = min(lowest, state.train_loss)


def train_step(s: Session, batch: Tensor) -> float:
    """One step on windows (B, T + 1); returns the mean loss a token.

    Raises `NumericsError` before the weights are touched when the loss or its gradient is not finite.
    """
    config = s.plan.train
    loss, norm = optimizer.training_step(
        s.model,
        s.optimizers,
        batch,
        s.hardware,
        config.clip,
        s.loss_of,
        config.accumulate,
        s.team,
        config.batch_size / s.team.size,
    )
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise _diverged(s, f"step {s.state.step + 1}: loss {loss:.3g}, gradient norm {norm:.3g}")
    return loss


def evaluate(s: Session, windows: Sequence[Window], between: Callable[[], object] = lambda: None) -> Score:
    """Score `windows` of the held-out stream with the model as it is, and take the time it needs."""
    began = time.monotonic()
    share = s.team.share(windows, lambda window: replace(window, scored=0))
    own = score_model(s.model, s.tokenizer, s.val_ids, s.hardware.for_reading(), share, between=between)
    nats, tokens, n_bytes = s.team.sums(own.nats, own.tokens, own.bytes)
    result = Score(nats, int(tokens), int(n_bytes))
    s.state.seconds_per_window = max(s.state.seconds_per_window, (time.monotonic() - began) / len(windows))
    if not math.isfinite(result.nats):
        raise _diverged(s, f"step {s.state.step}: the held-out loss is {result.loss:.3g}")
    s.watcher.evaluated(s.state.step, result)
    return result


def show_sample(s: Session) -> dict[str, str]:
    """A sample for the watcher and the log; one that cannot be drawn is no reason to end a training."""
    model = whole_model(s)
    if not s.team.leads:
        return {}
    model.eval()
    config = SamplingConfig(max_new_tokens=min(100, s.plan.model.context_length))
    prompt = s.plan.train.sample_prompt
    logged: dict[str, str] = {}
    try:
        sample = generate.generate(model, s.tokenizer, prompt, config, seed=s.state.step, compile="off")[0]
    except Exception as error:
        s.watcher.notice(f"no sample at step {s.state.step:,}, and training goes on: {error!r}.")
    else:
        logged = {"sample": prompt + sample.text}
        s.watcher.sampled(s.state.step, logged["sample"])
    s.model.train()
    return logged


def whole_model(s: Session) -> GPT:
    """The model with all of its weights; in the first process only, though all have to ask for it."""
    if not s.team.sharded:
        return s.model
    tensors = s.team.gather(s.model.state_dict())
    if not s.team.leads:
        return s.model
    model = GPT(s.plan.model).to(s.hardware.device)
    model.load_state_dict(tensors)
    return model


def log(s: Session, line: dict[str, Any]) -> None:
    """Append to the logs of the run; one that cannot be written is no reason to stop, but a run that is gone is one."""
    if s.logging:
        try:
            s.run.log(line)
        except RunLostError:
            if s.team.size == 1:
                save(s, final=True)  # where the directory was moved to; then this raises too
            raise
        except StorageError as error:
            s.logging = False
            s.watcher.notice(f"{error} Training goes on without its log.")
    if s.events is not None:
        try:
            s.events.write(line)
        except StorageError as error:
            s.events = None
            s.watcher.notice(f"{error} Training goes on without TensorBoard's log.")


def open_events(s: Session) -> None:
    """Begin the log for TensorBoard with what the run has logged so far; a failure is no reason to stop either."""
    try:
        s.events = EventLog(s.run.path / EVENTS, time.time() - s.clock.elapsed(), s.run.read_log())
    except GptliteError as error:
        s.watcher.notice(f"{error} Training goes on without TensorBoard's log.")


def save(s: Session, final: bool) -> None:
    """Write this step; then, and only then, delete what is no longer kept. All processes call it, the first one writes.

    Raises `StorageError` where no later save could make up for this one, because it is the `final` one or the run
    directory is gone; otherwise a failure is a notice, once until a save succeeds.
    """
    began, s.state.elapsed = time.monotonic(), s.clock.elapsed()
    directory = s.run.step_path(s.state.step)
    training_state = write_training_state(s.state, s.model, s.optimizers, s.team)
    model = whole_model(s)
    if not s.team.leads:
        return
    model.eval()
    enough = s.val_ids if len(s.val_ids) >= ENOUGH_TOKENS else s.batches.ids
    statistics = calibration.measure_statistics(model, s.tokenizer, enough)
    s.model.train()
    s.run.check()
    try:
        saved_step.save_step(
            directory,
            model,
            s.tokenizer,
            {"step": s.state.step, "val_bits_per_byte": s.state.history.get(s.state.step)},
            training_state=training_state,
            embedding=statistics | {"token_counts": s.token_counts},
            words=s.words,
            at=s.run.at,
        )
    except StorageError as error:
        s.run.check_place()
        if final:
            raise
        if not s.save_failed:
            s.watcher.notice(f"{error} Training goes on; each later save tries again.")
        s.save_failed = True
        return
    s.run.check_place(f"step {s.state.step}")
    s.save_failed = False
    s.watcher.saved(s.state.step, directory)
    s.run.link()
    try:
        s.run.prune(s.plan.train.keep)
    except StorageError as error:
        s.watcher.notice(f"{error} Training goes on; it takes room until it is deleted.")
    s.state.save_seconds = max(s.state.save_seconds, time.monotonic() - began)


def finish(s: Session) -> dict[str, Any]:
    """Score the best step on as much of the held-out text as the budget allows; return the facts of the run.

    All that was trained is saved by now, so a wish to stop is granted between two forward passes, with `Interrupted`.
    """

    def stop_if_asked() -> None:
        if s.team.leads and (signal := s.should_stop()):
            raise Interrupted(
                f"stopped before the final score; step {s.state.step}, the last, is saved; {go_on(s.run)}", signal
            )

    if s.team.leads:
        s.run.check_place()
    best = s.run.best() if s.team.leads else None
    best_step = int(s.team.first(best.number if best else 0)[0])
    if best_step != s.state.step:
        s.team.load(s.model, saved_step.load(best.path, s.hardware.device).model.state_dict() if best else None)
    affordable = s.state.final_windows
    if s.clock.seconds is not None:  # the machine may be slower now than it was
        left = s.clock.seconds - s.clock.elapsed()
        affordable = min(affordable, max(len(s.quick_windows), int(left / max(1e-9, s.state.seconds_per_window))))
    (affordable,) = s.team.first(affordable)
    result = evaluate(s, spread(s.windows, int(affordable)), stop_if_asked)
    elapsed = s.clock.elapsed()
    return {
        "run": str(s.run.path),
        "step": s.state.step,
        "best_step": best_step,
        "params": s.plan.model.n_params,
        "vocab_size": s.plan.model.vocab_size,
        "tokens_seen": s.state.tokens,
        "tokens_per_second": round(s.state.tokens / max(1e-9, elapsed - s.state.loop_started)),
        "seconds": round(elapsed, 2),
        "train_loss": s.state.train_loss,
        "val_loss": result.loss,
        "val_bits_per_byte": result.bits_per_byte,
        "val_bytes": result.bytes,
    }


def out_of_memory(s: Session) -> LimitError:
    """What to say where memory ran out during `fit` or `finish`."""
    needed = training_memory(s.plan.model, s.plan.train, s.hardware)
    what = f"memory ran out at step {s.state.step + 1}, which needs about {needed / 1e9:.1f} GB besides the program"
    latest, parts = s.run.latest(), more_parts(s.plan.train)
    if latest is None or parts is None:
        return LimitError(f"{what}; start again: {less_memory(s.plan.model, s.plan.train)}.")
    return LimitError(
        f"{what}; step {latest.number} is saved, and batches in smaller parts need less; "
        f"{go_on(s.run, '--accumulate', str(parts))}"
    )


def lost_process(s: Session) -> ProcessError:
    """What to say where another process does not answer during `fit` or `finish`; nothing where one has said it."""
    if not s.team.reports_loss():
        return ProcessError()
    latest = s.run.latest()
    saved = f"step {latest.number} is saved; {go_on(s.run)}" if latest else "no step is saved yet; start anew"
    return ProcessError(
        f"another of the {s.team.size} processes of this training ended, or was killed, after step {s.state.step}; "
        f"{saved}."
    )


def _diverged(s: Session, what: str) -> NumericsError:
    best = s.run.best()
    kept = f"Saved steps in {s.run.path} are intact{f', the best is step {best.number}' if best else ''}."
    return NumericsError(
        f"training diverged at {what}; start again with a smaller --lr than {s.plan.train.lr:g}. {kept}"
    )


def _due(every: int | None, step: int, milestone: bool) -> bool:
    return milestone if every is None else step % every == 0

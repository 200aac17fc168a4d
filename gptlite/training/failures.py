"""The errors that end a run, with what is saved and how to go on."""

from __future__ import annotations

from gptlite.checkpoint.runs import Run
from gptlite.errors import LimitError, NumericsError, ProcessError, as_call
from gptlite.training import launch
from gptlite.training.memory import less_memory, more_parts, training_memory
from gptlite.training.setup import Setup
from gptlite.training.state import State
from gptlite.training.team import Team


def how_to_resume(run: Run, **more: int) -> str:
    """The call that resumes; the command line shows it as a command that can be pasted into a shell.

    - `more`: other keywords.
    """
    together, started_as = launch.processes(), ""
    if together > 1 and together == launch.processes_here():
        more["gpus"] = together
    elif together > 1:
        started_as = ", started as before on all machines"
    return f"continue with: {as_call('train', resume=True, out=str(run.path), **more)}{started_as}"


def diverged(setup: Setup, what: str) -> NumericsError:
    best = setup.run.best()
    kept = f"Saved steps in {setup.run.path} are intact{f', the best is step {best.number}' if best else ''}."
    return NumericsError(
        f"training diverged at {what}; start again with a smaller `lr` than {setup.plan.train.lr:g}. {kept}"
    )


def out_of_memory(state: State, setup: Setup) -> LimitError:
    """Memory ran out while training or scoring."""
    needed = training_memory(setup.plan.model, setup.plan.train, setup.hardware)
    what = f"memory ran out at step {state.step + 1}, which needs about {needed / 1e9:.1f} GB besides the program"
    latest, parts = setup.run.latest(), more_parts(setup.plan.train)
    if latest is None or parts is None:
        return LimitError(f"{what}; start again: {less_memory(setup.plan.model, setup.plan.train)}.")
    return LimitError(
        f"{what}; step {latest.number} is saved, and batches in smaller parts need less; "
        f"{how_to_resume(setup.run, accumulate=parts)}"
    )


def lost_process(state: State, team: Team, setup: Setup) -> ProcessError:
    """Another process does not answer; the message is empty where a third one has said so."""
    if not team.reports_loss():
        return ProcessError()
    latest = setup.run.latest()
    saved = f"step {latest.number} is saved; {how_to_resume(setup.run)}" if latest else "no step is saved; start again"
    return ProcessError(
        f"another of the {team.size} processes of this run ended, or was killed, after step {state.step}; {saved}."
    )

"""Going on with a run: which one, with what text, on what machine, and what may differ from before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptlite.checkpoint import run_info, runs
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware, bf16_in_hardware, choose_hardware
from gptlite.errors import CheckpointError, UsageError, as_fields
from gptlite.text import corpus
from gptlite.training import plan as planning
from gptlite.training.loop import Watcher


def find_run(arguments: Sequence[str], out: str | Path | None) -> runs.Run:
    if out is not None:
        run = runs.Run(Path(out))
    elif arguments:
        wanted = runs.run_name(arguments)
        found = runs.newest_run(wanted)
        if found is None:
            raise CheckpointError(f"no run '{wanted}' under {runs.DEFAULT_PARENT} to resume; name one with -o.")
        run = found
    else:
        raise UsageError("--resume needs to know which run: name it with -o, or give its text.")
    if not run.is_run():
        raise CheckpointError(f"there is no run at {run.path} to resume.")
    return run


def read_info(run: runs.Run) -> dict[str, Any]:
    """The run's `run.json`. Raises `CheckpointError` where it lacks what a resumed run needs."""
    info = run.read_info()
    run_info.require(info, run.path / run_info.NAME, "val", "arguments", "text", "plan")
    return dict(info)


def make_plan(previous: Mapping[str, Any], overrides: Mapping[str, Any]) -> planning.Plan:
    """The plan that was stored; only budget, cadence and what is kept may differ from it."""
    budget = {name: overrides.get(name) for name in ("seconds", "steps", "epochs")}
    free = {"accumulate", "recompute", "shard", "eval_every", "save_every", "sample_every", "sample_prompt", "keep"}
    free |= {"log"}
    stored = previous["plan"]
    try:
        model, train_fields = ModelConfig(**stored["model"]), TrainConfig(**stored["train"]).to_dict()
    except (TypeError, KeyError, ValueError, UsageError) as error:
        raise CheckpointError(
            f"the plan in run.json is not one that this gptlite writes: {as_fields(error)}."
        ) from error
    for name, value in overrides.items():
        if value is None or name in budget:
            continue
        if name in free:
            train_fields[name] = value
            continue
        current = train_fields.get(name, stored["model"].get(name))
        if value != current and not (name == "vocab_size" and value == previous.get("vocab_size_asked")):
            raise UsageError(f"--resume continues with {name} {current!r}; start a new run to change it to {value!r}.")
    if any(value is not None for value in budget.values()):
        train_fields |= budget
    reasons = tuple(planning.recorded(sentence) for sentence in stored.get("reasons", ()))
    return planning.Plan(model, TrainConfig(**train_fields), reasons, tuple(stored.get("given", ())))


def choose_machine(
    previous: Mapping[str, Any],
    plan: planning.Plan,
    device: str,
    dtype: str,
    threads: int | None,
    compile: str,
    processes: int = 1,
) -> Hardware:
    """The machine: what is left open is as it was, for bits depend on it.

    Where time is the budget, it decides about compiling, now as then. Other `processes` have other threads.
    """
    was = previous.get("machine", {})
    compile_before = was.get("compile", compile) if compile == "auto" and plan.train.seconds is None else compile
    before = was.get("device", device) if device == "auto" else device
    dtype_before = was.get("dtype", dtype) if dtype == "auto" else dtype
    threads_before = was.get("threads") if threads is None and was.get("processes", 1) == processes else threads
    if dtype == "auto" and dtype_before == "bf16" and before == "cpu" and not bf16_in_hardware("cpu"):
        dtype_before = "auto"  # it was another machine
    try:
        return choose_hardware(before, dtype_before, threads_before, compile_before)
    except UsageError:  # perhaps for a device that nobody asked for today
        return choose_hardware(device, dtype, threads, compile)


def compare_machines(previous: Mapping[str, Any], hardware: Hardware, watcher: Watcher) -> None:
    was = previous.get("machine", {})
    now = {"processes": 1, **hardware.choices()}
    before = {"processes": 1, **was}
    unlike = [f"{name} {now[name]}, not {before[name]}" for name in now if was and before[name] != now[name]]
    if unlike:
        watcher.notice(f"unlike before: {'; '.join(unlike)}. The last bits of what is computed will differ.")


def in_order(previous: Mapping[str, Any], text: corpus.Text) -> corpus.Text:
    """The files as they were ordered when the run began, whatever their names are now."""
    places = {source["sha256"]: i for i, source in reversed(list(enumerate(previous.get("inputs", []))))}
    return corpus.Text(tuple(sorted(text.pieces, key=lambda piece: places.get(piece.document.digest, len(places)))))


def check_same_text(run: runs.Run, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for part, name in (("train", "text"), ("val", "held-out text")):
        if before.get(part) != now[part]:
            was = before.get(part, {})
            raise CheckpointError(
                f"the {name} is not the one that {run.path} was begun with: then {was.get('bytes', 0):,} bytes with "
                f"sha256 {str(was.get('sha256'))[:16]}, now {now[part]['bytes']:,} with {now[part]['sha256'][:16]}; "
                "give that text, or start a new run without --resume."
            )


def note_changes(previous: Mapping[str, Any], plan: planning.Plan, step: int, watcher: Watcher) -> list[dict[str, Any]]:
    """What of the plan is not as it was, for run.json, [then, now]; a person is told what it means for the result."""
    before = _train_config(previous)
    changed = {name: [was, now] for name, was in before.to_dict().items() if (now := getattr(plan.train, name)) != was}
    if before.budget != plan.train.budget:
        watcher.notice(
            f"from step {step:,} on the budget is another: the learning rate falls to zero at the new end, "
            "so the result is not that of a run planned like this from its start."
        )
    if "accumulate" in changed:
        watcher.notice(f"gradients are added up in other parts from step {step:,} on: the last bits will differ.")
    return [{"step": step, "plan": changed}] if changed else []


def asks_for_more(previous: Mapping[str, Any], plan: planning.Plan) -> bool:
    """Is the budget of the plan another one than before?"""
    return plan.train.budget != _train_config(previous).budget


def _train_config(previous: Mapping[str, Any]) -> TrainConfig:
    """As run.json has it; `make_plan` has found it in order."""
    return TrainConfig(**previous["plan"]["train"])


def check_same_tokens(run: runs.Run, previous: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    """Raises `CheckpointError` when the text, though the same, has become other tokens."""
    if digests != previous.get("token_digests", digests):
        library = previous.get("versions", {}).get("tokenizers", "of an unknown version")
        raise CheckpointError(
            f"the tokens of the text are not those that {run.path} was trained on, though the text is; "
            f"resume with the tokenizers library it was begun with ({library})."
        )


def info(
    previous: Mapping[str, Any], plan: planning.Plan, hardware: Hardware, step: int, watcher: Watcher
) -> dict[str, Any]:
    """The `run.json` of a run that goes on after `step`."""
    return {
        **{name: value for name, value in previous.items() if name != "result"},
        "plan": plan.to_dict(),
        "machine": hardware.choices(),
        "resumed_at": [*previous.get("resumed_at", []), step],
        "changes": [*previous.get("changes", []), *note_changes(previous, plan, step, watcher)],
    }

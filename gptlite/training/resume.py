"""Resuming a run: which one, with what text, and what may differ from before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptlite.checkpoint import hf, run_info, runs, saved_step
from gptlite.config import SIZES, ModelConfig, TrainConfig
from gptlite.device import Hardware
from gptlite.errors import CheckpointError, UsageError, as_fields, plural
from gptlite.training import dataset, numerics
from gptlite.training import plan as planning
from gptlite.training.ensemble import of_one_member
from gptlite.training.reason import Reason, recorded
from gptlite.training.request import BUDGETS, Request
from gptlite.training.watcher import Watcher

# Settings that a resumed run may change: they decide when something happens or how it is computed, not what.
FREE = {
    "accumulate", "recompute", "shard", "eval_every", "save_every", "sample_every", "sample_prompt", "keep", "log",
}  # fmt: skip


def find_run(request: Request) -> runs.Run:
    """The run to resume: the one at `out`, or the newest on these inputs. Raises `CheckpointError`, `UsageError`."""
    if request.out is not None:
        run = runs.Run(Path(request.out))
    elif request.inputs:
        wanted = runs.run_name(request.inputs)
        found = runs.newest_run(wanted)
        if found is None:
            raise CheckpointError(f"no run '{wanted}' under {runs.DEFAULT_PARENT} to resume; name one with `out`.")
        run = found
    else:
        raise UsageError("`resume` needs to know which run: name it with `out`, or give its text.")
    if not run.is_run():
        raise CheckpointError(f"there is no run at {run.path} to resume.")
    return run


def read_info(run: runs.Run) -> dict[str, Any]:
    """The run's `run.json`. Raises `CheckpointError` where it lacks what a resumed run needs."""
    info = run.read_info()
    run_info.require(info, run.path / run_info.NAME, "val", "arguments", "text", "plan")
    return dict(info)


def make_plan(previous: Mapping[str, Any], request: Request) -> planning.Plan:
    """The plan that was stored, with the budget and the `FREE` settings of the request.

    Raises `UsageError` where the request has another value than the run for anything else, naming both.
    """
    stored = previous["plan"]
    try:
        model, train = ModelConfig(**stored["model"]), TrainConfig(**stored["train"])
    except (TypeError, KeyError, ValueError, UsageError) as error:
        raise CheckpointError(
            f"the plan in run.json is not one that this gptlite writes: {as_fields(error)}."
        ) from error
    train_fields = train.to_dict()
    given = {name: value for name, value in request.settings.items() if value is not None}
    budget = {name: given.pop(name, None) for name in BUDGETS}
    train_fields |= {name: given.pop(name) for name in FREE & given.keys()}
    for name in ("architecture", "vocab_size"):
        if getattr(request, name) is not None:
            given[name] = getattr(request, name)
    member, _ = of_one_member(model, train)  # whose shape the options name
    before = {**{name: member.to_dict()[name] for name in stored["model"]}, **train_fields}
    if "vocab_size" in given and given["vocab_size"] == previous.get("vocab_size_asked"):
        del given["vocab_size"]  # the text had fewer pairs than were asked for; the same wish is no change
    _check_unchanged(given, before)
    _check_start(previous, request)
    sentences = list(stored.get("reasons", ()))
    if any(value is not None for value in budget.values()):
        train_fields |= budget
        if train.most_epochs is not None and ("result" in previous or budget["seconds"] is None):
            train_fields["most_epochs"] = None  # more is asked for than the plan wanted
            reason = Reason("most_epochs", {"epochs": train.most_epochs / train.members}).sentence()
            sentences = [sentence for sentence in sentences if sentence != reason]
    reasons = tuple(recorded(sentence) for sentence in sentences)
    return planning.Plan(model, TrainConfig(**train_fields), reasons, tuple(stored.get("given", ())))


def _check_unchanged(given: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name not in before:
            raise UsageError(f"unknown setting '{name}'.")
        if value != before[name]:
            raise _changed(name, before[name], value)


def _check_start(previous: Mapping[str, Any], request: Request) -> None:
    """Raises `UsageError` where the request names another size, held-out text, model or tokenizer to start from."""
    size = request.size or "auto"
    if size != "auto" and size not in SIZES:
        raise UsageError(f"unknown size '{size}': choose from auto, {', '.join(SIZES)}.")
    if size != "auto" and size != previous.get("size_asked"):
        stored = previous["plan"]["model"]
        if any(stored.get(name) != number for name, number in SIZES[size].items()):
            shape = f"{plural(stored['n_layers'], 'layer')} of width {stored['dim']}"
            raise _changed("size", previous.get("size_asked") or shape, size)
    if request.val is not None and not dataset.is_same_val(request.val, previous["val"]):
        raise _changed("val", previous["val"], request.val)
    for name, key in (("init_from", "init_from"), ("tokenizer", "tokenizer_from")):
        asked, was = getattr(request, name), previous.get(key)
        if asked is not None and not _is_same_start(Path(asked), was):
            raise _changed(name, was["path"] if was else None, str(asked))


def _is_same_start(asked: Path, was: Mapping[str, Any] | None) -> bool:
    """Is `asked` the directory that run.json names, or the run whose step that is?"""
    path = asked.absolute()
    return was is not None and (was["path"] == str(path) or Path(was["path"]).parent == path)


def _changed(name: str, before: object, now: object) -> UsageError:
    was = "was started without it" if before is None else f"was started with {before!r}"
    return UsageError(f"`{name}` is {now!r}, and the run {was}; leave it out, or start a new run.")


def compare_machines(previous: Mapping[str, Any], hardware: Hardware, watcher: Watcher) -> None:
    """Tell the user where the machine, or what else the last bits of a result depend on, is not as it was."""
    was = previous.get("machine", {})
    now = {"processes": 1, **hardware.choices()}
    before = {"processes": 1, **was}
    unlike = [f"{name} {now[name]}, not {before.get(name)}" for name in now if was and before.get(name) != now[name]]
    unlike += numerics.differences(previous)
    if unlike:
        watcher.notice(f"unlike before: {'; '.join(unlike)}. The last bits of what is computed will differ.")


def check_same_model(run: runs.Run, plan: planning.Plan, saved: saved_step.Checkpoint) -> None:
    """Raises `CheckpointError` where the plan in run.json is not that of the saved model."""
    planned, found = (hf.to_hf_config(config, 0, [0]) for config in (plan.model, saved.config))
    unlike = [name for name in (*planned, *found) if planned.get(name) != found.get(name)]
    if unlike:
        raise CheckpointError(
            f"{run.path}/run.json speaks of another model than {saved.path.name}: {unlike[0]} "
            f"{planned.get(unlike[0])!r}, not {found.get(unlike[0])!r}."
        )


def check_same_text(run: runs.Run, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for part, name in (("train", "text"), ("val", "held-out text")):
        if before.get(part) != now[part]:
            was = before.get(part, {})
            raise CheckpointError(
                f"the {name} is not the one that {run.path} was begun with: then {was.get('bytes', 0):,} bytes with "
                f"sha256 {str(was.get('sha256'))[:16]}, now {now[part]['bytes']:,} with {now[part]['sha256'][:16]}; "
                f"give that text, or train a new run on the new one from this model: `init_from={str(run.path)!r}`."
            )


def note_changes(previous: Mapping[str, Any], plan: planning.Plan, step: int, watcher: Watcher) -> list[dict[str, Any]]:
    """The settings that changed, {name: [before, now]}, for run.json; the user is told what that does to the result."""
    before = _train_config(previous)
    changed = {name: [was, now] for name, was in before.to_dict().items() if (now := getattr(plan.train, name)) != was}
    if before.budget != plan.train.budget:
        watcher.notice(
            f"from step {step:,} on the budget is another: the learning rate falls to zero at the new end, "
            "so the result is not that of a run with this budget from its start."
        )
    if "accumulate" in changed:
        watcher.notice(f"from step {step:,} on gradients are summed in other parts: the last bits will differ.")
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


def info(previous: Mapping[str, Any], plan: planning.Plan, step: int, watcher: Watcher) -> dict[str, Any]:
    """The run.json of a run that goes on after `step`, but for its machine."""
    return {
        **{name: value for name, value in previous.items() if name != "result"},
        "plan": plan.to_dict(),
        "numerics": numerics.facts(),
        "resumed_at": [*previous.get("resumed_at", []), step],
        "changes": [*previous.get("changes", []), *note_changes(previous, plan, step, watcher)],
    }

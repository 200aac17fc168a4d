"""Everything before the first step: read and split the text, tokenize it, choose the plan and the machine.

`prepare_new` and `prepare_resume` make one `Prepared` of a `Request`, which `pipeline.execute` trains; `preview` is
`prepare_new` without a run directory and without training.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers
import torch

import gptlite
from gptlite.checkpoint import runs, saved_step
from gptlite.checkpoint.runs import Run
from gptlite.device import Hardware, available_memory
from gptlite.paths import cache_directory
from gptlite.storage.durable import check_storage
from gptlite.text import corpus
from gptlite.text.batches import Batches
from gptlite.text.mixture import Mixture
from gptlite.text.options import TextOptions
from gptlite.text.pairs import PairBatches
from gptlite.text.tokenizer import check_vocab_size
from gptlite.training import companions, context_encoder, machine, numerics, pair_data, resume, tensorboard
from gptlite.training import plan as planning
from gptlite.training import team as distributed
from gptlite.training.dataset import Dataset, Inputs, hold_out, in_order, note_copies, remembered_val, shorten, tokenize
from gptlite.training.ensemble import check_members
from gptlite.training.estimate import estimate
from gptlite.training.init_from import InitFrom, load_init_from
from gptlite.training.memory import check_memory, run_bytes
from gptlite.training.replan import Replanner
from gptlite.training.request import Request
from gptlite.training.state import read_state
from gptlite.training.team import ALONE, Team
from gptlite.training.threads import settle_threads
from gptlite.training.watcher import Watcher

DEFAULT_VAL = "5%"


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to be trained: all that was asked for and decided, and the data.

    - `run`: its directory, locked until the end of the stack that was given to prepare it.
    - `info`: what run.json will say, besides what only the end of the training tells.
    - `saved`: the step to continue from. In other processes than the first, True stands for one that they are given.
    - `previous`: the run.json of a resumed run.
    - `replanner`: looks for a second plan in the first tenth of a run, where the first one was free to choose a shape.
    """

    request: Request
    team: Team
    run: Run
    plan: planning.Plan
    hardware: Hardware
    dataset: Dataset
    info: Mapping[str, Any]
    init_from: InitFrom = field(default_factory=InitFrom)
    saved: saved_step.Checkpoint | bool | None = None
    previous: Mapping[str, Any] | None = None
    replanner: Replanner | None = None

    def with_plan(self, plan: planning.Plan, expected: planning.Expected) -> Prepared:
        """The same with another plan for its first step, the last one for this run."""
        shares = {name: getattr(self.plan.train, name) for name in ("background_share", "background_end")}
        plan = plan.with_train(**shares)
        info = {
            **self.info,
            **_facts(plan, self.dataset),
            "expected": {**self.info["expected"], **dataclasses.asdict(expected)},
        }
        info["expected"].pop("memory")
        return dataclasses.replace(self, plan=plan, info=info, replanner=None)

    @property
    def asks_for_more(self) -> bool:
        """Is it a resumed run with another budget than before?"""
        return self.previous is not None and resume.asks_for_more(self.previous, self.plan)


@dataclass(frozen=True)
class Complete:
    """A resumed run in which nothing is left to do, and its result."""

    result: dict[str, Any]


def prepare_new(request: Request, stack: ExitStack, team: Team = ALONE, *, in_directory: bool = True) -> Prepared:
    """Prepare a new run. What can be refused is refused before any work is done.

    - `stack`: closes the files of the text and lets go of the run when it ends.
    - `in_directory`: make and lock the run directory; without it nothing is written but tokens to the cache.
    Raises the errors of `gptlite.errors`.
    """
    hardware = machine.choose(request, team)
    if request.vocab_size is not None:
        check_vocab_size(request.vocab_size)
    run = runs.claim_run(Path(request.out)) if request.out and in_directory else None
    start = load_init_from(request.init_from, request.tokenizer, request.vocab_size)
    planning.check_request(hardware, request.architecture, request.size, request.settings, start.config)
    tensorboard.check_library(request.settings.get("log"))
    locked = run is not None and run.path.is_dir()  # a new one is made once the text is known to be good
    if run is not None and locked:
        stack.enter_context(run.lock())
    limits = planning.text_limits(request.time_budget, hardware)
    options, val = request.text_options, DEFAULT_VAL if request.val is None else request.val
    texts = _read(request, request.inputs, val, options, limits, stack)
    start = start.for_pairs(pair_data.check(texts, request.settings, team.size))
    note_copies(texts, request.watcher)
    others = companions.read(request, texts, options, limits, stack, start=start.model and start.model.path)
    if not in_directory:
        run = Run(Path(request.out or runs.DEFAULT_PARENT / runs.run_name(request.inputs)))
    elif run is None:
        run = stack.enter_context(runs.new_run(runs.run_name(request.inputs)))
    elif not locked:
        stack.enter_context(run.lock())
    if in_directory:
        runs.claim_run(run.path)  # again, because another process may have trained there meanwhile

    dataset = tokenize(
        texts, start.tokenizer or request.vocab_size, request.watcher, {other.name: other.text for other in others}
    )
    hardware = settle_threads(hardware, request.time_budget, request.watcher)
    longest = start.config.context_length if start.config else None
    settings = pair_data.settings_for(dataset, request.settings, longest)
    estimated = estimate(
        dataset, hardware, request.architecture, request.size, settings, request.watcher,
        thorough=not in_directory, base=start.config,
    )  # fmt: skip
    plan = pair_data.as_chosen(estimated.plan, request.settings)
    if dataset.tokenizer.pairs:
        pair_data.note_longer(dataset, plan, request.watcher)
    distributed.check_shares(plan.train.batch_size, plan.train.accumulate, team.size)
    context_encoder.check(plan.train.context_encoder, team.size)
    steps = estimated.expected.steps if not in_directory else _total_steps(plan, dataset, team)
    hardware = _for_pairs(machine.decide(hardware, plan.train.seconds, steps, plan.model, plan.train), dataset)
    if in_directory:
        check_storage(run.path, run_bytes(plan.model, plan.train))
    info = {
        "format": 1,
        "command": list(request.command),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "arguments": [a if a == "-" else str(Path(a).absolute()) for a in request.inputs],
        "val": remembered_val(val),
        "reading": options.to_dict(),
        "split": texts.split,
        "vocab_size_asked": request.vocab_size,
        "size_asked": request.size,
        "text_limits_bytes": limits,
        **start.facts,
        **estimated.to_dict(),
        **_facts(plan, dataset),
        **companions.facts(others, dataset.companions),
    }
    replanner = None
    if team.size == 1 and start.config is None and plan.train.seconds is not None:
        replanner = Replanner(estimated, request.architecture, request.size, request.settings)
    return Prepared(request, team, run, plan, hardware, dataset, info, start, replanner=replanner)


def prepare_resume(request: Request, stack: ExitStack, team: Team = ALONE) -> Prepared | Complete:
    """Prepare to go on with a run; `stack` and errors as for `prepare_new`."""
    run, watcher = resume.find_run(request), request.watcher
    previous = resume.read_info(run)
    plan = resume.make_plan(previous, request)
    hardware = machine.choose_again(request, team, previous, plan.train.seconds)
    tensorboard.check_library(plan.train.log)
    stack.enter_context(run.lock())
    arguments = request.inputs or tuple(previous["arguments"])
    options = request.text_options.for_resume(previous)
    texts = _read(request, arguments, previous["val"], options, previous.get("text_limits_bytes"), stack, previous)
    resume.check_same_text(run, previous["text"], texts.facts())
    limits = previous.get("text_limits_bytes")
    others = companions.read(request, texts, options, limits, stack, previous=previous)
    if "result" in previous and not resume.asks_for_more(previous, plan) and run.latest():
        watcher.notice(f"{run.path} is complete: nothing to do, unless `steps` or `time` asks for more.")
        return Complete(previous["result"])
    saved = saved_step.load(run.step_to_resume(watcher.notice), hardware.device)
    resume.check_same_model(run, plan, saved)
    dataset = tokenize(texts, saved.tokenizer, watcher, {other.name: other.text for other in others})
    check_memory(plan.model, plan.train, available_memory(hardware.device), hardware)
    resume.check_same_tokens(run, previous, dataset.digests)
    companions.check_same_tokens(previous, dataset.companions)
    check_storage(run.path, run_bytes(plan.model, plan.train))
    distributed.check_shares(plan.train.batch_size, plan.train.accumulate, team.size)
    context_encoder.check(plan.train.context_encoder, team.size)
    check_members(plan.model, plan.train, team.size)
    seconds, state = plan.train.seconds, read_state(saved.path)
    hardware = machine.decide(
        hardware,
        None if seconds is None else seconds - state.elapsed,
        _total_steps(plan, dataset, team),
        plan.model,
        plan.train,
        previous.get("machine", {}).get("compile") == "on" if seconds is None else None,
    )
    hardware = _for_pairs(hardware, dataset)
    info = resume.info(previous, plan, state.step, watcher)
    return Prepared(request, team, run, plan, hardware, dataset, info, saved=saved, previous=previous)


def preview(request: Request) -> dict[str, Any]:
    """What `train` would do with this request: plan, speed, time, memory, expected bits per byte, baselines.

    Nothing is written but tokens to the cache. Raises what `train` raises before its first step.
    """
    with ExitStack() as stack:
        prepared = prepare_new(request, stack, in_directory=False)
        texts = prepared.dataset.texts
        return {
            "plan": prepared.plan.to_dict(),
            "n_parameters": prepared.plan.model.n_params,
            "train_bytes": texts.train.n_bytes,
            "n_train_tokens": prepared.dataset.tokens.n_tokens,
            "val_bytes": texts.val.n_bytes,
            **{name: prepared.info[name] for name in prepared.dataset.companions},
            "hardware": prepared.hardware.describe(),
            "expected": prepared.info["expected"],
            "baselines": prepared.info["baselines"],
        }


def make_batches(plan: planning.Plan, dataset: Dataset, team: Team) -> Batches | PairBatches:
    """The batches of a run, mixed where it has companion texts, of which this process gets its share."""
    if dataset.tokenizer.pairs:
        return pair_data.make_batches(dataset, plan)
    config = plan.train
    make = Batches
    if dataset.companions:
        mixed = companions.ingredients(dataset.companions, config, dataset.tokens.n_tokens)
        make = partial(Mixture, ingredients=mixed)
    return make(
        dataset.tokens,
        context=plan.model.context_length,
        batch_size=config.batch_size,
        seed=config.seed,
        rank=team.rank,
        world_size=team.size,
        members=config.members,
        accumulate=config.accumulate,
    )


def _for_pairs(hardware: Hardware, dataset: Dataset) -> Hardware:
    return pair_data.uncompiled(hardware) if dataset.tokenizer.pairs else hardware


def _total_steps(plan: planning.Plan, dataset: Dataset, team: Team) -> int:
    return plan.train.total_steps(make_batches(plan, dataset, team).steps_per_epoch)


def _read(
    request: Request,
    arguments: Sequence[str],
    val: str | float,
    options: TextOptions,
    limits: Sequence[int] | None,
    stack: ExitStack,
    previous: Mapping[str, Any] | None = None,
) -> Inputs:
    """The text, split into training and held-out text and shortened to `limits`."""
    watcher: Watcher = request.watcher
    watcher.phase("reading", 0.0)
    opened = corpus.opened(
        list(arguments), cache_directory(), notice=watcher.notice, options=options, was_read_before=bool(previous)
    )
    text = stack.enter_context(opened)
    if previous is not None:
        text = in_order(previous, text)
    return shorten(hold_out(text, val, watcher, options, previous), limits, watcher)


def _facts(plan: planning.Plan, dataset: Dataset) -> dict[str, Any]:
    """What `run.json` says of the program, the text, the model and what results depend on."""
    return {
        "gptlite": gptlite.__version__,
        "inputs": dataset.texts.documents(),
        "text": dataset.texts.facts(),
        "tokenizer": dataset.tokenizer.digest,
        "n_train_tokens": dataset.tokens.n_tokens,
        "n_val_tokens": dataset.val_tokens.n_tokens,
        "token_digests": dataset.digests,
        "n_parameters": plan.model.n_params,
        "plan": plan.to_dict(),
        "numerics": numerics.facts(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "tokenizers": tokenizers.__version__,
            "platform": platform.platform(),
        },
    }

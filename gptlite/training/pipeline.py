"""From text files to a trained run: read, hold out, tokenize, plan, build, and hand over to the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import tokenizers
import torch

import gptlite
from gptlite.checkpoint import runs, saved_step
from gptlite.checkpoint.runs import Run
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware, available_memory, choose_hardware, count_gpus
from gptlite.errors import Interrupted, NumericsError, StorageError, UsageError, is_out_of_memory
from gptlite.model import GPT, initialise, set_vectors
from gptlite.paths import cache_directory
from gptlite.storage.durable import check_storage
from gptlite.text import corpus, token_files
from gptlite.text.batches import Batches
from gptlite.text.tokenizer import Tokenizer, check_vocab_size
from gptlite.training import (
    bigram_init,
    launch,
    optimizer,
    tensorboard,
)
from gptlite.training import (
    compile as compilation,
)
from gptlite.training import (
    plan as planning,
)
from gptlite.training import (
    resume as resuming,
)
from gptlite.training import (
    team as distributed,
)
from gptlite.training.dataset import Inputs, Material, hold_out, remembered_val, shorten, tokenize
from gptlite.training.estimate import estimate, time_budget
from gptlite.training.init_from import Origin, find_origin, start_from
from gptlite.training.loop import Clock, Session, Watcher, finish, fit, lost_process, open_events, out_of_memory
from gptlite.training.memory import check_memory, saved_bytes
from gptlite.training.state import State, restore_training_state, tell_state
from gptlite.training.team import Team
from gptlite.training.threads import settle_threads

DEFAULT_VAL = "5%"


def train(
    inputs: Sequence[str] | str,
    *,
    out: str | Path | None = None,
    val: str | None = None,
    vocab_size: int | None = None,
    lossy: bool = False,
    architecture: str | None = None,
    size: str | None = None,
    init_from: str | Path | None = None,
    tokenizer: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    compile: str = "auto",
    watcher: Watcher | None = None,
    should_stop: Callable[[], int | None] = lambda: None,
    started: float | None = None,
    command: Sequence[str] = (),
    **overrides: Any,
) -> dict[str, Any]:
    """Train a model on text files and return the facts of the run (those of `train --json`).

    - `inputs`: files, folders, patterns, or "-" for standard input.
    - `out`: the run directory; `checkpoints/<name of the first input>` where none is given.
    - `val`: a share such as "5%" (the default) of the text's end, or a file, held out from all training.
    - `lossy`: read bytes that are not UTF-8 as U+FFFD instead of refusing them.
    - `vocab_size`, `architecture`, `size`: None leaves the choice to the plan.
    - `init_from`: a run, a step or a Hugging Face directory whose model and tokenizer the training goes on from.
    - `tokenizer`: the same, or a folder with a `tokenizer.json`, for a new model with that vocabulary.
    - `resume`: go on with the newest saved step of the run. Budget, cadence and `accumulate` may be changed, nothing
      else; device, precision and threads are as before unless they are given.
    - `overrides`: fields of `ModelConfig` and `TrainConfig`; what is not given, the plan chooses.
    - `should_stop`: asked after every step; a signal number ends the run, saved, with `Interrupted`.
    - `started`: `time.monotonic()` when the command began, for the time budget.
    Of several processes (distributed.py) the first one does all that is said here, and only its watcher is told; the
    others, given the same arguments, return {}.
    Raises the errors of `gptlite.errors`.
    """
    started = time.monotonic() if started is None else started
    watcher = watcher or Watcher()
    arguments = [inputs] if isinstance(inputs, str) else list(inputs)
    with ExitStack() as stack:
        team = stack.enter_context(distributed.together(count_gpus(), should_stop))
        if not team.leads:
            return follow(team, should_stop, started)
        run = resuming.find_run(arguments, out) if resume else None
        previous = resuming.read_info(run) if run else None
        plan: planning.Plan | None = None
        origin = Origin()
        if previous is not None:
            if val is not None or size is not None:
                raise UsageError("--val and --size belong to the start of a run; leave them out with --resume.")
            if init_from is not None or tokenizer is not None:
                raise UsageError("--resume goes on with the run's own model; leave --init-from and --tokenizer out.")
            plan = resuming.make_plan(previous, {**overrides, "architecture": architecture, "vocab_size": vocab_size})
            hardware = resuming.choose_machine(previous, plan, device, dtype, threads, compile, team.size)
            val, arguments = previous["val"], arguments or previous["arguments"]
            lossy = lossy or previous.get("lossy", False)
        else:  # what can be refused is refused before any work is done
            hardware = choose_hardware(device, dtype, threads, compile)
            if vocab_size is not None:
                check_vocab_size(vocab_size)
            if out:
                run = runs.claim_run(Path(out))
            origin = find_origin(init_from, tokenizer, vocab_size)
            planning.check_request(hardware, architecture, size, overrides, origin.config)
        tensorboard.check_library(plan.train.log if plan else overrides.get("log"))
        hardware = shared_machine(hardware, team)
        locked = run is not None and run.path.is_dir()  # a new one is made once the text is known to be good
        if run is not None and locked:
            stack.enter_context(run.lock())
        watcher.phase("reading", 0.0)
        opened = corpus.opened(arguments, cache_directory(), notice=watcher.notice, lossy=lossy)
        text = stack.enter_context(opened)
        if previous is not None:
            text = resuming.in_order(previous, text)
        limits = previous.get("text_limits") if previous else planning.text_limits(time_budget(overrides), hardware)
        texts = shorten(hold_out(text, val or DEFAULT_VAL, watcher, lossy), limits, watcher)
        if previous is not None:
            assert run is not None and plan is not None
            resuming.check_same_text(run, previous["text"], texts.facts())
            if "result" in previous and not resuming.asks_for_more(previous, plan) and run.latest():
                watcher.notice(f"{run.path} is complete: nothing to do, unless --steps or --time ask for more.")
                return previous["result"]
        if run is None:
            run = stack.enter_context(runs.new_run(runs.run_name(arguments)))
        elif not locked:
            stack.enter_context(run.lock())
        if previous is None:
            runs.claim_run(run.path)  # again, because another process may have trained there meanwhile

        saved = saved_step.load(run.step_to_resume(watcher.notice), hardware.device) if resume else None
        material = tokenize(texts, saved.tokenizer if saved else origin.tokenizer or vocab_size, watcher)
        foreseen = {}
        if plan is None:
            hardware = settle_threads(hardware, time_budget(overrides), watcher)
            estimated = estimate(material, hardware, architecture, size, overrides, watcher, base=origin.config)
            plan, foreseen = estimated.plan, estimated.to_dict()
        else:
            check_memory(plan.model, plan.train, available_memory(hardware.device), hardware)
            resuming.check_same_tokens(run, previous or {}, material.digests)
        check_storage(run.path, 2 * saved_bytes(plan.model))

        distributed.check_shares(plan.train.batch_size, plan.train.accumulate, team.size)
        team.announce(_told(run, plan, hardware, material, saved))
        session = _session(team, run, plan, hardware, material, saved, origin, watcher, should_stop, started)
        origin = dataclasses.replace(origin, model=None)  # its weights are in the model of the session
        session.state.enough &= previous is not None and not resuming.asks_for_more(previous, plan)
        hardware = decide(hardware, plan, session.clock.total_steps, session.state.elapsed)
        _agree(session, hardware, watcher)
        if previous is None:
            run.clear_log()
            info = {
                "format": 1,
                "command": list(command),
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "arguments": [a if a == "-" else str(Path(a).absolute()) for a in arguments],
                "val": remembered_val(val or DEFAULT_VAL),
                "lossy": lossy,
                "vocab_size_asked": vocab_size,
                "text_limits": limits,
                **origin.facts,
                **foreseen,
                **_facts(session, material),
            }
        else:
            resuming.compare_machines(previous, session.hardware, watcher)
            info = resuming.info(previous, plan, session.hardware, session.state.step, watcher)
        run.write_info(info)
        if plan.train.log == "tensorboard":
            open_events(session)
        watcher.planned(plan, run.path, session.hardware)
        result = {**_train(session), "baselines": info.get("baselines")}
        run.write_info({**info, "result": result})
        return result


def _train(session: Session) -> dict[str, Any]:
    """The loop and the final score, with words for what torch says in its own."""
    try:
        fit(session)
        return finish(session)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(session) from error
        if session.team.size > 1 and distributed.lost_contact(error):
            raise lost_process(session) from error
        raise


def follow(team: Team, should_stop: Callable[[], int | None], started: float) -> dict[str, Any]:
    """Train as one of several processes and not the first, which tells what to do; nothing is written or said."""
    told = team.listen(should_stop)
    if told is None:  # the first process has said why
        return {}
    plan = planning.Plan(ModelConfig(**told["model"]), TrainConfig(**told["train"]), ())
    hardware = shared_machine(choose_hardware(**told["machine"]), team)
    tokenizer = Tokenizer.from_json(told["tokenizer"], choose=lambda _: (told["separator"], (told["end"],)))
    tokens, val_tokens = (_find_tokens(told[name]) for name in ("tokens", "val_tokens"))
    material = Material(Inputs(corpus.Text(()), corpus.Text(())), tokenizer, tokens, val_tokens)
    run, watcher = Run(Path(told["run"])), Watcher()
    session = _session(team, run, plan, hardware, material, told["resumed"], Origin(), watcher, should_stop, started)
    _agree(session, hardware, watcher)
    with contextlib.suppress(Interrupted, NumericsError):  # the first process has it too, and says so
        _train(session)
    return {}


def _told(
    run: Run, plan: planning.Plan, hardware: Hardware, material: Material, saved: saved_step.Checkpoint | None
) -> dict[str, Any]:
    """What the other processes need to take part in a training."""
    machine = {name: value for name, value in hardware.choices().items() if name != "processes"}
    return {
        "run": str(run.path),
        "model": plan.model.to_dict(),
        "train": plan.train.to_dict(),
        "machine": machine,
        "tokenizer": material.tokenizer.to_json(),
        "separator": material.tokenizer.separator,
        "end": material.tokenizer.end,
        "tokens": {**dataclasses.asdict(material.tokens), "path": str(material.tokens.path.absolute())},
        "val_tokens": {**dataclasses.asdict(material.val_tokens), "path": str(material.val_tokens.path.absolute())},
        "resumed": saved is not None,
    }


def _find_tokens(told: dict[str, Any]) -> token_files.TokenFile:
    """The tokens that the first process made. Raises `StorageError` where they cannot be seen from here."""
    tokens = token_files.TokenFile(**{**told, "path": Path(told["path"])})
    try:
        tokens.ids()
    except (OSError, ValueError) as error:
        raise StorageError(
            f"process {launch.rank_and_host()} cannot read the tokens at {tokens.path}: {error}; "
            "set GPTLITE_CACHE to a folder that all machines share."
        ) from error
    return tokens


def _agree(session: Session, hardware: Hardware, watcher: Watcher) -> None:
    """Where the run stands and how steps are computed, as the first process has it; and the loss, made ready."""
    s = session
    s.state = tell_state(s.state, s.team)
    s.clock.elapsed_before = s.state.elapsed
    compiled, bf16 = s.team.broadcast([hardware.compile and not s.team.sharded, hardware.bf16])
    hardware = dataclasses.replace(hardware, compile=compiled, bf16=bf16)
    s.loss_of, s.hardware = _loss(s.model, s.plan, hardware, watcher)
    s.team.prepare(s.model, s.loss_of)


def shared_machine(hardware: Hardware, team: Team) -> Hardware:
    """`hardware` for the processes of a team. Raises `UsageError` where they cannot share it."""
    if team.size > 1 and hardware.device.type == "mps":
        raise UsageError("several processes train on CPUs or on NVIDIA GPUs; use --device cpu.")
    if hardware.device.type == "cuda" and (n := launch.processes_here()) > count_gpus():
        raise UsageError(
            f"{n} processes need a GPU each, and here are {count_gpus()}; start fewer, or use --device cpu."
        )
    return dataclasses.replace(hardware, processes=team.size)


def _session(
    team: Team,
    run: runs.Run,
    plan: planning.Plan,
    hardware: Hardware,
    material: Material,
    saved: saved_step.Checkpoint | bool | None,
    origin: Origin,
    watcher: Watcher,
    should_stop: Callable[[], int | None],
    started: float,
) -> Session:
    """Model, optimizers, batches and clock, at the beginning of the run or where `saved` left off.

    The first process of a `team` makes all that, from which the others get their share; of `saved` they know if it is.
    """
    config, tokens = plan.train, material.tokens
    context = plan.model.context_length
    batches = Batches(
        tokens, context=context, batch_size=config.batch_size, seed=config.seed, rank=team.rank, world_size=team.size
    )
    torch.manual_seed(config.seed)
    model = GPT(plan.model, dropout=config.dropout)
    if isinstance(saved, saved_step.Checkpoint):
        model.load_state_dict(saved.model.state_dict())
    elif team.leads and origin.model is not None:
        start_from(model, origin.model.model)
    elif team.leads:
        initialise(model, config.seed)
        if config.init == "bigrams":
            vectors = bigram_init.bigram_vectors(tokens.ids(), plan.model.vocab_size, plan.model.dim, config.seed)
            set_vectors(model, *vectors)
    model.to(hardware.device)
    if config.recompute:
        optimizer.recompute_blocks(model)
    team = team.sharing(config.shard)
    team.distribute(model, list(model.transformer.blocks))
    optimizers = optimizer.make_optimizers(model, config, team)
    state = State()
    if isinstance(saved, saved_step.Checkpoint):
        state = restore_training_state(saved, model, optimizers, team)
        run.cut_log(state.step)
    elif saved:
        optimizer.scatter_optimizer_state(model, optimizers, None, team)
    return Session(
        run=run,
        plan=plan,
        hardware=hardware,
        model=model,
        tokenizer=material.tokenizer,
        optimizers=optimizers,
        batches=batches,
        val_ids=material.val_tokens.ids(),
        clock=Clock(config, batches.steps_per_epoch, started, state.elapsed),
        state=state,
        watcher=watcher,
        should_stop=should_stop,
        logging=team.leads,
        team=team,
    )


def _facts(s: Session, material: Material) -> dict[str, Any]:
    """What `run.json` says of the text, the model and the machine."""
    return {
        "gptlite": gptlite.__version__,
        "inputs": material.texts.documents(),
        "text": material.texts.facts(),
        "tokenizer": s.tokenizer.digest,
        "train_tokens": material.tokens.n_tokens,
        "val_tokens": material.val_tokens.n_tokens,
        "token_digests": material.digests,
        "parameters": s.plan.model.n_params,
        "plan": s.plan.to_dict(),
        "hardware": s.hardware.describe(),
        "machine": s.hardware.choices(),
        "versions": _versions(),
    }


def preview(
    inputs: Sequence[str] | str,
    *,
    val: str | None = None,
    vocab_size: int | None = None,
    lossy: bool = False,
    architecture: str | None = None,
    size: str | None = None,
    init_from: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    compile: str = "auto",
    watcher: Watcher | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """What `train` with the same arguments would do: plan, speed, time, memory, expected bits per byte, baselines.

    Nothing is written but tokens to the cache. Raises what `train` raises before its first step.
    """
    watcher = watcher or Watcher()
    arguments = [inputs] if isinstance(inputs, str) else list(inputs)
    hardware = choose_hardware(device, dtype, threads, compile)
    if vocab_size is not None:
        check_vocab_size(vocab_size)
    origin = find_origin(init_from, tokenizer, vocab_size)
    planning.check_request(hardware, architecture, size, overrides, origin.config)
    tensorboard.check_library(overrides.get("log"))
    with corpus.opened(arguments, cache_directory(), notice=watcher.notice, lossy=lossy) as text:
        limits = planning.text_limits(time_budget(overrides), hardware)
        texts = shorten(hold_out(text, val or DEFAULT_VAL, watcher, lossy), limits, watcher)
        material = tokenize(texts, origin.tokenizer or vocab_size, watcher)
        hardware = settle_threads(hardware, time_budget(overrides), watcher)
        estimated = estimate(material, hardware, architecture, size, overrides, watcher, True, origin.config)
    hardware = decide(hardware, estimated.plan, estimated.expected.steps)
    return {
        "plan": estimated.plan.to_dict(),
        "parameters": estimated.plan.model.n_params,
        "train_bytes": texts.train.n_bytes,
        "train_tokens": material.tokens.n_tokens,
        "val_bytes": texts.val.n_bytes,
        "hardware": hardware.describe(),
        **estimated.to_dict(),
    }


def decide(hardware: Hardware, plan: planning.Plan, steps: float, elapsed: float = 0.0) -> Hardware:
    """`hardware` with what is open decided for what is left of the plan's budget."""
    left = None if plan.train.seconds is None else plan.train.seconds - elapsed
    return compilation.decide(hardware, left, steps, plan.model, plan.train)


def _loss(model: GPT, plan: planning.Plan, hardware: Hardware, watcher: Watcher) -> tuple[optimizer.Loss, Hardware]:
    """The loss of a step, compiled where that was decided and the machine can do it; and the machine as it then is."""
    train = plan.train.share(hardware.processes)
    if hardware.compile:
        watcher.phase("compiling", 0.0)
    try:
        return compilation.make_loss(model, train, hardware)
    except Exception as error:  # compilers fail in many ways, and none of them is a reason not to train
        watcher.notice(f"compiling failed ({type(error).__name__}), so steps are not compiled.")
        return compilation.make_loss(model, train, dataclasses.replace(hardware, compile=False))


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tokenizers": tokenizers.__version__,
        "platform": platform.platform(),
    }

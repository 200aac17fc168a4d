"""From text files to a trained run: `train` asks, prepare.py prepares, and `execute` trains what is prepared."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gptlite.checkpoint import saved_step, word_vectors
from gptlite.checkpoint.runs import Run
from gptlite.config import ModelConfig, RopeScaling, TrainConfig
from gptlite.device import count_gpus, keeping_freed_memory
from gptlite.errors import CheckpointError, Interrupted, NumericsError, StorageError, is_out_of_memory
from gptlite.kernels.folder import use_private_inductor_cache
from gptlite.kernels.workers import Workers
from gptlite.model import GPT, initialise, set_vectors
from gptlite.randomness import derive
from gptlite.storage.reader import Reader
from gptlite.text import corpus, token_files
from gptlite.text.tokenizer import Tokenizer
from gptlite.training import bigram_init, compile, launch, machine, optimizer, pauses, resume, soft_targets
from gptlite.training import team as distributed
from gptlite.training.clock import Clock
from gptlite.training.dataset import Dataset, Inputs
from gptlite.training.ensemble import Ensemble
from gptlite.training.failures import lost_process, out_of_memory
from gptlite.training.held_out import finish
from gptlite.training.init_from import copy_weights
from gptlite.training.loop import fit
from gptlite.training.plan import Plan
from gptlite.training.prepare import Complete, Prepared, make_batches, prepare_new, prepare_resume
from gptlite.training.replan import Replanned
from gptlite.training.request import Request
from gptlite.training.run_log import RunLog
from gptlite.training.setup import Setup
from gptlite.training.soft_targets import SoftTargets
from gptlite.training.state import State, restore_training_state, tell_state
from gptlite.training.table_history import TableHistory
from gptlite.training.team import Team
from gptlite.training.threads import control_threads
from gptlite.training.watcher import Watcher


def train(
    inputs: Sequence[str | Path] | str | Path = (),
    *,
    out: str | Path | None = None,
    time: str | float | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    val: str | float | None = None,
    lossy: bool = False,
    encoding: str | None = None,
    keep_line_ends: bool = False,
    separator: str | None = None,
    as_text: bool = False,
    text_field: str | None = None,
    pairs: str | Sequence[str] | None = None,
    given: str | Sequence[str] | None = None,
    architecture: str | None = None,
    size: str | None = None,
    vocab_size: int | None = None,
    init_from: str | Path | None = None,
    background: Sequence[str | Path] | str | Path | None = None,
    replay: str | float | None = None,
    tokenizer: str | Path | None = None,
    resume: bool = False,
    context_length: int | None = None,
    dim: int | None = None,
    n_layers: int | None = None,
    n_heads: int | None = None,
    n_kv_heads: int | None = None,
    head_dim: int | None = None,
    hidden_dim: int | None = None,
    norm_eps: float | None = None,
    rope_theta: float | None = None,
    rope_scaling: RopeScaling | None = None,
    tie_embeddings: bool | None = None,
    batch_size: int | None = None,
    members: int | None = None,
    accumulate: int | None = None,
    optimizer: str | None = None,
    lr: float | None = None,
    warmup: float | None = None,
    decay: float | None = None,
    weight_decay: float | None = None,
    momentum: float | None = None,
    beta1: float | None = None,
    beta2: float | None = None,
    clip: float | None = None,
    dropout: float | None = None,
    init: str | None = None,
    loss: str | None = None,
    ngram_weight: float | None = None,
    context_encoder: str | float | None = None,
    calibration: float | None = None,
    seed: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    compile: str = "auto",
    recompute: bool | None = None,
    shard: str | None = None,
    eval_every: int | None = None,
    save_every: int | None = None,
    sample_every: int | None = None,
    sample_prompt: str | None = None,
    patience: int | None = None,
    keep: int | None = None,
    log: str | None = None,
    watcher: Watcher | None = None,
    should_stop: Callable[[], int | None] | None = None,
    started: float | None = None,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Train a model on text files and return the facts of the run, those of `gptlite train --json`.

        gptlite.train("corpus.txt", time="3m")

    What is None, the plan chooses, for this text, this machine and the budget.

    The text and the budget:

    - `inputs`: files, folders, patterns, or "-" for standard input; not needed with `resume` and `out`.
    - `out`: the run directory; by default `checkpoints/<name of the first input>`.
    - `time`: for everything, as a text such as "90s", "3m" or "1h30m", or in seconds; by default 5 minutes.
    - `steps`, `epochs`: train for so many optimizer steps, or passes through the text, instead.
    - `val`: what is held out from all training: a share of the text such as "5%" (the default) or 0.05, or a file. Of
      several files, whole ones spread over all of them are held out, otherwise the end of each.
    - `lossy`: read bytes that are not UTF-8 as U+FFFD instead of refusing the file; `encoding`: of the files, such as
      "gb18030"; `keep_line_ends`: keep CRLF instead of reading it as a line feed; `separator`: what ends a document
      inside a file, such as "<|endoftext|>"; `as_text`: no notice about markup and data in the text,
      and .jsonl, .csv and .tsv files as they stand.
    - `text_field`: the field of the records of .jsonl, .csv, .tsv and .parquet files that is their text; `pairs`: the
      fields of a prompt and its answer, such as "question,answer"; `given`: fields of conditions, such as
      "author,year". Usual names are recognised.
    - `background`: other text in the same language, files as for `inputs`; the plan chooses what share of each step
      comes from it. Passages that are also in the held-out text are left out of it.
    - `replay`: with `init_from`, the share of each step, such as "30%", that is text of that run, so that the model
      does not forget it. The text must be where it was, unchanged.
    - `resume`: go on with the newest saved step of the run. The budget may change, and `accumulate`, `recompute`,
      `shard`, `eval_every`, `save_every`, `sample_every`, `sample_prompt`, `keep` and `log`; another value for anything
      else is refused. Device, precision and threads are as before unless they are given.

    The model:

    - `architecture`: qwen3 (the default), llama, gpt2 or transformer-2017; `size`: tiny, small, medium or large.
    - `vocab_size`: of the tokenizer, which is trained on the text.
    - `init_from`: a run, a step or a Hugging Face directory whose model and tokenizer training starts from.
    - `tokenizer`: a run, a step or a directory with a tokenizer.json, for a new model with that vocabulary.
    - `context_length` (tokens), `dim`, `n_layers`, `n_heads`, `n_kv_heads`, `head_dim`, `hidden_dim`, `norm_eps`,
      `rope_theta`, `rope_scaling`, `tie_embeddings`: see `ModelConfig`.

    The optimizer: `batch_size` (windows per step), `members`, `accumulate`, `optimizer`, `lr`, `warmup`, `decay`,
    `weight_decay`, `momentum`, `beta1`, `beta2`, `clip`, `dropout`, `init`, `loss`, `ngram_weight` and `seed`: see
    `TrainConfig`.
    `context_encoder`: a share of the time, such as "10%", for vectors of words that know both sides better.

    The machine:

    - `device`: auto, cpu, cuda or mps; `dtype`: auto, fp32, bf16 or int8; `threads`: of the CPU.
    - `compile`: auto, on or off: compiled training steps.
    - `calibration`, `recompute`, `shard`: see `TrainConfig`.

    What is written: `eval_every`, `save_every`, `sample_every` (steps), `sample_prompt`, `patience`, `keep` and `log`:
    see `TrainConfig`.

    For programs:

    - `watcher`: told what happens (`gptlite.training.watcher.Watcher`).
    - `should_stop`: called after every step; a signal number ends the run, saved, with `Interrupted`.
    - `started`: `time.monotonic()` when the command began, from which a time budget counts.
    - `command`: the command line, which run.json keeps.

    Of several processes (team.py) the first one does all of this, and only its watcher is told; the others, given the
    same arguments, return {}. Torch's random state and number of threads are as before when it returns or raises.
    Raises the errors of `gptlite.errors`.
    """
    return run(Request.of(**locals()))


def run(request: Request) -> dict[str, Any]:
    """`train` with its arguments as a value."""
    with ExitStack() as stack:
        stack.enter_context(_unchanged_torch())
        stack.enter_context(keeping_freed_memory())
        stack.enter_context(pauses.noticing_pauses())
        team = stack.enter_context(distributed.together(count_gpus(), request.should_stop))
        if not team.leads:
            return _follow(request, team)
        prepared = prepare_resume(request, stack, team) if request.resume else prepare_new(request, stack, team)
        return prepared.result if isinstance(prepared, Complete) else execute(prepared)


def execute(prepared: Prepared) -> dict[str, Any]:
    """Train what is prepared, score it, and return the facts of the run, which run.json then has too."""
    run, request, previous = prepared.run, prepared.request, prepared.previous
    prepared.team.announce(_told(prepared))
    training = _build(prepared)
    hardware = training.setup.hardware
    if previous is None:
        run.clear_log()
    else:
        resume.compare_machines(previous, hardware, request.watcher)
    info = {**prepared.info, "hardware": hardware.describe(), "machine": hardware.choices()}
    run.write_info(info)
    if prepared.plan.train.log == "tensorboard":
        training.setup.log.open_events(training.setup.clock.elapsed())
    request.watcher.planned(prepared.plan, run.path, hardware)
    try:
        result = _train(training)
    except Replanned as found:
        request.watcher.notice(f"{found.plan.reasons[-1].sentence()}.")
        del training  # before another model is made
        return execute(prepared.with_plan(found.plan, found.expected))
    if (alone := (prepared.info.get("expected") or {}).get("own_text_bits_per_byte")) is not None:
        result["own_text_bits_per_byte"] = alone
    run.write_info({**info, "result": result})
    return result


class Training(NamedTuple):
    """What `fit` works with: what changes, and what does not."""

    model: GPT
    optimizers: list[torch.optim.Optimizer]
    state: State
    team: Team
    setup: Setup


def _build(prepared: Prepared) -> Training:
    """Model, optimizers and state, at the beginning of the run or as they were saved; and the loss, made ready.

    The first process of a team makes all that, and the others are given their share.
    """
    use_private_inductor_cache()  # before the first optimizer, which makes torch look for its own
    plan, hardware, team, dataset = prepared.plan, prepared.hardware, prepared.team, prepared.dataset
    request, config, saved = prepared.request, prepared.plan.train, prepared.saved
    batches = make_batches(plan, dataset, team)
    torch.manual_seed(config.seed)
    model = GPT(plan.model, dropout=config.dropout)
    ensemble = None
    if config.members > 1:
        ensemble = _make_ensemble(model, prepared)
    elif team.leads:
        _set_weights(model, prepared)
    model.to(hardware.device)
    learner = model if ensemble is None else ensemble.to(hardware.device)
    learners = [model] if ensemble is None else list(ensemble)
    if config.recompute:
        for each in learners:
            optimizer.recompute_blocks(each)
    team = team.sharing(config.shard)
    team.distribute(model, list(model.transformer.blocks))
    workers = compile.workers_for(hardware, config)
    optimizers = optimizer.make_optimizers(learner, config, team, workers)
    if team.leads:
        saved_step.check_limits(dataset.tokenizer, plan.model, optimizer.expected_state(learner, optimizers))
    state = State()
    if isinstance(saved, saved_step.Checkpoint):
        state = restore_training_state(saved, learner, optimizers, team)
        state.enough = state.enough and not prepared.asks_for_more
        prepared.run.cut_log(state.step)
        if len(state.drawn) != len(dataset.companions) * (state.step > 0):
            raise CheckpointError(f"{saved.path} was not saved in a run with the companion texts that run.json names.")
    elif saved:
        optimizer.scatter_optimizer_state(learner, optimizers, None, team)
    state = tell_state(state, team)
    targets = _soft_targets(prepared, workers)
    loss_of, hardware = machine.ready(learners[0], config, hardware, team, request.watcher, workers, targets)
    setup = Setup(
        run=prepared.run,
        plan=plan,
        hardware=hardware,
        tokenizer=dataset.tokenizer,
        batches=batches,
        val_ids=dataset.val_tokens.ids(),
        byte_scale=dataset.val_tokens.byte_scale(dataset.tokenizer.token_bytes),
        clock=Clock.for_budget(config, batches.steps_per_epoch, request.started, state.elapsed),
        log=RunLog(prepared.run, request.watcher, active=team.leads),
        targets=targets,
        ensemble=ensemble,
        loss_of=loss_of,
        workers=workers,
        replanner=prepared.replanner,
        threads=control_threads(hardware, workers, loss_of, config, request, state.threads),
        baselines=prepared.info.get("baselines"),
        watcher=request.watcher,
        should_stop=request.should_stop,
        saved_word_vectors=_word_vectors_of(saved),
        history=_table_history_of(prepared, state.step),
    )
    return Training(model, optimizers, state, team, setup)


def _soft_targets(prepared: Prepared, workers: Workers) -> SoftTargets | None:
    """What a 5-gram says of the training text, where the plan gives it a weight."""
    weight, tokens = prepared.plan.train.ngram_weight, prepared.dataset.tokens
    if not weight:
        return None
    progress = partial(prepared.request.watcher.phase, "counting n-grams")
    return soft_targets.ngram_targets(tokens.ids(), prepared.plan.model.vocab_size, weight, progress, workers)


def _word_vectors_of(saved: saved_step.Checkpoint | bool | None) -> bytes | None:
    """The file of static word vectors of a step, which later steps keep as it is."""
    if not isinstance(saved, saved_step.Checkpoint):
        return None
    with Reader(saved.path, saved.manifest) as reader:
        return reader.bytes(word_vectors.NAME, word_vectors.LARGEST) if reader.has(word_vectors.NAME) else None


def _table_history_of(prepared: Prepared, step: int) -> TableHistory:
    """The token tables that a run kept until `step`, from which it goes on."""
    if not (prepared.saved and prepared.team.leads):
        return TableHistory()
    shape = prepared.plan.model
    notice = prepared.request.watcher.notice
    return TableHistory.resumed(prepared.run, step, (shape.vocab_size, shape.dim), notice)


def _set_weights(model: GPT, prepared: Prepared) -> None:
    """The saved weights, those of the model to start from, or new ones."""
    saved, start = prepared.saved, prepared.init_from
    if isinstance(saved, saved_step.Checkpoint):
        model.load_state_dict(saved.model.state_dict())
    elif start.model is not None:
        copy_weights(model, start.model.model)
    else:
        _set_new_weights(model, prepared, prepared.plan.train.seed)


def _set_new_weights(model: GPT, prepared: Prepared, seed: int) -> None:
    initialise(model, seed)
    if prepared.plan.train.init == "bigrams":
        ids, shape = prepared.dataset.all_ids, model.config
        set_vectors(model, *bigram_init.bigram_vectors(ids, shape.vocab_size, shape.dim, seed))


def _make_ensemble(model: GPT, prepared: Prepared) -> Ensemble:
    """The members of `model`: with the weights that it was saved with, or with new ones, which it gets too."""
    config, saved = prepared.plan.train, prepared.saved
    ensemble = Ensemble(prepared.plan.member, config.members, config.dropout)
    if isinstance(saved, saved_step.Checkpoint):
        model.load_state_dict(saved.model.state_dict())
        ensemble.copy_from(model)
    else:
        for i, member in enumerate(ensemble):
            _set_new_weights(member, prepared, derive(config.seed, i) >> 1 if i else config.seed)
        ensemble.fill(model)
    return ensemble


def _train(training: Training) -> dict[str, Any]:
    """The loop and the final score, with a sentence for what torch says in its own words."""
    model, _, state, team, setup = training
    try:
        fit(*training)
        return finish(model, state, team, setup)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(state, setup) from error
        if team.size > 1 and distributed.lost_contact(error):
            raise lost_process(state, team, setup) from error
        raise


# -- Several processes


def _told(prepared: Prepared) -> dict[str, Any]:
    """What the other processes need to take part in a run."""
    plan, dataset = prepared.plan, prepared.dataset
    machine = {name: value for name, value in prepared.hardware.choices().items() if name != "processes"}
    return {
        "run": str(prepared.run.path),
        "model": plan.model.to_dict(),
        "train": plan.train.to_dict(),
        "machine": machine,
        "tokenizer": dataset.tokenizer.to_json(),
        "separator": dataset.tokenizer.separator,
        "end": dataset.tokenizer.end,
        "tokens": {**dataclasses.asdict(dataset.tokens), "path": str(dataset.tokens.path.absolute())},
        "val_tokens": {**dataclasses.asdict(dataset.val_tokens), "path": str(dataset.val_tokens.path.absolute())},
        "companions": {
            name: {**dataclasses.asdict(tokens), "path": str(tokens.path.absolute())}
            for name, tokens in dataset.companions.items()
        },
        "resumed": prepared.saved is not None,
    }


def _follow(request: Request, team: Team) -> dict[str, Any]:
    """Train as one of several processes but the first, which says what to do; nothing is written or shown."""
    told = team.listen(request.should_stop)
    if told is None:  # the first process has said why
        return {}
    request = dataclasses.replace(request, watcher=Watcher())
    plan = Plan(ModelConfig(**told["model"]), TrainConfig(**told["train"]), ())
    hardware = machine.choose_as_told(told["machine"], team)
    tokenizer = Tokenizer.from_json(told["tokenizer"], choose=lambda _: (told["separator"], (told["end"],)))
    tokens, val_tokens = (_find_tokens(told[name]) for name in ("tokens", "val_tokens"))
    companions = {name: _find_tokens(facts) for name, facts in told["companions"].items()}
    dataset = Dataset(Inputs(corpus.Text(()), corpus.Text(())), tokenizer, tokens, val_tokens, companions)
    run = Run(Path(told["run"]))
    prepared = Prepared(request, team, run, plan, hardware, dataset, {}, saved=told["resumed"])
    with contextlib.suppress(Interrupted, NumericsError):  # the first process has it too, and says so
        _train(_build(prepared))
    return {}


def _find_tokens(told: Mapping[str, Any]) -> token_files.TokenFile:
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


@contextlib.contextmanager
def _unchanged_torch() -> Iterator[None]:
    """Give the caller's random state, of all devices, and number of threads back."""
    threads, cpu = torch.get_num_threads(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)

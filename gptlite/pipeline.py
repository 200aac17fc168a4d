"""From text files to a trained run: read, hold out, tokenize, plan, build, and hand over to the loop."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers
import torch

import gptlite
from gptlite import checkpoint, corpus, data, optim, planning, runs
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import available_memory, choose_hardware
from gptlite.errors import CheckpointError, CorpusError, UsageError
from gptlite.model import GPT, initialise
from gptlite.tokenizer import Tokenizer, check_vocab_size
from gptlite.training import Clock, Session, State, Watcher, finish, fit, restore_training_state

TOKENIZER_SAMPLE = 64 << 20  # bytes of training text that the vocabulary is learned from
DEFAULT_VAL = "5%"


@dataclass(frozen=True)
class Inputs:
    """The texts of a run: what is trained on, what is held out, and the files they came from."""

    train: corpus.Text
    val: corpus.Text


def train(
    inputs: Sequence[str] | str,
    *,
    out: str | Path | None = None,
    val: str | None = None,
    vocab_size: int | None = None,
    architecture: str | None = None,
    size: str | None = None,
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
    - `vocab_size`, `architecture`, `size`: None leaves the choice to the plan.
    - `resume`: go on with the newest saved step of the run; budget and cadence may be changed, nothing else.
    - `overrides`: fields of `ModelConfig` and `TrainConfig`; what is not given, the plan chooses.
    - `should_stop`: asked after every step; a signal number ends the run, saved, with `Interrupted`.
    - `started`: `time.monotonic()` when the command began, for the time budget.
    Raises the errors of `gptlite.errors`.
    """
    started = time.monotonic() if started is None else started
    watcher = watcher or Watcher()
    arguments = [inputs] if isinstance(inputs, str) else list(inputs)
    hardware = choose_hardware(device, dtype, threads, compile)
    with ExitStack() as stack:
        run = _run_to_resume(arguments, out) if resume else None
        previous = run.read_info() if run else None
        if previous is not None:
            if val is not None or size is not None:
                raise UsageError("--val and --size belong to the start of a run; leave them out with --resume.")
            val, arguments = previous["val"], arguments or previous["arguments"]
        else:  # what can be refused is refused before any work is done
            planning.check_request(hardware, architecture, size, overrides)
            if vocab_size is not None:
                check_vocab_size(vocab_size)
            if out:
                run = runs.claim_run(Path(out))
        watcher.phase("reading", 0.0)
        text = stack.enter_context(corpus.opened(arguments, data.cache_directory(), notice=watcher.notice))
        texts = hold_out(text, val or DEFAULT_VAL, watcher)
        if run is None:
            run = runs.new_run(runs.run_name(arguments))
        if previous is not None and previous["text"] != _text_facts(texts):
            raise CorpusError(
                f"the text is not the one that {run.path} was trained on; start a new run without --resume."
            )
        stack.enter_context(run.lock())

        saved = checkpoint.load(_step_to_resume(run), hardware.device) if resume else None
        tokenizer = saved.tokenizer if saved else train_tokenizer(texts.train, vocab_size, watcher)
        tokens = data.tokenize(texts.train, tokenizer, progress=partial(watcher.phase, "tokenizing"))
        val_tokens = data.tokenize(texts.val, tokenizer)
        facts = planning.Facts(texts.train.n_bytes, tokens.n_tokens, tokenizer.vocab_size, hardware)
        if previous is None:
            plan = planning.make_plan(facts, architecture=architecture, size=size, overrides=overrides)
        else:
            plan = _plan_to_resume(previous, {**overrides, "architecture": architecture, "vocab_size": vocab_size})
        planning.check_memory(plan, available_memory(hardware.device))
        config = plan.train
        batches = data.Batches(
            tokens, context=plan.model.context_length, batch_size=config.batch_size, seed=config.seed
        )
        torch.manual_seed(config.seed)
        model = GPT(plan.model, dropout=config.dropout)
        initialise(model, config.seed)
        model.to(hardware.device)
        optimizers = optim.make_optimizers(model, config)
        state = State()
        if saved:
            model.load_state_dict(saved.model.state_dict())
            state = restore_training_state(saved, model, optimizers)
        clock = Clock(config, batches.steps_per_epoch, started, state.elapsed)

        info = {
            "format": 1,
            "gptlite": gptlite.__version__,
            "command": list(command),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "arguments": [a if a == "-" else str(Path(a).absolute()) for a in arguments],
            "val": _remembered_val(val or DEFAULT_VAL),
            "inputs": _input_facts(texts),
            "text": _text_facts(texts),
            "vocab_size_asked": vocab_size,
            "tokenizer": tokenizer.digest,
            "train_tokens": tokens.n_tokens,
            "val_tokens": val_tokens.n_tokens,
            "parameters": plan.model.n_params,
            "plan": plan.to_dict(),
            "hardware": hardware.describe(),
            "versions": _versions(),
        }
        if previous is None:
            run.clear_log()
        else:
            info = {**previous, "plan": plan.to_dict(), "resumed_at": [*previous.get("resumed_at", []), state.step]}
        run.write_info(info)
        watcher.planned(plan, run.path, hardware)

        session = Session(
            run,
            plan,
            hardware,
            model,
            tokenizer,
            optimizers,
            batches,
            val_tokens.ids(),
            clock,
            state,
            watcher,
            should_stop,
        )
        if hardware.compile:
            model.compile()
        fit(session)
        result = finish(session)
        run.write_info({**info, "result": result})
        return result


def train_tokenizer(text: corpus.Text, vocab_size: int | None, watcher: Watcher) -> Tokenizer:
    """Learn the vocabulary from the training text alone: nothing of the held-out text leaks into it."""
    size = planning.choose_vocab_size(text.n_bytes) if vocab_size is None else vocab_size
    watcher.phase("learning the vocabulary", 0.0)
    if text.n_bytes > TOKENIZER_SAMPLE:
        watcher.notice(f"the vocabulary is learned from {TOKENIZER_SAMPLE >> 20} MiB spread over the text.")
    tokenizer = Tokenizer.train(text.sample(TOKENIZER_SAMPLE), size)
    if vocab_size is not None and tokenizer.vocab_size < vocab_size:
        watcher.notice(f"the text has repeated pairs for {tokenizer.vocab_size:,} tokens only, not {vocab_size:,}.")
    return tokenizer


def hold_out(text: corpus.Text, val: str, watcher: Watcher) -> Inputs:
    """The text to train on and the text held out: the end of the former, or a file of its own."""
    if (fraction := _fraction(val)) is not None:
        head, tail = text.split(fraction)
        if not head.pieces or not tail.pieces:
            raise UsageError(f"--val {val} leaves nothing to train on or nothing to hold out; choose another share.")
        return Inputs(head, tail)
    held_out = corpus.open_text([val], notice=watcher.notice, smallest=1)
    digests = {p.document.digest for p in held_out.pieces}
    if any(p.document.digest in digests for p in text.pieces):
        raise UsageError(f"--val {val} is also among the texts to train on; leave it out there.")
    return Inputs(text, held_out)


def _fraction(val: str) -> float | None:
    """0.05 of "5%"; None for the name of a file. Raises `UsageError` for an impossible share."""
    if not val.endswith("%"):
        return None
    try:
        fraction = float(val[:-1]) / 100
    except ValueError:
        return None
    if not 0 < fraction <= 0.9:
        raise UsageError(f"--val {val}: hold out more than 0% and at most 90% of the text.")
    return fraction


def _remembered_val(val: str) -> str:
    return val if _fraction(val) is not None else str(Path(val).absolute())


def _input_facts(texts: Inputs) -> list[dict[str, Any]]:
    documents = dict.fromkeys(p.document for p in (*texts.train.pieces, *texts.val.pieces))
    return [{"path": str(d.path.absolute()), "bytes": d.size, "sha256": d.digest} for d in documents]


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tokenizers": tokenizers.__version__,
        "platform": platform.platform(),
    }


def _text_facts(texts: Inputs) -> dict[str, Any]:
    return {
        part: {"bytes": text.n_bytes, "sha256": text.digest}
        for part, text in (("train", texts.train), ("val", texts.val))
    }


def _run_to_resume(arguments: Sequence[str], out: str | Path | None) -> runs.Run:
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


def _step_to_resume(run: runs.Run) -> Path:
    latest = run.latest()
    if latest is None:
        raise CheckpointError(f"{run.path}: no step was ever completed, so there is nothing to resume; start it anew.")
    return latest.path


def _plan_to_resume(previous: Mapping[str, Any], overrides: Mapping[str, Any]) -> planning.Plan:
    """The plan that was stored; only budget, cadence and what is kept may differ from it."""
    budget = {name: overrides.get(name) for name in ("seconds", "steps", "epochs")}
    free = {"eval_every", "save_every", "sample_every", "sample_prompt", "keep"}
    stored = previous["plan"]
    model, train_fields = ModelConfig(**stored["model"]), dict(stored["train"])
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
    return planning.Plan(model, TrainConfig(**train_fields), tuple(stored["reasons"]))

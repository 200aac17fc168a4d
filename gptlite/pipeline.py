"""From text files to a trained run: read, hold out, tokenize, plan, build, and hand over to the loop."""

from __future__ import annotations

import dataclasses
import math
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
from gptlite import bigrams, checkpoint, compilation, corpus, data, optim, planning, runs, yardsticks
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware, available_memory, choose_hardware, peak_memory
from gptlite.errors import CheckpointError, UsageError, is_out_of_memory
from gptlite.model import GPT, initialise, set_vectors
from gptlite.speed import Speed, measure_speed
from gptlite.tokenizer import Tokenizer, check_vocab_size
from gptlite.training import Clock, Session, State, Watcher, finish, fit, out_of_memory, restore_training_state

TOKENIZER_SAMPLE = 64 << 20  # bytes of training text that the vocabulary is learned from
DEFAULT_VAL = "5%"
MEASURING_SHARE = 0.03  # of a time budget, for finding the best shape
MEASURING_SECONDS = 3.0  # where the budget is not a time
HEAP_GAPS, SAVING_BYTES = 1.08, 20  # measured: share of the peak; bytes a parameter
FULL_EFFORT = 200.0  # seconds; in less time the yardsticks read less text


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
    - `resume`: go on with the newest saved step of the run. Budget, cadence and `accumulate` may be changed, nothing
      else; device, precision and threads are as before unless they are given.
    - `overrides`: fields of `ModelConfig` and `TrainConfig`; what is not given, the plan chooses.
    - `should_stop`: asked after every step; a signal number ends the run, saved, with `Interrupted`.
    - `started`: `time.monotonic()` when the command began, for the time budget.
    Raises the errors of `gptlite.errors`.
    """
    started = time.monotonic() if started is None else started
    watcher = watcher or Watcher()
    arguments = [inputs] if isinstance(inputs, str) else list(inputs)
    with ExitStack() as stack:
        run = _run_to_resume(arguments, out) if resume else None
        previous = _info_to_resume(run) if run else None
        plan: planning.Plan | None = None
        if previous is not None:
            plan = _plan_to_resume(previous, {**overrides, "architecture": architecture, "vocab_size": vocab_size})
            hardware, compile = _machine_to_resume(previous, plan, device, dtype, threads, compile)
            if val is not None or size is not None:
                raise UsageError("--val and --size belong to the start of a run; leave them out with --resume.")
            val, arguments = previous["val"], arguments or previous["arguments"]
        else:  # what can be refused is refused before any work is done
            hardware = choose_hardware(device, dtype, threads, compile)
            planning.check_request(hardware, architecture, size, overrides)
            if vocab_size is not None:
                check_vocab_size(vocab_size)
            if out:
                run = runs.claim_run(Path(out))
        watcher.phase("reading", 0.0)
        text = stack.enter_context(corpus.opened(arguments, data.cache_directory(), notice=watcher.notice))
        if previous is not None:
            text = _in_the_order_of(previous, text)
        limits = previous.get("text_limits") if previous else planning.text_limits(_seconds(overrides), hardware)
        texts = shorten(hold_out(text, val or DEFAULT_VAL, watcher), limits, watcher)
        if previous is not None:
            assert run is not None and plan is not None
            _check_same_text(run, previous["text"], _text_facts(texts))
            if plan.train.budget == _train_config(previous).budget and "result" in previous and run.latest():
                watcher.notice(f"{run.path} is complete: nothing to do, unless --steps or --time ask for more.")
                return previous["result"]
        if run is None:
            run = stack.enter_context(runs.new_run(runs.run_name(arguments)))
        else:
            stack.enter_context(run.lock())
            if previous is None:  # another process may have trained here since
                runs.claim_run(run.path)

        saved = checkpoint.load(_step_to_resume(run), hardware.device) if resume else None
        material = tokenize(texts, saved.tokenizer if saved else vocab_size, watcher)
        tokenizer, tokens, val_tokens = material.tokenizer, material.tokens, material.val_tokens
        digests = {"train": tokens.digest, "val": val_tokens.digest}
        foreseen = {}
        if plan is None:
            outlook = look_ahead(material, hardware, architecture, size, overrides, watcher)
            plan, foreseen = outlook.plan, outlook.to_dict()
        else:
            planning.check_memory(plan, available_memory(hardware.device))
            if previous and digests != previous.get("token_digests", digests):
                raise CheckpointError(
                    f"the tokens of the text are not those that {run.path} was trained on, though the text is; "
                    f"resume with the tokenizers library it was begun with ({previous['versions']['tokenizers']})."
                )
        config = plan.train
        batches = data.Batches(
            tokens, context=plan.model.context_length, batch_size=config.batch_size, seed=config.seed
        )
        torch.manual_seed(config.seed)
        model = GPT(plan.model, dropout=config.dropout)
        initialise(model, config.seed)
        if config.init == "bigrams" and saved is None:
            vectors = bigrams.bigram_vectors(tokens.ids(), plan.model.vocab_size, plan.model.dim, config.seed)
            set_vectors(model, *vectors)
        model.to(hardware.device)
        optimizers = optim.make_optimizers(model, config)
        state = State()
        if saved:
            model.load_state_dict(saved.model.state_dict())
            state = restore_training_state(saved, model, optimizers)
            run.cut_log(state.step)
            state.enough &= plan.train.budget == _train_config(previous).budget  # more is asked for: go on
        clock = Clock(config, batches.steps_per_epoch, started, state.elapsed)
        hardware = with_compilation(hardware, compile, plan, state.elapsed)
        loss_of = _loss(model, plan, hardware, watcher)
        hardware = dataclasses.replace(hardware, compile=loss_of is not optim.mean_loss)
        if previous is not None:
            _compare_machines(previous, hardware, watcher)

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
            "token_digests": digests,
            "parameters": plan.model.n_params,
            "text_limits": limits,
            **foreseen,
            "plan": plan.to_dict(),
            "hardware": hardware.describe(),
            "machine": hardware.choices(),
            "versions": _versions(),
        }
        if previous is None:
            run.clear_log()
        else:
            info = {
                **{name: value for name, value in previous.items() if name != "result"},
                "plan": plan.to_dict(),
                "machine": hardware.choices(),
                "resumed_at": [*previous.get("resumed_at", []), state.step],
                "changes": [*previous.get("changes", []), *_changes(previous, plan, state.step, watcher)],
            }
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
            loss_of,
        )
        try:
            fit(session)
            result = {**finish(session), "yardsticks": info.get("yardsticks")}
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise out_of_memory(session) from error
        run.write_info({**info, "result": result})
        return result


def preview(
    inputs: Sequence[str] | str,
    *,
    val: str | None = None,
    vocab_size: int | None = None,
    architecture: str | None = None,
    size: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    compile: str = "auto",
    watcher: Watcher | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """What `train` with the same arguments would do: plan, speed, time, memory, expected bits per byte, yardsticks.

    Nothing is written but tokens to the cache. Raises what `train` raises before its first step.
    """
    watcher = watcher or Watcher()
    arguments = [inputs] if isinstance(inputs, str) else list(inputs)
    hardware = choose_hardware(device, dtype, threads, compile)
    planning.check_request(hardware, architecture, size, overrides)
    if vocab_size is not None:
        check_vocab_size(vocab_size)
    with corpus.opened(arguments, data.cache_directory(), notice=watcher.notice) as text:
        limits = planning.text_limits(_seconds(overrides), hardware)
        texts = shorten(hold_out(text, val or DEFAULT_VAL, watcher), limits, watcher)
        material = tokenize(texts, vocab_size, watcher)
        outlook = look_ahead(material, hardware, architecture, size, overrides, watcher, thorough=True)
    hardware = with_compilation(hardware, compile, outlook.plan)
    return {
        "plan": outlook.plan.to_dict(),
        "parameters": outlook.plan.model.n_params,
        "train_bytes": texts.train.n_bytes,
        "train_tokens": material.tokens.n_tokens,
        "val_bytes": texts.val.n_bytes,
        "hardware": hardware.describe(),
        **outlook.to_dict(),
    }


@dataclass(frozen=True)
class Material:
    """Texts, the tokenizer that was learned from them, and their tokens."""

    texts: Inputs
    tokenizer: Tokenizer
    tokens: data.TokenFile
    val_tokens: data.TokenFile


@dataclass(frozen=True)
class Outlook:
    """A plan and what it should lead to; what others need for the same text."""

    plan: planning.Plan
    expected: planning.Expected
    memory: int  # bytes that the whole program takes
    yardsticks: yardsticks.Yardsticks

    def to_dict(self) -> dict[str, Any]:
        expected = dataclasses.asdict(self.expected) | {"memory": self.memory}
        return {"expected": expected, "yardsticks": self.yardsticks.to_dict()}


def tokenize(texts: Inputs, known: Tokenizer | int | None, watcher: Watcher) -> Material:
    """Both texts as tokens of the `known` tokenizer, or of a new one with so many tokens."""
    tokenizer = known if isinstance(known, Tokenizer) else train_tokenizer(texts.train, known, watcher)
    tokens = data.tokenize(texts.train, tokenizer, progress=partial(watcher.phase, "tokenizing"))
    return Material(texts, tokenizer, tokens, data.tokenize(texts.val, tokenizer))


def look_ahead(
    material: Material,
    hardware: Hardware,
    architecture: str | None,
    size: str | None,
    overrides: Mapping[str, Any],
    watcher: Watcher,
    thorough: bool = False,
) -> Outlook:
    """Choose a plan and foresee its result; times training steps for a small share of the budget.

    Where the plan is for steps or epochs, nothing needs to be timed, unless the outlook is to be `thorough`.
    """
    watcher.phase("measuring this machine", 0.0)
    seconds = _seconds(overrides)
    tokens, val_tokens = material.tokens, material.val_tokens
    facts = planning.Facts(
        n_bytes=material.texts.train.n_bytes,
        n_tokens=tokens.n_tokens,
        vocab_size=material.tokenizer.vocab_size,
        hardware=hardware,
        memory=available_memory(hardware.device),
        val_tokens=val_tokens.n_tokens,
    )
    stopwatch = Stopwatch(hardware, MEASURING_SHARE * seconds if seconds else MEASURING_SECONDS)
    plan = planning.make_plan(
        facts, architecture=architecture, size=size, overrides=overrides, measure=stopwatch.measure
    )
    planning.check_memory(plan, facts.memory)
    before = peak_memory() or 0
    speed = stopwatch.speed(plan)
    if speed is None and (seconds or thorough):
        stopwatch.until = math.inf  # what was chosen is timed in any case
        speed = stopwatch.measure(plan.model, plan.train)
    effort = min(1.0, seconds / FULL_EFFORT) if seconds else 1.0
    others = yardsticks.measure(tokens.ids(), val_tokens.ids(), material.tokenizer.token_bytes, effort)
    expected = planning.expect(facts, plan, speed, None if math.isnan(others.ngram) else others.ngram)
    # A step that was timed has shown what it needs; elsewhere it comes on top of what is there. Saving adds the weights
    # and what the optimizers remember, as tensors and as bytes, and the heap of a long run has gaps.
    measured_here = speed is not None and hardware.device.type == "cpu"
    memory = (peak_memory() or 0) if measured_here else before + expected.memory
    return Outlook(plan, expected, int(HEAP_GAPS * memory) + SAVING_BYTES * plan.model.n_params, others)


class Stopwatch:
    """Measures speeds for the planner until `seconds` are used; remembers them."""

    def __init__(self, hardware: Hardware, seconds: float) -> None:
        self.hardware, self.seconds = hardware, seconds
        self.until = time.monotonic() + seconds
        self.speeds: dict[tuple[ModelConfig, int], Speed] = {}  # by shape and batch size

    def measure(self, model: ModelConfig, train: TrainConfig) -> Speed | None:
        """The speed of one shape, or None when the time is used up."""
        if time.monotonic() > self.until:
            return None
        speed = measure_speed(model, train, self.hardware, self.seconds / 6)
        self.speeds[model, train.batch_size] = speed
        return speed

    def speed(self, plan: planning.Plan) -> Speed | None:
        """What was measured for this plan's model and batch."""
        return self.speeds.get((plan.model, plan.train.batch_size))


def with_compilation(hardware: Hardware, asked: str, plan: planning.Plan, elapsed: float = 0.0) -> Hardware:
    """`hardware`, and where it was left to us (`asked` is "auto") with steps compiled if the budget is worth it."""
    seconds = plan.train.seconds
    left = None if seconds is None else seconds - elapsed
    if asked == "auto" and compilation.pays(left, plan.model, plan.train, hardware):
        return dataclasses.replace(hardware, compile=True)
    return hardware


def _loss(model: GPT, plan: planning.Plan, hardware: Hardware, watcher: Watcher) -> optim.Loss:
    """The loss of a step, compiled where that was decided and the machine can do it."""
    if not hardware.compile:
        return optim.mean_loss
    watcher.phase("compiling", 0.0)
    try:
        return compilation.compile_loss(model, plan.train, hardware)
    except Exception as error:  # compilers fail in many ways, and none of them is a reason not to train
        watcher.notice(f"compiling failed ({type(error).__name__}), so steps are not compiled.")
        return optim.mean_loss


def shorten(texts: Inputs, limits: Sequence[int] | None, watcher: Watcher) -> Inputs:
    """Of texts longer than `limits` (bytes to train on, bytes to hold out), parts spread over the whole."""
    if limits is None:
        return texts
    shorter = Inputs(texts.train.spread(limits[0]), texts.val.spread(limits[1]))
    if shorter.train is not texts.train:
        watcher.notice(
            f"there is no time to read all {texts.train.n_bytes / 1e6:,.0f} MB; "
            f"{shorter.train.n_bytes / 1e6:,.0f} MB spread over the whole are used."
        )
    return shorter


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


def _seconds(overrides: Mapping[str, Any]) -> float | None:
    """The time budget, None where steps or epochs are the budget."""
    if overrides.get("steps") is not None or overrides.get("epochs") is not None:
        return None
    return overrides.get("seconds") or TrainConfig.seconds


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


def _info_to_resume(run: runs.Run) -> dict[str, Any]:
    """The run's `run.json`. Raises `CheckpointError` where it lacks what a resumed run needs."""
    info = run.read_info()
    missing = [name for name in ("val", "arguments", "text", "plan") if name not in info]
    if missing:
        raise CheckpointError(f"{run.path}/run.json does not say '{missing[0]}', so the run cannot be resumed.")
    return info


def _step_to_resume(run: runs.Run) -> Path:
    latest = run.latest()
    if latest is None:
        raise CheckpointError(f"{run.path}: no step was ever completed, so there is nothing to resume; start it anew.")
    return latest.path


def _machine_to_resume(
    previous: Mapping[str, Any], plan: planning.Plan, device: str, dtype: str, threads: int | None, compile: str
) -> tuple[Hardware, str]:
    """The machine, and what is asked of its compiler: what is left open is as it was, for bits depend on it.

    Where time is the budget, it decides about compiling, now as then.
    """
    was = previous.get("machine", {})
    if compile == "auto" and plan.train.seconds is None:
        compile = was.get("compile", compile)
    before = was.get("device", device) if device == "auto" else device
    dtype_before = was.get("dtype", dtype) if dtype == "auto" else dtype
    threads_before = was.get("threads") if threads is None else threads
    try:
        return choose_hardware(before, dtype_before, threads_before, compile), compile
    except UsageError:  # perhaps for a device that nobody asked for today
        return choose_hardware(device, dtype, threads, compile), compile


def _compare_machines(previous: Mapping[str, Any], hardware: Hardware, watcher: Watcher) -> None:
    was = previous.get("machine", {})
    unlike = [f"{name} {now}, not {was[name]}" for name, now in hardware.choices().items() if was and was[name] != now]
    if unlike:
        watcher.notice(f"unlike before: {'; '.join(unlike)}. The last bits of what is computed will differ.")


def _train_config(previous: Mapping[str, Any] | None) -> TrainConfig:
    """As run.json has it; `_plan_to_resume` has found it in order."""
    return TrainConfig(**previous["plan"]["train"]) if previous else TrainConfig()


def _in_the_order_of(previous: Mapping[str, Any], text: corpus.Text) -> corpus.Text:
    """The files as they were ordered when the run began, whatever their names are now."""
    places = {source["sha256"]: i for i, source in reversed(list(enumerate(previous.get("inputs", []))))}
    return corpus.Text(tuple(sorted(text.pieces, key=lambda piece: places.get(piece.document.digest, len(places)))))


def _check_same_text(run: runs.Run, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for part, name in (("train", "text"), ("val", "held-out text")):
        if before.get(part) != now[part]:
            was = before.get(part, {})
            raise CheckpointError(
                f"the {name} is not the one that {run.path} was begun with: then {was.get('bytes', 0):,} bytes with "
                f"sha256 {str(was.get('sha256'))[:16]}, now {now[part]['bytes']:,} with {now[part]['sha256'][:16]}; "
                "give that text, or start a new run without --resume."
            )


def _changes(previous: Mapping[str, Any], plan: planning.Plan, step: int, watcher: Watcher) -> list[dict[str, Any]]:
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


def _plan_to_resume(previous: Mapping[str, Any], overrides: Mapping[str, Any]) -> planning.Plan:
    """The plan that was stored; only budget, cadence and what is kept may differ from it."""
    budget = {name: overrides.get(name) for name in ("seconds", "steps", "epochs")}
    free = {"accumulate", "eval_every", "save_every", "sample_every", "sample_prompt", "keep"}
    stored = previous["plan"]
    try:
        model, train_fields = ModelConfig(**stored["model"]), TrainConfig(**stored["train"]).to_dict()
    except (TypeError, KeyError, ValueError, UsageError) as error:
        raise CheckpointError(f"the plan in run.json is not one that this gptlite writes: {error}.") from error
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
    return planning.Plan(
        model, TrainConfig(**train_fields), tuple(stored.get("reasons", ())), tuple(stored.get("given", ()))
    )

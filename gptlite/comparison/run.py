"""`compare`: the text is read and the plan made once; then each contender trains in a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gptlite import errors, system
from gptlite.comparison.collect import collect
from gptlite.comparison.contenders import (
    PAIRS,
    TEXT,
    Contender,
    Protocol,
    choose_contenders,
    expected_seconds,
    read_names,
)
from gptlite.comparison.store import Store, new_store, old_store
from gptlite.comparison.worker import SPEED_TASK, Task
from gptlite.config import ModelConfig
from gptlite.errors import CorpusError, GptliteError, Interrupted, ProcessError, UsageError, as_call, plural
from gptlite.paths import cache_directory
from gptlite.storage.durable import check_storage
from gptlite.text import corpus
from gptlite.text.options import TextOptions
from gptlite.training import launch, machine, pair_data
from gptlite.training.dataset import Dataset, hold_out, remembered_val, shorten, tokenize
from gptlite.training.estimate import estimate
from gptlite.training.plan import longest_context, text_limits
from gptlite.training.request import Request, parse_time
from gptlite.training.team import ALONE
from gptlite.training.watcher import Watcher

DEFAULT_TIME, DEFAULT_VAL = "2m", "5%"
SHORTEST = 1.0  # seconds of training for each network
CONTEXT = 128  # tokens of text, at most: what the rates of the recurrent contenders were fitted to
POLL_SECONDS = 0.1
SPARE_BYTES, BYTES_PER_PARAMETER = 8 << 20, 8  # that must be free: results, and weights with room for a temporary file


class CompareWatcher(Watcher):
    """Called as a comparison goes on; override the methods you need, those of `Watcher` too."""

    def begun(self, directory: Path, contenders: Sequence[Contender], seconds: float, hardware: str) -> None:
        """The text is read and the plan made; `contenders` are still to do and take about `seconds`."""

    def finished(self, contender: Contender, result: Mapping[str, Any]) -> None:
        """A contender is finished and saved."""


def compare(
    inputs: Sequence[str | Path] | str | Path = (),
    *,
    time: str | float | None = None,
    contenders: str | Sequence[str] | None = None,
    directory: str | Path | None = None,
    resume: bool = False,
    prompt: str | None = None,
    seed: int | None = None,
    words: str | Sequence[str] | None = None,
    val: str | float | None = None,
    lossy: bool = False,
    encoding: str | None = None,
    separator: str | None = None,
    as_text: bool = False,
    text_field: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    watcher: CompareWatcher | None = None,
    should_stop: Callable[[], int | None] = lambda: None,
) -> dict[str, Any]:
    """Train each contender for the same time on the same text, and return what `gptlite compare --json` prints.

        compare("corpus.txt", time="2m", contenders=["lstm", "gptlite"])

    - `inputs`: files, folders or patterns; not needed with `resume`.
    - `time`: of training for each network, such as "2m"; the search for learning rates and the measures are extra.
    - `contenders`: names, or a text with commas; by default all that are for running text, or for pairs.
    - `directory`: where it is kept; by default `comparisons/<name of the first input>`.
    - `resume`: go on with a comparison; finished contenders are kept, and `contenders` may name others.
    - `prompt`: what samples begin with; `seed`: of weights, batches and samples.
    - `words`: whose neighbours are followed over the training of the Transformers, a sequence or a text with commas;
      by default frequent ones whose neighbours stand out.
    - `val`, `lossy`, `encoding`, `separator`, `as_text`, `text_field`, `device`, `threads`: as for `gptlite.train`.
    - `should_stop`: called often; a signal number ends the comparison with `Interrupted`.
    Raises the errors of `gptlite.errors`.
    """
    watcher = watcher or CompareWatcher()
    asked = None if contenders is None else read_names(contenders)
    followed = _read_words(words)
    names = [str(inputs)] if isinstance(inputs, (str, Path)) else [str(name) for name in inputs]
    options = TextOptions(lossy, encoding, separator=separator, as_text=as_text, text_field=text_field)
    if not names and not resume:
        raise UsageError("`inputs` must name the text, such as a file.")
    if "-" in names:
        raise UsageError("`inputs`: a comparison reads its text again when it is resumed; name a file, not -.")
    if time is not None and parse_time(time) < SHORTEST:
        raise UsageError(f"`time` must be at least {SHORTEST:g}s for each network.")
    with ExitStack() as stack:
        if resume:
            store = old_store(directory, names)
            info = store.read_info()
            stack.enter_context(store.lock())
            _check_same(info, time=None if time is None else parse_time(time), prompt=prompt, seed=seed)
            # Those that were asked for before, those that are finished, and those named now.
            all_names = [*(asked or ()), *info["contenders"], *(c.name for c in store.finished())]
            chosen = choose_contenders(all_names, Protocol(**info["protocol"]).on)
            _check_words(followed, info)
            dataset = _read_again(store, info, names, options, watcher, stack)
        else:
            store = new_store(directory, names)
            request = Request.of(
                names, time=time or DEFAULT_TIME, seed=seed if seed is not None else 1, device=device, threads=threads,
                watcher=watcher,
            )  # fmt: skip
            machine.choose(request, ALONE)  # refuses what this machine does not have before the text is read
            dataset, info = _prepare(request, names, val or DEFAULT_VAL, options, prompt or "", asked, stack)
            chosen = choose_contenders(info["contenders"], Protocol(**info["protocol"]).on)
            _check_words(followed, info)
            stack.enter_context(store.lock())
            needed = SPARE_BYTES + BYTES_PER_PARAMETER * len(chosen) * ModelConfig(**info["protocol"]["model"]).n_params
            check_storage(store.path, needed, "the results need", "directory")
            store.begin(info, dataset.tokenizer)
        _run(store, info, dataset, chosen, watcher, should_stop)
        return collect(store, chosen, info, followed)


def _read_words(words: str | Sequence[str] | None) -> list[str]:
    """The words in a sequence, or in a text with commas. Raises `UsageError` where there is none."""
    if words is None:
        return []
    found = [word.strip() for word in (words.replace("，", ",").split(",") if isinstance(words, str) else words)]
    found = [word for word in found if word]
    if not found:
        raise UsageError("`words` names none; give some, such as king,queen.")
    return found


def _check_words(words: Sequence[str], info: Mapping[str, Any]) -> None:
    if words and Protocol(**info["protocol"]).pairs:
        raise UsageError("`words` are followed on running text, and the files are pairs; leave it out.")


def _prepare(
    request: Request,
    names: list[str],
    val: str | float,
    options: TextOptions,
    prompt: str,
    asked: list[str] | None,
    stack: ExitStack,
) -> tuple[Dataset, dict[str, Any]]:
    """The text as tokens, and what `comparison.json` says: the plan that gptlite makes for this text and time."""
    watcher, seconds = request.watcher, request.time_budget
    assert seconds is not None
    hardware = machine.choose(request, ALONE)
    limits = text_limits(seconds, hardware)
    texts = _open(names, options, watcher, stack, val, limits)
    pairs = pair_data.format_of(texts)
    chosen = choose_contenders(asked, PAIRS if pairs else TEXT)
    if pairs and prompt:
        raise UsageError("`prompt` is for samples of running text, and the files are pairs; leave it out.")
    if pairs:
        pair_data.note_duplicates(texts, watcher)
    dataset = tokenize(texts, None, watcher)
    settings = {**pair_data.settings_for(dataset, request.settings, None), "members": 1}  # every contender is one model
    settings.setdefault("context_length", min(CONTEXT, longest_context(dataset.tokens.n_tokens)))
    planned = estimate(dataset, hardware, None, None, settings, watcher)
    if pairs:
        pair_data.note_longer(dataset, planned.plan, watcher)
    protocol = Protocol(
        seconds=seconds,
        seed=planned.plan.train.seed,
        prompt=prompt,
        model=planned.plan.model.to_dict(),
        train=planned.plan.train.to_dict(),
        machine=hardware.choices(),
        byte_scale=dataset.val_tokens.byte_scale(dataset.tokenizer.token_bytes),
        pairs=dataclasses.asdict(pairs) if pairs else None,
    )
    info = {
        "contenders": [contender.name for contender in chosen],
        "protocol": protocol.to_dict(),
        "arguments": [str(Path(name).absolute()) for name in names],
        "reading": options.to_dict(),
        "val": remembered_val(val),
        "text_limits_bytes": limits,
        "text": texts.facts(),
        "facts": {
            "hardware": hardware.describe(),
            "train_bytes": texts.train.n_bytes,
            "val_bytes": texts.val.n_bytes,
            "n_train_tokens": dataset.tokens.n_tokens,
        },
    }
    return dataset, info


def _open(
    names: list[str], options: TextOptions, watcher: Watcher, stack: ExitStack, val: str | float, limits: Any
) -> Any:
    watcher.phase("reading", 0.0)
    text = stack.enter_context(corpus.opened(names, cache_directory(), notice=watcher.notice, options=options))
    return shorten(hold_out(text, val, watcher, options), limits, watcher)


def _read_again(
    store: Store, info: Mapping[str, Any], names: list[str], options: TextOptions, watcher: Watcher, stack: ExitStack
) -> Dataset:
    """The text of a comparison that goes on. Raises `CorpusError` where it is another one by now."""
    reading = options.for_resume({"reading": info["reading"]})
    texts = _open(names or info["arguments"], reading, watcher, stack, info["val"], info.get("text_limits_bytes"))
    if texts.facts() != info["text"]:
        raise CorpusError(
            f"the text is not the one that {store.path} was begun with; start a new comparison without `resume`."
        )
    return tokenize(texts, pair_data.with_boundaries(store.tokenizer(), pair_data.format_of(texts)), watcher)


def _check_same(info: Mapping[str, Any], **asked: Any) -> None:
    """Raises `UsageError` where something else is asked for than a comparison was begun with."""
    protocol = info["protocol"]
    before = {"time": protocol["seconds"], "prompt": protocol["prompt"], "seed": protocol["seed"]}
    for name, value in asked.items():
        if value is not None and value != before[name]:
            raise UsageError(
                f"`{name}` is {value!r}, and the comparison was begun with {before[name]!r}; leave it out, or start a "
                "new comparison."
            )


def _run(
    store: Store,
    info: Mapping[str, Any],
    dataset: Dataset,
    contenders: Sequence[Contender],
    watcher: CompareWatcher,
    should_stop: Callable[[], int | None],
) -> None:
    """Every contender that is not finished yet, one after the other, and of running text the speeds of all networks."""
    protocol = Protocol(**info["protocol"])
    missing = [contender for contender in contenders if not store.is_finished(contender)]
    timed = [
        contender for contender in contenders if contender.kind in ("recurrent", "transformer") and protocol.on == TEXT
    ]
    watcher.begun(store.path, missing, expected_seconds(missing, protocol), info["facts"]["hardware"])

    def task(name: str) -> Task:
        tokens, val_tokens = (
            {**dataclasses.asdict(t), "path": str(t.path.absolute())} for t in (dataset.tokens, dataset.val_tokens)
        )
        return Task(
            directory=str(store.path.absolute()),
            name=name,
            names=tuple(c.name for c in timed),
            protocol=info["protocol"],
            tokenizer=dataset.tokenizer.to_json(),
            tokens=tokens,
            val_tokens=val_tokens,
        )

    for done, contender in enumerate(missing):

        def tell(phase: str, fraction: float, title: str = contender.title) -> None:
            watcher.phase(f"{title}: {phase}", fraction)

        _work(task(contender.name), tell, should_stop, store, len(contenders) - len(missing) + done, len(contenders))
        watcher.finished(contender, store.result(contender))
    if timed and store.speeds(timed) is None:
        n = len(contenders)
        _work(task(SPEED_TASK), lambda phase, fraction: watcher.phase(phase, fraction), should_stop, store, n, n)


def _work(
    task: Task,
    tell: Callable[[str, float], None],
    should_stop: Callable[[], int | None],
    store: Store,
    n_finished: int,
    n_all: int,
) -> None:
    """Do a task in a process of its own, which ends with this one. Raises what it raised, and `ProcessError`."""
    tell("starting", 0.0)
    with _process() as process:
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; its code says why
            process.stdin.write(json.dumps(dataclasses.asdict(task)).encode())
            process.stdin.close()
        lines: queue.Queue[bytes] = queue.Queue()
        stream = process.stdout
        reader = threading.Thread(target=lambda: [lines.put(line) for line in stream], daemon=True)
        reader.start()
        error: GptliteError | None = None
        while reader.is_alive() or not lines.empty():
            if signal := should_stop():
                process.kill()
                reader.join()
                raise Interrupted(
                    f"stopped: {n_finished} of {plural(n_all, 'contender')} are finished and kept; do the rest with: "
                    f"{as_call('compare', directory=str(store.path), resume=True)}",
                    signal,
                )
            with contextlib.suppress(queue.Empty):
                error = _hear(lines.get(timeout=POLL_SECONDS), tell) or error
        code = process.wait()
    if error is not None:
        raise error
    if code:
        what = f"was ended by signal {-code}, as a system does that runs out of memory" if code < 0 else "failed"
        again = as_call("compare", directory=str(store.path), resume=True)
        raise ProcessError(f"the process of {task.name} {what}; finished contenders are kept, and go on with: {again}.")


def _hear(line: bytes, tell: Callable[[str, float], None]) -> GptliteError | None:
    """What a worker says: progress, or an error."""
    facts = json.loads(line)
    if "error" not in facts:
        tell(facts["phase"], facts["fraction"])
        return None
    kind = getattr(errors, facts["kind"], GptliteError)
    return kind(facts["error"])


@contextlib.contextmanager
def _process() -> Iterator[subprocess.Popen[bytes]]:
    """A worker that is gone when the block ends. A terminal's Ctrl-C does not reach it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gptlite.comparison.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, launch.LAUNCHER: str(os.getpid())},
        **system.own_group(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

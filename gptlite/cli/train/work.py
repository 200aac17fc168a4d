"""What `gptlite train` does: it checks its options, starts processes for several GPUs, and plans or runs."""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import typer

from gptlite.cli import process
from gptlite.cli.shared import answers, console, demos, progress, schemas
from gptlite.cli.train import outcome
from gptlite.errors import UsageError
from gptlite.text import demo as built_in
from gptlite.text import demo_pairs

BUDGETS = ("seconds", "steps", "epochs")


@dataclass(frozen=True)
class Call:
    """The options of one call, as they were given."""

    files: list[str]
    settings: dict[str, Any]  # of the model and its training, those given; None stands for all others
    request: dict[str, Any]  # how the text is read and where the model is trained: arguments of `Request.of`
    out: str | None
    gpus: int | None
    demo: bool
    resume: bool
    dry_run: bool
    json: bool
    quiet: bool

    @property
    def given(self) -> dict[str, Any]:
        """The settings that were given; those of `--demo homonyms` too, as far as they were not."""
        given = {name: value for name, value in self.settings.items() if value is not None}
        if self.demo and self.files and not self.resume:
            given = {**_demo_settings(self.files[0], given, self.request["size"]), **given}
        return given


def check(call: Call) -> None:
    """Raises `UsageError` for options that do not go together."""
    if not call.files and not call.demo and not call.resume:
        raise UsageError("name the text to train on, such as: gptlite train corpus.txt (or try --demo).")
    if call.dry_run and call.resume:
        raise UsageError("--dry-run plans a new run; leave --resume out.")
    demos.check(call.demo, call.files)
    given = {name for name, value in call.settings.items() if value is not None}
    if "sample_prompt" in given and not (call.settings["sample_every"] or call.resume):
        raise UsageError("--sample-prompt does nothing without --sample-every N, the steps between samples.")
    _check_val(call.request["val"])
    if len(given.intersection(BUDGETS)) > 1:
        raise UsageError("give only one of --time, --steps and --epochs.")


def _check_val(val: str | None) -> None:
    if val is not None and re.fullmatch(r"[0-9]*\.?[0-9]+", val) and not Path(val).exists():
        share = float(val) * 100 if float(val) < 1 else float(val)
        raise UsageError(f"--val {val} needs a unit: write {share:g}% for a share of the text, or the name of a file.")


def _demo_settings(name: str, given: dict[str, Any], size: str | None) -> dict[str, Any]:
    """What is enough to learn a demonstration, as far as it was not given."""
    demo = demo_pairs if name == demos.PAIRS else built_in
    settings = {**demo.SHAPE, **demo.TRAINING} if size is None else dict(demo.TRAINING)
    return {name: value for name, value in settings.items() if name not in BUDGETS or not set(BUDGETS) & set(given)}


def run(call: Call) -> None:
    """Plan or train, here or in several processes."""
    started = process.began()
    if process.is_launched():  # what torch says, before Python, of a process that is lost, ours say in a sentence
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if call.dry_run and process.follows():
        return
    if call.gpus is not None and not call.dry_run and not process.is_launched():
        _launch_processes(call.gpus, call)
    with (
        progress.TrainingDisplay(call.quiet or process.follows()) as display,
        process.stoppable(display.stopping) as should_stop,
    ):
        display.phase("starting", 0.0)
        from gptlite.training import pipeline, prepare
        from gptlite.training.request import Request

        inputs, request = call.files, {**call.request, "watcher": _Sheltered(display), **call.given}
        if call.demo:
            inputs, request["val"] = demos.inputs(call.files, request["val"])
            if demos.PAIRS in call.files and not call.request["init_from"] and not call.request["tokenizer"]:
                request["vocab_size"] = request["vocab_size"] or demo_pairs.VOCABULARY
        if call.dry_run:
            preview = prepare.preview(Request.of(inputs, **request))
            display.bar.stop()
            if call.json:
                console.write_json(schemas.named("train-plan", preview))
            else:
                outcome.show_plan(preview)
            return
        command = ["gptlite", *sys.argv[1:]]
        how = {"out": call.out, "resume": call.resume, "should_stop": should_stop, "started": started}
        result = pipeline.run(Request.of(inputs, command=command, **how, **request))
        if result:
            display.phase("answering", 1.0)
            result |= answers.after_demo(result["run"])
    if not result:  # one of several processes, and not the first
        return
    if call.json:
        console.write_json_if_read(schemas.named("train", result))
        return
    for line in outcome.outcome(result):
        display.messages.say(line)
    display.messages.say(f'try: gptlite generate -m {shlex.quote(result["run"])} --prompt "..."')


def _launch_processes(asked: int, call: Call) -> None:
    """Run the command in several processes and exit with their code, if that many are asked for."""
    from gptlite import device as machine
    from gptlite.training import launch

    n_gpus = 0 if call.request["device"] == "cpu" else machine.count_gpus()
    if (n := launch.count_processes(asked, n_gpus)) > 1:
        raise typer.Exit(launch.launch(sys.argv[1:], n, console.Messages(call.quiet).notice))


class _Sheltered:
    """A display that may fail: it is told once, and no training ends for it."""

    def __init__(self, display: progress.TrainingDisplay) -> None:
        self.display, self.failed = display, False

    def __getattr__(self, name: str) -> Any:
        return partial(self._tell, getattr(self.display, name))

    def _tell(self, method: Any, *facts: Any) -> None:
        try:
            method(*facts)
        except Exception as error:
            if not self.failed:
                self.failed = True
                self._tell(self.display.notice, f"progress cannot be shown, and training goes on: {error!r}.")

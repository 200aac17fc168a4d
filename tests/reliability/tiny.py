"""A training run so small that a step takes a few milliseconds, without the command line around it."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import make_text

from gptlite.checkpoint import saved_step
from gptlite.checkpoint.runs import Run
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import choose_hardware
from gptlite.model import GPT, initialise
from gptlite.text import token_files
from gptlite.text.batches import Batches
from gptlite.text.corpus import open_text
from gptlite.text.tokenizer import Tokenizer
from gptlite.training import loop, optimizer, saving
from gptlite.training.clock import Clock
from gptlite.training.plan import Plan
from gptlite.training.run_log import RunLog
from gptlite.training.setup import Setup
from gptlite.training.state import State, restore_training_state
from gptlite.training.team import ALONE
from gptlite.training.watcher import Watcher

CONTEXT = 16
NEVER = 10**9


class Notices(Watcher):
    """Remembers the notices and the steps that were announced as saved."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.saves: list[int] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def saved(self, step: int, path: Path) -> None:
        self.saves.append(step)


@dataclass
class Session:
    """A run that tests look into while it trains; they may exchange its setup."""

    model: GPT
    optimizers: list[torch.optim.Optimizer]
    state: State
    setup: Setup

    def change(self, **fields: Any) -> None:
        """Put other values into the setup."""
        self.setup = dataclasses.replace(self.setup, **fields)

    def move_to(self, run: Run) -> None:
        self.change(run=run, log=RunLog(run, self.setup.watcher))

    def fit(self) -> None:
        loop.fit(self.model, self.optimizers, self.state, ALONE, self.setup)

    def take_step(self) -> None:
        """One update of the weights; the state stays as it is."""
        batch = self.setup.batches.batch(self.state.step)
        loop.train_step(self.model, self.optimizers, batch, self.state, ALONE, self.setup)

    def save(self, final: bool = True) -> None:
        saving.save(self.model, self.optimizers, self.state, ALONE, self.setup, final=final)


@dataclass
class TinyTrainer:
    """What all runs share; made once, because it takes far longer than a run."""

    folder: Path
    tokenizer: Tokenizer = field(init=False)
    tokens: token_files.TokenFile = field(init=False)
    val_ids: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        text = make_text(60)
        self.tokenizer = Tokenizer.train([text], 270)
        (self.folder / "corpus.txt").write_text(text)
        corpus = open_text([str(self.folder / "corpus.txt")], notice=lambda _: None)
        self.tokens = token_files.tokenize(corpus, self.tokenizer, cache=self.folder / "cache")
        self.val_ids = np.array(self.tokens.ids()[: 4 * CONTEXT])
        self.model = ModelConfig.preset(
            "llama", "tiny", dim=8, n_heads=1, n_layers=1, context_length=CONTEXT, vocab_size=self.tokenizer.vocab_size
        )
        self.hardware = choose_hardware("cpu", "fp32", 1, "off")

    def session(
        self, run: Run, steps: int = 30, save_every: int = 1, keep: int = 2, watcher: Watcher | None = None
    ) -> Session:
        """A session that goes on from the newest intact step of the run, or begins; the caller holds the lock."""
        config = TrainConfig(
            seconds=None,
            steps=steps,
            batch_size=2,
            dropout=0.1,
            optimizer="adamw",
            save_every=save_every,
            eval_every=NEVER,
            keep=keep,
        )
        torch.manual_seed(config.seed)
        model = GPT(self.model, dropout=config.dropout)
        initialise(model, config.seed)
        optimizers = optimizer.make_optimizers(model, config)
        state, watcher = State(), watcher or Watcher()
        if run.step_directories():
            saved = saved_step.load(run.step_to_resume(watcher.notice))
            model.load_state_dict(saved.model.state_dict())
            state = restore_training_state(saved, model, optimizers)
        batches = Batches(self.tokens, context=CONTEXT, batch_size=config.batch_size, seed=config.seed)
        clock = Clock.for_budget(config, batches.steps_per_epoch, time.monotonic(), state.elapsed)
        setup = Setup(
            run=run,
            plan=Plan(self.model, config, (), ()),
            hardware=self.hardware,
            tokenizer=self.tokenizer,
            batches=batches,
            val_ids=self.val_ids,
            clock=clock,
            log=RunLog(run, watcher),
            watcher=watcher,
        )
        return Session(model, optimizers, state, setup)

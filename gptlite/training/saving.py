"""Saving a step while training goes on, and the whole model of several processes."""

from __future__ import annotations

from torch import optim

from gptlite.checkpoint import saved_step
from gptlite.embedding import statistics
from gptlite.embedding.context_encoder import ContextEncoder
from gptlite.embedding.contextual import find_prefix
from gptlite.errors import StorageError
from gptlite.model import GPT
from gptlite.training.setup import Setup
from gptlite.training.state import State, write_training_state
from gptlite.training.team import Team

TOKEN_TABLE = "transformer.embed.weight"
ENOUGH_TOKENS = 512  # of held-out text for the statistics of its hidden states; with fewer, training text is used


def save(
    model: GPT, optimizers: list[optim.Optimizer], state: State, team: Team, setup: Setup, *, final: bool,
    encoder: ContextEncoder | None = None,
) -> None:  # fmt: skip
    """Write this step; only when it is on disk, delete what is no longer kept. All processes call it, the first writes.

    - `encoder`: the context encoder of the step, which only the final one has.
    Raises `StorageError` where no later save could make up for this one, because it is the `final` one or the run
    directory is gone; otherwise a failure is a notice, once until a save succeeds.
    """
    run, watcher = setup.run, setup.watcher
    began = state.elapsed = setup.clock.elapsed()
    directory = run.step_path(state.step)
    training_state = write_training_state(state, setup.ensemble or model, optimizers, team)
    whole = whole_model(setup.collect(model), team, setup)
    if not team.leads:
        return
    whole.eval()
    ids = setup.val_ids if len(setup.val_ids) >= ENOUGH_TOKENS else setup.batches.ids
    prefix = find_prefix(setup.tokenizer, token_counts=setup.token_counts.numpy())
    with setup.workers.alone():  # short operators lose more to threads that wait than they gain
        measured = statistics.measure_statistics(
            whole, setup.tokenizer, ids, prefix, setup.workers, setup.bags, encoder
        )
    model.train()
    run.check()
    setup.history.save(run, watcher.notice)
    try:
        saved_step.save_step(
            directory,
            whole,
            setup.tokenizer,
            {"step": state.step, "val_bits_per_byte": state.history.get(state.step)},
            training_state=training_state,
            embedding=measured | {"token_counts": setup.token_counts},
            words=setup.words,
            word_vectors_file=setup.word_vectors,
            encoder_files=encoder and encoder.to_bytes(),
            at=run.at,
        )
    except StorageError as error:
        run.check_place()
        if final:
            raise
        if not setup.log.save_failed:
            watcher.notice(f"{error} Training goes on; each later save tries again.")
        setup.log.save_failed = True
        return
    run.check_place(f"step {state.step}")
    setup.log.save_failed = False
    watcher.saved(state.step, directory)
    run.link()
    try:
        run.prune(setup.plan.train.keep)
    except StorageError as error:
        watcher.notice(f"{error} Training goes on; it takes room until it is deleted.")
    state.save_seconds = max(state.save_seconds, setup.clock.elapsed() - began)


def keep_table(model: GPT, state: State, team: Team, setup: Setup, *, scored: bool) -> None:
    """Where it is due, keep the token table of this step in memory, for the next save. All processes call it."""
    if not setup.history.due(state.step, scored):
        return
    table = team.gather({TOKEN_TABLE: setup.collect(model).state_dict()[TOKEN_TABLE]})
    if team.leads:
        setup.history.add(
            state.step, table[TOKEN_TABLE].float().cpu().numpy(), setup.tokenizer, lambda: setup.words,
            train_loss=state.train_loss, val_bits_per_byte=state.history.get(state.step) if scored else None,
        )  # fmt: skip


def whole_model(model: GPT, team: Team, setup: Setup) -> GPT:
    """The model with all of its weights; in the first process only, though all have to call it."""
    if not team.sharded:
        return model
    tensors = team.gather(model.state_dict())
    if not team.leads:
        return model
    whole = GPT(setup.plan.model).to(setup.hardware.device)
    whole.load_state_dict(tensors)
    return whole

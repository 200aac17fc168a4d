"""The token table at steps of a run: which steps are kept, in how many bytes, and that resuming changes nothing."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_text

from gptlite.checkpoint import check, saved_step, table_history
from gptlite.checkpoint.runs import Run, claim_run
from gptlite.checkpoint.table_history import KeptTable
from gptlite.errors import Interrupted, StorageError
from gptlite.storage import durable
from gptlite.text.tokenizer import Tokenizer
from gptlite.training import table_history as recording
from gptlite.training.pipeline import train
from gptlite.training.table_history import TableHistory, choose_tokens, grid
from gptlite.training.watcher import Watcher

SETTINGS: dict[str, Any] = {
    "n_layers": 1, "dim": 16, "n_heads": 1, "context_length": 16, "vocab_size": 280, "batch_size": 4,
    "eval_every": 7, "save_every": 6, "threads": 1, "keep": 100,
}  # fmt: skip


class Notices(Watcher):
    def __init__(self) -> None:
        self.told: list[str] = []

    def notice(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    (tmp_path / "corpus.txt").write_text(make_text(100))
    return str(tmp_path / "corpus.txt")


def stop_after(steps: int) -> Any:
    asked = iter(range(1, steps))
    return lambda: 2 if next(asked, None) is None else None


def steps_of(run: str) -> list[int]:
    found = table_history.read(Path(run))
    assert found is not None
    return [table.step for table in found[1]]


# -- Which steps


def test_kept_steps_are_few_a_factor_apart_and_nested() -> None:
    before: set[int] = set()
    for step in [*range(1, 3000), 10**4, 10**5, 10**6, 10**9]:
        kept = grid(step)
        assert 1 <= len(kept) <= recording.MOST_GRID and max(kept) <= step < 4**4 * max(kept)
        assert {old for old in kept if old <= max(before, default=0)} <= before, "nothing comes back"
        before = kept
    assert sorted(grid(1500)) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    assert sorted(grid(60)) == [1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45]


def test_a_run_keeps_step_0_the_grid_and_the_newest_score(corpus: str) -> None:
    train(corpus, out="run", steps=20, **SETTINGS)
    assert steps_of("run") == [0, *sorted(grid(20)), 20]
    tokens, tables = table_history.read(Path("run")) or (np.zeros(0), [])
    assert tables[0].train_loss is None and tables[-1].val_bits_per_byte is not None
    assert [table.val_bits_per_byte is not None for table in tables[:-1]] == [False] * len(tables[:-1])
    (score,) = [line["val_bits_per_byte"] for line in Run(Path("run")).read_log() if line["step"] == 20]
    assert tables[-1].val_bits_per_byte == pytest.approx(score)
    loaded = saved_step.load(Run(Path("run")).step_path(20)).model
    saved = loaded.transformer.embed.weight.detach().numpy()
    assert len(tokens) == len(saved)
    assert np.abs(saved - tables[-1].vectors).max() <= np.abs(saved).max() / 127
    assert not np.allclose(saved, tables[0].vectors, atol=0.01)


def test_rounding_changes_a_cosine_by_thousandths() -> None:
    rows = np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32) * np.logspace(-6, 3, 300)[:, None]
    rounded = KeptTable.of(0, rows.astype(np.float32)).vectors

    def cosines(x: np.ndarray) -> np.ndarray:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return x @ x.T

    assert np.abs(cosines(rows) - cosines(rounded)).max() < 0.01
    assert (KeptTable.of(0, np.zeros((2, 3), np.float32)).vectors == 0).all()


# -- Resuming


@pytest.mark.parametrize("stopped", [1, 8, 13])
def test_resuming_ends_with_the_same_bytes(corpus: str, stopped: int) -> None:
    train(corpus, out="straight", steps=20, **SETTINGS)
    with pytest.raises(Interrupted):
        train(corpus, out="run", steps=20, should_stop=stop_after(stopped), **SETTINGS)
    train(out="run", resume=True)
    name = table_history.NAME
    assert Path("run", name).read_bytes() == Path("straight", name).read_bytes()


def test_steps_that_are_lost_come_again(corpus: str) -> None:
    """The newest step is damaged, so that training goes on from the one before."""
    train(corpus, out="run", steps=20, **SETTINGS)
    before = Path("run", table_history.NAME).read_bytes()
    (Path("run") / "step-000000020" / "model.safetensors").write_bytes(b"")
    info = Run(Path("run")).read_info()
    Run(Path("run")).write_info({key: value for key, value in info.items() if key != "result"})
    train(out="run", resume=True)
    assert Path("run", table_history.NAME).read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"x" * 100, None])
def test_a_damaged_or_missing_file_ends_no_run(corpus: str, content: bytes | None) -> None:
    with pytest.raises(Interrupted):
        train(corpus, out="run", steps=20, should_stop=stop_after(10), **SETTINGS)
    path, watcher = Path("run", table_history.NAME), Notices()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
        assert not check.check_run(Run(Path("run"))).intact
    train(out="run", resume=True, watcher=watcher)
    assert any("Training goes on without the token tables" in told for told in watcher.told) == (content is not None)
    assert steps_of("run") == [11, 16, 20]
    assert check.check_run(Run(Path("run"))).intact


def test_a_file_that_cannot_be_written_is_a_notice(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = durable.replace_file

    def fail(path: Path, content: bytes, at: int | None = None) -> None:
        if path.name == table_history.NAME:
            raise StorageError(f"cannot write {path}: no space left.")
        replace(path, content, at)

    monkeypatch.setattr(durable, "replace_file", fail)
    watcher = Notices()
    train(corpus, out="run", steps=20, watcher=watcher, **SETTINGS)
    assert sum(table_history.NAME in told for told in watcher.told) == 1
    assert not Path("run", table_history.NAME).exists() and Run(Path("run")).latest()


def test_a_run_that_never_saved_a_step_can_be_begun_again(corpus: str) -> None:
    run = Path("run")
    run.mkdir()
    (run / table_history.NAME).write_bytes(b"old")
    (run / "run.json").write_text("{}")
    claim_run(run)
    train(corpus, out="run", steps=6, **SETTINGS)
    assert steps_of("run") == [0, *sorted(grid(6))]


# -- Size


def test_a_large_table_keeps_the_tokens_of_frequent_words(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer
) -> None:
    monkeypatch.setattr(recording, "MOST_BYTES", 16 * 21 * 40)
    words = [("river", 9), ("bank", 8), ("zzzzzzzzzz", 1)]
    chosen = choose_tokens((tokenizer.vocab_size, 16), tokenizer, lambda: words)
    assert len(chosen) == 40 and (np.diff(chosen) > 0).all()
    assert {*tokenizer.encode(" river"), *tokenizer.encode(" bank")} <= set(chosen.tolist())
    history, table = TableHistory(), np.ones((tokenizer.vocab_size, 16), np.float32)
    for step in [0, *sorted(grid(9000)), 9000]:
        history.add(step, table, tokenizer, lambda: words, val_bits_per_byte=2.0 if step == 9000 else None)
    size = len(table_history.to_bytes(chosen, history.kept))
    assert len(history.kept) == recording.MOST_STEPS and size <= recording.most_bytes(tokenizer.vocab_size, 16)


@pytest.mark.parametrize("dim", [4, 64, 256, 4096])
def test_no_run_takes_more_than_a_few_megabytes(dim: int) -> None:
    assert recording.most_bytes(200_000, dim) <= (8 << 20) + 4096 <= table_history.LARGEST


def test_a_table_that_is_not_finite_is_left_out(tokenizer: Tokenizer) -> None:
    history = TableHistory()
    history.add(0, np.full((tokenizer.vocab_size, 4), math.nan, np.float32), tokenizer, list)
    assert not history.kept


def test_keeping_a_table_takes_milliseconds(tokenizer: Tokenizer) -> None:
    """Of the plan's own size on two cores; a run of a minute keeps some twenty."""
    table = np.random.default_rng(0).normal(size=(2048, 256)).astype(np.float32)
    history = TableHistory()
    history.add(0, table, tokenizer, list)
    began = time.process_time()
    for step in (1, 2, 4):
        history.add(step, table, tokenizer, list)
    assert time.process_time() - began < 0.15

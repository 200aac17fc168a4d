"""How words and attention of the Transformers of a comparison came to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.comparisons import in_this_process

from gptlite.comparison import emerging
from gptlite.comparison.collect import collect
from gptlite.comparison.contenders import choose_contenders
from gptlite.comparison.run import compare
from gptlite.comparison.store import Store
from gptlite.errors import UsageError
from gptlite.text.tokenizer import Tokenizer
from gptlite.training.table_history import TableHistory


@pytest.fixture
def store(comparison_of_four: Path) -> Store:
    return Store(comparison_of_four)


def test_the_transformer_has_its_tables_from_step_0_to_the_end(store: Store) -> None:
    contenders = choose_contenders(["lstm", "gptlite"])
    found = collect(store, contenders, store.read_info())
    (course,) = found["emergence"]
    steps = [step["step"] for step in course["steps"]]
    n_steps = found["contenders"][-1]["n_steps"]
    assert (course["name"], steps[0], steps[-1], len(steps) <= 16) == ("gptlite", 0, n_steps, True)
    assert course["steps"][0]["train_loss_nats"] is None and course["steps"][-1]["train_loss_nats"] > 0
    assert 1 <= len(course["words"]) <= 4


def test_the_last_step_stays(tokenizer: Tokenizer) -> None:
    history = TableHistory()
    for step in (0, 1, 2, 4, 5):
        if history.due(step, step == 5):
            history.add(step, np.ones((tokenizer.vocab_size, 4), np.float32), tokenizer, list, last=step == 5)
    assert [table.step for table in history.kept] == [0, 1, 2, 4, 5]


def test_words_can_be_named_afterwards(store: Store) -> None:
    contenders = choose_contenders(["gptlite"])
    (course,) = emerging.read(store, contenders, ["river", "bank", "river"])
    assert [word["word"] for word in course["words"]] == ["river", "bank"]
    assert course["pairs"][0]["words"] == ["river", "bank"]


def test_attention_is_causal_and_sums_to_one(store: Store) -> None:
    (course,) = emerging.read(store, choose_contenders(["gptlite"]))
    kept = course["attention"]
    assert kept["steps"][0] == 0 and len(kept["steps"]) <= 5 and 1 <= len(kept["heads"]) <= 3
    size = len(kept["tokens"])
    for head in kept["heads"]:
        weights = np.array(head["weights"])
        assert weights.shape == (len(kept["steps"]), size, size)
        assert np.allclose(weights.sum(-1), 1, atol=0.02) and (np.triu(weights, 1) == 0).all()


def test_a_comparison_of_an_older_version_has_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emerging, "HISTORY", "embedding/none.safetensors")
    assert emerging.read(store, choose_contenders(["gptlite"])) == []


def test_words_are_refused_where_nothing_follows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comparison_of_four: Path
) -> None:
    in_this_process(monkeypatch)
    (tmp_path / "pairs.tsv").write_text("question\tanswer\n" + "".join(f"what is {i}\t{i}\n" for i in range(200)))
    with pytest.raises(UsageError, match="`words` are followed on running text"):
        compare(tmp_path / "pairs.tsv", time="1s", directory=tmp_path / "x", words="king")
    assert not (tmp_path / "x" / "comparison.json").exists()
    with pytest.raises(UsageError, match="`words` names none"):
        compare(tmp_path / "pairs.tsv", time="1s", directory=tmp_path / "x", words=" , ")

"""gptlite embed --versus word2vec: neighbours by two methods, from the same words of the same text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import TRAIN_TINY, Command, Outcome, make_text, random_model, tiny_config

from gptlite.baselines import word2vec
from gptlite.checkpoint.saved_step import save_step
from gptlite.text.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def gensim() -> None:
    pytest.importorskip("gensim")


@pytest.fixture
def versus(gptlite: Command, trained_run: Path) -> Command:
    def call(*arguments: object, stdin: bytes | None = None) -> Outcome:
        return gptlite("embed", "-m", trained_run, "--versus", "word2vec", *arguments, stdin=stdin)

    return call


def parsed(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def test_both_methods_name_neighbours_from_the_same_words(versus: Command) -> None:
    result = parsed(versus("-w", "bank", "-w", "river", "-k", 3, "--json"))
    assert set(result) == {"model", "n_words", "epochs", "correct", "neighbours", "pairs"}
    for word in ("bank", "river"):
        for method in ("gptlite", "word2vec"):
            found = result["neighbours"][word][method]
            assert len(found) == 3 and word not in dict(found)
            assert [cosine for _, cosine in found] == sorted((cosine for _, cosine in found), reverse=True)
    (pair,) = result["pairs"]
    assert pair["words"] == ["bank", "river"]
    assert pair["word2vec"] == pytest.approx(
        dict(result["neighbours"]["bank"]["word2vec"]).get("river", pair["word2vec"])
    )
    assert parsed(versus("-w", "bank", "-w", "river", "-k", 3, "--json")) == result, "the same every time"


def test_word2vec_reads_what_the_run_was_trained_on(versus: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def watch(blocks: Any, **settings: Any) -> Any:
        read.extend(blocks)
        return train(read, **settings)

    train = word2vec.train_word2vec
    monkeypatch.setattr(word2vec, "train_word2vec", watch)
    assert versus("-w", "bank").code == 0
    text = "".join(read)
    assert make_text().startswith(text) and 0.94 < len(text) / len(make_text()) < 0.96, "without what was held out"
    read.clear()
    Path("other.txt").write_text(make_text(500, seed=9))
    assert versus("-w", "bank", "--corpus", "other.txt").code == 0
    assert "".join(read) == make_text(500, seed=9)


def test_tables_stand_side_by_side(versus: Command) -> None:
    outcome = versus("the [bank] and the [river]", "-w", "clock", "--w2v-epochs", 2)
    assert outcome.code == 0
    assert [f"nearest to {word}" in outcome.out for word in ("clock", "bank", "river")] == [True] * 3
    assert "bank – river" in outcome.out
    assert "2 epochs" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name the words"),
        (("-w", "rivre"), "near it: river"),
        (("-w", "bank", "-k", "0"), "-k' / '--neighbours'"),
        (("-w", "bank", "--w2v-epochs", "0"), "--w2v-epochs"),
        (("-w", "bank", "--versus", "glove"), "--versus must be word2vec, not 'glove'"),
    ],
    ids=str,
)
def test_bad_requests_are_errors(versus: Command, arguments: tuple[str, ...], message: str) -> None:
    outcome = versus(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


def test_a_text_that_is_gone_is_asked_for(gptlite: Command, corpus_file: Path, tokenizer: Tokenizer) -> None:
    assert gptlite("train", corpus_file, "-o", "run", "-q", *TRAIN_TINY, "--steps", "2").code == 0
    corpus_file.unlink()
    outcome = gptlite("embed", "-m", "run", "--versus", "word2vec", "-w", "bank")
    assert outcome.code == 3 and "--corpus FILE" in outcome.err
    save_step(Path("hub"), random_model(tiny_config("gpt2", vocab_size=tokenizer.vocab_size)), tokenizer, {})
    outcome = gptlite("embed", "-m", "hub", "--versus", "word2vec", "-w", "bank")
    assert outcome.code == 2 and "--corpus FILE" in outcome.err

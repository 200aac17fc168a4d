"""gptlite words ... --versus word2vec: answers by two methods, from the same words of the same text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import TRAIN_FEW, Command, Outcome, make_text, random_model, tiny_config

from gptlite.baselines import word2vec
from gptlite.checkpoint.saved_step import save_step
from gptlite.text.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def gensim() -> None:
    pytest.importorskip("gensim")


@pytest.fixture
def versus(gptlite: Command, trained_run: Path) -> Command:
    def call(*arguments: object, stdin: bytes | None = None) -> Outcome:
        return gptlite(
            "words", "nearest", "-m", trained_run, "--from", "table", "--versus", "word2vec", *arguments, stdin=stdin
        )

    return call


def parsed(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def test_both_methods_name_neighbours_from_the_same_words(versus: Command) -> None:
    result = parsed(versus("bank", "river", "-n", 3, "--json"))
    ours, theirs = result["vectors"]
    assert (ours["name"], theirs["name"], theirs["correct"]) == ("token table", "word2vec", "none")
    assert theirs["n_words"] <= ours["n_words"]
    for query in result["nearest"]:
        for answer in query["answers"]:
            found = [(word["word"], word["cosine"]) for word in answer["neighbours"]]
            assert len(found) == 3 and query["word"] not in dict(found)
            assert [cosine for _, cosine in found] == sorted((cosine for _, cosine in found), reverse=True)
    (pair,) = result["pairs"]
    assert pair["words"] == ["bank", "river"] and len(pair["cosines"]) == 2
    assert parsed(versus("bank", "river", "-n", 3, "--json")) == result, "the same every time"


def test_word2vec_reads_what_the_run_was_trained_on(versus: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def watch(blocks: Any, **settings: Any) -> Any:
        read.extend(blocks)
        return train(read, **settings)

    train = word2vec.train_word2vec
    monkeypatch.setattr(word2vec, "train_word2vec", watch)
    assert versus("bank").code == 0
    text = "".join(read)
    assert make_text().startswith(text) and 0.94 < len(text) / len(make_text()) < 0.96, "without what was held out"
    read.clear()
    Path("other.txt").write_text(make_text(500, seed=9))
    assert versus("bank", "--corpus", "other.txt").code == 0
    assert "".join(read) == make_text(500, seed=9)


def test_tables_stand_side_by_side(versus: Command) -> None:
    outcome = versus("clock", "bank", "river", "--epochs", 2)
    assert outcome.code == 0
    assert [f'nearest to "{word}"' in outcome.out for word in ("clock", "bank", "river")] == [True] * 3
    assert "bank – river" in outcome.out and "in both: " in outcome.out
    assert "2 epochs" in outcome.err


def test_every_question_can_be_asked_of_both(gptlite: Command, trained_run: Path) -> None:
    Path("pairs.tsv").write_text("bank\triver\t8\nbank\topens\t1\nsong\tletter\t7\n")
    for line in ("analogy bank river song", "odd bank river opens", "evaluate pairs.tsv"):
        result = parsed(
            gptlite("words", *line.split(), "-m", trained_run, "--from", "table", "--versus", "word2vec", "--json")
        )
        assert [vectors["name"] for vectors in result["vectors"]] == ["token table", "word2vec"]


def test_a_text_that_is_gone_is_asked_for(gptlite: Command, corpus_file: Path, tokenizer: Tokenizer) -> None:
    assert gptlite("train", corpus_file, "-o", "run", "-q", *TRAIN_FEW).code == 0
    corpus_file.unlink()
    outcome = gptlite("words", "nearest", "-m", "run", "--versus", "word2vec", "bank")
    assert outcome.code == 3 and "--corpus FILE" in outcome.err
    save_step(Path("hub"), random_model(tiny_config("gpt2", vocab_size=tokenizer.vocab_size)), tokenizer, {})
    outcome = gptlite("words", "nearest", "-m", "hub", "--versus", "word2vec", "bank")
    assert outcome.code == 2 and "--corpus FILE" in outcome.err

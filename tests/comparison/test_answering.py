"""What is measured on pairs: which pairs are held out, their bits, exact answers, and which head tells most."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.comparisons import in_this_process

from gptlite.comparison import answering
from gptlite.comparison.collect import collect
from gptlite.comparison.contenders import PAIRS, choose_contenders
from gptlite.comparison.run import compare
from gptlite.comparison.store import Store
from gptlite.errors import CorpusError, UsageError
from gptlite.text.pairs import Boundaries

MARKS = Boundaries(separator=0, end=9, roles=(6, 7, 8))  # system, user, assistant
CHAT = [0, 7, 1, 9, 8, 2, 9, 7, 3, 9, 8, 4, 5, 9]  # a conversation with two answers
PAIR = [0, 7, 1, 2, 9, 8, 3, 9]


def test_of_a_conversation_the_last_answer_is_held_out() -> None:
    chat, pair = answering.held_out_pairs(np.array([*CHAT, *PAIR]), MARKS, 20)
    assert chat.prompt == CHAT[:11] and chat.answer == [4, 5]
    assert pair.prompt == PAIR[:6] and pair.answer == [3]
    assert [p.answer for p in answering.held_out_pairs(np.array([*CHAT, *PAIR]), MARKS, 10)] == [[2], [3]]
    with pytest.raises(CorpusError, match="fits into 3 tokens"):
        answering.held_out_pairs(np.array(PAIR), MARKS, 3)


def test_what_an_encoder_decoder_learns_of_a_batch() -> None:
    learned = {5, 6, 11, 12, 13}
    batch = torch.tensor([[i if place in learned else ~i for place, i in enumerate(CHAT)]])
    found = answering.last_answer_alone(batch, MARKS.answer)[0].tolist()
    assert [i for i, token in enumerate(found) if token >= 0] == [11, 12, 13]
    assert [token if token >= 0 else ~token for token in found] == CHAT
    pairs = answering.held_out_pairs(np.array([*CHAT, *PAIR]), MARKS, 20)
    rows = answering.as_batch(pairs, 0)
    assert rows.shape == (2, 14) and rows[0].tolist() == found
    assert [i for i, token in enumerate(rows[1].tolist()) if token >= 0] == [6, 7]


def test_a_head_that_follows_tells_most() -> None:
    follows, first, widely = torch.eye(4), torch.tensor([1.0, 0, 0, 0]).expand(4, 4), torch.full((4, 4), 0.25)
    elsewhere = torch.zeros(4, 4)
    found = answering.information(torch.stack([follows, first, widely, elsewhere]))
    assert found.tolist() == pytest.approx([2, 0, 0, 0], abs=1e-4)


def test_the_example_has_room_in_a_map() -> None:
    short, good, long = (answering.Pair(np.arange(2 * n + 2), n) for n in (2, 12, 60))
    assert answering.choose_example([short, long, good]) is good
    assert answering.choose_example([long]) is None


# -- From a file to results


@pytest.fixture
def copied(comparison_of_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTLITE_CACHE", str(comparison_of_pairs.parent / "cache"))
    return Path(shutil.copytree(comparison_of_pairs, tmp_path / "copied"))


def test_results_of_pairs(comparison_of_pairs: Path) -> None:
    store = Store(comparison_of_pairs)
    found = collect(store, choose_contenders(None, PAIRS), store.read_info())
    assert found["on"] == "pairs" and found["n_answers"] == pytest.approx(80, abs=2)  # a fifth of 400
    assert [c["name"] for c in found["contenders"]] == ["lstm-attention", "encoder-decoder", "gptlite"]
    sizes = [c["n_parameters"] for c in found["contenders"]]
    assert max(sizes) < 1.25 * min(sizes)
    for each in found["contenders"]:
        assert 0 < each["bits_per_byte"] < 9 and 0 <= each["exact_match"] <= 1 and len(each["answers"]) == 6
        assert each["learning_rate"] and bool(each["sweep"]) == (each["name"] != "gptlite")
        seen = each["attention"]
        assert len(seen["weights"]) == len(seen["answer"]) and seen["answer"][-1] == "<|end|>"
        assert all(len(row) == len(seen["prompt"]) for row in seen["weights"])
        totals = [sum(row) for row in seen["weights"]]
        assert all(total <= 1.001 for total in totals)
        assert each["name"] == "gptlite" or totals == pytest.approx([1.0] * len(totals), abs=0.01)
    maps = [c["attention"] for c in found["contenders"]]
    assert maps[0]["prompt"] == maps[1]["prompt"] == maps[2]["prompt"]


def test_weights_are_saved_and_resume_does_the_rest(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (copied / "encoder-decoder" / "model.safetensors").is_file()
    shutil.rmtree(copied / "lstm-attention")
    before = (copied / "gptlite" / "result.json").stat().st_mtime_ns
    in_this_process(monkeypatch)
    found = compare(directory=copied, resume=True)
    assert len(found["contenders"]) == 3 and (copied / "gptlite" / "result.json").stat().st_mtime_ns == before


def test_contenders_of_the_other_kind_and_prompts_are_refused() -> None:
    lines = [json.dumps({"question": f"what is {i}", "answer": f"it is {i}"}) for i in range(200)]
    Path("pairs.jsonl").write_text("\n".join(lines) + "\n")
    for more, said in (
        ({"contenders": "lstm"}, r"'lstm', which is for running text: choose from lstm-attention, encoder-decoder"),
        ({"prompt": "what"}, "`prompt` is for samples of running text"),
    ):
        with pytest.raises(UsageError, match=said):
            compare("pairs.jsonl", time="1s", **more)
    assert not Path("comparisons").exists()


def test_an_encoder_decoder_needs_pairs(corpus_file: Path) -> None:
    with pytest.raises(UsageError, match=r"'encoder-decoder', which is for prompts with answers"):
        compare(corpus_file, time="1s", contenders="lstm,encoder-decoder")

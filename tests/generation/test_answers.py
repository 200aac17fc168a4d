"""Models of pairs answer: here, in transformers' chat template, and in dialogue."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Command, make_text

from gptlite.checkpoint import runs
from gptlite.cli import main as command_line
from gptlite.generation import answers
from gptlite.text.corpus import open_text
from gptlite.text.demo_pairs import as_records

SETTINGS = ("--steps", "60", "--layers", "2", "--dim", "32", "--heads", "2", "--vocab-size", "320", "-q")
SETTINGS = (*SETTINGS, "--compile", "off", "--seed", "2")


@pytest.fixture(scope="module")
def chat_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model of conversations with a condition."""
    folder = tmp_path_factory.mktemp("chat")
    lines = make_text(600).splitlines()
    records = [
        {"messages": [{"role": "user", "content": a[:12]}, {"role": "assistant", "content": b[:14]}], "mood": "calm"}
        for a, b in zip(lines[:300], lines[300:], strict=True)
    ]
    path = folder / "chat.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTLITE_CACHE", str(folder / "cache"))
        assert command_line.run(["train", str(path), "--given", "mood", "-o", str(folder / "run"), *SETTINGS]) == 0
    yield folder / "run"


@pytest.mark.hf
def test_transformers_answers_the_same(chat_run: Path) -> None:
    """100 prompts, greedy, by the chat template and the stop token of the directory."""
    transformers = pytest.importorskip("transformers")
    ours = runs.load(str(chat_run))
    lines = [line[:14] for line in make_text(100, seed=5).splitlines()]
    records = [[("user", line), ("assistant", "x")] for line in lines]
    written = list(answers.answer(ours.model, ours.tokenizer, records))
    tokenizer = transformers.AutoTokenizer.from_pretrained(ours.path)
    model = transformers.AutoModelForCausalLM.from_pretrained(ours.path)
    for line, answer in zip(lines, written, strict=True):
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": line}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        room = ours.config.context_length - ids["input_ids"].shape[1]
        if not answer.ended:
            continue  # beyond the context each goes on in its own way
        out = model.generate(**ids, do_sample=False, max_new_tokens=room)
        theirs = tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        assert theirs == answer.written, line
    assert sum(answer.ended for answer in written) >= 50


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="gguf is not installed")
def test_gguf_carries_the_template(gptlite: Command, chat_run: Path) -> None:
    import gguf

    assert gptlite("export", chat_run, "--to", "gguf", "-o", "model.gguf").code == 0
    fields = gguf.GGUFReader("model.gguf").fields
    assert "assistant" in str(fields["tokenizer.chat_template"].contents())
    ours = runs.load(str(chat_run)).tokenizer
    assert fields["tokenizer.ggml.eos_token_id"].contents() == ours.end_id != ours.separator_id


def test_a_dialogue_and_its_conditions(gptlite: Command, chat_run: Path) -> None:
    typed = b"Ada\n/retry\nBela\n\n/text\n/undo\n/join x\n"
    outcome = gptlite("generate", "-i", "-m", chat_run, "-t", "0", "-q", "--given", "mood=calm", stdin=typed)
    assert outcome.code == 2 and "/join is for texts" in outcome.err
    assert outcome.out.count("> Ada") == 1 and outcome.out.count("> Bela") == 1
    assert "<|" not in outcome.out
    answer = gptlite("generate", "Ada", "-m", chat_run, "-t", "0", "-q", "--given", "mood=calm").out
    assert outcome.out.startswith(answer * 2)
    assert gptlite("generate", "Ada", "-m", chat_run, "-q", "--no-template").out.startswith("Ada")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--given mood", "--given needs a name and a value"),
        ("--given author=Ada", "the model knows no condition 'author'; it knows mood."),
    ],
)
def test_conditions_are_checked(gptlite: Command, chat_run: Path, arguments: str, said: str) -> None:
    outcome = gptlite("generate", "Ada", "-m", chat_run, *arguments.split())
    assert (outcome.code, said in outcome.err) == (2, True), outcome.err


def test_a_model_of_plain_text_has_no_template(gptlite: Command, trained_run: Path) -> None:
    for option in ("--no-template", "--given", "a=b"), ("--no-template",), ("--given", "a=b"):
        assert gptlite("generate", "Ada", "-m", trained_run, *option).code == 2


def test_eval_of_pairs(gptlite: Command, chat_run: Path) -> None:
    lines = make_text(20, seed=9).splitlines()
    Path("x.jsonl").write_text(as_records(zip(lines[:10], lines[10:], strict=True)))
    outcome = gptlite("eval", "x.jsonl", "-m", chat_run, "--json", "--show", "2")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["answers"]["n"] == len(list(open_text(["x.jsonl"], smallest=1).records())) == 10
    assert 0 <= found["answers"]["exact_match"] <= 1 and len(found["answers"]["worst"]) == 2
    assert found["n_bytes"] == sum(len(line) for line in lines[10:])
    assert "exact match" in gptlite("eval", "--held-out", chat_run).out
    Path("x.txt").write_text(make_text(9))
    assert gptlite("eval", "x.txt", "-m", chat_run).code == 0
    assert gptlite("eval", "x.txt", "-m", chat_run, "--show", "2").code == 2


def test_the_log_has_the_exact_matches(chat_run: Path) -> None:
    lines = [json.loads(line) for line in (chat_run / "metrics.jsonl").read_text().splitlines()]
    assert any("val_exact_match" in line for line in lines)
    assert 0 <= json.loads((chat_run / "run.json").read_text())["result"]["val_exact_match"] <= 1

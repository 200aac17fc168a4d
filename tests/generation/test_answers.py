"""Models of pairs answer: here, in transformers' chat template, and in dialogue."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, make_text

from gptlite.checkpoint import runs
from gptlite.cli import main as command_line
from gptlite.distribution import install_hint
from gptlite.generation import answers
from gptlite.generation.answers import Answered
from gptlite.text.corpus import open_text
from gptlite.text.demo_pairs import as_records
from gptlite.text.pairs import encode_messages

SETTINGS = ("--steps", "60", "--layers", "2", "--dim", "32", "--heads", "2", "--vocab-size", "320", "-q")
SETTINGS = (
    *SETTINGS,
    "--compile",
    "off",
    "--seed",
    "2",
    "--save-every",
    "1000",
    "--eval-every",
    "1000",
    "--batch-size",
    "16",
)


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


# -- Other programs, by the chat template and the stop token that a model carries

Chat = list[tuple[str, str]]
Program = Callable[[Chat, int], tuple[str, bool]]  # messages, and tokens at most -> an answer; did it end by itself?


def chats() -> list[Chat]:
    """100 prompts: by themselves, under a condition, and in the middle of a conversation."""
    lines = [line[:14] for line in make_text(150, seed=5).splitlines()]
    alone = [[("user", line)] for line in lines[:50]]
    calm = [[("system", "mood: calm"), ("user", line)] for line in lines[50:75]]
    later = [
        [("user", lines[75 + i]), ("assistant", lines[100 + i]), ("user", lines[125 + i])] for i in range(25)
    ]  # fmt: skip
    return [*alone, *calm, *later]


def assert_answers_alike(run: Path, program: Program) -> None:
    """Greedy answers to all of `chats`, to their ends or to that of the context, beyond which each has its own way."""
    ours = runs.load(str(run))
    written = list(answers.answer(ours.model, ours.tokenizer, ([*chat, ("assistant", "x")] for chat in chats())))
    for chat, answer in zip(chats(), written, strict=True):
        room = ours.config.context_length - len(encode_messages(ours.tokenizer, chat, opened=""))
        text, ended = program(chat, room)
        assert "<|" not in text
        if ended:
            assert (text, True) == (answer.written, answer.ended), chat
        else:
            assert answer.written.startswith(text), chat
    assert sum(answer.ended for answer in written) >= 50


def as_objects(chat: Chat) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in chat]


@pytest.mark.hf
def test_the_chat_pipeline_of_transformers_answers_the_same(chat_run: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path = runs.load(str(chat_run)).path
    pipeline = transformers.pipeline("text-generation", model=str(path), device="cpu")
    written: list[Any] = []
    generate = pipeline.model.generate
    pipeline.model.generate = lambda **call: written.append(generate(**call)) or written[-1]

    def program(chat: Chat, room: int) -> tuple[str, bool]:
        (found,) = pipeline(as_objects(chat), do_sample=False, max_new_tokens=room)
        return found["generated_text"][-1]["content"], int(written[-1][0, -1]) == pipeline.tokenizer.eos_token_id

    assert_answers_alike(chat_run, program)


@pytest.mark.slow
def test_chat_completion_of_llama_cpp_answers_the_same(gptlite: Command, chat_run: Path) -> None:
    llama_cpp = pytest.importorskip(
        "llama_cpp", reason="llama-cpp-python is not installed: pip install 'gptlite-lm[llama]'"
    )
    assert gptlite("export", chat_run, "--to", "gguf", "--dtype", "f32", "-o", "model.gguf").code == 0
    exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    context = runs.load(str(chat_run)).config.context_length
    model = llama_cpp.Llama("model.gguf", n_ctx=context, n_threads=1, verbose=False, **exact)

    def program(chat: Chat, room: int) -> tuple[str, bool]:
        found = model.create_chat_completion(as_objects(chat), temperature=0.0, max_tokens=room)["choices"][0]
        return found["message"]["content"], found["finish_reason"] == "stop"

    assert_answers_alike(chat_run, program)
    model.close()


# -- The command line


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


def some_answers() -> list[Answered]:
    known = ["the cat sat on the mat", "a dog", "one two three four five", "yes"]
    written = ["the cat sat on a mat", "a dog", "one two three four six", "no"]
    return [Answered("?", *texts, True) for texts in zip(known, written, strict=True)]


def test_chrf_and_bleu_are_those_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip(
        "sacrebleu", reason="sacrebleu is not installed: pip install 'gptlite-lm[evaluation]'"
    )
    found = some_answers()
    known, written = [each.expected for each in found], [each.written for each in found]
    measured = answers.metrics(found)
    assert measured["chrf"] == pytest.approx(sacrebleu.corpus_chrf(written, [known]).score)
    assert measured["bleu"] == pytest.approx(sacrebleu.corpus_bleu(written, [known]).score)
    assert 0 < measured["bleu"] < 100 and 0 < measured["chrf"] < 100 and measured["exact_match"] == 0.25
    perfect = answers.metrics([replace(each, written=each.expected) for each in found])
    assert (perfect["bleu"], perfect["chrf"], perfect["exact_match"]) == (pytest.approx(100), 100, 1)
    silent = answers.metrics([replace(each, written="") for each in found])
    assert (silent["bleu"], silent["chrf"]) == (0, 0)
    assert set(answers.metrics([])) == {"exact_match", "ended"}


def test_what_sacrebleu_measures_is_shown(gptlite: Command, chat_run: Path) -> None:
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed: pip install 'gptlite-lm[evaluation]'")
    outcome = gptlite("eval", "--held-out", chat_run)
    assert re.search(r"^ *chrF +\d+\.\d\d$", outcome.out, re.MULTILINE), outcome.out
    assert re.search(r"^ *BLEU +\d+\.\d\d$", outcome.out, re.MULTILINE), outcome.out
    assert "sacrebleu" not in outcome.err


def test_without_sacrebleu_the_rest_is_there(gptlite: Command, chat_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "has_sacrebleu", lambda: False)
    outcome = gptlite("eval", "--held-out", chat_run)
    assert "exact match" in outcome.out and "chrF" not in outcome.out
    assert install_hint("evaluation") in outcome.err


def test_the_log_has_the_exact_matches(chat_run: Path) -> None:
    lines = [json.loads(line) for line in (chat_run / "metrics.jsonl").read_text().splitlines()]
    assert any("val_exact_match" in line for line in lines)
    assert 0 <= json.loads((chat_run / "run.json").read_text())["result"]["val_exact_match"] <= 1

"""How samples are written: JSON with log-probabilities, tables of them, and files."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, Outcome

from gptlite.checkpoint import runs, saved_step
from gptlite.checkpoint.saved_step import Checkpoint
from gptlite.cli.generate.samples import DELIMITER, spell
from gptlite.generation import generate as generation
from gptlite.storage import durable
from gptlite.text.tokenizer import SEPARATOR, Tokenizer

ROW = re.compile(r" (\S+) +(<?[\d.]+ %) +([\d.]+)(?: +(\S.*?))? *")


pytestmark = pytest.mark.usefixtures("own_signals")


@pytest.fixture
def generate(gptlite: Command, trained_run: Path) -> Command:
    def call(*arguments: object) -> Outcome:
        return gptlite("generate", "Ada finds", "-m", trained_run, "--max-new-tokens", "12", "--seed", "5", *arguments)

    return call


@pytest.fixture(scope="module")
def loaded(trained_run: Path) -> Checkpoint:
    return saved_step.load(runs.find_model(str(trained_run)))


def draw(monkeypatch: pytest.MonkeyPatch, ids: list[int]) -> None:
    """From now on every sample is made of `ids`."""
    left = iter(ids)
    monkeypatch.setattr(
        generation, "make_sampler", lambda *_: lambda logits, *_: torch.tensor([next(left)] * len(logits))
    )


# -- JSON


def test_json_tells_how_probable_each_token_was(generate: Command, loaded: Checkpoint) -> None:
    (sample,) = json.loads(generate("--json", "--logprobs", "3", "--temperature", "2").out)["samples"]
    ids = [token["id"] for token in sample["tokens"]]
    prompt = loaded.tokenizer.encode("Ada finds")
    with torch.no_grad():
        logits = loaded.model(torch.tensor([[*prompt, *ids]]))[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(dim=-1)
    for token, row in zip(sample["tokens"], expected, strict=True):
        assert set(token) == {"id", "text", "logprob_nats", "top"}
        assert token["logprob_nats"] == pytest.approx(float(row[token["id"]]), abs=1e-4)
        assert [other["id"] for other in token["top"]] == row.topk(3).indices.tolist()
        assert [other["logprob_nats"] for other in token["top"]] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
        assert all(set(other) == {"id", "text", "logprob_nats"} for other in token["top"])


@pytest.mark.parametrize("more", [(), ("--logprobs", "0")], ids=str)
def test_without_alternatives_there_is_no_list_of_them(generate: Command, more: tuple[str, ...]) -> None:
    (sample,) = json.loads(generate("--json", *more).out)["samples"]
    assert all(set(token) == {"id", "text", "logprob_nats"} for token in sample["tokens"])


@pytest.mark.row("G26")
def test_halves_of_characters_are_spelled_in_bytes(
    generate: Command, loaded: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = "河".encode()
    draw(monkeypatch, [loaded.tokenizer.token_bytes.index(bytes([byte])) for byte in raw])
    (sample,) = json.loads(generate("--json", "--max-new-tokens", "3").out)["samples"]
    assert sample["text"] == "河"
    assert [(t["text"], t["bytes"]) for t in sample["tokens"]] == [(rf"\x{byte:x}", [byte]) for byte in raw]


def test_the_separator_is_an_alternative_with_a_name(loaded: Checkpoint) -> None:
    tokenizer = loaded.tokenizer
    assert spell(tokenizer, tokenizer.separator_id) == (SEPARATOR, None)
    assert spell(tokenizer, tokenizer.vocab_size + 5) == ("", None), "a model may have more rows than its tokenizer"


def test_what_a_stop_string_cuts_off_is_not_listed_but_was_work(generate: Command, loaded: Checkpoint) -> None:
    whole = json.loads(generate("--json").out)["samples"][0]
    result = json.loads(generate("--json", "--stop", " the").out)
    (sample,) = result["samples"]
    n = len(sample["tokens"])
    assert sample["text"] == whole["text"].partition(" the")[0] != whole["text"]
    assert sample["tokens"] == whole["tokens"][:n]
    assert loaded.tokenizer.decode([t["id"] for t in sample["tokens"]]).startswith(sample["text"])
    assert n < result["usage"]["n_completion_tokens"] < 12


# -- Tables


def table(out: str) -> list[tuple[str, ...]]:
    """The rows below the line of titles."""
    _, _, rows = out.partition(" bits")
    return [match.groups("") for line in rows.splitlines()[1:] if (match := ROW.fullmatch(line))]


@pytest.mark.parametrize("more", [(), ("--no-stream",), ("-n", "2")], ids=str)
def test_a_table_below_the_text_shows_each_token(generate: Command, more: tuple[str, ...]) -> None:
    samples = json.loads(generate("--json", "--logprobs", "2", *more).out)["samples"]
    out = generate("--logprobs", "2", *more).out
    text, _, rest = out.partition(f"Ada finds{samples[0]['text']}\n\n")
    assert text == "" and rest.split()[:4] == ["token", "probability", "bits", "likeliest"]
    rows = table(out)
    tokens = [token for sample in samples for token in sample["tokens"]]
    assert len(rows) == len(tokens)
    for (shown, percent, bits, likeliest), token in zip(rows, tokens, strict=True):
        assert shown == token["text"].replace(" ", "_").replace("\n", r"\n")
        probability = 100 * math.exp(token["logprob_nats"])
        assert percent == (f"{probability:.1f} %" if probability >= 0.05 else "<0.1 %")
        assert float(bits) == pytest.approx(-token["logprob_nats"] / math.log(2), abs=0.051)
        assert likeliest.count(" %") == 2
        assert likeliest.startswith(token["top"][0]["text"].replace(" ", "_").replace("\n", r"\n"))


def test_a_table_without_alternatives_has_three_columns(generate: Command) -> None:
    out = generate("--logprobs", "0").out
    assert "likeliest" not in out
    assert len(table(out)) == 12 and all(row[3] == "" for row in table(out))


@pytest.mark.parametrize("k", ["-1", "1001", "x"])
def test_numbers_of_alternatives_that_make_no_sense(generate: Command, k: str) -> None:
    outcome = generate("--logprobs", k)
    assert (outcome.code, outcome.out) == (2, "") and "--logprobs" in outcome.err


def test_more_alternatives_than_tokens_are_all_of_them(generate: Command, loaded: Checkpoint) -> None:
    (sample,) = json.loads(generate("--json", "--logprobs", "1000", "--max-new-tokens", "1").out)["samples"]
    (token,) = sample["tokens"]
    assert len(token["top"]) == loaded.config.vocab_size
    assert sum(math.exp(other["logprob_nats"]) for other in token["top"]) == pytest.approx(1, abs=1e-4)


# -- Files


@pytest.mark.parametrize("more", [(), ("--no-stream",), ("--no-echo",), ("--json",), ("--json", "--logprobs", "2")])
def test_a_file_gets_what_would_be_printed(generate: Command, more: tuple[str, ...]) -> None:
    name = "story.json" if "--json" in more else "story.txt"
    outcome = generate("-o", name, *more)
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.endswith(f"1 sample in {name}\n")
    assert Path(name).read_bytes().decode() == generate(*more).out


def test_a_line_stands_between_samples(generate: Command) -> None:
    samples = json.loads(generate("-n", "3", "--json").out)["samples"]
    assert generate("-n", "3", "-o", "three.txt").err.endswith("3 samples in three.txt\n")
    texts = Path("three.txt").read_text("utf-8").split(f"\n{DELIMITER}\n")
    assert texts[:2] == [f"Ada finds{sample['text']}" for sample in samples[:2]]
    assert texts[2] == f"Ada finds{samples[2]['text']}\n"


@pytest.mark.parametrize(("more", "has_tokens"), [((), False), (("--json",), True), (("--logprobs", "2"), True)])
def test_a_jsonl_file_has_an_object_a_line(generate: Command, more: tuple[str, ...], has_tokens: bool) -> None:
    whole = json.loads(generate("-n", "2", "--json", *(more if "--logprobs" in more else ())).out)
    outcome = generate("-n", "2", "-o", "two.jsonl", *more)
    assert outcome.code == 0
    lines = [json.loads(line) for line in Path("two.jsonl").read_text("utf-8").splitlines()]
    facts = {key: whole[key] for key in ("model", "prompt", "seed")}
    for i, (line, sample) in enumerate(zip(lines, whole["samples"], strict=True)):
        expected: dict[str, Any] = {"schema": "gptlite.sample/1", **facts, "sample": i, **sample}
        if not has_tokens:
            del expected["tokens"]
        assert line == expected


def test_the_table_is_still_printed_beside_a_file(generate: Command) -> None:
    out = generate("--logprobs", "1", "-o", "story.txt").out
    assert out.startswith("\n token") and len(table(out)) == 12
    assert Path("story.txt").read_text("utf-8") == generate().out


def test_a_dash_is_standard_output(generate: Command) -> None:
    assert generate("-o", "-").out == generate().out


@pytest.mark.parametrize("end", [KeyboardInterrupt, RuntimeError("out of memory")], ids=["Ctrl-C", "an error"])
def test_a_file_is_as_it_was_when_writing_does_not_end(
    generate: Command, monkeypatch: pytest.MonkeyPatch, end: BaseException
) -> None:
    Path("story.txt").write_text("before")

    def fail(*_: object) -> torch.Tensor:
        raise end

    monkeypatch.setattr(generation, "make_sampler", lambda *_: fail)
    assert generate("-o", "story.txt", "--force").code in (8, 130)
    assert Path("story.txt").read_text() == "before" and os.listdir() == ["story.txt"]


def test_a_file_that_cannot_be_written_is_named_before_the_model_is_read(
    gptlite: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkdir("folder")
    os.mkfifo("pipe")
    Path("file").touch()
    for name in ("folder", "gone/story.txt", "file/story.txt", "x" * 300, "pipe", os.devnull):
        outcome = gptlite("generate", "Ada", "-m", "no-such-model", "-o", name)
        assert (outcome.code, outcome.out) == (5, ""), name
        assert outcome.err.startswith(f"gptlite: error: cannot write {name}: ") and outcome.err.count("\n") == 1


def test_a_full_disk_is_one_sentence(generate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "_flush", full)
    outcome = generate("-o", "story.txt", "-q")
    assert (outcome.code, outcome.err) == (
        5,
        "gptlite: error: cannot write story.txt: No space left on device.\n",
    )
    assert os.listdir() == []


def test_tint_is_for_terminals(generate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert generate("--color", "surprise").out == generate("--color", "none").out == generate().out


def test_a_color_that_does_not_exist(generate: Command) -> None:
    outcome = generate("--color", "red")
    assert (outcome.code, outcome.out) == (2, "") and "none or surprise" in outcome.err


def test_tokens_of_other_tokenizers_are_spelled_too(tokenizer: Tokenizer) -> None:
    for i in range(tokenizer.vocab_size):
        text, raw = spell(tokenizer, i)
        assert text and (raw is None) == (i == tokenizer.separator_id or tokenizer.token_bytes[i] == text.encode())

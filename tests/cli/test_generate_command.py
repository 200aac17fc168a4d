"""gptlite generate: prompts from everywhere, the same text however it is printed, and one JSON object."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Command, Outcome, random_model, tiny_config

from gptlite import checkpoint, runs
from gptlite.checkpoint import save_step
from gptlite.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """`generate` lets broken pipes end the process, which here is pytest."""
    before = signal.getsignal(signal.SIGPIPE)
    yield
    signal.signal(signal.SIGPIPE, before)


@pytest.fixture
def generate(gptlite: Command, trained_run: Path) -> Command:
    def call(*arguments: object, stdin: bytes | None = None) -> Outcome:
        return gptlite("generate", "-m", trained_run, "--max-new-tokens", "60", *arguments, stdin=stdin)

    return call


# -- What comes out


def test_the_text_is_the_result_and_the_rest_is_talk(generate: Command, trained_run: Path) -> None:
    outcome = generate("Ada finds", "--seed", "1")
    assert outcome.code == 0
    assert outcome.out.startswith("Ada finds") and outcome.out.endswith("\n")
    assert outcome.err == (
        f"{runs.find_model(str(trained_run))} · seed 1\n"
        "fp32, not compiled: so short a text is written sooner than a decoder is compiled\n"
    )


def test_it_writes_in_the_grammar_of_its_text(generate: Command) -> None:
    out = generate("Ada", "-t", "0", "--max-new-tokens", "60").out
    lines = [line for line in out.split("\n")[:-2] if line]
    good = [line for line in lines if re.fullmatch(r"[A-Z][a-z]+ [a-z]+ the [a-z]+ and the [a-z]+ \.", line)]
    assert lines and len(good) >= len(lines) / 2


@pytest.mark.row("G14")
def test_one_seed_is_one_text(generate: Command) -> None:
    first, again, other = (generate("Ada", "--seed", seed).out for seed in (1, 1, 2))
    assert first == again != other


def test_without_a_seed_each_text_is_new_and_can_be_had_again(generate: Command) -> None:
    first, second = generate("Ada"), generate("Ada")
    assert first.out != second.out
    (seed,) = re.findall(r"seed (\d+)", first.err)
    assert generate("Ada", "--seed", seed).out == first.out


@pytest.mark.row("G14")
def test_streamed_or_not_the_text_is_the_same(generate: Command) -> None:
    streamed, whole = generate("Ada", "--seed", "3"), generate("Ada", "--seed", "3", "--no-stream")
    assert streamed.out == whole.out


def test_without_echo_the_prompt_is_left_out(generate: Command) -> None:
    for more in ((), ("--no-stream",)):
        with_prompt = generate("Ada finds", "--seed", "3", *more).out
        assert with_prompt == "Ada finds" + generate("Ada finds", "--seed", "3", "--no-echo", *more).out


@pytest.mark.row("G14")
def test_samples_are_numbered_on_standard_error(generate: Command) -> None:
    outcome = generate("Ada", "--seed", "3", "-n", "3", "--max-new-tokens", "8")
    assert re.findall(r"-- sample (\d) of 3 --", outcome.err) == ["1", "2", "3"]
    assert "--" not in outcome.out
    single = generate("Ada", "--seed", "3", "--max-new-tokens", "8").out
    assert outcome.out.startswith(single), "the first sample does not depend on how many there are"


@pytest.mark.row("G13")
def test_no_new_tokens_are_just_the_prompt(generate: Command) -> None:
    assert generate("Ada finds", "--max-new-tokens", "0").out == "Ada finds\n"


def test_temperature_0_needs_no_seed(generate: Command) -> None:
    assert generate("Ada", "-t", "0").out == generate("Ada", "-t", "0").out


@pytest.mark.parametrize(("stop", "text"), [(r"\n", "\n"), (" .", " ."), ("the", "the")])
def test_text_ends_before_a_stop_string(generate: Command, stop: str, text: str) -> None:
    whole = generate("Ada", "--seed", "1", "--no-echo").out
    assert text in whole
    assert generate("Ada", "--seed", "1", "--no-echo", "--stop", stop).out == whole.partition(text)[0] + "\n"


def test_the_first_of_several_stop_strings_counts(generate: Command) -> None:
    whole = generate("Ada", "--seed", "1", "--no-echo").out
    cut = generate("Ada", "--seed", "1", "--no-echo", "--stop", r"\n", "--stop", "the", "--stop", "never").out
    assert cut == re.split(r"\n|the", whole)[0] + "\n"


# -- JSON


@pytest.mark.row("G26")
def test_json_is_one_object_with_the_documented_keys(generate: Command, trained_run: Path) -> None:
    outcome = generate("Ada finds", "--seed", "5", "-n", "2", "--max-new-tokens", "12", "--json")
    assert outcome.code == 0
    assert outcome.out.count("\n") == 1
    result = json.loads(outcome.out)
    assert set(result) == {"model", "prompt", "seed", "samples", "usage"}
    assert (result["prompt"], result["seed"]) == ("Ada finds", 5)
    assert result["model"] == str(runs.find_model(str(trained_run)))
    loaded = checkpoint.load(Path(result["model"]))
    assert len(result["samples"]) == 2
    for sample in result["samples"]:
        assert set(sample) == {"text", "finish_reason", "tokens"}
        assert (sample["finish_reason"], len(sample["tokens"])) == ("length", 12)
        assert sample["text"] == loaded.tokenizer.decode([token["id"] for token in sample["tokens"]])
    prompt_tokens = len(loaded.tokenizer.encode("Ada finds"))
    assert result["usage"] == {"prompt_tokens": prompt_tokens, "completion_tokens": 24}


def test_json_and_plain_text_agree(generate: Command) -> None:
    line = ("Ada", "--seed", "5", "--stop", r"\n")
    (sample,) = json.loads(generate(*line, "--json").out)["samples"]
    assert sample["finish_reason"] == "stop"
    assert generate(*line, "--no-echo").out == sample["text"] + "\n"


@pytest.mark.row("G03", "G06", "G26")
@pytest.mark.parametrize(
    "prompt", ["河岸 🙂", 'quote " and \\', "\x1b[31m", "\ufffd", "a\nb\tc", "<|endoftext|>", "[bold]"]
)
def test_prompts_come_back_as_they_were(generate: Command, prompt: str) -> None:
    line = (prompt, "--max-new-tokens", "0")
    assert generate(*line).out == prompt + "\n"
    assert json.loads(generate(*line, "--json").out)["prompt"] == prompt


# -- Prompts


@pytest.mark.row("G05")
def test_prompts_come_from_everywhere(generate: Command) -> None:
    Path("prompt.txt").write_text("Ada finds\nthe", encoding="utf-8")
    line = ("--seed", "4", "--max-new-tokens", "9")
    expected = generate("Ada finds\nthe", *line).out
    assert generate("-p", "Ada finds\nthe", *line).out == expected
    assert generate("--prompt", "Ada finds\nthe", *line).out == expected
    assert generate("-f", "prompt.txt", *line).out == expected
    assert generate("-", *line, stdin=b"Ada finds\nthe").out == expected
    assert generate("-p", "-", *line, stdin=b"Ada finds\nthe").out == expected
    assert generate("-f", "-", *line, stdin=b"Ada finds\nthe").out == expected


@pytest.mark.row("G05")
def test_a_prompt_may_begin_with_a_dash(generate: Command) -> None:
    assert generate("-p", "-- yes", "--max-new-tokens", "0").out == "-- yes\n"
    assert generate("--max-new-tokens", "0", "--", "--seed").out == "--seed\n"


@pytest.mark.row("G01")
@pytest.mark.parametrize("prompt", [(), ("",), ("-p", ""), ("-f", "empty.txt")], ids=str)
def test_no_prompt_begins_a_document(generate: Command, prompt: tuple[str, ...]) -> None:
    Path("empty.txt").write_bytes(b"")
    outcome = generate(*prompt, "--seed", "1", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["usage"]["prompt_tokens"] == 1


@pytest.mark.row("G02")
def test_a_prompt_longer_than_the_context_is_fine(generate: Command) -> None:
    prompt = "Ada finds the river and the bank . " * 30
    outcome = generate(prompt, "--seed", "1", "--max-new-tokens", "100")
    assert outcome.code == 0
    assert outcome.out.startswith(prompt)


def test_a_prompt_that_is_not_utf8_is_code_3(generate: Command) -> None:
    outcome = generate("-", stdin=b"caf\xe9")
    assert (outcome.code, outcome.out) == (3, "")
    assert "not UTF-8" in outcome.err


@pytest.mark.row("G05")
def test_a_terminal_is_no_pipe(generate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Keyboard:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Keyboard())
    outcome = generate("-")
    assert (outcome.code, outcome.out) == (2, "")
    assert "nothing is piped" in outcome.err


# -- Models


def test_any_way_to_name_a_model_is_the_same_model(
    gptlite: Command, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("generate", "Ada", "--seed", "1", "--max-new-tokens", "9")
    best = runs.find_model(str(trained_run))
    texts = {gptlite(*line, "-m", name).out for name in (trained_run, best, trained_run / "best")}
    monkeypatch.setenv("GPTLITE_MODEL", str(trained_run))
    texts.add(gptlite(*line).out)
    assert len(texts) == 1


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "transformer-2017"])
def test_a_hugging_face_directory_writes_too(gptlite: Command, tokenizer: Tokenizer, architecture: str) -> None:
    model = random_model(tiny_config(architecture, vocab_size=tokenizer.vocab_size))
    save_step(Path("hub"), model, tokenizer, {})
    (Path("hub") / "MANIFEST.json").unlink()
    outcome = gptlite("generate", "Ada", "-m", "hub", "--seed", "1", "--max-new-tokens", "9")
    assert outcome.code == 0
    assert outcome.out.startswith("Ada")

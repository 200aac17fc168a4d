"""gptlite generate: prompts from everywhere, the same text however it is printed, and one JSON object."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, Outcome, random_model, tiny_config

from gptlite.checkpoint import runs, saved_step
from gptlite.checkpoint.saved_step import save_step
from gptlite.generation.multiple_choice import score_choices
from gptlite.text.tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("own_signals")


@pytest.fixture
def generate(gptlite: Command, trained_run: Path) -> Command:
    def call(*arguments: object, stdin: bytes | None = None) -> Outcome:
        length = () if "--choice" in arguments else ("--max-new-tokens", "60")
        return gptlite("generate", "-m", trained_run, *length, *arguments, stdin=stdin)

    return call


# -- What comes out


def test_the_text_is_the_result_and_the_rest_is_talk(generate: Command, trained_run: Path) -> None:
    outcome = generate("Ada finds", "--seed", "1")
    assert outcome.code == 0
    assert outcome.out.startswith("Ada finds") and outcome.out.endswith("\n")
    assert outcome.err == f"{runs.find_model(str(trained_run))} · seed 1\n"


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


@pytest.mark.parametrize("text", ["\n", " .", "the"])
def test_text_ends_before_a_stop_string(generate: Command, text: str) -> None:
    whole = generate("Ada", "--seed", "1", "--no-echo").out
    assert text in whole
    assert generate("Ada", "--seed", "1", "--no-echo", "--stop", text).out == whole.partition(text)[0] + "\n"


def test_the_first_of_several_stop_strings_counts(generate: Command) -> None:
    whole = generate("Ada", "--seed", "1", "--no-echo").out
    cut = generate("Ada", "--seed", "1", "--no-echo", "--stop", "\n", "--stop", "the", "--stop", "never").out
    assert cut == re.split(r"\n|the", whole)[0] + "\n"


@pytest.mark.parametrize(
    ("unit", "pattern"), [("sentence", r"[^.]*\."), ("line", r"[^\n]+"), ("paragraph", r"(?:.|\n)*")]
)
def test_text_ends_behind_a_unit(generate: Command, unit: str, pattern: str) -> None:
    whole = generate("Ada", "--seed", "1", "--no-echo").out
    match = re.match(pattern, whole)
    assert match and generate("Ada", "--seed", "1", "--no-echo", "--stop-at", unit).out == match[0].rstrip("\n") + "\n"


def test_banned_texts_and_biases(generate: Command) -> None:
    line = ("Ada finds", "--seed", "1", "-n", "3", "--no-echo")
    assert "the" in generate(*line).out and "#" not in generate(*line).out
    assert not re.search("the|\n.*\n.*\n.*\n", generate(*line, "--ban", "the", "--ban", "\n").out)
    assert set(generate(*line, "--logit-bias", "#=100").out) == {"#", "\n"}
    assert not re.search(r"\bthe\b", generate(*line, "--logit-bias", "the=-inf").out), "a word, wherever it stands"
    assert "e" in generate(*line, "--logit-bias", "e=-inf").out, "which is not a letter inside words"
    assert "e" not in generate(*line, "--ban", "e").out


def test_texts_are_literal_unless_escapes_are_asked_for(generate: Command) -> None:
    r"""A LaTeX user means \nabla and \textbf."""
    line = ("Ada finds", "--seed", "1", "-n", "3", "--no-echo")
    plain = generate(*line).out
    assert plain.count("\n") > 3, "else this shows nothing"
    for options in (("--ban", r"\nabla"), ("--stop", r"\n"), ("--logit-bias", r"\n=-inf")):
        assert generate(*line, *options).out == plain
    assert generate(*line, "--escapes", "--ban", r"\n").out == generate(*line, "--ban", "\n").out != plain
    assert generate(*line, "--escapes", "--stop", r"\n").out == generate(*line, "--stop", "\n").out != plain
    biased = generate(*line, "--escapes", "--logit-bias", r"\n=-inf").out
    assert biased == generate(*line, "--logit-bias", "\n=-inf").out != plain
    chosen = json.loads(generate("Ada", "--choice", r"\n", "--choice", r"\t", "--json").out)
    assert {choice["text"] for choice in chosen["choices"]} == {r"\n", r"\t"}


def test_half_a_character_at_the_end_is_left_out_and_its_bytes_are_kept(generate: Command, trained_run: Path) -> None:
    tokenizer = runs.load(str(trained_run), "cpu").tokenizer
    token = tokenizer.token_bytes.index(b"\xe6")
    line = ("--seed", "1", "--no-echo", "--logit-bias", f"#{token}=900", "--max-new-tokens", "1")
    assert generate("Ada", *line).out == "\n"
    (sample,) = json.loads(generate("Ada", *line, "--json").out)["samples"]
    assert (sample["text"], sample["finish_reason"]) == ("", "length")
    assert [token["bytes"] for token in sample["tokens"]] == [[0xE6]]


def test_penalties_change_what_is_written(generate: Command) -> None:
    plain = generate("Ada", "-t", "0").out
    for option in ("repetition-penalty", "repeat-penalty", "presence-penalty", "frequency_penalty"):
        assert generate("Ada", "-t", "0", f"--{option}", "1.9").out != plain
    assert generate("Ada", "-t", "0", "--no-repeat-ngram", "3").out != plain
    assert generate("Ada", "--seed", "1", "--typical-p", "0.01").out != generate("Ada", "--seed", "1").out


def test_the_least_and_the_largest_number_of_tokens(generate: Command) -> None:
    line = ("Ada", "--seed", "1", "--json", "--stop-at", "sentence")
    for least, most in ((0, 40), (25, 40), (40, 40)):
        outcome = generate(*line, "--min-new-tokens", least, "--max-new-tokens", most)
        assert least <= json.loads(outcome.out)["usage"]["n_completion_tokens"] <= most
    assert generate(*line, "--min-new-tokens", "3", "--max-new-tokens", "2").code == 2


@pytest.mark.row("G14")
def test_one_of_many_samples_can_be_had_alone(generate: Command) -> None:
    many = json.loads(generate("Ada", "--seed", "3", "-n", "9", "--json").out)["samples"]
    outcome = generate("Ada", "--seed", "3", "--sample", "7", "--no-echo")
    assert outcome.out == many[6]["text"] + "\n"
    assert outcome.err.endswith("· seed 3 · sample 7\n")
    assert generate("Ada", "--seed", "3", "-n", "9", "--sample", "7", "--no-echo").out == outcome.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sample", "0"), "--sample must be between 1 and 4096, not 0."),
        (("-n", "3", "--sample", "4"), "--sample must be between 1 and 3, not 4."),
        (("--ban", ""), "--ban needs texts"),
        (("--ban", "\ufffd"), "\ufffd cannot be banned"),
        (("--logit-bias", "the"), "--logit-bias needs a text and a number, such as the=-1.5 or #7=2, not 'the'."),
        (("--logit-bias", "the=x"), "--logit-bias needs a text and a number"),
        (("--logit-bias", "the=inf"), "the bias of 'the' must be a number, not inf."),
        (("--logit-bias", "#99999=1"), "there is no token #99999"),
        (("--escapes",), "--escapes does nothing without --stop or --ban or --choice or --logit-bias."),
        (("--repetition-penalty", "0"), "--repetition-penalty must be between 0.01 and 100, 1 being off, not 0.0."),
        (("--presence-penalty", "nan"), "--presence-penalty must be between -100 and 100"),
        (("--typical-p", "0"), "--typical-p must be above 0 and at most 1"),
        (("--no-repeat-ngram", "-1"), "--no-repeat-ngram must be between 0 (off) and 1024, not -1."),
        (("--stop-at", "word"), "--stop-at must be one of document, paragraph, line, sentence, not 'word'."),
        (("--per-token",), "--per-token does nothing with a prompt; it goes with: --choice."),
        (("--choice", ""), "--choice needs texts: an empty one is as likely as can be."),
        (("--prompts", "gone.txt"), "give only one of PROMPT and --prompts."),
        (("--batch-size", "0"), "invalid value for '--batch-size'"),
        (("--choice", "x", "--temperature", "9"), "--temperature does nothing with --choice; it goes with: a prompt"),
        (("--choice", "x", "--stop", "x"), "--stop does nothing with --choice; it goes with: a prompt"),
        (("--choice", "x", "-o", "x.txt"), "--out does nothing with --choice"),
        (("-i", "--json"), "--json does nothing with -i"),
        (("-o", "x.html"), "-o x.html: the name must end in .txt, .md, .jsonl or .json."),
        (("-o", "x.txt", "--json"), "-o x.txt with --json: the name must end in .jsonl or .json."),
        (("--json", "--color", "surprise"), "--color tints text on a terminal"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_a_usage_error(generate: Command, options: tuple[str, ...], message: str) -> None:
    outcome = generate("Ada", *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err.splitlines()[-1]


# -- Many prompts

PROMPTS = ("Ada finds", "The river", "Chidi carries the letter and the", "  x ", "Dora")


@pytest.mark.row("G14")
@pytest.mark.parametrize("size", [(), ("--batch-size", "2")], ids=str)
def test_each_line_of_a_file_gets_what_it_gets_alone(generate: Command, size: tuple[str, ...]) -> None:
    Path("prompts.txt").write_text("\r\n".join(PROMPTS) + "\n\n \n", newline="")
    options = ("--seed", "4", "-n", "2", "--max-new-tokens", "25")
    outcome = generate("--prompts", "prompts.txt", *options, *size)
    assert outcome.code == 0
    assert outcome.out == "".join(generate("-p", prompt, *options).out for prompt in PROMPTS)
    labels = [f"-- prompt {i} of 5, sample {j} of 2 --" for i in range(1, 6) for j in (1, 2)]
    assert outcome.err.splitlines()[1:] == labels
    lines = generate("--prompts", "prompts.txt", *options, "--json").out.splitlines()
    assert [json.loads(line) for line in lines] == [
        about(generate("-p", prompt, *options, "--json").out) for prompt in PROMPTS
    ]


def about(line: str) -> dict[str, Any]:
    """What --json says; a log-probability is the same but for rounding however many rows are computed at once."""
    return json.loads(line, parse_float=lambda number: pytest.approx(float(number), abs=1e-5))


def test_prompts_may_be_objects_with_their_own_seeds(generate: Command) -> None:
    lines = ['{"prompt": "Ada\\nfinds", "seed": 9, "id": "a"}', '{"prompt": ""}', "", '{"prompt": "x", "seed": null}']
    Path("prompts.JSONL").write_text("\n".join(lines))
    outcome = generate("--prompts", "prompts.JSONL", "--seed", "4", "--json")
    found = [json.loads(line) for line in outcome.out.splitlines()]
    assert [(each["prompt"], each["seed"]) for each in found] == [("Ada\nfinds", 9), ("", 4), ("x", 4)]
    alone = generate("Ada\nfinds", "--seed", "9", "--json").out
    assert found[0] == {**about(alone), "columns": {"id": "a"}}
    piped = generate("--prompts", "-", "--seed", "4", "--no-echo", stdin=b"x")
    assert piped.out == found[2]["samples"][0]["text"] + "\n"


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        ("a.jsonl", b'{"prompt": "x"}\n\n["x"]', 3, 'line 3 of a.jsonl must be an object with a text as its "prompt"'),
        ("a.jsonl", b'{"prompt": 3}', 3, "line 1 of a.jsonl must be an object"),
        ("a.jsonl", b'{"prompt": "x"', 3, "line 1 of a.jsonl is not JSON"),
        ("a.jsonl", b"[" * 100_000, 3, "line 1 of a.jsonl is not JSON"),
        ("a.jsonl", b'{"prompt": "x", "seed": -1}', 3, 'the "seed" in line 1 of a.jsonl must be a whole number'),
        ("a.jsonl", b'{"prompt": "x", "seed": true}', 3, 'the "seed" in line 1'),
        ("a.jsonl", b'{"prompt": "\\ud800"}', 3, "half of a character"),
        ("a.txt", b" \n\n", 3, "a.txt holds no prompts"),
        ("a.txt", b"caf\xe9", 3, "a.txt is not UTF-8: "),
        ("gone.txt", None, 3, "cannot read the prompts from gone.txt"),
    ],
)
def test_prompts_that_cannot_be_read_are_code_3(
    generate: Command, name: str, content: bytes | None, code: int, message: str
) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    outcome = generate("--prompts", name)
    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err


@pytest.mark.row("G02")
def test_a_prompt_among_many_that_is_too_long_is_named(generate: Command) -> None:
    Path("prompts.txt").write_text("Ada\n" + "The river and the bank " * 20)
    err = generate("--prompts", "prompts.txt").err
    assert err.count("the model sees the last 32") == 1 == err.count("the prompt 'The river and the bank The riv…' has")


# -- Given texts


CHOICES = ("--choice", " the river", "--choice", " xq", "--choice", " the")


@pytest.mark.parametrize(("name", "between"), [("p.csv", ","), ("p.TSV", "\t")])
def test_prompts_of_a_table_bring_their_columns_along(generate: Command, name: str, between: str) -> None:
    rows = [["id", "prompt", "seed"], ["A1", '"Ada finds"', "9"], ["A2", '"a ""b"""', ""]]
    Path(name).write_text("\n".join(between.join(row) for row in rows))
    line = ("--prompts", name, "--seed", "4")
    found = [json.loads(line) for line in generate(*line, "--json").out.splitlines()]
    told = [(each["prompt"], each["seed"], each["columns"]) for each in found]
    assert told == [("Ada finds", 9, {"id": "A1"}), ('a "b"', 4, {"id": "A2"})]
    assert generate(*line, "-o", "x.jsonl").code == 0
    lines = [json.loads(line) for line in Path("x.jsonl").read_text().splitlines()]
    assert [each["columns"]["id"] for each in lines] == ["A1", "A2"]
    chosen = generate(*line[:2], "--choice", " the", "--json").out.splitlines()
    assert [json.loads(line)["columns"] for line in chosen] == [{"id": "A1"}, {"id": "A2"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,text\n1,x\n", 'names no column "prompt"'),
        ("id,prompt\n1\n", "line 2 of p.csv has another number of columns"),
        ('id,prompt\n1,"x\n2,y\n', "in line 2 of p.csv: unexpected end of data"),
        ("prompt,seed\nx,-1\n", "the seed in line 2 of p.csv"),
        ("prompt\n", "holds no prompts"),
    ],
)
def test_a_table_that_is_none_is_code_3(generate: Command, content: str, message: str) -> None:
    Path("p.csv").write_text(content)
    outcome = generate("--prompts", "p.csv")
    assert outcome.code == 3 and message in outcome.err


def test_the_likeliest_of_given_texts_is_written(generate: Command, trained_run: Path) -> None:
    outcome = generate("Ada finds", *CHOICES)
    assert (outcome.code, outcome.out) == (0, "Ada finds the\n")
    lines = outcome.err.splitlines()
    assert len(lines) == 4 and re.fullmatch(r"log-probability +-\d+\.\d\d, +-\d.*per token, 1 token:  the", lines[1])
    assert generate("Ada finds", *CHOICES, "--no-echo").out == " the\n"
    result = json.loads(generate("Ada finds", *CHOICES, "--json").out)
    model = saved_step.load(Path(result["model"]))
    scored = score_choices(model.model, model.tokenizer, "Ada finds", [" the", " the river", " xq"])
    assert [(c["text"], c["logprob_nats"], c["token_ids"]) for c in result["choices"]] == [
        (c.text, c.logprob, c.tokens) for c in scored
    ]


def test_choices_can_be_compared_by_token_and_for_many_prompts(generate: Command) -> None:
    Path("prompts.txt").write_text("Ada\nAda finds the\n")
    line = ("--prompts", "prompts.txt", "--choice", " finds", "--choice", " river and the", "--no-echo")
    assert generate(*line).out == " finds\n river and the\n"
    by_token = json.loads(generate("Ada", *line[2:], "--per-token", "--json").out)["choices"]
    assert [c["logprob_nats_per_token"] for c in by_token] == [
        c["logprob_nats"] / len(c["token_ids"]) for c in by_token
    ]
    assert by_token[0]["logprob_nats_per_token"] >= by_token[1]["logprob_nats_per_token"]


def test_a_choice_longer_than_the_window_is_code_8(generate: Command) -> None:
    outcome = generate("Ada", "--choice", "x y z " * 30)
    assert (outcome.code, outcome.out) == (8, "")
    assert "longer than the 32 that the model sees" in outcome.err


# -- JSON


@pytest.mark.row("G26")
def test_json_is_one_object_with_the_documented_keys(generate: Command, trained_run: Path) -> None:
    outcome = generate("Ada finds", "--seed", "5", "-n", "2", "--max-new-tokens", "12", "--json")
    assert outcome.code == 0
    assert outcome.out.count("\n") == 1
    result = json.loads(outcome.out)
    assert set(result) == {"schema", "model", "prompt", "seed", "samples", "usage"}
    assert (result["prompt"], result["seed"]) == ("Ada finds", 5)
    assert result["model"] == str(runs.find_model(str(trained_run)))
    loaded = saved_step.load(Path(result["model"]))
    assert len(result["samples"]) == 2
    for sample in result["samples"]:
        assert set(sample) == {"text", "finish_reason", "tokens"}
        assert (sample["finish_reason"], len(sample["tokens"])) == ("length", 12)
        assert sample["text"] == loaded.tokenizer.decode([token["id"] for token in sample["tokens"]])
    prompt_tokens = len(loaded.tokenizer.encode("Ada finds"))
    assert result["usage"] == {"n_prompt_tokens": prompt_tokens, "n_completion_tokens": 24}


def test_json_and_plain_text_agree(generate: Command) -> None:
    line = ("Ada", "--seed", "5", "--stop", "\n")
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
    assert json.loads(outcome.out)["usage"]["n_prompt_tokens"] == 1


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

"""gptlite train: texts of all kinds in, a run and one JSON object out, and signals that lose nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import TRAIN_FEW as FEW
from conftest import TRAIN_TINY, Command, make_text

from gptlite.checkpoint.runs import Run
from gptlite.cli.train import outcome
from gptlite.text import demo, demo_pairs

KEYS = {
    "run", "step", "best_step", "n_parameters", "vocab_size", "n_tokens_seen", "tokens_per_second", "seconds",
    "train_loss_nats", "val_loss_nats",
    "val_bits_per_byte", "val_bits_per_byte_interval", "val_bytes", "held_out_bytes", "processor_share", "epochs",
    "members",
    "baselines",
}  # fmt: skip


def info(run: str | Path) -> dict[str, Any]:
    return json.loads((Path(run) / "run.json").read_text())


# -- What comes out


def test_json_is_one_object_with_the_documented_keys(gptlite: Command, corpus_file: Path) -> None:
    outcome = gptlite("train", "corpus.txt", "--json", *FEW)
    assert outcome.code == 0
    assert outcome.out.count("\n") == 1
    result = json.loads(outcome.out)
    assert result.pop("schema") == "gptlite.train/1"
    assert set(result) == KEYS
    assert (result["run"], result["step"], result["vocab_size"]) == ("checkpoints/corpus", 4, 320)
    assert result["n_tokens_seen"] == 4 * 4 * 32
    assert info("checkpoints/corpus")["result"] == result


def test_without_json_nothing_stands_on_standard_output(gptlite: Command, corpus_file: Path) -> None:
    outcome = gptlite("train", "corpus.txt", *FEW)
    assert (outcome.code, outcome.out) == (0, "")
    for part in ("qwen3: ", "parameters", "4 steps", "cpu", "writing to checkpoints/corpus", "bits per byte"):
        assert part in outcome.err


def test_what_is_suggested_at_the_end_works(gptlite: Command, corpus_file: Path) -> None:
    outcome = gptlite("train", "corpus.txt", "-o", "my run", *FEW)
    (suggestion,) = re.findall(r"try: gptlite (.*)", outcome.err)
    assert gptlite(*shlex.split(suggestion), "--max-new-tokens", "1").code == 0


def test_choices_of_the_plan_are_told(gptlite: Command, corpus_file: Path) -> None:
    outcome = gptlite("train", "corpus.txt", *TRAIN_TINY, "--steps", "20", "--save-every", "20")
    reasons = info("checkpoints/corpus")["plan"]["reasons"]
    assert reasons and all(f"chosen: {reason}" in outcome.err for reason in reasons)


def test_a_dry_run_shows_the_plan_and_writes_nothing(gptlite: Command, corpus_file: Path) -> None:
    outcome = gptlite("train", "corpus.txt", "--dry-run", *FEW)
    assert outcome.code == 0
    for part in ("2 layers, width 32, 2 heads", "4 steps", "tokens/s", "memory", "bits per byte", "5-gram"):
        assert part in outcome.out
    rows = {line.split("  ")[0].strip(): line for line in outcome.out.splitlines()}
    assert "unknown" in rows["result"], "of so short a run"
    assert rows["shape"].rstrip().endswith("yours") and rows["batch"].rstrip().endswith("yours")
    assert rows["optimizer"].rstrip().endswith("the plan's")
    assert not Path("checkpoints").exists()


def test_a_dry_run_as_json_has_the_numbers(gptlite: Command, corpus_file: Path) -> None:
    preview = json.loads(gptlite("train", "corpus.txt", "--dry-run", "--json", "--time", "5s").out)
    assert preview["plan"]["train"]["seconds"] == preview["expected"]["seconds"] == 5
    assert preview["plan"]["given"] == ["seconds"]
    assert preview["expected"]["memory_bytes"] > 10**8  # torch alone needs that
    assert set(preview["baselines"]) >= {"xz_bits_per_byte", "unigram_bits_per_byte", "ngram_bits_per_byte"}
    long = json.loads(gptlite("train", "corpus.txt", "--dry-run", "--json", "--size", "tiny", "--steps", "1000").out)
    assert 0 < long["expected"]["bits_per_byte"] < 10
    assert preview["train_bytes"] + preview["val_bytes"] == corpus_file.stat().st_size


@pytest.mark.parametrize("seconds", [5.0, 2.0])
def test_a_dry_run_says_when_a_run_ends_before_its_time(
    gptlite: Command, corpus_file: Path, seconds: float, capsys: pytest.CaptureFixture[str]
) -> None:
    preview = json.loads(gptlite("train", "corpus.txt", "--dry-run", "--json", "--time", "5s").out)
    preview["plan"]["train"] |= {"members": 4, "most_epochs": 48.0}
    preview["expected"]["seconds"] = seconds
    outcome.show_plan(preview)
    shown = " ".join(capsys.readouterr().out.split())
    assert ("budget 5 s, ending at 12.0 times through the text by each model yours" in shown) is (seconds < 5)
    assert re.search(r" steps about [\d,]+, [\d.]+ times through the text by each model time ", shown)


def test_a_dry_run_resumes_nothing(gptlite: Command, corpus_file: Path) -> None:
    outcome = gptlite("train", "corpus.txt", "--dry-run", "--resume")
    assert outcome.code == 2 and "--resume" in outcome.err


def test_baselines_stand_beside_the_result(gptlite: Command, corpus_file: Path) -> None:
    outcome = gptlite("train", "corpus.txt", *FEW)
    measured = info("checkpoints/corpus")["baselines"]
    ngram, xz = (measured[f"{method}_bits_per_byte"] for method in ("ngram", "xz"))
    assert f"for comparison, on the same bytes: 5-gram {ngram:.3f}, xz {xz:.3f}" in outcome.err


def test_samples_are_shown_on_standard_error(gptlite: Command, corpus_file: Path) -> None:
    outcome = gptlite("train", "corpus.txt", *FEW, "--sample-every", "2", "--sample-prompt", "Ada\nBela")
    assert outcome.out == ""
    assert re.findall(r"-- sample at step (\d) --\nAda\nBela", outcome.err) == ["2", "4"]


def test_plain_progress_lines_are_told_from_time_to_time(
    gptlite: Command, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptlite.cli.shared.console.PLAIN_INTERVAL", 0.0)
    outcome = gptlite("train", "corpus.txt", *FEW)
    lines = re.findall(r"^ *(\d+)% step (\d) · loss \d\.\d+.* left$", outcome.err, re.MULTILINE)
    assert lines == [("25", "1"), ("50", "2"), ("75", "3"), ("100", "4")]


def test_the_run_says_how_it_was_made(gptlite: Command, corpus_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/gptlite", "train", "corpus.txt", "--steps", "4"])
    gptlite("train", "corpus.txt", *FEW)
    assert info("checkpoints/corpus")["command"] == ["gptlite", "train", "corpus.txt", "--steps", "4"]


@pytest.mark.parametrize(
    ("line", "model", "training"),
    [
        (
            "--arch gpt2 --context 16 --layers 1 --heads 4 --dim 64 --steps 2",
            {"architecture": "gpt2", "context_length": 16, "n_layers": 1, "n_heads": 4, "head_dim": 16, "dim": 64},
            {"steps": 2, "epochs": None, "seconds": None},
        ),
        (
            "--dropout 0.25 --lr 0.001 --optimizer adamw --warmup 0.5 --decay 0.25 --weight-decay 0 --clip 0.5 --seed 7"
            " --eval-every 2 --save-every 3 --sample-every 4 --sample-prompt Ada --keep 9 --batch-size 3",
            {"architecture": "qwen3", "n_layers": 2},
            {
                "dropout": 0.25, "lr": 0.001, "optimizer": "adamw", "warmup": 0.5, "decay": 0.25, "weight_decay": 0.0,
                "clip": 0.5, "seed": 7, "eval_every": 2, "save_every": 3, "sample_every": 4, "sample_prompt": "Ada",
                "keep": 9, "batch_size": 3,
            },
        ),
    ],
    ids=["shape", "training"],
)  # fmt: skip
def test_options_reach_the_plan(
    gptlite: Command, corpus_file: Path, line: str, model: dict[str, Any], training: dict[str, Any]
) -> None:
    assert gptlite("train", "corpus.txt", "-q", *FEW, *line.split()).code == 0
    plan = info("checkpoints/corpus")["plan"]
    assert {name: plan["model"][name] for name in model} == model
    assert {name: plan["train"][name] for name in training} == training


# -- What goes in


def windows() -> str:
    return make_text().replace("\n", "\r\n")


def chinese() -> str:
    return "河岸上的花园里有一封信。银行的窗户对着港口，钟声响起。\n" * 120


def emoji() -> str:
    return "🙂👩‍👩‍👧 🏳️‍🌈 finds 👍🏽 and 🙃 .\n" * 120


@pytest.mark.parametrize("text", [chinese, emoji, windows])
def test_texts_of_all_kinds_train(gptlite: Command, text: Any) -> None:
    content = text()
    Path("text.txt").write_bytes(content.encode())
    outcome = gptlite("train", "text.txt", "--json", *FEW)
    assert outcome.code == 0
    result = json.loads(outcome.out)
    assert 0 < result["val_bits_per_byte"] < 20
    assert gptlite("generate", "-m", result["run"], content[:9], "--max-new-tokens", "5").out.startswith(content[:9])


@pytest.mark.parametrize(
    ("line", "stdin", "run", "n_inputs"),
    [
        ("train -", make_text().encode(), "checkpoints/stdin", 1),
        ("train texts", None, "checkpoints/texts", 2),
        ("train 'texts/*.txt'", None, "checkpoints/run", 1),
        ("train 'texts/**/*.txt'", None, "checkpoints/run", 2),
        ("train texts/a.txt texts/deep/b.txt", None, "checkpoints/a", 2),
        ("train texts/a.txt texts/a.txt ./texts/../texts/a.txt", None, "checkpoints/a", 1),
        ("train texts/a.txt -", make_text(seed=9).encode(), "checkpoints/a", 2),
    ],
)
def test_texts_come_from_files_folders_patterns_and_pipes(
    gptlite: Command, line: str, stdin: bytes | None, run: str, n_inputs: int
) -> None:
    Path("texts/deep").mkdir(parents=True)
    Path("texts/a.txt").write_text(make_text(200))
    Path("texts/deep/b.txt").write_text(make_text(200, seed=1))
    Path("texts/.hidden.txt").write_text(make_text(200, seed=2))
    outcome = gptlite(*shlex.split(line), "--json", *FEW, stdin=stdin)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["run"] == run
    assert len(info(run)["inputs"]) == n_inputs


def test_files_in_a_folder_that_are_no_text_are_passed_over(gptlite: Command) -> None:
    Path("texts").mkdir()
    Path("texts/a.txt").write_text(make_text())
    Path("texts/picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    outcome = gptlite("train", "texts", *FEW)
    assert outcome.code == 0
    assert "note: passed over 1 file that is not text" in outcome.err and "picture.png" in outcome.err


@pytest.mark.parametrize(
    ("stdin", "message"),
    [(b"", "empty"), (b"x" * 1000, "too few"), (b"\xff" * 5000, "UTF-8"), (b"a\x00" * 5000, "NUL")],
)
def test_bad_standard_input_is_an_error(gptlite: Command, stdin: bytes, message: str) -> None:
    outcome = gptlite("train", "-", stdin=stdin)
    assert (outcome.code, outcome.out) == (3, "")
    assert message in outcome.err
    assert "stdin-" not in outcome.err, "a person knows of no file that standard input was kept in"


def test_standard_input_leaves_no_copy(gptlite: Command) -> None:
    assert gptlite("train", "-", "-q", *FEW, stdin=make_text().encode()).code == 0
    assert not list(Path("cache").glob("stdin-*"))


def test_a_kilobyte_is_too_little(gptlite: Command) -> None:
    Path("short.txt").write_text(make_text()[:1024])
    outcome = gptlite("train", "short.txt")
    assert (outcome.code, outcome.out) == (3, "")
    assert "1,024 bytes of text are too few" in outcome.err


def test_the_demo_needs_no_text(gptlite: Command) -> None:
    outcome = gptlite("train", "--demo", "--json", *FEW)
    assert outcome.code == 0
    assert json.loads(outcome.out)["run"] == "checkpoints/python-reference"


def test_the_demo_of_homonyms_knows_what_it_takes(gptlite: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "N_SENTENCES", 600)
    plan = json.loads(gptlite("train", "--demo", "homonyms", "--dry-run", "--json").out)["plan"]
    assert plan["model"]["n_layers"] == demo.SHAPE["n_layers"] and plan["model"]["dim"] == demo.SHAPE["dim"]
    assert plan["train"]["steps"] == demo.TRAINING["steps"]
    outcome = gptlite("train", "--demo", "homonyms", "--json", *FEW)
    assert outcome.code == 0
    assert json.loads(outcome.out)["run"] == "checkpoints/homonyms"
    assert json.loads(outcome.out)["step"] == 4, "what is given counts"


# -- Runs


def test_the_demo_of_pairs_tells_longer_numbers_apart(gptlite: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its end, and in `eval`, as the table and as JSON say it."""
    monkeypatch.setattr(demo_pairs, "N_NUMBERS", 300)
    for name, n in (("N_DATES", 50), ("N_HELD_OUT", 20), ("N_LONGER", 10)):
        monkeypatch.setattr(demo_pairs, name, n)
    few = ("--steps", "2", "--layers", "1", "--dim", "32", "--heads", "2", "--threads", "1", "--compile", "off")
    outcome = gptlite("train", "--demo", "pairs", "-o", "run", *few)
    assert outcome.code == 0
    told = outcome.err.replace("\n", " ")
    assert "0.0% of 40 held-out numbers and dates are exact, 0.0% of 20 numbers of 7 to 9 digits, which are" in told
    result = json.loads(gptlite("train", "--demo", "pairs", "-o", "run", "--resume", "--steps", "3", "--json").out)
    assert (result["answers"]["n"], result["answers"]["longer"]["n"]) == (40, 20)
    assert re.search(
        r"^ *exact match of 20 numbers of 7 to 9 digits +0\.00 %$", gptlite("eval", "--held-out", "run").out, re.M
    )
    found = json.loads(gptlite("eval", "--held-out", "run", "--json").out)["answers"]
    assert found["n"] == 40 and found["longer"]["n"] == 20 and {"exact_match", "ended"} <= set(found["longer"])


def test_runs_are_never_overwritten(gptlite: Command, corpus_file: Path) -> None:
    runs = [json.loads(gptlite("train", "corpus.txt", "--json", *FEW).out)["run"] for _ in range(3)]
    assert runs == ["checkpoints/corpus", "checkpoints/corpus-2", "checkpoints/corpus-3"]
    outcome = gptlite("train", "corpus.txt", "-o", "checkpoints/corpus", *FEW)
    assert outcome.code == 2
    assert "--resume" in outcome.err


def test_a_run_in_use_is_code_7(gptlite: Command, corpus_file: Path) -> None:
    assert gptlite("train", "corpus.txt", "-o", "run", "-q", *FEW).code == 0
    with Run(Path("run")).lock():
        outcome = gptlite("train", "--resume", "-o", "run", "--steps", "5")
    assert (outcome.code, outcome.out) == (7, "")
    assert "another process trains in run" in outcome.err


def test_too_much_for_this_machine_is_code_8(gptlite: Command, corpus_file: Path) -> None:
    outcome = gptlite("train", "corpus.txt", *FEW, "--dim", "100k", "--heads", "1000", "--layers", "999")
    assert (outcome.code, outcome.out) == (8, "")
    assert "memory" in outcome.err


def test_a_rate_that_is_far_too_high_is_code_6(gptlite: Command, corpus_file: Path) -> None:
    outcome = gptlite("train", "corpus.txt", "--json", *FEW, "--steps", "60", "--lr", "900", "--weight-decay", "0")
    assert (outcome.code, outcome.out) == (6, "")
    assert "smaller --lr" in outcome.err


def test_the_same_command_with_resume_goes_on(gptlite: Command, corpus_file: Path) -> None:
    """Which is what the arrow key in a shell offers."""
    line = ("train", "corpus.txt", "-o", "run", "--json", "--lr", "0.01", "--seed", "3", *FEW)
    assert gptlite(*line).code == 0
    outcome = gptlite(*line, "--resume", "--steps", "6")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["step"] == 6


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("train --resume -o RUN --lr 0.5", 2, "lr"),
        ("train --resume -o RUN --val 9%", 2, "--val"),
        ("train --resume -o RUN --size small", 2, "--size"),
        ("train other.txt --resume -o RUN", 4, "not the one"),
        ("train --resume -o gone", 4, "no run at gone"),
        ("train corpus.txt --resume", 4, "no run 'corpus'"),
    ],
)
def test_what_cannot_be_resumed(gptlite: Command, trained_run: Path, line: str, code: int, message: str) -> None:
    Path("other.txt").write_text(make_text(seed=5))
    outcome = gptlite(*(str(trained_run) if word == "RUN" else word for word in shlex.split(line)))
    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err


# -- Signals, in a process of its own


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gptlite.cli", "train", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr and process.stderr.read()
        time.sleep(0.02)


@pytest.mark.slow  # tests/reliability/test_signals.py has a quick one
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "term"])
def test_a_signal_saves_and_says_how_to_go_on(gptlite: Command, corpus_file: Path, number: int, code: int) -> None:
    process = start("corpus.txt", "-o", "run", "--json", *FEW, "--steps", "20k", "--save-every", "20k")
    wait_for(Path("run/metrics.jsonl"), process)
    assert not Run(Path("run")).steps(), "the signal is what saves"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in err
    (sentence,) = re.findall(r"^gptlite: error: stopped after step (\d+), which is saved; .*$", err, re.MULTILINE)
    (step,) = Run(Path("run")).steps()
    assert step.number == int(sentence)
    (command,) = re.findall(r"continue with: gptlite (.*)", err)
    outcome = gptlite(*shlex.split(command), "--steps", str(step.number + 2), "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["step"] == step.number + 2


@pytest.mark.slow
def test_a_kill_loses_only_what_was_not_saved(gptlite: Command, corpus_file: Path) -> None:
    process = start("corpus.txt", "-o", "run", *FEW, "--steps", "20k", "--save-every", "5")
    wait_for(Path("run/latest"), process)
    process.kill()
    process.communicate(timeout=60)
    latest = Run(Path("run")).latest()
    assert process.returncode == -signal.SIGKILL and latest is not None
    outcome = gptlite("train", "--resume", "-o", "run", "--json", "--steps", str(latest.number + 1))
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["step"] == latest.number + 1
    assert not [p for p in os.listdir("run") if p.startswith((".tmp", ".trash"))]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "term"])
def test_a_signal_before_training_ends_at_once(
    gptlite: Command, corpus_file: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    def first_tokens(*_: object, **__: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr("gptlite.text.token_files.tokenize", first_tokens)
    before = signal.getsignal(number)
    outcome = gptlite("train", "corpus.txt", "-o", "run", *FEW)
    assert (outcome.code, outcome.out) == (code, "")
    assert "Traceback" not in outcome.err
    assert signal.getsignal(number) == before
    assert gptlite("train", "--resume", "-o", "run").code == 4


# -- What a run came to


def result_of(**changed: Any) -> dict[str, Any]:
    result = {
        "run": "run", "step": 100, "best_step": 100, "seconds": 60.0, "val_bits_per_byte": 2.0, "val_bytes": 500,
        "held_out_bytes": 500, "val_bits_per_byte_interval": None, "epochs": 0.4,
        "baselines": {"ngram_bits_per_byte": 2.2, "xz_bits_per_byte": 2.6, "unigram_bits_per_byte": 3.3},
    }  # fmt: skip
    return result | changed


def test_a_part_of_the_held_out_text_is_called_one_with_its_interval() -> None:
    done, compared = outcome.outcome(result_of(val_bytes=300, val_bits_per_byte_interval=[1.9, 2.1]))
    assert "2.000 bits per byte (1.900 to 2.100 for all of it) on 300 of 500 bytes of held-out text" in done
    assert done.endswith("all of it: gptlite eval --held-out run")
    assert compared.startswith("for comparison, on the same bytes: 5-gram 2.200")


@pytest.mark.parametrize(
    ("changed", "help"),
    [
        ({"epochs": 0.4}, "It read 40% of its text: more time (--time) would help most."),
        ({"epochs": 20.0}, "It read its text 20.0 times: more text would help most, or a trained model"),
        (
            {"epochs": 0.4, "processor_share": 0.5},
            "It read 40% of its text, while other programs kept the processors busy (its threads had one for 50% of "
            "the time): a quieter machine or more time (--time) would help most.",
        ),
        (
            {"epochs": 160.0, "members": 8, "processor_share": 0.5},
            "Each of its 8 models read its text 20.0 times: more text would help most",
        ),
        ({"epochs": 16.0, "members": 8}, "Each of its 8 models read its text 2.0 times: more time (--time) would help"),
        ({"epochs": 20.0, "best_step": 30}, "and was best at step 30: more text, or --dropout, would help most."),
    ],
    ids=str,
)
def test_a_run_that_does_not_beat_the_5_gram_says_so_and_what_would_help(changed: dict[str, Any], help: str) -> None:
    last = [*outcome.outcome(result_of(val_bits_per_byte=2.3, **changed))][-1]
    assert last.startswith("This model does not beat the 5-gram") and help in last


def test_a_run_that_beats_the_5_gram_or_cannot_be_compared_says_nothing() -> None:
    assert len([*outcome.outcome(result_of())]) == 2
    assert len([*outcome.outcome(result_of(baselines=None))]) == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--val", "0.1"), "--val 0.1 needs a unit: write 10%"),
        (("--val", "10"), "--val 10 needs a unit: write 10%"),
        (("--time", "3"), "--time needs a unit: 3s, 3m or 3h"),
        (("--sample-prompt", "Ada"), "--sample-prompt does nothing without --sample-every"),
    ],
)
def test_a_number_without_a_unit_and_an_option_without_its_partner(
    gptlite: Command, corpus_file: Path, more: tuple[str, ...], said: str
) -> None:
    outcome = gptlite("train", corpus_file, *more)
    assert outcome.code == 2 and said in outcome.err
    assert not Path("checkpoints").exists()


def test_one_of_a_thing_is_singular(gptlite: Command, corpus_file: Path) -> None:
    """In the plan, while training, at its end, and in what is told of the run afterwards."""
    small = ("--layers", "1", "--heads", "1", "--dim", "16", "--context", "16", "--vocab-size", "300", "--threads", "1")
    line = ("train", corpus_file, "--batch-size", "64", *small)
    said = [gptlite(*line, "--steps", "1", "--dry-run"), gptlite(*line, "--epochs", "1", "-o", "run")]
    said += [gptlite("info", "run"), gptlite("check", "run"), gptlite("runs", "."), gptlite("report", "run")]
    assert [each.code for each in said] == [0] * 6
    things = "layers|heads|threads|files|tokens|windows|steps|epochs|processes|times"
    page = Path("run/report.html").read_text(encoding="utf-8")
    for text in (page, *(each.out + each.err for each in said)):
        assert not re.findall(rf"(?<![\d.,:-])1 (?:{things})\b", text)
    assert "1 epoch with" in said[1].err and "1 thread" in said[0].out

"""What all commands have in common: help pages, errors in one sentence, exit codes, pipes and terminals."""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import Command, make_text, random_model, tiny_config
from support.commands import APP, COMMANDS

from gptlite import __version__
from gptlite.checkpoint.saved_step import save_step
from gptlite.cli import main as command_line
from gptlite.cli.shared import options
from gptlite.text.tokenizer import Tokenizer

NAMES = tuple(COMMANDS)
GPTLITE = (sys.executable, "-m", "gptlite.cli")
DAMAGE = "Traceback"


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """`generate` lets broken pipes end the process, which here is pytest."""
    before = signal.getsignal(signal.SIGPIPE)
    yield
    signal.signal(signal.SIGPIPE, before)


def assert_one_sentence(err: str) -> None:
    assert err.startswith("gptlite: error: "), err
    assert err.count("\n") == 1 and err.endswith("\n"), err
    assert DAMAGE not in err


# -- Help


def test_the_help_page_has_the_commands_in_groups(gptlite: Command) -> None:
    page = gptlite("--help").out
    shown = re.findall(r"^│ ([a-z]+)  |^╭─ (.*?) ─", page, re.MULTILINE)
    assert [name or panel for name, panel in shown][1:] == [
        "Make a model and use it", "train", "generate", "embed",
        "Words", "words", "concordance",
        "Texts", "inspect", "score", "eval", "compare",
        "Runs, and other programs", "report", "info", "runs", "check", "export", "serve",
    ]  # fmt: skip


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", ["", "words", *NAMES])
def test_help_is_a_result(gptlite: Command, command: str, flag: str) -> None:
    outcome = gptlite(*command.split(), flag)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"Usage: gptlite {command}".rstrip() in outcome.out


@pytest.mark.parametrize("command", ["", "words", *NAMES])
def test_help_fits_on_two_screens(gptlite: Command, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert gptlite(*command.split(), "--help").out.count("\n") <= 60


@pytest.mark.parametrize("command", ["train", "generate"])
def test_long_help_pages_explain_most_options_in_one_line(
    gptlite: Command, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    page = gptlite(command, "--help").out
    continued = re.findall(r"^│ {20,}(\S.*?) *│$", page, re.MULTILINE)
    assert len(continued) <= 1, continued


@pytest.mark.parametrize("command", ["", "words", *NAMES])
@pytest.mark.parametrize("columns", ["80", "100"])
def test_help_breaks_lines_between_words(
    gptlite: Command, command: str, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def words(width: str) -> set[str]:
        monkeypatch.setenv("COLUMNS", width)
        return {word for word in gptlite(*command.split(), "--help").out.split() if not set(word) & set("╭╮╰╯│─")}

    assert words(columns) - words("400") == set()


@pytest.mark.parametrize("command", NAMES)
def test_help_ends_with_the_options_that_it_leaves_out(
    gptlite: Command, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    page = gptlite(*command.split(), "--help").out
    hidden = [p.opts[0] for p in COMMANDS[command].params if p.param_type_name == "option" and p.hidden]
    last = page.rstrip().split("\n")[-1].strip()
    assert last == f"For experts (docs/reference/cli.md): {', '.join(hidden)}" if hidden else last.startswith("╰")
    assert not [option for option in hidden if re.search(rf"^│ {option}(?![\w-])", page, re.MULTILINE)]


def is_off(parameter: Any) -> bool:
    """Does the default do nothing, and the help say so?"""
    value = parameter.default
    return value == "none" or (isinstance(value, int | float) and f"{value:g} is off" in parameter.help)


@pytest.mark.parametrize("command", NAMES)
def test_help_shows_a_default_for_every_value(gptlite: Command, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    page = gptlite(*command.split(), "--help").out
    parameters = COMMANDS[command].params
    assert parameters
    for parameter in parameters:
        if (parameter.default is None and not parameter.required) or getattr(parameter, "is_flag", False):
            continue
        if parameter.hidden or is_off(parameter):
            continue
        name = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar
        lines = [line for line in page.split("\n") if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", line)]
        entries = [line for line in lines if "Usage:" not in line]
        assert any("[default: " in line or "[required]" in line for line in entries), (name, entries)


@pytest.mark.parametrize("command", NAMES)
def test_help_shows_switches_plainly(gptlite: Command, command: str) -> None:
    assert "<bool>" not in gptlite(*command.split(), "--help").out
    for parameter in COMMANDS[command].params:
        if getattr(parameter, "is_flag", False):
            assert parameter.metavar == "" and (parameter.secondary_opts or not parameter.show_default)


@pytest.mark.parametrize("command", NAMES)
def test_help_explains_every_option(command: str) -> None:
    for parameter in COMMANDS[command].params:
        assert parameter.help, parameter.name


@pytest.mark.parametrize("command", NAMES)
def test_help_shows_an_example_that_parses(gptlite: Command, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    page = gptlite(*command.split(), "--help").out
    examples = re.findall(rf"^ gptlite {command} .*$", page, re.MULTILINE)
    assert examples
    for example in examples:
        arguments = shlex.split(example)[1 + len(command.split()) :]
        parsed = COMMANDS[command].make_context(command, arguments).params
        if command == "embed":
            assert all("[bank]" in text for text in parsed["texts"]), "brackets are not swallowed as markup"


ONE_MEANING = {  # the commands that have an option, where others might mean something else by it
    "--context": {"train", "embed"}, "--layers": {"train"}, "--color": {"generate"}, "-k": {"generate"},
}  # fmt: skip


def test_an_option_means_one_thing() -> None:
    """Blocks, what the model sees, tints of a text, the cut of sampling; a type is that of the computation.

    Only training steps and decoding are written for 8-bit integers.
    """
    for option, expected in ONE_MEANING.items():
        assert {name for name, c in COMMANDS.items() if any(option in p.opts for p in c.params)} == expected, option
    kinds = {name: p for name, c in COMMANDS.items() for p in c.params if "--dtype" in p.opts and name != "export"}
    for name in ("train", "inspect", "eval"):
        of_training = ("int8",) if name == "train" else ()
        assert kinds[name].type_descriptor.choices == ("auto", "fp32", "bf16", *of_training)


LIGHT = """
import contextlib, io, sys
from gptlite.cli.main import run
for arguments in (["--help"], ["--version"], ["nonsense"], ["train"], *([c, "--help"] for c in sys.argv[1:])):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run(arguments)
heavy = {"torch", "numpy", "tokenizers", "safetensors", "transformers", "gguf"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_only_the_command_that_is_called_is_imported() -> None:
    script = (
        "import sys\nfrom gptlite.cli.main import run\nrun(['info', '--help'])\n"
        "print(*sorted(name for name in sys.modules if name in {'gptlite.cli.info', 'gptlite.cli.train.command'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "gptlite.cli.info"


def test_help_and_bad_use_import_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, *command_line.COMMANDS], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def processor_time(*command: str) -> float:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime


def test_help_is_quick() -> None:
    """Under 0.4 s; on a machine so busy that Python alone takes its time, under 12 times that."""
    best, python = 9.0, 9.0
    for _ in range(10):
        best = min(best, processor_time(*GPTLITE, "--help"))
        python = min(python, processor_time(sys.executable, "-c", "pass"))
        if best < max(0.4, 12 * python):
            return
    pytest.fail(f"gptlite --help took {best:.2f} s, Python alone {python:.2f} s")


def test_the_version_is_a_result(gptlite: Command) -> None:
    for flag in ("-V", "--version"):
        assert gptlite(flag).out == f"gptlite {__version__}\n"


def test_no_arguments_mean_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command_line.main([])
    assert caught.value.code == 0
    assert "Usage: gptlite" in capsys.readouterr().out


# -- Bad use

BAD_USE = (
    ("nonsense", "no such command"),
    ("--nonsense", "--nonsense"),
    ("train", "name the text"),
    ("train corpus.txt --nonsense 3", "--nonsense"),
    ("train corpus.txt --steps", "--steps"),
    ("train corpus.txt --steps ten", "not a number"),
    ("train corpus.txt --steps 1.5", "not a whole number"),
    ("train corpus.txt --steps 0", "above zero"),
    ("train corpus.txt --steps -5", "above zero"),
    ("train corpus.txt --time 5x", "--time must be a time such as 90s"),
    ("train corpus.txt --time 0", "--time needs a unit"),
    ("train corpus.txt --time -3m", "--time must be a time such as 90s"),
    ("train corpus.txt --time 3m --steps 5", "only one of"),
    ("train corpus.txt --steps 5 --epochs 1", "only one of"),
    ("train corpus.txt --epochs nan", "above zero"),
    ("train corpus.txt --epochs 0", "above zero"),
    ("train corpus.txt --optimizer sgd", "optimizer"),
    ("train corpus.txt --lr fast", "--lr"),
    ("train corpus.txt --lr 0", "lr"),
    ("train corpus.txt --lr inf", "lr"),
    ("train corpus.txt --dropout 1", "dropout"),
    ("train corpus.txt --warmup 2", "warmup"),
    ("train corpus.txt --batch-size 0", "--batch-size"),
    ("train corpus.txt --keep 0", "keep"),
    ("train corpus.txt --seed -1", "seed"),
    ("train corpus.txt --arch rnn", "unknown architecture 'rnn'"),
    ("train corpus.txt --size huge", "unknown size 'huge'"),
    ("train corpus.txt --layers 0", "--layers"),
    ("train corpus.txt --dim 33 --heads 2", "multiple"),
    ("train corpus.txt --dim 6 --heads 2", "even"),
    ("train corpus.txt --vocab-size 10", "--vocab-size must be between"),
    ("train corpus.txt --vocab-size many", "not a number"),
    ("train corpus.txt --vocab-size 9M", "--vocab-size must be between"),
    ("train corpus.txt --val 0%", "--val"),
    ("train corpus.txt --val 100%", "--val"),
    ("train corpus.txt --device tpu", "--device"),
    ("train corpus.txt --device mps", "--device"),
    ("train corpus.txt --dtype fp8", "--dtype"),
    ("train corpus.txt --threads 0", "--threads"),
    ("train corpus.txt --compile maybe", "--compile must be one of"),
    ("train corpus.txt -o corpus.txt", "is a file"),
    ("train corpus.txt -o full", "not empty"),
    ("train '*.md'", "no file matches"),
    ("train --resume", "which run"),
    ("train corpus.txt --demo", "--demo"),
    ("generate -m MODEL a b", "unexpected"),
    ("generate -m MODEL a -p b", "once"),
    ("generate -m MODEL -p a -f corpus.txt", "once"),
    ("generate -m MODEL --stop ''", "--stop needs a text"),
    ("generate -m MODEL -t -1", "--temperature"),
    ("generate -m MODEL -t nan", "--temperature"),
    ("generate -m MODEL --top-p 0", "--top-p"),
    ("generate -m MODEL --top-p 1.1", "--top-p"),
    ("generate -m MODEL --min-p -0.1", "--min-p"),
    ("generate -m MODEL -k -1", "--top-k"),
    ("generate -m MODEL -n 0", "--num-samples"),
    ("generate -m MODEL -n 9999", "--num-samples"),
    ("generate -m MODEL --max-new-tokens -1", "--max-new-tokens"),
    ("generate -m MODEL --max-new-tokens few", "not a number"),
    ("generate -m MODEL --seed x", "--seed"),
    ("generate -m MODEL --device tpu", "--device"),
    ("embed -m MODEL", "at least one text"),
    ("embed -m MODEL 'no mark'", "mark the word"),
    ("embed -m MODEL 'a [b'", "never closed"),
    ("embed -m MODEL 'a [] b'", "do not pair up"),
    ("embed -m MODEL 'the bank' -w river", "'river' is not in the texts"),
    ("embed -m MODEL 'a [b]' --layer top", "--layer must be"),
    ("embed -m MODEL 'a [b]' --layer 9", "--layer must be"),
    ("embed -m MODEL 'a [b]' --pool max", "'--pool'"),
    ("embed -m MODEL 'a [b]' --correct yes", "--correct must be"),
    ("embed -m MODEL 'a [b]' -o vectors.xml", "must end in"),
    ("eval", "name the text to score"),
    ("eval -m MODEL '*.md'", "no file matches"),
    ("eval -m MODEL corpus.txt --dtype int8", "--dtype"),
    ("info a b", "unexpected"),
    ("export MODEL --to onnx", "--to must be gguf"),
    ("export MODEL --dtype q4", "--dtype"),
)


@pytest.mark.parametrize(("line", "message"), BAD_USE, ids=[line for line, _ in BAD_USE])
def test_bad_use_is_one_sentence_and_code_2_and_leaves_nothing_behind(
    gptlite: Command, corpus_file: Path, trained_run: Path, line: str, message: str
) -> None:
    Path("full").mkdir()
    Path("full/notes").write_text("mine")
    outcome = gptlite(*(str(trained_run) if word == "MODEL" else word for word in shlex.split(line)))
    assert (outcome.code, outcome.out) == (2, "")
    assert_one_sentence(outcome.err)
    assert message in outcome.err
    assert {p.name for p in Path().iterdir()} <= {"corpus.txt", "full", "cache"}


# -- Bad texts and bad models

MODEL_COMMANDS = (
    "generate -m {}",
    "embed 'a [b]' -m {}",
    "eval corpus.txt -m {}",
    "inspect a -m {}",
    "info {}",
    "export {}",
    "serve -m {}",
)


@pytest.mark.parametrize("model", ["gone", "empty", "corpus.txt", "broken"])
@pytest.mark.parametrize("line", MODEL_COMMANDS)
def test_a_bad_model_is_one_sentence_and_code_4(gptlite: Command, corpus_file: Path, line: str, model: str) -> None:
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/config.json").write_text("{}")
    outcome = gptlite(*shlex.split(line.format(model)))
    assert (outcome.code, outcome.out) == (4, "")
    assert_one_sentence(outcome.err)
    assert model in outcome.err


@pytest.mark.parametrize(
    "line", ["generate", "embed 'a [b]'", "eval corpus.txt", "inspect a", "info", "export", "serve"]
)
def test_no_model_at_all_says_how_to_make_one(gptlite: Command, corpus_file: Path, line: str) -> None:
    outcome = gptlite(*shlex.split(line))
    assert (outcome.code, outcome.out) == (4, "")
    assert_one_sentence(outcome.err)
    assert "gptlite train" in outcome.err


@pytest.mark.parametrize(
    "line", ["generate --max-new-tokens 1", "embed 'a [b]'", "eval corpus.txt", "info", "export --force -o model.gguf"]
)
def test_the_newest_run_is_used_unless_told_otherwise(
    gptlite: Command, corpus_file: Path, trained_run: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("checkpoints").mkdir()
    Path("checkpoints/corpus").symlink_to(trained_run)
    assert gptlite(*shlex.split(line)).code == 0
    monkeypatch.setenv("GPTLITE_MODEL", "gone")
    assert gptlite(*shlex.split(line)).code == 4


def test_a_damaged_step_is_named(gptlite: Command, tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size))
    save_step(tmp_path / "step", model, tokenizer, {"step": 1})
    path = tmp_path / "step" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    outcome = gptlite("generate", "-m", "step")
    assert outcome.code == 4
    assert_one_sentence(outcome.err)
    assert "model.safetensors is damaged" in outcome.err


def write_bad_texts() -> None:
    Path("empty.txt").write_bytes(b"")
    Path("blank.txt").write_bytes(b" \n" * 4000)
    Path("latin.txt").write_bytes("naïve café\n".encode("latin-1") * 400)
    Path("binary.txt").write_bytes(b"text\x00" * 900)
    Path("text.gz").write_bytes(b"\x1f\x8b" + b"x" * 5000)
    Path("folder").mkdir()
    os.mkfifo("pipe")


BAD_TEXTS = (
    ("gone.txt", "cannot read gone.txt"),
    ("empty.txt", "empty.txt is empty"),
    ("latin.txt", "not UTF-8"),
    ("binary.txt", "looks binary"),
    ("text.gz", "gzip"),
    ("folder", "without files"),
    ("pipe", "not a regular file"),
)


@pytest.mark.row("C01", "C08", "C13", "C17", "C22", "C23")
@pytest.mark.parametrize(("name", "message"), BAD_TEXTS)
@pytest.mark.parametrize("line", ["train {} --steps 1", "train corpus.txt {} --steps 1", "eval {} -m MODEL"])
def test_a_bad_text_is_one_sentence_and_code_3(
    gptlite: Command, corpus_file: Path, trained_run: Path, line: str, name: str, message: str
) -> None:
    write_bad_texts()
    outcome = gptlite(*(str(trained_run) if w == "MODEL" else w for w in shlex.split(line.format(name))))
    assert (outcome.code, outcome.out) == (3, "")
    assert_one_sentence(outcome.err)
    assert message in outcome.err


@pytest.mark.row("C02")
@pytest.mark.parametrize("line", ["train blank.txt", "eval blank.txt -m MODEL"])
def test_white_space_is_no_text(gptlite: Command, trained_run: Path, line: str) -> None:
    write_bad_texts()
    outcome = gptlite(*(str(trained_run) if w == "MODEL" else w for w in shlex.split(line)))
    assert (outcome.code, outcome.out) == (3, "")
    assert "only white space" in outcome.err


@pytest.mark.row("C22")
@pytest.mark.parametrize(
    "line",
    [
        "train {} --steps 1",
        "train corpus.txt --steps 1 --val {}",
        "train corpus.txt --steps 1 -o {}",
        "eval {} -m MODEL",
        "generate -m {}",
        "generate -m MODEL -f {}",
        "embed 'a [b]' -m MODEL -o {}.npz",
        "info {}",
        "export MODEL -o {}",
    ],
)
def test_names_that_are_too_long_are_errors_like_others(
    gptlite: Command, corpus_file: Path, trained_run: Path, line: str
) -> None:
    """A sentence in place of a file, say."""
    outcome = gptlite(*(str(trained_run) if w == "MODEL" else w for w in shlex.split(line.format("x" * 300))))
    assert outcome.code in (2, 3, 4, 5)
    assert outcome.out == ""
    assert_one_sentence(outcome.err)


@pytest.mark.parametrize("name", ["gone.txt", "folder"])
@pytest.mark.parametrize("line", ["generate -m MODEL -f {}", "embed -m MODEL -f {}", "embed -m MODEL -o - -f {}"])
def test_prompts_and_sentences_that_cannot_be_read_are_code_3(
    gptlite: Command, trained_run: Path, line: str, name: str
) -> None:
    write_bad_texts()
    outcome = gptlite(*(str(trained_run) if w == "MODEL" else w for w in shlex.split(line.format(name))))
    assert (outcome.code, outcome.out) == (3, "")
    assert_one_sentence(outcome.err)
    assert f"from {name}: " in outcome.err


@pytest.mark.parametrize("line", ["generate -m MODEL -f latin.txt", "embed -m MODEL -f latin.txt"])
def test_prompts_and_sentences_must_be_utf8_too(gptlite: Command, trained_run: Path, line: str) -> None:
    write_bad_texts()
    outcome = gptlite(*(str(trained_run) if w == "MODEL" else w for w in shlex.split(line)))
    assert (outcome.code, outcome.out) == (3, "")
    assert_one_sentence(outcome.err)
    assert "not UTF-8" in outcome.err


# -- Errors that are none of the user's, and errors with odd names in them


def test_a_bug_keeps_its_traceback(gptlite: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("gptlite.checkpoint.runs.find_model", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        gptlite("info")


def test_ctrl_c_is_one_sentence_and_code_130(gptlite: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gptlite.checkpoint.runs.find_model", interrupted)
    outcome = gptlite("info")
    assert (outcome.code, outcome.err) == (130, "gptlite: error: interrupted.\n")


@pytest.mark.row("S02", "S03")
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("[red]x[/red]", "[red]x[/red]"),
        ("[/]", "[/]"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("x\u202ey", r"x\u202ey"),
        ("汉字 🙂", "汉字 🙂"),
        (":smile:", ":smile:"),
    ],
)
def test_names_in_errors_are_neither_markup_nor_commands(gptlite: Command, name: str, shown: str) -> None:
    outcome = gptlite("info", name)
    assert outcome.code == 4
    assert shown in outcome.err
    assert_one_sentence(outcome.err)


# -- Names and numbers of options


@pytest.mark.parametrize("alias", options.ALIASES)
def test_aliases_mean_options_that_exist(alias: str) -> None:
    names = {name.removeprefix("--") for c in COMMANDS.values() for p in c.params for name in p.opts}
    assert options.ALIASES[alias] in names
    assert alias not in names, "an alias must not hide an option"


@pytest.mark.parametrize(
    ("command", "arguments", "parameter", "value"),
    [
        ("train", "--max-iters 7", "steps", 7),
        ("train", "--max_iters 7", "steps", 7),
        ("train", "--block_size 64", "context_length", 64),
        ("train", "--context_length=64", "context_length", 64),
        ("train", "--n_layer 3 --n_head 2 --n_embd 8", "n_layers", 3),
        ("train", "--n_layer 3 --n_head 2 --n_embd 8", "n_heads", 2),
        ("train", "--n_layer 3 --n_head 2 --n_embd 8", "dim", 8),
        ("train", "--learning_rate 1e-3", "lr", 0.001),
        ("train", "--batch_size 12", "batch_size", 12),
        ("train", "--out_dir x", "out", "x"),
        ("train", "--output-dir x", "out", "x"),
        ("train", "--vocab_size 10k", "vocab_size", 10_000),
        ("train", "--vocab-size auto", "vocab_size", 0),
        ("train", "--steps 10k", "steps", 10_000),
        ("train", "--steps 1.5K", "steps", 1500),
        ("train", "--steps 2M", "steps", 2_000_000),
        ("train", "--time 90s", "time", 90.0),
        ("train", "--time 90s", "time", 90.0),
        ("train", "--time 3m", "time", 180.0),
        ("train", "--time 1h30m", "time", 5400.0),
        ("train", "--time 1.5H", "time", 5400.0),
        ("train", "--time 1d", "time", 86_400.0),
        ("train", "--precision bf16", "dtype", "bf16"),
        ("train", "--eval_every 1k", "eval_every", 1000),
        ("generate", "--max_new_tokens 9", "max_new_tokens", 9),
        ("generate", "--max-tokens 1k", "max_new_tokens", 1000),
        ("generate", "--length 9", "max_new_tokens", 9),
        ("generate", "--temp 0.5 --top_k 3", "temperature", 0.5),
        ("generate", "--temp 0.5 --top_k 3", "top_k", 3),
        ("generate", "--num_samples 2", "num_samples", 2),
        ("generate", "-n2", "num_samples", 2),
        ("embed", "--output x.npz", "out", "x.npz"),
    ],
)
def test_options_understand_other_names_and_units(command: str, arguments: str, parameter: str, value: object) -> None:
    context = APP.make_context("gptlite", [command, *shlex.split(arguments)])
    _, subcommand, rest = APP.resolve_command(context, [command, *shlex.split(arguments)])
    assert subcommand.make_context(command, rest, parent=context).params[parameter] == value


@pytest.mark.parametrize("text", ["", "k", "1e3", "10kk", "1_000", "0x10", "1.2345", "1" * 40, "--5", "nan"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        options.parse_count(text)


@pytest.mark.parametrize(
    "text", ["", "s", "3x", "3", "1h30", "1:30", "-5", "3m!", "0", "0s", "1e3", "3 m", "inf", "nan", "²s"]
)
def test_what_is_no_time_is_refused(gptlite: Command, corpus_file: Path, text: str) -> None:
    outcome = gptlite("train", corpus_file, f"--time={text}")
    assert outcome.code == 2
    assert outcome.err.startswith("gptlite: error: --time ")
    assert ("--time needs a unit: 3s, 3m or 3h" in outcome.err) is (text == "3")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(r"a\nb", "a\nb"), (r"\t\r\n", "\t\r\n"), (r"a\\nb", r"a\nb"), (r"\\\n", "\\\n"), (r"\x", r"\x"), ("é\\", "é\\")],
)
def test_escapes_are_undone_once(typed: str, meant: str) -> None:
    assert options.unescape(typed) == meant


# -- Quiet, terminals and pipes

SPEAKING = (
    "train corpus.txt --steps 1 --layers 1 --dim 16 --heads 1 --context 16 --vocab-size 300 --batch-size 2 --json",
    "generate -m MODEL --seed 1 --max-new-tokens 20",
    "generate -m MODEL --seed 1 --max-new-tokens 20 -n 2",
    "eval corpus.txt -m MODEL",
    "embed 'the [bank]' 'a [bank]' -m MODEL",
    "export MODEL -o model.gguf --force",
)


@pytest.mark.parametrize("line", SPEAKING)
def test_quiet_silences_standard_error_only(
    gptlite: Command, corpus_file: Path, trained_run: Path, line: str, tmp_path: Path
) -> None:
    words = [str(trained_run) if word == "MODEL" else word for word in shlex.split(line)]
    loud = gptlite(*words, *(["-o", "loud"] if words[0] == "train" else []))
    quiet = gptlite(*words, "-q", *(["-o", "quiet"] if words[0] == "train" else []))
    assert (loud.code, quiet.code) == (0, 0)
    assert quiet.err == ""
    assert (loud.err != "") or words[0] == "embed"
    if words[0] != "train":  # which tells its seconds
        assert quiet.out == loud.out
    else:
        assert quiet.out


def test_quiet_does_not_silence_errors(gptlite: Command) -> None:
    outcome = gptlite("generate", "-q", "-m", "gone")
    assert outcome.code == 4
    assert_one_sentence(outcome.err)


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.mark.row("S01")
@pytest.mark.parametrize("more", [(), ("-n", "2"), ("--no-stream",)], ids=str)
def test_control_characters_are_made_visible_on_terminals_only(
    gptlite: Command, tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size))
    save_step(tmp_path / "wild", model, tokenizer, {"step": 1})
    line = (
        "generate",
        "\x1b[2J",
        "-m",
        "wild",
        "--seed",
        "3",
        "-t",
        "9",
        "--top-p",
        "1",
        "--min-p",
        "0",
        "-q",
        "--max-new-tokens",
        "99",
        *more,
    )
    piped = gptlite(*line).out
    assert len(CONTROL.findall(piped)) > 5
    screen = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", screen)
        assert command_line.run([*line]) == 0
    assert not CONTROL.search(screen.getvalue())
    assert screen.getvalue().startswith(r"\x1b[2J")
    visible = CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), piped)
    assert re.sub(r"\\u20..", "", screen.getvalue()) == re.sub("[\u2028-\u202e\u2066-\u2069]", "", visible)


@pytest.mark.row("G17", "E13")
def test_a_reader_that_leaves_early_ends_it_without_a_word(trained_run: Path) -> None:
    """Side by side, because each takes seconds to start."""
    lines = {"generate -q -m {} --max-new-tokens 9000 --stop never | head -c 20": 20, "info --json {} | true": 0}
    shells = []
    for line in lines:
        command = f"{shlex.join(GPTLITE)} {line.format(shlex.quote(str(trained_run)))}"
        shell = ["bash", "-o", "pipefail", "-c", command]
        shells.append(subprocess.Popen(shell, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    done = [(*shell.communicate(timeout=120), shell.returncode) for shell in shells]
    assert [err for _, err, _ in done] == [b"", b""]
    assert [len(out) for out, _, _ in done] == list(lines.values())
    assert [code for *_, code in done] == [128 + signal.SIGPIPE] * 2, "as other programs end"


@pytest.mark.row("G24")
def test_text_comes_out_as_utf8_whatever_the_locale_says(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out, encoding="ascii"))
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(err, encoding="ascii"))
    with pytest.raises(SystemExit) as caught:
        command_line.main(["generate", "河岸 🙂", "-m", str(trained_run), "--max-new-tokens", "0"])
    assert caught.value.code == 0
    sys.stderr.flush()
    assert (out.getvalue().decode(), "·" in err.getvalue().decode()) == ("河岸 🙂\n", True)


def test_texts_are_made_of_the_small_grammar() -> None:
    """The suite's own text: if it changed, the thresholds of other tests would mean something else."""
    assert len(make_text().encode()) == pytest.approx(15_000, rel=0.2)

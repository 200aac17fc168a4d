"""Output fits the terminal: no line is broken inside a word, no cell is cut without an ellipsis, the bar stays.

Each command runs on terminals of 60, 80 and 120 columns, and on one so wide that nothing has to be broken: every word
of the narrow ones is a word of the wide one. Chinese, whose words have no spaces between them, is broken anywhere.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TRAIN_TINY, make_text
from support.screens import Terminal

from gptlite.cli import main as command_line
from gptlite.cli.generate import interactive
from gptlite.cli.shared import console, progress

WIDTHS = (60, 80, 120)
WIDE = 2000  # columns
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
PLACES = ("河流", "银行", "花园", "信件", "歌曲", "窗户", "港口", "时钟")
NO_WORDS = re.compile(f"[{console._WIDE}▐▌_…]")


def chinese_text(n_lines: int = 300) -> str:
    rng = random.Random(3)
    return "".join(f"小明找到了{rng.choice(PLACES)}和{rng.choice(PLACES)}，然后回家。\n" for _ in range(n_lines))


@pytest.fixture(scope="module")
def chinese_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("zh")
    (folder / "文本.txt").write_text(chinese_text(), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTLITE_CACHE", str(folder / "cache"))
        line = ["train", str(folder / "文本.txt"), "-o", str(folder / "run"), "-q", *TRAIN_TINY, "--steps", "12"]
        assert command_line.run(line) == 0
    yield folder / "run"


def lines_of(arrived: str) -> list[str]:
    return [line.rstrip() for line in ESCAPES.sub("", arrived).split("\n")]


def words_of(lines: list[str]) -> set[str]:
    return {word for line in lines for word in line.replace("/", "/ ").split() if not NO_WORDS.search(word)}


def assert_fits(narrow: str, wide: str, columns: int) -> None:
    lines = lines_of(narrow)
    for line in lines:
        assert console.columns_of(line) <= columns or len(line.split()) == 1, line
    assert words_of(lines) <= words_of(lines_of(wide)), words_of(lines) - words_of(lines_of(wide))


ENGLISH = ("Ada finds the [bank] and the letter .", "Ada opens the river and the [bank] .")
CHINESE = ("小明找到了[银行]和河流，然后回家。", "小红找到了港口和[银行]，然后回家。")
COMMANDS = {
    "info": "info RUN",
    "check": "check RUN",
    "eval": "eval text.txt -m RUN",
    "eval copies": "eval text.txt -m RUN --check-copies",
    "generate": "generate -m RUN --logprobs 5 --max-new-tokens 12 --seed 1 --no-stream",
    "copies": "generate -m RUN --check-copies -n 2 --max-new-tokens 40 --seed 1 -o out.txt --force",
    "choice": "generate -m RUN -p x --choice one --choice two -q",
    "plan": "train text.txt --dry-run -q --steps 50 --layers 1 --dim 32 --heads 1 --context 16 --size tiny",
    "embed": "embed -m RUN TEXTS",
    "inspect": "inspect -m RUN TEXT",
    "lens": "inspect -m RUN TEXT --lens",
    "usage": "generate -m RUN --stop-at nowhere --num-samples 3",
    "missing": "eval text.txt -m missing-run",
    "unknown": "generate --temprature 3",
}  # fmt: skip


@pytest.mark.parametrize("widths", [(60, 120), pytest.param((80,), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("language", ["english", "chinese"])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_line_fits(
    terminal: Terminal, trained_run: Path, chinese_run: Path, language: str, name: str, widths: tuple[int, ...]
) -> None:
    english = language == "english"
    run, texts = (trained_run, ENGLISH) if english else (chinese_run, CHINESE)
    Path("text.txt").write_text(make_text(60) if english else chinese_text(60), encoding="utf-8")
    line: list[object] = []
    for word in COMMANDS[name].split():
        line += {"RUN": [run], "TEXTS": texts, "TEXT": [texts[0].replace("[", "").replace("]", "")]}.get(word, [word])
    _, wide = terminal(*line, columns=WIDE)
    for columns in widths:
        _, narrow = terminal(*line, columns=columns)
        if name == "plan":
            assert all(console.columns_of(x) <= columns for x in lines_of(narrow))
            assert not re.search(r"\b1 (heads|layers|threads)\b", narrow)
        else:
            assert_fits(narrow, f"{wide} prints of layers; --json all.", columns)


@pytest.mark.parametrize("columns", [60, pytest.param(80, marks=pytest.mark.slow), 120])
def test_a_training_keeps_its_bar(terminal: Terminal, columns: int) -> None:
    Path("文本.txt").write_text(chinese_text(), encoding="utf-8")
    small = ("--layers", "1", "--dim", "16", "--heads", "1", "--context", "16", "--threads", "1")
    line = ("train", "文本.txt", "--steps", "8", "--vocab-size", "9000", *small, "-o", "run")
    code, arrived = terminal(*line, columns=columns)
    assert code == 0
    lines = lines_of(arrived.replace("\r", "\n"))
    assert all(console.columns_of(line) <= columns for line in lines)
    bars = [line for line in lines if line.startswith("training ") and "%" in line]
    assert bars and all(re.search("[━─]{10,40}", line) and line.endswith(" left") for line in bars)
    assert "1 layer," in arrived and "1 head)" in arrived and "1 thread" in arrived
    assert not re.search(r"\b1 (heads|layers|threads)\b|\d:\d\d min with|\d{4,} tokens/s", arrived)


@pytest.mark.parametrize("columns", [20, 40, *WIDTHS, 300])
def test_the_bar_gives_up_facts_first(columns: int) -> None:
    display = progress.TrainingDisplay(quiet=True)
    done = {"step": 12_345, "train_loss": 1.2345, "val_bits_per_byte": 1.5, "tokens_per_second": 7024.4}
    display.stepped(SimpleNamespace(**done, val_exact_match=None, fraction=0.5, remaining=75))
    line = "".join(text for text, _ in display.line(columns))
    assert console.columns_of(line) <= columns
    assert re.search("[━─]{3}", line) and " 50%" in line
    if columns >= 60:
        assert re.search("━{5,}─{5,}", line) and "1.500 bits/byte" in line and line.endswith("1:15 min left")
    if columns >= 120:
        assert "step 12,345 · loss 1.234 · 1.500 bits/byte · 7,024 tokens/s" in line


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_help_of_writing_by_turns(terminal: Terminal, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "run", lambda _: console.Messages().show(interactive.HELP) or 0)
    _, wide = terminal("help", columns=WIDE)
    _, narrow = terminal("help", columns=columns)
    assert_fits(narrow, f"{wide} prints of layers; --json all.", columns)


def parts(text: str, columns: int, hanging: int = 0) -> list[str]:
    return [" " * indent + text[start:end] for start, end, indent in console.wrap(text, columns, hanging)]


def test_lines_are_broken_between_words_and_wide_characters() -> None:
    assert parts("one two three", 8) == ["one two", "three"]
    assert parts("one two three", 8, 2) == ["one two", "  three"]
    assert parts("a/very/long/path and more", 8, 2) == ["a/very/long/path", "  and", "  more"]
    assert parts("找到了银行。", 10) == ["找到了银", "行。"], "no line begins with a full stop"
    assert parts("found in 12.5 % of all", 13) == ["found in", "12.5 % of all"]
    assert parts("", 10) == [""]
    assert parts("  indented text", 12, console.hanging("  indented text", 12)) == ["  indented", "  text"]


def test_a_list_hangs_under_its_text() -> None:
    assert console.hanging("  /seed N  of the next turn", 60) == 11
    assert console.hanging("note   a word", 60) == 7
    assert console.hanging("a sentence without a gap", 60) == 0

"""The README's commands and Python run in the order of the page."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, make_text
from support.comparisons import in_this_process

import gptlite as library
from gptlite.cli import main

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND, PYTHON = r"^    gptlite (?P<command>.+(?:(?<=\\)\n.+)*)", r"^```python\n(?P<python>(?:.*\n)*?)^```"
STEP = re.compile(f"{COMMAND}|{PYTHON}", re.MULTILINE)
BUDGET = "1s"  # in place of the page's minutes

# What is typed where a command asks.
TYPED = {"generate -i": b"the river\n/quit\n"}
# Optional libraries, by what needs them.
OPTIONAL = {".html": "vl_convert", "report ": "vl_convert", "--versus word2vec": "gensim", "--to gguf": "gguf"}

SENTENCES = (
    "ROMEO: What is thy will ?",
    "He hath left his will and testament to the king and the queen .",
    "He that I will not see is a man , and she is a woman .",
    "Thou shalt not go, my lord, I will .",
    "She sat on the river bank .",
    "He paid money into the bank .",
    "the river flows into the sea , and Once there was a war .",
    "The animal did not cross the street because it was tired .",
    "The king is dead .",
    "The horse raced past the barn fell.",
    "breakfast comes before lunch , and lunch before dinner .",
)


def steps() -> list[tuple[str, str]]:
    """The commands (one line each, without comments) and the pieces of Python of the page, in its order."""
    found: list[tuple[str, str]] = []
    for match in re.finditer(STEP, README):
        if match["python"]:
            found.append(("python", match["python"]))
        else:
            found.append(("command", shlex.join(shlex.split(match["command"].replace("\\\n", " "), comments=True))))
    return found


def write_texts() -> None:
    """The files of which the README speaks, with its own sentences among those of a small grammar."""
    known = "\n".join(SENTENCES) + "\n"
    corpus = "".join(known + make_text(20, seed=seed) for seed in range(16))
    Path("corpus.txt").write_text(corpus, encoding="utf-8")
    Path("letters.txt").write_text(
        "".join(known + make_text(20, seed=seed) for seed in range(50, 70)), encoding="utf-8"
    )
    Path("chapter.txt").write_text(make_text(8, seed=90) + known, encoding="utf-8")
    Path("sentences.tsv").write_text("item\ttext\n1\tShe sat on the river bank .\n", encoding="utf-8")
    Path("sentences.txt").write_text("She sat on the river bank .\nHe paid money into the bank .\n", encoding="utf-8")
    Path("wordsim353.tsv").write_text("bank\triver\t7\nlunch\tdinner\t9\nking\tsea\t2\n", encoding="utf-8")


def test_every_command_is_shown() -> None:
    shown = {text.split()[0] for kind, text in steps() if kind == "command"}
    assert shown == {
        "train", "generate", "embed", "words", "concordance", "inspect", "score", "eval", "compare", "report",
        "info", "runs", "check", "export", "serve",
    }  # fmt: skip


def examples() -> list[str]:
    """The command in the help of each command."""
    found: list[str] = []
    for name in main.COMMANDS:
        command: Any = main.find_command(name)
        for one in (command, *getattr(command, "commands", {}).values()):
            text = one.help.replace("\\[", "[")
            found += re.findall(r"\[bold\]gptlite (.+?)\[/bold\]", text)
    return [shlex.join(shlex.split(example)) for example in found]


def run(gptlite: Command, text: str) -> None:
    """A command that must succeed, unless an optional library is missing. `serve` runs until it is stopped."""
    if text.startswith("serve"):
        return
    if any(part in text and importlib.util.find_spec(needs) is None for part, needs in OPTIONAL.items()):
        return
    arguments = shlex.split(re.sub(r"--time \S+", f"--time {BUDGET}", text))
    if text.startswith("compare"):  # seven contenders would take minutes
        arguments += ["--time", "1s", "--with", "unigram,lstm"]
    outcome = gptlite(*arguments, stdin=TYPED.get(text, b""))
    assert outcome.code == 0, f"gptlite {text}\n{outcome.err}"
    if "-o" in arguments:
        assert Path(arguments[arguments.index("-o") + 1]).exists(), text
    else:
        assert outcome.out or outcome.err, text


@pytest.mark.hf
@pytest.mark.parametrize("with_help", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_commands_run_as_they_stand(gptlite: Command, monkeypatch: pytest.MonkeyPatch, with_help: bool) -> None:
    """In one folder, in the order of the page, against the model of the page's own first command.

    Training is shorter: `--time 3m` is 1 s here, in Python too; and `compare` has two contenders.
    `OPTIONAL` lists the libraries without which a command is not run, `TYPED` what is typed where a command asks. With
    `with_help`, the examples of the help pages run then, in a folder with the same texts and the same runs.
    """
    in_this_process(monkeypatch)
    write_texts()
    for kind, text in steps():
        if kind == "command":
            run(gptlite, text)
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(re.sub(r'time="\w+"', f'time="{BUDGET}"', text), {"__name__": "readme"})
        assert "print(" not in text or printed.getvalue(), text

    if not with_help:
        return
    Path("help").mkdir()
    Path("help/checkpoints").symlink_to(Path("checkpoints").absolute())
    monkeypatch.chdir("help")
    write_texts()
    of_the_page = [text for kind, text in steps() if kind == "command"]
    for text in examples():
        if text not in of_the_page or "-o" in text:  # a file is written anew, everything else has just run
            run(gptlite, text)


def test_the_page_is_short() -> None:
    assert len(README.splitlines()) <= 120


def test_a_run_is_loaded_by_its_name(trained_run: Path) -> None:
    """As the page and the package's docstring show it."""
    assert library.load(str(trained_run)).path == library.load(trained_run / "best").path.resolve()
    for name in library.__all__:
        assert getattr(library, name)

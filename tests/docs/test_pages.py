"""Every `gptlite` command and every piece of Python on the pages of docs/ runs as it stands, in the order of the page.

Only trainings are shorter: `--time 10m` is a few steps of a tiny model. `NEEDS` lists what a command or a piece of
Python cannot run without; where it is missing, it is left out. The server and several processes have slow tests of
their own. docs/lab/ is a dated record, and docs/reference/ has the
syntax of commands; neither is run. tests/docs/test_chinese_pages.py compares docs/zh/ with the English pages.
"""

from __future__ import annotations

import importlib.util
import json
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Command, make_text
from support.foreign import save, shake, their_llama

from gptlite.cli.main import COMMANDS, find_command
from gptlite.text import demo, demo_pairs
from gptlite.text.tokenizer import Tokenizer

DOCS = Path(__file__).parent.parent.parent / "docs"
COMMAND = r"^    gptlite (?P<command>.+(?:(?<=\\)\n.+)*)"
PYTHON = r"^```python\n(?P<python>(?:.*\n)*?)^```"
STEP = re.compile(f"{COMMAND}|{PYTHON}", re.MULTILINE)
FILE = re.compile(r"`([\w.-]+\.(?:csv|tsv|txt|jsonl|py))`:\n(?:\nin pandas:\n)?\n```\w+\n(.*?)```", re.DOTALL)
KNOWN = (  # sentences and words of the pages, which stand among those of a small grammar
    "The animal did not cross the street because it was tired .",
    "breakfast comes before lunch , and lunch before dinner .",
    "The king is a man , and the queen is a woman ; She sat on the river bank .",
    "He paid money into the bank . The horse raced past the barn fell . Once there was a king .",
)
SHAPE = "--layers 2 --dim 32 --heads 2 --context 64"
NEEDS = {
    "serve ": "an end", "--gpus auto": "a GPU", "--processes": "a second process", "--verify": "llama_cpp",
    ".gguf": "gguf", "export": "gguf", ".html": "vl_convert", "report ": "vl_convert", "--plot": "vl_convert",
    "--versus word2vec": "gensim", "tensorboard": "tensorboard", ".parquet": "pyarrow",
}  # fmt: skip
TYPED = {"generate -i": b"the river\n/quit\n"}


def steps(page: Path) -> list[tuple[str, str]]:
    """The commands (one line each, without comments) and the pieces of Python of a page, in its order."""
    found: list[tuple[str, str]] = []
    for match in re.finditer(STEP, page.read_text(encoding="utf-8")):
        if match["python"]:
            found.append(("python", match["python"]))
        else:
            found.append(("command", shlex.join(shlex.split(match["command"].replace("\\\n", " "), comments=True))))
    return found


UNTESTED = {"lab", "reference", "zh"}  # the commands of zh/ are those of the English pages, which a test compares
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if not UNTESTED & set(page.parts) and steps(page)]


def shortened(command: str) -> str:
    """The command with a few steps in place of its time, and a tiny model where it chooses the shape itself."""
    if command.startswith("compare ") and "--resume" not in command:  # seven contenders would take minutes
        command = re.sub(r"--with \S+ ?", "", command)
        names = "gptlite" if "faq.csv" in command else "unigram,5-gram"
        return command.replace("--time 2m", f"--time 1s --with {names}")
    if not command.startswith("train "):
        return command
    command = re.sub(r"--(time|steps|epochs|size|layers|dim|heads|context|patience) \S+ ?", "", command)
    rarely = "" if "--save-every" in command else "--save-every 1k"  # each save takes longer than the steps do
    command = re.sub(r"--vocab-size \S+", "--vocab-size 400", command)
    if "--resume" in command:
        return command
    if "--init-from" in command:
        return f"{command} --steps 2 {rarely}"
    vocabulary = "" if "--vocab-size" in command or "--tokenizer" in command else "--vocab-size 330"
    return f"{command} --steps 4 {rarely} {SHAPE} {vocabulary}"


# -- What the pages speak of


def texts() -> None:
    """Files that many pages name."""
    Path("folder").mkdir()
    known = "\n".join(KNOWN) + "\n"
    for number, name in enumerate(("corpus", "letters", "chapter", "folder/one", "folder/two")):
        pieces = [known + make_text(50, seed=10 * number + i) for i in range(1 if name == "chapter" else 20)]
        Path(f"{name}.txt").write_text("".join(pieces), encoding="utf-8")
    Path("sentences.txt").write_text("She sat on the river bank .\nHe paid money into the bank .\n", encoding="utf-8")
    Path("wordsim353.tsv").write_text("bank\triver\t7\nlunch\tdinner\t9\nking\tqueen\t8\n", encoding="utf-8")


def for_pairs(_run: Path, _tokenizer: Tokenizer) -> None:
    lines = make_text(400).splitlines()
    pairs = [(a[:20], b[:20]) for a, b in zip(lines[:200], lines[200:], strict=True)]
    Path("faq.csv").write_text("question,answer\n" + "".join(f"{a},{b}\n" for a, b in pairs), encoding="utf-8")
    Path("letters.csv").write_text("author,text\n" + "".join(f"Bela,{line}\n" for line in lines), encoding="utf-8")
    chats = ([{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in pairs)
    records = "".join(json.dumps({"messages": messages}) + "\n" for messages in chats)
    Path("chat.jsonl").write_text(records, encoding="utf-8")
    names = "".join(f"{prompt},{answer}\n" for prompt, answer in pairs[:120])
    Path("countries.csv").write_text(f"source,target\n{names}", encoding="utf-8")


def for_background(_run: Path, _tokenizer: Tokenizer) -> None:
    Path("diary.txt").write_text(make_text(seed=4), encoding="utf-8")
    Path("novels").mkdir()
    Path("novels/one.txt").write_text(make_text(seed=5), encoding="utf-8")


def for_training(_run: Path, _tokenizer: Tokenizer) -> None:
    Path("stories.txt").write_text("<|endoftext|>".join(make_text(40, seed) for seed in range(9)), encoding="utf-8")
    for_background(_run, _tokenizer)
    rows = "".join(f"{number},{line}\n" for number, line in enumerate(make_text().splitlines()))
    Path("table.csv").write_text(f"id,text\n{rows}", encoding="utf-8")


def for_generating(run: Path, _tokenizer: Tokenizer) -> None:
    shutil.copytree(run, "checkpoints/corpus", symlinks=True)
    Path("prompt.txt").write_text("Ada finds", encoding="utf-8")
    Path("prompts.csv").write_text("id,prompt\n1,Ada finds\n2,Bela opens\n", encoding="utf-8")


def for_looking_inside(run: Path, _tokenizer: Tokenizer) -> None:
    shutil.copytree(run, "checkpoints/other", symlinks=True)


def for_other_programs(_run: Path, tokenizer: Tokenizer) -> None:
    save(shake(their_llama(num_key_value_heads=2)), tokenizer, Path("their-model"))


def for_chinese(_run: Path, _tokenizer: Tokenizer) -> None:
    """Sentences of a small grammar in Chinese, in GB 18030."""
    rng = random.Random(0)
    who, what, where = (
        ("我", "他", "她", "老王"),
        ("看见", "找到", "打开"),
        ("河边的门", "银行的门", "河里的月亮", "银行"),
    )
    lines = (f"{rng.choice(who)}在{rng.choice(where)}{rng.choice(what)}{rng.choice(where)}。\n" for _ in range(1500))
    Path("novel.txt").write_text("".join(lines), encoding="gb18030")


def for_code(_run: Path, _tokenizer: Tokenizer) -> None:
    for folder in ("project", "project/inner", "project/inner/most"):
        Path(folder).mkdir()
        for number in range(12):
            names = [f"f{number}_{i} = find(bank, {i * number})" for i in range(40)]
            source = "def find(a, b):\n    return a\n\n" + "\n".join(names) + "\n"
            Path(folder, f"{len(folder)}_{number}.py").write_text(source, encoding="utf-8")


PREPARE: dict[str, Callable[[Path, Tokenizer], None]] = {
    "pairs": for_pairs, "compare": for_pairs, "train": for_training, "generate": for_generating,
    "other-programs": for_other_programs, "chinese": for_chinese, "code": for_code, "background": for_background,
    "look-inside": for_looking_inside,
}  # fmt: skip
FOREIGN_PROGRAMS = {"other-programs", "pairs", "tutorial"}  # pages that use transformers
LONG = {
    "train",
    "compare",
    "pairs",
    "look-inside",
    "words",
    "generate",
    "classroom",
}  # many commands: three seconds and more


def can_run(text: str) -> bool:
    """Is everything here that this command or this Python needs?"""
    needed = {module for part, module in NEEDS.items() if part in text}
    needed |= set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    return all(" " not in module and importlib.util.find_spec(module) is not None for module in needed)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=page.stem,
            marks=[pytest.mark.hf] * (page.stem in FOREIGN_PROGRAMS) + [pytest.mark.slow] * (page.stem in LONG),
        )
        for page in PAGES
    ],
)
def test_a_page_runs(
    gptlite: Command, page: Path, trained_run: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for size, n in (("N_NUMBERS", 2000), ("N_DATES", 200), ("N_HELD_OUT", 20), ("N_LONGER", 10)):
        monkeypatch.setattr(demo_pairs, size, n)  # an untrained model hardly ever ends an answer
    reference = demo._python_reference()[:100_000]
    monkeypatch.setattr(demo, "_python_reference", lambda: reference)
    texts()
    PREPARE.get(page.stem, lambda *_: None)(trained_run, tokenizer)
    for name, content in FILE.findall(page.read_text(encoding="utf-8")):
        Path(name).write_text(content, encoding="utf-8")
    for kind, text in steps(page):
        if not can_run(text):
            continue
        if kind == "python":
            exec(re.sub(r'time="\w+"', 'steps=4, save_every=4, size="tiny"', text), {"__name__": "page"})
            assert "print(" not in text or capsys.readouterr().out, text
            continue
        arguments = shlex.split(shortened(text))
        outcome = gptlite(*arguments, stdin=TYPED.get(text, b""))
        assert outcome.code == 0, f"gptlite {text}\n{outcome.err}"
        if "-o" in arguments and arguments[0] != "train":
            assert Path(arguments[arguments.index("-o") + 1]).stat().st_size
        else:
            assert outcome.out or outcome.err, text


def started(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_training_by_several_processes_runs_as_on_its_page() -> None:
    """With two processes in place of the eight of torchrun; commands for several machines are not run."""
    texts()
    page = (DOCS / "howto" / "many-gpus.md").read_text(encoding="utf-8")
    own = re.findall(r"^    gptlite (train .*--processes 2)", page, re.MULTILINE)
    torchrun = re.findall(r"^    torchrun (--nproc-per-node \d) (-m gptlite) (train corpus.txt) ", page, re.MULTILINE)
    assert len(own) == len(torchrun) == 1
    _, module, command = torchrun[0]
    for line in (
        f"-m gptlite {shortened(own[0])}",
        f"-m torch.distributed.run --nproc-per-node 2 {module} {shortened(command)}",
    ):
        process = started(*shlex.split(line), "-o", f"run{len(line)}")
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0 and "2 processes" in said, said


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="uvicorn is not installed")
def test_the_server_starts_as_on_its_page(trained_run: Path, tokenizer: Tokenizer) -> None:
    for_generating(trained_run, tokenizer)
    (command,) = [text for kind, text in steps(DOCS / "howto" / "serve.md") if kind == "command" and "serve " in text]
    process = started("-m", "gptlite", *shlex.split(command), "--port", "0")
    try:
        assert process.stdout is not None
        address = next(found[0] for line in process.stdout if (found := re.search(r"http://127.0.0.1:\d+", line)))
        with urllib.request.urlopen(f"{address}/health", timeout=60) as answer:
            assert json.load(answer)["status"] == "ok"
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert process.returncode in (0, 130), said
    finally:
        process.kill()


def test_the_pages_show_every_road_to_other_programs() -> None:
    commands = [text for kind, text in steps(DOCS / "howto" / "other-programs.md") if kind == "command"]
    assert {line.split()[0] for line in commands} >= {"train", "export", "info", "generate", "eval", "embed"}
    assert all(flag in " ".join(commands) for flag in ("--init-from", "--tokenizer", "--verify"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_all_commands_of_a_page_parse(page: Path) -> None:
    """Those of long pages too, which run in the slow tests only."""
    for kind, text in steps(page):
        name, *arguments = shlex.split(text)
        if kind == "python" or name not in COMMANDS:
            continue
        command = find_command(name)
        inner = getattr(command, "commands", {})
        if inner:
            command, arguments = inner[arguments[0]], arguments[1:]
        command.make_context(name, arguments)

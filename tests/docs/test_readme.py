"""What the README and the other pages show exists: commands, options, files, names in Python."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from conftest import Command, make_text

import gptlite as library

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    gptlite (\w+)((?:.*\\\n)*.*)", README, re.MULTILINE)


def test_every_verb_is_shown() -> None:
    assert {name for name, _ in COMMANDS} >= {"train", "generate", "embed", "words", "eval", "info", "export"}


@pytest.mark.parametrize(("name", "rest"), COMMANDS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(COMMANDS)])
def test_options_that_are_shown_exist(gptlite: Command, name: str, rest: str) -> None:
    shown = re.findall(r"(?<=\s)--?[a-z][a-z-]*", re.sub(r"\"[^\"]*\"|#.*", "", rest))
    described = gptlite(*_command(name, rest), "--help").out
    assert all(re.search(rf"{option}\b", described) for option in shown)


def _command(name: str, rest: str) -> list[str]:
    """A command, and its command where it is a group."""
    return [name, rest.split()[0]] if name == "words" else [name]


VECTORS = [(name, rest) for name, rest in COMMANDS if name in ("embed", "words", "concordance", "inspect")]


@pytest.mark.parametrize(("name", "rest"), VECTORS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(VECTORS)])
def test_commands_about_words_run_as_they_stand(
    gptlite: Command, trained_run: Path, name: str, rest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTLITE_MODEL", str(trained_run))
    for option, library_ in (("html", "vl_convert"), ("word2vec", "gensim")):
        if option in rest:
            pytest.importorskip(library_)
    Path("sentences.txt").write_text("Ada finds the bank .\nBela paints the river and the bank .\n")
    Path("corpus.txt").write_text(make_text(80, seed=2))
    Path("chapter.txt").write_text(make_text(5))
    Path("wordsim353.tsv").write_text("bank\triver\t7\nsong\tletter\t5\n")
    outcome = gptlite(name, *shlex.split(rest.replace("\\\n", " "), comments=True))
    assert outcome.code == 0, outcome.err


def test_options_that_are_named_exist(gptlite: Command) -> None:
    described = "".join(
        gptlite(name, "--help").out
        for name in ("train", "generate", "embed", "export", "eval", "check", "inspect", "concordance")
    )
    aliases = {"--max_iters", "--block-size", "--max-tokens"}
    for option in set(re.findall(r"`(--[a-z_-]+)", README)) - aliases:
        assert re.search(rf"{option}\b", described), option


def test_places_that_are_named_exist() -> None:
    for line in re.findall(r"^    (\S+?/?) {2,}\S", README[README.index("## Where things are") :], re.MULTILINE):
        assert (ROOT / line.split()[0]).exists(), line


def test_a_run_is_loaded_by_its_name(trained_run: Path) -> None:
    """As the page and the package's docstring show it."""
    assert library.load(str(trained_run)).path == library.load(trained_run / "best").path.resolve()
    for name in library.__all__:
        assert getattr(library, name)

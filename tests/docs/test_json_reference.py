"""docs/reference/json.md names every key that commands print as JSON, with its type, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import TRAIN_FEW, TRAIN_TINY, Command, make_text
from support.proofs import shorten_proof
from support.runs import copied_run

from gptlite.cli.shared import schemas
from gptlite.text import demo_pairs

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "json.md"
TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "null": (type(None),),
    "any": (str, int, float, bool, type(None), list, dict), "object": (dict,),
}  # fmt: skip
UNITS = ("bits", "nats", "seconds", "bytes")
LINK = re.compile(r"\[([^\]]+)\]\(#[^)]*\)")
TEXT = "Ada finds the river and the bank .\n\nBela opens the bank and the song .\n\n" * 15

# What is run for each schema. Together the calls make every key of the schema, except those in NOT_MADE.
TOLD = ("--prompt", "Ada", "--max-tokens", "8")
WORD = ("-w", "river", "the river and the bank", "a river too")
HEADS = ("--attention", "1.1", "--explain", "2.1", "--lens")
DEMO = ("train", "--demo", "pairs", "-o", "demo", "-q", *TRAIN_FEW, "--context", "64")
CALLS: dict[str, list[tuple[str, ...]]] = {
    "train": [("train", "CORPUS", "-o", "new", "-q", *TRAIN_FEW), DEMO],
    "train-plan": [
        ("train", "CORPUS", "--dry-run", *TRAIN_TINY, "--steps", "9k", "--background", "novel.txt"),
        ("train", "letters.txt", "--dry-run", "--init-from", "RUN", "--replay", "30%", "--steps", "2"),
    ],
    "generate": [
        ("generate", "-m", "RUN", *TOLD, "--logprobs", "2", "-n", "2", "--check-copies"),
        ("generate", "-m", "RUN", "--prompts", "prompts.jsonl", "--max-tokens", "2"),
        ("generate", "-m", "RUN", "--max-tokens", "300", "--temperature", "9", "--logprobs", "40"),
    ],
    "sample": [
        ("generate", "-m", "RUN", "--prompts", "prompts.jsonl", "-n", "2", "-o", "samples.jsonl"),
        ("generate", "-m", "RUN", *TOLD, "--logprobs", "1", "-o", "more.jsonl"),
    ],
    "choice": [("generate", "-m", "RUN", "--prompts", "prompts.jsonl", "--choice", " the", "--choice", " river")],
    "eval": [("eval", "-m", "RUN", "text.txt", "--check-copies"), ("eval", "--held-out", "demo", "--show", "2")],
    "eval-matrix": [("eval", "-m", "RUN", "-m", "RUN", "text.txt")],
    "eval-attribution": [("eval", "-m", "RUN", "-m", "RUN", "text.txt", "--attribute")],
    "inspect": [("inspect", "-m", "RUN", "the river and the bank", *HEADS)],
    "embed": [
        ("embed", "-m", "RUN", *WORD),
        ("embed", "-m", "RUN", *WORD, "no such word", "--skip-missing"),
        ("embed", "-m", "RUN", *WORD, "--context", "both"),
    ],
    "embed-by-layer": [("embed", "-m", "RUN", *WORD, "--by-layer", "--untrained")],
    "compare": [
        ("compare", "--resume", "--dir", "COMPARISON"),
        ("compare", "--resume", "--dir", "PAIRS"),
        ("compare", "--resume", "--dir", "BRANCH"),
    ],
    "concordance": [("concordance", "bank", "text.txt"), ("concordance", "bank", "-m", "RUN", "--senses", "2")],
    "words-nearest": [("words", "nearest", "-m", "RUN", "river", "bank", "nowhere")],
    "words-analogy": [("words", "analogy", "-m", "RUN", "river", "bank", "song")],
    "words-odd": [("words", "odd", "-m", "RUN", "river", "bank", "song")],
    "words-steps": [("words", "steps", "-m", "RUN", "river", "bank"), ("words", "steps", "-m", "RUN")],
    "words-evaluate": [("words", "evaluate", "-m", "RUN", "pairs.tsv", "analogies.txt", "--vectors", "own.vec")],
    "info": [("info", "-m", "RUN"), ("info", "-m", "mixed")],
    "check": [("check", "RUN", "--resume-proof")],
    "export": [("export", "-m", "RUN", "-o", "model.gguf"), ("export", "-m", "RUN", "--to", "html")],
    "report": [("report", "RUN", "-o", "report.html", "-n", "0")],
    "report-runs": [("report", "RUN", "OTHER", "THIRD", "-o", "runs.html")],
    "runs": [("runs", "FOLDER")],
}
NOT_MADE = re.compile(
    r"llama_cpp\.|tokenizer_from|resumed_at|changes|own_text_|^likeness$"
)  # needs llama.cpp, or another run


@dataclass
class Key:
    """One documented key; the empty one stands for a whole object."""

    kind: str = "object"
    optional: bool = False
    keys: dict[str, Key] = field(default_factory=dict)


def read_page() -> tuple[dict[str, Key], list[tuple[str, str]]]:
    """The objects by the title of their section, and each key with its unit."""
    objects: dict[str, Key] = {}
    units: list[tuple[str, str]] = []
    here = Key()
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("##"):
            here = objects[line.lstrip("# ")] = Key()
        elif line.startswith("| `"):
            names, kind, unit, _ = (cell.strip() for cell in line.strip("|").split("|"))
            for name in re.findall(r"`([^`]+)`", names):
                at = here
                for part in name.replace("[]", "").replace(".*", "").split("."):
                    at = at.keys.setdefault(part, Key())
                at.kind, at.optional = kind.removesuffix(", optional"), kind.endswith(", optional")
                units.append((name, unit))
    return {title: found for title, found in objects.items() if found.keys}, units


OBJECTS, DOCUMENTED_UNITS = read_page()


def alternatives(kind: str) -> list[str]:
    """ "list of (number or null) or null" as ["list of (number or null)", "null"]."""
    return [part.strip() for part in re.split(r" or (?![^(]*\)(?!.*\())", kind)]


def check(value: Any, kind: str, key: Key, where: str) -> Iterator[str]:
    """Yields the place of every key in `value`, which has to be of this kind."""
    for one in alternatives(kind):
        inner = re.sub(r"^\((.*)\)$", r"\1", one.partition(" of ")[2])
        if one.startswith("list of ") and isinstance(value, list):
            for item in value:
                yield from check(item, inner, key, f"{where}[]")
            return
        if one.startswith("map of ") and isinstance(value, dict):
            for item in value.values():
                yield from check(item, inner, key, f"{where}.*")
            return
        if (part := LINK.fullmatch(one)) and isinstance(value, dict):
            documented = OBJECTS[part[1]]
            yield from check_keys(value, {**documented.keys, **key.keys}, where)
            return
        if type(value) in TYPES.get(one, ()):
            if one == "object":
                yield from check_keys(value, key.keys, where)
            return
    pytest.fail(f"{where} is {value!r}, not {kind}")


def check_keys(value: dict[str, Any], documented: dict[str, Key], where: str) -> Iterator[str]:
    needed = {name for name, key in documented.items() if not key.optional}
    assert set(value) <= set(documented), f"{where or 'the object'} has keys that are not documented"
    assert needed <= set(value), f"{where or 'the object'} lacks keys that are documented"
    for name, item in value.items():
        place = f"{where}.{name}" if where else name
        yield place
        yield from check(item, documented[name].kind, documented[name], place)


def places(key: Key, where: str = "") -> Iterator[str]:
    """All documented keys below `key`, without those of the parts that it links to."""
    for name, inner in key.keys.items():
        yield f"{where}{name}"
        yield from places(inner, f"{where}{name}.")


def test_every_schema_is_documented_and_tried() -> None:
    titles = {f"gptlite.{name}/{version}" for name, version in schemas.VERSIONS.items()}
    assert {title for title in OBJECTS if title.startswith("gptlite.")} == titles
    assert set(CALLS) == set(schemas.VERSIONS)


def test_units_are_in_the_names() -> None:
    for name, unit in DOCUMENTED_UNITS:
        last = name.rpartition(".")[2]
        if unit in UNITS or unit == "bits per byte":
            assert unit.replace(" ", "_") in last, f"{name} is in {unit}"
        for suffix in UNITS:
            if last.endswith(f"_{suffix}") and not last.startswith("n_"):
                assert unit == suffix, f"{name} does not say its unit"
        assert not re.search(r"_(bits|nats|bytes)$", last) or unit or last.startswith("n_"), name


@pytest.mark.parametrize("name", CALLS)
def test_objects_have_the_documented_keys(
    gptlite: Command, trained_run: Path, name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    Path("prompts.jsonl").write_text('{"prompt": "Ada", "id": 7}\n', encoding="utf-8")
    Path("pairs.tsv").write_text("river\tbank\t5\nriver\tgarden\t3\nsong\tclock\t2\nwindow\tsong\t4\n")
    Path("analogies.txt").write_text(": things\nriver bank garden letter\nsong window clock harbour\n")
    if name == "words-evaluate":
        assert gptlite("words", "export", "-m", trained_run, "-o", "own.vec").code == 0
    Path("letters.txt").write_text(make_text(60, seed=5), encoding="utf-8")
    Path("novel.txt").write_text(make_text(120, seed=6), encoding="utf-8")
    for size, n in (("N_NUMBERS", 300), ("N_DATES", 50), ("N_HELD_OUT", 10), ("N_LONGER", 5)):
        monkeypatch.setattr(demo_pairs, size, n)
    if name == "eval":
        assert gptlite(*DEMO).code == 0
    if name == "check":
        shorten_proof(monkeypatch)
    if name == "info":
        beside = ("--init-from", trained_run, "--background", "novel.txt", "--replay", "20%")
        assert (
            gptlite("train", "letters.txt", "-o", "mixed", "-q", "--steps", "2", "--save-every", "2", *beside).code == 0
        )
    title = f"gptlite.{name}/{schemas.VERSIONS[name]}"
    stands = {"RUN": trained_run, "FOLDER": trained_run.parent, "CORPUS": trained_run.parent / "corpus.txt"}
    if name == "report-runs":  # the same training with another seed, and a third one with another learning rate
        stands["OTHER"] = copied_run(trained_run, "other", seed=2)
        stands["THIRD"] = copied_run(trained_run, "third", lr=0.1)
    if name == "compare":
        stands["COMPARISON"] = request.getfixturevalue("comparison_of_four")
        stands["PAIRS"] = request.getfixturevalue("comparison_of_pairs")
        stands["BRANCH"] = request.getfixturevalue("comparison_with_masked")
    made: set[str] = set()
    for call in CALLS[name]:
        written = [call[i + 1] for i, word in enumerate(call) if word == "-o" and call[i + 1].endswith(".jsonl")]
        outcome = gptlite(*(stands.get(word, word) for word in call), *([] if written else ["--json"]))
        assert outcome.code == 0, outcome.err
        lines = Path(written[0]).read_text(encoding="utf-8") if written else outcome.out
        for line in lines.splitlines():
            first, *_ = facts = json.loads(line)
            assert first == "schema" and facts.pop("schema") == title
            made |= {re.sub(r"\[\]|\.\*", "", place) for place in check_keys(facts, OBJECTS[title].keys, "")}
    missing = {place for place in places(OBJECTS[title]) if place not in made and not NOT_MADE.search(place)}
    assert not missing, "documented, and in no object that was made"

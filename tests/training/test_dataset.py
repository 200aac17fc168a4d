"""The texts of a run, opened again: byte for byte what was trained on and what was held out, or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import make_text

from gptlite.errors import CheckpointError, CorpusError, UsageError
from gptlite.text import corpus
from gptlite.text.options import TextOptions
from gptlite.training import dataset
from gptlite.training.watcher import Watcher


def describe(files: list[str], val: str = "5%", limits: list[int] | None = None, lossy: bool = False) -> dict[str, Any]:
    """What `run.json` says of a run on these files."""
    options = TextOptions(lossy=lossy)
    text = corpus.open_text(files, smallest=1, options=options)
    texts = dataset.shorten(dataset.hold_out(text, val, Watcher(), options), limits, Watcher())
    return {
        "arguments": files,
        "inputs": texts.documents(),
        "val": val,
        "text": texts.facts(),
        "text_limits_bytes": limits,
        "reading": options.to_dict(),
        "split": texts.split,
    }


@pytest.fixture(autouse=True)
def texts() -> None:
    Path("a.txt").write_text(make_text(300))
    Path("b.txt").write_text(make_text(300, seed=1))
    Path("long.txt").write_text(make_text(8000, seed=2))
    Path("many").mkdir()
    for i in range(30):
        Path(f"many/{i}.txt").write_text(make_text(20, seed=i + 10))
    Path("crlf.txt").write_bytes(make_text(100, seed=3).replace("\n", "\r\n").encode())
    Path("latin.txt").write_bytes("naïve café\n".encode("latin-1") * 300)


@pytest.mark.parametrize(
    "info",
    [
        {"files": ["a.txt"]},
        {"files": ["a.txt", "b.txt"], "val": "20%"},
        {"files": ["b.txt"], "val": "a.txt"},
        {"files": ["long.txt", "a.txt"], "limits": [150_000, 4000]},
        {"files": ["latin.txt"], "lossy": True},
        {"files": ["many"]},
        {"files": ["many", "a.txt"], "val": "30%"},
        {"files": ["crlf.txt"]},
    ],
    ids=str,
)
def test_the_texts_are_those_of_the_run(info: dict[str, Any]) -> None:
    described = describe(**info)
    assert dataset.reopen(described).facts() == described["text"]


def test_whole_files_are_held_out_of_a_folder() -> None:
    described = describe(["many"])
    assert described["split"] == "documents"
    assert [source["path"] for source in described["inputs"]] == sorted(
        source["path"] for source in described["inputs"]
    )


def test_the_texts_of_a_run_that_recorded_no_options_are_split_and_read_as_they_were() -> None:
    """Such runs held out the end of all text, kept CRLF, and used copies."""
    for name in ("a.txt", "copy.txt"):
        Path(name).write_bytes(make_text(100).replace("\n", "\r\n").encode())
    options = TextOptions.of_run({})
    text = corpus.open_text(["a.txt", "b.txt", "copy.txt"], smallest=1, options=options)
    train, val = text.split(0.4)
    texts = dataset.Inputs(train, val)
    described = {"arguments": ["a.txt", "b.txt", "copy.txt"], "inputs": texts.documents(), "val": "40%"}
    described |= {"text": texts.facts(), "text_limits_bytes": None, "lossy": False}
    assert dataset.reopen(described).facts() == texts.facts()
    assert len(texts.documents()) == 3


@pytest.mark.parametrize("val", [0.05, "5%", 0.125])
def test_a_share_may_be_a_number(val: str | float) -> None:
    text = corpus.open_text(["a.txt"])
    texts = dataset.hold_out(text, val, Watcher())
    again = dataset.hold_out(text, dataset.remembered_val(val), Watcher())
    assert again.facts() == texts.facts()
    assert dataset.remembered_val(0.125) == "12.5%"


@pytest.mark.parametrize("val", ["0.1", "10", "5.5"])
def test_a_number_that_is_no_file_is_asked_for_in_percent(val: str) -> None:
    with pytest.raises(UsageError, match=r"`val='.*'` is neither a share nor a file; for a share write (10|5.5)%"):
        dataset.hold_out(corpus.open_text(["a.txt"]), val, Watcher())


def test_files_that_have_moved_are_the_same_text_in_the_same_order() -> None:
    described = describe(["a.txt", "b.txt"], val="40%")
    Path("a.txt").rename("z.txt")
    Path("b.txt").rename("y.txt")
    texts = dataset.reopen(described, ["z.txt", "y.txt"])
    assert texts.facts() == described["text"]
    assert texts.train.pieces[0].document.path.name == "z.txt"


@pytest.mark.parametrize("changed", ["a.txt", "b.txt"])
def test_a_file_that_has_changed_is_named(changed: str) -> None:
    described = describe(["a.txt"], val="b.txt")
    Path(changed).write_text(make_text(300, seed=7))
    with pytest.raises(CorpusError, match=f"{changed} is not what it was when the model was trained"):
        dataset.reopen(described)


def test_a_file_that_is_gone_is_named() -> None:
    described = describe(["a.txt", "b.txt"])
    Path("b.txt").unlink()
    with pytest.raises(CorpusError, match=r"b\.txt"):
        dataset.reopen(described)


def test_standard_input_cannot_be_read_again() -> None:
    described = {**describe(["a.txt"]), "arguments": ["-"]}
    with pytest.raises(CorpusError, match="standard input"):
        dataset.reopen(described)
    assert dataset.reopen(described, ["a.txt"]).facts() == described["text"], "but it may have been kept in a file"


@pytest.mark.parametrize("missing", ["arguments", "inputs", "val", "text"])
def test_a_run_json_must_say_it_all(missing: str) -> None:
    described = describe(["a.txt"])
    del described[missing]
    with pytest.raises(CheckpointError, match="does not say"):
        dataset.reopen(described)


# Copies of held-out text in the text to train on


class Told(Watcher):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, message: str) -> None:
        self.notices.append(message)


def test_near_copies_of_held_out_text_are_reported() -> None:
    """Two editions of one book in a folder: not the same bytes, but the same passages."""
    edition = make_text(800, seed=20)
    Path("one.txt").write_text(edition)
    Path("two.txt").write_text("Another preface.\n" + edition.replace("Ada", "Ida"))
    watcher = Told()
    dataset.note_copies(dataset.hold_out(corpus.open_text(["one.txt"]), "two.txt", Watcher()), watcher)
    (said,) = watcher.notices
    share = int(said.split("%")[0])
    assert 30 <= share <= 100 and "also stands in the text to train on, in passages of 100 characters" in said


def test_texts_without_copies_are_not_remarked_on() -> None:
    watcher = Told()
    dataset.note_copies(dataset.hold_out(corpus.open_text(["a.txt", "b.txt"]), "10%", Watcher()), watcher)
    assert watcher.notices == []

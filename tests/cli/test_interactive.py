"""Writing by turns: one text, commands, mistakes, and interruptions; tests/reliability has it on a terminal."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Command, Outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptlite.cli.generate.interactive import Session, read_turn
from gptlite.cli.generate.samples import Form, Writer
from gptlite.cli.shared import console
from gptlite.config import SamplingConfig
from gptlite.errors import StorageError, UsageError
from gptlite.generation.generate import Chunk, Sample
from gptlite.text.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """`generate` lets broken pipes end the process, which here is pytest."""
    before = signal.getsignal(signal.SIGPIPE)
    yield
    signal.signal(signal.SIGPIPE, before)


@dataclass
class Parrot:
    """A model that writes its seed, and remembers what it was asked to continue."""

    asked: list[tuple[str, float]] = field(default_factory=list)
    says: Callable[[int], Iterator[str]] = lambda seed: iter([" [", f"{seed}]"])
    settings: tuple[int, str] = (0, "")

    def __call__(self, text: str, config: SamplingConfig, seed: int, stop_at: str) -> Any:
        self.asked.append((text, config.temperature))
        self.settings = (config.max_new_tokens, stop_at)
        return Work(self.says(seed))


@dataclass
class Work:
    texts: Iterator[str]
    samples: list[Sample] = field(default_factory=lambda: [Sample()])

    def __iter__(self) -> Iterator[Chunk]:
        return (Chunk(0, text) for text in self.texts)


Make = Callable[..., Session]


@pytest.fixture
def make(tokenizer: Tokenizer) -> Make:
    def call(parrot: Parrot | None = None, *, patient: bool = True, **form: Any) -> Session:
        loaded: Any = SimpleNamespace(path="run", tokenizer=tokenizer)
        writer = Writer(Form(**form), loaded, console.Messages())
        return Session(parrot or Parrot(), SamplingConfig(), 7, writer, patient=patient)

    return call


def take(session: Session, *lines: str) -> Session:
    for line in lines:
        session.take(line)
    return session


def typed(*lines: str | type[BaseException]) -> Callable[[str], str | None]:
    """What a person types, line by line; an exception is what happens instead."""
    left = iter(lines)

    def read_line(_: str) -> str | None:
        line = next(left, None)
        if isinstance(line, type):
            raise line
        return line

    return read_line


# -- Turns


def test_each_turn_goes_on_from_the_whole_text(make: Make) -> None:
    parrot = Parrot()
    session = take(make(parrot), "Ada", " finds", "")
    assert [text for text, _ in parrot.asked] == ["Ada", "Ada [7] finds", "Ada [7] finds [8]"]
    assert session.text == "Ada [7] finds [8] [9]"


def test_retry_is_the_last_part_with_another_seed(make: Make) -> None:
    parrot = Parrot()
    session = take(make(parrot), "Ada", " finds", "/retry")
    assert session.text == "Ada [7] finds [9]"
    assert parrot.asked[-1] == parrot.asked[-2], "of the same text"


def test_undo_takes_back_both_parts_of_a_turn(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    session = take(make(), "Ada", " finds", "/undo")
    assert session.text == "Ada [7]"
    assert capsys.readouterr().err.endswith("Ada [7]\n"), "the end of the text, to go on from"
    assert take(session, "/undo").text == ""


@pytest.mark.parametrize("command", ["/undo", "/retry"])
def test_where_nothing_is_written_nothing_can_be_undone(make: Make, command: str) -> None:
    with pytest.raises(UsageError, match="no turn"):
        make().take(command)


def test_the_seed_of_a_turn_can_be_chosen(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    session = take(make(), "Ada", "/seed 40", "", "/undo", "/seed 40", "")
    assert session.text == "Ada [7] [40]", "the same seed, the same text"
    take(session, "/seed")
    assert capsys.readouterr().err.endswith("the next turn has seed 41\n")


def test_the_temperature_is_that_of_the_turns_to_come(make: Make) -> None:
    parrot = Parrot()
    take(make(parrot), "Ada", "/temperature 0.1", "")
    assert [temperature for _, temperature in parrot.asked] == [SamplingConfig.temperature, 0.1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/temperature hot", "needs a number"),
        ("/temperature -1", "`temperature` must be"),
        ("/temperature nan", "`temperature` must be"),
        ("/seed 1.5", "needs a number"),
        ("/seed " + "9" * 5000, "needs a number"),
        ("/retry please", "stands alone"),
        ("/save", "needs the name"),
        ("/save a\0b", "needs the name"),
        ("/nonsense", "/help lists them"),
        ("/", "/help lists them"),
    ],
)
def test_commands_that_make_no_sense_change_nothing(make: Make, line: str, said: str) -> None:
    session = take(make(), "Ada")
    with pytest.raises(UsageError, match=said):
        session.take(line)
    assert (session.text, session.seed, session.config) == ("Ada [7]", 8, SamplingConfig())


def test_the_text_is_saved_where_it_is_wanted(make: Make) -> None:
    take(make(), "Ada\n河", "/save my story.txt")
    assert Path("my story.txt").read_bytes() == "Ada\n河 [7]".encode()
    with pytest.raises(StorageError, match="no folder"):
        take(make(), "Ada", "/save gone/story.txt")


def test_a_file_holds_the_text_after_each_turn(make: Make) -> None:
    session = make(out=Path("story.txt"))
    for line, text in (("Ada", "Ada [7]"), ("", "Ada [7] [8]"), ("/retry", "Ada [7] [9]"), ("/undo", "Ada [7]")):
        session.take(line)
        assert Path("story.txt").read_text() == session.text == text


def test_a_typed_line_is_a_new_word(make: Make) -> None:
    session = take(make(Parrot(says=lambda _: iter([" the"]))), "Ada", "bank", ", and", "/join s", "")
    assert session.text == "Ada the bank the, and thes the the"
    assert take(make(Parrot(says=lambda _: iter(["河\n"]))), "在", "银行", "x").text == "在河\n银行河\nx河\n"


def test_where_the_models_part_ends_can_be_chosen(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    parrot = Parrot()
    take(make(parrot), "/max 12", "/stop-at sentence", "Ada")
    assert parrot.settings == (12, "sentence")
    err = capsys.readouterr().err
    assert "at most 12 tokens" in err and "ends with a sentence" in err
    for line in ("/max many", "/max -1", "/stop-at word"):
        with pytest.raises(UsageError):
            make().take(line)


def test_a_file_that_is_there_is_not_saved_over(make: Make) -> None:
    Path("story.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        take(make(), "Ada", "/save story.txt")
    assert Path("story.txt").read_text() == "mine"
    take(make(), "Ada", "/save new.txt", "", "/save new.txt")
    assert Path("new.txt").read_text() == "Ada [7] [8]"


# -- What is typed


@pytest.mark.parametrize(
    ("lines", "turn"),
    [
        (["Ada"], "Ada"),
        (["Ada finds\\", "the bank"], "Ada finds\nthe bank"),
        (["\\", "\\", "x"], "\n\nx"),
        (["Ada\\"], "Ada\n"),
        (['"""', "Ada", "", "Bela", '"""'], "Ada\n\nBela"),
        (['"""Ada', 'Bela"""'], "Ada\nBela"),
        (['"""Ada"""'], "Ada"),
        (['"""', "never closed"], "never closed"),
        (['"""', "Ada", "", '"""'], "Ada\n"),
        ([], None),
    ],
)
def test_lines_that_belong_together_are_one_turn(lines: Sequence[str], turn: str | None) -> None:
    assert read_turn(typed(*lines)) == turn


@pytest.mark.parametrize("lines", [["//etc"], ['"""', "/etc", '"""'], ['"""/etc"""']])
def test_a_text_may_begin_like_a_command(make: Make, lines: Sequence[str]) -> None:
    session = make()
    session.run(typed(*lines))
    assert session.text == "/etc [7]"


def test_it_ends_when_asked_to_or_when_nothing_more_comes(make: Make) -> None:
    for end in ("/quit", "/exit"):
        session = make()
        session.run(typed("Ada", end, "never read"))
        assert session.text == "Ada [7]"


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from(["Ada", "", "/undo", "/retry", "/seed 3", "//", "\\", '"""', "/"]) | st.text(), max_size=9)
)
def test_whatever_is_typed_a_patient_session_goes_on(make: Make, lines: list[str]) -> None:
    parrot = Parrot()
    session = make(parrot)
    session.run(typed(*lines, "/quit"))
    assert session.text == "".join(turn.given + turn.written for turn in session.turns)
    assert all(turn.written.startswith(" [") for turn in session.turns)


# -- Interruptions


def stopped(seed: int) -> Iterator[str]:
    yield f" [{seed}"
    raise KeyboardInterrupt


@pytest.mark.row("G23")
def test_ctrl_c_ends_the_models_part_and_keeps_what_is_there(make: Make) -> None:
    session = make(Parrot(says=stopped), out=Path("story.txt"))
    session.run(typed("Ada", KeyboardInterrupt, "]", "/quit"))
    assert session.text == Path("story.txt").read_text() == "Ada [7] [8"


def test_ctrl_c_in_a_pipe_is_the_end(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    session = make(Parrot(says=stopped), patient=False)
    with pytest.raises(KeyboardInterrupt):
        session.run(typed("Ada", "never read"))
    assert capsys.readouterr().out == "Ada [7\n"


def test_a_mistake_is_told_to_a_person_and_ends_a_script(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    session = make()
    session.run(typed("/nonsense", "/save gone/x", "Ada"))
    assert session.text == "Ada [7]"
    assert capsys.readouterr().err.count("gptlite: error: ") == 2
    with pytest.raises(UsageError):
        make(patient=False).run(typed("/nonsense"))


def test_a_model_with_nothing_to_add_says_so(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    take(make(Parrot(says=lambda _: iter(()))), "Ada")
    assert "the model ends the text here" in capsys.readouterr().err


# -- The command


@pytest.fixture
def generate(gptlite: Command, trained_run: Path) -> Command:
    def call(*arguments: object, stdin: bytes = b"") -> Outcome:
        line = ("generate", "-i", "-m", trained_run, "--max-new-tokens", "9", "--seed", "1", "-q")
        return gptlite(*line, *arguments, stdin=stdin)

    return call


def test_a_pipe_of_lines_is_a_text_of_turns(generate: Command, gptlite: Command, trained_run: Path) -> None:
    outcome = generate("-o", "story.txt", stdin=b"Ada finds\r\n\n the bank\n")
    text = ""
    for seed, line in enumerate(("Ada finds", "", " the bank"), start=1):
        once = ("generate", "-p", text + line, "-m", trained_run, "--seed", seed, "--max-new-tokens", "9", "--json")
        text += line + json.loads(gptlite(*once).out)["samples"][0]["text"]
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == (text if text.endswith("\n") else text + "\n")
    assert Path("story.txt").read_text("utf-8") == text


def test_a_prompt_is_the_first_turn(generate: Command) -> None:
    assert generate("-p", "Ada finds").out == generate(stdin=b"Ada finds\n").out


def test_without_echo_only_the_model_is_heard(generate: Command) -> None:
    assert generate(stdin=b"Ada finds\n").out == "Ada finds" + generate("--no-echo", stdin=b"Ada finds\n").out


def test_nothing_typed_is_nothing_written(generate: Command) -> None:
    outcome = generate()
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


@pytest.mark.parametrize(
    "line", [("-n", "2"), ("--json",), ("-o", "x.jsonl"), ("-",), ("-f", "-"), ("--stop", "")], ids=str
)
def test_what_does_not_go_with_turns(generate: Command, line: tuple[str, ...]) -> None:
    outcome = generate(*line, stdin=b"Ada\n")
    assert (outcome.code, outcome.out) == (2, "")
    assert os.listdir() == []


def test_a_pipe_that_is_no_text(generate: Command) -> None:
    outcome = generate(stdin=b"caf\xe9\n")
    assert (outcome.code, outcome.out) == (3, "") and "not UTF-8" in outcome.err


def test_each_turn_may_have_its_table(generate: Command) -> None:
    assert generate("--logprobs", "1", stdin=b"Ada\n\n").out.count("likeliest") == 2

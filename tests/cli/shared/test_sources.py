"""Files in other encodings and with CRLF line ends, in every command that reads texts for a model."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TRAIN_FEW, Command, make_text

from gptlite.cli import main as command_line
from gptlite.cli.shared import sources
from gptlite.cli.shared.rows import Row
from gptlite.errors import CorpusError, LimitError, UsageError

# Characters that Big5 and EUC-KR lack, in sentences of common words.
LINES = [
    "她坐在河边的银行里看书。",
    "这个房间很好，服务也很周到。",
    "我们明天早上去银行办理业务。",
    "孩子们在学校里学习汉语。",
]
TEXT = "\n".join(LINES) + "\n"
QUESTIONS = "银行\t河边\t5.5\n房间\t服务\t7\n学校\t学习\t8\n孩子\t我们\t3\n"

# A command line over a file in GBK, and what it holds.
READERS = {
    "embed --sentence -f gbk.txt -o - -m RUN": TEXT,
    "inspect -f gbk.txt --json -m RUN": TEXT,
    "generate -f gbk.txt --max-new-tokens 1 --seed 1 --json -m RUN": TEXT,
    "generate --prompts gbk.txt --max-new-tokens 1 --seed 1 --json -m RUN": TEXT,
    "score gbk.txt -m RUN": TEXT,
    "score gbk.csv -m RUN": f"text\n{TEXT}",
    "concordance 银行 gbk.txt": TEXT,
    "words evaluate gbk.tsv -m RUN --min-count 1": QUESTIONS,
    "generate a --max-new-tokens 1 --seed 1 --check-copies --corpus gbk.txt --json -m RUN": TEXT * 20,
}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest, trained_run: Path) -> list[str]:
    """A command line whose file is there in GBK."""
    words = [str(trained_run) if word == "RUN" else word for word in shlex.split(request.param)]
    for name in words:
        if name.startswith("gbk."):
            Path(name).write_bytes(READERS[request.param].encode("gbk"))
    return words


def test_a_file_in_another_encoding_is_read_with_the_option(gptlite: Command, reader: list[str]) -> None:
    in_gbk = gptlite(*reader, "--encoding", "gbk")
    assert in_gbk.code == 0, in_gbk.err
    for name in reader:
        if name.startswith("gbk."):
            Path(name).write_text(Path(name).read_text("gbk"), encoding="utf-8")
    assert in_gbk == gptlite(*reader)


def test_without_the_option_the_encodings_that_decode_it_are_named(gptlite: Command, reader: list[str]) -> None:
    outcome = gptlite(*reader)
    assert outcome.code == 3
    assert "not UTF-8" in outcome.err
    assert "it reads as gb18030" in outcome.err and "--encoding gb18030" in outcome.err
    has_lossy = reader[0] in ("embed", "score", "concordance")
    assert ("--lossy" in outcome.err) is has_lossy


def test_another_encoding_than_that_of_the_file_is_refused(gptlite: Command, reader: list[str]) -> None:
    outcome = gptlite(*reader, "--encoding", "ascii")
    assert (outcome.code, "UTF-8" in outcome.err) == (3, True)  # of which ASCII is a part
    outcome = gptlite(*reader, "--encoding", "klingon")
    assert outcome.code == 2 and "--encoding 'klingon' is not known" in outcome.err
    damaged = next(name for name in reader if name.startswith("gbk."))
    Path(damaged).write_bytes(Path(damaged).read_bytes() + b"\xff\xff\n")
    outcome = gptlite(*reader, "--encoding", "gbk")
    assert outcome.code == 3 and " is not gbk" in outcome.err


@pytest.mark.parametrize("encoding", ["gbk", "utf-16", "utf-8"])
def test_standard_input_has_the_encoding_too(gptlite: Command, trained_run: Path, encoding: str) -> None:
    for line in ("inspect - --json", "embed - -w 银行 -o -", "score -", "concordance 银行 - --json"):
        words = line.split() + (["-m", str(trained_run)] if "concordance" not in line else [])
        expected = gptlite(*words, stdin=TEXT.encode())
        assert expected.code == 0
        assert gptlite(*words, "--encoding", encoding, stdin=TEXT.encode(encoding)) == expected


def test_averages_read_the_corpus_in_its_encoding(gptlite: Command, trained_run: Path) -> None:
    Path("gbk.txt").write_bytes((TEXT * 30).encode("gbk"))
    line = ("words", "export", "--from", "average", "--min-count", "1", "-o", "-", "-m", trained_run)
    assert "--encoding gb18030" in gptlite(*line, "--corpus", "gbk.txt").err
    outcome = gptlite(*line, "--corpus", "gbk.txt", "--encoding", "gb18030")
    Path("gbk.txt").write_text(TEXT * 30, encoding="utf-8")
    assert outcome.out and outcome.out == gptlite(*line, "--corpus", "gbk.txt").out


def test_the_run_says_in_which_encoding_its_own_text_is(gptlite: Command, tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_bytes((TEXT * 30).encode("gbk"))
    assert gptlite("train", text, "-o", "run", "-q", "--encoding", "gbk", *TRAIN_FEW).code == 0
    outcome = gptlite("generate", "-m", "run", "--check-copies", "--corpus", text, "--json", "--max-new-tokens", "9")
    assert outcome.code == 0 and "not known to be" not in outcome.err


# -- Line ends


@pytest.fixture(scope="module")
def crlf_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that kept CRLF line ends."""
    folder = tmp_path_factory.mktemp("crlf")
    (folder / "corpus.txt").write_bytes(make_text().replace("\n", "\r\n").encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTLITE_CACHE", str(folder / "cache"))
        line = ["train", str(folder / "corpus.txt"), "-o", str(folder / "run"), "-q", "--keep-line-ends", *TRAIN_FEW]
        assert command_line.run(line) == 0
    yield folder / "run"


TWO = "the river\r\nthe bank"


def tokens_of(line: str) -> str:
    return "".join(token["text"] for token in json.loads(line)["tokens"])


def prompt_of(line: str) -> str:
    return json.loads(line)["prompt"]


def embedded(line: str) -> str:
    """The text before the word, of whose length the span tells."""
    start = json.loads(line.splitlines()[0])["span"][0]
    return next(text for text in (TWO, TWO.replace("\r\n", "\n")) if text.index("bank") == start)


def words_of(table: str) -> str:
    """What the units of a table of `score` spell; white space is no unit."""
    return repr([row["surprisal_bits"] for row in csv.DictReader(io.StringIO(table), delimiter="\t")])


GENERATE = "generate --json --max-new-tokens 1 --seed 1 -m RUN"
CRLF: dict[str, Callable[[str], str]] = {
    "inspect -f two.txt --json -m RUN": tokens_of,
    "inspect - --json -m RUN": tokens_of,
    "inspect ARGUMENT --json -m RUN": tokens_of,
    f"{GENERATE} -f two.txt": prompt_of,
    f"{GENERATE} -": prompt_of,
    f"{GENERATE} -p ARGUMENT": prompt_of,
    f"{GENERATE} --prompts two.jsonl": prompt_of,
    f"{GENERATE} --prompts two.csv": prompt_of,
    "embed -w bank -o - -m RUN -f two.jsonl": embedded,
    "embed -w bank -o - -m RUN ARGUMENT": embedded,
    "score two.jsonl --unit token -m RUN": words_of,
}


def read(gptlite: Command, line: str, run: Path, text: str) -> tuple[str, str]:
    """What the command read, and what it said."""
    Path("two.txt").write_bytes(text.encode())
    Path("two.jsonl").write_text(json.dumps({"text": text, "prompt": text}) + "\n", encoding="utf-8")
    Path("two.csv").write_bytes(f'id,prompt\r\nA,"{text}"\r\n'.encode())
    words = [{"RUN": str(run), "ARGUMENT": text}.get(word, word) for word in shlex.split(line)]
    outcome = gptlite(*words, stdin=text.encode())
    assert outcome.code == 0, outcome.err
    return CRLF[line](outcome.out), outcome.err


@pytest.mark.parametrize("line", CRLF)
def test_crlf_is_read_as_training_reads_it(gptlite: Command, trained_run: Path, line: str) -> None:
    seen, said = read(gptlite, line, trained_run, TWO)
    expected, silent = read(gptlite, line, trained_run, TWO.replace("\r\n", "\n"))
    assert seen == expected and "\r" not in seen
    assert said.count("CRLF line ends are read as line feeds in 1 text, as in training") == 1
    assert "CRLF" not in silent


@pytest.mark.parametrize("line", [line for line in CRLF if "score" not in line and "two.csv" not in line])
def test_a_run_that_kept_crlf_gets_it(gptlite: Command, crlf_run: Path, line: str) -> None:
    seen, said = read(gptlite, line, crlf_run, TWO)
    assert "\r\n" in seen and "CRLF" not in said


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("command", ["embed", "score", "concordance", "prompts"])
def test_lines_never_end_in_a_carriage_return(gptlite: Command, crlf_run: Path, command: str, suffix: str) -> None:
    name = f"lines{suffix}"
    column = "prompt" if command == "prompts" else "text"
    content = {
        ".txt": "by the bank\r\nin a bank\r\n", ".jsonl": f'{{"{column}": "by the bank"}}\r\n',
        ".csv": f"id,{column}\r\nA,by the bank\r\nB,in a bank\r\n",
        ".tsv": f"{column}\tid\r\nby the bank\tA\r\nin a bank\tB\r\n",
    }[suffix]  # fmt: skip
    Path(name).write_bytes(content.encode())
    outcome = gptlite(*{
        "embed": ("embed", "-f", name, "-w", "bank", "-o", "-", "-m", crlf_run),
        "score": ("score", name, "--format", "jsonl", "-m", crlf_run),
        "concordance": ("concordance", "bank", name, "--json"),
        "prompts": ("generate", "--prompts", name, "--json", "--max-new-tokens", "1", "-m", crlf_run),
    }[command])  # fmt: skip
    assert outcome.code == 0, outcome.err
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    for line in lines:  # what the model wrote may have one
        assert "\\r" not in json.dumps({key: value for key, value in line.items() if key != "samples"})
    assert "CRLF" not in outcome.err


def test_spans_move_with_the_line_ends(gptlite: Command, trained_run: Path) -> None:
    text = "one\r\ntwo\r\nthe bank"
    start = text.index("bank")
    row = {"text": text, "span": [start, start + 4], "spans": [[start, start + 4]]}
    Path("spans.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    found = json.loads(gptlite("embed", "-f", "spans.jsonl", "-o", "-", "-m", trained_run).out)
    assert found["word"] == "bank"
    line = ("score", "spans.jsonl", "--unit", "region", "--spans", "spans", "--format", "jsonl", "-m", trained_run)
    regions = [json.loads(row) for row in gptlite(*line).out.splitlines()]
    assert "bank" in json.dumps(regions) and "CRLF" in gptlite(*line).err


@pytest.mark.parametrize(
    "line",
    [
        "generate --choice ARGUMENT --choice b --json a",
        "embed --prefix ARGUMENT -o - 'a [bank]'",
        "score --before ARGUMENT two.txt",
    ],
)
def test_options_that_are_texts_are_read_alike(gptlite: Command, trained_run: Path, line: str) -> None:
    Path("two.txt").write_text("the bank\n", encoding="utf-8")
    outcomes: list[Any] = []
    for text in (TWO, TWO.replace("\r\n", "\n")):
        words = [text if word == "ARGUMENT" else word for word in shlex.split(line)]
        outcomes.append(gptlite(*words, "-m", trained_run))
    assert outcomes[0].code == 0 and outcomes[0].out == outcomes[1].out
    assert outcomes[0].err.count("CRLF line ends are read as line feeds in 1 text") == 1
    assert "CRLF" not in outcomes[1].err


# -- The functions


def test_line_ends_of_a_text_without_a_model() -> None:
    ends = sources.LineEnds()
    assert ends.read("a\r\nb\rc") == "a\nb\rc"
    assert ends.read_row(Row("a\r\nb", [(3, 4)])) == Row("a\nb", [(2, 3)])
    assert ends.n_changed == 2


def test_reading_is_bounded_and_drops_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "marked.txt"
    path.write_bytes(b"\xef\xbb\xbfabc")
    assert sources.read_text(str(path), "the text", 100) == "abc"
    with pytest.raises(LimitError):
        sources.read_text(str(path), "the text", 3)
    path.write_bytes("é€".encode("utf-16"))
    assert sources.read_text(str(path), "the text", 100, "utf-16") == "é€"
    with pytest.raises(CorpusError, match=r"it reads as utf-16: use `encoding='utf-16'`\.$"):
        sources.read_text(str(path), "the text", 100)
    with pytest.raises(UsageError):
        sources.open_text(str(path), "the text", "klingon")


def test_a_file_is_closed_with_its_stream(tmp_path: Path) -> None:
    path = tmp_path / "gbk.txt"
    path.write_bytes("银行".encode("gbk"))
    stream: Any = sources.open_text(str(path), "texts", "gbk")
    with stream:
        assert stream.read().decode() == "银行"
    assert stream.raw.source.closed

"""gptlite eval: the bits of a text, from files and pipes, in a table or as JSON."""

from __future__ import annotations

import json
import math
import unicodedata
from pathlib import Path

import pytest
import tokenizers
from conftest import TRAIN_FEW, Command, make_text, random_model, tiny_config

from gptlite.checkpoint import runs
from gptlite.checkpoint.saved_step import save_step
from gptlite.text.tokenizer import Tokenizer

KEYS = {"schema", "model", "bits_per_byte", "perplexity", "loss_nats", "n_tokens", "n_bytes", "seconds"}
KEYS |= {"tokens_per_second"}


def test_json_is_one_object_with_the_documented_keys(gptlite: Command, corpus_file: Path, trained_run: Path) -> None:
    outcome = gptlite("eval", "corpus.txt", "-m", trained_run, "--json")
    assert outcome.code == 0
    assert outcome.out.count("\n") == 1
    result = json.loads(outcome.out)
    assert set(result) == KEYS
    assert result["n_bytes"] == corpus_file.stat().st_size
    assert result["perplexity"] == pytest.approx(math.exp(result["loss_nats"]))
    assert result["bits_per_byte"] * result["n_bytes"] * math.log(2) == pytest.approx(
        result["loss_nats"] * result["n_tokens"]
    )
    assert result["model"] == str(runs.find_model(str(trained_run)))


def test_the_table_has_the_numbers_of_json(gptlite: Command, corpus_file: Path, trained_run: Path) -> None:
    outcome = gptlite("eval", "corpus.txt", "-m", trained_run)
    result = json.loads(gptlite("eval", "corpus.txt", "-m", trained_run, "--json").out)
    cells = {line.rsplit(None, 1)[0].strip(): line.rsplit(None, 1)[1] for line in outcome.out.splitlines() if line}
    assert cells["bits per byte"] == f"{result['bits_per_byte']:.4f}"
    assert cells["perplexity per token"] == f"{result['perplexity']:,.2f}"
    assert cells["loss (nats per token)"] == f"{result['loss_nats']:.4f}"
    assert cells["tokens"] == f"{result['n_tokens']:,}"
    assert cells["bytes"] == f"{result['n_bytes']:,}"


def test_training_ends_with_the_same_number(gptlite: Command, trained_run: Path) -> None:
    """The held-out end of the text, by itself, has the bits that the run says."""
    stored = json.loads((trained_run / "run.json").read_text())
    content = (trained_run.parent / "corpus.txt").read_bytes()
    Path("end.txt").write_bytes(content[-stored["text"]["val"]["bytes"] :])
    result = json.loads(gptlite("eval", "end.txt", "-m", trained_run, "--dtype", "fp32", "--json").out)
    assert result["bits_per_byte"] == pytest.approx(stored["result"]["val_bits_per_byte"], abs=1e-4)


def test_its_own_language_is_easier(gptlite: Command, trained_run: Path) -> None:
    Path("own.txt").write_text(make_text(50, seed=8))
    Path("other.txt").write_text("Quick zebras vex jumpy wolves! " * 40)
    own, other = (
        json.loads(gptlite("eval", f"{name}.txt", "-m", trained_run, "--json").out)["bits_per_byte"]
        for name in ("own", "other")
    )
    assert own < 1 < 4 < other


def test_a_pipe_is_a_text_too(gptlite: Command, corpus_file: Path, trained_run: Path) -> None:
    from_file = json.loads(gptlite("eval", "corpus.txt", "-m", trained_run, "--json").out)
    outcome = gptlite("eval", "-", "-m", trained_run, "--json", stdin=corpus_file.read_bytes())
    from_pipe = json.loads(outcome.out)
    assert from_pipe["bits_per_byte"] == from_file["bits_per_byte"]
    assert not list(Path("cache").glob("stdin-*")), "the copy of the pipe is gone"


def test_several_texts_are_scored_as_one(gptlite: Command, trained_run: Path) -> None:
    Path("texts").mkdir()
    for i in range(3):
        Path(f"texts/{i}.txt").write_text(make_text(20, seed=i))
    total = sum(p.stat().st_size for p in Path("texts").iterdir())
    for names in (["texts"], ["texts/*.txt"], ["texts/0.txt", "texts/1.txt", "texts/2.txt"]):
        result = json.loads(gptlite("eval", *names, "-m", trained_run, "--json").out)
        assert result["n_bytes"] == total, "each byte counts once, and separators not at all"


@pytest.mark.parametrize("content", ["a", "ab", "汉", "🙂", "\ufeffx", "Ada finds the river"])
def test_a_text_may_be_short(gptlite: Command, trained_run: Path, content: str) -> None:
    Path("short.txt").write_text(content, encoding="utf-8")
    outcome = gptlite("eval", "short.txt", "-m", trained_run, "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["n_bytes"] == len(content.lstrip("\ufeff").encode())


@pytest.mark.parametrize(("stdin", "message"), [(b"", "empty"), (b" \n", "white space"), (b"\xff\xfd", "UTF-8")])
def test_a_bad_pipe_is_code_3(gptlite: Command, trained_run: Path, stdin: bytes, message: str) -> None:
    outcome = gptlite("eval", "-", "-m", trained_run, stdin=stdin)
    assert (outcome.code, outcome.out) == (3, "")
    assert message in outcome.err
    assert "stdin-" not in outcome.err, "a person knows of no file that standard input was kept in"


def test_scoring_twice_is_scoring_once(gptlite: Command, corpus_file: Path, trained_run: Path) -> None:
    first, second = (
        json.loads(gptlite("eval", "corpus.txt", "-m", trained_run, "--json").out)["bits_per_byte"] for _ in range(2)
    )
    assert first == second


# -- Several models


@pytest.fixture
def other_run(gptlite: Command, corpus_file: Path) -> Path:
    assert gptlite("train", corpus_file, "-o", "other", "-q", *TRAIN_FEW).code == 0
    return Path("other")


def test_several_models_and_texts_make_a_matrix(gptlite: Command, trained_run: Path, other_run: Path) -> None:
    for name, seed in (("a.txt", 1), ("b.txt", 2)):
        Path(name).write_text(make_text(30, seed=seed))
    line = ("eval", "a.txt", "b.txt", "-m", trained_run, "-m", other_run)
    result = json.loads(gptlite(*line, "--json").out)
    assert result["schema"] == "gptlite.eval-matrix/1" and result["files"] == ["a.txt", "b.txt"]
    assert [Path(model).parent.name for model in result["models"]] == ["run", "other"]
    for i, name in enumerate(result["files"]):
        for j, model in enumerate((trained_run, other_run)):
            alone = json.loads(gptlite("eval", name, "-m", model, "--json").out)
            assert result["bits_per_byte"][i][j] == pytest.approx(alone["bits_per_byte"], rel=1e-6)
    table = [row.split() for row in gptlite(*line).out.splitlines()]
    assert [row[0] for row in table[-2:]] == ["a.txt", "b.txt"]
    assert [row[2:] for row in table[-2:]] == [[f"{x:.4f}" for x in row] for row in result["bits_per_byte"]]


def test_a_pipe_is_read_once_for_several_models(gptlite: Command, trained_run: Path, corpus_file: Path) -> None:
    line = ("eval", "-", "-m", trained_run, "-m", trained_run, "--json")
    result = json.loads(gptlite(*line, stdin=corpus_file.read_bytes()).out)
    assert result["bits_per_byte"][0][0] == result["bits_per_byte"][0][1]


def test_copies_are_looked_for_in_one_models_text(gptlite: Command, trained_run: Path, corpus_file: Path) -> None:
    outcome = gptlite("eval", corpus_file, "-m", trained_run, "-m", trained_run, "--check-copies")
    assert outcome.code == 2 and "--check-copies does nothing with several models" in outcome.err


def test_bytes_are_those_of_the_file_when_the_tokenizer_composes_characters(
    gptlite: Command, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Qwen's tokenizer composes characters (NFC), so its tokens spell fewer bytes than decomposed Korean has."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    backend.normalizer = tokenizers.normalizers.NFC()  # type: ignore[assignment]
    composing = Tokenizer.from_json(backend.to_str())
    save_step(tmp_path / "step", random_model(tiny_config("qwen3", vocab_size=composing.vocab_size)), composing, {})
    Path("korean.txt").write_text(unicodedata.normalize("NFD", "한국어 문장 하나 더\n" * 60))
    size = Path("korean.txt").stat().st_size
    result = json.loads(gptlite("eval", "korean.txt", "-m", tmp_path / "step", "--json").out)
    assert result["n_bytes"] == size
    inspected = json.loads(gptlite("inspect", "-f", "korean.txt", "-m", tmp_path / "step", "--json").out)
    assert inspected["n_bytes"] == size
    line = ("train", "korean.txt", "--init-from", tmp_path / "step", "--steps", "2", "--val", "30%", "-o", "run")
    trained = gptlite(*line, "--json")
    assert trained.code == 0, trained.err
    held_out = json.loads(Path("run/run.json").read_text())["text"]["val"]["bytes"]
    found = json.loads(trained.out)
    assert found["val_bytes"] == held_out == found["baselines"]["val_bytes"] == found["held_out_bytes"]


def test_all_of_what_a_run_held_out_is_scored(gptlite: Command, trained_run: Path) -> None:
    """Whatever part of it was scored at the end of training."""
    stored = json.loads((trained_run / "run.json").read_text())
    outcome = gptlite("eval", "--held-out", trained_run, "--dtype", "fp32", "--json")
    result = json.loads(outcome.out)
    assert result["n_bytes"] == stored["text"]["val"]["bytes"]
    assert result["bits_per_byte"] == pytest.approx(stored["result"]["val_bits_per_byte"], abs=1e-4)
    table = gptlite("eval", "--held-out", trained_run, "-m", trained_run, "-m", trained_run / "best")
    assert table.code == 0 and "held out from" in table.out


def test_a_text_is_needed_or_a_run_that_held_one_out(gptlite: Command, corpus_file: Path, trained_run: Path) -> None:
    for line, code, named in (
        (("eval",), 2, "name the text to score"),
        (("eval", "corpus.txt", "--held-out", trained_run), 2, "held-out"),
        (("eval", "--held-out", "gone"), 4, "gone is not a run"),
    ):
        outcome = gptlite(*line)
        assert (outcome.code, outcome.out) == (code, "") and named in outcome.err

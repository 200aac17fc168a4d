"""gptlite export: one file, named after the run, or a reason why not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import Command, random_model, tiny_config

from gptlite.checkpoint.saved_step import save_step
from gptlite.distribution import install_hint
from gptlite.text.tokenizer import Tokenizer

MAGIC = b"GGUF"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ((), "run-f16.gguf"),
        (("--dtype", "f32"), "run-f32.gguf"),
        (("--dtype", "q8_0"), "run-q8_0.gguf"),
        (("--to", "gguf", "-o", "my model.gguf"), "my model.gguf"),
        (("--output", "x.gguf"), "x.gguf"),
    ],
    ids=str,
)
def test_one_file_is_written_and_named(
    gptlite: Command, trained_run: Path, options: tuple[str, ...], name: str
) -> None:
    outcome = gptlite("export", trained_run, *options)
    assert (outcome.code, outcome.out) == (0, "")
    assert os.listdir() == [name]
    assert Path(name).read_bytes()[:4] == MAGIC
    assert outcome.err == f"{name}: {Path(name).stat().st_size:,} bytes\n"


@pytest.mark.parametrize("model", ["run", "run/best", "run/step-000000060"])
def test_a_file_is_named_after_its_run(gptlite: Command, trained_run: Path, model: str) -> None:
    Path("elsewhere").mkdir()
    assert gptlite("export", trained_run.parent / model).code == 0
    assert sorted(os.listdir()) == ["elsewhere", "run-f16.gguf"]


def test_a_model_made_elsewhere_gives_its_own_name(gptlite: Command, tokenizer: Tokenizer) -> None:
    save_step(Path("hub"), random_model(tiny_config("llama", vocab_size=tokenizer.vocab_size)), tokenizer, {})
    assert gptlite("export", "hub").code == 0
    assert Path("hub-f16.gguf").exists()


def test_an_older_file_is_replaced_when_asked_to(gptlite: Command, trained_run: Path) -> None:
    Path("run-f16.gguf").write_text("old")
    outcome = gptlite("export", trained_run, "-q")
    assert outcome.code == 2 and "overwrite it with --force" in outcome.err
    assert Path("run-f16.gguf").read_text() == "old"
    assert gptlite("export", trained_run, "-q", "--force").code == 0
    assert Path("run-f16.gguf").read_bytes()[:4] == MAGIC


def test_smaller_numbers_make_smaller_files(gptlite: Command, trained_run: Path) -> None:
    sizes = []
    for dtype in ("f32", "f16", "q8_0"):
        gptlite("export", trained_run, "--dtype", dtype, "-o", f"{dtype}.gguf")
        sizes.append(Path(f"{dtype}.gguf").stat().st_size)
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3


def test_the_model_of_2017_has_no_gguf(gptlite: Command, tokenizer: Tokenizer) -> None:
    model = random_model(tiny_config("transformer-2017", vocab_size=tokenizer.vocab_size))
    save_step(Path("hub"), model, tokenizer, {})
    outcome = gptlite("export", "hub")
    assert (outcome.code, outcome.out) == (2, "")
    assert "transformer-2017" in outcome.err
    assert os.listdir() == ["hub"]


def test_hugging_face_is_what_a_step_already_is(gptlite: Command, trained_run: Path) -> None:
    outcome = gptlite("export", trained_run, "--to", "safetensors")
    assert outcome.code == 2
    assert "use the step's directory as it is" in outcome.err


@pytest.mark.parametrize("target", ["gone/model.gguf", "folder.gguf"])
def test_a_place_that_cannot_be_written_is_code_5(gptlite: Command, trained_run: Path, target: str) -> None:
    Path("folder.gguf").mkdir()
    outcome = gptlite("export", trained_run, "-o", target)
    assert (outcome.code, outcome.out) == (5, "")
    assert outcome.err.startswith(f"gptlite: error: cannot write {target}")
    assert os.listdir() == ["folder.gguf"]


def test_a_missing_package_is_told_how_to_come(
    gptlite: Command, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    outcome = gptlite("export", trained_run)
    assert outcome.code == 2
    assert install_hint("gguf") in outcome.err


def test_the_name_must_be_that_of_a_gguf_file(gptlite: Command, trained_run: Path) -> None:
    outcome = gptlite("export", trained_run, "-o", "model.safetensors")
    assert outcome.code == 2 and "must end in .gguf" in outcome.err


def test_json_says_what_was_written(gptlite: Command, trained_run: Path) -> None:
    result = json.loads(gptlite("export", trained_run, "--json", "-q").out)
    assert result["schema"] == "gptlite.export/1" and result["llama_cpp"] is None
    assert Path(result["file"]).stat().st_size == result["file_bytes"]


def test_a_page_is_named_after_its_run(gptlite: Command, trained_run: Path) -> None:
    outcome = gptlite("export", trained_run, "--to", "html")
    assert (outcome.code, outcome.out, os.listdir()) == (0, "", ["run.html"])
    assert outcome.err.startswith(f"run.html: {Path('run.html').stat().st_size:,} bytes\nf16: ")
    result = json.loads(gptlite("export", trained_run, "--to", "html", "-o", "x.html", "--dtype", "int8", "--json").out)
    assert result["dtype"] == "int8" and abs(result["loss_bits_per_byte"]) < 0.002 and result["llama_cpp"] is None
    assert Path("x.html").stat().st_size < Path("run.html").stat().st_size


@pytest.mark.parametrize(("to", "dtype"), [("html", "q8_0"), ("gguf", "int8"), ("gguf", "auto")])
def test_each_format_has_its_numbers(gptlite: Command, trained_run: Path, to: str, dtype: str) -> None:
    outcome = gptlite("export", trained_run, "--to", to, "--dtype", dtype)
    assert outcome.code == 2 and f"--dtype {dtype} does nothing with --to {to}" in outcome.err


def test_what_a_page_cannot_run_is_refused(gptlite: Command, tokenizer: Tokenizer) -> None:
    model = random_model(tiny_config("llama", vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        model.head.weight[0, 0] = 1e6
    save_step(Path("hub"), model, tokenizer, {})
    outcome = gptlite("export", "hub", "--to", "html")
    assert outcome.code == 6 and "f32 or int8" in outcome.err
    content = json.loads(tokenizer.to_json())
    content["pre_tokenizer"]["use_regex"] = False
    save_step(Path("other"), random_model(tiny_config("llama", vocab_size=tokenizer.vocab_size)),
              Tokenizer.from_json(json.dumps(content)), {})  # fmt: skip
    outcome = gptlite("export", "other", "--to", "html")
    assert outcome.code == 2 and "a way of its own" in outcome.err
    assert sorted(os.listdir()) == ["hub", "other"]


@pytest.mark.row("N14")
@pytest.mark.parametrize(("dtype", "number"), [("f16", 1e6), ("q8_0", 1e9)])
def test_weights_beyond_the_range_of_a_format_are_refused(
    gptlite: Command, tokenizer: Tokenizer, dtype: str, number: float
) -> None:
    model = random_model(tiny_config("llama", vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        model.head.weight[0, 0] = number
    save_step(Path("hub"), model, tokenizer, {})
    outcome = gptlite("export", "hub", "--dtype", dtype)
    assert outcome.code == 6 and not Path(f"hub-{dtype}.gguf").exists()
    assert "beyond the range" in outcome.err and "--dtype f32" in outcome.err

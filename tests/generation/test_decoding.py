"""Which decoder is chosen: the compiled one where it pays and can be had, else the model as it is; and why."""

from __future__ import annotations

import pwd
import shutil
from pathlib import Path

import pytest
from conftest import Command, random_model, tiny_config

from gptlite.errors import UsageError
from gptlite.generation import decoding
from gptlite.generation.decoding import EagerDecoder, choose_decoding
from gptlite.generation.packed import CompiledDecoder
from gptlite.kernels import build
from gptlite.model import GPT

needs_a_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> GPT:
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-O0"))  # to compile is quick, to compute is not asked here
    return random_model(tiny_config("qwen3"))


@needs_a_compiler
def test_compiling_has_to_be_worth_it_once(model: GPT) -> None:
    assert choose_decoding(model, 200).describe() == (
        "fp32, not compiled: so short a text is written sooner than a decoder is compiled"
    )
    first = choose_decoding(model, 1_000_000)
    assert first.packed is not None and "for a compiler, once on this machine" in first.reason
    again = choose_decoding(model, 1)
    assert again.describe() == "fp32, compiled: ready since an earlier run"


@needs_a_compiler
def test_a_damaged_decoder_is_compiled_again_once_and_said_so(model: GPT) -> None:
    choose_decoding(model, 1, compile="on")
    (library,) = Path("cache/kernels").glob("decoding-*.so")
    library.write_bytes(library.read_bytes()[:-1000])
    repaired = choose_decoding(model, 1)
    assert repaired.packed is not None
    assert "cache/kernels was damaged and has been compiled again in" in repaired.reason
    assert choose_decoding(model, 1).reason == "ready since an earlier run"


@needs_a_compiler
def test_whether_it_pays_is_decided_before_a_compiler_is_called(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = Path("compiler").absolute()
    compiler.write_text("#!/bin/sh\necho >> called\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert choose_decoding(model, 200).reason == "so short a text is written sooner than a decoder is compiled"
    assert not Path("called").exists()
    for n_calls, how in ((4, "auto"), (4, "auto"), (8, "on")):  # a failure is remembered, unless it is asked for
        assert "compiler could not compile it" in choose_decoding(model, 1_000_000, compile=how).reason
        assert len(Path("called").read_text()) == n_calls


@needs_a_compiler
def test_where_others_may_write_to_the_cache_machine_code_is_kept_elsewhere(
    model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Path("shared")
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("GPTLITE_CACHE", "shared")
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("own").absolute()))
    assert choose_decoding(model, 1, compile="on").packed is not None
    assert not list(shared.rglob("*.so")) and list(Path("own/gptlite/kernels").glob("decoding-*.so"))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(shared.absolute()))
    assert "others may write to" in choose_decoding(model, 1, compile="on").reason


def test_a_model_that_is_being_trained_is_not_packed(model: GPT) -> None:
    assert choose_decoding(model.train(), 1, compile="on").reason == "the model is in training mode"


@needs_a_compiler
@pytest.mark.parametrize("wish", [{"compile": "on"}, {"dtype": "int8"}], ids=str)
def test_who_asks_for_it_gets_it(model: GPT, wish: dict[str, str]) -> None:
    chosen = choose_decoding(model, 1, **wish)
    assert chosen.packed is not None and chosen.packed.dtype == wish.get("dtype", "fp32")
    assert isinstance(chosen.start(2), CompiledDecoder)


def test_who_does_not_want_it_goes_without(model: GPT) -> None:
    chosen = choose_decoding(model, 1_000_000, compile="off")
    assert isinstance(chosen.start(2), EagerDecoder)
    assert chosen.describe() == "fp32, not compiled: as asked"
    with pytest.raises(UsageError, match="`dtype` int8 needs compiled decoding"):
        choose_decoding(model, 1, dtype="int8", compile="off")


@pytest.mark.parametrize("wrong", [{"dtype": "bf16"}, {"compile": "yes"}], ids=str)
def test_choices_are_checked(model: GPT, wrong: dict[str, str]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(UsageError, match=f"`{name}` must be one of .*, not '{value}'"):
        choose_decoding(model, 1, **wrong)


@pytest.mark.parametrize("dtype", decoding.DTYPES)
def test_without_a_compiler_text_is_written_all_the_same(
    model: GPT, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    chosen = choose_decoding(model, 1_000_000, dtype=dtype, compile="on")
    assert isinstance(chosen.start(1), EagerDecoder)
    assert chosen.describe() == "fp32, not compiled: no C compiler (no-such-compiler) was found"


def test_other_devices_decode_as_they_do(model: GPT) -> None:
    assert choose_decoding(model.to("meta"), 1, compile="on").describe() == "fp32, not compiled: meta decodes as it is"


def test_memory_must_hold_the_weights_twice(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "available_memory", lambda device: 1000)
    assert "memory does not hold its weights twice" in choose_decoding(model, 1, compile="on").reason


def test_without_a_home_nothing_is_compiled(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GPTLITE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: {}["unknown"])
    assert "no folder to keep" in choose_decoding(model, 1, compile="on").reason


# -- On the command line


@needs_a_compiler
def test_the_command_says_how_it_decodes(gptlite: Command, trained_run: Path) -> None:
    line = ("generate", "Ada", "-m", trained_run, "--seed", "1", "--max-new-tokens", "60")
    plain, first, again = gptlite(*line), gptlite(*line, "--compile", "on"), gptlite(*line)
    assert plain.out == first.out == again.out
    said = [outcome.err.splitlines()[-1] for outcome in (plain, first, again)]
    assert said[0].endswith("· seed 1"), "so short a text is not worth a compiler, and no word"
    assert said[1].startswith("fp32, compiled: ") and said[1].endswith("for a compiler, once on this machine")
    assert said[2] == "fp32, compiled: ready since an earlier run"
    rounded = gptlite(*line, "--dtype", "int8")
    assert rounded.code == 0 and rounded.err.splitlines()[1] == "int8, compiled: ready since an earlier run"


@pytest.mark.parametrize("wrong", ["--dtype fp16", "--compile maybe", "--dtype int8 --compile off"])
def test_what_the_command_does_not_know_is_code_2(gptlite: Command, trained_run: Path, wrong: str) -> None:
    outcome = gptlite("generate", "Ada", "-m", trained_run, *wrong.split())
    assert (outcome.code, outcome.out) == (2, "")

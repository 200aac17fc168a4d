"""Checkpoints that are damaged, forged or strange: each is refused in a sentence, before it costs memory or time.

Every forgery has a manifest that fits, so that only what the files say can give it away.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import random
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import Command, random_model, tiny_config
from support.forging import (
    FILES,
    MODEL_FILES,
    STEP,
    join_safetensors,
    read_everything,
    save_whole_step,
    seal,
    split_safetensors,
    with_digest,
)

from gptlite.checkpoint import hf, runs, saved_step
from gptlite.config import ARCHITECTURES, ModelConfig
from gptlite.errors import CheckpointError, LimitError, NumericsError
from gptlite.model import GPT
from gptlite.storage.durable import MANIFEST, json_bytes
from gptlite.storage.reader import Reader, read_manifest
from gptlite.text.tokenizer import Tokenizer

row = pytest.mark.row


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    return save_whole_step(tmp_path_factory.mktemp("whole"), tokenizer)


@pytest.fixture
def step(tmp_path: Path, template: Path) -> Path:
    """A step that a test may damage."""
    return Path(shutil.copytree(template, tmp_path / STEP))


def refused(step: Path, match: str, kind: type[Exception] | tuple[type[Exception], ...] = CheckpointError) -> str:
    """The one short sentence, within a second."""
    began = time.process_time()
    with pytest.raises(kind, match=match) as caught:
        read_everything(step)
    assert time.process_time() - began < 1
    message = str(caught.value)
    assert len(message.encode()) < 2048
    assert "\n" not in message
    return message


def change_json(step: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Edit the object in a JSON file, or put what `change` returns in its place, and seal the step."""
    content = json.loads((step / name).read_text())
    changed = change(content)
    (step / name).write_text(json.dumps(content if changed is None else changed))
    seal(step)


def change_header(step: Path, change: Callable[[dict[str, Any]], Any], name: str = "model.safetensors") -> None:
    header, data = split_safetensors((step / name).read_bytes())
    changed = change(header)
    (step / name).write_bytes(join_safetensors(header if changed is None else changed, data))
    seal(step)


def change_tensors(step: Path, name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = safetensors.torch.load_file(step / name)
    change(tensors)
    safetensors.torch.save_file(tensors, step / name)
    seal(step)


def test_the_template_is_what_it_should_be(step: Path) -> None:
    read_everything(step)
    seal(step)
    read_everything(step)


# -- What is missing, cut, damaged or mixed


@row("K02")
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file_is_named(step: Path, name: str) -> None:
    (step / name).unlink()
    refused(step, rf"{name} is missing")


@row("K02")
def test_generating_needs_no_training_state(step: Path) -> None:
    for folder in ("training_state", "embedding"):
        shutil.rmtree(step / folder)
    (step / "generation_config.json").unlink()
    saved_step.load(step)


@row("K03")
@pytest.mark.parametrize("n", [40, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_cut_files_are_refused(step: Path, name: str, n: int) -> None:
    content = (step / name).read_bytes()
    rng = random.Random(name)
    for length in (0, *(rng.randrange(len(content)) for _ in range(n))):
        (step / name).write_bytes(content[:length])
        with (
            pytest.raises(CheckpointError, match=rf"{name} (is damaged: it has {length:,} bytes, and|is not JSON)"),
            Reader(step) as reader,
        ):
            reader.verify(name)


@row("K04")
@pytest.mark.parametrize("n", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_noticed(step: Path, n: int) -> None:
    contents = {name: (step / name).read_bytes() for name in (*FILES, MANIFEST)}
    rng = random.Random(4)
    for _ in range(n):
        name = rng.choice(list(contents))
        flipped = bytearray(contents[name])
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        (step / name).write_bytes(flipped)
        with pytest.raises(CheckpointError, match=name), Reader(step) as reader:
            reader.verify(name)
        (step / name).write_bytes(contents[name])


@row("K04")
@pytest.mark.parametrize("stride", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_every_flipped_bit_of_the_manifest_is_noticed(step: Path, stride: int) -> None:
    content = (step / MANIFEST).read_bytes()
    unnoticed = []
    for bit in range(0, 8 * len(content), stride):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (step / MANIFEST).write_bytes(flipped)
        try:
            read_manifest(step)
            unnoticed.append(bit)
        except CheckpointError:
            pass
    assert unnoticed == []


@row("K04")
def test_damage_is_named_before_what_came_of_it(step: Path) -> None:
    """A flipped bit in a header would else be told as a tensor that is missing."""
    content = (step / "model.safetensors").read_bytes()
    (step / "model.safetensors").write_bytes(content.replace(b"model.norm.weight", b"model.Norm.weight"))
    refused(step, r"model\.safetensors is damaged: its bytes are not those saved")


@row("K05")
@pytest.mark.parametrize("tail", [b"\0", b"#!/bin/sh\n", b"PK\x05\x06" + 18 * b"\0"], ids=["zero", "script", "zip"])
@pytest.mark.parametrize("name", FILES)
def test_nothing_hides_behind_a_file(step: Path, name: str, tail: bytes) -> None:
    with open(step / name, "ab") as file:
        file.write(tail)
    refused(step, rf"{name} is damaged: it has")
    seal(step)
    refused(step, name)


@row("K06", "K29")
@pytest.mark.parametrize("name", MODEL_FILES)
def test_files_of_two_steps_do_not_mix(step: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "other").mkdir()
    other_tokenizer = Tokenizer.train(["the cat sat on the mat and the dog sat on the log " * 40], 270)
    other = save_whole_step(tmp_path / "other", other_tokenizer, seed=1)
    shutil.copy(other / name, step / name)
    if name != "tokenizer_config.json":  # that of both is the same
        refused(step, rf"{name} is damaged")


@row("K41")
def test_the_bytes_that_were_verified_are_those_that_are_parsed(step: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever replaces the file after its digest was computed is too late."""
    expected = saved_step.load(step).model.state_dict()
    verify = Reader._compare

    def replaced(reader: Reader, name: str, digest: Any) -> None:
        verify(reader, name, digest)
        (step / name).write_bytes(b"someone else's")

    monkeypatch.setattr(Reader, "_compare", replaced)
    loaded = saved_step.load(step).model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())


@row("K41")
def test_a_file_that_changes_between_header_and_data_is_refused(step: Path) -> None:
    with Reader(step, {}) as reader:
        table = reader.table("model.safetensors")
        content = bytearray((step / "model.safetensors").read_bytes())
        content[20] ^= 1
        (step / "model.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match="changed while it was read"):
            reader.tensors("model.safetensors", table)


# -- The header of a safetensors file


@row("K07")
@pytest.mark.parametrize("length", [0, 1, "size - 7", 10**8 + 1, 2**63, 2**64 - 1])
def test_impossible_header_lengths_are_refused(step: Path, length: int | str) -> None:
    content = (step / "model.safetensors").read_bytes()
    number = len(content) - 7 if isinstance(length, str) else length
    (step / "model.safetensors").write_bytes(number.to_bytes(8, "little") + content[8:])
    seal(step)
    refused(step, r"model\.safetensors is not a safetensors file")


@row("K07", "K13")
def test_a_header_is_never_longer_than_a_megabyte(step: Path) -> None:
    change_header(step, lambda header: json.dumps(header) + " " * (1 << 20))
    refused(step, r"its header has 1,\d{3},\d{3} bytes")


@row("K08")
@pytest.mark.parametrize(
    "header",
    [
        b"\xff\xfe",
        b"{\xff}",
        b"{]",
        b"[]",
        b'"x"',
        b"  {}",
        b"{" * 200_000,
        b'{"a":' * 200_000,
        b"",
        b"{}{}",
        b"\0" * 9,
    ],
    ids=lambda header: repr(header[:9]),
)
def test_headers_that_are_no_json_object_are_refused(step: Path, header: bytes) -> None:
    change_header(step, lambda _: header)
    refused(step, r"model\.safetensors")


def first(header: dict[str, Any]) -> dict[str, Any]:
    """The entry of the tensor whose data come first."""
    return min((e for n, e in header.items() if n != "__metadata__"), key=lambda entry: entry["data_offsets"][0])


@row("K09", "K11")
@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [4, 68]},
        {"data_offsets": [0, 60]},
        {"data_offsets": [64, 0]},
        {"data_offsets": [-64, 0]},
        {"data_offsets": [0.0, 64.0]},
        {"data_offsets": [0, True]},
        {"data_offsets": [0]},
        {"data_offsets": [0, 2**63]},
        {"data_offsets": [0, 10**30]},
        {"data_offsets": None},
        {"shape": [2**32, 2**32, 2**32]},
        {"shape": [-1, -16]},
        {"shape": [16.0]},
        {"shape": [True]},
        {"shape": [0]},
        {"shape": []},
        {"shape": [1] * 100_000},
        {"shape": "16"},
        {"shape": [[16]]},
        {"dtype": "F128"},
        {"dtype": None},
        {"dtype": 32},
        {"extra": 1},
    ],
    ids=lambda change: str(change)[:40],
)
def test_entries_that_cannot_be_are_refused(step: Path, change: dict[str, Any]) -> None:
    change_header(step, lambda header: first(header).update(change))
    refused(step, r"model\.safetensors")


@row("K09")
@pytest.mark.parametrize("kind", ["overlap", "hole", "swapped"])
def test_data_is_covered_once(step: Path, kind: str) -> None:
    def change(header: dict[str, Any]) -> None:
        norms = [e for n, e in header.items() if n.endswith("layernorm.weight")]
        a, b = norms[:2]
        if kind == "overlap":
            b["data_offsets"] = list(a["data_offsets"])
        elif kind == "hole":
            header.clear()
        else:
            a["data_offsets"] = a["data_offsets"][::-1]

    change_header(step, change)
    refused(step, r"model\.safetensors")


@row("K10")
def test_a_tensor_that_is_named_twice_is_refused(step: Path) -> None:
    """The library takes the last one."""

    def twice(header: dict[str, Any]) -> str:
        name = "model.norm.weight"
        return f'{{"{name}": {json.dumps(header[name])}, {json.dumps(header)[1:]}'

    change_header(step, twice)
    safetensors.torch.load((step / "model.safetensors").read_bytes())
    refused(step, r"the name 'model\.norm\.weight' stands in it twice")


@row("K11")
def test_a_file_without_tensors_is_refused(step: Path) -> None:
    (step / "model.safetensors").write_bytes(join_safetensors({}, b""))
    seal(step)
    refused(step, r"has 0 tensors, too few for 2 layers")


@row("K12")
@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64", "I32", "I64", "U8", "BOOL", "F8_E4M3"])
def test_weights_of_another_dtype_are_refused(step: Path, dtype: str) -> None:
    """In our own steps; those of others may hold halves and doubles."""
    kind = {"F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64, "I32": torch.int32}
    kind |= {"I64": torch.int64, "U8": torch.uint8, "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn}

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"].to(kind[dtype])

    change_tensors(step, "model.safetensors", change)
    refused(step, rf"'model\.norm\.weight' is {dtype}, which is not F32")
    hub = step.rename(step.with_name("hub"))
    (hub / MANIFEST).unlink()
    if dtype in saved_step.FLOATS:
        saved_step.load(hub)
    else:
        with pytest.raises(CheckpointError, match=rf"is {dtype}, which is not F32 or F16"):
            saved_step.load(hub)


@row("K12")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_tensor_must_have_its_shape(tmp_path: Path, tokenizer: Tokenizer, architecture: str) -> None:
    step = save_whole_step(tmp_path, tokenizer, architecture)
    whole = safetensors.torch.load_file(step / "model.safetensors")
    for name, tensor in whole.items():
        for wrong in (tensor[..., :-1], tensor[None], None):
            changed = {n: t for n, t in {**whole, name: wrong}.items() if t is not None}
            safetensors.torch.save_file({n: t.contiguous() for n, t in changed.items()}, step / "model.safetensors")
            seal(step)
            with pytest.raises(CheckpointError, match=rf"{name}' (has the shape|is missing)"):
                saved_step.load(step)


@row("K12")
@pytest.mark.parametrize("name", ["embedding/statistics.safetensors", "training_state/optimizer.safetensors"])
def test_other_tensors_must_be_those_expected(step: Path, name: str) -> None:
    header, _ = split_safetensors((step / name).read_bytes())
    tensor = min(header.keys() - {"__metadata__"})
    for change in (
        lambda tensors: tensors.pop(tensor),
        lambda tensors: tensors.update(extra=torch.zeros(1)),
        lambda tensors: tensors.update({tensor: tensors[tensor].half()}),
        lambda tensors: tensors.update({tensor: tensors[tensor][None]}),
    ):
        content = (step / name).read_bytes()
        change_tensors(step, name, change)
        refused(step, rf"{name}: tensor '.*' is .* instead of")
        (step / name).write_bytes(content)


@row("K13", "K14")
@pytest.mark.parametrize(
    "names",
    [[f"t{i}" for i in range(9_000)], ["../../etc/passwd"], ["\x1b[2J\n"], ["n" * 1_000_000], ["/etc/passwd", "\0"]],
    ids=["many", "path", "escape", "long", "more"],
)
def test_names_are_only_names(step: Path, names: list[str]) -> None:
    header = {n: {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i, n in enumerate(names)}
    (step / "model.safetensors").write_bytes(join_safetensors(header, bytes(len(names))))
    seal(step)
    message = refused(step, r"model\.safetensors")
    assert message.isprintable()


# -- What tensors hold


def poke(prefix: str, value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    """Put `value` at the end of each tensor whose name begins so."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                tensor.view(-1)[-1] = value

    return change


@row("K15", "N03")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("model.safetensors", "model.norm.weight"),
        ("embedding/statistics.safetensors", "std"),
        ("training_state/optimizer.safetensors", "exp_avg.transformer.norm.weight"),
    ],
)
def test_numbers_that_are_none_are_refused(step: Path, name: str, tensor: str, value: float) -> None:
    change_tensors(step, name, poke(tensor, value))
    refused(step, rf"{name}: 1 of the \d+ values of tensor '{tensor}' are not finite")


@row("K15", "N03")
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("part", ["model", "optimizer", "statistics"])
def test_numbers_that_are_none_are_never_saved(tmp_path: Path, tokenizer: Tokenizer, part: str, value: float) -> None:
    bad = {"exp_avg.head.weight": torch.tensor([1.0, value])}
    model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size))
    if part == "model":
        with torch.no_grad():
            model.transformer.norm.weight[3] = value
    with pytest.raises(NumericsError, match=r"1 of the .* not finite"):
        saved_step.save_step(
            tmp_path / STEP,
            model,
            tokenizer,
            {},
            training_state={"optimizer.safetensors": saved_step.tensors_to_bytes(bad)} if part == "optimizer" else None,
            embedding=bad if part == "statistics" else None,
        )
    assert not (tmp_path / STEP).exists()


@row("K34")
@pytest.mark.parametrize(
    ("prefix", "value"),
    [("exp_avg_sq.", -1.0), ("step.", -1.0), ("step.", 0.5), ("step.", 1e30), ("step.", float("nan"))],
    ids=str,
)
def test_optimizers_that_no_training_leaves_are_refused(step: Path, prefix: str, value: float) -> None:
    change_tensors(step, "training_state/optimizer.safetensors", poke(prefix, value))
    refused(step, r"optimizer\.safetensors: ")


@row("K35")
@pytest.mark.parametrize(
    "state",
    [
        torch.zeros(5056, dtype=torch.uint8),
        torch.full((5056,), 255, dtype=torch.uint8),
        torch.randint(256, (5056,), generator=torch.Generator().manual_seed(0)).to(torch.uint8),
        torch.zeros(16, dtype=torch.uint8),
        torch.zeros(5057, dtype=torch.uint8),
        torch.zeros(5056, dtype=torch.int8),
        torch.zeros(0, dtype=torch.uint8),
    ],
    ids=["zeros", "ones", "random", "short", "long", "signed", "empty"],
)
def test_random_states_that_are_none_are_refused(step: Path, state: torch.Tensor) -> None:
    change_tensors(step, "training_state/rng.safetensors", lambda tensors: tensors.update(cpu=state))
    refused(step, r"rng\.safetensors")


@row("K36")
def test_a_step_is_the_one_its_name_says(step: Path) -> None:
    change_json(step, "training_state/state.json", lambda state: state.update(step=8))
    refused(step, r"state\.json is that of step 8, which is not the one it lies in")
    renamed = step.rename(step.with_name("step-000000008"))
    refused(renamed, r"MANIFEST\.json is that of step 7, which is not this one")
    seal(renamed, step=8)
    read_everything(renamed)


@row("K36")
@pytest.mark.parametrize(
    "change",
    [
        {"step": -7},
        {"step": True},
        {"step": "7"},
        {"step": 7.0},
        {"tokens": 10**30},
        {"elapsed": -1.0},
        {"elapsed": "now"},
        {"train_loss": "low"},
        {"history": []},
        {"history": {"x": 1.0}},
        {"history": {"7": None}},
        {"history": {"8": 1.0}},
        {"history": {"7": -1.0}},
        {"warned_of_rise": 1},
        {"unknown": 1},
    ],
    ids=str,
)
def test_states_that_no_training_leaves_are_refused(step: Path, change: dict[str, Any]) -> None:
    change_json(step, "training_state/state.json", lambda state: state.update(change))
    refused(step, r"state\.json")


# -- config.json


@row("K16")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_key_that_is_needed_is_missed(architecture: str) -> None:
    theirs = hf.to_hf_config(tiny_config(architecture), 0)
    optional = {"n_kv_heads", "head_dim", "rope_theta", "norm_eps"}
    optional |= {"hidden_dim"} if architecture in ("gpt2", "transformer-2017") else set()
    keys = {field.ours: field.theirs for field in hf.BY_ARCHITECTURE[architecture].fields if field.theirs}
    for name, key in keys.items():
        rest = {k: v for k, v in theirs.items() if k != key}
        if name in optional:
            hf.from_hf_config(rest)
        else:
            with pytest.raises(CheckpointError, match=f"has no '{key}'"):
                hf.from_hf_config(rest)


@row("K16")
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "tokenizer.json", "training_state/state.json"]
)
def test_a_key_that_stands_twice_is_refused(step: Path, name: str) -> None:
    content = json.loads((step / name).read_text())
    key = min(content)
    (step / name).write_text(f'{{"{key}": {json.dumps(content[key])}, {json.dumps(content)[1:]}')
    seal(step)
    refused(step, rf"the name '{key}' stands in it twice")


NUMBERS = ("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads")
NUMBERS += ("num_key_value_heads", "head_dim", "intermediate_size", "rms_norm_eps")


@row("K17", "K18")
@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_must_be_one(step: Path, key: str) -> None:
    config = json.loads((step / "config.json").read_text())
    strange = [
        '"12"',
        "true",
        "[12]",
        "{}",
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "0",
        "-1",
        "9" * 5000,
        "1" + "0" * 30,
    ]
    strange += ["2147483648", "1000000000000"] + (["12.0", "1.5"] if key != "rms_norm_eps" else [])
    strange += [] if key in ("num_key_value_heads", "head_dim", "rms_norm_eps") else ["null"]
    for value in strange:
        (step / "config.json").write_text(json.dumps({**config, key: "?"}).replace('"?"', value))
        seal(step)
        refused(step, r"config\.json", (CheckpointError, LimitError))


@row("K18")
@pytest.mark.parametrize("size", [10**3, 10**5, 10**8, 2**31 - 1])
@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_no_number_makes_a_model_that_is_not_in_the_file(
    tmp_path: Path, tokenizer: Tokenizer, architecture: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = save_whole_step(tmp_path, tokenizer, architecture)
    config = json.loads((step / "config.json").read_text())
    built: list[str] = []
    sizes = [field for field in hf.BY_ARCHITECTURE[architecture].fields if field.theirs and not field.real]
    assert {"dim", "n_layers", "n_heads", "context_length", "vocab_size"} <= {field.ours for field in sizes}
    for field in sizes:
        monkeypatch.setattr("gptlite.model.GPT", lambda config, ours=field.ours: built.append(ours) or GPT(config))
        change_json(step, "config.json", lambda content, key=field.theirs: {**config, key: size})
        with contextlib.suppress(CheckpointError, LimitError):
            saved_step.load(step)
    # Rotary positions are computed, so their number is bounded by a limit of its own.
    assert built == (["context_length"] if architecture == "qwen3" and size <= 10**5 else [])


@row("K18")
def test_a_model_larger_than_memory_is_a_limit(step: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_step, "ALWAYS_THERE", 0)
    monkeypatch.setattr("gptlite.device.available_memory", lambda _: 1000)
    refused(step, "more than this machine has free", LimitError)


@row("K19")
@pytest.mark.parametrize(
    ("architecture", "change"),
    [
        ("gpt2", {"n_head": 3}),
        ("gpt2", {"resid_pdrop": -1}),
        ("gpt2", {"attn_pdrop": 2.0}),
        ("gpt2", {"embd_pdrop": "0.1"}),
        ("gpt2", {"activation_function": "tanh"}),
        ("qwen3", {"attention_dropout": 1.5}),
        ("qwen3", {"attention_dropout": True}),
        ("qwen3", {"hidden_act": "evil"}),
        ("qwen3", {"attention_bias": 0}),
        ("qwen3", {"tie_word_embeddings": "yes"}),
        ("qwen3", {"tie_word_embeddings": None}),
        ("qwen3", {"rms_norm_eps": -1e-6}),
        ("qwen3", {"rope_parameters": {"rope_theta": -5.0}}),
        ("qwen3", {"rope_parameters": {"rope_theta": 1e-300}}),
        ("qwen3", {"rope_parameters": {"rope_theta": 1e300}}),
        ("qwen3", {"rope_parameters": {"rope_type": {"a": 1}}}),
    ],
    ids=str,
)
def test_values_that_do_not_fit_together_are_refused(architecture: str, change: dict[str, Any]) -> None:
    theirs = hf.to_hf_config(tiny_config(architecture), 0) | change
    with pytest.raises(CheckpointError, match=r"^config\.json: "):
        hf.from_hf_config(theirs)


@row("K19")
@pytest.mark.parametrize("theta", [1e-300, 1e-320, 1e300])
def test_positions_that_are_not_numbers_are_refused(gptlite: Command, step: Path, theta: float) -> None:
    """With such a base the angles of positions overflow, and all vectors would be NaN."""
    change_json(step, "config.json", lambda content: {**content, "rope_parameters": {"rope_theta": theta}})
    for line in (("info", step), ("generate", "-m", step, "-p", "the"), ("embed", "-m", step, "the [bank]")):
        outcome = gptlite(*line)
        assert (outcome.code, outcome.out) == (4, ""), line
        assert re.search(r"config\.json: .*rope_theta\S* must be (from 0\.001 to 1e15|a number), not", outcome.err)


@row("K20")
@pytest.mark.parametrize(
    "content",
    [
        b" " * (1 << 20) + b"{}",
        b'{"a":' * 1_000 + b"1" + b"}" * 1_000,
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b"[" * 1_000_000,
        b"\xef\xbb\xbf{}",
        '{"model_type": "qwen3"}'.encode("utf-16"),
        '{"model_type": "qwen3"}'.encode("utf-32"),
        rb'{"model_type": "\ud800"}',
        b'{"model_type": "\xed\xa0\x80"}',
        rb'{"\udfff": 1}',
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": 0x10}',
        b'{"a": 1} // b',
    ],
    ids=lambda content: repr(content[:16]),
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "training_state/state.json"])
def test_strange_json_is_refused(step: Path, name: str, content: bytes) -> None:
    (step / name).write_bytes(content)
    seal(step)
    refused(step, name)


@row("K30")
def test_vocabularies_must_agree(step: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    change_json(step, "config.json", lambda config: config.update(vocab_size=tokenizer.vocab_size + 1))
    refused(step, rf"'model\.embed_tokens\.weight' has the shape \({tokenizer.vocab_size}, 32\), not \(321, 32\)")
    small = random_model(tiny_config("qwen3", vocab_size=300))
    saved_step.save_step(tmp_path / "small", small, tokenizer, {})
    with pytest.raises(CheckpointError, match="the tokenizer has 320 tokens, the model only 300"):
        saved_step.load(tmp_path / "small")


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_shapes_that_are_expected_are_those_of_the_model(architecture: str, tie: bool) -> None:
    if architecture == "transformer-2017" and not tie:
        return
    shared = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 6} if architecture in ("qwen3", "llama") else {}
    config: ModelConfig = tiny_config(architecture, tie_embeddings=tie, **shared)
    theirs = hf.to_hf_tensors(config, GPT(config).state_dict())
    assert hf.expected_shapes(config) == {name: tuple(tensor.shape) for name, tensor in theirs.items()}


# -- The manifest


@row("K22")
@pytest.mark.parametrize(
    "name",
    [
        *(
            "../config.json",
            "/etc/passwd",
            "a/b",
            "a/b.json",
            "..\\config.json",
            "config.json\0",
            "",
            ".",
            "..",
            "LOCK",
        ),
        *("training_state/../config.json", "training_state/", "training_state/x.pkl", "training_state/a/b.json"),
    ],
    ids=repr,
)
def test_a_manifest_names_only_what_gptlite_writes(step: Path, name: str) -> None:
    manifest = json.loads((step / MANIFEST).read_text())
    manifest["files"][name] = {"size": 0, "sha256": "0" * 64}
    (step / MANIFEST).write_bytes(json_bytes(with_digest(manifest)))
    refused(step, "lists the file .* which gptlite does not write")


@row("K22")
def test_a_file_that_is_listed_twice_is_refused(step: Path) -> None:
    content = (step / MANIFEST).read_text()
    entry = json.dumps(json.loads(content)["files"]["config.json"])
    (step / MANIFEST).write_text(content.replace('"files": {', f'"files": {{"config.json": {entry},'))
    refused(step, "the name 'config.json' stands in it twice")


@row("K22", "K26")
def test_files_beside_those_listed_are_never_opened(step: Path) -> None:
    for name in ("weights.bin", "model.pt", "extra.safetensors", "tokenizer.pkl", "model.safetensors.index.json"):
        (step / name).write_bytes(pickle.dumps(Bomb()))
    read_everything(step)
    assert not Path("unpickled").exists()


class Bomb:
    """Unpickling this leaves a folder behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("unpickled",)


@row("K26")
@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "weights.ckpt", "model.pkl"])
def test_a_pickle_that_is_named_is_refused(gptlite: Command, name: str) -> None:
    Path(name).write_bytes(pickle.dumps(Bomb()))
    outcome = gptlite("generate", "-m", name)
    assert (outcome.code, outcome.out) == (4, "")
    assert "it is a pickle, which can run code and is never opened" in outcome.err
    assert not Path("unpickled").exists()


@row("K27")
@pytest.mark.parametrize("version", [2, 0, -1, "1", 1.0, True, None, [1]], ids=repr)
def test_other_formats_are_refused(step: Path, version: Any) -> None:
    seal(step, format=version)
    refused(step, r"has format .*; this gptlite reads format 1")


@row("K28")
def test_steps_from_before_manifests_had_digests_load(step: Path) -> None:
    manifest = json.loads((step / MANIFEST).read_text())
    old = {key: manifest[key] for key in ("format", "step", "val_bits_per_byte", "files")}
    (step / MANIFEST).write_text(json.dumps(old))
    read_everything(step)


@pytest.mark.parametrize(
    "entry", [{}, {"size": -1}, {"size": 1.0}, {"size": True}, {"sha256": "0" * 63}, {"sha256": 7}]
)
def test_entries_must_have_size_and_digest(step: Path, entry: dict[str, Any]) -> None:
    manifest = json.loads((step / MANIFEST).read_text())
    manifest["files"]["config.json"] = entry and {**manifest["files"]["config.json"], **entry}
    (step / MANIFEST).write_bytes(json_bytes(with_digest(manifest)))
    refused(step, "no size and digest of config.json")


# -- Files that are none


@row("K23")
@pytest.mark.parametrize(
    "target", ["/etc/passwd", "/dev/zero", "{name}", "{copy}"], ids=["file", "zero", "loop", "copy"]
)
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_links_in_a_step_are_not_followed(step: Path, tmp_path: Path, name: str, target: str) -> None:
    """Not even to the same bytes elsewhere."""
    (step / name).rename(tmp_path / "copy")
    (step / name).symlink_to(target.format(name=Path(name).name, copy=tmp_path / "copy"))
    refused(step, rf"cannot read .*{name}: it is a symbolic link")


@row("K23")
@pytest.mark.parametrize("folder", ["training_state", "embedding"])
def test_linked_folders_in_a_step_are_not_followed(step: Path, tmp_path: Path, folder: str) -> None:
    (step / folder).rename(tmp_path / "elsewhere")
    (step / folder).symlink_to(tmp_path / "elsewhere")
    refused(step, rf"cannot read .*{folder}/.*: it does not lie in a plain folder")


@row("K23")
def test_linked_steps_are_no_steps_but_links_for_people_work(step: Path, tmp_path: Path) -> None:
    run = runs.Run(tmp_path / "run")
    run.path.mkdir()
    (run.path / "step-000000007").symlink_to(step)
    assert run.steps() == []
    (run.path / "best").symlink_to(step)
    saved_step.load(runs.find_model(str(run.path / "best")))


@row("K23")
def test_the_cache_of_hugging_face_is_all_links(step: Path, tmp_path: Path) -> None:
    """There a snapshot links to blobs named by their digests, and no manifest says otherwise."""
    expected = saved_step.load(step).model.state_dict()
    snapshot, blobs = tmp_path / "snapshots" / "main", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in MODEL_FILES:
        (step / name).rename(blobs / f"{abs(hash(name)):x}")
        (snapshot / name).symlink_to(Path("../../blobs") / f"{abs(hash(name)):x}")
    loaded = saved_step.load(runs.find_model(str(snapshot))).model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="not a regular file"):
        saved_step.load(snapshot)


def make_socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # their names are short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(before)


@row("K24")
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, make_socket], ids=["pipe", "folder", "socket"])
@pytest.mark.parametrize("manifest", [True, False], ids=["step", "hub"])
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_pipes_folders_and_sockets_do_not_block(
    step: Path, name: str, make: Callable[[Path], None], manifest: bool
) -> None:
    (step / name).unlink()
    make(step / name)
    if not manifest:
        (step / MANIFEST).unlink(missing_ok=True) if name != MANIFEST else None
        step = step.rename(step.with_name("hub"))
    if manifest or name in MODEL_FILES or name == MANIFEST:
        refused(step, name)


@row("K24")
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", "/dev/tty"])
def test_devices_are_not_read(step: Path, device: str) -> None:
    (step / MANIFEST).unlink()
    hub = step.rename(step.with_name("hub"))
    (hub / "config.json").unlink()
    (hub / "config.json").symlink_to(device)
    refused(hub, r"config\.json is not a regular file|cannot read .*config\.json")


@row("K25")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("manifest", ["stale", "fitting", "none"])
def test_a_sparse_terabyte_is_not_read(step: Path, name: str, manifest: str) -> None:
    size = 1 << 40
    try:
        os.truncate(step / name, size)
    except OSError:
        pytest.skip("this file system has no files of a terabyte")
    if manifest == "fitting":
        content = json.loads((step / MANIFEST).read_text())
        content["files"][name]["size"] = size
        (step / MANIFEST).write_bytes(json_bytes(with_digest(content)))
    elif manifest == "none":
        (step / MANIFEST).unlink()
        step = step.rename(step.with_name("hub"))
        if name not in MODEL_FILES:
            return
    refused(step, name)


@row("K25")
def test_what_is_skipped_is_not_read_either(step: Path) -> None:
    """Tables that others store beside the weights are few; these are half a terabyte of nothing."""
    content = (step / "model.safetensors").read_bytes()
    (step / MANIFEST).unlink()
    hub = step.rename(step.with_name("hub"))
    header, data = split_safetensors(content)
    for dtype, size in (("F8_E4M3", 64), ("U8", 1 << 39)):
        extra = {"dtype": dtype, "shape": [size], "data_offsets": [len(data), len(data) + size]}
        whole = join_safetensors({**header, "model.rotary_emb.inv_freq": extra}, data)
        (hub / "model.safetensors").write_bytes(whole)
        try:
            os.truncate(hub / "model.safetensors", len(whole) + size)
        except OSError:
            pytest.skip("this file system has no files of half a terabyte")
        if size == 64:
            saved_step.load(hub)
    refused(hub, "far more than its model needs")


# -- tokenizer.json


def tokenizer_changes() -> dict[str, Callable[[dict[str, Any]], Any]]:
    """Each a change that gives another kind of danger."""

    def part(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda content: content.update({name: value})

    def model(**changes: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda content: content["model"].update(changes)

    def ids(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], None]:
        def edit(content: dict[str, Any]) -> None:
            change(content["model"]["vocab"])

        return edit

    def split(pattern: Any, **more: Any) -> dict[str, Any]:
        cut = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False, **more}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        return {"type": "Sequence", "pretokenizers": [cut, byte_level]}

    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}], "pair": []}
    added = {"id": 10**6, "content": "<x>", "single_word": False, "lstrip": False, "rstrip": False}
    added |= {"normalized": False, "special": True}
    return {
        # These five stop the library with a panic.
        "precompiled": part("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "fixed length": part("pre_tokenizer", {"type": "FixedLength", "length": 0}),
        "template": part("post_processor", {**template, "special_tokens": {}}),
        "stride": part("truncation", {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 9}),
        "regex": part("pre_tokenizer", split({"Regex": "(a+)+$"})),
        # Components that are not ours.
        "lowercase": part("normalizer", {"type": "Lowercase"}),
        "replace": part("normalizer", {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": ""}),
        "metaspace": part("pre_tokenizer", {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}),
        "whitespace": part("pre_tokenizer", {"type": "Whitespace"}),
        "no cut": part("pre_tokenizer", None),
        "empty cut": part("pre_tokenizer", {"type": "Sequence", "pretokenizers": []}),
        "removed": part("pre_tokenizer", split({"Regex": r"\s+"}, behavior="Removed")),
        "inverted": part("pre_tokenizer", split({"Regex": r"\s+"}, invert=True)),
        "string pattern": part("pre_tokenizer", split({"String": "a"})),
        "bert": part("post_processor", {"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}),
        "fuse": part("decoder", {"type": "Fuse"}),
        "word level": part("model", {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}),
        "unigram": part("model", {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]], "byte_fallback": False}),
        "word piece": model(type="WordPiece"),
        "unknown part": part("surprise", 1),
        "unknown field": model(surprise=1),
        "version": part("version", "2.0"),
        # Bombs.
        "padding": part(
            "padding",
            {
                "strategy": {"Fixed": 50_000_000},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "x",
            },
        ),
        "dropout": model(dropout=0.5),
        "dropout of all": model(dropout=1.0),
        # Ids and merges.
        "duplicate id": ids(lambda vocab: vocab.update({"b": vocab["a"]})),
        "gap": ids(lambda vocab: vocab.update({"b": 4_294_967_295})),
        "negative": ids(lambda vocab: vocab.update({"b": -1})),
        "float": ids(lambda vocab: vocab.update({"b": 3.0})),
        "bool": ids(lambda vocab: vocab.update({"b": True})),
        "missing byte": ids(lambda vocab: vocab.pop("b")),
        "no byte": ids(lambda vocab: vocab.update({"天": len(vocab)})),
        "added beyond": lambda content: content["added_tokens"].append(added),
        "added twice": lambda content: content["added_tokens"][0].update(id=5),
        "added id": lambda content: content["added_tokens"][0].update(id="0"),
        "added empty": lambda content: content["added_tokens"][0].update(content=""),
        "added list": part("added_tokens", {"0": "x"}),
        "merge of three": lambda content: content["model"]["merges"].append(["a", "b", "c"]),
        "merge of one": lambda content: content["model"]["merges"].append("ab"),
        "merge unknown": lambda content: content["model"]["merges"].append(["a", "天"]),
        "merge into nothing": lambda content: content["model"]["merges"].append(["~", "~"]),
        "merge of numbers": lambda content: content["model"]["merges"].append([1, 2]),
        "many merges": lambda content: content["model"].update(merges=["a b"] * 1_000_001),
        "no vocabulary": model(vocab=[]),
        "no merges": model(merges=None),
        "prefix": model(continuing_subword_prefix="##"),
        "byte fallback": model(byte_fallback=True),
    }


@row("K31", "K32", "K33")
@pytest.mark.parametrize("change", tokenizer_changes().values(), ids=tokenizer_changes().keys())
def test_no_other_tokenizer_reaches_the_library(
    step: Path, change: Callable[[dict[str, Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    change_json(step, "tokenizer.json", change)
    monkeypatch.setattr("tokenizers.Tokenizer.from_str", lambda _: pytest.fail("the library was asked"), raising=False)
    began = time.process_time()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        saved_step.load(step)
    assert time.process_time() - began < 2


@row("K31")
def test_a_panic_of_the_library_is_an_error(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    """Should one pass all checks: their exception is not derived from Exception."""
    monkeypatch.setattr("gptlite.text.tokenizer.check_tokenizer", lambda text, where: {})
    panic = {**json.loads(tokenizer.to_json()), "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}
    with pytest.raises(CheckpointError, match="tokenizers library"):
        Tokenizer.from_json(json.dumps(panic))


@row("K33")
def test_a_tokenizer_is_at_most_64_megabytes(step: Path) -> None:
    with open(step / "tokenizer.json", "ab") as file:
        file.truncate((64 << 20) + 1)
    (step / MANIFEST).unlink()
    refused(step.rename(step.with_name("hub")), r"tokenizer\.json is larger than 67,108,864 bytes")


LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
LLAMA_3 += r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@row("K31")
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen", "digits"])
def test_tokenizers_of_known_families_load(tokenizer: Tokenizer, family: str) -> None:
    """As Hugging Face spells them: texts for merges, templates, special tokens after the vocabulary."""
    content = json.loads(tokenizer.to_json())
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    plain = {**byte_level, "use_regex": False}
    pattern = LLAMA_3 if family == "llama" else LLAMA_3.replace("{1,3}", "")
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    if family == "gpt2":
        content["model"].pop("type")
        content["model"] |= {"unk_token": "", "continuing_subword_prefix": "", "end_of_word_suffix": ""}
        content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
        content |= {"pre_tokenizer": byte_level, "post_processor": {**byte_level, "add_prefix_space": True}}
    else:
        more = [("<|end|>", True), ("<think>", False)]
        for name, special in more:
            flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
            content["added_tokens"].append({"id": tokenizer.vocab_size + (name == "<think>"), "content": name, **flags})
        first_cut = {"type": "Digits", "individual_digits": True} if family == "digits" else cut
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [first_cut, plain]}
        content["normalizer"] = {"type": "NFC"} if family == "qwen" else None
        content["model"]["ignore_merges"] = family == "llama"
        begin = {"SpecialToken": {"id": "<|end|>", "type_id": 0}}
        text = {"Sequence": {"id": "A", "type_id": 0}}
        template = {"type": "TemplateProcessing", "single": [begin, text], "pair": [begin, text]}
        template["special_tokens"] = {
            "<|end|>": {"id": "<|end|>", "ids": [tokenizer.vocab_size], "tokens": ["<|end|>"]}
        }
        content["post_processor"] = {"type": "Sequence", "processors": [{**plain, "use_regex": True}, template]}
    loaded = Tokenizer.from_json(json.dumps(content))
    text = "Ada finds the river, 1234 times.\n\n  Don't! 天地"
    assert loaded.decode(loaded.encode(text)) == text
    if family != "gpt2":
        assert loaded.token_bytes[-2:] == [b"", b"<think>"]


@row("K16", "K17")
@pytest.mark.parametrize("eos", [7, True, ["x"], {"content": 7}], ids=repr)
def test_a_separator_must_be_text(step: Path, eos: Any) -> None:
    change_json(step, "tokenizer_config.json", lambda config: config.update(eos_token=eos))
    refused(step, "eos_token must be text")


# -- Which step is read


@row("K40")
def test_a_run_that_moves_loads_and_is_left_as_it_was(trained_run: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(trained_run, tmp_path / "elsewhere", symlinks=True))

    def facts() -> list[tuple[str, int, int]]:
        return [(str(p), p.lstat().st_mtime_ns, p.lstat().st_size) for p in sorted(moved.rglob("*"))]

    for path in moved.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    before = facts()
    expected = runs.load(trained_run).model.state_dict()
    for way in (moved, moved / "best", runs.find_model(str(moved))):
        loaded = runs.load(way).model.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())
    assert facts() == before
    for path in (moved, *(p for p in moved.rglob("*") if p.is_dir() and not p.is_symlink())):
        path.chmod(0o755)


def run_with(tmp_path: Path, template: Path, scores: dict[int, Any]) -> runs.Run:
    """A run whose manifests have these scores, spelled as they stand here."""
    run = runs.Run(tmp_path / "run")
    for number, score in scores.items():
        step = Path(shutil.copytree(template, run.step_path(number)))
        seal(step, step=number, val_bits_per_byte="?")
        content = (step / MANIFEST).read_text()
        if isinstance(score, str):  # what no writer of JSON writes
            (step / MANIFEST).write_text(content.replace('"?"', score))
        else:
            seal(step, val_bits_per_byte=score)
    return run


@row("K43", "N11")
@pytest.mark.parametrize("odd", ["NaN", "-Infinity", "1e999", None, "true", '"0.1"', "[0]"], ids=str)
def test_a_score_that_is_none_is_never_the_best(tmp_path: Path, template: Path, odd: str | None) -> None:
    """Whether it comes first or later."""
    for i, scores in enumerate(({1: odd, 2: 2.0, 3: 1.5}, {1: 2.0, 2: 1.5, 3: odd}, {1: 1.5, 2: odd, 3: 2.0})):
        run = run_with(tmp_path / str(i), template, scores)
        best = run.best()
        assert best is not None
        assert best.val_bits_per_byte == 1.5
        assert runs.load(run.path).manifest["val_bits_per_byte"] == 1.5


@row("D18")
@pytest.mark.parametrize("times", [(0, 0, 0), (3e9, 2e9, 1e9), (1, 4e9, 1)], ids=["equal", "backwards", "future"])
def test_clocks_decide_nothing(tmp_path: Path, template: Path, times: tuple[float, ...]) -> None:
    run = run_with(tmp_path, template, {1: 2.0, 2: 1.5, 3: 1.75})
    for number, when in zip((1, 2, 3), times, strict=True):
        for path in (*run.step_path(number).rglob("*"), run.step_path(number)):
            os.utime(path, (when, when))
    latest = run.latest()
    assert latest is not None
    assert latest.number == 3
    assert runs.find_model(str(run.path)) == run.step_path(2)


class Trainer:
    """Saves and prunes steps of one run as fast as it can, in a thread."""

    def __init__(self, run: runs.Run, tokenizer: Tokenizer, keep: int, pause: float = 0.0) -> None:
        self.run, self.tokenizer, self.keep, self.pause = run, tokenizer, keep, pause
        self.model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size))
        self.numbers = itertools.count(1)
        self.errors: list[BaseException] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.work)
        run.path.mkdir(parents=True)

    def save(self) -> None:
        number = next(self.numbers)
        facts = {"step": number, "val_bits_per_byte": 100.0 / number}
        saved_step.save_step(self.run.step_path(number), self.model, self.tokenizer, facts)
        self.run.prune(self.keep)

    def work(self) -> None:
        try:
            while not self.over.wait(self.pause):
                self.save()
        except BaseException as error:
            self.errors.append(error)

    def __enter__(self) -> Trainer:
        self.save()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        assert self.errors == []


@row("P14")
@pytest.mark.parametrize("seconds", [1.5, pytest.param(600.0, marks=pytest.mark.slow)])
def test_a_model_can_be_read_while_it_is_trained(tmp_path: Path, tokenizer: Tokenizer, seconds: float) -> None:
    """Each time one whole step, although the one that is being read may be deleted."""
    with Trainer(runs.Run(tmp_path / "run"), tokenizer, keep=1, pause=0.01) as trainer:
        expected = trainer.model.state_dict()
        end = time.monotonic() + seconds
        seen = set()
        while time.monotonic() < end:
            loaded = runs.load(tmp_path / "run")
            seen.add(loaded.path.name)
            assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.model.state_dict().items())
    assert len(seen) > 1


@row("P14")
@pytest.mark.parametrize("times", [1, 3, 4])
def test_a_step_that_is_pruned_while_it_is_read(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    trainer = Trainer(runs.Run(tmp_path / "run"), tokenizer, keep=1)
    trainer.save()
    load, left = saved_step.load, [times]

    def pruned(path: Path, device: str) -> saved_step.Checkpoint:
        left[0] -= 1
        if left[0] >= 0:
            trainer.save()
        return load(path, device)

    monkeypatch.setattr(runs, "read_checkpoint", pruned)
    if times <= 3:
        assert runs.load(tmp_path / "run").path.name == f"step-{times + 1:09}"
    else:
        with pytest.raises(CheckpointError):
            runs.load(tmp_path / "run")


@row("D21")
def test_a_copy_that_is_made_while_training_holds_whole_steps_or_refuses(tmp_path: Path, tokenizer: Tokenizer) -> None:
    if shutil.which("cp") is None:
        pytest.skip("there is no cp")
    with Trainer(runs.Run(tmp_path / "run"), tokenizer, keep=4, pause=0.03) as trainer:
        expected = trainer.model.state_dict()
        for i in range(10):
            copy = tmp_path / f"copy-{i}"
            subprocess.run(["cp", "-r", tmp_path / "run", copy], stderr=subprocess.DEVNULL, check=False)
            whole = 0
            for entry in copy.glob("step-*"):
                try:
                    state = saved_step.load(entry).model.state_dict()
                except CheckpointError:
                    continue
                whole += 1
                assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
            assert whole >= 1

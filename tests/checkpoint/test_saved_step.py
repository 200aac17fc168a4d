"""Saved steps: complete, verified when read, and all of one or nothing after a failure."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pickle
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import random_model, tiny_config
from support.forging import with_digest

from gptlite.checkpoint import saved_step
from gptlite.checkpoint.saved_step import load, save_step
from gptlite.config import TrainConfig
from gptlite.errors import CheckpointError, LimitError, StorageError
from gptlite.storage import durable
from gptlite.storage.durable import MANIFEST
from gptlite.storage.reader import Reader, read_manifest
from gptlite.text.tokenizer import Tokenizer
from gptlite.training import optimizer
from gptlite.training.state import restore_training_state

STEP = "step-000000007"
PARSED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
TRAINING = tuple(f"training_state/{name}" for name in ("optimizer.safetensors", "rng.safetensors", "state.json"))
LISTED = (*PARSED, "generation_config.json", *TRAINING, "embedding/statistics.safetensors", "embedding/words.json")
PLACES = (0.0, 0.3, 0.7, 1.0)


def training_files() -> dict[str, bytes]:
    return {
        "optimizer.safetensors": saved_step.tensors_to_bytes({"step.transformer.embed.weight": torch.tensor(7.0)}),
        "rng.safetensors": saved_step.tensors_to_bytes({"cpu": torch.get_rng_state()}),
        "state.json": durable.json_bytes({"step": 7, "history": {"7": 1.5}}),
    }


def save(parent: Path, tokenizer: Tokenizer, architecture: str = "qwen3", seed: int = 0) -> Path:
    """A step with all that training would write."""
    model = random_model(tiny_config(architecture, vocab_size=tokenizer.vocab_size), seed)
    directory = parent / STEP
    statistics = {"mean": torch.zeros(3, 32), "std": torch.ones(3, 32), "components": torch.zeros(3, 8, 32)}
    for name in ("unrelated", "same_word"):
        statistics |= {name: torch.zeros(3, 4, 2), f"{name}_quantiles": torch.zeros(3, 4, 101)}
    statistics["token_counts"] = torch.arange(tokenizer.vocab_size)
    facts = {"step": 7, "val_bits_per_byte": 1.5}
    save_step(directory, model, tokenizer, facts, training_state=training_files(), embedding=statistics)
    return directory


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    return save(tmp_path_factory.mktemp("saved"), tokenizer)


@pytest.fixture
def step(tmp_path: Path, template: Path) -> Path:
    """A saved step that a test may damage."""
    return Path(shutil.copytree(template, tmp_path / STEP))


@pytest.fixture
def foreign(step: Path) -> Path:
    """The same model as someone else would hand it over: no manifest, so that only its content can be judged."""
    (step / MANIFEST).unlink()
    return step.rename(step.with_name("hub"))


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def change_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def files_below(directory: Path) -> set[str]:
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}


# -- What is written


def test_a_step_lists_every_file_with_its_size_and_digest(step: Path) -> None:
    manifest = read_manifest(step)
    assert files_below(step) == {MANIFEST, *LISTED}
    assert set(manifest["files"]) == set(LISTED)
    for name, entry in manifest["files"].items():
        content = (step / name).read_bytes()
        assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_facts_stand_in_the_manifest(step: Path) -> None:
    manifest = read_manifest(step)
    assert (manifest["step"], manifest["val_bits_per_byte"], manifest["format"]) == (7, 1.5, 1)


def test_no_state_and_no_statistics_leave_no_folders(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size))
    save_step(tmp_path / STEP, model, tokenizer, {"step": 7})
    assert files_below(tmp_path / STEP) == {MANIFEST, *PARSED, "generation_config.json"}


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gpt2", "transformer-2017"])
def test_what_is_loaded_is_what_was_saved(tmp_path: Path, tokenizer: Tokenizer, architecture: str) -> None:
    loaded = load(save(tmp_path, tokenizer, architecture, seed=3))
    model = random_model(tiny_config(architecture, vocab_size=tokenizer.vocab_size), 3)
    assert loaded.config == model.config
    assert loaded.tokenizer.digest == tokenizer.digest
    assert not loaded.model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name


def test_statistics_come_back(step: Path) -> None:
    statistics = saved_step.read_embedding_statistics(load(step))
    assert statistics is not None
    assert torch.equal(statistics["std"], torch.ones(3, 32))


def test_a_step_without_its_training_state_still_loads(step: Path) -> None:
    shutil.rmtree(step / "training_state")
    assert load(step).manifest["step"] == 7


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.row("D19")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_modes_obey_the_umask(tmp_path: Path, tokenizer: Tokenizer, mask: int) -> None:
    with umask(mask):
        directory = save(tmp_path, tokenizer)
    for path in (directory, *directory.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o777 if path.is_dir() else 0o666) & ~mask, path


# -- What is left when writing fails


@pytest.mark.row("D01")
@pytest.mark.parametrize("n", range(len(LISTED) + 1))
def test_a_failing_write_leaves_nothing(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    write, written = durable._write_all, []

    def full_disk(descriptor: int, content: bytes) -> str:
        if len(written) == n:
            os.write(descriptor, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(descriptor)
        return write(descriptor, content)

    monkeypatch.setattr(durable, "_write_all", full_disk)
    with pytest.raises(StorageError, match=rf"{STEP}: No space left on device"):
        save(tmp_path, tokenizer)
    assert not list(tmp_path.iterdir())


@pytest.mark.row("D02", "D12", "D13")
def test_a_failing_flush_leaves_all_or_nothing(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever fsync fails, of files or of folders: no scratch directory, and under the name all or nothing."""
    for n in range(40):
        parent = tmp_path / str(n)
        parent.mkdir()
        left = [n]

        def failing_disk(_descriptor: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing_disk)
            try:
                save(parent, tokenizer)
            except StorageError:
                assert set(os.listdir(parent)) <= {STEP}
                if (parent / STEP).exists():
                    load(parent / STEP)
            else:
                break
    assert n > len(LISTED), "every file and its folder must be forced to disk"


@pytest.mark.row("P10")
def test_the_name_is_forced_to_disk_after_the_files(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []
    monkeypatch.setattr(durable, "flush_directory", lambda path, at: flushed.append((path, (tmp_path / STEP).exists())))
    save(tmp_path, tokenizer)
    assert flushed[-1] == (tmp_path, True)
    assert {folder.name for folder, renamed in flushed if not renamed} > {"training_state", "embedding"}


def test_a_step_is_never_overwritten(step: Path, tokenizer: Tokenizer) -> None:
    before = load(step).model.state_dict()
    with pytest.raises(CheckpointError, match="there already and differs"):
        save(step.parent, tokenizer, seed=9)
    assert os.listdir(step.parent) == [STEP]
    assert all(torch.equal(tensor, before[name]) for name, tensor in load(step).model.state_dict().items())


def test_a_folder_that_is_gone_is_a_storage_error(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(StorageError, match="cannot save"):
        save(tmp_path / "gone", tokenizer)


# -- What damage is noticed


@pytest.mark.row("K04")
@pytest.mark.parametrize("name", PARSED)
def test_one_flipped_bit_is_noticed(step: Path, name: str) -> None:
    for place in PLACES:
        flip(step / name, place)
        with pytest.raises(CheckpointError, match=rf"{name} is damaged"):
            load(step)
        flip(step / name, place)
    load(step)


@pytest.mark.parametrize("name", LISTED)
def test_every_listed_file_is_verified_when_read(step: Path, name: str) -> None:
    with Reader(step) as reader:
        for place in PLACES:
            flip(step / name, place)
            for read in (reader.verify, lambda name: reader.bytes(name, 1 << 30)):
                with pytest.raises(CheckpointError, match=rf"{name} is damaged"):
                    read(name)
            flip(step / name, place)
        reader.verify(name)


@pytest.mark.parametrize("name", TRAINING)
def test_a_damaged_training_state_is_not_resumed(step: Path, name: str) -> None:
    loaded = load(step)
    optimizers = optimizer.make_optimizers(loaded.model, TrainConfig())
    flip(step / name, 0.5)
    with pytest.raises(CheckpointError, match=rf"{name} is damaged"):
        restore_training_state(loaded, loaded.model, optimizers)


def test_damaged_statistics_are_noticed(step: Path) -> None:
    loaded = load(step)
    flip(step / "embedding/statistics.safetensors", 0.5)
    with pytest.raises(CheckpointError, match="damaged"):
        saved_step.read_embedding_statistics(loaded)


@pytest.mark.row("K03")
@pytest.mark.parametrize("n", [0, 1, -1])
@pytest.mark.parametrize("name", PARSED)
def test_truncated_files_are_noticed(step: Path, name: str, n: int) -> None:
    path = step / name
    path.write_bytes(path.read_bytes()[:n])
    with pytest.raises(CheckpointError, match=name):
        load(step)


@pytest.mark.parametrize("name", PARSED)
def test_files_that_grew_are_noticed(step: Path, name: str) -> None:
    path = step / name
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(CheckpointError, match=rf"{name} is damaged"):
        load(step)


@pytest.mark.row("K02")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_files_are_named(step: Path, name: str) -> None:
    (step / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load(step)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_in_place_of_a_file_is_refused(step: Path, name: str) -> None:
    (step / name).unlink()
    (step / name).mkdir()
    with pytest.raises(CheckpointError, match=name):
        load(step)


@pytest.mark.row("K06")
def test_weights_of_another_step_are_noticed(step: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "other").mkdir()
    other = save(tmp_path / "other", tokenizer, seed=1)
    shutil.copy(other / "model.safetensors", step / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load(step)


def test_weights_cannot_be_swapped_for_shards(step: Path) -> None:
    """A file beside the manifest that it does not list is never read."""
    (step / "model.safetensors").rename(step / "shard.safetensors")
    index = {"weight_map": {"model.norm.weight": "shard.safetensors"}}
    (step / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        load(step)


def test_a_listed_file_that_is_gone_is_missed(step: Path) -> None:
    (step / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json is missing"):
        load(step)


@pytest.mark.row("K27")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 2, "files": {}}', "format 2"),
        ('{"files": {}}', "format None"),
        ('{"format": 1}', "lists no files"),
        ('{"format": 1, "files": []}', "lists no files"),
        ('{"format": 1, "step": 7, "files": {}}', "not listed"),
        ('{"format": 1, "step": 7, "files": {"config.json": 3}}', "no size and digest of config"),
        ("[]", "JSON object"),
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\ud800".encode("utf-8", "surrogatepass"), "not UTF-8"),
        (" " * (1 << 21), "larger than"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_bad_manifest_is_refused(step: Path, content: str | bytes, message: str) -> None:
    (step / MANIFEST).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(CheckpointError, match=message):
        load(step)


def test_digests_in_the_manifest_count(step: Path) -> None:
    manifest = json.loads((step / MANIFEST).read_text())
    manifest["files"]["config.json"]["sha256"] = "0" * 64
    (step / MANIFEST).write_bytes(durable.json_bytes(with_digest(manifest)))
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        load(step)


# -- Directories that others made


def test_a_directory_without_a_manifest_loads(foreign: Path) -> None:
    assert load(foreign).manifest == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "JSON object"),
        ('"qwen3"', "JSON object"),
        ("null", "JSON object"),
        ("", "not JSON"),
        ("{'model_type': 'qwen3'}", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "model_type"),
        (" " * (1 << 21), "larger than"),
        (b"\xff\xfe{}", "not UTF-8"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_bad_config_is_refused(foreign: Path, content: str | bytes, message: str) -> None:
    (foreign / "config.json").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(CheckpointError, match=message):
        load(foreign)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 64},
        {"intermediate_size": 100},
        {"num_hidden_layers": 1},
        {"num_hidden_layers": 3},
        {"num_attention_heads": 4},
        {"num_key_value_heads": 1},
        {"vocab_size": 321},
        {"tie_word_embeddings": False},
    ],
    ids=str,
)
def test_weights_that_do_not_fit_are_refused(foreign: Path, changes: dict[str, Any]) -> None:
    change_config(foreign, **changes)
    with pytest.raises(CheckpointError):
        load(foreign)


@pytest.mark.row("K18")
@pytest.mark.parametrize("key", ["vocab_size", "max_position_embeddings", "intermediate_size", "hidden_size"])
@pytest.mark.parametrize("size", [10**15, 10**25])
def test_sizes_that_no_memory_holds_are_refused(foreign: Path, key: str, size: int) -> None:
    """Refused in words, before or after trying; not with whatever the allocator says."""
    change_config(foreign, **{key: size})
    with pytest.raises((CheckpointError, LimitError)):
        load(foreign)


def test_a_tokenizer_larger_than_the_model_is_refused(foreign: Path) -> None:
    model = random_model(tiny_config("qwen3", vocab_size=300))
    shutil.rmtree(foreign)
    save_step(foreign, model, Tokenizer.train(["abab " * 50], 300), {})
    change_config(foreign)
    (foreign / MANIFEST).unlink()
    larger = Tokenizer.train([" ".join(f"{a}{b}" * 3 for a in "abcdefgh" for b in "ijklmnop")], 301)
    assert larger.vocab_size == 301
    (foreign / "tokenizer.json").write_text(larger.to_json())
    with pytest.raises(CheckpointError, match="301 tokens, the model only 300"):
        load(foreign)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": {"type": "WordLevel"}}', "not json"])
def test_a_bad_tokenizer_is_refused(foreign: Path, content: str) -> None:
    (foreign / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer"):
        load(foreign)


@pytest.mark.parametrize(
    "eos", ["<|endoftext|>", {"content": "<|endoftext|>", "special": True}, None], ids=["text", "token", "null"]
)
def test_all_spellings_of_the_separator_are_read(foreign: Path, eos: Any) -> None:
    (foreign / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
    assert load(foreign).tokenizer.separator == "<|endoftext|>"


def test_a_separator_that_does_not_exist_is_refused(foreign: Path) -> None:
    (foreign / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    with pytest.raises(CheckpointError, match="</s>"):
        load(foreign)


class Bomb:
    """Unpickling this leaves a file behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("unpickled",)


@pytest.mark.row("K26")
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt", "model.safetensors"])
def test_pickled_weights_are_never_opened(foreign: Path, name: str) -> None:
    (foreign / "model.safetensors").unlink()
    (foreign / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=r"pickle|not a safetensors file"):
        load(foreign)
    assert not Path("unpickled").exists()


def test_no_weights_at_all_are_named(foreign: Path) -> None:
    (foreign / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        load(foreign)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "gone"])
def test_an_index_reaches_no_other_folder(foreign: Path, name: str) -> None:
    content = (foreign / "model.safetensors").read_bytes()
    (foreign / "model.safetensors").unlink()
    (foreign.parent / "outside.safetensors").write_bytes(content)
    (foreign / "a").mkdir()
    (foreign / "a" / "b.safetensors").write_bytes(content)
    index = {"weight_map": {"model.norm.weight": name}}
    (foreign / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"outside its folder|missing"):
        load(foreign)


@pytest.mark.parametrize("weight_map", [None, [], "x"], ids=repr)
def test_an_index_without_a_map_is_refused(foreign: Path, weight_map: Any) -> None:
    (foreign / "model.safetensors").unlink()
    (foreign / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="weight_map"):
        load(foreign)


def test_shards_are_joined(foreign: Path) -> None:
    whole = load(foreign).model.state_dict()
    tensors = safetensors.torch.load_file(foreign / "model.safetensors")
    (foreign / "model.safetensors").unlink()
    weight_map = {name: f"model-{i % 3}.safetensors" for i, name in enumerate(sorted(tensors))}
    for shard in set(weight_map.values()):
        part = {name: tensor for name, tensor in tensors.items() if weight_map[name] == shard}
        safetensors.torch.save_file(part, foreign / shard)
    (foreign / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for name, tensor in load(foreign).model.state_dict().items():
        assert torch.equal(tensor, whole[name])


@pytest.mark.hf
@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gpt2"])
def test_shards_that_transformers_wrote_load(tmp_path: Path, tokenizer: Tokenizer, architecture: str) -> None:
    transformers = pytest.importorskip("transformers")
    step = save(tmp_path, tokenizer, architecture)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(step)
    theirs.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(step / name, tmp_path / "sharded" / name)
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 1
    ours = load(tmp_path / "sharded")
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.allclose(ours.model(tokens), theirs(tokens).logits, atol=1e-4)


@pytest.mark.row("K01")
@pytest.mark.parametrize("path", ["nowhere", "a-file"])
def test_no_directory_is_a_checkpoint_error(tmp_path: Path, path: str) -> None:
    (tmp_path / "a-file").write_text("x")
    with pytest.raises(CheckpointError, match=f"no model directory at .*{path}"):
        load(tmp_path / path)

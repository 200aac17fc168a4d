"""Saved steps: complete Hugging Face model directories, written so that a crash leaves all of one or nothing.

Everything is safetensors or JSON; nothing is ever unpickled. A step is written under a temporary name, every file
forced to disk, the manifest with sizes and digests last; only then does it get its name, by one atomic rename.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from gptlite import hf
from gptlite.config import ModelConfig
from gptlite.errors import CheckpointError, StorageError
from gptlite.model import GPT
from gptlite.tokenizer import SEPARATOR, Tokenizer

MANIFEST = "MANIFEST.json"
FORMAT = 1
LARGEST_JSON = 1 << 20  # bytes of a configuration or manifest
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Checkpoint:
    """A model that was read from a directory, with its tokenizer and what its manifest says (if it has one)."""

    path: Path
    config: ModelConfig
    model: GPT
    tokenizer: Tokenizer
    manifest: dict[str, Any] = field(default_factory=dict)


def save_step(
    directory: Path,
    model: GPT,
    tokenizer: Tokenizer,
    facts: Mapping[str, Any],
    *,
    training_state: Mapping[str, bytes] | None = None,
    embedding: Mapping[str, Tensor] | None = None,
) -> None:
    """Write everything a step consists of to `directory`, which must not exist.

    - `facts` go into the manifest; `training_state` and `embedding` into folders of these names, because some loaders
      read every safetensors file beside the model's. Raises `StorageError`; then nothing of that name exists.
    """
    config = model.config
    separator = tokenizer.separator_id
    files: dict[str, bytes] = {
        "config.json": json_bytes(hf.to_hf_config(config, separator)),
        "generation_config.json": json_bytes(
            {"bos_token_id": separator, "eos_token_id": separator, "do_sample": True, "temperature": 0.8, "top_p": 0.95}
        ),
        "model.safetensors": tensors_to_bytes(hf.to_hf_tensors(config, model.state_dict())),
        **tokenizer.files(config.context_length),
    }
    files |= {f"training_state/{name}": content for name, content in (training_state or {}).items()}
    if embedding:
        files["embedding/statistics.safetensors"] = tensors_to_bytes(embedding)
    write_directory(directory, files, facts)


def write_directory(directory: Path, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
    """Write `files` and a manifest under a temporary name, force them to disk, then rename to `directory`."""
    scratch = directory.parent / f".tmp-{directory.name}-{os.getpid()}"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        entries = {}
        for name, content in files.items():
            path = scratch / name
            path.parent.mkdir(exist_ok=True)
            _write_durably(path, content)
            entries[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for folder in {(scratch / name).parent for name in files} - {scratch}:
            _fsync_directory(folder)
        _write_durably(scratch / MANIFEST, json_bytes({"format": FORMAT, **facts, "files": entries}))
        _fsync_directory(scratch)
        scratch.rename(directory)
        _fsync_directory(directory.parent)
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise StorageError(f"cannot save {directory}: {error.strerror or error}; earlier steps are intact.") from error


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON, all or nothing. Raises `StorageError`."""
    scratch = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        _write_durably(scratch, json_bytes(value))
        scratch.replace(path)
        _fsync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}.") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of bounded size. Raises `CheckpointError`."""
    content = _read_bounded(path, LARGEST_JSON)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object.")
    return value


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a step, checked for form. Raises `CheckpointError`."""
    manifest = read_json(directory / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{directory / MANIFEST} has format {manifest.get('format')!r}; this gptlite reads format {FORMAT}."
        )
    if not isinstance(manifest.get("files"), dict):
        raise CheckpointError(f"{directory / MANIFEST} lists no files.")
    return manifest


def load(directory: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a saved step, or any Hugging Face model directory of a known family, into a model in `eval()` mode.

    What a manifest covers is verified: the very bytes that are parsed have the digests that were written.
    Raises `CheckpointError` that names the file and what is wrong with it.
    """
    if not directory.is_dir():
        raise CheckpointError(f"there is no model directory at {directory}.")
    manifest = read_manifest(directory) if (directory / MANIFEST).exists() else {}
    reader = Reader(directory, manifest)
    config = hf.from_hf_config(reader.json("config.json"), directory / "config.json")
    tokenizer = read_tokenizer(reader)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens, the model only {config.vocab_size}."
        )
    state = hf.from_hf_tensors(config, _model_tensors(reader), directory / "model.safetensors")
    model = GPT(config)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).split("\n")[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(f"{directory}: the weights do not fit config.json: {reason}") from error
    return Checkpoint(directory, config, model.eval().to(device), tokenizer, manifest)


def read_tokenizer(reader: Reader) -> Tokenizer:
    """The tokenizer of a model directory; its end-of-text token separates documents."""
    separator: Any = SEPARATOR
    if reader.has("tokenizer_config.json"):
        separator = reader.json("tokenizer_config.json").get("eos_token", SEPARATOR)
        if isinstance(separator, dict):  # older files spell a token with its properties
            separator = separator.get("content")
        separator = SEPARATOR if separator is None else separator
    return Tokenizer.from_json(reader.text("tokenizer.json"), reader.directory / "tokenizer.json", str(separator))


def read_embedding_statistics(loaded: Checkpoint) -> dict[str, Tensor] | None:
    """What `embedding.measure_statistics` found when the step was saved; None for models made elsewhere."""
    reader = Reader(loaded.path, loaded.manifest)
    name = "embedding/statistics.safetensors"
    return reader.tensors(name) if reader.has(name) else None


class Reader:
    """Files of one model directory; those in the manifest must have its sizes and digests."""

    def __init__(self, directory: Path, manifest: Mapping[str, Any] | None = None) -> None:
        self.directory = directory
        self.entries: Mapping[str, Any] | None = manifest.get("files") if manifest else None

    def has(self, name: str) -> bool:
        """Is the file there, or should it be?"""
        return (self.directory / name).exists() or name in (self.entries or {})

    def bytes(self, name: str) -> bytes:
        path = self.directory / name
        entry = None if self.entries is None else self.entries.get(name)
        if self.entries is not None and not isinstance(entry, dict):
            raise CheckpointError(f"{path} is not listed in {MANIFEST}.")
        content = _read_bounded(path, None)
        if entry and (len(content), hashlib.sha256(content).hexdigest()) != (entry.get("size"), entry.get("sha256")):
            raise CheckpointError(
                f"{path} is damaged: its {len(content):,} bytes are not the {entry.get('size')} that were saved; "
                "use another step of the run."
            )
        return content

    def text(self, name: str) -> str:
        try:
            return self.bytes(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.directory / name} is not UTF-8: {error}.") from error

    def json(self, name: str) -> dict[str, Any]:
        if (self.directory / name).exists() and (self.directory / name).stat().st_size > LARGEST_JSON:
            raise CheckpointError(f"{self.directory / name} is too large to be a configuration.")
        try:
            value = json.loads(self.text(name))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.directory / name} is not JSON: {error}.") from error
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.directory / name} must hold a JSON object.")
        return value

    def tensors(self, name: str) -> dict[str, Tensor]:
        try:
            return safetensors.torch.load(self.bytes(name))
        except (SafetensorError, ValueError, KeyError) as error:
            raise CheckpointError(f"{self.directory / name} is not a safetensors file: {error}.") from error


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a safetensors file."""
    return safetensors.torch.save({n: t.contiguous() for n, t in tensors.items()}, metadata={"format": "pt"})


def _model_tensors(reader: Reader) -> dict[str, Tensor]:
    """All tensors of the model: one file, or the shards that an index names."""
    if reader.has("model.safetensors"):
        return reader.tensors("model.safetensors")
    index = "model.safetensors.index.json"
    if reader.has(index):
        shards = reader.json(index).get("weight_map")
        if not isinstance(shards, dict):
            raise CheckpointError(f"{reader.directory / index} has no weight_map.")
        names = {str(name) for name in shards.values()}
        if any(Path(name).name != name for name in names):
            raise CheckpointError(f"{reader.directory / index} names files outside its folder.")
        return {key: t for name in sorted(names) for key, t in reader.tensors(name).items()}
    pickles = [p.name for p in reader.directory.iterdir() if p.suffix in PICKLES]
    if pickles:
        raise CheckpointError(
            f"{reader.directory} holds its weights as a pickle ({pickles[0]}), which can run code and is never opened; "
            "convert it to safetensors with the library that wrote it."
        )
    raise CheckpointError(f"{reader.directory} has no model.safetensors.")


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _read_bounded(path: Path, limit: int | None) -> bytes:
    try:
        if not path.is_file():
            raise CheckpointError(f"{path} is missing.")
        if limit is not None and path.stat().st_size > limit:
            raise CheckpointError(f"{path} is larger than {limit:,} bytes, which it should never be.")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}.") from error


def _write_durably(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _fsync_directory(path: Path) -> None:
    if os.name == "nt":  # Windows cannot open a directory to flush it
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

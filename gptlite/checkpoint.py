"""Saved steps: complete Hugging Face model directories, written so that a crash leaves all of one or nothing.

Everything is safetensors or JSON; nothing is ever unpickled. `durable.py` knows how to write, `reader.py` how to read;
what a step consists of stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from gptlite import hf
from gptlite.config import ModelConfig
from gptlite.durable import MANIFEST, json_bytes, write_directory
from gptlite.errors import CheckpointError
from gptlite.model import GPT
from gptlite.reader import Reader, read_manifest
from gptlite.tokenizer import SEPARATOR, Tokenizer

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
    """Write everything a step consists of to `directory`. An intact step of that name is never overwritten.

    - `facts` go into the manifest; `training_state` and `embedding` into folders of these names, because some loaders
      read every safetensors file beside the model's. Raises `StorageError` and `CheckpointError`.
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
    write_directory(directory, files, facts, is_intact)


def verify(directory: Path) -> None:
    """Read all that the manifest lists and compare sizes and digests. Raises `CheckpointError`."""
    if directory.is_symlink() or not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory.")
    manifest = read_manifest(directory)
    reader = Reader(directory, manifest)
    for name in manifest["files"]:
        reader.bytes(name)


def is_intact(directory: Path) -> bool:
    """Does `verify` find nothing wrong?"""
    try:
        verify(directory)
    except CheckpointError:
        return False
    return True


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

"""Reading what anyone may have written: bounded, verified against the manifest, and never unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from gptlite.durable import FORMAT, MANIFEST
from gptlite.errors import CheckpointError

LARGEST_JSON = 1 << 20  # bytes of a configuration or manifest


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


def _read_bounded(path: Path, limit: int | None) -> bytes:
    try:
        if not path.is_file():
            raise CheckpointError(f"{path} is missing.")
        if limit is not None and path.stat().st_size > limit:
            raise CheckpointError(f"{path} is larger than {limit:,} bytes, which it should never be.")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}.") from error

"""Reading what anyone may have written: opened with care, bounded before it is read, verified before it is parsed.

In a step of ours a manifest says which files there are and what is in them; the bytes that are parsed are the ones that
were compared with it. A Hugging Face directory has none, so only its content can be judged, and a file there may be a
link, as all are in Hugging Face's own cache. Nothing is mapped into memory, and nothing is unpickled.

Only `tensors` and `not_finite` need torch, which takes seconds to import.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from safetensors import SafetensorError

from gptlite.errors import CheckpointError
from gptlite.storage import validation
from gptlite.storage.durable import FORMAT, MANIFEST, json_bytes, manifest_digest
from gptlite.storage.validation import Entry, Table, shown

if TYPE_CHECKING:
    from torch import Tensor

STEP_NAME = re.compile(r"step-(\d{9,18})")
LARGEST_JSON = 1 << 20  # bytes of a configuration or manifest
LARGEST_TOKENIZER = 64 << 20
LARGEST_EXPLAINED = 1 << 30  # of which the digest is computed only to explain an error
WRITTEN = re.compile(
    r"(generation_|tokenizer_)?config\.json|tokenizer\.json|model\.safetensors|result\.json"
    r"|(training_state|embedding)/[a-z0-9_]+\.(json|safetensors)"
)
# What manifests said before they had a digest of their own.
FIRST_FACTS = {"format", "step", "val_bits_per_byte", "files"}
# A pipe or a device must not block whoever opens it; not all systems know all of these.
PLAIN = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
CAREFUL = PLAIN | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
NO_LINKS = getattr(os, "O_NOFOLLOW", 0)


class Reader:
    """The files of one model directory, held open so that all that is read comes from the same one.

    A step is read with its manifest, or with the `manifest` that its reader has already. Raises `CheckpointError` for
    whatever is wrong with the directory or a file.
    """

    def __init__(self, directory: Path, manifest: Mapping[str, Any] | None = None) -> None:
        self.directory = directory
        self._folder: int | None = None
        self._opened: set[str] = set()
        self._objects: dict[str, dict[str, Any]] = {}
        try:
            if not directory.is_dir():
                raise CheckpointError(f"there is no model directory at {directory}.")
            if os.open in os.supports_dir_fd:
                self._folder = os.open(directory, PLAIN | os.O_DIRECTORY)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {directory}: {_reason(error)}.") from error
        self.manifest: Mapping[str, Any] = manifest or {}
        try:
            if manifest is None and self._exists(MANIFEST):
                self.manifest = parse_manifest(self.bytes(MANIFEST, LARGEST_JSON), directory)
            elif manifest is None and STEP_NAME.fullmatch(directory.name):
                raise CheckpointError(f"{directory / MANIFEST} is missing, so the step is not complete; use another.")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if isinstance(error, CheckpointError):  # damage explains more than what came of it
                for name in sorted(self._opened & self.manifest.get("files", {}).keys()):
                    self.verify(name, LARGEST_EXPLAINED)
        finally:
            self.close()

    def close(self) -> None:
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def has(self, name: str) -> bool:
        """Is the file there, or should it be?"""
        return name in self.manifest["files"] if self.manifest else self._exists(name)

    def bytes(self, name: str, limit: int, *, grows: bool = False) -> bytes:
        """The whole of a regular file of at most `limit` bytes, which are those that the manifest speaks of.

        - `grows`: another process may add to the file; then what it had when it was opened is returned.
        """
        path = self.directory / name
        with self._open(name) as (file, size):
            if size > limit:
                raise CheckpointError(f"{path} is larger than {limit:,} bytes, which it should never be.")
            content = file.read(size if grows else size + 1)
        if len(content) != size:
            raise CheckpointError(f"{path} changed while it was read; try again when nothing writes to it.")
        self._compare(name, hashlib.sha256(content))
        return content

    def verify(self, name: str, limit: int = sys.maxsize) -> None:
        """Compare a file with the manifest, a piece at a time; one of more than `limit` bytes only by its size."""
        with self._open(name) as (file, size):
            digest = hashlib.sha256()
            while size <= limit and (piece := file.read(1 << 20)):
                digest.update(piece)
        if size <= limit:
            self._compare(name, digest)

    def digest(self, name: str) -> str:
        """sha256 of a file: what the manifest says, or of the bytes that are there."""
        if self.manifest:
            return self.manifest["files"][name]["sha256"]
        digest = hashlib.sha256()
        with self._open(name) as (file, _):
            while piece := file.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()

    def text(self, name: str, limit: int) -> str:
        try:
            return self.bytes(name, limit).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.directory / name} is not UTF-8: {error}.") from error

    def json(self, name: str, limit: int = LARGEST_JSON) -> dict[str, Any]:
        """The object in a JSON file of at most `limit` bytes, which is read only once."""
        if name not in self._objects:
            self._objects[name] = validation.parse_object(self.text(name, limit), self.directory / name)
        return self._objects[name]

    def table(self, name: str) -> Table:
        """What the header of a safetensors file says; no more than that is read yet."""
        path = self.directory / name
        with self._open(name) as (file, size):
            first = file.read(8)
            head = first + file.read(validation.header_length(first, size, path))
            return validation.parse_table(head, size, path)

    def tensors(self, name: str, expected: Mapping[str, Entry] | Table) -> dict[str, Tensor]:
        """The tensors of a file, all finite, which are exactly those `expected`, or those of a table that was read.

        Nothing is allocated for a file that holds others.
        """
        import safetensors.torch

        path = self.directory / name
        if isinstance(expected, Table):
            table = expected
        else:
            table = self.table(name)
            validation.check_entries(table.entries, expected, path)
        content = self.bytes(name, table.size)
        if not content.startswith(table.head) or len(content) != table.size:
            raise CheckpointError(f"{path} changed while it was read; try again when nothing writes to it.")
        try:
            tensors = safetensors.torch.load(content)
        except (SafetensorError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path} is not a safetensors file: {error}.") from error
        if wrong := not_finite(tensors):
            raise CheckpointError(f"{path}: {wrong}, so the model cannot be used.")
        return tensors

    def array(self, name: str, table: Table, tensor: str) -> np.ndarray:
        """One tensor of floats in a file whose table was read, all finite, as float32.

        With a manifest the whole file is read, because the digest is of all of it; otherwise no more than the tensor.
        """
        path, entry, begin = self.directory / name, table.entries[tensor], table.begins[tensor]
        if self.manifest:
            content = self.bytes(name, table.size)
            head, data = content[: len(table.head)], content[begin : begin + entry.n_bytes]
        else:
            with self._open(name) as (file, _):
                head = file.read(len(table.head))
                file.seek(begin)
                data = file.read(entry.n_bytes)
        if head != table.head or len(data) != entry.n_bytes:
            raise CheckpointError(f"{path} changed while it was read; try again when nothing writes to it.")
        numbers = _floats(data, entry.dtype).reshape(entry.shape)
        if n := int((~np.isfinite(numbers)).sum()):
            raise CheckpointError(f"{path}: {_not_finite(n, numbers.size, tensor)}, so the model cannot be used.")
        return numbers

    def _compare(self, name: str, digest: hashlib._Hash) -> None:
        if self.manifest and digest.hexdigest() != self.manifest["files"][name]["sha256"]:
            raise CheckpointError(
                f"{self.directory / name} is damaged: its bytes are not those saved; use another step of the run."
            )

    def _exists(self, name: str) -> bool:
        try:
            if self._folder is None:
                os.lstat(self.directory / name)
            else:
                os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except OSError:
            return False
        return True

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[tuple[BinaryIO, int]]:
        """A regular file and its size, the one that was saved; each folder is opened from the one above it."""
        if self.manifest and name not in self.manifest["files"]:
            raise CheckpointError(f"{self.directory / name} is not listed in {MANIFEST}.")
        links = 0 if not self.manifest and name != MANIFEST else NO_LINKS
        *folders, last = name.split("/") if self._folder is not None else [str(self.directory / name)]
        with contextlib.ExitStack() as stack:
            at = self._folder
            try:
                for folder in folders:
                    at = os.open(folder, PLAIN | os.O_DIRECTORY | links, dir_fd=at)
                    stack.callback(os.close, at)
                with open(os.open(last, CAREFUL | links, dir_fd=at), "rb") as file:
                    facts = os.fstat(file.fileno())
                    if not stat.S_ISREG(facts.st_mode):
                        raise CheckpointError(f"{self.directory / name} is not a regular file.")
                    if self.manifest and facts.st_size != (saved := self.manifest["files"][name]["size"]):
                        raise CheckpointError(
                            f"{self.directory / name} is damaged: it has {facts.st_size:,} bytes, and {saved:,} were "
                            "saved; use another step of the run."
                        )
                    self._opened.add(name)
                    yield file, facts.st_size
            except (OSError, ValueError) as error:
                if isinstance(error, FileNotFoundError):
                    raise CheckpointError(f"{self.directory / name} is missing.") from error
                raise CheckpointError(f"cannot read {self.directory / name}: {_reason(error)}.") from error


def read_manifest(directory: Path) -> Mapping[str, Any]:
    """The manifest of a step. Raises `CheckpointError`, also where there is none."""
    with Reader(directory) as reader:
        if not reader.manifest:
            raise CheckpointError(f"{directory / MANIFEST} is missing.")
        return reader.manifest


def parse_manifest(content: bytes, directory: Path) -> dict[str, Any]:
    """The manifest of the step in `directory`: of a known format, undamaged, and of this step.

    Raises `CheckpointError`.
    """
    where = directory / MANIFEST
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where} is not UTF-8: {error}.") from error
    manifest = validation.parse_object(text, where)
    version = manifest.get("format")
    if not validation.is_count(version) or version != FORMAT:
        raise CheckpointError(f"{where} has format {shown(version)}; this gptlite reads format {FORMAT}.")
    if "sha256" in manifest:
        # Compared as bytes too: a number may be spelled in two ways, and one of them was not written.
        damaged = manifest["sha256"] != manifest_digest(manifest) or content != json_bytes(manifest)
    else:
        damaged = not manifest.keys() <= FIRST_FACTS
    if damaged:
        raise CheckpointError(f"{where} is damaged: it is not what was saved; use another step of the run.")
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise CheckpointError(f"{where} lists no files.")
    for name, entry in files.items():
        if not WRITTEN.fullmatch(name):
            raise CheckpointError(f"{where} lists the file {shown(name)}, which gptlite does not write.")
        if (
            not isinstance(entry, dict)
            or not validation.is_count(entry.get("size"))
            or not _is_digest(entry.get("sha256"))
        ):
            raise CheckpointError(f"{where} has no size and digest of {name}.")
    step, named = manifest.get("step"), STEP_NAME.fullmatch(directory.name)
    if (named or step is not None) and not validation.is_count(step, 10**18):
        raise CheckpointError(f"{where} has the step {shown(step)}, which is no number of steps.")
    score = manifest.get("val_bits_per_byte")
    if score is not None and not validation.is_number(score):
        raise CheckpointError(f"{where} has the score {shown(score)}, which is no number of bits per byte.")
    if named and int(named[1]) != step:
        raise CheckpointError(f"{where} is that of step {step:,}, which is not this one.")
    return manifest


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Which tensor holds values that are not finite, and how many; None if all are finite."""
    import torch

    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.element_size() == 1 or not tensor.numel():
            continue
        # The smallest and the largest tell, in one pass that makes no other tensor; what is not a number is both.
        if not torch.isfinite(torch.stack(tensor.aminmax())).all():
            return _not_finite(int((~torch.isfinite(tensor)).sum()), tensor.numel(), name)
    return None


def _not_finite(n: int, size: int, name: str) -> str:
    return f"{n:,} of the {size:,} values of tensor {shown(name)} are not finite numbers"


def _floats(data: bytes, dtype: str) -> np.ndarray:
    """float32 of the bytes of a tensor; NumPy knows no bfloat16, which is the upper half of a float32."""
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        return np.frombuffer(data, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).astype(np.float32)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ELOOP, errno.EMLINK):
        return "it is a symbolic link, and links inside a saved step are not followed"
    if isinstance(error, OSError) and error.errno == errno.ENOTDIR:
        return "it does not lie in a plain folder"
    return str(getattr(error, "strerror", None) or error)

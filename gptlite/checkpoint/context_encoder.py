"""The files of a context encoder in a saved step, under `embedding/`: its backward model, its network, and the uses of
words in the text that it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gptlite.checkpoint import hf
from gptlite.checkpoint.saved_step import Checkpoint, tensors_to_bytes
from gptlite.errors import CheckpointError
from gptlite.model import GPT
from gptlite.storage.reader import Reader
from gptlite.storage.validation import Entry

if TYPE_CHECKING:
    from torch import Tensor

BACKWARD, NETWORK = "embedding/backward.safetensors", "embedding/context_encoder.safetensors"
USES = "embedding/uses.safetensors"
HIDDEN = 512  # numbers in the hidden layer of the network


def shapes(dim: int, bag_dim: int) -> dict[str, tuple[int, ...]]:
    """The tensors of the network, for a model of width `dim` and bags of `bag_dim` numbers: what enters it, two states
    and two bags, is standardised; what leaves it, `bag_dim` numbers, is the vector."""
    n = 2 * (dim + bag_dim)
    return {"mean": (n,), "std": (n,), "weight": (HIDDEN, n), "bias": (HIDDEN,), "out": (bag_dim, HIDDEN)}


class Uses(NamedTuple):
    """Groups of the uses of N words: their directions `centres` (M, E), of which those of word i end at row `ends`
    (N,)[i]."""

    centres: np.ndarray
    ends: np.ndarray


def to_bytes(backward: GPT, network: Mapping[str, Tensor], uses: Uses) -> dict[str, bytes]:
    """The files that `read` reads, by name. Raises `NumericsError` where a number is not finite."""
    from safetensors.numpy import save

    return {
        BACKWARD: tensors_to_bytes(hf.to_hf_tensors(backward.config, backward.state_dict())),
        NETWORK: tensors_to_bytes(network),
        USES: save({"centres": _rounded(uses.centres), "ends": uses.ends.astype(np.int64)}),
    }


def _rounded(centres: np.ndarray) -> np.ndarray:
    """Rows as 127ths of their largest number: their directions, which are all that counts."""
    largest = np.abs(centres).max(axis=1, keepdims=True, initial=1e-12)
    return np.round(127 * centres / largest).astype(np.int8)


def read(loaded: Checkpoint, bag_dim: int) -> tuple[GPT, dict[str, Tensor], Uses] | None:
    """The backward model, on the model's device, the network, and the uses; None of a step without an encoder.

    - `bag_dim`: numbers in a word vector of the step.
    Raises `CheckpointError` for files that `to_bytes` cannot have written, and those of older versions.
    """
    config = loaded.config
    with Reader(loaded.path, loaded.manifest) as reader:
        if not reader.manifest or not (reader.has(BACKWARD) and reader.has(NETWORK)):
            return None
        expected = {name: Entry("F32", shape) for name, shape in hf.expected_shapes(config).items()}
        if not reader.has(USES):
            raise CheckpointError(
                f"{loaded.path / NETWORK} is a context encoder of an older version, which this one cannot read; train "
                "again for a new one, or use `context` left, which needs none."
            )
        tensors = reader.tensors(BACKWARD, expected)
        of_network = {name: Entry("F32", shape) for name, shape in shapes(config.dim, bag_dim).items()}
        network = reader.tensors(NETWORK, of_network)
        uses = _read_uses(reader, 3 * bag_dim)
    backward = GPT(config)
    backward.load_state_dict(hf.from_hf_tensors(config, tensors, loaded.path / BACKWARD))
    return backward.eval().to(next(loaded.model.parameters()).device), network, uses


def _read_uses(reader: Reader, dim: int) -> Uses:
    """The groups of uses, of `dim` numbers each. Raises `CheckpointError`."""
    table = reader.table(USES)
    n_words, n_groups = (table.entries[name].shape[0] if name in table.entries else 0 for name in ("ends", "centres"))
    expected = {"centres": Entry("I8", (n_groups, dim)), "ends": Entry("I64", (n_words,))}
    tensors = {name: tensor.numpy() for name, tensor in reader.tensors(USES, expected).items()}
    ends = tensors["ends"]
    if (np.diff(ends, prepend=0) < 0).any() or ends.max(initial=0) != n_groups:
        raise CheckpointError(f"{reader.directory / USES} does not say which word each group of uses belongs to.")
    return Uses(tensors["centres"].astype(np.float32), ends)

"""The files of a context encoder in a saved step: its backward model and its network, under `embedding/`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gptlite.checkpoint import hf
from gptlite.checkpoint.saved_step import Checkpoint, tensors_to_bytes
from gptlite.errors import CheckpointError
from gptlite.model import GPT
from gptlite.storage.reader import Reader
from gptlite.storage.validation import Entry

if TYPE_CHECKING:
    from torch import Tensor

BACKWARD, NETWORK = "embedding/backward.safetensors", "embedding/context_encoder.safetensors"
OLD = "out_mean"  # a tensor of networks whose vector was their hidden layer
HIDDEN = 512  # numbers in the hidden layer of the network


def shapes(dim: int, bag_dim: int) -> dict[str, tuple[int, ...]]:
    """The tensors of the network, for a model of width `dim` and bags of `bag_dim` numbers: what enters it, two states
    and two bags, is standardised; what leaves it, `bag_dim` numbers, is the vector."""
    n = 2 * (dim + bag_dim)
    return {"mean": (n,), "std": (n,), "weight": (HIDDEN, n), "bias": (HIDDEN,), "out": (bag_dim, HIDDEN)}


def to_bytes(backward: GPT, network: Mapping[str, Tensor]) -> dict[str, bytes]:
    """The files that `read` reads, by name. Raises `NumericsError` where a number is not finite."""
    return {
        BACKWARD: tensors_to_bytes(hf.to_hf_tensors(backward.config, backward.state_dict())),
        NETWORK: tensors_to_bytes(network),
    }


def read(loaded: Checkpoint, bag_dim: int) -> tuple[GPT, dict[str, Tensor]] | None:
    """The backward model, on the model's device, and the network; None of a step without an encoder.

    - `bag_dim`: numbers in a word vector of the step.
    Raises `CheckpointError` for files that `to_bytes` cannot have written, and those of older versions.
    """
    config = loaded.config
    with Reader(loaded.path, loaded.manifest) as reader:
        if not reader.manifest or not (reader.has(BACKWARD) and reader.has(NETWORK)):
            return None
        expected = {name: Entry("F32", shape) for name, shape in hf.expected_shapes(config).items()}
        tensors = reader.tensors(BACKWARD, expected)
        of_network = {name: Entry("F32", shape) for name, shape in shapes(config.dim, bag_dim).items()}
        if OLD in reader.table(NETWORK).entries:
            raise CheckpointError(
                f"{loaded.path / NETWORK} is a context encoder of an older version, which this one cannot read; train "
                "again for a new one, or use `context` left, which needs none."
            )
        network = reader.tensors(NETWORK, of_network)
    backward = GPT(config)
    backward.load_state_dict(hf.from_hf_tensors(config, tensors, loaded.path / BACKWARD))
    return backward.eval().to(next(loaded.model.parameters()).device), network

"""How alike word vectors are: cosines, corrections of the space they are taken in, neighbours. NumPy alone.

Raw cosines between hidden states are all large (Ethayarajh 2019): a few directions are shared by all of them. What is
shared is taken off first, in one of these ways, each with what was measured when the model was saved:

    none     as they are
    center   without the mean
    zscore   without the mean, each dimension divided by its standard deviation (Timkey & van Schijndel 2021)
    abtt:K   "all but the top": without the mean and without the K first principal components (Mu & Viswanath 2018)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gptlite.config import CORRECTIONS, MOST_COMPONENTS
from gptlite.errors import UsageError


def parse_correction(text: str, dim: int) -> tuple[str, int]:
    """Name and number of components of "zscore", "abtt" (D / 100 components, at least 1) or "abtt:3"."""
    name, _, number = text.partition(":")
    known = name in CORRECTIONS and (not number or name == "abtt")
    if not known or (":" in text and not re.fullmatch(r"[1-9]\d{0,3}", number)):
        raise UsageError(f"`correction` must be none, center, zscore or abtt:K, not '{text}'.")
    if number and int(number) > min(MOST_COMPONENTS, dim):
        raise UsageError(f"`correction` abtt:K takes off at most {min(MOST_COMPONENTS, dim)} components, not {number}.")
    return name, int(number) if number else default_components(dim)


def default_components(dim: int) -> int:
    """How many components "abtt" takes off: one for a hundred dimensions, the rule of its paper."""
    return min(MOST_COMPONENTS, max(1, dim // 100))


def correct(vectors: np.ndarray, correction: str, space: Mapping[str, np.ndarray]) -> np.ndarray:
    """Vectors (..., D) after a correction of that name.

    - `space`: the `mean` (D,), `std` (D,) and principal `components` (at least K, D) of the space they are from.
    """
    name, n_components = parse_correction(correction, vectors.shape[-1])
    if name == "none":
        return vectors
    centred = vectors - space["mean"]
    if name == "zscore":
        return centred / np.maximum(space["std"], 1e-6)
    if name == "abtt":
        top = space["components"][:n_components]
        return centred - centred @ top.T @ top
    return centred


def _eigenvectors(matrix: np.ndarray) -> np.ndarray:
    """Those of a symmetric matrix (D, D), as columns; eigenvalues ascend."""
    return np.linalg.eigh(matrix)[1]


def measure(
    vectors: np.ndarray,
    n_components: int = MOST_COMPONENTS,
    eigenvectors: Callable[[np.ndarray], np.ndarray] = _eigenvectors,
) -> dict[str, np.ndarray]:
    """`mean` (D,), `std` (D,) and principal `components` (at most K, D) of vectors (N, D), for `correct`."""
    vectors = np.asarray(vectors, dtype=np.float64)
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    components = eigenvectors(centred.T @ centred).T[::-1][:n_components]
    return {
        "mean": mean.astype(np.float32),
        "std": centred.std(axis=0).astype(np.float32),
        "components": np.ascontiguousarray(components, dtype=np.float32),
    }


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., D) at length 1; zeros stay zeros."""
    # The largest component first, so that the squares of no finite number overflow.
    scaled = vectors / np.maximum(np.abs(vectors).max(axis=-1, keepdims=True), np.float32(1e-30))
    return scaled / np.maximum(np.linalg.norm(scaled, axis=-1, keepdims=True), np.float32(1e-12))


def cosine_matrix(vectors: np.ndarray) -> np.ndarray:
    """Cosines (n, n) of the rows of `vectors` (n, D)."""
    rows = unit(vectors)
    return rows @ rows.T


def nearest(query: np.ndarray, table: np.ndarray, k: int) -> list[tuple[int, float]]:
    """The k rows of any `table` (V, D) with the largest cosine to `query` (D,), best first, of equals the upper one."""
    if k < 1:
        raise UsageError(f"`k`, the number of neighbours, must be at least 1, not {k}.")
    cosines = unit(table) @ unit(query)
    return [(int(i), float(cosines[i])) for i in np.argsort(-cosines, kind="stable")[:k]]


def principal_axes(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A map of vectors (..., n, D): places (..., n, 2) on the first two principal axes of each n, and the shares
    (..., 2) of the variance that these axes show.

    An axis has no direction of its own; it points where it pointed in the map before, so that maps of one layer after
    the other can be looked at in turn.
    """
    stack = np.asarray(vectors, dtype=np.float64).reshape(-1, *vectors.shape[-2:])
    places, shares = np.zeros((*stack.shape[:2], 2)), np.zeros((len(stack), 2))
    for i, layer in enumerate(stack):
        left, lengths, _ = np.linalg.svd(layer - layer.mean(axis=0), full_matrices=False)
        k = min(2, len(lengths))
        places[i, :, :k] = (left * lengths)[:, :k]
        shares[i, :k] = lengths[:k] ** 2 / max((lengths**2).sum(), 1e-12)
        turned = (places[i] * places[i - 1]).sum(axis=0) < 0 if i else np.abs(places[i]).max(0) > places[i].max(0)
        places[i, :, turned] *= -1
    return places.reshape(*vectors.shape[:-1], 2), shares.reshape(*vectors.shape[:-2], 2)


def percentile(value: float | np.ndarray, quantiles: np.ndarray) -> Any:
    """Which share (0 to 100) of a distribution lies below each `value`; `quantiles` (101,) are its 0th to 100th."""
    return np.interp(value, quantiles, np.arange(len(quantiles)), left=0.0, right=100.0)

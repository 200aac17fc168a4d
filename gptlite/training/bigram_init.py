"""Embeddings and head that know which token follows which before training begins.

A Transformer spends its first minutes finding out what counting tells at once. While every block is still the identity
(`model.initialise`), the logits after token t are head @ norm(embed[t]): one vector for each token before, one for each
token after, and their products. Let n(t, u) count how often u follows t, and p(u) be the frequency of u. Then

    log p(u | t) = log p(u) + log(1 + n(t, u) / (k p(u))) + a constant of t,

where k says how many imagined successors, spread like p, each token starts with (Dirichlet smoothing; MacKay & Peto
1995). The second term is a sparse matrix, and its truncated SVD gives the vectors. Word2vec's skip-gram factorises
nearly the same matrix without saying so (Levy & Goldberg 2014). Training goes on from there.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gptlite.kernels.workers import one_thread
from gptlite.text.token_files import spread_ids

# k, as a share of how often a token occurs on average. It is far above what would predict best by itself (0.01):
# vectors from a smoother table leave more to the training that follows (docs/lab/log.md).
SMOOTHING = 0.4
LARGEST_COUNT = 1 << 22  # tokens that are counted, in stretches spread over a longer text
EMBEDDING_RMS = 0.5  # of the components of an embedding; the norm before the head makes its size free to choose
LONGEST = 0.98  # the share of tokens whose vectors may keep the length that their products ask for


def bigram_vectors(ids: np.ndarray, vocab_size: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    """Embeddings (V, D) and head (V, D) with head @ norm(embed[t]) = log p(. | t), as far as rank D - 3 can tell.

    - `ids` (N,): the stream of training text, mapped from disk or not.
    - `dim`: D, at least 4.
    All embeddings have the same length and a mean of zero, so that RMSNorm and LayerNorm do the same to them.
    """
    ids = spread_ids(ids, LARGEST_COUNT).astype(np.int64)
    p = np.bincount(ids, minlength=vocab_size) + 0.5
    p /= p.sum()
    pairs, n = np.unique(ids[:-1] * vocab_size + ids[1:], return_counts=True)
    before, after = np.divmod(pairs, vocab_size)
    k = SMOOTHING * len(ids) / vocab_size
    # Frequent tokens matter more: each row and each column of the matrix weighs as often as its token occurs.
    weight = np.sqrt(p)
    values = np.log1p(n / (k * p[after])) * weight[before] * weight[after]
    places = torch.from_numpy(np.stack([before, after]))
    # Said for all that happens here, because torch 2.11 and 2.12 warn where `check_invariants` says it.
    with torch.sparse.check_sparse_tensor_invariants(False):
        matrix = torch.sparse_coo_tensor(places, torch.from_numpy(values).float(), (vocab_size, vocab_size))
    generator = torch.Generator().manual_seed(seed)
    rank = min(dim - 3, vocab_size)
    u, s, v = _truncated_svd(matrix.coalesce(), rank, generator)
    scale = torch.from_numpy(weight).float()[:, None]
    x, y = u * s.sqrt() / scale, v * s.sqrt() / scale  # (V, rank)

    # Two more coordinates: a constant one, which brings in log p(u), and one that gives every row the same length.
    ones, log_p = torch.ones(vocab_size, 1), torch.from_numpy(np.log(p)).float()[:, None]
    squares = (x * x).sum(1, keepdim=True) + 1
    largest = torch.quantile(squares, LONGEST)
    x = torch.cat([x, ones, (largest - squares).clamp_min(0).sqrt()], dim=1)
    y = torch.cat([y, log_p, torch.zeros(vocab_size, 1)], dim=1)
    # Turned into general directions, orthogonal to (1, ..., 1), so that no component is special and all means are zero.
    basis = torch.randn(dim, x.shape[1], generator=generator)
    basis = torch.linalg.qr(basis - basis.mean(0))[0].T  # (rank + 2, D), orthonormal rows
    norm = (largest / dim).sqrt()  # root mean square of the components before the embeddings get theirs
    return x @ basis / norm * EMBEDDING_RMS, y @ basis * norm


@one_thread()
def _truncated_svd(matrix: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The largest `rank` singular triplets of a sparse (V, V), by randomised subspace iteration (Halko et al. 2011)."""
    transposed = matrix.T.coalesce()
    q = torch.randn(matrix.shape[1], min(rank + 16, matrix.shape[1]), generator=generator)
    for _ in range(3):
        q = torch.linalg.qr(matrix @ q)[0]
        q = torch.linalg.qr(transposed @ q)[0]
    q = torch.linalg.qr(matrix @ q)[0]  # (V, rank + 16): spans the left singular vectors
    u, s, vh = torch.linalg.svd((transposed @ q).T, full_matrices=False)
    return (q @ u)[:, :rank], s[:rank], vh[:rank].T

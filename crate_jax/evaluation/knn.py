"""The weighted cosine nearest-neighbour classifier (Wu et al. 2018; Caron et al. 2021), exact, in chunks.

    the k training examples of largest cosine s vote for their class with weight exp(s / T); the heaviest class wins

Ties of the vote go to the smaller class, ties of the cosine to the earlier example.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.errors import UserError

NEIGHBOURS, TEMPERATURE = 20, 0.07


@functools.partial(jax.jit, static_argnames=("k",))
def _merge(best_QxK, index_QxK, query_QxG, bank_MxG, first, count, k):
    """The k nearest of those found before and of the chunk of the training set that begins with example `first`."""
    cosine_QxM = jnp.matmul(query_QxG, bank_MxG.T, precision="highest")
    index_M = first + jnp.arange(len(bank_MxG))
    cosine_QxM = jnp.where(index_M < count, cosine_QxM, -jnp.inf)  # padding of the last chunk
    # first what was found before: top_k keeps the earlier of two equal ones
    together = jnp.concatenate([best_QxK, cosine_QxM], 1)
    indices = jnp.concatenate([index_QxK, jnp.broadcast_to(index_M, cosine_QxM.shape)], 1)
    best_QxK, place_QxK = jax.lax.top_k(together, k)
    return best_QxK, jnp.take_along_axis(indices, place_QxK, 1)


@functools.partial(jax.jit, static_argnames=("num_classes",))
def _votes(best_QxK, label_QxK, temperature, num_classes):
    weight_QxK = jnp.exp((best_QxK - best_QxK[:, :1]) / temperature)
    return jnp.einsum("qk,qkc->qc", weight_QxK, jax.nn.one_hot(label_QxK, num_classes), precision="highest")


def unit(x_NxG):
    """Each row over its length; a row of zeros stays."""
    x_NxG = np.asarray(x_NxG, np.float32)
    return x_NxG / np.maximum(np.linalg.norm(x_NxG, axis=1, keepdims=True), 1e-12)


def nearest(train_NxG, test_QxG, *, k=NEIGHBOURS, chunk=16384, query_chunk=2048):
    """The k nearest training examples of each test example.

    Args:
        train_NxG: features; may be memory-mapped, in any float type: only a chunk is read at a time.
        test_QxG: features.
        k: neighbours.
        chunk, query_chunk: rows of either set that are on the device at once.

    Returns:
        (cosine_QxK, index_QxK), the nearest first.

    Raises:
        UserError: fewer training examples than k.
    """
    count = len(train_NxG)
    if not 1 <= k <= count:
        raise UserError(f"--k={k}: there are only {count} training examples; choose at least 1 and at most so many.")
    chunk = min(chunk, count)
    queries = [unit(test_QxG[first : first + query_chunk]) for first in range(0, len(test_QxG), query_chunk)]
    found = [(jnp.full((len(q), k), -jnp.inf), jnp.zeros((len(q), k), jnp.int32)) for q in queries]
    for first in range(0, count, chunk):  # the training set is read once
        bank_MxG = unit(train_NxG[first : first + chunk])
        bank_MxG = jnp.asarray(np.pad(bank_MxG, ((0, chunk - len(bank_MxG)), (0, 0))))
        found = [_merge(*best, q, bank_MxG, first, count, k) for best, q in zip(found, queries, strict=True)]
    cosine_QxK, index_QxK = (np.concatenate([np.asarray(one[part]) for one in found]) for part in (0, 1))
    return cosine_QxK, index_QxK


def votes(cosine_QxK, label_QxK, *, temperature=TEMPERATURE, num_classes):
    """How the neighbours vote, as shares of one: QxC."""
    parts = [slice(first, first + 2048) for first in range(0, len(label_QxK), 2048)]
    found = [np.asarray(_votes(cosine_QxK[part], label_QxK[part], temperature, num_classes)) for part in parts]
    votes_QxC = np.concatenate(found)
    return votes_QxC / votes_QxC.sum(1, keepdims=True)


def predict(train_NxG, train_label_N, test_QxG, *, k=NEIGHBOURS, temperature=TEMPERATURE, **chunks):
    """The class of each test example.

    Args:
        train_NxG, test_QxG, k, chunks: of `nearest`.
        train_label_N: integers from 0.
        temperature: T.

    Returns:
        label_Q, integers.

    Raises:
        UserError: fewer training examples than k.
    """
    cosine_QxK, index_QxK = nearest(train_NxG, test_QxG, k=k, **chunks)
    num_classes = int(np.max(train_label_N)) + 1
    label_QxK = np.asarray(train_label_N)[index_QxK]
    return votes(cosine_QxK, label_QxK, temperature=temperature, num_classes=num_classes).argmax(1)

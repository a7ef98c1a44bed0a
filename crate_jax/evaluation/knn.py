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
def _merge(best_QxK, label_QxK, query_QxG, bank_MxG, bank_label_M, k):
    """The k nearest of those found before and of one chunk of the training set."""
    cosine_QxM = jnp.matmul(query_QxG, bank_MxG.T, precision="highest")
    cosine_QxM = jnp.where(bank_label_M >= 0, cosine_QxM, -jnp.inf)  # padding of the last chunk
    # first what was found before: top_k keeps the earlier of two equal ones
    together = jnp.concatenate([best_QxK, cosine_QxM], 1)
    labels = jnp.concatenate([label_QxK, jnp.broadcast_to(bank_label_M, cosine_QxM.shape)], 1)
    best_QxK, place_QxK = jax.lax.top_k(together, k)
    return best_QxK, jnp.take_along_axis(labels, place_QxK, 1)


@functools.partial(jax.jit, static_argnames=("num_classes",))
def _vote(best_QxK, label_QxK, temperature, num_classes):
    weight_QxK = jnp.exp((best_QxK - best_QxK[:, :1]) / temperature)
    votes_QxC = jnp.einsum("qk,qkc->qc", weight_QxK, jax.nn.one_hot(label_QxK, num_classes), precision="highest")
    return jnp.argmax(votes_QxC, -1)


def unit(x_NxG):
    """Each row over its length; a row of zeros stays."""
    x_NxG = np.asarray(x_NxG, np.float32)
    return x_NxG / np.maximum(np.linalg.norm(x_NxG, axis=1, keepdims=True), 1e-12)


def predict(
    train_NxG, train_label_N, test_QxG, *, k=NEIGHBOURS, temperature=TEMPERATURE, chunk=16384, query_chunk=2048
):
    """The class of each test example.

    Args:
        train_NxG: features; may be memory-mapped, in any float type: only a chunk is read at a time.
        train_label_N: integers from 0.
        test_QxG: features.
        k: neighbours that vote.
        temperature: T.
        chunk, query_chunk: rows of either set that are on the device at once.

    Returns:
        label_Q, integers.

    Raises:
        UserError: fewer training examples than k.
    """
    count, num_classes = len(train_label_N), int(np.max(train_label_N)) + 1
    if count < k:
        raise UserError(f"--k={k}: there are only {count} training examples; choose at most so many.")
    chunk = min(chunk, count)
    queries = [unit(test_QxG[first : first + query_chunk]) for first in range(0, len(test_QxG), query_chunk)]
    found = [(jnp.full((len(q), k), -jnp.inf), jnp.zeros((len(q), k), jnp.int32)) for q in queries]
    for first in range(0, count, chunk):  # the training set is read once
        bank_MxG = unit(train_NxG[first : first + chunk])
        short = chunk - len(bank_MxG)
        bank_MxG = jnp.asarray(np.pad(bank_MxG, ((0, short), (0, 0))))
        label_M = jnp.asarray(np.pad(train_label_N[first : first + chunk], (0, short), constant_values=-1), jnp.int32)
        found = [_merge(*best, q, bank_MxG, label_M, k) for best, q in zip(found, queries, strict=True)]
    return np.concatenate([np.asarray(_vote(*best, temperature, num_classes)) for best in found])

"""Which example stands where: a pure function of (seed, step), so resuming is free and no shuffle buffer exists.

Examples are laid end to end, epoch after epoch: place p = step * batch_size + row belongs to epoch p // N and is
number p mod N of that epoch's permutation of the N examples. No remainder is dropped: a batch may hold the end of one
epoch and the beginning of the next. The permutation is a Feistel network on the smallest 2^k >= N, walked along its
cycle until it lands below N again (Black and Rogaway 2002): a bijection, computed for one place alone, from nothing
but the key (seed, epoch).
"""

import numpy as np

from crate_jax.data.randomness import hashed, mixed

ROUNDS = 8


def feistel(place_B, keys_RxB, bits):
    """A bijection of the numbers below 2^bits (uint64, two bits or more) with a key (uint64) for each of R rounds."""
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64(2 ** (bits // 2) - 1)
    high_mask = np.uint64(2 ** (bits - bits // 2) - 1)
    high_B, low_B = place_B >> low_bits, place_B & low_mask
    for number, key_B in enumerate(keys_RxB):
        if number % 2:
            low_B = low_B ^ (mixed(key_B ^ high_B) & low_mask)
        else:
            high_B = high_B ^ (mixed(key_B ^ low_B) & high_mask)
    return (high_B << low_bits) | low_B


def permuted(place_B, epoch_B, seed, num_examples):
    """Where the permutation of each epoch sends each place; both in [0, num_examples), the result int64."""
    bits = max(2, (num_examples - 1).bit_length())
    keys_RxB = hashed(seed, np.asarray(epoch_B)[None], np.arange(ROUNDS)[:, None])
    index_B = feistel(np.asarray(place_B).astype(np.uint64), keys_RxB, bits)
    outside = np.flatnonzero(index_B >= num_examples)
    while outside.size:  # half of them come back each time
        index_B[outside] = feistel(index_B[outside], keys_RxB[:, outside], bits)
        outside = outside[index_B[outside] >= num_examples]
    return index_B.astype(np.int64)


def training_order(seed, batch_size, among_N, step, row_R):
    """Endless epochs over some examples, each in a new order.

    Args:
        seed: of the run.
        batch_size: over all hosts; may be larger than N.
        among_N: indices of the examples, at least one.
        step: from 0; any, at the same cost.
        row_R: rows of the global batch.

    Returns:
        index_R, epoch_R: int64; every example appears exactly once an epoch.
    """
    epoch_R, place_R = np.divmod(step * batch_size + row_R, len(among_N))
    return among_N[permuted(place_R, epoch_R, seed, len(among_N))], epoch_R


def evaluation_order(batch_size, index_N, step, row_R):
    """Some examples once, as they are listed; arguments and results as of `training_order`, index -1 is padding."""
    place_R = step * batch_size + row_R
    index_R = np.where(place_R < len(index_N), index_N.take(place_R, mode="clip"), -1)
    return index_R, np.zeros_like(place_R)

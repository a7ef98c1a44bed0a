"""Masks: which patches are removed and which stay visible. In a mask 1 is removed, 0 visible.

Every kind ranks the patches by a number, its noise, and the `visible` patches of least noise stay: the count is exact
and static. Noise is a pure function of a key and an example's index, not of the place in the batch.

    random    uniform (He et al. 2022, MAE)
    block     removed patches fill rectangles of random size, shape and place (Bao et al. 2022, BEiT)
    grid      visible patches are spread regularly, with a random offset: of one in four, one in each 2 x 2 (MAE's
              grid-wise sampling); ordered dithering (Bayer 1973) makes any other count as regular as it can be
"""

import jax
import jax.numpy as jnp

KINDS = ("random", "block", "grid")

_BLOCKS = 64  # rectangles drawn per image; they cover the grid almost surely, the rest is removed at random
_BLOCK_AREA = 0.08, 0.25  # of the grid; BEiT's smallest is 16 of 196 patches
_BLOCK_ASPECT = 0.3, 1 / 0.3  # height by width, BEiT


def num_visible(num_patches, ratio):
    """How many patches of an image stay visible: int(N (1 - ratio)), as in the official code.

    >>> num_visible(64, 0.6)
    25
    """
    return int(num_patches * (1 - ratio))


def mask_from_noise(noise_BxN, visible):
    """The mask_BxN (float32) under which the `visible` patches of least noise stay; ties go to the earlier patch."""
    rank_BxN = jnp.argsort(jnp.argsort(noise_BxN, axis=-1, stable=True), axis=-1)
    return (rank_BxN >= visible).astype(jnp.float32)


def visible_first(mask_BxN, visible):
    """The indices B x V of the visible patches, in increasing order; each row of the mask has V = `visible` zeros."""
    return jnp.argsort(mask_BxN, axis=-1, stable=True)[:, :visible]


def example_masks(key, index_B, grid, ratio, *, kind="random"):
    """Masks that depend on the key and on each example's index: where indices are equal, so are the masks.

    Args:
        key: a PRNG key, of the seed and the step.
        index_B: integers, the examples' indices in the data set.
        grid: (rows, columns) of patches, N = rows * columns.
        ratio: fraction removed.
        kind: one of `KINDS`.

    Returns:
        mask_BxN, float32, 1 where removed; int(N (1 - ratio)) zeros per row.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: a mask's kind is one of {', '.join(KINDS)}")
    make_noise = {"random": _random_noise, "block": _block_noise, "grid": _grid_noise}[kind]
    noise_BxN = jax.vmap(lambda index: make_noise(jax.random.fold_in(key, index), *grid))(index_B)
    return mask_from_noise(noise_BxN, num_visible(grid[0] * grid[1], ratio))


def _random_noise(key, rows, columns):
    return jax.random.uniform(key, (rows * columns,), jnp.float32)


def _block_noise(key, rows, columns):
    """Minus the number of the first rectangle that covers a patch: the earliest rectangles are removed first."""
    keys = jax.random.split(key, 5)
    low, high = (share * rows * columns for share in _BLOCK_AREA)
    area_M = jax.random.uniform(keys[0], (_BLOCKS,), jnp.float32, minval=low, maxval=high)
    shortest, tallest = (jnp.log(aspect) for aspect in _BLOCK_ASPECT)
    aspect_M = jnp.exp(jax.random.uniform(keys[1], (_BLOCKS,), jnp.float32, shortest, tallest))
    row_N, column_N = jnp.indices((rows, columns)).reshape(2, -1)

    def within(side_M, size, key, place_N):
        side_M = jnp.clip(jnp.round(side_M), 1, size)
        start_M = jnp.floor(jax.random.uniform(key, (_BLOCKS,), jnp.float32) * (size - side_M + 1))
        return (place_N >= start_M[:, None]) & (place_N < (start_M + side_M)[:, None])

    in_rows_MxN = within(jnp.sqrt(area_M * aspect_M), rows, keys[2], row_N)
    covers_MxN = in_rows_MxN & within(jnp.sqrt(area_M / aspect_M), columns, keys[3], column_N)
    last_N = _BLOCKS + jax.random.uniform(keys[4], (rows * columns,), jnp.float32)
    return -jnp.where(jnp.any(covers_MxN, 0), jnp.argmax(covers_MxN, 0), last_N)


def _grid_noise(key, rows, columns):
    """Each patch's place in a Bayer matrix, which is shifted by a random offset."""
    bits = max(rows - 1, columns - 1, 1).bit_length()
    row_N, column_N = jnp.indices((rows, columns)).reshape(2, -1)
    offset = jax.random.randint(key, (2,), 0, 2**bits, jnp.int32)
    row_N, column_N = row_N + offset[0], column_N + offset[1]
    rank_N = jnp.zeros_like(row_N)
    for bit in range(bits):  # the lowest bits of row and column decide first
        high_N, low_N = (row_N ^ column_N) >> bit & 1, row_N >> bit & 1
        rank_N = rank_N + (2 * high_N + low_N) * 4 ** (bits - 1 - bit)
    return rank_N


def random_mask(key, batch, num_patches, ratio):
    """Random masks, one per image: mask_BxN, float32, 1 where removed; int(N (1 - ratio)) zeros per row.

    Raises:
        ValueError: a ratio that is no fraction.

    >>> random_mask(jax.random.key(0), 2, 64, 0.75).sum(1).tolist()
    [48.0, 48.0]
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio={ratio}: a fraction of the patches is removed, from 0 to 1")
    return mask_from_noise(jax.random.uniform(key, (batch, num_patches), jnp.float32), num_visible(num_patches, ratio))

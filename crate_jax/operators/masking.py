"""Which patches are removed. 1 is removed, 0 stays visible; how many stay is static: int(N (1 - ratio))."""

import jax
import jax.numpy as jnp


def num_visible(num_patches, ratio):
    """int(N (1 - ratio)), as in the official code: how many patches of an image stay visible."""
    return int(num_patches * (1 - ratio))


def mask_from_noise(noise_BxN, visible):
    """Keeps the `visible` patches of least noise (He et al. 2022, MAE: random masking by shuffling).

    Args:
        noise_BxN: any numbers; ties go to the earlier patch.
        visible: how many stay.

    Returns:
        mask_BxN, f32: exactly `visible` zeros a row.
    """
    rank_BxN = jnp.argsort(jnp.argsort(noise_BxN, axis=-1, stable=True), axis=-1)
    return (rank_BxN >= visible).astype(jnp.float32)


def random_mask(key, batch, num_patches, ratio):
    """Random masks, one an image.

    Args:
        key: a PRNG key.
        batch: B.
        num_patches: N.
        ratio: fraction removed.

    Returns:
        mask_BxN, f32: 1 where removed; int(N (1 - ratio)) zeros a row.
    """
    return mask_from_noise(jax.random.uniform(key, (batch, num_patches), jnp.float32), num_visible(num_patches, ratio))


def example_masks(key, index_B, num_patches, ratio):
    """Random masks that depend on the key and on each example's index alone, not on its place in the batch.

    Args:
        key: a PRNG key, of the seed and the step.
        index_B: integers, the examples' numbers in the data set.
        num_patches: N.
        ratio: fraction removed.

    Returns:
        mask_BxN, f32.
    """

    def noise(index):
        return jax.random.uniform(jax.random.fold_in(key, index), (num_patches,), jnp.float32)

    return mask_from_noise(jax.vmap(noise)(index_B), num_visible(num_patches, ratio))


def visible_first(mask_BxN, visible):
    """The places of the visible patches, in order.

    Args:
        mask_BxN: exactly `visible` zeros a row.
        visible: V.

    Returns:
        place_BxV, integers.
    """
    return jnp.argsort(mask_BxN, axis=-1, stable=True)[:, :visible]

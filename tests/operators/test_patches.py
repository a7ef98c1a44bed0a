"""Patches: pixel by pixel, there and back; and the loss over them."""

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.operators.losses import masked_mse, patch_mse, standardised_patches
from crate_jax.operators.patches import grid_of, image_shape, patchify, unpatchify

sizes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.sampled_from([1, 3]))


@hypothesis.settings(deadline=None, max_examples=8)
@hypothesis.given(sizes)
def test_order_and_inverse(size):
    batch, rows, columns, p, channels = size
    images = np.random.default_rng(0).normal(size=(batch, rows * p, columns * p, channels)).astype(np.float32)
    patches = np.asarray(patchify(jnp.asarray(images), p))
    assert patches.shape == (batch, rows * columns, p * p * channels)
    for b, r, c in np.ndindex(batch, rows, columns):  # within a patch: row, column, channel
        want = [images[b, r * p + y, c * p + x, k] for y in range(p) for x in range(p) for k in range(channels)]
        np.testing.assert_array_equal(patches[b, r * columns + c], want)
    np.testing.assert_array_equal(unpatchify(jnp.asarray(patches), p, grid=(rows, columns)), images)


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="30 x 32"):
        patchify(jnp.zeros((1, 30, 32, 3)), 8)
    with pytest.raises(ValueError, match="6 patches"):
        unpatchify(jnp.zeros((1, 6, 12)), 2)


def test_patches_that_are_no_squares():
    images = np.arange(2 * 6 * 8 * 3).reshape(2, 6, 8, 3)
    patches = patchify(images, (3, 2))
    np.testing.assert_array_equal(patches[1, 5].reshape(3, 2, 3), images[1, 3:, 2:4])
    np.testing.assert_array_equal(unpatchify(patches, (3, 2), grid=grid_of((6, 8), (3, 2))), images)


def test_a_grid_of_patches():
    assert grid_of((24, 40), 8) == (3, 5) and grid_of(np.int64(32), 8) == (4, 4)
    assert image_shape(24) == (24, 24) and image_shape([24, 40]) == (24, 40)


@pytest.mark.parametrize(("size", "patch"), [((24, 41), 8), (0, 8), (4, 8), (32, 0)])
def test_a_grid_refuses_what_its_patches_do_not_fill(size, patch):
    with pytest.raises(ValueError, match="not divisible into patches"):
        grid_of(size, patch)
    with pytest.raises(ValueError, match="15 patches of 100 numbers do not fill a grid of 3 x 5 patches of 8 x 8"):
        unpatchify(np.zeros((1, 15, 100)), 8, grid=(3, 5))


@pytest.mark.parametrize("norm_pix", [False, True])
def test_masked_mse(norm_pix):
    """The mean over removed patches only, the target standardised with the unbiased variance + 1e-6."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(2, 8, 8, 3))
    prediction = rng.normal(size=(2, 4, 48))
    mask = np.array([[1, 0, 1, 1], [0, 0, 1, 0]])
    total = []
    for b, n in np.argwhere(mask):
        y, x = divmod(n, 2)
        target = images[b, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].reshape(-1)
        if norm_pix:
            target = (target - target.mean()) / (target.var(ddof=1) + 1e-6) ** 0.5
        total.append(((prediction[b, n] - target) ** 2).mean())
    got = masked_mse(jnp.float32(images), jnp.float32(prediction), jnp.float32(mask), 4, norm_pix)
    np.testing.assert_allclose(got, np.mean(total), rtol=1e-5)
    each = patch_mse(jnp.float32(images), jnp.float32(prediction), 4, norm_pix)
    np.testing.assert_allclose(each[mask > 0].mean(), np.mean(total), rtol=1e-5)
    patches = patchify(jnp.float32(images), 4)
    standard, mean, deviation = standardised_patches(patches)
    np.testing.assert_allclose(standard * deviation + mean, patches, atol=1e-5)


def test_losses_of_shapes_that_would_broadcast_are_refused():
    images, prediction, mask = np.zeros((3, 8, 8, 1), np.float32), np.zeros((3, 4, 16)), np.ones((3, 4))
    for wrong in (
        (images, prediction[:1], mask),
        (images, prediction, mask[:1]),
        (images, prediction, mask[0]),
        (images.astype(np.uint8), prediction, mask),
    ):
        with pytest.raises(ValueError, match=r"these images have|give them normalised"):
            masked_mse(*wrong, 4)

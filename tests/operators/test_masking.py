"""Masks have exact counts, follow their key, and say where the visible patches are."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.operators.masking import example_masks, mask_from_noise, num_visible, random_mask, visible_first


@hypothesis.settings(deadline=None, max_examples=12)
@hypothesis.given(st.integers(1, 40), st.floats(0.0, 0.99), st.integers(0, 2**31 - 1))
def test_exact_counts(patches, ratio, seed):
    mask = np.asarray(random_mask(jax.random.key(seed), 3, patches, ratio))
    assert mask.shape == (3, patches) and set(np.unique(mask)) <= {0.0, 1.0}
    assert np.all((mask == 0).sum(1) == int(patches * (1 - ratio)))


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.data())
def test_keeps_the_least_noise_and_breaks_ties_in_order(noise, data):
    visible = data.draw(st.integers(0, len(noise)))
    mask = np.asarray(mask_from_noise(jnp.float32([noise]), visible))[0]
    kept = sorted(range(len(noise)), key=lambda i: (noise[i], i))[:visible]
    assert [i for i in range(len(noise)) if mask[i] == 0] == sorted(kept)


def test_visible_first():
    mask = jnp.float32([[1, 0, 1, 0], [0, 0, 1, 1]])
    np.testing.assert_array_equal(visible_first(mask, 2), [[1, 3], [0, 1]])


def test_example_masks_follow_the_example_not_its_place():
    key = jax.random.key(0)
    several = example_masks(key, jnp.array([5, 9, 2]), 16, 0.75)
    alone = example_masks(key, jnp.array([9]), 16, 0.75)
    np.testing.assert_array_equal(several[1], alone[0])
    assert len({tuple(row) for row in np.asarray(several)}) == 3
    assert np.any(several != example_masks(jax.random.key(1), jnp.array([5, 9, 2]), 16, 0.75))


def test_every_patch_is_as_likely():
    mask = np.asarray(random_mask(jax.random.key(3), 4000, 16, 0.75))
    np.testing.assert_allclose(mask.mean(0), 0.75, atol=5 * (0.75 * 0.25 / 4000) ** 0.5)


def test_count_of_the_official_sizes():
    assert num_visible(196, 0.75) == 49

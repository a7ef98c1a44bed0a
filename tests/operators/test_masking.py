"""Masks have exact counts, follow their key, and say where the visible patches are."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.operators.masking import (
    KINDS,
    example_masks,
    mask_from_noise,
    num_visible,
    random_mask,
    visible_first,
)


@hypothesis.settings(deadline=None, max_examples=12)
@hypothesis.given(st.sampled_from([1, 7, 40]), st.floats(0.0, 0.99), st.integers(0, 2**31 - 1))
def test_exact_counts(patches, ratio, seed):
    mask = np.asarray(random_mask(jax.random.key(seed), 3, patches, ratio))
    assert mask.shape == (3, patches) and set(np.unique(mask)) <= {0.0, 1.0}
    assert np.all((mask == 0).sum(1) == int(patches * (1 - ratio)))


@pytest.mark.parametrize("ratio", [1.5, -0.1, float("nan")])
def test_a_ratio_that_is_no_fraction_is_refused(ratio):
    with pytest.raises(ValueError, match="from 0 to 1"):
        random_mask(jax.random.key(0), 3, 16, ratio)


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(
    st.sampled_from([1, 4, 12]).flatmap(lambda n: st.lists(st.integers(0, 5), min_size=n, max_size=n)), st.data()
)
def test_keeps_the_least_noise_and_breaks_ties_in_order(noise, data):
    visible = data.draw(st.integers(0, len(noise)))
    mask = np.asarray(mask_from_noise(jnp.float32([noise]), visible))[0]
    kept = sorted(range(len(noise)), key=lambda i: (noise[i], i))[:visible]
    assert [i for i in range(len(noise)) if mask[i] == 0] == sorted(kept)


def test_visible_first():
    mask = jnp.float32([[1, 0, 1, 0], [0, 0, 1, 1]])
    np.testing.assert_array_equal(visible_first(mask, 2), [[1, 3], [0, 1]])


def test_every_patch_is_as_likely():
    mask = np.asarray(random_mask(jax.random.key(3), 4000, 16, 0.75))
    np.testing.assert_allclose(mask.mean(0), 0.75, atol=5 * (0.75 * 0.25 / 4000) ** 0.5)


def test_count_of_the_official_sizes():
    assert num_visible(196, 0.75) == 49


GRIDS = [(14, 10), (3, 7), (1, 1)]


@functools.partial(jax.jit, static_argnames=("grid", "count", "kind"))
def masks(key, index, grid, count, kind):
    """Masks that leave so many patches visible."""
    return example_masks(key, index, grid, 1 - (count + 0.5) / (grid[0] * grid[1]), kind=kind)


def visible(key, index, grid, count, kind):
    return np.asarray(visible_first(masks(key, index, grid, count, kind), count))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_kind_leaves_exactly_so_many(kind, grid):
    patches = grid[0] * grid[1]
    for count in {-(-patches // 4)} if grid == (3, 7) else {1, -(-patches // 4), patches}:
        mask = np.asarray(masks(jax.random.key(0), jnp.arange(4), grid, count, kind))
        assert mask.shape == (4, patches) and mask.dtype == np.float32 and np.all(np.sum(mask == 0, 1) == count)
        assert set(np.unique(mask)) <= {0, 1}
        np.testing.assert_array_equal(visible_first(mask, count), [np.flatnonzero(row == 0) for row in mask])


def test_random_masks_are_what_they_were():
    """Resumed runs and the golden arrays rely on these very bits."""
    key, index = jax.random.key(7), jnp.array([3, 11, 4])
    noise = jnp.stack([jax.random.uniform(jax.random.fold_in(key, i), (24,)) for i in (3, 11, 4)])
    want = mask_from_noise(noise, 6)
    np.testing.assert_array_equal(example_masks(key, index, (4, 6), 0.75), want)
    np.testing.assert_array_equal(random_mask(key, 3, 24, 0.75), mask_from_noise(jax.random.uniform(key, (3, 24)), 6))


@pytest.mark.parametrize("kind", KINDS)
def test_masks_follow_key_and_example(kind):
    def run(seed, index):
        return visible(jax.random.key(seed), jnp.array(index), (8, 8), 13, kind)

    several = run(0, [5, 9, 2, 6])
    np.testing.assert_array_equal(several[1:2], run(0, [9]))
    assert len({tuple(row) for row in several}) > 1 and np.any(several != run(1, [5, 9, 2, 6]))
    assert len({tuple(row) for row in run(0, [5] * 4)}) == 1


def test_a_quarter_on_a_grid_is_one_in_each_cell():
    """Whatever the offset; a sixteenth is one in each 4 x 4."""
    for count, cell in ((16 * 12 // 4, 2), (16 * 12 // 16, 4)):
        for place in visible(jax.random.key(1), jnp.arange(8), (16, 12), count, "grid"):
            row, column = np.divmod(place, 12)
            assert len({(r // cell, c // cell) for r, c in zip(row, column, strict=True)}) == count
            assert len(set(row % cell)) == len(set(column % cell)) == 1


def borders(mask, grid):
    """How many neighbouring pairs of patches are one visible, one removed."""
    mask = np.asarray(mask).reshape(-1, *grid)
    return (np.diff(mask, axis=1) != 0).sum() + (np.diff(mask, axis=2) != 0).sum()


def test_blocks_are_large_and_random_masks_are_not():
    grid, index = (14, 10), jnp.arange(64)
    found = {kind: borders(masks(jax.random.key(2), index, grid, 70, kind), grid) for kind in KINDS}
    assert found["block"] < 0.4 * found["random"] < 0.4 * found["grid"]


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="kind='stripes'"):
        example_masks(jax.random.key(0), jnp.arange(4), (3, 3), 0.5, kind="stripes")

"""The order: a bijection an epoch, the same for any number of hosts, free to enter anywhere."""

import time

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from crate_jax.data.order import feistel, permuted, training_order
from crate_jax.data.randomness import uniforms


def indices_of_step(seed, step, batch_size, num_examples):
    return training_order(seed, batch_size, np.arange(num_examples), step, np.arange(batch_size))


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(st.integers(1, 5000), st.integers(0, 2**31), st.integers(0, 10**6))
def test_an_epoch_is_a_permutation(num_examples, seed, epoch):
    index = permuted(np.arange(num_examples), np.full(num_examples, epoch), seed, num_examples)
    assert np.array_equal(np.sort(index), np.arange(num_examples))


@pytest.mark.parametrize("bits", [2, 3, 8, 11])
def test_the_network_is_a_bijection_of_its_whole_domain(bits):
    keys = np.random.default_rng(bits).integers(0, 2**63, (8, 2**bits), np.uint64)
    keys[:] = keys[:, :1]
    assert len(set(feistel(np.arange(2**bits, dtype=np.uint64), keys, bits).tolist())) == 2**bits


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(st.integers(1, 60), st.integers(1, 100))
def test_every_example_once_an_epoch_across_batch_borders(num_examples, batch_size):
    steps = -(-3 * num_examples // batch_size)
    batches = [indices_of_step(7, step, batch_size, num_examples) for step in range(steps)]
    index, epoch = (np.concatenate(part)[: 3 * num_examples] for part in zip(*batches, strict=True))
    for number in range(3):
        assert sorted(index[epoch == number]) == list(range(num_examples))


def test_epochs_and_seeds_differ():
    orders = {tuple(indices_of_step(seed, epoch, 100, 100)[0]) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_order_looks_random():
    """Places and neighbours of a thousand epochs of 50 examples are uniform to within the noise of their counts."""
    index = np.stack([indices_of_step(3, epoch, 50, 50)[0] for epoch in range(1000)])
    counts = np.stack([np.bincount(column, minlength=50) for column in index.T])
    assert abs(((counts - 20) ** 2 / 20).sum() - 49 * 49) < 5 * np.sqrt(2 * 49 * 49)
    step = np.bincount((np.diff(index, axis=1) % 50).ravel(), minlength=50)[1:]
    assert ((step - 1000) ** 2 / 1000).sum() < 48 + 5 * np.sqrt(2 * 48)


def test_a_late_step_costs_what_the_first_does():
    def seconds(step):
        begun = time.perf_counter()
        indices_of_step(0, step, 4096, 1_281_167)
        return time.perf_counter() - begun

    first = min(seconds(0) for _ in range(5))
    assert min(seconds(1_000_000) for _ in range(5)) < 5 * first + 0.01
    assert first < 0.1


def test_uniform_numbers_are_uniform_and_independent():
    numbers = uniforms(1, np.repeat(np.arange(100), 100), np.tile(np.arange(100), 100), 2, 4)
    assert numbers.shape == (10_000, 4)
    assert numbers.min() >= 0 and numbers.max() < 1
    np.testing.assert_allclose(numbers.mean(0), 0.5, atol=0.012)
    np.testing.assert_allclose(numbers.var(0), 1 / 12, atol=0.003)
    assert abs(np.corrcoef(numbers.T) - np.eye(4)).max() < 0.04
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.04


def test_numbers_depend_on_every_word():
    base = uniforms(1, np.array([2]), np.array([3]), 4, 5)
    for seed, epoch, index, stream in ((0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0), (3, 2, 1, 4)):
        assert not np.isclose(uniforms(seed, np.array([epoch]), np.array([index]), stream, 5), base).any()

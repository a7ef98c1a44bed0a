"""The coding rate of a batch's features, taken from the loss of pre-training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.config import override
from crate_jax.operators.coding_rate import features_coding_rate
from crate_jax.training.program import build_program


def batch(size=8):
    images = np.random.default_rng(0).integers(0, 256, (size, 28, 28, 1), dtype=np.uint8)
    return {"image": images, "index": np.arange(size, dtype=np.int32)}


@pytest.mark.parametrize("count", [4, 20])  # fewer and more images than features
def test_rate_of_the_mean_patch_of_length_one(count):
    latent = np.random.default_rng(1).normal(size=(count, 5, 12))
    mean = latent[:, 1:].mean(1)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    want = 0.5 * np.linalg.slogdet(np.eye(12) + 12 / (count * 0.3**2) * mean.T @ mean)[1]
    np.testing.assert_allclose(features_coding_rate(jnp.asarray(latent, jnp.float32), epsilon=0.3), want, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1.0])
def test_collapsed_and_zero_features_have_finite_slopes(epsilon):
    one = np.random.default_rng(2).normal(size=(1, 3, 8)).astype(np.float32)
    slope = jax.jit(jax.grad(lambda z: features_coding_rate(z, epsilon=epsilon)))
    for latent in (np.repeat(one, 6, 0), np.zeros((6, 3, 8), np.float32)):
        assert np.all(np.isfinite(slope(jnp.asarray(latent))))


def test_loss_is_error_less_the_weighted_rate(tiny):
    """Also where the mask ratio is drawn; the error is that of a run without the term."""
    leaves = [("masking.ratio", (0.5, 0.75)), ("masking.ratio_levels", 2)]
    plain = build_program(override(tiny, leaves), 1000)
    program = build_program(override(tiny, [*leaves, ("objective.rate_weight", 0.01)]), 1000)
    params, key = program.new_state().params, jax.random.key(3)
    loss, scalars = jax.jit(program.objective)(params, batch(), key)
    error, _ = jax.jit(plain.objective)(params, batch(), key)
    np.testing.assert_allclose(scalars["masked_error"], error, rtol=1e-6)
    np.testing.assert_allclose(loss, error - 0.01 * scalars["coding_rate"], rtol=1e-6)
    assert scalars["coding_rate"] > 0 and "mask_ratio" in scalars


def test_it_spreads_features_and_is_logged_as_a_mean_over_micro_batches(tiny):
    leaves = [("objective.rate_weight", 1.0), ("optimizer.accumulate", 2), ("optimizer.warmup_steps", 0)]
    program = build_program(override(tiny, leaves), 1000)
    state, rates = program.new_state(), []
    for _ in range(4):
        state, metrics = program.step(state, batch(16), program.seed)
        rates.append(float(metrics["coding_rate"]))
        np.testing.assert_allclose(metrics["loss"], metrics["masked_error"] - metrics["coding_rate"], rtol=1e-4)
    assert rates[-1] > rates[0]

"""LayerNorm against float64, and its statistics in f32 whatever the type of the tokens."""

import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.operators.normalisation import layer_norm


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.03)])
def test_layer_norm(dtype, tolerance):
    rng = np.random.default_rng(0)
    z = np.asarray(jnp.asarray(100 + rng.normal(size=(2, 3, 64)), dtype), np.float64)  # a large mean loses no digits
    scale, bias = rng.normal(size=64), rng.normal(size=64)
    want = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5) * scale + bias
    got = layer_norm(jnp.asarray(z, dtype), jnp.float32(scale), jnp.float32(bias), epsilon=1e-5)
    assert got.dtype == dtype
    np.testing.assert_allclose(got.astype(jnp.float32), want, atol=tolerance * 5)

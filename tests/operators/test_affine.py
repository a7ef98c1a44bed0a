"""Products with a parameter: values, gradients, and what bf16 may and may not round."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crate_jax.operators.affine import affine, broadcast_rows, product
from crate_jax.operators.ista import ista


def rounded(x):
    """What bf16 makes of x, as float64."""
    return np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@settings(max_examples=8, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 33), st.integers(1, 33), st.integers(0, 2**31))
def test_values_and_gradients_are_the_formulas(dtype, images, tokens, width, outputs, seed):
    """z^T g and the sum of g, to f32 accuracy from the very numbers that the product was given."""
    rng = np.random.default_rng(seed)
    z, g = (rng.normal(size=(images, tokens, size)) for size in (width, outputs))
    weight, bias = rng.normal(size=(width, outputs)), rng.normal(size=outputs)

    @jax.jit  # one program, not one for each operation
    def both(g, *arrays):
        value, pull = jax.vjp(affine, *arrays)
        return value, *pull(g)

    value, dz, dweight, dbias = both(g.astype(dtype), z.astype(dtype), np.float32(weight), np.float32(bias))
    assert (value.dtype, dz.dtype, dweight.dtype, dbias.dtype) == (dtype, dtype, "float32", "float32")
    if dtype == "bfloat16":
        z, g = rounded(z), rounded(g)
    loose = {"atol": 1e-5 * (width + outputs)} if dtype == "float32" else {"atol": 0.02 * (width + outputs) ** 0.5}
    np.testing.assert_allclose(np.asarray(value, float), z @ weight + bias, rtol=2e-2, **loose)
    np.testing.assert_allclose(np.asarray(dz, float), g @ weight.T, rtol=2e-2, **loose)
    np.testing.assert_allclose(dweight, np.einsum("bnd,bne->de", z, g), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dbias, g.sum((0, 1)), rtol=1e-4, atol=1e-4)


def test_float32_is_left_to_autodiff():
    """Forward mode and second derivatives included, which the analyses take."""
    z, weight = jnp.ones((2, 3, 4)), jnp.eye(4)
    assert "custom_vjp" not in str(jax.make_jaxpr(product)(z, weight))
    assert "custom_vjp" in str(jax.make_jaxpr(product)(z.astype(jnp.bfloat16), weight))


def test_a_dictionary_used_twice_gets_both_gradients():
    """ISTA in bf16 against ISTA in f32 of the same rounded numbers; no entry near the ReLU's corner."""
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.normal(size=(4, 50, 32)), jnp.bfloat16)
    dictionary = jnp.float32(rounded(rng.normal(size=(32, 32)) / 6))

    def total(z, dictionary):
        return jnp.sum(ista(z, dictionary, step_size=0.1, sparsity=-1e3).astype(jnp.float32))

    narrow, wide = (jax.jit(jax.grad(total, 1))(x, dictionary) for x in (z, z.astype(jnp.float32)))
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, wide, atol=0.02 * float(jnp.max(jnp.abs(wide))))


def test_gradients_of_broadcast_parameters_are_summed_before_they_are_rounded():
    """A thousand gradients of 1 + 1/128: each is a bf16 number, a running sum in bf16 would stop at 256."""
    like = jnp.zeros((1000, 1, 3), jnp.bfloat16)
    _, pull = jax.vjp(lambda token: broadcast_rows(token, like), jnp.zeros(3))
    np.testing.assert_allclose(pull(jnp.full(like.shape, 1 + 1 / 128, jnp.bfloat16))[0], 1007.8125)

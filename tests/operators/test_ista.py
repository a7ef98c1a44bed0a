"""ISTA is the textbook's three products, and one proximal step of non-negative LASSO."""

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from crate_jax.operators.ista import ista, lasso_objective


def textbook(z, d, eta, lam):
    """Column by column, three products, no shortcut."""
    out = np.empty_like(z)
    for index in np.ndindex(z.shape[:2]):
        x = z[index]
        out[index] = np.maximum(x - eta * (d.T @ (d @ x) - d.T @ x) - eta * lam, 0)
    return out


def problem(seed, width=12):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, 5, width)), rng.normal(size=(width, width)) / width**0.5


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.05)])
def test_equals_the_textbook(dtype, tolerance):
    z, d = problem(0)
    out = ista(jnp.asarray(z, dtype), jnp.asarray(d, dtype), step_size=0.1, sparsity=0.5)
    assert out.dtype == dtype
    np.testing.assert_allclose(out.astype(jnp.float32), textbook(z, d, 0.1, 0.5), atol=tolerance)


@hypothesis.settings(deadline=None, max_examples=25)  # the first example compiles
@hypothesis.given(st.floats(0.01, 0.99), st.floats(0.0, 2.0), st.integers(0, 100))
def test_descends_below_the_lipschitz_step(fraction, sparsity, seed):
    """1/2 ||z - D a||^2 + lambda |a|_1 does not increase; that needs a start a = z that is itself non-negative."""
    z, d = problem(seed)
    z = np.abs(z)
    step = fraction / np.linalg.norm(d, 2) ** 2
    code = np.asarray(ista(jnp.float32(z), jnp.float32(d), step_size=step, sparsity=sparsity), np.float64)

    def lasso(a):
        return ((z - a @ d.T) ** 2).sum(-1) / 2 + sparsity * np.abs(a).sum(-1)

    before, after = lasso(z), lasso(code)
    assert np.all(after <= before + 1e-5 * (1 + before))
    np.testing.assert_allclose(lasso_objective(code, z, jnp.float32(d), sparsity=sparsity), after, rtol=1e-5)


def test_is_the_proximal_step():
    """The step minimises the objective, linearised at the start, plus ||a - z||^2 / (2 eta), over a >= 0."""
    z, d = problem(3)
    eta, lam = 0.1, 0.4
    gradient = (z @ d.T - z) @ d

    def surrogate(a):
        return (gradient * (a - z) + (a - z) ** 2 / (2 * eta) + lam * a).sum()

    code = np.asarray(ista(jnp.float32(z), jnp.float32(d), step_size=eta, sparsity=lam), np.float64)
    rng = np.random.default_rng(4)
    for size in (1e-3, 1e-2, 1e-1):
        other = np.maximum(code + size * rng.normal(size=z.shape), 0)
        assert surrogate(code) < surrogate(other)


def test_more_sparsity_means_fewer_entries():
    z, d = problem(5)
    shares = [
        float(jnp.mean(ista(jnp.float32(z), jnp.float32(d), step_size=0.1, sparsity=s) > 0)) for s in (0, 1, 5, 50)
    ]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.3 and shares[-1] == 0


def test_gradient():
    z, d = (jnp.float32(x) for x in problem(6))
    check_grads(lambda z, d: ista(z, d, step_size=0.1, sparsity=0.1), (z, d), 1, modes=["rev"], atol=1e-2, rtol=1e-2)

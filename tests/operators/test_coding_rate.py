"""Coding rates against eigenvalues in float64, their identities, and the ends of their range."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from crate_jax.operators.coding_rate import (
    coding_rate,
    coding_rate_gradient,
    logdet_gram,
    official_coding_rate,
    solve_from_one,
    subspace_coding_rate,
)
from crate_jax.operators.subspace_attention import split_heads

RATE, GRADIENT = jax.jit(coding_rate), jax.jit(coding_rate_gradient)  # compiled once for all distortions


def rate(z, eps):
    """1/2 sum log(1 + D/(N eps^2) s^2) over the singular values, float64."""
    z = np.asarray(z, np.float64)
    singular = np.linalg.svd(z, compute_uv=False)
    return 0.5 * np.log1p(z.shape[1] / (z.shape[0] * eps**2) * singular**2).sum()


def tokens(seed, batch=2, count=9, width=12):
    return np.random.default_rng(seed).normal(size=(batch, count, width)).astype(np.float32)


@hypothesis.settings(deadline=None, max_examples=15)
@hypothesis.given(
    st.sampled_from([(1, 12), (9, 12), (12, 12), (30, 12), (30, 4)]), st.floats(1e-4, 10.0), st.floats(1e-3, 1e3)
)
def test_equals_the_singular_values(shape, eps, size):
    """Tall and wide, from eps = 1e-4 up, tiny tokens and huge ones."""
    z = size * tokens(0, 2, *shape)
    np.testing.assert_allclose(RATE(jnp.asarray(z), epsilon=eps), [rate(x, eps) for x in z], rtol=2e-4, atol=1e-5)


@jax.jit
def rates_and_slopes(z, eps):
    """Rate, rate in two subspaces, and the gradients of the rate and of the official one."""

    def official(z):
        return jnp.sum(official_coding_rate(split_heads(z, 2), epsilon=eps))

    rates = coding_rate(z, epsilon=eps), subspace_coding_rate(split_heads(z, 2), epsilon=eps)
    slope = jax.grad(lambda z: jnp.sum(coding_rate(z, epsilon=eps)))(z)
    return *rates, slope, jax.grad(official)(z)


@pytest.mark.parametrize("eps", [1e-4, 1e-2, 0.5])
@pytest.mark.parametrize("kind", ["duplicated", "zero", "some zero", "one token", "one direction", "one class"])
def test_extremes(kind, eps):
    """Rank-deficient Gram matrices: nothing is NaN, and the number is right."""
    z = tokens(1, 2, 20, 8)
    z = {
        "duplicated": np.concatenate([z[:, :4]] * 5, 1),
        "zero": 0 * z,
        "some zero": z * (np.arange(20) % 2)[:, None],
        "one token": z[:, :1],
        "one direction": z[:, :, :1] * z[:1, :1],
        "one class": z[:, :1] + 1e-3 * z,
    }[kind]
    want = [rate(x, eps) for x in z]
    whole, by_subspace, *slopes = rates_and_slopes(jnp.asarray(z), eps)
    np.testing.assert_allclose(whole, want, rtol=1e-3, atol=1e-6)
    by_head = [sum(rate(x[:, h : h + 4], eps) for h in (0, 4)) for x in z]
    np.testing.assert_allclose(by_subspace, by_head, rtol=1e-3, atol=1e-6)
    assert all(np.all(np.isfinite(slope)) for slope in slopes), kind


def test_at_a_base_networks_size():
    """197 normalised tokens of width 768, half of them nearly equal: float32 keeps four digits."""
    z = tokens(2, 1, 197, 768)
    z[:, 100:] = z[:, :1] + 0.02 * z[:, 100:]
    for eps in (0.5, 0.05):
        np.testing.assert_allclose(RATE(jnp.asarray(z), epsilon=eps), [rate(z[0], eps)], rtol=1e-4)


def test_official_definition():
    """The script's own words: unit columns, I of M x M, P / (M eps), eps not squared; M tokens."""
    codes = tokens(3, 2, 9, 12).reshape(2, 9, 3, 4)
    want = []
    for image in codes.astype(np.float64):
        total = 0
        for head in range(3):
            w = image[:, head].T
            w = w / np.linalg.norm(w, axis=0)
            total += 0.5 * np.linalg.slogdet(np.eye(9) + 4 / (9 * 0.01) * w.T @ w)[1]
        want.append(total)
    np.testing.assert_allclose(official_coding_rate(jnp.asarray(codes)), want, rtol=1e-5)


def test_identities():
    z = jnp.asarray(tokens(4))
    rotation = np.linalg.qr(tokens(5, 1, 12, 12)[0])[0]
    base = RATE(z)
    np.testing.assert_allclose(logdet_gram(z, 0.7), logdet_gram(jnp.swapaxes(z, 1, 2), 0.7), rtol=1e-5)  # Sylvester
    np.testing.assert_allclose(RATE(z @ rotation), base, rtol=1e-5)
    np.testing.assert_allclose(RATE(z[:, ::-1]), base, rtol=1e-5)
    np.testing.assert_allclose(RATE(3 * z, epsilon=1.5), base, rtol=1e-5)
    np.testing.assert_allclose(coding_rate(z[0], epsilon=0.5), base[0], rtol=1e-6)  # no batch axis needed
    one = subspace_coding_rate(split_heads(z, 1))
    np.testing.assert_allclose(one, base, rtol=1e-6)


@pytest.mark.parametrize("eps", [0.5, 1e-3])
def test_gradient_of_the_rate(eps):
    """Closed form, float64: dR/dZ = a Z (I + a Z^T Z)^-1 with a = D/(N eps^2); both branches."""
    z = tokens(6, 1, 30, 6)
    a = 6 / (30 * eps**2)
    z64 = z[0].astype(np.float64)
    want = a * z64 @ np.linalg.inv(np.eye(6) + a * z64.T @ z64)
    got = jax.jit(jax.grad(lambda x, eps: coding_rate(x, epsilon=eps)[0]))(jnp.asarray(z), eps)[0]
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-4 * np.abs(want).max())


AUTODIFF = jax.jit(jax.grad(lambda w, eps: jnp.sum(subspace_coding_rate(w, epsilon=eps))))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("eps", [0.1, 0.5, 4.0])
@pytest.mark.parametrize("count", [3, 30])  # fewer and more tokens than a subspace has dimensions
def test_closed_form_gradient(dtype, tolerance, eps, count):
    """Against finite differences of float64 singular values, and against autodiff of the rate."""
    codes = tokens(8, 2, count, 12).reshape(2, count, 3, 4)
    got = GRADIENT(jnp.asarray(codes, dtype), epsilon=eps)
    assert got.dtype == dtype and got.shape == codes.shape
    by_autodiff = AUTODIFF(jnp.asarray(codes), eps)
    largest = np.abs(by_autodiff).max()
    np.testing.assert_allclose(np.asarray(got, float), by_autodiff, atol=tolerance * largest)
    rng = np.random.default_rng(9)
    for _ in range(5):
        direction, w = rng.normal(size=codes.shape[1:]), codes[0].astype(np.float64)
        ahead, behind = (sum(rate((w + step * direction)[:, k], eps) for k in range(3)) for step in (1e-5, -1e-5))
        np.testing.assert_allclose(
            np.sum(np.asarray(got[0], float) * direction), (ahead - behind) / 2e-5, atol=20 * tolerance * largest
        )


def test_a_step_against_the_gradient_descends():
    """The rate's curvature is at most a = P/(N eps^2), so a step of 1/a descends by at least |gradient|^2 / (2 a)."""
    for seed, eps, size in ((0, 0.5, 1.0), (1, 0.1, 1.0), (2, 2.0, 10.0), (3, 0.5, 0.01)):
        codes = jnp.asarray(size * tokens(seed, 1, 20, 12).reshape(1, 20, 3, 4))
        a = 4 / (20 * eps**2)
        slope = coding_rate_gradient(codes, epsilon=eps)
        before, after = (float(subspace_coding_rate(w, epsilon=eps)[0]) for w in (codes, codes - slope / a))
        assert before - after > 0.49 * float(jnp.sum(jnp.square(slope))) / a


@pytest.mark.parametrize("size", [1, 6, 19])
@pytest.mark.parametrize("largest", [1.0, 30.0, 1e4])
def test_the_solution_and_its_derivatives(largest, size):
    random = np.random.default_rng(3)
    basis = np.linalg.qr(random.normal(size=(2, size, size)))[0]
    matrix = np.einsum("bpr,r,bqr->bpq", basis, np.geomspace(1, largest, size), basis)
    rows, inverse = random.normal(size=(2, 5, size)), np.linalg.inv(matrix)
    changes = random.normal(size=matrix.shape), random.normal(size=rows.shape)
    changes = changes[0] + changes[0].swapaxes(-1, -2), changes[1]
    given, moved = (tuple(jnp.asarray(x, jnp.float32) for x in pair) for pair in ((matrix, rows), changes))
    found = jax.jvp(solve_from_one, given, moved)
    wanted = rows @ inverse, (changes[1] - rows @ inverse @ changes[0]) @ inverse
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * largest**0.5)


@pytest.mark.parametrize(("count", "size"), [(50, 64), (197, 64), (17, 8)])
@pytest.mark.parametrize("kind", ["random", "duplicated", "one direction", "a large mean"])
def test_the_gradient_of_dependent_tokens(kind, count, size):
    """Where w^T w has no full rank, or one direction holds nearly all: as tokens of a trained network are."""
    w = np.random.default_rng(0).normal(size=(1, count, 1, size)).astype(np.float32)
    if kind == "duplicated":  # three quarters of the tokens
        w[:, count // 4 :] = w[:, :1]
    elif kind == "one direction":
        w = w[:, :1] + np.float32(1e-3) * w
    elif kind == "a large mean":
        w = w + 3 * w[:, :1]
    w64 = w[0, :, 0].astype(np.float64)
    for eps in (1e-3, 0.01, 0.1, 0.5, 1.0):
        got, a = np.asarray(GRADIENT(jnp.asarray(w), epsilon=eps)[0, :, 0], np.float64), size / (count * eps**2)
        want = a * w64 @ np.linalg.inv(np.eye(size) + a * w64.T @ w64)
        assert np.all(np.isfinite(got)) and np.sum(got * want) > 0
        if a * np.sum(w64**2) < 1e6:
            np.testing.assert_allclose(got, want, atol=4e-7 * a * np.sum(w64**2) * np.abs(want).max() + 1e-8)


def test_the_gradient_step_calls_no_lapack():
    """Two batches of LAPACK's at once wait for each other without end on two cores (jaxlib 0.10.2)."""
    codes = jnp.ones((2, 5, 3, 4))
    text = str(jax.make_jaxpr(jax.grad(lambda codes: jnp.sum(jnp.sin(coding_rate_gradient(codes)))))(codes))
    assert "dot_general" in text and "cholesky" not in text and "triangular_solve" not in text


def test_the_gradient_has_gradients_and_no_array_of_tokens_squared():
    codes = jnp.asarray(tokens(10, 1, 50, 12).reshape(1, 50, 3, 4))
    check_grads(coding_rate_gradient, (codes,), 1, modes=["rev"], atol=1e-2, rtol=1e-2)
    program = jax.make_jaxpr(jax.grad(lambda w: jnp.sum(jnp.sin(coding_rate_gradient(w)))))(codes)
    assert "50,50" not in str(program)
    assert np.all(np.isfinite(jax.grad(lambda w: jnp.sum(coding_rate_gradient(w)))(0 * codes)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_step_in_layers(dtype):
    """Scanned, rematerialised and image by image it has the derivatives of the plain loop, forward as in reverse."""
    codes = jnp.asarray(tokens(11, 2, 9, 24).reshape(2, 9, 2, 12), dtype)

    def layer(w, _):
        return w - 0.1 * coding_rate_gradient(w), None

    def plain(w):
        for _ in range(2):
            w = layer(w, None)[0]
        return jnp.sum(jnp.sin(w.astype(jnp.float32)))

    def scanned(w):
        return jnp.sum(jnp.sin(jax.lax.scan(jax.checkpoint(layer), w, length=2)[0].astype(jnp.float32)))

    wanted = np.asarray(jax.jit(jax.grad(plain))(codes), np.float32)
    tolerance = {"atol": 2e-6 if dtype == "float32" else 2e-2}
    np.testing.assert_allclose(np.asarray(jax.jit(jax.grad(scanned))(codes), np.float32), wanted, **tolerance)
    np.testing.assert_allclose(np.asarray(jax.jit(jax.vmap(jax.grad(scanned)))(codes), np.float32), wanted, **tolerance)
    _, slope = jax.jit(lambda w: jax.jvp(scanned, (w,), (jnp.ones_like(w),)))(codes)
    np.testing.assert_allclose(slope, wanted.sum(), rtol=1e-4 if dtype == "float32" else 5e-2)

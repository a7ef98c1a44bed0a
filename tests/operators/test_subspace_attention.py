"""MSSA token by token, its backward by hand against autodiff, and what ties it to the gradient of R^c."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.operators.coding_rate import subspace_coding_rate
from crate_jax.operators.kernels.attention_step_tpu import attention_step_tpu
from crate_jax.operators.subspace_attention import (
    attend,
    image_by_image_self_attention,
    mssa,
    recomputed_self_attention,
    split_heads,
    subspace_attention_weights,
    subspace_self_attention,
)


def textbook(z, u, heads, scale):
    """The paper's columns: sum over k of U_k (U_k^T Z) softmax((U_k^T Z)^T (U_k^T Z)), float64."""
    size = u.shape[1] // heads
    out = np.zeros_like(z)
    for b, image in enumerate(z):
        columns = image.T
        for k in range(heads):
            basis = u[:, k * size : (k + 1) * size]
            w = basis.T @ columns
            weight = np.exp(scale * w.T @ w - (scale * w.T @ w).max(0))
            out[b] += (basis @ (w @ (weight / weight.sum(0)))).T
    return out


def problem(seed, batch=2, count=7, width=12):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, count, width)), rng.normal(size=(width, width)) / width**0.5


@pytest.mark.parametrize("heads", [1, 3, 12])
def test_equals_the_textbook(heads):
    z, u = problem(0)
    got = mssa(jnp.float32(z), jnp.float32(u), num_heads=heads, scale=0.5)
    np.testing.assert_allclose(got, textbook(z, u, heads, 0.5), atol=2e-5)


def plain(codes, scale):
    """What autodiff is given: the same product with no backward of its own."""
    scores = jnp.einsum("bnkp,bmkp->bknm", codes, codes)
    return jnp.einsum("bknm,bmkp->bnkp", jax.nn.softmax(scores * scale, -1), codes)


@pytest.mark.parametrize("way", [subspace_self_attention, recomputed_self_attention, image_by_image_self_attention])
@pytest.mark.parametrize(("shape", "scale"), [((2, 1, 2, 3), 0.5), ((2, 9, 1, 1), 2.0), ((2, 8, 3, 4), 0.05)])
def test_backward_by_hand_equals_autodiff(shape, scale, way):
    @jax.jit
    def both(codes, cotangent):
        ours, by_hand = jax.vjp(lambda w: way(w, scale), codes)
        theirs, by_autodiff = jax.vjp(lambda w: plain(w, scale), codes)
        return ours, theirs, by_hand(cotangent)[0], by_autodiff(cotangent)[0]

    rng = np.random.default_rng(0)
    for size in (0.1, 1.0, 4.0):  # flat attention to nearly one-hot
        codes, cotangent = jnp.float32(size * rng.normal(size=shape)), jnp.float32(rng.normal(size=shape))
        ours, theirs, by_hand, by_autodiff = both(codes, cotangent)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        np.testing.assert_allclose(by_hand, by_autodiff, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("way", [subspace_self_attention, recomputed_self_attention, image_by_image_self_attention])
def test_backward_in_bf16(way):
    """Against autodiff in f32 on the same bf16 numbers: within bf16's three digits, and the type is kept."""
    rng = np.random.default_rng(1)
    codes = jnp.asarray(rng.normal(size=(2, 16, 2, 8)), jnp.bfloat16)
    cotangent = jnp.asarray(rng.normal(size=codes.shape), jnp.bfloat16)
    ours, by_hand = jax.vjp(lambda w: way(w, 0.35), codes)
    theirs, by_autodiff = jax.vjp(lambda w: plain(w, 0.35), codes.astype(jnp.float32))
    got, want = by_hand(cotangent)[0], by_autodiff(cotangent.astype(jnp.float32))[0]
    assert ours.dtype == got.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(jnp.float32), theirs, atol=0.03)
    assert jnp.linalg.norm(got.astype(jnp.float32) - want) < 0.01 * jnp.linalg.norm(want)


@pytest.mark.parametrize("kernel", ["xla", "pallas", "step"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.03)])
def test_tied_output_needs_no_transpose_outside(kernel, dtype, tolerance):
    """[U_1 .. U_K] both ways, compiled: a transpose outside would meet its own float32 gradient, which CPUs refuse."""
    z, u = problem(6)

    def out(z, u):
        codes = z @ u.astype(z.dtype)
        if kernel == "step":
            return attention_step_tpu(jnp.zeros_like(z), codes, u.T, jnp.zeros(12), 4, 0.5, 1)
        return attend(codes, num_heads=3, scale=0.5, kernel=kernel, weight_KPxD=u, transposed=True)

    np.testing.assert_allclose(
        np.asarray(jax.jit(out)(jnp.asarray(z, dtype), jnp.float32(u)), float),
        textbook(z, u, 3, 0.5),
        atol=tolerance * 4,
    )
    slope = jax.jit(jax.grad(lambda z, u: jnp.sum(jnp.sin(out(z, u).astype(jnp.float32))), 1))
    got, want = (slope(jnp.asarray(z, kind), jnp.float32(u)) for kind in (dtype, "float32"))
    assert got.dtype == jnp.float32
    assert jnp.linalg.norm(got - want) <= tolerance * jnp.linalg.norm(want)


@hypothesis.settings(deadline=None, max_examples=5)
@hypothesis.given(st.permutations(range(7)))
def test_permutation_equivariance(order):
    z, u = problem(2)
    run = lambda z: mssa(jnp.float32(z), jnp.float32(u), num_heads=3, scale=0.5)  # noqa: E731
    np.testing.assert_allclose(run(z[:, list(order)]), run(z)[:, np.array(order)], atol=1e-5)


def kept_scores(kernel, tokens=50):
    """Arrays of N x N that the forward pass leaves for the backward pass."""
    codes = jax.ShapeDtypeStruct((2, tokens, 12), jnp.float32)
    _, pull = jax.eval_shape(lambda w: jax.vjp(lambda w: attend(w, num_heads=3, scale=0.5, kernel=kernel), w), codes)
    return sum(leaf.shape[-2:] == (tokens, tokens) for leaf in jax.tree.leaves(pull))


def test_what_waits_for_the_backward_pass():
    assert [kept_scores(kernel) for kernel in ("xla", "recompute", "image_by_image")] == [1, 0, 1]
    assert [kept_scores(kernel, 300) for kernel in ("xla", "image_by_image")] == [1, 0], "only where scores are large"


def test_weights():
    z, _ = problem(3)
    weights = subspace_attention_weights(split_heads(jnp.float32(z), 3), scale=0.5)
    assert weights.shape == (2, 3, 7, 7) and weights.dtype == jnp.float32
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(
        jnp.einsum("bknm,bmkp->bnkp", weights, split_heads(jnp.float32(z), 3)),
        subspace_self_attention(split_heads(jnp.float32(z), 3), 0.5), atol=1e-5,
    )  # fmt: skip


def test_first_order_gradient_of_the_coding_rate():
    """grad R^c = a U_k w - a^2 U_k w w^T w + O(a^3), a = P/(N eps^2): the Neumann expansion that MSSA descends from.

    MSSA puts softmax(w w^T) where the expansion has w w^T. So at large eps the truncated gradient is the gradient, its
    error falls as eps^-6 while the gradient falls as eps^-2, and at small eps it is worth nothing.
    """
    z, u = problem(4, batch=1)
    heads, size = 3, 4

    def rate(z, eps):
        return subspace_coding_rate(split_heads(z @ jnp.float32(u), heads), epsilon=eps)[0]

    def truncated(eps):
        a, out = size / (7 * eps**2), 0
        for k in range(heads):
            basis = u[:, k * size : (k + 1) * size]
            w = z[0] @ basis
            out += a * (w - a * w @ w.T @ w) @ basis.T
        return out

    errors = {}
    for eps in (16.0, 32.0, 0.3):
        exact = np.asarray(jax.grad(rate)(jnp.float32(z), eps))[0]
        errors[eps] = np.linalg.norm(truncated(eps) - exact) / np.linalg.norm(exact)
    assert errors[16.0] < 0.01
    assert 12 < errors[16.0] / errors[32.0] < 20  # a^2, that is eps^-4, relative to the gradient: 16
    assert errors[0.3] > 1


def test_a_small_step_of_compression_compresses():
    """Orthonormal subspaces and tokens near them: (1 - c) z + c MSSA(z) lowers R^c, as a gradient step would."""
    rng = np.random.default_rng(5)
    u = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    member = rng.integers(0, 3, 40)
    z = np.stack([u[:, 4 * k : 4 * k + 4] @ rng.normal(size=4) for k in member])[None] + 0.1 * rng.normal(
        size=(1, 40, 12)
    )
    z, u = jnp.float32(z), jnp.float32(u)

    def rate(z):
        return float(subspace_coding_rate(split_heads(z @ u, 3))[0])

    rates = [rate((1 - c) * z + c * mssa(z, u, num_heads=3, scale=1.0)) for c in (0, 0.05, 0.1, 0.2)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] - rates[1] > 0.1
